//! Suite `mem`: batch lookups in a memory table of `u64` keys and `f32` values, against a prefetched random gather
//! over the same bytes (the limit) and a `hashbrown` get loop on huge pages too (the rival).
//!
//! ```text
//!   hashes: seeded, distinct ──▶ sorted ──▶ 2400 parts in one block of huge pages
//!                            └─▶ hashbrown map
//!   rounds × { gather │ hashbrown │ FeatureKV } over batches of 4096 keys, medians
//! ```

use std::hint::black_box;
use std::time::Duration;

use fkv_env::{Clock, Env};
use fkv_formats::hash::{hash_u64, unhash_u64};
use fkv_formats::id::{PART_COUNT, Part};
use fkv_formats::record::{Key, RecordRef};
use fkv_formats::route::part_of;
use fkv_formats::schema::{F16Overflow, KeyType, Schema, Storage, TableKind, ValueType};
use fkv_formats::table::Profile;
use fkv_formats::table::mem::{MemLayout, build_part};
use rayon::iter::{IntoParallelIterator, ParallelIterator};
use rayon::slice::ParallelSliceMut;

use crate::huge::{HugeAllocator, HugeBytes, prefetch};
use crate::report::{Op, Report, median};

/// Keys of a batch.
const BATCH: usize = 4096;
/// Batches of one measurement.
const BATCHES: usize = 1024;
/// Measurements of each contender.
const ROUNDS: usize = 5;
/// Keys between asking for a line and reading it, as in the server.
const DISTANCE: usize = 24;

type Rival = hashbrown::HashMap<u64, f32, hashbrown::DefaultHashBuilder, HugeAllocator>;

/// A part that was built, if it has records.
type BuiltPart = Option<(MemLayout, Vec<u8>)>;

/// A table in one block of huge pages.
struct Table {
    image: HugeBytes,
    parts: Vec<Option<(usize, usize, MemLayout)>>,
    records: usize,
}

/// Runs the suite over 100 M keys, or 64 M with `quick`, and fills `report`.
///
/// # Errors
/// A table could not be built: no memory, or a fault of the formats.
pub fn run(env: &Env, quick: bool, report: &mut Report) -> Result<(), String> {
    let count: usize = if quick { 64_000_000 } else { 100_000_000 };
    let hashes = distinct_hashes(count);
    let table = Table::build(&hashes)?;
    let mut rival = Rival::with_capacity_and_hasher_in(count, hashbrown::DefaultHashBuilder::default(), HugeAllocator);
    for h in &hashes {
        rival.insert(unhash_u64(*h), value_of(*h));
    }
    report.raw("keys", count);
    report.raw("image_bytes", table.image.bytes().len());
    #[allow(clippy::cast_precision_loss, reason = "ratios need no more than 52 bits")]
    let per_key = table.image.bytes().len() as f64 / count as f64;
    report.raw("image_bytes_per_key", per_key);
    report.ratio("memory_over_raw", per_key / 12.0, Op::AtMost, 1.0);

    for hit_percent in [100, 50] {
        let keys = questions(&hashes, hit_percent);
        let (mut gather, mut hash_map, mut ours) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            gather.push(per_key_ns(env.clock.as_ref(), || table.gather(&keys)));
            hash_map.push(per_key_ns(env.clock.as_ref(), || look_up_rival(&rival, &keys)));
            ours.push(per_key_ns(env.clock.as_ref(), || table.look_up(&keys)));
        }
        let expected = keys.iter().filter(|key| rival.contains_key(*key)).count();
        let found = table.look_up(&keys).1;
        if found != expected {
            return Err(format!("{found} keys were found, {expected} are there: the lookup is wrong"));
        }
        let (gather, hash_map, ours) = (median(&gather), median(&hash_map), median(&ours));
        report.raw(&format!("gather_ns_per_key_hit{hit_percent}"), gather);
        report.raw(&format!("hashbrown_ns_per_key_hit{hit_percent}"), hash_map);
        report.raw(&format!("fkv_ns_per_key_hit{hit_percent}"), ours);
        report.raw(&format!("fkv_keys_per_s_hit{hit_percent}"), 1e9 / ours);
        report.ratio(&format!("fkv_over_gather_hit{hit_percent}"), gather / ours, Op::AtLeast, 0.85);
        report.ratio(&format!("fkv_over_hashbrown_hit{hit_percent}"), hash_map / ours, Op::AtLeast, 3.0);
    }
    Ok(())
}

