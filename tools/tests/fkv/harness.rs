//! Runs the real binary: one-shot verbs, and `fkv up` as a child process.

#![allow(clippy::disallowed_methods, reason = "the tests watch other processes, in real time")]

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow_array::{ArrayRef, BinaryArray, Float32Array, RecordBatch, UInt64Array};
use parquet::arrow::ArrowWriter;
use serde_json::Value;

/// How long any single thing may take before a test fails.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// How a verb ended.
pub(crate) struct Run {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl std::fmt::Debug for Run {
    /// The beginning of what was printed: enough to see what went wrong.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let beginning = |text: &str| text.chars().take(2000).collect::<String>();
        write!(f, "exit code {}, stdout {:?}, stderr {:?}", self.code, beginning(&self.stdout), beginning(&self.stderr))
    }
}

impl Run {
    fn of(output: Output) -> Self {
        Self {
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8(output.stdout).expect("output is text"),
            stderr: String::from_utf8(output.stderr).expect("errors are text"),
        }
    }

    /// Standard output, which must be one JSON document.
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("not JSON ({error}): {self:?}"))
    }

    /// Asserts the exit code.
    #[track_caller]
    pub(crate) fn exits(self, code: i32) -> Self {
        assert_eq!(self.code, code, "{self:?}");
        self
    }

    /// Asserts failure with a message that contains all of `words`.
    #[track_caller]
    pub(crate) fn refuses(self, code: i32, words: &[&str]) -> Self {
        let run = self.exits(code);
        for word in words {
            assert!(run.stderr.contains(word), "`{word}` is not in: {run:?}");
        }
        run
    }
}

/// The binary, without a cluster.
pub(crate) fn fkv(arguments: &[&str]) -> Run {
    let output = command(arguments).output().expect("the binary runs");
    Run::of(output)
}

fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_fkv"));
    command.args(arguments).env_remove("FKV_ENDPOINT").stdin(Stdio::null());
    command
}

/// A running `fkv up`. Dropping it kills it.
#[derive(Debug)]
pub(crate) struct Up {
    child: Child,
    /// The ready line.
    pub(crate) ready: Value,
    pub(crate) endpoint: String,
    /// From the start of the process to the ready line.
    pub(crate) ready_after: Duration,
}

impl Up {
    /// Starts a cluster in `dir` on ports the system chooses.
    pub(crate) fn start(dir: &Path) -> Self {
        Self::start_with(dir, &[])
    }

    /// As [`Up::start`], with more flags.
    pub(crate) fn start_with(dir: &Path, flags: &[&str]) -> Self {
        let begun = Instant::now();
        let mut child = command(&["up", "--output", "json", "--dir"])
            .arg(dir)
            .args(if flags.contains(&"--port") { &[][..] } else { &["--port", "0"] })
            .args(flags)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary starts");
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().expect("piped")).read_line(&mut line).expect("readable");
        let ready_after = begun.elapsed();
        let Ok(ready) = serde_json::from_str::<Value>(&line) else {
            let mut errors = String::new();
            child.kill().expect("killable");
            child.stderr.take().expect("piped").read_to_string(&mut errors).expect("readable");
            panic!("no ready line but `{line}`: {errors}");
        };
        let endpoint = ready["endpoint"].as_str().expect("the ready line names the endpoint").to_owned();
        Self { child, ready, endpoint, ready_after }
    }

    /// Runs a verb against this cluster.
    pub(crate) fn fkv(&self, arguments: &[&str]) -> Run {
        Run::of(command(arguments).env("FKV_ENDPOINT", &self.endpoint).output().expect("the binary runs"))
    }

    /// Runs a verb that must succeed and print JSON.
    #[track_caller]
    pub(crate) fn json(&self, arguments: &[&str]) -> Value {
        let mut all = arguments.to_vec();
        all.extend(["--output", "json"]);
        self.fkv(&all).exits(0).json()
    }

    /// Runs a verb with `input` on its standard input.
    pub(crate) fn fkv_with_input(&self, arguments: &[&str], input: &str) -> Run {
        use std::io::Write;
        let mut child = command(arguments)
            .env("FKV_ENDPOINT", &self.endpoint)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary starts");
        child.stdin.take().expect("piped").write_all(input.as_bytes()).expect("written");
        Run::of(child.wait_with_output().expect("it ends"))
    }

    /// Kills it as the kernel would: no goodbye. It may not be quite gone yet on return.
    pub(crate) fn kill(mut self) {
        self.child.kill().expect("killable");
        // Not waited for: whoever starts it again does not wait either. It is reaped when the tests end.
        std::mem::forget(self);
    }

    /// Asks it to end in good order and gives its exit code.
    pub(crate) fn terminate(mut self) -> i32 {
        let pid = self.child.id().to_string();
        let sent = Command::new("kill").args(["-TERM", &pid]).status().expect("kill runs");
        assert!(sent.success());
        let end = wait_for("the end of `fkv up`", || self.child.try_wait().expect("waitable"));
        end.code().unwrap_or(-1)
    }
}

impl Drop for Up {
    fn drop(&mut self) {
        // Already gone after `kill` and `terminate`.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Looks again and again until `look` sees something.
#[track_caller]
pub(crate) fn wait_for<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(seen) = look() {
            return seen;
        }
        assert!(begun.elapsed() < PATIENCE, "waited {PATIENCE:?} for {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Writes a Parquet file with columns `user_id` (u64) and `score` (f32).
pub(crate) fn write_scores(path: &Path, rows: impl Iterator<Item = (u64, f32)>) {
    let (keys, values): (Vec<u64>, Vec<f32>) = rows.unzip();
    write_columns(
        path,
        [("user_id", Arc::new(UInt64Array::from(keys)) as ArrayRef), ("score", Arc::new(Float32Array::from(values)))],
    );
}

/// Writes a Parquet file with columns `name` and `value`, both bytes.
pub(crate) fn write_bytes(path: &Path, rows: &[(&[u8], &[u8])]) {
    let names = BinaryArray::from_iter_values(rows.iter().map(|row| row.0));
    let values = BinaryArray::from_iter_values(rows.iter().map(|row| row.1));
    write_columns(path, [("name", Arc::new(names) as ArrayRef), ("value", Arc::new(values))]);
}

fn write_columns<const N: usize>(path: &Path, columns: [(&str, ArrayRef); N]) {
    let batch = RecordBatch::try_from_iter(columns).expect("columns of one length");
    let file = std::fs::File::create(path).expect("creatable");
    let mut writer = ArrowWriter::try_new(file, batch.schema(), None).expect("a good schema");
    writer.write(&batch).expect("writable");
    writer.close().expect("writable");
}

/// A path as an argument.
pub(crate) fn text(path: &Path) -> &str {
    path.to_str().expect("test paths are text")
}

/// A temporary directory with a place for input files and one for the cluster.
pub(crate) struct Place {
    root: tempfile::TempDir,
}

impl Place {
    pub(crate) fn new() -> Self {
        Self { root: tempfile::tempdir().expect("a temporary directory") }
    }

    pub(crate) fn cluster(&self) -> PathBuf {
        self.root.path().join("cluster")
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }
}
