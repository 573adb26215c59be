//! Records with the revisions they were read at, and transactions planned from them.

use fkv_formats::id::TableUid;

use crate::record::{self, Record, TableRecord};
use crate::store::{Compare, Entry, MetaError, Op, Revision, Txn};

/// A record as read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stamped<T> {
    /// Its key.
    pub key: String,
    /// The record.
    pub value: T,
    /// The revision that created the key.
    pub created: Revision,
    /// The revision that last wrote it.
    pub modified: Revision,
}

impl<T: Record> Stamped<T> {
    /// Reads the record of an entry.
    ///
    /// # Errors
    /// `Corrupt` if the value is not such a record.
    pub fn decode(entry: Entry) -> Result<Self, MetaError> {
        match record::decode(&entry.value) {
            Ok(value) => Ok(Self { key: entry.key, value, created: entry.created, modified: entry.modified }),
            Err(error) => Err(MetaError::Corrupt { key: entry.key, reason: error.to_string() }),
        }
    }

    /// The write that replaces the record.
    pub(crate) fn put(&self, value: &T) -> Op {
        Op::Put { key: self.key.clone(), value: record::encode(value), lease: None }
    }
}

impl<T> Stamped<T> {
    /// The record after a transaction that wrote it at `revision`.
    #[must_use]
    pub fn rewritten(&self, value: T, revision: Revision) -> Self {
        Self { key: self.key.clone(), value, created: self.created, modified: revision }
    }

    /// The condition that the record is still as read.
    #[must_use]
    pub fn unchanged(&self) -> Compare {
        Compare::ModifiedAt(self.key.clone(), self.modified)
    }

    /// The condition that the key is still of the same creation, whatever its value.
    #[must_use]
    pub fn same_creation(&self) -> Compare {
        Compare::CreatedAt(self.key.clone(), self.created)
    }
}

impl Stamped<TableRecord> {
    /// The table's uid.
    #[must_use]
    pub const fn uid(&self) -> TableUid {
        TableUid(self.created.0)
    }
}

/// A legal change: the transaction that makes it, and what it leads to if it commits.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use = "a plan changes nothing until its transaction is run"]
pub struct Planned<T> {
    /// The transaction. Refused means: what it was planned from has changed; read again and plan again.
    pub txn: Txn,
    /// The records as they are after it.
    pub after: T,
}

impl<T> Planned<T> {
    /// A plan of these conditions and writes.
    pub(crate) fn new(compares: Vec<Compare>, ops: Vec<Op>, after: T) -> Self {
        let txn = Txn { compares, ops };
        debug_assert!(
            txn.compares.len() + txn.ops.len() <= Txn::OPERATIONS_MAX,
            "a planned transaction stays within the limit"
        );
        Self { txn, after }
    }
}
