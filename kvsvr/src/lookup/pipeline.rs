//! Looks a batch up with many cache misses in flight.
//!
//! ```text
//!   window of 64 keys     step s        s + 1                s + 2                          s + 3
//!     all shapes          ask for ────▶ compare ───────────▶ lines behind, for the few
//!                         both lines    (home and next line) that need them
//!     inline                                                 └─▶ answers
//!     records outside                                        └─▶ ask for the records ─────▶ answers
//! ```
//!
//! A lookup in memory is a cache miss or two; one after the other they cost 100 ns each, many at once a fraction of
//! that. So keys go through in windows, and every step of a window asks for what the next step reads. Asking for one
//! window alternates with comparing the window before, key by key, so that requests to memory leave at a steady rate.
//! The line behind the home line is asked for at once: memory brings neighbours nearly for the price of one, and at the
//! usual load four of ten keys are in it.
//!
//! No step has a branch that depends on where a key is; the keys that go on are queued with a store and an addition.

use fkv_formats::hash::{hash_bytes, hash_u64};
use fkv_formats::record::{Key, is_expired};
use fkv_formats::route::part_of;
use fkv_formats::table::mem::{Found, IndexLine, LineFormat, Shape};
use fkv_rpc::packed::{DenseWriter, KeyStatus, Keys, SectionStatus};

use super::NOT_HERE;
use super::prefetch::prefetch_range;
use super::probe::{NEXT, Probe, Words};
#[cfg(target_arch = "x86_64")]
use super::probe::{Pairs, Permuted};
use crate::image::{HeldPart, Home, Image, Lines};

/// Keys of a window where lookups read lines only: at most one per bit of a word.
const LINES_WINDOW: usize = 64;
/// Keys of a window where they read records too: what is under way must leave room in the first-level cache.
const RECORDS_WINDOW: usize = 32;
/// Windows under way.
const RING: usize = 4;
/// Most lines of one record to ask for: the hardware follows from there.
const RECORD_LINES_MAX: usize = 8;
/// Bytes asked for where a record's length is not known before it is read.
const RECORD_BYTES_EXPECTED: usize = 128;
/// The reach from which on lines behind the next one hold keys.
const REACH_BEYOND: u8 = 2;

/// How a key fared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer<'a> {
    /// Its value, as stored.
    Found(&'a [u8]),
    /// Why it has none.
    Missing(KeyStatus),
}

/// The keys of a section, and what to look them up in.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Batch<'a> {
    pub(crate) image: &'a Image,
    pub(crate) keys: Keys<'a>,
    pub(crate) as_of: u32,
    pub(crate) read_ts_s: u32,
}

