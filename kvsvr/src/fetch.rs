//! Ranged reads of store objects: limited in bytes per second, tried again while the store is unavailable.

use std::ops::Range;
use std::time::Duration;

use bytes::Bytes;
use fkv_env::Env;
use fkv_store::error::StoreError;
use fkv_store::object::Store;

use crate::throttle::Throttle;

/// Reads objects for loads.
#[derive(Debug)]
pub(crate) struct Fetcher {
    env: Env,
    store: Store,
    throttle: Throttle,
}

impl Fetcher {
    /// How often a read is tried while the store says that it may go through later.
    const ATTEMPTS: u32 = 4;
    const PAUSE: Duration = Duration::from_millis(100);

    pub(crate) fn new(env: &Env, store: Store, bytes_per_s: u64) -> Self {
        Self { env: env.clone(), store, throttle: Throttle::new(bytes_per_s) }
    }

    /// Reads a whole object that is known to have `len` bytes.
    pub(crate) async fn object(&self, path: &str, len: u64) -> Result<Bytes, StoreError> {
        self.throttle.take(self.env.clock.as_ref(), len).await;
        self.persist(path, || self.store.get(path)).await
    }

    /// Reads a range of an object.
    pub(crate) async fn range(&self, path: &str, range: Range<u64>) -> Result<Bytes, StoreError> {
        self.throttle.take(self.env.clock.as_ref(), range.end.saturating_sub(range.start)).await;
        self.persist(path, || self.store.get_range(path, range.clone())).await
    }

    async fn persist<F>(&self, path: &str, mut read: impl FnMut() -> F) -> Result<Bytes, StoreError>
    where
        F: Future<Output = Result<Bytes, StoreError>>,
    {
        let mut attempt = 1;
        loop {
            match read().await {
                Err(error) if error.is_transient() && attempt < Self::ATTEMPTS => {
                    tracing::debug!(path, attempt, %error, "a read of the store failed; trying again");
                    let pause = Self::PAUSE.saturating_mul(1 << attempt);
                    let jitter = self.env.entropy.below(u64::try_from(pause.as_millis()).unwrap_or(0));
                    self.env.clock.sleep(pause + Duration::from_millis(jitter)).await;
                    attempt += 1;
                }
                outcome => return outcome,
            }
        }
    }
}
