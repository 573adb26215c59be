//! A store with a bound on what is on its way at once.
//!
//! ```text
//!   caller ─▶ requests (count) ─▶ bytes (sum) ─▶ the store
//! ```
//!
//! A call takes its share of both before it reaches the store and gives it back when it returns, so no call waits
//! while it holds what another one needs. What a caller keeps after its call returned is the caller's to count. A
//! writer takes its share call by call: between calls it holds nothing, beyond the parts that the store keeps by
//! [`WriteOptions`](crate::options::WriteOptions).

use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::{self, BoxStream};
use tokio::sync::{AcquireError, OwnedSemaphorePermit, Semaphore};

use crate::error::StoreError;
use crate::object::{ObjectMeta, ObjectStore, ObjectWriter, Store};

/// Bounds of a limited store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Calls on their way at once; at least 1.
    pub requests_max: usize,
    /// Bytes of the bodies on their way at once. One larger body goes alone.
    pub bytes_max: u64,
}

/// `store`, with at most `limits` on its way at once. A whole read first asks for the length, to know its share.
#[must_use]
pub fn limited(store: Store, limits: Limits) -> Store {
    let requests = limits.requests_max.clamp(1, Semaphore::MAX_PERMITS);
    let units = units(limits.bytes_max).max(1);
    let gate = Gate {
        requests: Arc::new(Semaphore::new(requests)),
        units: Arc::new(Semaphore::new(units as usize)),
        units_max: units,
    };
    Arc::new(Limited { store, gate })
}

/// Bytes are counted in units, because permits are 32-bit numbers.
const UNIT_BYTES: u64 = 4096;

fn units(bytes: u64) -> u32 {
    // 2^29 units are 2 TiB, and what the smallest semaphore holds.
    u32::try_from(bytes.div_ceil(UNIT_BYTES)).unwrap_or(u32::MAX).min((1 << 29) - 1)
}

#[derive(Clone, Debug)]
struct Gate {
    requests: Arc<Semaphore>,
    units: Arc<Semaphore>,
    units_max: u32,
}

/// The share of a call.
struct Share {
    _request: OwnedSemaphorePermit,
    _units: Option<OwnedSemaphorePermit>,
}

impl Gate {
    async fn enter(&self, bytes: u64) -> Result<Share, AcquireError> {
        let request = Arc::clone(&self.requests).acquire_owned().await?;
        let wanted = units(bytes).min(self.units_max);
        let units = match wanted {
            0 => None,
            wanted => Some(Arc::clone(&self.units).acquire_many_owned(wanted).await?),
        };
        Ok(Share { _request: request, _units: units })
    }
}

#[derive(Debug)]
struct Limited {
    store: Store,
    gate: Gate,
}

impl Limited {
    async fn enter(&self, path: &str, bytes: u64) -> Result<Share, StoreError> {
        self.gate.enter(bytes).await.map_err(|closed| shut(&format!("{}/{path}", self.store.url()), &closed))
    }
}

fn shut(path: &str, closed: &AcquireError) -> StoreError {
    StoreError::Other { path: path.to_owned(), reason: closed.to_string() }
}

const fn len_of(range: &Range<u64>) -> u64 {
    range.end.saturating_sub(range.start)
}

#[async_trait]
impl ObjectStore for Limited {
    fn url(&self) -> &str {
        self.store.url()
    }

    async fn get(&self, path: &str) -> Result<Bytes, StoreError> {
        let len = self.head(path).await?.len;
        let _share = self.enter(path, len).await?;
        self.store.get(path).await
    }

    async fn get_range(&self, path: &str, range: Range<u64>) -> Result<Bytes, StoreError> {
        let _share = self.enter(path, len_of(&range)).await?;
        self.store.get_range(path, range).await
    }

    async fn get_range_of(&self, object: &ObjectMeta, range: Range<u64>) -> Result<Bytes, StoreError> {
        let _share = self.enter(&object.path, len_of(&range)).await?;
        self.store.get_range_of(object, range).await
    }

    async fn head(&self, path: &str) -> Result<ObjectMeta, StoreError> {
        let _share = self.enter(path, 0).await?;
        self.store.head(path).await
    }

    fn list(&self, prefix: &str) -> BoxStream<'static, Result<ObjectMeta, StoreError>> {
        let (gate, path) = (self.gate.clone(), format!("{}/{prefix}", self.store.url()));
        // One share per step: a caller that reads objects between steps must not wait for itself.
        stream::unfold(Some((self.store.list(prefix), gate, path)), |listing| async move {
            let (mut listed, gate, path) = listing?;
            let _share = match gate.enter(0).await {
                Ok(share) => share,
                Err(closed) => return Some((Err(shut(&path, &closed)), None)),
            };
            let next = listed.next().await?;
            Some((next, Some((listed, gate, path))))
        })
        .boxed()
    }

    async fn put(&self, path: &str, bytes: Bytes) -> Result<(), StoreError> {
        let _share = self.enter(path, bytes.len() as u64).await?;
        self.store.put(path, bytes).await
    }

    async fn writer(&self, path: &str) -> Result<Box<dyn ObjectWriter>, StoreError> {
        let _share = self.enter(path, 0).await?;
        let writer = self.store.writer(path).await?;
        Ok(Box::new(LimitedWriter { writer, gate: self.gate.clone(), path: format!("{}/{path}", self.store.url()) }))
    }

    async fn delete(&self, path: &str) -> Result<(), StoreError> {
        let _share = self.enter(path, 0).await?;
        self.store.delete(path).await
    }
}

struct LimitedWriter {
    writer: Box<dyn ObjectWriter>,
    gate: Gate,
    path: String,
}

#[async_trait]
impl ObjectWriter for LimitedWriter {
    async fn write(&mut self, bytes: Bytes) -> Result<(), StoreError> {
        let share = self.gate.enter(bytes.len() as u64).await;
        let _share = share.map_err(|closed| shut(&self.path, &closed))?;
        self.writer.write(bytes).await
    }

    async fn finish(self: Box<Self>) -> Result<(), StoreError> {
        let _share = self.gate.enter(0).await.map_err(|closed| shut(&self.path, &closed))?;
        self.writer.finish().await
    }

    async fn abort(self: Box<Self>) {
        // Freeing waits for nobody.
        self.writer.abort().await;
    }
}
