//! Several parts of all slices in memory.
//!
//! ```text
//!   slice 0   │ part 50 │ part 51 │ … │     one range each, in requests of whole parts
//!   slice 1   │ part 50 │ part 51 │ … │
//!                 └────┬────┘
//!   part 50: entries (h, which slice, record) ─ sort ─▶ one record per key
//! ```

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use fkv_formats::error::FormatError;
use fkv_formats::id::Part;
use fkv_formats::record::RecordRef;
use fkv_formats::schema::KeyType;
use fkv_formats::slice::{CHUNK_HEAD_BYTES, RecordLayout, SlicePart, SliceRecord, Walked};
use fkv_meta::record::Duplicates;
use futures::stream::{StreamExt, TryStreamExt};

use super::slices::{Slices, wrong};
use crate::budget::Charge;
use crate::build::order::entry;
use crate::build::packs::Source;
use crate::build::part::{PartRows, Place, Winners};
use crate::error::AttemptError;
use crate::input::error::InputError;
use crate::job::JobContext;

/// Requests on their way at once.
const REQUESTS: usize = 16;
/// A request ends behind the part with which it reaches this size.
const REQUEST_BYTES: u64 = 8 << 20;

/// Chunks of parts of one slice that lie one behind the other.
#[derive(Debug)]
struct Fetched {
    parts: Range<u16>,
    /// Where they begin in the object.
    start: u64,
    bytes: Bytes,
}

/// The chunks of a range of parts, of all slices.
#[derive(Debug)]
pub(crate) struct Batch {
    slices: Arc<Slices>,
    /// By slice, ascending.
    fetched: Vec<Vec<Fetched>>,
    schema: (KeyType, bool),
    store: fkv_store::Store,
    _charge: Charge,
}

impl Batch {
    /// Fetches a range of parts.
    ///
    /// # Errors
    /// The store fails, or memory does not suffice.
    pub(crate) async fn fetch(
        job: &JobContext<'_>,
        slices: &Arc<Slices>,
        parts: Range<u16>,
    ) -> Result<Self, AttemptError> {
        let (mut requests, mut bytes) = (Vec::new(), 0);
        for (at, slice) in slices.all().iter().enumerate() {
            for parts in cut(|parts| slice.directory.range(parts), parts.clone()) {
                let range = slice.directory.range(parts.clone());
                bytes += range.end - range.start;
                requests.push((at, parts, range));
            }
        }
        let mut charge = job.budget.charge("holding parts of slices");
        charge.set(bytes).map_err(InputError::from)?;
        let pieces: Vec<(usize, Fetched)> = futures::stream::iter(requests)
            .map(|(at, parts, range)| async move {
                let bytes = job.store.get_range(&slices.all()[at].path, range.clone()).await?;
                job.meter.add_bytes(range.end - range.start);
                Ok::<_, AttemptError>((at, Fetched { parts, start: range.start, bytes }))
            })
            .buffered(REQUESTS)
            .try_collect()
            .await?;
        let mut fetched: Vec<Vec<Fetched>> = slices.all().iter().map(|_| Vec::new()).collect();
        for (at, piece) in pieces {
            fetched[at].push(piece);
        }
        let schema = (job.plan.schema.key, job.plan.schema.ttl);
        Ok(Self { slices: Arc::clone(slices), fetched, schema, store: Arc::clone(job.store), _charge: charge })
    }

    /// The chunks of a part of the slice at `at`.
    fn chunks(&self, at: usize, part: &SlicePart) -> Option<&[u8]> {
        let number = part.part().0;
        let held = self.fetched[at].iter().find(|held| held.parts.contains(&number))?;
        let place = |offset: u64| usize::try_from(offset.checked_sub(held.start)?).ok();
        held.bytes.get(place(part.range().start)?..place(part.range().end)?)
    }
}

/// Cuts a range of parts into requests, none of them for nothing.
fn cut(range_of: impl Fn(Range<u16>) -> Range<u64>, parts: Range<u16>) -> Vec<Range<u16>> {
    let len = |range: Range<u64>| range.end - range.start;
    let (mut requests, mut first) = (Vec::new(), parts.start);
    for number in parts.clone() {
        let so_far = len(range_of(first..number + 1));
        if so_far >= REQUEST_BYTES || (number + 1 == parts.end && so_far > 0) {
            requests.push(first..number + 1);
            first = number + 1;
        }
    }
    requests
}

impl Source for Batch {
    type Rows<'a> = ChunkRows<'a>;

    fn part(&self, part: u16, duplicates: Duplicates) -> Result<Winners<ChunkRows<'_>>, AttemptError> {
        let parts = self.slices.all().iter().map(|slice| slice.directory.part(Part(part)));
        let records = parts.clone().map(|part| part.records() as usize).sum();
        let mut gathered = Gathered::with_room(self.schema, records);
        for (at, part) in parts.enumerate().filter(|(_, part)| !part.is_empty()) {
            let path = &self.slices.all()[at].path;
            let chunks = self.chunks(at, &part).ok_or_else(|| wrong(&self.store, path, "a part was not fetched"))?;
            gathered.add_part(at, &part, chunks).map_err(|error| wrong(&self.store, path, &error.to_string()))?;
        }
        let (rows, entries) = gathered.finish(&self.slices);
        Ok(Winners::of(rows, entries, duplicates))
    }
}

