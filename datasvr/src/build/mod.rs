//! Build: a load that fits into the memory of one worker, from input files to packs.
//!
//! ```text
//!   rows     rows as the input gives them, column by column
//!   scatter  rows ─▶ runs, grouped by part
//!   order    the one order of the rows of a part
//!   part     one part of all runs, one row per key
//!   packs    parts built in parallel, written to packs in order
//!   output   what the job made: counts, slices and packs, for whoever goes on with it
//! ```
//!
//! If the rows turn out to be more than memory holds, slices are written and read back, as if there were many workers.

pub(crate) mod order;
pub(crate) mod output;
pub(crate) mod packs;
pub(crate) mod part;
pub(crate) mod rows;
pub(crate) mod scatter;

use std::sync::Arc;

use fkv_formats::id::PART_COUNT;
use fkv_formats::schema::KeyType;
use fkv_meta::record::{BuildStats, Duplicates};

use self::output::JobOutput;
use self::packs::{Built, Packing, Source};
use self::part::{RunRows, Winners};
use self::scatter::Run;
use crate::error::AttemptError;
use crate::input::decode::Load;
use crate::input::error::InputError;
use crate::input::file::InputFile;
use crate::input::open::open;
use crate::job::JobContext;
use crate::part::reduce;
use crate::part::slices::Slices;
use crate::slice::{Keep, map};

/// Bytes of rows built in one batch, about.
const BATCH_BYTES: u64 = 64 << 20;

/// Reads all input, builds all parts and writes them. Nothing of it counts until the job is committed.
pub(crate) async fn build(job: &JobContext<'_>, files: &[InputFile]) -> Result<JobOutput, AttemptError> {
    let load = job.load();
    let made = build_all(job, &load, files).await;
    job.with_bad_rows(&load, made).await
}

async fn build_all(job: &JobContext<'_>, load: &Arc<Load>, files: &[InputFile]) -> Result<JobOutput, AttemptError> {
    let opened = open(files, load, &job.budget).await?;
    let units = opened.units(u64::MAX)?;
    job.meter.expect(units.iter().filter_map(|unit| unit.rows).sum(), units.iter().map(|unit| unit.bytes).sum());
    let mapped = map(job, load, &opened, &units, 0, Keep::InMemory).await?;
    mapped
        .ends
        .check(job.spec, |file| opened.files.get(file).map_or_else(String::new, |open| open.file.url.clone()))?;
    let bytes_read = job.meter.bytes_done();
    let mut packing = Packing::new(job.env, job.store, &job.attempt, job.settings(), &job.budget);
    if mapped.slices.is_empty() {
        let held: u64 = mapped.runs.iter().map(|run| run.bytes() as u64).sum();
        let per_part = (held / u64::from(PART_COUNT)).max(1);
        let (cores, bytes) = (job.env.cpu.parallelism() as u64, BATCH_BYTES.min(job.budget.limit() / 16));
        let batch = u16::try_from((bytes / per_part).clamp(cores, 256)).unwrap_or(256);
        let (key_type, may_go) = (job.plan.schema.key, job.plan.schema.ttl || job.spec.delete_column.is_some());
        let source = Arc::new(RunSource { runs: mapped.runs, key_type, may_go });
        let mut first = 0;
        while first < PART_COUNT {
            let end = PART_COUNT.min(first.saturating_add(batch));
            packing.add(&source, first..end).await?;
            first = end;
        }
    } else {
        drop((mapped.runs, mapped.charges));
        tracing::info!(slices = mapped.slices.len(), "the rows are more than fit into memory: built from slices");
        let slices = Slices::open(job, &[(0, &mapped.slices)]).await?;
        reduce(job, &Arc::new(slices), 0..PART_COUNT, &mut packing).await?;
    }
    let Built { packs, records, duplicates, expired, deleted, clash } = packing.finish().await?;
    if let Some(clash) = clash {
        let (first, second) = (mapped.places.locate(clash.first.row), mapped.places.locate(clash.second.row));
        return Err(InputError::DuplicateKey { key: clash.key, first, second }.into());
    }
    let stats = BuildStats {
        rows_read: mapped.decoded.rows,
        records,
        duplicates: mapped.duplicates + duplicates,
        nulls: mapped.decoded.nulls,
        bad_rows: load.bad.count(),
        expired,
        deleted,
        saturated: mapped.decoded.saturated,
        bytes_read,
        bytes_written: packs.iter().map(|pack| pack.len).sum(),
    };
    Ok(JobOutput { stats, packs, ..JobOutput::default() })
}

/// Parts of runs in memory.
#[derive(Debug)]
struct RunSource {
    runs: Vec<Run>,
    key_type: KeyType,
    may_go: bool,
}

impl Source for RunSource {
    type Rows<'a> = RunRows<'a>;

    fn part(&self, part: u16, duplicates: Duplicates) -> Result<Winners<RunRows<'_>>, AttemptError> {
        let (rows, entries) = RunRows::gather(&self.runs, part, self.key_type, self.may_go);
        Ok(Winners::of(rows, entries, duplicates))
    }
}
