//! Build: from input files to packs, in the memory of one worker.
//!
//! ```text
//!   rows     rows as the input gives them, column by column
//!   scatter  rows ─▶ runs, grouped by part
//!   part     one part of all runs, sorted, one row per key
//!   packs    parts built in parallel, written to packs in order
//!   output   what the job made: counts and packs, for whoever publishes it
//! ```

pub(crate) mod output;
pub(crate) mod packs;
pub(crate) mod part;
pub(crate) mod rows;
pub(crate) mod scatter;

use std::sync::Arc;

use fkv_env::Env;
use fkv_formats::checksum::Origin;
use fkv_formats::path::Attempt;
use fkv_meta::record::{BuildStats, LoadSpec};
use fkv_store::Store;

use self::output::{JobOutput, PackRef};
use crate::budget::Budget;
use crate::error::AttemptError;
use crate::input::bad::BadRows;
use crate::input::decode::Load;
use crate::input::error::InputError;
use crate::input::file::InputFile;
use crate::input::{open, read};
use crate::object;
use crate::plan::{Plan, to_json};
use crate::progress::Meter;

/// What a build job works with.
#[derive(Debug)]
pub(crate) struct BuildJob<'a> {
    pub(crate) env: &'a Env,
    /// Where packs go.
    pub(crate) store: &'a Store,
    /// The attempt, which has its own place in the store.
    pub(crate) attempt: Attempt<'a>,
    pub(crate) plan: &'a Plan,
    pub(crate) spec: &'a LoadSpec,
    /// The frozen input.
    pub(crate) files: &'a [InputFile],
    pub(crate) budget: Budget,
    /// Size that packs are cut at.
    pub(crate) pack_bytes: u64,
    pub(crate) meter: Arc<Meter>,
}

impl BuildJob<'_> {
    /// Reads all input, builds all parts and writes them. Nothing of it counts until the job is committed.
    pub(crate) async fn run(&self) -> Result<JobOutput, AttemptError> {
        let (spec, schema) = (self.spec.clone(), self.plan.schema.clone());
        let load = Arc::new(Load { spec, schema, bad: BadRows::new(self.spec.max_bad_rows) });
        let built = self.build(&load).await;
        let samples = load.bad.samples();
        if samples.is_empty() {
            return built;
        }
        // Also for a build that failed: that is when somebody will want to see them.
        let kept = object::put(self.store, self.attempt.bad_rows(), to_json(&samples)).await;
        match built {
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

    async fn build(&self, load: &Arc<Load>) -> Result<JobOutput, AttemptError> {
        let opened = open::open(self.files, load, &self.budget).await?;
        self.meter.expect(opened.rows, opened.bytes);
        let (loaded, places) = read::read(self.env, &opened, load, &self.budget, &self.meter).await?;
        let origin = Origin { uid: self.plan.uid, version: self.plan.version };
        let settings = packs::Settings {
            origin,
            schema: self.plan.schema.clone(),
            profile: self.plan.profile,
            duplicates: self.spec.duplicates,
            as_of: self.plan.as_of,
            pack_bytes: self.pack_bytes,
        };
        let built = packs::write(self.env, self.store, &self.attempt, settings, loaded.runs, &self.budget).await?;
        if let Some(clash) = built.clash {
            let (first, second) = (places.locate(clash.first), places.locate(clash.second));
            return Err(InputError::DuplicateKey { key: clash.key, first, second }.into());
        }
        let packs: Vec<PackRef> = built.packs;
        let stats = BuildStats {
            rows_read: loaded.decoded.rows,
            records: built.records,
            duplicates: built.duplicates,
            nulls: loaded.decoded.nulls,
            bad_rows: load.bad.count(),
            expired: built.expired,
            saturated: loaded.decoded.saturated,
            bytes_read: self.meter.bytes_done(),
            bytes_written: packs.iter().map(|pack| pack.len).sum(),
        };
        Ok(JobOutput::new(stats, packs))
    }
}
