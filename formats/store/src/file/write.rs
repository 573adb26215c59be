//! Writing: a temporary file, made durable, then renamed to its path.

use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use fkv_env::{Env, FileWriter, Files};

use super::place::Place;
use super::run;
use crate::error::StoreError;
use crate::object::ObjectWriter;
use crate::path::printable;

/// Bytes collected before they are written, so that small pieces do not cost a thread switch each.
const PENDING_BYTES_MAX: usize = 1 << 20;

/// How often a folder that somebody removes again is made for one object.
const FOLDER_TRIES_MAX: u32 = 64;

/// Age past which a file in the temporary folder belongs to nobody. A living writer writes more often.
const LEFTOVER_AGE_MS: u64 = 24 * 60 * 60 * 1000;

pub(super) async fn put(env: &Env, place: &Arc<Place>, path: &str, bytes: Bytes) -> Result<(), StoreError> {
    let (name, now_ms) = (temporary_name(env), env.clock.unix_ms());
    run(env, place, path, move |place, path| {
        sweep(place, now_ms);
        let mut unfinished = Unfinished::create(place, &name).map_err(|error| place.error(path, &error))?;
        unfinished.write(&[bytes]).map_err(|error| place.error(path, &error))?;
        unfinished.publish(place, path)
    })
    .await
}

pub(super) async fn writer(env: &Env, place: &Arc<Place>, path: &str) -> Result<Box<dyn ObjectWriter>, StoreError> {
    let (name, now_ms) = (temporary_name(env), env.clock.unix_ms());
    let unfinished = run(env, place, path, move |place, path| {
        sweep(place, now_ms);
        Unfinished::create(place, &name).map_err(|error| place.error(path, &error))
    })
    .await?;
    Ok(Box::new(Writer {
        env: env.clone(),
        place: Arc::clone(place),
        path: path.to_owned(),
        unfinished: Some(unfinished),
        pending: vec![],
        pending_bytes: 0,
    }))
}

fn temporary_name(env: &Env) -> String {
    format!("{:016x}{:016x}", env.entropy.next_u64(), env.entropy.next_u64())
}

/// A temporary file; removed when dropped, unless it was published.
struct Unfinished {
    files: Arc<dyn Files>,
    temporary: PathBuf,
    file: Option<Box<dyn FileWriter>>,
    published: bool,
}

impl Unfinished {
    fn create(place: &Place, name: &str) -> io::Result<Self> {
        let temporary = place.temporary_dir()?.join(name);
        let file = Some(place.files().create(&temporary)?);
        Ok(Self { files: place.files_shared(), temporary, file, published: false })
    }

    fn write(&mut self, pieces: &[Bytes]) -> io::Result<()> {
        let file = self.file.as_mut().ok_or_else(|| io::Error::other("the file is closed"))?;
        pieces.iter().try_for_each(|piece| file.write_all(piece))
    }

    /// Makes the content durable, then the object visible, then that durable.
    fn publish(mut self, place: &Place, path: &str) -> Result<(), StoreError> {
        let fail = |error: &io::Error| place.error(path, error);
        let mut file = self.file.take().ok_or_else(|| fail(&io::Error::other("the file is closed")))?;
        file.flush().and_then(|()| file.sync()).map_err(|error| fail(&error))?;
        drop(file);
        let folder = self.rename(place, path)?;
        self.published = true;
        match place.files().sync_dir(&folder) {
            Ok(()) => Ok(()),
            // Somebody deleted the object already, and the folder went with it.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => {
                let reason = format!("it was written, but may not survive a crash: {error}");
                Err(StoreError::Unavailable { path: place.url_of(path), reason })
            }
        }
    }

    /// Puts the file where the object belongs; its folder.
    fn rename(&self, place: &Place, path: &str) -> Result<PathBuf, StoreError> {
        let name = path.rsplit_once('/').map_or(path, |(_, name)| name);
        for _ in 0..FOLDER_TRIES_MAX {
            let folder = match place.make_folder_of(path) {
                // A folder that was empty: a delete took it away under us.
                Err(StoreError::NotFound { .. }) => continue,
                folder => folder?,
            };
            match place.files().rename(&self.temporary, &folder.join(name)) {
                Ok(()) => return Ok(folder),
                Err(error) if error.kind() == io::ErrorKind::NotFound => place.forget(&folder),
                Err(error) if error.kind() == io::ErrorKind::IsADirectory => {
                    let reason = "there is a folder of this name".into();
                    return Err(StoreError::Other { path: place.url_of(path), reason });
                }
                Err(error) => return Err(place.error(path, &error)),
            }
        }
        let reason = "its folder is removed again and again".into();
        Err(StoreError::Unavailable { path: place.url_of(path), reason })
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        if self.published {
            return;
        }
        self.file = None;
        if let Err(error) = self.files.remove_file(&self.temporary)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(%error, file = %self.temporary.display(), "cannot remove an unfinished file");
        }
    }
}

/// Removes what writers that died long ago left behind. Failing to is no reason not to write.
fn sweep(place: &Place, now_ms: u64) {
    if !place.first_sweep() {
        return;
    }
    let swept = || -> io::Result<()> {
        let dir = place.temporary_dir()?;
        for entry in place.files().list(&dir)? {
            let file = dir.join(&entry.name);
            let Ok(stat) = place.files().stat(&file) else { continue };
            if stat.is_file && now_ms.saturating_sub(stat.modified_ns / 1_000_000) > LEFTOVER_AGE_MS {
                place.files().remove_file(&file)?;
                tracing::info!(store = place.url(), file = entry.name, len = stat.len, "removed an unfinished file");
            }
        }
        Ok(())
    };
    if let Err(error) = swept() {
        tracing::warn!(%error, store = place.url(), "cannot remove unfinished files");
    }
}

struct Writer {
    env: Env,
    place: Arc<Place>,
    path: String,
    /// None while a write is on its way, and for good after one failed or its future was dropped.
    unfinished: Option<Unfinished>,
    pending: Vec<Bytes>,
    pending_bytes: usize,
}

impl Writer {
    fn take(&mut self) -> Result<Unfinished, StoreError> {
        self.unfinished.take().ok_or_else(|| StoreError::Other {
            path: printable(&self.place.url_of(&self.path)),
            reason: "an earlier write failed or was given up".into(),
        })
    }
}

#[async_trait]
impl ObjectWriter for Writer {
    async fn write(&mut self, bytes: Bytes) -> Result<(), StoreError> {
        self.pending_bytes += bytes.len();
        self.pending.push(bytes);
        if self.pending_bytes < PENDING_BYTES_MAX && self.unfinished.is_some() {
            return Ok(());
        }
        let mut unfinished = self.take()?;
        let pieces = std::mem::take(&mut self.pending);
        self.pending_bytes = 0;
        let written = run(&self.env, &self.place, &self.path, move |place, path| {
            unfinished.write(&pieces).map_err(|error| place.error(path, &error))?;
            Ok(unfinished)
        });
        self.unfinished = Some(written.await?);
        Ok(())
    }

    async fn finish(mut self: Box<Self>) -> Result<(), StoreError> {
        let mut unfinished = self.take()?;
        let pieces = std::mem::take(&mut self.pending);
        run(&self.env, &self.place, &self.path, move |place, path| {
            unfinished.write(&pieces).map_err(|error| place.error(path, &error))?;
            unfinished.publish(place, path)
        })
        .await
    }

    async fn abort(mut self: Box<Self>) {
        let unfinished = self.unfinished.take();
        // Removing a large file takes a while. A panic there is logged by who runs it.
        let _ = self.env.blocking(move || drop(unfinished)).await;
    }
}
