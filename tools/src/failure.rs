//! How a verb ends badly: what failed, what to do, and the exit code.

use std::fmt;
use std::time::Duration;

use serde::Serialize;

/// How long waiting outlasts a control API that cannot be reached.
pub(crate) const OUTAGE_MAX: Duration = Duration::from_secs(60);
/// Exit code of a verb that failed.
pub(crate) const EXIT_FAILED: u8 = 1;
/// Exit code of a command line that cannot be right, whatever the state of the cluster.
pub(crate) const EXIT_USAGE: u8 = 2;

/// What a verb reports instead of a result.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Failure {
    /// A word for programs: `usage`, `failed`, or the status of the server in snake case (`not_found`, …).
    pub(crate) code: &'static str,
    /// What failed, as a sentence for people.
    pub(crate) message: String,
    /// What to do about it; empty if there is nothing to add.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) hint: String,
    #[serde(skip)]
    exit: u8,
}

/// The result of a verb.
pub(crate) type Outcome<T = ()> = Result<T, Failure>;

impl Failure {
    /// The verb failed.
    pub(crate) fn failed(message: impl Into<String>) -> Self {
        Self::coded("failed", message)
    }

    /// The verb failed for a reason that has a word.
    pub(crate) fn coded(code: &'static str, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), hint: String::new(), exit: EXIT_FAILED }
    }

    /// The command line cannot be right.
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self { code: "usage", message: message.into(), hint: String::new(), exit: EXIT_USAGE }
    }

    /// Whether the control API could not be reached, or went away: it may be restarting.
    pub(crate) fn is_outage(&self) -> bool {
        matches!(self.code, "unavailable" | "cancelled")
    }

    /// Adds what to do.
    #[must_use]
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = hint.into();
        self
    }

    /// Counts the failure as a mistake on the command line.
    #[must_use]
    pub(crate) fn counts_as_usage(mut self) -> Self {
        self.exit = EXIT_USAGE;
        self
    }

    /// The exit code of the process.
    pub(crate) fn exit(&self) -> u8 {
        self.exit
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        if self.hint.is_empty() { Ok(()) } else { write!(f, "\n  {}", self.hint) }
    }
}

/// Adds what was being done to an error that speaks only of itself.
pub(crate) trait Context<T> {
    /// `doing` is a phrase that completes "cannot …".
    fn context(self, doing: impl FnOnce() -> String) -> Outcome<T>;
}

impl<T, E: fmt::Display> Context<T> for Result<T, E> {
    fn context(self, doing: impl FnOnce() -> String) -> Outcome<T> {
        self.map_err(|error| Failure::failed(format!("cannot {}: {error}", doing())))
    }
}
