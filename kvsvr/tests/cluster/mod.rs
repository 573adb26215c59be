//! A module in one process: embedded metadata and a file store, both with a switch; versions built and committed by
//! hand, so that servers are tested without the rest of the system.

#![allow(dead_code, reason = "every test file uses its own part of it")]

mod switch;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use fkv_env::{ChannelOptions, Env};
use fkv_formats::checksum::{Origin, sha256};
use fkv_formats::id::{ContentId, Digest, Slot, TableUid, TaskId, Version};
use fkv_formats::manifest::{Form, Layer, content_id_full};
use fkv_formats::pack::PackWriter;
use fkv_formats::record::{Key, RecordRef};
use fkv_formats::route::part_of;
use fkv_formats::schema::{KeyType, Schema, Storage, TableKind, ValueType};
use fkv_formats::table::Profile;
use fkv_kvsvr::{KvConfig, KvServer};
use fkv_meta::embedded::EmbeddedStore;
use fkv_meta::key::Keys;
use fkv_meta::mirror::Mirror;
use fkv_meta::record::{
    Assignment, BuildStats, FormKind, FormRef, InputFormat, LoadMode, LoadSpec, ObjectRef, RetainOld,
};
use fkv_meta::store::Revision;
use fkv_meta::txn::{self, Build, NewTable, Submitted};
use fkv_meta::{Meta, Refusal, View};
use fkv_rpc::kv;
use fkv_rpc::kv::kv_client::KvClient;
use fkv_rpc::packed::{self, Reply, RequestHeader, RequestWriter, SectionHeader, Selector, ValueForm};
use fkv_rpc::status::Failure;
use fkv_store::Store;
use fkv_store::StoreOptions;
use tempfile::TempDir;
use tonic::transport::Channel;

pub(crate) use self::switch::{SwitchedMeta, SwitchedStore};

/// Everything waits at most this long for a condition.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) struct Cluster {
    pub(crate) env: Env,
    pub(crate) dir: TempDir,
    pub(crate) meta: Meta,
    pub(crate) meta_switch: Arc<SwitchedMeta>,
    pub(crate) store_switch: Arc<SwitchedStore>,
    /// Sees metadata also while the switch is off.
    pub(crate) mirror: Mirror,
    task: std::sync::atomic::AtomicU64,
}

/// A record to be loaded.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    pub(crate) key: Vec<u8>,
    pub(crate) number: u64,
    pub(crate) expiry: u32,
    pub(crate) value: Vec<u8>,
}

impl Row {
    pub(crate) fn u64(number: u64, value: impl Into<Vec<u8>>) -> Self {
        Self { key: Vec::new(), number, expiry: 0, value: value.into() }
    }

    pub(crate) fn bytes(key: &str, value: impl Into<Vec<u8>>) -> Self {
        Self { key: key.into(), number: 0, expiry: 0, value: value.into() }
    }
}

pub(crate) fn schema(key: KeyType, value: ValueType) -> Schema {
    Schema { kind: TableKind::Mem, key, value, storage: Storage::Native, f16_overflow: Default::default(), ttl: false }
}

impl Cluster {
    /// A module whose sects have these names and numbers of roles. Slot `s/r` is served by server `s-r`.
    pub(crate) async fn new(sects: &[(&str, u16)]) -> Self {
        let env = Env::real(2).expect("threads start");
        let dir = tempfile::tempdir().expect("a temporary directory");
        let keys = Keys::new("test").expect("a good name");
        let embedded: Arc<EmbeddedStore> = Arc::new(EmbeddedStore::in_memory(&env));
        let meta_switch = Arc::new(SwitchedMeta::new(embedded.clone()));
        let meta = Meta::new(embedded.clone(), keys.clone());
        let store_dir = dir.path().join("store");
        env.files.create_dir_all(&store_dir).expect("created");
        let url = format!("file://{}", store_dir.display());
        let store = fkv_store::open(&env, &url, &StoreOptions::default()).expect("a file store");
        let store_switch = Arc::new(SwitchedStore::new(store));
        let mirror = Mirror::start(&env, embedded, keys);
        let sects: BTreeMap<String, Vec<Assignment>> = sects
            .iter()
            .map(|(name, roles)| {
                let slots = (0..*roles).map(|role| Assignment {
                    server: format!("{name}-{role}"),
                    addr: format!("127.0.0.1:{}", 7310 + role),
                });
                ((*name).to_owned(), slots.collect())
            })
            .collect();
        meta.change(|view| txn::init_cluster(view, sects.clone())).await.expect("initialised");
        Self { env, dir, meta, meta_switch, store_switch, mirror, task: Default::default() }
    }

