//! The promises of [`MetaStore`], one function each.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use fkv_env::{Env, timeout};
use futures::StreamExt;

use super::{Subject, delete, put, put_leased, read, write};
use crate::store::{Compare, Event, MetaError, MetaStore, Op, Revision, Txn, TxnOutcome, WatchBatch, WatchStream};

/// Long enough for anything that must happen; only a broken promise waits for it.
const PATIENCE: Duration = Duration::from_secs(60);

async fn next(env: &Env, stream: &mut WatchStream) -> Result<WatchBatch, MetaError> {
    timeout(&*env.clock, PATIENCE, stream.next()).await.expect("an event in time").expect("an open watch")
}

async fn holds(store: &dyn MetaStore, compare: Compare) -> bool {
    let outcome = store.txn(Txn { compares: vec![compare], ops: vec![] }).await.expect("a compare");
    matches!(outcome, TxnOutcome::Committed(_))
}

pub(super) async fn compares_decide(subject: &dyn Subject, prefix: &str) {
    let store = &*subject.store();
    let (key, missing) = (format!("{prefix}key"), format!("{prefix}missing"));
    let created = write(store, vec![put(&*key, "1")]).await;
    let modified = write(store, vec![put(&*key, "2")]).await;
    let value = |text: &'static str| Bytes::from_static(text.as_bytes());
    for (compare, expected) in [
        (Compare::Absent(key.clone()), false),
        (Compare::CreatedAt(key.clone(), created), true),
        (Compare::CreatedAt(key.clone(), modified), false),
        (Compare::ModifiedAt(key.clone(), modified), true),
        (Compare::ModifiedAt(key.clone(), created), false),
        (Compare::ValueIs(key.clone(), value("2")), true),
        (Compare::ValueIs(key.clone(), value("1")), false),
        (Compare::Absent(missing.clone()), true),
        (Compare::CreatedAt(missing.clone(), created), false),
        (Compare::ModifiedAt(missing.clone(), modified), false),
        (Compare::ValueIs(missing.clone(), value("2")), false),
        (Compare::ValueIs(missing.clone(), value("")), false),
    ] {
        assert_eq!(holds(store, compare.clone()).await, expected, "{compare:?}");
    }
    write(store, vec![delete(&*key)]).await;
    assert!(holds(store, Compare::Absent(key.clone())).await);
    assert!(!holds(store, Compare::CreatedAt(key.clone(), created)).await);
    let again = write(store, vec![put(&*key, "3")]).await;
    assert!(holds(store, Compare::CreatedAt(key.clone(), again)).await, "a new creation");
    assert!(!holds(store, Compare::CreatedAt(key, created)).await, "the old one is over");
}

pub(super) async fn a_transaction_is_one_revision_or_nothing(subject: &dyn Subject, prefix: &str) {
    let store = &*subject.store();
    let key = |name: &str| format!("{prefix}{name}");
    let first = write(store, vec![put(key("a"), "1"), put(key("b"), "1")]).await;
    let both = [read(store, &key("a")).await, read(store, &key("b")).await];
    for entry in both.iter().flatten() {
        assert_eq!((entry.created, entry.modified), (first, first));
    }
    assert_eq!(both.iter().flatten().count(), 2);

    // One compare of two fails: nothing happens.
    let half = Txn {
        compares: vec![Compare::ModifiedAt(key("a"), first), Compare::Absent(key("b"))],
        ops: vec![put(key("a"), "2"), delete(key("b")), put(key("c"), "2")],
    };
    assert_eq!(store.txn(half).await, Ok(TxnOutcome::Refused));
    assert_eq!(store.list(prefix, None).await.expect("listed").revision, first);

    let whole = Txn {
        compares: vec![Compare::ModifiedAt(key("a"), first), Compare::CreatedAt(key("b"), first)],
        ops: vec![put(key("a"), "2"), delete(key("b")), put(key("c"), "2")],
    };
    let second = Revision(first.0 + 1);
    assert_eq!(store.txn(whole).await, Ok(TxnOutcome::Committed(second)));
    let a = read(store, &key("a")).await.expect("written");
    assert_eq!((a.created, a.modified, &a.value[..]), (first, second, &b"2"[..]));
    assert_eq!(read(store, &key("b")).await, None);
    assert_eq!(read(store, &key("c")).await.map(|c| c.created), Some(second));
}

