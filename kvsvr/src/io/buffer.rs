//! Memory that is read into, owned by one thing at a time: the pool, a read in flight, or a reader.
//!
//! ```text
//!   Pool ── Target (being filled: the kernel writes) ── Buffer (filled: a reader looks) ── dropped ──▶ Pool
//!     blocks: one mapping of n × 4096 bytes, registered with the ring
//!     long reads: heap memory aligned to 4096, bounded by its own budget
//! ```
//!
//! The kernel may write into a buffer for as long as its read is in flight, whatever becomes of the future that wants
//! it. So a `Target` belongs to the read, never to the future; it becomes a `Buffer` when the kernel is done with it,
//! and an engine that cannot learn whether the kernel is done leaks it.

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::fmt;
use std::io;
use std::ops::Deref;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use memmap2::{Advice, MmapMut};

use super::{BLOCK_BYTES, READ_BYTES_MAX, Wake};

/// The buffers of one scheduler.
pub(super) struct Pool {
    /// Keeps the memory mapped; never touched through this field.
    _map: MmapMut,
    base: NonNull<u8>,
    blocks: u32,
    returned: Mutex<Returned>,
    /// How many returns the scheduler waits for; 0: it does not.
    wanted: AtomicUsize,
    held: AtomicUsize,
    long_held: AtomicUsize,
    scheduler: Arc<dyn Wake>,
}

/// What readers have given back and the scheduler has not collected.
#[derive(Debug, Default)]
struct Returned {
    blocks: Vec<u32>,
    long_bytes: usize,
    count: usize,
}

// SAFETY: `base` points into `_map`, which the pool owns and which does not move. The pool itself never reads or
// writes through it; it hands out disjoint blocks, each to one `Held` at a time.
unsafe impl Send for Pool {}
// SAFETY: as above; everything else in it is Sync.
unsafe impl Sync for Pool {}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool").field("blocks", &self.blocks).field("held", &self.held).finish_non_exhaustive()
    }
}

impl Pool {
    /// A pool of `blocks` blocks, and the numbers of all of them. `scheduler` is woken when buffers come back that it
    /// waits for.
    pub(super) fn new(blocks: u32, scheduler: Arc<dyn Wake>) -> io::Result<(Arc<Self>, Vec<u32>)> {
        let bytes = usize::try_from(blocks).ok().and_then(|blocks| blocks.checked_mul(BLOCK_BYTES));
        let Some(bytes) = bytes.filter(|bytes| *bytes > 0) else {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("a pool of {blocks} blocks")));
        };
        let mut map = MmapMut::map_anon(bytes)?;
        if let Err(error) = map.advise(Advice::HugePage) {
            tracing::debug!(%error, "huge pages are not available");
        }
        let base = NonNull::new(map.as_mut_ptr()).ok_or(io::ErrorKind::OutOfMemory)?;
        debug_assert_eq!(base.as_ptr() as usize % BLOCK_BYTES, 0, "mappings start on a page");
        let pool = Self {
            _map: map,
            base,
            blocks,
            returned: Mutex::default(),
            wanted: AtomicUsize::new(0),
            held: AtomicUsize::new(0),
            long_held: AtomicUsize::new(0),
            scheduler,
        };
        // The lowest number is taken first.
        Ok((Arc::new(pool), (0..blocks).rev().collect()))
    }

    /// The memory of all blocks, to be registered with a ring.
    pub(super) const fn memory(&self) -> (*mut u8, usize) {
        (self.base.as_ptr(), self.blocks as usize * BLOCK_BYTES)
    }

    pub(super) fn held(&self) -> usize {
        self.held.load(Ordering::Relaxed)
    }

    pub(super) fn long_bytes_held(&self) -> usize {
        self.long_held.load(Ordering::Relaxed)
    }

    /// Adds the blocks that came back to `free`, and says how many bytes of long buffers did.
    pub(super) fn collect(&self, free: &mut Vec<u32>) -> usize {
        let mut returned = self.returned();
        returned.count = 0;
        free.append(&mut returned.blocks);
        std::mem::take(&mut returned.long_bytes)
    }

    /// Asks to be woken after `count` returns. `false` if that many are there already.
    pub(super) fn want(&self, count: usize) -> bool {
        // Stored before the lock is taken: whoever returns a buffer after the look below sees it.
        self.wanted.store(count, Ordering::SeqCst);
        if self.returned().count < count {
            return true;
        }
        self.wanted.store(0, Ordering::SeqCst);
        false
    }

    fn give_back(&self, memory: &Memory) {
        let count = {
            let mut returned = self.returned();
            match *memory {
                Memory::Block(block) => returned.blocks.push(block),
                Memory::Long(_, layout) => returned.long_bytes += layout.size(),
            }
            returned.count += 1;
            returned.count
        };
        let wanted = self.wanted.load(Ordering::SeqCst);
        if wanted != 0 && count >= wanted && self.wanted.swap(0, Ordering::SeqCst) != 0 {
            self.scheduler.wake();
        }
    }

    fn returned(&self) -> MutexGuard<'_, Returned> {
        self.returned.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What one lane holds of a pool.
#[derive(Debug)]
pub(super) struct Share {
    pool: Arc<Pool>,
    held: AtomicUsize,
    long_bytes: AtomicUsize,
}

impl Share {
    pub(super) fn new(pool: &Arc<Pool>) -> Arc<Self> {
        Arc::new(Self { pool: Arc::clone(pool), held: AtomicUsize::new(0), long_bytes: AtomicUsize::new(0) })
    }