/// The records of one part, in the chunks of slices.
#[derive(Debug)]
pub(crate) struct ChunkRows<'a> {
    schema: (KeyType, bool),
    tombstones: bool,
    slices: &'a Slices,
    /// Chunks held, each with the slice it is of.
    held: Vec<(usize, RecordLayout, &'a [u8])>,
    /// Where each record is: which of the chunks held, and the offset.
    sources: Vec<(u32, u32)>,
}

/// Records of one part that are being gathered.
pub(super) struct Gathered<'a> {
    schema: (KeyType, bool),
    held: Vec<(usize, RecordLayout, &'a [u8])>,
    sources: Vec<(u32, u32)>,
    entries: Vec<u128>,
}

impl<'a> Gathered<'a> {
    pub(super) fn with_room(schema: (KeyType, bool), records: usize) -> Self {
        Self { schema, held: Vec::new(), sources: Vec::with_capacity(records), entries: Vec::with_capacity(records) }
    }

    /// Adds all records of a part of the slice at `at`. Slices are added in their order.
    fn add_part(&mut self, at: usize, part: &SlicePart, chunks: &'a [u8]) -> Result<(), FormatError> {
        let held = self.hold(at, part.layout(), chunks);
        let (mut walk, mut offset) = (part.walk(), 0);
        loop {
            match walk.step(chunks.get(offset..).unwrap_or_default())? {
                Walked::End => return Ok(()),
                Walked::Needs(needed) => {
                    let found = (chunks.len() - offset) as u64;
                    return Err(FormatError::Truncated { what: "part of the slice", needed: needed as u64, found });
                }
                Walked::Chunk(chunk) => {
                    let mut records = chunk.iter();
                    let mut begin = records.position();
                    while let Some(record) = records.next() {
                        self.add(held, offset + CHUNK_HEAD_BYTES + begin, &record?);
                        begin = records.position();
                    }
                    offset += chunk.len();
                }
            }
        }
    }

    /// Remembers chunks of the slice at `at`; gives what to call them.
    pub(super) fn hold(&mut self, at: usize, layout: RecordLayout, chunks: &'a [u8]) -> u32 {
        self.held.push((at, layout, chunks));
        as_u32(self.held.len() - 1)
    }

    /// Adds a record at an offset of chunks held.
    #[inline]
    pub(super) fn add(&mut self, held: u32, offset: usize, record: &SliceRecord<'_>) {
        self.entries.push(entry(record.record.h, held, as_u32(self.sources.len())));
        self.sources.push((held, as_u32(offset)));
    }

    /// The records, and their entries.
    pub(super) fn finish(self, slices: &'a Slices) -> (ChunkRows<'a>, Vec<u128>) {
        let Self { schema, held, sources, entries } = self;
        let tombstones = slices.all().iter().any(|slice| slice.directory.spec().tombstones);
        (ChunkRows { schema, tombstones, slices, held, sources }, entries)
    }
}

impl ChunkRows<'_> {
    #[inline]
    fn read(&self, ordinal: u32) -> (usize, SliceRecord<'_>) {
        let (held, offset) = self.sources[ordinal as usize];
        let (slice, layout, chunks) = self.held[held as usize];
        let (record, _) = layout.decode(&chunks[offset as usize..]).expect("it was decoded when it was gathered");
        (slice, record)
    }
}

impl PartRows for ChunkRows<'_> {
    fn key_type(&self) -> KeyType {
        self.schema.0
    }

    fn may_go(&self) -> bool {
        self.schema.1 || self.tombstones
    }

    #[inline]
    fn record(&self, ordinal: u32) -> RecordRef<'_> {
        self.read(ordinal).1.record
    }

    fn place(&self, ordinal: u32) -> Place {
        let (slice, record) = self.read(ordinal);
        Place { slice: self.slices.all()[slice].directory.id().number, row: record.place }
    }
}

fn as_u32(n: usize) -> u32 {
    u32::try_from(n).expect("what is built in memory at once is shorter than 2^32 bytes")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_whole_parts_and_leave_nothing_out() {
        // Parts of these sizes, in units of a quarter of a request.
        let sizes = [0u64, 1, 1, 1, 0, 3, 9, 0, 0, 2, 0];
        let end = |part: u16| sizes[..usize::from(part)].iter().sum::<u64>() * (REQUEST_BYTES / 4);
        let requests = cut(|parts| end(parts.start)..end(parts.end), 0..11);
        assert_eq!(requests, [0..6, 6..7, 7..11]);
        let requests = cut(|parts| end(parts.start)..end(parts.end), 7..9);
        assert!(requests.is_empty(), "nothing is asked for where there is nothing: {requests:?}");
    }
}
