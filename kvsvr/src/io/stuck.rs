//! An engine for tests whose reads stay where they are until they are let go, as on a device that hangs.

use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use super::batch::{Batch, split};
use super::pread::Pread;
use super::schedule::NewLane;
use super::{BlockIo, FileHandle, IoCounts, ReadOp, Wake};
use crate::config::{IoConfig, IoEngine};

/// The engine. What it lets go is read by threads.
#[derive(Debug)]
pub(crate) struct StuckIo {
    engine: Pread,
    held: Mutex<Option<Vec<NewLane>>>,
}

#[derive(Debug)]
struct Nobody;

impl Wake for Nobody {
    fn wake(&self) {}
}

impl StuckIo {
    pub(crate) fn new() -> Arc<Self> {
        let config = IoConfig { engine: IoEngine::Pread, pread_threads: 1, ..IoConfig::default() };
        Arc::new(Self { engine: Pread::start(&config).expect("threads start"), held: Mutex::new(Some(Vec::new())) })
    }

    /// Batches that have been asked for and are held.
    pub(crate) fn held(&self) -> usize {
        self.held.lock().unwrap_or_else(PoisonError::into_inner).as_ref().map_or(0, Vec::len)
    }

    /// Lets all reads go, and those to come.
    pub(crate) fn let_go(&self) {
        let held = self.held.lock().unwrap_or_else(PoisonError::into_inner).take();
        held.into_iter().flatten().for_each(|lane| self.engine.add(lane));
    }
}

impl BlockIo for StuckIo {
    fn register(&self, path: &Path) -> io::Result<FileHandle> {
        self.engine.register(path)
    }

    fn read(&self, reads: Vec<ReadOp>) -> Batch {
        split(reads, &[Arc::new(Nobody)], 0, |_, lane| {
            let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
            match held.as_mut() {
                Some(held) => held.push(lane),
                None => self.engine.add(lane),
            }
        })
    }

    fn engine(&self) -> IoEngine {
        self.engine.engine()
    }

    fn counts(&self) -> IoCounts {
        self.engine.counts()
    }

    fn memory_bytes(&self) -> u64 {
        self.engine.memory_bytes()
    }
}
