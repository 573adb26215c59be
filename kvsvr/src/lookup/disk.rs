//! Looks a section up in a table whose records are on SSD.
//!
//! ```text
//!   hashes ── record cache ─▶ known: nothing is read
//!          ── prefetch resident lines ── locate ──▶ wants: (run, key)      no want: absent, nothing is read
//!             sort by place: keys of one run share one read
//!   reads  ── BlockIo ──▶ groups, as they arrive ── verify ── find ──▶ values kept, buffer given back
//!             a tag that matched by chance (idx, one lookup in 10^6): the next run, in another round
//! ```
//!
//! Values are copied out of the buffers at once: a section may read far more than there is room for buffers. A run
//! whose bytes are not what was written fails the section over to another server, and word of it is left for who
//! fetches the part again.

use std::ops::Range;
use std::sync::Arc;

use fkv_formats::id::TableUid;
use fkv_formats::record::{Key, is_expired};
use fkv_formats::route::part_of;
use fkv_formats::table::Found;
use fkv_formats::table::disk::Run;
use fkv_rpc::packed::{KeyStatus, SectionStatus};

use super::NOT_HERE;
use super::pipeline::Answer;
use super::prefetch::{Level, prefetch};
use crate::cache::{Cached, RecordCache};
use crate::faults::Faults;
use crate::image::{DiskBase, DiskPart, HeldOnDisk, Image, Whereabouts};
use crate::io::{BlockIo, Done, ReadOp, is_data_gone};

/// Keys between asking for resident bytes and reading them.
const DISTANCE: usize = 24;

/// How a key fares.
#[derive(Clone, Copy, Debug)]
enum KeyState {
    /// It is in a run that is still to be read.
    Waiting,
    /// Its value is kept: where, and how long it is.
    Found(u32, u32),
    Missing(KeyStatus),
}

/// A key and the run that may have it.
#[derive(Clone, Copy, Debug)]
struct Want {
    key: u32,
    whereabouts: Whereabouts,
}

/// The wants that one read is for.
type Share = Range<usize>;

/// The answers to the keys of one section.
#[derive(Debug)]
pub(crate) struct DiskAnswers {
    states: Vec<KeyState>,
    values: Vec<u8>,
}

/// What lookups on SSD share.
#[derive(Debug)]
pub(crate) struct DiskReader {
    pub(crate) io: Arc<dyn BlockIo>,
    pub(crate) cache: Arc<RecordCache>,
    pub(crate) faults: Arc<Faults>,
}

/// What a section is looked up with.
#[derive(Clone, Copy, Debug)]
pub(crate) struct DiskLookup<'a> {
    pub(crate) reader: &'a DiskReader,
    pub(crate) table: TableUid,
    pub(crate) image: &'a Image,
    pub(crate) base: &'a DiskBase,
    pub(crate) hashes: &'a [u64],
    pub(crate) read_ts_s: u32,
    /// Most bytes of values that a reply could take.
    pub(crate) value_bytes_max: usize,
}

impl DiskAnswers {
    /// Bytes of the values kept.
    pub(crate) const fn value_bytes(&self) -> usize {
        self.values.len()
    }

    /// Number of keys.
    pub(crate) const fn len(&self) -> usize {
        self.states.len()
    }

    /// The answers, in the order of the keys.
    pub(crate) fn iter(&self) -> impl Iterator<Item = Answer<'_>> {
        self.states.iter().map(|state| match *state {
            KeyState::Found(at, len) => {
                let at = at as usize;
                Answer::Found(&self.values[at..at + len as usize])
            }
            KeyState::Missing(status) => Answer::Missing(status),
            // Every want is answered before the section is.
            KeyState::Waiting => NOT_HERE,
        })
    }
}

