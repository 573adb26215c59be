//! Slice jobs (Map): a stretch of the input ─▶ a slice, one sorted run of records, each key once.
//!
//! ```text
//!   units ─▶ rows ─▶ runs, grouped by part, as many as memory holds
//!                    part by part: sort (h, place), one row per key ─▶ chunks ─▶ one object
//! ```
//!
//! Memory holds the rows of a slice as it is planned. If they turn out to be more, the slice becomes several pieces, in the
//! order of the input.

mod write;

use std::sync::Arc;

use fkv_meta::record::BuildStats;

use crate::budget::Charge;
use crate::build::output::{JobOutput, SliceRef};
use crate::build::part::Clash;
use crate::build::scatter::Run;
use crate::error::AttemptError;
use crate::input::decode::{Decoded, Load};
use crate::input::ends::Ends;
use crate::input::error::InputError;
use crate::input::file::InputFile;
use crate::input::open::{OpenFiles, Places, open};
use crate::input::read::Reader;
use crate::input::unit::Unit;
use crate::job::{JobContext, slice_id, slice_spec};
use crate::plan::Span;

/// Reads a stretch of the input and writes its slice. `files` are those that `input` names, which come first.
pub(crate) async fn slice(
    job: &JobContext<'_>,
    number: u32,
    input: &[Span],
    files: &[InputFile],
) -> Result<JobOutput, AttemptError> {
    let load = job.load();
    let made = slice_all(job, &load, number, input, files).await;
    job.with_bad_rows(&load, made).await
}

async fn slice_all(
    job: &JobContext<'_>,
    load: &Arc<Load>,
    number: u32,
    input: &[Span],
    files: &[InputFile],
) -> Result<JobOutput, AttemptError> {
    let opened = open(files, load, &job.budget).await?;
    let first = input.first().map_or(0, |span| span.file as usize);
    // Files without rows have no span.
    let span_of = |file: usize| {
        let at = input.binary_search_by_key(&(first + file), |span| span.file as usize).ok()?;
        input.get(at)
    };
    let units: Vec<Unit> =
        opened.units(u64::MAX)?.iter().filter_map(|unit| span_of(unit.file)?.extent.cut(unit)).collect();
    job.meter.expect(units.iter().filter_map(|unit| unit.rows).sum(), units.iter().map(|unit| unit.bytes).sum());
    let mapped = map(job, load, &opened, &units, number, Keep::Slices).await?;
    let stats = BuildStats {
        rows_read: mapped.decoded.rows,
        duplicates: mapped.duplicates,
        nulls: mapped.decoded.nulls,
        bad_rows: load.bad.count(),
        saturated: mapped.decoded.saturated,
        bytes_read: job.meter.bytes_done(),
        ..BuildStats::default()
    };
    let places = if slice_spec(job.plan, job.spec).places { mapped.places.stretches() } else { Vec::new() };
    let ends = mapped.ends.moved_by(first);
    Ok(JobOutput { stats, slices: mapped.slices, places, ends, ..JobOutput::default() })
}

/// What to do with rows that fit into memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Keep {
    /// Keep them there, if all of them fit.
    InMemory,
    /// Write them as a slice.
    Slices,
}

/// A stretch of the input, read.
#[derive(Debug)]
pub(crate) struct Mapped {
    /// What became of its rows.
    pub(crate) decoded: Decoded,
    /// The rows, if they were to be kept and fit.
    pub(crate) runs: Vec<Run>,
    /// Keeps their memory charged.
    pub(crate) charges: Vec<Charge>,
    /// Otherwise the pieces of the slice.
    pub(crate) slices: Vec<SliceRef>,
    /// Rows that another row with the same key replaced in them.
    pub(crate) duplicates: u64,
    /// Which rows of which files its places are.
    pub(crate) places: Arc<Places>,
    /// What was seen of the files, which count from the first one opened. It is for whoever has all stretches to check it.
    pub(crate) ends: Ends,
}

/// The most bytes of rows that are held at once.
///
/// A row of `u64 → f32` takes 16 bytes as such. In the worst case all rows are of one part: then sorting takes 40 bytes a
/// row beside them, and its image and the copy on its way to the store 24, so that 3/16 become 15/16 of the budget.
pub(crate) const fn rows_bytes_max(budget: u64) -> u64 {
    budget / 16 * 3
}

/// Reads `units`, and writes their rows as slice `number` unless they are to be kept in memory and fit.
pub(crate) async fn map(
    job: &JobContext<'_>,
    load: &Arc<Load>,
    opened: &OpenFiles,
    units: &[Unit],
    number: u32,
    keep: Keep,
) -> Result<Mapped, AttemptError> {
    let mut reader = Reader::new(job.env, opened, units, load, &job.budget, &job.meter)?;
    let mut mapped = Mapped {
        decoded: Decoded::default(),
        runs: Vec::new(),
        charges: Vec::new(),
        slices: Vec::new(),
        duplicates: 0,
        places: Arc::clone(reader.places()),
        ends: Ends::default(),
    };
    let spec = slice_spec(job.plan, job.spec);
    loop {
        let loaded = reader.fill(rows_bytes_max(job.budget.limit())).await?;
        mapped.decoded.add(&loaded.decoded);
        if keep == Keep::InMemory && mapped.slices.is_empty() && reader.is_at_end() {
            (mapped.runs, mapped.charges) = (loaded.runs, loaded.charges);
            mapped.ends = reader.ends();
            return Ok(mapped);
        }
        if loaded.runs.iter().any(|run| run.len() > 0) {
            let piece = u32::try_from(mapped.slices.len()).unwrap_or(u32::MAX);
            let id = slice_id(job.plan, number, piece);
            let written = write::write(job, id, &spec, loaded.runs).await?;
            if let Some(Clash { first, second, key }) = written.clash {
                let (first, second) = (mapped.places.locate(first.row), mapped.places.locate(second.row));
                return Err(InputError::DuplicateKey { key, first, second }.into());
            }
            mapped.duplicates += written.duplicates;
            mapped.slices.push(written.slice);
        }
        if reader.is_at_end() {
            mapped.ends = reader.ends();
            return Ok(mapped);
        }
    }
}
