//! The batch lookup on CPUs with AVX-512: 64 keys a step, eight of them a register.
//!
//! ```text
//!   step s             s + 1                   s + 2                       s + 3
//!   hash, ask for ───▶ compare both, ────────▶ compare those ─┬─ inline: answers
//!   home and next      ask for those behind,                  └─ ask for records ──▶ answers
//!   line               up to the reach
//! ```
//!
//! What decides how fast this is (docs/decisions/0008-fast-lookups.md):
//!
//! - **Instructions a key.** They and the waiting for lines add up: a line costs the same 2 ns on top of them, whatever else is
//!   done meanwhile. Hence registers of eight keys instead of a loop over keys.
//! - **What the CPU cannot guess.** Whether a key is in its home line, the next or one behind is chance; a wrong guess costs as
//!   much as a key. Both lines are compared for every key, and the first behind them for all keys that go on.
//! - **Where lines are asked to**, which depends on the machine: see [`Level`].
//!
//! A key whose bits are all zero, which slots not in use look like, and a key of a part that [`Lines`] does not know are
//! left to the sink, as slow.

use std::arch::x86_64::{
    __m512i, _mm_loadu_si128, _mm512_add_epi16, _mm512_and_si512, _mm512_andnot_si512, _mm512_broadcast_i32x4,
    _mm512_castsi256_si512, _mm512_cmpeq_epi16_mask, _mm512_cmpeq_epi64_mask, _mm512_cmpge_epu8_mask,
    _mm512_cvtepi16_epi8, _mm512_inserti64x4, _mm512_loadu_si512, _mm512_mask_add_epi8, _mm512_mask_mov_epi16,
    _mm512_maskz_compress_epi32, _mm512_maskz_permutexvar_epi8, _mm512_popcnt_epi16, _mm512_set1_epi8,
    _mm512_set1_epi16, _mm512_set1_epi64, _mm512_shuffle_epi8, _mm512_storeu_si512, _mm512_test_epi16_mask,
    _mm512_testn_epi16_mask, _mm512_testn_epi64_mask, _pext_u32,
};

use fkv_formats::table::mem::{IndexLine, LineFormat, Shape};
use fkv_rpc::packed::{Keys, SectionStatus};

use super::Level;
use super::pipeline::{Sink, WINDOW, Window, ask_for_records, hash};
use crate::image::{Home, Lines};

/// Windows under way.
const RING: usize = 4;
/// Keys of a register.
const EIGHT: usize = 8;
/// Slots of a line, at most.
const SLOTS_MAX: usize = 16;
/// The reach from which on lines behind the next one hold keys.
const REACH_BEYOND: u8 = 2;
/// How many of these lines are compared for all keys alike, before the few keys that go on are followed one by one.
const BEYOND_UNGUESSED: usize = 1;

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
            Ok(pass_at(lines, keys, format, slots, sink))
        } else if let Some(slots) = Lanes8::<false>::new(format) {
            Ok(pass_at(lines, keys, format, slots, sink))
        } else if let Some(slots) = Lanes8::<true>::new(format) {
            Ok(pass_at(lines, keys, format, slots, sink))
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

    /// Writes register `at` of them.
    #[inline(always)]
    fn set_register(&mut self, at: usize, numbers: __m512i) {
        let bytes = size_of::<[T; WINDOW]>();
        assert!(at < bytes / size_of::<__m512i>(), "within the array");
        // SAFETY: the 64 bytes lie in the array, whose items are numbers, which may have any bits; the CPU has AVX-512 F, or
        // nothing here would run.
        unsafe { _mm512_storeu_si512(self.0.as_mut_ptr().cast::<__m512i>().add(at), numbers) };
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
    /// Keys to be looked for in the lines behind the next one.
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

/// Moves the values of the keys found to the front.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn pack<const V: usize>(values: &mut [[u8; V]; WINDOW], found: u64) {
    if V == size_of::<u32>() {
        let mut packed = 0;
        for group in 0..WINDOW / 16 {
            let found = (found >> (group * 16)) as u16;
            // SAFETY: sixteen values of four bytes are read and written within 64 of them: `packed` is at most the number of
            // those before this group.
            unsafe {
                let values = values.as_mut_ptr();
                let sixteen = _mm512_maskz_compress_epi32(found, _mm512_loadu_si512(values.add(group * 16).cast()));
                _mm512_storeu_si512(values.add(packed).cast(), sixteen);
            }
            packed += found.count_ones() as usize;
        }
        return;
    }
    for (packed, key) in bits(found).enumerate() {
        values[packed] = values[key];
    }
}

/// Takes all keys through the steps, asking for lines where this machine has them soonest.
#[inline]
#[target_feature(
    enable = "avx2,bmi1,bmi2,lzcnt,popcnt,avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512bitalg,avx512vpopcntdq"
)]
fn pass_at<'a, P: Slots, S: Sink<'a, V>, const V: usize>(
    lines: &'a Lines,
    keys: Keys<'_>,
    format: LineFormat,
    slots: P,
    sink: S,
) -> Result<(), SectionStatus> {
    // Not for every request anew: a branch for each costs a twentieth of a lookup.
    match lines.level() {
        Level::First => pass::<P, S, V, false>(lines, keys, format, slots, sink),
        Level::Second => pass::<P, S, V, true>(lines, keys, format, slots, sink),
    }
}

