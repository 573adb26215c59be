//! What a client remembers of all tables: floors and verdicts, shared by its calls.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use fkv_formats::id::{ContentId, TableUid};
use fkv_rpc::packed::{SectionLabel, Shown};

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

    /// Raises the floors of all tables of a call, whose answers are given next, and tells what each is to be labelled
    /// with. Or raises none, and tells for which tables (by their order) another call has given newer answers meanwhile.
    pub(crate) fn settle<'e>(
        &self,
        now: Duration,
        tables: impl Iterator<Item = (TableUid, ContentId, &'e Evidence, Vec<SectionLabel>)>,
    ) -> Result<Vec<Shown>, Vec<usize>> {
        let mut memories = self.lock();
        let mut raised = Vec::new();
        let mut settled = Vec::new();
        let mut outrun = Vec::new();
        for (index, (table, content, evidence, labels)) in tables.enumerate() {
            let mut memory = memories.get(&table).copied().unwrap_or_default();
            match memory.settle(content, evidence, &labels, now) {
                Some(shown) => {
                    raised.push((table, memory));
                    settled.push(shown);
                }
                None => outrun.push(index),
            }
        }
        if !outrun.is_empty() {
            return Err(outrun);
        }
        memories.extend(raised);
        Ok(settled)
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<TableUid, Memory>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
