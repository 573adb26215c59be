//! The one task that decides: it hears of everything and closes the gap between what is wanted and what is held.
//!
//! ```text
//!   metadata view ─┐                        ┌─▶ picture for requests (flip: one pointer store)
//!   load ended ────┤                        ├─▶ loads, started and cancelled
//!   damage read ───┤
//!   files scrubbed ┤
//!   reports settled┼─▶ round: every table ──┼─▶ desired reports
//!   retry due ─────┤      steps             ├─▶ STATE, files to remove
//!   room was made ─┘                        └─▶ health: ready
//! ```
//!
//! Nothing here waits for metadata, the store or the disk: a round is pure computation.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use fkv_env::Env;
use fkv_formats::id::{ContentId, Part, Role, Slot, TableUid};
use fkv_formats::route::RoleTable;
use fkv_meta::View;
use fkv_meta::record::{SectState, Topology};
use tokio::sync::{Semaphore, mpsc, watch};

use crate::config::KvConfig;
use crate::faults::{Damage, Faults};
use crate::fence::{Behind, World};
use crate::image::{Entry, PartSet, Picture, Registry};
use crate::ledger::Ledger;
use crate::load::{LoadError, LoadRequest, Loaded, Loader, ScrubStart};
use crate::report::{Desired, Reporter};
use crate::state_file::{State, StateWriter};
use crate::table::{Discarded, Effects, OwnedSlot, Surroundings, Table, Trouble, Wanted};

/// A load that ended.
struct LoadEnded {
    uid: TableUid,
    id: u64,
    outcome: Result<Loaded, Trouble>,
}

/// A local file that was read once more.
struct ScrubEnded {
    uid: TableUid,
    content: ContentId,
    file: String,
    outcome: Result<Vec<Part>, LoadError>,
}

/// What the controller works with.
#[derive(Debug)]
pub(crate) struct Parts {
    pub(crate) env: Env,
    pub(crate) config: KvConfig,
    pub(crate) loader: Arc<Loader>,
    pub(crate) ledger: Arc<Ledger>,
    pub(crate) faults: Arc<Faults>,
    pub(crate) registry: Arc<Registry>,
    pub(crate) views: watch::Receiver<Arc<View>>,
    pub(crate) reporter: Reporter,
    pub(crate) state_writer: StateWriter,
    /// Set once all that can be shown is shown.
    pub(crate) ready: watch::Sender<bool>,
    pub(crate) stop: watch::Receiver<bool>,
}

/// The controller's own state.
pub(crate) struct Controller {
    parts: Parts,
    world: World,
    tables: BTreeMap<TableUid, Table>,
    connected: bool,
    /// What the slots were found in.
    topology: Arc<Topology>,
    slots: Vec<OwnedSlot>,
    /// Parts of all slots; what a request may rightly ask for.
    owned: Arc<PartSet>,
    /// Parts to load: those of slots that are not on their way out.
    wanted_parts: PartSet,
    sects: BTreeSet<String>,
    /// Since when the server has had no slot.
    unassigned_since: Option<Duration>,
    desired: Desired,
    written: Option<State>,
    complained: Vec<Behind>,
    load_slots: Arc<Semaphore>,
    next_load: u64,
    ended: mpsc::UnboundedReceiver<LoadEnded>,
    ended_sender: mpsc::UnboundedSender<LoadEnded>,
    /// One at a time.
    scrub_turn: Arc<Semaphore>,
    scrubbed: mpsc::UnboundedReceiver<ScrubEnded>,
    scrubbed_sender: mpsc::UnboundedSender<ScrubEnded>,
}

impl Controller {
    /// A controller that knows `world` and `tables` from STATE.
    pub(crate) fn new(parts: Parts, world: World, tables: BTreeMap<TableUid, Table>) -> Self {
        let (ended_sender, ended) = mpsc::unbounded_channel();
        let (scrubbed_sender, scrubbed) = mpsc::unbounded_channel();
        let load_slots = Arc::new(Semaphore::new(parts.config.loads_max.min(Semaphore::MAX_PERMITS)));
        Self {
            parts,
            world,
            tables,
            connected: false,
            topology: Arc::default(),
            slots: Vec::new(),
            owned: Arc::new(PartSet::EMPTY),
            wanted_parts: PartSet::EMPTY,
            sects: BTreeSet::new(),
            unassigned_since: None,
            desired: Desired::default(),
            written: None,
            complained: Vec::new(),
            load_slots,
            next_load: 1,
            ended,
            ended_sender,
            scrub_turn: Arc::new(Semaphore::new(1)),
            scrubbed,
            scrubbed_sender,
        }
    }

