//! The batch lookup on CPUs with AVX-512: 64 keys a step, eight of them a register.
//!
//! ```text
//!   step s          s + 1                s + 2                 s + 3                    s + 4
//!   hash,           compare home lines,  compare these,        compare these ─┬─ inline: answers
//!   ask for  ─────▶ ask for the next ──▶ ask for those up ───▶                └─ ask for records ─▶ answers
//!   home lines      of keys not found    to the reach
//! ```
//!
//! Two things decide how fast this is (docs/decisions/0008-fast-lookups.md):
//!
//! - **Instructions a key.** A request for a line does not retire before its address is translated, and where a
//!   hypervisor backs memory by 4 KiB pages that takes a walk through two page tables, however large the guest's pages.
//!   Until then it keeps its place in the reorder buffer, so that lines are in flight for as many keys as have their
//!   instructions there. Hence registers of eight keys instead of a loop over keys: half of the instructions.
//! - **Where lines are asked to.** The second-level cache waits for more lines at once than the first.
//!
//! A key whose bits are all zero, which slots not in use look like, and a key of a part that [`Lines`] does not know are
//! left to the sink, as slow.

use std::arch::x86_64::{
    __m512i, _mm_loadu_si128, _mm512_add_epi16, _mm512_and_si512, _mm512_andnot_si512, _mm512_broadcast_i32x4,
    _mm512_castsi256_si512, _mm512_cmpeq_epi16_mask, _mm512_cmpeq_epi64_mask, _mm512_cvtepi16_epi8, _mm512_inserti64x4,
    _mm512_loadu_si512, _mm512_maskz_permutexvar_epi8, _mm512_popcnt_epi16, _mm512_set1_epi8, _mm512_set1_epi16,
    _mm512_set1_epi64, _mm512_shuffle_epi8, _mm512_storeu_si512, _mm512_test_epi8_mask, _mm512_test_epi16_mask,
    _mm512_testn_epi64_mask, _pext_u32,
};

use fkv_formats::table::mem::{IndexLine, LineFormat, Shape};
use fkv_rpc::packed::{Keys, SectionStatus};

use super::pipeline::{Sink, WINDOW, Window, ask_for_records, hash};
use crate::image::{Home, Lines};

/// Windows under way.
const RING: usize = 5;
/// Keys of a register.
const EIGHT: usize = 8;
/// Slots of a line, at most.
const SLOTS_MAX: usize = 16;
/// The reach from which on lines behind the next one hold keys.
const REACH_BEYOND: u8 = 2;

/// Looks all keys up, where the CPU has the instructions and lines the format for it; otherwise gives the sink back.
pub(super) fn look_up<'a, S: Sink<'a, V>, const V: usize>(
    lines: &'a Lines,
    keys: Keys<'_>,
    format: LineFormat,
    sink: S,
) -> Result<Result<(), SectionStatus>, S> {
    if !is_there() {
        return Err(sink);
    }
    // SAFETY: the CPU has what these functions enable.
    unsafe {
        if let Some(slots) = Pairs::new(format) {
            Ok(pass(lines, keys, format, slots, sink))
        } else if let Some(slots) = Lanes8::<false>::new(format) {
            Ok(pass(lines, keys, format, slots, sink))
        } else if let Some(slots) = Lanes8::<true>::new(format) {
            Ok(pass(lines, keys, format, slots, sink))
        } else {
            Err(sink)
        }
    }
}

/// Whether the CPU has all that is used here.
#[inline]
fn is_there() -> bool {
    use std::arch::is_x86_feature_detected as has;
    has!("avx512f")
        && has!("avx512bw")
        && has!("avx512dq")
        && has!("avx512vl")
        && has!("avx512vbmi")
        && has!("avx512bitalg")
        && has!("avx512vpopcntdq")
        && has!("avx2")
        && has!("bmi1")
        && has!("bmi2")
        && has!("lzcnt")
        && has!("popcnt")
}

