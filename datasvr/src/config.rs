//! What a DataSvr is told: where it listens, what it may read, what it may use.

use std::net::SocketAddr;
use std::time::Duration;

use crate::input::source::Sources;

/// Settings of a [`crate::DataServer`].
#[derive(Clone, Debug)]
pub struct DataConfig {
    /// The module whose tables it serves.
    pub module: String,
    /// The worker's name, unique within the module; empty: one is made up.
    pub worker: String,
    /// Where the control API listens; port 0 lets the system choose.
    pub listen: SocketAddr,
    /// The address others reach the control API at; empty: the one it listens on.
    pub advertise: String,
    /// Whether it may listen beyond loopback although nothing is encrypted.
    pub insecure: bool,
    /// What tasks may read.
    pub sources: Sources,
    /// How long a worker that does not answer keeps its locks. Whole seconds, at least 1.
    pub lease_ttl: Duration,
    /// Memory that the worker may use for the job it does, in bytes.
    pub build_memory: u64,
    /// Memory of the rows of one slice, in bytes; as much as `build_memory` allows unless told otherwise. What is smaller is
    /// loaded by a single job.
    pub slice_bytes: Option<u64>,
    /// Size that packs are cut at, in bytes.
    pub pack_bytes: u64,
    /// The pause before the second attempt at a task; it doubles with each further one.
    pub retry_pause: Duration,
    /// Whether this server works on tasks, or only serves the control API and aligns.
    pub work: bool,
}

impl DataConfig {
    /// Port of the control API unless told otherwise.
    pub const PORT: u16 = 7300;
    /// The longest pause between two attempts at a task.
    pub const RETRY_PAUSE_MAX: Duration = Duration::from_secs(60);
}

impl Default for DataConfig {
    fn default() -> Self {
        Self {
            module: "main".to_owned(),
            worker: String::new(),
            listen: SocketAddr::from(([127, 0, 0, 1], Self::PORT)),
            advertise: String::new(),
            insecure: false,
            sources: Sources::default(),
            lease_ttl: Duration::from_secs(10),
            build_memory: 4 << 30,
            slice_bytes: None,
            pack_bytes: 256 << 20,
            retry_pause: Duration::from_secs(1),
            work: true,
        }
    }
}