pub(super) async fn a_transaction_without_effect_makes_no_revision(subject: &dyn Subject, prefix: &str) {
    let store = &*subject.store();
    let key = |name: &str| format!("{prefix}{name}");
    let present = write(store, vec![put(key("a"), "1")]).await;
    assert_eq!(write(store, vec![]).await, present, "no ops");
    assert_eq!(write(store, vec![delete(key("missing"))]).await, present, "a delete of nothing");
    let next = |revision: Revision| Revision(revision.0 + 1);
    let same = write(store, vec![put(key("a"), "1")]).await;
    assert_eq!(same, next(present), "a write of the same value is a write");
    let mixed = write(store, vec![delete(key("missing")), put(key("b"), "1")]).await;
    assert_eq!(mixed, next(same), "a delete of nothing does not stop the rest");
    assert_eq!(write(store, vec![delete(key("b"))]).await, next(mixed));
}

pub(super) async fn limits_are_refused(subject: &dyn Subject, prefix: &str) {
    let store = &*subject.store();
    let key = |name: &str| format!("{prefix}{name}");
    let before = write(store, vec![put(key("a"), "1")]).await;
    let many = |count: usize| (0..count).map(|n| put(format!("{prefix}{n}"), "x")).collect::<Vec<_>>();
    let bad: Vec<Txn> = vec![
        Txn { compares: vec![], ops: vec![put(key("a"), "2"), put(key("a"), "3")] },
        Txn { compares: vec![], ops: vec![put(key("a"), "2"), delete(key("a"))] },
        Txn { compares: vec![], ops: vec![put("", "2")] },
        Txn { compares: vec![], ops: vec![delete("")] },
        Txn { compares: vec![Compare::Absent(String::new())], ops: vec![] },
        Txn { compares: vec![Compare::CreatedAt(key("b"), Revision(0))], ops: vec![] },
        Txn { compares: vec![Compare::ModifiedAt(key("b"), Revision(0))], ops: vec![] },
        Txn { compares: vec![], ops: many(Txn::OPERATIONS_MAX + 1) },
        Txn { compares: vec![Compare::Absent(key("b"))], ops: many(Txn::OPERATIONS_MAX) },
        Txn { compares: vec![], ops: vec![put(key("a"), vec![0; Txn::BYTES_MAX])] },
    ];
    for txn in bad {
        let shown = format!("{txn:?}").chars().take(200).collect::<String>();
        assert!(matches!(store.txn(txn).await, Err(MetaError::Invalid(_))), "{shown}");
    }
    assert!(matches!(store.get("").await, Err(MetaError::Invalid(_))));
    assert!(matches!(store.grant(Duration::from_millis(10)).await, Err(MetaError::Invalid(_))));
    assert_eq!(store.list(prefix, None).await.expect("listed").revision, before, "nothing happened");
    assert_eq!(write(store, many(Txn::OPERATIONS_MAX)).await, Revision(before.0 + 1), "the most allowed");
    let large = Bytes::from(vec![7; Txn::BYTES_MAX - 1000]);
    write(store, vec![put(key("large"), large.clone())]).await;
    assert_eq!(read(store, &key("large")).await.map(|entry| entry.value), Some(large));
}

