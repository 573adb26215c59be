//! LMDB: a B+ tree of the same records, mapped, all of it in the page cache.
//!
//! ```text
//!   keys, native numbers ─▶ appended in order: full pages
//!   batch ─▶ one read transaction ─▶ get, key after key
//! ```

use std::path::Path;

use fkv_env::Env;
use heed::byteorder::NativeEndian;
use heed::types::{Bytes, U64};
use heed::{CommitOrAbort, Database, EnvFlags, EnvOpenOptions, IntegerComparator, PutFlags};

use super::{Answers, Rival};
use crate::keys::put_value;

/// Records of one write transaction.
const TRANSACTION_RECORDS: usize = 100_000;
/// The most that a record takes: pages are not quite full, and the inner ones come on top.
const RECORD_BYTES: usize = 600;

type Records = Database<'static, U64<NativeEndian>, Bytes, IntegerComparator>;

/// An open database.
pub(crate) struct Lmdb {
    env: heed::Env,
    records: Records,
}

fn failed(error: impl std::fmt::Display) -> String {
    format!("LMDB: {error}")
}

impl Lmdb {
    /// Writes a database of the keys `0..count` into `dir`, and opens it.
    pub(crate) fn build(env: &Env, count: u64, dir: &Path) -> Result<Self, String> {
        env.files.create_dir_all(dir).map_err(failed)?;
        let records = usize::try_from(count).map_err(failed)?;
        let map_size = ((records + 100_000) * RECORD_BYTES).next_multiple_of(1 << 20);
        // SAFETY: nobody else has the files, whose directory was made for this run. A crash may lose what is not
        // synced; the benchmark is over then anyway.
        let lmdb = unsafe {
            EnvOpenOptions::new().map_size(map_size).flags(EnvFlags::NO_SYNC | EnvFlags::WRITE_MAP).open(dir)
        };
        let lmdb = lmdb.map_err(failed)?;
        let transaction = lmdb.write_txn().map_err(failed)?;
        let records = lmdb.create_databases_and_commit(transaction, |opener, transaction| {
            let options =
                opener.database_options().types::<U64<NativeEndian>, Bytes>().key_comparator::<IntegerComparator>();
            options.create(transaction).map(CommitOrAbort::<_, ()>::Commit)
        });
        let records: Records = records.map_err(failed)?.commit().ok_or_else(|| failed("it aborted"))?;
        let keys: Vec<u64> = (0..count).collect();
        let mut value = Vec::new();
        for keys in keys.chunks(TRANSACTION_RECORDS) {
            let mut transaction = lmdb.write_txn().map_err(failed)?;
            for key in keys {
                value.clear();
                put_value(*key, &mut value);
                records.put_with_flags(&mut transaction, PutFlags::APPEND, key, &value).map_err(failed)?;
            }
            transaction.commit().map_err(failed)?;
        }
        lmdb.force_sync().map_err(failed)?;
        Ok(Self { env: lmdb, records })
    }
}

impl Rival for Lmdb {
    fn answer(&self, keys: &[u64], answers: &mut Answers) -> Result<(), String> {
        let transaction = self.env.read_txn().map_err(failed)?;
        answers.begin(keys.len());
        for (index, key) in keys.iter().enumerate() {
            if let Some(value) = self.records.get(&transaction, key).map_err(failed)? {
                answers.put(index, value);
            }
        }
        Ok(())
    }
}
