//! STATE: what a server needs to serve again after a restart with metadata and the store both down.
//!
//! ```text
//!   STATE = JSON ⏎ SHA-256 of the JSON in hexadecimal ⏎
//!   written last: temporary file → fsync → rename → fsync of the directory, after every file it names is durable;
//!   files it no longer names are removed only after it is durable itself
//! ```
//!
//! A server never acts on metadata older than its own STATE: see [`crate::fence`].

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use fkv_env::{Env, Files, TaskHandle};
use fkv_formats::id::{Digest, TableUid};
use fkv_meta::record::{FormRef, Label, TableRecord, Topology};
use fkv_meta::store::Revision;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use tokio::sync::mpsc;

/// Name of the file below the data directory.
const FILE_NAME: &str = "STATE";
/// Name of the directory of image files below the data directory.
pub(crate) const IMAGES_DIR: &str = "images";
const FORMAT: u32 = 1;

/// Everything STATE holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct State {
    pub(crate) v: u32,
    pub(crate) module: String,
    pub(crate) server: String,
    /// The newest metadata revision it was made from.
    pub(crate) revision: Revision,
    pub(crate) topology: Topology,
    pub(crate) tables: BTreeMap<TableUid, TableState>,
}

/// A table, as last heard of, and what of it is on disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct TableState {
    pub(crate) record: TableRecord,
    /// What default reads got last.
    pub(crate) shown: Option<Label>,
    /// Images whose files are durable.
    pub(crate) images: Vec<ImageState>,
}

/// An image on disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ImageState {
    pub(crate) label: Label,
    /// Whether default reads ever got it.
    pub(crate) served: bool,
    /// The form object it was loaded from; its bytes are in `form_file`.
    pub(crate) form: FormRef,
    /// File with the form object's bytes.
    pub(crate) form_file: FileState,
    /// Packs with its parts; a part is taken from the last one that has it.
    pub(crate) packs: Vec<FileState>,
}

/// A file below the image directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct FileState {
    pub(crate) name: String,
    pub(crate) len: u64,
}

/// Why STATE cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StateError {
    #[error("the file cannot be read: {0}")]
    Io(#[from] io::Error),
    #[error("the file is damaged: {0}")]
    Damaged(String),
    #[error("format {0} is unknown, this build reads {FORMAT}")]
    Format(u32),
    #[error("it belongs to server `{server}` of module `{module}`: every server needs a data directory of its own")]
    Foreign { module: String, server: String },
}

impl State {
    pub(crate) fn new(module: &str, server: &str) -> Self {
        Self {
            v: FORMAT,
            module: module.to_owned(),
            server: server.to_owned(),
            revision: Revision::default(),
            topology: Topology::default(),
            tables: BTreeMap::new(),
        }
    }

    /// Names of all files it refers to.
    pub(crate) fn files(&self) -> BTreeSet<&str> {
        let images = self.tables.values().flat_map(|table| &table.images);
        images.flat_map(ImageState::files).map(|file| file.name.as_str()).collect()
    }

    fn encode(&self) -> Vec<u8> {
        let mut bytes = serde_json::to_vec(self).expect("our own state always serialises");
        let digest = Digest(Sha256::digest(&bytes).into());
        bytes.push(b'\n');
        bytes.extend_from_slice(digest.to_string().as_bytes());
        bytes.push(b'\n');
        bytes
    }

    fn decode(bytes: &[u8]) -> Result<Self, StateError> {
        let damaged = |reason: &str| StateError::Damaged(reason.to_owned());
        let text = bytes.strip_suffix(b"\n").ok_or_else(|| damaged("it does not end in a line feed"))?;
        let at = text.iter().rposition(|byte| *byte == b'\n').ok_or_else(|| damaged("it has no digest"))?;
        let (json, digest) = (&text[..at], &text[at + 1..]);
        if Digest(Sha256::digest(json).into()).to_string().as_bytes() != digest {
            return Err(damaged("its digest differs"));
        }
        #[derive(Deserialize)]
        struct FormatOnly {
            v: u32,
        }
        let parse = |error: serde_json::Error| StateError::Damaged(error.to_string());
        let format: FormatOnly = serde_json::from_slice(json).map_err(parse)?;
        if format.v != FORMAT {
            return Err(StateError::Format(format.v));
        }
        let state: Self = serde_json::from_slice(json).map_err(parse)?;
        let names = state.files();
        if let Some(name) =
            names.iter().find(|name| name.is_empty() || name.contains(['/', '\\', '\0']) || **name == "..")
        {
            return Err(StateError::Damaged(format!("`{name}` is no file name")));
        }
        Ok(state)
    }
}

impl ImageState {
    pub(crate) fn files(&self) -> impl Iterator<Item = &FileState> {
        std::iter::once(&self.form_file).chain(&self.packs)
    }
}

