//! The store inside one process: multi-version in memory, persisted by redb.
//!
//! ```text
//!   txn, grant, renew, revoke ─▶ queue ─▶ writer: group ─▶ redb commit ─▶ present + history ─▶ answers
//!   get, list, watch          ◀─────────────────────────── (durable only)
//! ```
//!
//! Readers see only what is durable. A bounded number of past revisions is kept, for watches and for lists at older
//! revisions. The redb file is opened by redb itself, not through the injected file system.
//! After a failed commit the file may hold more than readers were shown, which only opening it again can tell: the store
//! then stops for good, and [`MetaStore::failed`] says so.

mod disk;
mod mvcc;
mod writer;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use fkv_env::{Env, TaskHandle};
use futures::stream;
use tokio::sync::{mpsc, oneshot, watch};

use self::disk::Disk;
use self::mvcc::{Mvcc, Present};
use self::writer::{Request, Shared, Writer};
use crate::store::{Entry, LeaseId, MetaError, MetaStore, Revision, Snapshot, Txn, TxnOutcome, WatchStream};

/// The store of `fkv up`, and of tests. Dropping it stops it; what was answered is durable.
#[derive(Debug)]
pub struct EmbeddedStore {
    shared: Arc<Shared>,
    requests: mpsc::Sender<Request>,
    revisions: watch::Receiver<Revision>,
    failure: watch::Receiver<Option<String>>,
    _writer: TaskHandle,
}

impl EmbeddedStore {
    const QUEUE_MAX: usize = 1024;

    /// Opens or creates the file at `path`, and its directory. Leases do not outlive the process: all keys that hung
    /// on one are removed in one new revision.
    ///
    /// # Errors
    /// `Unavailable` if the file cannot be used, for instance because another process has it open; `Corrupt` if it
    /// holds what this store never wrote.
    pub async fn open(env: &Env, path: &Path) -> Result<Self, MetaError> {
        let (files, file) = (Arc::clone(&env.files), path.to_owned());
        let opened = env
            .blocking(move || {
                if let Some(dir) = file.parent() {
                    files.create_dir_all(dir).map_err(|error| {
                        MetaError::Unavailable(format!("the directory {} cannot be made: {error}", dir.display()))
                    })?;
                }
                let (disk, mut present) = Disk::open(&file)?;
                let ended = present.end_all_leases().map(Arc::new);
                disk.commit(ended.as_slice())?;
                Ok((disk, present))
            })
            .await;
        let (disk, present) = opened.map_err(|error| MetaError::Unavailable(error.to_string())).flatten()?;
        Ok(Self::start(env, Some(disk), present))
    }

    /// A store that keeps nothing beyond its life.
    #[must_use]
    pub fn in_memory(env: &Env) -> Self {
        Self::start(env, None, Present::empty())
    }

    fn start(env: &Env, disk: Option<Disk>, present: Present) -> Self {
        let (requests, receiver) = mpsc::channel(Self::QUEUE_MAX);
        let (sender, revisions) = watch::channel(present.revision);
        let shared = Arc::new(Shared { mvcc: std::sync::Mutex::new(Mvcc::new(present)) });
        let (failed, failure) = watch::channel(None);
        let writer = Writer {
            env: env.clone(),
            shared: Arc::clone(&shared),
            disk,
            requests: receiver,
            revisions: sender,
            failed,
        };
        let task = env.spawn.spawn("embedded metadata store", Box::pin(writer.run()));
        Self { shared, requests, revisions, failure, _writer: task }
    }

    /// Waits for the writes under way and closes the file, so that it can be opened again. Later calls fail.
    pub async fn close(&self) {
        let (sender, closed) = oneshot::channel();
        if self.requests.send(Request::Close(sender)).await.is_ok() {
            let _ = closed.await;
        }
    }

    /// Forgets the history before `at`.
    pub fn compact(&self, at: Revision) {
        self.shared.with(|mvcc| mvcc.compact(at));
    }

    async fn ask<T>(
        &self,
        request: impl FnOnce(oneshot::Sender<Result<T, MetaError>>) -> Request,
        lost: impl FnOnce(String) -> MetaError,
    ) -> Result<T, MetaError> {
        let (sender, answer) = oneshot::channel();
        self.requests.send(request(sender)).await.map_err(|_| closed())?;
        answer.await.map_err(|_| lost("the embedded store was closed".to_owned()))?
    }

    fn check_open(&self) -> Result<(), MetaError> {
        if self.requests.is_closed() { Err(closed()) } else { Ok(()) }
    }
}

