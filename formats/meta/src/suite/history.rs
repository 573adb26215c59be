//! Random operations from a seed. Two stores that keep the contract make the same observations, with revisions
//! counted from where each started and leases by the order of their grants.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use fkv_env::{Entropy, Env, SeededEntropy, timeout};
use futures::StreamExt;

use crate::store::{Compare, Entry, Event, LeaseId, MetaError, MetaStore, Op, Revision, Snapshot, Txn, TxnOutcome};

/// What was asked and what came back, in a form that does not depend on where the store stood.
pub type Observation = String;

const KEYS: u64 = 6;
/// Never reached: leases end by being revoked, at a known step.
const TTL: Duration = Duration::from_secs(3600);

struct Run<'a> {
    store: &'a dyn MetaStore,
    prefix: &'a str,
    random: SeededEntropy,
    base: Revision,
    present: Revision,
    leases: Vec<LeaseId>,
    seen: BTreeMap<String, (Revision, Revision)>,
    observations: Vec<Observation>,
}

/// Runs `steps` random operations under `prefix`, then watches them all from the first on.
///
/// # Panics
/// If the store fails for another reason than the contract allows.
pub async fn history(env: &Env, store: &dyn MetaStore, prefix: &str, seed: u64, steps: usize) -> Vec<Observation> {
    let base = store.list(prefix, None).await.expect("listed").revision;
    let mut run = Run {
        store,
        prefix,
        random: SeededEntropy::new(seed),
        base,
        present: base,
        leases: Vec::new(),
        seen: BTreeMap::new(),
        observations: Vec::new(),
    };
    for _ in 0..steps {
        run.step().await;
    }
    run.watch(env).await;
    for lease in std::mem::take(&mut run.leases) {
        store.revoke(lease).await.expect("revoked");
    }
    run.observations
}

