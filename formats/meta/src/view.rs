//! All records of a module at one revision.
//!
//! The maps share structure with the view they came from, so that applying an event costs a path, not a copy.

use std::sync::Arc;

use fkv_formats::id::{Slot, TableUid, TaskId, Version};
use rpds::RedBlackTreeMapSync as Map;

use crate::key::{Keys, Kind};
use crate::record::{
    DroppedTable, JobRecord, LockRecord, Progress, Report, SlotClaim, TableRecord, TaskRecord, TaskState, Topology,
    VersionRecord, WorkerRecord,
};
use crate::stamped::Stamped;
use crate::store::{Entry, Event, Revision, Snapshot, WatchBatch};

/// A value this build cannot read. What it stands for is missing from the view.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unreadable {
    /// Its key.
    pub key: String,
    /// What is wrong with it.
    pub reason: String,
}

type Records<K, T> = Map<K, Arc<Stamped<T>>>;

/// All records of a module, as of one revision. Cheap to clone. Submit ids are left out, and jobs of tasks that do not
/// run: they are many, and read one by one.
#[derive(Clone, Debug)]
pub struct View {
    keys: Keys,
    revision: Revision,
    connected: bool,
    topology: Option<Arc<Stamped<Topology>>>,
    alignments: Option<Revision>,
    tables: Records<String, TableRecord>,
    names: Map<TableUid, String>,
    dropped: Records<TableUid, DroppedTable>,
    versions: Records<(TableUid, Version), VersionRecord>,
    tasks: Records<(TableUid, TaskId), TaskRecord>,
    /// Of running tasks.
    jobs: Records<(TableUid, TaskId, String), JobRecord>,
    locks: Records<(TableUid, TaskId, String), LockRecord>,
    progress: Records<(TableUid, TaskId), Progress>,
    claims: Records<Slot, SlotClaim>,
    reports: Records<Slot, Report>,
    workers: Records<String, WorkerRecord>,
    unreadable: Map<String, Arc<Unreadable>>,
}

impl View {
    /// A view of nothing, as before anything was read.
    #[must_use]
    pub fn empty(keys: Keys) -> Self {
        Self {
            keys,
            revision: Revision(0),
            connected: false,
            topology: None,
            alignments: None,
            tables: Map::new_sync(),
            names: Map::new_sync(),
            dropped: Map::new_sync(),
            versions: Map::new_sync(),
            tasks: Map::new_sync(),
            jobs: Map::new_sync(),
            locks: Map::new_sync(),
            progress: Map::new_sync(),
            claims: Map::new_sync(),
            reports: Map::new_sync(),
            workers: Map::new_sync(),
            unreadable: Map::new_sync(),
        }
    }

    /// The view of a snapshot of [`Keys::all`].
    #[must_use]
    pub fn of(keys: Keys, snapshot: Snapshot) -> Self {
        let mut view = Self::empty(keys);
        for entry in snapshot.entries {
            view.put(entry);
        }
        // Keys of jobs come before those of their tasks.
        let idle: Vec<_> = view.jobs.keys().filter(|(uid, task, _)| !view.runs(*uid, *task)).cloned().collect();
        for key in idle {
            view.jobs.remove_mut(&key);
        }
        view.revision = snapshot.revision;
        view.connected = true;
        view
    }

    /// This view after the changes of one revision. Changes at or before its revision are known already and ignored.
    pub fn apply(&mut self, batch: WatchBatch) {
        if batch.revision <= self.revision {
            return;
        }
        for event in batch.events {
            match event {
                Event::Put(entry) => self.put(entry),
                Event::Delete { key } => self.delete(&key),
            }
        }
        self.revision = batch.revision;
    }

    /// Says whether the metadata store answers at present.
    pub(crate) fn set_connected(&mut self, connected: bool) {
        self.connected = connected;
    }

    /// The module's keys.
    #[must_use]
    pub const fn keys(&self) -> &Keys {
        &self.keys
    }

    /// The revision it shows; 0 before anything was read.
    #[must_use]
    pub const fn revision(&self) -> Revision {
        self.revision
    }

    /// Whether the metadata store answered when this view was made. A view that is not connected stays true of its
    /// revision.
    #[must_use]
    pub const fn connected(&self) -> bool {
        self.connected
    }

    /// The topology, once the cluster is initialised.
    #[must_use]
    pub fn topology(&self) -> Option<&Stamped<Topology>> {
        self.topology.as_deref()
    }

    /// The revision of the last change of any alignment.
    #[must_use]
    pub const fn alignments(&self) -> Option<Revision> {
        self.alignments
    }

