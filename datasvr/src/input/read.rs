//! Units ─▶ runs, several units at once in bounded memory.
//!
//! ```text
//!   row groups in frozen order
//!     lane 0: fetch column chunks ─ decode ─▶ rows ─ full? scatter ─▶ run
//!     lane 1: …
//! ```
//!
//! Which lane takes which unit is chance; each row carries its place in the input, so that it does not matter. Units are taken
//! in order and finished once taken, so that what has been read is at any time a beginning of the input.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use fkv_env::Env;
use futures::stream::{StreamExt, TryStreamExt};
use tokio::sync::Semaphore;

use super::bind::Binding;
use super::chunks::Chunks;
use super::decode::{Decoded, Group, Load, decode};
use super::error::InputError;
use super::file::InputFile;
use super::footer::Footer;
use super::open::{OpenFiles, Places, column_ranges};
use super::unit::{Unit, UnitKind};
use crate::budget::{Budget, Charge};
use crate::build::rows::{RowShape, Rows};
use crate::build::scatter::Run;
use crate::progress::Meter;

/// Ranges asked for at once.
const REQUESTS: usize = 8;
/// Column chunks this close to each other are read in one request.
const GAP_BYTES: u64 = 256 << 10;
/// One request reads at most this much.
const REQUEST_BYTES: u64 = 16 << 20;
/// The unit in which fetched bytes are limited.
const PERMIT_BYTES: u64 = 64 << 10;
/// Least bytes of rows that are worth a run of their own.
const SEAL_BYTES_MIN: u64 = 256 << 10;

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

/// A row group to read.
#[derive(Clone, Debug)]
struct GroupUnit {
    file: InputFile,
    footer: Arc<Footer>,
    binding: Arc<Binding>,
    number: usize,
    first_row: u64,
    first_index: u64,
    /// Memory that its rows will take, about.
    memory: u64,
}

/// Which unit is next, and what those before it take.
#[derive(Debug, Default)]
struct Taking {
    next: usize,
    /// Bytes of rows held by all lanes.
    held: u64,
    /// Bytes of rows that units at work are expected to give.
    expected: u64,
    /// Bytes of rows to hold, about.
    held_max: u64,
}

/// Reads units in their order.
pub(crate) struct Reader {
    reading: Reading,
    lanes: usize,
    places: Arc<Places>,
}

struct Reading {
    env: Env,
    load: Arc<Load>,
    budget: Budget,
    meter: Arc<Meter>,
    units: Vec<GroupUnit>,
    taking: Mutex<Taking>,
    /// Limits the fetched row groups that wait to be decoded.
    fetched: Semaphore,
    permits: u32,
    /// Bytes of rows after which a lane makes a run of them.
    seal_bytes: u64,
    stop: Arc<AtomicBool>,
}

impl Drop for Reading {
    fn drop(&mut self) {
        // Tells decoders still at work that nobody wants their rows.
        self.stop.store(true, Ordering::Relaxed);
    }
}

impl Reader {
    /// A reader of `units`, which are some of those of `opened`, in their order. Places in the input count from the first
    /// row of the first of them.
    ///
    /// # Errors
    /// The rows are more than places can tell apart.
    pub(crate) fn new(
        env: &Env,
        opened: &OpenFiles,
        units: &[Unit],
        load: &Arc<Load>,
        budget: &Budget,
        meter: &Arc<Meter>,
    ) -> Result<Self, InputError> {
        let places = Arc::new(Places::default());
        let (mut groups, mut first_index) = (Vec::new(), 0u64);
        let shape = RowShape::of(&load.schema);
        for unit in units {
            let Some(open) = opened.files.get(unit.file) else { continue };
            let UnitKind::RowGroup { number } = unit.kind;
            let first_row: u64 = open.footer.rows.iter().take(number).sum();
            places.begin(first_index, &open.file.url, Some(first_row));
            groups.push(GroupUnit {
                file: open.file.clone(),
                footer: Arc::clone(&open.footer),
                binding: Arc::clone(&open.binding),
                number,
                first_row,
                first_index,
                memory: opened.memory(unit, shape),
            });
            first_index = first_index.saturating_add(open.footer.rows.get(number).copied().unwrap_or(0));
        }
        let max = u64::from(u32::MAX);
        if first_index > max {
            return Err(InputError::TooManyRows { rows: first_index, max });
        }
        // Twice as many lanes as cores: while one decodes, another fetches.
        let lanes = (env.cpu.parallelism() * 2).min(groups.len()).max(1);
        let permits = u32::try_from((budget.limit() / 8 / PERMIT_BYTES).clamp(1, 1 << 20)).unwrap_or(1);
        let reading = Reading {
            env: env.clone(),
            load: Arc::clone(load),
            budget: budget.clone(),
            meter: Arc::clone(meter),
            units: groups,
            taking: Mutex::default(),
            fetched: Semaphore::new(permits as usize),
            permits,
            seal_bytes: (budget.limit() / 16 / lanes as u64).max(SEAL_BYTES_MIN),
            stop: Arc::new(AtomicBool::new(false)),
        };
        Ok(Self { reading, lanes, places })
    }