impl Run<'_> {
    async fn step(&mut self) {
        let observation = match self.random.below(20) {
            0..=11 => self.txn().await,
            12 => format!("get {}", self.get().await),
            13 | 14 => {
                let at = Revision(self.base.0 + self.random.below(self.present.0 - self.base.0 + 2));
                let listed = self.store.list(self.prefix, Some(at)).await;
                format!("list at {} {}", self.relative(at), self.listed(listed))
            }
            15 => {
                let listed = self.store.list(self.prefix, None).await;
                format!("list {}", self.listed(listed))
            }
            16 | 17 => {
                self.leases.push(self.store.grant(TTL).await.expect("granted"));
                "grant".to_owned()
            }
            18 => match self.lease() {
                Some(lease) => format!("renew {} {:?}", self.lease_name(Some(lease)), self.store.renew(lease).await),
                None => "no lease".to_owned(),
            },
            _ => match self.lease() {
                Some(lease) => {
                    let outcome = self.store.revoke(lease).await;
                    self.refresh().await;
                    format!("revoke {} {outcome:?} at {}", self.lease_name(Some(lease)), self.relative(self.present))
                }
                None => "no lease".to_owned(),
            },
        };
        self.observations.push(observation);
    }

    fn key(&mut self) -> String {
        format!("{}{}", self.prefix, self.random.below(KEYS))
    }

    fn lease(&mut self) -> Option<LeaseId> {
        let index = self.random.below(self.leases.len() as u64);
        self.leases.get(usize::try_from(index).unwrap_or(0)).copied()
    }

    async fn get(&mut self) -> String {
        let key = self.key();
        match self.store.get(&key).await.expect("read") {
            Some(entry) => self.entry(&entry),
            None => format!("{} is absent", &key[self.prefix.len()..]),
        }
    }

    async fn txn(&mut self) -> String {
        let mut txn = Txn::default();
        for _ in 0..self.random.below(3) {
            let key = self.key();
            // Mostly what is so, or was so not long ago; sometimes what never was.
            let (created, modified) = self.seen.get(&key).copied().unwrap_or((self.present, self.present));
            let value = Bytes::from(self.random.below(4).to_string());
            txn.compares.push(match self.random.below(5) {
                0 => Compare::Absent(key),
                1 => Compare::CreatedAt(key, created),
                2 | 3 => Compare::ModifiedAt(key, modified),
                _ => Compare::ValueIs(key, value),
            });
        }
        // Sometimes the same key twice, which is refused.
        for _ in 0..self.random.below(4) {
            let key = self.key();
            txn.ops.push(match self.random.below(6) {
                0 | 1 => Op::Delete { key },
                2 => Op::Put { key, value: "leased".into(), lease: self.lease() },
                _ => Op::Put { key, value: Bytes::from(self.random.below(4).to_string()), lease: None },
            });
        }
        let shown = self.shown(&txn);
        let outcome = match self.store.txn(txn).await {
            Ok(TxnOutcome::Committed(at)) => format!("committed at {}", self.relative(at)),
            Ok(TxnOutcome::Refused) => "refused".to_owned(),
            Err(error @ (MetaError::Invalid(_) | MetaError::LeaseGone)) => error.to_string(),
            Err(error) => panic!("{shown}: {error}"),
        };
        self.refresh().await;
        format!("{shown} {}", outcome.replace(self.prefix, ""))
    }

    /// Learns the present revision, and the revisions of keys for later compares (not always: some stay stale).
    async fn refresh(&mut self) {
        let snapshot = self.store.list(self.prefix, None).await.expect("listed");
        self.present = snapshot.revision;
        if self.random.below(3) > 0 {
            self.seen = snapshot.entries.into_iter().map(|e| (e.key, (e.created, e.modified))).collect();
        }
    }

    async fn watch(&mut self, env: &Env) {
        let mut stream = self.store.watch(self.prefix, Revision(self.base.0 + 1)).await.expect("a stream");
        let mut reached = self.base;
        // Every revision since the base changed a key of ours: nobody else writes.
        while reached < self.present {
            let batch = timeout(&*env.clock, Duration::from_secs(60), stream.next()).await;
            let batch = batch.expect("an event in time").expect("an open watch").expect("nothing compacted");
            reached = batch.revision;
            let events: Vec<String> = batch
                .events
                .iter()
                .map(|event| match event {
                    Event::Put(entry) => self.entry(entry),
                    Event::Delete { key } => format!("{} goes", &key[self.prefix.len()..]),
                })
                .collect();
            self.observations.push(format!("watched {}: {}", self.relative(reached), events.join(", ")));
        }
    }

    fn relative(&self, revision: Revision) -> String {
        let (revision, base) = (i128::from(revision.0), i128::from(self.base.0));
        format!("r{:+}", revision - base)
    }

    fn lease_name(&self, lease: Option<LeaseId>) -> String {
        match lease {
            None => String::new(),
            Some(lease) => match self.leases.iter().position(|known| *known == lease) {
                Some(index) => format!(" lease {index}"),
                None => " an unknown lease".to_owned(),
            },
        }
    }

    fn entry(&self, entry: &Entry) -> String {
        format!(
            "{}={} created {} modified {}{}",
            &entry.key[self.prefix.len()..],
            String::from_utf8_lossy(&entry.value),
            self.relative(entry.created),
            self.relative(entry.modified),
            self.lease_name(entry.lease)
        )
    }

    fn listed(&self, listed: Result<Snapshot, MetaError>) -> String {
        match listed {
            Ok(snapshot) => {
                let entries: Vec<String> = snapshot.entries.iter().map(|entry| self.entry(entry)).collect();
                format!("{}: {}", self.relative(snapshot.revision), entries.join(", "))
            }
            Err(MetaError::Invalid(_)) => "lies in the future".to_owned(),
            Err(error) => panic!("{error}"),
        }
    }

    fn shown(&self, txn: &Txn) -> String {
        let name = |key: &String| key[self.prefix.len()..].to_owned();
        let compares: Vec<String> = txn
            .compares
            .iter()
            .map(|compare| match compare {
                Compare::Absent(key) => format!("{} absent", name(key)),
                Compare::CreatedAt(key, at) => format!("{} created {}", name(key), self.relative(*at)),
                Compare::ModifiedAt(key, at) => format!("{} modified {}", name(key), self.relative(*at)),
                Compare::ValueIs(key, value) => format!("{} is {}", name(key), String::from_utf8_lossy(value)),
            })
            .collect();
        let ops: Vec<String> = txn
            .ops
            .iter()
            .map(|op| match op {
                Op::Put { key, value, lease } => {
                    format!("put {}={}{}", name(key), String::from_utf8_lossy(value), self.lease_name(*lease))
                }
                Op::Delete { key } => format!("delete {}", name(key)),
            })
            .collect();
        format!("if [{}] then [{}]", compares.join(", "), ops.join(", "))
    }
}