    pub(crate) fn store(&self) -> Store {
        Arc::clone(&self.store_switch) as Store
    }

    pub(crate) fn config(&self, server: &str) -> KvConfig {
        KvConfig {
            module: "test".into(),
            server: server.into(),
            listen: "127.0.0.1:0".parse().expect("an address"),
            data_dir: self.data_dir(server),
            memory_bytes_max: 1 << 30,
            disk_bytes_max: 1 << 30,
            lease_ttl_s: 1,
            ..KvConfig::default()
        }
    }

    pub(crate) fn data_dir(&self, server: &str) -> PathBuf {
        self.dir.path().join(server)
    }

    pub(crate) async fn start(&self, server: &str) -> Running {
        self.start_with(self.config(server)).await
    }

    pub(crate) async fn start_with(&self, config: KvConfig) -> Running {
        let meta = Arc::clone(&self.meta_switch);
        let server = KvServer::start(self.env.clone(), config, meta, self.store()).await.expect("started");
        let options = ChannelOptions::default();
        let channel =
            fkv_env::channel(Arc::clone(&self.env.net), &server.addr().to_string(), options).expect("a channel");
        Running { env: self.env.clone(), server, channel }
    }

    pub(crate) async fn create_table(&self, name: &str, schema: &Schema) -> TableUid {
        self.create_table_with(name, schema, RetainOld::Ram).await
    }

    pub(crate) async fn create_table_with(&self, name: &str, schema: &Schema, retain_old: RetainOld) -> TableUid {
        let new = NewTable {
            name: name.into(),
            schema: schema.clone(),
            retain_versions: 2,
            retain_old,
            filter: Default::default(),
        };
        let made = self.meta.change(|view| txn::create_table(view, new.clone(), 1)).await.expect("created");
        TableUid(made.revision.0)
    }

    /// Builds and commits a full load; gives its version and content.
    pub(crate) async fn publish(&self, table: &str, as_of: u32, rows: &[Row]) -> (Version, ContentId) {
        let number = self.task.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let submit_id = format!("submit-{number}");
        let spec = LoadSpec {
            inputs: vec!["file:///input".into()],
            mode: LoadMode::Full,
            format: InputFormat::Parquet,
            key_column: "key".into(),
            value_columns: vec!["value".into()],
            expiry_column: None,
            delete_column: None,
            nulls: Default::default(),
            duplicates: Default::default(),
            max_bad_rows: 0,
            require_success: false,
        };
        let submitted = self
            .meta
            .change(|view| match txn::submit(view, table, None, &submit_id, &spec, 1)? {
                Submitted::New(planned) => Ok(*planned),
                Submitted::Already(_) => panic!("every submit id is used once"),
            })
            .await
            .expect("submitted");
        let task: TaskId = submitted.after.task.task;
        self.meta.change(|view| txn::start_task(view, table, task, 1)).await.expect("started");
        let lease = self.meta.store.grant(Duration::from_secs(3600)).await.expect("a lease");
        let claimed = self
            .meta
            .change(|view| {
                let (table, task) = both(view, table, task);
                txn::claim_task(view.keys(), table, task, "worker", lease)
            })
            .await
            .expect("claimed");
        let token = Revision(claimed.revision.0);
        let nowhere = ObjectRef { path: "none".into(), len: 0, sha256: Digest([0; 32]) };
        self.meta
            .change(|view| {
                let (table, task) = both(view, table, task);
                txn::freeze_plan(view.keys(), table, task, token, as_of, nowhere.clone(), nowhere.clone())
            })
            .await
            .expect("frozen");
        let record = self.meta.table(table).await.expect("read").expect("there");
        let build = self.build(record.uid(), record.value.head.next(), &record.value.schema, as_of, rows).await;
        let published = self
            .meta
            .change(|view| {
                let (table, task) = both(view, table, task);
                txn::publish(view.keys(), table, task, token, None, build.clone(), 1)
            })
            .await
            .expect("published");
        (published.after.version.version, published.after.version.content)
    }

