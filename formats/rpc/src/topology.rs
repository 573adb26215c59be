//! The topology and the tables as a server told them, checked: what clients route by.

use std::collections::{BTreeMap, BTreeSet};

use fkv_formats::id::{Slot, TableUid};
use fkv_formats::route::legal_role_counts;
use fkv_formats::schema::{KeyType, TableKind, ValueType};

use crate::kv;

/// A module as one server knows it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TopologyView {
    /// Name of the module.
    pub module: String,
    /// Generation of the topology.
    pub generation: u64,
    /// The sects, by name.
    pub sects: BTreeMap<String, SectView>,
    /// The tables, by name.
    pub tables: BTreeMap<String, TableView>,
    /// Tables this build cannot read, by name, and why. They must not keep it from reading the others.
    pub unreadable: BTreeMap<String, String>,
}

/// A sect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SectView {
    /// Whether it takes part.
    pub state: SectState,
    /// `host:port` of each role, in order; a legal number of them.
    pub addresses: Vec<String>,
}

/// Whether a sect takes part.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum SectState {
    /// Loads, but gets no reads.
    Joining,
    /// Gets reads.
    Active,
    /// Taken out by an operator: gets no reads.
    Shielded,
    /// On its way out: gets no reads.
    Retired,
    /// A state that a newer server knows: gets no reads.
    Unknown,
}

/// A table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableView {
    /// Its identity.
    pub uid: TableUid,
    /// Where its records live.
    pub kind: TableKind,
    /// Type of its keys.
    pub key: KeyType,
    /// Type of its values.
    pub value: ValueType,
    /// Slots that get no reads of it.
    pub excluded: BTreeSet<Slot>,
}

/// Why a topology cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadTopology {
    /// A sect has a number of roles that the parts cannot be divided among.
    #[error("sect {sect} has {roles} roles; legal numbers are {legal:?}")]
    Roles {
        /// The sect.
        sect: String,
        /// How many roles it has.
        roles: usize,
        /// Which numbers would do.
        legal: Vec<u16>,
    },
    /// An address is none.
    #[error("sect {sect}, role {role}: `{address}` is not a host:port")]
    Address {
        /// The sect.
        sect: String,
        /// The role.
        role: usize,
        /// What stands in its place.
        address: String,
    },
    /// A name or uid stands for two things.
    #[error("{0} is there twice")]
    Twice(String),
}

impl TryFrom<kv::TopologyReply> for TopologyView {
    type Error = BadTopology;

    fn try_from(reply: kv::TopologyReply) -> Result<Self, BadTopology> {
        let mut view = Self { module: reply.module, generation: reply.generation, ..Self::default() };
        for sect in reply.sects {
            let state = sect_state(sect.state);
            check_sect(&sect)?;
            if view.sects.insert(sect.name.clone(), SectView { state, addresses: sect.addresses }).is_some() {
                return Err(BadTopology::Twice(format!("sect {}", sect.name)));
            }
        }
        let mut uids = BTreeSet::new();
        for table in reply.tables {
            if view.tables.contains_key(&table.name) || view.unreadable.contains_key(&table.name) {
                return Err(BadTopology::Twice(format!("table {}", table.name)));
            }
            if !uids.insert(table.uid) {
                return Err(BadTopology::Twice(format!("table uid {}", table.uid)));
            }
            match table_view(&table) {
                Ok(readable) => drop(view.tables.insert(table.name, readable)),
                Err(reason) => drop(view.unreadable.insert(table.name, reason)),
            }
        }
        Ok(view)
    }
}

impl From<&TopologyView> for kv::TopologyReply {
    /// The message that says the same; unreadable tables are not in it.
    fn from(view: &TopologyView) -> Self {
        let sects = view.sects.iter().map(|(name, sect)| kv::Sect {
            name: name.clone(),
            state: match sect.state {
                SectState::Joining => kv::SectState::Joining,
                SectState::Active => kv::SectState::Active,
                SectState::Shielded => kv::SectState::Shielded,
                SectState::Retired => kv::SectState::Retired,
                SectState::Unknown => kv::SectState::Unspecified,
            }
            .into(),
            addresses: sect.addresses.clone(),
        });
        let tables = view.tables.iter().map(|(name, table)| kv::Table {
            name: name.clone(),
            uid: table.uid.0,
            kind: table.kind.to_string(),
            key_type: table.key.to_string(),
            value_type: table.value.to_string(),
            excluded_slots: table.excluded.iter().map(Slot::to_string).collect(),
        });
        Self {
            module: view.module.clone(),
            generation: view.generation,
            sects: sects.collect(),
            tables: tables.collect(),
        }
    }
}

fn sect_state(state: i32) -> SectState {
    match kv::SectState::try_from(state) {
        Ok(kv::SectState::Joining) => SectState::Joining,
        Ok(kv::SectState::Active) => SectState::Active,
        Ok(kv::SectState::Shielded) => SectState::Shielded,
        Ok(kv::SectState::Retired) => SectState::Retired,
        Ok(kv::SectState::Unspecified) | Err(_) => SectState::Unknown,
    }
}

