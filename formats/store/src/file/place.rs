//! Where objects lie on disk: paths to files, links, folders made and pruned.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use fkv_env::{FileStat, Files};

use crate::error::StoreError;
use crate::path::{TEMPORARY_DIR, join, printable};

/// Folders remembered as durable; when more are known, all are forgotten and checked again.
const DURABLE_DIRS_MAX: usize = 16_384;

/// The directory of a file store. All calls block.
#[derive(Debug)]
pub(super) struct Place {
    files: Arc<dyn Files>,
    root: PathBuf,
    url: String,
    /// Folders, as real paths, known to be on disk with all folders above them up to the root.
    durable: Mutex<BTreeSet<PathBuf>>,
    swept: AtomicBool,
}

impl Place {
    pub(super) fn new(files: Arc<dyn Files>, root: PathBuf, url: String) -> Self {
        Self { files, root, url, durable: Mutex::new(BTreeSet::new()), swept: AtomicBool::new(false) }
    }

    pub(super) fn files(&self) -> &dyn Files {
        self.files.as_ref()
    }

    pub(super) fn files_shared(&self) -> Arc<dyn Files> {
        Arc::clone(&self.files)
    }

    pub(super) fn url(&self) -> &str {
        &self.url
    }

    /// Whether nobody asked this before.
    pub(super) fn first_sweep(&self) -> bool {
        !self.swept.swap(true, Ordering::Relaxed)
    }

    /// The URL of an object, for messages.
    pub(super) fn url_of(&self, path: &str) -> String {
        printable(&join(self.url.trim_end_matches('/'), path))
    }

    /// The root with all links resolved.
    pub(super) fn real_root(&self) -> io::Result<PathBuf> {
        self.files.canonicalize(&self.root)
    }

    /// The real file of an object and what is known of it.
    pub(super) fn find(&self, path: &str) -> Result<(PathBuf, FileStat), StoreError> {
        let real = self.resolve(path)?;
        let stat = self.files.stat(&real).map_err(|error| self.error(path, &error))?;
        if stat.is_dir {
            return Err(StoreError::NotFound { path: self.url_of(path) });
        }
        if !stat.is_file {
            // Opening a pipe would wait for its writer for ever.
            return Err(StoreError::Other { path: self.url_of(path), reason: "it is not a regular file".into() });
        }
        Ok((real, stat))
    }

    /// The real path of an existing file or folder below the root.
    pub(super) fn resolve(&self, path: &str) -> Result<PathBuf, StoreError> {
        let inside = || -> io::Result<(PathBuf, PathBuf)> {
            let root = self.real_root()?;
            let real = self.files.canonicalize(&root.join(path))?;
            Ok((root, real))
        };
        let (root, real) = inside().map_err(|error| self.error(path, &error))?;
        self.check_inside(path, &root, &real)?;
        Ok(real)
    }

    pub(super) fn check_inside(&self, path: &str, root: &Path, real: &Path) -> Result<(), StoreError> {
        if real.starts_with(root) && !real.starts_with(root.join(TEMPORARY_DIR)) {
            return Ok(());
        }
        let reason = "a symbolic link on the way leads out of the store".into();
        Err(StoreError::Denied { path: self.url_of(path), reason })
    }