pub(super) async fn lists_are_of_one_revision(subject: &dyn Subject, prefix: &str) {
    let store = &*subject.store();
    // More keys than any page of a list holds, and neighbours that do not belong.
    const KEYS: usize = 2500;
    let neighbours =
        vec![put(prefix.trim_end_matches('/'), "x"), put(format!("{}0", prefix.trim_end_matches('/')), "x")];
    write(store, neighbours).await;
    for group in (0..KEYS).collect::<Vec<_>>().chunks(100) {
        write(store, group.iter().map(|n| put(format!("{prefix}{n:06}"), n.to_string())).collect()).await;
    }
    let old = store.list(prefix, None).await.expect("listed");
    assert_eq!(old.entries.len(), KEYS);
    for (n, entry) in old.entries.iter().enumerate() {
        assert_eq!((entry.key.as_str(), &entry.value[..]), (&*format!("{prefix}{n:06}"), n.to_string().as_bytes()));
    }
    write(store, (0..50).map(|n| delete(format!("{prefix}{n:06}"))).collect()).await;
    let newest = write(store, (50..100).map(|n| put(format!("{prefix}{n:06}"), "new")).collect()).await;
    assert_eq!(store.list(prefix, Some(old.revision)).await.as_ref(), Ok(&old), "the past does not change");
    let new = store.list(prefix, None).await.expect("listed");
    assert_eq!((new.revision, new.entries.len()), (newest, KEYS - 50));
    assert_eq!(store.list(prefix, Some(newest)).await, Ok(new));
    assert_eq!(store.list(&format!("{prefix}none/"), None).await.map(|none| none.entries), Ok(vec![]));
    for bad in [Revision(0), Revision(newest.0 + 1)] {
        assert!(matches!(store.list(prefix, Some(bad)).await, Err(MetaError::Invalid(_))), "{bad:?}");
    }
}

pub(super) async fn a_watch_misses_and_splits_nothing(env: &Env, subject: &dyn Subject, prefix: &str) {
    let store = &*subject.store();
    let key = |name: &str| format!("{prefix}{name}");
    let first = write(store, vec![put(key("a"), "1"), put(key("b"), "1")]).await;
    write(store, vec![put("/suite/elsewhere", "x")]).await;
    let third = write(store, vec![delete(key("a")), put(key("c"), "1"), put("/suite/elsewhere", "y")]).await;
    let mut past = store.watch(prefix, first).await.expect("a stream");
    let batch = next(env, &mut past).await.expect("a batch");
    let created =
        |name: &str| match batch.events.iter().find(|event| matches!(event, Event::Put(e) if e.key == key(name))) {
            Some(Event::Put(entry)) => (entry.created, entry.modified),
            _ => panic!("no event of {name} in {batch:?}"),
        };
    assert_eq!((batch.revision, batch.events.len()), (first, 2));
    assert_eq!((created("a"), created("b")), ((first, first), (first, first)));
    let batch = next(env, &mut past).await.expect("a batch");
    assert_eq!((batch.revision, batch.events.len()), (third, 2), "{batch:?}");
    assert!(batch.events.contains(&Event::Delete { key: key("a") }), "{batch:?}");

    // From the future on: what comes before it is not seen.
    let mut future = store.watch(prefix, Revision(third.0 + 2)).await.expect("a stream");
    write(store, vec![put(key("d"), "before")]).await;
    let seen = write(store, vec![put(key("d"), "seen")]).await;
    let batch = next(env, &mut future).await.expect("a batch");
    assert_eq!(batch.revision, seen);
    assert!(matches!(store.watch(prefix, Revision(0)).await, Err(MetaError::Invalid(_))));

    // Large revisions arrive whole, whatever the transport does with them.
    let mut wide = store.watch(&key("wide/"), Revision(seen.0 + 1)).await.expect("a stream");
    let mut large = Vec::new();
    for round in 0..6_u8 {
        let ops = (0..100).map(|n| put(key(&format!("wide/{n}")), vec![round; 9000])).collect();
        large.push(write(store, ops).await);
    }
    for (round, revision) in large.into_iter().enumerate() {
        let batch = next(env, &mut wide).await.expect("a batch");
        assert_eq!((batch.revision, batch.events.len()), (revision, 100), "round {round}");
    }
    let mut late = store.watch(&key("wide/"), Revision(seen.0 + 1)).await.expect("a stream");
    for _ in 0..6 {
        assert_eq!(next(env, &mut late).await.expect("a batch").events.len(), 100);
    }
}

