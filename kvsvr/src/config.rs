//! What a server is told: who it is, where it listens, how much it may use.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use fkv_meta::key::check_name;
use fkv_meta::record::RetainOld;
use serde::{Deserialize, Serialize};

/// With less than this the reads of a few requests would wait for each other's buffers.
const IO_BUFFER_BYTES_MIN: u64 = 1 << 20;
/// Most rings, threads, and reads in flight: beyond what any device takes, far below what would overflow.
const IO_COUNT_MAX: usize = 4096;

/// Configuration of one server. Every field but `module`, `server` and `data_dir` has a usable default.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct KvConfig {
    /// The module it serves.
    pub module: String,
    /// Its id, as the topology names it. Two running servers never share one.
    pub server: String,
    /// Where it listens; port 0 lets the system choose.
    pub listen: SocketAddr,
    /// `host:port` under which others reach it; the bound address if absent.
    pub advertise: Option<String>,
    /// Allows listening without TLS beyond loopback.
    pub insecure: bool,
    /// Where local files and STATE live. Belongs to this server alone.
    pub data_dir: PathBuf,
    /// Most bytes of memory for images, for the buffers of reads (`io.buffer_bytes`, `io.long_buffer_bytes_max`) and for the
    /// record cache. The last two are set aside at the start.
    pub memory_bytes_max: u64,
    /// Most bytes that local files may occupy.
    pub disk_bytes_max: u64,
    /// Most bytes per second that loads may read from the store; 0 means no limit.
    pub load_bytes_per_s: u64,
    /// Most bytes per second that are read of local files to find out what else is damaged, once something is; 0 means no
    /// limit.
    pub scrub_bytes_per_s: u64,
    /// How many ranged reads one load keeps in flight.
    pub load_reads: usize,
    /// Longest of these reads, in bytes.
    pub load_read_bytes: u64,
    /// A piece of an image's memory, and a local file, is closed when it has this many bytes.
    pub group_bytes: u64,
    /// How many tables load at once.
    pub loads_max: usize,
    /// Seconds after which the claim of a server that is gone ends.
    pub lease_ttl_s: u64,
    /// Overrides, for this server, what tables say about keeping the image that a flip replaced.
    pub retain_old: Option<RetainOld>,
    /// Seconds an image that nothing needs any more survives after the server lost its last slot.
    pub unassigned_grace_s: u64,
    /// Limits of requests.
    pub limits: RequestLimits,
    /// How local files are read for lookups.
    pub io: IoConfig,
    /// Bytes of the cache of records read from local files; 0 switches it off. It gets a sixteenth of `memory_bytes_max` at
    /// most, and none where that is less than a mebibyte.
    pub record_cache_bytes: u64,
}

/// How local files are read for lookups.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct IoConfig {
    /// Which engine reads.
    pub engine: IoEngine,
    /// Rings, each with a thread of its own; 0: one per core, at most 4. For io_uring.
    pub rings: usize,
    /// Threads that read where io_uring does not; no more reads than that are in flight.
    pub pread_threads: usize,
    /// Reads in flight per device. More than the device takes at once only wait in the kernel instead of here, where
    /// requests take turns.
    pub in_flight_max: usize,
    /// Bytes of buffers for reads of one block. They are locked in memory from the start.
    pub buffer_bytes: u64,
    /// Most bytes of buffers for longer reads; per ring, a single longer one is let through when it is alone.
    pub long_buffer_bytes_max: u64,
    /// Files that are registered with the rings. Reads of files beyond that cost a little more.
    pub files_max: u32,
    /// Threads that compute what requests that read local files need: hashes, checksums, replies; 0: one per core.
    pub lookup_threads: usize,
}

/// What reads local files.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum IoEngine {
    /// io_uring, or threads where it is refused.
    #[default]
    Auto,
    /// io_uring; without it the server does not start.
    Uring,
    /// Threads that call pread.
    Pread,
}

impl Default for IoConfig {
    fn default() -> Self {
        Self {
            engine: IoEngine::Auto,
            rings: 0,
            pread_threads: 16,
            in_flight_max: 256,
            buffer_bytes: 32 << 20,
            long_buffer_bytes_max: 64 << 20,
            files_max: 1024,
            lookup_threads: 0,
        }
    }
}

