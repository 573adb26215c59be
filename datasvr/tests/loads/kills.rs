//! Workers that are killed at any of their calls: a worker's metadata and store stop answering at a chosen call, as a process
//! does that is killed there, and its leases end.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
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

/// Counts the calls of one worker; from the fatal one on, none returns.
#[derive(Debug)]
pub(crate) struct Life {
    calls: AtomicU64,
    fatal: u64,
    dead: watch::Sender<bool>,
    leases: Mutex<Vec<LeaseId>>,
}

impl Life {
    /// A life that ends at call number `fatal`.
    pub(crate) fn new(fatal: u64) -> Arc<Self> {
        let (calls, dead) = (AtomicU64::new(0), watch::Sender::new(false));
        Arc::new(Self { calls, fatal, dead, leases: Mutex::default() })
    }

    /// Counts a call; never returns if it is the last one, or comes after it.
    async fn live(&self) {
        if self.calls.fetch_add(1, Ordering::SeqCst) >= self.fatal {
            self.dead.send_replace(true);
            std::future::pending::<()>().await;
        }
    }

    /// Waits for the end.
    pub(crate) async fn ended(&self) {
        self.dead.subscribe().wait_for(|dead| *dead).await.expect("the sender lives here");
    }

    /// Ends the leases that the worker left behind, as time would.
    pub(crate) async fn end_leases(&self, meta: &Arc<dyn MetaStore>) {
        let leases = std::mem::take(&mut *self.leases.lock().expect("no test panics in here"));
        for lease in leases {
            meta.revoke(lease).await.expect("revoked");
        }
    }
}

/// Metadata as a mortal worker sees it.
#[derive(Debug)]
pub(crate) struct MortalMeta {
    pub(crate) inner: Arc<dyn MetaStore>,
    pub(crate) life: Arc<Life>,
}

#[async_trait]
impl MetaStore for MortalMeta {
    async fn get(&self, key: &str) -> Result<Option<Entry>, MetaError> {
        self.life.live().await;
        self.inner.get(key).await
    }

    async fn list(&self, prefix: &str, at: Option<Revision>) -> Result<Snapshot, MetaError> {
        self.life.live().await;
        self.inner.list(prefix, at).await
    }

    async fn txn(&self, txn: Txn) -> Result<TxnOutcome, MetaError> {
        // Killed before the call, or before its answer.
        self.life.live().await;
        let outcome = self.inner.txn(txn).await;
        self.life.live().await;
        outcome
    }

    async fn watch(&self, prefix: &str, from: Revision) -> Result<WatchStream, MetaError> {
        let life = Arc::clone(&self.life);
        let stream = self.inner.watch(prefix, from).await?;
        let alive = move |batch| {
            let life = Arc::clone(&life);
            async move {
                if *life.dead.borrow() {
                    std::future::pending::<()>().await;
                }
                batch
            }
        };
        Ok(stream.then(alive).boxed())
    }

    async fn grant(&self, ttl: Duration) -> Result<LeaseId, MetaError> {
        self.life.live().await;
        let lease = self.inner.grant(ttl).await?;
        self.life.leases.lock().expect("no test panics in here").push(lease);
        Ok(lease)
    }

    async fn renew(&self, lease: LeaseId) -> Result<(), MetaError> {
        self.life.live().await;
        self.inner.renew(lease).await
    }

    async fn revoke(&self, lease: LeaseId) -> Result<(), MetaError> {
        self.life.live().await;
        self.inner.revoke(lease).await
    }
}

/// The store as a mortal worker sees it.
#[derive(Debug)]
pub(crate) struct MortalStore {
    pub(crate) inner: Store,
    pub(crate) life: Arc<Life>,
}

#[async_trait]
impl ObjectStore for MortalStore {
    fn url(&self) -> &str {
        self.inner.url()
    }

    async fn get(&self, path: &str) -> Result<Bytes, StoreError> {
        self.life.live().await;
        self.inner.get(path).await
    }

    async fn get_range(&self, path: &str, range: Range<u64>) -> Result<Bytes, StoreError> {
        self.life.live().await;
        self.inner.get_range(path, range).await
    }

    async fn get_range_of(&self, object: &ObjectMeta, range: Range<u64>) -> Result<Bytes, StoreError> {
        self.life.live().await;
        self.inner.get_range_of(object, range).await
    }

    async fn head(&self, path: &str) -> Result<ObjectMeta, StoreError> {
        self.life.live().await;
        self.inner.head(path).await
    }

    fn list(&self, prefix: &str) -> BoxStream<'static, Result<ObjectMeta, StoreError>> {
        self.inner.list(prefix)
    }

    async fn put(&self, path: &str, bytes: Bytes) -> Result<(), StoreError> {
        self.life.live().await;
        self.inner.put(path, bytes).await?;
        self.life.live().await;
        Ok(())
    }

    async fn writer(&self, path: &str) -> Result<Box<dyn ObjectWriter>, StoreError> {
        self.life.live().await;
        let (writer, life) = (self.inner.writer(path).await?, Arc::clone(&self.life));
        Ok(Box::new(MortalWriter { writer, life }))
    }

    async fn delete(&self, path: &str) -> Result<(), StoreError> {
        self.life.live().await;
        self.inner.delete(path).await
    }
}

struct MortalWriter {
    writer: Box<dyn ObjectWriter>,
    life: Arc<Life>,
}

#[async_trait]
impl ObjectWriter for MortalWriter {
    async fn write(&mut self, bytes: Bytes) -> Result<(), StoreError> {
        self.life.live().await;
        self.writer.write(bytes).await
    }

    async fn finish(self: Box<Self>) -> Result<(), StoreError> {
        self.life.live().await;
        self.writer.finish().await?;
        self.life.live().await;
        Ok(())
    }

    async fn abort(self: Box<Self>) {
        self.writer.abort().await;
    }
}

/// A clock whose wall time hardly moves, so that what is planned at different moments of a test has one `as_of`.
#[derive(Debug)]
pub(crate) struct SlowClock {
    pub(crate) inner: Arc<dyn Clock>,
}

impl SlowClock {
    /// The second at which it stands.
    pub(crate) const SECOND: u64 = 1_750_000_000;
}

#[async_trait]
impl Clock for SlowClock {
    fn unix_ms(&self) -> u64 {
        Self::SECOND * 1000 + u64::try_from(self.inner.monotonic().as_millis()).unwrap_or(0) / 1000
    }

    fn monotonic(&self) -> Duration {
        self.inner.monotonic()
    }

    async fn sleep(&self, duration: Duration) {
        self.inner.sleep(duration).await;
    }
}