    /// Runs until told to stop; then takes leave of metadata and makes STATE durable.
    pub(crate) async fn run(mut self) {
        let mut settled = self.parts.reporter.settled();
        let ledger = Arc::clone(&self.parts.ledger);
        let faults = Arc::clone(&self.parts.faults);
        loop {
            // Registered before the round: what is given back during it must not be missed.
            let room = ledger.given_back();
            tokio::pin!(room);
            room.as_mut().enable();
            let view = Arc::clone(&self.parts.views.borrow_and_update());
            self.hear(&view);
            let reports_settled = *settled.borrow_and_update();
            self.round(&view, reports_settled);
            let clock = Arc::clone(&self.parts.env.clock);
            let next = self.next_wake(clock.monotonic());
            let wake = async {
                match next {
                    Some(pause) => clock.sleep(pause).await,
                    None => std::future::pending().await,
                }
            };
            let has_room_trouble = self.tables.values().any(Table::waits_for_room);
            tokio::select! {
                changed = self.parts.views.changed() => if changed.is_err() { break },
                changed = settled.changed() => if changed.is_err() { break },
                Some(ended) = self.ended.recv() => self.load_ended(ended),
                Some(ended) = self.scrubbed.recv() => self.scrub_ended(ended),
                damage = faults.next() => self.note_damage(&damage),
                () = wake => {}
                () = room, if has_room_trouble => self.tables.values_mut().for_each(|table| table.room_was_made(&ledger)),
                () = told_to_stop(&mut self.parts.stop) => break,
            }
        }
        let Parts { reporter, state_writer, .. } = self.parts;
        // Loads in progress end with their tables.
        drop(self.tables);
        reporter.stop().await;
        state_writer.finish().await;
    }

    /// Takes over what metadata says, unless it is behind.
    fn hear(&mut self, view: &View) {
        if self.connected != view.connected() {
            self.connected = view.connected();
            if self.connected {
                tracing::info!(revision = view.revision().0, "metadata is connected");
            } else {
                tracing::warn!("metadata does not answer; serving goes on with what is known");
            }
        }
        let behind = self.world.accept(view);
        if behind != self.complained {
            if behind.is_empty() {
                tracing::info!("metadata is no longer behind this server");
            } else {
                tracing::error!(
                    ?behind,
                    "ALERT: metadata is behind what this server knows, as if restored from an old snapshot; \
                     it keeps serving what it has"
                );
            }
            self.complained = behind;
        }
        if *self.topology != self.world.topology {
            self.topology = Arc::new(self.world.topology.clone());
            self.find_slots();
        }
        if self.slots.is_empty() {
            self.unassigned_since.get_or_insert(self.parts.env.clock.monotonic());
        } else {
            self.unassigned_since = None;
        }
    }

    /// Which slots the topology assigns to this server.
    fn find_slots(&mut self) {
        let mut slots = Vec::new();
        let mut wanted_parts = PartSet::EMPTY;
        for (name, sect) in &self.topology.sects {
            let roles = u16::try_from(sect.slots.len()).unwrap_or(u16::MAX);
            let table = match RoleTable::new(roles) {
                Ok(table) => table,
                Err(error) => {
                    tracing::error!(sect = %name, %error, "the topology has a sect that cannot be served");
                    continue;
                }
            };
            for (role, assignment) in (0..roles).zip(&sect.slots) {
                if assignment.server != self.parts.config.server {
                    continue;
                }
                let parts: PartSet = table.parts_of(Role(role)).iter().copied().collect();
                if sect.state != SectState::Retired {
                    wanted_parts.extend(parts.iter());
                }
                slots.push(OwnedSlot { slot: Slot { sect: name.clone(), role: Role(role) }, parts });
            }
        }
        let owned: PartSet = slots.iter().flat_map(|slot| slot.parts.iter()).collect();
        if *self.owned != owned {
            self.owned = Arc::new(owned);
        }
        self.sects = slots.iter().map(|slot| slot.slot.sect.clone()).collect();
        self.wanted_parts = wanted_parts;
        self.slots = slots;
    }

    /// Whether the server has been without a slot for so long that its images may go.
    fn is_unassigned(&self, now: Duration) -> bool {
        let grace = Duration::from_secs(self.parts.config.unassigned_grace_s);
        self.unassigned_since.is_some_and(|since| now >= since + grace)
    }

