//! Units ─▶ runs, several units or blocks at once in bounded memory.
//!
//! ```text
//!   work in frozen order: row groups, or blocks of text
//!     lane 0: (fetch column chunks) ─ decode ─▶ rows ─ full? scatter ─▶ run
//!     lane 1: …
//! ```
//!
//! Which lane takes which work is chance; each row carries its place in the frozen input, so that it does not matter.
//! Work is taken in order and finished once taken, so that what has been read is at any time a beginning of the input.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use fkv_env::Env;
use futures::future::{BoxFuture, Either, select};
use futures::stream::{StreamExt, TryStreamExt};
use tokio::sync::Semaphore;

use super::bind::Binding;
use super::chunks::Chunks;
use super::decode::{Decoded, Group, Load, decode};
use super::ends::{Ends, Seen};
use super::error::InputError;
use super::file::InputFile;
use super::footer::Footer;
use super::lineup::{self, Lineup, NextBlock};
use super::open::{Layout, OpenFiles, Places, column_ranges};
use super::stream::{Sizes, StreamContext, TextUnit};
use super::text;
use super::text::count::count_rows;
use super::text::layout::TextLayout;
use super::unit::{Unit, UnitKind};
use crate::budget::{Budget, Charge};
use crate::build::rows::Rows;
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

/// Where work comes from.
enum Source {
    /// The units, in order.
    Groups(Vec<GroupUnit>),
    /// The blocks of streams that are read at once.
    Blocks(tokio::sync::Mutex<Lineup>),
}

/// What has been taken, and what it takes.
#[derive(Debug, Default)]
struct Taking {
    /// The next row group.
    next: usize,
    /// Whether all work has been taken.
    ended: bool,
    /// Bytes of rows held by all lanes.
    held: u64,
    /// Bytes of rows that work under way is expected to give.
    expected: u64,
    /// Bytes of rows to hold, about.
    held_max: u64,
}

impl Taking {
    /// Whether work that takes `memory` may be taken; the first one always may.
    fn has_room_for(&self, memory: u64) -> bool {
        let before = self.held.saturating_add(self.expected);
        before == 0 || before.saturating_add(memory) <= self.held_max
    }
}

/// What a lane does next.
enum Work {
    Group(GroupUnit),
    Block(NextBlock),
}

impl Work {
    /// Memory that its rows will take, about.
    const fn memory(&self) -> u64 {
        match self {
            Self::Group(unit) => unit.memory,
            Self::Block(next) => next.block.block.bytes.len() as u64,
        }
    }
}

/// Reads units in their order.
pub(crate) struct Reader {
    reading: Reading,
    /// Text files that something is read of, each with its place among the files opened.
    layouts: Vec<(usize, InputFile, Arc<TextLayout>)>,
    /// Reads the streams while it is polled; none if there is nothing left for it.
    streams: Option<BoxFuture<'static, ()>>,
    lanes: usize,
    places: Arc<Places>,
}