    async fn build(&self, uid: TableUid, version: Version, schema: &Schema, as_of: u32, rows: &[Row]) -> Build {
        let key = |row: &'_ Row| match schema.key {
            KeyType::U64 => row.number.to_le_bytes().to_vec(),
            KeyType::Bytes => row.key.clone(),
        };
        let keys: Vec<Vec<u8>> = rows.iter().map(key).collect();
        let mut records: Vec<RecordRef<'_>> = rows
            .iter()
            .zip(&keys)
            .map(|(row, key)| {
                let key = match schema.key {
                    KeyType::U64 => Key::U64(row.number),
                    KeyType::Bytes => Key::Bytes(key),
                };
                RecordRef::new(key, row.expiry, Some(&row.value))
            })
            .collect();
        records.sort_by_key(|record| (record.h, record.key));
        let mut layer = Layer::default();
        let mut bytes = 0;
        // Two packs, so that a role's parts come from several objects.
        for half in 0..2_u16 {
            let mut pack =
                PackWriter::new(Vec::new(), Origin { uid, version }, schema, Profile::CURRENT).expect("a good schema");
            for group in records.chunk_by(|a, b| part_of(a.h) == part_of(b.h)) {
                let part = part_of(group[0].h);
                if part.0 / 1200 == half {
                    pack.add_part(part, group).expect("built");
                }
            }
            let (summary, object) = pack.finish().expect("finished");
            let path = format!("tables/{:016x}/{}/pack-{half}", uid.0, version);
            bytes += object.len() as u64;
            self.store().put(&path, object.into()).await.expect("stored");
            layer.add_pack(&path, &summary).expect("added");
        }
        let content = content_id_full(uid, schema, as_of, &layer.digests());
        let form = Form { uid, content, schema: schema.clone(), profile: Profile::CURRENT, as_of, layers: vec![layer] };
        let form = form.encode();
        let path = format!("tables/{:016x}/{}/form", uid.0, version);
        let object = ObjectRef { path: path.clone(), len: form.len() as u64, sha256: sha256(&form) };
        self.store().put(&path, form.into()).await.expect("stored");
        Build {
            version,
            content,
            forms: vec![FormRef { kind: FormKind::Full, object }],
            rows: rows.len() as u64,
            bytes,
            stats: BuildStats::default(),
        }
    }

    /// Flips a table to its target as soon as every required slot has reported it.
    pub(crate) async fn align(&self, table: &str) {
        self.wait_meta(&format!("table {table} to be held everywhere"), |view| {
            !matches!(
                txn::flip(view, table, 1),
                Err(Refusal::NotHeld { .. } | Refusal::NoRequiredSlots(_) | Refusal::NothingToAlign(_))
            )
        })
        .await;
        self.meta.change(|view| txn::flip(view, table, 1)).await.expect("flipped");
    }

    pub(crate) async fn rollback(&self, table: &str, to: Version) -> bool {
        let rolled_back = self.meta.change(|view| txn::rollback(view, table, Some(to), None, 1)).await;
        rolled_back.expect("rolled back").after.at_once
    }

    pub(crate) async fn wait_meta(&self, what: &str, condition: impl FnMut(&View) -> bool) -> Arc<View> {
        let waited = fkv_env::timeout(self.env.clock.as_ref(), PATIENCE, self.mirror.wait_for(condition)).await;
        waited.unwrap_or_else(|_| {
            panic!("waited too long for {what}: {:?}", self.mirror.view().reports().collect::<Vec<_>>())
        })
    }

    /// The contents that a slot's report names, if the report counts.
    pub(crate) fn reported(view: &View, slot: &str, uid: TableUid) -> Vec<ContentId> {
        let slot: Slot = slot.parse().expect("a slot");
        let held = view.valid_report(&slot).and_then(|report| report.tables.get(&uid));
        held.map_or(Vec::new(), |held| held.iter().map(|held| held.content).collect())
    }
}

fn both<'v>(
    view: &'v View,
    table: &str,
    task: TaskId,
) -> (&'v fkv_meta::Stamped<fkv_meta::record::TableRecord>, &'v fkv_meta::Stamped<fkv_meta::record::TaskRecord>) {
    let table = view.table(table).expect("the table is there");
    (table, view.task(table.uid(), task).expect("the task is there"))
}

/// A server with a client.
pub(crate) struct Running {
    env: Env,
    pub(crate) server: KvServer,
    channel: Channel,
}

impl Running {
    pub(crate) fn channel(&self) -> Channel {
        self.channel.clone()
    }

    pub(crate) fn client(&self) -> KvClient<Channel> {
        let max = packed::REPLY_BYTES_MAX + packed::MESSAGE_OVERHEAD_BYTES;
        KvClient::new(self.channel()).max_decoding_message_size(max).max_encoding_message_size(max)
    }

