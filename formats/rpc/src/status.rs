//! What a failed call means. A [`Failure`] travels as a `tonic::Status`: its gRPC code for any client, and two metadata
//! entries for ours, which stay the same whatever the message says.
//!
//! ```text
//!   Failure { kind, retry, message } ──▶ code + message + fkv-error-kind: <kind> + fkv-retry: no|elsewhere|later
//!           ▲                                        │
//!           └────────────── Failure::of ◀────────────┘   without the entries (a proxy, a broken connection, a server of
//!                                                            something else): by code, and to be tried elsewhere
//! ```

use std::fmt;

use tonic::metadata::AsciiMetadataValue;
use tonic::{Code, Status};

/// Metadata entry that carries the [`ErrorKind`].
pub const ERROR_KIND_ENTRY: &str = "fkv-error-kind";
/// Metadata entry that carries the [`Retry`] hint.
pub const RETRY_ENTRY: &str = "fkv-retry";

/// Kinds of failure of a whole call, on both services.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ErrorKind {
    /// The request makes no sense; the message says what to change.
    BadRequest,
    /// More keys, sections or bytes than one call may carry.
    BatchTooLarge,
    /// No such table, task or version.
    NotFound,
    /// The name or submit id is taken by something else.
    AlreadyExists,
    /// Something changed meanwhile, or is not at the epoch the caller expected: look again, then decide.
    Conflict,
    /// The present state does not permit it; the message says what would.
    Refused,
    /// This build cannot do it.
    Unsupported,
    /// The server has as much to do as it may take on.
    Overloaded,
    /// The server, or what it needs, cannot be reached at present.
    Unavailable,
    /// The deadline passed first.
    DeadlineExceeded,
    /// A fault of the server's own; its log has more.
    Internal,
}

/// Whether trying again can help.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Retry {
    /// No: the same request fails again.
    No,
    /// At once, at another server.
    Elsewhere,
    /// After a while, here too.
    Later,
}

/// A failed call: what a server answers and what a client understands.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// What kind of failure.
    pub kind: ErrorKind,
    /// Whether trying again can help.
    pub retry: Retry,
    /// What went wrong and what to do, for people.
    pub message: String,
}

const KINDS: [(ErrorKind, &str, Code, Retry); 11] = [
    (ErrorKind::BadRequest, "bad_request", Code::InvalidArgument, Retry::No),
    (ErrorKind::BatchTooLarge, "batch_too_large", Code::OutOfRange, Retry::No),
    (ErrorKind::NotFound, "not_found", Code::NotFound, Retry::No),
    (ErrorKind::AlreadyExists, "already_exists", Code::AlreadyExists, Retry::No),
    (ErrorKind::Conflict, "conflict", Code::Aborted, Retry::No),
    (ErrorKind::Refused, "refused", Code::FailedPrecondition, Retry::No),
    (ErrorKind::Unsupported, "unsupported", Code::Unimplemented, Retry::No),
    (ErrorKind::Overloaded, "overloaded", Code::ResourceExhausted, Retry::Elsewhere),
    (ErrorKind::Unavailable, "unavailable", Code::Unavailable, Retry::Elsewhere),
    (ErrorKind::DeadlineExceeded, "deadline_exceeded", Code::DeadlineExceeded, Retry::No),
    (ErrorKind::Internal, "internal", Code::Internal, Retry::Elsewhere),
];

impl ErrorKind {
    fn row(self) -> &'static (ErrorKind, &'static str, Code, Retry) {
        KINDS.iter().find(|row| row.0 == self).expect("every kind has a row")
    }

    /// Its stable name.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.row().1
    }

    /// The gRPC code it travels under.
    #[must_use]
    pub fn code(self) -> Code {
        self.row().2
    }

    /// The hint that goes with it unless the server knows better.
    #[must_use]
    pub fn retry(self) -> Retry {
        self.row().3
    }

    fn named(name: &str) -> Option<Self> {
        KINDS.iter().find(|row| row.1 == name).map(|row| row.0)
    }

    /// What a status without our entries most likely means.
    fn of_code(code: Code) -> Self {
        match code {
            // A connection that breaks under a call shows as one of these.
            Code::Cancelled | Code::Unknown => Self::Unavailable,
            Code::PermissionDenied | Code::Unauthenticated => Self::Refused,
            Code::Ok | Code::DataLoss => Self::Internal,
            _ => KINDS.iter().find(|row| row.2 == code).map_or(Self::Internal, |row| row.0),
        }
    }
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl Retry {
    /// Its stable name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::No => "no",
            Self::Elsewhere => "elsewhere",
            Self::Later => "later",
        }
    }

    fn named(name: &str) -> Option<Self> {
        [Self::No, Self::Elsewhere, Self::Later].into_iter().find(|retry| retry.name() == name)
    }
}

