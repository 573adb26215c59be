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
#[cfg(target_arch = "x86_64")]
use super::probe::Pairs;
use super::probe::{NEXT, Probe, Words};
use crate::image::{HeldPart, Home, Image, Lines};

/// Keys of a window: one per bit of a word.
pub(super) const WINDOW: usize = 64;
/// Windows under way.
const RING: usize = 4;
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
            Some(format) => self.pass(format, One { batch: self, format, sink }),
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
        match format.value_width() {
            Some(2) => self.pass(format, Plain::<'_, '_, '_, '_, 2> { batch: self, dense }),
            Some(4) => self.pass(format, Plain::<'_, '_, '_, '_, 4> { batch: self, dense }),
            Some(8) => self.pass(format, Plain::<'_, '_, '_, '_, 8> { batch: self, dense }),
            Some(16) => self.pass(format, Plain::<'_, '_, '_, '_, 16> { batch: self, dense }),
            _ => self.run(|answer| put_plain(answer, dense)),
        }
    }

    /// Looks all keys up, in the way this CPU does it best.
    fn pass<S: Sink<'a, V>, const V: usize>(&self, format: LineFormat, sink: S) -> Result<(), SectionStatus> {
        let (lines, keys) = (self.image.lines(), self.keys);
        #[cfg(target_arch = "x86_64")]
        {
            match super::wide::look_up(lines, keys, format, sink) {
                Ok(done) => done,
                Err(sink) => match Pairs::new(&format) {
                    Some(pairs) => pass(lines, keys, format, pairs, sink),
                    None => pass(lines, keys, format, Words(format), sink),
                },
            }
        }
        #[cfg(not(target_arch = "x86_64"))]
        pass(lines, keys, format, Words(format), sink)
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

#[cfg(test)]
impl<'a> Batch<'a> {
    /// As [`run`](Self::run), in a way for CPUs with fewer instructions than this one may have: `None` if the way does not
    /// know the format.
    pub(super) fn run_plainly(
        &self,
        by_words: bool,
        sink: impl FnMut(Answer<'a>) -> Result<(), SectionStatus>,
    ) -> Option<Result<(), SectionStatus>> {
        let (lines, keys) = (self.image.lines(), self.keys);
        let format = lines.format()?;
        let one = One { batch: self, format, sink };
        if by_words {
            return Some(pass(lines, keys, format, Words(format), one));
        }
        #[cfg(target_arch = "x86_64")]
        return Pairs::new(&format).map(|pairs| pass(lines, keys, format, pairs, one));
        #[cfg(not(target_arch = "x86_64"))]
        None
    }

    /// As [`fill`](Self::fill) of a batch of values of `V` bytes, likewise.
    pub(super) fn fill_plainly<const V: usize>(&self, dense: &mut DenseWriter<'_>) -> Result<(), SectionStatus> {
        let format = self.image.lines().format().expect("a plain batch has a format");
        pass(self.image.lines(), self.keys, format, Words(format), Plain::<'_, '_, '_, '_, V> { batch: self, dense })
    }
}

/// Puts one answer into a reply that has values as they are stored.
#[inline]
fn put_plain(answer: Answer<'_>, dense: &mut DenseWriter<'_>) -> Result<(), SectionStatus> {
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
}

/// Where the keys of a window are.
pub(super) struct Window<'w, 'a, const V: usize> {
    /// Index of the first.
    pub(super) first: usize,
    pub(super) count: usize,
    /// Bit `i`: a slot holds the bits of key `i`; else the key is absent.
    pub(super) found: u64,
    /// Bit `i`: lines do not tell about key `i`.
    pub(super) slow: u64,
    pub(super) hashes: &'w [u64; WINDOW],
    pub(super) lines: &'w [&'a IndexLine; WINDOW],
    pub(super) slots: &'w [u8; WINDOW],
    /// The first `V` bytes of what lies beside the stored bits of the keys: if none is slow, of those found, one after the
    /// other; else of each at its index.
    pub(super) values: &'w [[u8; V]; WINDOW],
}

/// What takes the windows, in order. It wants `V` bytes of values from index lines.
pub(super) trait Sink<'a, const V: usize> {
    /// Whether answers read more than these.
    const READS_RECORDS: bool;
    fn window(&mut self, window: &Window<'_, 'a, V>) -> Result<(), SectionStatus>;
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

