//! A whole cluster on loopback in this process: embedded metadata (or etcd), a store, one DataSvr, a KVSvr per slot.

mod directory;
mod layout;

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use fkv_datasvr::{DataConfig, DataServer, FileInputs, Sources};
use fkv_env::Env;
use fkv_kvsvr::{IoConfig, KvConfig, KvServer};
use fkv_meta::Meta;
use fkv_meta::key::Keys;
use fkv_meta::store::MetaStore;
use fkv_rpc::control;
use fkv_store::Store;

use self::directory::Directory;
use self::layout::LocalServer;
use crate::control::Control;
use crate::failure::{Context as _, Failure, Outcome};
use crate::progress::Progress;

/// Pause between looks at a cluster that is starting.
const LOOK_PAUSE: Duration = Duration::from_millis(10);
/// How long a directory or port may be held by a process on its way out.
const HELD_TIME_MAX: Duration = Duration::from_secs(1);
/// How long servers may take to claim their slots before the start is given up.
const CLAIM_TIME_MAX: Duration = Duration::from_secs(30);

/// What cluster to run, and where.
#[derive(Clone, Debug)]
pub(crate) struct LocalOptions {
    /// Its directory.
    pub(crate) dir: PathBuf,
    /// Number of sects.
    pub(crate) sects: u8,
    /// Number of roles per sect.
    pub(crate) roles: u16,
    /// Port of the control API; 0 lets the system choose all ports.
    pub(crate) port: u16,
    /// URL of the metadata store.
    pub(crate) metadata: String,
    /// URL of the object store; in the directory if absent.
    pub(crate) store: Option<String>,
    /// Name of the module.
    pub(crate) module: String,
}

/// A running local cluster.
#[derive(Debug)]
pub(crate) struct LocalCluster {
    env: Env,
    directory: Directory,
    meta: Arc<dyn MetaStore>,
    servers: Vec<(LocalServer, KvServer)>,
    data: DataServer,
    control: Control,
}

/// What the cluster has when it is ready.
#[derive(Clone, Debug)]
pub(crate) struct Ready {
    /// Number of tables.
    pub(crate) tables: usize,
    /// What is wrong although the cluster runs.
    pub(crate) warnings: Vec<String>,
}

impl LocalCluster {
    /// Starts the cluster, or starts it again where it was stopped or killed.
    pub(crate) async fn start(env: &Env, options: &LocalOptions) -> Outcome<Self> {
        // Before anything is made: a wrong number must not leave a directory behind.
        let planned = layout::plan(options.sects, options.roles, options.port)?;
        let keys = Keys::new(&options.module).map_err(|error| Failure::usage(error.to_string()))?;
        let mut directory = patiently(env, async || Directory::open(&*env.files, &options.dir)).await?;
        let meta = open_metadata(env, options, &directory).await?;
        let store = open_store(env, options, &directory)?;
        let stored = Meta::new(meta.clone(), keys).topology().await.context(|| format!("read {}", options.metadata))?;
        let layout = match &stored {
            Some(topology) => layout::restore(&topology.value, options.sects, options.roles)?,
            None => planned,
        };
        let control_address = SocketAddr::from((Ipv4Addr::LOCALHOST, options.port));
        patiently(env, async || check_ports(env, control_address, &layout, stored.is_some()).await).await?;

        let mut servers = Vec::new();
        for server in layout {
            let config = KvConfig {
                module: options.module.clone(),
                server: server.id(),
                listen: server.listen,
                data_dir: directory.path().join("kv").join(server.id()),
                // There are several of them in this process.
                io: IoConfig { rings: 1, buffer_bytes: 4 << 20, ..IoConfig::default() },
                record_cache_bytes: 32 << 20,
                ..KvConfig::default()
            };
            let running = KvServer::start(env.clone(), config, meta.clone(), store.clone())
                .await
                .context(|| format!("start the server of slot {}", server.slot()))?;
            servers.push((LocalServer { listen: running.addr(), ..server }, running));
        }
        let config = DataConfig {
            module: options.module.clone(),
            listen: control_address,
            sources: Sources { files: FileInputs::Any, ..Sources::default() },
            ..DataConfig::default()
        };
        let data = DataServer::start(env.clone(), config, meta.clone(), store)
            .await
            .context(|| format!("start the control API at {control_address}"))?;
        let endpoint = data.addr().to_string();
        directory.sign(&endpoint)?;
        let control = Control::at(env, &endpoint)?;
        if stored.is_none() {
            control.init_cluster(init_request(&servers)).await?;
        }
        Ok(Self { env: env.clone(), directory, meta, servers, data, control })
    }

