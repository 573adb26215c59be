//! Paths of objects below a store's root, and the rules they keep.
//!
//! ```text
//!   s3://bucket/prefix  /  tables/7/packs/0001
//!   ╰── root (URL) ──╯     ╰── path: segments joined by one `/`, none before, none after ──╯
//! ```
//!
//! A path is taken as it is written: nothing is decoded, normalised or resolved on the way. What could mean
//! something else to a file system, to a gateway or to a log line is refused instead of repaired.

use crate::error::StoreError;

/// Most bytes a path, with the prefix of its store, may have; the limit of S3.
pub const PATH_BYTES_MAX: usize = 1024;

/// The folder at the root of a file store that holds unfinished files. No path may enter it.
pub(crate) const TEMPORARY_DIR: &str = ".fkv-tmp";

/// Refuses a path that is not made of plain segments.
///
/// # Errors
/// `BadUrl`, naming what is wrong.
pub fn check_path(path: &str) -> Result<(), StoreError> {
    complaint(path).map_or(Ok(()), |reason| Err(StoreError::BadUrl { url: printable(path), reason }))
}

/// As [`check_path`], but the empty path (everything below the root) is fine.
///
/// # Errors
/// `BadUrl`, naming what is wrong.
pub fn check_prefix(prefix: &str) -> Result<(), StoreError> {
    if prefix.is_empty() { Ok(()) } else { check_path(prefix) }
}

/// What is wrong with `path`, if anything.
pub(crate) fn complaint(path: &str) -> Option<String> {
    if path.is_empty() {
        return Some("the path is empty".into());
    }
    if path.len() > PATH_BYTES_MAX {
        return Some(format!("the path has {} bytes, at most {PATH_BYTES_MAX} are possible", path.len()));
    }
    if path.starts_with('/') {
        return Some("the path begins with `/`; paths are relative to the root of their store".into());
    }
    let mut segments = path.split('/');
    if let Some(reason) = segments.by_ref().find_map(segment_complaint) {
        return Some(reason);
    }
    if path.split('/').next() == Some(TEMPORARY_DIR) {
        return Some(format!("`{TEMPORARY_DIR}` is kept for unfinished files"));
    }
    None
}

/// What is wrong with one segment, if anything.
pub(crate) fn segment_complaint(segment: &str) -> Option<String> {
    match segment {
        "" => return Some("there is an empty segment (two `/` in a row, or one at the end)".into()),
        "." | ".." => return Some(format!("the segment `{segment}` is not allowed")),
        _ => {}
    }
    if let Some(bad) = segment.chars().find(|c| c.is_control()) {
        let name = if bad == '\0' { "NUL".into() } else { format!("U+{:04X}", u32::from(bad)) };
        return Some(format!("the control character {name} is not allowed"));
    }
    if segment.contains('\\') {
        return Some("a backslash is not allowed; segments are separated by `/`".into());
    }
    encoded_complaint(segment)
}

/// Refuses percent-encoded forms of what is refused in the clear: `.` `/` `\` `%` and control characters. Other
/// escapes stand in real names (Spark writes `hour=00%3A00`) and mean nothing but themselves here.
fn encoded_complaint(segment: &str) -> Option<String> {
    let bytes = segment.as_bytes();
    let hex = |at: usize| bytes.get(at).and_then(|&byte| char::from(byte).to_digit(16));
    for (at, _) in bytes.iter().enumerate().filter(|&(_, &byte)| byte == b'%') {
        let (Some(high), Some(low)) = (hex(at + 1), hex(at + 2)) else { continue };
        let decoded = high * 16 + low;
        if decoded < 0x20 || matches!(decoded, 0x25 | 0x2e | 0x2f | 0x5c | 0x7f) {
            return Some(format!(
                "the percent-encoded form `%{high:X}{low:X}` is not allowed; names are taken as they are written"
            ));
        }
    }
    None
}

/// `text` fit for a message: control characters escaped, a sane length.
pub(crate) fn printable(text: &str) -> String {
    const SHOWN: usize = 300;
    let mut shown: String = text.chars().take(SHOWN).flat_map(escape_control).collect();
    if text.chars().nth(SHOWN).is_some() {
        shown.push('…');
    }
    shown
}

fn escape_control(c: char) -> impl Iterator<Item = char> {
    let escaped: Vec<char> = if c.is_control() { c.escape_default().collect() } else { vec![c] };
    escaped.into_iter()
}

/// `path` below the folder `prefix`, both as the store's URL has them.
pub(crate) fn join(prefix: &str, path: &str) -> String {
    match (prefix.is_empty(), path.is_empty()) {
        (true, _) => path.to_owned(),
        (_, true) => prefix.to_owned(),
        _ => format!("{prefix}/{path}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_could_leave_the_root_or_mean_two_things_is_refused_by_name() {
        let long = "a/".repeat(600);
        for (path, named) in [
            ("", "empty"),
            ("/abs", "begins with `/`"),
            ("a/../b", "`..`"),
            ("..", "`..`"),
            ("a/./b", "`.`"),
            ("a//b", "empty segment"),
            ("a/", "empty segment"),
            ("a\0b", "NUL"),
            ("a\nb", "U+000A"),
            ("a\u{7f}", "U+007F"),
            ("a\\b", "backslash"),
            ("a/%2e%2e/b", "`%2E`"),
            ("a/%2E./b", "`%2E`"),
            ("a%2fb", "`%2F`"),
            ("a%5Cb", "`%5C`"),
            ("a%00b", "`%00`"),
            ("a%252e", "`%25`"),
            (".fkv-tmp/x", "unfinished"),
            (&long, "1200 bytes"),
        ] {
            let error = check_path(path).expect_err(path);
            assert!(matches!(error, StoreError::BadUrl { .. }), "{path:?}: {error}");
            assert!(error.to_string().contains(named), "{path:?}: {error}");
            assert!(!error.to_string().chars().any(char::is_control), "{path:?}");
        }
    }

    #[test]
    fn names_that_real_jobs_write_are_fine() {
        for path in [
            "a",
            "dt=2024-01-01/part-00000-c000.snappy.parquet",
            "hour=2024-01-01 00%3A00%3A00/x",
            "100%/é/日本",
            "%zz",
            "...",
            "a..b",
            "_x/.y",
            "x/.fkv-tmp",
        ] {
            check_path(path).expect(path);
        }
        check_prefix("").expect("everything");
        assert!(check_prefix("a/").is_err());
    }

    #[test]
    fn joining_never_makes_a_stray_separator() {
        assert_eq!(join("", "a/b"), "a/b");
        assert_eq!(join("p", ""), "p");
        assert_eq!(join("p/q", "a"), "p/q/a");
    }
}
