//! Suite `mem`: batch lookups in memory tables, against a prefetched random gather over the same bytes (the limit) and a
//! `hashbrown` get loop on huge pages too (the rival).
//!
//! ```text
//!   floats    u64 keys, f32 values          in the index line
//!   records   16-byte keys, 100-byte values index line, then the record
//!
//!   seeded keys ──▶ 2400 parts ──▶ an image in the server's own memory ──▶ requests of 4096 keys
//!               └─▶ hashbrown map on huge pages
//!   rounds × { gather, each depth │ hashbrown │ FeatureKV } on 1 and 2 threads, medians
//! ```
//!
//! FeatureKV runs the server's own code: keys of a packed request to a finished packed reply. The gather reads four bytes
//! of each random line, asked for as far ahead as is fastest; the rival copies values into an array.

mod shape;

use std::hint::black_box;
use std::time::Duration;

use bytes::Bytes;
use fkv_env::Env;
use fkv_formats::hash::hash_u64;
use fkv_kvsvr::measure::Table;
use fkv_rpc::packed::{Reply, Request};

use self::shape::{Data, Floats, Records, Shape};
use crate::huge::{Level, prefetch};
use crate::machine::thread_cpu;
use crate::report::{Op, Report, median};

/// Keys of a batch.
const BATCH: usize = 4096;
/// Batches of one measurement.
const BATCHES: usize = 512;
/// Measurements of each contender.
const ROUNDS: usize = 7;
/// What the gather tries: how many lines ahead it asks, and to which cache; the fastest counts.
const GATHERS: [(usize, Level); 8] = [
    (24, Level::First),
    (48, Level::First),
    (96, Level::First),
    (192, Level::First),
    (24, Level::Second),
    (48, Level::Second),
    (96, Level::Second),
    (192, Level::Second),
];
/// The table is at least so many times the last-level cache.
const CACHES_MIN: u64 = 20;
/// What FeatureKV reports per second and core.
const FEATUREKV_KEYS_PER_S: f64 = 1.75e6;

/// Runs the suite: 100 M floats and 20 M records, or 64 M and 8 M with `quick`, or `keys` floats and a fifth as many
/// records; fills `report`.
///
/// # Errors
/// A table could not be built: no memory, or a fault of the formats.
pub fn run(env: &Env, quick: bool, keys: Option<usize>, report: &mut Report) -> Result<(), String> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    let runtime = runtime.map_err(|error| format!("cannot start threads: {error}"))?;
    let _inside = runtime.enter();
    let floats = keys.unwrap_or(if quick { 64_000_000 } else { 100_000_000 });
    let records = keys.map_or(if quick { 8_000_000 } else { 20_000_000 }, |keys| keys / 5);
    report.raw("batch_keys", BATCH);
    report.raw("rounds", ROUNDS);
    if floats > 0 {
        measure::<Floats>(env, floats, report)?;
    }
    if records > 0 { measure::<Records>(env, records, report) } else { Ok(()) }
}

