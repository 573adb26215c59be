//! How other threads talk to the thread of a ring: a queue, and an event that ends its sleep in the kernel.
//!
//! The event costs a system call, so it is only signalled while the thread sleeps or is about to. The thread says that
//! it is about to sleep before it looks at the queue for the last time; whoever queues something looks at that flag
//! afterwards. So either the thread sees what was queued, or the other sees the flag.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::event::{EventfdFlags, eventfd};

use super::Wake;
use super::file::SlotReturn;
use super::schedule::NewLane;

/// What the thread of a ring is told.
#[derive(Debug)]
pub(super) enum Command {
    /// Reads of a batch.
    Add(NewLane),
    /// A slot of the table of files is to be emptied.
    Forget(Arc<SlotReturn>),
    /// No more reads come: end when those in flight have ended.
    Stop,
}

/// The queue of one ring.
#[derive(Debug)]
pub(super) struct Inbox {
    queue: Mutex<Queue>,
    sleeping: AtomicBool,
    event: OwnedFd,
}

#[derive(Debug, Default)]
struct Queue {
    commands: Vec<Command>,
    closed: bool,
}

impl Inbox {
    pub(super) fn new() -> io::Result<Self> {
        let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self { queue: Mutex::default(), sleeping: AtomicBool::new(false), event })
    }

    /// Queues a command and wakes the thread if it sleeps.
    ///
    /// # Errors
    /// The command, if the thread takes none any more.
    pub(super) fn push(&self, command: Command) -> Result<(), Command> {
        {
            let mut queue = self.queue();
            if queue.closed {
                return Err(command);
            }
            queue.commands.push(command);
        }
        self.wake();
        Ok(())
    }

    /// Moves what is queued into `commands`, which is empty.
    pub(super) fn take(&self, commands: &mut Vec<Command>) {
        debug_assert!(commands.is_empty(), "commands are obeyed before more are taken");
        std::mem::swap(&mut self.queue().commands, commands);
    }

    /// Takes no more commands, and gives those that wait.
    pub(super) fn close(&self) -> Vec<Command> {
        let mut queue = self.queue();
        queue.closed = true;
        std::mem::take(&mut queue.commands)
    }

    /// Announces that the thread is about to sleep, and then asks `nothing_else` whether it may as far as anything
    /// beside this queue goes. `false`: there is something to do first.
    pub(super) fn may_sleep(&self, nothing_else: impl FnOnce() -> bool) -> bool {
        self.sleeping.store(true, Ordering::SeqCst);
        if nothing_else() && self.queue().commands.is_empty() {
            return true;
        }
        self.awake();
        false
    }

    /// The thread is awake.
    pub(super) fn awake(&self) {
        self.sleeping.store(false, Ordering::SeqCst);
    }

    /// The descriptor that becomes readable when the thread is to wake up.
    pub(super) fn event(&self) -> RawFd {
        self.event.as_raw_fd()
    }

    /// Makes the event unreadable again.
    pub(super) fn clear_event(&self) {
        // Nothing to read is as good as having read it.
        let _ = rustix::io::read(&self.event, &mut [0; 8]);
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Wake for Inbox {
    fn wake(&self) {
        if self.sleeping.swap(false, Ordering::SeqCst) {
            // It fails only when the event is readable by far too much already.
            let _ = rustix::io::write(&self.event, &1_u64.to_ne_bytes());
        }
    }
}
