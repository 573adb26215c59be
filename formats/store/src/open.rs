//! From a URL to a store.

use fkv_env::Env;

use crate::error::StoreError;
use crate::file::FileStore;
use crate::object::Store;
use crate::options::StoreOptions;
use crate::path::{PATH_BYTES_MAX, printable, segment_complaint};
use crate::s3::S3Store;

/// The schemes [`open`] knows, as messages show them.
const KNOWN_SCHEMES: &str = "file:///absolute/directory, s3://bucket/prefix";

/// A store's URL, taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum StoreUrl {
    /// `file:///dir`: an absolute directory, without a `/` at the end (but the root directory is `/`).
    File { dir: String },
    /// `s3://bucket/prefix`; the prefix may be empty.
    S3 { bucket: String, prefix: String },
}

impl StoreUrl {
    /// Takes `url` apart as it is written; nothing is decoded or normalised, but one `/` at the end is dropped.
    ///
    /// # Errors
    /// `BadUrl`, naming what is wrong. User names and passwords in a URL are refused and not repeated.
    pub(crate) fn parse(url: &str) -> Result<Self, StoreError> {
        let (scheme, rest) = split_scheme(url)?;
        let bad = |reason: String| StoreError::BadUrl { url: printable(url), reason };
        match scheme {
            "file" => {
                let dir = rest.strip_prefix('/').ok_or_else(|| {
                    bad("a file URL has three slashes and an absolute directory, as in file:///srv/data".into())
                })?;
                let dir = dir.strip_suffix('/').unwrap_or(dir);
                check_segments(dir).map_err(bad)?;
                Ok(Self::File { dir: format!("/{dir}") })
            }
            "s3" => {
                let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
                let prefix = prefix.strip_suffix('/').unwrap_or(prefix);
                check_bucket(bucket).map_err(bad)?;
                check_segments(prefix).map_err(bad)?;
                Ok(Self::S3 { bucket: bucket.into(), prefix: prefix.into() })
            }
            // Where further stores join: hdfs:// and others, through opendal.
            _ => Err(bad(format!("the scheme `{}` is not known; known are {KNOWN_SCHEMES}", printable(scheme)))),
        }
    }
}

impl std::fmt::Display for StoreUrl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::File { dir } => write!(f, "file://{dir}"),
            Self::S3 { bucket, prefix } if prefix.is_empty() => write!(f, "s3://{bucket}"),
            Self::S3 { bucket, prefix } => write!(f, "s3://{bucket}/{prefix}"),
        }
    }
}

/// Opens the store at `url`: `file:///absolute/directory` or `s3://bucket/prefix`. Nothing is read or written yet, so
/// a store that cannot be reached shows at the first call.
///
/// # Errors
/// `BadUrl`, naming what is wrong with the URL or the options.
pub fn open(env: &Env, url: &str, options: &StoreOptions) -> Result<Store, StoreError> {
    let url = StoreUrl::parse(url)?;
    let text = url.to_string();
    match url {
        StoreUrl::File { dir } => Ok(FileStore::open(env, text, &dir)),
        StoreUrl::S3 { bucket, prefix } => S3Store::open(env, text, &bucket, prefix, options),
    }
}

/// `url` as scheme and what follows `://`.
pub(crate) fn split_scheme(url: &str) -> Result<(&str, &str), StoreError> {
    let Some((scheme, rest)) = url.split_once("://") else {
        let reason = format!("it is not a URL; known are {KNOWN_SCHEMES}");
        return Err(StoreError::BadUrl { url: printable(url), reason });
    };
    let authority = rest.split('/').next().unwrap_or_default();
    if authority.contains('@') {
        // What stands before the @ may be a password: it must not reach a message.
        let url = format!("{}://…", printable(scheme));
        let reason = "user names and passwords do not belong into a URL; give keys as options or in the environment";
        return Err(StoreError::BadUrl { url, reason: reason.into() });
    }
    Ok((scheme, rest))
}

fn check_segments(path: &str) -> Result<(), String> {
    if path.is_empty() {
        return Ok(());
    }
    if path.len() > PATH_BYTES_MAX {
        return Err(format!("the path has {} bytes, at most {PATH_BYTES_MAX} are possible", path.len()));
    }
    path.split('/').find_map(segment_complaint).map_or(Ok(()), Err)
}

/// Bucket names as S3 has them, with the dots and underscores that older buckets and other services allow.
fn check_bucket(bucket: &str) -> Result<(), String> {
    if bucket.is_empty() {
        return Err("the bucket is missing, as in s3://bucket/prefix".into());
    }
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let ends_plain = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
    let whole =
        bucket.chars().all(plain) && ends_plain(bucket.chars().next()) && ends_plain(bucket.chars().next_back());
    if !whole || bucket.contains("..") || !(3..=255).contains(&bucket.len()) {
        return Err(format!(
            "`{}` is no bucket name: 3 or more letters, digits and `-`, beginning and ending with a letter or digit",
            printable(bucket)
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_urls_are_taken_apart_as_written() {
        for (url, shown) in [
            ("file:///srv/data", "file:///srv/data"),
            ("file:///srv/data/", "file:///srv/data"),
            ("file:///srv/a b/100%", "file:///srv/a b/100%"),
            ("file:///", "file:///"),
            ("s3://bucket", "s3://bucket"),
            ("s3://bucket/", "s3://bucket"),
            ("s3://my.bucket-1/a/b/", "s3://my.bucket-1/a/b"),
            ("s3://bucket/a?b#c", "s3://bucket/a?b#c"),
        ] {
            assert_eq!(StoreUrl::parse(url).expect(url).to_string(), shown);
        }
    }

    #[test]
    fn a_url_that_cannot_be_used_says_what_is_wrong() {
        for (url, named) in [
            ("/srv/data", "not a URL"),
            ("srv", "file:///absolute/directory"),
            ("hdfs://name/x", "known are file:///absolute/directory, s3://bucket/prefix"),
            ("FILE:///x", "`FILE`"),
            ("file://srv/data", "three slashes"),
            ("file:///srv/../etc", "`..`"),
            ("file:///srv/./x", "`.`"),
            ("file:///srv//x", "empty segment"),
            ("file:///srv//", "empty segment"),
            ("file:///srv/%2e%2e/etc", "`%2E`"),
            ("file:///srv\\x", "backslash"),
            ("file:///srv/\0", "NUL"),
            ("s3://", "bucket is missing"),
            ("s3:///prefix", "bucket is missing"),
            ("s3://b", "no bucket name"),
            ("s3://bucket..x/y", "no bucket name"),
            ("s3://-bucket/y", "no bucket name"),
            ("s3://bucket:9000/y", "no bucket name"),
            ("s3://bucket/../other", "`..`"),
            ("s3://bucket//x", "empty segment"),
        ] {
            let error = StoreUrl::parse(url).expect_err(url);
            assert!(matches!(error, StoreError::BadUrl { .. }), "{url}: {error}");
            assert!(error.to_string().contains(named), "{url}: {error}");
        }
    }

    #[test]
    fn a_password_in_a_url_is_refused_and_not_repeated() {
        let error = StoreUrl::parse("s3://AKIA:hunter2@bucket/x").expect_err("credentials in a URL");
        let shown = format!("{error} {error:?}");
        assert!(!shown.contains("hunter2") && !shown.contains("AKIA"), "{shown}");
    }
}
