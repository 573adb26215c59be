//! Patterns over paths: `*` and `?` within a segment, `**` across segments, `[a-z]`, `{a,b}`.

use globset::{GlobBuilder, GlobMatcher};

use crate::path::{PATH_BYTES_MAX, segment_complaint};

/// The characters that make a segment a pattern.
const SPECIAL: [char; 4] = ['*', '?', '[', '{'];

/// A pattern over the paths below some folder.
#[derive(Debug)]
pub(super) struct Pattern {
    matcher: GlobMatcher,
    segments: Vec<String>,
    /// It ends with `/`: only folders match, and stand for the files below.
    folders_only: bool,
}

/// `path` up to its first segment with a special character, and the rest from there on.
pub(super) fn split(path: &str) -> (&str, Option<&str>) {
    let Some(special) = path.find(SPECIAL) else { return (path, None) };
    match path[..special].rfind('/') {
        Some(slash) => (&path[..slash], Some(&path[slash + 1..])),
        None => ("", Some(path)),
    }
}

impl Pattern {
    /// # Errors
    /// What is wrong with it.
    pub(super) fn new(text: &str) -> Result<Self, String> {
        if text.len() > PATH_BYTES_MAX {
            return Err(format!("the pattern has {} bytes, at most {PATH_BYTES_MAX} are possible", text.len()));
        }
        let (text, folders_only) = text.strip_suffix('/').map_or((text, false), |folders| (folders, true));
        if let Some(reason) = text.split('/').find_map(segment_complaint) {
            return Err(reason);
        }
        let glob = GlobBuilder::new(text).literal_separator(true).backslash_escape(false).build();
        let matcher = glob.map_err(|error| error.kind().to_string())?.compile_matcher();
        Ok(Self { matcher, segments: text.split('/').map(str::to_owned).collect(), folders_only })
    }

    /// Whether `path`, or a folder on the way to it, is what the pattern stands for.
    pub(super) fn matches(&self, path: &str) -> bool {
        let folders = path.match_indices('/').map(|(slash, _)| &path[..slash]);
        folders.into_iter().any(|folder| self.matcher.is_match(folder))
            || !self.folders_only && self.matcher.is_match(path)
    }

    /// Whether something below the folder `path` might match.
    pub(super) fn reaches_below(&self, path: &str) -> bool {
        let depth = path.split('/').count();
        self.matches(path) || self.folders_only || depth < self.segments.len() || !self.is_positional(depth)
    }

    /// Whether the pattern itself names the hidden segment number `index`, as `_delta/*` does: it begins with the
    /// same character.
    pub(super) fn names_hidden(&self, index: usize, segment: &str) -> bool {
        let first = |text: &str| text.chars().next();
        self.is_positional(index) && self.segments.get(index).is_some_and(|named| first(named) == first(segment))
    }

    /// Whether the first `count` segments of the pattern stand for one segment of a path each.
    fn is_positional(&self, count: usize) -> bool {
        let balanced = |segment: &String| segment.matches('{').count() == segment.matches('}').count();
        self.segments.iter().take(count).all(|segment| !segment.contains("**") && balanced(segment))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(pattern: &str, path: &str) -> bool {
        Pattern::new(pattern).expect(pattern).matches(path)
    }

    #[test]
    fn the_part_without_special_characters_is_the_folder_to_list() {
        for (path, folder, pattern) in [
            ("a/b/c", "a/b/c", None),
            ("a/b/*.parquet", "a/b", Some("*.parquet")),
            ("a/x-?/c/*", "a", Some("x-?/c/*")),
            ("*", "", Some("*")),
            ("a/{x/y,z}/b", "a", Some("{x/y,z}/b")),
            ("[ab]/c", "", Some("[ab]/c")),
        ] {
            assert_eq!(split(path), (folder, pattern), "{path}");
        }
    }

    #[test]
    fn a_star_stays_within_its_segment() {
        assert!(matches("*.parquet", "x.parquet"));
        assert!(!matches("*.parquet", "d/x.parquet"));
        assert!(!matches("a*c", "a/c"));
        assert!(!matches("a?c", "a/c"));
        assert!(matches("**/*.parquet", "d/e/x.parquet"));
        assert!(matches("part-[0-9]?.{csv,tsv}", "part-07.tsv"));
        assert!(!matches("part-[0-9]?.{csv,tsv}", "part-x7.tsv"));
        assert!(matches("{x/a,y}/f", "x/a/f") && matches("{x/a,y}/f", "y/f"));
    }

    #[test]
    fn a_matching_folder_stands_for_the_files_below() {
        assert!(matches("dt=*", "dt=2024-01-01/part-0"));
        assert!(matches("dt=*", "dt=2024-01-01/h=1/part-0"));
        assert!(!matches("dt=*", "x/dt=2024-01-01/part-0"));
        assert!(matches("dt=*/", "dt=2024-01-01/part-0"));
        assert!(!matches("dt=*/", "dt=loose-file"));
    }

    #[test]
    fn a_pattern_that_is_none_says_why() {
        for (pattern, named) in [
            ("a[", "character class"),
            ("{a,b", "alternat"),
            ("*/../x", "`..`"),
            ("*//x", "empty segment"),
            ("*\\x", "backslash"),
            ("*/%2e%2e", "`%2E`"),
        ] {
            let error = Pattern::new(pattern).expect_err(pattern);
            assert!(error.contains(named), "{pattern}: {error}");
        }
    }

    #[test]
    fn a_pattern_reaches_as_deep_as_it_has_segments() {
        let flat = Pattern::new("*.parquet").expect("a pattern");
        assert!(!flat.reaches_below("private"));
        let deep = Pattern::new("*/*.parquet").expect("a pattern");
        assert!(deep.reaches_below("private") && !deep.reaches_below("a/b"));
        assert!(Pattern::new("**/x").expect("a pattern").reaches_below("a/b/c"));
        assert!(Pattern::new("a*").expect("a pattern").reaches_below("ab/c"));
    }

    #[test]
    fn a_hidden_name_counts_only_where_the_pattern_spells_it() {
        let named = Pattern::new("_delta/*").expect("a pattern");
        assert!(named.names_hidden(0, "_delta") && !named.names_hidden(1, "_x") && !named.names_hidden(0, ".d"));
        assert!(!Pattern::new("**/_x").expect("a pattern").names_hidden(1, "_x"));
    }
}
