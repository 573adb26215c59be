//! Errors as gRPC statuses. One place, so that equal faults have equal codes.

use fkv_meta::store::MetaError;
use fkv_meta::{ChangeError, Refusal, RefusalKind};
use fkv_rpc::status::{ErrorKind, Failure, Retry};
use tonic::Status;

/// A request that makes no sense; the message says what to change.
pub(crate) fn bad_request(message: impl Into<String>) -> Status {
    Failure::new(ErrorKind::BadRequest, message).into()
}

/// Something that this release cannot do.
pub(crate) fn unsupported(message: impl Into<String>) -> Status {
    Failure::new(ErrorKind::Unsupported, message).into()
}

/// A change that is not legal.
pub(crate) fn of_refusal(refusal: &Refusal) -> Status {
    let kind = match refusal.kind() {
        RefusalKind::Invalid => ErrorKind::BadRequest,
        RefusalKind::NotFound => ErrorKind::NotFound,
        RefusalKind::Exists => ErrorKind::AlreadyExists,
        RefusalKind::Precondition => ErrorKind::Refused,
        RefusalKind::Exhausted => ErrorKind::Overloaded,
        RefusalKind::Stale => ErrorKind::Conflict,
    };
    let failure = Failure::new(kind, refusal.to_string());
    // A full queue is full at every DataSvr.
    if kind == ErrorKind::Overloaded { failure.with_retry(Retry::Later) } else { failure }.into()
}

/// A failure of the metadata store.
pub(crate) fn of_meta(error: MetaError) -> Status {
    tracing::warn!(%error, "a control call met a failure of the metadata store");
    let failure = match &error {
        MetaError::Unavailable(_) | MetaError::Compacted(_) | MetaError::LeaseGone => {
            Failure::new(ErrorKind::Unavailable, error.to_string())
        }
        MetaError::Ambiguous(_) => {
            let message = format!("{error}; look whether it was made before you repeat the call");
            Failure::new(ErrorKind::Unavailable, message).with_retry(Retry::Later)
        }
        MetaError::Invalid(_) | MetaError::Corrupt { .. } => Failure::new(ErrorKind::Internal, error.to_string()),
    };
    failure.into()
}

/// A change that was not made.
pub(crate) fn of_change(error: ChangeError) -> Status {
    match error {
        ChangeError::Refused(refusal) => of_refusal(&refusal),
        ChangeError::Meta(error) => of_meta(error),
        ChangeError::Contended => Failure::new(ErrorKind::Conflict, error.to_string()).with_retry(Retry::Later).into(),
    }
}
