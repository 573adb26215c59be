//! A limited store lets through what its limits say and no more.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use fkv_store::{Limits, ObjectMeta, ObjectStore, ObjectWriter, Store, StoreError, limited};
use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt, stream};
use tokio::sync::Semaphore;

/// A store whose reads wait at a gate; the rest is not asked for.
#[derive(Debug)]
struct Gated {
    gate: Semaphore,
    now: AtomicUsize,
    most: AtomicUsize,
}

impl Gated {
    fn new() -> Arc<Self> {
        Arc::new(Self { gate: Semaphore::new(0), now: AtomicUsize::new(0), most: AtomicUsize::new(0) })
    }
}

#[async_trait]
impl ObjectStore for Gated {
    fn url(&self) -> &str {
        "gated://store"
    }

    async fn get(&self, _: &str) -> Result<Bytes, StoreError> {
        self.get_range("", 0..100).await
    }

    async fn get_range(&self, _: &str, range: Range<u64>) -> Result<Bytes, StoreError> {
        let now = self.now.fetch_add(1, Ordering::SeqCst) + 1;
        self.most.fetch_max(now, Ordering::SeqCst);
        self.gate.acquire().await.expect("open").forget();
        self.now.fetch_sub(1, Ordering::SeqCst);
        Ok(Bytes::from(vec![0; (range.end - range.start) as usize]))
    }

    async fn get_range_of(&self, _: &ObjectMeta, range: Range<u64>) -> Result<Bytes, StoreError> {
        self.get_range("", range).await
    }

    async fn head(&self, path: &str) -> Result<ObjectMeta, StoreError> {
        Ok(ObjectMeta { path: path.into(), len: 100, etag: None, modified_ms: 0 })
    }

    fn list(&self, _: &str) -> BoxStream<'static, Result<ObjectMeta, StoreError>> {
        stream::iter(["a", "b"].map(|path| Ok(ObjectMeta { path: path.into(), len: 0, etag: None, modified_ms: 0 })))
            .boxed()
    }

    async fn put(&self, _: &str, _: Bytes) -> Result<(), StoreError> {
        unreachable!("not asked for")
    }

    async fn writer(&self, _: &str) -> Result<Box<dyn ObjectWriter>, StoreError> {
        unreachable!("not asked for")
    }

    async fn delete(&self, _: &str) -> Result<(), StoreError> {
        unreachable!("not asked for")
    }
}

/// Starts `count` reads of `len` bytes at once; the most that were in the store together.
async fn most_at_once(limits: Limits, count: usize, len: u64) -> usize {
    let gated = Gated::new();
    let store = limited(Arc::clone(&gated) as Store, limits);
    let mut reads: Vec<_> = (0..count).map(|_| store.get_range("x", 0..len).boxed()).collect();
    for _ in 0..3 {
        for read in &mut reads {
            assert!(futures::poll!(read).is_pending(), "the gate is shut");
        }
    }
    gated.gate.add_permits(count);
    for read in futures::future::join_all(reads).await {
        assert_eq!(read.expect("read").len() as u64, len);
    }
    gated.most.load(Ordering::SeqCst)
}

#[tokio::test]
async fn requests_are_bounded_by_count_and_by_bytes() {
    assert_eq!(most_at_once(Limits { requests_max: 3, bytes_max: 1 << 30 }, 10, 100).await, 3);
    assert_eq!(most_at_once(Limits { requests_max: 100, bytes_max: 40 << 10 }, 10, 10 << 10).await, 3);
    assert_eq!(most_at_once(Limits { requests_max: 100, bytes_max: 40 << 10 }, 10, 8 << 10).await, 5);
    assert_eq!(most_at_once(Limits { requests_max: 100, bytes_max: 1 << 30 }, 10, 8 << 10).await, 10);
}

/// Waiting for more than there is would be waiting for ever.
#[tokio::test]
async fn a_body_larger_than_the_limit_goes_alone() {
    assert_eq!(most_at_once(Limits { requests_max: 100, bytes_max: 4096 }, 4, 1 << 20).await, 1);
    assert_eq!(most_at_once(Limits { requests_max: 0, bytes_max: 0 }, 4, 100).await, 1);
}

#[tokio::test]
async fn a_read_given_up_gives_its_share_back() {
    let gated = Gated::new();
    let store = limited(Arc::clone(&gated) as Store, Limits { requests_max: 1, bytes_max: 4096 });
    let mut read = store.get_range("x", 0..100).boxed();
    assert!(futures::poll!(&mut read).is_pending());
    drop(read);
    gated.gate.add_permits(1);
    assert_eq!(store.get_range("x", 0..7).await.expect("read").len(), 7);
}

/// A reader that lists and reads as it goes must not wait for its own listing.
#[tokio::test]
async fn a_listing_holds_nothing_between_its_steps() {
    let gated = Gated::new();
    gated.gate.add_permits(10);
    let store = limited(Arc::clone(&gated) as Store, Limits { requests_max: 1, bytes_max: 1 });
    let mut listed = store.list("");
    let mut seen = vec![];
    while let Some(meta) = listed.next().await {
        let meta = meta.expect("listed");
        store.get(&meta.path).await.expect("read");
        seen.push(meta.path);
    }
    assert_eq!(seen, ["a", "b"]);
}