    /// A table by name.
    #[must_use]
    pub fn table(&self, name: &str) -> Option<&Stamped<TableRecord>> {
        self.tables.get(name).map(Arc::as_ref)
    }

    /// A table by uid.
    #[must_use]
    pub fn table_by_uid(&self, uid: TableUid) -> Option<&Stamped<TableRecord>> {
        self.table(self.names.get(&uid)?)
    }

    /// All tables by name.
    pub fn tables(&self) -> impl Iterator<Item = &Stamped<TableRecord>> {
        self.tables.values().map(Arc::as_ref)
    }

    /// The tables dropped, of which something may be left in the store.
    pub fn dropped(&self) -> impl Iterator<Item = (TableUid, &Stamped<DroppedTable>)> {
        self.dropped.iter().map(|(uid, table)| (*uid, table.as_ref()))
    }

    /// A version of a table.
    #[must_use]
    pub fn version(&self, uid: TableUid, version: Version) -> Option<&Stamped<VersionRecord>> {
        self.versions.get(&(uid, version)).map(Arc::as_ref)
    }

    /// All versions of a table, oldest first.
    pub fn versions(&self, uid: TableUid) -> impl DoubleEndedIterator<Item = &Stamped<VersionRecord>> {
        self.versions.range((uid, Version(0))..=(uid, Version(u64::MAX))).map(|(_, version)| version.as_ref())
    }

    /// A task of a table.
    #[must_use]
    pub fn task(&self, uid: TableUid, task: TaskId) -> Option<&Stamped<TaskRecord>> {
        self.tasks.get(&(uid, task)).map(Arc::as_ref)
    }

    /// All tasks of a table, oldest first.
    pub fn tasks(&self, uid: TableUid) -> impl DoubleEndedIterator<Item = &Stamped<TaskRecord>> {
        self.tasks.range((uid, TaskId(0))..=(uid, TaskId(u64::MAX))).map(|(_, task)| task.as_ref())
    }

    fn runs(&self, uid: TableUid, task: TaskId) -> bool {
        self.task(uid, task).is_some_and(|task| task.value.state == TaskState::Running)
    }

    /// A job of a running task, if it was ever claimed.
    #[must_use]
    pub fn job(&self, uid: TableUid, task: TaskId, job: &str) -> Option<&Stamped<JobRecord>> {
        self.jobs.get(&(uid, task, job.to_owned())).map(Arc::as_ref)
    }

    /// The jobs of a running task that were ever claimed, by name.
    pub fn jobs(&self, uid: TableUid, task: TaskId) -> impl Iterator<Item = (&str, &Stamped<JobRecord>)> {
        let of_task =
            self.jobs.range((uid, task, String::new())..).take_while(move |(key, _)| (key.0, key.1) == (uid, task));
        of_task.map(|(key, job)| (key.2.as_str(), job.as_ref()))
    }

    /// The lock of a job, or of a task with job [`crate::key::TASK_LOCK`], while somebody holds it.
    #[must_use]
    pub fn lock(&self, uid: TableUid, task: TaskId, job: &str) -> Option<&Stamped<LockRecord>> {
        self.locks.get(&(uid, task, job.to_owned())).map(Arc::as_ref)
    }

    /// How far a task is, as last written.
    #[must_use]
    pub fn progress(&self, uid: TableUid, task: TaskId) -> Option<&Stamped<Progress>> {
        self.progress.get(&(uid, task)).map(Arc::as_ref)
    }

    /// A slot's claim, while a server holds it. Its `created` is the incarnation.
    #[must_use]
    pub fn claim(&self, slot: &Slot) -> Option<&Stamped<SlotClaim>> {
        self.claims.get(slot).map(Arc::as_ref)
    }

    /// All claims by slot.
    pub fn claims(&self) -> impl Iterator<Item = (&Slot, &Stamped<SlotClaim>)> {
        self.claims.iter().map(|(slot, claim)| (slot, claim.as_ref()))
    }

    /// A slot's last report, whether it still counts or not.
    #[must_use]
    pub fn report(&self, slot: &Slot) -> Option<&Stamped<Report>> {
        self.reports.get(slot).map(Arc::as_ref)
    }

    /// A slot's report, if it counts: its incarnation's claim exists and is of the server the topology names.
    #[must_use]
    pub fn valid_report(&self, slot: &Slot) -> Option<&Report> {
        let claim = self.claim(slot)?;
        let assigned = self.topology()?.value.assignment(slot)?;
        let report = &self.report(slot)?.value;
        (report.incarnation == claim.created.0 && claim.value.server == assigned.server).then_some(report)
    }

    /// All last reports by slot, whether they still count or not.
    pub fn reports(&self) -> impl Iterator<Item = (&Slot, &Stamped<Report>)> {
        self.reports.iter().map(|(slot, report)| (slot, report.as_ref()))
    }

