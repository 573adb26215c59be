//! Claims the server's slots and reports what they hold.
//!
//! ```text
//!   controller ── Desired (numbered) ──▶ reporter ── claim, report ──▶ metadata
//!              ◀── settled number ──────
//! ```
//!
//! A claim is leased; its create revision is the incarnation that a report names, and a report counts only while that
//! claim exists. Losing the lease never stops serving: the slot is claimed again and reported anew. `settled` says
//! up to which desired state metadata has acknowledged every report: an image that the desired state with that number
//! no longer names may be dropped, because no report that counts names it. What metadata has acknowledged is compared
//! with what it shows later: a store restored from a snapshot may have undone it.
//!
//! A claim that an earlier process of the same server id left behind is evicted, so that a restart does not wait for
//! its lease. Two that run at once would evict each other for ever: whoever finds a slot taken that it has claimed
//! itself before is the older one. It evicts nothing more, and waits until the other's claims are gone.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use fkv_env::{Env, TaskHandle};
use fkv_formats::id::{Slot, TableUid};
use fkv_meta::lease::{LeaseKeeper, LeaseState};
use fkv_meta::record::{Held, Report, SlotClaim};
use fkv_meta::store::{Compare, LeaseId, MetaError, Op, Revision, Txn, TxnOutcome};
use fkv_meta::txn::ClaimStep;
use fkv_meta::{Meta, Refusal, Stamped, View, txn};
use tokio::sync::watch;

/// What the reports should say. Numbers grow with every change.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Desired {
    pub(crate) number: u64,
    /// The slots assigned to this server by the topology of this generation, each with the contents of which all its
    /// parts are held.
    pub(crate) slots: BTreeMap<Slot, BTreeMap<TableUid, Vec<Held>>>,
    pub(crate) generation: u64,
    pub(crate) problems: BTreeMap<TableUid, String>,
}

/// The running reporter.
#[derive(Debug)]
pub(crate) struct Reporter {
    desired: watch::Sender<Arc<Desired>>,
    settled: watch::Receiver<u64>,
    stop: watch::Sender<bool>,
    task: TaskHandle,
}

impl Reporter {
    pub(crate) fn start(
        env: &Env,
        meta: Meta,
        views: watch::Receiver<Arc<View>>,
        lease_ttl: Duration,
        claim: SlotClaim,
    ) -> Self {
        let (desired_sender, desired) = watch::channel(Arc::new(Desired::default()));
        let (settled_sender, settled) = watch::channel(0);
        let (stop, stopped) = watch::channel(false);
        let keeper = LeaseKeeper::start(env, Arc::clone(&meta.store), lease_ttl);
        let work = Work {
            env: env.clone(),
            meta,
            claim,
            desired,
            views,
            settled: settled_sender,
            claims: BTreeMap::new(),
            seen: Revision(0),
            lease: None,
            leases: VecDeque::new(),
            once_claimed: BTreeSet::new(),
            is_superseded: false,
            rests_until: Duration::ZERO,
            complained: BTreeMap::new(),
        };
        let task = env.spawn.spawn("reporter", Box::pin(work.run(keeper, stopped)));
        Self { desired: desired_sender, settled, stop, task }
    }

    pub(crate) fn set(&self, desired: Desired) {
        self.desired.send_replace(Arc::new(desired));
    }

    pub(crate) fn settled(&self) -> watch::Receiver<u64> {
        self.settled.clone()
    }

    /// Ends the lease, so that the claims go at once, and stops.
    pub(crate) async fn stop(self) {
        self.stop.send_replace(true);
        self.task.join().await;
    }
}

/// A slot this server has claimed.
#[derive(Debug)]
struct Claimed {
    incarnation: u64,
    /// The report that metadata has acknowledged; `None` while that is unknown.
    standing: Option<Standing>,
}

/// A report that metadata has acknowledged.
#[derive(Debug)]
struct Standing {
    report: Report,
    /// From this revision on metadata shows it.
    at: Revision,
}

impl Claimed {
    /// Whether `view` is newer than the acknowledgement and shows something else.
    fn is_undone(&self, view: &View, slot: &Slot) -> bool {
        self.standing.as_ref().is_some_and(|standing| {
            let shown = view.report(slot).map(|report| &report.value);
            view.revision() >= standing.at && shown != Some(&standing.report)
        })
    }
}

