//! Revisions, keys and their history, in memory. Pure: no clock, no I/O.

use std::collections::VecDeque;
use std::ops::Bound;
use std::sync::Arc;

use rpds::{RedBlackTreeMapSync as Map, RedBlackTreeSetSync as Set};

use crate::store::{Compare, Entry, Event, LeaseId, MetaError, Op, Revision, Snapshot, Txn, TxnOutcome, WatchBatch};

/// One change with what it replaced.
#[derive(Clone, Debug)]
pub(super) struct Step {
    pub(super) event: Event,
    before: Option<Entry>,
}

/// The changes of one revision.
#[derive(Clone, Debug)]
pub(super) struct Changes {
    pub(super) revision: Revision,
    pub(super) steps: Vec<Step>,
}

/// The present keys. Copies share structure.
#[derive(Clone, Debug)]
pub(super) struct Present {
    pub(super) revision: Revision,
    entries: Map<String, Entry>,
    leased: Set<(LeaseId, String)>,
}

impl Present {
    /// An empty store. As in etcd the revision before the first write is 1.
    pub(super) fn empty() -> Self {
        Self { revision: Revision(1), entries: Map::new_sync(), leased: Set::new_sync() }
    }

    /// A store as it was persisted.
    pub(super) fn restored(revision: Revision, entries: impl IntoIterator<Item = Entry>) -> Self {
        let mut present = Self { revision, ..Self::empty() };
        for entry in entries {
            present.insert(entry);
        }
        present
    }

    pub(super) fn get(&self, key: &str) -> Option<&Entry> {
        self.entries.get(key)
    }

    fn under<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = (&'a String, &'a Entry)> {
        self.entries
            .range::<str, _>((Bound::Included(prefix), Bound::Unbounded))
            .take_while(move |(key, _)| key.starts_with(prefix))
    }

    pub(super) fn snapshot(&self, prefix: &str) -> Snapshot {
        let entries = self.under(prefix).map(|(_, entry)| entry.clone()).collect();
        Snapshot { revision: self.revision, entries }
    }

    fn insert(&mut self, entry: Entry) {
        self.remove(&entry.key.clone());
        if let Some(lease) = entry.lease {
            self.leased.insert_mut((lease, entry.key.clone()));
        }
        self.entries.insert_mut(entry.key.clone(), entry);
    }

    fn remove(&mut self, key: &str) -> Option<Entry> {
        let before = self.entries.get(key).cloned()?;
        self.entries.remove_mut(key);
        if let Some(lease) = before.lease {
            self.leased.remove_mut(&(lease, before.key.clone()));
        }
        Some(before)
    }

    fn holds(&self, compare: &Compare) -> bool {
        match compare {
            Compare::Absent(key) => self.get(key).is_none(),
            Compare::CreatedAt(key, revision) => self.get(key).is_some_and(|entry| entry.created == *revision),
            Compare::ModifiedAt(key, revision) => self.get(key).is_some_and(|entry| entry.modified == *revision),
            Compare::ValueIs(key, value) => self.get(key).is_some_and(|entry| entry.value == *value),
        }
    }

