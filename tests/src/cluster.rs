//! A whole cluster in the test's process: embedded metadata in memory, a store in a temporary directory, one DataSvr
//! and one KVSvr per slot, all on loopback.
//!
//! ```text
//!   DIR/in       inputs of loads            DIR/store    the object store
//!   DIR/kv/a-0   what each KVSvr keeps
//! ```

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use fkv_client::{Client, ClientConfig};
use fkv_datasvr::{DataConfig, DataServer, FileInputs, Sources};
use fkv_env::Env;
use fkv_formats::id::Version;
use fkv_kvsvr::{KvConfig, KvServer};
use fkv_meta::embedded::EmbeddedStore;
use fkv_meta::store::MetaStore;
use fkv_rpc::control::{LoadSpec, SectSpec, ServerSpec};
use fkv_store::{Store, StoreOptions};
use tempfile::TempDir;

use crate::control::{Control, full_load};
use crate::model::Model;
use crate::process::free_ports;
use crate::{rows, wait};

/// Time to live of all leases: short, so that what a dead server leaves goes soon.
const LEASE: Duration = Duration::from_secs(3);

#[derive(Debug)]
struct Slot {
    config: KvConfig,
    running: Option<KvServer>,
}

/// A running cluster; everything goes when it is dropped.
#[derive(Debug)]
pub struct Cluster {
    /// The outside world of all its parts.
    pub env: Env,
    /// Its control API.
    pub control: Control,
    meta: Arc<dyn MetaStore>,
    store: Store,
    data_config: DataConfig,
    data: Option<DataServer>,
    slots: BTreeMap<String, Slot>,
    // Last, so that it goes after those who write into it.
    dir: TempDir,
}

impl Cluster {
    /// Starts a DataSvr alone: no sect is declared yet.
    ///
    /// # Panics
    /// It does not start.
    pub async fn undeclared() -> Self {
        let env = Env::real(2).expect("threads start");
        let dir = tempfile::tempdir().expect("a temporary directory");
        let meta: Arc<dyn MetaStore> = Arc::new(EmbeddedStore::in_memory(&env));
        let url = format!("file://{}", dir.path().join("store").display());
        let store = fkv_store::open(&env, &url, &StoreOptions::default()).expect("a local store opens");
        let data_config = DataConfig {
            module: "test".into(),
            listen: free_address(&env),
            sources: Sources { files: FileInputs::Any, ..Sources::default() },
            lease_ttl: LEASE,
            retry_pause: Duration::from_millis(50),
            ..DataConfig::default()
        };
        let data = DataServer::start(env.clone(), data_config.clone(), Arc::clone(&meta), Store::clone(&store));
        let data = data.await.expect("the DataSvr starts");
        let control = Control::new(&env, &data.addr().to_string());
        control.ready().await;
        Self { env, control, meta, store, data_config, data: Some(data), slots: BTreeMap::new(), dir }
    }

    /// Starts a cluster of `sects` sects (`a`, `b`, …) with `roles` roles each, and waits until all slots are claimed.
    ///
    /// # Panics
    /// A part does not start.
    pub async fn start(sects: u8, roles: u16) -> Self {
        let mut cluster = Self::undeclared().await;
        let mut declared = Vec::new();
        for sect in (b'a'..).take(usize::from(sects)).map(|letter| char::from(letter).to_string()) {
            let mut servers = Vec::new();
            for role in 0..roles {
                let server = format!("{sect}-{role}");
                let config = KvConfig {
                    module: "test".into(),
                    server: server.clone(),
                    listen: free_address(&cluster.env),
                    data_dir: cluster.dir.path().join("kv").join(&server),
                    lease_ttl_s: LEASE.as_secs(),
                    ..KvConfig::default()
                };
                let running = cluster.start_kv(&config).await;
                servers.push(ServerSpec { server, address: running.addr().to_string() });
                cluster.slots.insert(format!("{sect}/{role}"), Slot { config, running: Some(running) });
            }
            declared.push(SectSpec { name: sect, servers });
        }
        cluster.control.init_cluster(declared).await.expect("the sects can be declared");
        cluster.all_claimed().await;
        cluster
    }

    async fn start_kv(&self, config: &KvConfig) -> KvServer {
        // What was dropped a moment ago lets go of its port at its next step.
        wait::until(&self.env, &format!("{} to start", config.server), async || {
            let (meta, store) = (Arc::clone(&self.meta), Store::clone(&self.store));
            KvServer::start(self.env.clone(), config.clone(), meta, store).await.map_err(|error| error.to_string())
        })
        .await
    }

