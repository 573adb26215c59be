//! A cluster in a temporary directory: metadata in memory, a file store, any number of DataSvrs, and slots that hold
//! whatever they are told to show.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use fkv_datasvr::{DataConfig, DataServer, FileInputs, Sources};
use fkv_env::{ChannelOptions, Env, TaskHandle};
use fkv_formats::checksum::verify_part;
use fkv_formats::id::{Part, Role, Slot, TableUid, Version};
use fkv_formats::manifest::Form;
use fkv_formats::pack::{DirectoryRead, PackDirectory};
use fkv_formats::record::Key;
use fkv_meta::embedded::EmbeddedStore;
use fkv_meta::key::Keys;
use fkv_meta::mirror::Mirror;
use fkv_meta::record::{Held, Report, SlotClaim};
use fkv_meta::store::MetaStore;
use fkv_meta::{Meta, View, txn};
use fkv_rpc::control as rpc;
use fkv_rpc::control::control_client::ControlClient;
use fkv_store::{Store, StoreOptions};
use tempfile::TempDir;
use tonic::transport::Channel;

/// How long a condition may take before a test gives up on it.
const PATIENCE: Duration = Duration::from_secs(60);
pub(crate) const MODULE: &str = "test";

pub(crate) struct World {
    pub(crate) env: Env,
    pub(crate) meta: Arc<dyn MetaStore>,
    pub(crate) store: Store,
    pub(crate) dir: TempDir,
    mirror: Mirror,
}

/// A record as it was decoded: key as it sorts, expiry, stored value.
pub(crate) type Records = BTreeMap<OwnedKey, (u32, Vec<u8>)>;

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum OwnedKey {
    U64(u64),
    Bytes(Vec<u8>),
}

impl World {
    pub(crate) async fn new() -> Self {
        let env = Env::real(2).expect("threads start");
        let dir = tempfile::tempdir().expect("a temporary directory");
        let meta: Arc<dyn MetaStore> = Arc::new(EmbeddedStore::in_memory(&env));
        let url = format!("file://{}/store", dir.path().display());
        let store = fkv_store::open(&env, &url, &StoreOptions::default()).expect("the store opens");
        let mirror = Mirror::start(&env, Arc::clone(&meta), Self::keys());
        mirror.ready().await;
        Self { env, meta, store, dir, mirror }
    }

    pub(crate) fn keys() -> Keys {
        Keys::new(MODULE).expect("a good name")
    }

    pub(crate) fn meta(&self) -> Meta {
        Meta::new(Arc::clone(&self.meta), Self::keys())
    }

    /// URL of a file or directory of this world.
    pub(crate) fn url(&self, name: &str) -> String {
        format!("file://{}/in/{name}", self.dir.path().display())
    }

    /// Writes an input file.
    pub(crate) fn put(&self, name: &str, bytes: &[u8]) {
        let path = self.dir.path().join("in").join(name);
        let parent = path.parent().expect("a file has a directory");
        self.env.files.create_dir_all(parent).expect("the directory is made");
        self.env.files.write_durably(&path, bytes).expect("the file is written");
    }

    pub(crate) fn config(&self, worker: &str) -> DataConfig {
        DataConfig {
            module: MODULE.into(),
            worker: worker.into(),
            listen: "127.0.0.1:0".parse().expect("an address"),
            sources: Sources { files: FileInputs::Any, ..Sources::default() },
            lease_ttl: Duration::from_secs(1),
            build_memory: 1 << 30,
            retry_pause: Duration::from_millis(5),
            ..DataConfig::default()
        }
    }

    /// Starts a DataSvr with the world's own environment.
    pub(crate) async fn server(&self, worker: &str) -> DataServer {
        self.server_with(self.config(worker)).await
    }

    pub(crate) async fn server_with(&self, config: DataConfig) -> DataServer {
        DataServer::start(self.env.clone(), config, Arc::clone(&self.meta), Store::clone(&self.store))
            .await
            .expect("the server starts")
    }

    pub(crate) fn client(&self, server: &DataServer) -> ControlClient<Channel> {
        let address = server.addr().to_string();
        let channel = fkv_env::channel(Arc::clone(&self.env.net), &address, ChannelOptions::default());
        ControlClient::new(channel.expect("an address"))
    }

