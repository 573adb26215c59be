//! A part that is larger than memory: its slices are merged window by window.
//!
//! ```text
//!   slice 0   ██████████░░ ···        █ records below the bound: they are complete, and leave
//!   slice 1   ████░░░░░░░░ ···        ░ records above it: they wait for the next window
//!   slice 2   ███████░░░░░ ···        · not fetched yet
//!                 ▲
//!             bound: the least of the last records held, of slices that have more to come
//! ```
//!
//! A window is sorted as a part in memory is. How a part is laid out follows from its exact count, so that all windows
//! are gone through twice: once to count, and once to build. A part of a blk table is built at once. If the layout proves too
//! tight for the part's keys, which hashed keys never are, it is built again with the next one.

use std::ops::Range;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use fkv_formats::error::{BuildError, FormatError};
use fkv_formats::id::Part;
use fkv_formats::record::Key;
use fkv_formats::schema::{KeyType, TableKind};
use fkv_formats::slice::{CHUNK_HEAD_BYTES, ChunkWalk, Walked};
use fkv_formats::table::PartGeometry;
use fkv_meta::record::Duplicates;
use futures::stream::{StreamExt, TryStreamExt};

use super::batch::{ChunkRows, Gathered};
use super::slices::{Slices, wrong};
use crate::budget::{Charge, OverBudget};
use crate::build::packs::{Built, Packing, push_streamed};
use crate::build::part::Winners;
use crate::build::rows::RowShape;
use crate::error::AttemptError;
use crate::input::error::InputError;
use crate::job::JobContext;

/// Requests on their way at once.
const REQUESTS: usize = 16;
/// Fetched at once of one slice, at most.
const FETCH_BYTES_MAX: u64 = 4 << 20;
/// Fetched at once of one slice, at least: as much as a chunk has, unless it is one long record.
const FETCH_BYTES_MIN: u64 = 64 << 10;
/// Memory that a record takes to be sorted, beside itself: its entry, a copy of that, and where the record lies.
const SORT_BYTES: u64 = 40;

/// Builds one part into a pack of its own.
pub(super) async fn build(
    job: &JobContext<'_>,
    slices: &Arc<Slices>,
    part: Part,
    packing: &mut Packing<'_>,
) -> Result<(), AttemptError> {
    let (schema, profile) = (&job.plan.schema, job.plan.profile);
    // Nothing that is built already depends on how this part turns out.
    packing.end_pack().await?;
    let mut geometry = PartGeometry::Blk;
    if schema.kind != TableKind::Blk {
        let counts = count(job, slices, part).await?;
        if counts.clash.is_some() || counts.records == 0 {
            packing.count(&counts);
            return Ok(());
        }
        geometry = PartGeometry::first(schema, profile, counts.records)?;
    }
    loop {
        let mut index = job.budget.charge("holding the index of a large part");
        index.set(geometry.building_bytes()).map_err(InputError::from)?;
        match build_as(job, slices, part, geometry, packing).await {
            Err(AttemptError::Build(BuildError::Displaced)) => {
                packing.abandon_streamed().await;
                geometry = geometry.next().ok_or(BuildError::Displaced)?;
                tracing::debug!(part = part.0, "the keys of a large part cluster: built again");
            }
            built => return built,
        }
    }
}

/// What becomes of the part's rows.
async fn count(job: &JobContext<'_>, slices: &Arc<Slices>, part: Part) -> Result<Built, AttemptError> {
    let (mut windows, mut counts) = (Windows::new(job, slices, part)?, Built::default());
    let as_of = job.plan.as_of;
    while windows.fetch(job).await? {
        (windows, counts) = job
            .env
            .compute(move || {
                windows.take(|mut winners| {
                    winners.purge(as_of);
                    counts.count(&winners);
                    Ok(counts)
                })
            })
            .await??;
    }
    Ok(counts)
}

/// Builds the part with this geometry.
async fn build_as(
    job: &JobContext<'_>,
    slices: &Arc<Slices>,
    part: Part,
    geometry: PartGeometry,
    packing: &mut Packing<'_>,
) -> Result<(), AttemptError> {
    let (mut windows, mut counts) = (Windows::new(job, slices, part)?, Built::default());
    let mut streamed = packing.begin_streamed(part, geometry)?;
    let as_of = job.plan.as_of;
    let mut gathered = Vec::new();
    loop {
        // What the window before has filled goes out while the next one comes in.
        let (written, fetched) = futures::future::join(packing.write_streamed(gathered), windows.fetch(job)).await;
        written?;
        if !fetched? {
            break;
        }
        (windows, (streamed, counts, gathered)) = job
            .env
            .compute(move || {
                windows.take(|mut winners| {
                    winners.purge(as_of);
                    counts.count(&winners);
                    let gathered = push_streamed(&mut streamed, winners.records())?;
                    Ok((streamed, counts, gathered))
                })
            })
            .await??;
    }
    if counts.records == 0 || counts.clash.is_some() {
        packing.abandon_streamed().await;
        packing.count(&counts);
        return Ok(());
    }
    packing.end_streamed(streamed, counts).await
}

