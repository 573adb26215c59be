//! A real etcd process for tests.

use std::net::{Ipv4Addr, TcpListener};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use fkv_env::Env;
use tempfile::TempDir;

use crate::etcd::EtcdStore;
use crate::store::MetaStore;

/// An etcd process on free loopback ports, with its data in a temporary directory; killed when dropped.
#[derive(Debug)]
pub struct EtcdProcess {
    env: Env,
    dir: TempDir,
    client_port: u16,
    peer_port: u16,
    child: Option<Child>,
}

impl EtcdProcess {
    /// How often another pair of ports is tried when somebody else has taken one meanwhile.
    const TRIES: usize = 5;
    const READY_MAX: Duration = Duration::from_secs(60);

    /// Starts one and waits until it serves.
    ///
    /// # Panics
    /// If there is no etcd, or it does not start; the message says what to do.
    pub async fn start() -> Self {
        let env = Env::real(1).expect("threads start");
        let mut failures = Vec::new();
        for _ in 0..Self::TRIES {
            let dir = tempfile::Builder::new().prefix("fkv-etcd-").tempdir().expect("a temporary directory");
            let (client_port, peer_port) = free_ports();
            let mut process = Self { env: env.clone(), dir, client_port, peer_port, child: None };
            match process.restart().await {
                Ok(()) => return process,
                Err(failure) => failures.push(failure),
            }
        }
        panic!("etcd does not start: {failures:#?}");
    }

    /// Its `host:port`.
    #[must_use]
    pub fn endpoint(&self) -> String {
        format!("127.0.0.1:{}", self.client_port)
    }

    /// Its metadata URL: `etcd://host:port`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("etcd://{}", self.endpoint())
    }

    /// A client of it.
    #[must_use]
    pub fn store(&self, env: &Env) -> EtcdStore {
        EtcdStore::connect(env, &[&self.endpoint()]).expect("a good endpoint")
    }

    /// Kills it, as `kill -9` does; its data stay.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Starts it again on its data and ports, after [`EtcdProcess::kill`], and waits until it serves.
    ///
    /// # Errors
    /// The end of its log, if it ended instead or did not serve in time.
    pub async fn restart(&mut self) -> Result<(), String> {
        self.kill();
        let log = self.dir.path().join("etcd.log");
        let output = create(&log);
        let client = format!("http://127.0.0.1:{}", self.client_port);
        let peer = format!("http://127.0.0.1:{}", self.peer_port);
        let mut command = Command::new(binary());
        command
            .args(["--name", "test", "--data-dir"])
            .arg(self.dir.path().join("data"))
            .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .args(["--initial-cluster", &format!("test={peer}")])
            // One server elects itself: short timeouts make that quick, and leases of one second possible.
            .args(["--heartbeat-interval", "20", "--election-timeout", "200"])
            .stdin(Stdio::null())
            .stdout(output.try_clone().expect("a second handle of the log"))
            .stderr(output);
        let child = command.spawn().unwrap_or_else(|error| {
            panic!(
                "etcd cannot be started ({error}): run tests/setup.sh, which installs it, or name its binary in \
                 FKV_TEST_ETCD"
            )
        });
        self.child = Some(child);
        let store = self.store(&self.env);
        let started = self.env.clock.monotonic();
        loop {
            if store.get("ready").await.is_ok() {
                return Ok(());
            }
            let ended = self.child.as_mut().and_then(|child| child.try_wait().ok().flatten());
            let late = self.env.clock.monotonic().saturating_sub(started) > Self::READY_MAX;
            if ended.is_some() || late {
                self.kill();
                let text = self.env.files.read(&log).unwrap_or_default();
                let text = String::from_utf8_lossy(&text);
                let from = text.char_indices().rev().nth(2000).map_or(0, |(at, _)| at);
                return Err(text[from..].to_owned());
            }
            self.env.clock.sleep(Duration::from_millis(50)).await;
        }
    }
}

impl Drop for EtcdProcess {
    fn drop(&mut self) {
        self.kill();
    }
}

fn binary() -> PathBuf {
    std::env::var_os("FKV_TEST_ETCD").map_or_else(|| PathBuf::from("etcd"), PathBuf::from)
}

#[allow(clippy::disallowed_methods, reason = "the log of another process, for tests only")]
fn create(path: &std::path::Path) -> std::fs::File {
    std::fs::File::create(path).expect("a file in the temporary directory")
}

/// Two ports that were free a moment ago.
fn free_ports() -> (u16, u16) {
    let bind = || TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free loopback port");
    let port = |listener: &TcpListener| listener.local_addr().expect("a bound address").port();
    let (one, other) = (bind(), bind());
    (port(&one), port(&other))
}
