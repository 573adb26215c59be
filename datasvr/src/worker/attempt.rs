//! One attempt at a task: plan ─▶ build ─▶ publish. Each stage begins by looking whether an earlier attempt has
//! finished it.

use std::sync::Arc;
use std::time::Duration;

use fkv_formats::path::Attempt;
use fkv_formats::table::Profile;
use fkv_meta::key::TASK_LOCK;
use fkv_meta::record::{Filter, JobRecord, JobState, ObjectRef, Progress, TaskState};
use fkv_meta::store::Revision;
use fkv_meta::{Stamped, txn};

use super::Worker;
use super::hold::{Hold, Made, Read, Step, refused};
use crate::budget::Budget;
use crate::build::BuildJob;
use crate::build::output::JobOutput;
use crate::error::AttemptError;
use crate::input::file::InputFile;
use crate::object;
use crate::plan::{FrozenInputs, Plan, from_json, to_json};
use crate::progress::{Meter, Stage};
use crate::publish;

/// The profile of tables with this filter.
const fn profile(filter: Filter) -> Profile {
    let filter = match filter {
        Filter::None => 0,
        Filter::Fuse8 => Profile::FILTER_FUSE8,
    };
    Profile { filter, ..Profile::CURRENT }
}

/// How often progress is written.
const PROGRESS_EVERY: Duration = Duration::from_secs(1);

/// A job's lock, held.
struct JobHold {
    token: Revision,
    attempt: u32,
}

/// What claiming a job finds.
enum Found {
    /// An earlier attempt has done it.
    Output(ObjectRef),
    /// It is ours to do.
    Claimed(JobHold),
}

impl Worker {
    /// Carries a claimed task to its committed version.
    pub(super) async fn attempt(&self, hold: &Hold) -> Result<(), AttemptError> {
        let meter = Arc::new(Meter::new(self.env.clock.unix_ms()));
        let report = self.report_progress(hold, &meter);
        let work = async {
            let outputs = tokio::select! {
                biased;
                built = self.plan_and_build(hold, &meter) => built?,
                why = hold.lost(&self.mirror) => return Err(AttemptError::Lost(why)),
            };
            let now_ms = self.env.clock.unix_ms();
            meter.enter(Stage::Publish, now_ms);
            // The counts of a build that took less than a second would otherwise never be seen.
            self.put_progress(hold, &meter.snapshot(now_ms)).await;
            self.publish(hold, outputs).await
        };
        tokio::select! {
            biased;
            done = work => done,
            () = report => Err(AttemptError::Lost("progress ended")),
        }
    }

    async fn plan_and_build(&self, hold: &Hold, meter: &Arc<Meter>) -> Result<(Plan, Vec<JobOutput>), AttemptError> {
        let (plan, inputs) = self.plan(hold).await?;
        meter.enter(Stage::Build, self.env.clock.unix_ms());
        let output = self.build(hold, &plan, &inputs, meter).await?;
        Ok((plan, vec![output]))
    }

