//! One book of memory and disk per server, over all its tables.
//!
//! ```text
//!   load ── reserve(memory, disk) ──▶ Ledger ── refused before the load starts, or
//!        ◀── Reservation, split over arenas and local files, given back when they are really gone
//! ```

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Notify;
use tokio::sync::futures::Notified;

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Resource {
    Memory,
    Disk,
}

impl fmt::Display for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Memory => "memory",
            Self::Disk => "disk",
        })
    }
}

/// A reservation that does not fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{asked} bytes of {resource} are needed, {used} of {max} are in use")]
pub(crate) struct DoesNotFit {
    pub(crate) resource: Resource,
    pub(crate) asked: u64,
    pub(crate) used: u64,
    pub(crate) max: u64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Amounts {
    pub(crate) memory: u64,
    pub(crate) disk: u64,
}

/// The book.
#[derive(Debug)]
pub(crate) struct Ledger {
    max: Amounts,
    used: Mutex<Amounts>,
    given_back: Notify,
}

impl Ledger {
    pub(crate) fn new(memory_bytes_max: u64, disk_bytes_max: u64) -> Arc<Self> {
        Arc::new(Self {
            max: Amounts { memory: memory_bytes_max, disk: disk_bytes_max },
            used: Mutex::new(Amounts::default()),
            given_back: Notify::new(),
        })
    }

    /// Reserves both amounts or neither.
    pub(crate) fn reserve(self: &Arc<Self>, memory: u64, disk: u64) -> Result<Reservation, DoesNotFit> {
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        let fit = |resource, asked: u64, used: u64, max: u64| {
            used.checked_add(asked).filter(|total| *total <= max).ok_or(DoesNotFit { resource, asked, used, max })
        };
        let memory_after = fit(Resource::Memory, memory, used.memory, self.max.memory)?;
        let disk_after = fit(Resource::Disk, disk, used.disk, self.max.disk)?;
        *used = Amounts { memory: memory_after, disk: disk_after };
        Ok(Reservation { ledger: Arc::clone(self), amounts: Amounts { memory, disk } })
    }

    /// Whether what was refused then would fit now.
    pub(crate) fn has_room_for(&self, refused: DoesNotFit) -> bool {
        let used = self.used();
        let (used, max) = match refused.resource {
            Resource::Memory => (used.memory, self.max.memory),
            Resource::Disk => (used.disk, self.max.disk),
        };
        used.checked_add(refused.asked).is_some_and(|total| total <= max)
    }

    pub(crate) fn used(&self) -> Amounts {
        *self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) const fn max(&self) -> Amounts {
        self.max
    }

    /// Waits until something is given back, from when the future is enabled or first polled.
    pub(crate) fn given_back(&self) -> Notified<'_> {
        self.given_back.notified()
    }
}

/// A share of the ledger; dropping it gives it back.
#[derive(Debug)]
pub(crate) struct Reservation {
    ledger: Arc<Ledger>,
    amounts: Amounts,
}

impl Reservation {
    pub(crate) const fn amounts(&self) -> Amounts {
        self.amounts
    }

    /// Takes a part of it as a reservation of its own; takes what is left if that is less.
    pub(crate) fn split(&mut self, memory: u64, disk: u64) -> Self {
        let taken = Amounts { memory: memory.min(self.amounts.memory), disk: disk.min(self.amounts.disk) };
        self.amounts.memory -= taken.memory;
        self.amounts.disk -= taken.disk;
        Self { ledger: Arc::clone(&self.ledger), amounts: taken }
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        if self.amounts == Amounts::default() {
            return;
        }
        let mut used = self.ledger.used.lock().unwrap_or_else(PoisonError::into_inner);
        used.memory = used.memory.checked_sub(self.amounts.memory).expect("only what was reserved is given back");
        used.disk = used.disk.checked_sub(self.amounts.disk).expect("only what was reserved is given back");
        drop(used);
        self.ledger.given_back.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_is_refused_and_changes_nothing() {
        let ledger = Ledger::new(100, 50);
        let mut held = ledger.reserve(60, 10).expect("fits");
        let refused = ledger.reserve(41, 0).expect_err("one byte too many");
        assert_eq!(refused, DoesNotFit { resource: Resource::Memory, asked: 41, used: 60, max: 100 });
        assert_eq!(ledger.reserve(1, 41).expect_err("too much disk").resource, Resource::Disk);
        assert_eq!(ledger.used(), Amounts { memory: 60, disk: 10 });
        assert!(ledger.reserve(u64::MAX, 0).is_err(), "no overflow");

        let part = held.split(20, 100);
        assert_eq!(part.amounts(), Amounts { memory: 20, disk: 10 });
        drop(held);
        assert_eq!(ledger.used(), Amounts { memory: 20, disk: 10 });
        drop(part);
        assert_eq!(ledger.used(), Amounts::default());
    }

    #[tokio::test]
    async fn a_waiting_load_hears_that_room_was_made() {
        let ledger = Ledger::new(1, 1);
        let held = ledger.reserve(1, 1).expect("fits");
        let waiting = ledger.given_back();
        tokio::pin!(waiting);
        assert!(futures::poll!(waiting.as_mut()).is_pending());
        drop(held);
        waiting.await;
    }
}
