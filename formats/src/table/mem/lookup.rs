//! Lookups in the image of a part.
//!
//! ```text
//!   h ─▶ first_line ─▶ locate_home ─┬─▶ located ─────────────────┬─▶ resolve ─▶ found
//!         (prefetch)                ├─▶ beyond ─▶ locate_beyond ─┘   (reads the record: prefetch it)
//!                                   └─▶ absent   (prefetch next_line)
//! ```

use crate::record::{Input, KEY_BYTES_MAX, Key, VALUE_BYTES_MAX};
use crate::schema::KeyType;
use crate::table::WIDTH_VARIES;
use crate::table::mem::geometry::bucket;
use crate::table::mem::layout::MemLayout;
use crate::table::mem::line::{LINE_BYTES, Line, META, Probe, REACH_MAX, Shape, SlotSpec, reach, used};

/// What a lookup found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found<'a> {
    /// The value as stored; empty for a tombstone.
    pub value: &'a [u8],
    /// Unix second at which the record expires; 0 for never.
    pub expiry: u32,
    /// Whether the record says that the key was deleted. Full loads have none.
    pub tombstone: bool,
}

/// The first half of a lookup: a slot whose record is, or may be, the key's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Located {
    record: u64,
    line: u32,
    slot: u8,
}

/// What the home line tells about a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Home {
    /// A slot there is, or may be, the key's.
    Located(Located),
    /// The key is absent.
    Absent,
    /// The key, if present, lies in the lines behind.
    Beyond(Beyond),
}

/// A lookup that goes on behind the home line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Beyond {
    home: u32,
    reach: u8,
}

impl Located {
    /// Byte offset of the record in the image, for a prefetch.
    #[inline]
    #[must_use]
    pub const fn record(&self) -> usize {
        self.record as usize
    }
}

impl MemLayout {
    /// Looks up a key with hash `h`, which belongs to this part.
    #[inline]
    #[must_use]
    pub fn find<'a>(&self, image: &'a [u8], h: u64, key: Key<'_>) -> Option<Found<'a>> {
        self.resolve(image, self.locate(image, h)?, h, key)
    }

    /// The first half of a lookup: reads index lines only. `None` proves that the key is absent. For `u64` keys
    /// something located is the key's record; for `bytes` keys it nearly always is, and [`resolve`](Self::resolve)
    /// decides.
    #[inline]
    #[must_use]
    pub fn locate(&self, image: &[u8], h: u64) -> Option<Located> {
        if self.probe == Probe::Sorted {
            return self.locate_sorted(image, h);
        }
        match self.locate_home(image, h) {
            Home::Located(located) => Some(located),
            Home::Absent => None,
            Home::Beyond(beyond) => self.locate_beyond(image, h, beyond),
        }
    }

    /// [`locate`](Self::locate) as far as the home line tells: for batches, which prefetch the next line of all keys
    /// that need one before they read any. Sorted parts are searched to the end at once.
    #[inline]
    #[must_use]
    pub fn locate_home(&self, image: &[u8], h: u64) -> Home {
        if self.probe == Probe::Sorted {
            return self.locate_sorted(image, h).map_or(Home::Absent, Home::Located);
        }
        let home = bucket(h, self.buckets);
        let Some(line) = self.line(image, home) else { return Home::Absent };
        let hits = self.hits(line, h);
        if hits != 0 {
            return Home::Located(self.at(line, home, hits.trailing_zeros() as u8));
        }
        let reach = reach(line[META]);
        if reach == 0 { Home::Absent } else { Home::Beyond(Beyond { home, reach }) }
    }

    /// Byte offset in the image of the line that [`locate_beyond`](Self::locate_beyond) reads first, for a prefetch.
    #[inline]
    #[must_use]
    pub const fn next_line(&self, beyond: Beyond) -> usize {
        self.index_offset as usize + (beyond.home as usize + 1) * LINE_BYTES
    }

