//! A running server: its tasks, and how they start and stop.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use fkv_env::{Clock, Env, FileLock, Files, RayonPool, TaskHandle};
use fkv_formats::id::TableUid;
use fkv_meta::Meta;
use fkv_meta::key::Keys;
use fkv_meta::mirror::Mirror;
use fkv_meta::record::SlotClaim;
use fkv_meta::store::MetaStore;
use fkv_rpc::kv::kv_server;
use fkv_rpc::packed::MESSAGE_OVERHEAD_BYTES;
use fkv_store::object::Store;
use tokio::sync::watch;
use tonic::transport::Server;

use crate::cache::RecordCache;
use crate::config::{BadConfig, KvConfig};
use crate::faults::Faults;
use crate::fence::World;
use crate::fetch::Fetcher;
use crate::image::{LocalFile, LocalImage, Reaper, Registry};
use crate::io as block_io;
use crate::ledger::{Ledger, Reservation};
use crate::load::Loader;
use crate::lookup::DiskReader;
use crate::report::Reporter;
use crate::service::{HoldUntilSent, KvService, SsdParts};
use crate::state_file::{self, FileState, IMAGES_DIR, State, StateError, StateWriter};
use crate::table::{Shelved, Table};
use crate::throttle::Throttle;
use crate::watch::{Controller, Parts};

/// Name of the file below the data directory that whoever uses it has locked.
const LOCK_FILE: &str = "LOCK";
/// Window of a stream and of a connection, in bytes.
const WINDOW_BYTES: u32 = 8 << 20;
/// How long requests may take to end at shutdown.
const DRAIN_MAX: Duration = Duration::from_secs(10);
/// Largest HTTP/2 frame, in bytes.
const FRAME_BYTES: u32 = 256 << 10;

/// Why a server did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The configuration cannot be used.
    #[error(transparent)]
    Config(#[from] BadConfig),
    /// The address cannot be listened on.
    #[error("cannot listen on {addr}: {error}")]
    Listen {
        /// The address.
        addr: SocketAddr,
        /// Why.
        error: io::Error,
    },
    /// The data directory cannot be used.
    #[error("data directory {dir}: {reason}")]
    DataDir {
        /// The directory.
        dir: String,
        /// What is wrong with it and what to do.
        reason: String,
    },
    /// Local files cannot be read in the way that was asked for.
    #[error("cannot start the reads of local files: {0}")]
    Io(io::Error),
    /// A service could not be set up.
    #[error("cannot set up the service: {0}")]
    Service(String),
}

/// A running server. Dropping it stops it at once; [`KvServer::shutdown`] does so gracefully.
#[derive(Debug)]
pub struct KvServer {
    addr: SocketAddr,
    clock: Arc<dyn Clock>,
    ready: watch::Receiver<bool>,
    stop: watch::Sender<bool>,
    serving: TaskHandle,
    control: TaskHandle,
    _others: Vec<TaskHandle>,
    _mirror: Mirror,
    /// Memory of the buffers for reads and of the record cache.
    _fixed: Reservation,
    /// Keeps other processes from the data directory.
    _lock: Option<Box<dyn FileLock>>,
}

