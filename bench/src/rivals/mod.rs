//! Other stores over the same records, asked in the same way.
//!
//! ```text
//!   uniform, cold   FeatureKV without record cache │ RocksDB, block cache of what remains of the same memory
//!   Zipf            FeatureKV, records cached      │ RocksDB, records or blocks cached      same memory in all
//!   uniform, warm   FeatureKV, all records cached  │ RocksDB, all blocks cached │ LMDB, all pages cached
//!   each: answers compared with what was written ── caches warmed ── rounds × { one contender after the other } ── medians
//! ```
//!
//! Memory is as large for RocksDB as for FeatureKV: indexes, filters, caches, and our buffers for reads. How many threads ask it,
//! and whether it caches records or blocks, is tried first; the fastest counts.
//!
//! A rival answers a batch of keys with its values in one piece of memory, as a reply to somebody would need them.

mod cases;
mod lmdb;
mod rocksdb;

pub(crate) use cases::measure;

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use fkv_env::Env;

use crate::keys::{BATCH, Keys, Law, put_value, sample};
use crate::machine::device_reads;
use crate::window::{Reading, Window};

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
) -> Result<(T, Arc<Window>), String> {
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

/// Asks a rival from several threads during a window of `length`.
fn read(env: &Env, rival: &dyn Rival, threads: u64, law: Law, round: u64, length: Duration) -> Result<Reading, String> {
    let reads = || device_reads(env.files.as_ref());
    let before = reads();
    let (watched, window) =
        ask_during(env, rival, threads, law, round, async |window| window.watch(length, reads).await)?;
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

/// Asks once for every key of `0..count`, from several threads.
fn read_all(rival: &dyn Rival, count: u64, threads: usize) -> Result<(), String> {
    let keys: Vec<u64> = (0..count).collect();
    let read = |keys: &[u64]| {
        let mut answers = Answers::default();
        keys.chunks(BATCH).try_for_each(|keys| rival.answer(keys, &mut answers))
    };
    std::thread::scope(|scope| {
        let share = keys.len().div_ceil(threads).max(1);
        let threads: Vec<_> = keys.chunks(share).map(|keys| scope.spawn(move || read(keys))).collect();
        threads
            .into_iter()
            .try_for_each(|thread| thread.join().map_err(|_| "a thread that asks a rival panicked".to_owned())?)
    })
}
