//! `fkv`: the one command line tool of FeatureKV.
//!
//! ```text
//!   argv ─ cli ─▶ verb ─ cmd/* ─▶ control API (tables, tasks, versions, rollback)   ─ view ─▶ text or JSON on stdout
//!                               ├▶ client      (get, batch-get)                      ─ failure ─▶ message on stderr, exit code
//!                               ├▶ inspect     (files)
//!                               └▶ local       (up, demo: a whole cluster in this process)
//! ```
//!
//! Standard output carries results only; progress, warnings and errors go to standard error. The JSON shapes are
//! described in `tools/README.md` and only ever gain fields.

mod cli;
mod cmd;
mod context;
mod control;
mod demo;
mod failure;
mod key_text;
mod local;
mod output;
mod progress;
mod signals;
mod value_text;
mod view;

use std::ffi::OsString;
use std::process::ExitCode;

/// Parses the command line, runs the verb and tells how the process shall end.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let cli = match cli::parse(arguments) {
        Ok(cli) => cli,
        // Help and version are printed to stdout with code 0, mistakes to stderr with code 2.
        Err(error) => {
            let code = if error.use_stderr() { failure::EXIT_USAGE } else { 0 };
            // Nothing is left to tell anybody if the terminal is gone.
            let _ = error.print();
            return ExitCode::from(code);
        }
    };
    cmd::run(cli)
}