/// Bounds on what clients may ask. A request that is too large is refused with `OUT_OF_RANGE`: it has to be split. One
/// that finds the server busy is refused with `RESOURCE_EXHAUSTED`: another server may take it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RequestLimits {
    /// Keys of one request, all sections together.
    pub keys_max: usize,
    /// Bytes of one request body.
    pub request_bytes_max: usize,
    /// Bytes of one reply body.
    pub reply_bytes_max: usize,
    /// Bytes of all replies together, each from when it is made until it is sent.
    pub reply_memory_bytes_max: u64,
    /// Requests answered at once.
    pub concurrent_max: usize,
    /// Requests that may wait for their turn.
    pub queue_max: usize,
    /// Requests that read local files, answered at once. They do not count among the others: a device that is slow or
    /// stuck holds up no table in memory.
    pub ssd_concurrent_max: usize,
    /// Requests that may wait for their turn to read local files.
    pub ssd_queue_max: usize,
    /// HTTP/2 streams of one connection.
    pub streams_max: u32,
}

impl Default for RequestLimits {
    fn default() -> Self {
        Self {
            keys_max: fkv_rpc::packed::KEYS_MAX,
            request_bytes_max: fkv_rpc::packed::REQUEST_BYTES_MAX,
            reply_bytes_max: fkv_rpc::packed::REPLY_BYTES_MAX,
            reply_memory_bytes_max: 1 << 30,
            concurrent_max: 256,
            queue_max: 1024,
            ssd_concurrent_max: 128,
            ssd_queue_max: 512,
            streams_max: 256,
        }
    }
}

impl Default for KvConfig {
    fn default() -> Self {
        Self {
            module: String::new(),
            server: String::new(),
            listen: SocketAddr::from(([127, 0, 0, 1], 7310)),
            advertise: None,
            insecure: false,
            data_dir: PathBuf::new(),
            memory_bytes_max: 4 << 30,
            disk_bytes_max: 64 << 30,
            load_bytes_per_s: 0,
            scrub_bytes_per_s: 64 << 20,
            load_reads: 8,
            load_read_bytes: 8 << 20,
            group_bytes: 128 << 20,
            loads_max: 2,
            lease_ttl_s: 10,
            retain_old: None,
            unassigned_grace_s: 600,
            limits: RequestLimits::default(),
            io: IoConfig::default(),
            record_cache_bytes: 256 << 20,
        }
    }
}

/// A configuration that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("configuration field `{field}`: {reason}")]
pub struct BadConfig {
    field: &'static str,
    reason: String,
}

impl KvConfig {
    /// Bytes that the record cache gets.
    pub(crate) fn cache_bytes(&self) -> u64 {
        const LEAST: u64 = 1 << 20;
        let bytes = self.record_cache_bytes.min(self.memory_bytes_max / 16);
        if bytes < LEAST { 0 } else { bytes }
    }

    /// What is set aside at the start does not fit.
    pub(crate) fn buffers_do_not_fit(&self, why: &str) -> BadConfig {
        let reason = format!(
            "the buffers for reads of local files (io.buffer_bytes = {}, io.long_buffer_bytes_max = {}) and the record \
             cache ({} bytes) do not fit, and images need memory beside them: {why}; raise it, or lower those",
            self.io.buffer_bytes,
            self.io.long_buffer_bytes_max,
            self.cache_bytes(),
        );
        BadConfig { field: "memory_bytes_max", reason }
    }