pub(super) async fn concurrent_increments_are_all_counted(env: &Env, subject: &dyn Subject, prefix: &str) {
    const TASKS: usize = 8;
    const EACH: usize = 20;
    let key = format!("{prefix}counter");
    let store = subject.store();
    write(&*store, vec![put(&*key, "0")]).await;
    let tasks: Vec<_> = (0..TASKS)
        .map(|_| {
            let (store, key) = (Arc::clone(&store), key.clone());
            env.spawn.spawn(
                "incrementer",
                Box::pin(async move {
                    let mut done = 0;
                    while done < EACH {
                        let entry = read(&*store, &key).await.expect("the counter");
                        let count: usize = String::from_utf8_lossy(&entry.value).parse().expect("a number");
                        let compares = vec![Compare::ModifiedAt(key.clone(), entry.modified)];
                        let ops = vec![put(&*key, (count + 1).to_string())];
                        let outcome = store.txn(Txn { compares, ops }).await.expect("a transaction");
                        done += usize::from(matches!(outcome, TxnOutcome::Committed(_)));
                    }
                }),
            )
        })
        .collect();
    for task in tasks {
        assert!(task.join().await, "an incrementer failed");
    }
    let entry = read(&*store, &key).await.expect("the counter");
    assert_eq!(String::from_utf8_lossy(&entry.value), (TASKS * EACH).to_string());
}

pub(super) async fn list_then_watch_has_no_gap(env: &Env, subject: &dyn Subject, prefix: &str) {
    let store = subject.store();
    let (writer, under) = (Arc::clone(&store), prefix.to_owned());
    let writing = env.spawn.spawn(
        "writer",
        Box::pin(async move {
            for n in 0..200_u32 {
                let name = format!("{under}{}", n % 7);
                let op = if n % 5 == 4 { delete(name) } else { put(name, n.to_string()) };
                write(&*writer, vec![op]).await;
            }
            write(&*writer, vec![put(format!("{under}end"), "")]).await;
        }),
    );
    let snapshot = store.list(prefix, None).await.expect("listed");
    let mut known: BTreeMap<String, Bytes> = snapshot.entries.into_iter().map(|e| (e.key, e.value)).collect();
    let mut watch = store.watch(prefix, Revision(snapshot.revision.0 + 1)).await.expect("a stream");
    let mut last = snapshot.revision;
    while !known.contains_key(&format!("{prefix}end")) {
        let batch = next(env, &mut watch).await.expect("a batch");
        assert!(batch.revision > last, "batches come in order");
        last = batch.revision;
        for event in batch.events {
            match event {
                Event::Put(entry) => drop(known.insert(entry.key, entry.value)),
                Event::Delete { key } => drop(known.remove(&key)),
            }
        }
    }
    assert!(writing.join().await, "the writer failed");
    let end = store.list(prefix, None).await.expect("listed");
    assert_eq!(end.entries.into_iter().map(|e| (e.key, e.value)).collect::<BTreeMap<_, _>>(), known);
}

pub(super) async fn ended_leases_take_their_keys(env: &Env, subject: &dyn Subject, prefix: &str) {
    let store = &*subject.store();
    let key = |name: &str| format!("{prefix}{name}");
    let lease = store.grant(PATIENCE).await.expect("granted");
    let other = store.grant(PATIENCE).await.expect("granted");
    assert_ne!(lease, other);
    write(store, vec![put_leased(key("a"), "1", lease), put_leased(key("b"), "1", lease)]).await;
    write(store, vec![put_leased(key("moved"), "1", lease), put_leased(key("freed"), "1", lease)]).await;
    let last = write(store, vec![put_leased(key("moved"), "2", other), put(key("freed"), "2")]).await;
    assert_eq!(read(store, &key("a")).await.and_then(|entry| entry.lease), Some(lease));
    assert_eq!(read(store, &key("freed")).await.and_then(|entry| entry.lease), None);

    assert_eq!(store.renew(lease).await, Ok(()));
    assert_eq!(store.revoke(lease).await, Ok(()));
    let mut watch = store.watch(prefix, Revision(last.0 + 1)).await.expect("a stream");
    let batch = next(env, &mut watch).await.expect("a batch");
    assert_eq!(batch.revision, Revision(last.0 + 1), "all keys go in one revision");
    assert_eq!(batch.events, [Event::Delete { key: key("a") }, Event::Delete { key: key("b") }]);
    let left = store.list(prefix, None).await.expect("listed");
    assert_eq!(left.entries.iter().map(|e| &e.key[prefix.len()..]).collect::<Vec<_>>(), ["freed", "moved"]);

    assert_eq!(store.renew(lease).await, Err(MetaError::LeaseGone));
    assert_eq!(store.revoke(lease).await, Ok(()), "ending an ended lease is no error");
    let late = Txn { compares: vec![], ops: vec![put(key("c"), "1"), put_leased(key("d"), "1", lease)] };
    assert_eq!(store.txn(late).await, Err(MetaError::LeaseGone));
    assert_eq!(read(store, &key("c")).await, None, "nothing of it happened");
    // A transaction that its compares refuse never looks at its leases.
    let refused = Txn {
        compares: vec![Compare::Absent(key("freed"))],
        ops: vec![Op::Put { key: key("e"), value: Bytes::new(), lease: Some(lease) }],
    };
    assert_eq!(store.txn(refused).await, Ok(TxnOutcome::Refused));
    let unused = store.list(prefix, None).await.expect("listed").revision;
    assert_eq!(store.revoke(store.grant(PATIENCE).await.expect("granted")).await, Ok(()));
    assert_eq!(store.list(prefix, None).await.expect("listed").revision, unused, "a lease without keys");
    assert_eq!(store.revoke(other).await, Ok(()));
}

