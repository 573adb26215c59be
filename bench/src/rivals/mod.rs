//! Other stores over the same records, asked in the same way.
//!
//! ```text
//!   uniform, cold   FeatureKV without record cache │ RocksDB, block cache of what remains of the same memory
//!   Zipf            FeatureKV, records cached      │ RocksDB, records and blocks cached     same memory in all
//!   uniform, warm   FeatureKV, all records cached  │ RocksDB, all blocks cached │ LMDB, all pages cached
//!   each: answers compared with what was written ── caches warmed ── rounds × { one contender after the other } ── medians
//! ```
//!
//! A rival answers a batch of keys with its values in one piece of memory, as a reply to somebody would need them.

mod lmdb;
mod rocksdb;

use std::ops::Range;
use std::path::Path;
use std::time::Duration;

use fkv_env::Env;

use self::lmdb::Lmdb;
use self::rocksdb::{Caches, RocksDb};
use crate::keys::{BATCH, Keys, Law, put_value, sample};
use crate::machine::device_reads;
use crate::report::{Op, Report, median};
use crate::ssd::table::{Files, Table};
use crate::ssd::{ROUNDS, WINDOW};
use crate::window::{Reading, Window};

/// Exponent of Zipf's law.
const EXPONENT: f64 = 0.99;
/// The record cache is this share of the data where keys follow Zipf's law.
const CACHE_SHARE: u64 = 10;
/// Keys of the warm case at most: three copies of their records are in memory at once.
const WARM_KEYS_MAX: u64 = 3_000_000;
/// Memory for a record that is to stay in a cache for certain: its 408 bytes, what caches add, and room to spare.
const WARM_RECORD_BYTES: u64 = 640;
/// Threads that ask RocksDB for cold keys. Each has 32 reads in flight at most, most of the time fewer.
const COLD_THREADS: u64 = 4;
/// The same under Zipf's law, where most of 32 keys are cached.
const ZIPF_THREADS: u64 = 8;
/// Threads that ask for keys in memory: one per core.
const WARM_THREADS: u64 = 2;

/// The answers to a batch.
#[derive(Debug, Default)]
pub(crate) struct Answers {
    values: Vec<u8>,
    /// By index of the key: where its value is.
    places: Vec<Option<Range<usize>>>,
}

impl Answers {
    /// Makes room for the answers to `keys` keys, all absent so far.
    fn begin(&mut self, keys: usize) {
        self.values.clear();
        self.places.clear();
        self.places.resize(keys, None);
    }

    fn put(&mut self, index: usize, value: &[u8]) {
        let start = self.values.len();
        self.values.extend_from_slice(value);
        self.places[index] = Some(start..self.values.len());
    }

    fn value(&self, index: usize) -> Option<&[u8]> {
        self.places[index].clone().map(|place| &self.values[place])
    }
}

/// A store that answers batches, on the thread that asks.
trait Rival: Sync {
    fn answer(&self, keys: &[u64], answers: &mut Answers) -> Result<(), String>;
}

/// Compares answers with what was written, of present and absent keys.
fn check(rival: &dyn Rival, count: u64) -> Result<(), String> {
    let keys: Vec<u64> = sample(count).collect();
    let (mut answers, mut expected) = (Answers::default(), Vec::new());
    for keys in keys.chunks(BATCH) {
        rival.answer(keys, &mut answers)?;
        for (index, key) in keys.iter().enumerate() {
            expected.clear();
            put_value(*key, &mut expected);
            if answers.value(index) != (*key < count).then_some(expected.as_slice()) {
                return Err(format!("the answer of a rival for key {key} is wrong"));
            }
        }
    }
    Ok(())
}

/// What threads do that ask a rival.
fn ask(rival: &dyn Rival, window: &Window, law: Law, round: u64, worker: u64) -> Result<(), String> {
    let mut keys = Keys::new(law, round, worker);
    let mut answers = Answers::default();
    while window.goes_on() {
        let begun = window.now();
        let outcome = rival.answer(&keys.batch(), &mut answers);
        if outcome.is_err() {
            window.stop();
            return outcome;
        }
        std::hint::black_box(&answers);
        window.note(begun);
    }
    Ok(())
}

/// Asks a rival from several threads for as long as `watch` takes.
fn ask_during<T>(
    env: &Env,
    rival: &dyn Rival,
    threads: u64,
    law: Law,
    round: u64,
    watch: impl AsyncFnOnce(&Window) -> T,
) -> Result<(T, std::sync::Arc<Window>), String> {
    let window = Window::new(env);
    let handle = tokio::runtime::Handle::current();
    let seen = tokio::task::block_in_place(|| {
        std::thread::scope(|scope| {
            let window = &*window;
            let ask = |worker| scope.spawn(move || ask(rival, window, law, round, worker));
            let workers: Vec<_> = (0..threads).map(ask).collect();
            let seen = handle.block_on(watch(window));
            window.stop();
            for worker in workers {
                worker.join().map_err(|_| "a thread that asks a rival panicked".to_owned())??;
            }
            Ok::<_, String>(seen)
        })
    })?;
    Ok((seen, window))
}