struct Work {
    env: Env,
    meta: Meta,
    claim: SlotClaim,
    desired: watch::Receiver<Arc<Desired>>,
    views: watch::Receiver<Arc<View>>,
    settled: watch::Sender<u64>,
    claims: BTreeMap<Slot, Claimed>,
    /// The revision of the view looked at last.
    seen: Revision,
    lease: Option<LeaseId>,
    /// The leases that claims of this process may hang on, newest last.
    leases: VecDeque<LeaseId>,
    /// The slots that this process has claimed in its life: who claims them now came later.
    once_claimed: BTreeSet<Slot>,
    /// Whether another process of the same server id has taken a slot from this one.
    is_superseded: bool,
    /// Nothing is claimed before this monotonic time: who evicted a claim of this process needs a moment to make its own.
    rests_until: Duration,
    /// What was last logged about a slot that cannot be claimed.
    complained: BTreeMap<Slot, String>,
}

/// A claim that stands, and the lease it hangs on.
struct StandingClaim {
    claim: Stamped<SlotClaim>,
    lease: Option<LeaseId>,
}

/// How a round over all slots ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Round {
    /// Everything is acknowledged.
    Settled,
    /// Everything that could be done is; some slots are held by another server: try again later.
    Waiting,
    /// Metadata did not answer, or something changed meanwhile: try again soon.
    Failed,
}

impl Work {
    /// How long metadata may take for the goodbye of a server that goes down.
    const GOODBYE_MAX: Duration = Duration::from_secs(2);
    /// How many of its leases a process remembers. What hung on an older one has ended with it.
    const LEASES_MAX: usize = 8;
    /// The pause after a claim was gone though its lease was not.
    const REST: Duration = Duration::from_secs(1);

