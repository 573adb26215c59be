//! One io_uring and the reads that are in flight on it: the only place that talks to the ring.
//!
//! What makes it safe: a read's memory and file belong to its `Job`; a job begun stays in `Ring::jobs` until the
//! kernel has said that it is over; and a ring that goes before that leaks the jobs it has.

use std::io;
use std::os::fd::RawFd;
use std::sync::Arc;

use io_uring::squeue::Entry;
use io_uring::{IoUring, Probe, opcode, types};
use rustix::io::Errno;

use super::FileHandle;
use super::buffer::Pool;
use super::schedule::Job;

/// Marks the completion that ends the thread's sleep.
const WAKE: u64 = u64::MAX;
/// The pool's memory is registered as one buffer.
const POOL_BUFFER: u16 = 0;
/// How often in a row the kernel may be too busy to take anything.
const REFUSALS_MAX: u32 = 100_000;

/// What the kernel granted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Granted {
    /// Completions wait until the thread asks for them, and never interrupt it.
    pub(super) deferred: bool,
    pub(super) fixed_buffers: bool,
    pub(super) fixed_files: bool,
}

pub(super) struct Ring {
    ring: IoUring,
    jobs: Vec<Option<Job>>,
    free: Vec<usize>,
    in_flight: usize,
    granted: Granted,
    /// By slot of the table of files: whether the ring has the file there.
    files: Vec<bool>,
    refusals: u32,
    // The ring has its memory registered.
    pool: Arc<Pool>,
}

impl Ring {
    /// A ring of this thread, which must be the only one to use it.
    pub(super) fn new(entries: u32, files_max: u32, pool: Arc<Pool>) -> io::Result<Self> {
        let (ring, deferred) = set_up(entries)?;
        let mut probe = Probe::new();
        ring.submitter().register_probe(&mut probe).map_err(|error| at("probe", &error))?;
        for code in [opcode::Read::CODE, opcode::ReadFixed::CODE, opcode::PollAdd::CODE] {
            if !probe.is_supported(code) {
                return Err(io::Error::new(io::ErrorKind::Unsupported, format!("io_uring lacks operation {code}")));
            }
        }
        let (base, len) = pool.memory();
        let memory = libc::iovec { iov_base: base.cast(), iov_len: len };
        // SAFETY: the pool's memory stays mapped for as long as the pool lives, which this ring holds.
        let fixed_buffers = match unsafe { ring.submitter().register_buffers(&[memory]) } {
            Ok(()) => true,
            Err(error) => {
                tracing::warn!(%error, bytes = len, "buffers cannot be registered: raise the limit of locked memory");
                false
            }
        };
        let files = match ring.submitter().register_files_sparse(files_max) {
            Ok(()) => vec![false; files_max as usize],
            Err(error) => {
                tracing::warn!(%error, files_max, "files cannot be registered: raise the limit of open files");
                Vec::new()
            }
        };
        let granted = Granted { deferred, fixed_buffers, fixed_files: !files.is_empty() };
        Ok(Self { ring, jobs: Vec::new(), free: Vec::new(), in_flight: 0, granted, files, refusals: 0, pool })
    }

    pub(super) const fn granted(&self) -> Granted {
        self.granted
    }

    /// Asks for a completion when `event` is readable.
    pub(super) fn watch(&mut self, event: RawFd) -> io::Result<()> {
        let readable = rustix::event::PollFlags::IN.bits();
        let entry = opcode::PollAdd::new(types::Fd(event), u32::from(readable)).build().user_data(WAKE);
        // SAFETY: a poll refers to no memory.
        unsafe { self.push(&entry) }
    }

    /// Begins the rest of a read, with the next [`Ring::enter`].
    pub(super) fn begin(&mut self, job: Job) -> io::Result<()> {
        let at = self.free.pop().unwrap_or_else(|| {
            self.jobs.push(None);
            self.jobs.len() - 1
        });
        let entry = self.entry(&job).user_data(at as u64);
        self.jobs[at] = Some(job);
        self.in_flight += 1;
        // SAFETY: the memory and the descriptor that the entry names belong to the job, which is now in `jobs` and
        // stays there until its completion arrives; should the ring be dropped first, the job is leaked.
        unsafe { self.push(&entry) }
    }

