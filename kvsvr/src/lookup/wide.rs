//! Looks keys up whose values lie in index lines, eight of them a register, with AVX-512.
//!
//! ```text
//!   64 keys   step s          s + 1                s + 2                    s + 3
//!             hash,           compare home lines,  compare these,           the lines up to the reach ─▶ answers
//!             ask for  ─────▶ ask for the next ──▶ ask for those behind ──▶
//!             home lines      of keys not found    of keys not found
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
//! A key whose bits are all zero, which slots not in use look like, and a key of a part that [`Lines`] does not know is
//! left to whoever takes the window.

use std::arch::x86_64::{
    __m512i, _mm512_add_epi8, _mm512_and_si512, _mm512_andnot_si512, _mm512_cmpeq_epi64_mask, _mm512_loadu_si512,
    _mm512_maskz_permutexvar_epi8, _mm512_popcnt_epi8, _mm512_set1_epi8, _mm512_set1_epi64, _mm512_shuffle_epi8,
    _mm512_storeu_si512, _mm512_test_epi8_mask, _mm512_testn_epi64_mask,
};

use fkv_formats::hash::hash_u64;
use fkv_formats::table::mem::{IndexLine, LineFormat};
use fkv_rpc::packed::SectionStatus;

use crate::image::{Home, Lines};

/// Keys of a window: one per bit of a word.
pub(super) const WINDOW: usize = 64;
/// Windows under way.
const RING: usize = 4;
/// Keys of a register.
const EIGHT: usize = 8;
/// Slots of a line, at most: one per lane.
const SLOTS_MAX: u8 = 8;
/// The reach from which on lines behind the next one hold keys.
const REACH_BEYOND: u8 = 2;

/// A window whose keys are found, absent or left open.
pub(super) struct Answers<'w, const WIDTH: usize> {
    /// Index of the first key.
    pub(super) first: usize,
    /// Keys of the window.
    pub(super) count: usize,
    /// Bit `i`: key `i` has the value `values[i]`.
    pub(super) found: u64,
    /// Bit `i`: this does not tell about key `i`.
    pub(super) open: u64,
    pub(super) values: &'w [[u8; WIDTH]; WINDOW],
}

/// How lines with values of `WIDTH` bytes are compared.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wide<const WIDTH: usize> {
    /// Byte `i` of lane `s`: where byte `i` of the stored bits of slot `s` is.
    bytes: __m512i,
    /// The bytes of the lanes that are stored.
    stored: u64,
    /// Bit `s`: there is a slot `s`.
    slots: u8,
    /// Where the value of slot `s` is in a line; that of slot 0 for slots that are not there.
    values: [u8; EIGHT],
    format: LineFormat,
}

impl<const WIDTH: usize> Wide<WIDTH> {
    /// `None` if lines have more slots than lanes or other values, or if the CPU lacks an instruction that this needs.
    pub(super) fn new(format: LineFormat) -> Option<Self> {
        if format.slots() > SLOTS_MAX || format.value_width() != Some(WIDTH) || !is_there() {
            return None;
        }
        let lanes = usize::from(format.slots());
        let value_at = |slot: usize| slot * format.stride() + format.h_bytes();
        assert!(value_at(lanes - 1) + WIDTH <= size_of::<IndexLine>(), "all values end within their line");
        let (mut bytes, mut stored) = ([0_u8; 64], 0_u64);
        for lane in 0..lanes {
            for byte in 0..format.h_bytes() {
                bytes[lane * EIGHT + byte] = (lane * format.stride() + byte) as u8;
                stored |= 1 << (lane * EIGHT + byte);
            }
        }
        let values = std::array::from_fn(|slot| value_at(if slot < lanes { slot } else { 0 }) as u8);
        // SAFETY: the CPU has AVX-512 F, and 64 bytes are read from an array of 64, at any alignment.
        let bytes = unsafe { _mm512_loadu_si512(bytes.as_ptr().cast()) };
        Some(Self { bytes, stored, slots: u8::MAX >> (EIGHT - lanes), values, format })
    }

