//! A vector in one cell: `[0.5, 1, null]`, `0.5;1;2`, `0.5 1 2`, `{0.5,1}`.
//!
//! Elements are separated by `,`, `;` or `|`, with or without blanks around it, or by blanks alone. Brackets around all of
//! them may be left out. An element that is empty or `null` is null; quotes around an element do not matter, so that the
//! `"NaN"` of JSON is read.

use super::super::bad::Reason;
use super::cell::{not_a_number, too_large};
use super::number::{NoNumber, float};

/// The vector of a cell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// The cell is blank.
    Nothing,
    /// So many elements, of which no more than the dimension were kept.
    Elements(usize),
}

const fn is_separator(byte: u8) -> bool {
    matches!(byte, b',' | b';' | b'|')
}

/// Reads a vector into `numbers`, and the places of its null elements (0 in `numbers`) into `nulls`. Of a vector with
/// more than `dimension` elements the others are only counted.
pub(crate) fn vector(
    text: &[u8],
    dimension: usize,
    numbers: &mut Vec<f32>,
    nulls: &mut Vec<usize>,
) -> Result<Found, Reason> {
    numbers.clear();
    nulls.clear();
    let text = text.trim_ascii();
    let mut rest = match text {
        [] => return Ok(Found::Nothing),
        [b'[', inner @ .., b']'] | [b'{', inner @ .., b'}'] => inner.trim_ascii(),
        [b'[' | b'{', ..] => return Err(not_a_number(text)),
        bare => bare,
    };
    let mut count = 0;
    if rest.is_empty() {
        return Ok(Found::Elements(0));
    }
    loop {
        let end = rest.iter().position(|byte| is_separator(*byte) || byte.is_ascii_whitespace()).unwrap_or(rest.len());
        if count < dimension {
            match element(&rest[..end])? {
                Some(number) => numbers.push(number),
                None => {
                    nulls.push(count);
                    numbers.push(0.0);
                }
            }
        }
        count += 1;
        rest = rest[end..].trim_ascii_start();
        match rest {
            [] => return Ok(Found::Elements(count)),
            [separator, after @ ..] if is_separator(*separator) => rest = after.trim_ascii_start(),
            // Blanks alone have separated this element from the next one.
            _ => {}
        }
    }
}

fn element(text: &[u8]) -> Result<Option<f32>, Reason> {
    let bare = match text {
        [b'"', inner @ .., b'"'] => inner,
        bare => bare,
    };
    match float(bare) {
        Ok(number) => Ok(number),
        Err(NoNumber::TooLarge) => Err(too_large(bare)),
        Err(NoNumber::Malformed) if bare == b"null" || bare == b"\\N" => Ok(None),
        Err(NoNumber::Malformed) => Err(not_a_number(bare)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str, dimension: usize) -> Result<(Found, Vec<f32>, Vec<usize>), Reason> {
        let (mut numbers, mut nulls) = (vec![9.0], vec![9]);
        let found = vector(text.as_bytes(), dimension, &mut numbers, &mut nulls)?;
        Ok((found, numbers, nulls))
    }

    #[test]
    fn every_way_to_write_a_vector_gives_the_same_one() {
        for text in [
            "[1, 2.5, -3e2]",
            "[1,2.5,-3e2]",
            "{1,2.5,-3e2}",
            "1;2.5;-3e2",
            "1|2.5|-3e2",
            "1 2.5 -3e2",
            " [ 1.   2.5\n -300.0 ] ",
            "1 , 2.5 , -3e2",
            "[\"1\", \"2.5\", \"-3e2\"]",
        ] {
            assert_eq!(read(text, 3), Ok((Found::Elements(3), vec![1.0, 2.5, -300.0], vec![])), "{text}");
        }
        assert_eq!(read("7", 1), Ok((Found::Elements(1), vec![7.0], vec![])));
    }

    #[test]
    fn null_elements_are_told_from_no_vector_and_from_no_elements() {
        assert_eq!(read("[1, null]", 2), Ok((Found::Elements(2), vec![1.0, 0.0], vec![1])));
        assert_eq!(read(",1", 2), Ok((Found::Elements(2), vec![0.0, 1.0], vec![0])));
        assert_eq!(read("1;", 2), Ok((Found::Elements(2), vec![1.0, 0.0], vec![1])));
        assert_eq!(read("  ", 2).map(|read| read.0), Ok(Found::Nothing));
        assert_eq!(read("[]", 2).map(|read| read.0), Ok(Found::Elements(0)));
        assert!(matches!(read("[\"NaN\"]", 1), Ok((_, numbers, _)) if numbers[0].is_nan()));
    }

    #[test]
    fn elements_beyond_the_dimension_are_counted_not_kept() {
        let long = "1,".repeat(100_000) + "2";
        let (found, numbers, _) = read(&long, 3).expect("numbers");
        assert_eq!((found, numbers.len()), (Found::Elements(100_001), 3));
    }

    #[test]
    fn what_is_no_vector_is_shown() {
        for (text, named) in
            [("[1, x]", "`x`"), ("[1, 2", "`[1, 2`"), ("[[1, 2]]", "`[1`"), ("1e99", "1e99 does not fit")]
        {
            let reason = read(text, 2).expect_err(text).to_string();
            assert!(reason.contains(named), "{text}: {reason}");
        }
    }
}
