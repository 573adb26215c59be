//! Which server is asked for which keys, and what is put into one request. No I/O.
//!
//! ```text
//!   Share (keys of one table, one content) ── route ──▶ shares by server, some perhaps in another sect
//!                                          ── bundle ─▶ Rpc: shares of several tables for one server
//! ```

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use fkv_formats::id::{Part, TableUid};
use fkv_rpc::packed::{REPLY_BYTES_MAX, REQUEST_BYTES_MAX, SECTIONS_MAX, Selector};

use crate::TableRead;
use crate::servers::Server;
use crate::split::{ByRole, Keys, Positions};
use crate::topology::{ActiveSect, Snapshot};

/// What all sections of a request may take.
const SECTION_BYTES_MAX: usize = REQUEST_BYTES_MAX - 64;
/// What the values of a request may take where their width is known: half a reply, so that labels and statuses fit.
const VALUE_BYTES_PER_REPLY: usize = REPLY_BYTES_MAX / 2;

/// One table of a call.
#[derive(Debug)]
pub(crate) struct TableInput<'a> {
    pub(crate) name: &'a str,
    pub(crate) keys: Keys<'a>,
    /// The part of each key.
    pub(crate) parts: Vec<Part>,
}

impl<'a> TableInput<'a> {
    /// Hashes the keys.
    pub(crate) fn new(read: &TableRead<'a>) -> Self {
        Self { name: read.table, keys: read.keys, parts: read.keys.parts() }
    }
}

/// Some keys of a table that are to be asked of one server, for one content.
#[derive(Clone, Debug)]
pub(crate) struct Share {
    /// The job it belongs to.
    pub(crate) job: usize,
    /// The table, by its place in the call.
    pub(crate) table: usize,
    pub(crate) uid: TableUid,
    pub(crate) selector: Selector,
    pub(crate) positions: Positions,
    /// Addresses of servers that failed or refused it.
    pub(crate) tried: Vec<Arc<str>>,
    /// Whether the topology was fetched on its account.
    pub(crate) refreshed: bool,
}

/// One request: sections for one server.
#[derive(Clone, Debug)]
pub(crate) struct Rpc {
    pub(crate) server: Arc<Server>,
    pub(crate) shares: Vec<Share>,
}

/// Finds servers for keys, by one snapshot.
#[derive(Clone, Debug)]
pub(crate) struct Router<'a> {
    pub(crate) snapshot: Arc<Snapshot>,
    pub(crate) inputs: &'a [TableInput<'a>],
    /// The sect to prefer.
    pub(crate) sect: Option<&'a str>,
    /// Spreads calls over sects.
    pub(crate) seed: u64,
    /// Most keys in one request.
    pub(crate) keys_max: usize,
}

