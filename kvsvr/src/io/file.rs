//! Files open for reads, and the numbers under which rings know them.
//!
//! ```text
//!   register(path) ── slot out of a fixed table ──▶ FileHandle ── last clone dropped ──▶ every ring forgets the slot
//!                                                                      slot is free again ◀── when all have ┘
//! ```
//!
//! A ring that still had the file in its table would keep it open, and the space of an unlinked file taken.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use rustix::fs::OFlags;
use rustix::io::Errno;

use super::BLOCK_BYTES;
use super::inbox::{Command, Inbox};

/// A file open for reads. Clones are cheap; the last one closes it.
#[derive(Clone, Debug)]
pub(crate) struct FileHandle(Arc<OpenFile>);

struct OpenFile {
    file: File,
    path: PathBuf,
    len: u64,
    device: usize,
    slot: Option<u32>,
    table: Arc<FileTable>,
}

impl FileHandle {
    pub(crate) fn path(&self) -> &Path {
        &self.0.path
    }

    /// Length in bytes, as of the registration.
    pub(crate) fn len(&self) -> u64 {
        self.0.len
    }

    /// Number of the device it is on, from 0, in the order of first use.
    pub(super) fn device(&self) -> usize {
        self.0.device
    }

    /// Its place in the rings' tables, unless those were full.
    pub(super) fn slot(&self) -> Option<u32> {
        self.0.slot
    }

    pub(super) fn fd(&self) -> RawFd {
        self.0.file.as_raw_fd()
    }

    pub(super) fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<usize, Errno> {
        self.0.file.read_at(buffer, offset).map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))
    }
}

impl fmt::Debug for OpenFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OpenFile").field("path", &self.path).field("slot", &self.slot).finish_non_exhaustive()
    }
}

impl Drop for OpenFile {
    fn drop(&mut self) {
        if let Some(slot) = self.slot {
            self.table.retire(slot);
        }
    }
}

/// Which slots and devices there are.
#[derive(Debug)]
pub(super) struct FileTable {
    slots: Mutex<Slots>,
    devices: Mutex<Vec<u64>>,
    rings: OnceLock<Vec<Arc<Inbox>>>,
    told_buffered: AtomicBool,
}

#[derive(Debug)]
struct Slots {
    free: Vec<u32>,
    /// Slots from here on were never used.
    fresh: u32,
    max: u32,
}

/// A slot that rings may still have a file in. The last ring to drop it makes it free.
#[derive(Debug)]
pub(super) struct SlotReturn {
    table: Arc<FileTable>,
    slot: u32,
}

impl SlotReturn {
    pub(super) const fn slot(&self) -> u32 {
        self.slot
    }
}

impl Drop for SlotReturn {
    fn drop(&mut self) {
        self.table.slots.lock().unwrap_or_else(PoisonError::into_inner).free.push(self.slot);
    }
}

impl FileTable {
    /// A table of `slots_max` slots.
    pub(super) fn new(slots_max: u32) -> Arc<Self> {
        Arc::new(Self {
            slots: Mutex::new(Slots { free: Vec::new(), fresh: 0, max: slots_max }),
            devices: Mutex::default(),
            rings: OnceLock::new(),
            told_buffered: AtomicBool::new(false),
        })
    }

    /// Names the rings that have a table of their own. Called once, before the first file.
    pub(super) fn serve(&self, rings: Vec<Arc<Inbox>>) {
        assert!(self.rings.set(rings).is_ok(), "the rings are named once");
    }

    /// Opens a file.
    pub(super) fn open(self: &Arc<Self>, path: &Path) -> io::Result<FileHandle> {
        let named = |error: io::Error| io::Error::new(error.kind(), format!("open {}: {error}", path.display()));
        let (file, direct) = open_file(path).map_err(named)?;
        if !direct && !self.told_buffered.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                path = %path.display(),
                "the file system refuses direct reads: they go through the page cache, which takes memory beside ours"
            );
        }
        let metadata = file.metadata().map_err(named)?;
        if !metadata.is_file() {
            return Err(named(io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file")));
        }
        let slot = self.take_slot();
        if slot.is_none() {
            tracing::debug!(path = %path.display(), "the table of files is full: reads of this one cost a little more");
        }
        let device = self.device(metadata.dev());
        let (path, len, table) = (path.to_owned(), metadata.len(), Arc::clone(self));
        Ok(FileHandle(Arc::new(OpenFile { file, path, len, device, slot, table })))
    }

    fn take_slot(&self) -> Option<u32> {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(slot) = slots.free.pop() {
            return Some(slot);
        }
        let slot = slots.fresh;
        (slot < slots.max).then(|| {
            slots.fresh += 1;
            slot
        })
    }

    fn device(&self, dev: u64) -> usize {
        let mut devices = self.devices.lock().unwrap_or_else(PoisonError::into_inner);
        devices.iter().position(|known| *known == dev).unwrap_or_else(|| {
            devices.push(dev);
            devices.len() - 1
        })
    }

    fn retire(self: &Arc<Self>, slot: u32) {
        let token = Arc::new(SlotReturn { table: Arc::clone(self), slot });
        for ring in self.rings.get().into_iter().flatten() {
            // A ring that has stopped has forgotten everything.
            drop(ring.push(Command::Forget(Arc::clone(&token))));
        }
    }

    #[cfg(test)]
    pub(super) fn slots_in_use(&self) -> usize {
        let slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        slots.fresh as usize - slots.free.len()
    }
}

/// Opens for direct reads, or for reads through the page cache where direct ones are refused.
#[allow(clippy::disallowed_methods, reason = "rings need descriptors opened in a way that Env.files has no word for")]
fn open_file(path: &Path) -> io::Result<(File, bool)> {
    let direct_flag = i32::try_from(OFlags::DIRECT.bits()).map_err(io::Error::other)?;
    let refused = |error: &io::Error| error.raw_os_error() == Some(Errno::INVAL.raw_os_error());
    match OpenOptions::new().read(true).custom_flags(direct_flag).open(path) {
        // Some file systems take the flag and refuse the reads.
        Ok(file) => match file.read_at(Aligned::new().block(), 0) {
            Err(error) if refused(&error) => Ok((File::open(path)?, false)),
            // Any other error is that of the read which meets it.
            _ => Ok((file, true)),
        },
        Err(error) if refused(&error) => Ok((File::open(path)?, false)),
        Err(error) => Err(error),
    }
}

/// Room for one aligned block.
struct Aligned(Vec<u8>);

impl Aligned {
    fn new() -> Self {
        Self(vec![0; 2 * BLOCK_BYTES])
    }

    fn block(&mut self) -> &mut [u8] {
        let start = self.0.as_ptr().align_offset(BLOCK_BYTES);
        &mut self.0[start..start + BLOCK_BYTES]
    }
}
