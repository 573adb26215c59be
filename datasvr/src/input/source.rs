//! Sources: which URLs a task may name. Endpoints and credentials are the operator's; a task gives only where its
//! files lie.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use fkv_env::Env;
use fkv_store::inputs::{self, InputFile as Listed};
use fkv_store::path::check_prefix;
use fkv_store::{Store, StoreError, StoreOptions};

use super::file::InputFile;
use super::inflate::ExpansionLimits;

/// Which `file://` inputs tasks may name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum FileInputs {
    /// None.
    #[default]
    Refused,
    /// Those below these absolute directories.
    Below(Vec<String>),
    /// Any: for a cluster on one's own machine.
    Any,
}

/// Where tasks may read from.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// Which local files.
    pub files: FileInputs,
    /// How stores are opened.
    pub options: StoreOptions,
    /// How much a compressed file may expand to.
    pub expansion: ExpansionLimits,
}

/// An input that a task may not name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("input `{url}` is refused: {reason}")]
pub(crate) struct RefusedInput {
    /// What was given.
    pub(crate) url: String,
    /// Why, and what would do.
    pub(crate) reason: String,
}

/// Why inputs could not be found.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ResolveError {
    /// An input that a task may not name.
    #[error(transparent)]
    Refused(#[from] RefusedInput),
    /// The store of the input says no, or has no such files.
    #[error("{0}")]
    Store(#[from] StoreError),
    /// The load asks for complete folders, and one is not.
    #[error(
        "{folder} has no _SUCCESS file, nor has a folder above it: what writes it has not finished; submit the load again \
         when it has, or without require_success"
    )]
    Unfinished {
        /// URL of the folder.
        folder: String,
    },
}

impl Sources {
    /// Checks an input before anything is opened: a URL, or an absolute path, which is a `file://` URL. `output` is the
    /// URL of the store that versions are written to.
    ///
    /// # Errors
    /// [`RefusedInput`] says why.
    pub(crate) fn check(&self, url: &str, output: &str) -> Result<(), RefusedInput> {
        let refused = |reason: String| Err(RefusedInput { url: url.chars().take(300).collect(), reason });
        let whole = if url.starts_with('/') { format!("file://{url}") } else { url.to_owned() };
        let Some((scheme, rest)) = whole.split_once("://") else {
            return refused("it is not a URL: write file:///absolute/path or s3://bucket/path".into());
        };
        let authority = rest.split('/').next().unwrap_or_default();
        if authority.contains('@') {
            let reason = "credentials do not belong into a URL: they are configured at the DataSvr".into();
            return Err(RefusedInput { url: format!("{scheme}://…"), reason });
        }
        let path = match scheme {
            "file" => match rest.strip_prefix('/') {
                Some(path) => path,
                None => return refused("a file URL has three slashes and an absolute path: file:///data/in".into()),
            },
            "s3" => rest.split_once('/').map_or("", |(_, path)| path),
            _ => return refused(format!("`{scheme}` is not known: expected file or s3")),
        };
        if let Err(error) = check_prefix(path.strip_suffix('/').unwrap_or(path)) {
            return match error {
                StoreError::BadUrl { reason, .. } => refused(reason),
                other => refused(other.to_string()),
            };
        }
        if scheme == "file" {
            match &self.files {
                FileInputs::Refused => {
                    return refused(
                        "this DataSvr reads no local files: they are allowed with --allow-file-inputs".into(),
                    );
                }
                FileInputs::Below(roots) if !roots.iter().any(|root| is_below(rest, root)) => {
                    return refused(format!("local files are read only below {}", roots.join(", ")));
                }
                FileInputs::Below(_) | FileInputs::Any => {}
            }
        }
        if is_below(&whole, output) {
            return refused("it lies in the store that versions are written to".into());
        }
        Ok(())
    }

