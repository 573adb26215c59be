//! The topology: sects come, take part and go; slots move between servers.

use std::collections::BTreeMap;

use fkv_formats::id::Slot;
use fkv_formats::route::RoleTable;

use super::align::check_holds;
use super::{put, put_alignments};
use crate::key::check_name;
use crate::record::{Assignment, Sect, SectState, Topology};
use crate::refusal::Refusal;
use crate::stamped::{Planned, Stamped};
use crate::state::budget;
use crate::store::Compare;
use crate::view::View;

/// The most sects of a module: the topology stays one small record.
const SECTS_MAX: usize = 32;

/// Makes the first topology: all its sects are active. The servers of each sect stand in the order of roles.
///
/// # Errors
/// `TopologyExists`, `Name`, `Invalid`.
pub fn init_cluster(view: &View, sects: BTreeMap<String, Vec<Assignment>>) -> Result<Planned<Topology>, Refusal> {
    let key = view.keys().topology();
    if view.topology().is_some() || view.unreadable().any(|unreadable| unreadable.key == key) {
        return Err(Refusal::TopologyExists);
    }
    if !(1..=SECTS_MAX).contains(&sects.len()) {
        return Err(Refusal::Invalid(format!("a cluster has 1 to {SECTS_MAX} sects")));
    }
    let mut topology = Topology { generation: 1, sects: BTreeMap::new() };
    for (name, slots) in sects {
        check_sect(&name, &slots)?;
        topology.sects.insert(name, Sect { state: SectState::Active, slots });
    }
    let ops = vec![put(key.clone(), &topology), put_alignments(view.keys())];
    Ok(Planned::new(vec![Compare::Absent(key)], ops, topology))
}

/// Adds a joining sect: its servers load what the tables show, but are neither required nor routed to.
///
/// # Errors
/// `NoTopology`, `SectExists`, `Name`, `Invalid`.
pub fn add_sect(view: &View, name: &str, servers: Vec<Assignment>) -> Result<Planned<Topology>, Refusal> {
    let topology = view.topology().ok_or(Refusal::NoTopology)?;
    if topology.value.sects.contains_key(name) {
        return Err(Refusal::SectExists(name.to_owned()));
    }
    check_sect(name, &servers)?;
    if topology.value.sects.len() >= SECTS_MAX {
        return Err(Refusal::Invalid(format!("a module has at most {SECTS_MAX} sects")));
    }
    let mut after = next_generation(topology);
    after.sects.insert(name.to_owned(), Sect { state: SectState::Joining, slots: servers });
    Ok(Planned::new(vec![topology.unchanged()], vec![topology.put(&after)], after))
}

/// Activates, shields or retires sects, all in one step. Sects that become active must hold what every table shows
/// and is to show; what stays active must be within every table's exclusion budget.
///
/// # Errors
/// `NoTopology`, `NoSect`, `SectIs`, `SlotLacks`, `OverBudget`, `NoRequiredSlots`.
pub fn change_sects(view: &View, changes: &BTreeMap<String, SectState>) -> Result<Planned<Topology>, Refusal> {
    let topology = view.topology().ok_or(Refusal::NoTopology)?;
    let mut after = next_generation(topology);
    for (name, to) in changes {
        let sect = after.sects.get_mut(name).ok_or_else(|| Refusal::NoSect(name.clone()))?;
        check_step(name, sect.state, *to)?;
        sect.state = *to;
    }
    if after.active_slots().next().is_none() {
        let sect = changes.keys().next().cloned().unwrap_or_default();
        return Err(Refusal::SectIs { sect, why: "would leave no active sect: activate another one first" });
    }
    let tables = view.keys().tables();
    if let Some(unreadable) = view.unreadable().find(|unreadable| unreadable.key.starts_with(&tables)) {
        return Err(Refusal::Invalid(format!("`{}` cannot be read, so it cannot be checked", unreadable.key)));
    }
    for table in view.tables() {
        budget::check(&after, &table.value)?;
        for (sect, _) in changes.iter().filter(|(_, to)| **to == SectState::Active) {
            let required = after.slots_of(sect).filter(|slot| !table.value.exclusions.contains_key(slot));
            for slot in required {
                check_holds(view, table, &slot)?;
            }
        }
    }
    let alignments = view.keys().alignments();
    let compares = vec![
        topology.unchanged(),
        match view.alignments() {
            Some(revision) => Compare::ModifiedAt(alignments, revision),
            None => Compare::Absent(alignments),
        },
    ];
    Ok(Planned::new(compares, vec![topology.put(&after)], after))
}

