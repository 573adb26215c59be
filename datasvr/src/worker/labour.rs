//! Doing jobs: one at a time, of all running tasks in turn, whoever looks after them.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use fkv_formats::id::{TableUid, TaskId};
use fkv_meta::record::{JobState, ObjectRef, TaskError};
use fkv_meta::store::Revision;
use fkv_meta::txn::{self, Retry};
use futures::stream::{StreamExt, TryStreamExt};

use super::hold::{self, Hold, Made, Step, Wanted, pause, refused};
use super::pick::{JobPick, pick_job};
use super::plans::{TaskPlan, read_json};
use super::{AtWork, Worker};
use crate::budget::Budget;
use crate::build::build;
use crate::build::output::JobOutput;
use crate::error::AttemptError;
use crate::input::file::InputFile;
use crate::job::JobContext;
use crate::object;
use crate::part::part;
use crate::part::slices::Slices;
use crate::plan::{JobKind, PlannedJob, to_json};
use crate::progress::Meter;
use crate::slice::slice;

/// Objects read at once.
const REQUESTS: usize = 16;
/// How long a task is left alone whose plan could not be read.
const PLAN_PAUSE_MS: u64 = 2000;

/// A job to be claimed.
struct NextJob {
    table: String,
    task: TaskId,
    name: String,
    plan: Arc<TaskPlan>,
}

/// What was learnt while jobs were done.
#[derive(Default)]
struct Memory {
    /// The table whose task had a turn last.
    after: String,
    /// Until when tasks are left alone whose plan could not be read, in Unix milliseconds.
    held_back: BTreeMap<(TableUid, TaskId), u64>,
}

impl Worker {
    /// Does jobs until told to stop.
    pub(super) async fn labour(&self) {
        let mut memory = Memory::default();
        while !self.stop.is_cancelled() {
            let next = tokio::select! {
                biased;
                () = self.stop.cancelled() => return,
                next = self.next_job(&mut memory) => next,
            };
            let next = &next;
            let done = self.under_lease(|lease| async move {
                let worker = &self.config.worker;
                let NextJob { table, task, name, plan } = next;
                let wanted = Wanted::Job(name, &plan.pin);
                match hold::claim(&self.env, &self.meta, table, *task, wanted, (worker, lease)).await {
                    Ok(Some(hold)) => self.do_job(&hold, plan).await,
                    Ok(None) => {
                        // Another worker was faster: the view is behind.
                        pause(&self.env, 0).await;
                        None
                    }
                    Err(error) => {
                        tracing::warn!(worker, table, task = %task, job = name, %error, "a job could not be claimed");
                        pause(&self.env, 5).await;
                        None
                    }
                }
            });
            if let Some(Some(seen)) = done.await {
                self.show(seen).await;
            }
        }
    }

    /// Waits for a job to do.
    async fn next_job(&self, memory: &mut Memory) -> NextJob {
        let mut views = self.mirror.subscribe();
        loop {
            let view = Arc::clone(&views.borrow_and_update());
            self.plans.forget_ended(&view);
            let timing = self.timing();
            memory.held_back.retain(|_, until_ms| *until_ms > timing.now_ms);
            let held_back = |uid, task| memory.held_back.get(&(uid, task)).copied();
            let due = match pick_job(&view, &self.plans, timing, &memory.after, held_back) {
                JobPick::Jobs(table, task, names) => {
                    // Any of them: workers that choose at the same time seldom choose the same.
                    let at = usize::try_from(self.env.entropy.below(names.len() as u64)).unwrap_or(0);
                    let pin = view.table(&table).and_then(|table| view.task(table.uid(), task)?.value.plan.as_ref());
                    let plan = pin.and_then(|pin| self.plans.known(pin));
                    let name = names.into_iter().nth(at);
                    let (Some(plan), Some(name)) = (plan, name) else { continue };
                    memory.after.clone_from(&table);
                    return NextJob { table, task, name, plan };
                }
                JobPick::Plan(table, task) => {
                    let Some(record) = view.table(&table).and_then(|table| view.task(table.uid(), task)) else {
                        continue;
                    };
                    let uid = view.table(&table).map_or(TableUid(0), fkv_meta::Stamped::uid);
                    let read = match (&record.value.plan, &record.value.inputs) {
                        (Some(plan), Some(inputs)) => self.plans.get(&self.store, plan, inputs).await.map(|_| ()),
                        _ => Err(AttemptError::Lost("the task has no plan")),
                    };
                    if let Err(error) = read {
                        tracing::warn!(table, task = %task, %error, "the plan of a task could not be read");
                        let until_ms = timing.now_ms + PLAN_PAUSE_MS + self.env.entropy.below(PLAN_PAUSE_MS);
                        memory.held_back.insert((uid, task), until_ms);
                    }
                    continue;
                }
                JobPick::Nothing(due) => due,
            };
            let due = due.unwrap_or(Duration::from_secs(3600));
            tokio::select! {
                changed = views.changed() => if changed.is_err() {
                    // The mirror ends with the runtime.
                    std::future::pending::<()>().await;
                },
                () = self.env.clock.sleep(due) => {}
            }
        }
    }

