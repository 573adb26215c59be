//! Reads through io_uring: one ring per thread, and one thread per ring.
//!
//! ```text
//!   loop: commands ─▶ completions ─▶ begin what may begin, a few at a time ─▶ hand over groups ─▶ sleep in io_uring_enter
//! ```
//!
//! A device that has answered all it had is idle until it is given more. So the next reads are with the kernel before
//! readers are woken, and the first of them before the last has been prepared.
//!
//! The thread sleeps in the kernel, waiting for completions, of which a poll of its inbox's event is one; it never
//! spins. With many reads in flight it waits for a few completions at once, about a thirtieth of them: that adds as
//! little to the latency, and saves most of the system calls.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;

use rustix::io::Errno;

use super::batch::{Batch, split};
use super::buffer::Pool;
use super::file::FileTable;
use super::inbox::{Command, Inbox};
use super::outcome::Step;
use super::ring::{Granted, Ring};
use super::schedule::{Job, Limits, Scheduler};
use super::{BLOCK_BYTES, BlockIo, Counters, FileHandle, IoCounts, ReadOp, Wake};
use crate::config::{IoConfig, IoEngine};

/// Rings that are started unless the configuration says otherwise.
const RINGS_DEFAULT_MAX: usize = 4;
/// Most completions to wait for at once.
const WAIT_MAX: usize = 8;
/// One of so many reads in flight is waited for.
const WAIT_SHARE: usize = 32;
/// Reads that the kernel is given at once. It passes them on to the device when it has prepared the last of them.
const SUBMIT_READS: usize = 4;

/// The engine.
#[derive(Debug)]
pub(super) struct Uring {
    inboxes: Vec<Arc<Inbox>>,
    pools: Vec<Arc<Pool>>,
    files: Arc<FileTable>,
    counters: Arc<Counters>,
    turn: AtomicUsize,
    granted: Granted,
    long_bytes_max: u64,
}

/// What was started, for the log.
#[derive(Clone, Copy, Debug)]
pub(super) struct Facts {
    pub(super) rings: usize,
    pub(super) deferred: bool,
    pub(super) fixed_buffers: bool,
    pub(super) fixed_files: bool,
}

impl Uring {
    /// Starts the rings; all of them, or none.
    pub(super) fn start(config: &IoConfig) -> io::Result<Self> {
        let cores = || std::thread::available_parallelism().map_or(1, usize::from).min(RINGS_DEFAULT_MAX);
        let rings = if config.rings == 0 { cores() } else { config.rings }.clamp(1, config.in_flight_max.max(1));
        let blocks = config.buffer_bytes / (BLOCK_BYTES as u64) / rings as u64;
        let limits = Limits {
            in_flight_max: (config.in_flight_max / rings).max(1),
            long_bytes_max: usize::try_from(config.long_buffer_bytes_max).unwrap_or(usize::MAX) / rings,
            blocks: u32::try_from(blocks.max(1)).map_err(io::Error::other)?,
        };
        let files = FileTable::new(config.files_max);
        let counters = Arc::new(Counters::default());
        let granted = Granted { deferred: false, fixed_buffers: false, fixed_files: false };
        let mut engine = Self {
            inboxes: Vec::new(),
            pools: Vec::new(),
            files,
            counters,
            turn: AtomicUsize::new(0),
            granted,
            long_bytes_max: config.long_buffer_bytes_max,
        };
        for number in 0..rings {
            // Should one not start, dropping the engine stops those before it.
            engine.start_ring(number, limits, config.files_max)?;
        }
        engine.files.serve(engine.inboxes.clone());
        Ok(engine)
    }

    fn start_ring(&mut self, number: usize, limits: Limits, files_max: u32) -> io::Result<()> {
        let inbox = Arc::new(Inbox::new()?);
        let (pool, free) = Pool::new(limits.blocks, Arc::clone(&inbox) as Arc<dyn Wake>)?;
        let scheduler = Scheduler::new(limits, Arc::clone(&pool), free);
        let (for_pool, for_inbox, counters) = (Arc::clone(&pool), Arc::clone(&inbox), Arc::clone(&self.counters));
        let (started, outcome) = mpsc::sync_channel(1);
        // Room for all that can be in flight on one device, and the wake. More devices only cost a submission more.
        let entries = u32::try_from(limits.in_flight_max + 1).map_err(io::Error::other)?.next_power_of_two();
        // Not from Env: see `super::open`.
        std::thread::Builder::new().name(format!("fkv-ssd-{number}")).spawn(move || {
            // A ring belongs to the thread that sets it up.
            let mut ring = match Ring::new(entries, files_max, for_pool) {
                Ok(ring) => ring,
                Err(error) => return drop(started.send(Err(error))),
            };
            if let Err(error) = ring.watch(for_inbox.event()) {
                return drop(started.send(Err(error)));
            }
            if started.send(Ok(ring.granted())).is_err() {
                return;
            }
            let worker = Worker { ring, inbox: for_inbox, scheduler, counters, again: Vec::new(), stopping: false };
            if let Err(error) = worker.run() {
                tracing::error!(%error, "a ring failed: reads of local files fail until the server is restarted");
            }
        })?;
        let died = |_| io::Error::other("the thread of a ring died as it started");
        self.granted = outcome.recv().map_err(died)??;
        self.inboxes.push(inbox);
        self.pools.push(pool);
        Ok(())
    }