/// A way to compare the slots of a line. Its values are made, and its methods called, only where [`is_there`] holds.
trait Slots: Copy {
    /// The slots that hold `wanted`; those not in use count as holding 0.
    fn matching(self, line: &IndexLine, wanted: u64) -> u16;
}

/// Slots with two bytes of `h` at even places: all words of a line are compared at once.
#[derive(Clone, Copy)]
struct Pairs {
    /// Bit `w`: a slot begins at word `w`.
    begins: u32,
}

impl Pairs {
    fn new(format: LineFormat) -> Option<Self> {
        let fits = format.h_bytes() == 2 && format.stride().is_multiple_of(2);
        let begins = (0..usize::from(format.slots())).map(|slot| 1 << (slot * format.stride() / 2));
        fits.then(|| Self { begins: begins.sum() })
    }
}

impl Slots for Pairs {
    #[inline(always)]
    fn matching(self, line: &IndexLine, wanted: u64) -> u16 {
        // SAFETY: 64 bytes are read from a line of 64, at any alignment; the CPU has the instructions ([`Slots`]).
        unsafe {
            let words = _mm512_loadu_si512(line.as_ptr().cast());
            let equal = _mm512_cmpeq_epi16_mask(words, _mm512_set1_epi16(wanted as i16));
            _pext_u32(equal, self.begins) as u16
        }
    }
}

/// Any slots: the stored bits of eight of them gathered into eight lanes by one permutation; of up to sixteen, with `MORE`,
/// by two.
#[derive(Clone, Copy)]
struct Lanes8<const MORE: bool> {
    /// Byte `i` of lane `s`: where byte `i` of the stored bits of slot `s`, of the first and the second eight, is.
    bytes: [__m512i; 2],
    /// The bytes of the lanes that are stored.
    stored: u64,
    /// Bit `s`: there is a slot `s`.
    slots: u16,
}

impl<const MORE: bool> Lanes8<MORE> {
    fn new(format: LineFormat) -> Option<Self> {
        let count = usize::from(format.slots());
        if count > 2 * EIGHT || (count > EIGHT) != MORE {
            return None;
        }
        let (mut bytes, mut stored) = ([[0_u8; 64]; 2], 0_u64);
        for slot in 0..count {
            for byte in 0..format.h_bytes() {
                let at = slot % EIGHT * EIGHT + byte;
                bytes[slot / EIGHT][at] = (slot * format.stride() + byte) as u8;
                stored |= 1 << at;
            }
        }
        // SAFETY: the CPU has AVX-512 F (the caller's check), and 64 bytes are read from arrays of 64.
        let bytes = bytes.map(|bytes| unsafe { _mm512_loadu_si512(bytes.as_ptr().cast()) });
        Some(Self { bytes, stored, slots: u16::MAX >> (16 - count) })
    }
}

impl<const MORE: bool> Slots for Lanes8<MORE> {
    #[inline(always)]
    fn matching(self, line: &IndexLine, wanted: u64) -> u16 {
        // SAFETY: 64 bytes are read from a line of 64, at any alignment; the CPU has the instructions ([`Slots`]).
        unsafe {
            let line = _mm512_loadu_si512(line.as_ptr().cast());
            let wanted = _mm512_set1_epi64(wanted as i64);
            let eight = |bytes| {
                let stored = _mm512_maskz_permutexvar_epi8(self.stored, bytes, line);
                u16::from(_mm512_cmpeq_epi64_mask(stored, wanted))
            };
            let slots = if MORE { eight(self.bytes[0]) | eight(self.bytes[1]) << EIGHT } else { eight(self.bytes[0]) };
            slots & self.slots
        }
    }
}

/// One number per key of a window, aligned so that registers of them are one access.
#[derive(Clone, Copy)]
#[repr(align(64))]
struct PerKey<T>([T; WINDOW]);

impl<T: Copy> PerKey<T> {
    /// Volatile, so that the compiler stores each number when it has it: it would collect eight in a register, for twice
    /// the price of all the rest.
    #[inline(always)]
    fn set(&mut self, key: usize, number: T) {
        // SAFETY: a reference to a number of ours is valid for a write.
        unsafe { std::ptr::from_mut(&mut self.0[key]).write_volatile(number) };
    }

