//! From what a user names to the files a task reads.
//!
//! ```text
//!   file:///data/day.parquet           that file
//!   file:///data/day                   the data files in that folder and in folders below
//!   s3://lake/t/dt=2024-*/*.parquet    what matches; a folder that matches stands for the files below
//! ```
//!
//! What jobs leave beside their data is skipped: names beginning with `_` or `.` (`_SUCCESS`, `_temporary`, `.crc`
//! files), but not `_column=value`, and files still being copied in (`._COPYING_`). A name written out by the user,
//! or begun so in the pattern, is never skipped. Empty files stay in, so that the reader can say which file is empty.
//!
//! `*` and `?` do not cross a `/`, `**` does; `[…]` and `{a,b}` are known. A special character in a name is written
//! in brackets: `a[*]b`.

mod pattern;

use std::collections::BTreeSet;

use fkv_env::Env;
use futures::StreamExt;

use crate::error::StoreError;
use crate::inputs::pattern::Pattern;
use crate::object::{ObjectMeta, Store};
use crate::open::{open, split_scheme};
use crate::options::StoreOptions;
use crate::path::printable;

/// The name of the empty file that Hadoop, Spark and others leave in a folder when all of it is written.
const SUCCESS: &str = "_SUCCESS";

/// Most files one input may stand for.
pub const INPUT_FILES_MAX: usize = 1_000_000;

/// One file of an input, as it was when it was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InputFile {
    /// URL of the store that the path is relative to; opening it reads the file again later.
    pub url_root: String,
    /// Path below `url_root`.
    pub path: String,
    /// Length in bytes; may be 0, so that the reader can say which file is empty.
    pub len: u64,
    /// The store's tag of the content, where it has one.
    pub etag: Option<String>,
    /// Time of the last change, in Unix milliseconds.
    pub modified_ms: u64,
}

impl InputFile {
    /// The URL of the file, for messages.
    #[must_use]
    pub fn url(&self) -> String {
        format!("{}/{}", self.url_root.trim_end_matches('/'), self.path)
    }

    /// The file as [`crate::ObjectStore::get_range_of`] wants it: a file that changed since is an error there.
    #[must_use]
    pub fn meta(&self) -> ObjectMeta {
        ObjectMeta { path: self.path.clone(), len: self.len, etag: self.etag.clone(), modified_ms: self.modified_ms }
    }
}

/// The files that an input stands for, in the frozen order, and the store to read them from.
#[derive(Clone, Debug)]
pub struct Inputs {
    /// Reads the files; its root is every file's `url_root`.
    pub store: Store,
    /// The files, sorted by path (bytewise); never empty.
    pub files: Vec<InputFile>,
    /// The folders with a `_SUCCESS` in them; unknown where nothing was listed.
    finished: Option<BTreeSet<String>>,
}

impl Inputs {
    /// The URL of a folder with files that are not known to be all: it has no `_SUCCESS`, nor has one above it, as far up as
    /// the first folder that the input does not choose by a pattern.
    ///
    /// # Errors
    /// The store has to be asked, and fails.
    pub async fn unfinished(&self) -> Result<Option<String>, StoreError> {
        let finished = match &self.finished {
            Some(finished) => finished.clone(),
            None => match self.store.head(SUCCESS).await {
                Ok(_) => BTreeSet::from([String::new()]),
                Err(StoreError::NotFound { .. }) => BTreeSet::new(),
                Err(error) => return Err(error),
            },
        };
        let folders = self.files.iter().map(|file| folder_of(&file.path));
        let unfinished = folders.into_iter().find(|folder| {
            let mut above = Some(*folder);
            while let Some(folder) = above {
                if finished.contains(folder) {
                    return false;
                }
                above = if folder.is_empty() { None } else { Some(folder_of(folder)) };
            }
            true
        });
        let root = self.store.url().trim_end_matches('/');
        Ok(unfinished.map(|folder| format!("{root}/{folder}").trim_end_matches('/').to_owned()))
    }
}

/// The folder that a path lies in; empty at the root.
fn folder_of(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(folder, _)| folder)
}

/// Finds the files that `url` stands for: a file, a folder, or a pattern. An absolute path is taken as `file://`.
///
/// # Errors
/// `NoFiles` if there are none, naming `url` and what was skipped; `BadUrl` if it is no URL or no pattern; otherwise
/// as the store says. An entry that cannot be read (a link out of the folder, a name that is no path) is an error too,
/// unless it is hidden or no match: data is never left out silently.
pub async fn resolve(env: &Env, url: &str, options: &StoreOptions) -> Result<Inputs, StoreError> {
    let asked = if url.starts_with('/') { format!("file://{url}") } else { url.to_owned() };
    let (scheme, rest) = split_scheme(&asked)?;
    // What is before the first `/` is a bucket or nothing, and never a pattern.
    let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
    let (folder, pattern) = pattern::split(path);
    let pattern = pattern.map(Pattern::new).transpose();
    let pattern = pattern.map_err(|reason| StoreError::BadUrl { url: printable(&asked), reason })?;

    let store = open(env, &format!("{scheme}://{authority}/{folder}"), options)?;
    let mut found = Found::default();
    found.collect(&store, pattern.as_ref()).await?;
    if found.files.is_empty() && found.hidden == 0 && pattern.is_none() && !path.ends_with('/') {
        // Not a folder: then a file of this name. In this order, because a service may trip over being asked for a
        // folder as if it were an object.
        if let Some(single) = single_file(env, scheme, authority, path, options).await? {
            return Ok(single);
        }
    }
    let (skipped, finished) = (found.hidden, std::mem::take(&mut found.finished));
    let files = found.into_files(&store).await?;
    if files.is_empty() {
        let mut reason = if pattern.is_some() {
            format!("nothing below {} matches the pattern", printable(store.url()))
        } else {
            "there is no such file, and no folder with data files".to_owned()
        };
        if skipped > 0 {
            reason += &format!("; {skipped} hidden files (names beginning with `_` or `.`) were skipped");
        }
        return Err(StoreError::NoFiles { url: printable(&asked), reason });
    }
    Ok(Inputs { store, files, finished: Some(finished) })
}