    /// Looks all keys up; `sink` takes their windows in order.
    pub(super) fn pass(
        self,
        lines: &Lines,
        keys: &[[u8; 8]],
        sink: impl FnMut(&Answers<'_, WIDTH>) -> Result<(), SectionStatus>,
    ) -> Result<(), SectionStatus> {
        // SAFETY: a `Wide` is made only where the CPU has what this function enables.
        unsafe { pass(self, lines, keys, sink) }
    }

    /// The slots of a line that hold `wanted`.
    #[inline]
    #[target_feature(enable = "avx512f,avx512vbmi,avx512bw,avx512dq,avx512vl")]
    fn matching(&self, line: &IndexLine, wanted: u64) -> u8 {
        // SAFETY: 64 bytes are read from a line of 64, at any alignment.
        let line = unsafe { _mm512_loadu_si512(line.as_ptr().cast()) };
        let stored = _mm512_maskz_permutexvar_epi8(self.stored, self.bytes, line);
        _mm512_cmpeq_epi64_mask(stored, _mm512_set1_epi64(wanted as i64)) & self.slots
    }

    /// Where the value of the lowest slot in `slots` is; that of slot 0 if there is none.
    #[inline]
    fn value_at(&self, slots: u8) -> u8 {
        self.values[slots.trailing_zeros() as usize % EIGHT]
    }

    /// The value at a place that [`Self::values`] has.
    #[inline(always)]
    fn value(line: &IndexLine, at: u8) -> [u8; WIDTH] {
        debug_assert!(usize::from(at) + WIDTH <= line.len(), "the value ends within its line");
        // SAFETY: `new` has asserted of all places that `WIDTH` bytes from there end within a line.
        unsafe { line.as_ptr().add(usize::from(at)).cast::<[u8; WIDTH]>().read() }
    }
}

/// Whether the CPU has all that is used here.
fn is_there() -> bool {
    super::is_wide()
        && std::arch::is_x86_feature_detected!("avx512bitalg")
        && std::arch::is_x86_feature_detected!("avx512vpopcntdq")
}

/// One number per key of a window, aligned so that eight are one access.
#[derive(Clone, Copy)]
#[repr(align(64))]
struct Lanes<T>([T; WINDOW]);

impl Lanes<u8> {
    /// Volatile, so that the compiler stores each byte when it has it: it would collect eight in a register, for twice the
    /// price of all the rest.
    #[inline(always)]
    fn set(&mut self, key: usize, byte: u8) {
        // SAFETY: a reference to a byte of ours is valid for a write.
        unsafe { std::ptr::from_mut(&mut self.0[key]).write_volatile(byte) };
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    fn all(&self) -> __m512i {
        // SAFETY: 64 bytes are read from 64.
        unsafe { _mm512_loadu_si512(self.0.as_ptr().cast()) }
    }
}

/// What is known of one window under way.
#[derive(Clone, Copy)]
struct Window<'a, const WIDTH: usize> {
    /// The hashes of its keys.
    hashes: Lanes<u64>,
    /// Those bits of the hashes that slots store.
    wanted: Lanes<u64>,
    homes: [Home<'a>; WINDOW],
    values: [[u8; WIDTH]; WINDOW],
    found: u64,
    /// Keys to be looked for in the next line; then in the lines behind it.
    going_on: u64,
    open: u64,
}

#[target_feature(
    enable = "avx2,bmi1,bmi2,lzcnt,popcnt,avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512bitalg,avx512vpopcntdq"
)]
fn pass<'a, const WIDTH: usize>(
    wide: Wide<WIDTH>,
    lines: &'a Lines,
    keys: &[[u8; 8]],
    mut sink: impl FnMut(&Answers<'_, WIDTH>) -> Result<(), SectionStatus>,
) -> Result<(), SectionStatus> {
    let windows = keys.len().div_ceil(WINDOW);
    let nothing = Window {
        hashes: Lanes([0; WINDOW]),
        wanted: Lanes([0; WINDOW]),
        homes: [Home::nowhere(); WINDOW],
        values: [[0; WIDTH]; WINDOW],
        found: 0,
        going_on: 0,
        open: 0,
    };
    let mut ring: [Window<'a, WIDTH>; RING] = [nothing; RING];
    let mut last = [[0; 8]; WINDOW];
    for step in 0..windows + RING - 1 {
        let [new, old] =
            ring.get_disjoint_mut([step % RING, step.wrapping_sub(1) % RING]).expect("two windows of the ring");
        let compares = (1..=windows).contains(&step);
        match (window_of(keys, step, &mut last), compares) {
            (Some(keys), true) => ask_and_compare::<true, true, WIDTH>(&wide, lines, keys, new, old),
            (Some(keys), false) => ask_and_compare::<true, false, WIDTH>(&wide, lines, keys, new, old),
            (None, true) => ask_and_compare::<false, true, WIDTH>(&wide, lines, &[[0; 8]; WINDOW], new, old),
            (None, false) => {}
        }
        if step >= 2 && step - 2 < windows {
            compare_next(&wide, &mut ring[(step - 2) % RING]);
        }
        if step >= 3 && step - 3 < windows {
            let (first, window) = ((step - 3) * WINDOW, &mut ring[(step - 3) % RING]);
            compare_beyond(&wide, lines, window);
            let count = (keys.len() - first).min(WINDOW);
            let asked = u64::MAX >> (WINDOW - count);
            let Window { found, open, ref values, .. } = *window;
            sink(&Answers { first, count, found: found & asked, open: open & asked, values })?;
        }
    }
    Ok(())
}

/// The keys of a window, if there is such a window; `last` is where the last one is filled up to a whole one.
#[inline]
fn window_of<'k>(keys: &'k [[u8; 8]], window: usize, last: &'k mut [[u8; 8]; WINDOW]) -> Option<&'k [[u8; 8]; WINDOW]> {
    let keys = keys.get(window * WINDOW..).filter(|keys| !keys.is_empty())?;
    if let Some(whole) = keys.first_chunk() {
        return Some(whole);
    }
    last[..keys.len()].copy_from_slice(keys);
    Some(last)
}

/// Asks for the home lines of `keys`, a new window, and compares those of an old one; by turns, so that requests leave
/// at a steady rate.
#[inline]
#[target_feature(
    enable = "avx2,bmi1,bmi2,lzcnt,popcnt,avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512bitalg,avx512vpopcntdq"
)]
fn ask_and_compare<'a, const ASK: bool, const COMPARE: bool, const WIDTH: usize>(
    wide: &Wide<WIDTH>,
    lines: &'a Lines,
    keys: &[[u8; 8]; WINDOW],
    new: &mut Window<'a, WIDTH>,
    old: &mut Window<'a, WIDTH>,
) {
    let (mut slots, mut reaches) = (Lanes([0_u8; WINDOW]), Lanes([0_u8; WINDOW]));
    for group in 0..WINDOW / EIGHT {
        if ASK {
            // Loops, not `map`: what is called from here without being inlined is compiled without wide instructions.
            let keys = &keys.as_chunks::<EIGHT>().0[group];
            let hashes = &mut new.hashes.0.as_chunks_mut::<EIGHT>().0[group];
            let wanted = &mut new.wanted.0.as_chunks_mut::<EIGHT>().0[group];
            for ((h, wanted), key) in hashes.iter_mut().zip(wanted).zip(keys) {
                *h = hash_u64(u64::from_le_bytes(*key));
                *wanted = *h & wide.format.mask();
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
                slots.set(key, wide.matching(line, old.wanted.0[key]));
                reaches.set(key, LineFormat::reach(line));
            }
        }
    }
    if !COMPARE {
        return;
    }
    let (slots, reaches) = (slots.all(), reaches.all());
    let mut vague = 0;
    for (group, wanted) in old.wanted.0.as_chunks::<EIGHT>().0.iter().enumerate() {
        // SAFETY: 64 bytes are read from eight numbers of 8 bytes.
        let wanted = unsafe { _mm512_loadu_si512(wanted.as_ptr().cast()) };
        // Where `LineFormat::is_vague` holds.
        vague |= u64::from(_mm512_testn_epi64_mask(wanted, wanted)) << (group * EIGHT);
    }
    let hit = _mm512_test_epi8_mask(slots, slots) & !vague;
    // The number of the lowest slot is that of the zeros below it; where there is none, any value is copied.
    let below = _mm512_andnot_si512(slots, _mm512_add_epi8(slots, _mm512_set1_epi8(-1)));
    let slot = _mm512_and_si512(_mm512_popcnt_epi8(below), _mm512_set1_epi8(EIGHT as i8 - 1));
    let values = _mm512_set1_epi64(i64::from_le_bytes(wide.values));
    let mut places = Lanes([0_u8; WINDOW]);
    // SAFETY: 64 bytes are written to an array of 64.
    unsafe { _mm512_storeu_si512(places.0.as_mut_ptr().cast(), _mm512_shuffle_epi8(values, slot)) };
    for ((value, home), at) in old.values.iter_mut().zip(&old.homes).zip(places.0) {
        *value = Wide::value(home.line(), at);
    }
    old.found = hit;
    old.open = vague;
    old.going_on = _mm512_test_epi8_mask(reaches, reaches) & !hit & !vague;
    for key in bits(old.going_on) {
        old.homes[key].prefetch_behind(1);
    }
}

