//! Part jobs (Reduce): a range of parts of all slices ─▶ packs.
//!
//! ```text
//!   slices   every slice of the plan, its directory
//!   batch    several parts of all slices in memory: sorted and built in parallel, the next batch is fetched meanwhile
//!   stream   a part that is larger than memory: merged window by window, counted first and then built
//! ```

pub(crate) mod batch;
pub(crate) mod slices;
mod stream;

use std::ops::Range;
use std::sync::Arc;

use fkv_formats::id::Part;
use fkv_meta::record::BuildStats;

use self::batch::Batch;
use self::slices::Slices;
use crate::build::output::JobOutput;
use crate::build::packs::{Built, Packing};
use crate::error::AttemptError;
use crate::input::error::InputError;
use crate::job::JobContext;

/// Builds a range of parts from all slices.
pub(crate) async fn part(
    job: &JobContext<'_>,
    slices: &Arc<Slices>,
    parts: Range<u16>,
) -> Result<JobOutput, AttemptError> {
    let records = slices.all().iter().map(|slice| slice.directory.records_in(parts.clone())).sum();
    let bytes = slices
        .all()
        .iter()
        .map(|slice| slice.directory.range(parts.clone()))
        .map(|range| range.end - range.start)
        .sum();
    job.meter.expect(records, bytes);
    let mut packing = Packing::new(job.env, job.store, &job.attempt, job.settings(), &job.budget);
    reduce(job, slices, parts, &mut packing).await?;
    let Built { packs, records, duplicates, expired, deleted, clash } = packing.finish().await?;
    if let Some(clash) = clash {
        let (first, second) = (slices.locate(clash.first), slices.locate(clash.second));
        return Err(InputError::DuplicateKey { key: clash.key, first, second }.into());
    }
    let bytes_written = packs.iter().map(|pack| pack.len).sum();
    let stats = BuildStats { records, duplicates, expired, deleted, bytes_written, ..BuildStats::default() };
    Ok(JobOutput { stats, packs, ..JobOutput::default() })
}

/// Building a part that takes more is not done in memory, however much there is: where its records lie there, and how many
/// they are, is told in 32 bits.
const IN_MEMORY_MAX: u64 = 16 << 30;

/// How the next parts are built.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Step {
    /// Together in memory.
    Batch(Range<u16>),
    /// One that takes most of the memory.
    Alone(u16),
    /// One that does not fit into memory.
    Stream(u16),
}

/// Builds a range of parts and appends them to packs.
pub(crate) async fn reduce(
    job: &JobContext<'_>,
    slices: &Arc<Slices>,
    parts: Range<u16>,
    packing: &mut Packing<'_>,
) -> Result<(), AttemptError> {
    let memory = job.budget.limit();
    let mut steps = steps(slices, parts, memory).into_iter().peekable();
    let mut fetched: Option<Arc<Batch>> = None;
    while let Some(step) = steps.next() {
        if packing.has_clash() {
            return Ok(());
        }
        match step {
            Step::Stream(number) => stream::build(job, slices, Part(number), packing).await?,
            Step::Alone(number) => {
                let batch = Arc::new(Batch::fetch(job, slices, number..number + 1).await?);
                packing.add(&batch, number..number + 1).await?;
            }
            Step::Batch(range) => {
                let batch = match fetched.take() {
                    Some(batch) => batch,
                    None => Arc::new(Batch::fetch(job, slices, range.clone()).await?),
                };
                let next = match steps.peek() {
                    Some(Step::Batch(next)) => Some(next.clone()),
                    _ => None,
                };
                // The next batch comes in while this one is built, and the one before goes out.
                let ahead = async {
                    match next {
                        Some(next) => Batch::fetch(job, slices, next).await.map(Some),
                        None => Ok(None),
                    }
                };
                let (built, next) = futures::future::join(packing.add(&batch, range), ahead).await;
                built?;
                fetched = next?.map(Arc::new);
            }
        }
    }
    Ok(())
}

/// Memory that building a part takes, about: its chunks, its image, and its copy on the way to the store; the entries that
/// it is sorted by, twice, and where its records lie.
fn building_bytes(slices: &Slices, part: u16) -> u64 {
    let (mut bytes, mut records) = (0u64, 0u64);
    for slice in slices.all() {
        let part = slice.directory.part(Part(part));
        bytes = bytes.saturating_add(part.len());
        records += u64::from(part.records());
    }
    bytes.saturating_mul(4).saturating_add(records.saturating_mul(40))
}

/// How the parts are built: in batches that leave room for the next batch, with parts that are too large for that alone.
fn steps(slices: &Slices, parts: Range<u16>, memory: u64) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    let mut open: Option<(Range<u16>, u64)> = None;
    for number in parts {
        let bytes = building_bytes(slices, number);
        if bytes == 0 {
            continue;
        }
        if bytes > memory / 5 * 2 || bytes > IN_MEMORY_MAX {
            steps.extend(open.take().map(|(range, _)| Step::Batch(range)));
            let is_alone = bytes <= (memory / 5 * 4).min(IN_MEMORY_MAX);
            steps.push(if is_alone { Step::Alone(number) } else { Step::Stream(number) });
            continue;
        }
        open = match open.take() {
            Some((range, sum)) if sum + bytes <= memory / 5 * 2 => Some((range.start..number + 1, sum + bytes)),
            other => {
                steps.extend(other.map(|(range, _)| Step::Batch(range)));
                Some((number..number + 1, bytes))
            }
        };
    }
    steps.extend(open.map(|(range, _)| Step::Batch(range)));
    steps
}
