//! Reading a modelled table: one batch, or many readers at once that are audited while other things happen.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use fkv_client::{Client, ClientConfig, ClientError, KeyStatus, Keys, ReadOptions, TableAnswer};
use fkv_env::{Entropy, Env, SeededEntropy, TaskHandle};

use crate::audit::{Audit, Observation, Reader};
use crate::model::{Answer, Model};
use crate::wait;

/// What was answered for the key at `position`, values as their little-endian bytes.
#[must_use]
pub fn answer_at(answer: &TableAnswer, position: usize) -> Answer {
    match answer.status(position) {
        KeyStatus::Absent => Answer::Absent,
        KeyStatus::Expired => Answer::Expired,
        KeyStatus::Found => Answer::Found(found_bytes(answer, position)),
    }
}

fn found_bytes(answer: &TableAnswer, position: usize) -> Vec<u8> {
    if let Some(bytes) = answer.bytes(position) {
        return bytes.to_vec();
    }
    if let Some(number) = answer.i64(position) {
        return number.to_le_bytes().to_vec();
    }
    if let Some(row) = answer.f32s(position) {
        return row.iter().flat_map(|number| number.to_le_bytes()).collect();
    }
    let row = answer.f16s(position).expect("values are of one of four types");
    row.iter().flat_map(|number| number.to_le_bytes()).collect()
}

/// Reads the keys at `indices` of `model` as of `read_ts` (Unix seconds; the present if none).
///
/// # Errors
/// The client's.
pub async fn observe(
    client: &Client,
    table: &str,
    model: &Model,
    indices: &[u64],
    mut options: ReadOptions,
    now_ms: u64,
) -> Result<Observation, ClientError> {
    let keys: Vec<u64> = indices.iter().map(|index| model.key(*index)).collect();
    let read_ts_ms = *options.read_ts_ms.get_or_insert(now_ms);
    let answer = client.get(table, Keys::U64(&keys), &options).await?;
    assert_eq!(answer.len(), keys.len(), "one answer per key");
    assert!(!answer.mixed, "a strict answer is never mixed");
    Ok(Observation {
        version: answer.label.version,
        content: answer.label.content,
        epoch: answer.label.epoch,
        as_of: answer.label.as_of_s,
        read_ts: u32::try_from(read_ts_ms / 1000).expect("the present fits 32 bits"),
        answers: indices.iter().enumerate().map(|(position, index)| (*index, answer_at(&answer, position))).collect(),
    })
}

/// Readers that read until they are stopped, each with a client of its own; what they see is audited.
#[derive(Debug)]
pub struct Readers {
    env: Env,
    shared: Arc<Shared>,
    tasks: Vec<TaskHandle>,
}

#[derive(Debug)]
struct Shared {
    table: String,
    audit: Arc<Audit>,
    stop: AtomicBool,
    /// Batches per reader.
    done: Vec<AtomicU64>,
    violations: Mutex<Vec<String>>,
    errors: Mutex<Vec<ClientError>>,
}

/// Keys of one batch of a reader.
const BATCH: u64 = 256;
/// Failed reads kept for the message.
const ERRORS_KEPT: usize = 100;

impl Readers {
    /// Starts `count` readers of `table`.
    ///
    /// # Panics
    /// A client cannot connect.
    pub async fn start(env: &Env, config: &ClientConfig, table: &str, audit: &Arc<Audit>, count: usize) -> Self {
        let shared = Arc::new(Shared {
            table: table.to_owned(),
            audit: Arc::clone(audit),
            stop: AtomicBool::new(false),
            done: (0..count).map(|_| AtomicU64::new(0)).collect(),
            violations: Mutex::new(Vec::new()),
            errors: Mutex::new(Vec::new()),
        });
        let mut tasks = Vec::new();
        for number in 0..count {
            let client = Client::connect(env.clone(), config.clone()).await.expect("a client connects");
            let (env_, shared) = (env.clone(), Arc::clone(&shared));
            let read = Box::pin(async move { shared.read(&env_, &client, number).await });
            tasks.push(env.spawn.spawn("audited-reader", read));
        }
        Self { env: env.clone(), shared, tasks }
    }

    /// Waits until every reader has read `batches` more batches, so that all of them saw the present state.
    ///
    /// # Panics
    /// A promise was broken meanwhile; the message says which.
    pub async fn progress(&self, batches: u64) {
        let goals: Vec<u64> = self.shared.done.iter().map(|done| done.load(Ordering::Relaxed) + batches).collect();
        wait::until(&self.env, "all readers to go on", async || {
            self.assert_clean();
            let done: Vec<u64> = self.shared.done.iter().map(|done| done.load(Ordering::Relaxed)).collect();
            let reached = done.iter().zip(&goals).all(|(done, goal)| done >= goal);
            wait::check(reached, || format!("{done:?} of {goals:?}; errors: {:?}", self.errors()))
        })
        .await;
    }

    /// The reads that failed so far, at most the first of them.
    #[must_use]
    pub fn errors(&self) -> Vec<ClientError> {
        self.shared.errors.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Stops the readers and gives the reads that failed.
    ///
    /// # Panics
    /// A promise was broken.
    pub async fn stop(mut self) -> Vec<ClientError> {
        self.shared.stop.store(true, Ordering::Relaxed);
        for task in self.tasks.drain(..) {
            assert!(task.join().await, "a reader panicked");
        }
        self.assert_clean();
        self.errors()
    }

    fn assert_clean(&self) {
        let violations = self.shared.violations.lock().unwrap_or_else(PoisonError::into_inner);
        assert!(violations.is_empty(), "readers of `{}` saw: {violations:#?}", self.shared.table);
    }
}

impl Shared {
    async fn read(&self, env: &Env, client: &Client, number: usize) {
        let entropy = SeededEntropy::new(number as u64);
        let model = *self.audit.model();
        let mut reader = Reader::default();
        while !self.stop.load(Ordering::Relaxed) {
            // Some of the keys are in no version.
            let indices: Vec<u64> = (0..BATCH).map(|_| entropy.below(model.keys + model.keys / 16)).collect();
            let now_ms = env.clock.unix_ms();
            match observe(client, &self.table, &model, &indices, ReadOptions::default(), now_ms).await {
                Ok(observation) => {
                    if let Err(violation) = self.audit.check(&mut reader, &observation) {
                        let text = format!("reader {number}: {violation}");
                        self.violations.lock().unwrap_or_else(PoisonError::into_inner).push(text);
                        return;
                    }
                    self.done[number].fetch_add(1, Ordering::Relaxed);
                    // Servers, builds and tests share the cores: a reader that never rests starves them.
                    env.clock.sleep(std::time::Duration::from_millis(1)).await;
                }
                Err(error) => {
                    self.note(error);
                    env.clock.sleep(std::time::Duration::from_millis(10)).await;
                }
            }
        }
    }

    fn note(&self, error: ClientError) {
        let mut errors = self.errors.lock().unwrap_or_else(PoisonError::into_inner);
        if errors.len() < ERRORS_KEPT {
            errors.push(error);
        }
    }
}
