//! FeatureKV's side: a table whose records are on SSD, and its server's own lookups.
//!
//! ```text
//!   keys ──▶ packs + form in a file:// store ── load ──▶ resident sections + local packs
//!                                                            └─ opened with a record cache of some size ──▶ Table
//! ```

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use fkv_env::Env;
use fkv_formats::schema::{F16Overflow, KeyType, Schema, Storage, TableKind, ValueType};
use fkv_formats::table::{PartLayout, Profile};
use fkv_kvsvr::measure::{DiskTable, LoadedImage, Loads};
use fkv_kvsvr::{IoConfig, KvConfig};
use fkv_rpc::packed::{
    KeyStatus, Reply, Request, RequestHeader, RequestWriter, SectionHeader, Selector, ValueForm, u64_section_bytes,
};
use fkv_store::object::Store;

use super::DEPTH;
use crate::keys::{DIMENSION, Keys, Law, put_value, sample};
use crate::stored::{self, ORIGIN, Stored};
use crate::window::{Reading, Window};

/// Requests at once.
const TASKS: u64 = 3;
/// A server gives its record cache this share of its memory at most.
const CACHE_SHARE: u64 = 16;

/// Files of a table that has been loaded.
#[derive(Debug)]
pub(crate) struct Files {
    store: Store,
    stored: Stored,
    schema: Schema,
    images_dir: PathBuf,
    image: LoadedImage,
    /// Its keys are `0..count`.
    pub(crate) count: u64,
}

/// A table that can be asked.
#[derive(Debug)]
pub(crate) struct Table {
    table: Arc<DiskTable>,
    /// Memory that the server sets aside for it: what is resident, buffers for reads, and the record cache.
    pub(crate) memory_bytes: u64,
    _loads: Loads,
}

fn config(cache_bytes: u64) -> KvConfig {
    KvConfig {
        io: IoConfig { in_flight_max: DEPTH, ..IoConfig::default() },
        record_cache_bytes: cache_bytes,
        memory_bytes_max: (cache_bytes * CACHE_SHARE).max(KvConfig::default().memory_bytes_max),
        ..KvConfig::default()
    }
}

impl Files {
    /// Writes a table of the keys `0..count` below `dir`, and loads it as a server does.
    pub(crate) async fn new(env: &Env, kind: TableKind, count: usize, dir: &Path) -> Result<Self, String> {
        let (store_dir, images_dir) = (dir.join("store"), dir.join("images"));
        for dir in [&store_dir, &images_dir] {
            env.files.create_dir_all(dir).map_err(|error| format!("{}: {error}", dir.display()))?;
        }
        let schema = Schema {
            kind,
            key: KeyType::U64,
            value: ValueType::F32(DIMENSION),
            storage: Storage::Native,
            f16_overflow: F16Overflow::Reject,
            ttl: false,
        };
        let filter = if kind == TableKind::Blk { Profile::FILTER_FUSE8 } else { 0 };
        let profile = Profile { filter, ..Profile::CURRENT };
        let url = format!("file://{}", store_dir.display());
        let store = fkv_store::open(env, &url, &fkv_store::StoreOptions::default()).map_err(|e| e.to_string())?;
        let stored = stored::write(&store, &schema, profile, count, put_value).await?;
        let loads = loads(env, &store, &images_dir, &stored, 0)?;
        let image = loads.from_store().await?;
        Ok(Self { store, stored, schema, images_dir, image, count: count as u64 })
    }

    /// The local packs.
    pub(crate) fn packs(&self) -> Vec<PathBuf> {
        self.image.pack_names().iter().map(|name| self.images_dir.join(name)).collect()
    }

    /// The layouts of its parts.
    pub(crate) fn layouts(&self) -> &[PartLayout] {
        &self.stored.layouts
    }

    /// Memory of what is resident of the table.
    pub(crate) fn resident_bytes(&self) -> u64 {
        self.image.memory_bytes()
    }

    /// The table, with a record cache of that many bytes; 0: without one.
    pub(crate) async fn open(&self, env: &Env, cache_bytes: u64) -> Result<Table, String> {
        let loads = loads(env, &self.store, &self.images_dir, &self.stored, cache_bytes)?;
        let image = loads.from_files(&self.image).await?;
        let memory_bytes = image.memory_bytes() + config(cache_bytes).io.buffer_bytes + cache_bytes;
        let table = Arc::new(loads.on_disk(image, self.schema.clone()));
        Ok(Table { table, memory_bytes, _loads: loads })
    }
}