/// Reads STATE below `data_dir`; `None` if there is none.
pub(crate) fn read(
    files: &dyn Files,
    data_dir: &Path,
    module: &str,
    server: &str,
) -> Result<Option<State>, StateError> {
    let bytes = match files.read(&data_dir.join(FILE_NAME)) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let state = State::decode(&bytes)?;
    if (state.module.as_str(), state.server.as_str()) != (module, server) {
        return Err(StateError::Foreign { module: state.module, server: state.server });
    }
    Ok(Some(state))
}

/// Sets a damaged STATE aside, so that an operator can look at it.
pub(crate) fn set_aside(files: &dyn Files, data_dir: &Path) -> io::Result<()> {
    files.rename(&data_dir.join(FILE_NAME), &data_dir.join(format!("{FILE_NAME}.damaged")))
}

/// Removes the image files that `state` does not name: leftovers of loads that a crash or a failure cut short.
pub(crate) fn remove_leftovers(files: &dyn Files, data_dir: &Path, state: &State) -> io::Result<usize> {
    let dir = data_dir.join(IMAGES_DIR);
    let known = state.files();
    let mut removed = 0;
    for entry in files.list(&dir)? {
        if !entry.is_dir && !known.contains(entry.name.as_str()) {
            files.remove_file(&dir.join(&entry.name))?;
            removed += 1;
        }
    }
    Ok(removed)
}

/// One write: the new state, and files to remove once it is durable.
#[derive(Debug)]
struct Write {
    state: Arc<State>,
    remove: Vec<Box<dyn Removable>>,
}

/// Something on disk that goes once STATE no longer names it.
pub(crate) trait Removable: Send + std::fmt::Debug {
    /// Names of its files below the image directory. Its share of the ledger is given back when it is dropped.
    fn names(&self) -> Vec<String>;
}

/// Writes STATE in the background, newest last; slow disks delay nobody.
#[derive(Debug)]
pub(crate) struct StateWriter {
    sender: mpsc::UnboundedSender<Write>,
    task: TaskHandle,
}

impl StateWriter {
    pub(crate) fn start(env: &Env, data_dir: &Path) -> Self {
        let (sender, receiver) = mpsc::unbounded_channel();
        let task = env.spawn.spawn("state-writer", Box::pin(run(env.clone(), data_dir.to_owned(), receiver)));
        Self { sender, task }
    }

    /// Queues `state`; `remove` goes after it is durable.
    pub(crate) fn write(&self, state: State, remove: Vec<Box<dyn Removable>>) {
        // The task ends only with this writer.
        let _ = self.sender.send(Write { state: Arc::new(state), remove });
    }

    /// Waits until everything queued is written.
    pub(crate) async fn finish(self) {
        drop(self.sender);
        self.task.join().await;
    }
}

/// First pause before a write that failed is tried again; it doubles up to the longest.
const RETRY_PAUSE: Duration = Duration::from_millis(200);
const RETRY_PAUSE_MAX: Duration = Duration::from_secs(30);

async fn run(env: Env, data_dir: PathBuf, mut receiver: mpsc::UnboundedReceiver<Write>) {
    let mut remove: Vec<Box<dyn Removable>> = Vec::new();
    let mut written: Option<Arc<State>> = None;
    // What could not be written.
    let mut failed: Option<Arc<State>> = None;
    let mut pause = RETRY_PAUSE;
    let mut is_open = true;
    while is_open {
        let heard = match &failed {
            None => Ok(receiver.recv().await),
            Some(_) => fkv_env::timeout(env.clock.as_ref(), pause, receiver.recv()).await,
        };
        is_open = !matches!(heard, Ok(None));
        let mut state = match (heard, failed.take()) {
            (Ok(Some(mut write)), _) => {
                remove.append(&mut write.remove);
                write.state
            }
            // Nobody says anything any more: what failed gets a last try.
            (_, Some(state)) => state,
            (_, None) => continue,
        };
        while let Ok(mut next) = receiver.try_recv() {
            remove.append(&mut next.remove);
            state = next.state;
        }
        if written.as_ref() == Some(&state) && remove.is_empty() {
            continue;
        }
        let (files, dir, content) = (Arc::clone(&env.files), data_dir.clone(), Arc::clone(&state));
        let going: Vec<Box<dyn Removable>> = std::mem::take(&mut remove);
        let outcome = env
            .blocking(move || match files.write_durably(&dir.join(FILE_NAME), &content.encode()) {
                Ok(()) => {
                    remove_files(files.as_ref(), &dir, &going);
                    Ok(())
                }
                // STATE on disk may still name them: they stay until it is written.
                Err(error) => Err((error, going)),
            })
            .await;
        let problem = match outcome {
            Ok(Ok(())) => {
                (written, pause) = (Some(state), RETRY_PAUSE);
                continue;
            }
            Ok(Err((error, kept))) => {
                remove = kept;
                error.to_string()
            }
            Err(error) => error.to_string(),
        };
        tracing::error!(error = %problem, "cannot write STATE, trying again: a restart without metadata would show older data");
        // What the file holds now is unknown.
        written = None;
        failed = Some(state);
        pause = (pause * 2).min(RETRY_PAUSE_MAX);
    }
}