impl Failure {
    /// A failure of `kind` with that kind's usual retry hint.
    #[must_use]
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, retry: kind.retry(), message: message.into() }
    }

    /// The same failure with another retry hint.
    #[must_use]
    pub fn with_retry(self, retry: Retry) -> Self {
        Self { retry, ..self }
    }

    /// What `status` means. One without the entries was not given by a server of this system, or not by its own code: it
    /// says nothing about what other servers would answer.
    #[must_use]
    pub fn of(status: &Status) -> Self {
        let entry = |name: &str| status.metadata().get(name).and_then(|value| value.to_str().ok());
        let stated = entry(ERROR_KIND_ENTRY);
        let kind = stated.and_then(ErrorKind::named).unwrap_or_else(|| ErrorKind::of_code(status.code()));
        let retry = entry(RETRY_ENTRY).and_then(Retry::named).unwrap_or(match kind {
            // The gRPC layers of both sides refuse messages over their limits, and end calls, without the entries.
            ErrorKind::BatchTooLarge | ErrorKind::DeadlineExceeded => kind.retry(),
            _ if stated.is_none() => Retry::Elsewhere,
            _ => kind.retry(),
        });
        Self { kind, retry, message: status.message().to_owned() }
    }
}

impl From<Failure> for Status {
    fn from(failure: Failure) -> Self {
        let mut status = Self::new(failure.kind.code(), failure.message);
        let entries = status.metadata_mut();
        entries.insert(ERROR_KIND_ENTRY, AsciiMetadataValue::from_static(failure.kind.name()));
        entries.insert(RETRY_ENTRY, AsciiMetadataValue::from_static(failure.retry.name()));
        status
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_survives_the_wire() {
        for (kind, ..) in KINDS {
            for retry in [Retry::No, Retry::Elsewhere, Retry::Later] {
                let failure = Failure::new(kind, "what happened").with_retry(retry);
                assert_eq!(Failure::of(&Status::from(failure.clone())), failure);
            }
        }
    }

    #[test]
    fn names_and_codes_tell_kinds_apart() {
        for (index, row) in KINDS.iter().enumerate() {
            for other in &KINDS[index + 1..] {
                assert!(row.0 != other.0 && row.1 != other.1 && row.2 != other.2, "{} and {}", row.1, other.1);
            }
        }
    }

    #[test]
    fn a_broken_connection_is_asked_elsewhere() {
        for code in [Code::Unavailable, Code::Unknown, Code::Cancelled] {
            let failure = Failure::of(&Status::new(code, "transport error"));
            assert_eq!((failure.kind, failure.retry), (ErrorKind::Unavailable, Retry::Elsewhere));
        }
        assert_eq!(Failure::of(&Status::not_found("t")).kind, ErrorKind::NotFound);
        assert_eq!(Failure::of(&Status::data_loss("t")).kind, ErrorKind::Internal);
    }

    #[test]
    fn what_is_no_server_of_this_system_does_not_speak_for_the_others() {
        for code in [Code::Unimplemented, Code::NotFound, Code::InvalidArgument, Code::PermissionDenied, Code::Aborted]
        {
            let failure = Failure::of(&Status::new(code, "unknown service"));
            assert_eq!(failure.retry, Retry::Elsewhere, "{code:?} without the entries");
            let stated = Failure::new(ErrorKind::of_code(code), "no");
            assert_eq!(Failure::of(&Status::from(stated)).retry, Retry::No, "{code:?} with them");
        }
        let too_long = Failure::of(&Status::out_of_range("decoded message length too large"));
        assert_eq!((too_long.kind, too_long.retry), (ErrorKind::BatchTooLarge, Retry::No));
    }

    #[test]
    fn an_unknown_kind_from_a_newer_server_falls_back_to_the_code() {
        let mut status = Status::resource_exhausted("full");
        status.metadata_mut().insert(ERROR_KIND_ENTRY, AsciiMetadataValue::from_static("quota"));
        assert_eq!(Failure::of(&status).kind, ErrorKind::Overloaded);
    }
}
