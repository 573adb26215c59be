//! Faults as wrappers: stores that stop at a gate or fail a number of times, and a clock that stands still.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use fkv_env::Clock;
use fkv_meta::store::{Entry, LeaseId, MetaError, MetaStore, Revision, Snapshot, Txn, TxnOutcome, WatchStream};
use fkv_store::{ObjectMeta, ObjectStore, ObjectWriter, Store, StoreError};
use futures::StreamExt;
use futures::stream::BoxStream;
use tokio::sync::watch;

/// A gate: open or shut. Whoever passes while it is shut waits, and is seen waiting.
#[derive(Clone, Debug)]
pub(crate) struct Gate {
    open: watch::Sender<bool>,
    waiting: watch::Sender<usize>,
}

impl Gate {
    pub(crate) fn new(open: bool) -> Self {
        Self { open: watch::Sender::new(open), waiting: watch::Sender::new(0) }
    }

    pub(crate) fn set(&self, open: bool) {
        self.open.send_replace(open);
    }

    pub(crate) async fn pass(&self) {
        let mut open = self.open.subscribe();
        if *open.borrow() {
            return;
        }
        self.waiting.send_modify(|waiting| *waiting += 1);
        open.wait_for(|open| *open).await.expect("the gate lives as long as who waits at it");
        self.waiting.send_modify(|waiting| *waiting -= 1);
    }

    /// Waits until somebody waits at the gate.
    pub(crate) async fn reached(&self) {
        self.waiting.subscribe().wait_for(|waiting| *waiting > 0).await.expect("the gate lives");
    }
}

/// A store whose writers stop at a gate, and whose first calls of `writer` fail.
#[derive(Debug)]
pub(crate) struct GatedStore {
    pub(crate) inner: Store,
    pub(crate) writes: Gate,
    pub(crate) failures: AtomicUsize,
}

impl GatedStore {
    pub(crate) fn new(inner: &Store, writes: &Gate) -> Arc<Self> {
        Arc::new(Self { inner: Store::clone(inner), writes: writes.clone(), failures: AtomicUsize::new(0) })
    }
}

#[async_trait]
impl ObjectStore for GatedStore {
    fn url(&self) -> &str {
        self.inner.url()
    }

    async fn get(&self, path: &str) -> Result<Bytes, StoreError> {
        self.inner.get(path).await
    }

    async fn get_range(&self, path: &str, range: Range<u64>) -> Result<Bytes, StoreError> {
        self.inner.get_range(path, range).await
    }

    async fn get_range_of(&self, object: &ObjectMeta, range: Range<u64>) -> Result<Bytes, StoreError> {
        self.inner.get_range_of(object, range).await
    }

    async fn head(&self, path: &str) -> Result<ObjectMeta, StoreError> {
        self.inner.head(path).await
    }

    fn list(&self, prefix: &str) -> BoxStream<'static, Result<ObjectMeta, StoreError>> {
        self.inner.list(prefix)
    }

    async fn put(&self, path: &str, bytes: Bytes) -> Result<(), StoreError> {
        self.inner.put(path, bytes).await
    }

    async fn writer(&self, path: &str) -> Result<Box<dyn ObjectWriter>, StoreError> {
        self.writes.pass().await;
        let failing = |left: usize| left.checked_sub(1);
        if self.failures.fetch_update(Ordering::SeqCst, Ordering::SeqCst, failing).is_ok() {
            return Err(StoreError::Unavailable { path: path.into(), reason: "on purpose".into() });
        }
        self.inner.writer(path).await
    }

    async fn delete(&self, path: &str) -> Result<(), StoreError> {
        self.inner.delete(path).await
    }
}

/// Which transactions a [`GatedMeta`] spoils.
pub(crate) type Spoil = Box<dyn Fn(&Txn) -> bool + Send + Sync>;