    /// The files that `urls` stand for, sorted by URL, each once.
    ///
    /// # Errors
    /// An input is refused or not complete, or a store says no or has no such files.
    pub(crate) async fn resolve(
        &self,
        env: &Env,
        urls: &[String],
        require_success: bool,
        output: &Store,
    ) -> Result<Vec<Listed>, ResolveError> {
        let mut files = Vec::new();
        for url in urls {
            self.check(url, output.url())?;
            let found = inputs::resolve(env, url, &self.options).await?;
            if require_success && let Some(folder) = found.unfinished().await? {
                return Err(ResolveError::Unfinished { folder });
            }
            files.extend(found.files);
        }
        files.sort_by_cached_key(Listed::url);
        files.dedup_by_key(|file| file.url());
        // A directory above the output store would list its objects.
        if let Some(file) = files.iter().find(|file| is_below(&file.url(), output.url())) {
            let reason = "it lies in the store that versions are written to".to_owned();
            return Err(RefusedInput { url: file.url(), reason }.into());
        }
        self.confine(env, &files, output.url()).await?;
        Ok(files)
    }

    /// Checks where local files really lie: a link below an allowed directory must not lead out of it, nor into the
    /// store that versions are written to.
    async fn confine(&self, env: &Env, files: &[Listed], output: &str) -> Result<(), ResolveError> {
        let local = |url: &str| url.strip_prefix("file://").map(str::to_owned);
        let paths: Vec<String> = files.iter().filter_map(|file| local(&file.url())).collect();
        if paths.is_empty() {
            return Ok(());
        }
        let (allowed, output, disk) = (self.files.clone(), local(output), Arc::clone(&env.files));
        let check = move || {
            // A directory that is not there, or not readable, holds nothing that could be read.
            let real = |path: &str| disk.canonicalize(Path::new(path)).ok();
            let roots: Option<Vec<PathBuf>> = match &allowed {
                FileInputs::Any => None,
                FileInputs::Refused => Some(Vec::new()),
                FileInputs::Below(roots) => Some(roots.iter().filter_map(|root| real(root)).collect()),
            };
            let output = output.as_deref().and_then(real);
            for path in paths {
                let refused = |reason: &str| Err(RefusedInput { url: format!("file://{path}"), reason: reason.into() });
                // A file that has gone since it was listed is missed when it is read.
                let Some(real) = real(&path) else { continue };
                if roots.as_ref().is_some_and(|roots| !roots.iter().any(|root| real.starts_with(root))) {
                    return refused("a link leads out of the directories that local files are read from");
                }
                if output.as_ref().is_some_and(|output| real.starts_with(output)) {
                    return refused("a link leads into the store that versions are written to");
                }
            }
            Ok(())
        };
        match env.blocking(check).await {
            Ok(checked) => Ok(checked?),
            Err(error) => Err(StoreError::Other { path: "file://".into(), reason: error.to_string() }.into()),
        }
    }

    /// The files of a frozen list, each with the store to read it from.
    ///
    /// # Errors
    /// A file is refused (the configuration has changed since), or a store cannot be opened.
    pub(crate) async fn open(
        &self,
        env: &Env,
        files: &[Listed],
        output: &Store,
    ) -> Result<Vec<InputFile>, ResolveError> {
        self.confine(env, files, output.url()).await?;
        let mut opened: Vec<InputFile> = Vec::with_capacity(files.len());
        let mut root: Option<(String, Store)> = None;
        for (at, file) in files.iter().enumerate() {
            let url = file.url();
            self.check(&url, output.url())?;
            let store = match &root {
                Some((url_root, store)) if *url_root == file.url_root => Store::clone(store),
                _ => {
                    let store = fkv_store::open(env, &file.url_root, &self.options)?;
                    root = Some((file.url_root.clone(), Store::clone(&store)));
                    store
                }
            };
            let (at, meta) = (u32::try_from(at).unwrap_or(u32::MAX), file.meta());
            opened.push(InputFile { at, url, store, meta, expansion: self.expansion });
        }
        Ok(opened)
    }
}

