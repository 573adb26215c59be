//! Tables: create, list, show, drop.

use fkv_formats::schema::{KeyType, Schema, TableKind, ValueType};
use fkv_meta::record::{Filter, RetainOld};
use fkv_meta::txn::{self, NewTable};
use fkv_meta::{Refusal, Stamped, View};
use fkv_rpc::control as rpc;
use tonic::Status;

use super::failure::{bad_request, of_change, of_refusal};
use super::{Service, convert, expected};

/// Versions kept unless told otherwise.
const RETAIN_VERSIONS: u32 = 3;
/// Longest value that a message repeats.
const SHOWN_BYTES: usize = 100;

/// A table by name.
pub(super) fn named<'a>(view: &'a View, name: &str) -> Result<&'a Stamped<fkv_meta::record::TableRecord>, Status> {
    let missing = || Refusal::NoTable(name.chars().take(SHOWN_BYTES).collect());
    view.table(name).ok_or_else(|| of_refusal(&missing()))
}

fn new_table(request: rpc::CreateTableRequest) -> Result<NewTable, Status> {
    fn word<T: std::str::FromStr<Err = String> + Default>(text: &str) -> Result<T, Status> {
        if text.is_empty() { Ok(T::default()) } else { required(text, "") }
    }
    fn required<T: std::str::FromStr<Err = String>>(text: &str, what: &str) -> Result<T, Status> {
        if text.is_empty() {
            return Err(bad_request(format!("{what} is missing")));
        }
        if text.len() > SHOWN_BYTES {
            return Err(bad_request("a value of the request is far too long"));
        }
        text.parse().map_err(bad_request)
    }
    let kind: TableKind = if request.kind.is_empty() { TableKind::Mem } else { required(&request.kind, "kind")? };
    let key: KeyType = required(&request.key_type, "the key type (u64 or bytes)")?;
    let value: ValueType = required(&request.value_type, "the value type (bytes, i64, f32, f32[d], f16 or f16[d])")?;
    let (storage, f16_overflow) = (word(&request.storage)?, word(&request.f16_overflow)?);
    let retain_old = match request.retain_old.as_str() {
        "" | "ram" => RetainOld::Ram,
        "disk" => RetainOld::Disk,
        other => {
            let other: String = other.chars().take(SHOWN_BYTES).collect();
            return Err(bad_request(format!("unknown value `{other}` for retain_old: expected `ram` or `disk`")));
        }
    };
    let filter = match (request.filter.as_str(), kind) {
        ("", TableKind::Blk) | ("fuse8", _) => Filter::Fuse8,
        ("", TableKind::Mem | TableKind::Idx) | ("none", _) => Filter::None,
        (other, _) => {
            let other: String = other.chars().take(SHOWN_BYTES).collect();
            return Err(bad_request(format!("unknown value `{other}` for filter: expected `none` or `fuse8`")));
        }
    };
    let retain_versions = if request.retain_versions == 0 { RETAIN_VERSIONS } else { request.retain_versions };
    let schema = Schema { kind, key, value, storage, f16_overflow, ttl: request.ttl };
    Ok(NewTable { name: request.name, schema, retain_versions, retain_old, filter })
}

pub(super) async fn create(service: &Service, request: rpc::CreateTableRequest) -> Result<rpc::Table, Status> {
    let new = new_table(request)?;
    let name = new.name.clone();
    let now_ms = service.now_ms();
    let change = service.meta.change(|view| txn::create_table(view, new.clone(), now_ms)).await.map_err(of_change)?;
    tracing::info!(table = %name, uid = change.revision.0, schema = ?change.after.schema, "table created");
    Ok(convert::table(fkv_formats::id::TableUid(change.revision.0), &change.after))
}

pub(super) async fn list(service: &Service) -> Result<rpc::ListTablesReply, Status> {
    let view = service.view().await?;
    let tables = view.tables().map(|table| convert::table(table.uid(), &table.value)).collect();
    Ok(rpc::ListTablesReply { tables })
}

pub(super) async fn show(service: &Service, request: rpc::ShowTableRequest) -> Result<rpc::Table, Status> {
    let view = service.view().await?;
    let table = named(&view, &request.table)?;
    Ok(convert::table(table.uid(), &table.value))
}

pub(super) async fn drop(service: &Service, request: rpc::DropTableRequest) -> Result<rpc::DropTableReply, Status> {
    let (name, epoch, dry_run) = (&request.table, expected(request.expected_epoch), request.dry_run);
    let now_ms = service.now_ms();
    let view = service.view().await?;
    let table = named(&view, name)?;
    let reply = rpc::DropTableReply { table: Some(convert::table(table.uid(), &table.value)), dry_run };
    if dry_run {
        let _only_asked = txn::drop_table(&view, name, epoch, now_ms).map_err(|refusal| of_refusal(&refusal))?;
        return Ok(reply);
    }
    let uid = table.uid();
    let planned = |view: &View| match view.table(name) {
        // Dropped and made again meanwhile: that is not the table the caller means.
        Some(found) if found.uid() != uid => Err(Refusal::NoTable(name.clone())),
        _ => txn::drop_table(view, name, epoch, now_ms),
    };
    service.meta.change(planned).await.map_err(of_change)?;
    tracing::info!(table = %name, uid = uid.0, "table dropped");
    Ok(reply)
}
