//! One shard: two rings, the chains through them, and the ghosts.

use std::io;

use memmap2::{Advice, MmapMut};

use super::ring::Ring;
use super::{CacheCounts, Cached};
use crate::image::HUGE_PAGE_BYTES;

/// Bytes of a record before its key.
const HEAD_BYTES: usize = 28;
/// Bytes of a link to the first record of a chain.
const HEAD_LINK_BYTES: usize = 4;
/// Bytes of a ghost.
const GHOST_BYTES: usize = 2;
/// Where the next record of its chain is named.
const NEXT_AT: usize = 8;
/// Where its uses are counted.
const USES_AT: usize = 26;
/// Positions are multiples of this.
const STEP: usize = 4;
/// Bytes of the rings per chain: about what a small record takes.
const BYTES_PER_CHAIN: usize = 64;
/// The small ring's share of the memory.
const SMALL_SHARE: usize = 10;
/// A record may take this share of the small ring.
const RECORD_SHARE: usize = 8;
/// Uses beyond this are not counted.
const USES_MAX: u8 = 3;
/// In the value length: there is no such record.
const ABSENT: u32 = 1 << 31;

/// How many used records an insertion lets go around before it evicts one all the same: it must end soon.
const TURNS_MAX: usize = 32;

/// A key in a scope.
#[derive(Debug)]
pub(super) struct Wanted<'k> {
    scope: u32,
    mixed: u64,
    key: &'k [u8],
}

impl<'k> Wanted<'k> {
    pub(super) const fn new(scope: u32, h: u64, key: &'k [u8]) -> Self {
        // A server holds parts, which are ranges of h: its bits have to be mixed before some of them choose a shard.
        // The steps are bijections, so that equal scope and equal `mixed` mean equal `h`.
        let mut mixed = h ^ (scope as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        mixed = (mixed ^ (mixed >> 32)).wrapping_mul(0xD6E8_FEB8_6659_FD93);
        mixed ^= mixed >> 32;
        Self { scope, mixed, key }
    }

    pub(super) const fn low_bits(&self) -> usize {
        (self.mixed & 0xFFFF_FFFF) as usize
    }
}

#[derive(Debug)]
pub(super) struct Shard {
    /// One mapping, of huge pages where there are any: an index in small pages costs more to address than to read.
    /// Heads of the chains, the small ring, the main ring, ghosts: marks of records that left the small ring unused,
    /// each in its own place until another one takes it.
    memory: MmapMut,
    chains: usize,
    heads_at: usize,
    small: Ring,
    main: Ring,
    ghosts_at: usize,
    /// Numbers of live scopes, ascending.
    scopes: Vec<u32>,
    counts: CacheCounts,
}

/// The head of a record, taken apart.
#[derive(Clone, Copy, Debug)]
struct Head {
    mixed: u64,
    next: u32,
    scope: u32,
    expiry: u32,
    value: u32,
    key_len: u16,
    uses: u8,
}

impl Head {
    const fn value_len(&self) -> usize {
        (self.value & !ABSENT) as usize
    }

    const fn record_len(&self) -> usize {
        record_len(self.key_len as usize, self.value_len())
    }
}

const fn record_len(key: usize, value: usize) -> usize {
    (HEAD_BYTES + key + value).next_multiple_of(STEP)
}

impl Shard {
    /// A shard that takes `bytes` of memory in all.
    pub(super) fn new(bytes: u64) -> io::Result<Self> {
        let bytes = usize::try_from(bytes).map_err(io::Error::other)?;
        // Per chain: its bytes of the rings, its head, and a ghost.
        let chains = bytes / (BYTES_PER_CHAIN + HEAD_LINK_BYTES + GHOST_BYTES);
        let rings = chains * BYTES_PER_CHAIN;
        let len = rings + chains * (HEAD_LINK_BYTES + GHOST_BYTES);
        // Room to begin on a huge page; what is skipped is never populated.
        let memory = MmapMut::map_anon(len + HUGE_PAGE_BYTES)?;
        let heads_at = memory.as_ptr().align_offset(HUGE_PAGE_BYTES);
        if let Err(error) = memory.advise_range(Advice::HugePage, heads_at, len) {
            tracing::debug!(%error, "huge pages are not available");
        }
        let small_at = heads_at + chains * HEAD_LINK_BYTES;
        let main_at = small_at + (rings / SMALL_SHARE).next_multiple_of(STEP);
        let ghosts_at = small_at + rings;
        Ok(Self {
            memory,
            chains,
            heads_at,
            small: Ring::new(small_at, main_at),
            main: Ring::new(main_at, ghosts_at),
            ghosts_at,
            scopes: Vec::new(),
            counts: CacheCounts { memory_bytes: len as u64, ..CacheCounts::default() },
        })
    }

