//! A file system that remembers the order of what was asked, and fails when told to.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use fkv_env::{DirEntry, Env, FileReader, FileStat, FileWriter, Files, OsFiles};

/// Remembers writes, syncs, renames and removals as lines such as `sync a/b`, with paths below `root`.
#[derive(Debug)]
pub(crate) struct RecordingFiles {
    root: PathBuf,
    log: Arc<Mutex<Vec<String>>>,
    /// A line; the call that would write it fails instead.
    failing: Mutex<Option<(String, io::ErrorKind)>>,
}

impl RecordingFiles {
    /// The real world, but for local files, which are recorded below `root`.
    pub(crate) fn world(root: &Path) -> (Env, Arc<Self>) {
        let files = Arc::new(Self { root: root.to_owned(), log: Arc::default(), failing: Mutex::default() });
        let mut env = Env::real(1).expect("threads start");
        env.files = Arc::clone(&files) as Arc<dyn Files>;
        (env, files)
    }

    /// What was done since the last call of this, with the random name of a temporary file as `TMP`.
    pub(crate) fn take_log(&self) -> Vec<String> {
        std::mem::take(&mut self.log.lock().expect("no panic inside"))
    }

    /// From now on the call with this line fails.
    pub(crate) fn fail(&self, line: &str, kind: io::ErrorKind) {
        *self.failing.lock().expect("no panic inside") = Some((line.to_owned(), kind));
    }

    fn name(&self, path: &Path) -> String {
        let below = path.strip_prefix(&self.root).unwrap_or(path).display().to_string();
        match below.split_once(".fkv-tmp/") {
            Some((before, _)) => format!("{before}TMP"),
            None => below,
        }
    }

    fn note(&self, line: String) -> io::Result<()> {
        if let Some((failing, kind)) = &*self.failing.lock().expect("no panic inside")
            && *failing == line
        {
            return Err(io::Error::new(*kind, "injected"));
        }
        self.log.lock().expect("no panic inside").push(line);
        Ok(())
    }
}

struct RecordingWriter {
    file: Box<dyn FileWriter>,
    name: String,
    log: Arc<Mutex<Vec<String>>>,
}

impl io::Write for RecordingWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.log.lock().expect("no panic inside").push(format!("write {}", self.name));
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl FileWriter for RecordingWriter {
    fn sync(&mut self) -> io::Result<()> {
        self.log.lock().expect("no panic inside").push(format!("sync {}", self.name));
        self.file.sync()
    }
}

impl Files for RecordingFiles {
    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        OsFiles.create_dir_all(dir)
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn FileWriter>> {
        let name = self.name(path);
        self.note(format!("create {name}"))?;
        Ok(Box::new(RecordingWriter { file: OsFiles.create(path)?, name, log: Arc::clone(&self.log) }))
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn FileReader>> {
        OsFiles.open(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.note(format!("rename {} {}", self.name(from), self.name(to)))?;
        OsFiles.rename(from, to)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.note(format!("remove {}", self.name(path)))?;
        OsFiles.remove_file(path)
    }

    fn remove_dir_all(&self, dir: &Path) -> io::Result<()> {
        OsFiles.remove_dir_all(dir)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<DirEntry>> {
        OsFiles.list(dir)
    }

    fn stat(&self, path: &Path) -> io::Result<FileStat> {
        OsFiles.stat(path)
    }

    fn canonicalize(&self, path: &Path) -> io::Result<PathBuf> {
        OsFiles.canonicalize(path)
    }

    fn remove_empty_dir(&self, dir: &Path) -> io::Result<()> {
        OsFiles.remove_empty_dir(dir)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.note(format!("sync-dir {}", self.name(dir)))?;
        OsFiles.sync_dir(dir)
    }

    fn free_bytes(&self, path: &Path) -> io::Result<u64> {
        OsFiles.free_bytes(path)
    }
}