    fn round(&mut self, view: &View, settled: u64) {
        let now = self.parts.env.clock.monotonic();
        for (uid, record) in &self.world.tables {
            match self.tables.get_mut(uid) {
                Some(table) => table.set_record(record),
                None => {
                    tracing::info!(table = %record.name, %uid, "table heard of");
                    self.tables.insert(*uid, Table::new(record.clone(), None, Vec::new()));
                }
            }
        }
        let unassigned = self.is_unassigned(now);
        let mut effects = Vec::new();
        for (uid, table) in &mut self.tables {
            let wanted = match self.world.tables.get(uid) {
                Some(record) if !unassigned => {
                    let retain = self.parts.config.retain_old.unwrap_or(record.retain_old);
                    Wanted::Table { target: record.target, aligned: record.aligned, retain }
                }
                _ => Wanted::Nothing,
            };
            let around = Surroundings { wanted, parts: &self.wanted_parts, sects: &self.sects, settled, now };
            effects.push((*uid, table.step(around)));
        }
        for (uid, effects) in effects {
            self.apply(uid, effects, view);
        }
        self.tables.retain(|uid, table| {
            let gone = table.is_gone() && !self.world.tables.contains_key(uid);
            if gone {
                tracing::info!(table = %table.record().name, %uid, "table unloaded");
            }
            !gone
        });
        self.publish();
        self.report();
        self.write_state(Vec::new());
        if self.connected || self.world.topology.generation > 0 {
            // A server without a slot has nothing to show.
            let ready = self.wanted_parts.is_empty() || self.tables.values().all(Table::is_settled);
            if ready {
                self.parts.ready.send_if_modified(|was| !std::mem::replace(was, true));
            }
        }
    }

    fn apply(&mut self, uid: TableUid, effects: Effects, view: &View) {
        let Effects { retired, discarded, load, scrubs: _, flipped_to } = effects;
        for image in &retired {
            self.parts.loader.reaper.retire(image);
        }
        drop(retired);
        if let Some(label) = flipped_to
            && let Some(table) = self.tables.get(&uid)
        {
            tracing::info!(
                table = %table.record().name, version = %label.version, epoch = %label.epoch,
                content = %label.content.short(), "serving"
            );
        }
        if !discarded.is_empty() {
            self.write_state(vec![Box::new(Discarded(discarded))]);
        }
        let (Some(start), Some(table)) = (load, self.tables.get_mut(&uid)) else { return };
        let (id, label) = (self.next_load, start.label);
        self.next_load += 1;
        let version = view.version(uid, label.version).map(|version| version.value.clone());
        let request = LoadRequest { uid, start, version, parts: self.wanted_parts.clone() };
        let (loader, sender, slots) =
            (Arc::clone(&self.parts.loader), self.ended_sender.clone(), Arc::clone(&self.load_slots));
        let (env, name) = (self.parts.env.clone(), table.record().name.clone());
        let task = async move {
            let Ok(_turn) = slots.acquire().await else { return };
            let begun = env.clock.monotonic();
            tracing::info!(table = %name, version = %label.version, content = %label.content.short(), "load begins");
            let outcome = loader.load(request).await;
            let seconds = env.clock.monotonic().saturating_sub(begun).as_secs_f64();
            match &outcome {
                Ok(loaded) => tracing::info!(
                    table = %name, version = %label.version, records = loaded.image.records(),
                    bytes = loaded.image.memory_bytes(), seconds,
                    missing = loaded.missing.as_ref().map(Trouble::text), "load ended"
                ),
                Err(trouble) => tracing::warn!(
                    table = %name, version = %label.version, seconds, problem = trouble.text(), "load failed"
                ),
            }
            // Nobody listens any more: the server is going down.
            let _ = sender.send(LoadEnded { uid, id, outcome });
        };
        table.load_began(id, label, self.parts.env.spawn.spawn("load", Box::pin(task)));
    }

    /// Goes on without the parts that proved damaged; the next round fetches them.
    fn note_damage(&mut self, damage: &Damage) {
        for ((uid, content), parts) in damage {
            let Some(table) = self.tables.get_mut(uid) else { continue };
            let mut effects = Effects::default();
            let count = table.note_damage(*content, parts, &mut effects);
            if count > 0 {
                tracing::error!(
                    table = %table.record().name, content = %content.short(), parts = count,
                    "ALERT: data on local disk is damaged; it is fetched again"
                );
            }
            self.settle(*uid, effects);
        }
    }

    fn load_ended(&mut self, ended: LoadEnded) {
        let LoadEnded { uid, id, outcome } = ended;
        let mut effects = Effects::default();
        match self.tables.get_mut(&uid) {
            Some(table) => table.load_ended(id, outcome, self.parts.env.clock.monotonic(), &mut effects),
            None => effects.discarded.extend(outcome.map_or(Vec::new(), |loaded| loaded.fresh_files)),
        }
        self.settle(uid, effects);
    }

    /// Does what can be done between rounds.
    fn settle(&mut self, uid: TableUid, effects: Effects) {
        for image in &effects.retired {
            self.parts.loader.reaper.retire(image);
        }
        if !effects.discarded.is_empty() {
            self.write_state(vec![Box::new(Discarded(effects.discarded))]);
        }
        effects.scrubs.into_iter().for_each(|start| self.scrub(uid, start));
    }