/// A metadata store that can be cut off and can lose the answers of chosen transactions.
pub(crate) struct GatedMeta {
    pub(crate) inner: Arc<dyn MetaStore>,
    /// All calls but transactions.
    pub(crate) calls: Gate,
    pub(crate) txns: Gate,
    pub(crate) revokes: Gate,
    /// Transactions whose answer is lost although they happened.
    pub(crate) lose: Mutex<Option<Spoil>>,
    pub(crate) lost: AtomicU64,
    /// Transactions that are held up on their way, and their answers lost: they happen when the test runs them.
    pub(crate) delay: Mutex<Option<Spoil>>,
    pub(crate) delayed: watch::Sender<Vec<Txn>>,
}

impl std::fmt::Debug for GatedMeta {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("GatedMeta")
    }
}

impl GatedMeta {
    pub(crate) fn new(inner: &Arc<dyn MetaStore>) -> Arc<Self> {
        Arc::new(Self {
            inner: Arc::clone(inner),
            calls: Gate::new(true),
            txns: Gate::new(true),
            revokes: Gate::new(true),
            lose: Mutex::default(),
            lost: AtomicU64::new(0),
            delay: Mutex::default(),
            delayed: watch::Sender::new(Vec::new()),
        })
    }
}

#[async_trait]
impl MetaStore for GatedMeta {
    async fn get(&self, key: &str) -> Result<Option<Entry>, MetaError> {
        self.txns.pass().await;
        self.inner.get(key).await
    }

    async fn list(&self, prefix: &str, at: Option<Revision>) -> Result<Snapshot, MetaError> {
        self.calls.pass().await;
        self.inner.list(prefix, at).await
    }

    async fn txn(&self, txn: Txn) -> Result<TxnOutcome, MetaError> {
        self.txns.pass().await;
        if self.delay.lock().expect("no test panics in here").as_ref().is_some_and(|delay| delay(&txn)) {
            self.delayed.send_modify(|delayed| delayed.push(txn));
            return Err(MetaError::Ambiguous("held up on purpose".into()));
        }
        let lose = self.lose.lock().expect("no test panics in here").as_ref().is_some_and(|lose| lose(&txn));
        let outcome = self.inner.txn(txn).await?;
        if lose && outcome != TxnOutcome::Refused {
            self.lost.fetch_add(1, Ordering::SeqCst);
            return Err(MetaError::Ambiguous("the answer was lost on purpose".into()));
        }
        Ok(outcome)
    }

    async fn watch(&self, prefix: &str, from: Revision) -> Result<WatchStream, MetaError> {
        self.calls.pass().await;
        let gate = self.calls.clone();
        let stream = self.inner.watch(prefix, from).await?;
        Ok(stream
            .then(move |batch| {
                let gate = gate.clone();
                async move {
                    gate.pass().await;
                    batch
                }
            })
            .boxed())
    }

    async fn grant(&self, ttl: Duration) -> Result<LeaseId, MetaError> {
        self.calls.pass().await;
        self.inner.grant(ttl).await
    }

    async fn renew(&self, lease: LeaseId) -> Result<(), MetaError> {
        self.calls.pass().await;
        self.inner.renew(lease).await
    }

    async fn revoke(&self, lease: LeaseId) -> Result<(), MetaError> {
        self.calls.pass().await;
        self.revokes.pass().await;
        self.inner.revoke(lease).await
    }
}

/// A clock whose sleepers do not wake while its gate is shut: a process that is paused.
#[derive(Debug)]
pub(crate) struct GatedClock {
    pub(crate) inner: Arc<dyn Clock>,
    pub(crate) gate: Gate,
}

#[async_trait]
impl Clock for GatedClock {
    fn unix_ms(&self) -> u64 {
        self.inner.unix_ms()
    }

    fn monotonic(&self) -> Duration {
        self.inner.monotonic()
    }

    async fn sleep(&self, duration: Duration) {
        self.inner.sleep(duration).await;
        self.gate.pass().await;
    }
}
