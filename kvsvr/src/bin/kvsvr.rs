//! The stand-alone server. Configuration comes from a TOML file, then the environment (`FKV_KVSVR_…`), then flags;
//! later ones win. Exit codes: 0 stopped as asked, 1 failed, 2 wrong usage or configuration.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use clap::{Parser, ValueEnum};
use figment::Figment;
use figment::providers::{Env as Environment, Format, Serialized, Toml};
use fkv_env::Env;
use fkv_kvsvr::{KvConfig, KvServer, StartError};
use fkv_store::{S3Options, StoreOptions};
use serde::{Deserialize, Serialize};
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

/// Serves tables of a FeatureKV module.
///
/// Settings come from the file given by --config, then from the environment (FKV_KVSVR_ and the setting's name in
/// capitals, nested ones with two underscores: FKV_KVSVR_LIMITS__KEYS_MAX), then from flags; later ones win.
///
/// Exit codes: 0 stopped as asked, 1 failed, 2 wrong usage or configuration.
#[derive(Debug, Parser)]
#[command(name = "kvsvr", version)]
struct Arguments {
    /// TOML file with settings.
    #[arg(long, env = "FKV_KVSVR_CONFIG")]
    config: Option<PathBuf>,
    /// Metadata store: etcd://host:port,host:port.
    #[arg(long)]
    metadata: Option<String>,
    /// Object store: file:///absolute/directory or s3://bucket/prefix (credentials from AWS_… in the environment).
    #[arg(long)]
    store: Option<String>,
    /// Name of the module.
    #[arg(long)]
    module: Option<String>,
    /// This server's id, as the topology names it.
    #[arg(long)]
    server: Option<String>,
    /// Address to listen on.
    #[arg(long)]
    listen: Option<SocketAddr>,
    /// host:port under which others reach this server.
    #[arg(long)]
    advertise: Option<String>,
    /// Allow listening without TLS beyond loopback.
    #[arg(long)]
    insecure: bool,
    /// Directory for local files and STATE.
    #[arg(long)]
    data_dir: Option<PathBuf>,
    /// Most bytes of memory for images, buffers of reads and the record cache.
    #[arg(long)]
    memory_bytes_max: Option<u64>,
    /// Form of the log.
    #[arg(long, value_enum)]
    log: Option<LogForm>,
}

#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
enum LogForm {
    /// Lines for people.
    #[default]
    Text,
    /// One JSON object per line.
    Json,
}

/// What the process needs beside the server's own configuration.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct Process {
    metadata: String,
    store: String,
    log: LogForm,
    /// URL of the S3 service, for anything but AWS; AWS_ENDPOINT_URL does the same.
    s3_endpoint: Option<String>,
    /// Region of the S3 service; AWS_REGION does the same.
    s3_region: Option<String>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let (process, config) = match settings(&arguments) {
        Ok(settings) => settings,
        Err(reason) => return usage(&reason),
    };
    if let Err(error) = config.validate() {
        return usage(&error.to_string());
    }
    let filter = EnvFilter::try_from_env("FKV_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match process.log {
        LogForm::Text => log.init(),
        LogForm::Json => log.json().init(),
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().thread_name("fkv-io").build() {
        Ok(runtime) => runtime,
        Err(error) => return failed(&format!("cannot start the runtime: {error}")),
    };
    runtime.block_on(run(process, config))
}

/// Merges file, environment and flags.
fn settings(arguments: &Arguments) -> Result<(Process, KvConfig), String> {
    let mut figment = Figment::new();
    if let Some(file) = &arguments.config {
        figment = figment.merge(Toml::file_exact(file));
    }
    figment = figment.merge(Environment::prefixed("FKV_KVSVR_").ignore(&["config"]).split("__"));
    macro_rules! flags {
        ($($name:ident),+) => {
            $(if let Some(value) = &arguments.$name {
                figment = figment.merge(Serialized::default(stringify!($name), value));
            })+
        };
    }
    flags!(metadata, store, module, server, listen, advertise, data_dir, memory_bytes_max, log);
    if arguments.insecure {
        figment = figment.merge(Serialized::default("insecure", true));
    }
    let process: Process = figment.extract().map_err(|error| error.to_string())?;
    let mut rest: figment::value::Dict = figment.extract().map_err(|error| error.to_string())?;
    for name in ["metadata", "store", "log", "s3_endpoint", "s3_region"] {
        rest.remove(name);
    }
    // What is left must be the server's own: a misspelt setting is an error, not ignored.
    let config = Figment::from(Serialized::globals(rest)).extract().map_err(|error| error.to_string())?;
    if process.metadata.is_empty() || process.store.is_empty() {
        return Err("both --metadata and --store are needed".to_owned());
    }
    if process.metadata == "embedded" {
        return Err("embedded metadata lives inside `fkv up`; a stand-alone server needs etcd://host:port".to_owned());
    }
    Ok((process, config))
}

async fn run(process: Process, config: KvConfig) -> ExitCode {
    let env = match Env::real(0) {
        Ok(env) => env,
        Err(error) => return failed(&format!("cannot start the cpu pool: {error}")),
    };
    let meta = match fkv_meta::open(&env, &process.metadata, &config.data_dir).await {
        Ok(meta) => meta,
        Err(error) => return usage(&error.to_string()),
    };
    let s3 = S3Options { endpoint: process.s3_endpoint, region: process.s3_region, ..S3Options::default() };
    let options = StoreOptions { s3, ..StoreOptions::default() };
    let store = match fkv_store::open(&env, &process.store, &options) {
        Ok(store) => store,
        Err(error) => return usage(&error.to_string()),
    };
    let (Ok(mut terminate), Ok(mut interrupt)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
    else {
        return failed("cannot listen for signals");
    };
    let server = match KvServer::start(env, config, Arc::clone(&meta), store).await {
        Ok(server) => server,
        Err(error @ StartError::Config(_)) => return usage(&error.to_string()),
        Err(error) => return failed(&error.to_string()),
    };
    tokio::select! {
        _ = terminate.recv() => tracing::info!("SIGTERM: stopping"),
        _ = interrupt.recv() => tracing::info!("SIGINT: stopping"),
    }
    let shutdown = server.shutdown();
    tokio::select! {
        () = shutdown => ExitCode::SUCCESS,
        // A second signal does not wait for requests.
        _ = terminate.recv() => failed("stopped before requests were answered"),
        _ = interrupt.recv() => failed("stopped before requests were answered"),
    }
}

fn usage(reason: &str) -> ExitCode {
    eprintln!("kvsvr: {reason}");
    ExitCode::from(2)
}

fn failed(reason: &str) -> ExitCode {
    eprintln!("kvsvr: {reason}");
    ExitCode::FAILURE
}