    /// The address of the control API.
    pub(crate) fn endpoint(&self) -> String {
        self.data.addr().to_string()
    }

    /// The cluster's directory, absolute.
    pub(crate) fn dir(&self) -> &std::path::Path {
        self.directory.path()
    }

    /// The control API.
    pub(crate) fn control(&self) -> &Control {
        &self.control
    }

    /// Slot and address of every server.
    pub(crate) fn servers(&self) -> impl Iterator<Item = (String, SocketAddr)> {
        self.servers.iter().map(|(server, _)| (server.slot(), server.listen))
    }

    /// Waits until every server serves what its tables show (or says why it cannot) and has claimed its slot.
    pub(crate) async fn ready(&self) -> Outcome<Ready> {
        let clock = &self.env.clock;
        let mut progress = Progress::new(clock.clone());
        let mut serving = pin!(futures::future::join_all(self.servers.iter().map(|(_, server)| server.ready())));
        loop {
            tokio::select! {
                _ = &mut serving => break,
                () = clock.sleep(LOOK_PAUSE) => progress.update("servers load what their tables show", 0, None),
            }
        }
        let begun = clock.monotonic();
        loop {
            let cluster = self.control.show_cluster(control::ShowClusterRequest {}).await?;
            let slots: Vec<&control::SlotInfo> = cluster.sects.iter().flat_map(|sect| &sect.slots).collect();
            let unclaimed: Vec<&str> = slots.iter().filter(|s| !s.claimed).map(|s| s.slot.as_str()).collect();
            if unclaimed.is_empty() && !slots.is_empty() {
                let tables = self.control.list_tables(control::ListTablesRequest {}).await?.tables.len();
                return Ok(Ready { tables, warnings: problems(&slots) });
            }
            if clock.monotonic().saturating_sub(begun) > CLAIM_TIME_MAX {
                return Err(Failure::failed(format!(
                    "the servers of slots {} did not claim them within {} s",
                    unclaimed.join(", "),
                    CLAIM_TIME_MAX.as_secs()
                ))
                .hint("the log on standard error may say why; FKV_LOG=info shows more"));
            }
            progress.update("servers claim their slots", 0, None);
            clock.sleep(LOOK_PAUSE).await;
        }
    }

    /// Waits until the cluster cannot go on in this process, and says why.
    pub(crate) async fn failed(&self) -> Failure {
        let reason = self.meta.failed().await;
        Failure::failed(format!("the metadata of this cluster cannot be written any more: {reason}"))
            .hint("nothing that was acknowledged is lost; make room or mend the disk, and start `fkv up` again")
    }

    /// Stops everything in good order.
    pub(crate) async fn shutdown(self) {
        let Self { servers, data, directory, .. } = self;
        data.shutdown().await;
        futures::future::join_all(servers.into_iter().map(|(_, server)| server.shutdown())).await;
        // Held to the last: nobody else may start while we still write.
        drop(directory);
    }
}

