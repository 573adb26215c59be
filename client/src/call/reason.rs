//! Why keys were not answered, and what that means to the caller.

use std::fmt;
use std::sync::Arc;

use fkv_rpc::packed::SectionStatus;
use fkv_rpc::status::Failure;

use crate::ClientError;
use crate::topology::Snapshot;

/// Why a share was not answered.
#[derive(Clone, Debug)]
pub(crate) enum Reason {
    NoServer,
    Failed(Arc<str>, Failure),
    Refused(Arc<str>, SectionStatus),
    NotHere(Arc<str>),
}

impl Reason {
    /// What it means to the caller who asked for `table`.
    pub(super) fn error(&self, table: &str, snapshot: &Snapshot) -> ClientError {
        let owned = || table.to_owned();
        match self {
            Self::Refused(_, SectionStatus::UnknownTable | SectionStatus::NotLoaded) => {
                ClientError::NotLoaded { table: owned(), reason: self.to_string() }
            }
            Self::Refused(_, SectionStatus::ContentNotHeld) => {
                ClientError::NoCommonVersion { table: owned(), reason: self.to_string() }
            }
            Self::Refused(_, SectionStatus::WrongKeyType) => match snapshot.table(table) {
                Ok(view) => ClientError::WrongKeyType { table: owned(), declared: view.key },
                Err(error) => error,
            },
            Self::Refused(_, SectionStatus::WrongValueForm) => {
                ClientError::BadRequest(format!("values of table `{table}` cannot be had in the form asked for"))
            }
            Self::Refused(address, SectionStatus::ReadTsAhead) => ClientError::BadRequest(format!(
                "read_ts is more than five minutes ahead of the clock of {address}: check it, or the clocks"
            )),
            Self::NoServer | Self::Failed(..) | Self::NotHere(_) | Self::Refused(..) => {
                ClientError::Unavailable(format!("table `{table}`: {self}"))
            }
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoServer => f.write_str("no active sect has a server for some of the keys"),
            Self::Failed(address, failure) => write!(f, "{address}: {failure}"),
            Self::Refused(address, status) => {
                let what = match status {
                    SectionStatus::UnknownTable => "does not know the table",
                    SectionStatus::NotLoaded => "has not loaded the table",
                    SectionStatus::WrongTopology => "owns none of the keys",
                    SectionStatus::ContentNotHeld => "does not hold the content that others show",
                    SectionStatus::DataFault => "found its stored data damaged",
                    _ => "refused",
                };
                write!(f, "{address} {what}")
            }
            Self::NotHere(address) => write!(f, "{address} does not own some of the keys"),
        }
    }
}
