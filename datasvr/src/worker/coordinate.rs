//! Looking after tasks: each claimed task is planned, its jobs are seen done by whichever workers, and its version is
//! published. Each stage begins by looking whether an earlier attempt has finished it.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use fkv_formats::id::{TableUid, TaskId};
use fkv_formats::table::Profile;
use fkv_meta::record::{Filter, JobRecord, JobState, LoadSpec, ObjectRef, Progress, TaskState};
use fkv_meta::store::Revision;
use fkv_meta::txn::{self, Retry};
use fkv_meta::{ChangeError, View};
use fkv_store::Store;
use futures::FutureExt;
use futures::future::BoxFuture;
use futures::stream::{FuturesUnordered, StreamExt, TryStreamExt};

use super::hold::{self, Hold, Made, Read, Step, Wanted, pause, refused};
use super::pick::{Pick, jobs_in_turn, pick};
use super::plans::{TaskPlan, read_json};
use super::{AtWork, Worker};
use crate::budget::Budget;
use crate::build::output::JobOutput;
use crate::error::AttemptError;
use crate::input::bad::{BadRow, BadRows, SAMPLES_MAX, TooManyBadRows};
use crate::input::decode::Load;
use crate::input::ends::Ends;
use crate::input::error::InputError;
use crate::input::open::open;
use crate::object;
use crate::plan::size::{JobSizes, Sized, jobs};
use crate::plan::{FrozenInputs, JobKind, JobStage, Plan, PlannedJob, to_json};
use crate::progress::{Done, Stage, TaskMeter};
use crate::publish;

/// Tasks that one worker looks after at once.
const TASKS_MAX: usize = 16;
/// How often progress is written.
const PROGRESS_EVERY: Duration = Duration::from_secs(1);
/// Files whose sizes are looked at together when a task is planned.
const PLANNED_FILES: usize = 256;
/// Memory for planning, beside that of the job at work, at least: a large footer has to fit.
const PLANNING_BYTES_MIN: u64 = 64 << 20;
/// Objects read or removed at once.
const REQUESTS: usize = 16;
/// How long what a worker has done itself may take to show in its view.
const OWN_NEWS: Duration = Duration::from_secs(5);

/// The profile of tables with this filter.
const fn profile(filter: Filter) -> Profile {
    let filter = match filter {
        Filter::None => 0,
        Filter::Fuse8 => Profile::FILTER_FUSE8,
    };
    Profile { filter, ..Profile::CURRENT }
}

impl Worker {
    /// Looks after tasks until told to stop.
    pub(super) async fn coordinate(&self) {
        let mut views = self.mirror.subscribe();
        let mut after = String::new();
        let mut mine: Vec<(TableUid, TaskId)> = Vec::new();
        let mut attempts: FuturesUnordered<BoxFuture<'_, (TableUid, TaskId)>> = FuturesUnordered::new();
        while !self.stop.is_cancelled() {
            let view = Arc::clone(&views.borrow_and_update());
            let picked = match attempts.len() < TASKS_MAX {
                true => pick(&view, self.timing(), &after, &mine),
                false => Pick::Nothing(None),
            };
            let due = match picked {
                Pick::Nothing(due) => due,
                picked => {
                    if let Some((table, task)) = self.take_up(picked, &mut after, &mine).await
                        && let Some(uid) = view.table(&table).map(fkv_meta::Stamped::uid)
                    {
                        mine.push((uid, task));
                        let attempt = async move {
                            self.attempt(&table, task).await;
                            (uid, task)
                        };
                        attempts.push(attempt.boxed());
                    }
                    continue;
                }
            };
            let due = due.unwrap_or(Duration::from_secs(3600));
            tokio::select! {
                biased;
                () = self.stop.cancelled() => {}
                Some(ended) = attempts.next() => mine.retain(|task| *task != ended),
                changed = views.changed() => if changed.is_err() {
                    // The mirror ends with the runtime.
                    std::future::pending::<()>().await;
                },
                () = self.env.clock.sleep(due) => {}
            }
        }
        // Each gives its lease back.
        while attempts.next().await.is_some() {}
    }