    /// Buffers being filled or with the reader.
    pub(super) fn held(&self) -> usize {
        self.held.load(Ordering::Acquire)
    }

    /// The bytes of those that are for long reads.
    pub(super) fn long_bytes(&self) -> usize {
        self.long_bytes.load(Ordering::Acquire)
    }
}

#[derive(Debug)]
enum Memory {
    Block(u32),
    Long(NonNull<u8>, Layout),
}

/// Memory out of the pool, owned.
struct Held {
    memory: Memory,
    share: Arc<Share>,
}

// SAFETY: a `Held` is the only owner of its memory: a block's number is in one place at a time (the free list, the
// returned list, or one `Held`), heap memory was allocated for it. Memory may be used and freed on any thread.
unsafe impl Send for Held {}
// SAFETY: through a shared reference the memory is only read.
unsafe impl Sync for Held {}

impl Held {
    fn new(memory: Memory, share: &Arc<Share>) -> Self {
        share.held.fetch_add(1, Ordering::AcqRel);
        share.pool.held.fetch_add(1, Ordering::Relaxed);
        if let Memory::Long(_, layout) = memory {
            share.pool.long_held.fetch_add(layout.size(), Ordering::Relaxed);
            share.long_bytes.fetch_add(layout.size(), Ordering::AcqRel);
        }
        Self { memory, share: Arc::clone(share) }
    }

    #[inline]
    fn ptr(&self) -> *mut u8 {
        match self.memory {
            Memory::Block(block) => {
                let pool = &self.share.pool;
                debug_assert!(block < pool.blocks, "blocks come from the pool's own list");
                // SAFETY: the block lies in the pool's mapping, whose length is `blocks` × BLOCK_BYTES.
                unsafe { pool.base.as_ptr().add(block as usize * BLOCK_BYTES) }
            }
            Memory::Long(start, _) => start.as_ptr(),
        }
    }

    #[inline]
    const fn len(&self) -> usize {
        match self.memory {
            Memory::Block(_) => BLOCK_BYTES,
            Memory::Long(_, layout) => layout.size(),
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        #[cfg(test)]
        // SAFETY: the memory is still owned, and nothing else refers to it. In tests, whoever looks at it later than
        // this finds no data.
        unsafe {
            std::ptr::write_bytes(self.ptr(), 0xDD, self.len());
        }
        let pool = &self.share.pool;
        if let Memory::Long(start, layout) = self.memory {
            // SAFETY: allocated with this layout by `Target::long`, owned by this value alone, freed only here.
            unsafe { dealloc(start.as_ptr(), layout) };
            pool.long_held.fetch_sub(layout.size(), Ordering::Relaxed);
            self.share.long_bytes.fetch_sub(layout.size(), Ordering::AcqRel);
        }
        pool.held.fetch_sub(1, Ordering::Relaxed);
        self.share.held.fetch_sub(1, Ordering::AcqRel);
        pool.give_back(&self.memory);
    }
}

/// Memory that a read fills. It is initialised from the start: with zeros, or with what was read before.
pub(super) struct Target(Held);

impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Target({:?})", self.0.memory)
    }
}

impl Target {
    /// A block taken from the free list.
    pub(super) fn block(block: u32, share: &Arc<Share>) -> Self {
        assert!(block < share.pool.blocks, "the block belongs to the pool");
        Self(Held::new(Memory::Block(block), share))
    }

    /// Memory for a long read. `len` is a multiple of [`BLOCK_BYTES`] of at most [`READ_BYTES_MAX`], and not 0.
    pub(super) fn long(len: usize, share: &Arc<Share>) -> io::Result<Self> {
        assert!(len > 0 && len <= READ_BYTES_MAX && len.is_multiple_of(BLOCK_BYTES), "lengths are checked before");
        let layout = Layout::from_size_align(len, BLOCK_BYTES).map_err(io::Error::other)?;
        // SAFETY: the layout has a size other than 0 (asserted above).
        let start = NonNull::new(unsafe { alloc_zeroed(layout) })
            .ok_or_else(|| io::Error::new(io::ErrorKind::OutOfMemory, format!("a buffer of {len} bytes")))?;
        Ok(Self(Held::new(Memory::Long(start, layout), share)))
    }

    /// Where it begins; valid for [`Target::len`] bytes for as long as this value lives.
    pub(super) fn ptr(&self) -> *mut u8 {
        self.0.ptr()
    }

    pub(super) const fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether it lies in the pool's registered memory.
    pub(super) const fn is_block(&self) -> bool {
        matches!(self.0.memory, Memory::Block(_))
    }

    /// For reads by this thread. Not to be called while the kernel fills it.
    pub(super) fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: `ptr` is valid for `len` bytes, initialised, and owned by this value alone, which is borrowed
        // exclusively.
        unsafe { std::slice::from_raw_parts_mut(self.0.ptr(), self.0.len()) }
    }

    /// The read is over: nothing writes into the memory any more.
    pub(super) fn filled(self) -> Buffer {
        Buffer(self.0)
    }
}

/// Bytes that were read, aligned to [`BLOCK_BYTES`]. They count against the engine's memory until dropped: copy what
/// is to be kept, and drop the buffer before waiting for anything.
pub(crate) struct Buffer(Held);

impl Deref for Buffer {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        // SAFETY: `ptr` is valid for `len` initialised bytes, owned by this value; nobody writes once it is filled.
        unsafe { std::slice::from_raw_parts(self.0.ptr(), self.0.len()) }
    }
}

impl fmt::Debug for Buffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Buffer({} bytes)", self.0.len())
    }
}