impl KvServer {
    /// Starts a server: listens, serves what its local files have, and follows metadata. Neither metadata nor the
    /// store need be reachable.
    ///
    /// # Errors
    /// See [`StartError`].
    pub async fn start(env: Env, config: KvConfig, meta: Arc<dyn MetaStore>, store: Store) -> Result<Self, StartError> {
        config.validate()?;
        let keys = Keys::new(&config.module)
            .map_err(|error| StartError::Service(format!("the module's name was checked, yet: {error}")))?;
        let listener =
            env.net.listen(config.listen).await.map_err(|error| StartError::Listen { addr: config.listen, error })?;
        let addr = listener.local_addr().map_err(|error| StartError::Listen { addr: config.listen, error })?;

        let ledger = Ledger::new(config.memory_bytes_max, config.disk_bytes_max);
        let DataDir { state, lock } = open_data_dir(&env, &config).await?;
        let (world, tables) = restore(state, &ledger);

        let registry = Arc::new(Registry::new());
        let (reaper, reaper_task) = Reaper::start(&env);
        let meta = Meta::new(meta, keys.clone());
        let mirror = Mirror::start(&env, Arc::clone(&meta.store), keys);
        let claim = SlotClaim {
            server: config.server.clone(),
            addr: config.advertise.clone().unwrap_or_else(|| addr.to_string()),
        };
        let reporter = Reporter::start(&env, meta.clone(), mirror.subscribe(), config.lease_ttl(), claim);
        let io = block_io::open(&config.io).map_err(StartError::Io)?;
        let cache = RecordCache::new(config.cache_bytes()).map_err(StartError::Io)?;
        // For good, whether tables on SSD come or not: what is registered is locked in memory already.
        let fixed = io.memory_bytes().saturating_add(cache.counts().memory_bytes);
        let fixed = ledger.reserve(fixed, 0).map_err(|refused| config.buffers_do_not_fit(&refused.to_string()))?;
        let faults = Arc::new(Faults::default());
        let loader = Arc::new(Loader {
            env: env.clone(),
            meta,
            fetcher: Fetcher::new(&env, store, config.load_bytes_per_s),
            ledger: Arc::clone(&ledger),
            reaper,
            images_dir: config.data_dir.join(IMAGES_DIR),
            io: Arc::clone(&io),
            cache: Arc::clone(&cache),
            reads: config.load_reads,
            read_bytes: config.load_read_bytes,
            group_bytes: config.group_bytes,
            scrub_throttle: Throttle::new(config.scrub_bytes_per_s),
        });
        let (ready_sender, ready) = watch::channel(false);
        let (stop, stopped) = watch::channel(false);
        let controller = Controller::new(
            Parts {
                env: env.clone(),
                config: config.clone(),
                loader,
                ledger: Arc::clone(&ledger),
                faults: Arc::clone(&faults),
                registry: Arc::clone(&registry),
                views: mirror.subscribe(),
                reporter,
                state_writer: StateWriter::start(&env, &config.data_dir),
                ready: ready_sender,
                stop: stopped.clone(),
            },
            world,
            tables,
        );
        let control = env.spawn.spawn("controller", Box::pin(controller.run()));

        // Not the CPU pool of `env`: see the service.
        let cpu = Arc::new(RayonPool::new(config.io.lookup_threads).map_err(StartError::Io)?);
        let ssd = SsdParts { reader: DiskReader { io, cache, faults }, cpu };
        let service =
            KvService::new(&env, &config.module, &config.server, &config.limits, registry, Arc::clone(&ledger), ssd);
        let (router, health_task) = router(&env, &config, service, ready.clone())?;
        let incoming = fkv_env::incoming(listener, Arc::clone(&env.clock));
        let mut serving_stopped = stopped;
        let goodbye = async move {
            // The sender gone means the same.
            let _ = serving_stopped.wait_for(|stop| *stop).await;
        };
        let serving = env.spawn.spawn(
            "grpc",
            Box::pin(async move {
                if let Err(error) = router.serve_with_incoming_shutdown(incoming, goodbye).await {
                    tracing::error!(%error, "the grpc server ended");
                }
            }),
        );
        tracing::info!(server = %config.server, %addr, "kvsvr is listening");
        Ok(Self {
            addr,
            clock: Arc::clone(&env.clock),
            ready,
            stop,
            serving,
            control,
            _others: vec![reaper_task, health_task],
            _mirror: mirror,
            _fixed: fixed,
            _lock: lock,
        })
    }