/// Forgets a retired sect.
///
/// # Errors
/// `NoTopology`, `NoSect`, `SectIs`.
pub fn remove_sect(view: &View, name: &str) -> Result<Planned<Topology>, Refusal> {
    let topology = view.topology().ok_or(Refusal::NoTopology)?;
    let sect = topology.value.sects.get(name).ok_or_else(|| Refusal::NoSect(name.to_owned()))?;
    if sect.state != SectState::Retired {
        return Err(Refusal::SectIs { sect: name.to_owned(), why: "is not retired: retire it first" });
    }
    let mut after = next_generation(topology);
    after.sects.remove(name);
    Ok(Planned::new(vec![topology.unchanged()], vec![topology.put(&after)], after))
}

/// Gives slots to another server, or the same server another address (it was restarted elsewhere). All in one step.
///
/// # Errors
/// `NoTopology`, `NoSlot`, `Invalid`, `Name`.
pub fn reassign(view: &View, slots: &BTreeMap<Slot, Assignment>) -> Result<Planned<Topology>, Refusal> {
    let topology = view.topology().ok_or(Refusal::NoTopology)?;
    let mut after = next_generation(topology);
    for (slot, assignment) in slots {
        check_assignment(assignment)?;
        let sect = after.sects.get_mut(&slot.sect);
        let place = sect.and_then(|sect| sect.slots.get_mut(usize::from(slot.role.0)));
        *place.ok_or_else(|| Refusal::NoSlot(slot.clone()))? = assignment.clone();
    }
    Ok(Planned::new(vec![topology.unchanged()], vec![topology.put(&after)], after))
}

fn next_generation(topology: &Stamped<Topology>) -> Topology {
    Topology { generation: topology.value.generation + 1, ..topology.value.clone() }
}

fn check_sect(name: &str, slots: &[Assignment]) -> Result<(), Refusal> {
    check_name("sect", name)?;
    let roles = u16::try_from(slots.len()).unwrap_or(u16::MAX);
    RoleTable::new(roles).map_err(|error| Refusal::Invalid(format!("sect `{name}`: {error}")))?;
    slots.iter().try_for_each(check_assignment)
}

fn check_assignment(assignment: &Assignment) -> Result<(), Refusal> {
    check_name("server", &assignment.server)?;
    let port = assignment.addr.rsplit_once(':').filter(|(host, _)| !host.is_empty()).map(|(_, port)| port);
    if assignment.addr.len() > 300 || port.and_then(|port| port.parse::<u16>().ok()).is_none_or(|port| port == 0) {
        let addr: String = assignment.addr.chars().take(300).collect();
        return Err(Refusal::Invalid(format!("`{addr}` is not the host:port of server `{}`", assignment.server)));
    }
    Ok(())
}

/// Checks that a sect may go from one state to another.
fn check_step(sect: &str, from: SectState, to: SectState) -> Result<(), Refusal> {
    use SectState::{Active, Joining, Retired, Shielded};
    let why = match (from, to) {
        (Joining | Shielded, Active) | (Active, Shielded) | (Joining | Active | Shielded, Retired) => return Ok(()),
        (Retired, _) => "is retired: add a sect under a new name instead",
        (_, Joining) => "cannot join again: add a sect under a new name instead",
        (Active, Active) => "is active already",
        (Shielded, Shielded) => "is shielded already",
        (Joining, Shielded) => "is only joining: it serves nothing yet",
    };
    Err(Refusal::SectIs { sect: sect.to_owned(), why })
}
