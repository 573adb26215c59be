//! The directory of a local cluster, held by one process at a time.
//!
//! ```text
//!   DIR/lock     locked while a process runs the cluster; says which and where
//!   DIR/meta     the embedded metadata store
//!   DIR/store    the object store, unless --store names another
//!   DIR/kv/a-0   what each KVSvr keeps
//! ```

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use fkv_env::Files;

use crate::failure::{Context as _, Failure, Outcome};

/// A directory whose lock this process holds. The system frees the lock when the process ends, however it ends.
#[derive(Debug)]
pub(crate) struct Directory {
    path: PathBuf,
    lock: File,
}

impl Directory {
    /// Makes the directory if there is none, and locks it.
    pub(crate) fn open(files: &dyn Files, path: &Path) -> Outcome<Self> {
        let shown = path.display();
        files.create_dir_all(path).context(|| format!("create the directory {shown}"))?;
        let path = files.canonicalize(path).context(|| format!("open the directory {shown}"))?;
        let mut lock = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path.join("lock"))
            .context(|| format!("open the lock of the directory {shown}"))?;
        match lock.try_lock() {
            Ok(()) => Ok(Self { path, lock }),
            Err(TryLockError::WouldBlock) => {
                let mut holder = String::new();
                // Only a courtesy: the lock itself is what counts.
                let _ = lock.read_to_string(&mut holder);
                let holder = holder.lines().next().map(|line| format!(" ({line})")).unwrap_or_default();
                Err(Failure::coded("in_use", format!("the directory {shown} is in use by a running `fkv up`{holder}"))
                    .hint("use that cluster, stop it first, or give another --dir"))
            }
            Err(TryLockError::Error(error)) => Err(error).context(|| format!("lock the directory {shown}")),
        }
    }

    /// Says in the lock file who holds it.
    pub(crate) fn sign(&mut self, endpoint: &str) -> Outcome {
        let text = format!("process {}, control API at {endpoint}\n", std::process::id());
        let mut write = || {
            self.lock.set_len(0)?;
            self.lock.seek(SeekFrom::Start(0))?;
            self.lock.write_all(text.as_bytes())
        };
        write().context(|| format!("write the lock of the directory {}", self.path.display()))
    }

    /// The directory, absolute.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

#[cfg(test)]
mod tests {
    use fkv_env::OsFiles;

    use super::*;

    #[test]
    fn a_directory_has_one_holder_and_names_it() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let mut first = Directory::open(&OsFiles, &dir.path().join("new")).expect("free");
        first.sign("127.0.0.1:7300").expect("writable");
        let refused = Directory::open(&OsFiles, &dir.path().join("new")).expect_err("held").to_string();
        assert!(refused.contains(&format!("process {}", std::process::id())), "{refused}");
        assert!(refused.contains("127.0.0.1:7300"), "{refused}");
        drop(first);
        Directory::open(&OsFiles, &dir.path().join("new")).expect("free again");
    }
}