/// The input `path` as one file, if there is one.
async fn single_file(
    env: &Env,
    scheme: &str,
    authority: &str,
    path: &str,
    options: &StoreOptions,
) -> Result<Option<Inputs>, StoreError> {
    let (folder, name) = path.rsplit_once('/').unwrap_or(("", path));
    if name.is_empty() {
        return Ok(None);
    }
    let store = open(env, &format!("{scheme}://{authority}/{folder}"), options)?;
    match store.head(name).await {
        Ok(meta) => {
            let files = vec![input_file(store.url(), meta)];
            Ok(Some(Inputs { store, files, finished: None }))
        }
        Err(StoreError::NotFound { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

fn input_file(url_root: &str, meta: ObjectMeta) -> InputFile {
    let ObjectMeta { path, len, etag, modified_ms } = meta;
    InputFile { url_root: url_root.to_owned(), path, len, etag, modified_ms }
}

/// What a listing brought.
#[derive(Default)]
struct Found {
    files: Vec<ObjectMeta>,
    hidden: u64,
    /// Folders with a `_SUCCESS`.
    finished: BTreeSet<String>,
}

impl Found {
    /// Lists the whole store and keeps what is data and matches.
    async fn collect(&mut self, store: &Store, pattern: Option<&Pattern>) -> Result<(), StoreError> {
        let mut listed = store.list("");
        while let Some(listed) = listed.next().await {
            if let Ok(meta) = &listed
                && meta.path.rsplit('/').next() == Some(SUCCESS)
            {
                self.finished.insert(folder_of(&meta.path).to_owned());
            }
            match listed {
                Ok(meta) if pattern.is_some_and(|pattern| !pattern.matches(&meta.path)) => {}
                Ok(meta) if is_hidden(&meta.path, pattern) => self.hidden += 1,
                Ok(_) if self.files.len() == INPUT_FILES_MAX => {
                    let reason = format!("it stands for more than {INPUT_FILES_MAX} files; name a part of them");
                    return Err(StoreError::Other { path: printable(store.url()), reason });
                }
                Ok(meta) => self.files.push(meta),
                Err(error) => {
                    let path = error.path().strip_prefix(store.url()).map_or("", |path| path.trim_start_matches('/'));
                    let concerned = pattern.is_none_or(|pattern| path.is_empty() || pattern.reaches_below(path));
                    if concerned && !is_hidden(path, pattern) {
                        return Err(error);
                    }
                }
            }
        }
        Ok(())
    }

    /// The files in their order, without the markers that some tools make for folders in object stores.
    async fn into_files(mut self, store: &Store) -> Result<Vec<InputFile>, StoreError> {
        self.files.sort_by(|a, b| a.path.cmp(&b.path));
        let mut files = Vec::with_capacity(self.files.len());
        for (index, meta) in self.files.iter().enumerate() {
            if meta.len == 0 && self.is_marker(store, index).await? {
                continue;
            }
            files.push(input_file(store.url(), meta.clone()));
        }
        Ok(files)
    }

    async fn is_marker(&self, store: &Store, index: usize) -> Result<bool, StoreError> {
        let path = self.files[index].path.as_str();
        let below = format!("{path}/");
        let first_below = self.files.partition_point(|other| other.path < below);
        if path.ends_with("_$folder$")
            || self.files.get(first_below).is_some_and(|other| other.path.starts_with(&below))
        {
            return Ok(true);
        }
        // The key of an empty folder's marker ends with a `/`, so there is no object of this path.
        match store.head(path).await {
            Ok(_) => Ok(false),
            Err(StoreError::NotFound { .. }) => Ok(true),
            Err(error) => Err(error),
        }
    }
}

/// Whether one of the segments is hidden and not named by the pattern itself.
fn is_hidden(path: &str, pattern: Option<&Pattern>) -> bool {
    path.split('/').enumerate().any(|(index, segment)| {
        let partition = segment.starts_with('_') && segment.contains('=');
        let hidden = segment.starts_with(['_', '.']) && !partition;
        let named = pattern.is_some_and(|pattern| pattern.names_hidden(index, segment));
        hidden && !named || segment.ends_with("._COPYING_")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_jobs_leave_beside_their_data_is_hidden() {
        for hidden in ["_SUCCESS", "a/_temporary/0/part-0", ".part-0.crc", "a/.hidden/x", "x.parquet._COPYING_"] {
            assert!(is_hidden(hidden, None), "{hidden}");
        }
        for data in ["part-0", "dt=1/part-0", "_year=2024/part-0", "a_b/c.d"] {
            assert!(!is_hidden(data, None), "{data}");
        }
    }
}
