//! What is done within a window of time by workers that are busy before it begins and after it ends.
//!
//! ```text
//!   worker 1  ──[ batch ]──[ batch ]──[ batch ]──[ batch ]──▶ told to stop
//!   worker 2  ────[ batch ]──[ batch ]──[ batch ]──[ batch ]──▶
//!   time           starting │       window      │ ending
//! ```
//!
//! A batch that lies across an edge counts by the share of its time that lies within. So it makes no difference how many
//! workers there are, and how long each waits for its last batch.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use fkv_env::{Clock, Env};

use crate::keys::BATCH;
use crate::machine::process_cpu;

/// How long workers are at it before the window begins.
const STARTING: Duration = Duration::from_millis(300);

/// What was done within a window.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reading {
    pub(crate) keys_per_s: f64,
    /// Reads of files.
    pub(crate) reads_per_s: f64,
    /// The same per key; exact, over all batches from the first to the last.
    pub(crate) reads_per_key: f64,
    /// Share of the time that the process was on a core; up to the number of cores.
    pub(crate) cpu: f64,
}

impl Reading {
    /// Microseconds of CPU time of this process per key.
    pub(crate) fn cpu_us_per_key(&self) -> f64 {
        self.cpu * 1e6 / self.keys_per_s
    }
}

/// Where workers note what they do.
#[derive(Debug)]
pub(crate) struct Window {
    clock: Arc<dyn Clock>,
    stop: AtomicBool,
    batches: Mutex<Vec<[Duration; 2]>>,
}

impl Window {
    pub(crate) fn new(env: &Env) -> Arc<Self> {
        Arc::new(Self { clock: Arc::clone(&env.clock), stop: AtomicBool::new(false), batches: Mutex::default() })
    }

    /// Whether a worker goes on.
    pub(crate) fn goes_on(&self) -> bool {
        !self.stop.load(Ordering::Relaxed)
    }

    /// Lets the workers end.
    pub(crate) fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    pub(crate) fn now(&self) -> Duration {
        self.clock.monotonic()
    }

    /// Notes a batch that was begun at `begun` and has been answered.
    pub(crate) fn note(&self, begun: Duration) {
        let batch = [begun, self.now()];
        self.batches.lock().unwrap_or_else(PoisonError::into_inner).push(batch);
    }

    /// Keys answered so far.
    pub(crate) fn keys(&self) -> u64 {
        (self.batches.lock().unwrap_or_else(PoisonError::into_inner).len() * BATCH) as u64
    }

    /// Lets workers, who have just been started, work through a window of `length`, and stops them. The sum is taken once they
    /// have ended; `reads` says how many reads there have been so far.
    pub(crate) async fn watch(&self, length: Duration, reads: impl Fn() -> u64) -> Watched {
        self.clock.sleep(STARTING).await;
        let (from, cpu, before) = (self.now(), process_cpu(), reads());
        self.clock.sleep(length).await;
        let (to, cpu, reads) = (self.now(), process_cpu().saturating_sub(cpu), reads() - before);
        self.stop();
        Watched { from, to, cpu, reads }
    }

    /// What was done in a window, now that all workers have ended; with the reads of all they have done.
    pub(crate) fn sum(&self, watched: &Watched, reads: u64) -> Reading {
        let keys = self.keys().max(1);
        let batches = self.batches.lock().unwrap_or_else(PoisonError::into_inner);
        let seconds = watched.to.saturating_sub(watched.from).as_secs_f64();
        Reading {
            keys_per_s: batches.iter().map(|batch| watched.share(*batch)).sum::<f64>() * BATCH as f64 / seconds,
            reads_per_s: watched.reads as f64 / seconds,
            reads_per_key: reads as f64 / keys as f64,
            cpu: watched.cpu.as_secs_f64() / seconds,
        }
    }
}

/// A window that has ended.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Watched {
    from: Duration,
    to: Duration,
    cpu: Duration,
    reads: u64,
}

impl Watched {
    /// The share of a batch's time that lies within.
    fn share(&self, [begun, ended]: [Duration; 2]) -> f64 {
        let within = ended.min(self.to).saturating_sub(begun.max(self.from));
        let took = ended.saturating_sub(begun);
        if took.is_zero() {
            return f64::from(u8::from(self.from <= begun && ended <= self.to));
        }
        within.as_secs_f64() / took.as_secs_f64()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_counts_by_its_share_of_the_window() {
        let at = Duration::from_millis;
        let watched = Watched { from: at(1000), to: at(2000), cpu: at(1500), reads: 50 };
        let share = |from, to| watched.share([at(from), at(to)]);
        assert!((share(1100, 1200) - 1.0).abs() < 1e-9);
        assert!((share(900, 1100) - 0.5).abs() < 1e-9);
        assert!((share(1900, 2300) - 0.25).abs() < 1e-9);
        assert!((share(500, 2500) - 0.5).abs() < 1e-9);
        assert!(share(0, 1000).abs() < 1e-9 && share(2000, 3000).abs() < 1e-9);
        let env = Env::real(0).expect("threads");
        let window = Window::new(&env);
        *window.batches.lock().expect("not poisoned") = vec![[at(900), at(1100)], [at(1100), at(1900)]];
        let reading = window.sum(&watched, 128);
        assert!((reading.keys_per_s - 1.5 * BATCH as f64).abs() < 1e-6, "{reading:?}");
        assert!((reading.reads_per_key - 128.0 / (2 * BATCH) as f64).abs() < 1e-9, "{reading:?}");
        assert!((reading.cpu - 1.5).abs() < 1e-9 && (reading.reads_per_s - 50.0).abs() < 1e-9, "{reading:?}");
    }
}