/// What is held of the part in one slice.
#[derive(Debug)]
struct Window {
    /// Which of the slices.
    at: usize,
    /// The walk, before the first chunk held.
    walk: ChunkWalk,
    /// What is held, from the first chunk on that has not wholly left.
    held: Bytes,
    /// Records of the first chunk that have left.
    gone: usize,
    /// What has not been fetched yet.
    rest: Range<u64>,
    /// Bytes to hold for the next step.
    wanted: u64,
}

/// The windows of all slices that have records of the part.
#[derive(Debug)]
struct Windows {
    slices: Arc<Slices>,
    windows: Vec<Window>,
    schema: (KeyType, bool),
    duplicates: Duplicates,
    store: fkv_store::Store,
    /// Bytes to fetch at once of each slice.
    fetch_bytes: u64,
    charge: Charge,
}

impl Windows {
    fn new(job: &JobContext<'_>, slices: &Arc<Slices>, part: Part) -> Result<Self, AttemptError> {
        let parts = slices.all().iter().map(|slice| slice.directory.part(part)).enumerate();
        let windows: Vec<Window> = parts
            .filter(|(_, part)| !part.is_empty())
            .map(|(at, part)| {
                let (walk, rest) = (part.walk(), part.range());
                Window { at, walk, held: Bytes::new(), gone: 0, rest, wanted: FETCH_BYTES_MIN }
            })
            .collect();
        let memory = job.budget.limit();
        // Held are up to twice as much, and sorted. What the window before has become goes out meanwhile.
        let record_bytes = RowShape::of(&job.plan.schema, false).record_bytes_min();
        let times = 3 + (2 * SORT_BYTES).div_ceil(record_bytes);
        let fetch_bytes = (memory / times / windows.len().max(1) as u64).min(FETCH_BYTES_MAX);
        if fetch_bytes < FETCH_BYTES_MIN {
            let needed = FETCH_BYTES_MIN * times * windows.len() as u64;
            let what = "merging as many slices as there are of one part";
            return Err(InputError::from(OverBudget { what, needed, limit: memory }).into());
        }
        Ok(Self {
            slices: Arc::clone(slices),
            windows,
            schema: (job.plan.schema.key, job.plan.schema.ttl),
            duplicates: job.spec.duplicates,
            store: Arc::clone(job.store),
            fetch_bytes,
            charge: job.budget.charge("holding the next records of a large part"),
        })
    }

    /// Fetches what the next step needs; false if there is nothing left.
    async fn fetch(&mut self, job: &JobContext<'_>) -> Result<bool, AttemptError> {
        let fetch_bytes = self.fetch_bytes;
        let mut requests = Vec::new();
        let mut bytes = 0;
        for (number, window) in self.windows.iter().enumerate() {
            let held = window.held.len() as u64;
            let mut more = 0;
            if held < window.wanted || held < fetch_bytes / 2 {
                more = fetch_bytes.max(window.wanted.saturating_sub(held)).min(window.rest.end - window.rest.start);
            }
            bytes += held + more;
            if more > 0 {
                requests.push((number, window.at, window.rest.start..window.rest.start + more));
            }
        }
        self.charge.set(bytes).map_err(InputError::from)?;
        let slices = &self.slices;
        let fetched: Vec<(usize, Bytes)> = futures::stream::iter(requests)
            .map(|(number, at, range)| async move {
                job.meter.add_bytes(range.end - range.start);
                Ok::<_, AttemptError>((number, job.store.get_range(&slices.all()[at].path, range).await?))
            })
            .buffered(REQUESTS)
            .try_collect()
            .await?;
        for (number, bytes) in fetched {
            let window = &mut self.windows[number];
            window.rest.start += bytes.len() as u64;
            if window.held.is_empty() {
                window.held = bytes;
            } else {
                let mut joined = BytesMut::with_capacity(window.held.len() + bytes.len());
                joined.extend_from_slice(&window.held);
                joined.extend_from_slice(&bytes);
                window.held = joined.freeze();
            }
        }
        self.windows.retain(|window| !window.held.is_empty());
        Ok(!self.windows.is_empty())
    }

