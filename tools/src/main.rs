//! The `fkv` binary.

use std::process::ExitCode;

fn main() -> ExitCode {
    fkv_tools::run(std::env::args_os())
}
