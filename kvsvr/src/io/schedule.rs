//! Which read comes next: pure, driven by either engine, one scheduler per ring.
//!
//! ```text
//!   batch ── lanes (one per device) ──▶ turn of its device, round robin, QUANTUM reads a turn
//!                                         │ not while the device has its reads in flight
//!                                         │ not while no buffer is free: the turn stays where it is
//!                                         ├─ the lane holds its share of the buffers ──▶ paused until its reader drops some
//!                                         └─ a long read that finds no memory ──▶ first come, first served
//! ```
//!
//! A batch of sixty thousand reads and one of three take turns: the small one waits for a quantum of every other lane,
//! not for the large one. A reader that does not take what has arrived stops its own batch alone.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

use super::batch::{BatchState, Done};
use super::buffer::{Pool, Share, Target};
use super::outcome::{Progress, located};
use super::{BLOCK_BYTES, Buffer, ReadOp};

/// Reads that a lane may begin before the next lane's turn.
const QUANTUM: usize = 8;
/// Answers of a lane that are handed over at once, unless nothing more is in flight for it.
const GROUP: usize = 32;
/// Returned buffers worth waking up for while reads are in flight, whose completions wake anyway.
const RETURNS_WORTH_WAKING: usize = 16;

/// One lane may hold one part of so many of the buffers.
const LANE_SHARE: usize = 4;

/// What a scheduler may use.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// Reads in flight for one device.
    pub(super) in_flight_max: usize,
    /// Bytes of buffers for reads longer than a block; a single longer one is let through alone.
    pub(super) long_bytes_max: usize,
    /// Blocks of the pool.
    pub(super) blocks: u32,
}

impl Limits {
    /// Buffers that one lane may hold.
    fn lane_buffers_max(&self) -> usize {
        (self.blocks as usize / LANE_SHARE).max(1)
    }

    /// Bytes of long buffers with which a lane begins nothing more.
    fn lane_long_bytes_max(&self) -> usize {
        (self.long_bytes_max / LANE_SHARE).max(1)
    }
}

/// Reads of one batch on one device, with their indexes in the batch.
#[derive(Debug)]
pub(super) struct NewLane {
    batch: Arc<BatchState>,
    reads: Vec<(u32, ReadOp)>,
    taken: bool,
}

impl NewLane {
    pub(super) fn new(batch: Arc<BatchState>, reads: Vec<(u32, ReadOp)>) -> Self {
        Self { batch, reads, taken: false }
    }
}

impl Drop for NewLane {
    fn drop(&mut self) {
        if !self.taken {
            self.batch.abandon(STOPPED);
        }
    }
}

const STOPPED: &str = "the server has stopped reading local files";

/// A read to be done now.
#[derive(Debug)]
pub(super) struct Job {
    lane: usize,
    index: u32,
    pub(super) read: ReadOp,
    pub(super) target: Target,
    pub(super) progress: Progress,
}

impl Job {
    /// Offset of what is missing.
    pub(super) fn offset(&self) -> u64 {
        self.read.offset + self.progress.filled as u64
    }

    /// Bytes that are missing.
    pub(super) fn missing(&self) -> usize {
        self.target.len() - self.progress.filled
    }
}

#[derive(Debug)]
struct Lane {
    batch: Arc<BatchState>,
    share: Arc<Share>,
    device: usize,
    reads: std::vec::IntoIter<(u32, ReadOp)>,
    /// Reads it may still begin in this turn.
    quantum: usize,
    /// Memory for its next read, which is long, is set aside.
    long_granted: bool,
    in_flight: usize,
    ready: Vec<Done>,
    touched: bool,
}

impl Lane {
    /// Whether its reader has to drop some buffers before it may begin more.
    fn is_full(&self, limits: &Limits) -> bool {
        self.share.held() >= limits.lane_buffers_max() || self.share.long_bytes() >= limits.lane_long_bytes_max()
    }

    /// Whether it may go on after it was full: not for every single buffer, but when it has something to do.
    fn has_drained(&self, limits: &Limits) -> bool {
        self.share.held() <= limits.lane_buffers_max() / 2
            && self.share.long_bytes() <= limits.lane_long_bytes_max() / 2
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        if self.in_flight > 0 || self.reads.len() > 0 || !self.ready.is_empty() {
            self.batch.abandon(STOPPED);
        }
    }
}

#[derive(Debug, Default)]
struct Device {
    in_flight: usize,
    /// Lanes with reads to begin. Every lane is in one place at most: here, paused, or waiting for long memory.
    turn: VecDeque<usize>,
}