    /// Register `at` of them.
    #[inline(always)]
    fn register(&self, at: usize) -> __m512i {
        let bytes = size_of::<[T; WINDOW]>();
        assert!(at < bytes / size_of::<__m512i>(), "within the array");
        // SAFETY: the 64 bytes lie in the array; the CPU has AVX-512 F, or nothing here would run.
        unsafe { _mm512_loadu_si512(self.0.as_ptr().cast::<__m512i>().add(at)) }
    }
}

/// What is known of one window under way.
#[derive(Clone, Copy)]
struct State<'a, const V: usize> {
    hashes: PerKey<u64>,
    /// Those bits of the hashes that slots store.
    wanted: PerKey<u64>,
    homes: [Home<'a>; WINDOW],
    /// Where the keys found are.
    lines: [&'a IndexLine; WINDOW],
    slots: PerKey<u8>,
    values: [[u8; V]; WINDOW],
    found: u64,
    /// Keys to be looked for in the next line; then in the lines behind it.
    going_on: u64,
    slow: u64,
}

impl<'a, const V: usize> State<'a, V> {
    /// Notes that a key is in the lowest slot of `matching`, if any.
    #[inline(always)]
    fn put(&mut self, key: usize, line: &'a IndexLine, matching: u16, places: &Places<V>) {
        let slot = matching.trailing_zeros() as u8;
        if V > 0 {
            self.values[key] = places.value(line, places.0[usize::from(slot) % SLOTS_MAX]);
        } else {
            self.lines[key] = line;
            self.slots.0[key] = slot;
        }
    }
}

/// Where the values of slots are in a line: of all slots there may be, each so that `V` bytes end within the line.
struct Places<const V: usize>([u8; SLOTS_MAX]);

impl<const V: usize> Places<V> {
    fn new(format: LineFormat) -> Self {
        let place = |slot: usize| slot * format.stride() + format.h_bytes();
        Self(std::array::from_fn(|slot| place(slot).min(size_of::<IndexLine>() - V) as u8))
    }

    /// Those of 64 slots; of the number 16, which stands for none, any.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    fn of_slots(&self, slots: __m512i) -> __m512i {
        // SAFETY: 16 bytes are read from an array of 16.
        let places = unsafe { _mm512_broadcast_i32x4(_mm_loadu_si128(self.0.as_ptr().cast())) };
        _mm512_shuffle_epi8(places, _mm512_and_si512(slots, _mm512_set1_epi8(SLOTS_MAX as i8 - 1)))
    }

    /// The value at one of these places.
    #[inline(always)]
    fn value(&self, line: &IndexLine, place: u8) -> [u8; V] {
        debug_assert!(usize::from(place) + V <= line.len(), "the value ends within its line");
        // SAFETY: `V` bytes from any of the places end within a line (`new`), and callers have no other.
        unsafe { line.as_ptr().add(usize::from(place)).cast::<[u8; V]>().read() }
    }
}

