//! What a client remembers of all tables: floors and verdicts, shared by its calls.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use fkv_formats::id::{ContentId, TableUid};
use fkv_rpc::packed::SectionLabel;

use crate::sync_version::{Evidence, Memory};

/// Per table uid, what is remembered. A table dropped and made again begins afresh.
#[derive(Debug, Default)]
pub(crate) struct Memories(Mutex<BTreeMap<TableUid, Memory>>);

impl Memories {
    /// What is remembered of a table.
    pub(crate) fn of(&self, table: TableUid) -> Memory {
        self.lock().get(&table).copied().unwrap_or_default()
    }

    /// The content to ask for at once.
    pub(crate) fn start(&self, table: TableUid, now: Duration) -> Option<ContentId> {
        self.of(table).start(now)
    }

    /// Forgets what replies disagreed on.
    pub(crate) fn forget_verdict(&self, table: TableUid) {
        if let Some(memory) = self.lock().get_mut(&table) {
            memory.forget_verdict();
        }
    }

    /// Raises the floors of all tables of a call, whose answers are given next; or of none, and tells for which tables
    /// (by the first number) another call has given newer answers meanwhile.
    pub(crate) fn settle<'e>(
        &self,
        now: Duration,
        tables: impl Iterator<Item = (usize, TableUid, ContentId, &'e Evidence, Vec<SectionLabel>)>,
    ) -> Vec<usize> {
        let mut memories = self.lock();
        let mut raised = Vec::new();
        let mut outrun = Vec::new();
        for (index, table, content, evidence, labels) in tables {
            let mut memory = memories.get(&table).copied().unwrap_or_default();
            if memory.settle(content, evidence, &labels, now) {
                raised.push((table, memory));
            } else {
                outrun.push(index);
            }
        }
        if outrun.is_empty() {
            memories.extend(raised);
        }
        outrun
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<TableUid, Memory>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
