//! Metadata and store with a switch: off, nothing answers.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use fkv_meta::store::{Entry, LeaseId, MetaError, MetaStore, Op, Revision, Snapshot, Txn, TxnOutcome, WatchStream};
use fkv_store::{ObjectMeta, ObjectStore, ObjectWriter, Store, StoreError};
use futures::StreamExt;
use futures::stream::BoxStream;
use tokio::sync::watch;

#[derive(Debug)]
pub(crate) struct SwitchedMeta {
    inner: Arc<dyn MetaStore>,
    on: watch::Sender<bool>,
    /// So many writes of reports still lose their answer: every other one is done nevertheless.
    pub(crate) lost_reports: AtomicU64,
    /// How often a claim was read by itself, as is done before one is made.
    pub(crate) claim_reads: AtomicU64,
}

impl SwitchedMeta {
    pub(crate) fn new(inner: Arc<dyn MetaStore>) -> Self {
        Self { inner, on: watch::channel(true).0, lost_reports: AtomicU64::new(0), claim_reads: AtomicU64::new(0) }
    }

    /// Which loss this write of a report meets, if one is left.
    fn loses(&self, txn: &Txn) -> Option<u64> {
        let reports = txn.ops.iter().any(|op| matches!(op, Op::Put { key, .. } if key.contains("/reports/")));
        let take = |left: u64| left.checked_sub(1);
        reports.then(|| self.lost_reports.fetch_update(Ordering::SeqCst, Ordering::SeqCst, take).ok()).flatten()
    }

    pub(crate) fn set(&self, on: bool) {
        self.on.send_replace(on);
    }

    fn check(&self) -> Result<(), MetaError> {
        if *self.on.borrow() { Ok(()) } else { Err(MetaError::Unavailable("switched off".into())) }
    }
}

#[async_trait]
impl MetaStore for SwitchedMeta {
    async fn get(&self, key: &str) -> Result<Option<Entry>, MetaError> {
        self.check()?;
        let entry = self.inner.get(key).await?;
        if key.contains("/claims/") {
            self.claim_reads.fetch_add(1, Ordering::SeqCst);
        }
        Ok(entry)
    }

    async fn list(&self, prefix: &str, at: Option<Revision>) -> Result<Snapshot, MetaError> {
        self.check()?;
        self.inner.list(prefix, at).await
    }

    async fn txn(&self, txn: Txn) -> Result<TxnOutcome, MetaError> {
        self.check()?;
        if let Some(left) = self.loses(&txn) {
            if left.is_multiple_of(2) {
                self.inner.txn(txn).await?;
            }
            return Err(MetaError::Ambiguous("the answer was lost on purpose".into()));
        }
        self.inner.txn(txn).await
    }

    async fn watch(&self, prefix: &str, from: Revision) -> Result<WatchStream, MetaError> {
        self.check()?;
        let inner = self.inner.watch(prefix, from).await?;
        let mut on = self.on.subscribe();
        let off = async move {
            let _ = on.wait_for(|on| !*on).await;
        };
        let last = futures::stream::once(async { Err(MetaError::Unavailable("switched off".into())) });
        Ok(inner.take_until(off).chain(last).boxed())
    }

    async fn grant(&self, ttl: Duration) -> Result<LeaseId, MetaError> {
        self.check()?;
        self.inner.grant(ttl).await
    }

    async fn renew(&self, lease: LeaseId) -> Result<(), MetaError> {
        self.check()?;
        self.inner.renew(lease).await
    }

    async fn revoke(&self, lease: LeaseId) -> Result<(), MetaError> {
        self.check()?;
        self.inner.revoke(lease).await
    }
}

#[derive(Debug)]
pub(crate) struct SwitchedStore {
    inner: Store,
    on: watch::Sender<bool>,
    /// Ranged reads and whole reads so far.
    pub(crate) reads: AtomicU64,
}

impl SwitchedStore {
    pub(crate) fn new(inner: Store) -> Self {
        Self { inner, on: watch::channel(true).0, reads: AtomicU64::new(0) }
    }

    pub(crate) fn set(&self, on: bool) {
        self.on.send_replace(on);
    }

    fn check(&self, path: &str) -> Result<(), StoreError> {
        if *self.on.borrow() {
            return Ok(());
        }
        Err(StoreError::Unavailable { path: path.into(), reason: "switched off".into() })
    }
}

#[async_trait]
impl ObjectStore for SwitchedStore {
    fn url(&self) -> &str {
        self.inner.url()
    }

    async fn get(&self, path: &str) -> Result<Bytes, StoreError> {
        self.check(path)?;
        self.reads.fetch_add(1, Ordering::Relaxed);
        self.inner.get(path).await
    }

    async fn get_range(&self, path: &str, range: Range<u64>) -> Result<Bytes, StoreError> {
        self.check(path)?;
        self.reads.fetch_add(1, Ordering::Relaxed);
        self.inner.get_range(path, range).await
    }

    async fn get_range_of(&self, object: &ObjectMeta, range: Range<u64>) -> Result<Bytes, StoreError> {
        self.check(&object.path)?;
        self.inner.get_range_of(object, range).await
    }

    async fn head(&self, path: &str) -> Result<ObjectMeta, StoreError> {
        self.check(path)?;
        self.inner.head(path).await
    }

    fn list(&self, prefix: &str) -> BoxStream<'static, Result<ObjectMeta, StoreError>> {
        self.inner.list(prefix)
    }

    async fn put(&self, path: &str, bytes: Bytes) -> Result<(), StoreError> {
        self.check(path)?;
        self.inner.put(path, bytes).await
    }

    async fn writer(&self, path: &str) -> Result<Box<dyn ObjectWriter>, StoreError> {
        self.check(path)?;
        self.inner.writer(path).await
    }

    async fn delete(&self, path: &str) -> Result<(), StoreError> {
        self.check(path)?;
        self.inner.delete(path).await
    }
}
