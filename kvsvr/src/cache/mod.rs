//! Records read from SSD, kept in memory: S3-FIFO over byte rings.
//!
//! ```text
//!   shard (by hash) ── heads: hash ──▶ chain of records                  one u32 per 64 bytes of the rings
//!                   ├─ small ring, a tenth: where records come in ──┐
//!                   │     leaves at the end: used meanwhile ────────┼─▶ main ring
//!                   │                        not used ──▶ ghost     │    leaves at the end: used ──▶ in again at the
//!                   └─ ghost: marks of what left unused; if it ─────┘    beginning, with one use less; otherwise out
//!                      comes back, it goes to the main ring at once
//!
//!   record in a ring (4-byte steps)
//!    0  mixed hash   u64
//!    8  next in chain u32   position / 4 + 1; 0 ends it
//!   12  scope        u32
//!   16  expiry       u32    seconds; 0 never
//!   20  value length u32    bit 31: there is no such record (a remembered absence)
//!   24  key length   u16
//!   26  uses         u8     0 to 3
//!   27               u8     0
//!   28  key bytes, value bytes, padding to 4
//! ```
//!
//! Records are cached, not blocks: where a few keys are hot, a block of 4096 bytes holds one hot record of perhaps a
//! hundred bytes. Bytes lie in the rings themselves: no allocation per record, 28 bytes of overhead, and exactly the
//! memory configured. A hit copies nothing: the caller looks at the record under the shard's lock.
//!
//! The order of a ring is the order of its bytes, so evicting is reading on at its end. A record never wraps around
//! the end of the ring; what is left there stays empty.

mod ring;
mod shard;
#[cfg(test)]
mod tests;

use std::io;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use self::shard::{Shard, Wanted};

/// Most shards: locks are then seldom waited for.
const SHARDS_MAX: usize = 64;
/// A shard has at least this many bytes.
const SHARD_BYTES_MIN: u64 = 1 << 20;
/// A shard addresses no more than this.
const SHARD_BYTES_MAX: u64 = 8 << 30;

/// What is cached of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cached<'a> {
    /// It is there.
    Value {
        /// As stored.
        value: &'a [u8],
        /// Unix seconds; 0 never.
        expiry: u32,
    },
    /// There is no such record.
    Absent,
}

/// How the cache fares.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct CacheCounts {
    pub(crate) hits: u64,
    pub(crate) misses: u64,
    pub(crate) inserts: u64,
    /// Records that made room for others.
    pub(crate) evictions: u64,
    /// Memory it takes, rings and indexes; fixed from the start.
    pub(crate) memory_bytes: u64,
    /// Bytes of live records in the rings.
    pub(crate) used_bytes: u64,
    /// Live records.
    pub(crate) records: u64,
}

/// The cache of one server, over all its tables. Of no bytes, it holds nothing and costs nothing.
#[derive(Debug)]
pub(crate) struct RecordCache {
    shards: Box<[Mutex<Shard>]>,
    next_scope: AtomicU32,
}

/// What one content has in the cache. Dropping the last clone makes all of it unreachable at once; its room is used
/// again as the rings turn.
#[derive(Clone, Debug)]
pub(crate) struct CacheScope(Arc<Scope>);

#[derive(Debug)]
struct Scope {
    cache: Arc<RecordCache>,
    number: u32,
}

impl Drop for Scope {
    fn drop(&mut self) {
        self.cache.shards.iter().for_each(|shard| lock(shard).drop_scope(self.number));
    }
}

impl RecordCache {
    /// A cache that takes `bytes` of memory; 0 switches it off. Less than a mebibyte is one mebibyte.
    ///
    /// # Errors
    /// There is not so much memory.
    pub(crate) fn new(bytes: u64) -> io::Result<Arc<Self>> {
        let count = match bytes {
            0 => 0,
            // A power of two, so that a hash chooses by its bits.
            bytes => 1 << usize::try_from(bytes / SHARD_BYTES_MIN).unwrap_or(SHARDS_MAX).clamp(1, SHARDS_MAX).ilog2(),
        };
        let each = (bytes / count.max(1) as u64).clamp(SHARD_BYTES_MIN, SHARD_BYTES_MAX);
        let shards = (0..count).map(|_| Shard::new(each).map(Mutex::new)).collect::<io::Result<_>>()?;
        Ok(Arc::new(Self { shards, next_scope: AtomicU32::new(0) }))
    }

    /// Whether it can hold anything.
    pub(crate) fn is_on(&self) -> bool {
        !self.shards.is_empty()
    }

    /// A new, empty scope: for one content of one table. Nothing is found in it but what was inserted into it.
    pub(crate) fn scope(self: &Arc<Self>) -> CacheScope {
        // Numbers come around after 2^32 loads; by then the rings have turned.
        let number = self.next_scope.fetch_add(1, Ordering::Relaxed);
        self.shards.iter().for_each(|shard| lock(shard).add_scope(number));
        CacheScope(Arc::new(Scope { cache: Arc::clone(self), number }))
    }

    /// Looks a record up: `h` is the hash of its key, `key` the key's bytes, or nothing where `h` says all (`u64`
    /// keys). `look` sees what is cached, under a lock: copy and return.
    pub(crate) fn get<R>(
        &self,
        scope: &CacheScope,
        h: u64,
        key: &[u8],
        look: impl FnOnce(Cached<'_>) -> R,
    ) -> Option<R> {
        let wanted = Wanted::new(scope.0.number, h, key);
        let mut shard = lock(self.shard(&wanted)?);
        shard.get(&wanted).map(look)
    }

    /// Keeps a record, unless it is there already or too large to be worth it.
    pub(crate) fn insert(&self, scope: &CacheScope, h: u64, key: &[u8], cached: Cached<'_>) {
        let wanted = Wanted::new(scope.0.number, h, key);
        if let Some(shard) = self.shard(&wanted) {
            lock(shard).insert(&wanted, cached);
        }
    }

    pub(crate) fn counts(&self) -> CacheCounts {
        self.shards.iter().fold(CacheCounts::default(), |sum, shard| {
            let counts = lock(shard).counts();
            CacheCounts {
                hits: sum.hits + counts.hits,
                misses: sum.misses + counts.misses,
                inserts: sum.inserts + counts.inserts,
                evictions: sum.evictions + counts.evictions,
                memory_bytes: sum.memory_bytes + counts.memory_bytes,
                used_bytes: sum.used_bytes + counts.used_bytes,
                records: sum.records + counts.records,
            }
        })
    }

    fn shard(&self, wanted: &Wanted<'_>) -> Option<&Mutex<Shard>> {
        // The low bits choose the shard, the high ones the chain.
        let count = self.shards.len();
        (count > 0).then(|| &self.shards[wanted.low_bits() & (count - 1)])
    }
}

fn lock(shard: &Mutex<Shard>) -> MutexGuard<'_, Shard> {
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}
