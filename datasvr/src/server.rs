//! A DataSvr: the control API, a worker and the aligner over one module's metadata and store.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use fkv_env::{Env, TaskHandle};
use fkv_meta::Meta;
use fkv_meta::key::{BadName, Keys, check_name};
use fkv_meta::mirror::Mirror;
use fkv_meta::store::MetaStore;
use fkv_rpc::control::control_server::{self, ControlServer};
use fkv_store::Store;
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;

use crate::align::Aligner;
use crate::config::DataConfig;
use crate::control::Service;
use crate::worker::Worker;

/// How long a graceful shutdown waits for calls that are under way.
const GRACE: Duration = Duration::from_secs(10);
/// Largest request, in bytes: a load of 16,384 value columns fits.
const REQUEST_BYTES_MAX: usize = 4 << 20;
/// Calls of one connection at once.
const STREAMS_MAX: u32 = 256;

/// Why a DataSvr did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A name in the configuration cannot be used.
    #[error(transparent)]
    Name(#[from] BadName),
    /// A setting makes no sense.
    #[error("{0}")]
    Config(String),
    /// It would serve anybody who can reach it, unencrypted.
    #[error("listening on {0} beyond loopback without encryption needs --insecure")]
    Insecure(SocketAddr),
    /// The address cannot be listened on.
    #[error("cannot listen on {addr}: {source}")]
    Listen {
        /// The address.
        addr: SocketAddr,
        /// What the system said.
        source: std::io::Error,
    },
    /// The reflection service could not be made.
    #[error("the descriptors for gRPC reflection cannot be used: {0}")]
    Reflection(String),
}

/// A running DataSvr. Dropping it stops everything at once, as a crash would; [`DataServer::shutdown`] is graceful.
#[derive(Debug)]
pub struct DataServer {
    addr: SocketAddr,
    env: Env,
    config: Arc<DataConfig>,
    stop: CancellationToken,
    server: TaskHandle,
    worker: Option<TaskHandle>,
    aligner: TaskHandle,
}

impl DataServer {
    /// Starts listening, and begins to work as soon as metadata has been read; metadata and store may be unreachable
    /// at first.
    ///
    /// # Errors
    /// See [`StartError`].
    pub async fn start(
        env: Env,
        mut config: DataConfig,
        meta: Arc<dyn MetaStore>,
        store: Store,
    ) -> Result<Self, StartError> {
        if config.worker.is_empty() {
            config.worker = format!("worker-{:016x}", env.entropy.next_u64());
        }
        check(&config)?;
        let keys = Keys::new(&config.module)?;
        let failed = |source| StartError::Listen { addr: config.listen, source };
        let listener = env.net.listen(config.listen).await.map_err(failed)?;
        let addr = listener.local_addr().map_err(failed)?;
        let advertise = if config.advertise.is_empty() { addr.to_string() } else { config.advertise.clone() };
        let config = Arc::new(config);
        let stop = CancellationToken::new();
        let mirror = Arc::new(Mirror::start(&env, Arc::clone(&meta), keys.clone()));
        let meta = Meta::new(meta, keys);

        let service = Service {
            env: env.clone(),
            meta: meta.clone(),
            mirror: Arc::clone(&mirror),
            store: Store::clone(&store),
            config: Arc::clone(&config),
            stop: stop.clone(),
        };
        let control = ControlServer::new(service).max_decoding_message_size(REQUEST_BYTES_MAX);
        let (health, health_service) = tonic_health::server::health_reporter();
        health.set_serving::<ControlServer<Service>>().await;
        let reflection = |builder: tonic_reflection::server::Builder<'static>| {
            builder
                .register_encoded_file_descriptor_set(fkv_rpc::FILE_DESCRIPTOR_SET)
                .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
                .with_service_name(control_server::SERVICE_NAME)
                .with_service_name(tonic_health::pb::health_server::SERVICE_NAME)
        };
        let bad = |error: tonic_reflection::server::Error| StartError::Reflection(error.to_string());
        let reflection_v1 = reflection(tonic_reflection::server::Builder::configure()).build_v1().map_err(bad)?;
        let reflection_v1alpha =
            reflection(tonic_reflection::server::Builder::configure()).build_v1alpha().map_err(bad)?;
        let router = Server::builder()
            .max_concurrent_streams(STREAMS_MAX)
            .http2_keepalive_interval(Some(Duration::from_secs(20)))
            .add_service(control)
            .add_service(health_service)
            .add_service(reflection_v1)
            .add_service(reflection_v1alpha);
        let incoming = fkv_env::incoming(listener, Arc::clone(&env.clock));
        let stopped = stop.clone().cancelled_owned();
        let server = env.spawn.spawn(
            "control-api",
            Box::pin(async move {
                if let Err(error) = router.serve_with_incoming_shutdown(incoming, stopped).await {
                    tracing::error!(%error, "the control API ended with an error");
                }
            }),
        );
        let aligner = Aligner { env: env.clone(), meta: meta.clone(), mirror: Arc::clone(&mirror), stop: stop.clone() };
        let aligner = env.spawn.spawn("aligner", Box::pin(aligner.run()));
        let worker = config.work.then(|| {
            let worker = Worker::new(env.clone(), meta, mirror, store, Arc::clone(&config), advertise, stop.clone());
            env.spawn.spawn("worker", Box::pin(worker.run()))
        });
        tracing::info!(module = %config.module, worker = %config.worker, %addr, "datasvr started");
        Ok(Self { addr, env, config, stop, server, worker, aligner })
    }

    /// The address the control API listens on.
    #[must_use]
    pub const fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// The worker's name.
    #[must_use]
    pub fn worker(&self) -> &str {
        &self.config.worker
    }

    /// Stops gracefully: takes no more calls, gives up the task at work so that another worker takes it up at once,
    /// and waits for calls under way.
    pub async fn shutdown(self) {
        self.stop.cancel();
        let ended = async {
            if let Some(worker) = self.worker {
                worker.join().await;
            }
            self.aligner.join().await;
            self.server.join().await;
        };
        if fkv_env::timeout(&*self.env.clock, GRACE, ended).await.is_err() {
            tracing::warn!(addr = %self.addr, "shutdown did not wait for calls that did not end");
        }
        tracing::info!(addr = %self.addr, "datasvr stopped");
    }
}

fn check(config: &DataConfig) -> Result<(), StartError> {
    check_name("worker", &config.worker)?;
    if !config.listen.ip().is_loopback() && !config.insecure {
        return Err(StartError::Insecure(config.listen));
    }
    if config.lease_ttl < Duration::from_secs(1) {
        return Err(StartError::Config("the lease must last at least 1 s".into()));
    }
    if config.build_memory < 16 << 20 {
        return Err(StartError::Config("a build needs at least 16 MiB of memory: raise --build-memory".into()));
    }
    if config.pack_bytes == 0 {
        return Err(StartError::Config("packs must have a size".into()));
    }
    Ok(())
}
