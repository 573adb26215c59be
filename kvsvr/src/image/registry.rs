//! Everything requests may look at, behind one pointer: the topology as the server knows it and its tables.

use std::collections::BTreeMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use fkv_formats::id::{Slot, TableUid};
use fkv_meta::record::{TableRecord, Topology};

use super::pair::ServedTable;
use super::parts::PartSet;

/// One consistent picture of the server.
#[derive(Clone, Debug)]
pub(crate) struct Picture {
    pub(crate) topology: Arc<Topology>,
    /// The slots that the topology assigns to this server.
    pub(crate) slots: Vec<Slot>,
    /// The parts of these slots.
    pub(crate) owned: Arc<PartSet>,
    pub(crate) tables: BTreeMap<TableUid, Entry>,
    /// Whether metadata answers at present.
    pub(crate) connected: bool,
    /// Whether anything is known of the cluster, from metadata or from STATE.
    pub(crate) informed: bool,
}

/// A table in the picture.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) record: Arc<TableRecord>,
    pub(crate) served: Arc<ServedTable>,
    /// Whether metadata does not have it, though it was not dropped.
    pub(crate) missing: bool,
    /// Why its target, or what is shown, cannot be loaded; empty if nothing is wrong.
    pub(crate) problem: String,
}

/// Where requests find the newest picture.
#[derive(Debug)]
pub(crate) struct Registry {
    picture: ArcSwap<Picture>,
}

impl Registry {
    pub(crate) fn new() -> Self {
        let nothing = Picture {
            topology: Arc::default(),
            slots: Vec::new(),
            owned: Arc::new(PartSet::EMPTY),
            tables: BTreeMap::new(),
            connected: false,
            informed: false,
        };
        Self { picture: ArcSwap::from_pointee(nothing) }
    }

    pub(crate) fn picture(&self) -> arc_swap::Guard<Arc<Picture>> {
        self.picture.load()
    }

    pub(crate) fn publish(&self, picture: Picture) {
        self.picture.store(Arc::new(picture));
    }
}