fn remove_files(files: &dyn Files, data_dir: &Path, going: &[Box<dyn Removable>]) {
    for name in going.iter().flat_map(|item| item.names()) {
        match files.remove_file(&data_dir.join(IMAGES_DIR).join(&name)) {
            Ok(()) => tracing::debug!(file = %name, "local file removed"),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            // The next start removes it as a leftover.
            Err(error) => tracing::warn!(file = %name, %error, "cannot remove a local file"),
        }
    }
}

#[cfg(test)]
mod tests {
    use fkv_env::OsFiles;

    use super::*;

    #[derive(Debug)]
    struct Named(&'static str);

    impl Removable for Named {
        fn names(&self) -> Vec<String> {
            vec![self.0.to_owned()]
        }
    }

    fn dir() -> tempfile::TempDir {
        let dir = tempfile::tempdir().expect("a temporary directory");
        OsFiles.create_dir_all(&dir.path().join(IMAGES_DIR)).expect("created");
        dir
    }

    #[tokio::test]
    async fn files_go_only_after_the_state_without_them_is_durable() {
        let dir = dir();
        let env = Env::real(1).expect("threads start");
        OsFiles.write_durably(&dir.path().join(IMAGES_DIR).join("old.pack"), b"x").expect("written");
        let writer = StateWriter::start(&env, dir.path());
        let state = State { revision: Revision(7), ..State::new("rank", "kv-1") };
        writer.write(state.clone(), vec![Box::new(Named("old.pack"))]);
        writer.finish().await;
        assert_eq!(read(&OsFiles, dir.path(), "rank", "kv-1").expect("readable"), Some(state));
        assert!(OsFiles.list(&dir.path().join(IMAGES_DIR)).expect("listed").is_empty());
    }

    #[tokio::test]
    async fn a_write_that_failed_is_tried_again_without_another_change() {
        let dir = dir();
        let env = Env::real(1).expect("threads start");
        // A directory in its place keeps STATE from being written.
        let place = dir.path().join(FILE_NAME);
        OsFiles.create_dir_all(&place.join("in-the-way")).expect("created");
        OsFiles.write_durably(&dir.path().join(IMAGES_DIR).join("old.pack"), b"x").expect("written");
        let writer = StateWriter::start(&env, dir.path());
        let state = State { revision: Revision(7), ..State::new("rank", "kv-1") };
        writer.write(state.clone(), vec![Box::new(Named("old.pack"))]);
        // The temporary file of a write is what its failure leaves behind.
        while OsFiles.stat(&dir.path().join(format!("{FILE_NAME}.tmp"))).is_err() {
            env.clock.sleep(Duration::from_millis(5)).await;
        }
        assert_eq!(OsFiles.list(&dir.path().join(IMAGES_DIR)).expect("listed").len(), 1, "it may still be named");
        OsFiles.rename(&place, &dir.path().join("aside")).expect("moved");
        while OsFiles.read(&place).is_err() {
            env.clock.sleep(Duration::from_millis(5)).await;
        }
        assert_eq!(read(&OsFiles, dir.path(), "rank", "kv-1").expect("readable"), Some(state));
        writer.finish().await;
        assert!(OsFiles.list(&dir.path().join(IMAGES_DIR)).expect("listed").is_empty());
    }

    #[test]
    fn every_altered_byte_is_noticed() {
        let good = State::new("rank", "kv-1").encode();
        assert!(State::decode(&good).is_ok());
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 1;
            assert!(State::decode(&bad).is_err(), "byte {at}");
            assert!(State::decode(&good[..at]).is_err(), "cut at {at}");
        }
    }

    #[test]
    fn the_state_of_another_server_is_refused() {
        let dir = dir();
        assert!(read(&OsFiles, dir.path(), "rank", "kv-1").expect("nothing there").is_none());
        OsFiles.write_durably(&dir.path().join(FILE_NAME), &State::new("rank", "kv-1").encode()).expect("written");
        let refused = read(&OsFiles, dir.path(), "rank", "kv-2").expect_err("foreign");
        assert!(matches!(refused, StateError::Foreign { .. }), "{refused}");
    }

    #[test]
    fn leftovers_of_unfinished_loads_are_removed_at_start() {
        let dir = dir();
        OsFiles.write_durably(&dir.path().join(IMAGES_DIR).join("stray.pack"), b"x").expect("written");
        assert_eq!(remove_leftovers(&OsFiles, dir.path(), &State::new("rank", "kv-1")).expect("removed"), 1);
        assert!(OsFiles.list(&dir.path().join(IMAGES_DIR)).expect("listed").is_empty());
    }
}
