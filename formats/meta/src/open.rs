//! A metadata store by URL.

use std::path::Path;
use std::sync::Arc;

use fkv_env::Env;

use crate::embedded::EmbeddedStore;
use crate::etcd::EtcdStore;
use crate::store::{MetaError, MetaStore};

/// Why a metadata store could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The URL is none of a metadata store.
    #[error("`{url}` is no metadata store: {reason}; expected `embedded` or `etcd://host:port,host:port`")]
    BadUrl {
        /// What was given.
        url: String,
        /// What is wrong.
        reason: String,
    },
    /// The store itself.
    #[error(transparent)]
    Store(#[from] MetaError),
}

/// Opens the store of `url`: `embedded` keeps its file in `dir`, `etcd://host:port,host:port` connects on first use,
/// so that it also opens while etcd is down.
///
/// # Errors
/// See [`OpenError`].
pub async fn open(env: &Env, url: &str, dir: &Path) -> Result<Arc<dyn MetaStore>, OpenError> {
    if url == "embedded" {
        return Ok(Arc::new(EmbeddedStore::open(env, &dir.join("metadata.redb")).await?));
    }
    let bad = |reason: String| OpenError::BadUrl { url: url.to_owned(), reason };
    let Some(endpoints) = url.strip_prefix("etcd://") else {
        return Err(bad("its scheme is unknown".to_owned()));
    };
    let endpoints: Vec<&str> = endpoints.trim_end_matches('/').split(',').collect();
    Ok(Arc::new(EtcdStore::connect(env, &endpoints).map_err(|error| bad(error.to_string()))?))
}
