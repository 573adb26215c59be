//! What every job works with, and how its input is opened.

use std::sync::Arc;

use fkv_env::Env;
use fkv_formats::checksum::Origin;
use fkv_formats::path::Attempt;
use fkv_formats::slice::{SliceId, SliceSpec};
use fkv_meta::record::{Duplicates, LoadSpec};
use fkv_store::Store;

use crate::budget::Budget;
use crate::build::output::JobOutput;
use crate::build::packs::Settings;
use crate::error::AttemptError;
use crate::input::bad::BadRows;
use crate::input::decode::Load;
use crate::input::error::InputError;
use crate::object;
use crate::plan::{Plan, to_json};
use crate::progress::Meter;

/// What a job works with.
#[derive(Debug)]
pub(crate) struct JobContext<'a> {
    pub(crate) env: &'a Env,
    /// Where slices and packs go.
    pub(crate) store: &'a Store,
    /// The attempt, which has its own place in the store.
    pub(crate) attempt: Attempt<'a>,
    pub(crate) plan: &'a Plan,
    pub(crate) spec: &'a LoadSpec,
    /// Memory the job may use.
    pub(crate) budget: Budget,
    /// Size that packs are cut at.
    pub(crate) pack_bytes: u64,
    pub(crate) meter: Arc<Meter>,
}

impl JobContext<'_> {
    /// What the job's input is decoded by.
    pub(crate) fn load(&self) -> Arc<Load> {
        let (spec, schema) = (self.spec.clone(), self.plan.schema.clone());
        Arc::new(Load { spec, schema, bad: BadRows::new(self.spec.max_bad_rows) })
    }

    /// Keeps samples of the job's bad rows, also if it failed: that is when somebody will want to see them.
    pub(crate) async fn with_bad_rows(
        &self,
        load: &Load,
        made: Result<JobOutput, AttemptError>,
    ) -> Result<JobOutput, AttemptError> {
        let samples = load.bad.samples();
        if samples.is_empty() {
            return made;
        }
        let kept = object::put(self.store, self.attempt.bad_rows(), to_json(&samples)).await;
        match made {
            Ok(mut output) => {
                output.bad_rows = Some(kept?);
                Ok(output)
            }
            Err(AttemptError::Input(InputError::BadRows(mut error))) => {
                error.kept_at = kept.ok().map(|kept| object::url(self.store, &kept.path));
                Err(InputError::BadRows(error).into())
            }
            Err(error) => Err(error),
        }
    }

    /// What parts are built by.
    pub(crate) fn settings(&self) -> Settings {
        Settings {
            origin: Origin { uid: self.plan.uid, version: self.plan.version },
            schema: self.plan.schema.clone(),
            profile: self.plan.profile,
            duplicates: self.spec.duplicates,
            as_of: self.plan.as_of,
            pack_bytes: self.pack_bytes,
        }
    }
}

/// What slices of a plan consist of.
pub(crate) fn slice_spec(plan: &Plan, spec: &LoadSpec) -> SliceSpec {
    SliceSpec {
        schema: plan.schema.clone(),
        tombstones: spec.delete_column.is_some(),
        // Only where two rows of one key are an error has anybody to know which rows they were.
        places: spec.duplicates == Duplicates::Error,
    }
}

/// Which slice of a plan an object is.
pub(crate) const fn slice_id(plan: &Plan, number: u32, piece: u32) -> SliceId {
    SliceId { uid: plan.uid, task: plan.task, plan: plan.retries, number, piece }
}
