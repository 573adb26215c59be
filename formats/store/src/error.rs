//! What can go wrong with an object store, in terms of what the caller can do.

/// An error of an object store. Messages name the store and the path.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// There is no such object.
    #[error("{path}: not found")]
    NotFound {
        /// URL of the object.
        path: String,
    },
    /// The credentials do not allow it.
    #[error("{path}: access denied: {reason}")]
    Denied {
        /// URL of the object.
        path: String,
        /// What the store said.
        reason: String,
    },
    /// The object exists already and must not be overwritten.
    #[error("{path}: exists already")]
    Exists {
        /// URL of the object.
        path: String,
    },
    /// The object is no longer the one that was asked for (ETag, length or time changed).
    #[error("{path}: changed: {reason}")]
    Changed {
        /// URL of the object.
        path: String,
        /// What differs.
        reason: String,
    },
    /// The store did not answer, or not in time; the same call may go through later.
    #[error("{path}: the store is unavailable: {reason}")]
    Unavailable {
        /// URL of the object.
        path: String,
        /// What happened.
        reason: String,
    },
    /// The URL or path cannot be used.
    #[error("`{url}` cannot be used: {reason}")]
    BadUrl {
        /// What was given.
        url: String,
        /// What is wrong with it and what is expected.
        reason: String,
    },
    /// An input stands for no file at all.
    #[error("`{url}` stands for no file: {reason}")]
    NoFiles {
        /// What was given: a file, a folder or a pattern.
        url: String,
        /// What was looked for.
        reason: String,
    },
    /// Anything else the store said.
    #[error("{path}: {reason}")]
    Other {
        /// URL of the object.
        path: String,
        /// What the store said.
        reason: String,
    },
}

impl StoreError {
    /// The URL of what the error is about.
    #[must_use]
    pub fn path(&self) -> &str {
        match self {
            Self::NotFound { path }
            | Self::Denied { path, .. }
            | Self::Exists { path }
            | Self::Changed { path, .. }
            | Self::Unavailable { path, .. }
            | Self::Other { path, .. } => path,
            Self::BadUrl { url, .. } | Self::NoFiles { url, .. } => url,
        }
    }

    /// Whether the same call may go through later.
    #[must_use]
    pub const fn is_transient(&self) -> bool {
        matches!(self, Self::Unavailable { .. })
    }
}
