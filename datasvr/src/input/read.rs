//! All row groups of all files ─▶ runs, several row groups at once in bounded memory.
//!
//! ```text
//!   units (file, row group) in frozen order
//!     lane 0: fetch column chunks ─ decode ─▶ rows ─ full? scatter ─▶ run
//!     lane 1: …
//! ```
//!
//! Which lane takes which unit is chance; each row carries its place in the frozen input, so that it does not matter.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use bytes::Bytes;
use fkv_env::Env;
use futures::stream::{StreamExt, TryStreamExt};
use tokio::sync::Semaphore;

use super::bind::{Binding, bind};
use super::chunks::Chunks;
use super::decode::{Decoded, Group, Load, decode};
use super::error::InputError;
use super::file::InputFile;
use super::footer::{self, Footer, chunk_range};
use crate::budget::{Budget, Charge};
use crate::build::rows::{RowShape, Rows};
use crate::build::scatter::Run;
use crate::progress::Meter;

/// Footers and ranges asked for at once.
const REQUESTS: usize = 8;
/// Column chunks this close to each other are read in one request.
const GAP_BYTES: u64 = 256 << 10;
/// One request reads at most this much.
const REQUEST_BYTES: u64 = 16 << 20;
/// The unit in which fetched bytes are limited.
const PERMIT_BYTES: u64 = 64 << 10;

/// A file with its footer, its columns found and its rows numbered.
#[derive(Clone, Debug)]
pub(crate) struct OpenFile {
    /// The file.
    pub(crate) file: InputFile,
    footer: Arc<Footer>,
    binding: Arc<Binding>,
    /// Place of its first row in the frozen input.
    pub(crate) first_index: u64,
}

/// All files of a load, opened.
#[derive(Debug)]
pub(crate) struct OpenFiles {
    /// The files in frozen order.
    pub(crate) files: Vec<OpenFile>,
    /// Rows in all of them.
    pub(crate) rows: u64,
    /// Bytes of the column chunks that will be read.
    pub(crate) bytes: u64,
}

impl OpenFiles {
    /// The file and the row number within it of a place in the frozen input.
    pub(crate) fn locate(&self, index: u32) -> String {
        let index = u64::from(index);
        let after = self.files.partition_point(|file| file.first_index <= index);
        match after.checked_sub(1).and_then(|at| self.files.get(at)) {
            Some(open) => format!("row {} of {}", index - open.first_index, open.file.url),
            None => format!("row {index} of the input"),
        }
    }
}

/// What was read.
#[derive(Debug)]
pub(crate) struct Loaded {
    /// The rows.
    pub(crate) runs: Vec<Run>,
    /// What became of them.
    pub(crate) decoded: Decoded,
    /// Keeps the memory of the runs charged.
    pub(crate) charges: Vec<Charge>,
}

/// Reads every footer, finds the columns and numbers the rows.
///
/// # Errors
/// Something is wrong with a file, or the rows are too many.
pub(crate) async fn open(files: &[InputFile], load: &Load, budget: &Budget) -> Result<OpenFiles, InputError> {
    let opened: Vec<(InputFile, Footer, Binding)> = futures::stream::iter(files.iter().cloned())
        .map(|file| async move {
            let footer = footer::read(&file, budget).await?;
            let binding = bind(&file.url, footer.arrow.schema(), &load.spec, &load.schema)?;
            let footer = footer.with_views(&binding.roots).map_err(|error| {
                let reason = format!("its columns cannot be read: {error}");
                InputError::Damaged { file: file.url.clone(), reason }
            })?;
            Ok::<_, InputError>((file, footer, binding))
        })
        .buffered(REQUESTS)
        .try_collect()
        .await?;
    let mut all = OpenFiles { files: Vec::with_capacity(opened.len()), rows: 0, bytes: 0 };
    for (file, footer, binding) in opened {
        for number in 0..footer.rows.len() {
            for range in column_ranges(&file, &footer, &binding, number)? {
                all.bytes = all.bytes.saturating_add(range.end - range.start);
            }
        }
        let (first_index, rows) = (all.rows, footer.rows_total());
        all.rows = all.rows.saturating_add(rows);
        all.files.push(OpenFile { file, footer: Arc::new(footer), binding: Arc::new(binding), first_index });
    }
    let max = u64::from(u32::MAX);
    if all.rows > max {
        return Err(InputError::TooManyRows { rows: all.rows, max });
    }
    let shape = RowShape::of(&load.schema);
    budget.check("holding all rows of the input", all.rows.saturating_mul(shape.row_bytes_min()))?;
    Ok(all)
}

