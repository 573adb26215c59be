//! Listing: one directory at a time, each off the asynchronous threads.

use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use fkv_env::{DirEntry, Env};
use futures::StreamExt;
use futures::stream::{self, BoxStream};

use super::place::Place;
use super::{meta, run};
use crate::error::StoreError;
use crate::object::ObjectMeta;
use crate::path::{TEMPORARY_DIR, check_prefix, join, segment_complaint};

type Listed = Result<ObjectMeta, StoreError>;

struct Walk {
    env: Env,
    place: Arc<Place>,
    /// Folders still to be read, as paths below the root.
    folders: Vec<String>,
    /// Found but not handed out yet.
    found: VecDeque<Listed>,
}

/// What one folder holds.
struct Folder {
    objects: Vec<Listed>,
    folders: Vec<String>,
}

pub(super) fn list(env: Env, place: Arc<Place>, prefix: &str) -> BoxStream<'static, Listed> {
    if let Err(error) = check_prefix(prefix) {
        return stream::iter([Err(error)]).boxed();
    }
    let walk = Walk { env, place, folders: vec![prefix.to_owned()], found: VecDeque::new() };
    stream::unfold(walk, |mut walk| async move {
        loop {
            if let Some(listed) = walk.found.pop_front() {
                return Some((listed, walk));
            }
            let folder = walk.folders.pop()?;
            match run(&walk.env, &walk.place, &folder, read_folder).await {
                Ok(read) => {
                    walk.found.extend(read.objects);
                    walk.folders.extend(read.folders);
                }
                Err(error) => walk.found.push_back(Err(error)),
            }
        }
    })
    .boxed()
}

fn read_folder(place: &Place, folder: &str) -> Result<Folder, StoreError> {
    let mut read = Folder { objects: vec![], folders: vec![] };
    let fail = |error: &io::Error| place.error(folder, error);
    let entries = || -> Result<(PathBuf, PathBuf, Vec<DirEntry>), StoreError> {
        let dir = place.resolve(folder)?;
        let root = place.real_root().map_err(|error| fail(&error))?;
        let entries = place.files().list(&dir).map_err(|error| fail(&error))?;
        Ok((root, dir, entries))
    };
    let (root, dir, entries) = match entries() {
        // It never was, or was removed since its parent was read, or is an object.
        Err(StoreError::NotFound { .. }) => return Ok(read),
        entries => entries?,
    };
    for entry in entries {
        if folder.is_empty() && entry.name == TEMPORARY_DIR {
            continue;
        }
        let path = join(folder, &entry.name);
        if entry.is_dir && segment_complaint(&entry.name).is_none() {
            read.folders.push(path);
        } else if let Some(listed) = describe(place, &root, &dir.join(&entry.name), &path, &entry).transpose() {
            read.objects.push(listed);
        }
    }
    Ok(read)
}

/// The object that `entry` is; none if it has gone since.
fn describe(
    place: &Place,
    root: &Path,
    full: &Path,
    path: &str,
    entry: &DirEntry,
) -> Result<Option<ObjectMeta>, StoreError> {
    let refuse = |reason: &str| Err(StoreError::Other { path: place.url_of(path), reason: reason.into() });
    if let Some(reason) = segment_complaint(&entry.name) {
        return Err(StoreError::BadUrl { url: place.url_of(path), reason });
    }
    let gone = |error: io::Error| match error.kind() {
        io::ErrorKind::NotFound if entry.name.contains(char::REPLACEMENT_CHARACTER) => refuse("its name is not UTF-8"),
        io::ErrorKind::NotFound if entry.is_symlink => refuse("it is a symbolic link that leads nowhere"),
        io::ErrorKind::NotFound => Ok(None),
        _ => Err(place.error(path, &error)),
    };
    if entry.is_symlink {
        match place.files().canonicalize(full) {
            Ok(real) => place.check_inside(path, root, &real)?,
            Err(error) => return gone(error),
        }
    }
    match place.files().stat(full) {
        Ok(stat) if stat.is_file => Ok(Some(meta(path, &stat))),
        // Following it could find objects twice, or for ever.
        Ok(stat) if stat.is_dir => refuse("it is a symbolic link to a directory, which is not followed"),
        Ok(_) => refuse("it is not a regular file"),
        Err(error) => gone(error),
    }
}