fn closed() -> MetaError {
    MetaError::Unavailable("the embedded store is closed".to_owned())
}

#[async_trait]
impl MetaStore for EmbeddedStore {
    async fn get(&self, key: &str) -> Result<Option<Entry>, MetaError> {
        self.check_open()?;
        if key.is_empty() {
            return Err(MetaError::Invalid("a read of an empty key".to_owned()));
        }
        Ok(self.shared.with(|mvcc| mvcc.present.get(key).cloned()))
    }

    async fn list(&self, prefix: &str, at: Option<Revision>) -> Result<Snapshot, MetaError> {
        self.check_open()?;
        match at {
            Some(at) => self.shared.with(|mvcc| mvcc.list(prefix, at)),
            None => {
                let present = self.shared.with(|mvcc| mvcc.present.clone());
                Ok(present.snapshot(prefix))
            }
        }
    }

    async fn txn(&self, txn: Txn) -> Result<TxnOutcome, MetaError> {
        txn.validate()?;
        self.ask(|answer| Request::Txn(txn, answer), MetaError::Ambiguous).await
    }

    async fn watch(&self, prefix: &str, from: Revision) -> Result<WatchStream, MetaError> {
        self.check_open()?;
        if from.0 == 0 {
            return Err(MetaError::Invalid("a watch from revision 0".to_owned()));
        }
        let watching = Watching {
            shared: Arc::clone(&self.shared),
            revisions: self.revisions.clone(),
            prefix: prefix.to_owned(),
            next: from,
        };
        Ok(Box::pin(stream::unfold(Some(watching), |watching| async move {
            let mut watching = watching?;
            match watching.next().await {
                Ok(batch) => Some((Ok(batch), Some(watching))),
                Err(error) => Some((Err(error), None)),
            }
        })))
    }

    async fn grant(&self, ttl: Duration) -> Result<LeaseId, MetaError> {
        if ttl < Duration::from_secs(1) {
            return Err(MetaError::Invalid("a lease of less than a second".to_owned()));
        }
        self.ask(|answer| Request::Grant(Duration::from_secs(ttl.as_secs()), answer), MetaError::Unavailable).await
    }

    async fn renew(&self, lease: LeaseId) -> Result<(), MetaError> {
        self.ask(|answer| Request::Renew(lease, answer), MetaError::Unavailable).await
    }

    async fn revoke(&self, lease: LeaseId) -> Result<(), MetaError> {
        self.ask(|answer| Request::Revoke(lease, answer), MetaError::Unavailable).await
    }

    async fn failed(&self) -> String {
        let mut failure = self.failure.clone();
        match failure.wait_for(Option::is_some).await.map(|failure| failure.clone()) {
            Ok(Some(reason)) => reason,
            // Closed in good order, or going down with the runtime.
            Ok(None) | Err(_) => std::future::pending().await,
        }
    }
}

struct Watching {
    shared: Arc<Shared>,
    revisions: watch::Receiver<Revision>,
    prefix: String,
    next: Revision,
}

