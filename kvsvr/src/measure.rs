//! What benchmarks call: the server's own lookup and load, without the service around them. Not an interface.

use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use fkv_env::{Env, TaskHandle};
use fkv_formats::id::{ContentId, Epoch, Part, TableUid, Version};
use fkv_formats::schema::Schema;
use fkv_formats::table::mem::MemLayout;
use fkv_meta::Meta;
use fkv_meta::embedded::EmbeddedStore;
use fkv_meta::key::Keys;
use fkv_meta::record::{Label, VersionRecord};
use fkv_rpc::packed::{ReplyHeader, ReplyWriter, Request, SectionLabel, Shown, ValueForm};

use fkv_store::object::Store;

use crate::KvConfig;
use crate::cache::RecordCache;
use crate::fetch::Fetcher;
use crate::image::arena::ArenaBuilder;
use crate::image::{Group, Image, ImageBuilder, LocalImage, PartSet, Placed, Reaper};
use crate::ledger::Ledger;
use crate::load::{LoadRequest, Loaded, Loader};
use crate::lookup::{Batch, Conversion, DiskReader, answer_keys, put_read, read_keys};
use crate::table::LoadStart;
use crate::throttle::Throttle;

const CONTENT: ContentId = ContentId([1; 32]);
const REPLY_BYTES_MAX: usize = 64 << 20;

/// An image in memory as a server holds it.
#[derive(Debug)]
pub struct Table {
    schema: Schema,
    image: Image,
    _reaper: TaskHandle,
}

impl Table {
    /// An image of parts: their layouts, and what they are in memory.
    ///
    /// # Errors
    /// There is not enough memory.
    pub fn new(env: &Env, schema: Schema, parts: &[(Part, MemLayout, Vec<u8>)]) -> std::io::Result<Self> {
        let (reaper, task) = Reaper::start(env);
        let ledger = Ledger::new(u64::MAX, 0);
        let lens: Vec<usize> = parts.iter().map(|(_, _, bytes)| bytes.len()).collect();
        let mut arena = ArenaBuilder::new(lens.iter().sum())?;
        for (mut region, (_, _, bytes)) in arena.regions(&lens).into_iter().zip(parts) {
            region.copy_from_slice(bytes);
        }
        let reservation = ledger.reserve(0, 0).map_err(std::io::Error::other)?;
        let group = Arc::new(Group::new(arena.freeze()?, reservation, reaper));
        let mut start = 0;
        let placed = parts.iter().map(|(part, layout, bytes)| {
            let placed = Placed { group: 0, start, len: bytes.len(), layout: *layout };
            start += bytes.len();
            (*part, placed)
        });
        let mut builder = ImageBuilder::new(CONTENT, Version(1), 0, None);
        builder.add_group(group, placed.collect::<Vec<_>>());
        builder.learn(env.clock.as_ref());
        Ok(Self { schema, image: builder.finish(), _reaper: task })
    }

    /// The memory of the parts' images.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        self.image.groups().next().map_or(&[], Group::bytes)
    }

    /// Answers the first section of a request, from its keys to the finished body of the reply.
    ///
    /// # Panics
    /// If the section is not of this table's schema.
    #[must_use]
    pub fn answer(&self, request: &Request) -> Bytes {
        let section = request.sections().next().expect("a request has a section");
        let header = ReplyHeader { generation: 1, server_ms: 1 };
        let conversion = Conversion::new(&self.schema, ValueForm::Native).expect("the native form is always there");
        let keys = section.keys;
        let shown = Shown { version: Version(1), content: CONTENT, epoch: Epoch(1) };
        let label = SectionLabel { served: Some(shown), ..SectionLabel::unknown(TableUid(1)) };
        let mut writer = ReplyWriter::new(header, conversion.reply_bytes(keys.len(), 128), REPLY_BYTES_MAX);
        let batch = Batch { image: &self.image, keys, as_of: 0, read_ts_s: 0 };
        answer_keys(&mut writer, label, batch, conversion).expect("the reply is small");
        writer.finish()
    }
}

/// Loads images of one version as a server does, with its default configuration.
#[derive(Debug)]
pub struct Loads {
    loader: Loader,
    uid: TableUid,
    record: VersionRecord,
    _reaper: TaskHandle,
}

/// An image whose records are on SSD.
#[derive(Debug)]
pub struct DiskTable {
    schema: Schema,
    image: Image,
    _local: LocalImage,
    reader: DiskReader,
}

