//! Objects of ours in the store, pinned by their bytes: written once, read back against length and hash.

use bytes::Bytes;
use fkv_formats::checksum::sha256;
use fkv_meta::record::ObjectRef;
use fkv_store::{Store, StoreError};

use crate::error::AttemptError;

/// The URL of an object of the store, for messages.
pub(crate) fn url(store: &Store, path: &str) -> String {
    format!("{}/{path}", store.url().trim_end_matches('/'))
}

/// Writes an object and gives what pins it.
pub(crate) async fn put(store: &Store, path: String, bytes: Vec<u8>) -> Result<ObjectRef, StoreError> {
    let (len, sha256) = (bytes.len() as u64, sha256(&bytes));
    store.put(&path, Bytes::from(bytes)).await?;
    Ok(ObjectRef { path, len, sha256 })
}

/// Reads an object and checks that it is the one pinned.
pub(crate) async fn get(store: &Store, object: &ObjectRef) -> Result<Bytes, AttemptError> {
    let wrong = |reason: &str| AttemptError::Object { path: url(store, &object.path), reason: reason.to_owned() };
    let bytes = store.get(&object.path).await?;
    if bytes.len() as u64 != object.len {
        return Err(wrong("the object has another length than its record says"));
    }
    if sha256(&bytes) != object.sha256 {
        return Err(wrong("the object's bytes do not match the hash in its record"));
    }
    Ok(bytes)
}