struct Reading {
    env: Env,
    load: Arc<Load>,
    budget: Budget,
    meter: Arc<Meter>,
    source: Source,
    /// Limits the fetched row groups that wait to be decoded.
    fetched: Semaphore,
    permits: u32,
    taking: Mutex<Taking>,
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
        let shape = load.shape();
        let places = Arc::new(Places::default());
        // Twice as many lanes as cores: while one decodes, another fetches.
        let lanes = env.cpu.parallelism() * 2;
        let (mut groups, mut texts, mut first_index) = (Vec::new(), Vec::new(), 0u64);
        for unit in units {
            let Some(open) = opened.files.get(unit.file) else { continue };
            match (&open.layout, unit.kind) {
                (Layout::Parquet { footer, binding }, UnitKind::RowGroup { number }) => {
                    let first_row: u64 = footer.rows.iter().take(number).sum();
                    places.begin(first_index, &open.file.url, Some(first_row));
                    groups.push(GroupUnit {
                        file: open.file.clone(),
                        footer: Arc::clone(footer),
                        binding: Arc::clone(binding),
                        number,
                        first_row,
                        first_index,
                        memory: opened.memory(unit, shape),
                    });
                    first_index = first_index.saturating_add(footer.rows.get(number).copied().unwrap_or(0));
                }
                (Layout::Text(layout), kind) => {
                    let (file, layout) = (open.file.clone(), Arc::clone(layout));
                    texts.push(TextUnit { file, at: unit.file, layout, kind });
                }
                (Layout::Parquet { .. }, kind) => unreachable!("a Parquet file has no unit {kind:?}"),
            }
        }
        let max = u64::from(u32::MAX);
        if first_index > max {
            return Err(InputError::TooManyRows { rows: first_index, max });
        }
        let mut layouts: Vec<(usize, InputFile, Arc<TextLayout>)> =
            texts.iter().map(|unit: &TextUnit| (unit.at, unit.file.clone(), Arc::clone(&unit.layout))).collect();
        layouts.dedup_by_key(|(at, _, _)| *at);
        let (source, streams, lanes) = if texts.is_empty() {
            let lanes = lanes.min(groups.len()).max(1);
            (Source::Groups(groups), None, lanes)
        } else {
            let sizes = Sizes::of(budget);
            let (env, budget, meter) = (env.clone(), budget.clone(), Arc::clone(meter));
            let streams = sizes.streams(&budget, lanes);
            let context = StreamContext { env, budget, meter, sizes };
            let (lineup, reading) = lineup::start(context, texts, streams, Arc::clone(&places));
            (Source::Blocks(tokio::sync::Mutex::new(lineup)), Some(reading), lanes)
        };
        let permits = u32::try_from((budget.limit() / 8 / PERMIT_BYTES).clamp(1, 1 << 20)).unwrap_or(1);
        let reading = Reading {
            env: env.clone(),
            load: Arc::clone(load),
            budget: budget.clone(),
            meter: Arc::clone(meter),
            source,
            fetched: Semaphore::new(permits as usize),
            permits,
            taking: Mutex::default(),
            seal_bytes: (budget.limit() / 16 / lanes as u64).max(SEAL_BYTES_MIN),
            stop: Arc::new(AtomicBool::new(false)),
        };
        Ok(Self { reading, layouts, streams, lanes, places })
    }

    /// Which rows of which files the places in the input are.
    pub(crate) const fn places(&self) -> &Arc<Places> {
        &self.places
    }

    /// Whether everything has been read.
    pub(crate) fn is_at_end(&self) -> bool {
        self.reading.taking().ended
    }

    /// What was seen of the files: whether it is right is known when all of them has been read, by this reader or by others.
    pub(crate) fn ends(&mut self) -> Ends {
        let edges = match &mut self.reading.source {
            Source::Groups(_) => Vec::new(),
            Source::Blocks(lineup) => lineup.get_mut().edges().to_vec(),
        };
        let spec = &self.reading.load.spec;
        let seen = self.layouts.iter().filter_map(|(file, _, layout)| {
            let (columns, first) = layout.seen(spec)?;
            Some(Seen { file: *file, columns, first })
        });
        Ends { edges, seen: seen.collect() }
    }

    /// Reads on to the end, or until the next work would bring the rows held to more than `rows_bytes`; some work at least.
    ///
    /// # Errors
    /// Something is wrong with a file, there are too many bad rows, or memory does not suffice.
    pub(crate) async fn fill(&mut self, rows_bytes: u64) -> Result<Loaded, InputError> {
        let mut filled = self.fill_rows(rows_bytes).await;
        let told = matches!(filled, Err(InputError::BadRows(_)));
        if told || self.is_at_end() {
            self.number_bad_rows().await;
        }
        if let Err(InputError::BadRows(error)) = &mut filled {
            error.samples = self.reading.load.bad.samples();
        }
        filled
    }

    /// Finds the numbers of bad rows that are known by their byte only, because not all rows before them were read.
    async fn number_bad_rows(&mut self) {
        let (bad, env) = (&self.reading.load.bad, &self.reading.env);
        for (_, file, layout) in &self.layouts {
            let bytes = bad.unnumbered(file.at);
            if bytes.is_empty() {
                continue;
            }
            match count_rows(env, file, layout, &bytes).await {
                Ok(places) => places.into_iter().for_each(|(byte, place)| bad.set_place(file.at, byte, place)),
                Err(error) => tracing::debug!(file = file.url, %error, "bad rows keep their bytes instead of numbers"),
            }
        }
    }

    async fn fill_rows(&mut self, rows_bytes: u64) -> Result<Loaded, InputError> {
        let reading = &self.reading;
        {
            let mut taking = reading.taking();
            (taking.held, taking.expected, taking.held_max) = (0, 0, rows_bytes);
        }
        let lanes = Box::pin(futures::future::try_join_all((0..self.lanes).map(|_| reading.lane())));
        let lanes = match self.streams.take() {
            None => lanes.await?,
            Some(streams) => match select(lanes, streams).await {
                Either::Left((lanes, streams)) => {
                    self.streams = Some(streams);
                    lanes?
                }
                Either::Right(((), lanes)) => lanes.await?,
            },
        };
        if self.is_at_end() {
            self.streams = None;
        }
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

    async fn lane(&self) -> Result<Lane, InputError> {
        let mut lane = Lane {
            rows: Rows::new(self.load.shape()),
            runs: Vec::new(),
            run_bytes: 0,
            seal_bytes: self.seal_bytes,
            charge: self.budget.charge("holding the rows of the input"),
            decoded: Decoded::default(),
        };
        while let Some(work) = self.next().await? {
            let (before, memory) = (lane.bytes(), work.memory());
            lane = match work {
                Work::Group(unit) => self.group(&unit, lane).await?,
                Work::Block(next) => self.block(next, lane).await?,
            };
            let mut taking = self.taking();
            taking.expected = taking.expected.saturating_sub(memory);
            taking.held += lane.bytes().saturating_sub(before);
        }
        let sealed = self.env.compute(move || lane.settle(true).map(|()| lane)).await;
        sealed.unwrap_or_else(|_| Err(InputError::Crashed { file: "the input".into() }))
    }

    /// The next work in order, if there is any and memory for it.
    async fn next(&self) -> Result<Option<Work>, InputError> {
        let units = match &self.source {
            Source::Groups(units) => units,
            Source::Blocks(lineup) => return self.next_block(&mut *lineup.lock().await).await,
        };
        let mut taking = self.taking();
        let Some(unit) = units.get(taking.next) else {
            taking.ended = true;
            return Ok(None);
        };
        if !taking.has_room_for(unit.memory) {
            return Ok(None);
        }
        taking.next += 1;
        taking.ended = taking.next == units.len();
        taking.expected = taking.expected.saturating_add(unit.memory);
        Ok(Some(Work::Group(unit.clone())))
    }

    /// The next block. How large it is nobody knows before it is there, so that the last one may be one too many.
    async fn next_block(&self, lineup: &mut Lineup) -> Result<Option<Work>, InputError> {
        if self.taking().ended || !self.taking().has_room_for(1) {
            return Ok(None);
        }
        let block = lineup.next().await?.map(Work::Block);
        let mut taking = self.taking();
        match &block {
            Some(work) => taking.expected = taking.expected.saturating_add(work.memory()),
            None => taking.ended = true,
        }
        Ok(block)
    }

    async fn group(&self, unit: &GroupUnit, lane: Lane) -> Result<Lane, InputError> {
        let file = &unit.file;
        let mut ranges = column_ranges(file, &unit.footer, &unit.binding, unit.number)?;
        let bytes: u64 = ranges.iter().map(|range| range.end - range.start).sum();
        let permits = u32::try_from(bytes.div_ceil(PERMIT_BYTES)).unwrap_or(u32::MAX).clamp(1, self.permits);
        let _permits = self.fetched.acquire_many(permits).await.map_err(|_| crashed(&file.url))?;
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
        let url = file.url.clone();
        self.decode(&url, lane, move |load, rows, after| decode(&group, load, rows, after)).await
    }

    async fn block(&self, next: NextBlock, lane: Lane) -> Result<Lane, InputError> {
        let NextBlock { block, held } = next;
        let url = block.url.clone();
        self.decode(&url, lane, move |load, rows, after| {
            let decoded = text::decode::decode(&block, load, rows, after);
            drop((block, held));
            decoded
        })
        .await
    }

    /// Runs `work`, which decodes rows of the file `url`, on the CPU pool.
    async fn decode<F>(&self, url: &str, mut lane: Lane, work: F) -> Result<Lane, InputError>
    where
        F: FnOnce(&Load, &mut Rows, &mut AfterBatch<'_>) -> Result<Decoded, InputError> + Send + 'static,
    {
        let (load, meter, stop) = (Arc::clone(&self.load), Arc::clone(&self.meter), Arc::clone(&self.stop));
        let decoded = self.env.compute(move || {
            let mut rows = std::mem::replace(&mut lane.rows, Rows::new(load.shape()));
            let decoded = work(&load, &mut rows, &mut |rows, count| {
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
        decoded.await.unwrap_or_else(|_| Err(crashed(url)))
    }
}

/// Called with the rows so far and how many came since the last call; may take them.
type AfterBatch<'a> = dyn FnMut(&mut Rows, u64) -> Result<(), InputError> + 'a;

fn crashed(url: &str) -> InputError {
    InputError::Crashed { file: url.to_owned() }
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