/// What is to be read, and what is being read.
#[derive(Debug)]
pub(super) struct Scheduler {
    limits: Limits,
    pool: Arc<Pool>,
    free: Vec<u32>,
    long_used: usize,
    lanes: Vec<Option<Lane>>,
    lanes_free: Vec<usize>,
    devices: Vec<Device>,
    next_device: usize,
    paused: Vec<usize>,
    long_wait: VecDeque<usize>,
    /// A read waits for a free block.
    starved: bool,
    in_flight: usize,
    touched: Vec<usize>,
}

impl Scheduler {
    /// A scheduler over a pool whose blocks are all `free`.
    pub(super) fn new(limits: Limits, pool: Arc<Pool>, free: Vec<u32>) -> Self {
        Self {
            limits,
            pool,
            free,
            long_used: 0,
            lanes: Vec::new(),
            lanes_free: Vec::new(),
            devices: Vec::new(),
            next_device: 0,
            paused: Vec::new(),
            long_wait: VecDeque::new(),
            starved: false,
            in_flight: 0,
            touched: Vec::new(),
        }
    }

    /// Takes over the reads of a batch.
    pub(super) fn add(&mut self, mut new: NewLane) {
        new.taken = true;
        let reads = std::mem::take(&mut new.reads);
        let Some((_, first)) = reads.first() else { return };
        let device = first.file.device();
        while self.devices.len() <= device {
            self.devices.push(Device::default());
        }
        let lane = Lane {
            batch: Arc::clone(&new.batch),
            share: Share::new(&self.pool),
            device,
            reads: reads.into_iter(),
            quantum: QUANTUM,
            long_granted: false,
            in_flight: 0,
            ready: Vec::new(),
            touched: false,
        };
        let key = self.lanes_free.pop().unwrap_or_else(|| {
            self.lanes.push(None);
            self.lanes.len() - 1
        });
        self.lanes[key] = Some(lane);
        self.devices[device].turn.push_back(key);
    }

    /// The read to begin next, if one may.
    pub(super) fn next(&mut self) -> Option<Job> {
        if self.starved || !self.paused.is_empty() || !self.long_wait.is_empty() {
            self.collect();
        }
        for _ in 0..self.devices.len() {
            let device = self.next_device % self.devices.len();
            if let Some(job) = self.next_of(device) {
                return Some(job);
            }
            self.next_device = device + 1;
        }
        None
    }

    fn next_of(&mut self, device: usize) -> Option<Job> {
        let mut collected = false;
        while self.devices[device].in_flight < self.limits.in_flight_max {
            let key = *self.devices[device].turn.front()?;
            let lane = self.lanes[key].as_mut().expect("lanes whose turn comes exist");
            if lane.batch.is_cancelled() {
                self.devices[device].turn.pop_front();
                self.forget_rest(key);
                continue;
            }
            if lane.is_full(&self.limits) {
                self.devices[device].turn.pop_front();
                self.paused.push(key);
                continue;
            }
            let Some((_, read)) = lane.reads.as_slice().first() else {
                unreachable!("a lane leaves the turn with its last read")
            };
            let len = read.len as usize;
            let target = if len == BLOCK_BYTES {
                if self.free.is_empty() && !std::mem::replace(&mut collected, true) {
                    // Which may change whose turn it is.
                    self.collect();
                    continue;
                }
                let Some(block) = self.free.pop() else {
                    self.starved = true;
                    return None;
                };
                let lane = self.lanes[key].as_ref().expect("it was there");
                Ok(Target::block(block, &lane.share))
            } else {
                let fits = self.long_used == 0 || self.long_used + len <= self.limits.long_bytes_max;
                let may = lane.long_granted || (fits && self.long_wait.is_empty());
                if !may && !std::mem::replace(&mut collected, true) {
                    // What has come back may be enough, or may let others in before.
                    self.collect();
                    continue;
                }
                if !may {
                    self.devices[device].turn.pop_front();
                    self.long_wait.push_back(key);
                    continue;
                }
                if !std::mem::take(&mut lane.long_granted) {
                    self.long_used += len;
                }
                Target::long(len, &lane.share)
            };
            let lane = self.lanes[key].as_mut().expect("it was there");
            let (index, read) = lane.reads.next().expect("its first read was there");
            lane.quantum -= 1;
            let turn = &mut self.devices[device].turn;
            if lane.reads.len() == 0 {
                turn.pop_front();
            } else if lane.quantum == 0 {
                lane.quantum = QUANTUM;
                turn.rotate_left(1);
            }
            lane.in_flight += 1;
            self.devices[device].in_flight += 1;
            self.in_flight += 1;
            match target {
                Ok(target) => return Some(Job { lane: key, index, read, target, progress: Progress::default() }),
                Err(error) => {
                    self.long_used -= len;
                    let outcome = Err(located(&read, error));
                    self.answer(key, Done { index, outcome });
                }
            }
        }
        None
    }