impl DiskTable {
    /// Answers the first section of a request, from its keys to the finished body of the reply.
    ///
    /// # Panics
    /// If the section is not of this table's schema, or something cannot be read.
    pub async fn answer(&self, request: &Request) -> Bytes {
        let section = request.sections().next().expect("a request has a section");
        let conversion = Conversion::new(&self.schema, ValueForm::Native).expect("the native form is always there");
        let shown = Shown { version: self.image.version(), content: self.image.content(), epoch: Epoch(1) };
        let label = SectionLabel { served: Some(shown), ..SectionLabel::unknown(section.header.table) };
        let header = ReplyHeader { generation: 1, server_ms: 1 };
        let mut writer = ReplyWriter::new(header, conversion.reply_bytes(section.keys.len(), 128), REPLY_BYTES_MAX);
        let answers = read_keys(&self.reader, &section, &self.image, 0, REPLY_BYTES_MAX).await.expect("readable");
        put_read(&mut writer, label, &answers, conversion).expect("the reply is small");
        writer.finish()
    }

    /// Reads of local files so far.
    #[must_use]
    pub fn reads(&self) -> u64 {
        self.reader.io.counts().reads
    }
}

/// A loaded image, with its local files.
#[derive(Debug)]
pub struct LoadedImage {
    image: Image,
    local: LocalImage,
}

impl Loads {
    /// Loads `record` of table `uid` from `store`; local files go to `images_dir`, which exists.
    ///
    /// # Errors
    /// Local files cannot be read.
    pub fn new(
        env: &Env,
        store: Store,
        images_dir: PathBuf,
        uid: TableUid,
        record: VersionRecord,
        config: &KvConfig,
    ) -> std::io::Result<Self> {
        let (reaper, task) = Reaper::start(env);
        let keys = Keys::new("measure").expect("a good name");
        let loader = Loader {
            env: env.clone(),
            meta: Meta::new(Arc::new(EmbeddedStore::in_memory(env)), keys),
            fetcher: Fetcher::new(env, store, config.load_bytes_per_s),
            ledger: Ledger::new(u64::MAX, u64::MAX),
            reaper,
            images_dir,
            io: crate::io::open(&config.io)?,
            cache: RecordCache::new(config.cache_bytes())?,
            reads: config.load_reads,
            read_bytes: config.load_read_bytes,
            group_bytes: config.group_bytes,
            scrub_throttle: Throttle::new(config.scrub_bytes_per_s),
        };
        Ok(Self { loader, uid, record, _reaper: task })
    }

    /// The image of a table whose records are on SSD, ready for lookups.
    #[must_use]
    pub fn on_disk(&self, image: LoadedImage, schema: Schema) -> DiskTable {
        let LoadedImage { image, local } = image;
        let (io, cache) = (Arc::clone(&self.loader.io), Arc::clone(&self.loader.cache));
        let reader = DiskReader { io, cache, faults: Arc::default() };
        DiskTable { schema, image, _local: local, reader }
    }

    /// Loads the image from the store, and writes its local files.
    ///
    /// # Errors
    /// Why parts are missing.
    pub async fn from_store(&self) -> Result<LoadedImage, String> {
        self.load(None).await
    }

    /// Loads the image from the local files of an earlier load.
    ///
    /// # Errors
    /// Why parts are missing.
    pub async fn from_files(&self, earlier: &LoadedImage) -> Result<LoadedImage, String> {
        self.load(Some(earlier.local.clone())).await
    }

    async fn load(&self, local: Option<LocalImage>) -> Result<LoadedImage, String> {
        let label = Label { version: self.record.version, content: self.record.content, epoch: Epoch(1) };
        let from_files = local.is_some();
        let request = LoadRequest {
            uid: self.uid,
            start: LoadStart { label, existing: None, local, reread: false, distrusted: PartSet::EMPTY },
            version: Some(self.record.clone()),
            parts: (0..fkv_formats::id::PART_COUNT).map(Part).collect::<PartSet>(),
        };
        let Loaded { image, local, missing, fresh_files, .. } =
            self.loader.load(request).await.map_err(|trouble| format!("{trouble:?}"))?;
        match missing {
            Some(trouble) => Err(format!("{trouble:?}")),
            None if from_files && !fresh_files.is_empty() => Err("local files were not used".to_owned()),
            None => Ok(LoadedImage { image, local }),
        }
    }
}

impl LoadedImage {
    /// Memory of the image.
    #[must_use]
    pub fn memory_bytes(&self) -> u64 {
        self.image.memory_bytes()
    }

    /// Its records.
    #[must_use]
    pub fn records(&self) -> u64 {
        self.image.records()
    }

    /// Names of its packs in the directory of images.
    #[must_use]
    pub fn pack_names(&self) -> Vec<String> {
        self.local.packs.iter().map(|pack| pack.name.clone()).collect()
    }
}