    pub(crate) async fn try_get(&self, body: bytes::Bytes) -> Result<Reply, Failure> {
        let reply = self.client().batch_get(kv::BatchGetRequest { body }).await;
        let reply = reply.map_err(|status| Failure::of(&status))?;
        Ok(Reply::parse(reply.into_inner().body).expect("a good reply"))
    }

    pub(crate) async fn get(&self, uid: TableUid, keys: &[u64]) -> Reply {
        self.try_get(request(uid, Selector::Aligned, ValueForm::Native, 0, keys)).await.expect("answered")
    }

    pub(crate) async fn get_at(&self, uid: TableUid, selector: Selector, keys: &[u64]) -> Reply {
        self.try_get(request(uid, selector, ValueForm::Native, 0, keys)).await.expect("answered")
    }

    pub(crate) async fn get_bytes(&self, uid: TableUid, read_ts_ms: u64, keys: &[&str]) -> Reply {
        let bytes = keys.iter().map(|key| key.len()).sum();
        let mut writer = RequestWriter::new(
            RequestHeader { read_ts_ms, ..RequestHeader::default() },
            packed::bytes_section_bytes(keys.len(), bytes),
        );
        let header = SectionHeader { table: uid, selector: Selector::Aligned, form: ValueForm::Native };
        writer.bytes_section(header, bytes, keys.iter().map(|key| key.as_bytes()));
        self.try_get(writer.finish()).await.expect("answered")
    }

    pub(crate) async fn status(&self) -> kv::StatusReply {
        self.client().status(kv::StatusRequest {}).await.expect("answered").into_inner()
    }

    /// Asks for the status until it is as it should be.
    pub(crate) async fn wait_status(
        &self,
        what: &str,
        condition: impl Fn(&kv::StatusReply) -> bool,
    ) -> kv::StatusReply {
        let deadline = self.env.clock.monotonic() + PATIENCE;
        loop {
            let status = self.status().await;
            if condition(&status) {
                return status;
            }
            assert!(self.env.clock.monotonic() < deadline, "waited too long for {what}: {status:?}");
            self.env.clock.sleep(Duration::from_millis(5)).await;
        }
    }

    pub(crate) async fn wait_serving(&self, uid: TableUid, content: ContentId) {
        self.wait_status("a content to be served", |status| {
            table_status(status, uid)
                .and_then(|table| table.serving.as_ref())
                .is_some_and(|serving| serving.content_id == content.to_string())
        })
        .await;
    }

    pub(crate) async fn shutdown(self) {
        self.server.shutdown().await;
    }
}

pub(crate) fn table_status(status: &kv::StatusReply, uid: TableUid) -> Option<&kv::TableStatus> {
    status.tables.iter().find(|table| table.uid == uid.0)
}

pub(crate) fn request(
    uid: TableUid,
    selector: Selector,
    form: ValueForm,
    read_ts_ms: u64,
    keys: &[u64],
) -> bytes::Bytes {
    let header = RequestHeader { read_ts_ms, ..RequestHeader::default() };
    let mut writer = RequestWriter::new(header, packed::u64_section_bytes(keys.len()));
    writer.u64_section(SectionHeader { table: uid, selector, form }, keys.iter().copied());
    writer.finish()
}

/// The value of a key in a version: every value tells where it is from.
pub(crate) fn value_of(version: Version, key: u64) -> i64 {
    i64::try_from(version.0 * 1_000_000_000 + key).expect("small numbers")
}

/// Rows of one version of a table of integers.
pub(crate) fn rows(version: u64, count: u64) -> Vec<Row> {
    (0..count).map(|key| Row::u64(key, value_of(Version(version), key).to_le_bytes())).collect()
}

/// The values of a section, in the order of its keys.
pub(crate) fn values<'r>(section: &packed::ReplySection<'r>) -> Vec<Option<&'r [u8]>> {
    let answers = section.answers();
    answers.map(|(status, value)| (status == packed::KeyStatus::Found).then_some(value)).collect()
}

/// Checks every answer of a section of integers against its own label; gives the version served.
pub(crate) fn check_integers(reply: &Reply, keys: &[u64], count: u64) -> Version {
    let section = reply.section(0).expect("one section");
    assert_eq!(section.status(), packed::SectionStatus::Ok);
    let version = section.label().served.expect("served").version;
    for (key, found) in keys.iter().zip(values(&section)) {
        let expected = (*key < count).then(|| value_of(version, *key).to_le_bytes());
        assert_eq!(found, expected.as_ref().map(<[u8; 8]>::as_slice), "key {key} of version {version}");
    }
    version
}