    fn place<'a>(hold: &Hold, job: &'a str, attempt: u32, token: Revision) -> Attempt<'a> {
        Attempt { uid: hold.uid, task: hold.task, job, attempt, token: token.0 }
    }

    /// The plan and the frozen inputs: those an earlier attempt has frozen, or new ones.
    async fn plan(&self, hold: &Hold) -> Result<(Plan, Vec<InputFile>), AttemptError> {
        let read = hold.read(&self.meta, None).await?;
        let (plan, inputs) = match (&read.task.value.plan, &read.task.value.inputs) {
            (Some(plan), Some(inputs)) => (plan.clone(), inputs.clone()),
            _ => self.freeze(hold, &read).await?,
        };
        let plan: Plan = self.read_json(&plan).await?;
        let inputs: FrozenInputs = self.read_json(&inputs).await?;
        let files = self.config.sources.open(&self.env, &inputs.listed(), &self.store).await?;
        Ok((plan, files))
    }

    async fn freeze(&self, hold: &Hold, read: &Read) -> Result<(ObjectRef, ObjectRef), AttemptError> {
        let (table, task) = (&read.table.value, &read.task.value);
        let listed = self.config.sources.resolve(&self.env, &task.spec.inputs, &self.store).await?;
        let frozen = FrozenInputs::new(&listed);
        let head = self.meta.version(hold.uid, table.head).await?;
        let now_s = u32::try_from(self.env.clock.unix_ms() / 1000).unwrap_or(u32::MAX);
        let as_of = now_s.max(head.map_or(0, |head| head.value.as_of));
        let plan = Plan::in_memory(
            hold.uid,
            (hold.task, task.retries),
            table.head.next(),
            as_of,
            table.schema.clone(),
            profile(table.filter),
            &frozen,
        );
        let place = Self::place(hold, TASK_LOCK, hold.attempt, hold.token);
        let inputs = object::put(&self.store, place.inputs(), to_json(&frozen)).await?;
        let plan = object::put(&self.store, place.plan(), to_json(&plan)).await?;
        tracing::info!(table = %hold.table, task = %hold.task, files = listed.len(), as_of, "task planned");
        let made = hold
            .change(&self.env, &self.meta, None, |read| {
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

    /// The output of the build job: of an earlier attempt, or built now.
    async fn build(
        &self,
        hold: &Hold,
        plan: &Plan,
        files: &[InputFile],
        meter: &Arc<Meter>,
    ) -> Result<JobOutput, AttemptError> {
        let [planned] = plan.jobs.as_slice() else {
            return Err(AttemptError::NewerPlan(plan.jobs.len()));
        };
        let name = planned.name.as_str();
        let claimed = match self.claim_job(hold, name).await? {
            Found::Output(output) => return self.read_json(&output).await,
            Found::Claimed(claimed) => claimed,
        };
        hold.holds_job(name, claimed.token);
        let spec = hold.read(&self.meta, None).await?.task.value.spec;
        let place = Self::place(hold, name, claimed.attempt, claimed.token);
        let job = BuildJob {
            env: &self.env,
            store: &self.store,
            attempt: place,
            plan,
            spec: &spec,
            files,
            budget: Budget::new(self.config.build_memory),
            pack_bytes: self.config.pack_bytes,
            meter: Arc::clone(meter),
        };
        let output = job.run().await?;
        let object = object::put(&self.store, place.output(), to_json(&output)).await?;
        self.commit_job(hold, name, &claimed, object).await?;
        tracing::info!(
            table = %hold.table, task = %hold.task, rows = output.stats.rows_read, records = output.stats.records,
            packs = output.packs.len(), memory_peak_bytes = job.budget.peak(), "task built"
        );
        Ok(output)
    }

    /// Claims the build job, or finds it done.
    async fn claim_job(&self, hold: &Hold, name: &str) -> Result<Found, AttemptError> {
        let (keys, worker) = (&self.meta.keys, &self.config.worker);
        // The attempt asked for by a try whose answer may have been lost.
        let mut asked = None;
        let made = hold
            .change(&self.env, &self.meta, Some(name), |read| {
                if let Some(JobState::Done { output }) = read.job.as_ref().map(|job| &job.value.state) {
                    return Ok(Step::Done(Found::Output(output.clone())));
                }
                if let Some(lock) = &read.job_lock
                    && lock.value.worker == *worker
                    && asked == Some(lock.value.attempt)
                {
                    let (token, attempt) = (lock.created, lock.value.attempt);
                    return Ok(Step::Done(Found::Claimed(JobHold { token, attempt })));
                }
                let held = txn::TaskHold { token: hold.token, worker, lease: hold.lease };
                let planned =
                    txn::claim_job(keys, &read.table, &read.task, name, read.job.as_ref(), held).map_err(refused)?;
                asked = Some(planned.after.attempt);
                Ok(Step::Run(Box::new(planned)))
            })
            .await?;
        Ok(match made {
            Made::Before(found) => found,
            Made::Now(token, record) => Found::Claimed(JobHold { token, attempt: record.attempt }),
        })
    }

    async fn commit_job(
        &self,
        hold: &Hold,
        name: &str,
        claimed: &JobHold,
        output: ObjectRef,
    ) -> Result<(), AttemptError> {
        hold.change(&self.env, &self.meta, Some(name), |read| {
            let job: &Stamped<JobRecord> = read.job.as_ref().ok_or(AttemptError::Lost("the job's record is gone"))?;
            match &job.value.state {
                JobState::Done { output: done } if *done == output => return Ok(Step::Done(())),
                JobState::Done { .. } => return Err(AttemptError::Lost("another attempt has done the job")),
                JobState::Open | JobState::Failed => {}
            }
            let keys = &self.meta.keys;
            txn::commit_job(keys, &read.table, &read.task, name, job, claimed.token, output.clone())
                .map(|planned| Step::Run(Box::new(planned)))
                .map_err(refused)
        })
        .await?;
        Ok(())
    }

    async fn publish(&self, hold: &Hold, (plan, outputs): (Plan, Vec<JobOutput>)) -> Result<(), AttemptError> {
        let place = Self::place(hold, TASK_LOCK, hold.attempt, hold.token);
        let build = publish::full_form(&self.store, &place, &plan, &outputs).await?;
        let (version, rows, content) = (build.version, build.rows, build.content);
        hold.change(&self.env, &self.meta, None, |read| {
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
        Ok(())
    }

    async fn read_json<T>(&self, object: &ObjectRef) -> Result<T, AttemptError>
    where
        T: for<'a> serde::Deserialize<'a> + crate::plan::Formatted,
    {
        let bytes = object::get(&self.store, object).await?;
        from_json(&bytes)
            .map_err(|reason| AttemptError::Object { path: object::url(&self.store, &object.path), reason })
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
    async fn report_progress(&self, hold: &Hold, meter: &Meter) {
        let mut last: Option<Progress> = None;
        loop {
            let now = meter.snapshot(self.env.clock.unix_ms());
            let same = last.as_ref().is_some_and(|last| Progress { at_ms: now.at_ms, ..last.clone() } == now);
            if !same && self.put_progress(hold, &now).await {
                last = Some(now);
            }
            self.env.clock.sleep(PROGRESS_EVERY).await;
        }
    }
}