    pub(super) fn facts(&self) -> Facts {
        let Granted { deferred, fixed_buffers, fixed_files } = self.granted;
        Facts { rings: self.inboxes.len(), deferred, fixed_buffers, fixed_files }
    }
}

#[cfg(test)]
impl super::tests::Observed for Uring {
    fn threads(&self) -> Vec<u32> {
        self.counters.threads()
    }

    fn alive(&self) -> std::sync::Weak<dyn Wake> {
        Arc::downgrade(&self.inboxes[0]) as _
    }

    fn slots_in_use(&self) -> usize {
        self.files.slots_in_use()
    }
}

impl BlockIo for Uring {
    fn register(&self, path: &std::path::Path) -> io::Result<FileHandle> {
        self.files.open(path)
    }

    fn read(&self, reads: Vec<ReadOp>) -> Batch {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        // A lane that a ring does not take any more says so to its batch.
        split(reads, &self.inboxes, turn, |inbox, lane| drop(inbox.push(Command::Add(lane))))
    }

    fn engine(&self) -> IoEngine {
        IoEngine::Uring
    }

    fn counts(&self) -> IoCounts {
        self.counters.with(self.pools.iter())
    }

    fn memory_bytes(&self) -> u64 {
        let blocks: u64 = self.pools.iter().map(|pool| pool.memory().1 as u64).sum();
        blocks + self.long_bytes_max
    }
}

impl Drop for Uring {
    fn drop(&mut self) {
        for inbox in &self.inboxes {
            // One that has failed is stopped already.
            drop(inbox.push(Command::Stop));
        }
    }
}

/// What the thread of a ring has.
struct Worker {
    ring: Ring,
    inbox: Arc<Inbox>,
    scheduler: Scheduler,
    counters: Arc<Counters>,
    /// Reads that go on: they came short, or were interrupted.
    again: Vec<Job>,
    stopping: bool,
}

impl Drop for Worker {
    fn drop(&mut self) {
        // Also when the thread panics: whoever asks later must not wait for ever.
        drop(self.inbox.close());
    }
}

impl Worker {
    fn run(mut self) -> io::Result<()> {
        #[cfg(test)]
        self.counters.note_thread();
        let mut commands = Vec::new();
        loop {
            self.inbox.take(&mut commands);
            commands.drain(..).for_each(|command| self.obey(command));
            self.reap()?;
            while let Some(job) = self.again.pop().or_else(|| self.scheduler.next()) {
                self.ring.begin(job)?;
                if self.ring.queued() >= SUBMIT_READS {
                    self.ring.enter(0)?;
                }
            }
            if self.ring.queued() > 0 {
                self.ring.enter(0)?;
            }
            self.scheduler.flush();
            if self.stopping && self.ring.in_flight() == 0 {
                return Ok(());
            }
            if self.inbox.may_sleep(|| self.scheduler.may_sleep()) {
                let outcome = self.ring.enter((self.ring.in_flight() / WAIT_SHARE).clamp(1, WAIT_MAX));
                self.inbox.awake();
                outcome?;
            } else if self.ring.queued() > 0 || self.ring.in_flight() > 0 {
                self.ring.enter(0)?;
            }
        }
    }

    fn obey(&mut self, command: Command) {
        match command {
            Command::Add(lane) if !self.stopping => self.scheduler.add(lane),
            Command::Add(lane) => drop(lane),
            Command::Forget(token) => {
                if !self.ring.forget(token.slot()) {
                    tracing::warn!(slot = token.slot(), "a ring cannot let go of a file: its slot is not used again");
                    std::mem::forget(token);
                }
            }
            Command::Stop => {
                self.stopping = true;
                self.scheduler.stop();
                drop(self.inbox.close());
            }
        }
    }

    fn reap(&mut self) -> io::Result<()> {
        let Self { ring, scheduler, again, counters, .. } = self;
        let mut counts = IoCounts::default();
        let woken = ring.reap(|mut job: Job, answer: Result<usize, Errno>| {
            let outcome = match job.progress.judge(job.target.len(), answer) {
                Step::Done => Ok(()),
                Step::Again => return again.push(job),
                Step::Failed(error) => Err(error),
            };
            counts.count(job.target.len(), outcome.is_ok());
            scheduler.complete(job, outcome);
        });
        counters.add(counts);
        if woken {
            self.inbox.clear_event();
            self.ring.watch(self.inbox.event())?;
        }
        Ok(())
    }
}