    /// Does a claimed job and records how it ended; gives the revision at which that was.
    async fn do_job(&self, hold: &Hold, plan: &TaskPlan) -> Option<Revision> {
        let worker = &self.config.worker;
        tracing::info!(
            table = %hold.table, task = %hold.task, job = %hold.job, attempt = hold.attempt, worker, "job claimed"
        );
        let made = tokio::select! {
            biased;
            made = self.execute(hold, plan) => made,
            why = hold.lost(&self.mirror) => Err(AttemptError::Lost(why)),
        };
        let ended = match made {
            Ok(output) => self.commit_job(hold, output).await,
            Err(error) => self.fail_job(hold, plan, &error).await,
        };
        match ended {
            Ok(seen) => seen,
            Err(AttemptError::Lost(reason)) => {
                tracing::info!(table = %hold.table, task = %hold.task, job = %hold.job, reason, "job dropped");
                None
            }
            Err(error) => {
                tracing::warn!(
                    worker, table = %hold.table, task = %hold.task, job = %hold.job, %error,
                    "the end of a job could not be recorded"
                );
                pause(&self.env, 5).await;
                None
            }
        }
    }

    /// Does a job and writes what it made.
    async fn execute(&self, hold: &Hold, plan: &TaskPlan) -> Result<ObjectRef, AttemptError> {
        let planned = plan.job(&hold.job).ok_or(AttemptError::Lost("the plan has no such job"))?;
        let spec = hold.read(&self.meta).await?.task.value.spec;
        let meter = Arc::new(Meter::default());
        let _at_work = AtWorkGuard::new(self, hold, planned, &meter);
        let job = JobContext {
            env: &self.env,
            store: &self.store,
            attempt: hold.place(),
            plan: &plan.plan,
            spec: &spec,
            budget: Budget::new(self.config.build_memory),
            pack_bytes: self.config.pack_bytes,
            meter,
        };
        let files = self.open_files(plan, planned).await?;
        let output = match &planned.kind {
            JobKind::Build => build(&job, &files).await?,
            JobKind::Slice { number, input } => slice(&job, *number, input, &files).await?,
            JobKind::Part { first, end } => {
                let slices = self.open_slices(&job, plan).await?;
                part(&job, &slices, *first..*end).await?
            }
        };
        let stats = &output.stats;
        tracing::info!(
            table = %hold.table, task = %hold.task, job = %hold.job, rows = stats.rows_read, records = stats.records,
            slices = output.slices.len(), packs = output.packs.len(), memory_peak_bytes = job.budget.peak(), "job done"
        );
        Ok(object::put(&self.store, hold.place().output(), to_json(&output)).await?)
    }

    /// The input files of a job.
    async fn open_files(&self, plan: &TaskPlan, planned: &PlannedJob) -> Result<Vec<InputFile>, AttemptError> {
        let listed = plan.inputs.listed();
        let range = planned.files().unwrap_or(0..listed.len());
        let wanted = listed.get(range.clone()).ok_or(AttemptError::Lost("the plan names files that are not listed"))?;
        let mut files = self.config.sources.open(&self.env, wanted, &self.store).await?;
        for file in &mut files {
            // Its place among all files, by which bad rows are ordered.
            file.at = file.at.saturating_add(u32::try_from(range.start).unwrap_or(u32::MAX));
        }
        Ok(files)
    }