    /// Does what was picked; gives the task that is to be attempted now.
    async fn take_up(&self, picked: Pick, after: &mut String, mine: &[(TableUid, TaskId)]) -> Option<(String, TaskId)> {
        // Several workers see the same: the first one to wake does it.
        let others = self.mirror.view().workers().count().saturating_sub(1) as u64;
        if others > 0 {
            let wait = Duration::from_millis(self.env.entropy.below((others * 10).min(200)));
            self.env.clock.sleep(wait).await;
            if pick(&self.mirror.view(), self.timing(), after, mine) != picked {
                return None;
            }
        }
        let table = match &picked {
            Pick::Start(table, _) | Pick::Skip(table, _) | Pick::Claim(table, _) | Pick::GiveUp(table, _) => table,
            Pick::Nothing(_) => return None,
        };
        after.clone_from(table);
        let done = match picked {
            Pick::Claim(table, task) => return Some((table, task)),
            Pick::Start(table, task) => match self.start(&table, task).await {
                Ok(Some(seen)) => {
                    self.show(seen).await;
                    return Some((table, task));
                }
                Ok(None) => Ok(None),
                Err(error) => Err(error),
            },
            Pick::Skip(table, task) => self.skip(&table, task).await,
            Pick::GiveUp(table, task) => self.give_up(&table, task).await,
            Pick::Nothing(_) => Ok(None),
        };
        match done {
            Ok(Some(seen)) => self.show(seen).await,
            // Refused: the view is behind.
            Ok(None) => pause(&self.env, 1).await,
            Err(error) => {
                tracing::warn!(worker = %self.config.worker, table = %after, %error, "a task could not be taken up");
                pause(&self.env, 5).await;
            }
        }
        None
    }

    /// Waits until the view shows what was done at a revision, so that the next decision rests on it.
    pub(super) async fn show(&self, revision: Revision) {
        let shown = self.mirror.wait_for(|view| view.revision() >= revision);
        let _ = fkv_env::timeout(&*self.env.clock, OWN_NEWS, shown).await;
    }

    /// Moves a task from the queue to work.
    async fn start(&self, table: &str, task: TaskId) -> Result<Option<Revision>, AttemptError> {
        let now_ms = self.env.clock.unix_ms();
        let started = settle(self.meta.change(|view| txn::start_task(view, table, task, now_ms)).await)?;
        if started.is_some() {
            tracing::info!(table, task = %task, "task started");
        }
        Ok(started)
    }

    async fn skip(&self, table: &str, task: TaskId) -> Result<Option<Revision>, AttemptError> {
        let now_ms = self.env.clock.unix_ms();
        let skipped = settle(self.meta.change(|view| txn::skip_task(view, table, task, now_ms)).await)?;
        if skipped.is_some() {
            tracing::info!(table, task = %task, "increment skipped: a full load has overtaken it");
        }
        Ok(skipped)
    }

    /// Fails a task whose last allowed attempt ended without a word.
    async fn give_up(&self, table: &str, task: TaskId) -> Result<Option<Revision>, AttemptError> {
        let (Some(table), keys) = (self.meta.table(table).await?, &self.meta.keys) else { return Ok(None) };
        let Some(task) = self.meta.task(table.uid(), task).await? else { return Ok(None) };
        let message = format!(
            "the worker of attempt {} is gone, and no attempt is left; the log of that worker may say why",
            task.value.attempt
        );
        let error = self.task_error(task.value.attempt, &message);
        match txn::fail_task(keys, &table, &task, None, error, Retry::MayHelp) {
            Ok(planned) => match self.meta.run(planned.txn).await? {
                fkv_meta::store::TxnOutcome::Committed(revision) => Ok(Some(revision)),
                fkv_meta::store::TxnOutcome::Refused => Ok(None),
            },
            Err(refusal) => {
                tracing::debug!(table = %table.value.name, %refusal, "task not given up");
                Ok(None)
            }
        }
    }

    /// Claims a task and carries it as far as it goes.
    async fn attempt(&self, table: &str, task: TaskId) {
        let attempted = self.under_lease(|lease| async move {
            let worker = &self.config.worker;
            let claimed = hold::claim(&self.env, &self.meta, table, task, Wanted::Task, (worker, lease)).await;
            let hold = match claimed {
                Ok(Some(hold)) => hold,
                Ok(None) => {
                    pause(&self.env, 1).await;
                    return None;
                }
                Err(error) => {
                    tracing::warn!(worker, table, task = %task, %error, "a task could not be claimed");
                    pause(&self.env, 5).await;
                    return None;
                }
            };
            tracing::info!(table, task = %task, attempt = hold.attempt, worker, "task claimed");
            match self.carry(&hold).await {
                Ok(()) => None,
                Err(error) => match self.end_attempt(&hold, &error).await {
                    Ok(seen) => seen,
                    Err(error) => {
                        tracing::warn!(worker, table, task = %task, %error, "the end of an attempt could not be recorded");
                        pause(&self.env, 5).await;
                        None
                    }
                },
            }
        });
        if let Some(Some(seen)) = attempted.await {
            self.show(seen).await;
        }
    }

