//! What a failed request means to the caller.

use std::error::Error as StdError;
use std::fmt::Write as _;

use object_store::Error;
use object_store::client::{HttpError, HttpErrorKind};

use crate::error::StoreError;
use crate::path::printable;

/// What the answer of a service tells: its HTTP status, and the code and message in its XML body.
#[derive(Debug, Default, PartialEq, Eq)]
struct Answer {
    status: Option<u16>,
    code: Option<String>,
    message: Option<String>,
}

/// Codes with status 400 that mean that the key is no longer good.
const EXPIRED: [&str; 4] = ["ExpiredToken", "InvalidToken", "TokenRefreshRequired", "RequestExpired"];

/// Codes that mean "later", whatever their status.
const LATER: [&str; 6] =
    ["RequestTimeout", "SlowDown", "InternalError", "ServiceUnavailable", "OperationAborted", "Throttling"];

/// What `error` means for the object at `path`, a URL.
pub(super) fn classify(path: String, error: &Error) -> StoreError {
    let answer = Answer::of(error);
    let reason = answer.reason(error);
    let code = answer.code.as_deref().unwrap_or_default();
    if code == "NoSuchBucket" {
        return StoreError::Other { path, reason };
    }
    if EXPIRED.contains(&code) {
        return StoreError::Denied { path, reason };
    }
    match error {
        Error::NotFound { .. } => StoreError::NotFound { path },
        Error::PermissionDenied { .. } | Error::Unauthenticated { .. } => StoreError::Denied { path, reason },
        Error::Precondition { .. } | Error::NotModified { .. } => StoreError::Changed { path, reason },
        // No request here asks for an object not to exist: a conflict is with another request under way.
        Error::AlreadyExists { .. } => StoreError::Unavailable { path, reason },
        _ if later(&answer, code) || answer.status.is_none() && interrupted(error) => {
            StoreError::Unavailable { path, reason }
        }
        _ => StoreError::Other { path, reason },
    }
}

fn later(answer: &Answer, code: &str) -> bool {
    LATER.contains(&code) || answer.status.is_some_and(|status| status >= 500 || matches!(status, 408 | 429))
}

/// Whether the request failed on its way.
fn interrupted(error: &Error) -> bool {
    let failed = chain(error).find_map(|error| error.downcast_ref::<HttpError>());
    // A body that breaks off shows as one that cannot be decoded.
    failed.is_some_and(|error| error.kind() != HttpErrorKind::Unknown)
        || chain(error).any(|error| error.downcast_ref::<std::io::Error>().is_some())
}

fn chain(error: &Error) -> impl Iterator<Item = &(dyn StdError + 'static)> {
    fn source<'a>(error: &&'a (dyn StdError + 'static)) -> Option<&'a (dyn StdError + 'static)> {
        (**error).source()
    }
    std::iter::successors(Some(error as &(dyn StdError + 'static)), source)
}

impl Answer {
    /// Reads the answer out of the client's error, which has no accessors for it.
    fn of(error: &Error) -> Self {
        let Some(text) = chain(error).map(ToString::to_string).last() else { return Self::default() };
        let status = chain(error).map(|error| error.to_string()).find_map(|text| status_in(&text));
        Self { status, code: element(&text, "Code"), message: element(&text, "Message") }
    }

    /// One line for the message. The body itself may repeat keys and what was signed, so only two elements are shown.
    fn reason(&self, error: &Error) -> String {
        let mut reason = match (&self.code, &self.message) {
            (Some(code), Some(message)) => format!("{code}: {message}"),
            (Some(code), None) => code.clone(),
            (None, _) if self.status.is_some() => "the store refused".into(),
            // No answer: the innermost error says why.
            (None, _) => chain(error).map(ToString::to_string).last().unwrap_or_default(),
        };
        if let Some(status) = self.status {
            let _ = write!(reason, " (HTTP status {status})");
        }
        printable(&reason)
    }
}

/// The number after `status code: `.
fn status_in(text: &str) -> Option<u16> {
    let (_, after) = text.split_once("status code: ")?;
    let digits: String = after.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().ok()
}

/// The text of the first `<name>…</name>`.
fn element(text: &str, name: &str) -> Option<String> {
    let (_, after) = text.split_once(&format!("<{name}>"))?;
    let (inside, _) = after.split_once(&format!("</{name}>"))?;
    Some(inside.to_owned())
}
