//! The servers of a module.

use std::io::{self, Write};

use fkv_rpc::control;
use serde::Serialize;

use crate::output::{Columns, moment};

#[derive(Clone, Debug, Serialize)]
struct SlotTableView {
    table: String,
    versions: Vec<u64>,
    problem: Option<String>,
}

#[derive(Clone, Debug, Serialize)]
struct SlotView {
    slot: String,
    server: String,
    address: String,
    claimed: bool,
    tables: Vec<SlotTableView>,
}

#[derive(Clone, Debug, Serialize)]
struct SectView {
    name: String,
    state: String,
    slots: Vec<SlotView>,
}

#[derive(Clone, Debug, Serialize)]
struct WorkerView {
    worker: String,
    address: String,
    started_unix_ms: u64,
}

/// Sects, slots and workers.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct ClusterView {
    module: String,
    generation: u64,
    sects: Vec<SectView>,
    workers: Vec<WorkerView>,
}

impl From<control::Cluster> for ClusterView {
    fn from(cluster: control::Cluster) -> Self {
        let table = |table: control::SlotTable| SlotTableView {
            table: table.table,
            versions: table.versions,
            problem: Some(table.problem).filter(|problem| !problem.is_empty()),
        };
        let slot = |slot: control::SlotInfo| SlotView {
            slot: slot.slot,
            server: slot.server,
            address: slot.address,
            claimed: slot.claimed,
            tables: slot.tables.into_iter().map(table).collect(),
        };
        Self {
            module: cluster.module,
            generation: cluster.generation,
            sects: cluster
                .sects
                .into_iter()
                .map(|sect| SectView {
                    name: sect.name,
                    state: sect.state,
                    slots: sect.slots.into_iter().map(slot).collect(),
                })
                .collect(),
            workers: cluster
                .workers
                .into_iter()
                .map(|w| WorkerView { worker: w.worker, address: w.address, started_unix_ms: w.started_unix_ms })
                .collect(),
        }
    }
}

impl ClusterView {
    /// Writes a line per slot, a line per worker, and what is wrong.
    pub(crate) fn write(&self, out: &mut dyn Write) -> io::Result<()> {
        if self.sects.is_empty() {
            writeln!(out, "module {} has no sects yet; declare them with `fkv cluster init`", self.module)?;
        } else {
            writeln!(out, "module {}, topology generation {}", self.module, self.generation)?;
            let mut columns = Columns::new(&["slot", "sect is", "server", "address", "up", "holds"]);
            for (sect, slot) in self.sects.iter().flat_map(|sect| sect.slots.iter().map(move |slot| (sect, slot))) {
                columns.row([
                    slot.slot.clone(),
                    sect.state.clone(),
                    slot.server.clone(),
                    slot.address.clone(),
                    if slot.claimed { "yes" } else { "no" }.to_owned(),
                    slot.tables.iter().filter_map(SlotTableView::text).collect::<Vec<_>>().join("; "),
                ]);
            }
            columns.write(out)?;
        }
        for slot in self.sects.iter().flat_map(|sect| &sect.slots) {
            for table in &slot.tables {
                if let Some(problem) = &table.problem {
                    writeln!(out, "slot {} cannot load table {}: {problem}", slot.slot, table.table)?;
                }
            }
        }
        let mut workers = Columns::new(&["worker", "address", "started"]);
        for worker in &self.workers {
            workers.row([worker.worker.clone(), worker.address.clone(), moment(worker.started_unix_ms)]);
        }
        if workers.is_empty() { writeln!(out, "no workers are up") } else { workers.write(out) }
    }
}

impl SlotTableView {
    fn text(&self) -> Option<String> {
        let numbers: Vec<String> = self.versions.iter().map(u64::to_string).collect();
        (!numbers.is_empty()).then(|| format!("{} {}", self.table, numbers.join(", ")))
    }
}