    /// The next revision, made by `ops`; `None` if they change nothing.
    fn write<'a>(&mut self, ops: impl IntoIterator<Item = &'a Op>) -> Option<Changes> {
        let revision = Revision(self.revision.0.checked_add(1).expect("revisions never run out"));
        let mut steps = Vec::new();
        for op in ops {
            match op {
                Op::Put { key, value, lease } => {
                    let before = self.get(key).cloned();
                    let entry = Entry {
                        key: key.clone(),
                        value: value.clone(),
                        created: before.as_ref().map_or(revision, |before| before.created),
                        modified: revision,
                        lease: *lease,
                    };
                    self.insert(entry.clone());
                    steps.push(Step { event: Event::Put(entry), before });
                }
                Op::Delete { key } => {
                    if let Some(before) = self.remove(key) {
                        steps.push(Step { event: Event::Delete { key: key.clone() }, before: Some(before) });
                    }
                }
            }
        }
        if steps.is_empty() {
            return None;
        }
        self.revision = revision;
        Some(Changes { revision, steps })
    }

    /// Runs a validated transaction; `lives` tells whether a lease does.
    pub(super) fn txn(
        &mut self,
        txn: &Txn,
        lives: impl Fn(LeaseId) -> bool,
    ) -> Result<(TxnOutcome, Option<Changes>), MetaError> {
        if !txn.compares.iter().all(|compare| self.holds(compare)) {
            return Ok((TxnOutcome::Refused, None));
        }
        let leases = txn.ops.iter().filter_map(|op| match op {
            Op::Put { lease, .. } => *lease,
            Op::Delete { .. } => None,
        });
        if !leases.into_iter().all(lives) {
            return Err(MetaError::LeaseGone);
        }
        let changes = self.write(&txn.ops);
        Ok((TxnOutcome::Committed(self.revision), changes))
    }

    /// Removes all keys of a lease in one revision.
    pub(super) fn end_lease(&mut self, lease: LeaseId) -> Option<Changes> {
        let keys: Vec<String> = self
            .leased
            .range((lease, String::new())..)
            .take_while(|(holder, _)| *holder == lease)
            .map(|(_, key)| key.clone())
            .collect();
        self.delete(keys)
    }

    /// Removes all keys of all leases in one revision.
    pub(super) fn end_all_leases(&mut self) -> Option<Changes> {
        let mut keys: Vec<String> = self.leased.iter().map(|(_, key)| key.clone()).collect();
        keys.sort();
        self.delete(keys)
    }

    fn delete(&mut self, keys: Vec<String>) -> Option<Changes> {
        let ops: Vec<Op> = keys.into_iter().map(|key| Op::Delete { key }).collect();
        self.write(&ops)
    }
}

/// The present and the recent past.
#[derive(Debug)]
pub(super) struct Mvcc {
    pub(super) present: Present,
    /// The oldest revision whose state can still be given; the changes after it are in `history`, without gaps.
    floor: Revision,
    history: VecDeque<Arc<Changes>>,
}

impl Mvcc {
    /// How many past revisions are kept.
    pub(super) const HISTORY_MAX: usize = 16_384;

    pub(super) fn new(present: Present) -> Self {
        Self { floor: present.revision, present, history: VecDeque::new() }
    }

    /// Goes on to `present`, which `changes` led to.
    pub(super) fn advance(&mut self, present: Present, changes: impl IntoIterator<Item = Arc<Changes>>) {
        for change in changes {
            debug_assert_eq!(
                change.revision.0,
                self.floor.0 + self.history.len() as u64 + 1,
                "revisions follow one another without gaps"
            );
            self.history.push_back(change);
        }
        self.present = present;
        while self.history.len() > Self::HISTORY_MAX {
            self.forget_oldest();
        }
    }

    fn forget_oldest(&mut self) {
        if let Some(oldest) = self.history.pop_front() {
            self.floor = oldest.revision;
        }
    }

    /// Forgets the past before `at`.
    pub(super) fn compact(&mut self, at: Revision) {
        while self.floor < at && !self.history.is_empty() {
            self.forget_oldest();
        }
    }

    /// The entries under `prefix` as of `at`.
    pub(super) fn list(&self, prefix: &str, at: Revision) -> Result<Snapshot, MetaError> {
        if at.0 == 0 || at > self.present.revision {
            return Err(MetaError::Invalid(format!(
                "revision {} does not exist, the present one is {}",
                at.0, self.present.revision.0
            )));
        }
        if at < self.floor {
            return Err(MetaError::Compacted(at));
        }
        let mut past = self.present.clone();
        for changes in self.history.iter().rev().take_while(|changes| changes.revision > at) {
            for step in changes.steps.iter().rev() {
                match (&step.event, &step.before) {
                    (_, Some(before)) => past.insert(before.clone()),
                    (Event::Put(entry), None) => drop(past.remove(&entry.key)),
                    (Event::Delete { .. }, None) => {}
                }
            }
        }
        past.revision = at;
        Ok(past.snapshot(prefix))
    }

