//! A ring of records in one range of a shard's memory: what comes in first leaves first.

/// Positions are absolute in the shard's memory, in bytes. A record lies in one piece: where the rest of the ring is
/// too short for the next one, it stays empty until the ring has turned.
#[derive(Debug)]
pub(super) struct Ring {
    start: usize,
    end: usize,
    /// Where the next record goes.
    head: usize,
    /// The oldest record.
    tail: usize,
    /// Bytes from tail to head, the empty rest included: tells a full ring from an empty one.
    used: usize,
    /// Length of the empty rest at the end, if there is one between tail and head.
    rest: usize,
}

impl Ring {
    pub(super) const fn new(start: usize, end: usize) -> Self {
        Self { start, end, head: start, tail: start, used: 0, rest: 0 }
    }

    pub(super) const fn capacity(&self) -> usize {
        self.end - self.start
    }

    /// The oldest record.
    pub(super) const fn tail(&self) -> usize {
        self.tail
    }

    /// Takes `len` bytes in one piece; where they are. `None`: the oldest record has to leave first.
    pub(super) fn take(&mut self, len: usize) -> Option<usize> {
        debug_assert!(len > 0 && len <= self.capacity(), "records are far smaller than their ring");
        if self.used == 0 {
            *self = Self::new(self.start, self.end);
        }
        let free = self.capacity() - self.used;
        let to_end = self.end - self.head;
        if to_end < len {
            if free < to_end + len {
                return None;
            }
            self.rest = to_end;
            self.used += to_end;
            self.head = self.start;
        } else if free < len {
            return None;
        }
        let at = self.head;
        self.used += len;
        self.head = self.wrapped(at + len);
        Some(at)
    }

    /// Gives up the oldest record, which has `len` bytes.
    pub(super) fn leave(&mut self, len: usize) {
        debug_assert!(len <= self.used, "what leaves was in the ring");
        self.tail = self.wrapped(self.tail + len);
        self.used -= len;
        if self.rest > 0 && self.tail == self.end - self.rest {
            self.used -= self.rest;
            self.rest = 0;
            self.tail = self.start;
        }
    }

    /// Moves the oldest record, which has `len` bytes, to the front; where that is. It may overlap where it was.
    pub(super) fn turn(&mut self, len: usize) -> usize {
        self.leave(len);
        // Either its own bytes and the free ones before them are one piece that begins at the head, or the free bytes
        // are the rest of the ring and those from the start to where the record ended: one of both has room.
        self.take(len).expect("what has left fits again")
    }

    const fn wrapped(&self, at: usize) -> usize {
        if at == self.end { self.start } else { at }
    }
}
