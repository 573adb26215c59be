//! The verbs, one module each.

pub(crate) mod cluster;
mod inspect;
pub(crate) mod read;
mod release;
mod rollback;
mod submit;
mod table;
pub(crate) mod task;
mod up;
mod version;

use std::io::{self, Write};
use std::process::ExitCode;

use fkv_env::Env;
use serde::Serialize;
use tracing_subscriber::EnvFilter;

use crate::cli::{Cli, OutputFormat, Verb};
use crate::context::Context;
use crate::demo;
use crate::failure::{Context as _, Failure, Outcome};

/// Runs the verb of a command line and reports its failure.
pub(crate) fn run(cli: Cli) -> ExitCode {
    let output = cli.global.output;
    log_to_stderr(&cli.verb);
    match run_verb(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            report(&failure, output);
            ExitCode::from(failure.exit())
        }
    }
}

fn run_verb(cli: Cli) -> Outcome {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context(|| "start the asynchronous runtime".to_owned())?;
    let env = Env::real(0).context(|| "start the CPU threads".to_owned())?;
    let context = Context::new(env, &cli.global);
    let outcome = runtime.block_on(dispatch(&context, cli.verb));
    // A blocking call that hangs (a dead network file system) must not keep a finished command alive.
    runtime.shutdown_timeout(std::time::Duration::from_secs(2));
    outcome
}

async fn dispatch(context: &Context, verb: Verb) -> Outcome {
    match verb {
        Verb::Table(verb) => table::run(context, verb).await,
        Verb::SubmitLoadTask(args) => submit::run(context, args).await,
        Verb::Task(verb) => task::run(context, verb).await,
        Verb::Version(verb) => version::run(context, verb).await,
        Verb::Get(args) => read::get(context, args).await,
        Verb::BatchGet(args) => read::batch_get(context, args).await,
        Verb::Rollback(args) => rollback::run(context, args).await,
        Verb::Release(args) => release::run(context, args).await,
        Verb::Cluster(verb) => cluster::run(context, verb).await,
        Verb::Inspect(args) => inspect::run(context, args).await,
        Verb::Up(args) => up::run(context, args).await,
        Verb::Demo(args) => demo::run(context, args).await,
    }
}

/// Logs of the components in this process. `FKV_LOG` (such as `info` or `fkv_datasvr=debug`) shows more.
fn log_to_stderr(verb: &Verb) {
    let default = if matches!(verb, Verb::Up(_)) { "warn" } else { "error" };
    let filter = EnvFilter::try_from_env("FKV_LOG").unwrap_or_else(|_| EnvFilter::new(default));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr).init();
}

fn report(failure: &Failure, output: OutputFormat) {
    #[derive(Serialize)]
    struct Document<'a> {
        error: &'a Failure,
    }
    let text = match output {
        OutputFormat::Text => format!("error: {failure}"),
        OutputFormat::Json => serde_json::to_string(&Document { error: failure })
            .unwrap_or_else(|error| format!("error: {failure} (not printable as JSON: {error})")),
    };
    // Nothing is left to tell anybody if the terminal is gone; the exit code still does.
    let _ = writeln!(io::stderr(), "{text}");
}
