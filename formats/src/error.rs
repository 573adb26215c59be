//! What can go wrong: bytes that cannot be read, and records that a builder refuses.

use std::io;

/// Stored bytes that cannot be used. The bytes are at fault, never the reader's caller: fetch them again, from
/// elsewhere if need be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FormatError {
    /// The bytes end too early.
    #[error("the {what} is cut short: {needed} bytes are needed, {found} are there")]
    Truncated {
        /// What was being read.
        what: &'static str,
        /// Bytes needed.
        needed: u64,
        /// Bytes there.
        found: u64,
    },
    /// These are not the bytes of such a file.
    #[error("this is not a {what}: its magic number is missing")]
    Magic {
        /// What it should be.
        what: &'static str,
    },
    /// The bytes have a format version that this build does not know.
    #[error("the {what} has format version {found}, this build reads {known}: {}", remedy(*found, *known))]
    Version {
        /// What was being read.
        what: &'static str,
        /// The version found.
        found: u32,
        /// The version this build reads.
        known: u32,
    },
    /// The bytes are not those that were written there.
    #[error("the checksum of the {what} does not match")]
    Checksum {
        /// What was being read, with its place.
        what: String,
    },
    /// A field contradicts the format or another field.
    #[error("the {what} is damaged: {reason}")]
    Damaged {
        /// What was being read.
        what: &'static str,
        /// What is wrong.
        reason: String,
    },
    /// The bytes are sound, but of another table, version or schema than expected.
    #[error("the {what} belongs elsewhere: {reason}")]
    Foreign {
        /// What was being read.
        what: &'static str,
        /// What differs.
        reason: String,
    },
}

impl FormatError {
    pub(crate) fn damaged(what: &'static str, reason: impl Into<String>) -> Self {
        Self::Damaged { what, reason: reason.into() }
    }

    /// Whether a newer build of this program could read the bytes: they are sound, but newer.
    #[must_use]
    pub const fn is_newer_format(&self) -> bool {
        matches!(self, Self::Version { found, known, .. } if *found > *known)
    }
}

/// What to do about bytes of a version that is not read.
const fn remedy(found: u32, known: u32) -> &'static str {
    if found > known {
        "a newer build wrote it, use that one"
    } else {
        "it is from before the formats were frozen, load the table again"
    }
}

/// What a builder refuses.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// Records must come in strictly ascending order of `(h, key)`.
    #[error("record {index} is not above the one before it in the order of (hash, key)")]
    OutOfOrder {
        /// Number of the record within its part, from 0.
        index: u64,
    },
    /// A record of another part.
    #[error("record {index} belongs to part {found}, not to part {part}")]
    WrongPart {
        /// Number of the record within its part, from 0.
        index: u64,
        /// The part being built.
        part: u16,
        /// The record's part.
        found: u16,
    },
    /// The record does not fit the schema or a limit.
    #[error("record {index} cannot be stored: {reason}")]
    Unfit {
        /// Number of the record within its part, from 0.
        index: u64,
        /// What is wrong with it.
        reason: String,
    },
    /// More or fewer records than were announced.
    #[error("{announced} records were announced, {found} came")]
    Count {
        /// The exact count given beforehand.
        announced: u64,
        /// The records that came.
        found: u64,
    },
    /// A record would lie farther from its home line than the geometry allows: start again with the next geometry.
    #[error("the keys of this part cluster too much for its geometry: build it again with the next one")]
    Displaced,
    /// The parts of a pack must come in ascending order, each once, each finished.
    #[error("part {part} cannot follow in this pack: {reason}")]
    PartOrder {
        /// The part.
        part: u16,
        /// What is wrong.
        reason: &'static str,
    },
    /// A limit of the format.
    #[error("{0}")]
    Limit(String),
    /// The output could not be written.
    #[error("writing failed: {0}")]
    Io(#[from] io::Error),
}
