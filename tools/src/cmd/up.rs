//! `fkv up`.

use serde::Serialize;

use crate::cli::{CONTROL_PORT, UpArgs};
use crate::context::Context;
use crate::failure::{Failure, Outcome};
use crate::local::{LocalCluster, LocalOptions};
use crate::output::{counted, duration};
use crate::signals::Signals;

#[derive(Serialize)]
struct ServerView {
    slot: String,
    address: String,
}

/// The one line that `--output json` prints when the cluster is ready.
#[derive(Serialize)]
struct ReadyView {
    ready: bool,
    endpoint: String,
    dir: String,
    module: String,
    sects: u8,
    roles: u16,
    servers: Vec<ServerView>,
    tables: usize,
    warnings: Vec<String>,
    seconds: f64,
}

pub(super) async fn run(context: &Context, args: UpArgs) -> Outcome {
    let begun = context.env.clock.monotonic();
    let mut signals = Signals::catch()?;
    let options = LocalOptions {
        dir: args.dir,
        sects: args.sects,
        roles: args.roles,
        port: args.port,
        metadata: args.metadata,
        store: args.store,
        module: args.module,
    };
    let cluster = tokio::select! {
        cluster = LocalCluster::start(&context.env, &options) => cluster?,
        signal = signals.next() => return Err(stopped_early(signal)),
    };
    let ready = tokio::select! {
        ready = cluster.ready() => ready,
        failure = cluster.failed() => Err(failure),
        signal = signals.next() => {
            cluster.shutdown().await;
            return Err(stopped_early(signal));
        }
    };
    let ready = match ready {
        Ok(ready) => ready,
        Err(failure) => {
            cluster.shutdown().await;
            return Err(failure);
        }
    };
    let took = context.env.clock.monotonic().saturating_sub(begun);
    let view = ReadyView {
        ready: true,
        endpoint: cluster.endpoint(),
        dir: cluster.dir().display().to_string(),
        module: options.module.clone(),
        sects: options.sects,
        roles: options.roles,
        servers: cluster.servers().map(|(slot, at)| ServerView { slot, address: at.to_string() }).collect(),
        tables: ready.tables,
        warnings: ready.warnings,
        seconds: took.as_secs_f64(),
    };
    context.print(&view, |out| {
        let ReadyView { endpoint, sects, roles, tables, dir, .. } = &view;
        writeln!(
            out,
            "ready in {}: control API at {endpoint}, {} x {}, {}",
            duration(took),
            counted(u64::from(*sects), "sect"),
            counted(u64::from(*roles), "role"),
            counted(*tables as u64, "table"),
        )?;
        writeln!(out, "data is in {dir}; started again there, the cluster has its tables and versions back")?;
        if !endpoint.ends_with(&format!(":{CONTROL_PORT}")) {
            writeln!(out, "in another terminal: export FKV_ENDPOINT={endpoint}")?;
        }
        for warning in &view.warnings {
            writeln!(out, "warning: {warning}")?;
        }
        writeln!(out, "Ctrl-C stops it")
    })?;

    let signal = tokio::select! {
        signal = signals.next() => signal,
        failure = cluster.failed() => {
            context.note(&format!("{failure}: stopping"));
            tokio::select! {
                () = cluster.shutdown() => {}
                _ = signals.next() => {}
            }
            return Err(failure);
        }
    };
    context.note(&format!("{signal}: stopping"));
    tokio::select! {
        () = cluster.shutdown() => Ok(()),
        // Somebody is in a hurry; nothing is lost, as after a power cut.
        signal = signals.next() => {
            context.note(&format!("{signal}: stopped at once"));
            Ok(())
        }
    }
}

fn stopped_early(signal: &'static str) -> Failure {
    Failure::failed(format!("stopped by {signal} before the cluster was ready"))
}
