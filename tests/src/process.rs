//! Server processes: found beside the test executable, started, killed, asked to stop, waited for.

use std::ffi::OsStr;
use std::fs::File;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use fkv_env::Env;
use rustix::process::{Pid, Signal, kill_process};

/// The binary `name` of this workspace, built in the same profile as the running test.
///
/// # Panics
/// It has not been built; the message says how.
#[must_use]
pub fn binary(name: &str) -> PathBuf {
    let test = std::env::current_exe().expect("the test executable has a path");
    // target/release/deps/e2e-0123456789abcdef → target/release/{name}
    let dir = test.parent().and_then(Path::parent).expect("test executables are two levels below target");
    let path = dir.join(name);
    assert!(
        path.is_file(),
        "{} is missing: `cargo build --release --bins` makes it (tests/run.sh does so before the tests)",
        path.display()
    );
    path
}

/// Ports of the loopback interface that were free a moment ago, all different. They lie below those that the system
/// gives to outgoing connections, so that none of these takes one meanwhile.
#[must_use]
pub fn free_ports(env: &Env, count: usize) -> Vec<u16> {
    const FIRST: u16 = 15_000;
    const SPAN: u64 = 15_000;
    let mut held: Vec<(u16, TcpListener)> = Vec::new();
    while held.len() < count {
        let port = FIRST + u16::try_from(env.entropy.below(SPAN)).expect("below the span");
        // One that is taken, also by ourselves, cannot be bound.
        held.extend(TcpListener::bind(("127.0.0.1", port)).map(|listener| (port, listener)));
    }
    held.into_iter().map(|(port, _)| port).collect()
}

/// A running server process. Dropping it kills it, and so does the end of the test's process, however that ends.
#[derive(Debug)]
pub struct Server {
    name: String,
    child: Child,
    /// Kills the server when this process's end of its input closes.
    watchdog: Child,
    log: PathBuf,
}

impl Server {
    /// Starts `binary`; what it prints goes to `log_dir/{name}.log`, appended over restarts.
    ///
    /// # Panics
    /// It cannot be started.
    #[must_use]
    pub fn start<A: AsRef<OsStr>>(
        name: &str,
        binary: &Path,
        arguments: impl IntoIterator<Item = A>,
        variables: &[(&str, String)],
        log_dir: &Path,
    ) -> Self {
        let log = log_dir.join(format!("{name}.log"));
        let out = File::options().create(true).append(true).open(&log).expect("the log can be written");
        let err = out.try_clone().expect("a file handle can be copied");
        let child = Command::new(binary)
            .args(arguments)
            .envs(variables.iter().map(|(key, value)| (key, value)))
            .stdin(Stdio::null())
            .stdout(out)
            .stderr(err)
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start {}: {error}", binary.display()));
        let watchdog = Command::new("sh")
            .args(["-c", "read -r _; kill -9 \"$0\"", &child.id().to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("a shell starts");
        Self { name: name.to_owned(), child, watchdog, log }
    }

    /// `kill -9`, and waits until it is gone.
    pub fn kill(&mut self) {
        self.dismiss_watchdog();
        self.child.kill().expect("our own child can be killed");
        self.child.wait().expect("our own child can be waited for");
    }

    /// Stops it in its tracks (`SIGSTOP`) until it is [resumed](Self::resume).
    pub fn pause(&self) {
        kill_process(self.pid(), Signal::STOP).expect("our own child can be signalled");
    }

    /// Lets it go on where it stood.
    pub fn resume(&self) {
        kill_process(self.pid(), Signal::CONT).expect("our own child can be signalled");
    }

    /// The most memory it has held at once, in bytes, with the code and the files that are mapped into it.
    ///
    /// # Panics
    /// The system does not tell.
    #[must_use]
    #[allow(clippy::disallowed_methods, reason = "asks the system about a real process")]
    pub fn memory_peak(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).expect("a running process");
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("the peak of resident memory");
        let kib: u64 = line.trim().trim_end_matches(" kB").parse().expect("kilobytes");
        kib * 1024
    }

    fn pid(&self) -> Pid {
        i32::try_from(self.child.id()).ok().and_then(Pid::from_raw).expect("a child has a process id")
    }

    /// Asks it to stop (`SIGTERM`) and waits.
    ///
    /// # Panics
    /// It does not stop; the message has the end of its log.
    pub async fn stop(&mut self, env: &Env) -> ExitStatus {
        kill_process(self.pid(), Signal::TERM).expect("our own child can be signalled");
        let deadline = env.clock.monotonic() + crate::wait::PATIENCE;
        loop {
            if let Some(status) = self.exited() {
                return status;
            }
            assert!(
                env.clock.monotonic() < deadline,
                "{} does not stop when asked to:\n{}",
                self.name,
                self.log_tail()
            );
            env.clock.sleep(Duration::from_millis(20)).await;
        }
    }

    /// Its exit status, if it has ended.
    pub fn exited(&mut self) -> Option<ExitStatus> {
        let status = self.child.try_wait().expect("our own child can be waited for")?;
        self.dismiss_watchdog();
        Some(status)
    }

    /// Once the server is gone its process id may become another's.
    fn dismiss_watchdog(&mut self) {
        let _ = self.watchdog.kill();
        let _ = self.watchdog.wait();
    }

    /// The last lines of its log.
    #[must_use]
    #[allow(clippy::disallowed_methods, reason = "reads the log of a real process")]
    pub fn log_tail(&self) -> String {
        let log = std::fs::read(&self.log).unwrap_or_default();
        let tail = &log[log.len().saturating_sub(4000)..];
        String::from_utf8_lossy(tail).into_owned()
    }

    /// The last lines of its log, if it has ended: for messages about a server that should run.
    pub fn death(&mut self) -> Option<String> {
        let status = self.exited()?;
        Some(format!("{} has ended ({status}); its log ends:\n{}", self.name, self.log_tail()))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.dismiss_watchdog();
        if self.child.try_wait().is_ok_and(|ended| ended.is_some()) {
            return;
        }
        // Nothing is left to tell when this fails: the process is gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