impl Watching {
    async fn next(&mut self) -> Result<crate::store::WatchBatch, MetaError> {
        loop {
            // Marked as seen before looking: a change made meanwhile wakes the next round.
            self.revisions.borrow_and_update();
            let (batch, next) = self.shared.with(|mvcc| mvcc.next_change(&self.prefix, self.next))?;
            self.next = next;
            if let Some(batch) = batch {
                return Ok(batch);
            }
            self.revisions.changed().await.map_err(|_| closed())?;
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use futures::StreamExt;

    use super::*;
    use crate::store::{Compare, Event, Op};

    fn put(key: &str, lease: Option<LeaseId>) -> Txn {
        Txn { compares: vec![], ops: vec![Op::Put { key: key.into(), value: Bytes::from_static(b"v"), lease }] }
    }

    #[tokio::test]
    async fn a_restart_keeps_keys_and_revisions_and_ends_leases_in_one_revision() {
        let env = Env::real(1).expect("threads start");
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("deep/metadata.redb");
        let store = EmbeddedStore::open(&env, &path).await.expect("created");
        assert_eq!(store.txn(put("a", None)).await, Ok(TxnOutcome::Committed(Revision(2))));
        let lease = store.grant(Duration::from_secs(60)).await.expect("granted");
        for key in ["l1", "l2"] {
            store.txn(put(key, Some(lease))).await.expect("written");
        }
        let occupied = EmbeddedStore::open(&env, &path).await.expect_err("two owners of one file");
        assert!(matches!(occupied, MetaError::Unavailable(_)), "{occupied}");
        store.close().await;
        assert!(matches!(store.get("a").await, Err(MetaError::Unavailable(_))));
        assert!(matches!(store.txn(put("b", None)).await, Err(MetaError::Unavailable(_))));

        let store = EmbeddedStore::open(&env, &path).await.expect("opened again");
        let all = store.list("", None).await.expect("listed");
        assert_eq!(all.revision, Revision(5), "both leased keys went in one revision");
        let left: Vec<(&str, Revision, Revision)> =
            all.entries.iter().map(|entry| (entry.key.as_str(), entry.created, entry.modified)).collect();
        assert_eq!(left, [("a", Revision(2), Revision(2))]);
        assert_eq!(store.renew(lease).await, Err(MetaError::LeaseGone));
        let mut early = store.watch("", Revision(3)).await.expect("a stream");
        assert_eq!(early.next().await, Some(Err(MetaError::Compacted(Revision(3)))));
        let mut present = store.watch("", Revision(6)).await.expect("a stream");
        let create = Txn { compares: vec![Compare::Absent("l1".into())], ..put("l1", None) };
        assert_eq!(store.txn(create).await, Ok(TxnOutcome::Committed(Revision(6))));
        let batch = present.next().await.expect("open").expect("no error");
        assert!(matches!(&batch.events[..], [Event::Put(entry)] if entry.created == Revision(6)), "{batch:?}");
        store.close().await;
        assert!(matches!(present.next().await, Some(Err(MetaError::Unavailable(_)))));

        let store = EmbeddedStore::open(&env, &path).await.expect("opened again");
        assert_eq!(store.list("", None).await.expect("listed").revision, Revision(6), "no lease, no revision");
        store.close().await;
    }

    /// A disk that can be full.
    #[derive(Debug)]
    struct FillingDisk {
        inner: redb::backends::InMemoryBackend,
        full: Arc<std::sync::atomic::AtomicBool>,
    }

    impl FillingDisk {
        fn check(&self) -> Result<(), std::io::Error> {
            if self.full.load(std::sync::atomic::Ordering::SeqCst) {
                return Err(std::io::ErrorKind::StorageFull.into());
            }
            Ok(())
        }
    }

    impl redb::StorageBackend for FillingDisk {
        fn len(&self) -> Result<u64, std::io::Error> {
            self.inner.len()
        }

        fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), std::io::Error> {
            self.inner.read(offset, out)
        }

        fn set_len(&self, len: u64) -> Result<(), std::io::Error> {
            self.check()?;
            self.inner.set_len(len)
        }

        fn sync_data(&self) -> Result<(), std::io::Error> {
            self.check()?;
            self.inner.sync_data()
        }

        fn write(&self, offset: u64, data: &[u8]) -> Result<(), std::io::Error> {
            self.check()?;
            self.inner.write(offset, data)
        }
    }

    #[tokio::test]
    async fn a_failing_disk_stops_the_store_and_it_says_so() {
        let env = Env::real(1).expect("threads start");
        let full = Arc::new(std::sync::atomic::AtomicBool::new(false));
        let disk = FillingDisk { inner: redb::backends::InMemoryBackend::new(), full: Arc::clone(&full) };
        let database = redb::Database::builder().create_with_backend(disk).expect("created");
        let (disk, present) = Disk::of(database).expect("read");
        let store = EmbeddedStore::start(&env, Some(disk), present);
        store.txn(put("a", None)).await.expect("written");
        assert!(futures::FutureExt::now_or_never(store.failed()).is_none());
        full.store(true, std::sync::atomic::Ordering::SeqCst);
        let error = store.txn(put("b", None)).await.expect_err("the disk is full");
        assert!(matches!(error, MetaError::Ambiguous(_)), "{error}");
        let reason = store.failed().await;
        assert!(reason.contains("cannot write its file"), "{reason}");
        // Nothing is answered from what may not be what the file has.
        assert!(matches!(store.get("a").await, Err(MetaError::Unavailable(_))));
        assert!(matches!(store.txn(put("c", None)).await, Err(MetaError::Unavailable(_))));
    }

    #[tokio::test]
    async fn a_file_of_something_else_is_refused() {
        let env = Env::real(1).expect("threads start");
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("metadata.redb");
        env.files.write_durably(&path, &[7; 9000]).expect("written");
        let error = EmbeddedStore::open(&env, &path).await.expect_err("no such file format");
        assert!(error.to_string().contains("metadata.redb"), "{error}");
    }
}