    /// Checks what the types cannot.
    ///
    /// # Errors
    /// [`BadConfig`] names the field and says what is expected.
    pub fn validate(&self) -> Result<(), BadConfig> {
        let bad = |field, reason: &str| Err(BadConfig { field, reason: reason.to_owned() });
        for (field, what, name) in [("module", "module", &self.module), ("server", "server", &self.server)] {
            check_name(what, name).map_err(|error| BadConfig { field, reason: error.to_string() })?;
        }
        if self.data_dir.as_os_str().is_empty() {
            return bad("data_dir", "a directory is needed");
        }
        if !self.listen.ip().is_loopback() && !self.insecure {
            return bad(
                "listen",
                &format!(
                    "{} is reachable from other machines and the connection is not encrypted: listen on 127.0.0.1, or \
                     set `insecure` if the network is trusted",
                    self.listen
                ),
            );
        }
        if self.limits.reply_memory_bytes_max < self.limits.reply_bytes_max as u64 {
            return bad("limits.reply_memory_bytes_max", "must be at least `limits.reply_bytes_max`");
        }
        if self.io.buffer_bytes < IO_BUFFER_BYTES_MIN {
            return bad("io.buffer_bytes", &format!("must be at least {IO_BUFFER_BYTES_MIN}"));
        }
        for (field, value) in [
            ("io.rings", self.io.rings),
            ("io.pread_threads", self.io.pread_threads),
            ("io.in_flight_max", self.io.in_flight_max),
            ("io.lookup_threads", self.io.lookup_threads),
        ] {
            if value > IO_COUNT_MAX {
                return bad(field, &format!("must be at most {IO_COUNT_MAX}"));
            }
        }
        let positive = [
            ("io.pread_threads", self.io.pread_threads as u64),
            ("io.in_flight_max", self.io.in_flight_max as u64),
            ("io.files_max", u64::from(self.io.files_max)),
            ("load_reads", self.load_reads as u64),
            ("load_read_bytes", self.load_read_bytes),
            ("group_bytes", self.group_bytes),
            ("loads_max", self.loads_max as u64),
            ("lease_ttl_s", self.lease_ttl_s),
            ("memory_bytes_max", self.memory_bytes_max),
            ("disk_bytes_max", self.disk_bytes_max),
            ("limits.keys_max", self.limits.keys_max as u64),
            ("limits.request_bytes_max", self.limits.request_bytes_max as u64),
            ("limits.reply_bytes_max", self.limits.reply_bytes_max as u64),
            ("limits.concurrent_max", self.limits.concurrent_max as u64),
            ("limits.ssd_concurrent_max", self.limits.ssd_concurrent_max as u64),
            ("limits.streams_max", u64::from(self.limits.streams_max)),
        ];
        if let Some((field, _)) = positive.into_iter().find(|(_, value)| *value == 0) {
            return bad(field, "must be at least 1");
        }
        let buffers = self.io.buffer_bytes.saturating_add(self.io.long_buffer_bytes_max);
        let fixed = buffers.saturating_add(self.cache_bytes());
        if fixed >= self.memory_bytes_max {
            return Err(self.buffers_do_not_fit(&format!("{fixed} bytes of {}", self.memory_bytes_max)));
        }
        Ok(())
    }

    /// The lease's time to live.
    #[must_use]
    pub const fn lease_ttl(&self) -> Duration {
        Duration::from_secs(self.lease_ttl_s)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn usable() -> KvConfig {
        KvConfig { module: "rank".into(), server: "kv-1".into(), data_dir: "/tmp/x".into(), ..KvConfig::default() }
    }

    #[test]
    fn listening_beyond_loopback_needs_the_insecure_switch() {
        let mut config = usable();
        assert_eq!(config.validate(), Ok(()));
        config.listen = "0.0.0.0:7310".parse().expect("an address");
        let refused = config.validate().expect_err("reachable from outside").to_string();
        assert!(refused.contains("insecure"), "{refused}");
        config.insecure = true;
        assert_eq!(config.validate(), Ok(()));
    }

    #[test]
    fn zeros_and_bad_names_are_named() {
        let mut config = usable();
        config.limits.keys_max = 0;
        assert!(config.validate().expect_err("no keys").to_string().contains("limits.keys_max"));
        config = KvConfig { io: IoConfig { buffer_bytes: 4096, ..IoConfig::default() }, ..usable() };
        assert!(config.validate().expect_err("one buffer").to_string().contains("io.buffer_bytes"));
        config = KvConfig { io: IoConfig { in_flight_max: 0, ..IoConfig::default() }, ..usable() };
        assert!(config.validate().expect_err("no reads").to_string().contains("io.in_flight_max"));
        config = KvConfig { memory_bytes_max: 96 << 20, ..usable() };
        let refused = config.validate().expect_err("the buffers take it all").to_string();
        assert!(refused.contains("memory_bytes_max") && refused.contains("io.long_buffer_bytes_max"), "{refused}");
        config = KvConfig { server: "a/b".into(), ..usable() };
        assert!(config.validate().expect_err("bad name").to_string().contains("`server`"));
        config = KvConfig { data_dir: PathBuf::new(), ..usable() };
        assert!(config.validate().is_err());
    }
}