    fn entry(&mut self, job: &Job) -> Entry {
        let (filled, missing, offset) = (job.progress.filled, job.missing(), job.offset());
        assert!(filled + missing <= job.target.len(), "what is missing lies in the target");
        let len = u32::try_from(missing).expect("reads are bounded far below 4 GiB");
        let to = job.target.ptr().wrapping_add(filled);
        let fixed = self.granted.fixed_buffers && job.target.is_block();
        let fd = types::Fd(job.read.file.fd());
        match (self.slot_of(&job.read.file).map(types::Fixed), fixed) {
            (Some(file), true) => opcode::ReadFixed::new(file, to, len, POOL_BUFFER).offset(offset).build(),
            (Some(file), false) => opcode::Read::new(file, to, len).offset(offset).build(),
            (None, true) => opcode::ReadFixed::new(fd, to, len, POOL_BUFFER).offset(offset).build(),
            (None, false) => opcode::Read::new(fd, to, len).offset(offset).build(),
        }
    }

    /// The file's place in the ring's own table, where it is put if it is not there.
    fn slot_of(&mut self, file: &FileHandle) -> Option<u32> {
        let slot = file.slot()?;
        let there = self.files.get_mut(slot as usize)?;
        if !*there {
            self.ring.submitter().register_files_update(slot, &[file.fd()]).ok()?;
            *there = true;
        }
        Some(slot)
    }

    /// Empties a place in the ring's table of files. `false`: the kernel would not.
    pub(super) fn forget(&mut self, slot: u32) -> bool {
        let Some(there) = self.files.get_mut(slot as usize) else { return true };
        if *there && self.ring.submitter().register_files_update(slot, &[-1]).is_err() {
            return false;
        }
        *there = false;
        true
    }

    /// Begins what is queued, and waits until at least `want` reads or wakes have completed; not at all if 0.
    pub(super) fn enter(&mut self, want: usize) -> io::Result<()> {
        match self.ring.submit_and_wait(want) {
            Ok(_) => self.refusals = 0,
            Err(error) => match Errno::from_io_error(&error) {
                Some(Errno::INTR) => {}
                // No memory, or completions that must be taken first: neither lasts.
                Some(Errno::AGAIN | Errno::BUSY) if self.refusals < REFUSALS_MAX => self.refusals += 1,
                _ => return Err(error),
            },
        }
        Ok(())
    }

    /// How much is queued that the kernel has not taken.
    pub(super) fn queued(&mut self) -> usize {
        self.ring.submission().len()
    }

    /// Takes what has completed: `finished` is called with every read, in order. Whether there was a wake among it.
    pub(super) fn reap(&mut self, mut finished: impl FnMut(Job, Result<usize, Errno>)) -> bool {
        let mut woken = false;
        for completion in self.ring.completion() {
            let result = completion.result();
            if completion.user_data() == WAKE {
                woken = true;
                continue;
            }
            let at = usize::try_from(completion.user_data()).unwrap_or(usize::MAX);
            let Some(job) = self.jobs.get_mut(at).and_then(Option::take) else {
                debug_assert!(false, "a completion belongs to a read in flight");
                continue;
            };
            self.free.push(at);
            self.in_flight -= 1;
            finished(job, usize::try_from(result).map_err(|_| Errno::from_raw_os_error(result.saturating_neg())));
        }
        woken
    }

    pub(super) const fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// # Safety
    /// What the entry refers to stays valid until its completion has been taken.
    unsafe fn push(&mut self, entry: &Entry) -> io::Result<()> {
        loop {
            // SAFETY: as the caller promises.
            if unsafe { self.ring.submission().push(entry) }.is_ok() {
                return Ok(());
            }
            self.enter(0)?;
        }
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        if self.in_flight > 0 {
            tracing::error!(reads = self.in_flight, "a ring ends with reads in flight: their memory is given up");
            std::mem::forget(std::mem::take(&mut self.jobs));
            std::mem::forget(Arc::clone(&self.pool));
        }
    }
}

/// The best ring that the kernel has, and whether its completions are deferred.
fn set_up(entries: u32) -> io::Result<(IoUring, bool)> {
    let builder = || {
        let mut builder = IoUring::builder();
        builder.setup_clamp().setup_cqsize(entries.saturating_mul(4));
        builder
    };
    let unknown = |error: &io::Error| Errno::from_io_error(error) == Some(Errno::INVAL);
    let deferred = builder().setup_single_issuer().setup_defer_taskrun().setup_taskrun_flag().build(entries);
    match deferred {
        Ok(ring) => return Ok((ring, true)),
        Err(error) if !unknown(&error) => return Err(at("setup", &error)),
        Err(_) => {}
    }
    match builder().setup_coop_taskrun().setup_taskrun_flag().build(entries) {
        Err(error) if unknown(&error) => builder().build(entries),
        outcome => outcome,
    }
    .map(|ring| (ring, false))
    .map_err(|error| at("setup", &error))
}

fn at(step: &str, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("io_uring {step}: {error}"))
}