impl<'a, S> Sink<'a, 0> for One<'_, 'a, LineFormat, S>
where
    S: FnMut(Answer<'a>) -> Result<(), SectionStatus>,
{
    const READS_RECORDS: bool = true;

    #[inline(always)]
    fn window(&mut self, window: &Window<'_, 'a, 0>) -> Result<(), SectionStatus> {
        // One call of the sink, so that it is compiled into the loop.
        for offset in 0..window.count {
            let index = window.first + offset;
            let answer = if window.slow >> offset & 1 == 1 {
                self.batch.find(index)
            } else if window.found >> offset & 1 == 0 {
                Answer::Missing(KeyStatus::Absent)
            } else {
                let (line, slot, h) = (window.lines[offset], window.slots[offset], window.hashes[offset]);
                self.read(index, line, slot, h)
            };
            (self.sink)(answer)?;
        }
        Ok(())
    }
}

impl<'a, S> One<'_, 'a, LineFormat, S> {
    /// What the record of a slot says about a key.
    #[inline(always)]
    fn read(&self, index: usize, line: &'a IndexLine, slot: u8, h: u64) -> Answer<'a> {
        let (batch, format) = (self.batch, self.format);
        if format.shape() == Shape::Inline {
            return batch.judge(format.inline_value(line, slot));
        }
        let image = batch.image.lines().image(h);
        let record = usize::try_from(format.record_at(line, slot)).ok().and_then(|at| image.get(at..));
        match (record.and_then(|record| format.read_record(record)), batch.key(index)) {
            (Some((_, found)), Key::U64(_)) => batch.judge(Some(found)),
            (Some((stored, found)), Key::Bytes(key)) if stored == key => batch.judge(Some(found)),
            // Another key with the same bits: rare, and the search may go on further.
            _ => batch.find(index),
        }
    }
}

/// Values of `WIDTH` bytes that lie in index lines as they go into the reply.
struct Plain<'b, 'd, 'w, 'a, const WIDTH: usize> {
    batch: &'b Batch<'a>,
    dense: &'d mut DenseWriter<'w>,
}

impl<'a, const WIDTH: usize> Sink<'a, WIDTH> for Plain<'_, '_, '_, 'a, WIDTH> {
    const READS_RECORDS: bool = false;

    #[inline(always)]
    fn window(&mut self, window: &Window<'_, 'a, WIDTH>) -> Result<(), SectionStatus> {
        if window.slow != 0 {
            return self.mixed(window);
        }
        let found = window.found;
        self.dense.fill(window.count, |room| {
            let values = window.values[..found.count_ones() as usize].as_flattened();
            room[..values.len()].copy_from_slice(values);
            found
        });
        Ok(())
    }
}

impl<const WIDTH: usize> Plain<'_, '_, '_, '_, WIDTH> {
    /// A window with keys that lines do not tell about.
    #[cold]
    fn mixed(&mut self, window: &Window<'_, '_, WIDTH>) -> Result<(), SectionStatus> {
        for offset in 0..window.count {
            let index = window.first + offset;
            let answer = if window.slow >> offset & 1 == 1 {
                self.batch.find(index)
            } else if window.found >> offset & 1 == 1 {
                Answer::Found(&window.values[offset])
            } else {
                Answer::Missing(KeyStatus::Absent)
            };
            put_plain(answer, self.dense)?;
        }
        Ok(())
    }
}

/// What is known of the windows under way; that of window `w` at `w % RING`.
struct Ring<'a> {
    hashes: [[u64; WINDOW]; RING],
    homes: [[Home<'a>; WINDOW]; RING],
    lines: [[&'a IndexLine; WINDOW]; RING],
    slots: [[u8; WINDOW]; RING],
    found: [u64; RING],
    slow: [u64; RING],
    /// Keys that go on behind the next line: offsets in the window.
    queue: [[u8; WINDOW]; RING],
    queued: [usize; RING],
}

/// Takes all keys through the steps.
#[inline(always)]
fn pass<'a, P: Probe, S: Sink<'a, V>, const V: usize>(
    lines: &'a Lines,
    keys: Keys<'_>,
    format: LineFormat,
    probe: P,
    mut sink: S,
) -> Result<(), SectionStatus> {
    let count = keys.len();
    let windows = count.div_ceil(WINDOW);
    let count_of = |number: usize| if number < windows { (count - number * WINDOW).min(WINDOW) } else { 0 };
    let last_step = if S::READS_RECORDS { 3 } else { 2 };
    let mut ring = Ring {
        hashes: [[0; WINDOW]; RING],
        homes: [[Home::nowhere(); WINDOW]; RING],
        lines: [[Home::nowhere().line(); WINDOW]; RING],
        slots: [[0; WINDOW]; RING],
        found: [0; RING],
        slow: [0; RING],
        queue: [[0; WINDOW]; RING],
        queued: [0; RING],
    };
    for step in 0..windows + last_step {
        let asked = count_of(step);
        if asked > 0 {
            hash(keys, step * WINDOW, &mut ring.hashes[step % RING]);
        }
        let compared = if step >= 1 { count_of(step - 1) } else { 0 };
        compare(&mut ring, lines, format, probe, step, asked, compared);
        if step >= 2 && step - 2 < windows {
            let at = (step - 2) % RING;
            beyond(&mut ring, lines, format, probe, at);
            if S::READS_RECORDS && format.shape() != Shape::Inline {
                ask_for_records(lines, format, ring.found[at], &ring.hashes[at], &ring.lines[at], &ring.slots[at]);
            }
        }
        if step >= last_step && step - last_step < windows {
            let (number, at) = (step - last_step, (step - last_step) % RING);
            let mut values = [[0; V]; WINDOW];
            if V > 0 {
                for ((value, line), slot) in values.iter_mut().zip(&ring.lines[at]).zip(ring.slots[at]) {
                    let place = usize::from(slot) * format.stride() + format.h_bytes();
                    *value = line.get(place..).and_then(<[u8]>::first_chunk).copied().unwrap_or([0; V]);
                }
                let found = (0..WINDOW).filter(|key| ring.slow[at] == 0 && ring.found[at] >> key & 1 == 1);
                for (packed, key) in found.enumerate() {
                    values[packed] = values[key];
                }
            }
            sink.window(&Window {
                first: number * WINDOW,
                count: count_of(number),
                found: ring.found[at],
                slow: ring.slow[at],
                hashes: &ring.hashes[at],
                lines: &ring.lines[at],
                slots: &ring.slots[at],
                values: &values,
            })?;
        }
    }
    Ok(())
}

/// Hashes a window of keys from `first` on, as many as there are.
#[inline(always)]
pub(super) fn hash(keys: Keys<'_>, first: usize, hashes: &mut [u64; WINDOW]) {
    match keys {
        Keys::U64(keys) => {
            let packed = keys.packed().get(first..).unwrap_or_default();
            match packed.first_chunk::<WINDOW>() {
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
fn compare<'a, P: Probe>(
    ring: &mut Ring<'a>,
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
    let both = asked.min(compared).min(WINDOW);
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
    for offset in &ring.queue[old][..queued.min(WINDOW)] {
        let home = old_homes[usize::from(*offset) % WINDOW];
        for ahead in REACH_BEYOND..=LineFormat::reach(home.line()) {
            home.prefetch_behind(lines.level(), ahead);
        }
    }
    (ring.found[old], ring.queued[old]) = (found, queued);
}

#[inline(always)]
fn ask<'a>(lines: &'a Lines, homes: &mut [Home<'a>; WINDOW], offset: usize, h: u64) {
    let home = lines.home(h);
    home.prefetch_both(lines.level());
    homes[offset] = home;
}

/// A window being compared.
struct Comparison<'r, 'a> {
    homes: &'r [Home<'a>; WINDOW],
    lines: &'r mut [&'a IndexLine; WINDOW],
    slots: &'r mut [u8; WINDOW],
    queue: &'r mut [u8; WINDOW],
    found: u64,
    queued: usize,
}

impl Comparison<'_, '_> {
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
        self.queue[self.queued % WINDOW] = offset as u8;
        self.queued = self.queued.wrapping_add(usize::from(goes_on));
    }
}

/// Looks for the queued keys of the window at `at` in the lines behind the next one.
#[inline(always)]
fn beyond<'a, P: Probe>(ring: &mut Ring<'a>, lines: &'a Lines, format: LineFormat, probe: P, at: usize) {
    let mut slow = 0;
    for index in 0..ring.queued[at].min(WINDOW) {
        let offset = usize::from(ring.queue[at][index]) % WINDOW;
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

/// Asks for the records of the keys `found` in a window.
#[inline(always)]
pub(super) fn ask_for_records(
    lines: &Lines,
    format: LineFormat,
    mut found: u64,
    hashes: &[u64; WINDOW],
    at: &[&IndexLine; WINDOW],
    slots: &[u8; WINDOW],
) {
    let len = format.value_width().unwrap_or(RECORD_BYTES_EXPECTED);
    // By bits: whether a key was found is not for the CPU to guess.
    while found != 0 {
        let key = found.trailing_zeros() as usize % WINDOW;
        found &= found - 1;
        lines.prefetch_record(hashes[key], format.record_at(at[key], slots[key]), len);
    }
}
