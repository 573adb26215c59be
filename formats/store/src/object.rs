//! The trait every store implements.

use std::fmt::Debug;
use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;

use crate::error::StoreError;

/// A store as components hold it.
pub type Store = Arc<dyn ObjectStore>;

/// What is known of an object without reading it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectMeta {
    /// Path below the store's root, segments separated by `/`, no leading `/`.
    pub path: String,
    /// Length in bytes.
    pub len: u64,
    /// The store's tag of the content, where it has one.
    pub etag: Option<String>,
    /// Time of the last change, in Unix milliseconds.
    pub modified_ms: u64,
}

impl ObjectMeta {
    /// What changed since this was noted, if anything: the length, or else the tag where both have one, or else the
    /// time.
    #[must_use]
    pub fn difference(&self, now: &Self) -> Option<String> {
        if self.len != now.len {
            return Some(format!("it had {} bytes and has {}", self.len, now.len));
        }
        match (&self.etag, &now.etag) {
            (Some(before), Some(after)) => (before != after).then(|| format!("its tag was {before} and is {after}")),
            _ => (self.modified_ms != now.modified_ms).then(|| {
                format!("it was last changed at {} ms and is now at {} ms", self.modified_ms, now.modified_ms)
            }),
        }
    }
}

/// A writer of one object that becomes visible whole, or not at all.
#[async_trait]
pub trait ObjectWriter: Send {
    /// Appends bytes. Waits while too much is in flight.
    ///
    /// # Errors
    /// As the store says; the object will not appear.
    async fn write(&mut self, bytes: Bytes) -> Result<(), StoreError>;
    /// Makes the object visible and durable.
    ///
    /// # Errors
    /// As the store says. On `Unavailable` it is unknown whether the object is there.
    async fn finish(self: Box<Self>) -> Result<(), StoreError>;
    /// Gives up; frees what was written so far. Dropping a writer without `finish` also never shows the object.
    async fn abort(self: Box<Self>);
}

/// An object store below one root. Objects are written once and immutable.
#[async_trait]
pub trait ObjectStore: Send + Sync + Debug {
    /// The URL of the root, without credentials, for messages.
    fn url(&self) -> &str;
    /// Reads a whole object.
    ///
    /// # Errors
    /// `NotFound`, `Denied`, `Unavailable`, `BadUrl`.
    async fn get(&self, path: &str) -> Result<Bytes, StoreError>;
    /// Reads a byte range; fails if the object ends before `range.end`.
    ///
    /// # Errors
    /// `NotFound`, `Denied`, `Unavailable`, `BadUrl`, `Other` for a range beyond the end.
    async fn get_range(&self, path: &str, range: Range<u64>) -> Result<Bytes, StoreError>;
    /// Reads a byte range of exactly the object that `object` describes.
    ///
    /// # Errors
    /// As [`Self::get_range`]; `Changed` if the object at this path is another one by now.
    async fn get_range_of(&self, object: &ObjectMeta, range: Range<u64>) -> Result<Bytes, StoreError>;
    /// What is known of an object.
    ///
    /// # Errors
    /// `NotFound`, `Denied`, `Unavailable`, `BadUrl`.
    async fn head(&self, path: &str) -> Result<ObjectMeta, StoreError>;
    /// All objects in the folder `prefix` and in folders below (empty: all), in no certain order. `a/b` stands for
    /// `a/b/…`, neither for `a/bc` nor for the object `a/b`. A folder that does not exist is empty. An error that
    /// concerns one entry (a name that is no path, a link out of the store) does not end the stream.
    fn list(&self, prefix: &str) -> BoxStream<'static, Result<ObjectMeta, StoreError>>;
    /// Writes a whole object, visible at once and durable when this returns. Objects are meant to be written once;
    /// a second write replaces the first, so that a call whose outcome is unknown may be repeated.
    ///
    /// # Errors
    /// `Denied`, `Unavailable`, `BadUrl`.
    async fn put(&self, path: &str, bytes: Bytes) -> Result<(), StoreError>;
    /// Starts writing a large object in pieces.
    ///
    /// # Errors
    /// `Denied`, `Unavailable`, `BadUrl`.
    async fn writer(&self, path: &str) -> Result<Box<dyn ObjectWriter>, StoreError>;
    /// Removes an object; removing none is no error.
    ///
    /// # Errors
    /// `Denied`, `Unavailable`, `BadUrl`.
    async fn delete(&self, path: &str) -> Result<(), StoreError>;
}

/// Refuses a range that is upside down or goes past the end of an object of `len` bytes.
pub(crate) fn check_range(url: &str, range: &Range<u64>, len: u64) -> Result<(), StoreError> {
    let reason = if range.start > range.end {
        format!("the range {}..{} is upside down", range.start, range.end)
    } else if range.end > len {
        format!("the range {}..{} goes past the end at {len} bytes", range.start, range.end)
    } else {
        return Ok(());
    };
    Err(StoreError::Other { path: url.to_owned(), reason })
}