    /// Takes a read that is over. [`Scheduler::flush`] hands it on.
    pub(super) fn complete(&mut self, job: Job, outcome: Result<(), io::Error>) {
        let Job { lane, index, read, target, .. } = job;
        let outcome: io::Result<Buffer> = match outcome {
            Ok(()) => Ok(target.filled()),
            Err(error) => Err(located(&read, error)),
        };
        self.answer(lane, Done { index, outcome });
    }

    fn answer(&mut self, key: usize, done: Done) {
        let lane = self.lanes[key].as_mut().expect("a lane stays for as long as it has reads in flight");
        lane.ready.push(done);
        lane.in_flight -= 1;
        self.devices[lane.device].in_flight -= 1;
        self.in_flight -= 1;
        if !std::mem::replace(&mut lane.touched, true) {
            self.touched.push(key);
        }
    }

    /// Hands over what has been completed, in groups. To be called when what may begin has begun: a lane with nothing
    /// in flight after that would wait for its own reader.
    pub(super) fn flush(&mut self) {
        for key in std::mem::take(&mut self.touched) {
            let lane = self.lanes[key].as_mut().expect("a lane stays until its answers are handed over");
            lane.touched = false;
            if lane.in_flight == 0 || lane.ready.len() >= GROUP {
                lane.batch.deliver(&mut lane.ready);
            }
            if lane.in_flight == 0 && lane.reads.len() == 0 {
                self.lanes[key] = None;
                self.lanes_free.push(key);
            }
        }
    }

    /// Forgets everything that has not begun.
    pub(super) fn stop(&mut self) {
        for device in &mut self.devices {
            device.turn.clear();
        }
        self.paused.clear();
        self.long_wait.clear();
        for key in 0..self.lanes.len() {
            if let Some(lane) = &self.lanes[key] {
                lane.batch.abandon(STOPPED);
                self.forget_rest(key);
            }
        }
    }

    /// Drops the reads of a lane that have not begun, and the lane if that was all.
    fn forget_rest(&mut self, key: usize) {
        let Some(lane) = self.lanes[key].as_mut() else { return };
        if std::mem::take(&mut lane.long_granted) {
            self.long_used -= lane.reads.as_slice().first().map_or(0, |(_, read)| read.len as usize);
        }
        lane.reads = Vec::new().into_iter();
        if lane.in_flight == 0 && !lane.touched {
            lane.ready.clear();
            self.lanes[key] = None;
            self.lanes_free.push(key);
        }
    }

    /// Whether nothing can begin before a read ends, or something is added, or, if reads wait for buffers, some come
    /// back. In that case the pool will say so.
    pub(super) fn may_sleep(&self) -> bool {
        let waits = self.starved || !self.paused.is_empty() || !self.long_wait.is_empty();
        !waits || self.pool.want(if self.in_flight > 0 { RETURNS_WORTH_WAKING } else { 1 })
    }

    /// Takes back the buffers that readers have dropped, and lets those go on who waited for them.
    fn collect(&mut self) {
        self.long_used -= self.pool.collect(&mut self.free);
        self.starved = self.starved && self.free.is_empty();
        let mut at = 0;
        while at < self.paused.len() {
            let key = self.paused[at];
            let lane = self.lanes[key].as_ref().expect("paused lanes have reads");
            if lane.has_drained(&self.limits) || lane.batch.is_cancelled() {
                self.paused.swap_remove(at);
                self.devices[lane.device].turn.push_back(key);
            } else {
                at += 1;
            }
        }
        while let Some(&key) = self.long_wait.front() {
            let lane = self.lanes[key].as_mut().expect("waiting lanes have reads");
            if !lane.batch.is_cancelled() {
                let len = lane.reads.as_slice().first().map_or(0, |(_, read)| read.len as usize);
                if self.long_used > 0 && self.long_used + len > self.limits.long_bytes_max {
                    break;
                }
                self.long_used += len;
                lane.long_granted = true;
            }
            self.long_wait.pop_front();
            // It has waited its turn.
            self.devices[lane.device].turn.push_front(key);
        }
    }
}