/// Where the columns of a row group lie in the file.
fn column_ranges(
    file: &InputFile,
    footer: &Footer,
    binding: &Binding,
    number: usize,
) -> Result<Vec<Range<u64>>, InputError> {
    let group = footer.parquet().row_group(number);
    let schema = group.schema_descr();
    let mut ranges = Vec::new();
    for (leaf, column) in group.columns().iter().enumerate() {
        if binding.roots.contains(&schema.get_column_root_idx(leaf)) {
            let (start, len) = chunk_range(file, column)?;
            ranges.push(start..start + len);
        }
    }
    Ok(ranges)
}

/// One row group of one file.
#[derive(Clone, Copy, Debug)]
struct Unit {
    file: usize,
    number: usize,
    first_row: u64,
}

struct Reading<'a> {
    env: &'a Env,
    opened: &'a OpenFiles,
    load: &'a Arc<Load>,
    budget: &'a Budget,
    meter: &'a Arc<Meter>,
    /// Limits the fetched bytes that wait to be decoded.
    fetched: Semaphore,
    permits: u32,
    stop: Arc<AtomicBool>,
}

/// Tells decoders still at work that nobody wants their rows.
struct StopOnDrop(Arc<AtomicBool>);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Reads all rows of all files.
///
/// # Errors
/// Something is wrong with a file, there are too many bad rows, or memory does not suffice.
pub(crate) async fn read(
    env: &Env,
    opened: &OpenFiles,
    load: &Arc<Load>,
    budget: &Budget,
    meter: &Arc<Meter>,
) -> Result<Loaded, InputError> {
    let mut units = Vec::new();
    for (at, open) in opened.files.iter().enumerate() {
        let mut first_row = 0;
        for (number, rows) in open.footer.rows.iter().enumerate() {
            if *rows > 0 {
                units.push(Unit { file: at, number, first_row });
            }
            first_row += rows;
        }
    }
    let permits = u32::try_from((budget.limit() / 4 / PERMIT_BYTES).clamp(1, 1 << 20)).unwrap_or(1);
    let stop = Arc::new(AtomicBool::new(false));
    let _stop = StopOnDrop(Arc::clone(&stop));
    let fetched = Semaphore::new(permits as usize);
    let reading = Reading { env, opened, load, budget, meter, fetched, permits, stop };
    // Twice as many lanes as cores: while one decodes, another fetches.
    let lanes = (env.cpu.parallelism() * 2).min(units.len()).max(1);
    let next = AtomicUsize::new(0);
    let lanes = futures::future::try_join_all((0..lanes).map(|_| reading.lane(&units, &next))).await?;

    let mut loaded = Loaded { runs: Vec::new(), decoded: Decoded::default(), charges: Vec::new() };
    for lane in lanes {
        loaded.runs.extend(lane.runs);
        loaded.charges.push(lane.charge);
        loaded.decoded.rows += lane.decoded.rows;
        loaded.decoded.nulls += lane.decoded.nulls;
        loaded.decoded.saturated += lane.decoded.saturated;
    }
    Ok(loaded)
}

/// Rows in the making.
#[derive(Debug)]
struct Lane {
    rows: Rows,
    runs: Vec<Run>,
    run_bytes: u64,
    charge: Charge,
    decoded: Decoded,
}

impl Lane {
    /// Charges what is held; seals the rows if they are many enough.
    fn settle(&mut self, finish: bool) -> Result<(), InputError> {
        if self.rows.is_full() || (finish && !self.rows.is_empty()) {
            let rows = self.rows.bytes() as u64;
            // Grouping makes a copy and a column of hashes.
            self.charge.set(self.run_bytes + rows * 2 + 8 * self.rows.len() as u64)?;
            let run = Run::of(&self.rows);
            self.run_bytes += run.bytes() as u64;
            self.runs.push(run);
            self.rows.clear();
        }
        if finish {
            self.rows = Rows::new(self.rows.shape);
        }
        self.charge.set(self.run_bytes + self.rows.bytes() as u64)?;
        Ok(())
    }
}

