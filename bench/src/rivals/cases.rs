//! The comparisons: what each contender is asked, with how much memory, and what comes of it.

use std::path::Path;
use std::time::Duration;

use fkv_env::Env;

use super::lmdb::Lmdb;
use super::rocksdb::{self, Caches, RocksDb};
use super::{Rival, check, read, read_all, warm};
use crate::keys::Law;
use crate::report::{Op, Report, median};
use crate::ssd::table::{Files, Table};
use crate::ssd::{ROUNDS, WINDOW};
use crate::window::Reading;

/// Exponent of Zipf's law.
const EXPONENT: f64 = 0.99;
/// The record cache is this share of the data where keys follow Zipf's law.
const CACHE_SHARE: u64 = 10;
/// For a trial, caches are warmed with this share of as many keys as there are records; before measuring, with as many.
const WARM_SHARE: u64 = 4;
/// Keys of the warm case at most: three copies of their records are in memory at once.
const WARM_KEYS_MAX: u64 = 2_000_000;
/// Memory for a record that is to stay in a cache for certain: its 408 bytes, what caches add, and room to spare.
const WARM_RECORD_BYTES: u64 = 640;
/// Threads that ask RocksDB for keys on SSD. Each has 32 reads in flight at most, most of the time fewer: the fastest of these.
const THREADS: [u64; 4] = [2, 4, 8, 16];
/// How long each number of threads is tried.
const TRIAL: Duration = Duration::from_secs(1);
/// Threads that ask for keys in memory: one per core.
const WARM_THREADS: u64 = 2;
/// The rounds whose keys are asked for in trials come behind this one; none is among those measured.
const TRIAL_ROUND: u64 = 1 << 20;

/// Compares FeatureKV's table with the rivals; files go below `dir`.
pub(crate) async fn measure(env: &Env, files: &Files, dir: &Path, report: &mut Report) -> Result<(), String> {
    let rocks_dir = dir.join("rocksdb");
    rocksdb::build(env, files.count, &rocks_dir)?;
    uniform(env, files, &rocks_dir, report).await?;
    zipf(env, files, &rocks_dir, report).await?;
    in_memory(env, files, &rocks_dir, &dir.join("lmdb"), report).await
}

/// Readings of one contender, round by round.
#[derive(Debug, Default)]
struct Readings(Vec<Reading>);

impl Readings {
    fn median(&self, of: impl Fn(&Reading) -> f64) -> f64 {
        median(&self.0.iter().map(of).collect::<Vec<_>>())
    }

    fn keys_per_s(&self) -> f64 {
        self.median(|reading| reading.keys_per_s)
    }

    fn cpu_us_per_key(&self) -> f64 {
        self.median(Reading::cpu_us_per_key)
    }

    /// Puts the medians into the report.
    fn put(&self, report: &mut Report, name: &str) {
        report.raw(&format!("{name}_keys_per_s"), self.keys_per_s());
        report.raw(&format!("{name}_cpu_us_per_key"), self.cpu_us_per_key());
        report.raw(&format!("{name}_reads_per_key"), self.median(|reading| reading.reads_per_key));
        report.raw(&format!("{name}_cores"), self.median(|reading| reading.cpu));
    }
}

/// Memory that RocksDB has for its caches, if all of its memory is as large as that of `table`.
fn cache_bytes(dir: &Path, table: &Table, name: &str, report: &mut Report) -> Result<u64, String> {
    let resident = RocksDb::open(dir, Caches { blocks: 0, rows: 0 })?.resident_bytes()?;
    report.raw(&format!("{name}_memory_bytes"), table.memory_bytes);
    report.raw("rocksdb_index_and_filter_bytes", resident);
    let bytes = table.memory_bytes.checked_sub(resident);
    bytes.ok_or_else(|| format!("RocksDB's indexes need {resident} bytes, all of ours are {}", table.memory_bytes))
}

/// The number of threads with which a rival answers most keys, and how many.
fn fastest(env: &Env, rival: &dyn Rival, law: Law) -> Result<(u64, f64), String> {
    let mut fastest = (0, 0.0);
    for threads in THREADS {
        // Other keys each time: those of the trial before are cached.
        let reading = read(env, rival, threads, law, TRIAL_ROUND + threads, TRIAL)?;
        if reading.keys_per_s > fastest.1 {
            fastest = (threads, reading.keys_per_s);
        }
    }
    Ok(fastest)
}

/// Asks us and a rival in turn.
async fn in_turn(env: &Env, table: &Table, rival: &dyn Rival, threads: u64, law: Law) -> Result<[Readings; 2], String> {
    let [mut ours, mut theirs] = [Readings::default(), Readings::default()];
    for round in 0..ROUNDS {
        ours.0.push(table.read(env, law, round, WINDOW).await);
        theirs.0.push(read(env, rival, threads, law, round, WINDOW)?);
    }
    Ok([ours, theirs])
}

