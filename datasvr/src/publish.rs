//! Publish: from the outputs of a task's jobs to a form, its content id and the version.
//!
//! The directories of the packs are read back from the store: what is published is what is there, not what a worker
//! believes to have written.

use fkv_formats::manifest::{Form, Layer, content_id_full};
use fkv_formats::pack::{DirectoryRead, PackDirectory, PackSummary};
use fkv_formats::path::Attempt;
use fkv_meta::record::{BuildStats, FormKind, FormRef};
use fkv_meta::txn::Build;
use fkv_store::Store;

use crate::build::output::{JobOutput, PackRef};
use crate::error::AttemptError;
use crate::object;
use crate::plan::Plan;

/// Makes the form of a full load, writes it in the attempt's place and gives what the version will say.
pub(crate) async fn full_form(
    store: &Store,
    attempt: &Attempt<'_>,
    plan: &Plan,
    outputs: &[JobOutput],
) -> Result<Build, AttemptError> {
    let mut layer = Layer::default();
    let mut stats = BuildStats::default();
    for output in outputs {
        add(&mut stats, &output.stats);
        for pack in &output.packs {
            let summary = read_back(store, plan, pack).await?;
            layer.add_pack(&pack.path, &summary)?;
        }
    }
    let content = content_id_full(plan.uid, &plan.schema, plan.as_of, &layer.digests());
    let (rows, bytes) = (layer.records(), layer.bytes());
    if rows != stats.records {
        return Err(AttemptError::Object {
            path: object::url(store, &attempt.prefix()),
            reason: format!("the packs hold {rows} records, their jobs counted {}", stats.records),
        });
    }
    let form = Form {
        uid: plan.uid,
        content,
        schema: plan.schema.clone(),
        profile: plan.profile,
        as_of: plan.as_of,
        layers: vec![layer],
    };
    let object = object::put(store, attempt.form(), form.encode()).await?;
    let forms = vec![FormRef { kind: FormKind::Full, object }];
    Ok(Build { version: plan.version, content, forms, rows, bytes, stats })
}

/// Reads the directory of a pack and checks that it belongs to the plan.
async fn read_back(store: &Store, plan: &Plan, pack: &PackRef) -> Result<PackSummary, AttemptError> {
    let wrong = |reason: &str| AttemptError::Object { path: object::url(store, &pack.path), reason: reason.to_owned() };
    let start = pack.len.checked_sub(pack.tail_len).ok_or_else(|| wrong("its directory is longer than the pack"))?;
    let tail = store.get_range(&pack.path, start..pack.len).await?;
    let DirectoryRead::Ready(directory) = PackDirectory::parse(&tail, pack.len)? else {
        return Err(wrong("its directory is longer than its job said"));
    };
    let belongs = directory.origin.uid == plan.uid
        && directory.origin.version == plan.version
        && directory.schema == plan.schema
        && directory.profile == plan.profile;
    if !belongs {
        return Err(wrong("it was built for another table, version or schema"));
    }
    Ok(PackSummary { len: pack.len, tail_len: pack.tail_len, directory })
}

fn add(sum: &mut BuildStats, more: &BuildStats) {
    let BuildStats {
        rows_read,
        records,
        duplicates,
        nulls,
        bad_rows,
        expired,
        deleted,
        saturated,
        bytes_read,
        bytes_written,
    } = more;
    sum.rows_read += rows_read;
    sum.records += records;
    sum.duplicates += duplicates;
    sum.nulls += nulls;
    sum.bad_rows += bad_rows;
    sum.expired += expired;
    sum.deleted += deleted;
    sum.saturated += saturated;
    sum.bytes_read += bytes_read;
    sum.bytes_written += bytes_written;
}
