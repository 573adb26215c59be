//! A module in miniature: operators, workers and servers that do legal and illegal things at random.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use fkv_env::{Entropy, Env, SeededEntropy};
use fkv_formats::id::{ContentId, Digest, Epoch, Role, Slot, TableUid, TaskId, Version};
use fkv_formats::schema::{F16Overflow, KeyType, Schema, Storage, TableKind, ValueType};
use fkv_meta::embedded::EmbeddedStore;
use fkv_meta::key::{Keys, TASK_LOCK};
use fkv_meta::record::{
    Assignment, BuildStats, Duplicates, FormKind, FormRef, Held, InputFormat, JobRecord, LoadMode, LoadSpec,
    NullPolicy, ObjectRef, Report, RetainOld, SectState, SlotClaim, TablePhase, TableRecord, TaskError, TaskRecord,
    TaskState,
};
use fkv_meta::state::{NextTask, next_task};
use fkv_meta::store::{LeaseId, MetaStore, Revision, TxnOutcome};
use fkv_meta::{Meta, Planned, Refusal, Stamped, View, txn};

/// Every kind of change; each must have been committed now and then for a run to prove anything.
pub(crate) const CHANGES: [&str; 35] = [
    "abort canary",
    "activate sect",
    "add form",
    "add sect",
    "cancel task",
    "claim job",
    "claim slot",
    "claim task",
    "commit job",
    "create table",
    "drop table",
    "exclude",
    "fail alignment",
    "fail job",
    "fail task",
    "flip",
    "forget version",
    "freeze plan",
    "pin",
    "promote canary",
    "publish",
    "readmit",
    "reassign",
    "release",
    "remove sect",
    "report",
    "retire sect",
    "retry task",
    "rollback",
    "set canary",
    "shield sect",
    "skip task",
    "start task",
    "submit",
    "tombstone",
];

const WORKER: &str = "w";
const JOB: &str = "slice-0";

/// The content id of the n-th build.
pub(crate) fn content_of(build: u64) -> ContentId {
    let mut id = [0; 32];
    id[..8].copy_from_slice(&build.to_le_bytes());
    ContentId(id)
}

pub(crate) fn object(name: &str) -> ObjectRef {
    ObjectRef { path: name.to_owned(), len: 1, sha256: Digest([1; 32]) }
}

pub(crate) fn schema() -> Schema {
    Schema {
        kind: TableKind::Mem,
        key: KeyType::U64,
        value: ValueType::F32(1),
        storage: Storage::Native,
        f16_overflow: F16Overflow::Reject,
        ttl: false,
    }
}

pub(crate) fn spec(mode: LoadMode) -> LoadSpec {
    LoadSpec {
        inputs: vec!["file:///in".into()],
        mode,
        format: InputFormat::Parquet,
        key_column: "id".into(),
        value_columns: vec!["score".into()],
        expiry_column: None,
        delete_column: None,
        nulls: NullPolicy::Skip,
        duplicates: Duplicates::Last,
        max_bad_rows: 0,
        require_success: false,
    }
}

pub(crate) fn new_table(name: &str) -> txn::NewTable {
    txn::NewTable {
        name: name.into(),
        schema: schema(),
        retain_versions: 1,
        retain_old: RetainOld::Ram,
        filter: Default::default(),
    }
}

pub(crate) fn servers(sect: &str, roles: usize) -> Vec<Assignment> {
    (0..roles)
        .map(|role| Assignment { server: format!("{sect}{role}"), addr: format!("127.0.0.1:{}", 7000 + role) })
        .collect()
}

pub(crate) fn build(version: Version, content: ContentId) -> txn::Build {
    let form = FormRef { kind: FormKind::Full, object: object(&format!("form-{content}")) };
    txn::Build { version, content, forms: vec![form], rows: 1, bytes: 1, stats: BuildStats::default() }
}

