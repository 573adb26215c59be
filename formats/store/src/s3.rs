//! `s3://`: any service that speaks S3.
//!
//! ```text
//!   S3Store ── object_store's client: signing, credentials, retries
//!           ── upload    large objects in parts, a bounded number on their way
//!           ── failure   what an answer means to the caller
//! ```
//!
//! The client sleeps between retries by tokio's own clock; everything above it goes by the injected one.

mod client;
mod failure;
mod upload;

use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use fkv_env::Env;
use futures::stream::{self, BoxStream};
use futures::{StreamExt, TryStreamExt};
use object_store::aws::AmazonS3;
use object_store::path::Path;
use object_store::{GetOptions, GetRange, GetResult, ObjectStore as _, ObjectStoreExt as _, PutPayload};

use crate::error::StoreError;
use crate::object::{ObjectMeta, ObjectStore, ObjectWriter, Store, check_range};
use crate::options::{StoreOptions, WriteOptions};
use crate::path::{PATH_BYTES_MAX, check_path, check_prefix, join, printable};

/// More parts on their way than this help no network.
const PARTS_IN_FLIGHT_MAX: u32 = 256;

/// A store in a bucket, below a prefix.
#[derive(Debug)]
pub(crate) struct S3Store {
    env: Env,
    bucket: Arc<Bucket>,
    write: WriteOptions,
}

/// A bucket and the prefix all keys begin with.
struct Bucket {
    client: AmazonS3,
    url: String,
    prefix: String,
}

impl S3Store {
    /// A store in `bucket` below `prefix`.
    ///
    /// # Errors
    /// `BadUrl` if the options do not fit together.
    pub(crate) fn open(
        env: &Env,
        url: String,
        bucket: &str,
        prefix: String,
        options: &StoreOptions,
    ) -> Result<Store, StoreError> {
        let write = options.write;
        if write.part_bytes < upload::PART_BYTES_MIN || !(1..=PARTS_IN_FLIGHT_MAX).contains(&write.parts_in_flight) {
            let reason = format!(
                "parts of {} bytes, {} at once, are not possible: at least {} bytes, and 1 to {PARTS_IN_FLIGHT_MAX}",
                write.part_bytes,
                write.parts_in_flight,
                upload::PART_BYTES_MIN
            );
            return Err(StoreError::BadUrl { url, reason });
        }
        let client = client::build(&url, bucket, options)?;
        Ok(Arc::new(Self { env: env.clone(), bucket: Arc::new(Bucket { client, url, prefix }), write }))
    }
}

impl std::fmt::Debug for Bucket {
    /// Without the client, which holds the keys.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Bucket").field("url", &self.url).finish_non_exhaustive()
    }
}

impl Bucket {
    /// The key of the object at `path`.
    fn key(&self, path: &str) -> Result<Path, StoreError> {
        check_path(path)?;
        let key = join(&self.prefix, path);
        let bad = |reason: String| StoreError::BadUrl { url: self.url_of(path), reason };
        if key.len() > PATH_BYTES_MAX {
            return Err(bad(format!("with its prefix it has {} bytes, S3 takes {PATH_BYTES_MAX}", key.len())));
        }
        Path::parse(key).map_err(|error| bad(error.to_string()))
    }

    /// The URL of an object, for messages.
    fn url_of(&self, path: &str) -> String {
        printable(&join(&self.url, path))
    }

    fn failed(&self, path: &str, error: &object_store::Error) -> StoreError {
        failure::classify(self.url_of(path), error)
    }

    /// `found` as below the prefix; none if it is not below it.
    fn meta(&self, found: &object_store::ObjectMeta) -> Option<ObjectMeta> {
        let key = found.location.as_ref();
        let path = if self.prefix.is_empty() {
            key
        } else {
            key.strip_prefix(self.prefix.as_str()).and_then(|below| below.strip_prefix('/'))?
        };
        let seconds = u64::try_from(found.last_modified.timestamp()).unwrap_or(0);
        Some(ObjectMeta {
            path: path.to_owned(),
            len: found.size,
            etag: found.e_tag.clone(),
            // A listing tells milliseconds and a head does not: whole seconds, so that both say the same.
            modified_ms: seconds.saturating_mul(1000),
        })
    }

    async fn get_opts(&self, path: &str, options: GetOptions) -> Result<GetResult, StoreError> {
        let key = self.key(path)?;
        self.client.get_opts(&key, options).await.map_err(|error| self.failed(path, &error))
    }

    /// The bytes of an answer, all `len` of them.
    async fn body(&self, path: &str, result: GetResult, len: u64) -> Result<Bytes, StoreError> {
        let bytes = result.bytes().await.map_err(|error| self.failed(path, &error))?;
        if u64::try_from(bytes.len()) == Ok(len) {
            return Ok(bytes);
        }
        let reason = format!("{} bytes came where {len} were announced", bytes.len());
        Err(StoreError::Unavailable { path: self.url_of(path), reason })
    }

