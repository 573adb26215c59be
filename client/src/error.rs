//! Why a call failed. The kinds are few; each says what to do about it.

use std::time::Duration;

use fkv_formats::schema::KeyType;

/// Why a call failed. Nothing of it was answered.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ClientError {
    /// No server knows the table. Check its name, or create it.
    #[error("there is no table `{table}`; check the name, or create the table first")]
    UnknownTable {
        /// The name asked for.
        table: String,
    },
    /// The keys given are of the other type.
    #[error("the keys of table `{table}` are of type {declared}; ask with keys of that type")]
    WrongKeyType {
        /// The table.
        table: String,
        /// The type its keys have.
        declared: KeyType,
    },
    /// The call is larger than the limits allow. Ask for less at a time.
    #[error("{0}; ask for less at a time")]
    BatchTooLarge(String),
    /// No content could be had for all keys. Transient while servers are restarting or cut off: try again later. If
    /// a version was pinned: it is no longer held, so pin a newer one.
    #[error("table `{table}` has no version that can be had for all keys ({reason})")]
    NoCommonVersion {
        /// The table.
        table: String,
        /// What stood in the way.
        reason: String,
    },
    /// The table exists, but no sect has it loaded. Wait until its first version is shown.
    #[error("table `{table}` is not loaded ({reason}); wait until a version of it is shown")]
    NotLoaded {
        /// The table.
        table: String,
        /// What the servers said.
        reason: String,
    },
    /// Servers that are needed cannot be reached, or fail. Try again later.
    #[error("{0}; try again later")]
    Unavailable(String),
    /// The deadline passed first. Allow more time, or ask for less.
    #[error("the call was not done within {} ms; allow more time or ask for less", .0.as_millis())]
    DeadlineExceeded(Duration),
    /// The call makes no sense; the message says what to change.
    #[error("{0}")]
    BadRequest(String),
}

impl ClientError {
    /// Whether the same call may succeed later without anybody changing it.
    #[must_use]
    pub const fn is_transient(&self) -> bool {
        match self {
            Self::NoCommonVersion { .. } | Self::NotLoaded { .. } | Self::Unavailable(_) => true,
            Self::DeadlineExceeded(_) => true,
            Self::UnknownTable { .. } | Self::WrongKeyType { .. } => false,
            Self::BatchTooLarge(_) | Self::BadRequest(_) => false,
        }
    }
}
