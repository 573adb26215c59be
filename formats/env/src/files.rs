//! Local files: what a server keeps on its own disk. Calls block; run them through [`crate::Env::blocking`].

use std::fmt::Debug;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// One entry of a directory.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct DirEntry {
    /// File name, without the directory.
    pub name: String,
    /// Whether it is a directory; a link to one is not.
    pub is_dir: bool,
    /// Whether it is a symbolic link.
    pub is_symlink: bool,
    /// Length in bytes; 0 for directories.
    pub len: u64,
}

/// What is known of a file without reading it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileStat {
    /// Length in bytes; 0 for directories.
    pub len: u64,
    /// Whether it is a directory.
    pub is_dir: bool,
    /// Whether it is a regular file: neither a directory nor a pipe, socket or device.
    pub is_file: bool,
    /// Whether the path is a symbolic link; everything else here describes what the link leads to.
    pub is_symlink: bool,
    /// Time of the last change of the content, in nanoseconds since the Unix epoch.
    pub modified_ns: u64,
    /// The file's number within its file system; a file replaced by another one gets a different number.
    pub inode: u64,
}

/// A file being written.
pub trait FileWriter: Write + Send {
    /// Makes everything written so far durable.
    ///
    /// # Errors
    /// As the operating system says; the data must then be taken as lost.
    fn sync(&mut self) -> io::Result<()>;
}

/// A file open for positioned reads.
pub trait FileReader: Send + Sync {
    /// Length in bytes.
    ///
    /// # Errors
    /// As the operating system says.
    fn len(&self) -> io::Result<u64>;
    /// Whether the file has no bytes.
    ///
    /// # Errors
    /// As the operating system says.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }
    /// Fills `buffer` from `offset`.
    ///
    /// # Errors
    /// `UnexpectedEof` if the file ends first; otherwise as the operating system says.
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()>;
}

/// A file that nobody else can lock. Dropping it gives it up; so does the end of the process, however it ends.
pub trait FileLock: Send + Sync + Debug {}

/// A local file system.
pub trait Files: Send + Sync + Debug {
    /// Creates `dir` and its parents.
    ///
    /// # Errors
    /// As the operating system says.
    fn create_dir_all(&self, dir: &Path) -> io::Result<()>;
    /// Creates or truncates a file for writing.
    ///
    /// # Errors
    /// As the operating system says.
    fn create(&self, path: &Path) -> io::Result<Box<dyn FileWriter>>;
    /// Opens a file for reading.
    ///
    /// # Errors
    /// `NotFound` if there is none; otherwise as the operating system says.
    fn open(&self, path: &Path) -> io::Result<Box<dyn FileReader>>;
    /// Replaces `to` by `from`, atomically.
    ///
    /// # Errors
    /// As the operating system says.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file.
    ///
    /// # Errors
    /// `NotFound` if there is none; otherwise as the operating system says.
    fn remove_file(&self, path: &Path) -> io::Result<()>;
    /// Removes a directory with all it holds.
    ///
    /// # Errors
    /// `NotFound` if there is none; otherwise as the operating system says.
    fn remove_dir_all(&self, dir: &Path) -> io::Result<()>;
    /// The entries of `dir`, by name.
    ///
    /// # Errors
    /// `NotFound` if there is none; otherwise as the operating system says.
    fn list(&self, dir: &Path) -> io::Result<Vec<DirEntry>>;
    /// What is known of `path`, symbolic links followed.
    ///
    /// # Errors
    /// `NotFound` if there is none; otherwise as the operating system says.
    fn stat(&self, path: &Path) -> io::Result<FileStat>;
    /// The absolute path of an existing file or directory with all symbolic links resolved.
    ///
    /// # Errors
    /// `NotFound` if there is none; otherwise as the operating system says.
    fn canonicalize(&self, path: &Path) -> io::Result<PathBuf>;
    /// Removes an empty directory.
    ///
    /// # Errors
    /// `NotFound` if there is none, `DirectoryNotEmpty` if it holds something; otherwise as the operating system says.
    fn remove_empty_dir(&self, dir: &Path) -> io::Result<()>;
    /// Makes creations, renames and removals in `dir` durable.
    ///
    /// # Errors
    /// As the operating system says.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;
    /// Locks the file at `path`, which is made if it is not there, against everybody else who locks it, in this process
    /// or another one. Does not wait.
    ///
    /// # Errors
    /// `WouldBlock` if somebody else has it locked; `Unsupported` where files cannot be; otherwise as the operating system
    /// says.
    fn lock(&self, path: &Path) -> io::Result<Box<dyn FileLock>> {
        Err(io::Error::new(io::ErrorKind::Unsupported, format!("{} cannot be locked", path.display())))
    }
    /// Bytes that may still be written under `path`.
    ///
    /// # Errors
    /// As the operating system says.
    fn free_bytes(&self, path: &Path) -> io::Result<u64>;

    /// Reads a whole file.
    ///
    /// # Errors
    /// `NotFound` if there is none; otherwise as the operating system says.
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        let file = self.open(path)?;
        let len = usize::try_from(file.len()?).map_err(io::Error::other)?;
        let mut bytes = vec![0; len];
        file.read_exact_at(&mut bytes, 0)?;
        Ok(bytes)
    }

    /// Replaces the file at `path` by `bytes` so that a crash leaves either the old or the new content: temporary
    /// file, fsync, rename, fsync of the directory.
    ///
    /// # Errors
    /// As the operating system says; the old content then stands.
    fn write_durably(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let dir = path.parent().unwrap_or(Path::new("."));
        let mut name = path.file_name().unwrap_or_default().to_os_string();
        name.push(".tmp");
        let temporary: PathBuf = dir.join(name);
        let mut file = self.create(&temporary)?;
        file.write_all(bytes)?;
        file.sync()?;
        drop(file);
        self.rename(&temporary, path)?;
        self.sync_dir(dir)
    }
}

