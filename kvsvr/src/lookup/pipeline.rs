//! Looks a batch up with many cache misses in flight.
//!
//! A lookup in memory is a cache miss or two; one after the other they cost 100 ns each, many at once a fraction of
//! that. So the lines of keys further on are asked for before key `i` is resolved. 24 in flight fill the line buffers
//! of present cores without evicting each other.

use fkv_formats::record::{Key, is_expired};
use fkv_formats::route::part_of;
use fkv_formats::table::mem::{Found, Located};
use fkv_rpc::packed::{KeyStatus, SectionStatus};

use super::NOT_HERE;
use super::prefetch::{prefetch, prefetch_range};
use crate::image::{HeldPart, Image};

/// Keys between asking for a line and reading it.
const DISTANCE: usize = 24;
/// Most lines of one record to ask for: the hardware follows from there.
const RECORD_LINES_MAX: usize = 8;
/// Bytes asked for where a record's length is not known before it is read.
const RECORD_BYTES_EXPECTED: usize = 128;

/// How a key fared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer<'a> {
    /// Its value, as stored.
    Found(&'a [u8]),
    /// Why it has none.
    Missing(KeyStatus),
}

/// The keys of a section, by their hashes, and what to look them up in.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Batch<'a> {
    pub(crate) image: &'a Image,
    pub(crate) hashes: &'a [u64],
    pub(crate) as_of: u32,
    pub(crate) read_ts_s: u32,
}

impl<'a> Batch<'a> {
    /// Calls `sink` with the answer of every key, in order, until it objects.
    pub(crate) fn run<'k>(
        &self,
        key: impl Fn(usize) -> Key<'k>,
        sink: impl FnMut(Answer<'a>) -> Result<(), SectionStatus>,
    ) -> Result<(), SectionStatus> {
        if self.image.is_inline() { self.run_inline(key, sink) } else { self.run_two_step(key, sink) }
    }

    fn run_inline<'k>(
        &self,
        key: impl Fn(usize) -> Key<'k>,
        mut sink: impl FnMut(Answer<'a>) -> Result<(), SectionStatus>,
    ) -> Result<(), SectionStatus> {
        let count = self.hashes.len();
        for ahead in 0..count.min(DISTANCE) {
            self.touch(ahead);
        }
        for index in 0..count {
            if index + DISTANCE < count {
                self.touch(index + DISTANCE);
            }
            let h = self.hashes[index];
            sink(match self.image.part(part_of(h)) {
                HeldPart::Not => NOT_HERE,
                HeldPart::Empty => Answer::Missing(KeyStatus::Absent),
                HeldPart::Data(bytes, layout) => self.judge(layout.find(bytes, h, key(index))),
            })?;
        }
        Ok(())
    }

    fn run_two_step<'k>(
        &self,
        key: impl Fn(usize) -> Key<'k>,
        mut sink: impl FnMut(Answer<'a>) -> Result<(), SectionStatus>,
    ) -> Result<(), SectionStatus> {
        let count = self.hashes.len();
        let mut located: [Option<Located>; DISTANCE] = [None; DISTANCE];
        for ahead in 0..count.min(2 * DISTANCE) {
            self.touch(ahead);
        }
        for (ahead, located) in located.iter_mut().enumerate().take(count) {
            *located = self.locate(ahead);
        }
        for index in 0..count {
            if index + 2 * DISTANCE < count {
                self.touch(index + 2 * DISTANCE);
            }
            let at = located[index % DISTANCE];
            if index + DISTANCE < count {
                located[index % DISTANCE] = self.locate(index + DISTANCE);
            }
            let h = self.hashes[index];
            sink(match self.image.part(part_of(h)) {
                HeldPart::Not => NOT_HERE,
                HeldPart::Empty => Answer::Missing(KeyStatus::Absent),
                HeldPart::Data(bytes, layout) => self.judge(at.and_then(|at| layout.resolve(bytes, at, h, key(index)))),
            })?;
        }
        Ok(())
    }

    /// Asks for the index line of a key.
    #[inline]
    fn touch(&self, index: usize) {
        let h = self.hashes[index];
        if let HeldPart::Data(bytes, layout) = self.image.part(part_of(h)) {
            prefetch(bytes, layout.first_line(h));
        }
    }

    /// Reads the index line of a key and asks for its record.
    #[inline]
    fn locate(&self, index: usize) -> Option<Located> {
        let h = self.hashes[index];
        let HeldPart::Data(bytes, layout) = self.image.part(part_of(h)) else { return None };
        let located = layout.locate(bytes, h)?;
        let len = layout.value_width().unwrap_or(RECORD_BYTES_EXPECTED);
        prefetch_range(bytes, located.record(), len, RECORD_LINES_MAX);
        Some(located)
    }

    /// What a record found means at the time of reading. An expired record never uncovers an older one.
    #[inline]
    fn judge(&self, found: Option<Found<'a>>) -> Answer<'a> {
        match found {
            None => Answer::Missing(KeyStatus::Absent),
            Some(found) if found.tombstone || is_expired(found.expiry, self.as_of) => {
                Answer::Missing(KeyStatus::Absent)
            }
            Some(found) if is_expired(found.expiry, self.read_ts_s) => Answer::Missing(KeyStatus::Expired),
            Some(found) => Answer::Found(found.value),
        }
    }
}