    /// The first change under `prefix` at or after `from`, and the revision to go on from. Without a change only the
    /// latter.
    pub(super) fn next_change(
        &self,
        prefix: &str,
        from: Revision,
    ) -> Result<(Option<WatchBatch>, Revision), MetaError> {
        // No change ever happened at revision 1, so that a watch from there misses nothing while 2 is kept.
        if from <= self.floor && self.floor.0 > 1 {
            return Err(MetaError::Compacted(from));
        }
        let known = from.0.saturating_sub(self.floor.0).saturating_sub(1);
        let skip = usize::try_from(known).unwrap_or(usize::MAX).min(self.history.len());
        for changes in self.history.range(skip..) {
            let events: Vec<Event> = changes
                .steps
                .iter()
                .filter(|step| key_of(&step.event).starts_with(prefix))
                .map(|step| step.event.clone())
                .collect();
            if !events.is_empty() {
                let batch = WatchBatch { revision: changes.revision, events };
                return Ok((Some(batch), Revision(changes.revision.0 + 1)));
            }
        }
        Ok((None, from.max(Revision(self.present.revision.0 + 1))))
    }
}

fn key_of(event: &Event) -> &str {
    match event {
        Event::Put(entry) => &entry.key,
        Event::Delete { key } => key,
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn put(key: &str, value: &str) -> Txn {
        let op = Op::Put { key: key.into(), value: Bytes::copy_from_slice(value.as_bytes()), lease: None };
        Txn { compares: vec![], ops: vec![op] }
    }

    fn run(mvcc: &mut Mvcc, txn: &Txn) {
        let mut present = mvcc.present.clone();
        let (_, changes) = present.txn(txn, |_| true).expect("no lease in play");
        mvcc.advance(present, changes.map(Arc::new));
    }

    #[test]
    fn the_past_is_given_until_it_is_forgotten() {
        let mut mvcc = Mvcc::new(Present::empty());
        run(&mut mvcc, &put("a", "1"));
        run(&mut mvcc, &put("b", "1"));
        run(&mut mvcc, &put("a", "2"));
        run(&mut mvcc, &Txn { compares: vec![], ops: vec![Op::Delete { key: "b".into() }] });
        let at = |mvcc: &Mvcc, revision| {
            mvcc.list("", Revision(revision)).map(|snapshot| {
                let show = |entry: &Entry| format!("{}={}", entry.key, String::from_utf8_lossy(&entry.value));
                snapshot.entries.iter().map(show).collect::<Vec<_>>().join(" ")
            })
        };
        assert_eq!(at(&mvcc, 1), Ok(String::new()));
        assert_eq!(at(&mvcc, 3), Ok("a=1 b=1".to_owned()));
        assert_eq!(at(&mvcc, 4), Ok("a=2 b=1".to_owned()));
        assert_eq!(at(&mvcc, 5), Ok("a=2".to_owned()));
        mvcc.compact(Revision(4));
        assert_eq!(at(&mvcc, 3), Err(MetaError::Compacted(Revision(3))));
        assert_eq!(at(&mvcc, 4), Ok("a=2 b=1".to_owned()));
        assert_eq!(mvcc.next_change("", Revision(4)), Err(MetaError::Compacted(Revision(4))));
        assert!(mvcc.next_change("", Revision(5)).expect("kept").0.is_some());
    }

    #[test]
    fn history_is_bounded() {
        let mut mvcc = Mvcc::new(Present::empty());
        for _ in 0..Mvcc::HISTORY_MAX + 10 {
            run(&mut mvcc, &put("a", "x"));
        }
        assert_eq!(mvcc.history.len(), Mvcc::HISTORY_MAX);
        assert_eq!(mvcc.next_change("", Revision(2)), Err(MetaError::Compacted(Revision(2))));
    }
}
