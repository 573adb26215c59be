//! What the server believes of metadata: the newest it has seen, in this life or, by STATE, in an earlier one.
//!
//! ```text
//!   View ── accept ──▶ World (topology, tables)        STATE ──▶ World at start
//! ```
//!
//! Metadata may come back older than it was, restored from a snapshot, and by the time a server looks its revision may
//! have passed the one once known. Then a table's epoch has fallen, or a table is gone without having been dropped:
//! dropping one leaves a record, so a table without either is lost, not dropped. A server never goes back: it keeps what
//! it knows, goes on serving and says so, until an operator has raised heads and epochs above every STATE.

use std::collections::{BTreeMap, BTreeSet};

use fkv_formats::id::TableUid;
use fkv_meta::View;
use fkv_meta::record::{TableRecord, Topology};
use fkv_meta::store::Revision;

/// Topology and tables as the server acts on them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct World {
    /// The newest revision it was made from.
    pub(crate) revision: Revision,
    pub(crate) topology: Topology,
    pub(crate) tables: BTreeMap<TableUid, TableRecord>,
    /// Those of the tables that metadata does not have though they were not dropped.
    pub(crate) missing: BTreeSet<TableUid>,
}

/// A way in which metadata is behind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Behind {
    /// The store's revision fell.
    Revision { known: Revision, seen: Revision },
    /// The topology's generation fell, or there is none any more.
    Topology { known: u64, seen: Option<u64> },
    /// A table's epoch fell.
    Epoch { table: TableUid, known: u64, seen: u64 },
    /// A table is missing though it was not dropped.
    Missing { table: TableUid },
}

impl World {
    /// Whether anything is known at all.
    pub(crate) fn is_informed(&self) -> bool {
        self.revision > Revision(0) || self.topology.generation > 0 || !self.tables.is_empty()
    }

