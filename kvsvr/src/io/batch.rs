//! The reads of one request, from the side of whoever wants them.
//!
//! Completions are handed over in groups, so that a wake-up is paid once per group. Each read is answered exactly once:
//! by the engine, or, where the engine ends before it could, here.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Poll, Waker};

use super::outcome::located;
use super::schedule::NewLane;
use super::{BLOCK_BYTES, Buffer, FileHandle, READ_BYTES_MAX, ReadOp, Wake};

/// A batch of at least this many reads per ring is spread over several of them.
const SPREAD_READS_MIN: usize = 32;

/// The answer to one read.
#[derive(Debug)]
pub(crate) struct Done {
    /// Its index among the reads of the batch.
    pub(crate) index: u32,
    /// Its bytes, all of them, or why there are none; the message names file and offset.
    pub(crate) outcome: io::Result<Buffer>,
}

/// What the engine and the reader of a batch share.
#[derive(Debug)]
pub(super) struct BatchState {
    ready: Mutex<Ready>,
    cancelled: AtomicBool,
}

#[derive(Debug, Default)]
struct Ready {
    done: Vec<Done>,
    waker: Option<Waker>,
    /// No answers come any more for some reads, for this reason.
    abandoned: Option<&'static str>,
    cancelled: bool,
}

impl BatchState {
    fn new() -> Arc<Self> {
        Arc::new(Self { ready: Mutex::default(), cancelled: AtomicBool::new(false) })
    }