    /// The address it listens on.
    #[must_use]
    pub const fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Waits until every table shows what it should, or has said why it cannot.
    pub async fn ready(&self) {
        let mut ready = self.ready.clone();
        if ready.wait_for(|ready| *ready).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Stops gracefully: no new requests, those under way are answered, the claims are given up, STATE is durable.
    pub async fn shutdown(self) {
        self.stop.send_replace(true);
        self.control.join().await;
        // A stream that never ends (a health watch) must not keep the process: after the limit it is cut.
        let drained = fkv_env::timeout(self.clock.as_ref(), DRAIN_MAX, self.serving.join()).await;
        if drained.is_err() {
            tracing::warn!("some requests did not end in time; they are cut off");
        }
        tracing::info!("kvsvr has stopped");
    }
}

fn router(
    env: &Env,
    config: &KvConfig,
    service: KvService,
    mut ready: watch::Receiver<bool>,
) -> Result<(tonic::transport::server::Router, TaskHandle), StartError> {
    let refused = |error: tonic_reflection::server::Error| StartError::Service(error.to_string());
    let descriptors = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(fkv_rpc::FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
            .with_service_name(kv_server::SERVICE_NAME)
            .with_service_name(tonic_health::pb::health_server::SERVICE_NAME)
    };
    let reflection = descriptors().build_v1().map_err(refused)?;
    let reflection_alpha = descriptors().build_v1alpha().map_err(refused)?;

    let (health, health_service) = tonic_health::server::health_reporter();
    let health_task = env.spawn.spawn(
        "health",
        Box::pin(async move {
            const ALL: &str = "";
            health.set_service_status(ALL, tonic_health::ServingStatus::NotServing).await;
            health.set_not_serving::<kv_server::KvServer<KvService>>().await;
            if ready.wait_for(|ready| *ready).await.is_ok() {
                health.set_service_status(ALL, tonic_health::ServingStatus::Serving).await;
                health.set_serving::<kv_server::KvServer<KvService>>().await;
            }
        }),
    );
    let limits = &config.limits;
    let service = kv_server::KvServer::new(service)
        .max_decoding_message_size(limits.request_bytes_max.saturating_add(MESSAGE_OVERHEAD_BYTES))
        .max_encoding_message_size(limits.reply_bytes_max.saturating_add(MESSAGE_OVERHEAD_BYTES));
    let router = Server::builder()
        .initial_stream_window_size(WINDOW_BYTES)
        .initial_connection_window_size(WINDOW_BYTES)
        .max_frame_size(FRAME_BYTES)
        .max_concurrent_streams(limits.streams_max)
        .http2_max_local_error_reset_streams(Some(1024))
        .http2_keepalive_interval(Some(Duration::from_secs(20)))
        .add_service(health_service)
        .add_service(reflection)
        .add_service(reflection_alpha)
        .add_service(HoldUntilSent(service));
    Ok((router, health_task))
}

/// A data directory that is this server's.
struct DataDir {
    state: State,
    lock: Option<Box<dyn FileLock>>,
}

/// Makes the data directory usable, keeps others from it, and reads STATE.
async fn open_data_dir(env: &Env, config: &KvConfig) -> Result<DataDir, StartError> {
    let (files, config) = (Arc::clone(&env.files), config.clone());
    let refused =
        |dir: &std::path::Path, reason: String| StartError::DataDir { dir: dir.display().to_string(), reason };
    let dir = config.data_dir.clone();
    env.blocking(move || read_data_dir(files.as_ref(), &config))
        .await
        .map_err(|error| error.to_string())
        .and_then(|outcome| outcome)
        .map_err(|reason| refused(&dir, reason))
}

fn read_data_dir(files: &dyn Files, config: &KvConfig) -> Result<DataDir, String> {
    let dir = &config.data_dir;
    let text = |error: io::Error| error.to_string();
    files.create_dir_all(&dir.join(IMAGES_DIR)).map_err(text)?;
    // Before anything is read: another process there would write STATE, and remove files as leftovers, beside this one.
    let lock = match files.lock(&dir.join(LOCK_FILE)) {
        Ok(lock) => Some(lock),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
            return Err("another process is running on it: a data directory belongs to one server at a time".to_owned());
        }
        Err(error) if error.kind() == io::ErrorKind::Unsupported => {
            tracing::warn!(%error, "files cannot be locked here: nothing keeps another process from the data directory");
            None
        }
        Err(error) => return Err(text(error)),
    };
    let state = match state_file::read(files, dir, &config.module, &config.server) {
        Ok(state) => state.unwrap_or_else(|| State::new(&config.module, &config.server)),
        Err(error @ (StateError::Damaged(_) | StateError::Format(_))) => {
            tracing::error!(%error, "STATE cannot be used; it is set aside and everything is loaded anew");
            state_file::set_aside(files, dir).map_err(text)?;
            // The images may still be wanted by whoever looks at what happened.
            return Ok(DataDir { state: State::new(&config.module, &config.server), lock });
        }
        Err(error @ (StateError::Io(_) | StateError::Foreign { .. })) => return Err(error.to_string()),
    };
    match state_file::remove_leftovers(files, dir, &state) {
        Ok(0) => {}
        Ok(removed) => tracing::info!(removed, "leftovers of unfinished loads removed"),
        Err(error) => tracing::warn!(%error, "cannot remove leftovers of unfinished loads"),
    }
    Ok(DataDir { state, lock })
}

/// The world and the tables as STATE has them; images are on the shelf until they are loaded.
fn restore(state: State, ledger: &Arc<Ledger>) -> (World, BTreeMap<TableUid, Table>) {
    let mut world = World { revision: state.revision, topology: state.topology, ..World::default() };
    let mut tables = BTreeMap::new();
    for (uid, table) in state.tables {
        let mut shelf = Vec::new();
        for image in table.images {
            let file = |file: FileState| {
                let reservation = ledger.reserve(0, file.len)?;
                Ok(Arc::new(LocalFile::new(file.name, file.len, reservation)))
            };
            let files = || {
                let packs = image.packs.into_iter().map(file).collect::<Result<_, _>>()?;
                Ok(LocalImage { form: image.form, form_file: file(image.form_file)?, packs })
            };
            let restored: Result<LocalImage, crate::ledger::DoesNotFit> = files();
            match restored {
                Ok(local) => shelf.push(Shelved { label: image.label, local, served: image.served, resting: false }),
                // The files are leftovers then, and go at the next start.
                Err(error) => tracing::warn!(%uid, %error, "local files exceed the disk limit; they are not used"),
            }
        }
        world.tables.insert(uid, table.record.clone());
        tables.insert(uid, Table::new(table.record, table.shown, shelf));
    }
    (world, tables)
}