/// Tries for a moment longer what somebody else holds: a process that was killed needs a little time to be gone.
async fn patiently<T>(env: &Env, attempt: impl AsyncFn() -> Outcome<T>) -> Outcome<T> {
    let begun = env.clock.monotonic();
    loop {
        match attempt().await {
            Err(failure)
                if ["in_use", "port_in_use"].contains(&failure.code)
                    && env.clock.monotonic().saturating_sub(begun) < HELD_TIME_MAX =>
            {
                env.clock.sleep(LOOK_PAUSE).await;
            }
            outcome => return outcome,
        }
    }
}

async fn open_metadata(env: &Env, options: &LocalOptions, directory: &Directory) -> Outcome<Arc<dyn MetaStore>> {
    let dir = directory.path().join("meta");
    env.files.create_dir_all(&dir).context(|| format!("create the directory {}", dir.display()))?;
    fkv_meta::open(env, &options.metadata, &dir).await.map_err(|error| match error {
        fkv_meta::OpenError::BadUrl { .. } => Failure::usage(format!("--metadata: {error}")),
        fkv_meta::OpenError::Store(_) => Failure::failed(format!("cannot open the metadata store: {error}")),
    })
}

fn open_store(env: &Env, options: &LocalOptions, directory: &Directory) -> Outcome<Store> {
    let url = match &options.store {
        Some(url) => url.clone(),
        None => {
            let dir = directory.path().join("store");
            env.files.create_dir_all(&dir).context(|| format!("create the directory {}", dir.display()))?;
            format!("file://{}", dir.display())
        }
    };
    fkv_store::open(env, &url, &fkv_store::StoreOptions::default()).map_err(|error| match error {
        fkv_store::StoreError::BadUrl { .. } => Failure::usage(format!("--store: {error}")),
        _ => Failure::failed(format!("cannot open the store: {error}")),
    })
}

/// Finds ports that others use before anything is started.
async fn check_ports(env: &Env, control: SocketAddr, servers: &[LocalServer], fixed: bool) -> Outcome {
    let in_use = |address: SocketAddr, what: &str, hint: &str| {
        Failure::coded("port_in_use", format!("port {} of {what} is in use by another process", address.port()))
            .hint(hint)
    };
    if is_taken(env, control).await? {
        return Err(in_use(control, "the control API", "stop that process, or choose another --port"));
    }
    for server in servers {
        if is_taken(env, server.listen).await? {
            let hint = if fixed {
                "stop that process: the ports of the servers were fixed when the cluster was made"
            } else {
                "stop that process, or choose another --port (servers use the ports from 10 above it)"
            };
            return Err(in_use(server.listen, &format!("slot {}", server.slot()), hint));
        }
    }
    Ok(())
}

async fn is_taken(env: &Env, address: SocketAddr) -> Outcome<bool> {
    match env.net.listen(address).await {
        Ok(_) => Ok(false),
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => Ok(true),
        Err(error) => Err(error).context(|| format!("listen on {address}")),
    }
}

fn init_request(servers: &[(LocalServer, KvServer)]) -> control::InitClusterRequest {
    let mut sects: Vec<control::SectSpec> = Vec::new();
    for (server, _) in servers {
        let spec = control::ServerSpec { server: server.id(), address: server.listen.to_string() };
        match sects.last_mut() {
            Some(sect) if sect.name == server.sect => sect.servers.push(spec),
            _ => sects.push(control::SectSpec { name: server.sect.clone(), servers: vec![spec] }),
        }
    }
    control::InitClusterRequest { sects }
}

/// What servers cannot load.
fn problems(slots: &[&control::SlotInfo]) -> Vec<String> {
    let of_slot = |slot: &&control::SlotInfo| {
        let name = slot.slot.clone();
        let troubled = slot.tables.iter().filter(|table| !table.problem.is_empty());
        let text = move |table: &control::SlotTable| {
            format!("slot {name} cannot load table {}: {}", table.table, table.problem)
        };
        troubled.map(text).collect::<Vec<_>>()
    };
    slots.iter().flat_map(of_slot).collect()
}