    /// Whether nobody wants the answers any more.
    pub(super) fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Acquire)
    }

    /// Hands answers over; `done` is empty afterwards.
    pub(super) fn deliver(&self, done: &mut Vec<Done>) {
        let waker = {
            let mut ready = self.ready();
            if ready.cancelled {
                None
            } else {
                ready.done.append(done);
                ready.waker.take()
            }
        };
        // What nobody wants goes back to the pool, and the reader is woken, without the lock.
        done.clear();
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Ends the batch early: reads without an answer have failed for this reason.
    pub(super) fn abandon(&self, reason: &'static str) {
        let waker = {
            let mut ready = self.ready();
            ready.abandoned.get_or_insert(reason);
            ready.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    fn ready(&self) -> MutexGuard<'_, Ready> {
        self.ready.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A batch of reads. Dropping it gives up what has not arrived: reads that wait are forgotten, those in flight end
/// unseen, and all buffers return to the pool.
#[derive(Debug)]
pub(crate) struct Batch {
    state: Arc<BatchState>,
    answered: Answered,
    /// Where its reads are, to be told of a cancellation.
    engines: Vec<Arc<dyn Wake>>,
}

impl Batch {
    /// Waits for answers and puts them into `done` in place of what is there; dropping what is there makes room for
    /// further reads. `false`, with nothing in `done`, when every read has been answered. Cancel-safe: what is not
    /// taken is there the next time.
    pub(crate) async fn next(&mut self, done: &mut Vec<Done>) -> bool {
        done.clear();
        if self.answered.all() {
            return false;
        }
        let abandoned = std::future::poll_fn(|context| {
            let mut ready = self.state.ready();
            if !ready.done.is_empty() {
                std::mem::swap(&mut ready.done, done);
                return Poll::Ready(None);
            }
            if let Some(reason) = ready.abandoned {
                return Poll::Ready(Some(reason));
            }
            match &mut ready.waker {
                Some(waker) => waker.clone_from(context.waker()),
                none => *none = Some(context.waker().clone()),
            }
            Poll::Pending
        })
        .await;
        if let Some(reason) = abandoned {
            let failed = |index| Done { index, outcome: Err(io::Error::new(io::ErrorKind::BrokenPipe, reason)) };
            done.extend(self.answered.missing().map(failed));
        }
        for done in &*done {
            self.answered.mark(done.index);
        }
        true
    }

    #[cfg(test)]
    /// Reads that have not been answered.
    pub(crate) const fn remaining(&self) -> usize {
        self.answered.remaining
    }
}

impl Drop for Batch {
    fn drop(&mut self) {
        self.state.cancelled.store(true, Ordering::Release);
        let unseen = {
            let mut ready = self.state.ready();
            ready.cancelled = true;
            std::mem::take(&mut ready.done)
        };
        drop(unseen);
        if !self.answered.all() {
            self.engines.iter().for_each(|engine| engine.wake());
        }
    }
}

/// Which reads have been answered.
#[derive(Debug)]
struct Answered {
    bits: Vec<u64>,
    count: u32,
    remaining: usize,
}

impl Answered {
    fn new(count: u32) -> Self {
        Self { bits: vec![0; count.div_ceil(64) as usize], count, remaining: count as usize }
    }

    const fn all(&self) -> bool {
        self.remaining == 0
    }

    fn mark(&mut self, index: u32) {
        let (word, bit) = (&mut self.bits[index as usize / 64], 1_u64 << (index % 64));
        debug_assert_eq!(*word & bit, 0, "a read is answered once");
        *word |= bit;
        self.remaining -= 1;
    }

    fn missing(&self) -> impl Iterator<Item = u32> {
        (0..self.count).filter(|index| self.bits[*index as usize / 64] & (1 << (index % 64)) == 0)
    }
}

/// Makes a batch of `reads` and hands its lanes, one or more for each of `engines` that takes part, to `add`. `turn`
/// says where to begin.
pub(super) fn split<E: Wake + 'static>(
    reads: Vec<ReadOp>,
    engines: &[Arc<E>],
    turn: usize,
    mut add: impl FnMut(&Arc<E>, NewLane),
) -> Batch {
    let count = u32::try_from(reads.len()).expect("a request has far fewer reads than 2^32");
    let state = BatchState::new();
    let mut refused = Vec::new();
    let mut accepted = Vec::with_capacity(reads.len());
    for (index, read) in (0..count).zip(reads) {
        match check(&read) {
            Ok(()) => accepted.push((index, read)),
            Err(error) => refused.push(Done { index, outcome: Err(located(&read, error)) }),
        }
    }
    state.deliver(&mut refused);
    let shares = (accepted.len() / SPREAD_READS_MIN).clamp(1, engines.len());
    let chosen: Vec<&Arc<E>> = (0..shares).map(|share| &engines[(turn.wrapping_add(share)) % engines.len()]).collect();
    let mut rest = accepted;
    for (share, engine) in chosen.iter().enumerate() {
        let here = rest.len().div_ceil(shares - share);
        let later = rest.split_off(here);
        for reads in by_device(std::mem::replace(&mut rest, later)) {
            add(engine, NewLane::new(Arc::clone(&state), reads));
        }
    }
    let engines = chosen.into_iter().map(|engine| Arc::clone(engine) as Arc<dyn Wake>).collect();
    Batch { state, answered: Answered::new(count), engines }
}

fn check(read: &ReadOp) -> io::Result<()> {
    let block = BLOCK_BYTES as u64;
    let len = u64::from(read.len);
    if !read.offset.is_multiple_of(block) || !len.is_multiple_of(block) || len == 0 || len > READ_BYTES_MAX as u64 {
        let reason = format!("reads are of whole blocks of {BLOCK_BYTES} bytes, at most {READ_BYTES_MAX} bytes");
        return Err(io::Error::new(io::ErrorKind::InvalidInput, reason));
    }
    match read.offset.checked_add(len) {
        Some(end) if end <= read.file.len() => Ok(()),
        _ => {
            let reason = format!("the file ends at {}", read.file.len());
            Err(io::Error::new(io::ErrorKind::UnexpectedEof, reason))
        }
    }
}

/// One list per device; nearly always there is one.
fn by_device(mut reads: Vec<(u32, ReadOp)>) -> Vec<Vec<(u32, ReadOp)>> {
    let mut lists = Vec::new();
    while let Some(device) = reads.first().map(|(_, read): &(u32, ReadOp)| read.file.device()) {
        let same = |file: &FileHandle| file.device() == device;
        if reads.iter().all(|(_, read)| same(&read.file)) {
            lists.push(std::mem::take(&mut reads));
        } else {
            let (here, elsewhere) = reads.into_iter().partition(|(_, read)| same(&read.file));
            lists.push(here);
            reads = elsewhere;
        }
    }
    lists
}