async fn uniform(env: &Env, files: &Files, rocks_dir: &Path, report: &mut Report) -> Result<(), String> {
    let law = Law::Uniform { first: 0, count: files.count };
    let table = files.open(env, 0).await?;
    let caches = Caches { blocks: cache_bytes(rocks_dir, &table, "uniform", report)?, rows: 0 };
    let rocks = RocksDb::open(rocks_dir, caches)?;
    table.check(files.count).await?;
    check(&rocks, files.count)?;
    let (threads, _) = fastest(env, &rocks, law)?;
    let [ours, theirs] = in_turn(env, &table, &rocks, threads, law).await?;
    report.raw("uniform_rocksdb_threads", threads);
    ours.put(report, "uniform_fkv");
    theirs.put(report, "uniform_rocksdb");
    report.ratio("rocksdb_cpu_per_key", ours.cpu_us_per_key() / theirs.cpu_us_per_key(), Op::AtMost, 0.5);
    report.ratio("rocksdb_throughput_uniform", ours.keys_per_s() / theirs.keys_per_s(), Op::AtLeast, 1.0);
    Ok(())
}

async fn zipf(env: &Env, files: &Files, rocks_dir: &Path, report: &mut Report) -> Result<(), String> {
    let law = Law::zipf(files.count, EXPONENT);
    let data = files.packs().iter().map(|path| env.files.stat(path).map_or(0, |stat| stat.len)).sum::<u64>();
    let table = files.open(env, data / CACHE_SHARE).await?;
    let cache = cache_bytes(rocks_dir, &table, "zipf", report)?;
    let mut best: Option<(&str, Caches, u64, f64)> = None;
    for (name, caches) in
        [("records", Caches { blocks: 0, rows: cache }), ("blocks", Caches { blocks: cache, rows: 0 })]
    {
        let rocks = RocksDb::open(rocks_dir, caches)?;
        warm(env, &rocks, THREADS[2], law, files.count / WARM_SHARE)?;
        let (threads, keys_per_s) = fastest(env, &rocks, law)?;
        report.raw(&format!("zipf_rocksdb_{name}_cached_keys_per_s"), keys_per_s);
        if best.is_none_or(|(.., most)| keys_per_s > most) {
            best = Some((name, caches, threads, keys_per_s));
        }
    }
    let (name, caches, threads, _) = best.expect("some were tried");
    let rocks = RocksDb::open(rocks_dir, caches)?;
    table.check(files.count).await?;
    check(&rocks, files.count)?;
    table.warm(env, law, files.count).await;
    warm(env, &rocks, threads, law, files.count)?;
    let [ours, theirs] = in_turn(env, &table, &rocks, threads, law).await?;
    report.raw("zipf_rocksdb_threads", threads);
    report.raw("zipf_rocksdb_caches", name);
    ours.put(report, "zipf_fkv");
    theirs.put(report, "zipf_rocksdb");
    report.ratio("rocksdb_cpu_per_key_zipf", ours.cpu_us_per_key() / theirs.cpu_us_per_key(), Op::AtMost, 0.5);
    report.ratio("rocksdb_throughput_zipf", ours.keys_per_s() / theirs.keys_per_s(), Op::AtLeast, 1.5);
    Ok(())
}

async fn in_memory(
    env: &Env,
    files: &Files,
    rocks_dir: &Path,
    lmdb_dir: &Path,
    report: &mut Report,
) -> Result<(), String> {
    let count = files.count.min(WARM_KEYS_MAX);
    let law = Law::Uniform { first: 0, count };
    let bytes = count * WARM_RECORD_BYTES;
    let table = files.open(env, bytes).await?;
    let rocks = RocksDb::open(rocks_dir, Caches { blocks: bytes, rows: 0 })?;
    let lmdb = Lmdb::build(env, count, lmdb_dir)?;
    table.check(files.count).await?;
    check(&rocks, files.count)?;
    check(&lmdb, count)?;
    table.read_all(count).await;
    read_all(&rocks, count, 8)?;
    read_all(&lmdb, count, 2)?;
    let [mut ours, mut theirs, mut mapped] = [Readings::default(), Readings::default(), Readings::default()];
    for round in 0..ROUNDS {
        ours.0.push(table.read(env, law, round, WINDOW).await);
        theirs.0.push(read(env, &rocks, WARM_THREADS, law, round, WINDOW)?);
        mapped.0.push(read(env, &lmdb, WARM_THREADS, law, round, WINDOW)?);
    }
    report.raw("warm_records", count);
    ours.put(report, "warm_fkv");
    theirs.put(report, "warm_rocksdb");
    mapped.put(report, "warm_lmdb");
    let ratio = |theirs: &Readings| ours.cpu_us_per_key() / theirs.cpu_us_per_key();
    report.ratio("rocksdb_cpu_per_key_warm", ratio(&theirs), Op::AtMost, 0.5);
    report.ratio("lmdb_cpu_per_key_warm", ratio(&mapped), Op::AtMost, 1.0);
    Ok(())
}