impl<'a> Batch<'a> {
    /// Calls `sink` with the answer of every key, in order, until it objects.
    pub(crate) fn run(&self, sink: impl FnMut(Answer<'a>) -> Result<(), SectionStatus>) -> Result<(), SectionStatus> {
        match self.image.lines().format() {
            Some(format) if format.shape() == Shape::Inline => {
                self.pass::<_, LINES_WINDOW>(format, One { batch: self, format, sink })
            }
            Some(format) => self.pass::<_, RECORDS_WINDOW>(format, One { batch: self, format, sink }),
            None => {
                let mut one = One { batch: self, format: (), sink };
                (0..self.keys.len()).try_for_each(|index| one.slowly(index))
            }
        }
    }

    /// Whether values lie in index lines as they go into a reply, `width` bytes each, and never expire.
    pub(crate) fn is_plain(&self, width: usize) -> bool {
        self.image.lines().format().is_some_and(|format| {
            let plain = format.shape() == Shape::Inline && !format.has_expiry();
            plain && format.value_width() == Some(width)
        })
    }

    /// Answers every key of a plain batch.
    pub(crate) fn fill(&self, dense: &mut DenseWriter<'_>) -> Result<(), SectionStatus> {
        let Some(format) = self.image.lines().format() else { return Err(SectionStatus::DataFault) };
        let batch = self;
        match format.value_width() {
            Some(4) => self.pass::<_, LINES_WINDOW>(format, Plain::<'_, '_, '_, '_, 4> { batch, format, dense }),
            Some(8) => self.pass::<_, LINES_WINDOW>(format, Plain::<'_, '_, '_, '_, 8> { batch, format, dense }),
            Some(2) => self.pass::<_, LINES_WINDOW>(format, Plain::<'_, '_, '_, '_, 2> { batch, format, dense }),
            Some(16) => self.pass::<_, LINES_WINDOW>(format, Plain::<'_, '_, '_, '_, 16> { batch, format, dense }),
            _ => self.run(|answer| {
                match answer {
                    Answer::Found(stored) => {
                        let value = dense.found();
                        if value.len() != stored.len() {
                            return Err(SectionStatus::DataFault);
                        }
                        value.copy_from_slice(stored);
                    }
                    Answer::Missing(status) => dense.missing(status),
                }
                Ok(())
            }),
        }
    }

    /// Looks all keys up, in the way this CPU does it best.
    fn pass<S: Sink<'a, W>, const W: usize>(&self, format: LineFormat, sink: S) -> Result<(), SectionStatus> {
        #[cfg(target_arch = "x86_64")]
        {
            if let Some(permuted) = Permuted::<false>::new(format) {
                // SAFETY: `Permuted::new` gives a value only if the CPU has all that `pass_wide` enables.
                return unsafe { pass_wide(self.image.lines(), self.keys, format, permuted, sink) };
            }
            if let Some(permuted) = Permuted::<true>::new(format) {
                // SAFETY: as above.
                return unsafe { pass_wide(self.image.lines(), self.keys, format, permuted, sink) };
            }
            if let Some(pairs) = Pairs::new(&format) {
                return pass(self.image.lines(), self.keys, format, pairs, sink);
            }
        }
        pass(self.image.lines(), self.keys, format, Words(format), sink)
    }

    #[inline]
    fn key(&self, index: usize) -> Key<'a> {
        match self.keys {
            Keys::U64(keys) => Key::U64(keys.get(index)),
            Keys::Bytes(keys) => Key::Bytes(keys.get(index)),
        }
    }

    /// Looks one key up, whatever its part looks like.
    #[cold]
    fn find(&self, index: usize) -> Answer<'a> {
        let key = self.key(index);
        let h = key.hash();
        match self.image.part(part_of(h)) {
            HeldPart::Not => NOT_HERE,
            HeldPart::Empty => Answer::Missing(KeyStatus::Absent),
            HeldPart::Data(bytes, layout) => self.judge(layout.find(bytes, h, key)),
        }
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

/// Where the keys of a window are.
struct Window<'w, 'a, const W: usize> {
    /// Index of the first.
    first: usize,
    count: usize,
    /// Bit `i`: a slot holds the bits of key `i`; else the key is absent.
    found: u64,
    /// Bit `i`: lines do not tell about key `i`.
    slow: u64,
    hashes: &'w [u64; W],
    lines: &'w [&'a IndexLine; W],
    slots: &'w [u8; W],
}

/// What takes the windows, in order.
trait Sink<'a, const W: usize> {
    /// Whether answers read more than lines.
    const READS_RECORDS: bool;
    fn window(&mut self, window: &Window<'_, 'a, W>) -> Result<(), SectionStatus>;
}

/// Any values, one by one.
struct One<'b, 'a, F, S> {
    batch: &'b Batch<'a>,
    format: F,
    sink: S,
}

