//! What servers and workers say of themselves.

use fkv_formats::id::{Slot, TableUid, TaskId};

use super::{put, put_leased};
use crate::key::{Keys, check_name};
use crate::record::{Progress, Report, SlotClaim, Topology, WorkerRecord};
use crate::refusal::Refusal;
use crate::stamped::{Planned, Stamped};
use crate::store::{Compare, LeaseId, Op, Revision, Txn};

/// What the transaction of [`claim_slot`] does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClaimStep {
    /// It makes the claim; the revision at which it commits is the incarnation.
    Claimed,
    /// It removes the claim and report that an earlier incarnation of the same server left; then claim again.
    Evicted,
}

/// Claims a slot for the server the topology names. [`crate::Meta::claim_slot`] runs both steps.
///
/// # Errors
/// `NoSlot`, `NotAssigned`, `ClaimHeld`.
pub fn claim_slot(
    keys: &Keys,
    topology: &Stamped<Topology>,
    slot: &Slot,
    standing: Option<&Stamped<SlotClaim>>,
    claim: &SlotClaim,
    lease: LeaseId,
) -> Result<Planned<ClaimStep>, Refusal> {
    check_name("server", &claim.server)?;
    let assigned = topology.value.assignment(slot).ok_or_else(|| Refusal::NoSlot(slot.clone()))?;
    if assigned.server != claim.server {
        return Err(Refusal::NotAssigned { slot: slot.clone(), server: assigned.server.clone() });
    }
    let (claim_key, report_key) = (keys.claim(slot), keys.report(slot));
    match standing {
        // The claim is removed first: writing over it would keep its creation, and with it the incarnation under
        // which the server reported what it held before it was restarted.
        Some(standing) if standing.value.server == claim.server => Ok(Planned::new(
            vec![standing.unchanged()],
            vec![Op::Delete { key: claim_key }, Op::Delete { key: report_key }],
            ClaimStep::Evicted,
        )),
        Some(standing) => Err(Refusal::ClaimHeld { slot: slot.clone(), server: standing.value.server.clone() }),
        None => Ok(Planned::new(
            vec![topology.unchanged(), Compare::Absent(claim_key.clone())],
            vec![put_leased(claim_key, claim, lease), Op::Delete { key: report_key }],
            ClaimStep::Claimed,
        )),
    }
}

/// Reports what a slot holds, under the claim whose incarnation the report names. `standing` is when the report that
/// stands was written, `None` if none stands: so of two reports on their way at once, one whose answer was lost and
/// its successor, the older can never replace the newer. Refused once that claim is gone: then claim again; or because
/// another report stands: then read it.
#[must_use]
pub fn report(keys: &Keys, slot: &Slot, standing: Option<Revision>, report: &Report) -> Txn {
    let key = keys.report(slot);
    let stands = match standing {
        Some(revision) => Compare::ModifiedAt(key.clone(), revision),
        None => Compare::Absent(key.clone()),
    };
    Txn {
        compares: vec![Compare::CreatedAt(keys.claim(slot), Revision(report.incarnation)), stands],
        ops: vec![put(key, report)],
    }
}

/// Writes how far a task is; never compared.
#[must_use]
pub fn put_progress(keys: &Keys, uid: TableUid, task: TaskId, progress: &Progress) -> Txn {
    Txn { compares: vec![], ops: vec![put(keys.progress(uid, task), progress)] }
}

/// Announces a worker for as long as its lease lives.
///
/// # Errors
/// `Name`.
pub fn put_worker(keys: &Keys, name: &str, worker: &WorkerRecord, lease: LeaseId) -> Result<Txn, Refusal> {
    check_name("worker", name)?;
    Ok(Txn { compares: vec![], ops: vec![put_leased(keys.worker(name), worker, lease)] })
}
