//! The Python side of the tests: the interpreter with pyarrow and grpcio, and the scripts in `tests/python`.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The interpreter: `FKV_TEST_PYTHON`, or `target/venv/bin/python` found upward from this crate.
///
/// # Panics
/// There is none; the message says how to make it.
#[must_use]
pub fn interpreter() -> PathBuf {
    if let Some(python) = std::env::var_os("FKV_TEST_PYTHON") {
        return PathBuf::from(python);
    }
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors()
        .map(|dir| dir.join("target/venv/bin/python"))
        .find(|python| python.exists())
        .expect("no target/venv with the Python packages of the tests: run tests/setup.sh, or set FKV_TEST_PYTHON")
}

/// Runs `tests/python/{script}` and gives what it printed.
///
/// # Panics
/// It cannot be started or fails; the message has its output.
pub fn run<A: AsRef<OsStr>>(script: &str, arguments: impl IntoIterator<Item = A>) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("python").join(script);
    let output = Command::new(interpreter())
        .arg("-B")
        .arg(&path)
        .args(arguments)
        .output()
        .unwrap_or_else(|error| panic!("cannot start python for {script}: {error}; run tests/setup.sh"));
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "{script} failed ({}); run tests/setup.sh if a package is missing\n{stdout}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    stdout
}
