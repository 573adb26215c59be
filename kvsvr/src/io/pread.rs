//! Reads by a pool of threads that call pread: for machines where io_uring is refused. The same turns, bounds and
//! buffers; a thread reads one thing at a time, and sleeps on a condition when there is nothing.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use super::batch::{Batch, split};
use super::buffer::Pool;
use super::file::FileTable;
use super::outcome::Step;
use super::schedule::{Job, Limits, NewLane, Scheduler};
use super::{BLOCK_BYTES, BlockIo, Counters, FileHandle, IoCounts, ReadOp, Wake};
use crate::config::{IoConfig, IoEngine};

/// The engine.
#[derive(Debug)]
pub(super) struct Pread {
    shared: Arc<Shared>,
    bell: Arc<Bell>,
    pool: Arc<Pool>,
    files: Arc<FileTable>,
    long_bytes_max: u64,
}

#[derive(Debug)]
struct Shared {
    scheduler: Mutex<Scheduler>,
    bell: Arc<Bell>,
    stopping: AtomicBool,
    counters: Counters,
}

impl Pread {
    /// Starts the threads.
    pub(super) fn start(config: &IoConfig) -> io::Result<Self> {
        let bell = Arc::new(Bell::default());
        let blocks = (config.buffer_bytes / BLOCK_BYTES as u64).max(1);
        let limits = Limits {
            in_flight_max: config.in_flight_max.max(1),
            long_bytes_max: usize::try_from(config.long_buffer_bytes_max).unwrap_or(usize::MAX),
            blocks: u32::try_from(blocks).map_err(io::Error::other)?,
        };
        let (pool, free) = Pool::new(limits.blocks, Arc::clone(&bell) as Arc<dyn Wake>)?;
        let shared = Arc::new(Shared {
            scheduler: Mutex::new(Scheduler::new(limits, Arc::clone(&pool), free)),
            bell: Arc::clone(&bell),
            stopping: AtomicBool::new(false),
            counters: Counters::default(),
        });
        let files = FileTable::new(0);
        files.serve(Vec::new());
        // Should a thread not start, dropping the engine stops those before it.
        let long_bytes_max = config.long_buffer_bytes_max;
        let engine = Self { shared: Arc::clone(&shared), bell, pool, files, long_bytes_max };
        for number in 0..config.pread_threads.max(1) {
            let shared = Arc::clone(&shared);
            // Not from Env: see `super::open`.
            let thread = std::thread::Builder::new().name(format!("fkv-ssd-{number}"));
            thread.spawn(move || shared.work())?;
        }
        Ok(engine)
    }

    /// Takes over the reads of a lane.
    pub(super) fn add(&self, lane: NewLane) {
        let mut scheduler = self.shared.scheduler();
        // Looked at under the lock: what stops the threads sets it before it takes the lock.
        if !self.shared.stopping.load(Ordering::SeqCst) {
            scheduler.add(lane);
        }
        drop(scheduler);
        self.bell.wake();
    }
}

#[cfg(test)]
impl super::tests::Observed for Pread {
    fn threads(&self) -> Vec<u32> {
        self.shared.counters.threads()
    }

    fn alive(&self) -> std::sync::Weak<dyn Wake> {
        Arc::downgrade(&self.bell) as _
    }

    fn slots_in_use(&self) -> usize {
        self.files.slots_in_use()
    }
}

impl BlockIo for Pread {
    fn register(&self, path: &std::path::Path) -> io::Result<FileHandle> {
        self.files.open(path)
    }

    fn read(&self, reads: Vec<ReadOp>) -> Batch {
        split(reads, std::slice::from_ref(&self.bell), 0, |_, lane| self.add(lane))
    }

    fn engine(&self) -> IoEngine {
        IoEngine::Pread
    }

    fn counts(&self) -> IoCounts {
        self.shared.counters.with(std::iter::once(&self.pool))
    }

    fn memory_bytes(&self) -> u64 {
        self.pool.memory().1 as u64 + self.long_bytes_max
    }
}

impl Drop for Pread {
    fn drop(&mut self) {
        self.shared.stop();
    }
}

impl Shared {
    fn scheduler(&self) -> MutexGuard<'_, Scheduler> {
        self.scheduler.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What one thread does.
    fn work(&self) {
        let _guard = StopOnPanic(self);
        #[cfg(test)]
        self.counters.note_thread();
        loop {
            // Heard before looking: whatever rings afterwards ends the wait.
            let heard = self.bell.heard();
            let (job, may_sleep) = {
                let mut scheduler = self.scheduler();
                let job = scheduler.next();
                scheduler.flush();
                let may_sleep = job.is_none() && scheduler.may_sleep();
                (job, may_sleep)
            };
            match job {
                Some(job) => {
                    // There may be more to do than this thread has heard of alone.
                    self.bell.wake();
                    self.read(job);
                }
                None if self.stopping.load(Ordering::SeqCst) => return,
                None if may_sleep => self.bell.wait(heard),
                None => {}
            }
        }
    }

    fn read(&self, mut job: Job) {
        let len = job.target.len();
        let outcome = loop {
            let (offset, filled) = (job.offset(), job.progress.filled);
            let answer = job.read.file.read_at(&mut job.target.bytes_mut()[filled..], offset);
            match job.progress.judge(len, answer) {
                Step::Done => break Ok(()),
                Step::Again => {}
                Step::Failed(error) => break Err(error),
            }
        };
        let mut counts = IoCounts::default();
        counts.count(len, outcome.is_ok());
        self.counters.add(counts);
        // Handed over in `work`, when the next read of the lane has begun.
        self.scheduler().complete(job, outcome);
    }

    fn stop(&self) {
        self.stopping.store(true, Ordering::SeqCst);
        self.scheduler().stop();
        self.bell.ring_all();
    }
}

/// Reads that a panicking thread had in flight would never be answered: with it everything ends.
struct StopOnPanic<'s>(&'s Shared);

impl Drop for StopOnPanic<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.stop();
        }
    }
}

/// Wakes threads that found nothing to do.
#[derive(Debug, Default)]
struct Bell {
    rung: Mutex<u64>,
    heard: Condvar,
}

impl Bell {
    fn heard(&self) -> u64 {
        *self.lock()
    }

    /// Waits until it has rung after `heard` was asked for.
    fn wait(&self, heard: u64) {
        let mut rung = self.lock();
        while *rung == heard {
            rung = self.heard.wait(rung).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn ring_all(&self) {
        *self.lock() += 1;
        self.heard.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, u64> {
        self.rung.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Wake for Bell {
    fn wake(&self) {
        *self.lock() += 1;
        self.heard.notify_one();
    }
}
