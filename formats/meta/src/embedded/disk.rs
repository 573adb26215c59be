//! The file of the embedded store.
//!
//! ```text
//!   state     "format"   → 1
//!             "revision" → the newest revision
//!   entries   key → created u64 │ modified u64 │ lease u64 (0: none) │ value        little-endian
//! ```

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition, TableError};

use super::mvcc::{Changes, Present};
use crate::store::{Entry, Event, LeaseId, MetaError, Revision};

const STATE: TableDefinition<'_, &str, u64> = TableDefinition::new("state");
const ENTRIES: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("entries");
const FORMAT: u64 = 1;
const HEADER_BYTES: usize = 24;

/// An open file.
#[derive(Clone)]
pub(super) struct Disk {
    database: Arc<Database>,
}

impl std::fmt::Debug for Disk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Disk")
    }
}

fn failed(what: &str, error: impl std::fmt::Display) -> MetaError {
    MetaError::Unavailable(format!("the embedded store cannot {what} its file: {error}"))
}

fn corrupt(key: &str, reason: &str) -> MetaError {
    MetaError::Corrupt { key: key.to_owned(), reason: reason.to_owned() }
}

impl Disk {
    /// Opens or creates the file; blocks.
    pub(super) fn open(path: &Path) -> Result<(Self, Present), MetaError> {
        let what = format!("open {} as", path.display());
        let database = Database::create(path).map_err(|error| failed(&what, error))?;
        Self::of(database)
    }

    /// The state of an open database; blocks.
    pub(super) fn of(database: Database) -> Result<(Self, Present), MetaError> {
        let disk = Self { database: Arc::new(database) };
        let present = disk.load()?;
        Ok((disk, present))
    }

    fn load(&self) -> Result<Present, MetaError> {
        let read = self.database.begin_read().map_err(|error| failed("read", error))?;
        let state = match read.open_table(STATE) {
            Ok(state) => state,
            Err(TableError::TableDoesNotExist(_)) => return Ok(Present::empty()),
            Err(error) => return Err(failed("read", error)),
        };
        let number = |name: &'static str| {
            let value = state.get(name).map_err(|error| failed("read", error))?;
            value
                .map(|value| value.value())
                .ok_or_else(|| corrupt(name, "it is missing from the embedded store's file"))
        };
        let format = number("format")?;
        if format != FORMAT {
            return Err(corrupt("format", &format!("{format} is unknown, this build reads {FORMAT}")));
        }
        let revision = number("revision")?;
        let stored = read.open_table(ENTRIES).map_err(|error| failed("read", error))?;
        let mut entries = Vec::new();
        for item in stored.iter().map_err(|error| failed("read", error))? {
            let (key, value) = item.map_err(|error| failed("read", error))?;
            let entry = decode(key.value(), value.value()).ok_or_else(|| corrupt(key.value(), "it is too short"))?;
            if entry.created > entry.modified || entry.modified.0 > revision {
                return Err(corrupt(key.value(), "its revisions are impossible"));
            }
            entries.push(entry);
        }
        Ok(Present::restored(Revision(revision), entries))
    }

    /// Makes changes durable, all or none; blocks.
    pub(super) fn commit(&self, changes: &[Arc<Changes>]) -> Result<(), MetaError> {
        let Some(last) = changes.last() else { return Ok(()) };
        let write = self.database.begin_write().map_err(|error| failed("write", error))?;
        {
            let mut state = write.open_table(STATE).map_err(|error| failed("write", error))?;
            state.insert("format", FORMAT).map_err(|error| failed("write", error))?;
            state.insert("revision", last.revision.0).map_err(|error| failed("write", error))?;
            let mut entries = write.open_table(ENTRIES).map_err(|error| failed("write", error))?;
            for step in changes.iter().flat_map(|changes| &changes.steps) {
                match &step.event {
                    Event::Put(entry) => {
                        let bytes = encode(entry);
                        entries.insert(entry.key.as_str(), bytes.as_slice()).map(drop)
                    }
                    Event::Delete { key } => entries.remove(key.as_str()).map(drop),
                }
                .map_err(|error| failed("write", error))?;
            }
        }
        write.commit().map_err(|error| failed("write", error))
    }
}

fn encode(entry: &Entry) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEADER_BYTES + entry.value.len());
    for number in [entry.created.0, entry.modified.0, entry.lease.map_or(0, |lease| lease.0)] {
        bytes.extend_from_slice(&number.to_le_bytes());
    }
    bytes.extend_from_slice(&entry.value);
    bytes
}

fn decode(key: &str, bytes: &[u8]) -> Option<Entry> {
    let (created, rest) = bytes.split_first_chunk::<8>()?;
    let (modified, rest) = rest.split_first_chunk::<8>()?;
    let (lease, value) = rest.split_first_chunk::<8>()?;
    let lease = u64::from_le_bytes(*lease);
    Some(Entry {
        key: key.to_owned(),
        value: Bytes::copy_from_slice(value),
        created: Revision(u64::from_le_bytes(*created)),
        modified: Revision(u64::from_le_bytes(*modified)),
        lease: (lease != 0).then_some(LeaseId(lease)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_truncated_entry_is_an_error_and_no_panic() {
        let entry = Entry {
            key: "k".into(),
            value: Bytes::from_static(b"value"),
            created: Revision(3),
            modified: Revision(9),
            lease: Some(LeaseId(4)),
        };
        let bytes = encode(&entry);
        assert_eq!(decode("k", &bytes), Some(entry));
        for len in 0..HEADER_BYTES {
            assert_eq!(decode("k", &bytes[..len]), None, "{len}");
        }
    }
}
