//! Which server of a local cluster holds which slot, on which port.
//!
//! ```text
//!   sects a, b, …; roles 0..N      slot a/0 ─ server a-0 ─ 127.0.0.1:(control port + 10)
//!                                  slot a/1 ─ server a-1 ─ the next port, and so on through all sects
//! ```
//!
//! The first start writes the layout into the topology; every later start takes it from there, ports included.

use std::net::{Ipv4Addr, SocketAddr};

use fkv_formats::route::RoleTable;
use fkv_meta::record::Topology;

use crate::failure::{Failure, Outcome};
use crate::output::counted;

/// Server ports begin this far above the control API's.
const PORT_GAP: u16 = 10;

/// One server of a local cluster. It holds one slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LocalServer {
    /// Name of its sect.
    pub(crate) sect: String,
    /// Its role within the sect.
    pub(crate) role: u16,
    /// Where it listens; port 0 lets the system choose.
    pub(crate) listen: SocketAddr,
}

impl LocalServer {
    /// Its id in the topology.
    pub(crate) fn id(&self) -> String {
        format!("{}-{}", self.sect, self.role)
    }

    /// Its slot as text.
    pub(crate) fn slot(&self) -> String {
        format!("{}/{}", self.sect, self.role)
    }
}

/// The servers of a new cluster.
pub(crate) fn plan(sects: u8, roles: u16, control_port: u16) -> Outcome<Vec<LocalServer>> {
    RoleTable::new(roles)
        .map_err(|error| Failure::usage(error.to_string()).hint("choose a legal number with --roles"))?;
    let slots = (b'a'..)
        .take(usize::from(sects))
        .flat_map(|sect| (0..roles).map(move |role| (char::from(sect).to_string(), role)));
    slots
        .enumerate()
        .map(|(index, (sect, role))| {
            let port = match control_port {
                0 => 0,
                control => u16::try_from(usize::from(control) + usize::from(PORT_GAP) + index).map_err(|_| {
                    Failure::usage(format!(
                        "--port {control} leaves no room for {} server ports above it",
                        u32::from(sects) * u32::from(roles)
                    ))
                    .hint("choose a lower --port")
                })?,
            };
            Ok(LocalServer { sect, role, listen: SocketAddr::from((Ipv4Addr::LOCALHOST, port)) })
        })
        .collect()
}

/// The servers of a cluster that was started before. Refused if it was started with other numbers, or not by
/// `fkv up` at all.
pub(crate) fn restore(topology: &Topology, sects: u8, roles: u16) -> Outcome<Vec<LocalServer>> {
    let stored_roles: Vec<usize> = topology.sects.values().map(|sect| sect.slots.len()).collect();
    if topology.sects.len() != usize::from(sects) || stored_roles.iter().any(|&stored| stored != usize::from(roles)) {
        let stored = match stored_roles.iter().min() {
            Some(first) if stored_roles.iter().all(|other| other == first) => {
                numbers(topology.sects.len() as u64, *first as u64)
            }
            _ => format!("sects with {stored_roles:?} roles"),
        };
        return Err(Failure::coded(
            "failed_precondition",
            format!(
                "this cluster was made with {stored}, not {}, and keeps them",
                numbers(u64::from(sects), u64::from(roles))
            ),
        )
        .hint("give the same --sects and --roles as then, or make a new cluster in another --dir"));
    }
    let mut servers = Vec::new();
    for (sect, record) in &topology.sects {
        for (role, assignment) in (0u16..).zip(&record.slots) {
            let listen = assignment.addr.parse::<SocketAddr>().ok().filter(|address| address.ip().is_loopback());
            let server = listen.map(|listen| LocalServer { sect: sect.clone(), role, listen });
            match server.filter(|server| server.id() == assignment.server) {
                Some(server) => servers.push(server),
                None => {
                    return Err(Failure::coded(
                        "failed_precondition",
                        format!(
                            "this module was not made by `fkv up`: slot {sect}/{role} belongs to server {} at {}",
                            assignment.server, assignment.addr
                        ),
                    )
                    .hint("give another --module"));
                }
            }
        }
    }
    Ok(servers)
}

fn numbers(sects: u64, roles: u64) -> String {
    format!("{} x {}", counted(sects, "sect"), counted(roles, "role"))
}

#[cfg(test)]
mod tests {
    use fkv_meta::record::{Assignment, Sect, SectState};

    use super::*;

    fn topology(servers: &[LocalServer]) -> Topology {
        let mut topology = Topology { generation: 1, ..Topology::default() };
        for server in servers {
            let sect = topology
                .sects
                .entry(server.sect.clone())
                .or_insert_with(|| Sect { state: SectState::Active, slots: Vec::new() });
            sect.slots.push(Assignment { server: server.id(), addr: server.listen.to_string() });
        }
        topology
    }

    #[test]
    fn a_layout_comes_back_from_the_topology_it_was_written_to() {
        let planned = plan(2, 3, 7300).expect("legal");
        let ports: Vec<u16> = planned.iter().map(|server| server.listen.port()).collect();
        assert_eq!(ports, [7310, 7311, 7312, 7313, 7314, 7315]);
        assert_eq!(planned[4].slot(), "b/1");
        assert_eq!(restore(&topology(&planned), 2, 3), Ok(planned));
        assert!(plan(2, 12, 7300).is_ok_and(|servers| servers.len() == 24), "two-digit roles keep their order");
        assert!(plan(1, 1, 0).is_ok_and(|servers| servers[0].listen.port() == 0));
    }

    #[test]
    fn an_illegal_number_of_roles_lists_the_legal_ones() {
        let failure = plan(2, 7, 7300).expect_err("7 does not divide 2400");
        assert!(failure.to_string().contains("1, 2, 3, 4, 5, 6, 8, 10"), "{failure}");
        assert_eq!(failure.exit(), crate::failure::EXIT_USAGE);
        assert!(plan(2, 96, 65_500).is_err(), "no room for the ports");
    }

    #[test]
    fn other_numbers_than_the_stored_ones_are_refused_by_naming_those() {
        let stored = topology(&plan(2, 3, 7300).expect("legal"));
        for (sects, roles) in [(1, 3), (3, 3), (2, 4)] {
            let failure = restore(&stored, sects, roles).expect_err("another layout");
            assert!(failure.to_string().contains("2 sects x 3 roles"), "{failure}");
        }
    }

    #[test]
    fn a_module_of_real_servers_is_left_alone() {
        let mut stored = topology(&plan(1, 2, 7300).expect("legal"));
        stored.sects.get_mut("a").expect("made").slots[1].addr = "10.0.0.7:7310".to_owned();
        assert!(restore(&stored, 1, 2).expect_err("not ours").to_string().contains("10.0.0.7"));
    }
}
