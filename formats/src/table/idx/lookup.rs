//! Lookups in the resident section of an idx part: which runs may hold a key.

use std::cmp::Ordering;

use crate::table::disk::BlockRead;
use crate::table::idx::layout::IdxLayout;
use crate::table::idx::{BASE, DELTA_BYTES, END, SORTED_H_BYTES, SORTED_SLOTS, TAG_H_BYTES, TAG_SLOTS};
use crate::table::mem::geometry::bucket;
use crate::table::mem::line::{LINE_BYTES, Line, META, Probe, REACH_MAX, matching, reach, u32_at, used, word_at};

/// Bytes of a slot.
const TAG_STRIDE: usize = (TAG_H_BYTES + DELTA_BYTES) as usize;
const SORTED_STRIDE: usize = (SORTED_H_BYTES + DELTA_BYTES) as usize;
/// The bits of `h` in a slot.
const TAG_MASK: u64 = u64::MAX >> (64 - 8 * TAG_H_BYTES as u32);

/// A run that may hold a key, and the slot that said so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// The run.
    pub read: BlockRead,
    line: u32,
    slot: u8,
}

/// The runs that may hold a key, usually none or one.
#[derive(Clone, Debug)]
pub struct Candidates<'a> {
    layout: IdxLayout,
    resident: &'a [u8],
    h: u64,
    next: Option<Candidate>,
}

impl Iterator for Candidates<'_> {
    type Item = BlockRead;

    #[inline]
    fn next(&mut self) -> Option<BlockRead> {
        let candidate = self.next?;
        self.next = self.layout.locate_next(self.resident, self.h, candidate);
        Some(candidate.read)
    }
}

