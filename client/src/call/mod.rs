//! One call as a state machine: events in, actions out. No I/O and no time of its own, so that every turn it can take is
//! decided here and nowhere else.
//!
//! ```text
//!   per table   job: all keys, selector aligned ──▶ pieces (section + label + server)
//!                 share refused or server failed ──▶ the same keys at another server
//!               all jobs closed ──▶ decide (sync_version) ──▶ Accept
//!                                                         ──▶ Ask(c): a job per piece of other content, selector c
//!                                                         ──▶ Nothing: rest a moment, start anew
//!   all tables accepted ──▶ floors raised together ──▶ answers
//! ```

mod reason;
mod state;

use std::sync::Arc;
use std::time::Duration;

use fkv_formats::id::ContentId;
use fkv_rpc::packed::{KeyStatus, Reply, ReplySection, SectionStatus, Selector, Shown};
use fkv_rpc::status::{ErrorKind, Failure};

pub(crate) use self::reason::Reason;
use self::state::{Accepted, Job, Piece, Table};
use crate::answer::{BatchAnswer, Effort};
use crate::assemble::Answered;
use crate::memory::Memories;
use crate::plan::{Router, Rpc, Share, TableInput};
use crate::servers::{Server, is_final};
use crate::split::Positions;
use crate::sync_version::{Decision, Rules, common_content, decide};
use crate::topology::Snapshot;
use crate::{ClientError, Consistency};

/// The first pause before a table is asked for anew; each further one is twice as long.
const REST: Duration = Duration::from_millis(5);

/// What the driver shall do next.
#[derive(Debug)]
pub(crate) enum Action {
    /// Send this request.
    Send(Rpc),
    /// Fetch a topology newer than this one, on account of this share and what became of it.
    Refresh(Arc<Snapshot>, Share, Reason),
    /// Wait, then say so for this table.
    Rest(usize, Duration),
}

/// What has happened.
#[derive(Debug)]
pub(crate) enum Event {
    /// A request came back.
    Answered(Rpc, Result<Arc<Reply>, Failure>),
    /// A slow request was given up for others that were sent in its place and were faster.
    Outpaced(Rpc, Vec<(Rpc, Arc<Reply>)>),
    /// The topology was fetched, or could not be.
    Refreshed(Option<Arc<Snapshot>>, Share, Reason),
    /// The time to wait is over.
    Rested(usize),
}

/// What bounds a call.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    pub(crate) servers_tried_max: usize,
    pub(crate) sync_rounds_max: usize,
    pub(crate) restarts_max: u32,
}

/// A call under way.
#[derive(Debug)]
pub(crate) struct Call<'a> {
    pub(crate) router: Router<'a>,
    consistency: Consistency,
    canary: bool,
    bounds: Bounds,
    memories: &'a Memories,
    tables: Vec<Table>,
    jobs: Vec<Job>,
    actions: Vec<Action>,
    pub(crate) effort: Effort,
}