    /// Records why an attempt ended; the task fails, or waits for the next attempt.
    async fn end_attempt(&self, hold: &Hold, error: &AttemptError) -> Result<Option<Revision>, AttemptError> {
        let Some(retry) = error.retry() else {
            tracing::info!(table = %hold.table, task = %hold.task, attempt = hold.attempt, reason = %error, "attempt dropped");
            return Ok(None);
        };
        let record = match error {
            AttemptError::JobFailed(error) => error.clone(),
            error => self.task_error(hold.attempt, &error.to_string()),
        };
        let made = hold
            .change(&self.env, &self.meta, |read| {
                if read.task.value.state != TaskState::Running {
                    return Ok(Step::Done(()));
                }
                txn::fail_task(&self.meta.keys, &read.table, &read.task, Some(hold.token), record.clone(), retry)
                    .map(|planned| Step::Run(Box::new(planned)))
                    .map_err(refused)
            })
            .await;
        let again = retry == Retry::MayHelp;
        match made {
            Ok(made) => {
                tracing::warn!(table = %hold.table, task = %hold.task, attempt = hold.attempt, %error, again, "attempt failed");
                Ok(match made {
                    Made::Now(revision, _) => Some(revision),
                    Made::Before(()) => None,
                })
            }
            Err(AttemptError::Lost(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Carries a claimed task to its committed version.
    async fn carry(&self, hold: &Hold) -> Result<(), AttemptError> {
        let meter = TaskMeter::new(self.env.clock.unix_ms());
        let report = self.report_progress(hold, &meter);
        let work = async {
            let (plan, outputs) = tokio::select! {
                biased;
                built = self.plan_and_build(hold, &meter) => built?,
                why = hold.lost(&self.mirror) => return Err(AttemptError::Lost(why)),
            };
            let now_ms = self.env.clock.unix_ms();
            meter.enter(Stage::Publish, now_ms);
            // The counts of a build that took less than a second would otherwise never be seen.
            self.put_progress(hold, &meter.snapshot(now_ms, (0, 0))).await;
            self.publish(hold, &plan, &outputs).await
        };
        tokio::select! {
            biased;
            done = work => done,
            () = report => Err(AttemptError::Lost("progress ended")),
        }
    }

    async fn plan_and_build(
        &self,
        hold: &Hold,
        meter: &TaskMeter,
    ) -> Result<(Arc<TaskPlan>, Vec<JobOutput>), AttemptError> {
        let plan = self.plan(hold).await?;
        let outputs = self.see_jobs_done(hold, &plan, meter).await?;
        Ok((plan, outputs))
    }

    /// The plan: that which an earlier attempt has frozen, or a new one.
    async fn plan(&self, hold: &Hold) -> Result<Arc<TaskPlan>, AttemptError> {
        let read = hold.read(&self.meta).await?;
        let (plan, inputs) = match (&read.task.value.plan, &read.task.value.inputs) {
            (Some(plan), Some(inputs)) => (plan.clone(), inputs.clone()),
            _ => self.freeze(hold, &read).await?,
        };
        self.plans.get(&self.store, &plan, &inputs).await
    }

    async fn freeze(&self, hold: &Hold, read: &Read) -> Result<(ObjectRef, ObjectRef), AttemptError> {
        let (table, task) = (&read.table.value, &read.task.value);
        let LoadSpec { inputs, require_success, .. } = &task.spec;
        let listed = self.config.sources.resolve(&self.env, inputs, *require_success, &self.store).await?;
        let frozen = FrozenInputs::new(&listed);
        let head = self.meta.version(hold.uid, table.head).await?;
        let now_s = u32::try_from(self.env.clock.unix_ms() / 1000).unwrap_or(u32::MAX);
        let as_of = now_s.max(head.map_or(0, |head| head.value.as_of));
        let load = Load { spec: task.spec.clone(), schema: table.schema.clone(), bad: BadRows::new(0) };
        let jobs = self.size(&frozen, &load, task.retries).await?;
        let count = jobs.len();
        let plan = Plan::new(
            hold.uid,
            (hold.task, task.retries),
            table.head.next(),
            as_of,
            table.schema.clone(),
            profile(table.filter),
            jobs,
        );
        let place = hold.place();
        let inputs = object::put(&self.store, place.inputs(), to_json(&frozen)).await?;
        let plan = object::put(&self.store, place.plan(), to_json(&plan)).await?;
        tracing::info!(table = %hold.table, task = %hold.task, files = listed.len(), jobs = count, as_of, "task planned");
        let made = hold
            .change(&self.env, &self.meta, |read| {
                if let (Some(plan), Some(inputs)) = (&read.task.value.plan, &read.task.value.inputs) {
                    return Ok(Step::Done((plan.clone(), inputs.clone())));
                }
                let keys = &self.meta.keys;
                let (inputs, plan) = (inputs.clone(), plan.clone());
                txn::freeze_plan(keys, &read.table, &read.task, hold.token, as_of, inputs, plan)
                    .map(|planned| Step::Run(Box::new(planned)))
                    .map_err(refused)
            })
            .await?;
        Ok(match made {
            Made::Before(frozen) => frozen,
            Made::Now(..) => (plan, inputs),
        })
    }

    /// The jobs that load the frozen files. What files say of themselves is read here, some files at a time, and forgotten.
    async fn size(&self, frozen: &FrozenInputs, load: &Load, retries: u32) -> Result<Vec<PlannedJob>, AttemptError> {
        let shape = load.shape();
        let budget = Budget::new((self.config.build_memory / 16).max(PLANNING_BYTES_MIN));
        let sizes = JobSizes::of(self.config.build_memory, self.config.slice_bytes, self.config.pack_bytes);
        let (mut units, mut first) = (Vec::new(), 0);
        for listed in frozen.listed().chunks(PLANNED_FILES) {
            let files = self.config.sources.open(&self.env, listed, &self.store).await?;
            let opened = open(&files, load, &budget).await?;
            for mut unit in opened.units(sizes.text_range_bytes())? {
                let memory = opened.memory(&unit, shape);
                unit.file += first;
                units.push(Sized { unit, memory });
            }
            first += listed.len();
        }
        Ok(jobs(&units, shape, sizes, retries))
    }

    /// Waits until all jobs are done, by whichever workers; gives their outputs in the order of the plan.
    async fn see_jobs_done(
        &self,
        hold: &Hold,
        plan: &TaskPlan,
        meter: &TaskMeter,
    ) -> Result<Vec<JobOutput>, AttemptError> {
        let spec = hold.read(&self.meta).await?.task.value.spec;
        let mut input_is_whole = false;
        let mut views = self.mirror.subscribe();
        // By the job's place in the plan.
        let mut outputs: BTreeMap<usize, JobOutput> = BTreeMap::new();
        loop {
            let view = Arc::clone(&views.borrow_and_update());
            let is_shown =
                view.task(hold.uid, hold.task).is_some_and(|task| task.value.plan.as_ref() == Some(&plan.pin));
            if view.revision() >= hold.token && is_shown {
                let done = look_at_jobs(&view, hold, plan)?;
                let news: Vec<(usize, ObjectRef)> = done
                    .into_iter()
                    .filter(|(at, _)| !outputs.contains_key(at))
                    .map(|(at, output)| (at, output.clone()))
                    .collect();
                let read: Vec<(usize, JobOutput)> = futures::stream::iter(news)
                    .map(|(at, output)| async move {
                        Ok::<_, AttemptError>((at, read_json::<JobOutput>(&self.store, &output).await?))
                    })
                    .buffered(REQUESTS)
                    .try_collect()
                    .await?;
                let is_news = !read.is_empty();
                outputs.extend(read);
                if is_news {
                    self.check_bad_rows(&outputs, spec.max_bad_rows).await?;
                }
                if !input_is_whole && is_read(plan, &outputs) {
                    check_ends(plan, &outputs, &spec)?;
                    input_is_whole = true;
                }
                let (stage, done) = progress_of(&view, hold, plan, &outputs);
                meter.set(stage, done, self.env.clock.unix_ms());
                if outputs.len() == plan.plan.jobs.len() {
                    return Ok(outputs.into_values().collect());
                }
            }
            if views.changed().await.is_err() {
                // The mirror ends with the runtime.
                std::future::pending::<()>().await;
            }
        }
    }

    /// Checks the bad rows of all jobs together: each has checked its own.
    async fn check_bad_rows(&self, outputs: &BTreeMap<usize, JobOutput>, max: u64) -> Result<(), AttemptError> {
        let count = outputs.values().map(|output| output.stats.bad_rows).sum();
        if count <= max {
            return Ok(());
        }
        let mut samples: Vec<BadRow> = Vec::new();
        for output in outputs.values() {
            if let Some(kept) = &output.bad_rows
                && samples.len() < SAMPLES_MAX
            {
                let bytes = object::get(&self.store, kept).await?;
                let rows: Result<Vec<BadRow>, _> = serde_json::from_slice(&bytes);
                samples.extend(rows.unwrap_or_default());
            }
        }
        samples.truncate(SAMPLES_MAX);
        Err(InputError::BadRows(TooManyBadRows { count, max, samples, kept_at: None }).into())
    }

    async fn publish(&self, hold: &Hold, plan: &TaskPlan, outputs: &[JobOutput]) -> Result<(), AttemptError> {
        let build = publish::full_form(&self.store, &hold.place(), &plan.plan, outputs).await?;
        let (version, rows, content) = (build.version, build.rows, build.content);
        hold.change(&self.env, &self.meta, |read| {
            let task = &read.task.value;
            if task.version.is_some() && matches!(task.state, TaskState::Aligning | TaskState::Finished) {
                return Ok(Step::Done(()));
            }
            let now_ms = self.env.clock.unix_ms();
            txn::publish(&self.meta.keys, &read.table, &read.task, hold.token, None, build.clone(), now_ms)
                .map(|planned| Step::Run(Box::new(planned)))
                .map_err(refused)
        })
        .await?;
        tracing::info!(table = %hold.table, task = %hold.task, %version, rows, content = %content.short(), "version committed");
        remove_slices(&self.store, outputs).await;
        Ok(())
    }

    /// Writes progress; whether it was written. A task goes on without.
    async fn put_progress(&self, hold: &Hold, progress: &Progress) -> bool {
        let txn = txn::put_progress(&self.meta.keys, hold.uid, hold.task, progress);
        match self.meta.run(txn).await {
            Ok(_) => true,
            Err(error) => {
                tracing::debug!(table = %hold.table, task = %hold.task, %error, "progress not written");
                false
            }
        }
    }

    /// Writes progress about once a second while it changes; never ends.
    async fn report_progress(&self, hold: &Hold, meter: &TaskMeter) {
        let mut last: Option<Progress> = None;
        loop {
            let now = meter.snapshot(self.env.clock.unix_ms(), self.own_progress(hold));
            let same = last.as_ref().is_some_and(|last| Progress { at_ms: now.at_ms, ..last.clone() } == now);
            if !same && self.put_progress(hold, &now).await {
                last = Some(now);
            }
            self.env.clock.sleep(PROGRESS_EVERY).await;
        }
    }

    /// Rows and bytes that this worker has done of a job of the task, if it is at one.
    fn own_progress(&self, hold: &Hold) -> (u64, u64) {
        let at_work = self.at_work.lock().unwrap_or_else(PoisonError::into_inner);
        let of_task = at_work.as_ref().filter(|at| (at.uid, at.task) == (hold.uid, hold.task));
        // A job that the view shows as done is counted there.
        let open = of_task.filter(|at| {
            let view = self.mirror.view();
            let job = view.job(at.uid, at.task, &at.job);
            job.is_some_and(|job| job.value.state == JobState::Open)
        });
        open.map_or((0, 0), |AtWork { bytes, rows, meter, .. }| {
            let (share, read) = meter.share();
            let rows = if read > 0 { read } else { (share * *rows as f64) as u64 };
            (rows, (share * *bytes as f64) as u64)
        })
    }
}

/// Whether a change was made, and when. Refused means: another worker was faster, or it was cancelled.
fn settle<T>(changed: Result<fkv_meta::Change<T>, ChangeError>) -> Result<Option<Revision>, AttemptError> {
    match changed {
        Ok(change) => Ok(Some(change.revision)),
        Err(ChangeError::Refused(_)) => Ok(None),
        Err(ChangeError::Contended) => Err(AttemptError::Contended),
        Err(ChangeError::Meta(error)) => Err(error.into()),
    }
}

/// The jobs that are done, by their places in the plan, with their outputs; an error if one never will be.
fn look_at_jobs<'v>(view: &'v View, hold: &Hold, plan: &TaskPlan) -> Result<Vec<(usize, &'v ObjectRef)>, AttemptError> {
    let mut done = Vec::new();
    for (at, job) in plan.plan.jobs.iter().enumerate() {
        let Some(record) = view.job(hold.uid, hold.task, &job.name) else { continue };
        let JobRecord { state, attempt, errors } = &record.value;
        match (state, errors.last()) {
            (JobState::Done { output }, _) => done.push((at, output)),
            (JobState::Failed, Some(error)) => return Err(AttemptError::JobFailed(error.clone())),
            (JobState::Failed, None) => {
                return Err(AttemptError::JobSpent {
                    job: job.name.clone(),
                    attempts: *attempt,
                    worker: String::new(),
                });
            }
            (JobState::Open, error) => {
                if record.value.is_spent() && view.lock(hold.uid, hold.task, &job.name).is_none() {
                    let worker = error.map_or_else(|| "unknown".to_owned(), |error| error.worker.clone());
                    return Err(AttemptError::JobSpent { job: job.name.clone(), attempts: *attempt, worker });
                }
            }
        }
    }
    Ok(done)
}

/// Whether all jobs that read input are done.
fn is_read(plan: &TaskPlan, outputs: &BTreeMap<usize, JobOutput>) -> bool {
    let jobs = plan.plan.jobs.iter().enumerate().filter(|(_, job)| job.stage() == JobStage::First);
    jobs.into_iter().all(|(at, _)| outputs.contains_key(&at))
}

/// Checks that the slices together are the files: each job has seen a stretch.
fn check_ends(plan: &TaskPlan, outputs: &BTreeMap<usize, JobOutput>, spec: &LoadSpec) -> Result<(), InputError> {
    let mut ends = Ends::default();
    for output in outputs.values() {
        ends.extend(output.ends.clone());
    }
    ends.check(spec, |file| plan.inputs.url(file))
}

/// How far the jobs are.
fn progress_of(view: &View, hold: &Hold, plan: &TaskPlan, outputs: &BTreeMap<usize, JobOutput>) -> (Stage, Done) {
    // If all are done, those of the last stage are the last ones there is anything to say of.
    let last = plan.plan.jobs.iter().map(PlannedJob::stage).max().unwrap_or(JobStage::First);
    let turn = jobs_in_turn(view, plan).first().map_or(last, |job| job.stage());
    let jobs = || plan.plan.jobs.iter().enumerate().filter(move |(_, job)| job.stage() == turn);
    let stage = match jobs().next().map(|(_, job)| &job.kind) {
        Some(JobKind::Slice { .. }) => Stage::Slice,
        Some(JobKind::Part { .. }) => Stage::Part,
        Some(JobKind::Build) | None => Stage::Build,
    };
    let mut done = Done::default();
    for (at, job) in jobs() {
        done.jobs_total += 1;
        done.rows_total += job.rows;
        done.bytes_total += job.bytes;
        if let Some(output) = outputs.get(&at) {
            done.jobs += 1;
            done.bytes += job.bytes;
            done.rows += if stage == Stage::Part { job.rows } else { output.stats.rows_read };
        } else if view.lock(hold.uid, hold.task, &job.name).is_some() {
            done.jobs_running += 1;
        }
    }
    (stage, done)
}

/// Removes slices that nothing needs any more. What is left of them, and what attempts that were lost have written, is for
/// garbage collection.
async fn remove_slices(store: &Store, outputs: &[JobOutput]) {
    let slices = outputs.iter().flat_map(|output| &output.slices);
    let paths: Vec<String> = slices.map(|slice| slice.path.clone()).collect();
    futures::stream::iter(paths)
        .for_each_concurrent(REQUESTS, |path| async move {
            if let Err(error) = store.delete(&path).await {
                tracing::debug!(path, %error, "a slice was not removed");
            }
        })
        .await;
}
