//! RocksDB: one sorted run of the same records, read by MultiGet past the page cache.
//!
//! ```text
//!   keys, big endian ─▶ SST files, each of a range of them ─▶ taken over as the bottom level: one file to look into per key
//!   batch ─▶ sorted ─▶ MultiGet ─▶ filter ─▶ index ─▶ [rows cached] [blocks cached] ─▶ reads, 32 keys at once, io_uring
//! ```
//!
//! Set up in its favour, but for the CPU it is compiled for (docs/benchmarks.md): a block per read (4 KiB, aligned, nothing
//! compressed), the filter and the whole index in memory outside the caches, a hash index within blocks, no writes and no compactions, statistics off.

use std::path::{Path, PathBuf};

use fkv_env::Env;
use rayon::iter::{IntoParallelRefIterator, ParallelIterator};
use rocksdb::{
    BlockBasedOptions, Cache, ChecksumType, ColumnFamily, ColumnFamilyDescriptor, DB, DBCompressionType,
    DataBlockIndexType, IngestExternalFileOptions, Options, ReadOptions, SstFileWriter,
};

use super::{Answers, Rival};
use crate::keys::put_value;

/// Records of one SST file: some 260 MB.
const FILE_RECORDS: u64 = 625_000;
const BLOCK_BYTES: usize = 4096;
const FILTER_BITS_PER_KEY: f64 = 10.0;
const FAMILY: &str = "default";

/// Bytes of its caches.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Caches {
    pub(crate) blocks: u64,
    /// Single records; 0: none are kept.
    pub(crate) rows: u64,
}

/// An open database of the keys `0..count`.
pub(crate) struct RocksDb {
    db: DB,
    /// Whether blocks that were read are kept.
    fill_cache: bool,
}

fn failed(error: impl std::fmt::Display) -> String {
    format!("RocksDB: {error}")
}

/// Options for writing and reading; the table options that the crate has no calls for are given as text.
fn options(caches: Caches) -> Result<Options, String> {
    let bytes = |bytes: u64| usize::try_from(bytes).map_err(failed);
    let mut table = BlockBasedOptions::default();
    table.set_block_size(BLOCK_BYTES);
    table.set_bloom_filter(FILTER_BITS_PER_KEY, false);
    table.set_data_block_index_type(DataBlockIndexType::BinaryAndHash);
    table.set_checksum_type(ChecksumType::XXH3);
    table.set_cache_index_and_filter_blocks(false);
    if caches.blocks == 0 {
        table.disable_cache();
    } else {
        // 0: it finds out how large entries are.
        table.set_block_cache(&Cache::new_hyper_clock_cache(bytes(caches.blocks)?, 0));
    }
    let mut options = Options::default();
    options.create_if_missing(true);
    options.set_compression_type(DBCompressionType::None);
    options.set_use_direct_reads(true);
    options.set_max_open_files(-1);
    options.set_disable_auto_compactions(true);
    options.set_block_based_table_factory(&table);
    let mut options =
        options.get_options_from_string("block_based_table_factory={block_align=true}").map_err(failed)?;
    if caches.rows > 0 {
        options.set_row_cache(&Cache::new_lru_cache(bytes(caches.rows)?));
    }
    Ok(options)
}

/// Writes a database of the keys `0..count` into `dir`.
pub(crate) fn build(env: &Env, count: u64, dir: &Path) -> Result<(), String> {
    let files_dir = dir.join("new");
    env.files.create_dir_all(&files_dir).map_err(failed)?;
    let firsts: Vec<u64> = (0..count).step_by(usize::try_from(FILE_RECORDS).map_err(failed)?).collect();
    let write = |first: &u64| -> Result<PathBuf, String> {
        let path = files_dir.join(format!("{first:012}.sst"));
        let options = options(Caches { blocks: 0, rows: 0 })?;
        let mut writer = SstFileWriter::create(&options);
        writer.open(&path).map_err(failed)?;
        let mut value = Vec::new();
        for key in *first..(first + FILE_RECORDS).min(count) {
            value.clear();
            put_value(key, &mut value);
            writer.put(key.to_be_bytes(), &value).map_err(failed)?;
        }
        writer.finish().map_err(failed)?;
        Ok(path)
    };
    let paths = firsts.par_iter().map(write).collect::<Result<Vec<_>, _>>()?;
    let db = RocksDb::open(dir, Caches { blocks: 0, rows: 0 })?.db;
    let mut ingest = IngestExternalFileOptions::default();
    ingest.set_move_files(true);
    db.ingest_external_file_opts(&ingest, paths).map_err(failed)?;
    let files = db.live_files().map_err(failed)?;
    if files.len() != firsts.len() || files.iter().any(|file| file.level != 6) {
        return Err(failed("the files did not become the bottom level"));
    }
    Ok(())
}

impl RocksDb {
    pub(crate) fn open(dir: &Path, caches: Caches) -> Result<Self, String> {
        let options = options(caches)?;
        let family = ColumnFamilyDescriptor::new(FAMILY, options.clone());
        let db = DB::open_cf_descriptors(&options, dir, [family]).map_err(failed)?;
        Ok(Self { db, fill_cache: caches.blocks > 0 })
    }

    /// Memory of the filter and the index.
    pub(crate) fn resident_bytes(&self) -> Result<u64, String> {
        let bytes = self.db.property_int_value("rocksdb.estimate-table-readers-mem").map_err(failed)?;
        bytes.filter(|bytes| *bytes > 0).ok_or_else(|| failed("it does not say how large its indexes are"))
    }

    fn family(&self) -> Result<&ColumnFamily, String> {
        self.db.cf_handle(FAMILY).ok_or_else(|| failed("the default column family is missing"))
    }
}

impl Rival for RocksDb {
    fn answer(&self, keys: &[u64], answers: &mut Answers) -> Result<(), String> {
        // Sorting numbers is cheaper than letting RocksDB sort what it sees as byte strings.
        let mut order: Vec<(u64, u32)> = keys.iter().copied().zip(0..).collect();
        order.sort_unstable();
        let sorted: Vec<[u8; 8]> = order.iter().map(|(key, _)| key.to_be_bytes()).collect();
        let mut read = ReadOptions::default();
        read.fill_cache(self.fill_cache);
        let found = self.db.batched_multi_get_cf_opt(&self.family()?, &sorted, true, &read);
        answers.begin(keys.len());
        for ((_, index), value) in order.iter().zip(found) {
            if let Some(value) = value.map_err(failed)? {
                answers.put(*index as usize, &value);
            }
        }
        Ok(())
    }
}