type Job = (TableUid, TaskId, &'static str);

pub(crate) struct World {
    random: SeededEntropy,
    pub(crate) meta: Meta,
    now_ms: u64,
    builds: u64,
    sects: u64,
    lease: LeaseId,
    claims: BTreeMap<Slot, (LeaseId, u64)>,
    /// Every token ever given for a lock, newest last.
    tokens: BTreeMap<Job, Vec<Revision>>,
    past: Vec<View>,
    pub(crate) committed: BTreeMap<&'static str, usize>,
}

impl World {
    pub(crate) async fn new(seed: u64) -> Self {
        let env = Env::real(1).expect("threads start");
        let store = Arc::new(EmbeddedStore::in_memory(&env));
        let lease = store.grant(Duration::from_secs(3600)).await.expect("granted");
        let meta = Meta::new(store, Keys::new("m").expect("a good name"));
        let sects = BTreeMap::from([("a".to_owned(), servers("a", 2)), ("b".to_owned(), servers("b", 3))]);
        meta.change(|view| txn::init_cluster(view, sects.clone())).await.expect("initialised");
        Self {
            random: SeededEntropy::new(seed),
            meta,
            now_ms: 1,
            builds: 0,
            sects: 0,
            lease,
            claims: BTreeMap::new(),
            tokens: BTreeMap::new(),
            past: Vec::new(),
            committed: BTreeMap::new(),
        }
    }

    pub(crate) async fn view(&self) -> View {
        self.meta.view().await.expect("read")
    }

    fn chance(&self, one_in: u64) -> bool {
        self.random.below(one_in) == 0
    }

    fn pick<T: Clone>(&self, of: &[T]) -> Option<T> {
        let index = usize::try_from(self.random.below(of.len() as u64)).expect("small");
        of.get(index).cloned()
    }

    async fn settle<T>(&mut self, change: &'static str, plan: Result<Planned<T>, Refusal>) -> Option<(Revision, T)> {
        let planned = match plan {
            Ok(planned) => planned,
            Err(refusal) => {
                assert!(!refusal.to_string().is_empty());
                return None;
            }
        };
        match self.meta.run(planned.txn).await.expect("a planned transaction is never invalid") {
            TxnOutcome::Committed(revision) => {
                *self.committed.entry(change).or_default() += 1;
                Some((revision, planned.after))
            }
            TxnOutcome::Refused => None,
        }
    }

    /// Does one thing; gives the view it was planned from, if it was planned from one.
    pub(crate) async fn step(&mut self) -> Option<View> {
        self.now_ms += 1;
        let now = self.now_ms;
        let fresh = self.view().await;
        self.past.push(fresh.clone());
        if self.past.len() > 8 {
            self.past.remove(0);
        }
        let view = if self.chance(5) { self.pick(&self.past).expect("the fresh one at least") } else { fresh };
        let name = if self.chance(4) { "t1" } else { "t0" };
        let table = view.table(name).cloned();
        let task = table.as_ref().and_then(|table| self.some_task(&view, table));
        let failed = table.as_ref().and_then(|table| {
            let all = view.tasks(table.uid()).filter(|task| task.value.state == TaskState::Failed);
            let all: Vec<TaskId> = all.map(|task| task.value.task).collect();
            self.pick(&all).or(task)
        });
        let version = table.as_ref().and_then(|table| {
            let all: Vec<Version> = view.versions(table.uid()).map(|version| version.value.version).collect();
            self.pick(&all)
        });
        let version = version.unwrap_or(Version(99));
        let slot = self.some_slot(&view);
        let expected = self.chance(4).then(|| Epoch(self.random.below(8)));
        if self.chance(2) {
            self.drive(&view, name, now).await;
            return Some(view);
        }
        match self.random.below(68) {
            0 => drop(self.settle("retry task", txn::retry_task(&view, name, failed.unwrap_or(TaskId(9)), now)).await),
            1 if self.chance(8) => {
                let plan = txn::drop_table(&view, name, expected, now);
                drop(self.settle("drop table", plan).await);
            }
            2..=5 => self.submit(&view, name, now).await,
            6..=9 => self.schedule(&view, name, task, now).await,
            10..=23 => {
                if let (Some(table), Some(task)) =
                    (&table, task.and_then(|task| view.task(table.as_ref()?.uid(), task)))
                {
                    self.work(&view, table, task, now).await;
                }
            }
            24 => drop(self.settle("cancel task", txn::cancel_task(&view, name, task.unwrap_or(TaskId(9)), now)).await),
            25 => drop(self.settle("skip task", txn::skip_task(&view, name, failed.unwrap_or(TaskId(9)), now)).await),
            26 => drop(self.settle("retry task", txn::retry_task(&view, name, failed.unwrap_or(TaskId(9)), now)).await),
            27..=33 => self.servers_catch_up().await,
            34 | 35 => self.one_server(&view, &slot).await,
            36..=40 => drop(self.settle("flip", txn::flip(&view, name, now)).await),
            41 => drop(self.settle("fail alignment", txn::fail_alignment(&view, name, "too slow", now)).await),
            42 | 43 => {
                let to = (!self.chance(4)).then_some(version);
                drop(self.settle("rollback", txn::rollback(&view, name, to, expected, now)).await);
            }
            44..=46 => drop(self.settle("release", txn::release(&view, name, expected, now)).await),
            47 | 48 => drop(self.settle("set canary", txn::set_canary(&view, name, &["a".to_owned()])).await),
            49 => drop(self.settle("promote canary", txn::promote_canary(&view, name)).await),
            50 => drop(self.settle("abort canary", txn::abort_canary(&view, name, "worse", now)).await),
            51 | 52 => drop(self.settle("exclude", txn::exclude(&view, name, &slot, "dead", now)).await),
            53 | 54 => {
                let excluded: Vec<Slot> =
                    table.iter().flat_map(|table| table.value.exclusions.keys().cloned()).collect();
                let slot = self.pick(&excluded).unwrap_or(slot);
                drop(self.settle("readmit", txn::readmit(&view, name, &slot)).await);
            }
            55..=57 => self.change_topology(&view, &slot).await,
            58 => {
                let form = FormRef { kind: FormKind::Full, object: object(&format!("checkpoint-{now}")) };
                drop(self.settle("add form", txn::add_form(&view, name, version, form)).await);
            }
            59 => drop(self.settle("pin", txn::pin(&view, name, version, "keep")).await),
            60 => drop(self.settle("unpin", txn::unpin(&view, name, version, "keep")).await),
            61 => drop(self.settle("tombstone", txn::tombstone(&view, name, version)).await),
            _ => drop(self.settle("forget version", txn::forget_version(&view, name, version)).await),
        }
        Some(view)
    }

    /// Does what is sensible next, so that tables get far.
    async fn drive(&mut self, view: &View, name: &str, now: u64) {
        let Some(table) = view.table(name).cloned() else {
            return drop(self.settle("create table", txn::create_table(view, new_table(name), now)).await);
        };
        let keys = self.meta.keys.clone();
        if let Some(task) = table.value.running.and_then(|task| view.task(table.uid(), task)).cloned() {
            let lock = (table.uid(), task.value.task, TASK_LOCK);
            let Some(token) = view.lock(lock.0, lock.1, lock.2).map(|lock| lock.created) else {
                return self.align_or_claim(view, &table, &task, now).await;
            };
            if task.value.plan.is_none() {
                let as_of = u32::try_from(now).expect("small");
                let plan = txn::freeze_plan(&keys, &table, &task, token, as_of, object("inputs"), object("plan"));
                return drop(self.settle("freeze plan", plan).await);
            }
            if self.chance(3) {
                return self.work_on_job(&table, &task, now).await;
            }
            let base = view.version(table.uid(), table.value.head);
            self.builds += 1;
            let build = build(table.value.head.next(), content_of(self.builds));
            let plan = txn::publish(&keys, &table, &task, token, base, build, now);
            if self.settle("publish", plan).await.is_none() {
                self.align_or_claim(view, &table, &task, now).await;
            }
            return;
        }
        match self.random.below(4) {
            0 => self.servers_catch_up().await,
            1 if table.value.phase != TablePhase::Normal => {
                drop(self.settle("release", txn::release(view, name, None, now)).await);
            }
            1 => drop(self.settle("flip", txn::flip(view, name, now)).await),
            2 if table.value.queue.len() < 3 => self.submit(view, name, now).await,
            _ => self.schedule(view, name, None, now).await,
        }
    }

    async fn align_or_claim(
        &mut self,
        view: &View,
        table: &Stamped<TableRecord>,
        task: &Stamped<TaskRecord>,
        now: u64,
    ) {
        let name = &table.value.name;
        if task.value.state == TaskState::Running {
            let keys = self.meta.keys.clone();
            let plan = txn::claim_task(&keys, table, task, WORKER, self.lease);
            let spent = matches!(plan, Err(Refusal::OutOfAttempts { .. }));
            if let Some((revision, _)) = self.settle("claim task", plan).await {
                self.tokens.entry((table.uid(), task.value.task, TASK_LOCK)).or_default().push(revision);
            } else if spent {
                let error = TaskError { at_ms: now, attempt: 1, worker: WORKER.into(), message: "spent".into() };
                let plan = txn::fail_task(&keys, table, task, None, error, txn::Retry::MayHelp);
                drop(self.settle("fail task", plan).await);
            }
            return;
        }
        if table.value.canary.is_some() {
            if self.chance(2) {
                drop(self.settle("promote canary", txn::promote_canary(view, name)).await);
            } else {
                drop(self.settle("abort canary", txn::abort_canary(view, name, "worse", now)).await);
            }
        } else if self.chance(2) {
            self.servers_catch_up().await;
        } else if self.settle("flip", txn::flip(view, name, now)).await.is_none() {
            let sects = [self.some_slot(view).sect];
            drop(self.settle("set canary", txn::set_canary(view, name, &sects)).await);
        }
    }

    fn some_task(&self, view: &View, table: &Stamped<TableRecord>) -> Option<TaskId> {
        let all: Vec<TaskId> = view.tasks(table.uid()).map(|task| task.value.task).collect();
        if self.chance(4) { self.pick(&all) } else { table.value.running.or_else(|| self.pick(&all)) }
    }

    fn some_slot(&self, view: &View) -> Slot {
        let sects: Vec<String> =
            view.topology().map_or_else(Vec::new, |topology| topology.value.sects.keys().cloned().collect());
        let sect = self.pick(&sects).unwrap_or_else(|| "nowhere".into());
        Slot { sect, role: Role(u16::try_from(self.random.below(4)).expect("small")) }
    }

    async fn submit(&mut self, view: &View, table: &str, now: u64) {
        let mode = if self.chance(2) { LoadMode::Full } else { LoadMode::Incremental };
        let id = format!("s{}", self.random.below(200));
        let uid = view.table(table).map_or(TableUid(0), Stamped::uid);
        let existing = self.meta.submit(uid, &id).await.expect("read");
        match txn::submit(view, table, existing.as_ref(), &id, &spec(mode), now) {
            Ok(txn::Submitted::Already(task)) => assert_eq!(existing.expect("read").value.task, task),
            Ok(txn::Submitted::New(plan)) => {
                if let Some((_, after)) = self.settle("submit", Ok(*plan)).await {
                    let record = self.meta.submit(uid, &id).await.expect("read").expect("written");
                    assert_eq!(record.value.task, after.task.task);
                }
            }
            Err(_) => {}
        }
    }

    async fn schedule(&mut self, view: &View, table: &str, task: Option<TaskId>, now: u64) {
        let next = view.table(table).and_then(|table| next_task(view, table));
        match next {
            Some(NextTask::Start(next)) => {
                let task = if self.chance(5) { task.unwrap_or(next) } else { next };
                drop(self.settle("start task", txn::start_task(view, table, task, now)).await);
            }
            Some(NextTask::Skip(next)) => drop(self.settle("skip task", txn::skip_task(view, table, next, now)).await),
            None => {}
        }
    }

    /// A token for a lock: mostly the newest, sometimes one of an attempt that is over.
    fn token(&self, job: Job) -> Revision {
        let known = self.tokens.get(&job).cloned().unwrap_or_default();
        let newest = known.last().copied().unwrap_or(Revision(1));
        if self.chance(4) { self.pick(&known).unwrap_or(newest) } else { newest }
    }

    /// Checks that a change made under a lock was made by its holder.
    fn fenced<T>(&self, before: &View, job: Job, token: Revision, outcome: Option<T>) {
        if outcome.is_some() {
            let holder = before.lock(job.0, job.1, job.2).map(|lock| lock.created);
            assert_eq!(holder, Some(token), "a change under a lock that is another's, or nobody's");
        }
    }

    async fn work(&mut self, view: &View, table: &Stamped<TableRecord>, task: &Stamped<TaskRecord>, now: u64) {
        let keys = self.meta.keys.clone();
        let lock = (table.uid(), task.value.task, TASK_LOCK);
        let token = self.token(lock);
        let present = self.view().await;
        match self.random.below(12) {
            0..=2 => {
                let plan = txn::claim_task(&keys, table, task, WORKER, self.lease);
                if let Some((revision, _)) = self.settle("claim task", plan).await {
                    self.tokens.entry(lock).or_default().push(revision);
                }
            }
            3 | 4 => {
                let as_of = u32::try_from(now).expect("small");
                let plan = txn::freeze_plan(&keys, table, task, token, as_of, object("inputs"), object("plan"));
                let outcome = self.settle("freeze plan", plan).await;
                self.fenced(&present, lock, token, outcome);
            }
            5..=7 => {
                let base = view.version(table.uid(), table.value.head);
                // Sometimes the same content is built again.
                self.builds += u64::from(!self.chance(6));
                let version = if self.chance(10) { table.value.head } else { table.value.head.next() };
                let build = build(version, content_of(self.builds));
                let plan = txn::publish(&keys, table, task, token, base, build, now);
                let outcome = self.settle("publish", plan).await;
                self.fenced(&present, lock, token, outcome);
            }
            8 => {
                let retry = if self.chance(2) { txn::Retry::MayHelp } else { txn::Retry::Pointless };
                let by = (!self.chance(3)).then_some(token);
                let error = TaskError { at_ms: now, attempt: 1, worker: WORKER.into(), message: "no".into() };
                let outcome = self.settle("fail task", txn::fail_task(&keys, table, task, by, error, retry)).await;
                match by {
                    Some(token) => self.fenced(&present, lock, token, outcome),
                    None => assert!(outcome.is_none() || present.lock(lock.0, lock.1, lock.2).is_none()),
                }
            }
            9 => {
                // The worker dies: its lease takes the lock.
                let release = txn::release_lock(&keys, table, task.value.task, TASK_LOCK, token);
                self.meta.run(release).await.expect("a transaction");
            }
            _ => self.work_on_job(table, task, now).await,
        }
    }

    async fn work_on_job(&mut self, table: &Stamped<TableRecord>, task: &Stamped<TaskRecord>, now: u64) {
        let keys = self.meta.keys.clone();
        let lock = (table.uid(), task.value.task, JOB);
        let token = self.token(lock);
        let record = self.meta.job(lock.0, lock.1, JOB).await.expect("read");
        let present = self.view().await;
        match (self.random.below(3), &record) {
            (1, Some(job)) => {
                let plan = txn::commit_job(&keys, table, task, JOB, job, token, object("slice"));
                let outcome = self.settle("commit job", plan).await;
                self.fenced(&present, lock, token, outcome);
            }
            (2, Some(job)) => {
                let error = TaskError { at_ms: now, attempt: 1, worker: WORKER.into(), message: "no".into() };
                let retry = if self.chance(4) { txn::Retry::Pointless } else { txn::Retry::MayHelp };
                let plan = txn::fail_job(&keys, table, task, (JOB, job), token, error, retry);
                let outcome = self.settle("fail job", plan).await;
                self.fenced(&present, lock, token, outcome);
            }
            _ => {
                let claimant = txn::Claimant { worker: WORKER, lease: self.lease };
                let plan = object(if self.chance(8) { "older plan" } else { "plan" });
                let planned = txn::claim_job(&keys, table, task, &plan, JOB, record.as_ref(), claimant);
                if let Some((revision, job)) = self.settle("claim job", planned).await {
                    let (uid, task) = (lock.0, lock.1);
                    assert!(present.lock(uid, task, JOB).is_none(), "a job that somebody works on");
                    let running = present.task(uid, task).map(|task| (task.value.state, task.value.plan.clone()));
                    assert_eq!(running, Some((TaskState::Running, Some(plan))), "a job of what is planned now");
                    assert!(job.attempt <= JobRecord::CLAIMS);
                    self.tokens.entry(lock).or_default().push(revision);
                }
            }
        }
    }

    /// Every server claims its slots and reports all it should hold.
    async fn servers_catch_up(&mut self) {
        let view = self.view().await;
        let Some(topology) = view.topology() else { return };
        let slots: Vec<Slot> = topology.value.sects.keys().flat_map(|sect| topology.value.slots_of(sect)).collect();
        for slot in slots {
            if !self.chance(8) {
                self.claim(&slot).await;
                self.report(&view, &slot, true).await;
            }
        }
    }

    async fn one_server(&mut self, view: &View, slot: &Slot) {
        match self.random.below(3) {
            0 => {
                if let Some((lease, _)) = self.claims.remove(slot) {
                    self.meta.store.revoke(lease).await.expect("revoked");
                }
            }
            1 => self.claim(slot).await,
            _ => self.report(view, slot, false).await,
        }
    }

    async fn claim(&mut self, slot: &Slot) {
        let view = self.view().await;
        let Some(assigned) = view.topology().and_then(|topology| topology.value.assignment(slot).cloned()) else {
            return;
        };
        if view.claim(slot).is_some_and(|claim| claim.value.server == assigned.server) && !self.chance(10) {
            return;
        }
        let lease = self.meta.store.grant(Duration::from_secs(3600)).await.expect("granted");
        let claim = SlotClaim { server: assigned.server.clone(), addr: assigned.addr };
        match self.meta.claim_slot(slot, &claim, lease).await {
            Ok(incarnation) => {
                *self.committed.entry("claim slot").or_default() += 1;
                let view = self.view().await;
                assert_eq!(view.claim(slot).map(|claim| claim.created.0), Some(incarnation));
                assert!(view.report(slot).is_none(), "a new incarnation starts without a report");
                if let Some((old, _)) = self.claims.insert(slot.clone(), (lease, incarnation)) {
                    self.meta.store.revoke(old).await.expect("revoked");
                }
                assert!(self.view().await.claim(slot).is_some(), "the old lease does not take the new claim");
            }
            Err(error) => {
                let other = view.claim(slot).expect("somebody has it").value.server.clone();
                assert_ne!(other, claim.server, "{error}");
                // The former server of the slot goes at last.
                if let Some((old, _)) = self.claims.remove(slot) {
                    self.meta.store.revoke(old).await.expect("revoked");
                }
            }
        }
    }

    async fn report(&mut self, view: &View, slot: &Slot, good: bool) {
        let Some((_, incarnation)) = self.claims.get(slot).copied() else { return };
        let mut tables = BTreeMap::new();
        for table in view.tables() {
            let labels = [table.value.aligned, table.value.target].into_iter().flatten();
            let mut held: Vec<Held> = labels.map(|l| Held { content: l.content, version: l.version }).collect();
            if !good && self.chance(2) {
                held.pop();
            }
            tables.insert(table.uid(), held);
        }
        let generation = view.topology().map_or(0, |topology| topology.value.generation);
        let incarnation = if good || !self.chance(3) { incarnation } else { incarnation.saturating_sub(1).max(1) };
        let report = Report { incarnation, generation, tables, problems: BTreeMap::new() };
        let present = self.view().await;
        let standing = present.report(slot).map(|report| report.modified);
        let outcome =
            self.meta.run(txn::report(&self.meta.keys, slot, standing, &report)).await.expect("a transaction");
        let mine = present.claim(slot).is_some_and(|claim| claim.created.0 == incarnation);
        assert_eq!(
            matches!(outcome, TxnOutcome::Committed(_)),
            mine,
            "only the incarnation that has the claim reports"
        );
        *self.committed.entry("report").or_default() += usize::from(mine);
    }

    async fn change_topology(&mut self, view: &View, slot: &Slot) {
        let sect = slot.sect.clone();
        let one = |state| BTreeMap::from([(sect.clone(), state)]);
        match self.random.below(8) {
            0 if view.topology().is_some_and(|topology| topology.value.sects.len() < 5) => {
                self.sects += 1;
                let roles = self.pick(&[1, 2, 3, 4]).expect("one of them");
                let name = format!("s{}", self.sects);
                let plan = txn::add_sect(view, &name, servers(&name, roles));
                drop(self.settle("add sect", plan).await);
            }
            1..=3 => drop(self.settle("activate sect", txn::change_sects(view, &one(SectState::Active))).await),
            4 => drop(self.settle("shield sect", txn::change_sects(view, &one(SectState::Shielded))).await),
            5 if self.chance(2) => {
                drop(self.settle("retire sect", txn::change_sects(view, &one(SectState::Retired))).await);
            }
            6 => {
                let sects = view.topology().into_iter().flat_map(|topology| &topology.value.sects);
                let retired = sects.filter(|(_, sect)| sect.state == SectState::Retired).map(|(name, _)| name).next();
                drop(self.settle("remove sect", txn::remove_sect(view, retired.unwrap_or(&sect))).await);
            }
            _ => {
                let server = format!("{sect}{}-{}", slot.role, self.random.below(2));
                let moved = Assignment { server, addr: "127.0.0.1:7100".into() };
                drop(self.settle("reassign", txn::reassign(view, &BTreeMap::from([(slot.clone(), moved)]))).await);
            }
        }
    }
}