impl Reading<'_> {
    async fn lane(&self, units: &[Unit], next: &AtomicUsize) -> Result<Lane, InputError> {
        let mut lane = Lane {
            rows: Rows::new(RowShape::of(&self.load.schema)),
            runs: Vec::new(),
            run_bytes: 0,
            charge: self.budget.charge("holding the rows of the input"),
            decoded: Decoded::default(),
        };
        while let Some(unit) = units.get(next.fetch_add(1, Ordering::Relaxed)) {
            lane = self.unit(*unit, lane).await?;
        }
        let sealed = self.env.compute(move || lane.settle(true).map(|()| lane)).await;
        sealed.unwrap_or_else(|_| Err(InputError::Crashed { file: "the input".into() }))
    }

    async fn unit(&self, unit: Unit, lane: Lane) -> Result<Lane, InputError> {
        let open = &self.opened.files[unit.file];
        let mut ranges = column_ranges(&open.file, &open.footer, &open.binding, unit.number)?;
        let bytes: u64 = ranges.iter().map(|range| range.end - range.start).sum();
        let permits = u32::try_from(bytes.div_ceil(PERMIT_BYTES)).unwrap_or(u32::MAX).clamp(1, self.permits);
        let _permits = self.fetched.acquire_many(permits).await.map_err(|_| crashed(&open.file))?;
        let mut charge = self.budget.charge("holding one row group of the input");
        charge.set(bytes)?;
        ranges.sort_by_key(|range| range.start);
        let chunks = Chunks::new(open.file.meta.len, fetch(&open.file, &ranges).await?);
        self.meter.add_bytes(bytes);
        let group = Group {
            url: open.file.url.clone(),
            file: open.file.at,
            footer: Arc::clone(&open.footer),
            number: unit.number,
            chunks,
            binding: Arc::clone(&open.binding),
            first_row: unit.first_row,
            first_index: u32::try_from(open.first_index + unit.first_row).unwrap_or(u32::MAX),
        };
        let (load, meter, stop) = (Arc::clone(self.load), Arc::clone(self.meter), Arc::clone(&self.stop));
        let decoded = self.env.compute(move || decode_unit(&group, &load, &meter, &stop, lane)).await;
        drop(charge);
        decoded.unwrap_or_else(|_| Err(crashed(&open.file)))
    }
}

fn crashed(file: &InputFile) -> InputError {
    InputError::Crashed { file: file.url.clone() }
}

fn decode_unit(
    group: &Group,
    load: &Load,
    meter: &Meter,
    stop: &AtomicBool,
    mut lane: Lane,
) -> Result<Lane, InputError> {
    let mut rows = std::mem::replace(&mut lane.rows, Rows::new(RowShape::of(&load.schema)));
    let decoded = decode(group, load, &mut rows, |rows, count| {
        if stop.load(Ordering::Relaxed) {
            return Err(InputError::Stopped);
        }
        meter.add_rows(count);
        std::mem::swap(rows, &mut lane.rows);
        let settled = lane.settle(false);
        std::mem::swap(rows, &mut lane.rows);
        settled
    })?;
    lane.rows = rows;
    lane.decoded.rows += decoded.rows;
    lane.decoded.nulls += decoded.nulls;
    lane.decoded.saturated += decoded.saturated;
    Ok(lane)
}

/// Reads ranges (ascending), neighbours in one request. What comes back lies at the offsets asked for.
async fn fetch(file: &InputFile, ranges: &[Range<u64>]) -> Result<Vec<(u64, Bytes)>, InputError> {
    let mut spans: Vec<Range<u64>> = Vec::new();
    for range in ranges {
        match spans.last_mut() {
            Some(last) if range.start <= last.end.saturating_add(GAP_BYTES) => last.end = last.end.max(range.end),
            _ => spans.push(range.clone()),
        }
    }
    // Large spans go in several requests and are put together again: a column chunk must be in one piece.
    let mut requests = Vec::new();
    for span in &spans {
        let mut start = span.start;
        while start < span.end {
            let end = span.end.min(start + REQUEST_BYTES);
            requests.push(start..end);
            start = end;
        }
    }
    let pieces: Vec<(u64, Bytes)> = futures::stream::iter(requests)
        .map(|range| async move { Ok::<_, InputError>((range.start, file.read(range).await?)) })
        .buffered(REQUESTS)
        .try_collect()
        .await?;
    let mut pieces = pieces.into_iter().peekable();
    let mut whole = Vec::with_capacity(spans.len());
    for span in spans {
        let Some((start, first)) = pieces.next() else { break };
        let mut bytes = first;
        if start + (bytes.len() as u64) < span.end {
            let mut joined = Vec::with_capacity(usize::try_from(span.end - span.start).unwrap_or(0));
            joined.extend_from_slice(&bytes);
            while let Some((_, piece)) = pieces.next_if(|(at, _)| *at < span.end) {
                joined.extend_from_slice(&piece);
            }
            bytes = Bytes::from(joined);
        }
        whole.push((start, bytes));
    }
    Ok(whole)
}