impl<'a> DiskLookup<'a> {
    /// Reads what the keys need.
    pub(crate) async fn run<'k>(&self, key: impl Fn(usize) -> Key<'k>) -> Result<DiskAnswers, SectionStatus> {
        let (mut answers, mut wants) = self.locate(&key)?;
        let mut done = Vec::new();
        let mut failed_before = false;
        while !wants.is_empty() {
            let (reads, shares) = self.plan(&mut wants)?;
            let mut again = Vec::new();
            let mut failing = false;
            let mut batch = self.reader.io.read(reads);
            while batch.next(&mut done).await {
                for Done { index, outcome } in done.drain(..) {
                    let share = shares[index as usize].clone();
                    let bytes = match outcome {
                        Ok(bytes) => bytes,
                        // A device or a ring may stumble once; what fails again is for other servers.
                        Err(error) if !failed_before => {
                            tracing::warn!(%error, "blocks could not be read; reading them again");
                            again.extend_from_slice(&wants[share]);
                            failing = true;
                            continue;
                        }
                        Err(error) => {
                            tracing::error!(%error, "blocks cannot be read; the keys are left to other servers");
                            // Only what the device has lost is worth fetching again.
                            return Err(if is_data_gone(&error) {
                                self.fault(&wants[share.start])
                            } else {
                                SectionStatus::DataFault
                            });
                        }
                    };
                    self.take(&bytes, &wants[share], &key, &mut answers, &mut again)?;
                }
            }
            failed_before = failing;
            wants = again;
        }
        Ok(answers)
    }

    /// Decides from the resident sections which keys are absent and where the others may be.
    fn locate<'k>(&self, key: &impl Fn(usize) -> Key<'k>) -> Result<(DiskAnswers, Vec<Want>), SectionStatus> {
        let is_cached = self.reader.cache.is_on();
        let mut values = Vec::new();
        let count = self.hashes.len();
        let mut states = Vec::with_capacity(count);
        let mut wants = Vec::with_capacity(count);
        for ahead in 0..count.min(DISTANCE) {
            self.touch(ahead);
        }
        for (index, h) in self.hashes.iter().enumerate() {
            if index + DISTANCE < count {
                self.touch(index + DISTANCE);
            }
            states.push(match self.base.part(part_of(*h)) {
                HeldOnDisk::Not => KeyState::Missing(KeyStatus::NotHere),
                HeldOnDisk::Empty => KeyState::Missing(KeyStatus::Absent),
                HeldOnDisk::Data(part) => {
                    let cached = if is_cached { self.cached(*h, key(index), &mut values) } else { None };
                    if let Some(known) = cached {
                        known?
                    } else if let Some(whereabouts) = part.locate(*h) {
                        wants.push(Want { key: index as u32, whereabouts });
                        KeyState::Waiting
                    } else {
                        KeyState::Missing(KeyStatus::Absent)
                    }
                }
            });
        }
        Ok((DiskAnswers { states, values }, wants))
    }

    /// Asks for the resident bytes that the lookup of a key reads first.
    #[inline]
    fn touch(&self, index: usize) {
        let h = self.hashes[index];
        if let HeldOnDisk::Data(part) = self.base.part(part_of(h)) {
            for at in part.first_bytes(h) {
                prefetch(Level::First, part.resident, at);
            }
        }
    }

    /// What the cache knows of a key.
    fn cached(&self, h: u64, key: Key<'_>, values: &mut Vec<u8>) -> Option<Result<KeyState, SectionStatus>> {
        self.reader.cache.get(self.base.scope(), h, key_bytes(key), |cached| match cached {
            Cached::Value { value, expiry } => self.judge(Found { value, expiry, tombstone: false }, values),
            Cached::Absent => Ok(KeyState::Missing(KeyStatus::Absent)),
        })
    }

    /// Keeps what was read of a key.
    fn remember(&self, h: u64, key: Key<'_>, found: Option<Found<'_>>) {
        let cached = match found {
            Some(Found { tombstone: true, .. }) | None => Cached::Absent,
            Some(Found { value, expiry, .. }) => Cached::Value { value, expiry },
        };
        self.reader.cache.insert(self.base.scope(), h, key_bytes(key), cached);
    }

    fn part(&self, want: &Want) -> Option<DiskPart<'a>> {
        match self.base.part(part_of(*self.hashes.get(want.key as usize)?)) {
            HeldOnDisk::Data(part) => Some(part),
            HeldOnDisk::Not | HeldOnDisk::Empty => None,
        }
    }

    /// Sorts the wants by place; gives one read for all of one run, with the range of wants that share it.
    fn plan(&self, wants: &mut [Want]) -> Result<(Vec<ReadOp>, Vec<Share>), SectionStatus> {
        // Parts of one file ascend, but a part may be in any file: the part itself tells files apart.
        wants.sort_unstable_by_key(|want| {
            (part_of(self.hashes[want.key as usize]), want.whereabouts.read.first, want.key)
        });
        let mut reads = Vec::with_capacity(wants.len());
        let mut shares: Vec<Share> = Vec::with_capacity(wants.len());
        let mut last = None;
        for (number, want) in wants.iter().enumerate() {
            let place = (part_of(self.hashes[want.key as usize]), want.whereabouts.read);
            if last == Some(place) {
                if let Some(share) = shares.last_mut() {
                    share.end += 1;
                }
                continue;
            }
            let part = self.part(want).ok_or(SectionStatus::DataFault)?;
            reads.push(self.base.read(part.placed, want.whereabouts.read).ok_or(SectionStatus::DataFault)?);
            shares.push(number..number + 1);
            last = Some(place);
        }
        Ok((reads, shares))
    }

    /// Takes from a run that was read what is wanted of it.
    fn take<'k>(
        &self,
        bytes: &[u8],
        wants: &[Want],
        key: &impl Fn(usize) -> Key<'k>,
        answers: &mut DiskAnswers,
        again: &mut Vec<Want>,
    ) -> Result<(), SectionStatus> {
        let Some(first) = wants.first() else { return Ok(()) };
        let Some(part) = self.part(first) else { return Err(SectionStatus::DataFault) };
        let number = part_of(self.hashes[first.key as usize]);
        let run = match Run::verify(bytes, part.placed.origin, number, first.whereabouts.read.first) {
            Ok(run) => run,
            Err(error) => {
                tracing::error!(%error, part = %number, "blocks on local disk are damaged; the keys are left to other servers");
                return Err(self.fault(first));
            }
        };
        let spec = part.placed.layout.record_spec();
        let is_cached = self.reader.cache.is_on();
        for want in wants {
            let index = want.key as usize;
            let h = self.hashes[index];
            let found = run.find(&spec, h, key(index));
            if found.is_none()
                && let Some(whereabouts) = part.locate_next(h, want.whereabouts)
            {
                again.push(Want { whereabouts, ..*want });
                continue;
            }
            if is_cached {
                self.remember(h, key(index), found);
            }
            answers.states[index] = match found {
                Some(found) => self.judge(found, &mut answers.values)?,
                None => KeyState::Missing(KeyStatus::Absent),
            };
        }
        Ok(())
    }

    /// What a record found means at the time of reading. An expired record never uncovers an older one.
    fn judge(&self, found: Found<'_>, values: &mut Vec<u8>) -> Result<KeyState, SectionStatus> {
        if found.tombstone || is_expired(found.expiry, self.image.as_of()) {
            return Ok(KeyState::Missing(KeyStatus::Absent));
        }
        if is_expired(found.expiry, self.read_ts_s) {
            return Ok(KeyState::Missing(KeyStatus::Expired));
        }
        let at = values.len();
        if at + found.value.len() > self.value_bytes_max {
            return Err(SectionStatus::ReplyTooLarge);
        }
        values.extend_from_slice(found.value);
        let number = |number: usize| u32::try_from(number).map_err(|_| SectionStatus::ReplyTooLarge);
        Ok(KeyState::Found(number(at)?, number(found.value.len())?))
    }

    /// Notes that the part of a want cannot be read as it should.
    fn fault(&self, want: &Want) -> SectionStatus {
        let part = part_of(self.hashes[want.key as usize]);
        if let Some(file) = self.base.file_of(part) {
            self.reader.faults.note(self.table, self.image.content(), (part, file.local.name.clone()));
        }
        SectionStatus::DataFault
    }
}

/// The bytes of a key, or nothing where the hash says all.
fn key_bytes(key: Key<'_>) -> &[u8] {
    match key {
        Key::U64(_) => &[],
        Key::Bytes(key) => key,
    }
}