    /// Initialises a cluster of one sect and keeps its slots holding whatever tables aim at.
    pub(crate) async fn slots(&self, client: &mut ControlClient<Channel>) -> Slots {
        let servers = (0..2)
            .map(|n| rpc::ServerSpec { server: format!("kv-{n}"), address: format!("127.0.0.1:{}", 7310 + n) })
            .collect();
        let sects = vec![rpc::SectSpec { name: "a".into(), servers }];
        client.init_cluster(rpc::InitClusterRequest { sects }).await.expect("the cluster is made");
        Slots::start(self).await
    }

    /// Waits until metadata satisfies a condition.
    pub(crate) async fn wait(&self, what: &str, condition: impl FnMut(&View) -> bool) -> Arc<View> {
        let found = fkv_env::timeout(&*self.env.clock, PATIENCE, self.mirror.wait_for(condition)).await;
        found.unwrap_or_else(|_| panic!("waited in vain for: {what}"))
    }

    /// Watches a task to its end.
    pub(crate) async fn finish(&self, client: &mut ControlClient<Channel>, task: &rpc::Task) -> rpc::Task {
        self.until(client, task, |task| matches!(task.state.as_str(), "finished" | "failed" | "cancelled" | "skipped"))
            .await
    }

    /// Watches a task until it satisfies a condition.
    pub(crate) async fn until(
        &self,
        client: &mut ControlClient<Channel>,
        task: &rpc::Task,
        condition: impl Fn(&rpc::Task) -> bool,
    ) -> rpc::Task {
        let request = rpc::ShowTaskRequest { table: task.table.clone(), task: task.task };
        let mut stream = client.watch_task(request).await.expect("the task is watched").into_inner();
        let mut last = None;
        let watched = async {
            while let Some(task) = stream.message().await.expect("the watch goes on") {
                if condition(&task) {
                    return Some(task);
                }
                last = Some(task);
            }
            None
        };
        match fkv_env::timeout(&*self.env.clock, PATIENCE, watched).await {
            Ok(Some(task)) => task,
            Ok(None) => panic!("the watch ended before the condition held: {last:?}"),
            Err(_) => panic!("the task never came that far: {last:?}"),
        }
    }

    pub(crate) async fn table(&self, name: &str) -> (TableUid, fkv_meta::record::TableRecord) {
        let table = self.meta().table(name).await.expect("metadata answers").expect("there is such a table");
        (table.uid(), table.value)
    }

    /// Decodes a version from the store, verifying every checksum on the way.
    pub(crate) async fn decode(&self, table: &str, version: u64) -> Records {
        let (uid, _) = self.table(table).await;
        let record = self.meta().version(uid, Version(version)).await.expect("metadata answers").expect("a version");
        let form_ref = &record.value.forms[0].object;
        let bytes = self.store.get(&form_ref.path).await.expect("the form is there");
        assert_eq!(fkv_formats::checksum::sha256(&bytes), form_ref.sha256, "the form is the one pinned");
        let form = Form::decode(&bytes).expect("the form decodes");
        assert_eq!((form.uid, form.content, form.as_of), (uid, record.value.content, record.value.as_of));
        let [layer] = form.layers.as_slice() else { panic!("a full form has one layer") };
        let mut directories = Vec::new();
        for object in &layer.objects {
            let start = object.len - object.tail_len;
            let tail = self.store.get_range(&object.path, start..object.len).await.expect("the tail is there");
            let DirectoryRead::Ready(directory) = PackDirectory::parse(&tail, object.len).expect("it parses") else {
                panic!("the tail is as long as the form says");
            };
            directories.push(directory);
        }
        let mut records = Records::new();
        for number in 0..fkv_formats::id::PART_COUNT {
            let (part, entry) = (Part(number), layer.part(Part(number)));
            if entry.is_empty() {
                continue;
            }
            let (object, directory) = (&layer.objects[entry.object as usize], &directories[entry.object as usize]);
            let range = entry.offset..entry.offset + entry.len;
            let image = self.store.get_range(&object.path, range).await.expect("the part is there");
            let described = directory.part(part).expect("the pack describes the part");
            assert_eq!(described.digest, entry.digest);
            verify_part(&image, described, entry.origin(uid)).expect("the part's checksums match");
            let layout = described.layout().expect("the header parses");
            for record in layout.iter(&image, part, entry.origin(uid)) {
                let record = record.expect("the records decode");
                let key = match record.key {
                    Key::U64(key) => OwnedKey::U64(key),
                    Key::Bytes(key) => OwnedKey::Bytes(key.to_vec()),
                };
                let value = record.value.expect("a full load has no tombstones").to_vec();
                assert!(records.insert(key, (record.expiry, value)).is_none(), "every key stands once");
            }
        }
        assert_eq!(records.len() as u64, record.value.rows);
        records
    }