fn loads(env: &Env, store: &Store, dir: &Path, stored: &Stored, cache_bytes: u64) -> Result<Loads, String> {
    let (dir, record) = (dir.to_owned(), stored.record.clone());
    Loads::new(env, store.clone(), dir, ORIGIN.uid, record, &config(cache_bytes)).map_err(|error| error.to_string())
}

impl Table {
    /// Asks for keys of a law during a window of `length`.
    pub(crate) async fn read(&self, env: &Env, law: Law, round: u64, length: Duration) -> Reading {
        let (window, before) = (Window::new(env), self.table.reads());
        let workers = self.start(&window, law, round);
        let watched = window.watch(length, || self.table.reads()).await;
        end(workers).await;
        window.sum(&watched, self.table.reads() - before)
    }

    /// Asks for keys of a law until `keys` have been answered.
    #[cfg(feature = "rivals")]
    pub(crate) async fn warm(&self, env: &Env, law: Law, keys: u64) {
        let window = Window::new(env);
        let workers = self.start(&window, law, u64::from(u32::MAX));
        while window.keys() < keys {
            env.clock.sleep(Duration::from_millis(20)).await;
        }
        window.stop();
        end(workers).await;
    }

    /// Asks once for every key of `0..count`, in the order in which they lie in the files.
    #[cfg(feature = "rivals")]
    pub(crate) async fn read_all(&self, count: u64) {
        let mut hashes: Vec<u64> = (0..count).map(fkv_formats::hash::hash_u64).collect();
        hashes.sort_unstable();
        for hashes in hashes.chunks(crate::keys::BATCH) {
            let keys: Vec<u64> = hashes.iter().copied().map(fkv_formats::hash::unhash_u64).collect();
            std::hint::black_box(self.table.answer(&request(&keys)).await);
        }
    }

    fn start(&self, window: &Arc<Window>, law: Law, round: u64) -> Vec<tokio::task::JoinHandle<()>> {
        let worker = |worker| {
            let (table, window) = (Arc::clone(&self.table), Arc::clone(window));
            #[allow(clippy::disallowed_methods, reason = "the tasks of a benchmark end with it")]
            tokio::spawn(async move {
                let mut keys = Keys::new(law, round, worker);
                while window.goes_on() {
                    let begun = window.now();
                    std::hint::black_box(table.answer(&request(&keys.batch())).await);
                    window.note(begun);
                    // Where all records are cached nothing waits, and the clock would never be asked.
                    tokio::task::yield_now().await;
                }
            })
        };
        (0..TASKS).map(worker).collect()
    }

    /// Compares answers with what was written, of present and absent keys.
    pub(crate) async fn check(&self, count: u64) -> Result<(), String> {
        let keys: Vec<u64> = sample(count).collect();
        let reply = Reply::parse(self.table.answer(&request(&keys)).await).map_err(|error| error.to_string())?;
        let section = reply.section(0).ok_or("a reply without a section")?;
        let mut answered = 0;
        for (key, (status, value)) in keys.iter().zip(section.answers()) {
            let mut expected = Vec::new();
            if *key < count {
                put_value(*key, &mut expected);
            }
            if value != expected || (status == KeyStatus::Found) == expected.is_empty() {
                return Err(format!("the answer for key {key} is wrong: {status:?}"));
            }
            answered += 1;
        }
        if answered == keys.len() { Ok(()) } else { Err(format!("{answered} answers for {} keys", keys.len())) }
    }
}

async fn end(workers: Vec<tokio::task::JoinHandle<()>>) {
    for worker in workers {
        worker.await.expect("lookups do not panic");
    }
}

fn request(keys: &[u64]) -> Request {
    let mut writer = RequestWriter::new(RequestHeader::default(), u64_section_bytes(keys.len()));
    let header = SectionHeader { table: ORIGIN.uid, selector: Selector::Aligned, form: ValueForm::Native };
    writer.u64_section(header, keys.iter().copied());
    Request::parse(writer.finish()).expect("our own request")
}
