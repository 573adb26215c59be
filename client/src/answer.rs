//! What a call gives back: per table a label, a status per key, and the values.

use bytes::Bytes;
use fkv_formats::id::{ContentId, Epoch, TableUid, Version};
use fkv_formats::schema::ValueType;
use fkv_rpc::packed::Shown;
use half::f16;

use crate::split::index;

/// How it went for one key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum KeyStatus {
    /// The table has no record of the key.
    Absent,
    /// The key has a value.
    Found,
    /// The record's expiry time has passed.
    Expired,
}

/// Of which content the answers are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AnswerLabel {
    /// The table.
    pub table: TableUid,
    /// The version it was served as; if servers named several with this content, the one of the highest epoch.
    pub version: Version,
    /// What was answered: equal content ids mean equal answers.
    pub content: ContentId,
    /// The epoch the version was shown from.
    pub epoch: Epoch,
    /// What the servers believe everybody shows, by the highest epoch among them.
    pub aligned: Option<Shown>,
    /// What had expired by this Unix second is absent.
    pub as_of_s: u32,
}

/// The answers of one call.
#[derive(Clone, Debug)]
pub struct BatchAnswer {
    /// Per table asked, in the order of the call.
    pub tables: Vec<TableAnswer>,
    /// The time expiry was judged by, in Unix milliseconds.
    pub read_ts_ms: u64,
    /// What the call took.
    pub effort: Effort,
}

/// What a call took; for measurements.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Effort {
    /// Requests sent, second ones included.
    pub requests: u32,
    /// Requests sent a second time because the first was slow.
    pub hedges: u32,
    /// Times some keys were asked for again because a server failed or refused.
    pub retries: u32,
    /// Times replies were brought to one content.
    pub syncs: u32,
    /// Times a table was asked for anew because its replies had no common content.
    pub restarts: u32,
}

/// The answers of one table, in the order of the keys asked.
#[derive(Clone, Debug)]
pub struct TableAnswer {
    /// Of which content they are.
    pub label: AnswerLabel,
    /// Whether they are of several contents; only ever so with [`crate::Consistency::Available`]. The label then is that
    /// of the highest epoch among them.
    pub mixed: bool,
    pub(crate) statuses: Vec<KeyStatus>,
    pub(crate) values: Values,
}

/// Values by position. Where the width is fixed, keys that were not found have zeros.
#[derive(Clone, Debug)]
pub(crate) enum Values {
    F32 { dimension: usize, values: Vec<f32> },
    F16 { dimension: usize, values: Vec<f16> },
    I64(Vec<i64>),
    Bytes { bodies: Vec<Bytes>, spans: Vec<Span> },
}

/// Where a value of varying length lies.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Span {
    pub(crate) body: u32,
    pub(crate) start: u32,
    pub(crate) end: u32,
}

impl TableAnswer {
    /// Number of keys asked.
    #[must_use]
    pub fn len(&self) -> usize {
        self.statuses.len()
    }

    /// Whether no key was asked.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.statuses.is_empty()
    }

    /// Status of each key, in the order asked.
    #[must_use]
    pub fn statuses(&self) -> &[KeyStatus] {
        &self.statuses
    }

    /// Status of key `position`. Panics at or beyond [`Self::len`], as do all that take a position.
    #[must_use]
    pub fn status(&self, position: usize) -> KeyStatus {
        self.statuses[position]
    }

    /// Number of keys with a value.
    #[must_use]
    pub fn found_count(&self) -> usize {
        self.statuses.iter().filter(|status| **status == KeyStatus::Found).count()
    }

    /// Type of the values.
    #[must_use]
    pub fn value_type(&self) -> ValueType {
        let dimension = |dimension: usize| u16::try_from(dimension).expect("checked when the reply was read");
        match &self.values {
            Values::F32 { dimension: d, .. } => ValueType::F32(dimension(*d)),
            Values::F16 { dimension: d, .. } => ValueType::F16(dimension(*d)),
            Values::I64(_) => ValueType::I64,
            Values::Bytes { .. } => ValueType::Bytes,
        }
    }

    /// The bytes of key `position`; `None` if it was not found or values are not bytes.
    #[must_use]
    pub fn bytes(&self, position: usize) -> Option<&[u8]> {
        match &self.values {
            Values::Bytes { bodies, spans } if self.found(position) => {
                let span = spans[position];
                Some(&bodies[index(span.body)][index(span.start)..index(span.end)])
            }
            _ => None,
        }
    }

    /// The vector of key `position`; `None` if it was not found or values are not `f32`.
    #[must_use]
    pub fn f32s(&self, position: usize) -> Option<&[f32]> {
        match &self.values {
            Values::F32 { dimension, values } if self.found(position) => {
                Some(&values[position * dimension..(position + 1) * dimension])
            }
            _ => None,
        }
    }

    /// The vector of key `position`; `None` if it was not found or values are not `f16`.
    #[must_use]
    pub fn f16s(&self, position: usize) -> Option<&[f16]> {
        match &self.values {
            Values::F16 { dimension, values } if self.found(position) => {
                Some(&values[position * dimension..(position + 1) * dimension])
            }
            _ => None,
        }
    }

    /// The number of key `position`; `None` if it was not found or values are not `i64`.
    #[must_use]
    pub fn i64(&self, position: usize) -> Option<i64> {
        match &self.values {
            Values::I64(values) if self.found(position) => Some(values[position]),
            _ => None,
        }
    }

    /// All vectors one after another, a row of the dimension per key, zeros where a key was not found; `None` if values
    /// are not `f32`.
    #[must_use]
    pub fn f32_rows(&self) -> Option<&[f32]> {
        match &self.values {
            Values::F32 { values, .. } => Some(values),
            _ => None,
        }
    }

    /// All vectors one after another, as [`Self::f32_rows`]; `None` if values are not `f16`.
    #[must_use]
    pub fn f16_rows(&self) -> Option<&[f16]> {
        match &self.values {
            Values::F16 { values, .. } => Some(values),
            _ => None,
        }
    }

    /// All numbers, zero where a key was not found; `None` if values are not `i64`.
    #[must_use]
    pub fn i64_rows(&self) -> Option<&[i64]> {
        match &self.values {
            Values::I64(values) => Some(values),
            _ => None,
        }
    }

    fn found(&self, position: usize) -> bool {
        self.statuses[position] == KeyStatus::Found
    }
}