/// Takes all keys through the steps.
#[target_feature(
    enable = "avx2,bmi1,bmi2,lzcnt,popcnt,avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512bitalg,avx512vpopcntdq"
)]
fn pass<'a, P: Slots, S: Sink<'a, V>, const V: usize, const SECOND: bool>(
    lines: &'a Lines,
    keys: Keys<'_>,
    format: LineFormat,
    slots: P,
    mut sink: S,
) -> Result<(), SectionStatus> {
    let windows = keys.len().div_ceil(WINDOW);
    let reads_records = S::READS_RECORDS && format.shape() != Shape::Inline;
    let last_step = if reads_records { 3 } else { 2 };
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
            (true, true) => ask_and_compare::<true, true, P, V, SECOND>(lines, format, slots, &places, new, old),
            (true, false) => ask_and_compare::<true, false, P, V, SECOND>(lines, format, slots, &places, new, old),
            (false, true) => ask_and_compare::<false, true, P, V, SECOND>(lines, format, slots, &places, new, old),
            (false, false) => {}
        }
        if is_under_way(2) {
            let window = &mut ring[at(2)];
            compare_beyond(lines, format, slots, &places, window);
            let asked = u64::MAX >> (WINDOW - (keys.len() - (step - 2) * WINDOW).min(WINDOW));
            window.found &= asked;
            window.slow &= asked;
            if reads_records {
                ask_for_records(lines, format, window.found, &window.hashes.0, &window.lines, &window.slots.0);
            }
        }
        if is_under_way(last_step) {
            let (first, window) = ((step - last_step) * WINDOW, &mut ring[at(last_step)]);
            if V > 0 && window.slow == 0 && window.found.count_ones() as usize != WINDOW {
                pack(&mut window.values, window.found);
            }
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

/// Asks for the home lines of a new window and those behind them, and compares those of an old one; by turns, so that requests
/// leave at a steady rate.
#[inline]
#[target_feature(
    enable = "avx2,bmi1,bmi2,lzcnt,popcnt,avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512bitalg,avx512vpopcntdq"
)]
fn ask_and_compare<'a, const ASK: bool, const COMPARE: bool, P: Slots, const V: usize, const SECOND: bool>(
    lines: &'a Lines,
    format: LineFormat,
    slots: P,
    places: &Places<V>,
    new: &mut State<'a, V>,
    old: &mut State<'a, V>,
) {
    let level = if SECOND { Level::Second } else { Level::First };
    let mut at_home = PerKey([0_u16; WINDOW]);
    let mut behind = PerKey([0_u16; WINDOW]);
    let mut reaches = PerKey([0_u8; WINDOW]);
    for eight in 0..WINDOW / EIGHT {
        if ASK {
            let hashes = new.hashes.register(eight);
            new.wanted.set_register(eight, _mm512_and_si512(hashes, _mm512_set1_epi64(format.mask() as i64)));
            let homes = &mut new.homes.as_chunks_mut::<EIGHT>().0[eight];
            lines.homes_of_8(hashes, homes);
            homes.iter().for_each(|home| home.prefetch_both(level));
        }
        if COMPARE {
            for key in eight * EIGHT..eight * EIGHT + EIGHT {
                let (home, wanted) = (old.homes[key], old.wanted.0[key]);
                at_home.set(key, slots.matching(home.line(), wanted));
                behind.set(key, slots.matching(home.next(), wanted));
                reaches.set(key, LineFormat::reach(home.line()));
            }
        }
    }
    if !COMPARE {
        return;
    }
    let mut vague = 0;
    for eight in 0..WINDOW / EIGHT {
        let wanted = old.wanted.register(eight);
        // Where `LineFormat::is_vague` holds.
        vague |= u64::from(_mm512_testn_epi64_mask(wanted, wanted)) << (eight * EIGHT);
    }
    let (mut hit, mut is_next) = (0, 0);
    let mut numbers = [_mm512_set1_epi8(0); 2];
    for (half, numbers) in numbers.iter_mut().enumerate() {
        let (home, next) = (at_home.register(half), behind.register(half));
        let misses = _mm512_testn_epi16_mask(home, home);
        let matching = _mm512_mask_mov_epi16(home, misses, next);
        is_next |= u64::from(misses) << (half * WINDOW / 2);
        hit |= u64::from(_mm512_test_epi16_mask(matching, matching)) << (half * WINDOW / 2);
        // The number of the lowest slot is that of the zeros below it; where there is none, 16.
        let below = _mm512_andnot_si512(matching, _mm512_add_epi16(matching, _mm512_set1_epi16(-1)));
        *numbers = _mm512_popcnt_epi16(below);
    }
    let lowest = _mm512_castsi256_si512(_mm512_cvtepi16_epi8(numbers[0]));
    let lowest = _mm512_inserti64x4::<1>(lowest, _mm512_cvtepi16_epi8(numbers[1]));
    // SAFETY: 64 bytes are written to an array of 64.
    unsafe { _mm512_storeu_si512(old.slots.0.as_mut_ptr().cast(), lowest) };
    if V > 0 {
        let places = places.of_slots(lowest);
        let places = _mm512_mask_add_epi8(places, is_next, places, _mm512_set1_epi8(size_of::<IndexLine>() as i8));
        let mut at = PerKey([0_u8; WINDOW]);
        // SAFETY: 64 bytes are written to an array of 64.
        unsafe { _mm512_storeu_si512(at.0.as_mut_ptr().cast(), places) };
        for ((value, home), at) in old.values.iter_mut().zip(&old.homes).zip(at.0) {
            *value = home.value_at(at);
        }
    } else {
        for (key, (line, home)) in old.lines.iter_mut().zip(&old.homes).enumerate() {
            *line = home.line_or_next(is_next >> key & 1 == 1);
        }
    }
    let far = _mm512_cmpge_epu8_mask(reaches.register(0), _mm512_set1_epi8(REACH_BEYOND as i8));
    old.found = hit & !vague;
    old.slow = vague;
    old.going_on = far & !hit & !vague;
    for key in bits(old.going_on) {
        let home = old.homes[key];
        let reach = LineFormat::reach(home.line());
        // Seldom more than these two: a loop that is not entered is guessed right.
        home.prefetch_behind(level, REACH_BEYOND);
        home.prefetch_behind(level, reach.min(REACH_BEYOND + 1));
        for ahead in REACH_BEYOND + 2..=reach {
            home.prefetch_behind(level, ahead);
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
    // The first of them without a branch on what they hold: that, the CPU cannot guess.
    let mut going_on = window.going_on;
    for ahead in 0..BEYOND_UNGUESSED {
        let mut further = 0;
        for key in bits(going_on) {
            let (home, h) = (window.homes[key], window.hashes.0[key]);
            let Some(line) = lines.beyond(home, h).get(ahead) else {
                window.slow |= u64::from(lines.is_decoy(home)) << key;
                continue;
            };
            let matching = slots.matching(line, window.wanted.0[key]);
            window.put(key, line, matching, places);
            let hit = matching != 0;
            let reach = usize::from(LineFormat::reach(home.line()));
            let goes_on = !hit & (reach > usize::from(REACH_BEYOND) + ahead) & !format.ends(line);
            window.found |= u64::from(hit) << key;
            further |= u64::from(goes_on) << key;
        }
        going_on = further;
    }
    for key in bits(going_on) {
        let (home, h) = (window.homes[key], window.hashes.0[key]);
        // The next line is behind the home line, and those here are behind the next.
        let distance = format.distance_max(home.line()) as usize;
        for line in lines.beyond(home, h).iter().take(distance - 1).skip(BEYOND_UNGUESSED) {
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
