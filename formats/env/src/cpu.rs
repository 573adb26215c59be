//! The pool for work that burns a core: hashing, sorting, building, verifying, batch lookups.

use std::fmt::Debug;

/// A job given to the pool panicked; its message is in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a background job panicked; the log has its message")]
pub struct JobPanicked;

/// A bounded pool of CPU threads.
pub trait CpuPool: Send + Sync + Debug {
    /// Queues `work`. A panic inside is caught and logged.
    fn execute(&self, work: Box<dyn FnOnce() + Send>);
    /// Calls `work(0) … work(count - 1)`, in any order and in parallel where cores are free, and returns when all
    /// are done. Meant to be called from inside a job of this pool; blocks the caller.
    fn for_each(&self, count: usize, work: &(dyn Fn(usize) + Sync));
    /// How many jobs run at once.
    fn parallelism(&self) -> usize;
}

/// A [`CpuPool`] over a rayon pool of its own.
#[derive(Debug)]
pub struct RayonPool {
    pool: rayon::ThreadPool,
}

impl RayonPool {
    /// A pool of `threads` threads; 0 means one per core.
    ///
    /// # Errors
    /// The threads could not be started.
    pub fn new(threads: usize) -> std::io::Result<Self> {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .thread_name(|index| format!("fkv-cpu-{index}"))
            .panic_handler(|_| tracing::error!("a job on the cpu pool panicked"))
            .build()
            .map_err(std::io::Error::other)?;
        Ok(Self { pool })
    }
}

impl CpuPool for RayonPool {
    fn execute(&self, work: Box<dyn FnOnce() + Send>) {
        self.pool.spawn(work);
    }

    fn for_each(&self, count: usize, work: &(dyn Fn(usize) + Sync)) {
        use rayon::iter::{IntoParallelIterator, ParallelIterator};
        self.pool.install(|| (0..count).into_par_iter().for_each(work));
    }

    fn parallelism(&self) -> usize {
        self.pool.current_num_threads()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn every_index_is_visited_once() {
        let pool = RayonPool::new(2).expect("threads start");
        let seen: Vec<AtomicUsize> = (0..1000).map(|_| AtomicUsize::new(0)).collect();
        pool.for_each(seen.len(), &|index| {
            seen[index].fetch_add(1, Ordering::Relaxed);
        });
        assert!(seen.iter().all(|count| count.load(Ordering::Relaxed) == 1));
        assert_eq!(pool.parallelism(), 2);
    }

    #[tokio::test]
    async fn a_panicking_job_is_an_error_and_the_pool_survives() {
        let env = crate::Env::real(1).expect("threads start");
        let panicked: Result<(), _> = env.compute(|| panic!("on purpose")).await;
        assert_eq!(panicked, Err(JobPanicked));
        assert_eq!(env.compute(|| 41 + 1).await, Ok(42));
    }
}