    /// All workers by name.
    pub fn workers(&self) -> impl Iterator<Item = (&str, &Stamped<WorkerRecord>)> {
        self.workers.iter().map(|(name, worker)| (name.as_str(), worker.as_ref()))
    }

    /// The values this build cannot read; what they stand for is missing from the view.
    pub fn unreadable(&self) -> impl Iterator<Item = &Unreadable> {
        self.unreadable.values().map(Arc::as_ref)
    }

    fn put(&mut self, entry: Entry) {
        // A value that cannot be read takes the place of the older one: acting on the older one would be acting on
        // what is no longer so.
        self.delete(&entry.key);
        let Some(kind) = self.keys.parse(&entry.key) else {
            return self.cannot_read(entry.key, "a key that this build does not know".to_owned());
        };
        let key = entry.key.clone();
        let outcome = match kind {
            Kind::Topology => Stamped::decode(entry).map(|record| self.topology = Some(Arc::new(record))),
            Kind::Alignments => {
                self.alignments = Some(entry.modified);
                Ok(())
            }
            Kind::Table(name) => Stamped::decode(entry).map(|record| {
                self.names.insert_mut(record.uid(), name.clone());
                self.tables.insert_mut(name, Arc::new(record));
            }),
            Kind::Dropped(uid) => insert(&mut self.dropped, uid, entry),
            Kind::Version(uid, version) => insert(&mut self.versions, (uid, version), entry),
            Kind::Task(uid, task) => insert(&mut self.tasks, (uid, task), entry).map(|()| {
                if !self.runs(uid, task) {
                    self.forget_jobs(uid, task);
                }
            }),
            Kind::Submit => Ok(()),
            Kind::Job(uid, task, _) if self.task(uid, task).is_some() && !self.runs(uid, task) => Ok(()),
            Kind::Job(uid, task, job) => insert(&mut self.jobs, (uid, task, job), entry),
            Kind::Lock(uid, task, job) => insert(&mut self.locks, (uid, task, job), entry),
            Kind::Progress(uid, task) => insert(&mut self.progress, (uid, task), entry),
            Kind::Claim(slot) => insert(&mut self.claims, slot, entry),
            Kind::Report(slot) => insert(&mut self.reports, slot, entry),
            Kind::Worker(name) => insert(&mut self.workers, name, entry),
        };
        if let Err(error) = outcome {
            self.cannot_read(key, error.to_string());
        }
    }

    fn delete(&mut self, key: &str) {
        self.unreadable.remove_mut(key);
        match self.keys.parse(key) {
            Some(Kind::Topology) => self.topology = None,
            Some(Kind::Alignments) => self.alignments = None,
            Some(Kind::Table(name)) => {
                if let Some(table) = self.tables.get(&name) {
                    self.names.remove_mut(&table.uid());
                }
                self.tables.remove_mut(&name);
            }
            Some(Kind::Dropped(uid)) => drop(self.dropped.remove_mut(&uid)),
            Some(Kind::Version(uid, version)) => drop(self.versions.remove_mut(&(uid, version))),
            Some(Kind::Task(uid, task)) => drop(self.tasks.remove_mut(&(uid, task))),
            Some(Kind::Job(uid, task, job)) => drop(self.jobs.remove_mut(&(uid, task, job))),
            Some(Kind::Lock(uid, task, job)) => drop(self.locks.remove_mut(&(uid, task, job))),
            Some(Kind::Progress(uid, task)) => drop(self.progress.remove_mut(&(uid, task))),
            Some(Kind::Claim(slot)) => drop(self.claims.remove_mut(&slot)),
            Some(Kind::Report(slot)) => drop(self.reports.remove_mut(&slot)),
            Some(Kind::Worker(name)) => drop(self.workers.remove_mut(&name)),
            Some(Kind::Submit) | None => {}
        }
    }

    fn forget_jobs(&mut self, uid: TableUid, task: TaskId) {
        let names: Vec<String> = self.jobs(uid, task).map(|(name, _)| name.to_owned()).collect();
        for name in names {
            self.jobs.remove_mut(&(uid, task, name));
        }
    }

    fn cannot_read(&mut self, key: String, reason: String) {
        self.unreadable.insert_mut(key.clone(), Arc::new(Unreadable { key, reason }));
    }
}

fn insert<K: Ord + Clone, T: crate::record::Record>(
    records: &mut Records<K, T>,
    key: K,
    entry: Entry,
) -> Result<(), crate::store::MetaError> {
    records.insert_mut(key, Arc::new(Stamped::decode(entry)?));
    Ok(())
}
