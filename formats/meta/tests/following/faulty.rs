//! A store that can be taken away, and whose watches can be broken.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use fkv_meta::store::{Entry, LeaseId, MetaError, MetaStore, Revision, Snapshot, Txn, TxnOutcome, WatchStream};
use futures::{StreamExt, stream};
use tokio::sync::watch;

/// What is wrong with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    None,
    Down,
    /// Watches end with `Compacted`; the number tells one such time from the next.
    Compacted(u32),
}

#[derive(Debug)]
pub(crate) struct Faulty {
    inner: Arc<dyn MetaStore>,
    fault: watch::Sender<Fault>,
    pub(crate) lists: watch::Sender<u32>,
    pub(crate) watches: watch::Sender<u32>,
    pub(crate) grants: watch::Sender<u32>,
    pub(crate) renewals: watch::Sender<u32>,
}

impl Faulty {
    pub(crate) fn over(inner: Arc<dyn MetaStore>) -> Arc<Self> {
        Arc::new(Self {
            inner,
            fault: watch::Sender::new(Fault::None),
            lists: watch::Sender::new(0),
            watches: watch::Sender::new(0),
            grants: watch::Sender::new(0),
            renewals: watch::Sender::new(0),
        })
    }

    pub(crate) fn set(&self, fault: Fault) {
        self.fault.send_replace(fault);
    }

    fn check(&self) -> Result<(), MetaError> {
        match *self.fault.borrow() {
            Fault::Down => Err(down()),
            Fault::None | Fault::Compacted(_) => Ok(()),
        }
    }
}

fn down() -> MetaError {
    MetaError::Unavailable("taken away by the test".into())
}

#[async_trait]
impl MetaStore for Faulty {
    async fn get(&self, key: &str) -> Result<Option<Entry>, MetaError> {
        self.check()?;
        self.inner.get(key).await
    }

    async fn list(&self, prefix: &str, at: Option<Revision>) -> Result<Snapshot, MetaError> {
        self.lists.send_modify(|count| *count += 1);
        self.check()?;
        self.inner.list(prefix, at).await
    }

    async fn txn(&self, txn: Txn) -> Result<TxnOutcome, MetaError> {
        self.check()?;
        self.inner.txn(txn).await
    }

    async fn watch(&self, prefix: &str, from: Revision) -> Result<WatchStream, MetaError> {
        self.watches.send_modify(|count| *count += 1);
        self.check()?;
        let events = self.inner.watch(prefix, from).await?;
        let mut fault = self.fault.subscribe();
        fault.mark_unchanged();
        let broken = async move {
            loop {
                if fault.changed().await.is_err() {
                    return Err(down());
                }
                match *fault.borrow_and_update() {
                    Fault::None => {}
                    Fault::Down => return Err(down()),
                    Fault::Compacted(_) => return Err(MetaError::Compacted(from)),
                }
            }
        };
        // Whichever comes first; after the fault nothing more.
        let broken = stream::once(broken).boxed();
        let mut ended = false;
        Ok(stream::select(events, broken)
            .take_while(move |item| {
                let go_on = !ended;
                ended |= item.is_err();
                std::future::ready(go_on)
            })
            .boxed())
    }

    async fn grant(&self, ttl: Duration) -> Result<LeaseId, MetaError> {
        self.grants.send_modify(|count| *count += 1);
        self.check()?;
        self.inner.grant(ttl).await
    }

    async fn renew(&self, lease: LeaseId) -> Result<(), MetaError> {
        let renewed = match self.check() {
            Ok(()) => self.inner.renew(lease).await,
            Err(error) => Err(error),
        };
        self.renewals.send_modify(|count| *count += 1);
        renewed
    }

    async fn revoke(&self, lease: LeaseId) -> Result<(), MetaError> {
        self.check()?;
        self.inner.revoke(lease).await
    }
}
