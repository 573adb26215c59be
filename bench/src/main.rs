//! `fkv-bench`: runs a suite, prints its ratios against their goals, and keeps them as JSON.

use std::path::PathBuf;
use std::process::{Command, ExitCode};

use clap::{Parser, Subcommand};
use fkv_bench::machine::Machine;
use fkv_bench::report::Report;
use fkv_bench::{image, mem, ssd};
use fkv_env::Env;
use fkv_formats::schema::TableKind;

/// Benchmarks of FeatureKV: limit, rival and us in one run. Exit code 0: ran, 1: failed, 2: usage.
#[derive(Parser, Debug)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    suite: Suite,
}

#[derive(Subcommand, Debug)]
enum Suite {
    /// Batch lookups in memory tables, against a prefetched gather and hashbrown.
    Mem(Options),
    /// Loading memory images, against fio and a copy in memory.
    Image(Options),
    /// Cold lookups in idx tables, against fio.
    Idx(Options),
    /// Cold lookups in blk tables, against fio.
    Blk(Options),
}

#[derive(clap::Args, Debug)]
struct Options {
    /// A smaller data set; ends within two minutes, where there are no rivals.
    #[arg(long)]
    quick: bool,
    /// Another number of keys than the suite's own, to try things out.
    #[arg(long, value_name = "N")]
    keys: Option<usize>,
    /// Where files are put that a suite writes and removes again.
    #[arg(long, value_name = "DIR", default_value = "target/bench")]
    dir: PathBuf,
    /// Also write the report as JSON to this file.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(&cli) {
        Ok(report) => {
            print!("{}", report.render());
            ExitCode::SUCCESS
        }
        Err(message) => {
            eprintln!("error: {message}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: &Cli) -> Result<Report, String> {
    let env = Env::real(0).map_err(|error| format!("cannot start threads: {error}"))?;
    let machine = Machine::detect(env.files.as_ref());
    let (options, report) = match &cli.suite {
        Suite::Mem(options) => {
            let mut report = Report::new("mem", machine, commit());
            mem::run(&env, options.quick, options.keys, &mut report)?;
            (options, report)
        }
        Suite::Image(options) => {
            let mut report = Report::new("image", machine, commit());
            let dir = std::path::absolute(&options.dir).map_err(|error| error.to_string())?;
            image::run(&env, options.quick, options.keys, &dir, &mut report)?;
            (options, report)
        }
        Suite::Idx(options) => (options, ssd(&env, TableKind::Idx, options, machine)?),
        Suite::Blk(options) => (options, ssd(&env, TableKind::Blk, options, machine)?),
    };
    if let Some(path) = &options.json {
        let json = serde_json::to_vec_pretty(&report).map_err(|error| error.to_string())?;
        env.files.write_durably(path, &json).map_err(|error| format!("cannot write {}: {error}", path.display()))?;
    }
    Ok(report)
}

fn ssd(env: &Env, kind: TableKind, options: &Options, machine: Machine) -> Result<Report, String> {
    let mut report = Report::new(&kind.to_string(), machine, commit());
    let dir = std::path::absolute(&options.dir).map_err(|error| error.to_string())?;
    ssd::run(env, kind, options.quick, options.keys, &dir, &mut report)?;
    Ok(report)
}

/// The commit of the working tree, as git tells.
fn commit() -> String {
    let output = Command::new("git").args(["describe", "--always", "--dirty", "--abbrev=12"]).output();
    match output {
        Ok(output) if output.status.success() => String::from_utf8_lossy(&output.stdout).trim().to_owned(),
        _ => "unknown".to_owned(),
    }
}
