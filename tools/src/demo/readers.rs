//! Readers that judge every answer they get.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use fkv_client::{Client, Keys, ReadOptions, TableRead};
use fkv_env::{Env, TaskHandle};

use super::data::{Shape, mix};
use super::tally::{Judge, Seen, Tally};
use crate::failure::{Failure, Outcome};

/// Keys of one batch, over all tables.
pub(super) const BATCH_KEYS: u64 = 4000;
/// How long readers may take to see what is shown.
const SEEING_TIME_MAX: Duration = Duration::from_secs(20);
/// Pause between looks at what readers have seen.
const LOOK_PAUSE: Duration = Duration::from_millis(2);

/// How many keys of a batch belong to each table.
pub(super) fn keys_per_batch(shapes: &[Shape]) -> Vec<u64> {
    let total: u64 = shapes.iter().map(|shape| shape.rows).sum();
    let mut keys: Vec<u64> = shapes.iter().map(|shape| BATCH_KEYS * shape.rows / total).collect();
    let rest = BATCH_KEYS - keys.iter().sum::<u64>();
    if let Some(first) = keys.first_mut() {
        *first += rest;
    }
    keys
}

/// The newest label of each table that a reader saw.
type Latest = BTreeMap<&'static str, Seen>;

#[derive(Debug)]
struct Shared {
    tally: Mutex<Tally>,
    /// By reader.
    latest: Mutex<Vec<Latest>>,
    stop: AtomicBool,
}

/// Some readers, each asking batch after batch of random keys of all tables.
#[derive(Debug)]
pub(super) struct Readers {
    env: Env,
    shared: Arc<Shared>,
    tasks: Vec<TaskHandle>,
}

impl Readers {
    /// Starts `count` readers.
    pub(super) fn start(env: &Env, client: &Arc<Client>, shapes: &[Shape], count: usize) -> Self {
        let shared = Arc::new(Shared {
            tally: Mutex::default(),
            latest: Mutex::new(vec![Latest::new(); count]),
            stop: AtomicBool::new(false),
        });
        let reader = |number: usize| {
            let reader =
                Reader { env: env.clone(), client: Arc::clone(client), shapes: shapes.to_vec(), judge: Judge::new() };
            let shared = Arc::clone(&shared);
            env.spawn.spawn("demo-reader", Box::pin(async move { reader.read_on(number, &shared).await }))
        };
        Self { env: env.clone(), tasks: (0..count).map(reader).collect(), shared: Arc::clone(&shared) }
    }

    /// What was seen since the last call.
    pub(super) fn take(&self) -> Tally {
        std::mem::take(&mut *lock(&self.shared.tally))
    }

    /// Waits until every reader has seen these epochs or newer ones; gives what they saw.
    pub(super) async fn see(&self, epochs: &BTreeMap<&'static str, u64>) -> Outcome<Latest> {
        let begun = self.env.clock.monotonic();
        loop {
            let latest = lock(&self.shared.latest).clone();
            let has_seen = |reader: &Latest| {
                epochs.iter().all(|(table, epoch)| reader.get(table).is_some_and(|seen| seen.epoch >= *epoch))
            };
            if latest.iter().all(has_seen) {
                return Ok(latest.into_iter().next().unwrap_or_default());
            }
            if self.env.clock.monotonic().saturating_sub(begun) > SEEING_TIME_MAX {
                return Err(Failure::failed(format!("readers do not see epochs {epochs:?}, but {latest:?}")));
            }
            self.env.clock.sleep(LOOK_PAUSE).await;
        }
    }

    /// Ends all readers.
    pub(super) async fn stop(self) -> Tally {
        self.shared.stop.store(true, Ordering::Relaxed);
        for task in self.tasks {
            if !task.join().await {
                lock(&self.shared.tally).failed += 1;
            }
        }
        std::mem::take(&mut *lock(&self.shared.tally))
    }
}

/// Reads every index of all tables once, in batches, and judges the answers.
pub(super) async fn scan(env: &Env, client: &Arc<Client>, shapes: &[Shape]) -> Outcome<Tally> {
    let per_batch = keys_per_batch(shapes);
    let batches =
        shapes.iter().zip(&per_batch).map(|(shape, keys)| shape.index_bound().div_ceil(*keys)).max().unwrap_or(0);
    let halves = [0..batches / 2, batches / 2..batches].map(|numbers| {
        let reader =
            Reader { env: env.clone(), client: Arc::clone(client), shapes: shapes.to_vec(), judge: Judge::new() };
        let (shared, per_batch) = (Arc::new(Mutex::new(Tally::default())), per_batch.clone());
        let kept = Arc::clone(&shared);
        let task = env.spawn.spawn(
            "demo-scan",
            Box::pin(async move {
                let mut tally = Tally::default();
                for number in numbers {
                    let ranges: Vec<Range<u64>> = reader
                        .shapes
                        .iter()
                        .zip(&per_batch)
                        .map(|(shape, keys)| {
                            let bound = shape.index_bound();
                            (number * keys).min(bound)..((number + 1) * keys).min(bound)
                        })
                        .collect();
                    let indexes: Vec<Vec<u64>> = ranges.into_iter().map(Iterator::collect).collect();
                    reader.batch(&indexes, &mut tally).await;
                }
                lock(&shared).add(tally);
            }),
        );
        async move {
            let ended = task.join().await;
            ended.then(|| std::mem::take(&mut *lock(&kept))).ok_or_else(|| Failure::failed("a reader panicked"))
        }
    });
    let [first, second] = halves;
    let (mut tally, rest) = futures::future::try_join(first, second).await?;
    tally.add(rest);
    Ok(tally)
}