/// Asks a rival during a window.
fn read(env: &Env, rival: &dyn Rival, threads: u64, law: Law, round: u64) -> Result<Reading, String> {
    let reads = || device_reads(env.files.as_ref());
    let before = reads();
    let (watched, window) =
        ask_during(env, rival, threads, law, round, async |window| window.watch(WINDOW, reads).await)?;
    Ok(window.sum(&watched, reads() - before))
}

/// Asks a rival until `keys` keys have been answered.
fn warm(env: &Env, rival: &dyn Rival, threads: u64, law: Law, keys: u64) -> Result<(), String> {
    let until = async |window: &Window| {
        while window.goes_on() && window.keys() < keys {
            env.clock.sleep(Duration::from_millis(20)).await;
        }
    };
    ask_during(env, rival, threads, law, u64::from(u32::MAX), until).map(drop)
}

/// Asks once for every key of `0..count`.
fn read_all(rival: &dyn Rival, count: u64) -> Result<(), String> {
    let mut answers = Answers::default();
    let keys: Vec<u64> = (0..count).collect();
    keys.chunks(BATCH).try_for_each(|keys| rival.answer(keys, &mut answers))
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

/// Compares FeatureKV's table with the rivals; files go below `dir`.
pub(crate) async fn measure(env: &Env, files: &Files, dir: &Path, report: &mut Report) -> Result<(), String> {
    use crate::ssd::table::xenv;
    let rocks_dir = std::env::var("FKV_X_ROCKSDIR").map_or(dir.join("rocksdb"), |d| d.into());
    if !rocks_dir.exists() {
        rocksdb::build(env, files.count, &rocks_dir)?;
    }
    let phase = xenv("PHASE", 7);
    if phase & 1 > 0 {
        uniform(env, files, &rocks_dir, report).await?;
    }
    if phase & 2 > 0 {
        zipf(env, files, &rocks_dir, report).await?;
    }
    if phase & 4 == 0 {
        return Ok(());
    }
    in_memory(env, files, &rocks_dir, &dir.join("lmdb"), report).await
}

/// RocksDB with caches that make its memory as large as that of `table`.
fn rocksdb_like(dir: &Path, table: &Table, rows: bool, name: &str, report: &mut Report) -> Result<RocksDb, String> {
    let resident = RocksDb::open(dir, Caches { blocks: 0, rows: 0 })?.resident_bytes()?;
    let Some(cache) = table.memory_bytes.checked_sub(resident) else {
        return Err(format!("RocksDB's indexes need {resident} bytes, all of ours are {}", table.memory_bytes));
    };
    let rows = if rows { crate::ssd::table::xenv("ROWS", 100) as u64 } else { 0 };
    let caches = Caches { blocks: cache - cache * rows / 100, rows: cache * rows / 100 };
    let _ = if rows > 0 { Caches { blocks: 0, rows: cache } } else { Caches { blocks: cache, rows: 0 } };
    report.raw(&format!("{name}_memory_bytes"), table.memory_bytes);
    report.raw("rocksdb_index_and_filter_bytes", resident);
    RocksDb::open(dir, caches)
}

async fn uniform(env: &Env, files: &Files, rocks_dir: &Path, report: &mut Report) -> Result<(), String> {
    let law = Law::Uniform { first: 0, count: files.count };
    let table = files.open(env, 0).await?;
    let rocks = rocksdb_like(rocks_dir, &table, false, "uniform", report)?;
    table.check(files.count).await?;
    check(&rocks, files.count)?;
    let [mut ours, mut theirs] = [Readings::default(), Readings::default()];
    for round in 0..crate::ssd::table::xenv("ROUNDS2", ROUNDS) as u64 {
        ours.0.push(table.read(env, law, round, WINDOW).await);
        theirs.0.push(read(env, &rocks, crate::ssd::table::xenv("COLD_T", COLD_THREADS as usize) as u64, law, round)?); println!("X ours {:?} theirs {:?}", ours.0.last(), theirs.0.last());
    }
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
    let rocks = rocksdb_like(rocks_dir, &table, true, "zipf", report)?;
    table.check(files.count).await?;
    check(&rocks, files.count)?;
    table.warm(env, law, files.count).await;
    warm(env, &rocks, ZIPF_THREADS, law, files.count)?;
    let [mut ours, mut theirs] = [Readings::default(), Readings::default()];
    for round in 0..crate::ssd::table::xenv("ROUNDS2", ROUNDS) as u64 {
        ours.0.push(table.read(env, law, round, WINDOW).await);
        theirs.0.push(read(env, &rocks, crate::ssd::table::xenv("ZIPF_T", ZIPF_THREADS as usize) as u64, law, round)?); println!("X ours {:?} theirs {:?}", ours.0.last(), theirs.0.last());
    }
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
    read_all(&rocks, count)?;
    read_all(&lmdb, count)?;
    let [mut ours, mut theirs, mut mapped] = [Readings::default(), Readings::default(), Readings::default()];
    for round in 0..crate::ssd::table::xenv("ROUNDS2", ROUNDS) as u64 {
        ours.0.push(table.read(env, law, round, WINDOW).await);
        theirs.0.push(read(env, &rocks, WARM_THREADS, law, round)?); println!("X ours {:?} theirs {:?}", ours.0.last(), theirs.0.last());
        mapped.0.push(read(env, &lmdb, WARM_THREADS, law, round)?);
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