    /// Waits until every running server has claimed its slot.
    pub async fn all_claimed(&self) {
        wait::until(&self.env, "all slots to be claimed", async || {
            let cluster = self.control.try_cluster().await.map_err(|status| status.to_string())?;
            let unclaimed: Vec<_> = cluster
                .sects
                .iter()
                .flat_map(|sect| &sect.slots)
                .filter(|slot| !slot.claimed && self.slots[&slot.slot].running.is_some())
                .map(|slot| &slot.slot)
                .collect();
            wait::check(unclaimed.is_empty(), || format!("unclaimed: {unclaimed:?}"))
        })
        .await;
    }

    /// Stops the server of a slot as a crash would: at once, without a word to anybody.
    ///
    /// # Panics
    /// There is no such slot.
    pub fn crash(&mut self, slot: &str) {
        let slot = self.slots.get_mut(slot).expect("a slot of the cluster");
        drop(slot.running.take().expect("a server that runs"));
    }

    /// Starts the server of a slot again, on its data and its address.
    ///
    /// # Panics
    /// There is no such slot, or the server does not start.
    pub async fn restart(&mut self, slot: &str) {
        let config = self.slots[slot].config.clone();
        let running = self.start_kv(&config).await;
        self.slots.insert(slot.to_owned(), Slot { config, running: Some(running) });
    }

    /// Waits until the servers that run show what they should, or say why they cannot.
    pub async fn all_ready(&self) {
        for server in self.slots.values().filter_map(|slot| slot.running.as_ref()) {
            server.ready().await;
        }
    }

    /// The slots, and whether their servers run.
    pub fn slots(&self) -> impl Iterator<Item = (&str, bool)> {
        self.slots.iter().map(|(name, slot)| (name.as_str(), slot.running.is_some()))
    }

    /// Stops the DataSvr as a crash would.
    pub fn crash_data(&mut self) {
        self.data = None;
    }

    /// Starts the DataSvr again, on its address.
    ///
    /// # Panics
    /// It does not start.
    pub async fn restart_data(&mut self) {
        let data = wait::until(&self.env, "the DataSvr to start again", async || {
            let (meta, store) = (Arc::clone(&self.meta), Store::clone(&self.store));
            let start = DataServer::start(self.env.clone(), self.data_config.clone(), meta, store);
            start.await.map_err(|error| error.to_string())
        });
        self.data = Some(data.await);
        self.control.ready().await;
    }

    /// Stops everything gracefully.
    pub async fn shutdown(mut self) {
        for slot in self.slots.values_mut() {
            if let Some(server) = slot.running.take() {
                server.shutdown().await;
            }
        }
        if let Some(data) = self.data.take() {
            data.shutdown().await;
        }
    }

    /// `host:port` of the control API.
    #[must_use]
    pub fn control_address(&self) -> String {
        self.data_config.listen.to_string()
    }

    /// `host:port` of every KVSvr.
    #[must_use]
    pub fn addresses(&self) -> Vec<String> {
        self.slots.values().map(|slot| slot.config.listen.to_string()).collect()
    }

    /// What a client of this cluster is told.
    #[must_use]
    pub fn client_config(&self) -> ClientConfig {
        client_config(self.addresses())
    }

    /// A new client.
    ///
    /// # Panics
    /// No server answers.
    pub async fn client(&self) -> Client {
        let client = Client::connect(self.env.clone(), self.client_config()).await;
        client.unwrap_or_else(|error| panic!("a client cannot connect: {error}"))
    }

    /// The directory of everything the cluster keeps.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Where an input of this name lies.
    #[must_use]
    pub fn input(&self, name: &str) -> PathBuf {
        self.dir.path().join("in").join(name)
    }

    /// Writes the rows of `version` of `model` and gives the load of them.
    #[must_use]
    pub fn model_load(&self, table: &str, model: &Model, version: Version) -> LoadSpec {
        model_load(&self.input(&format!("{table}-{version}.parquet")), model, version)
    }
}

/// Writes the rows of `version` of `model` to `path` and gives the load of them.
#[must_use]
pub fn model_load(path: &Path, model: &Model, version: Version) -> LoadSpec {
    rows::write_parquet(model, version, path);
    let expiry_column = if model.expiring_around.is_some() { "until".into() } else { String::new() };
    LoadSpec { expiry_column, ..full_load([format!("file://{}", path.display())]) }
}

/// What a client is told in tests: to be more patient than any machine is slow.
#[must_use]
pub fn client_config(endpoints: Vec<String>) -> ClientConfig {
    ClientConfig {
        rpc_timeout: Duration::from_secs(10),
        deadline: Duration::from_secs(30),
        topology_refresh: Duration::from_secs(1),
        ..ClientConfig::new(endpoints)
    }
}

/// An address of loopback that nobody has, and that no outgoing connection takes while its server is away.
fn free_address(env: &Env) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, free_ports(env, 1)[0]))
}
