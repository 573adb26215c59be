//! The cluster: init, show.

use std::collections::BTreeMap;

use fkv_formats::id::Slot;
use fkv_meta::record::{Assignment, Topology};
use fkv_meta::{ChangeError, Refusal, View, txn};
use fkv_rpc::control as rpc;
use tonic::Status;

use super::Service;
use super::convert::sect_state;
use super::failure::{bad_request, of_change};

pub(super) async fn init(service: &Service, request: rpc::InitClusterRequest) -> Result<rpc::Cluster, Status> {
    let mut sects = BTreeMap::new();
    for sect in request.sects {
        let servers: Vec<Assignment> =
            sect.servers.into_iter().map(|server| Assignment { server: server.server, addr: server.address }).collect();
        if sects.insert(sect.name.clone(), servers).is_some() {
            let name: String = sect.name.chars().take(100).collect();
            return Err(bad_request(format!("sect `{name}` is given twice")));
        }
    }
    match service.meta.change(|view| txn::init_cluster(view, sects.clone())).await {
        Ok(_) => tracing::info!(sects = sects.len(), "cluster initialised"),
        Err(ChangeError::Refused(Refusal::TopologyExists)) => {
            // The same once more is no error: whoever sets a cluster up may repeat it.
            let view = service.view().await?;
            let same = view.topology().is_some_and(|topology| is_same(&topology.value, &sects));
            if !same {
                return Err(of_change(ChangeError::Refused(Refusal::TopologyExists)));
            }
            return Ok(cluster(service, &view));
        }
        Err(error) => return Err(of_change(error)),
    }
    Ok(cluster(service, &service.view().await?))
}

/// Whether a topology consists of just these sects and servers.
fn is_same(topology: &Topology, sects: &BTreeMap<String, Vec<Assignment>>) -> bool {
    topology.sects.len() == sects.len()
        && topology.sects.iter().all(|(name, sect)| sects.get(name).is_some_and(|servers| *servers == sect.slots))
}

pub(super) async fn show(service: &Service) -> Result<rpc::Cluster, Status> {
    Ok(cluster(service, &service.view().await?))
}

fn cluster(service: &Service, view: &View) -> rpc::Cluster {
    let topology = view.topology().map(|topology| &topology.value);
    let sects = topology.into_iter().flat_map(|topology| &topology.sects).map(|(name, sect)| {
        let slots = topology.into_iter().flat_map(|topology| topology.slots_of(name));
        rpc::SectInfo {
            name: name.clone(),
            state: sect_state(sect.state).to_owned(),
            slots: slots.zip(&sect.slots).map(|(slot, assigned)| slot_info(view, &slot, assigned)).collect(),
        }
    });
    rpc::Cluster {
        module: service.config.module.clone(),
        generation: topology.map_or(0, |topology| topology.generation),
        sects: sects.collect(),
        workers: view
            .workers()
            .map(|(name, worker)| rpc::Worker {
                worker: name.to_owned(),
                address: worker.value.addr.clone(),
                started_unix_ms: worker.value.started_ms,
            })
            .collect(),
    }
}

fn slot_info(view: &View, slot: &Slot, assigned: &Assignment) -> rpc::SlotInfo {
    let claimed = view.claim(slot).is_some_and(|claim| claim.value.server == assigned.server);
    let mut tables: BTreeMap<String, rpc::SlotTable> = BTreeMap::new();
    if let Some(report) = view.valid_report(slot) {
        let name = |uid| view.table_by_uid(uid).map(|table| table.value.name.clone());
        for (uid, held) in &report.tables {
            if let Some(table) = name(*uid) {
                let versions = held.iter().map(|image| image.version.0).collect();
                tables.insert(table.clone(), rpc::SlotTable { table, versions, problem: String::new() });
            }
        }
        for (uid, problem) in &report.problems {
            if let Some(table) = name(*uid) {
                let entry =
                    tables.entry(table.clone()).or_insert_with(|| rpc::SlotTable { table, ..Default::default() });
                entry.problem.clone_from(problem);
            }
        }
    }
    rpc::SlotInfo {
        slot: slot.to_string(),
        server: assigned.server.clone(),
        address: assigned.addr.clone(),
        claimed,
        tables: tables.into_values().collect(),
    }
}