    /// Which rows of which files the places in the input are.
    pub(crate) const fn places(&self) -> &Arc<Places> {
        &self.places
    }

    /// Whether everything has been read.
    pub(crate) fn is_at_end(&self) -> bool {
        self.reading.taking().next >= self.reading.units.len()
    }

    /// Reads on to the end, or until the next unit would bring the rows held to more than `rows_bytes`; one unit at least.
    ///
    /// # Errors
    /// Something is wrong with a file, there are too many bad rows, or memory does not suffice.
    pub(crate) async fn fill(&mut self, rows_bytes: u64) -> Result<Loaded, InputError> {
        let reading = &self.reading;
        let next = reading.taking().next;
        *reading.taking() = Taking { next, held: 0, expected: 0, held_max: rows_bytes };
        let lanes = futures::future::try_join_all((0..self.lanes).map(|_| reading.lane())).await?;
        let mut loaded = Loaded { runs: Vec::new(), decoded: Decoded::default(), charges: Vec::new() };
        for lane in lanes {
            loaded.runs.extend(lane.runs);
            loaded.charges.push(lane.charge);
            loaded.decoded.add(&lane.decoded);
        }
        Ok(loaded)
    }
}

/// Rows in the making.
#[derive(Debug)]
struct Lane {
    rows: Rows,
    runs: Vec<Run>,
    run_bytes: u64,
    seal_bytes: u64,
    charge: Charge,
    decoded: Decoded,
}

impl Lane {
    /// Bytes of rows held.
    fn bytes(&self) -> u64 {
        self.run_bytes + self.rows.bytes() as u64
    }

    /// Charges what is held; seals the rows if they are many enough.
    fn settle(&mut self, finish: bool) -> Result<(), InputError> {
        let is_full = self.rows.is_full() || self.rows.bytes() as u64 >= self.seal_bytes;
        if is_full || (finish && !self.rows.is_empty()) {
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
        self.charge.set(self.bytes())?;
        Ok(())
    }
}

impl Reading {
    fn taking(&self) -> std::sync::MutexGuard<'_, Taking> {
        self.taking.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next unit, if there is one and memory for it.
    fn take(&self) -> Option<&GroupUnit> {
        let mut taking = self.taking();
        let unit = self.units.get(taking.next)?;
        let before = taking.held.saturating_add(taking.expected);
        if before > 0 && before.saturating_add(unit.memory) > taking.held_max {
            return None;
        }
        taking.next += 1;
        taking.expected = taking.expected.saturating_add(unit.memory);
        Some(unit)
    }

    async fn lane(&self) -> Result<Lane, InputError> {
        let mut lane = Lane {
            rows: Rows::new(RowShape::of(&self.load.schema)),
            runs: Vec::new(),
            run_bytes: 0,
            seal_bytes: self.seal_bytes,
            charge: self.budget.charge("holding the rows of the input"),
            decoded: Decoded::default(),
        };
        while let Some(unit) = self.take() {
            let before = lane.bytes();
            lane = self.group(unit, lane).await?;
            let mut taking = self.taking();
            taking.expected = taking.expected.saturating_sub(unit.memory);
            taking.held += lane.bytes().saturating_sub(before);
        }
        let sealed = self.env.compute(move || lane.settle(true).map(|()| lane)).await;
        sealed.unwrap_or_else(|_| Err(InputError::Crashed { file: "the input".into() }))
    }

    async fn group(&self, unit: &GroupUnit, mut lane: Lane) -> Result<Lane, InputError> {
        let file = &unit.file;
        let crashed = || InputError::Crashed { file: file.url.clone() };
        let mut ranges = column_ranges(file, &unit.footer, &unit.binding, unit.number)?;
        let bytes: u64 = ranges.iter().map(|range| range.end - range.start).sum();
        let permits = u32::try_from(bytes.div_ceil(PERMIT_BYTES)).unwrap_or(u32::MAX).clamp(1, self.permits);
        let _permits = self.fetched.acquire_many(permits).await.map_err(|_| crashed())?;
        let mut charge = self.budget.charge("holding one row group of the input");
        charge.set(bytes)?;
        ranges.sort_by_key(|range| range.start);
        let chunks = Chunks::new(file.meta.len, fetch(file, &ranges).await?);
        self.meter.add_bytes(bytes);
        let group = Group {
            url: file.url.clone(),
            file: file.at,
            footer: Arc::clone(&unit.footer),
            number: unit.number,
            chunks,
            binding: Arc::clone(&unit.binding),
            first_row: unit.first_row,
            first_index: u32::try_from(unit.first_index).unwrap_or(u32::MAX),
        };
        let (load, meter, stop) = (Arc::clone(&self.load), Arc::clone(&self.meter), Arc::clone(&self.stop));
        let decoded = self.env.compute(move || {
            let mut rows = std::mem::replace(&mut lane.rows, Rows::new(RowShape::of(&load.schema)));
            let decoded = decode(&group, &load, &mut rows, |rows, count| {
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
            lane.decoded.add(&decoded);
            Ok(lane)
        });
        let decoded = decoded.await;
        drop(charge);
        decoded.unwrap_or_else(|_| Err(crashed()))
    }
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