    /// [`locate`](Self::locate) in the lines behind the home line.
    #[inline]
    #[must_use]
    pub fn locate_beyond(&self, image: &[u8], h: u64, beyond: Beyond) -> Option<Located> {
        self.scan(image, h, beyond.home, beyond.reach, beyond.home + 1)
    }

    /// The second half of a lookup: reads the record.
    #[inline]
    #[must_use]
    pub fn resolve<'a>(&self, image: &'a [u8], located: Located, h: u64, key: Key<'_>) -> Option<Found<'a>> {
        match (self.spec.key, key) {
            (KeyType::U64, _) => self.record(image, located.record).map(|(_, found)| found),
            (KeyType::Bytes, Key::Bytes(key)) => self.resolve_bytes(image, located, h, key),
            (KeyType::Bytes, Key::U64(_)) => None,
        }
    }

    fn resolve_bytes<'a>(&self, image: &'a [u8], located: Located, h: u64, key: &[u8]) -> Option<Found<'a>> {
        if self.probe == Probe::Sorted {
            return self.resolve_sorted(image, located, h, key);
        }
        let mut located = located;
        loop {
            let (stored, found) = self.record(image, located.record)?;
            if stored == key {
                return Some(found);
            }
            located = self.locate_after(image, located, h)?;
        }
    }

    /// The next candidate after `located`, whose record had another key.
    #[cold]
    fn locate_after(&self, image: &[u8], located: Located, h: u64) -> Option<Located> {
        let line = self.line(image, located.line)?;
        let later = self.hits(line, h) & (u32::MAX << located.slot << 1);
        if later != 0 {
            return Some(self.at(line, located.line, later.trailing_zeros() as u8));
        }
        let home = bucket(h, self.buckets);
        let home_reach = reach(self.line(image, home)?[META]);
        self.scan(image, h, home, home_reach, located.line.checked_add(1)?)
    }

    /// Looks for `h` in the lines from `next` to the end of `home`'s reach.
    fn scan(&self, image: &[u8], h: u64, home: u32, home_reach: u8, next: u32) -> Option<Located> {
        let distance = if home_reach < REACH_MAX { u32::from(home_reach) } else { self.d_max };
        // `home` is a bucket, and buckets + d_max lines are counted in 32 bits; a reach from damaged bytes may lead
        // past the last line, which is then not there.
        for number in next..=home.saturating_add(distance).min(self.lines.saturating_sub(1)) {
            let line = self.line(image, number)?;
            let hits = self.hits(line, h);
            if hits != 0 {
                return Some(self.at(line, number, hits.trailing_zeros() as u8));
            }
            // Whatever has its home further up would have gone here first.
            if used(line[META]) < self.spec.slots {
                return None;
            }
        }
        None
    }

    /// The first slot of a sorted part that holds `h`.
    #[cold]
    fn locate_sorted(&self, image: &[u8], h: u64) -> Option<Located> {
        let entry = self.partition(0, |entry| Some(self.sorted_entry(image, entry)?.0 < h))?;
        let (stored, located) = self.sorted_entry(image, entry)?;
        (stored == h).then_some(located)
    }

    /// Among the entries that hold `h`, from `located` on, the one whose record has `key`. They are in order of keys.
    fn resolve_sorted<'a>(&self, image: &'a [u8], located: Located, h: u64, key: &[u8]) -> Option<Found<'a>> {
        let first = u64::from(located.line) * u64::from(self.spec.slots) + u64::from(located.slot);
        let entry = self.partition(first, |entry| {
            let (stored_h, at) = self.sorted_entry(image, entry)?;
            Some(stored_h == h && self.record(image, at.record)?.0 < key)
        })?;
        let (stored_h, at) = self.sorted_entry(image, entry)?;
        let (stored, found) = self.record(image, at.record)?;
        (stored_h == h && stored == key).then_some(found)
    }

    /// The first entry from `first` on for which `before` does not hold; `None` if there is none, or if `before` cannot
    /// tell.
    fn partition(&self, first: u64, before: impl Fn(u64) -> Option<bool>) -> Option<u64> {
        let (mut low, mut high) = (first, self.records);
        while low < high {
            let middle = low + (high - low) / 2;
            if before(middle)? {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        (low < self.records).then_some(low)
    }

    /// Hash and slot of an entry of a sorted part.
    fn sorted_entry(&self, image: &[u8], entry: u64) -> Option<(u64, Located)> {
        let slots = u64::from(self.spec.slots);
        let number = u32::try_from(entry / slots).ok()?;
        let slot = (entry % slots) as u8;
        let line = self.line(image, number)?;
        Some((self.spec.stored_h(line, slot), self.at(line, number, slot)))
    }

    /// The slots in use that hold the stored bits of `h`.
    #[inline]
    fn hits(&self, line: &Line, h: u64) -> u32 {
        let in_use = !(u32::MAX << used(line[META]));
        self.spec.matching(line, h & self.mask) & in_use & self.used_mask
    }

    #[inline]
    pub(super) fn line<'a>(&self, image: &'a [u8], number: u32) -> Option<&'a Line> {
        let at = usize::try_from(self.index_offset).ok()? + number as usize * LINE_BYTES;
        image.get(at..)?.first_chunk()
    }

    #[inline]
    pub(super) fn at(&self, line: &Line, number: u32, slot: u8) -> Located {
        let record = match self.spec.shape {
            Shape::Inline => u64::from(number) * LINE_BYTES as u64 + self.spec.payload_at(slot) as u64,
            Shape::Dense | Shape::Heap => self.spec.record_at(line, slot),
        };
        Located { record, line: number, slot }
    }

    /// The stored key (empty for `u64` keys) and the rest of the record at byte `at`.
    #[inline]
    pub(super) fn record<'a>(&self, image: &'a [u8], at: u64) -> Option<(&'a [u8], Found<'a>)> {
        read_record(&self.spec, image.get(usize::try_from(at).ok()?..)?)
    }
}

