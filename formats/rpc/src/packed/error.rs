//! Why a packed body was refused.

use super::layout::{FORMAT, KEYS_MAX, SECTIONS_MAX};

/// What is wrong with a packed body. None of these can come from a correct peer of the same format version.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PackedError {
    /// The body is longer than allowed.
    #[error("the body has {bytes} bytes; at most {max} are allowed")]
    TooLong {
        /// Its length.
        bytes: usize,
        /// The limit.
        max: usize,
    },
    /// The body ends too early.
    #[error("the body ends within {what}: {needed} bytes needed, {left} left")]
    Truncated {
        /// What was being read.
        what: &'static str,
        /// Bytes it takes.
        needed: usize,
        /// Bytes there were.
        left: usize,
    },
    /// The body does not begin as such a body does.
    #[error("not a packed body: it begins with {0:02x?}")]
    Magic([u8; 4]),
    /// The body is of a format version this build does not know.
    #[error("format version {0} is unknown; this build reads version {FORMAT}")]
    Format(u16),
    /// Too many sections, or none.
    #[error("{0} sections; 1 to {SECTIONS_MAX} are allowed")]
    Sections(usize),
    /// Too many keys.
    #[error("{0} keys; at most {KEYS_MAX} are allowed in one body")]
    Keys(usize),
    /// A key is too long.
    #[error("a key has {bytes} bytes; at most {max} are allowed")]
    KeyTooLong {
        /// Its length.
        bytes: usize,
        /// The limit.
        max: usize,
    },
    /// A field has a value that has no meaning.
    #[error("{what} has the value {value}, which has no meaning")]
    Unknown {
        /// The field.
        what: &'static str,
        /// What stands there.
        value: u64,
    },
    /// Reserved bits, bytes or padding are not zero.
    #[error("{0} must be zero")]
    NotZero(&'static str),
    /// Offsets go backwards or beyond what they point into.
    #[error("{0}: offsets must not decrease and must end at the end of the bytes")]
    Offsets(&'static str),
    /// Two fields contradict each other.
    #[error("{0}")]
    Contradiction(&'static str),
    /// Bytes follow the last section.
    #[error("{0} bytes follow the last section")]
    Trailing(usize),
}