fn check_sect(sect: &kv::Sect) -> Result<(), BadTopology> {
    let roles = sect.addresses.len();
    let legal = legal_role_counts();
    if !legal.iter().any(|count| usize::from(*count) == roles) {
        return Err(BadTopology::Roles { sect: sect.name.clone(), roles, legal: legal.to_vec() });
    }
    for (role, address) in sect.addresses.iter().enumerate() {
        let port = address.rsplit_once(':').filter(|(host, _)| !host.is_empty()).map(|(_, port)| port.parse::<u16>());
        if !matches!(port, Some(Ok(1..))) {
            return Err(BadTopology::Address { sect: sect.name.clone(), role, address: address.clone() });
        }
    }
    Ok(())
}

fn table_view(table: &kv::Table) -> Result<TableView, String> {
    Ok(TableView {
        uid: TableUid(table.uid),
        kind: table.kind.parse()?,
        key: table.key_type.parse()?,
        value: table.value_type.parse()?,
        excluded: table.excluded_slots.iter().map(|slot| slot.parse()).collect::<Result<_, String>>()?,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use prost::Message as _;

    use super::*;

    fn reply() -> kv::TopologyReply {
        let sect = |name: &str, roles: usize| kv::Sect {
            name: name.to_owned(),
            state: kv::SectState::Active.into(),
            addresses: (0..roles).map(|role| format!("host-{name}:{}", 7310 + role)).collect(),
        };
        let table = |name: &str, uid: u64| kv::Table {
            name: name.to_owned(),
            uid,
            kind: "mem".to_owned(),
            key_type: "u64".to_owned(),
            value_type: "f32[4]".to_owned(),
            excluded_slots: vec!["a/1".to_owned()],
        };
        kv::TopologyReply {
            module: "m".to_owned(),
            generation: 5,
            sects: vec![sect("a", 3), sect("b", 2)],
            tables: vec![table("x", 10), table("y", 11)],
        }
    }

    #[test]
    fn a_topology_survives_the_wire() {
        let view = TopologyView::try_from(reply()).expect("a good topology");
        assert_eq!(view.tables["x"].value, ValueType::F32(4));
        assert_eq!(TopologyView::try_from(kv::TopologyReply::from(&view)), Ok(view));
    }

    #[test]
    fn an_illegal_number_of_roles_is_refused() {
        let mut bad = reply();
        bad.sects[1].addresses = (0..7).map(|role| format!("h:{}", role + 1)).collect();
        let error = TopologyView::try_from(bad).expect_err("7 does not divide 2400");
        assert!(error.to_string().starts_with("sect b has 7 roles; legal numbers are [1, 2, 3, 4, 5, 6, 8"), "{error}");
        let mut empty = reply();
        empty.sects[0].addresses.clear();
        assert!(matches!(TopologyView::try_from(empty), Err(BadTopology::Roles { roles: 0, .. })));
    }

    #[test]
    fn an_address_without_a_port_is_refused() {
        for address in ["host", ":7310", "host:", "host:0", "host:70000", ""] {
            let mut bad = reply();
            bad.sects[0].addresses[2] = address.to_owned();
            assert!(matches!(TopologyView::try_from(bad), Err(BadTopology::Address { role: 2, .. })), "{address}");
        }
    }

    #[test]
    fn names_and_uids_are_unique() {
        let mut bad = reply();
        bad.tables[1].uid = 10;
        assert_eq!(TopologyView::try_from(bad), Err(BadTopology::Twice("table uid 10".to_owned())));
        let mut bad = reply();
        bad.sects[1].name = "a".to_owned();
        assert_eq!(TopologyView::try_from(bad), Err(BadTopology::Twice("sect a".to_owned())));
    }

    #[test]
    fn one_table_of_the_future_does_not_hide_the_others() {
        let mut newer = reply();
        newer.tables[0].kind = "tape".to_owned();
        newer.sects[0].state = 77;
        let view = TopologyView::try_from(newer).expect("the rest is good");
        assert!(view.unreadable["x"].contains("tape"));
        assert!(view.tables.contains_key("y"));
        assert_eq!(view.sects["a"].state, SectState::Unknown);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        /// A message whose bytes were changed anywhere gives an error, or a topology that is written as it was read.
        #[test]
        fn a_message_from_anyone_gives_an_error_or_a_topology(
            changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
            cut in prop::option::of(any::<prop::sample::Index>()),
            more in prop::collection::vec(any::<u8>(), 0..20),
        ) {
            let mut bytes = reply().encode_to_vec();
            if let Some(cut) = cut {
                bytes.truncate(cut.index(bytes.len()));
            }
            bytes.extend(more);
            for (place, byte) in changes {
                let at = place.index(bytes.len().max(1));
                bytes.get_mut(at).into_iter().for_each(|old| *old = byte);
            }
            let view = kv::TopologyReply::decode(&bytes[..]).ok().map(TopologyView::try_from);
            if let Some(Ok(view)) = view {
                let again = TopologyView::try_from(kv::TopologyReply::from(&view));
                prop_assert_eq!(again, Ok(TopologyView { unreadable: BTreeMap::new(), ..view }));
            }
        }
    }
}