    pub(super) const fn counts(&self) -> CacheCounts {
        self.counts
    }

    pub(super) fn add_scope(&mut self, scope: u32) {
        if let Err(at) = self.scopes.binary_search(&scope) {
            self.scopes.insert(at, scope);
        }
    }

    pub(super) fn drop_scope(&mut self, scope: u32) {
        if let Ok(at) = self.scopes.binary_search(&scope) {
            self.scopes.remove(at);
        }
    }

    pub(super) fn get(&mut self, wanted: &Wanted<'_>) -> Option<Cached<'_>> {
        let Some((at, head)) = self.find(wanted) else {
            self.counts.misses += 1;
            return None;
        };
        self.counts.hits += 1;
        if head.uses < USES_MAX {
            self.memory[at + USES_AT] = head.uses + 1;
        }
        if head.value & ABSENT != 0 {
            return Some(Cached::Absent);
        }
        let start = at + HEAD_BYTES + usize::from(head.key_len);
        Some(Cached::Value { value: &self.memory[start..start + head.value_len()], expiry: head.expiry })
    }

    pub(super) fn insert(&mut self, wanted: &Wanted<'_>, cached: Cached<'_>) {
        let (value, expiry, absent): (&[u8], _, _) = match cached {
            Cached::Value { value, expiry } => (value, expiry, 0),
            Cached::Absent => (&[], 0, ABSENT),
        };
        let len = record_len(wanted.key.len(), value.len());
        let (Ok(key_len), Ok(value_len)) = (u16::try_from(wanted.key.len()), u32::try_from(value.len())) else {
            return;
        };
        if len > self.small.capacity() / RECORD_SHARE || self.find(wanted).is_some() {
            return;
        }
        let (ghost_at, mark) = self.ghost(wanted.mixed);
        let ghost = &mut self.memory[ghost_at..ghost_at + GHOST_BYTES];
        let at = if *ghost == mark {
            ghost.fill(0);
            self.room_in_main(len)
        } else {
            self.room_in_small(len)
        };
        let head = Head {
            mixed: wanted.mixed,
            next: 0,
            scope: wanted.scope,
            expiry,
            value: value_len | absent,
            key_len,
            uses: 0,
        };
        let key_at = at + HEAD_BYTES;
        let value_at = key_at + wanted.key.len();
        self.memory[key_at..value_at].copy_from_slice(wanted.key);
        self.memory[value_at..value_at + value.len()].copy_from_slice(value);
        self.link(at, head);
        self.counts.inserts += 1;
        self.counts.records += 1;
        self.counts.used_bytes += len as u64;
    }

    fn find(&self, wanted: &Wanted<'_>) -> Option<(usize, Head)> {
        let mut link = self.u32_at(self.chain(wanted.mixed));
        while link != 0 {
            let at = position(link);
            let head = self.head(at);
            // `mixed` tells scopes apart too, unless it is by chance.
            if head.mixed == wanted.mixed && head.scope == wanted.scope {
                let key = &self.memory[at + HEAD_BYTES..at + HEAD_BYTES + usize::from(head.key_len)];
                if key == wanted.key {
                    return Some((at, head));
                }
            }
            link = head.next;
        }
        None
    }

    /// Where the first link of this hash's chain is.
    fn chain(&self, mixed: u64) -> usize {
        self.heads_at + self.nth_of_chains(mixed) * HEAD_LINK_BYTES
    }

    /// Where a ghost of this hash is, and what it looks like; never 0.
    fn ghost(&self, mixed: u64) -> (usize, [u8; GHOST_BYTES]) {
        let turned = mixed.rotate_left(29).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let [low, high, ..] = turned.to_le_bytes();
        (self.ghosts_at + self.nth_of_chains(turned) * GHOST_BYTES, [low | 1, high])
    }

    fn nth_of_chains(&self, mixed: u64) -> usize {
        ((u128::from(mixed) * self.chains as u128) >> 64) as usize
    }

    /// Makes room in the small ring: what was used meanwhile, or finds room anyway, goes on to the main ring; the rest
    /// leaves a ghost.
    fn room_in_small(&mut self, len: usize) -> usize {
        loop {
            if let Some(at) = self.small.take(len) {
                return at;
            }
            let at = self.small.tail();
            let mut head = self.head(at);
            let len = head.record_len();
            let alive = self.is_alive(&head);
            self.unlink(at, &head);
            let to = match alive {
                true if head.uses > 0 => Some(self.room_in_main(len)),
                // Room that nobody has is for whoever comes.
                true => self.main.take(len),
                false => None,
            };
            if let Some(to) = to {
                self.memory.copy_within(at..at + len, to);
                head.uses = 0;
                self.link(to, head);
            } else {
                self.count_eviction(len);
                if alive {
                    let (ghost_at, mark) = self.ghost(head.mixed);
                    self.memory[ghost_at..ghost_at + GHOST_BYTES].copy_from_slice(&mark);
                }
            }
            self.small.leave(len);
        }
    }

    /// Makes room in the main ring: what was used goes around once more.
    fn room_in_main(&mut self, len: usize) -> usize {
        let mut turns = 0;
        loop {
            if let Some(at) = self.main.take(len) {
                return at;
            }
            let at = self.main.tail();
            let mut head = self.head(at);
            let len = head.record_len();
            self.unlink(at, &head);
            if head.uses > 0 && turns < TURNS_MAX && self.is_alive(&head) {
                turns += 1;
                let to = self.main.turn(len);
                self.memory.copy_within(at..at + len, to);
                head.uses -= 1;
                self.link(to, head);
            } else {
                self.main.leave(len);
                self.count_eviction(len);
            }
        }
    }

    fn is_alive(&self, head: &Head) -> bool {
        self.scopes.binary_search(&head.scope).is_ok()
    }

    fn count_eviction(&mut self, len: usize) {
        self.counts.evictions += 1;
        self.counts.records -= 1;
        self.counts.used_bytes -= len as u64;
    }

    /// Puts a record at the beginning of its chain, and writes its head.
    fn link(&mut self, at: usize, head: Head) {
        let chain = self.chain(head.mixed);
        let next = self.u32_at(chain);
        self.set_u32(chain, link_to(at));
        let Head { mixed, scope, expiry, value, key_len, uses, .. } = head;
        let bytes = &mut self.memory[at..at + HEAD_BYTES];
        bytes[..8].copy_from_slice(&mixed.to_le_bytes());
        bytes[8..12].copy_from_slice(&next.to_le_bytes());
        bytes[12..16].copy_from_slice(&scope.to_le_bytes());
        bytes[16..20].copy_from_slice(&expiry.to_le_bytes());
        bytes[20..24].copy_from_slice(&value.to_le_bytes());
        bytes[24..26].copy_from_slice(&key_len.to_le_bytes());
        bytes[USES_AT] = uses;
        bytes[27] = 0;
    }

    /// Takes a record out of its chain.
    fn unlink(&mut self, at: usize, head: &Head) {
        let mut link_at = self.chain(head.mixed);
        loop {
            match self.u32_at(link_at) {
                0 => break,
                link if link == link_to(at) => return self.set_u32(link_at, head.next),
                link => link_at = position(link) + NEXT_AT,
            }
        }
        debug_assert!(false, "every record is in its chain");
    }

    fn head(&self, at: usize) -> Head {
        let bytes: &[u8; HEAD_BYTES] =
            self.memory[at..].first_chunk().expect("records lie in the memory, heads and all");
        let u32_at = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        Head {
            mixed: u64::from(u32_at(0)) | u64::from(u32_at(4)) << 32,
            next: u32_at(8),
            scope: u32_at(12),
            expiry: u32_at(16),
            value: u32_at(20),
            key_len: u16::from_le_bytes([bytes[24], bytes[25]]),
            uses: bytes[USES_AT],
        }
    }

    fn set_u32(&mut self, at: usize, number: u32) {
        self.memory[at..at + 4].copy_from_slice(&number.to_le_bytes());
    }

    fn u32_at(&self, at: usize) -> u32 {
        self.memory[at..].first_chunk().map_or(0, |bytes| u32::from_le_bytes(*bytes))
    }
}

const fn position(link: u32) -> usize {
    (link as usize - 1) * STEP
}

/// Positions stay far below 2^34.
const fn link_to(at: usize) -> u32 {
    (at / STEP) as u32 + 1
}
