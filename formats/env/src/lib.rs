//! The outside world as values: time, randomness, tasks, CPU, local files and connections.
//!
//! ```text
//!   Env ── clock    wall time, monotonic time, sleeping
//!       ── entropy  random bytes (jitter, identifiers)
//!       ── spawn    asynchronous tasks and blocking calls
//!       ── cpu      a bounded pool for work that burns a core
//!       ── files    local files: caches and STATE
//!       ── net      listening and connecting
//! ```
//!
//! Nothing else in the workspace may ask the operating system for any of these (`clippy.toml` says so). A
//! simulation replaces each part and owns time, order and failure; a server takes [`Env::real`].

mod clock;
mod cpu;
mod entropy;
mod files;
mod grpc;
mod net;
mod spawn;

use std::sync::Arc;

pub use clock::{Clock, Elapsed, SystemClock, timeout};
pub use cpu::{CpuPool, JobPanicked, RayonPool};
pub use entropy::{Entropy, SeededEntropy, system_entropy};
pub use files::{DirEntry, FileLock, FileReader, FileStat, FileWriter, Files, OsFiles};
pub use grpc::{ChannelOptions, GrpcIo, channel, incoming};
pub use net::{Conn, Listener, Net, TcpNet};
pub use spawn::{Spawn, TaskHandle, TokioSpawn};

/// Everything a component may ask of the outside world. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Env {
    /// Wall and monotonic time.
    pub clock: Arc<dyn Clock>,
    /// Random bytes.
    pub entropy: Arc<dyn Entropy>,
    /// Asynchronous tasks and blocking calls.
    pub spawn: Arc<dyn Spawn>,
    /// CPU-bound work.
    pub cpu: Arc<dyn CpuPool>,
    /// Local files.
    pub files: Arc<dyn Files>,
    /// Sockets.
    pub net: Arc<dyn Net>,
}

impl Env {
    /// The real world: system clock, OS entropy, tokio tasks, a rayon pool of `cpu_threads` (0: one per core),
    /// the local file system and TCP.
    ///
    /// # Errors
    /// The CPU pool's threads could not be started.
    pub fn real(cpu_threads: usize) -> std::io::Result<Self> {
        Ok(Self {
            clock: Arc::new(SystemClock::new()),
            entropy: Arc::new(system_entropy()),
            spawn: Arc::new(TokioSpawn),
            cpu: Arc::new(RayonPool::new(cpu_threads)?),
            files: Arc::new(OsFiles),
            net: Arc::new(TcpNet),
        })
    }

    /// Runs `work` on the CPU pool and waits for its result.
    ///
    /// # Errors
    /// [`JobPanicked`] if `work` panicked; the pool survives.
    pub async fn compute<T, F>(&self, work: F) -> Result<T, JobPanicked>
    where
        T: Send + 'static,
        F: FnOnce() -> T + Send + 'static,
    {
        let (sender, receiver) = tokio::sync::oneshot::channel();
        self.cpu.execute(Box::new(move || {
            // The caller may have been cancelled; then nobody wants the result.
            let _ = sender.send(work());
        }));
        receiver.await.map_err(|_| JobPanicked)
    }

    /// Runs `work`, which may block on local files, off the asynchronous threads.
    ///
    /// # Errors
    /// [`JobPanicked`] if `work` panicked.
    pub async fn blocking<T, F>(&self, work: F) -> Result<T, JobPanicked>
    where
        T: Send + 'static,
        F: FnOnce() -> T + Send + 'static,
    {
        let (sender, receiver) = tokio::sync::oneshot::channel();
        self.spawn.blocking(Box::new(move || {
            let _ = sender.send(work());
        }));
        receiver.await.map_err(|_| JobPanicked)
    }
}
