//! A real S3 server as its own process: `s3s-fs`, which checks signatures and keeps objects in a directory.

use std::env::{split_paths, var_os};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use fkv_env::Env;
use tempfile::TempDir;

use crate::options::{NetworkOptions, S3Options, Secret, StoreOptions};

const BUCKET: &str = "fkv-test";
const ACCESS_KEY: &str = "TESTACCESSKEY";
const SECRET_KEY: &str = "test-secret-key";
const START_LIMIT: Duration = Duration::from_secs(30);
const STARTS_MAX: usize = 5;

/// Runs the server until standard input closes, so that it ends with this process however that ends. The exit status
/// is the server's.
const UNTIL_INPUT_CLOSES: &str =
    r#"exec 3<&0; "$@" 3<&- & pid=$!; { read -r _ <&3; kill "$pid"; } 2>/dev/null & wait "$pid""#;

/// An S3 server on a free port of the loopback interface, with one bucket, one key and nothing in it. It ends, and its
/// data goes, when this is dropped.
#[derive(Debug)]
pub struct S3Process {
    child: Option<Child>,
    dir: TempDir,
    port: u16,
}

impl S3Process {
    /// Starts a server and waits until it accepts connections.
    ///
    /// # Panics
    /// If there is no server binary, or it does not start.
    pub async fn start(env: &Env) -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        env.files.create_dir_all(&dir.path().join("data").join(BUCKET)).expect("a bucket");
        let mut process = Self { child: None, dir, port: 0 };
        for _ in 0..STARTS_MAX {
            // The port is free now; should somebody else take it first, the server exits and another one is tried.
            process.port = free_port(env).await;
            if process.try_start(env).await {
                return process;
            }
        }
        panic!("the S3 server does not start; its log: {}", process.log(env));
    }

    /// Ends the server; its data stays, and clients find nobody at the port.
    pub fn stop(&mut self) {
        if let Some(mut child) = self.child.take() {
            drop(child.stdin.take());
            // It was waited for already if this fails.
            let _ = child.wait();
        }
    }

    /// Starts the server again, with its data and on its port.
    ///
    /// # Panics
    /// If it does not start.
    pub async fn start_again(&mut self, env: &Env) {
        self.stop();
        assert!(self.try_start(env).await, "the S3 server does not start again; its log: {}", self.log(env));
    }

    /// The URL of a store in the bucket.
    #[must_use]
    pub fn url(&self, prefix: &str) -> String {
        crate::path::join(&format!("s3://{BUCKET}"), prefix)
    }

    /// The URL of the service.
    #[must_use]
    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// The access key and the secret key that the server accepts.
    #[must_use]
    pub const fn keys(&self) -> (&'static str, &'static str) {
        (ACCESS_KEY, SECRET_KEY)
    }

    /// Options that open a store here, patient enough for a busy machine and no more.
    #[must_use]
    pub fn options(&self) -> StoreOptions {
        StoreOptions {
            s3: S3Options {
                endpoint: Some(self.endpoint()),
                region: Some("us-east-1".into()),
                access_key_id: Some(Secret::new(ACCESS_KEY)),
                secret_access_key: Some(Secret::new(SECRET_KEY)),
                ..S3Options::default()
            },
            network: NetworkOptions { retries_max: 3, backoff_max: Duration::from_millis(200), ..Default::default() },
            ..StoreOptions::default()
        }
    }

    /// Where the server keeps its files: the bucket is a directory in it; files of unfinished uploads lie beside it.
    #[must_use]
    pub fn data_dir(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    /// Whether the server accepts connections; `false` if it exited instead.
    async fn try_start(&mut self, env: &Env) -> bool {
        let log = self.log_file();
        #[allow(clippy::disallowed_methods, reason = "a child process needs a file of the operating system")]
        let log = std::fs::File::create(log).expect("a log file");
        let child = Command::new("sh")
            .args(["-c", UNTIL_INPUT_CLOSES, "sh"])
            .arg(find_binary(env))
            .args(["--host", "127.0.0.1", "--port", &self.port.to_string()])
            .args(["--access-key", ACCESS_KEY, "--secret-key", SECRET_KEY])
            .arg(self.data_dir())
            .env("RUST_LOG", "warn")
            .stdin(Stdio::piped())
            .stdout(log.try_clone().expect("a second handle"))
            .stderr(log)
            .spawn()
            .expect("a shell starts");
        self.child = Some(child);
        let begin = env.clock.monotonic();
        loop {
            let child = self.child.as_mut().expect("just started");
            if child.try_wait().expect("a child of this process").is_some() {
                self.child = None;
                return false;
            }
            if env.net.connect(&format!("127.0.0.1:{}", self.port)).await.is_ok() {
                return true;
            }
            let waited = env.clock.monotonic() - begin;
            assert!(waited < START_LIMIT, "the S3 server does not listen; its log: {}", self.log(env));
            env.clock.sleep(Duration::from_millis(5)).await;
        }
    }

    fn log_file(&self) -> PathBuf {
        self.dir.path().join("server.log")
    }

    fn log(&self, env: &Env) -> String {
        env.files.read(&self.log_file()).map_or_else(
            |error| format!("cannot be read: {error}"),
            |bytes| String::from_utf8_lossy(&bytes).into_owned(),
        )
    }
}

impl Drop for S3Process {
    fn drop(&mut self) {
        self.stop();
    }
}

async fn free_port(env: &Env) -> u16 {
    let any = std::net::SocketAddr::from(([127, 0, 0, 1], 0));
    let listener = env.net.listen(any).await.expect("a free port on the loopback interface");
    listener.local_addr().expect("the address of a bound socket").port()
}

/// The server's binary: `FKV_TEST_S3`, else `target/tools/bin/s3s-fs` here or above, else the one on the `PATH`.
fn find_binary(env: &Env) -> PathBuf {
    if let Some(given) = var_os("FKV_TEST_S3") {
        return PathBuf::from(given);
    }
    let is_file = |path: &PathBuf| env.files.stat(path).is_ok_and(|stat| stat.is_file);
    let crate_dir = var_os("CARGO_MANIFEST_DIR").map_or_else(|| env!("CARGO_MANIFEST_DIR").into(), PathBuf::from);
    let installed = crate_dir.ancestors().map(|dir: &Path| dir.join("target/tools/bin/s3s-fs"));
    let on_path: Vec<PathBuf> = var_os("PATH").map(|path| split_paths(&path).collect()).unwrap_or_default();
    installed.chain(on_path.into_iter().map(|dir| dir.join("s3s-fs"))).find(is_file).unwrap_or_else(|| {
        panic!(
            "there is no S3 server to test with: run tests/setup.sh, which installs s3s-fs into target/tools, or name \
             one in FKV_TEST_S3"
        )
    })
}