    /// How a version is stored.
    pub(crate) async fn form(&self, table: &str, version: u64) -> Form {
        let (uid, _) = self.table(table).await;
        let record = self.meta().version(uid, Version(version)).await.expect("metadata answers").expect("a version");
        let bytes = self.store.get(&record.value.forms[0].object.path).await.expect("the form is there");
        Form::decode(&bytes).expect("the form decodes")
    }

    /// The digests of all parts of a version.
    pub(crate) async fn digests(&self, table: &str, version: u64) -> Vec<fkv_formats::id::Digest> {
        self.form(table, version).await.layers[0].digests()
    }
}

/// Slots of sect `a` that report every table's aligned and target content, as KVSvrs that load in no time would.
pub(crate) struct Slots {
    _task: TaskHandle,
}

impl Slots {
    async fn start(world: &World) -> Self {
        let meta = world.meta();
        let lease = meta.store.grant(Duration::from_secs(3600)).await.expect("a lease");
        let mut incarnations = Vec::new();
        for role in 0..2u16 {
            let slot = Slot { sect: "a".into(), role: Role(role) };
            let claim = SlotClaim { server: format!("kv-{role}"), addr: format!("127.0.0.1:{}", 7310 + role) };
            let incarnation = meta.claim_slot(&slot, &claim, lease).await.expect("the slot is claimed");
            incarnations.push((slot, incarnation));
        }
        let mut views = world.mirror.subscribe();
        let env = world.env.clone();
        let task = env.spawn.spawn(
            "slots",
            Box::pin(async move {
                let mut last = BTreeMap::new();
                loop {
                    let view = Arc::clone(&views.borrow_and_update());
                    let mut tables: BTreeMap<TableUid, Vec<Held>> = BTreeMap::new();
                    for table in view.tables() {
                        let labels = table.value.aligned.iter().chain(&table.value.target);
                        let held = labels.map(|label| Held { content: label.content, version: label.version });
                        let mut held: Vec<Held> = held.collect();
                        held.dedup();
                        tables.insert(table.uid(), held);
                    }
                    if tables != last {
                        let generation = view.topology().map_or(0, |topology| topology.value.generation);
                        for (slot, incarnation) in &incarnations {
                            let report = Report {
                                incarnation: *incarnation,
                                generation,
                                tables: tables.clone(),
                                problems: BTreeMap::new(),
                            };
                            let standing = meta.report(slot).await.expect("read").map(|report| report.modified);
                            let written = txn::report(&meta.keys, slot, standing, &report);
                            meta.run(written).await.expect("the report is written");
                        }
                        last = tables;
                    }
                    if views.changed().await.is_err() {
                        return;
                    }
                }
            }),
        );
        Self { _task: task }
    }
}

/// A request for a table with `u64` keys.
pub(crate) fn table(name: &str, value_type: &str) -> rpc::CreateTableRequest {
    rpc::CreateTableRequest {
        name: name.into(),
        kind: "mem".into(),
        key_type: "u64".into(),
        value_type: value_type.into(),
        ..Default::default()
    }
}

/// A full load of columns `id` and `v` from one input.
pub(crate) fn load(table: &str, input: String) -> rpc::SubmitLoadRequest {
    rpc::SubmitLoadRequest {
        table: table.into(),
        spec: Some(rpc::LoadSpec {
            inputs: vec![input],
            mode: "full".into(),
            format: "parquet".into(),
            key_column: "id".into(),
            value_columns: vec!["v".into()],
            ..Default::default()
        }),
        submit_id: String::new(),
    }
}

/// The same load with its spec changed.
pub(crate) fn with(
    mut request: rpc::SubmitLoadRequest,
    change: impl FnOnce(&mut rpc::LoadSpec),
) -> rpc::SubmitLoadRequest {
    change(request.spec.as_mut().expect("a request has a spec"));
    request
}

/// Submits a load and watches it to its end.
pub(crate) async fn run(
    world: &World,
    client: &mut ControlClient<Channel>,
    request: rpc::SubmitLoadRequest,
) -> rpc::Task {
    let submitted = client.submit_load(request).await.expect("the load is accepted").into_inner();
    world.finish(client, &submitted.task.expect("a reply has a task")).await
}
