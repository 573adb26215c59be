//! How many slots may be excluded for a table: every part keeps at least max(1, ⌈K/2⌉) non-excluded slots, of K
//! active sects.

use std::collections::BTreeMap;

use fkv_formats::id::{PART_COUNT, Part, Slot};
use fkv_formats::route::RoleTable;

use crate::record::{SectState, TableRecord, Topology};
use crate::refusal::Refusal;

/// Checks a table's exclusions against a topology.
pub(crate) fn check(topology: &Topology, table: &TableRecord) -> Result<(), Refusal> {
    let active: Vec<(&String, usize)> = topology
        .sects
        .iter()
        .filter(|(_, sect)| sect.state == SectState::Active)
        .map(|(name, sect)| (name, sect.slots.len()))
        .collect();
    let sects = active.len();
    let needed = sects.div_ceil(2).max(1);
    let mut left = vec![sects; usize::from(PART_COUNT)];
    let mut routes: BTreeMap<u16, RoleTable> = BTreeMap::new();
    for Slot { sect, role } in table.exclusions.keys() {
        let Some(roles) = active.iter().find(|(name, _)| *name == sect).map(|(_, roles)| *roles) else { continue };
        if usize::from(role.0) >= roles {
            continue;
        }
        let roles = u16::try_from(roles).map_err(|_| Refusal::Invalid(format!("sect `{sect}` has too many roles")))?;
        let route = match routes.entry(roles) {
            std::collections::btree_map::Entry::Occupied(known) => known.into_mut(),
            std::collections::btree_map::Entry::Vacant(new) => {
                new.insert(RoleTable::new(roles).map_err(|error| Refusal::Invalid(error.to_string()))?)
            }
        };
        for part in route.parts_of(*role) {
            left[usize::from(part.0)] = left[usize::from(part.0)].saturating_sub(1);
        }
    }
    for (part, left) in (0..PART_COUNT).map(Part).zip(left) {
        if left < needed {
            return Err(Refusal::OverBudget { table: table.name.clone(), part: part.0, left, sects, needed });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use fkv_formats::id::Role;

    use super::*;
    use crate::record::{Assignment, Exclusion, Sect};
    use crate::state::table::tests::table;

    fn topology(roles: &[(&str, usize, SectState)]) -> Topology {
        let sect = |(name, roles, state): &(&str, usize, SectState)| {
            let slots = (0..*roles)
                .map(|role| Assignment { server: format!("{name}{role}"), addr: format!("127.0.0.1:{}", 7000 + role) });
            ((*name).to_owned(), Sect { state: *state, slots: slots.collect() })
        };
        Topology { generation: 1, sects: roles.iter().map(sect).collect() }
    }

    fn excluding(slots: &[(&str, u16)]) -> TableRecord {
        let exclusion = Exclusion { cause: "dead".into(), since_ms: 1 };
        let slot = |(sect, role): &(&str, u16)| Slot { sect: (*sect).into(), role: Role(*role) };
        TableRecord { exclusions: slots.iter().map(|s| (slot(s), exclusion.clone())).collect(), ..table() }
    }

    #[test]
    fn every_part_keeps_half_of_the_active_sects_and_never_less_than_one() {
        use SectState::{Active, Joining, Shielded};
        let one = topology(&[("a", 3, Active)]);
        assert!(check(&one, &excluding(&[])).is_ok());
        assert!(check(&one, &excluding(&[("a", 0)])).is_err());
        let two = topology(&[("a", 3, Active), ("b", 3, Active), ("j", 3, Joining)]);
        assert!(check(&two, &excluding(&[("a", 0), ("b", 1), ("a", 2)])).is_ok());
        assert!(check(&two, &excluding(&[("a", 0), ("b", 0)])).is_err());
        assert!(check(&two, &excluding(&[("a", 0), ("j", 0)])).is_ok(), "joining sects do not count");
        let three = topology(&[("a", 3, Active), ("b", 3, Active), ("c", 3, Active)]);
        assert!(check(&three, &excluding(&[("a", 0), ("b", 1), ("c", 2)])).is_ok());
        assert!(check(&three, &excluding(&[("a", 0), ("b", 0)])).is_err(), "2 of 3 must be left");
        let shielded = topology(&[("a", 3, Active), ("b", 3, Shielded)]);
        assert!(check(&shielded, &excluding(&[("a", 0)])).is_err());
    }

    #[test]
    fn sects_with_other_role_numbers_are_compared_part_by_part() {
        let mixed = topology(&[("a", 2, SectState::Active), ("b", 4, SectState::Active)]);
        let (two, four) = (RoleTable::new(2).expect("legal"), RoleTable::new(4).expect("legal"));
        for (a, b) in [(0, 0), (0, 1), (0, 2), (0, 3), (1, 0), (1, 1), (1, 2), (1, 3)] {
            let share = two.parts_of(Role(a)).iter().any(|part| four.role_of(*part) == Role(b));
            assert_eq!(check(&mixed, &excluding(&[("a", a), ("b", b)])).is_err(), share, "{a} {b}");
        }
    }
}
