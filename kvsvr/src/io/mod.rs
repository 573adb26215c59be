//! Reads of local files on SSD: whole 4 KiB blocks, by the thousand, past the page cache.
//!
//! ```text
//!   request ── read(ReadOps) ──▶ Batch ── next() ──▶ groups of (index, Buffer), as they arrive
//!                 │ split over rings and devices                     ▲
//!                 ▼                                                  │ dropped: back to the pool
//!   lanes ── schedule (round robin, caps) ── uring: a ring per thread │
//!                                          └ pread: a pool of threads ┘
//! ```
//!
//! A batch may be far larger than the memory for buffers: whoever reads takes what has arrived with [`Batch::next`],
//! uses it, and drops it, so that the next reads have room. Files are immutable once registered. An error names the
//! file and the offset.
//!
//! Which engine serves is decided once, at the start, and logged: io_uring, or plain reads on threads where the kernel,
//! a container or a sandbox refuses io_uring.

mod batch;
mod buffer;
mod file;
mod inbox;
mod outcome;
mod pread;
mod ring;
mod schedule;
#[cfg(test)]
pub(crate) mod stuck;
#[cfg(test)]
mod tests;
mod uring;

use std::fmt::Debug;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use fkv_formats::table::disk::RUN_BLOCKS_MAX;

pub(crate) use self::batch::{Batch, Done};
pub(crate) use self::buffer::Buffer;
pub(crate) use self::file::FileHandle;
pub(crate) use self::outcome::is_data_gone;
use crate::config::{IoConfig, IoEngine};

/// Offsets and lengths of reads are multiples of this.
pub(crate) const BLOCK_BYTES: usize = 4096;
/// The longest read: the longest run that the formats allow.
pub(crate) const READ_BYTES_MAX: usize = RUN_BLOCKS_MAX as usize * BLOCK_BYTES;

/// One read.
#[derive(Clone, Debug)]
pub(crate) struct ReadOp {
    pub(crate) file: FileHandle,
    /// A multiple of [`BLOCK_BYTES`].
    pub(crate) offset: u64,
    /// A multiple of [`BLOCK_BYTES`], not 0, at most [`READ_BYTES_MAX`].
    pub(crate) len: u32,
}

/// What has been read since the start, and what is in use now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct IoCounts {
    /// Reads that delivered their bytes.
    pub(crate) reads: u64,
    /// Their bytes.
    pub(crate) read_bytes: u64,
    /// Reads that failed.
    pub(crate) failures: u64,
    /// Buffers that are being filled or are with a reader.
    pub(crate) buffers_held: usize,
    /// The part of them, in bytes, that lies outside the pool of blocks.
    pub(crate) long_bytes_held: usize,
}

/// An engine that reads blocks. Dropping it stops it: reads that wait fail, those in flight end by themselves.
pub(crate) trait BlockIo: Send + Sync + Debug {
    /// Opens a file for reads. It stays readable until the last clone of the handle and the last read of it are gone,
    /// also when it is unlinked meanwhile. Its length is taken now and never again. Blocks: call it where that is
    /// allowed.
    ///
    /// # Errors
    /// As the operating system says; the message names the file.
    fn register(&self, path: &Path) -> io::Result<FileHandle>;

    /// Starts `reads`. Every one of them is answered once, by its index, in any order. Dropping the batch drops what
    /// has not begun.
    fn read(&self, reads: Vec<ReadOp>) -> Batch;

    /// Which engine this is, as in the configuration.
    fn engine(&self) -> IoEngine;

    /// Counters.
    fn counts(&self) -> IoCounts;

    /// Bytes of memory set aside for buffers. A read longer than all long buffers of its ring together goes beyond it.
    fn memory_bytes(&self) -> u64;
}

/// Starts the engine that `config` asks for. Blocks for as long as it takes to start its threads.
///
/// Tasks and clocks are not needed here, and the threads cannot come from [`fkv_env::Env`]: a ring belongs to the one
/// thread that made it, and that thread sleeps in the kernel for most of its life, which neither the pool for CPU work
/// nor the runtime's threads for short blocking calls are there for.
///
/// # Errors
/// The configuration insists on io_uring and it is refused, or threads or memory are.
pub(crate) fn open(config: &IoConfig) -> io::Result<Arc<dyn BlockIo>> {
    if config.engine == IoEngine::Pread {
        tracing::info!(threads = config.pread_threads, "local files are read by threads, as configured");
        return Ok(Arc::new(pread::Pread::start(config)?));
    }
    match uring::Uring::start(config) {
        Ok(engine) => {
            let facts = engine.facts();
            tracing::info!(
                rings = facts.rings,
                deferred_completions = facts.deferred,
                fixed_buffers = facts.fixed_buffers,
                fixed_files = facts.fixed_files,
                "local files are read through io_uring"
            );
            Ok(Arc::new(engine))
        }
        Err(error) if config.engine == IoEngine::Auto => {
            tracing::warn!(
                reason = %error,
                threads = config.pread_threads,
                "io_uring is refused: local files are read by threads, which costs more CPU per read"
            );
            Ok(Arc::new(pread::Pread::start(config)?))
        }
        Err(error) => Err(error),
    }
}

/// Rung when something that a sleeping thread waits for has come.
trait Wake: Send + Sync + Debug {
    fn wake(&self);
}

impl IoCounts {
    fn count(&mut self, bytes: usize, delivered: bool) {
        if delivered {
            self.reads += 1;
            self.read_bytes += bytes as u64;
        } else {
            self.failures += 1;
        }
    }
}

/// What an engine counts.
#[derive(Debug, Default)]
struct Counters {
    reads: AtomicU64,
    read_bytes: AtomicU64,
    failures: AtomicU64,
    #[cfg(test)]
    threads: std::sync::Mutex<Vec<u32>>,
}

impl Counters {
    fn add(&self, counts: IoCounts) {
        if counts.reads > 0 {
            self.reads.fetch_add(counts.reads, Ordering::Relaxed);
            self.read_bytes.fetch_add(counts.read_bytes, Ordering::Relaxed);
        }
        if counts.failures > 0 {
            self.failures.fetch_add(counts.failures, Ordering::Relaxed);
        }
    }

    fn with<'p>(&self, pools: impl Iterator<Item = &'p Arc<buffer::Pool>> + Clone) -> IoCounts {
        IoCounts {
            reads: self.reads.load(Ordering::Relaxed),
            read_bytes: self.read_bytes.load(Ordering::Relaxed),
            failures: self.failures.load(Ordering::Relaxed),
            buffers_held: pools.clone().map(|pool| pool.held()).sum(),
            long_bytes_held: pools.map(|pool| pool.long_bytes_held()).sum(),
        }
    }
}