impl Router<'_> {
    /// The servers for a share's keys: those of the first sect, and for keys whose server there has failed, is excluded
    /// or is ejected, those of the next. Ejected servers are asked if there is nobody else. `None` if some key has no
    /// server left. A server whose ejection has passed is probed with them.
    pub(crate) fn route(&self, share: &Share, now: Duration) -> Option<Vec<(Arc<Server>, Share)>> {
        self.route_where(share, |server| server.admit(now))
    }

    fn route_where(&self, share: &Share, admits: impl Fn(&Server) -> bool) -> Option<Vec<(Arc<Server>, Share)>> {
        let input = &self.inputs[share.table];
        let table = self.snapshot.view.tables.get(input.name)?;
        let usable = |sect: &ActiveSect, role, ejected_too: bool| {
            sect.server(table, role)
                .filter(|server| !share.tried.contains(server.address()))
                .filter(|server| ejected_too || admits(server))
                .map(Arc::clone)
        };
        let mut placed = Vec::new();
        let mut rest = share.positions.clone();
        for ejected_too in [false, true] {
            for sect in self.sects() {
                if share.positions.is_empty() {
                    // No keys: any server can tell the label.
                    let roles = (0..sect.roles.roles()).map(fkv_formats::id::Role);
                    if let Some(server) = roles.filter_map(|role| usable(sect, role, ejected_too)).next() {
                        return Some(vec![(server, share.clone())]);
                    }
                    continue;
                }
                let mut unplaced: Vec<u32> = Vec::new();
                for (role, positions) in ByRole::group(&rest, &input.parts, &sect.roles).groups() {
                    match usable(sect, role, ejected_too) {
                        Some(server) => placed.push((server, Share { positions, ..share.clone() })),
                        None => unplaced.extend(positions.iter()),
                    }
                }
                if unplaced.is_empty() {
                    return Some(placed);
                }
                rest = unplaced.into();
            }
        }
        None
    }

    /// Requests for shares and their servers: divided where they are too large, and put together where they are small.
    pub(crate) fn bundle(&self, placed: Vec<(Arc<Server>, Share)>) -> Vec<Rpc> {
        let mut by_address: BTreeMap<Arc<str>, Vec<(Rpc, Size)>> = BTreeMap::new();
        for (server, share) in placed {
            let input = &self.inputs[share.table];
            let keys_max = self.keys_max_of(input.name);
            let pieces = match &*share.positions {
                [] => vec![share.positions.clone()],
                _ => share.positions.pieces(&input.keys, keys_max, SECTION_BYTES_MAX),
            };
            let rpcs = by_address.entry(Arc::clone(server.address())).or_default();
            for positions in pieces {
                // Shares of a tenth of what the table allows count a tenth of a request, whatever the others count.
                let fill = (positions.len() * FULL).div_ceil(keys_max);
                let size = Size { fill, bytes: input.keys.section_bytes(&positions), sections: 1 };
                let piece = Share { positions, ..share.clone() };
                match rpcs.last_mut() {
                    Some((rpc, filled)) if filled.admits(size) => {
                        *filled = filled.plus(size);
                        rpc.shares.push(piece);
                    }
                    _ => rpcs.push((Rpc { server: Arc::clone(&server), shares: vec![piece] }, size)),
                }
            }
        }
        by_address.into_values().flatten().map(|(rpc, _)| rpc).collect()
    }

    /// What else could be asked in the place of `rpc`; `None` if some of its keys have nobody else. It may not come to
    /// that, so no server's probe is used up; see [`Server::admit`].
    pub(crate) fn instead_of(&self, rpc: &Rpc, now: Duration) -> Option<Vec<Rpc>> {
        let mut placed = Vec::new();
        for share in &rpc.shares {
            let mut share = share.clone();
            share.tried.push(Arc::clone(rpc.server.address()));
            placed.extend(self.route_where(&share, |server| !server.is_ejected(now))?);
        }
        Some(self.bundle(placed))
    }

    /// Most keys of the table in one request.
    fn keys_max_of(&self, name: &str) -> usize {
        let width = self.snapshot.view.tables.get(name).and_then(|table| table.value.fixed_width());
        width.map_or(self.keys_max, |width| self.keys_max.min(VALUE_BYTES_PER_REPLY / width.max(1)).max(1))
    }

    /// The sects, in the order in which they are asked.
    fn sects(&self) -> impl Iterator<Item = &ActiveSect> {
        let sects = &self.snapshot.sects;
        let count = sects.len();
        let start = usize::try_from(self.seed % (count.max(1) as u64)).unwrap_or(0);
        let preferred = move |sect: &&ActiveSect| self.sect == Some(sect.name.as_str());
        let rotated = (0..count).map(move |offset| &sects[(start + offset) % count]);
        sects.iter().filter(preferred).chain(rotated.filter(move |sect| !preferred(sect)))
    }
}

/// A request that is full.
const FULL: usize = 10_000;

/// How much of a request is used.
#[derive(Clone, Copy, Debug)]
struct Size {
    /// In ten-thousandths of the keys it may have.
    fill: usize,
    bytes: usize,
    sections: usize,
}

impl Size {
    fn plus(self, more: Self) -> Self {
        Self { fill: self.fill + more.fill, bytes: self.bytes + more.bytes, sections: self.sections + more.sections }
    }

    fn admits(self, more: Self) -> bool {
        let all = self.plus(more);
        all.fill <= FULL && all.bytes <= SECTION_BYTES_MAX && all.sections <= SECTIONS_MAX
    }
}