#[derive(Debug)]
struct Reader {
    env: Env,
    client: Arc<Client>,
    shapes: Vec<Shape>,
    judge: Judge,
}

impl Reader {
    async fn read_on(self, number: usize, shared: &Shared) {
        let per_batch = keys_per_batch(&self.shapes);
        let mut draws = mix(number as u64 + 1);
        let mut latest = Latest::new();
        while !shared.stop.load(Ordering::Relaxed) {
            let mut draw = |bound: u64| {
                draws = draws.wrapping_add(0x9e37_79b9_7f4a_7c15);
                mix(draws) % bound
            };
            let indexes: Vec<Vec<u64>> = self
                .shapes
                .iter()
                .zip(&per_batch)
                .map(|(shape, keys)| (0..*keys).map(|_| draw(shape.index_bound())).collect())
                .collect();
            let mut tally = Tally::default();
            for (table, seen) in self.batch(&indexes, &mut tally).await {
                note(&mut latest, table, seen, &mut tally);
            }
            lock(&shared.tally).add(tally);
            lock(&shared.latest)[number].clone_from(&latest);
        }
    }

    /// Asks for one batch and judges the answers. Gives the labels.
    async fn batch(&self, indexes: &[Vec<u64>], tally: &mut Tally) -> Vec<(&'static str, Seen)> {
        let keys: Vec<Vec<u64>> =
            indexes.iter().map(|indexes| indexes.iter().copied().map(Shape::key).collect()).collect();
        let reads: Vec<TableRead<'_>> = self
            .shapes
            .iter()
            .zip(&keys)
            .filter(|(_, keys)| !keys.is_empty())
            .map(|(shape, keys)| TableRead { table: shape.table, keys: Keys::U64(keys) })
            .collect();
        let begun = self.env.clock.monotonic();
        let answer = self.client.batch_get(&reads, &ReadOptions::default()).await;
        let took = self.env.clock.monotonic().saturating_sub(begun);
        let answer = match answer {
            Ok(answer) => answer,
            Err(error) => {
                tally.failed += 1;
                tally.fault(|| format!("a batch failed: {error}"));
                return Vec::new();
            }
        };
        tally.batches += 1;
        tally.took(took);
        let asked = self.shapes.iter().zip(indexes).filter(|(_, indexes)| !indexes.is_empty());
        let mut labels = Vec::new();
        for ((shape, indexes), table) in asked.zip(&answer.tables) {
            let seen =
                Seen { version: table.label.version.0, content: table.label.content, epoch: table.label.epoch.0 };
            if table.mixed {
                tally.mixed += 1;
                tally.fault(|| format!("table {}: the client says its answer is mixed", shape.table));
            }
            let answers = indexes.iter().enumerate().map(|(position, index)| (*index, table.f32s(position)));
            self.judge.batch(tally, *shape, seen, answers);
            labels.push((shape.table, seen));
        }
        labels
    }
}

/// Compares a label with the newest one seen before.
fn note(latest: &mut Latest, table: &'static str, seen: Seen, tally: &mut Tally) {
    let Some(before) = latest.insert(table, seen) else { return };
    if seen.epoch < before.epoch {
        tally.fell_back += 1;
        tally.fault(|| format!("table {table}: epoch {} after epoch {}", seen.epoch, before.epoch));
    } else if seen.epoch > before.epoch {
        tally.flips += 1;
    } else if seen.content != before.content {
        tally.wrong += 1;
        tally.fault(|| format!("table {table}: two contents at epoch {}", seen.epoch));
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use fkv_formats::id::ContentId;

    use super::*;

    #[test]
    fn a_batch_is_divided_by_the_size_of_the_tables() {
        let shape = |rows| Shape { table: "t", rows, dimension: 1 };
        assert_eq!(keys_per_batch(&[shape(3_000_000), shape(375_000)]), [3556, 444]);
        assert_eq!(keys_per_batch(&[shape(7)]), [4000]);
    }

    #[test]
    fn a_falling_epoch_or_a_second_content_is_a_fault() {
        let seen = |epoch, content| Seen { version: 1, content: ContentId([content; 32]), epoch };
        let (mut latest, mut tally) = (Latest::new(), Tally::default());
        for step in [seen(1, 1), seen(1, 1), seen(2, 2)] {
            note(&mut latest, "t", step, &mut tally);
        }
        assert!(tally.is_clean());
        assert_eq!(tally.flips, 1);
        note(&mut latest, "t", seen(1, 1), &mut tally);
        assert_eq!(tally.fell_back, 1);
        note(&mut latest, "t", seen(1, 3), &mut tally);
        assert_eq!(tally.wrong, 1);
    }
}
