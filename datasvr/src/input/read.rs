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
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use bytes::Bytes;
use fkv_env::Env;
use futures::future::{BoxFuture, Either, select};
use futures::stream::{StreamExt, TryStreamExt};
use tokio::sync::{Mutex, Semaphore};

use super::bind::Binding;
use super::chunks::Chunks;
use super::decode::{Decoded, Group, Load, decode};
use super::error::InputError;
use super::file::InputFile;
use super::footer::Footer;
use super::lineup::{self, Lineup, NextBlock};
use super::open::{Layout, OpenFiles, Places, column_ranges};
use super::stream::{Sizes, StreamContext, TextUnit};
use super::text;
use super::text::count::count_rows;
use super::text::layout::TextLayout;
use super::unit::{Edges, Unit, UnitKind, check_edges};
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
}

/// Where work comes from.
enum Source {
    Groups { units: Vec<GroupUnit>, next: AtomicUsize },
    Blocks(Mutex<Lineup>),
}

/// What a lane does next.
enum Work {
    Group(GroupUnit),
    Block(NextBlock),
}

/// Reads units in their order.
pub(crate) struct Reader {
    reading: Reading,
    /// Layouts of the text files, to be checked when all of them have been read.
    layouts: Vec<(InputFile, Arc<TextLayout>)>,
    /// URL of each file of the frozen list.
    urls: Vec<String>,
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
    stop: Arc<AtomicBool>,
    /// Whether all work has been taken.
    ended: AtomicBool,
    /// Bytes of rows held by all lanes.
    held: AtomicU64,
    held_max: AtomicU64,
}