/// `count` distinct hashes in ascending order. A bijection of a counter, so that runs repeat.
fn distinct_hashes(count: usize) -> Vec<u64> {
    let mut hashes: Vec<u64> = (0..count as u64).into_par_iter().map(hash_u64).collect();
    hashes.par_sort_unstable();
    hashes
}

#[allow(clippy::cast_precision_loss, reason = "any value will do")]
fn value_of(h: u64) -> f32 {
    (h >> 40) as f32
}

/// The keys of all batches: `hit_percent` of them in the table.
fn questions(hashes: &[u64], hit_percent: u64) -> Vec<u64> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        hash_u64(state)
    };
    (0..BATCH * BATCHES)
        .map(|_| {
            let pick = usize::try_from((u128::from(next()) * hashes.len() as u128) >> 64).unwrap_or(0);
            // The keys of the table are the counters below its size; one far above is absent.
            if next() % 100 < hit_percent { unhash_u64(hashes[pick]) } else { u64::MAX - pick as u64 }
        })
        .collect()
}

/// Time of `work` per key. `work` gives the keys it handled and how many it found.
fn per_key_ns(clock: &dyn Clock, work: impl FnOnce() -> (usize, usize)) -> f64 {
    let start = clock.monotonic();
    let (keys, found) = work();
    let took: Duration = clock.monotonic().saturating_sub(start);
    black_box(found);
    #[allow(clippy::cast_precision_loss, reason = "ratios need no more than 52 bits")]
    let per_key = took.as_nanos() as f64 / keys as f64;
    per_key
}

fn look_up_rival(rival: &Rival, keys: &[u64]) -> (usize, usize) {
    let mut values = vec![0.0_f32; BATCH];
    let mut found = 0;
    for batch in keys.chunks(BATCH) {
        for (value, key) in values.iter_mut().zip(batch) {
            if let Some(stored) = rival.get(key) {
                *value = *stored;
                found += 1;
            }
        }
        black_box(&values);
    }
    (keys.len(), found)
}

impl Table {
    fn build(hashes: &[u64]) -> Result<Self, String> {
        let schema = Schema {
            kind: TableKind::Mem,
            key: KeyType::U64,
            value: ValueType::F32(1),
            storage: Storage::Native,
            f16_overflow: F16Overflow::Reject,
            ttl: false,
        };
        let built: Vec<Result<BuiltPart, String>> = (0..PART_COUNT)
            .into_par_iter()
            .map(|number| {
                let part = Part(number);
                let start = hashes.partition_point(|h| part_of(*h) < part);
                let mine = &hashes[start..];
                let mine = &mine[..mine.partition_point(|h| part_of(*h) == part)];
                if mine.is_empty() {
                    return Ok(None);
                }
                let values: Vec<[u8; 4]> = mine.iter().map(|h| value_of(*h).to_le_bytes()).collect();
                let records: Vec<RecordRef<'_>> = mine
                    .iter()
                    .zip(&values)
                    .map(|(h, value)| RecordRef { h: *h, key: Key::U64(unhash_u64(*h)), expiry: 0, value: Some(value) })
                    .collect();
                build_part(&schema, Profile::CURRENT, part, &records, Vec::new())
                    .map(Some)
                    .map_err(|error| error.to_string())
            })
            .collect();
        let built: Vec<BuiltPart> = built.into_iter().collect::<Result<_, String>>()?;
        let len = built.iter().flatten().map(|(_, bytes)| bytes.len()).sum();
        let mut image = HugeBytes::new(len).map_err(|error| error.to_string())?;
        let mut at = 0;
        let mut parts = Vec::with_capacity(built.len());
        for part in built {
            parts.push(part.map(|(layout, bytes)| {
                let start = at;
                at += bytes.len();
                image.bytes_mut()[start..at].copy_from_slice(&bytes);
                (start, bytes.len(), layout)
            }));
        }
        Ok(Self { image, parts, records: hashes.len() })
    }