    /// The slices of a plan, whose jobs are all done.
    async fn open_slices(&self, job: &JobContext<'_>, plan: &TaskPlan) -> Result<Arc<Slices>, AttemptError> {
        let known = self.slices.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some((path, slices)) = known
            && path == plan.pin.path
        {
            return Ok(slices);
        }
        let view = self.mirror.view();
        let mut done = Vec::new();
        for planned in &plan.plan.jobs {
            let JobKind::Slice { number, .. } = &planned.kind else { continue };
            let record = view.job(plan.plan.uid, plan.plan.task, &planned.name).map(|record| &record.value.state);
            let Some(JobState::Done { output }) = record else {
                return Err(AttemptError::Lost("a slice of the task is not done any more"));
            };
            done.push((*number, output.clone()));
        }
        let outputs: Vec<(u32, JobOutput)> = futures::stream::iter(done)
            .map(|(number, output)| async move {
                Ok::<_, AttemptError>((number, read_json::<JobOutput>(job.store, &output).await?))
            })
            .buffered(REQUESTS)
            .try_collect()
            .await?;
        let pieces: Vec<_> = outputs.iter().map(|(number, output)| (*number, output.slices.as_slice())).collect();
        let opened = Slices::open(job, &pieces).await?;
        let places = outputs.into_iter().map(|(_, output)| output.places).collect();
        let slices = Arc::new(opened.with_places(places));
        let path = plan.pin.path.clone();
        *self.slices.lock().unwrap_or_else(PoisonError::into_inner) = Some((path, Arc::clone(&slices)));
        Ok(slices)
    }

    async fn commit_job(&self, hold: &Hold, output: ObjectRef) -> Result<Option<Revision>, AttemptError> {
        let made = hold.change(&self.env, &self.meta, |read| {
            let job = read.job.as_ref().ok_or(AttemptError::Lost("the job's record is gone"))?;
            match &job.value.state {
                JobState::Done { output: done } if *done == output => return Ok(Step::Done(())),
                JobState::Done { .. } => return Err(AttemptError::Lost("another attempt has done the job")),
                JobState::Open | JobState::Failed => {}
            }
            let keys = &self.meta.keys;
            txn::commit_job(keys, &read.table, &read.task, &hold.job, job, hold.token, output.clone())
                .map(|planned| Step::Run(Box::new(planned)))
                .map_err(refused)
        });
        Ok(match made.await? {
            Made::Now(revision, _) => Some(revision),
            Made::Before(()) => None,
        })
    }

    /// Records why an attempt at a job ended; the job fails, or waits for the next attempt.
    async fn fail_job(
        &self,
        hold: &Hold,
        plan: &TaskPlan,
        error: &AttemptError,
    ) -> Result<Option<Revision>, AttemptError> {
        let Some(retry) = error.retry() else { return Err(AttemptError::Lost(error.lost_reason())) };
        let mut message = error.to_string();
        if plan.plan.jobs.len() > 1 {
            message = format!("{}: {message}", hold.job);
        }
        let record: TaskError = self.task_error(hold.attempt, &message);
        let made = hold.change(&self.env, &self.meta, |read| {
            let job = read.job.as_ref().ok_or(AttemptError::Lost("the job's record is gone"))?;
            if job.value.errors.contains(&record) {
                return Ok(Step::Done(()));
            }
            let keys = &self.meta.keys;
            txn::fail_job(keys, &read.table, &read.task, (&hold.job, job), hold.token, record.clone(), retry)
                .map(|planned| Step::Run(Box::new(planned)))
                .map_err(refused)
        });
        let made = made.await?;
        let again = retry == Retry::MayHelp;
        tracing::warn!(
            table = %hold.table, task = %hold.task, job = %hold.job, attempt = hold.attempt, %error, again, "job failed"
        );
        Ok(match made {
            Made::Now(revision, _) => Some(revision),
            Made::Before(()) => None,
        })
    }
}

/// Shows a job as being at work for as long as it lives.
struct AtWorkGuard<'a>(&'a Worker);

impl<'a> AtWorkGuard<'a> {
    fn new(worker: &'a Worker, hold: &Hold, planned: &PlannedJob, meter: &Arc<Meter>) -> Self {
        let at_work = AtWork {
            uid: hold.uid,
            task: hold.task,
            job: hold.job.clone(),
            bytes: planned.bytes,
            rows: planned.rows,
            meter: Arc::clone(meter),
        };
        *worker.at_work.lock().unwrap_or_else(PoisonError::into_inner) = Some(at_work);
        Self(worker)
    }
}

impl Drop for AtWorkGuard<'_> {
    fn drop(&mut self) {
        *self.0.at_work.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}