    /// Takes over what `view` says, as far as it is not behind what is known already; gives in which ways it is.
    pub(crate) fn accept(&mut self, view: &View) -> Vec<Behind> {
        let mut behind = Vec::new();
        if view.revision() == Revision(0) {
            return behind;
        }
        if view.revision() < self.revision {
            behind.push(Behind::Revision { known: self.revision, seen: view.revision() });
        }

        match view.topology() {
            Some(topology) if topology.value.generation >= self.topology.generation => {
                if self.topology != topology.value {
                    self.topology.clone_from(&topology.value);
                }
            }
            seen => {
                let seen = seen.map(|topology| topology.value.generation);
                // Before the cluster is initialised there is none, and nothing is known either.
                if self.topology.generation > 0 {
                    behind.push(Behind::Topology { known: self.topology.generation, seen });
                }
            }
        }

        let unreadable: Vec<&str> = view.unreadable().map(|value| value.key.as_str()).collect();
        let dropped: Vec<TableUid> = view.dropped().map(|(uid, _)| uid).collect();
        let mut tables = BTreeMap::new();
        self.missing.clear();
        for (uid, record) in std::mem::take(&mut self.tables) {
            if view.table_by_uid(uid).is_some() {
                tables.insert(uid, record);
            } else if unreadable.contains(&view.keys().table(&record.name).as_str()) {
                // What cannot be read was not dropped; the view has complained already.
                tables.insert(uid, record);
            } else if !dropped.contains(&uid) {
                behind.push(Behind::Missing { table: uid });
                self.missing.insert(uid);
                tables.insert(uid, record);
            }
        }
        for table in view.tables() {
            match tables.get(&table.uid()) {
                Some(known) if known.epoch > table.value.epoch => {
                    let (known, seen) = (known.epoch.0, table.value.epoch.0);
                    behind.push(Behind::Epoch { table: table.uid(), known, seen });
                }
                Some(known) if *known == table.value => {}
                _ => {
                    tables.insert(table.uid(), table.value.clone());
                }
            }
        }
        self.tables = tables;
        // A lower revision alone is harmless once everything it says is at least as new as what is known.
        if behind.iter().all(|way| matches!(way, Behind::Revision { .. })) {
            self.revision = view.revision();
        }
        behind
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use fkv_formats::id::{Epoch, TaskId};
    use fkv_formats::schema::{KeyType, Schema, Storage, TableKind, ValueType};
    use fkv_meta::key::Keys;
    use fkv_meta::record::{DroppedTable, RetainOld, TablePhase, encode};
    use fkv_meta::store::{Entry, Snapshot};

    use super::*;

    fn record(epoch: u64) -> TableRecord {
        let schema = Schema {
            kind: TableKind::Mem,
            key: KeyType::U64,
            value: ValueType::I64,
            storage: Storage::Native,
            f16_overflow: Default::default(),
            ttl: false,
        };
        TableRecord {
            name: "t".into(),
            schema,
            retain_versions: 1,
            retain_old: RetainOld::Ram,
            filter: Default::default(),
            created_ms: 0,
            head: Default::default(),
            epoch: Epoch(epoch),
            phase: TablePhase::Normal,
            target: None,
            aligned: None,
            previous: None,
            next_task: TaskId(1),
            queue: Vec::new(),
            running: None,
            blocked_by: None,
            last_full: TaskId(0),
            full_required: false,
            exclusions: BTreeMap::new(),
            canary: None,
            quarantine: Vec::new(),
        }
    }

    const UID: TableUid = TableUid(2);

    fn view(revision: u64, generation: u64, values: &[(String, Bytes)]) -> View {
        let keys = Keys::new("m").expect("a good name");
        let topology = Topology { generation, ..Topology::default() };
        let mut entries: Vec<Entry> = values
            .iter()
            .map(|(key, value)| Entry {
                key: key.clone(),
                value: value.clone(),
                created: Revision(UID.0),
                modified: Revision(revision),
                lease: None,
            })
            .collect();
        entries.push(Entry {
            key: keys.topology(),
            value: encode(&topology),
            created: Revision(1),
            modified: Revision(1),
            lease: None,
        });
        View::of(keys, Snapshot { revision: Revision(revision), entries })
    }

    fn dropped() -> (String, Bytes) {
        let dropped = DroppedTable { name: "t".into(), dropped_ms: 1 };
        (Keys::new("m").expect("a good name").dropped(UID), encode(&dropped))
    }

    fn table(epoch: u64) -> (String, Bytes) {
        (Keys::new("m").expect("a good name").table("t"), encode(&record(epoch)))
    }

    fn world() -> World {
        let mut world = World::default();
        assert_eq!(world.accept(&view(10, 1, &[table(5)])), []);
        world
    }

    #[test]
    fn a_dropped_table_goes() {
        let mut world = world();
        assert_eq!(world.accept(&view(11, 1, &[dropped()])), []);
        assert!(world.tables.is_empty());
    }

    /// A restored store may have passed the revision once known before a server looks: nothing falls then.
    #[test]
    fn a_table_that_is_gone_without_a_trace_is_kept_though_no_revision_fell() {
        let mut world = world();
        assert_eq!(world.accept(&view(11, 1, &[])), [Behind::Missing { table: UID }]);
        assert!(world.tables.contains_key(&UID) && world.missing.contains(&UID));
        assert_eq!(world.accept(&view(12, 1, &[table(5)])), []);
        assert!(world.missing.is_empty());
    }

    #[test]
    fn an_older_snapshot_of_metadata_takes_nothing_back() {
        let mut world = world();
        let before = world.clone();
        let behind = world.accept(&view(9, 1, &[table(4)]));
        assert_eq!(behind.len(), 2, "{behind:?}");
        assert_eq!((&world.tables, world.revision), (&before.tables, before.revision));
        // The restored store goes on and passes the revision once known: still behind.
        assert_eq!(world.accept(&view(50, 1, &[table(4)])), [Behind::Epoch { table: UID, known: 5, seen: 4 }]);
        assert_eq!(world.tables[&UID].epoch, Epoch(5));
        // Recovered: the epoch was raised.
        assert_eq!(world.accept(&view(51, 1, &[table(6)])), []);
        assert_eq!(world.tables[&UID].epoch, Epoch(6));
    }

    #[test]
    fn a_table_that_an_older_snapshot_does_not_know_is_kept_until_it_was_really_dropped() {
        let mut world = world();
        assert!(world.accept(&view(9, 0, &[])).contains(&Behind::Missing { table: UID }));
        assert!(world.accept(&view(60, 1, &[])).contains(&Behind::Missing { table: UID }));
        assert_eq!(world.accept(&view(61, 1, &[dropped()])), []);
        assert!(world.tables.is_empty() && world.missing.is_empty());
    }

    #[test]
    fn an_unreadable_table_is_not_a_dropped_one() {
        let mut world = world();
        let broken = (table(5).0, Bytes::from_static(b"{"));
        world.accept(&view(11, 1, &[broken]));
        assert!(world.tables.contains_key(&UID));
    }

    #[test]
    fn before_anything_was_read_nothing_changes() {
        let mut world = world();
        let before = world.clone();
        assert_eq!(world.accept(&View::empty(Keys::new("m").expect("a good name"))), []);
        assert_eq!(world, before);
    }
}
