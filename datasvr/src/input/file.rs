//! One input file, as frozen in the task's list: its identity is its length and its tag or time of change.

use std::ops::Range;

use bytes::Bytes;
use fkv_store::{ObjectMeta, Store, StoreError};

use super::error::InputError;

/// A file of the frozen list and the store it lies in. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct InputFile {
    /// Its place in the frozen list.
    pub(crate) at: u32,
    /// Its URL, for messages.
    pub(crate) url: String,
    /// The store.
    pub(crate) store: Store,
    /// What was known of it when the list was frozen.
    pub(crate) meta: ObjectMeta,
}

impl InputFile {
    /// Reads a range of exactly the file that was frozen.
    ///
    /// # Errors
    /// `Changed` if it is another one by now, or gone; `Store`.
    pub(crate) async fn read(&self, range: Range<u64>) -> Result<Bytes, InputError> {
        let changed = |reason: String| InputError::Changed { file: self.url.clone(), reason };
        self.store.get_range_of(&self.meta, range).await.map_err(|error| match error {
            StoreError::Changed { reason, .. } => changed(reason),
            StoreError::NotFound { .. } => changed("it no longer exists".into()),
            other => InputError::Store(other),
        })
    }
}