/// Takes all keys through the steps.
#[target_feature(
    enable = "avx2,bmi1,bmi2,lzcnt,popcnt,avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512bitalg,avx512vpopcntdq"
)]
fn pass<'a, P: Slots, S: Sink<'a, V>, const V: usize>(
    lines: &'a Lines,
    keys: Keys<'_>,
    format: LineFormat,
    slots: P,
    mut sink: S,
) -> Result<(), SectionStatus> {
    let windows = keys.len().div_ceil(WINDOW);
    let reads_records = S::READS_RECORDS && format.shape() != Shape::Inline;
    let last_step = if reads_records { 4 } else { 3 };
    let places = Places::<V>::new(format);
    let nothing = State {
        hashes: PerKey([0; WINDOW]),
        wanted: PerKey([0; WINDOW]),
        homes: [Home::nowhere(); WINDOW],
        lines: [Home::nowhere().line(); WINDOW],
        slots: PerKey([0; WINDOW]),
        values: [[0; V]; WINDOW],
        found: 0,
        going_on: 0,
        slow: 0,
    };
    let mut ring = [nothing; RING];
    for step in 0..windows + last_step {
        let at = |behind: usize| (step + RING - behind) % RING;
        let is_under_way = |behind: usize| step >= behind && step - behind < windows;
        let [new, old] = ring.get_disjoint_mut([at(0), at(1)]).expect("two windows of the ring");
        if is_under_way(0) {
            hash(keys, step * WINDOW, &mut new.hashes.0);
        }
        match (is_under_way(0), is_under_way(1)) {
            (true, true) => ask_and_compare::<true, true, P, V>(lines, format, slots, &places, new, old),
            (true, false) => ask_and_compare::<true, false, P, V>(lines, format, slots, &places, new, old),
            (false, true) => ask_and_compare::<false, true, P, V>(lines, format, slots, &places, new, old),
            (false, false) => {}
        }
        if is_under_way(2) {
            compare_next(slots, &places, &mut ring[at(2)]);
        }
        if is_under_way(3) {
            let window = &mut ring[at(3)];
            compare_beyond(lines, format, slots, &places, window);
            let asked = u64::MAX >> (WINDOW - (keys.len() - (step - 3) * WINDOW).min(WINDOW));
            window.found &= asked;
            window.slow &= asked;
            if reads_records {
                ask_for_records(lines, format, window.found, &window.hashes.0, &window.lines, &window.slots.0);
            }
        }
        if is_under_way(last_step) {
            let (first, window) = ((step - last_step) * WINDOW, &ring[at(last_step)]);
            sink.window(&Window {
                first,
                count: (keys.len() - first).min(WINDOW),
                found: window.found,
                slow: window.slow,
                hashes: &window.hashes.0,
                lines: &window.lines,
                slots: &window.slots.0,
                values: &window.values,
            })?;
        }
    }
    Ok(())
}

/// Asks for the home lines of a new window, and compares those of an old one; by turns, so that requests leave at a
/// steady rate.
#[inline]
#[target_feature(
    enable = "avx2,bmi1,bmi2,lzcnt,popcnt,avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512bitalg,avx512vpopcntdq"
)]
fn ask_and_compare<'a, const ASK: bool, const COMPARE: bool, P: Slots, const V: usize>(
    lines: &'a Lines,
    format: LineFormat,
    slots: P,
    places: &Places<V>,
    new: &mut State<'a, V>,
    old: &mut State<'a, V>,
) {
    let (mut matching, mut reaches) = (PerKey([0_u16; WINDOW]), PerKey([0_u8; WINDOW]));
    for group in 0..WINDOW / EIGHT {
        if ASK {
            // Loops, not `map`: what is called from here without being inlined is compiled without wide instructions.
            let hashes = &new.hashes.0.as_chunks::<EIGHT>().0[group];
            let wanted = &mut new.wanted.0.as_chunks_mut::<EIGHT>().0[group];
            for (wanted, h) in wanted.iter_mut().zip(hashes) {
                *wanted = h & format.mask();
            }
            let homes = &mut new.homes.as_chunks_mut::<EIGHT>().0[group];
            lines.homes(hashes, homes);
            for home in homes {
                home.prefetch();
            }
        }
        if COMPARE {
            for key in group * EIGHT..group * EIGHT + EIGHT {
                let line = old.homes[key].line();
                matching.set(key, slots.matching(line, old.wanted.0[key]));
                reaches.set(key, LineFormat::reach(line));
            }
        }
    }
    if !COMPARE {
        return;
    }
    let mut vague = 0;
    for group in 0..WINDOW / EIGHT {
        let wanted = old.wanted.register(group);
        // Where `LineFormat::is_vague` holds.
        vague |= u64::from(_mm512_testn_epi64_mask(wanted, wanted)) << (group * EIGHT);
    }
    let halves = [matching.register(0), matching.register(1)];
    let hit = u64::from(_mm512_test_epi16_mask(halves[0], halves[0]))
        | u64::from(_mm512_test_epi16_mask(halves[1], halves[1])) << 32;
    // The number of the lowest slot is that of the zeros below it; where there is none, 16.
    let lowest = halves.map(|slots| {
        let below = _mm512_andnot_si512(slots, _mm512_add_epi16(slots, _mm512_set1_epi16(-1)));
        _mm512_cvtepi16_epi8(_mm512_popcnt_epi16(below))
    });
    let lowest = _mm512_inserti64x4::<1>(_mm512_castsi256_si512(lowest[0]), lowest[1]);
    // SAFETY: 64 bytes are written to an array of 64.
    unsafe { _mm512_storeu_si512(old.slots.0.as_mut_ptr().cast(), lowest) };
    if V > 0 {
        let mut at = PerKey([0_u8; WINDOW]);
        // SAFETY: 64 bytes are written to an array of 64.
        unsafe { _mm512_storeu_si512(at.0.as_mut_ptr().cast(), places.of_slots(lowest)) };
        for ((value, home), at) in old.values.iter_mut().zip(&old.homes).zip(at.0) {
            *value = places.value(home.line(), at);
        }
    } else {
        for (line, home) in old.lines.iter_mut().zip(&old.homes) {
            *line = home.line();
        }
    }
    let reaches = reaches.register(0);
    old.found = hit & !vague;
    old.slow = vague;
    old.going_on = _mm512_test_epi8_mask(reaches, reaches) & !hit & !vague;
    for key in bits(old.going_on) {
        old.homes[key].prefetch_behind(1);
    }
}

