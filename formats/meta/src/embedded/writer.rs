//! The one task that changes the embedded store: it takes what has queued up, works on a copy of the present, makes
//! the changes durable in one commit, shows them, and answers.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use fkv_env::Env;
use tokio::sync::{mpsc, oneshot, watch};

use super::disk::Disk;
use super::mvcc::{Changes, Mvcc};
use crate::store::{LeaseId, MetaError, Revision, Txn, TxnOutcome};

/// What readers see.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) mvcc: Mutex<Mvcc>,
}

impl Shared {
    pub(super) fn with<T>(&self, look: impl FnOnce(&mut Mvcc) -> T) -> T {
        look(&mut self.mvcc.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

type Answer<T> = oneshot::Sender<Result<T, MetaError>>;

/// A request to the writer.
#[derive(Debug)]
pub(super) enum Request {
    Txn(Txn, Answer<TxnOutcome>),
    Grant(Duration, Answer<LeaseId>),
    Renew(LeaseId, Answer<()>),
    Revoke(LeaseId, Answer<()>),
    Close(oneshot::Sender<()>),
}

#[derive(Debug)]
struct Lease {
    ttl: Duration,
    deadline: Duration,
}

/// The writer's own state.
#[derive(Debug)]
pub(super) struct Writer {
    pub(super) env: Env,
    pub(super) shared: Arc<Shared>,
    pub(super) disk: Option<Disk>,
    pub(super) requests: mpsc::Receiver<Request>,
    pub(super) revisions: watch::Sender<Revision>,
    pub(super) failed: watch::Sender<Option<String>>,
}

/// An answer that waits for the changes to be durable.
type Pending = Box<dyn FnOnce(Result<(), MetaError>) + Send>;

impl Writer {
    /// The most requests taken into one commit.
    const GROUP_MAX: usize = 256;

    pub(super) async fn run(mut self) {
        let mut leases: BTreeMap<LeaseId, Lease> = BTreeMap::new();
        let mut group = Vec::new();
        loop {
            let next_deadline = leases.values().map(|lease| lease.deadline).min();
            let now = self.env.clock.monotonic();
            tokio::select! {
                biased;
                () = async {
                    match next_deadline {
                        Some(deadline) => self.env.clock.sleep(deadline.saturating_sub(now)).await,
                        None => std::future::pending().await,
                    }
                } => {}
                received = self.requests.recv_many(&mut group, Self::GROUP_MAX) => {
                    if received == 0 {
                        return;
                    }
                }
            }
            match self.step(&mut leases, std::mem::take(&mut group)).await {
                Ok(None) => {}
                Ok(Some(closing)) => {
                    drop(self.disk.take());
                    for closed in closing {
                        let _ = closed.send(());
                    }
                    return;
                }
                Err(error) => {
                    // The file may hold more than what readers were shown. Only opening it again can tell.
                    tracing::error!(%error, "the embedded metadata store stops: its file failed");
                    // Nobody is to be answered from what the file may not have.
                    self.requests.close();
                    self.failed.send_replace(Some(error.to_string()));
                    return;
                }
            }
        }
    }

    async fn step(
        &mut self,
        leases: &mut BTreeMap<LeaseId, Lease>,
        group: Vec<Request>,
    ) -> Result<Option<Vec<oneshot::Sender<()>>>, MetaError> {
        let mut draft = self.shared.with(|mvcc| mvcc.present.clone());
        let mut changes: Vec<Arc<Changes>> = Vec::new();
        let mut pending: Vec<Pending> = Vec::new();
        let mut closing = Vec::new();

        let now = self.env.clock.monotonic();
        leases.retain(|id, lease| {
            let lives = lease.deadline > now;
            if !lives {
                tracing::debug!(lease = id.0, "lease ended");
                changes.extend(draft.end_lease(*id).map(Arc::new));
            }
            lives
        });
        for request in group {
            match request {
                Request::Txn(txn, answer) => match draft.txn(&txn, |lease| leases.contains_key(&lease)) {
                    Ok((outcome, made)) => {
                        changes.extend(made.map(Arc::new));
                        pending.push(Box::new(move |durable| drop(answer.send(durable.map(|()| outcome)))));
                    }
                    Err(error) => drop(answer.send(Err(error))),
                },
                Request::Grant(ttl, answer) => {
                    let id = self.free_id(leases);
                    leases.insert(id, Lease { ttl, deadline: now.saturating_add(ttl) });
                    if answer.send(Ok(id)).is_err() {
                        leases.remove(&id);
                    }
                }
                Request::Renew(id, answer) => {
                    let renewed = leases.get_mut(&id).map(|lease| lease.deadline = now.saturating_add(lease.ttl));
                    drop(answer.send(renewed.ok_or(MetaError::LeaseGone)));
                }
                Request::Revoke(id, answer) => {
                    if leases.remove(&id).is_some() {
                        changes.extend(draft.end_lease(id).map(Arc::new));
                    }
                    pending.push(Box::new(move |durable| drop(answer.send(durable))));
                }
                Request::Close(closed) => closing.push(closed),
            }
        }
        if let (Some(disk), false) = (&self.disk, changes.is_empty()) {
            let (disk, durable) = (disk.clone(), changes.clone());
            let committed = self.env.blocking(move || disk.commit(&durable)).await;
            if let Err(error) = committed.map_err(|error| MetaError::Unavailable(error.to_string())).flatten() {
                for answer in pending {
                    answer(Err(MetaError::Ambiguous(error.to_string())));
                }
                return Err(error);
            }
        }
        if !changes.is_empty() {
            let revision = draft.revision;
            self.shared.with(|mvcc| mvcc.advance(draft, changes));
            self.revisions.send_replace(revision);
        }
        for answer in pending {
            answer(Ok(()));
        }
        Ok((!closing.is_empty()).then_some(closing))
    }

    /// A lease id that is not in use; random, so that one from before a restart is not taken for a present one.
    fn free_id(&self, leases: &BTreeMap<LeaseId, Lease>) -> LeaseId {
        loop {
            let id = LeaseId(self.env.entropy.next_u64() >> 1);
            if id.0 != 0 && !leases.contains_key(&id) {
                return id;
            }
        }
    }
}
