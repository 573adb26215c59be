//! One input file, as frozen in the task's list: its identity is its length and its tag or time of change.

use std::ops::Range;

use bytes::Bytes;
use fkv_store::{ObjectMeta, Store, StoreError};

use super::error::InputError;
use super::inflate::{Compression, ExpansionLimits, InflateError};

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
    /// How much it may expand to, if it is compressed.
    pub(crate) expansion: ExpansionLimits,
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

    /// What an error in expanding the file means.
    pub(crate) fn inflate_error(&self, compression: Compression, error: InflateError) -> InputError {
        let (file, compression) = (self.url.clone(), compression.name());
        let expands = |reason: String| InputError::Expands { file: file.clone(), compression, reason };
        match error {
            InflateError::Truncated => {
                InputError::Truncated { file, reason: format!("its {compression} stream has no end") }
            }
            InflateError::Damaged(reason) => {
                InputError::Damaged { file, reason: format!("its {compression} stream cannot be expanded: {reason}") }
            }
            InflateError::TooManyBytes(max) => expands(format!(
                "expands to more than {max} bytes: write several smaller files, or raise expanded_file_max"
            )),
            InflateError::TooDense(max) => expands(format!(
                "expands to more than {max} times its size: if that is right, raise expansion_ratio_max"
            )),
        }
    }
}