    /// Reads a range that is not empty; `unchanged` looks at the object it is taken from.
    async fn range(
        &self,
        path: &str,
        range: Range<u64>,
        if_match: Option<String>,
        unchanged: impl FnOnce(&ObjectMeta) -> Option<String>,
    ) -> Result<Bytes, StoreError> {
        let options = GetOptions { range: Some(GetRange::Bounded(range.clone())), if_match, ..Default::default() };
        let result = self.get_opts(path, options).await?;
        if let Some(reason) = self.meta(&result.meta).as_ref().and_then(unchanged) {
            return Err(StoreError::Changed { path: self.url_of(path), reason });
        }
        check_range(&self.url_of(path), &range, result.meta.size)?;
        self.body(path, result, range.end - range.start).await
    }
}

#[async_trait]
impl ObjectStore for S3Store {
    fn url(&self) -> &str {
        &self.bucket.url
    }

    async fn get(&self, path: &str) -> Result<Bytes, StoreError> {
        let result = self.bucket.get_opts(path, GetOptions::default()).await?;
        let len = result.meta.size;
        self.bucket.body(path, result, len).await
    }

    async fn get_range(&self, path: &str, range: Range<u64>) -> Result<Bytes, StoreError> {
        if range.is_empty() {
            // HTTP has no empty range.
            check_range(&self.bucket.url_of(path), &range, self.head(path).await?.len)?;
            return Ok(Bytes::new());
        }
        self.bucket.range(path, range, None, |_| None).await
    }

    async fn get_range_of(&self, object: &ObjectMeta, range: Range<u64>) -> Result<Bytes, StoreError> {
        let path = object.path.as_str();
        if range.is_empty() {
            let now = self.head(path).await?;
            if let Some(reason) = object.difference(&now) {
                return Err(StoreError::Changed { path: self.bucket.url_of(path), reason });
            }
            check_range(&self.bucket.url_of(path), &range, now.len)?;
            return Ok(Bytes::new());
        }
        // Not every service heeds the tag in a condition, so the answer is compared too.
        self.bucket.range(path, range, object.etag.clone(), |now| object.difference(now)).await
    }

    async fn head(&self, path: &str) -> Result<ObjectMeta, StoreError> {
        let key = self.bucket.key(path)?;
        let found = self.bucket.client.head(&key).await.map_err(|error| self.bucket.failed(path, &error))?;
        self.bucket.meta(&found).ok_or_else(|| StoreError::Other {
            path: self.bucket.url_of(path),
            reason: format!("the store answered for `{}`", printable(found.location.as_ref())),
        })
    }

    fn list(&self, prefix: &str) -> BoxStream<'static, Result<ObjectMeta, StoreError>> {
        if let Err(error) = check_prefix(prefix) {
            return stream::iter([Err(error)]).boxed();
        }
        let (bucket, folder) = (Arc::clone(&self.bucket), prefix.to_owned());
        let key = join(&bucket.prefix, prefix);
        let key = match Path::parse(&key) {
            Ok(key) => key,
            Err(error) => {
                let (url, reason) = (bucket.url_of(prefix), error.to_string());
                return stream::iter([Err(StoreError::BadUrl { url, reason })]).boxed();
            }
        };
        // The client appends the `/`, so `a/b` does not find `a/bc`.
        let listed = bucket.client.list((!key.as_ref().is_empty()).then_some(&key));
        listed
            .map_err({
                let bucket = Arc::clone(&bucket);
                move |error| bucket.failed(&folder, &error)
            })
            .try_filter_map(move |found| std::future::ready(Ok(bucket.meta(&found))))
            .boxed()
    }

    async fn put(&self, path: &str, bytes: Bytes) -> Result<(), StoreError> {
        let key = self.bucket.key(path)?;
        let put = self.bucket.client.put(&key, PutPayload::from(bytes)).await;
        put.map(drop).map_err(|error| self.bucket.failed(path, &error))
    }

    async fn writer(&self, path: &str) -> Result<Box<dyn ObjectWriter>, StoreError> {
        let key = self.bucket.key(path)?;
        Ok(Box::new(upload::Upload::new(&self.env, &self.bucket, path, key, self.write)))
    }

    async fn delete(&self, path: &str) -> Result<(), StoreError> {
        let key = self.bucket.key(path)?;
        match self.bucket.client.delete(&key).await.map_err(|error| self.bucket.failed(path, &error)) {
            Err(StoreError::NotFound { .. }) => Ok(()),
            deleted => deleted,
        }
    }
}