impl<'a> Call<'a> {
    /// A call for all inputs of `router`, whose tables its snapshot knows.
    pub(crate) fn new(
        router: Router<'a>,
        memories: &'a Memories,
        consistency: Consistency,
        canary: bool,
        bounds: Bounds,
        now: Duration,
    ) -> Result<Self, ClientError> {
        let inputs: &'a [TableInput<'a>] = router.inputs;
        let mut tables = Vec::with_capacity(inputs.len());
        for input in inputs {
            tables.push(Table::new(router.snapshot.table(input.name)?.uid));
        }
        let (jobs, actions) = (Vec::new(), Vec::new());
        let mut call =
            Self { router, consistency, canary, bounds, memories, tables, jobs, actions, effort: Effort::default() };
        // All tables are placed before anything is bundled, so that a server gets one request for all of them.
        let mut placed = Vec::new();
        for table in 0..call.tables.len() {
            placed.extend(call.first_shares(table, now)?);
        }
        call.send(placed);
        Ok(call)
    }

    /// What to do now.
    pub(crate) fn take_actions(&mut self) -> Vec<Action> {
        std::mem::take(&mut self.actions)
    }

    /// The answers, once all tables are accepted. `None`: go on. It may also be that another call of this client was
    /// faster and gave newer answers; then there is more to do.
    pub(crate) fn finish(&mut self, read_ts_ms: u64, now: Duration) -> Result<Option<BatchAnswer>, ClientError> {
        let settled = loop {
            let accepted: Option<Vec<_>> = self.tables.iter().map(|table| table.accepted).collect();
            let Some(accepted) = accepted else { return Ok(None) };
            if !self.binds_floor() {
                let shown = |(table, accepted): (&Table, Accepted)| table.evidence.shown(accepted.content);
                break self.tables.iter().zip(accepted).map(shown).collect();
            }
            let answers = self
                .tables
                .iter()
                .zip(accepted)
                .map(|(table, accepted)| (table.uid, accepted.content, &table.evidence, table.labels()));
            match self.memories.settle(now, answers) {
                Ok(settled) => break Some(settled),
                Err(outrun) => {
                    for table in outrun {
                        self.tables[table].accepted = None;
                        self.advance(table, now)?;
                    }
                }
            }
        };
        let settled: Vec<Shown> =
            settled.ok_or_else(|| ClientError::Unavailable("an answer has no label".to_owned()))?;
        let mut answers = Vec::with_capacity(self.tables.len());
        let tables = std::mem::take(&mut self.tables).into_iter().zip(settled);
        for ((table, shown), input) in tables.zip(self.router.inputs) {
            answers.push(table.answer(input, shown)?);
        }
        Ok(Some(BatchAnswer { tables: answers, read_ts_ms, effort: self.effort }))
    }

    /// Takes in what has happened.
    pub(crate) fn handle(&mut self, event: Event, now: Duration) -> Result<(), ClientError> {
        match event {
            Event::Answered(rpc, result) => self.answered(rpc, result, now)?,
            Event::Outpaced(slow, answers) => {
                // The keys may be divided otherwise than they were.
                slow.shares.iter().for_each(|share| self.jobs[share.job].waiting -= 1);
                let shares = answers.iter().flat_map(|(rpc, _)| &rpc.shares);
                shares.for_each(|share| self.jobs[share.job].waiting += 1);
                for (rpc, reply) in answers {
                    self.answered(rpc, Ok(reply), now)?;
                }
            }
            Event::Refreshed(snapshot, share, reason) => self.refreshed(snapshot, share, reason, now)?,
            Event::Rested(table) => {
                let placed = self.first_shares(table, now)?;
                self.send(placed);
            }
        }
        Ok(())
    }

    /// Whether answers are held against the floor, and move it.
    fn binds_floor(&self) -> bool {
        self.consistency == Consistency::Strict && !self.canary
    }

    /// Opens the job for all keys of a table.
    fn first_shares(&mut self, table: usize, now: Duration) -> Result<Vec<(Arc<Server>, Share)>, ClientError> {
        let remembered = if self.binds_floor() { self.memories.start(self.tables[table].uid, now) } else { None };
        let selector = match (self.consistency, remembered) {
            (Consistency::Pinned(version), _) => Selector::Version(version),
            (_, Some(content)) => Selector::Content(content),
            (_, None) => Selector::Aligned,
        };
        self.tables[table].from_verdict = remembered.is_some();
        let positions = Positions::all(self.router.inputs[table].keys.len());
        let share = self.open(table, selector, positions, None);
        match self.router.route(&share, now) {
            Some(placed) => Ok(placed),
            None => Err(self.error(table, &Reason::NoServer)),
        }
    }

    /// Opens a job and gives its one share, not yet placed.
    fn open(&mut self, table: usize, selector: Selector, positions: Positions, replaces: Option<Piece>) -> Share {
        self.tables[table].open_jobs += 1;
        self.jobs.push(Job { table, selector, replaces, pieces: Vec::new(), waiting: 0, open: true });
        Share {
            job: self.jobs.len() - 1,
            table,
            uid: self.tables[table].uid,
            selector,
            positions,
            tried: Vec::new(),
            refreshed: false,
        }
    }

    /// Has placed shares sent.
    fn send(&mut self, placed: Vec<(Arc<Server>, Share)>) {
        for rpc in self.router.bundle(placed) {
            for share in &rpc.shares {
                self.jobs[share.job].waiting += 1;
            }
            self.actions.push(Action::Send(rpc));
        }
    }

    fn answered(&mut self, rpc: Rpc, result: Result<Arc<Reply>, Failure>, now: Duration) -> Result<(), ClientError> {
        let Rpc { server, shares } = rpc;
        let result = result.and_then(|reply| {
            if reply.sections().len() == shares.len() {
                return Ok(reply);
            }
            Err(Failure::new(ErrorKind::Internal, "the reply has another number of sections than the request"))
        });
        match result {
            Ok(reply) => {
                for (section, share) in shares.into_iter().enumerate() {
                    self.section(&server, &reply, section, share, now)?;
                }
            }
            // The server allows less at a time than the protocol does.
            Err(failure) if failure.kind == ErrorKind::BatchTooLarge => {
                let alone = shares.len() == 1;
                for share in shares {
                    self.jobs[share.job].waiting -= 1;
                    if !self.jobs[share.job].open {
                        continue;
                    }
                    if alone {
                        self.ask_halves(&server, share)?;
                    } else {
                        self.ask_alone(&server, share);
                    }
                }
            }
            Err(failure) if is_final(&failure) => {
                return Err(ClientError::BadRequest(format!("{}: {}", server.address(), failure.message)));
            }
            Err(failure) => {
                for mut share in shares {
                    self.jobs[share.job].waiting -= 1;
                    share.tried.push(Arc::clone(server.address()));
                    let reason = Reason::Failed(Arc::clone(server.address()), failure.clone());
                    self.again(share, reason, now)?;
                }
            }
        }
        Ok(())
    }

    /// Takes in one section of a reply.
    fn section(
        &mut self,
        server: &Arc<Server>,
        reply: &Arc<Reply>,
        section: usize,
        mut share: Share,
        now: Duration,
    ) -> Result<(), ClientError> {
        let job = share.job;
        self.jobs[job].waiting -= 1;
        if !self.jobs[job].open {
            return Ok(());
        }
        let address = server.address();
        let Some(answers) = reply.section(section).filter(|answers| fits(&share, answers)) else {
            share.tried.push(Arc::clone(address));
            let failure = Failure::new(ErrorKind::Internal, "the reply answers something else than was asked");
            return self.again(share, Reason::Failed(Arc::clone(address), failure), now);
        };
        let label = answers.label();
        self.tables[share.table].evidence.note(&label);
        let status = answers.status();
        match status {
            SectionStatus::Ok => {
                if answers.is_all_here() {
                    let answered = Answered { positions: share.positions.clone(), reply: Arc::clone(reply), section };
                    let here = share.positions;
                    self.jobs[job].pieces.push(Piece { answered, here, server: Arc::clone(server), label });
                    return self.close_if_whole(job, now);
                }
                let is_here = |key: &usize| answers.key_status(*key) != KeyStatus::NotHere;
                let (here, elsewhere): (Vec<usize>, Vec<usize>) = (0..answers.key_count()).partition(is_here);
                let positions = |keys: Vec<usize>| -> Positions {
                    keys.into_iter().map(|key| share.positions[key]).collect::<Vec<_>>().into()
                };
                let (here, elsewhere) = (positions(here), positions(elsewhere));
                if !here.is_empty() {
                    let positions = share.positions.clone();
                    let answered = Answered { positions, reply: Arc::clone(reply), section };
                    self.jobs[job].pieces.push(Piece { answered, here, server: Arc::clone(server), label });
                }
                share.positions = elsewhere;
                share.tried.push(Arc::clone(address));
                self.refresh_or_again(share, Reason::NotHere(Arc::clone(address)), now)
            }
            SectionStatus::UnknownTable | SectionStatus::WrongTopology => {
                share.tried.push(Arc::clone(address));
                self.refresh_or_again(share, Reason::Refused(Arc::clone(address), status), now)
            }
            SectionStatus::NotLoaded
            | SectionStatus::ContentNotHeld
            | SectionStatus::ReadTsAhead
            | SectionStatus::DataFault => {
                share.tried.push(Arc::clone(address));
                self.again(share, Reason::Refused(Arc::clone(address), status), now)
            }
            // The other sections of the reply may have taken the room.
            SectionStatus::ReplyTooLarge if reply.sections().len() > 1 => {
                self.ask_alone(server, share);
                Ok(())
            }
            SectionStatus::ReplyTooLarge => self.ask_halves(server, share),
            SectionStatus::WrongKeyType | SectionStatus::WrongValueForm => {
                Err(self.error(share.table, &Reason::Refused(Arc::clone(address), status)))
            }
        }
    }

    /// Asks the same server for a share in two requests.
    fn ask_halves(&mut self, server: &Arc<Server>, share: Share) -> Result<(), ClientError> {
        let Some(halves) = share.positions.halves() else {
            let table = self.router.inputs[share.table].name;
            return Err(ClientError::BatchTooLarge(format!("a single key of table `{table}` is too large to be read")));
        };
        for positions in halves {
            self.ask_alone(server, Share { positions, ..share.clone() });
        }
        Ok(())
    }

    /// Asks the same server for a share in a request of its own, so that it is not too large together with others.
    fn ask_alone(&mut self, server: &Arc<Server>, share: Share) {
        self.effort.retries += 1;
        self.jobs[share.job].waiting += 1;
        self.actions.push(Action::Send(Rpc { server: Arc::clone(server), shares: vec![share] }));
    }

    /// Fetches the topology before the share is placed again, but once only.
    fn refresh_or_again(&mut self, mut share: Share, reason: Reason, now: Duration) -> Result<(), ClientError> {
        if share.refreshed {
            return self.again(share, reason, now);
        }
        share.refreshed = true;
        self.jobs[share.job].waiting += 1;
        self.actions.push(Action::Refresh(Arc::clone(&self.router.snapshot), share, reason));
        Ok(())
    }

    fn refreshed(
        &mut self,
        snapshot: Option<Arc<Snapshot>>,
        share: Share,
        reason: Reason,
        now: Duration,
    ) -> Result<(), ClientError> {
        self.jobs[share.job].waiting -= 1;
        if let Some(snapshot) = snapshot {
            self.router.snapshot = snapshot;
        }
        let uid = self.router.snapshot.table(self.router.inputs[share.table].name)?.uid;
        if uid != share.uid && uid != self.tables[share.table].uid {
            // Dropped and made again: another table under the same name.
            let restarts = self.tables[share.table].restarts;
            self.abandon(share.table);
            self.tables[share.table] = Table { restarts, ..Table::new(uid) };
            return self.restart(share.table);
        }
        self.again(share, reason, now)
    }

    /// Asks another server for a share, or gives its job up.
    fn again(&mut self, share: Share, reason: Reason, now: Duration) -> Result<(), ClientError> {
        if !self.jobs[share.job].open {
            return Ok(());
        }
        if share.tried.len() < self.bounds.servers_tried_max
            && let Some(placed) = self.router.route(&share, now)
        {
            self.effort.retries += 1;
            self.send(placed);
            return Ok(());
        }
        self.give_up(share.job, reason, now)
    }

    /// Closes a job that has all its pieces.
    fn close_if_whole(&mut self, job: usize, now: Duration) -> Result<(), ClientError> {
        let job = &mut self.jobs[job];
        if job.waiting > 0 {
            return Ok(());
        }
        job.open = false;
        let table = &mut self.tables[job.table];
        table.pieces.append(&mut job.pieces);
        table.open_jobs -= 1;
        let table = job.table;
        self.advance(table, now)
    }

    /// Closes a job that cannot have all its pieces.
    fn give_up(&mut self, job: usize, reason: Reason, now: Duration) -> Result<(), ClientError> {
        let job = &mut self.jobs[job];
        job.open = false;
        job.pieces.clear();
        let table = &mut self.tables[job.table];
        table.open_jobs -= 1;
        match job.replaces.take() {
            Some(piece) => {
                table.pieces.push(piece);
                if let Selector::Content(content) = job.selector {
                    table.failed.insert(content);
                }
                table.obstacle = Some(reason);
            }
            None => table.unanswered = Some(reason),
        }
        let table = job.table;
        self.advance(table, now)
    }

    /// Decides on a table whose jobs are all closed.
    fn advance(&mut self, index: usize, now: Duration) -> Result<(), ClientError> {
        let table = &self.tables[index];
        if table.open_jobs > 0 || table.accepted.is_some() {
            return Ok(());
        }
        if let Some(reason) = &table.unanswered {
            if !table.from_verdict {
                return Err(self.error(index, reason));
            }
            // What was remembered cannot be had any more; ask for what is shown instead.
            self.memories.forget_verdict(table.uid);
            self.tables[index].begin_again();
            let placed = self.first_shares(index, now)?;
            self.send(placed);
            return Ok(());
        }
        let labels = table.labels();
        match self.consistency {
            Consistency::Available => {
                let newest = labels.iter().filter_map(|label| label.served).max_by_key(|served| served.epoch);
                let content = newest.ok_or_else(|| self.error(index, &Reason::NoServer))?.content;
                let mixed = common_content(&labels).is_none();
                self.tables[index].accepted = Some(Accepted { content, mixed });
                Ok(())
            }
            Consistency::Pinned(version) => {
                let Some(content) = common_content(&labels) else {
                    return Err(ClientError::NoCommonVersion {
                        table: self.router.inputs[index].name.to_owned(),
                        reason: format!("servers hold different contents as version {version}"),
                    });
                };
                self.tables[index].accepted = Some(Accepted { content, mixed: false });
                Ok(())
            }
            Consistency::Strict => {
                let memory = self.binds_floor().then(|| self.memories.of(table.uid));
                let rules = Rules { memory: memory.as_ref(), failed: &table.failed, now };
                match decide(rules, &table.evidence, &labels) {
                    Decision::Accept(content) => {
                        self.tables[index].accepted = Some(Accepted { content, mixed: false });
                        Ok(())
                    }
                    Decision::Ask(content) if table.rounds < self.bounds.sync_rounds_max => {
                        self.synchronise(index, content, now)
                    }
                    Decision::Ask(_) | Decision::Nothing => {
                        self.tables[index].begin_again();
                        self.restart(index)
                    }
                }
            }
        }
    }

    /// Asks for exactly `content` wherever a piece is of another one.
    fn synchronise(&mut self, index: usize, content: ContentId, now: Duration) -> Result<(), ClientError> {
        self.effort.syncs += 1;
        let table = &mut self.tables[index];
        table.rounds += 1;
        let (same, other): (Vec<Piece>, Vec<Piece>) = std::mem::take(&mut table.pieces)
            .into_iter()
            .partition(|piece| piece.label.served.is_some_and(|served| served.content == content));
        table.pieces = same;
        if other.is_empty() {
            // Nothing is to be brought over: the labels contradict themselves. Ask for all anew.
            self.tables[index].begin_again();
            return self.restart(index);
        }
        // All jobs are open before the first can close, so that the table is not decided on half-way.
        let mut placed = Vec::new();
        let mut without_server = Vec::new();
        for piece in other {
            let server = Arc::clone(&piece.server);
            let holds = piece.label.other.is_some_and(|held| held.content == content);
            let positions = piece.here.clone();
            let mut share = self.open(index, Selector::Content(content), positions, Some(piece));
            if holds {
                placed.push((server, share));
                continue;
            }
            share.tried.push(Arc::clone(server.address()));
            match self.router.route(&share, now) {
                Some(elsewhere) => placed.extend(elsewhere),
                None => {
                    let status = SectionStatus::ContentNotHeld;
                    without_server.push((share.job, Reason::Refused(Arc::clone(server.address()), status)));
                }
            }
        }
        self.send(placed);
        for (job, reason) in without_server {
            self.give_up(job, reason, now)?;
        }
        Ok(())
    }

    /// Has a table started anew after a pause, unless that was done often enough.
    fn restart(&mut self, index: usize) -> Result<(), ClientError> {
        let table = &mut self.tables[index];
        if table.restarts == self.bounds.restarts_max {
            return Err(ClientError::NoCommonVersion {
                table: self.router.inputs[index].name.to_owned(),
                reason: match &table.obstacle {
                    Some(reason) => reason.to_string(),
                    None => "the servers show different contents".to_owned(),
                },
            });
        }
        let rest = REST * 2_u32.saturating_pow(table.restarts.min(10));
        table.restarts += 1;
        self.effort.restarts += 1;
        self.memories.forget_verdict(table.uid);
        self.actions.push(Action::Rest(index, rest));
        Ok(())
    }

    fn error(&self, table: usize, reason: &Reason) -> ClientError {
        reason.error(self.router.inputs[table].name, &self.router.snapshot)
    }

    /// Closes all jobs of a table; what is under way for them will be ignored.
    fn abandon(&mut self, table: usize) {
        for job in self.jobs.iter_mut().filter(|job| job.table == table) {
            job.open = false;
            job.pieces.clear();
            job.replaces = None;
        }
    }
}

/// Whether a section is an answer to the share: of its table, its keys and the content asked for. A version asked for
/// may be answered under a later one of the same content.
fn fits(share: &Share, answers: &ReplySection<'_>) -> bool {
    let label = answers.label();
    let of_content = match (share.selector, label.served) {
        (Selector::Content(content), Some(served)) => served.content == content,
        _ => true,
    };
    let of_keys = answers.status() != SectionStatus::Ok || answers.key_count() == share.positions.len();
    label.table == share.uid && of_content && of_keys
}