pub(super) async fn leases_end_unless_renewed(env: &Env, subject: &dyn Subject, prefix: &str) {
    const TTL: Duration = Duration::from_secs(2);
    let store = &*subject.store();
    let key = |name: &str| format!("{prefix}{name}");
    let kept = store.grant(TTL).await.expect("granted");
    let (mut renewed, mut longest_gap) = (env.clock.monotonic(), Duration::ZERO);
    let dying = store.grant(TTL).await.expect("granted");
    let granted = env.clock.monotonic();
    let ops = vec![put_leased(key("dying"), "1", dying), put_leased(key("kept"), "1", kept)];
    let written = write(store, ops).await;
    let mut watch = store.watch(&key("dying"), Revision(written.0 + 1)).await.expect("a stream");
    let mut died = std::pin::pin!(next(env, &mut watch));
    let batch = loop {
        tokio::select! {
            biased;
            batch = &mut died => break batch.expect("a batch"),
            () = env.clock.sleep(TTL / 8) => {}
        }
        // A renewal that itself comes too late, on a machine that is very busy, says nothing about the store.
        let outcome = store.renew(kept).await;
        let now = env.clock.monotonic();
        longest_gap = longest_gap.max(now.saturating_sub(renewed));
        renewed = now;
        assert!(outcome.is_ok() || longest_gap > TTL / 2, "{outcome:?}");
    };
    assert_eq!(batch.events, [Event::Delete { key: key("dying") }]);
    let lived = env.clock.monotonic().saturating_sub(granted);
    assert!(lived > TTL / 2, "a lease of {TTL:?} ended after {lived:?}");
    assert_eq!(store.renew(dying).await, Err(MetaError::LeaseGone));
    if longest_gap <= TTL / 2 {
        assert!(read(store, &key("kept")).await.is_some(), "renewed every {longest_gap:?} at most");
    }
    store.revoke(kept).await.expect("revoked");
}

pub(super) async fn compacted_history_is_refused(env: &Env, subject: &dyn Subject, prefix: &str) {
    let store = &*subject.store();
    let key = format!("{prefix}key");
    let mut revisions = Vec::new();
    for n in 0..10 {
        revisions.push(write(store, vec![put(&*key, n.to_string())]).await);
    }
    subject.compact(revisions[5]).await;
    let gone = revisions[3];
    assert_eq!(store.list(prefix, Some(gone)).await, Err(MetaError::Compacted(gone)));
    let mut watch = store.watch(prefix, gone).await.expect("a stream");
    assert_eq!(next(env, &mut watch).await, Err(MetaError::Compacted(gone)));
    assert!(timeout(&*env.clock, PATIENCE, watch.next()).await.expect("ended").is_none(), "an error ends a watch");
    let kept = store.list(prefix, Some(revisions[7])).await.expect("kept");
    assert_eq!(kept.entries.first().map(|entry| &entry.value[..]), Some(&b"7"[..]));
    let mut watch = store.watch(prefix, revisions[6]).await.expect("a stream");
    for revision in &revisions[6..] {
        assert_eq!(next(env, &mut watch).await.expect("a batch").revision, *revision);
    }
}
