//! Versions: list, show, rollback, release.

use fkv_formats::id::Version;
use fkv_meta::{Refusal, txn};
use fkv_rpc::control as rpc;
use tonic::Status;

use super::failure::{of_change, of_refusal};
use super::tables::named;
use super::{Service, convert, expected};

pub(super) async fn list(
    service: &Service,
    request: rpc::ListVersionsRequest,
) -> Result<rpc::ListVersionsReply, Status> {
    let view = service.view().await?;
    let table = named(&view, &request.table)?;
    let versions = view.versions(table.uid()).map(|version| convert::version(&table.value, &version.value)).collect();
    Ok(rpc::ListVersionsReply { versions })
}

pub(super) async fn show(service: &Service, request: rpc::ShowVersionRequest) -> Result<rpc::Version, Status> {
    let view = service.view().await?;
    let table = named(&view, &request.table)?;
    let version = Version(request.version);
    match view.version(table.uid(), version) {
        Some(found) => Ok(convert::version(&table.value, &found.value)),
        None => Err(of_refusal(&Refusal::NoVersion { table: request.table, version })),
    }
}

pub(super) async fn rollback(service: &Service, request: rpc::RollbackRequest) -> Result<rpc::RollbackReply, Status> {
    let rpc::RollbackRequest { table, to, expected_epoch, dry_run } = request;
    let (to, epoch, now_ms) = ((to != 0).then_some(Version(to)), expected(expected_epoch), service.now_ms());
    let (uid, after) = if dry_run {
        let view = service.view().await?;
        let uid = named(&view, &table)?.uid();
        let planned = txn::rollback(&view, &table, to, epoch, now_ms).map_err(|refusal| of_refusal(&refusal))?;
        (uid, planned.after)
    } else {
        let mut uid = None;
        let change = service
            .meta
            .change(|view| {
                uid = view.table(&table).map(fkv_meta::Stamped::uid);
                txn::rollback(view, &table, to, epoch, now_ms)
            })
            .await
            .map_err(of_change)?;
        let after = change.after;
        tracing::warn!(
            table = %table, epoch = %after.table.epoch, to = ?after.table.target.map(|target| target.version.0),
            at_once = after.at_once, stopped = ?after.stopped, "table rolled back"
        );
        (uid.unwrap_or_default(), after)
    };
    Ok(rpc::RollbackReply {
        table: Some(convert::table(uid, &after.table)),
        flips_at_once: after.at_once,
        dry_run,
        slots_to_load: convert::slots(after.standing.missing.into_iter().map(|(slot, _)| slot)),
        stopped_task: after.stopped.map_or(0, |task| task.0),
    })
}

pub(super) async fn release(service: &Service, request: rpc::ReleaseRequest) -> Result<rpc::ReleaseReply, Status> {
    let rpc::ReleaseRequest { table, expected_epoch, dry_run } = request;
    let (epoch, now_ms) = (expected(expected_epoch), service.now_ms());
    let (uid, after) = if dry_run {
        let view = service.view().await?;
        let uid = named(&view, &table)?.uid();
        let planned = txn::release(&view, &table, epoch, now_ms).map_err(|refusal| of_refusal(&refusal))?;
        (uid, planned.after)
    } else {
        let mut uid = None;
        let change = service
            .meta
            .change(|view| {
                uid = view.table(&table).map(fkv_meta::Stamped::uid);
                txn::release(view, &table, epoch, now_ms)
            })
            .await
            .map_err(of_change)?;
        let after = change.after;
        tracing::warn!(table = %table, epoch = %after.table.epoch, version = %after.version.version, "table released");
        (uid.unwrap_or_default(), after)
    };
    Ok(rpc::ReleaseReply { table: Some(convert::table(uid, &after.table)), dry_run, version: after.version.version.0 })
}