/// Whether `path` is `root` or lies below it, segment by segment.
fn is_below(path: &str, root: &str) -> bool {
    let root = root.trim_end_matches('/');
    path.strip_prefix(root).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(sources: &Sources, url: &str) -> String {
        sources.check(url, "file:///srv/fkv/store").expect_err(url).to_string()
    }

    #[test]
    fn what_a_task_may_not_read_is_refused_with_the_reason() {
        let closed = Sources::default();
        assert!(refusal(&closed, "file:///data/a.parquet").contains("--allow-file-inputs"));
        assert!(closed.check("s3://bucket/a", "file:///srv/fkv/store").is_ok());

        let below = Sources { files: FileInputs::Below(vec!["/data".into(), "/in/".into()]), ..Sources::default() };
        for url in ["file:///data/a.parquet", "file:///data", "file:///in/x/*.parquet", "/data/x"] {
            assert_eq!(below.check(url, "file:///srv/fkv/store"), Ok(()), "{url}");
        }
        for (url, named) in [
            ("file:///database/a", "only below /data, /in/"),
            ("file:///etc/passwd", "only below"),
            ("file:///data/../etc/passwd", "`..`"),
            ("file:///data/%2e%2e/etc", "%2E"),
            ("file:///data//a", "empty segment"),
            ("file:///data/a\\b", "backslash"),
            ("file:///data/\0", "NUL"),
            ("file://data/a", "three slashes"),
            ("/etc/passwd", "only below"),
            ("data/a.parquet", "not a URL"),
            ("http://host/a", "`http` is not known"),
        ] {
            assert!(refusal(&below, url).contains(named), "{url}: {}", refusal(&below, url));
        }
        let secret = refusal(&below, "s3://AKIA:hunter2@bucket/x");
        assert!(!secret.contains("hunter2"), "{secret}");
    }

    #[tokio::test]
    #[allow(clippy::disallowed_methods, reason = "the test lays out directories and links")]
    async fn a_link_leads_neither_out_of_the_allowed_directories_nor_into_the_output_store() {
        let env = Env::real(1).expect("threads start");
        let dir = tempfile::tempdir().expect("a temporary directory");
        let at = |name: &str| dir.path().join(name);
        for folder in ["allowed/own", "secret", "out/in"] {
            std::fs::create_dir_all(at(folder)).expect("made");
        }
        for file in ["allowed/own/a.parquet", "secret/a.parquet", "out/in/a.parquet"] {
            std::fs::write(at(file), b"x").expect("written");
        }
        for (link, target) in [("allowed/same", "allowed/own"), ("allowed/away", "secret"), ("allowed/back", "out")] {
            std::os::unix::fs::symlink(at(target), at(link)).expect("linked");
        }
        let url = |name: &str| format!("file://{}", at(name).display());
        let output = fkv_store::open(&env, &url("out"), &StoreOptions::default()).expect("opened");
        let below = FileInputs::Below(vec![at("allowed").display().to_string()]);
        let sources = Sources { files: below, ..Sources::default() };

        for name in ["allowed/own", "allowed/same", "allowed/own/a.parquet", "allowed/same/a.parquet"] {
            let found = sources.resolve(&env, &[url(name)], false, &output).await;
            assert_eq!(found.expect(name).len(), 1, "{name}");
        }
        for name in ["allowed/away", "allowed/away/a.parquet", "allowed/back/in", "allowed/back/in/a.parquet"] {
            let refused = sources.resolve(&env, &[url(name)], false, &output).await.expect_err(name);
            assert!(matches!(refused, ResolveError::Refused(_)), "{name}: {refused}");
        }
        let any = Sources { files: FileInputs::Any, ..Sources::default() };
        let refused = any.resolve(&env, &[url("allowed/back/in")], false, &output).await.expect_err("the output store");
        assert!(refused.to_string().contains("versions are written to"), "{refused}");
    }

    #[test]
    fn the_output_store_is_no_source() {
        let any = Sources { files: FileInputs::Any, ..Sources::default() };
        assert!(refusal(&any, "file:///srv/fkv/store/tables/1/x").contains("versions are written to"));
        assert!(refusal(&any, "file:///srv/fkv/store").contains("versions are written to"));
        assert!(any.check("file:///srv/fkv/store2/x", "file:///srv/fkv/store").is_ok());
    }
}