    async fn run(mut self, keeper: LeaseKeeper, mut stopped: watch::Receiver<bool>) {
        let mut lease_state = keeper.subscribe();
        let mut failures = 0_u32;
        loop {
            let state = *lease_state.borrow_and_update();
            self.note_lease(state, &keeper);
            let desired = Arc::clone(&self.desired.borrow_and_update());
            self.note_view();
            let round = if self.lease.is_some() { self.round(&desired).await } else { Round::Failed };
            match round {
                Round::Settled | Round::Waiting => {
                    failures = 0;
                    self.settled.send_replace(desired.number);
                }
                Round::Failed => failures = failures.saturating_add(1),
            }
            let pause = match round {
                Round::Settled => None,
                Round::Waiting => Some(self.jittered(Duration::from_secs(1))),
                Round::Failed => Some(self.jittered(Duration::from_millis(50 << failures.min(6)))),
            };
            let clock = Arc::clone(&self.env.clock);
            let wake = async {
                match pause {
                    Some(pause) => clock.sleep(pause).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                // A new wish, a new lease or a lost claim is acted on at once; after a failure the pause comes first.
                _ = self.desired.changed(), if round != Round::Failed => {}
                _ = lease_state.changed() => {}
                () = claims_change(&mut self.views, &self.claims, self.seen), if round != Round::Failed => {}
                () = wake => {}
                _ = stopped.wait_for(|stop| *stop) => break,
            }
        }
        let goodbye = keeper.revoke();
        if fkv_env::timeout(self.env.clock.as_ref(), Self::GOODBYE_MAX, goodbye).await.is_err() {
            tracing::warn!("the lease could not be ended: the claims end with it by themselves");
        }
    }

    fn jittered(&self, pause: Duration) -> Duration {
        let spread = u64::try_from(pause.as_millis() / 2).unwrap_or(0);
        pause + Duration::from_millis(self.env.entropy.below(spread))
    }

    fn note_lease(&mut self, state: LeaseState, keeper: &LeaseKeeper) {
        let held = match state {
            LeaseState::Held(lease) => Some(lease),
            LeaseState::Pending => None,
            LeaseState::Lost(_) => {
                keeper.regrant();
                None
            }
        };
        if held != self.lease {
            if self.lease.is_some() {
                tracing::warn!("the lease of the slot claims was lost; serving goes on, the slots are claimed again");
            }
            self.claims.clear();
            self.lease = held;
            if let Some(lease) = held {
                self.leases.push_back(lease);
                if self.leases.len() > Self::LEASES_MAX {
                    self.leases.pop_front();
                }
            }
        }
    }

    /// Forgets the claims that metadata no longer has, and the acknowledgements that no longer hold.
    fn note_view(&mut self) {
        let view = Arc::clone(&self.views.borrow());
        let fell = has_fallen(&view, self.seen);
        self.seen = view.revision();
        let claimed = self.claims.len();
        self.claims.retain(|slot, claimed| {
            let gone = is_gone(&view, slot, claimed.incarnation);
            if gone {
                tracing::warn!(%slot, "the claim of the slot is gone; claiming it again if nobody else does");
            }
            if !gone && claimed.standing.is_some() && (fell || claimed.is_undone(&view, slot)) {
                tracing::warn!(%slot, "metadata no longer has what was reported; reporting again");
                claimed.standing = None;
            }
            !gone
        });
        if self.claims.len() < claimed {
            self.rest();
        }
    }

    fn rest(&mut self) {
        self.rests_until = self.env.clock.monotonic() + Self::REST;
    }

    async fn round(&mut self, desired: &Desired) -> Round {
        let Some(lease) = self.lease else { return Round::Failed };
        let mut round = self.release_others(desired).await;
        for (slot, tables) in &desired.slots {
            match self.serve_slot(slot, tables, desired, lease).await {
                Ok(true) => {}
                Ok(false) => round = if round == Round::Settled { Round::Waiting } else { round },
                Err(error) => {
                    tracing::debug!(%slot, %error, "cannot report");
                    round = Round::Failed;
                }
            }
        }
        if round == Round::Settled && self.is_superseded {
            tracing::info!("all slots are claimed by this process again: the other one of its server id is gone");
            self.is_superseded = false;
        }
        round
    }

    /// Gives up the claims of slots that are assigned to others by now.
    async fn release_others(&mut self, desired: &Desired) -> Round {
        let others: Vec<Slot> = self.claims.keys().filter(|slot| !desired.slots.contains_key(slot)).cloned().collect();
        let mut round = Round::Settled;
        for slot in others {
            let Some(claimed) = self.claims.get(&slot) else { continue };
            let key = self.meta.keys.claim(&slot);
            let txn = Txn {
                compares: vec![Compare::CreatedAt(key.clone(), Revision(claimed.incarnation))],
                ops: vec![Op::Delete { key }],
            };
            match self.meta.run(txn).await {
                // Refused: it is gone already.
                Ok(TxnOutcome::Committed(_) | TxnOutcome::Refused) => {
                    tracing::info!(%slot, "slot given up: the topology assigns it to another server");
                    self.claims.remove(&slot);
                }
                Err(error) => {
                    tracing::debug!(%slot, %error, "cannot give up the slot");
                    round = Round::Failed;
                }
            }
        }
        round
    }

    /// Claims and reports one slot; `false` if another server holds it.
    async fn serve_slot(
        &mut self,
        slot: &Slot,
        tables: &BTreeMap<TableUid, Vec<Held>>,
        desired: &Desired,
        lease: LeaseId,
    ) -> Result<bool, MetaError> {
        let incarnation = match self.claims.get(slot) {
            Some(claimed) => claimed.incarnation,
            None => match self.claim_slot(slot, lease).await? {
                Some(incarnation) => incarnation,
                None => return Ok(false),
            },
        };
        let report = Report {
            incarnation,
            generation: desired.generation,
            tables: tables.clone(),
            problems: desired.problems.clone(),
        };
        let Some(claimed) = self.claims.get_mut(slot) else { return Ok(false) };
        if claimed.standing.as_ref().is_some_and(|standing| standing.report == report) {
            return Ok(true);
        }
        // Until it is answered, what metadata has is unknown. What is then read may be overtaken by a write that is
        // still on its way, also where it reads as wished; only a write of our own on top of it rules that out.
        let standing = match claimed.standing.take() {
            Some(standing) => Some(standing.at),
            // As it stands, readable or not.
            None => self.meta.store.get(&self.meta.keys.report(slot)).await?.map(|entry| entry.modified),
        };
        match self.meta.run(txn::report(&self.meta.keys, slot, standing, &report)).await? {
            TxnOutcome::Committed(at) => {
                claimed.standing = Some(Standing { report, at });
                return Ok(true);
            }
            TxnOutcome::Refused => {}
        }
        if self.meta.claim(slot).await?.is_some_and(|claim| claim.created.0 == incarnation) {
            tracing::info!(%slot, "an earlier report arrived late; reporting again");
        } else {
            tracing::warn!(%slot, "the report was refused because the claim is gone");
            self.claims.remove(slot);
            self.rest();
        }
        Err(MetaError::Ambiguous("the report was refused".to_owned()))
    }

    /// Claims a slot and gives the incarnation; `None` if another process holds it.
    async fn claim_slot(&mut self, slot: &Slot, lease: LeaseId) -> Result<Option<u64>, MetaError> {
        if self.env.clock.monotonic() < self.rests_until {
            return Ok(None);
        }
        // What stood at first may be evicted; what stands right behind it was made by somebody else meanwhile, and is
        // looked at again after the pause that follows a failure.
        for _ in 0..2 {
            let standing = self.standing_claim(slot).await?;
            if let Some(standing) = &standing
                && self.is_of_newer_process(slot, standing)
            {
                self.yield_to(slot, &standing.claim.value.addr);
                return Ok(None);
            }
            let standing = standing.map(|standing| standing.claim);
            let topology = self.meta.topology().await?;
            let planned = topology.ok_or(Refusal::NoTopology).and_then(|topology| {
                txn::claim_slot(&self.meta.keys, &topology, slot, standing.as_ref(), &self.claim, lease)
            });
            let planned = match planned {
                Ok(planned) => planned,
                Err(refusal) => {
                    self.complain(slot, &refusal);
                    return Ok(None);
                }
            };
            match (self.meta.run(planned.txn).await?, planned.after) {
                (TxnOutcome::Committed(incarnation), ClaimStep::Claimed) => {
                    tracing::info!(%slot, incarnation = incarnation.0, "slot claimed");
                    self.complained.remove(slot);
                    self.once_claimed.insert(slot.clone());
                    self.claims.insert(slot.clone(), Claimed { incarnation: incarnation.0, standing: None });
                    return Ok(Some(incarnation.0));
                }
                (TxnOutcome::Committed(_), ClaimStep::Evicted) => {
                    let addr = standing.map_or(String::new(), |standing| standing.value.addr);
                    tracing::warn!(
                        %slot, server = %self.claim.server, %addr,
                        "the claim that an earlier process of this server id left behind is evicted"
                    );
                }
                (TxnOutcome::Refused, _) => break,
            }
        }
        Err(MetaError::Ambiguous("the slot was claimed by somebody else meanwhile".to_owned()))
    }

    async fn standing_claim(&self, slot: &Slot) -> Result<Option<StandingClaim>, MetaError> {
        let Some(entry) = self.meta.store.get(&self.meta.keys.claim(slot)).await? else { return Ok(None) };
        let lease = entry.lease;
        Ok(Some(StandingClaim { claim: Stamped::decode(entry)?, lease }))
    }

    /// Whether a claim is of a process that was started under the same server id after this one.
    fn is_of_newer_process(&self, slot: &Slot, standing: &StandingClaim) -> bool {
        let is_own = standing.lease.is_some_and(|lease| self.leases.contains(&lease));
        let came_later = self.is_superseded || self.once_claimed.contains(slot);
        standing.claim.value.server == self.claim.server && !is_own && came_later
    }

    /// Leaves a slot, and all that are taken, to another process.
    fn yield_to(&mut self, slot: &Slot, addr: &str) {
        self.is_superseded = true;
        let text = format!(
            "another process with the same server id `{}` is alive, at {addr}, and has claimed the slot: this one, \
             which is older, leaves it the slot until its claim ends. Stop one of them, or give it a server id of its own",
            self.claim.server
        );
        if self.complained.get(slot) != Some(&text) {
            tracing::error!(%slot, "ALERT: {text}");
            self.complained.insert(slot.clone(), text);
        }
    }

    fn complain(&mut self, slot: &Slot, refusal: &Refusal) {
        let text = refusal.to_string();
        if self.complained.get(slot) != Some(&text) {
            tracing::warn!(%slot, reason = %text, "the slot cannot be claimed; trying again");
            self.complained.insert(slot.clone(), text);
        }
    }
}

/// Whether `view` is newer than the claim and no longer has it.
fn is_gone(view: &View, slot: &Slot, incarnation: u64) -> bool {
    view.revision().0 >= incarnation && view.claim(slot).is_none_or(|claim| claim.created.0 != incarnation)
}

/// Whether metadata went back since the revision `seen`: it was restored from a snapshot.
fn has_fallen(view: &View, seen: Revision) -> bool {
    view.revision() > Revision(0) && view.revision() < seen
}

/// Waits until metadata went back, or one of `claims` is gone or its report was undone.
async fn claims_change(views: &mut watch::Receiver<Arc<View>>, claims: &BTreeMap<Slot, Claimed>, seen: Revision) {
    let changed = |view: &Arc<View>| {
        let is_changed =
            |slot: &Slot, claimed: &Claimed| is_gone(view, slot, claimed.incarnation) || claimed.is_undone(view, slot);
        has_fallen(view, seen) || claims.iter().any(|(slot, claimed)| is_changed(slot, claimed))
    };
    if views.wait_for(changed).await.is_err() {
        std::future::pending::<()>().await;
    }
}