impl Drop for Reading {
    fn drop(&mut self) {
        // Tells decoders still at work that nobody wants their rows.
        self.stop.store(true, Ordering::Relaxed);
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
) -> Result<(Loaded, Arc<Places>), InputError> {
    let units = opened.units(u64::MAX)?;
    let mut reader = Reader::new(env, opened, &units, load, budget, meter);
    let loaded = reader.fill(u64::MAX).await?;
    Ok((loaded, Arc::clone(reader.places())))
}

impl Reader {
    /// A reader of `units`, which are some of those of `opened`, in their order. Places in the input count from the
    /// first row of the first of them.
    pub(crate) fn new(
        env: &Env,
        opened: &OpenFiles,
        units: &[Unit],
        load: &Arc<Load>,
        budget: &Budget,
        meter: &Arc<Meter>,
    ) -> Self {
        let places = Arc::new(Places::default());
        // Twice as many lanes as cores: while one decodes, another fetches.
        let lanes = env.cpu.parallelism() * 2;
        let (mut groups, mut texts, mut first_index) = (Vec::new(), Vec::new(), 0);
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
                    });
                    first_index += footer.rows.get(number).copied().unwrap_or(0);
                }
                (Layout::Text(layout), kind) => {
                    let (file, layout) = (open.file.clone(), Arc::clone(layout));
                    texts.push(TextUnit { file, at: unit.file, layout, kind });
                }
                (Layout::Parquet { .. }, kind) => unreachable!("a Parquet file has no unit {kind:?}"),
            }
        }
        let count = groups.len().max(texts.len());
        let mut layouts: Vec<(InputFile, Arc<TextLayout>)> =
            texts.iter().map(|unit: &TextUnit| (unit.file.clone(), Arc::clone(&unit.layout))).collect();
        layouts.dedup_by_key(|(file, _)| file.at);
        let (source, streams, lanes) = if texts.is_empty() {
            (Source::Groups { units: groups, next: AtomicUsize::new(0) }, None, lanes.min(count).max(1))
        } else {
            let sizes = Sizes::of(budget);
            let (env, budget, meter) = (env.clone(), budget.clone(), Arc::clone(meter));
            let streams = sizes.streams(&budget, lanes);
            let context = StreamContext { env, budget, meter, sizes };
            let (lineup, reading) = lineup::start(context, texts, streams, Arc::clone(&places));
            (Source::Blocks(Mutex::new(lineup)), Some(reading), lanes)
        };
        let permits = u32::try_from((budget.limit() / 4 / PERMIT_BYTES).clamp(1, 1 << 20)).unwrap_or(1);
        let reading = Reading {
            env: env.clone(),
            load: Arc::clone(load),
            budget: budget.clone(),
            meter: Arc::clone(meter),
            source,
            fetched: Semaphore::new(permits as usize),
            permits,
            stop: Arc::new(AtomicBool::new(false)),
            ended: AtomicBool::new(false),
            held: AtomicU64::new(0),
            held_max: AtomicU64::new(u64::MAX),
        };
        let urls = opened.files.iter().map(|open| open.file.url.clone()).collect();
        Self { reading, layouts, urls, streams, lanes, places }
    }

    /// Which rows of which files the places in the input are.
    pub(crate) const fn places(&self) -> &Arc<Places> {
        &self.places
    }

    /// Where the records of the ranges that were read lay: whoever reads neighbouring ranges with another reader checks
    /// with [`check_edges`] that they join up.
    pub(crate) fn edges(&mut self) -> Vec<Edges> {
        match &mut self.reading.source {
            Source::Groups { .. } => Vec::new(),
            Source::Blocks(lineup) => lineup.get_mut().edges().to_vec(),
        }
    }

    /// Reads on until the rows held are `rows_bytes` or more, or to the end. Nothing is left to read if no row comes.
    ///
    /// # Errors
    /// Something is wrong with a file, there are too many bad rows, or memory does not suffice.
    pub(crate) async fn fill(&mut self, rows_bytes: u64) -> Result<Loaded, InputError> {
        let mut filled = self.fill_rows(rows_bytes).await;
        let told = matches!(filled, Err(InputError::BadRows(_)));
        if told || self.reading.ended.load(Ordering::Relaxed) {
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
        for (file, layout) in &self.layouts {
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
        self.reading.held.store(0, Ordering::Relaxed);
        self.reading.held_max.store(rows_bytes, Ordering::Relaxed);
        let reading = &self.reading;
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
        if self.reading.ended.load(Ordering::Relaxed) {
            self.streams = None;
            let edges = self.edges();
            check_edges(&edges, |at| self.urls.get(at).cloned().unwrap_or_default())?;
            for (file, layout) in &self.layouts {
                layout.check_seen(file, &self.reading.load.spec)?;
            }
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
        self.charge.set(self.bytes())?;
        Ok(())
    }
}

impl Reading {
    async fn lane(&self) -> Result<Lane, InputError> {
        let mut lane = Lane {
            rows: Rows::new(RowShape::of(&self.load.schema)),
            runs: Vec::new(),
            run_bytes: 0,
            charge: self.budget.charge("holding the rows of the input"),
            decoded: Decoded::default(),
        };
        while self.held.load(Ordering::Relaxed) < self.held_max.load(Ordering::Relaxed) {
            let Some(work) = self.next().await? else {
                self.ended.store(true, Ordering::Relaxed);
                break;
            };
            let before = lane.bytes();
            lane = match work {
                Work::Group(unit) => self.group(&unit, lane).await?,
                Work::Block(next) => self.block(next, lane).await?,
            };
            self.held.fetch_add(lane.bytes().saturating_sub(before), Ordering::Relaxed);
        }
        let sealed = self.env.compute(move || lane.settle(true).map(|()| lane)).await;
        sealed.unwrap_or_else(|_| Err(InputError::Crashed { file: "the input".into() }))
    }

    /// The next work in order; `None` at the end.
    async fn next(&self) -> Result<Option<Work>, InputError> {
        match &self.source {
            Source::Groups { units, next } => {
                Ok(units.get(next.fetch_add(1, Ordering::Relaxed)).cloned().map(Work::Group))
            }
            Source::Blocks(lineup) => Ok(lineup.lock().await.next().await?.map(Work::Block)),
        }
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
            let mut rows = std::mem::replace(&mut lane.rows, Rows::new(RowShape::of(&load.schema)));
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