impl<'a, F, S> One<'_, 'a, F, S>
where
    S: FnMut(Answer<'a>) -> Result<(), SectionStatus>,
{
    fn slowly(&mut self, index: usize) -> Result<(), SectionStatus> {
        (self.sink)(self.batch.find(index))
    }
}

impl<'a, S, const W: usize> Sink<'a, W> for One<'_, 'a, LineFormat, S>
where
    S: FnMut(Answer<'a>) -> Result<(), SectionStatus>,
{
    const READS_RECORDS: bool = true;

    #[inline(always)]
    fn window(&mut self, window: &Window<'_, 'a, W>) -> Result<(), SectionStatus> {
        let (batch, format) = (self.batch, self.format);
        for offset in 0..window.count {
            let index = window.first + offset;
            if window.slow >> offset & 1 == 1 {
                self.slowly(index)?;
                continue;
            }
            if window.found >> offset & 1 == 0 {
                (self.sink)(Answer::Missing(KeyStatus::Absent))?;
                continue;
            }
            let (line, slot, h) = (window.lines[offset], window.slots[offset], window.hashes[offset]);
            let found = if format.shape() == Shape::Inline {
                format.inline_value(line, slot)
            } else {
                let image = batch.image.lines().image(h);
                let record = usize::try_from(format.record_at(line, slot)).ok().and_then(|at| image.get(at..));
                match (record.and_then(|record| format.read_record(record)), batch.key(index)) {
                    (Some((_, found)), Key::U64(_)) => Some(found),
                    (Some((stored, found)), Key::Bytes(key)) if stored == key => Some(found),
                    // Another key with the same bits: rare, and the search may go on further.
                    _ => {
                        self.slowly(index)?;
                        continue;
                    }
                }
            };
            (self.sink)(batch.judge(found))?;
        }
        Ok(())
    }
}

/// Values of `WIDTH` bytes that lie in index lines as they go into the reply.
struct Plain<'b, 'd, 'w, 'a, const WIDTH: usize> {
    batch: &'b Batch<'a>,
    format: LineFormat,
    dense: &'d mut DenseWriter<'w>,
}

impl<'a, const WIDTH: usize, const W: usize> Sink<'a, W> for Plain<'_, '_, '_, 'a, WIDTH> {
    const READS_RECORDS: bool = false;

    #[inline(always)]
    fn window(&mut self, window: &Window<'_, 'a, W>) -> Result<(), SectionStatus> {
        if window.slow != 0 {
            return self.mixed(window);
        }
        let (stride, payload) = (self.format.stride(), self.format.h_bytes());
        let found = window.found;
        self.dense.fill(window.count, |values| {
            let mut at = 0;
            for offset in 0..window.count {
                let from = usize::from(window.slots[offset]) * stride + payload;
                // A value follows its bits within the line, and what was found before takes no more room than the keys.
                if let (Some(value), Some(room)) = (
                    window.lines[offset].get(from..from + WIDTH),
                    values.get_mut(at..).and_then(<[u8]>::first_chunk_mut::<WIDTH>),
                ) {
                    room.copy_from_slice(value);
                }
                at += WIDTH * (found >> offset & 1) as usize;
            }
            found
        });
        Ok(())
    }
}

impl<const WIDTH: usize> Plain<'_, '_, '_, '_, WIDTH> {
    /// A window with keys that lines do not tell about.
    #[cold]
    fn mixed<const W: usize>(&mut self, window: &Window<'_, '_, W>) -> Result<(), SectionStatus> {
        for offset in 0..window.count {
            let index = window.first + offset;
            let answer = if window.slow >> offset & 1 == 1 {
                self.batch.find(index)
            } else if window.found >> offset & 1 == 1 {
                self.batch.judge(self.format.inline_value(window.lines[offset], window.slots[offset]))
            } else {
                Answer::Missing(KeyStatus::Absent)
            };
            match answer {
                Answer::Found(stored) => {
                    let value = self.dense.found();
                    if value.len() != stored.len() {
                        return Err(SectionStatus::DataFault);
                    }
                    value.copy_from_slice(stored);
                }
                Answer::Missing(status) => self.dense.missing(status),
            }
        }
        Ok(())
    }
}

/// [`pass`] with wide instructions.
///
/// # Safety
/// The CPU must have what is enabled: [`super::is_wide`].
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,bmi1,bmi2,lzcnt,popcnt,avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi")]
fn pass_wide<'a, P: Probe, S: Sink<'a, W>, const W: usize>(
    lines: &'a Lines,
    keys: Keys<'_>,
    format: LineFormat,
    permuted: P,
    sink: S,
) -> Result<(), SectionStatus> {
    pass(lines, keys, format, permuted, sink)
}

/// What is known of the windows under way; that of window `w` at `w % RING`.
struct Ring<'a, const W: usize> {
    hashes: [[u64; W]; RING],
    homes: [[Home<'a>; W]; RING],
    lines: [[&'a IndexLine; W]; RING],
    slots: [[u8; W]; RING],
    found: [u64; RING],
    slow: [u64; RING],
    /// Keys that go on behind the next line: offsets in the window.
    queue: [[u8; W]; RING],
    queued: [usize; RING],
}

/// Takes all keys through the steps.
#[inline(always)]
fn pass<'a, P: Probe, S: Sink<'a, W>, const W: usize>(
    lines: &'a Lines,
    keys: Keys<'_>,
    format: LineFormat,
    probe: P,
    mut sink: S,
) -> Result<(), SectionStatus> {
    let count = keys.len();
    let windows = count.div_ceil(W);
    let count_of = |number: usize| if number < windows { (count - number * W).min(W) } else { 0 };
    let last_step = if S::READS_RECORDS { 3 } else { 2 };
    let mut ring = Ring {
        hashes: [[0; W]; RING],
        homes: [[Home::nowhere(); W]; RING],
        lines: [[Home::nowhere().line(); W]; RING],
        slots: [[0; W]; RING],
        found: [0; RING],
        slow: [0; RING],
        queue: [[0; W]; RING],
        queued: [0; RING],
    };
    for step in 0..windows + last_step {
        let asked = count_of(step);
        if asked > 0 {
            hash(keys, step * W, &mut ring.hashes[step % RING]);
        }
        let compared = if step >= 1 { count_of(step - 1) } else { 0 };
        compare(&mut ring, lines, format, probe, step, asked, compared);
        if step >= 2 && step - 2 < windows {
            let at = (step - 2) % RING;
            beyond(&mut ring, lines, format, probe, at);
            if S::READS_RECORDS && format.shape() != Shape::Inline {
                ask_for_records(&ring, lines, format, at);
            }
        }
        if step >= last_step && step - last_step < windows {
            let (number, at) = (step - last_step, (step - last_step) % RING);
            sink.window(&Window {
                first: number * W,
                count: count_of(number),
                found: ring.found[at],
                slow: ring.slow[at],
                hashes: &ring.hashes[at],
                lines: &ring.lines[at],
                slots: &ring.slots[at],
            })?;
        }
    }
    Ok(())
}

/// Hashes a window of keys from `first` on, as many as there are.
#[inline(always)]
fn hash<const W: usize>(keys: Keys<'_>, first: usize, hashes: &mut [u64; W]) {
    match keys {
        Keys::U64(keys) => {
            let packed = keys.packed().get(first..).unwrap_or_default();
            match packed.first_chunk::<W>() {
                // A loop of known length, which the compiler makes eight keys at a time.
                Some(packed) => {
                    for (h, key) in hashes.iter_mut().zip(packed) {
                        *h = hash_u64(u64::from_le_bytes(*key));
                    }
                }
                None => {
                    for (h, key) in hashes.iter_mut().zip(packed) {
                        *h = hash_u64(u64::from_le_bytes(*key));
                    }
                }
            }
        }
        Keys::Bytes(keys) => {
            for (h, index) in hashes.iter_mut().zip(first..keys.len()) {
                *h = hash_bytes(keys.get(index));
            }
        }
    }
}

/// Asks for the lines of the window of this `step`, and compares those of the window before.
#[inline(always)]
fn compare<'a, P: Probe, const W: usize>(
    ring: &mut Ring<'a, W>,
    lines: &'a Lines,
    format: LineFormat,
    probe: P,
    step: usize,
    asked: usize,
    compared: usize,
) {
    let (new, old) = (step % RING, step.wrapping_sub(1) % RING);
    let [homes, old_homes] = ring.homes.get_disjoint_mut([new, old]).expect("two windows of the ring");
    let (new_hashes, old_hashes) = (&ring.hashes[new], &ring.hashes[old]);
    let mut comparison = Comparison {
        homes: old_homes,
        lines: &mut ring.lines[old],
        slots: &mut ring.slots[old],
        queue: &mut ring.queue[old],
        found: 0,
        queued: 0,
    };
    let mask = format.mask();
    // Only the last window asked for is shorter than the one before it.
    let both = asked.min(compared).min(W);
    for offset in 0..both {
        comparison.look(format, probe, offset, old_hashes[offset], mask);
        ask(lines, homes, offset, new_hashes[offset]);
    }
    for (offset, h) in old_hashes.iter().enumerate().take(compared).skip(both) {
        comparison.look(format, probe, offset, *h, mask);
    }
    for (offset, h) in new_hashes.iter().enumerate().take(asked).skip(both) {
        ask(lines, homes, offset, *h);
    }
    let Comparison { found, queued, .. } = comparison;
    for offset in &ring.queue[old][..queued.min(W)] {
        let home = old_homes[usize::from(*offset) % W];
        for ahead in REACH_BEYOND..=LineFormat::reach(home.line()) {
            home.prefetch_behind(ahead);
        }
    }
    (ring.found[old], ring.queued[old]) = (found, queued);
}

#[inline(always)]
fn ask<'a, const W: usize>(lines: &'a Lines, homes: &mut [Home<'a>; W], offset: usize, h: u64) {
    let home = lines.home(h);
    home.prefetch();
    homes[offset] = home;
}

/// A window being compared.
struct Comparison<'r, 'a, const W: usize> {
    homes: &'r [Home<'a>; W],
    lines: &'r mut [&'a IndexLine; W],
    slots: &'r mut [u8; W],
    queue: &'r mut [u8; W],
    found: u64,
    queued: usize,
}

impl<const W: usize> Comparison<'_, '_, W> {
    #[inline(always)]
    fn look<P: Probe>(&mut self, format: LineFormat, probe: P, offset: usize, h: u64, mask: u64) {
        let home = self.homes[offset];
        let wanted = h & mask;
        let slots = probe.slots(home.line(), home.next(), wanted);
        // Slots not in use are zero; what seems to match them is looked up with care.
        let is_vague = format.is_vague(wanted);
        let hit = (slots != 0) & !is_vague;
        let goes_on = (LineFormat::reach(home.line()) >= REACH_BEYOND) & (slots == 0) | is_vague;
        let slot = slots.trailing_zeros();
        self.lines[offset] = home.line_or_next(slot >= NEXT);
        self.slots[offset] = (slot % NEXT) as u8;
        self.found |= u64::from(hit) << offset;
        self.queue[self.queued % W] = offset as u8;
        self.queued = self.queued.wrapping_add(usize::from(goes_on));
    }
}

/// Looks for the queued keys of the window at `at` in the lines behind the next one.
#[inline(always)]
fn beyond<'a, P: Probe, const W: usize>(
    ring: &mut Ring<'a, W>,
    lines: &'a Lines,
    format: LineFormat,
    probe: P,
    at: usize,
) {
    let mut slow = 0;
    for index in 0..ring.queued[at].min(W) {
        let offset = usize::from(ring.queue[at][index]) % W;
        let (home, h) = (ring.homes[at][offset], ring.hashes[at][offset]);
        let wanted = h & format.mask();
        if format.is_vague(wanted) || lines.is_decoy(home) {
            slow |= 1 << offset;
            continue;
        }
        // The next line is behind the home line, and those here are behind the next.
        let distance = format.distance_max(home.line()) as usize;
        for line in lines.beyond(home, h).iter().take(distance - 1) {
            let slots = probe.slots(line, line, wanted);
            if slots != 0 {
                ring.lines[at][offset] = line;
                ring.slots[at][offset] = (slots.trailing_zeros() % NEXT) as u8;
                ring.found[at] |= 1 << offset;
                break;
            }
            if format.ends(line) {
                break;
            }
        }
    }
    ring.slow[at] = slow;
}

/// Asks for the records of the keys found in the window at `at`.
#[inline(always)]
fn ask_for_records<const W: usize>(ring: &Ring<'_, W>, lines: &Lines, format: LineFormat, at: usize) {
    let len = format.value_width().unwrap_or(RECORD_BYTES_EXPECTED);
    // By bits: whether a key was found is not for the CPU to guess.
    let mut found = ring.found[at];
    while found != 0 {
        let offset = found.trailing_zeros() as usize % W;
        found &= found - 1;
        let record = format.record_at(ring.lines[at][offset], ring.slots[at][offset]);
        let image = lines.image(ring.hashes[at][offset]);
        prefetch_range(image, usize::try_from(record).unwrap_or(usize::MAX), len, RECORD_LINES_MAX);
    }
}

#[cfg(test)]
mod tests;
