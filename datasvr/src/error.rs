//! What ends an attempt at a task, and whether another attempt may help.

use fkv_env::JobPanicked;
use fkv_formats::error::{BuildError, FormatError};
use fkv_meta::record::TaskError;
use fkv_meta::store::MetaError;
use fkv_meta::{Refusal, txn::Retry};
use fkv_store::StoreError;

use crate::input::error::InputError;
use crate::input::source::ResolveError;

/// Why an attempt at a task ended without its version.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AttemptError {
    /// The inputs could not be found.
    #[error(transparent)]
    Resolve(#[from] ResolveError),
    /// Something is wrong with the input.
    #[error(transparent)]
    Input(#[from] InputError),
    /// The store that versions are written to failed.
    #[error("{0}")]
    Store(#[from] StoreError),
    /// The metadata store failed.
    #[error(transparent)]
    Meta(#[from] MetaError),
    /// A change of metadata that is not legal at present.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// One of our own objects is not what its record says.
    #[error("{path}: {reason}")]
    Object {
        /// URL of the object.
        path: String,
        /// What is wrong.
        reason: String,
    },
    /// A part could not be built.
    #[error("a part could not be built: {0}")]
    Build(#[from] BuildError),
    /// The built manifest could not be written.
    #[error("the manifest could not be made: {0}")]
    Format(#[from] FormatError),
    /// A job on the CPU pool panicked.
    #[error(transparent)]
    Panicked(#[from] JobPanicked),
    /// Others kept changing the same records.
    #[error("the task's records kept changing while its version was being committed")]
    Contended,
    /// A job of the task has failed for good; its error is on the task.
    #[error("{}", .0.message)]
    JobFailed(TaskError),
    /// Every worker that took up a job of the task was lost.
    #[error(
        "the workers of all {attempts} attempts at job `{job}` are gone, and no attempt is left; the log of the last one, \
         {worker}, may say why"
    )]
    JobSpent {
        /// The job.
        job: String,
        /// How many attempts there were.
        attempts: u32,
        /// Who made the last one, as far as known.
        worker: String,
    },
    /// The task is no longer this worker's: another attempt runs, or the task has ended. Nothing is to be recorded.
    #[error("{0}")]
    Lost(&'static str),
}

impl AttemptError {
    /// Why an attempt is not this worker's any more.
    #[must_use]
    pub(crate) const fn lost_reason(&self) -> &'static str {
        match self {
            Self::Lost(reason) => reason,
            _ => "it is no longer this worker's",
        }
    }

    /// Whether another attempt may end better; `None` if the attempt is not this worker's to end.
    #[must_use]
    pub(crate) fn retry(&self) -> Option<Retry> {
        let may_help = match self {
            Self::Lost(_) => return None,
            Self::Resolve(ResolveError::Refused(_) | ResolveError::Unfinished { .. }) => false,
            Self::Resolve(ResolveError::Store(error)) | Self::Input(InputError::Store(error)) => {
                matches!(error, StoreError::Unavailable { .. } | StoreError::Other { .. })
            }
            Self::Input(_) | Self::Build(_) | Self::Format(_) | Self::JobFailed(_) | Self::JobSpent { .. } => false,
            Self::Refused(refusal) => !matches!(refusal, Refusal::Invalid(_) | Refusal::BadBuild { .. }),
            Self::Store(_) | Self::Meta(_) | Self::Object { .. } | Self::Panicked(_) | Self::Contended => true,
        };
        Some(if may_help { Retry::MayHelp } else { Retry::Pointless })
    }
}
