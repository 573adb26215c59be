//! `file://`: objects as files below a local directory.
//!
//! ```text
//!   root/ tables/7/packs/0001        an object
//!         .fkv-tmp/4f1c09a2b7d3…     an object being written: no path leads here, no listing shows it
//!
//!   write:  .fkv-tmp/x ── fsync ── rename to its path ── fsync of its folder (and of the folders made for it)
//! ```
//!
//! An object is seen whole or not at all, and once a write has returned it survives a power cut. A crash leaves
//! nothing but files in `.fkv-tmp`; the first write of a later process removes those older than a day. The root and
//! all folders below must lie on one file system (rename).
//!
//! Links may lead to other places below the root; a link that leaves it is refused.

mod list;
mod place;
mod write;

use std::io;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use fkv_env::{Env, FileStat};
use futures::stream::BoxStream;

use crate::error::StoreError;
use crate::file::place::Place;
use crate::object::{ObjectMeta, ObjectStore, ObjectWriter, Store, check_range};
use crate::path::check_path;

/// A store in a local directory.
#[derive(Debug)]
pub(crate) struct FileStore {
    env: Env,
    place: Arc<Place>,
}

impl FileStore {
    /// A store in `dir`, which need not exist yet.
    pub(crate) fn open(env: &Env, url: String, dir: &str) -> Store {
        let place = Place::new(Arc::clone(&env.files), PathBuf::from(dir), url);
        Arc::new(Self { env: env.clone(), place: Arc::new(place) })
    }

    /// Runs `work` where it may block.
    async fn blocking<T, F>(&self, path: &str, work: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&Place, &str) -> Result<T, StoreError> + Send + 'static,
    {
        run(&self.env, &self.place, path, work).await
    }
}

/// Checks `path`, then runs `work` where it may block.
async fn run<T, F>(env: &Env, place: &Arc<Place>, path: &str, work: F) -> Result<T, StoreError>
where
    T: Send + 'static,
    F: FnOnce(&Place, &str) -> Result<T, StoreError> + Send + 'static,
{
    let shown = place.url_of(path);
    let (place, path) = (Arc::clone(place), path.to_owned());
    env.blocking(move || work(&place, &path))
        .await
        .unwrap_or_else(|panicked| Err(StoreError::Other { path: shown, reason: panicked.to_string() }))
}

#[async_trait]
impl ObjectStore for FileStore {
    fn url(&self) -> &str {
        self.place.url()
    }

    async fn get(&self, path: &str) -> Result<Bytes, StoreError> {
        check_path(path)?;
        self.blocking(path, |place, path| {
            let (real, stat) = place.find(path)?;
            read(place, path, &real, 0..stat.len)
        })
        .await
    }

    async fn get_range(&self, path: &str, range: Range<u64>) -> Result<Bytes, StoreError> {
        check_path(path)?;
        self.blocking(path, |place, path| {
            let (real, stat) = place.find(path)?;
            check_range(&place.url_of(path), &range, stat.len)?;
            read(place, path, &real, range)
        })
        .await
    }

    async fn get_range_of(&self, object: &ObjectMeta, range: Range<u64>) -> Result<Bytes, StoreError> {
        check_path(&object.path)?;
        let before = object.clone();
        self.blocking(&object.path, move |place, path| {
            let unchanged = |stat: &FileStat| match before.difference(&meta(path, stat)) {
                Some(reason) => Err(StoreError::Changed { path: place.url_of(path), reason }),
                None => Ok(()),
            };
            let (real, stat) = place.find(path)?;
            unchanged(&stat)?;
            check_range(&place.url_of(path), &range, stat.len)?;
            let bytes = read(place, path, &real, range)?;
            // Once more: it may have been overwritten in place while it was read.
            unchanged(&place.find(path)?.1)?;
            Ok(bytes)
        })
        .await
    }

    async fn head(&self, path: &str) -> Result<ObjectMeta, StoreError> {
        check_path(path)?;
        self.blocking(path, |place, path| Ok(meta(path, &place.find(path)?.1))).await
    }

    fn list(&self, prefix: &str) -> BoxStream<'static, Result<ObjectMeta, StoreError>> {
        list::list(self.env.clone(), Arc::clone(&self.place), prefix)
    }

    async fn put(&self, path: &str, bytes: Bytes) -> Result<(), StoreError> {
        check_path(path)?;
        write::put(&self.env, &self.place, path, bytes).await
    }

    async fn writer(&self, path: &str) -> Result<Box<dyn ObjectWriter>, StoreError> {
        check_path(path)?;
        write::writer(&self.env, &self.place, path).await
    }

    async fn delete(&self, path: &str) -> Result<(), StoreError> {
        check_path(path)?;
        self.blocking(path, Place::remove).await
    }
}

/// What is known of the file at `path`. The tag changes when the file is replaced or written to.
fn meta(path: &str, stat: &FileStat) -> ObjectMeta {
    ObjectMeta {
        path: path.to_owned(),
        len: stat.len,
        etag: Some(format!("{:x}-{:x}-{:x}", stat.inode, stat.modified_ns, stat.len)),
        modified_ms: stat.modified_ns / 1_000_000,
    }
}

/// Reads `range`, which lies within the file as it was a moment ago.
fn read(place: &Place, path: &str, real: &std::path::Path, range: Range<u64>) -> Result<Bytes, StoreError> {
    let bytes = || -> io::Result<Vec<u8>> {
        let len = usize::try_from(range.end - range.start).map_err(io::Error::other)?;
        let mut bytes = vec![0; len];
        place.files().open(real)?.read_exact_at(&mut bytes, range.start)?;
        Ok(bytes)
    };
    match bytes() {
        Ok(bytes) => Ok(Bytes::from(bytes)),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
            let reason = format!("it ended before byte {} while it was read", range.end);
            Err(StoreError::Changed { path: place.url_of(path), reason })
        }
        Err(error) => Err(place.error(path, &error)),
    }
}
