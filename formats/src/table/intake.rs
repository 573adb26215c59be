//! What every builder asks of the records it is given: their part, their order, and that they fit the schema.

use crate::error::BuildError;
use crate::hash::{hash_bytes, hash_u64};
use crate::id::Part;
use crate::record::{KEY_BYTES_MAX, Key, RecordRef, VALUE_BYTES_MAX};
use crate::schema::KeyType;
use crate::table::WIDTH_VARIES;
use crate::table::disk::RecordSpec;

/// Checks records one after the other.
#[derive(Debug)]
pub(in crate::table) struct Intake {
    spec: RecordSpec,
    part: Part,
    /// How many records may come.
    records_max: u64,
    taken: u64,
    last: Option<Last>,
}

/// The order of the record taken last.
#[derive(Debug)]
struct Last {
    h: u64,
    key: Vec<u8>,
}

impl Intake {
    pub(in crate::table) const fn new(spec: RecordSpec, part: Part, records_max: u64) -> Self {
        Self { spec, part, records_max, taken: 0, last: None }
    }

    /// Records taken so far.
    pub(in crate::table) const fn taken(&self) -> u64 {
        self.taken
    }

    /// Checks a record against the schema, the order and the count, and remembers it; gives its value.
    pub(in crate::table) fn take<'a>(&mut self, record: &RecordRef<'a>) -> Result<&'a [u8], BuildError> {
        let (index, spec) = (self.taken, self.spec);
        let unfit = |reason: &str| BuildError::Unfit { index, reason: reason.to_owned() };
        if index == self.records_max {
            return Err(BuildError::Count { announced: self.records_max, found: index + 1 });
        }
        let found = record.part();
        if found != self.part {
            return Err(BuildError::WrongPart { index, part: self.part.0, found: found.0 });
        }
        let key = match (spec.key, record.key) {
            (KeyType::U64, Key::U64(key)) => {
                debug_assert_eq!(hash_u64(key), record.h, "a record carries its key's hash");
                &[][..]
            }
            (KeyType::Bytes, Key::Bytes(key)) => {
                debug_assert_eq!(hash_bytes(key), record.h, "a record carries its key's hash");
                key
            }
            _ => return Err(unfit("its key is of another type than the table's")),
        };
        if key.len() > KEY_BYTES_MAX {
            return Err(unfit(&format!("its key has {} bytes, the limit is {KEY_BYTES_MAX}", key.len())));
        }
        let value = record.value.ok_or_else(|| unfit("a full form holds no tombstones"))?;
        if spec.width != WIDTH_VARIES && value.len() != spec.width as usize {
            return Err(unfit(&format!("its value has {} bytes, not {}", value.len(), spec.width)));
        }
        if value.len() > VALUE_BYTES_MAX {
            return Err(unfit(&format!("its value has {} bytes, the limit is {VALUE_BYTES_MAX}", value.len())));
        }
        if record.expiry != 0 && !spec.ttl {
            return Err(unfit("it has an expiry time, but the table declares no TTL"));
        }
        match &mut self.last {
            Some(last) => {
                if (last.h, last.key.as_slice()) >= (record.h, key) {
                    return Err(BuildError::OutOfOrder { index });
                }
                last.h = record.h;
                last.key.clear();
                last.key.extend_from_slice(key);
            }
            None => self.last = Some(Last { h: record.h, key: key.to_vec() }),
        }
        self.taken += 1;
        Ok(value)
    }
}