fn measure<S: Shape>(env: &Env, count: usize, report: &mut Report) -> Result<(), String> {
    let name = S::NAME;
    let data = Data::<S>::build(env, count)?;
    let image = data.table.bytes().len();
    if (image as u64) < CACHES_MIN * report.machine.l3_bytes {
        report.raw(&format!("{name}_too_small_for_the_cache"), true);
    }
    let per_key = ratio(image, count);
    report.raw(&format!("{name}_keys"), count);
    report.raw(&format!("{name}_image_bytes"), image);
    report.raw(&format!("{name}_image_bytes_per_key"), per_key);
    report.raw(&format!("{name}_raw_bytes_per_key"), S::RAW_BYTES);
    report.ratio(&format!("{name}_memory_over_raw"), per_key / S::RAW_BYTES, Op::AtMost, S::MEMORY_GOAL);
    for hit_percent in [100, 50] {
        let keys = data.questions(hit_percent, BATCH * BATCHES);
        let requests: Vec<Request> = keys.chunks(BATCH).map(S::request).collect();
        data.check(&keys, &requests)?;
        let lines = data.lines_per_key(&keys);
        for threads in [1, 2] {
            let case = format!("{name}_hit{hit_percent}_t{threads}");
            let mut gathers = GATHERS.map(|_| Vec::new());
            let (mut rival, mut ours) = (Vec::new(), Vec::new());
            for _ in 0..ROUNDS {
                for ((depth, level), times) in GATHERS.iter().zip(&mut gathers) {
                    let memory = data.table.bytes();
                    times.push(per_key_ns(threads, &keys, |keys| match level {
                        Level::First => gather(memory, *depth, Level::First, keys),
                        Level::Second => gather(memory, *depth, Level::Second, keys),
                    }));
                }
                rival.push(per_key_ns(threads, &keys, |keys| data.look_up_rival(keys)));
                ours.push(per_key_ns(threads, &requests, |requests| answer(&data.table, requests)) / BATCH as f64);
            }
            let gathers = gathers.map(|times| median(&times));
            let ((depth, level), line) =
                GATHERS.iter().zip(gathers).min_by(|a, b| a.1.total_cmp(&b.1)).expect("some ways to gather");
            let (rival, ours) = (median(&rival), median(&ours));
            for ((depth, level), ns) in GATHERS.iter().zip(gathers) {
                report.raw(&format!("{case}_gather{depth}_{level:?}_ns_per_line").to_lowercase(), ns);
            }
            report.raw(&format!("{case}_gather_fastest"), format!("{depth} {level:?}").to_lowercase());
            report.raw(&format!("{case}_lines_per_key"), lines);
            report.raw(&format!("{case}_hashbrown_ns_per_key"), rival);
            report.raw(&format!("{case}_fkv_ns_per_key"), ours);
            report.raw(&format!("{case}_fkv_keys_per_s_and_thread"), 1e9 / ours);
            report.raw(&format!("{case}_fkv_times_featurekv"), 1e9 / ours / FEATUREKV_KEYS_PER_S);
            report.ratio(&format!("{case}_over_gather"), line * lines / ours, Op::AtLeast, S::GATHER_GOAL);
            report.ratio(&format!("{case}_over_hashbrown"), rival / ours, Op::AtLeast, 3.0);
        }
    }
    Ok(())
}

fn ratio(a: usize, b: usize) -> f64 {
    a as f64 / b as f64
}

/// CPU time that a thread takes per item, with `threads` of them at work on shares of `items`: what else the machine does
/// meanwhile takes turns with them, which is not theirs.
fn per_key_ns<T: Sync>(threads: usize, items: &[T], work: impl Fn(&[T]) + Sync) -> f64 {
    let share = items.len() / threads;
    let timed = |items: &[T]| {
        let start = thread_cpu();
        work(items);
        thread_cpu().saturating_sub(start)
    };
    let took: Duration = std::thread::scope(|scope| {
        let others: Vec<_> = items.chunks(share).skip(1).map(|items| scope.spawn(|| timed(items))).collect();
        let mine = timed(&items[..share]);
        others.into_iter().map(|other| other.join().expect("a lookup does not panic")).sum::<Duration>() + mine
    });
    took.as_nanos() as f64 / (share * threads) as f64
}

/// The limit: one random line per key, four bytes copied from each.
#[inline(always)]
fn gather(memory: &[u8], depth: usize, level: Level, keys: &[u64]) {
    let lines = memory.len() as u64 / 64;
    let position = |key: u64| ((u128::from(hash_u64(key)) * u128::from(lines)) >> 64) as usize * 64;
    let mut values = vec![0_u32; BATCH];
    let mut positions = vec![0_usize; BATCH];
    for batch in keys.chunks(BATCH) {
        let positions = &mut positions[..batch.len()];
        for (position_of, key) in positions.iter_mut().zip(batch) {
            *position_of = position(*key);
        }
        for at in positions.iter().take(depth) {
            prefetch(memory, *at, level);
        }
        for (index, value) in values.iter_mut().enumerate().take(positions.len()) {
            if let Some(at) = positions.get(index + depth) {
                prefetch(memory, *at, level);
            }
            if let Some(bytes) = memory.get(positions[index]..).and_then(<[u8]>::first_chunk) {
                *value = u32::from_le_bytes(*bytes);
            }
        }
        black_box(&values);
    }
}

/// Us.
fn answer(table: &Table, requests: &[Request]) {
    for request in requests {
        black_box(table.answer(request));
    }
}

fn parse(reply: Bytes) -> Result<Reply, String> {
    Reply::parse(reply).map_err(|error| format!("a reply that cannot be read: {error}"))
}