    /// Takes all records below the bound, one for each key, and hands them to `work`.
    fn take<T>(
        mut self,
        work: impl FnOnce(Winners<ChunkRows<'_>>) -> Result<T, AttemptError>,
    ) -> Result<(Self, T), AttemptError> {
        let held: Vec<Bytes> = self.windows.iter().map(|window| window.held.clone()).collect();
        let mut bound: Option<(u64, Key<'_>)> = None;
        for (window, held) in self.windows.iter_mut().zip(&held) {
            let last = window
                .last(held)
                .map_err(|error| wrong(&self.store, &self.slices.all()[window.at].path, &error.to_string()))?;
            match last {
                Last::Order(h, key) => bound = Some(bound.map_or((h, key), |bound| bound.min((h, key)))),
                Last::End => {}
                // A chunk is longer than what is held: fetch it before anything leaves.
                Last::Nothing => {
                    let none = Gathered::with_room(self.schema, 0);
                    let slices = Arc::clone(&self.slices);
                    let (rows, entries) = none.finish(&slices);
                    let done = work(Winners::of(rows, entries, self.duplicates))?;
                    return Ok((self, done));
                }
            }
        }
        let slices = Arc::clone(&self.slices);
        let records = held.iter().map(Bytes::len).sum::<usize>() / 16;
        let mut gathered = Gathered::with_room(self.schema, records);
        for (window, held) in self.windows.iter_mut().zip(&held) {
            let path = &slices.all()[window.at].path;
            window.leave(held, bound, &mut gathered).map_err(|error| wrong(&self.store, path, &error.to_string()))?;
        }
        let (rows, entries) = gathered.finish(&slices);
        let done = work(Winners::of(rows, entries, self.duplicates))?;
        Ok((self, done))
    }
}

/// The last record of a window.
enum Last<'a> {
    /// Its place in the one order; there is more to come.
    Order(u64, Key<'a>),
    /// There is none to come.
    End,
    /// The window holds no whole chunk.
    Nothing,
}

impl Window {
    /// The last record of the chunks that are held whole.
    fn last<'a>(&mut self, held: &'a [u8]) -> Result<Last<'a>, FormatError> {
        let (mut walk, mut offset, mut last_chunk) = (self.walk.clone(), 0, None);
        let needed = loop {
            match walk.step(&held[offset..])? {
                Walked::End => return Ok(Last::End),
                Walked::Needs(needed) => break needed as u64,
                Walked::Chunk(chunk) => {
                    offset += chunk.len();
                    last_chunk = Some(chunk);
                }
            }
        };
        if self.rest.is_empty() {
            let found = (held.len() - offset) as u64;
            return Err(FormatError::Truncated { what: "part of the slice", needed, found });
        }
        let Some(record) = last_chunk.and_then(|chunk| chunk.iter().last()) else {
            self.wanted = needed;
            return Ok(Last::Nothing);
        };
        let record = record?.record;
        Ok(Last::Order(record.h, record.key))
    }

    /// Lets the records up to `bound` leave into `gathered`; all that are held, without a bound.
    fn leave<'a>(
        &mut self,
        held: &'a [u8],
        bound: Option<(u64, Key<'_>)>,
        gathered: &mut Gathered<'a>,
    ) -> Result<(), FormatError> {
        let (layout, mut offset) = (self.walk.layout(), 0);
        let name = gathered.hold(self.at, layout, held);
        loop {
            let mut walk = self.walk.clone();
            let Walked::Chunk(chunk) = walk.step(&held[offset..])? else { break };
            let (mut records, mut seen) = (chunk.iter(), 0);
            let mut begin = records.position();
            while let Some(record) = records.next() {
                let record = record?;
                if seen >= self.gone {
                    if bound.is_some_and(|bound| record.record.order() > bound) {
                        self.gone = seen;
                        self.held = self.held.slice(offset..);
                        return Ok(());
                    }
                    gathered.add(name, offset + CHUNK_HEAD_BYTES + begin, &record);
                }
                seen += 1;
                begin = records.position();
            }
            (self.walk, self.gone) = (walk, 0);
            offset += chunk.len();
        }
        self.wanted = FETCH_BYTES_MIN;
        self.held = self.held.slice(offset..);
        Ok(())
    }
}