    /// Has a local file read once more.
    fn scrub(&mut self, uid: TableUid, start: ScrubStart) {
        let Some(table) = self.tables.get_mut(&uid) else { return };
        let (loader, sender, turn) =
            (Arc::clone(&self.parts.loader), self.scrubbed_sender.clone(), Arc::clone(&self.scrub_turn));
        let file = start.file.local.name.clone();
        let (content, name) = (start.content, file.clone());
        let task = async move {
            let Ok(_turn) = turn.acquire().await else { return };
            tracing::info!(file, parts = start.parts.iter().count(), "looking for other damage in a local file");
            let outcome = loader.scrub(uid, &start).await;
            // Nobody listens any more: the server is going down.
            let _ = sender.send(ScrubEnded { uid, content, file, outcome });
        };
        table.scrub_began(name, self.parts.env.spawn.spawn("scrub", Box::pin(task)));
    }

    fn scrub_ended(&mut self, ended: ScrubEnded) {
        let ScrubEnded { uid, content, file, outcome } = ended;
        match outcome {
            Ok(damaged) => {
                tracing::info!(file, damaged = damaged.len(), "looked for other damage in a local file");
                let damaged = damaged.into_iter().map(|part| (part, file.clone())).collect();
                self.note_damage(&Damage::from([((uid, content), damaged)]));
            }
            Err(error) => tracing::warn!(file, %error, "cannot look for other damage in a local file"),
        }
        if let Some(table) = self.tables.get_mut(&uid) {
            table.scrub_ended(&file);
        }
    }

    fn publish(&self) {
        let tables = self.tables.iter().filter(|(uid, _)| self.world.tables.contains_key(uid));
        let tables = tables.map(|(uid, table)| {
            let entry = Entry {
                record: Arc::clone(table.record()),
                served: Arc::clone(table.served()),
                missing: self.world.missing.contains(uid),
                problem: table.problem().to_owned(),
            };
            (*uid, entry)
        });
        self.parts.registry.publish(Picture {
            topology: Arc::clone(&self.topology),
            slots: self.slots.iter().map(|slot| slot.slot.clone()).collect(),
            owned: Arc::clone(&self.owned),
            tables: tables.collect(),
            connected: self.connected,
            informed: self.world.is_informed(),
        });
    }

    /// Tells the reporter what to report, if that changed.
    fn report(&mut self) {
        let slots = self.slots.iter().map(|slot| {
            let tables = self.tables.iter().filter_map(|(uid, table)| {
                let held = table.report_for(&slot.parts);
                (!held.is_empty()).then_some((*uid, held))
            });
            (slot.slot.clone(), tables.collect())
        });
        let problems = self.tables.iter().filter(|(_, table)| !table.problem().is_empty());
        let mut desired = Desired {
            number: self.desired.number,
            slots: slots.collect(),
            generation: self.world.topology.generation,
            problems: problems.map(|(uid, table)| (*uid, table.problem().to_owned())).collect(),
        };
        if desired == self.desired {
            return;
        }
        desired.number += 1;
        let nothing = BTreeSet::new();
        let mut named: BTreeMap<TableUid, BTreeSet<ContentId>> = BTreeMap::new();
        for (uid, held) in desired.slots.values().flatten() {
            named.entry(*uid).or_default().extend(held.iter().map(|held| held.content));
        }
        for (uid, table) in &mut self.tables {
            table.note_reported(desired.number, named.get(uid).unwrap_or(&nothing));
        }
        self.desired = desired.clone();
        self.parts.reporter.set(desired);
    }

    /// Queues STATE, if it changed or files are to go.
    fn write_state(&mut self, remove: Vec<Box<dyn crate::state_file::Removable>>) {
        let mut state = State::new(&self.parts.config.module, &self.parts.config.server);
        state.topology = self.world.topology.clone();
        state.tables = self.tables.iter().map(|(uid, table)| (*uid, table.state())).collect();
        // Metadata changes all the time; a newer revision alone is not worth a write.
        state.revision = self.written.as_ref().map_or(self.world.revision, |written| written.revision);
        if self.written.as_ref() == Some(&state) && remove.is_empty() {
            return;
        }
        state.revision = self.world.revision;
        self.written = Some(state.clone());
        self.parts.state_writer.write(state, remove);
    }

    fn next_wake(&self, now: Duration) -> Option<Duration> {
        let retries = self.tables.values().filter_map(Table::retry_at);
        let grace = Duration::from_secs(self.parts.config.unassigned_grace_s);
        let unassigned = self.unassigned_since.map(|since| since + grace).filter(|at| *at > now);
        retries.chain(unassigned).min().map(|at| at.saturating_sub(now))
    }
}

/// Waits for the word to stop; whoever could say it being gone means the same.
async fn told_to_stop(stop: &mut watch::Receiver<bool>) {
    let _ = stop.wait_for(|stop| *stop).await;
}
