//! `datasvr`: one DataSvr as a process.

mod settings;

use std::io::IsTerminal;
use std::process::ExitCode;

use clap::Parser;
use fkv_datasvr::{DataServer, StartError};
use fkv_env::Env;
use tokio::signal::unix::{SignalKind, signal};

use self::settings::{Flags, LogFormat, Settings};

/// What ended the process, and with which exit code.
enum Failed {
    /// Flags, environment or configuration file make no sense: 2.
    Usage(String),
    /// Anything else: 1.
    Run(String),
}

fn main() -> ExitCode {
    let flags = Flags::parse();
    let outcome = Settings::read(flags).map_err(Failed::Usage).and_then(|settings| {
        start_log(&settings).map_err(Failed::Usage)?;
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
        let runtime = runtime.map_err(|error| Failed::Run(format!("the runtime cannot be started: {error}")))?;
        runtime.block_on(run(settings))
    });
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failed::Usage(message)) => {
            eprintln!("datasvr: {message}");
            ExitCode::from(2)
        }
        Err(Failed::Run(message)) => {
            eprintln!("datasvr: {message}");
            ExitCode::FAILURE
        }
    }
}

async fn run(settings: Settings) -> Result<(), Failed> {
    let failed = |error: &dyn std::fmt::Display| Failed::Run(error.to_string());
    let env = Env::real(settings.cpu_threads).map_err(|error| failed(&error))?;
    // Before anything listens: a signal that comes early must not be lost.
    let mut terminate = signal(SignalKind::terminate()).map_err(|error| failed(&error))?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(|error| failed(&error))?;

    let config = settings.config().map_err(Failed::Usage)?;
    let store = fkv_store::open(&env, &settings.store, &settings.store_options());
    let store = store.map_err(|error| Failed::Usage(error.to_string()))?;
    let meta = fkv_meta::open(&env, &settings.metadata, &settings.metadata_dir).await;
    let meta = meta.map_err(|error| match error {
        fkv_meta::OpenError::BadUrl { .. } => Failed::Usage(error.to_string()),
        fkv_meta::OpenError::Store(_) => failed(&error),
    })?;
    let server = DataServer::start(env, config, meta, store).await.map_err(|error| match error {
        StartError::Name(_) | StartError::Config(_) | StartError::Insecure(_) => Failed::Usage(error.to_string()),
        StartError::Listen { .. } | StartError::Reflection(_) => failed(&error),
    })?;
    println!("listening on {}", server.addr());
    let name = tokio::select! {
        _ = terminate.recv() => "SIGTERM",
        _ = interrupt.recv() => "SIGINT",
    };
    tracing::info!(signal = name, "shutting down");
    server.shutdown().await;
    Ok(())
}

fn start_log(settings: &Settings) -> Result<(), String> {
    let filter = tracing_subscriber::EnvFilter::try_new(&settings.log)
        .map_err(|error| format!("`{}` is no log filter: {error}", settings.log))?;
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    match settings.log_format {
        LogFormat::Text => log.init(),
        LogFormat::Json => log.json().init(),
    }
    Ok(())
}