/// The operating system's file system.
#[derive(Clone, Copy, Debug)]
pub struct OsFiles;

#[derive(Debug)]
struct OsFile(std::fs::File);

impl FileLock for OsFile {}

impl Write for OsFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

impl FileWriter for OsFile {
    fn sync(&mut self) -> io::Result<()> {
        self.0.sync_all()
    }
}

impl FileReader for OsFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        std::os::unix::fs::FileExt::read_exact_at(&self.0, buffer, offset)
    }
}

#[allow(clippy::disallowed_methods, reason = "the one place that touches the local file system")]
impl Files for OsFiles {
    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        std::fs::create_dir_all(dir)
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn FileWriter>> {
        Ok(Box::new(OsFile(std::fs::File::create(path)?)))
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn FileReader>> {
        Ok(Box::new(OsFile(std::fs::File::open(path)?)))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        std::fs::rename(from, to)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        std::fs::remove_file(path)
    }

    fn remove_dir_all(&self, dir: &Path) -> io::Result<()> {
        std::fs::remove_dir_all(dir)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<DirEntry>> {
        let mut entries = Vec::new();
        for entry in std::fs::read_dir(dir)? {
            let entry = entry?;
            let metadata = match entry.metadata() {
                // Removed or renamed since the directory was read.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                metadata => metadata?,
            };
            entries.push(DirEntry {
                name: entry.file_name().to_string_lossy().into_owned(),
                is_dir: metadata.is_dir(),
                is_symlink: metadata.is_symlink(),
                len: if metadata.is_dir() { 0 } else { metadata.len() },
            });
        }
        entries.sort();
        Ok(entries)
    }

    fn stat(&self, path: &Path) -> io::Result<FileStat> {
        use std::os::unix::fs::MetadataExt;
        let mut metadata = std::fs::symlink_metadata(path)?;
        let is_symlink = metadata.is_symlink();
        if is_symlink {
            metadata = std::fs::metadata(path)?;
        }
        let modified_ns = metadata.modified()?.duration_since(std::time::UNIX_EPOCH).unwrap_or_default().as_nanos();
        Ok(FileStat {
            len: if metadata.is_dir() { 0 } else { metadata.len() },
            is_dir: metadata.is_dir(),
            is_file: metadata.is_file(),
            is_symlink,
            modified_ns: u64::try_from(modified_ns).unwrap_or(u64::MAX),
            inode: metadata.ino(),
        })
    }

    fn canonicalize(&self, path: &Path) -> io::Result<PathBuf> {
        std::fs::canonicalize(path)
    }

    fn remove_empty_dir(&self, dir: &Path) -> io::Result<()> {
        std::fs::remove_dir(dir)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        std::fs::File::open(dir)?.sync_all()
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn FileLock>> {
        let file = std::fs::OpenOptions::new().write(true).create(true).truncate(false).open(path)?;
        file.try_lock()?;
        Ok(Box::new(OsFile(file)))
    }

    fn free_bytes(&self, path: &Path) -> io::Result<u64> {
        let stat = rustix::fs::statvfs(path)?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_durable_write_replaces_the_whole_file_and_leaves_no_temporary() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("STATE");
        OsFiles.write_durably(&path, b"first, longer").expect("written");
        OsFiles.write_durably(&path, b"second").expect("written");
        assert_eq!(OsFiles.read(&path).expect("read"), b"second");
        let names: Vec<String> = OsFiles.list(dir.path()).expect("listed").into_iter().map(|e| e.name).collect();
        assert_eq!(names, ["STATE"]);
        assert!(OsFiles.free_bytes(dir.path()).expect("known") > 0);
    }

    #[test]
    fn a_read_past_the_end_is_unexpected_eof() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("short");
        OsFiles.write_durably(&path, b"1234").expect("written");
        let file = OsFiles.open(&path).expect("opened");
        let mut buffer = [0; 4];
        let error = file.read_exact_at(&mut buffer, 1).expect_err("one byte is missing");
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn a_locked_file_is_refused_until_it_is_given_up() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("LOCK");
        let held = OsFiles.lock(&path).expect("nobody has it");
        let refused = OsFiles.lock(&path).expect_err("it is held");
        assert_eq!(refused.kind(), io::ErrorKind::WouldBlock);
        drop(held);
        assert!(OsFiles.lock(&path).is_ok());
    }

    #[test]
    fn a_link_is_known_as_one_and_described_by_what_it_leads_to() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("data");
        OsFiles.write_durably(&path, b"1234").expect("written");
        std::os::unix::fs::symlink(&path, dir.path().join("link")).expect("linked");
        let direct = OsFiles.stat(&path).expect("known");
        let linked = OsFiles.stat(&dir.path().join("link")).expect("known");
        assert!(!direct.is_symlink && linked.is_symlink && !direct.is_dir && direct.is_file);
        let listed = OsFiles.list(dir.path()).expect("listed");
        assert_eq!(listed.iter().map(|entry| entry.is_symlink).collect::<Vec<_>>(), [false, true]);
        assert_eq!((direct.len, direct.inode, direct.modified_ns), (4, linked.inode, linked.modified_ns));
        assert_eq!(OsFiles.canonicalize(&dir.path().join("link")).ok(), OsFiles.canonicalize(&path).ok());
        let error = OsFiles.remove_empty_dir(dir.path()).expect_err("the directory holds files");
        assert_eq!(error.kind(), io::ErrorKind::DirectoryNotEmpty);
    }
}
