//! Between our terms and etcd's messages.

use bytes::Bytes;
use tonic::{Code, Status};

use super::proto::etcdserverpb as pb;
use super::proto::mvccpb;
use crate::store::{Compare, Entry, Event, LeaseId, MetaError, Op, Revision, Txn};

/// A call that did not succeed, before we know what it means for the caller.
#[derive(Debug)]
pub(super) enum Failure {
    /// The request never left: another endpoint may be asked.
    NotSent(String),
    /// It may have been served; the answer is missing.
    Lost(String),
    /// etcd declined before doing anything, for now.
    Declined(String),
    /// etcd's answer is this error.
    Answer(MetaError),
}

impl Failure {
    pub(super) fn of(status: &Status) -> Self {
        let message = status.message().to_owned();
        match status.code() {
            Code::InvalidArgument | Code::FailedPrecondition | Code::Unimplemented => {
                Self::Answer(MetaError::Invalid(message))
            }
            Code::Unauthenticated | Code::PermissionDenied => {
                Self::Answer(MetaError::Invalid(format!("etcd denies access: {message}")))
            }
            Code::NotFound if message.contains("lease not found") => Self::Answer(MetaError::LeaseGone),
            // With a cause it is the connection that ended (HTTP/2 says ENHANCE_YOUR_CALM), and the request may be done.
            Code::ResourceExhausted if std::error::Error::source(status).is_none() => Self::Declined(message),
            _ if never_connected(status) => Self::NotSent(message),
            _ => Self::Lost(message),
        }
    }
}

/// Whether the error is one of connecting, so that no byte of the request was sent.
fn never_connected(status: &Status) -> bool {
    let mut cause = std::error::Error::source(status);
    while let Some(error) = cause {
        if error.is::<tonic::ConnectError>() {
            return true;
        }
        cause = error.source();
    }
    false
}

/// What etcd says of a revision that is no longer kept.
pub(super) fn is_compacted(status: &Status) -> bool {
    status.code() == Code::OutOfRange && status.message().contains("compacted")
}

/// What etcd says of a revision that does not exist yet.
pub(super) fn is_future(status: &Status) -> bool {
    status.code() == Code::OutOfRange && status.message().contains("future")
}

fn number(revision: u64) -> i64 {
    i64::try_from(revision).unwrap_or(i64::MAX)
}

pub(super) fn to_i64(revision: Revision) -> i64 {
    number(revision.0)
}

pub(super) fn revision(number: i64) -> Revision {
    Revision(u64::try_from(number).unwrap_or(0))
}

/// Lease ids are positive 64-bit integers in etcd; the bits are kept as they are.
pub(super) fn lease_to_i64(lease: LeaseId) -> i64 {
    i64::from_ne_bytes(lease.0.to_ne_bytes())
}

pub(super) fn lease(number: i64) -> Option<LeaseId> {
    (number != 0).then(|| LeaseId(u64::from_ne_bytes(number.to_ne_bytes())))
}

/// The key range of all keys that start with `prefix`: first key and exclusive end.
pub(super) fn range_of(prefix: &str) -> (Bytes, Bytes) {
    if prefix.is_empty() {
        return (Bytes::from_static(&[0]), Bytes::from_static(&[0]));
    }
    let mut end = prefix.as_bytes().to_vec();
    while let Some(last) = end.last_mut() {
        if *last < u8::MAX {
            *last += 1;
            break;
        }
        end.pop();
    }
    let end = if end.is_empty() { Bytes::from_static(&[0]) } else { Bytes::from(end) };
    (Bytes::copy_from_slice(prefix.as_bytes()), end)
}

/// The key as text. Ours always are; a key that is not was put below our prefix by somebody else.
fn key_text(key: &Bytes) -> Option<String> {
    let text = String::from_utf8(key.to_vec());
    if text.is_err() {
        tracing::warn!(key = %String::from_utf8_lossy(key), "metadata key that is not text is ignored");
    }
    text.ok()
}

pub(super) fn entry(kv: mvccpb::KeyValue) -> Option<Entry> {
    Some(Entry {
        key: key_text(&kv.key)?,
        value: kv.value,
        created: revision(kv.create_revision),
        modified: revision(kv.mod_revision),
        lease: lease(kv.lease),
    })
}

/// An event and its revision.
pub(super) fn event(event: mvccpb::Event) -> Option<(Revision, Event)> {
    let deleted = event.r#type() == mvccpb::event::EventType::Delete;
    let kv = event.kv?;
    let at = revision(kv.mod_revision);
    let event = if deleted { Event::Delete { key: key_text(&kv.key)? } } else { Event::Put(entry(kv)?) };
    Some((at, event))
}

fn compare(compare: Compare) -> pb::Compare {
    use pb::compare::{CompareResult, CompareTarget, TargetUnion};
    let (target, key, union) = match compare {
        Compare::Absent(key) => (CompareTarget::Create, key, TargetUnion::CreateRevision(0)),
        Compare::CreatedAt(key, at) => (CompareTarget::Create, key, TargetUnion::CreateRevision(to_i64(at))),
        Compare::ModifiedAt(key, at) => (CompareTarget::Mod, key, TargetUnion::ModRevision(to_i64(at))),
        Compare::ValueIs(key, value) => (CompareTarget::Value, key, TargetUnion::Value(value)),
    };
    pb::Compare {
        result: CompareResult::Equal.into(),
        target: target.into(),
        key: Bytes::from(key),
        target_union: Some(union),
    }
}

fn op(op: Op) -> pb::RequestOp {
    use pb::request_op::Request;
    let request = match op {
        Op::Put { key, value, lease } => {
            Request::RequestPut(pb::PutRequest { key: key.into(), value, lease: lease.map_or(0, lease_to_i64) })
        }
        Op::Delete { key } => Request::RequestDeleteRange(pb::DeleteRangeRequest { key: key.into() }),
    };
    pb::RequestOp { request: Some(request) }
}

/// The message of a validated transaction.
pub(super) fn txn(txn: Txn) -> pb::TxnRequest {
    pb::TxnRequest {
        compare: txn.compares.into_iter().map(compare).collect(),
        success: txn.ops.into_iter().map(op).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_range_of_a_prefix_holds_all_its_keys_and_no_other() {
        let holds = |prefix: &str, key: &str| {
            let (start, end) = range_of(prefix);
            key.as_bytes() >= &start[..] && (end == [0][..] || key.as_bytes() < &end[..])
        };
        for key in ["/a/", "/a/x", "/a/\u{10ffff}"] {
            assert!(holds("/a/", key), "{key}");
            assert!(holds("", key), "{key}");
        }
        for key in ["/a", "/a0", "/b/", ""] {
            assert!(!holds("/a/", key), "{key}");
        }
    }

    #[test]
    fn a_foreign_key_that_is_no_text_is_left_out_and_harms_nobody() {
        let kv = |key: &'static [u8]| mvccpb::KeyValue { key: Bytes::from_static(key), ..Default::default() };
        assert_eq!(entry(kv(b"/p/\xff")), None);
        assert_eq!(entry(kv(b"/p/a")).map(|entry| entry.key), Some("/p/a".to_owned()));
        assert_eq!(event(mvccpb::Event { r#type: 0, kv: Some(kv(b"\xff")) }), None);
        assert_eq!(event(mvccpb::Event { r#type: 1, kv: None }), None);
    }

    #[test]
    fn lease_ids_survive() {
        for id in [1, u64::MAX, 1 << 63] {
            assert_eq!(lease(lease_to_i64(LeaseId(id))), Some(LeaseId(id)));
        }
        assert_eq!(lease(0), None);
    }
}