/// Compares the next lines of the keys that go on, and asks for what is behind them.
#[inline]
#[target_feature(
    enable = "avx2,bmi1,bmi2,lzcnt,popcnt,avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512bitalg,avx512vpopcntdq"
)]
fn compare_next<P: Slots, const V: usize>(slots: P, places: &Places<V>, window: &mut State<'_, V>) {
    let mut going_on = 0;
    for key in bits(window.going_on) {
        let home = window.homes[key];
        let matching = slots.matching(home.next(), window.wanted.0[key]);
        window.put(key, home.next(), matching, places);
        let hit = matching != 0;
        let goes_on = !hit & (LineFormat::reach(home.line()) >= REACH_BEYOND);
        window.found |= u64::from(hit) << key;
        going_on |= u64::from(goes_on) << key;
    }
    window.going_on = going_on;
    for key in bits(going_on) {
        let home = window.homes[key];
        let reach = LineFormat::reach(home.line());
        // Seldom more than these two: a loop that is not entered is guessed right.
        home.prefetch_behind(REACH_BEYOND);
        home.prefetch_behind(reach.min(REACH_BEYOND + 1));
        for ahead in REACH_BEYOND + 2..=reach {
            home.prefetch_behind(ahead);
        }
    }
}

/// Looks for the keys that still go on in the lines behind the next one.
#[inline]
#[target_feature(
    enable = "avx2,bmi1,bmi2,lzcnt,popcnt,avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512bitalg,avx512vpopcntdq"
)]
fn compare_beyond<'a, P: Slots, const V: usize>(
    lines: &'a Lines,
    format: LineFormat,
    slots: P,
    places: &Places<V>,
    window: &mut State<'a, V>,
) {
    for key in bits(window.going_on) {
        let (home, h) = (window.homes[key], window.hashes.0[key]);
        if lines.is_decoy(home) {
            window.slow |= 1 << key;
            continue;
        }
        // The next line is behind the home line, and those here are behind the next.
        let distance = format.distance_max(home.line()) as usize;
        for line in lines.beyond(home, h).iter().take(distance - 1) {
            let matching = slots.matching(line, window.wanted.0[key]);
            if matching != 0 {
                window.put(key, line, matching, places);
                window.found |= 1 << key;
                break;
            }
            if format.ends(line) {
                break;
            }
        }
    }
}

/// The bits that are set, ascending.
#[inline(always)]
fn bits(mut word: u64) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        let bit = (word != 0).then(|| word.trailing_zeros() as usize);
        word &= word.wrapping_sub(1);
        // Below the window, which the compiler then need not check.
        bit.map(|bit| bit % WINDOW)
    })
}
