//! Reading all records of a part in their order, for folds, checkpoints and people.

use crate::error::FormatError;
use crate::hash::{hash_bytes, unhash_u64};
use crate::id::Part;
use crate::record::{Key, RecordRef};
use crate::route::{first_hash, part_of};
use crate::schema::KeyType;
use crate::table::mem::geometry::bucket;
use crate::table::mem::layout::MemLayout;
use crate::table::mem::line::{META, Probe, used};

/// The records of a part, in ascending order of `(h, key)`. Ends with an error if the image contradicts itself.
#[derive(Debug)]
pub struct Records<'a> {
    layout: MemLayout,
    image: &'a [u8],
    part: Part,
    line: u32,
    slot: u8,
    read: u64,
    last: Option<(u64, Key<'a>)>,
    failed: bool,
}

impl MemLayout {
    /// The records of the image of `part`. Keys of type `u64` are recovered from their hashes.
    #[must_use]
    pub fn iter<'a>(&self, image: &'a [u8], part: Part) -> Records<'a> {
        Records { layout: *self, image, part, line: 0, slot: 0, read: 0, last: None, failed: false }
    }

    /// All of `h`, from the low bits that a slot of line `line` of `part` stores.
    fn whole_h(&self, part: Part, line: u32, stored: u64) -> Option<u64> {
        if self.probe() == Probe::Sorted || self.h_bytes() == 8 {
            return Some(stored);
        }
        // The line holds homes from here on, and they are fewer than the stored bits tell apart.
        let first_bucket = line.saturating_sub(self.d_max());
        let first_place = (u128::from(first_bucket) << 64).div_ceil(u128::from(self.buckets()));
        let first = u64::try_from(first_hash(part, u64::try_from(first_place).ok()?)).ok()?;
        first.checked_add(stored.wrapping_sub(first) & self.spec.mask())
    }
}

impl<'a> Records<'a> {
    /// How many lines from home the record given last lies; 0 in a sorted part.
    #[must_use]
    pub fn displacement(&self) -> u32 {
        match (self.layout.probe(), self.last) {
            (Probe::Scan, Some((h, _))) => self.line.saturating_sub(bucket(h, self.layout.buckets())),
            _ => 0,
        }
    }

    fn damaged(&self, reason: &str) -> FormatError {
        FormatError::damaged(
            "memory part",
            format!("part {}, line {}, slot {}: {reason}", self.part, self.line, self.slot),
        )
    }

    fn step(&mut self) -> Result<Option<RecordRef<'a>>, FormatError> {
        let line = loop {
            if self.line == self.layout.lines() {
                return if self.read == self.layout.records() {
                    Ok(None)
                } else {
                    Err(self.damaged(&format!("{} records, not {}", self.read, self.layout.records())))
                };
            }
            let line = self.layout.line(self.image, self.line).ok_or_else(|| self.damaged("it is cut off"))?;
            if used(line[META]) > self.layout.slots() {
                return Err(self.damaged("more slots in use than there are"));
            }
            if self.slot < used(line[META]) {
                break line;
            }
            (self.line, self.slot) = (self.line + 1, 0);
        };
        let located = self.layout.at(line, self.line, self.slot);
        let stored_h = self.layout.spec.stored_h(line, self.slot);
        let (stored_key, found) = self
            .layout
            .record(self.image, located.record() as u64)
            .ok_or_else(|| self.damaged("its record cannot be read"))?;
        let (h, key) = match self.layout.key_type() {
            KeyType::U64 => {
                let h = self.layout.whole_h(self.part, self.line, stored_h);
                let h = h.ok_or_else(|| self.damaged("its hash is out of range"))?;
                (h, Key::U64(unhash_u64(h)))
            }
            KeyType::Bytes => (hash_bytes(stored_key), Key::Bytes(stored_key)),
        };
        if part_of(h) != self.part || h & self.layout.spec.mask() != stored_h {
            return Err(self.damaged("its key does not belong there"));
        }
        if self.last.is_some_and(|last| last >= (h, key)) {
            return Err(self.damaged("it is not above the one before it"));
        }
        if self.read == self.layout.records() {
            return Err(self.damaged("it is one more than the header says"));
        }
        if self.layout.probe() == Probe::Scan {
            let home = bucket(h, self.layout.buckets());
            if home > self.line || self.line - home > self.layout.d_max() {
                return Err(self.damaged("it is too far from home"));
            }
        }
        self.last = Some((h, key));
        self.slot += 1;
        self.read += 1;
        Ok(Some(RecordRef { h, key, expiry: found.expiry, value: Some(found.value) }))
    }
}

impl<'a> Iterator for Records<'a> {
    type Item = Result<RecordRef<'a>, FormatError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed {
            return None;
        }
        let next = self.step().transpose();
        self.failed = !matches!(next, Some(Ok(_)));
        next
    }
}