    #[inline]
    fn part(&self, h: u64) -> Option<(&[u8], &MemLayout)> {
        let (start, len, layout) = self.parts[usize::from(part_of(h).0)].as_ref()?;
        Some((&self.image.bytes()[*start..*start + *len], layout))
    }

    /// The limit: one random line per key, asked for as far ahead as in a lookup, four bytes copied from each.
    fn gather(&self, keys: &[u64]) -> (usize, usize) {
        let bytes = self.image.bytes();
        let lines = bytes.len() as u64 / 64;
        let position = |key: u64| ((u128::from(hash_u64(key)) * u128::from(lines)) >> 64) as usize * 64;
        let mut values = vec![0_u32; BATCH];
        let mut positions = vec![0_usize; BATCH];
        for batch in keys.chunks(BATCH) {
            for (position_of, key) in positions.iter_mut().zip(batch) {
                *position_of = position(*key);
            }
            for at in &positions[..batch.len().min(DISTANCE)] {
                prefetch(bytes, *at);
            }
            for index in 0..batch.len() {
                if let Some(at) = positions[..batch.len()].get(index + DISTANCE) {
                    prefetch(bytes, *at);
                }
                let at = positions[index];
                values[index] = u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
            }
            black_box(&values);
        }
        (keys.len(), self.records.min(keys.len()))
    }

    /// Us: the steps of the server's lookup over one batch after the other.
    fn look_up(&self, keys: &[u64]) -> (usize, usize) {
        let mut values = vec![[0_u8; 4]; BATCH];
        let mut hashes = vec![0_u64; BATCH];
        let mut found = 0;
        for batch in keys.chunks(BATCH) {
            for (h, key) in hashes.iter_mut().zip(batch) {
                *h = hash_u64(*key);
            }
            let hashes = &hashes[..batch.len()];
            for h in &hashes[..hashes.len().min(DISTANCE)] {
                self.touch(*h);
            }
            for index in 0..hashes.len() {
                if let Some(h) = hashes.get(index + DISTANCE) {
                    self.touch(*h);
                }
                let h = hashes[index];
                let answer = self.part(h).and_then(|(bytes, layout)| layout.find(bytes, h, Key::U64(batch[index])));
                if let Some(answer) = answer
                    && let Some(value) = answer.value.first_chunk()
                {
                    values[index] = *value;
                    found += 1;
                }
            }
            black_box(&values);
        }
        (keys.len(), found)
    }

    #[inline]
    fn touch(&self, h: u64) {
        if let Some((bytes, layout)) = self.part(h) {
            prefetch(bytes, layout.first_line(h));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_contenders_find_the_same_keys() {
        let hashes = distinct_hashes(100_000);
        let table = Table::build(&hashes).expect("built");
        let mut rival = Rival::with_hasher_in(hashbrown::DefaultHashBuilder::default(), HugeAllocator);
        for h in &hashes {
            rival.insert(unhash_u64(*h), value_of(*h));
        }
        for hit_percent in [100, 50, 0] {
            let keys = &questions(&hashes, hit_percent)[..50_000];
            let found = table.look_up(keys).1;
            assert_eq!(found, look_up_rival(&rival, keys).1);
            let share = found as f64 / keys.len() as f64;
            assert!((share * 100.0 - hit_percent as f64).abs() < 2.0, "{share} of {hit_percent} %");
        }
        let key = unhash_u64(hashes[777]);
        let (bytes, layout) = table.part(hash_u64(key)).expect("a part");
        let value = layout.find(bytes, hash_u64(key), Key::U64(key)).expect("there").value;
        assert_eq!(value, value_of(hashes[777]).to_le_bytes());
    }
}