    /// Makes the folder of the object at `path` and everything above it, durably; its real path.
    pub(super) fn make_folder_of(&self, path: &str) -> Result<PathBuf, StoreError> {
        let fail = |error: &io::Error| self.error(path, error);
        let root = self.make_root().map_err(|error| fail(&error))?;
        let folder = path.rsplit_once('/').map_or("", |(folder, _)| folder);
        // Links are resolved before anything is made, so that nothing is made outside.
        let mut real = root.clone();
        for segment in folder.split('/').filter(|segment| !segment.is_empty()) {
            let next = real.join(segment);
            real = match self.files.canonicalize(&next) {
                Ok(existing) => {
                    self.check_inside(path, &root, &existing)?;
                    if !self.files.stat(&existing).map_err(|error| fail(&error))?.is_dir {
                        let reason =
                            format!("`{segment}` on the way is an object, and a file store has no objects below one");
                        return Err(StoreError::Other { path: self.url_of(path), reason });
                    }
                    existing
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => next,
                Err(error) => return Err(fail(&error)),
            };
        }
        self.make_durable(&root, &real).map_err(|error| fail(&error))?;
        Ok(real)
    }

    /// The folder for unfinished files; made if need be.
    pub(super) fn temporary_dir(&self) -> io::Result<PathBuf> {
        let dir = self.make_root()?.join(TEMPORARY_DIR);
        self.files.create_dir_all(&dir)?;
        Ok(dir)
    }

    fn make_root(&self) -> io::Result<PathBuf> {
        match self.real_root() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            known => return known,
        }
        let mut missing = vec![];
        let mut dir = self.root.as_path();
        while let Err(error) = self.files.stat(dir)
            && error.kind() == io::ErrorKind::NotFound
            && let Some(parent) = dir.parent()
        {
            missing.push(parent);
            dir = parent;
        }
        self.files.create_dir_all(&self.root)?;
        for parent in missing.into_iter().rev() {
            self.files.sync_dir(parent)?;
        }
        self.real_root()
    }

    /// Makes `dir`, a real path below the real `root`, and syncs the folder above each one on the way. A folder that
    /// exists may have been made a moment ago by somebody who has not synced it yet, so that is done for all.
    fn make_durable(&self, root: &Path, dir: &Path) -> io::Result<()> {
        if dir == root || self.durable_dirs().contains(dir) {
            return Ok(());
        }
        self.files.create_dir_all(dir).map_err(|error| match error.kind() {
            // It was there and went again; an object in its place shows at the next try.
            io::ErrorKind::AlreadyExists => io::ErrorKind::NotFound.into(),
            _ => error,
        })?;
        let mut above: Vec<&Path> = dir.ancestors().skip(1).take_while(|above| above.starts_with(root)).collect();
        above.reverse();
        for parent in above {
            self.files.sync_dir(parent)?;
        }
        let mut durable = self.durable_dirs();
        if durable.len() >= DURABLE_DIRS_MAX {
            durable.clear();
        }
        durable.insert(dir.to_owned());
        Ok(())
    }

    /// Forgets that `dir` is there: somebody removed it.
    pub(super) fn forget(&self, dir: &Path) {
        self.durable_dirs().remove(dir);
    }

    /// Removes an object, and the folders that are empty then.
    pub(super) fn remove(&self, path: &str) -> Result<(), StoreError> {
        let (folder, name) = path.rsplit_once('/').unwrap_or(("", path));
        let dir = match self.resolve(folder) {
            Err(StoreError::NotFound { .. }) => return Ok(()),
            dir => dir?,
        };
        match self.files.remove_file(&dir.join(name)) {
            Ok(()) => {}
            // A folder of this name is no object.
            Err(error) if absent(&error) || error.kind() == io::ErrorKind::IsADirectory => return Ok(()),
            Err(error) => return Err(self.error(path, &error)),
        }
        let root = self.real_root().map_err(|error| self.error(path, &error))?;
        for emptied in dir.ancestors().take_while(|above| above.starts_with(&root) && *above != root) {
            // Before it goes, so that no writer takes it for durable after; a writer that lost its folder makes it
            // again.
            self.forget(emptied);
            if self.files.remove_empty_dir(emptied).is_err() {
                break;
            }
        }
        Ok(())
    }

    fn durable_dirs(&self) -> MutexGuard<'_, BTreeSet<PathBuf>> {
        self.durable.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What an error of the operating system means for the object at `path`.
    pub(super) fn error(&self, path: &str, error: &io::Error) -> StoreError {
        let path = self.url_of(path);
        let reason = error.to_string();
        match error.kind() {
            _ if absent(error) => StoreError::NotFound { path },
            io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => StoreError::Denied { path, reason },
            io::ErrorKind::TimedOut | io::ErrorKind::Interrupted | io::ErrorKind::StaleNetworkFileHandle => {
                StoreError::Unavailable { path, reason }
            }
            // The process or the system is out of file descriptors.
            _ if matches!(error.raw_os_error(), Some(23 | 24)) => StoreError::Unavailable { path, reason },
            _ => StoreError::Other { path, reason },
        }
    }
}

/// Whether the error says that nothing is there.
fn absent(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}