/// The stored key (empty for `u64` keys) and the rest of the record at the beginning of `bytes`.
#[inline(always)]
pub(super) fn read_record<'a>(spec: &SlotSpec, bytes: &'a [u8]) -> Option<(&'a [u8], Found<'a>)> {
    if spec.shape == Shape::Heap {
        return heap_record(spec, bytes);
    }
    let (value, rest) = bytes.split_at_checked(spec.width as usize)?;
    let expiry = if spec.ttl { u32::from_le_bytes(*rest.first_chunk()?) } else { 0 };
    Some((&[], Found { value, expiry, tombstone: false }))
}

#[inline(always)]
fn heap_record<'a>(spec: &SlotSpec, bytes: &'a [u8]) -> Option<(&'a [u8], Found<'a>)> {
    let mut rest = bytes;
    let mut expiry = 0;
    if spec.ttl {
        let (first, behind) = rest.split_first_chunk()?;
        (expiry, rest) = (u32::from_le_bytes(*first), behind);
    }
    let key = match spec.key {
        KeyType::U64 => &[],
        KeyType::Bytes => blob(&mut rest, KEY_BYTES_MAX)?,
    };
    let value = match spec.width {
        WIDTH_VARIES => blob(&mut rest, VALUE_BYTES_MAX)?,
        width => rest.get(..width as usize)?,
    };
    Some((key, Found { value, expiry, tombstone: false }))
}

/// Takes a length and that many bytes from the beginning of `rest`.
#[inline(always)]
fn blob<'a>(rest: &mut &'a [u8], max: usize) -> Option<&'a [u8]> {
    let (&first, behind) = rest.split_first()?;
    if first >= 0x80 || usize::from(first) > max {
        return long_blob(rest, max);
    }
    let (taken, behind) = behind.split_at_checked(usize::from(first))?;
    *rest = behind;
    Some(taken)
}

/// [`blob`] where the length takes more than a byte.
#[cold]
fn long_blob<'a>(rest: &mut &'a [u8], max: usize) -> Option<&'a [u8]> {
    let mut input = Input::new("memory record", rest);
    let taken = input.blob(max).ok()?;
    *rest = input.rest();
    Some(taken)
}