/// Compares the next lines of the keys that go on, and asks for what is behind them.
#[inline]
#[target_feature(enable = "avx2,bmi1,bmi2,lzcnt,popcnt,avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi")]
fn compare_next<const WIDTH: usize>(wide: &Wide<WIDTH>, window: &mut Window<'_, WIDTH>) {
    let mut going_on = 0;
    for key in bits(window.going_on) {
        let (home, wanted) = (window.homes[key], window.wanted.0[key]);
        let slots = wide.matching(home.next(), wanted);
        window.values[key] = Wide::value(home.next(), wide.value_at(slots));
        let hit = slots != 0;
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
#[target_feature(enable = "avx2,bmi1,bmi2,lzcnt,popcnt,avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi")]
fn compare_beyond<const WIDTH: usize>(wide: &Wide<WIDTH>, lines: &Lines, window: &mut Window<'_, WIDTH>) {
    for key in bits(window.going_on) {
        let (home, h) = (window.homes[key], window.hashes.0[key]);
        if lines.is_decoy(home) {
            window.open |= 1 << key;
            continue;
        }
        // The next line is behind the home line, and those here are behind the next.
        let distance = wide.format.distance_max(home.line()) as usize;
        for line in lines.beyond(home, h).iter().take(distance - 1) {
            let slots = wide.matching(line, window.wanted.0[key]);
            if slots != 0 {
                window.values[key] = Wide::value(line, wide.value_at(slots));
                window.found |= 1 << key;
                break;
            }
            if wide.format.ends(line) {
                break;
            }
        }
    }
}

/// Puts the values of the keys in `found` one after the other, and anything behind them; `room` has a place for all.
#[inline(always)]
pub(super) fn put_found<const WIDTH: usize>(found: u64, values: &[[u8; WIDTH]], room: &mut [u8]) {
    if found.count_ones() as usize == values.len() {
        room.copy_from_slice(values.as_flattened());
        return;
    }
    // Each value goes behind those found before it, and is written over if its key is not found.
    let mut at = 0;
    for (offset, value) in values.iter().enumerate() {
        if let Some(room) = room.get_mut(at..).and_then(<[u8]>::first_chunk_mut) {
            *room = *value;
        }
        at += WIDTH * (found >> offset & 1) as usize;
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use fkv_env::Env;
    use fkv_formats::hash::unhash_u64;
    use fkv_formats::id::{Part, TableUid};
    use fkv_formats::record::{Key, RecordRef};
    use fkv_formats::route::part_of;
    use fkv_formats::schema::{F16Overflow, KeyType, Schema, Storage, TableKind, ValueType};
    use fkv_formats::table::Profile;
    use fkv_formats::table::mem::{Probe, build_part};
    use fkv_rpc::packed::{
        KeyStatus, Reply, Request, RequestHeader, RequestWriter, SectionHeader, Selector, ValueForm, u64_section_bytes,
    };

    use super::*;
    use crate::measure::Table;

    const PARTS: u16 = 40;

    /// A value that tells its key.
    fn value(h: u64, width: usize) -> Vec<u8> {
        hash_u64(h).to_le_bytes().iter().cycle().take(width).copied().collect()
    }

    /// Hashes of the first parts: random ones; ones that share a home, so that they spill over many lines; ones whose
    /// stored bits are zero. One part is empty, and one so full of one place that it is sorted.
    fn hashes() -> Vec<u64> {
        let per_part = u64::MAX / 2400;
        let mut hashes = Vec::new();
        for part in (0..u64::from(PARTS)).filter(|part| *part != 7) {
            let start = part * per_part + per_part / 1000;
            let mut random = 0x5eed ^ part;
            for i in 0..900 {
                random = hash_u64(random.wrapping_add(i));
                hashes.push(start + ((u128::from(random) * u128::from(per_part / 1000 * 990)) >> 64) as u64);
            }
            let crowd = if part == 9 { 5000 } else { 25 };
            hashes.extend((0..crowd).map(|i| start + per_part / 2 + i));
            // Bits of no slot.
            hashes.extend((1..4).map(|i| (start + i * (per_part / 5)) >> 48 << 48));
        }
        hashes.sort_unstable();
        hashes.dedup();
        hashes.retain(|h| part_of(*h) < Part(PARTS) && part_of(*h) != Part(7));
        hashes
    }

    /// Every answer of the server's own path, for batches of every kind of length, must be the model's: keys there and
    /// not there, of the home line, the next one and those far behind, of sorted and of absent parts, and those that
    /// look like a slot not in use.
    #[tokio::test]
    async fn every_answer_is_that_of_the_model() {
        let env = Env::real(1).expect("threads");
        let hashes = hashes();
        for value_type in [ValueType::F16(1), ValueType::F32(1), ValueType::I64, ValueType::F32(2), ValueType::F32(4)] {
            let (key, storage, f16_overflow) = (KeyType::U64, Storage::Native, F16Overflow::Reject);
            let schema = Schema { kind: TableKind::Mem, key, value: value_type, storage, f16_overflow, ttl: false };
            let width = value_type.fixed_width().expect("numbers");
            let model: BTreeMap<u64, Vec<u8>> = hashes.iter().map(|h| (*h, value(*h, width))).collect();
            let parts: Vec<_> = (0..PARTS)
                .filter(|part| *part != 7)
                .map(|part| {
                    let records: Vec<RecordRef<'_>> = model
                        .iter()
                        .filter(|(h, _)| part_of(**h) == Part(part))
                        .map(|(h, value)| RecordRef::new(Key::U64(unhash_u64(*h)), 0, Some(value)))
                        .collect();
                    let (layout, bytes) =
                        build_part(&schema, Profile::CURRENT, Part(part), &records, Vec::new()).expect("built");
                    assert_eq!(layout.probe() == Probe::Sorted, part == 9, "part {part}");
                    (Part(part), layout, bytes)
                })
                .collect();
            let table = Table::new(&env, schema, &parts).expect("an image");
            let mut asked: Vec<u64> = hashes.iter().flat_map(|h| [*h, *h ^ 1, h.wrapping_add(1 << 50)]).collect();
            asked.extend([0, u64::MAX, u64::MAX / 2]);
            for length in [1, 2, 63, 64, 65, 127, 128, 129, 300, 4096] {
                for hashes in asked.chunks(length).take(if length < 300 { 50 } else { usize::MAX }) {
                    check(&table, &model, hashes);
                }
            }
        }
    }

    fn check(table: &Table, model: &BTreeMap<u64, Vec<u8>>, hashes: &[u64]) {
        let header = SectionHeader { table: TableUid(1), selector: Selector::Aligned, form: ValueForm::Native };
        let mut writer = RequestWriter::new(
            RequestHeader { canary: false, generation: 0, read_ts_ms: 0 },
            u64_section_bytes(hashes.len()),
        );
        writer.u64_section(header, hashes.iter().map(|h| unhash_u64(*h)));
        let reply = table.answer(&Request::parse(writer.finish()).expect("a request"));
        let reply = Reply::parse(reply).expect("a reply");
        let section = reply.section(0).expect("one section");
        let mut answers = section.answers();
        for h in hashes {
            let (status, value) = answers.next().expect("an answer a key");
            let here = part_of(*h) < Part(PARTS) && part_of(*h) != Part(7);
            let expected = match model.get(h) {
                Some(value) => (KeyStatus::Found, &value[..]),
                None if here => (KeyStatus::Absent, &[][..]),
                None => (KeyStatus::NotHere, &[][..]),
            };
            assert_eq!((status, value), expected, "hash {h:#x}");
        }
    }
}