impl IdxLayout {
    /// All runs that may hold a key with hash `h`, which belongs to this part. None proves that it is absent.
    #[inline]
    #[must_use]
    pub fn candidates<'a>(&self, resident: &'a [u8], h: u64) -> Candidates<'a> {
        Candidates { layout: *self, resident, h, next: self.locate(resident, h) }
    }

    /// The first run that may hold a key with hash `h`, which belongs to this part: nearly always the one that does. `None`
    /// proves that the key is absent. Reads the resident section only.
    #[inline]
    #[must_use]
    pub fn locate(&self, resident: &[u8], h: u64) -> Option<Candidate> {
        if self.probe == Probe::Sorted {
            return self.locate_sorted(resident, h);
        }
        let home = bucket(h, self.buckets);
        let line = line(resident, home)?;
        let hits = hits(line, h);
        if hits != 0 {
            return self.candidate(line, home, hits.trailing_zeros() as u8);
        }
        let reach = reach(line[META]);
        if reach == 0 { None } else { self.scan(resident, h, home, reach, home + 1) }
    }

    /// The next run that may hold the key when that of `candidate`, which [`locate`](Self::locate) gave, does not.
    #[must_use]
    pub fn locate_next(&self, resident: &[u8], h: u64, candidate: Candidate) -> Option<Candidate> {
        if self.probe == Probe::Sorted {
            // Records with one hash are in one run.
            return None;
        }
        let home = bucket(h, self.buckets);
        let home_reach = reach(line(resident, home)?[META]);
        let mut last = candidate;
        loop {
            let this = line(resident, last.line)?;
            let later = hits(this, h) & (u32::MAX << last.slot << 1);
            last = if later != 0 {
                self.candidate(this, last.line, later.trailing_zeros() as u8)?
            } else {
                self.scan(resident, h, home, home_reach, last.line.checked_add(1)?)?
            };
            if last.read != candidate.read {
                return Some(last);
            }
        }
    }

    /// How many lines from home the entry of a candidate for `h` lies; 0 in a sorted part.
    #[must_use]
    pub const fn displacement(&self, h: u64, candidate: Candidate) -> u32 {
        match self.probe {
            Probe::Scan => candidate.line.saturating_sub(bucket(h, self.buckets)),
            Probe::Sorted => 0,
        }
    }

    /// How many entries the lines have in use; `None` if one says more than it has room for, or is cut off.
    pub(crate) fn entries(&self, resident: &[u8]) -> Option<u64> {
        let mut entries = 0;
        for number in 0..self.lines {
            let in_use = used(line(resident, number)?[META]);
            entries += u64::from((in_use <= self.slots()).then_some(in_use)?);
        }
        Some(entries)
    }

    /// Looks for `h` in the lines from `next` to the end of `home`'s reach.
    #[inline]
    fn scan(&self, resident: &[u8], h: u64, home: u32, home_reach: u8, next: u32) -> Option<Candidate> {
        let distance = if home_reach < REACH_MAX { u32::from(home_reach) } else { self.d_max };
        for number in next..=home.saturating_add(distance).min(self.lines.saturating_sub(1)) {
            let line = line(resident, number)?;
            let hits = hits(line, h);
            if hits != 0 {
                return self.candidate(line, number, hits.trailing_zeros() as u8);
            }
            // Whatever has its home further up would have gone here first.
            if used(line[META]) < TAG_SLOTS {
                return None;
            }
        }
        None
    }

    /// The run that a slot in use points to. `None` only in damaged bytes.
    #[inline]
    fn candidate(&self, bytes: &Line, line: u32, slot: u8) -> Option<Candidate> {
        let (stride, h_bytes) = match self.probe {
            Probe::Scan => (TAG_STRIDE, TAG_H_BYTES),
            Probe::Sorted => (SORTED_STRIDE, SORTED_H_BYTES),
        };
        let at = |slot: u8| usize::from(slot) * stride + usize::from(h_bytes);
        let delta = delta_at(bytes, at(slot))?;
        let mut behind = delta_at(bytes, END)?;
        // Slots behind that point to the same run share it; the first that does not, or the line's end, is behind it.
        if behind > delta + 1 {
            for later in slot + 1..used(bytes[META]) {
                let other = delta_at(bytes, at(later))?;
                if other != delta {
                    behind = other;
                    break;
                }
            }
        }
        let first = u32_at(bytes, BASE).checked_add(delta)?;
        let read = BlockRead { first, blocks: behind.checked_sub(delta)?.max(1) };
        Some(Candidate { read: read.within(self.blocks)?, line, slot })
    }

    /// The first slot of a sorted part that holds `h`.
    #[cold]
    fn locate_sorted(&self, resident: &[u8], h: u64) -> Option<Candidate> {
        let (mut low, mut high) = (0, self.records);
        while low < high {
            let middle = low + (high - low) / 2;
            let (line, _, slot) = self.sorted_entry(resident, middle)?;
            match stored_h(line, slot)?.cmp(&h) {
                Ordering::Less => low = middle + 1,
                Ordering::Equal | Ordering::Greater => high = middle,
            }
        }
        if low == self.records {
            return None;
        }
        let (line, number, slot) = self.sorted_entry(resident, low)?;
        if stored_h(line, slot)? == h { self.candidate(line, number, slot) } else { None }
    }

    fn sorted_entry<'a>(&self, resident: &'a [u8], entry: u64) -> Option<(&'a Line, u32, u8)> {
        let slots = u64::from(SORTED_SLOTS);
        let number = u32::try_from(entry / slots).ok()?;
        Some((line(resident, number)?, number, (entry % slots) as u8))
    }
}

#[inline]
pub(super) fn line(resident: &[u8], number: u32) -> Option<&Line> {
    resident.get(number as usize * LINE_BYTES..)?.first_chunk()
}

fn stored_h(line: &Line, slot: u8) -> Option<u64> {
    (slot < SORTED_SLOTS).then(|| word_at(line, usize::from(slot) * SORTED_STRIDE))
}

/// The slots in use that hold the low bits of `h`.
#[inline]
fn hits(line: &Line, h: u64) -> u32 {
    let in_use = !(u32::MAX << used(line[META]).min(TAG_SLOTS));
    matching::<TAG_STRIDE>(line, h & TAG_MASK, TAG_MASK) & in_use
}

#[inline]
fn delta_at(line: &Line, at: usize) -> Option<u32> {
    Some(u32::from(u16::from_le_bytes(*line.get(at..)?.first_chunk()?)))
}
