//! Each transaction by itself: what it compares and writes, what it refuses and why.

use std::collections::BTreeMap;

use fkv_formats::id::{Epoch, TaskId, Version};
use fkv_meta::key::TASK_LOCK;
use fkv_meta::record::{
    Assignment, JobState, LoadMode, SectState, SlotClaim, TablePhase, TableRecord, TaskRecord, TaskState, Topology,
    VersionKind, encode,
};
use fkv_meta::state::{Lack, NextTask, Standing, next_task};
use fkv_meta::store::{Compare, Op, Txn, TxnOutcome};
use fkv_meta::{Refusal, RefusalKind, txn};

use crate::module::{Module, TABLE, error, slot};
use crate::world::{content_of, new_table, object, servers, spec};

fn keys_put(txn: &Txn) -> Vec<String> {
    let puts = txn.ops.iter().filter_map(|op| match op {
        Op::Put { key, .. } => Some(key.clone()),
        Op::Delete { .. } => None,
    });
    puts.collect()
}

#[tokio::test]
async fn publish_compares_what_the_design_says() {
    let mut module = Module::new().await;
    module.load(1).await;
    let task = module.submit(LoadMode::Incremental).await.expect("submitted");
    module.start(task).await;
    let token = module.lock(task).await;
    module.freeze(task, token).await;
    let plan = module.plan_publish(task, token, 2).await.expect("legal");
    let (table, record, base) = (module.table().await, module.task(task.0).await, module.version(1).await);
    let (keys, uid) = (module.meta.keys.clone(), table.uid());
    let mut expected = vec![
        table.unchanged(),
        record.unchanged(),
        base.unchanged(),
        Compare::CreatedAt(keys.lock(uid, task, TASK_LOCK), token),
        Compare::Absent(keys.version(uid, Version(2))),
    ];
    let mut compares = plan.txn.compares.clone();
    compares.sort_by_key(|compare| format!("{compare:?}"));
    expected.sort_by_key(|compare| format!("{compare:?}"));
    assert_eq!(compares, expected);
    let mut written = keys_put(&plan.txn);
    written.sort();
    let mut all = vec![keys.version(uid, Version(2)), table.key, record.key, base.key, keys.alignments()];
    all.sort();
    assert_eq!(written, all);
    assert_eq!(plan.after.version.kind, VersionKind::Increment { base: Version(1) });
    assert_eq!(plan.after.task.state, TaskState::Aligning);
    assert!(module.run(plan).await.is_some());
    assert_eq!(module.version(1).await.value.references, base.value.references + 1, "the base is bumped");
}

#[tokio::test]
async fn a_worker_that_lost_its_lock_commits_nothing() {
    let mut module = Module::new().await;
    let task = module.submit(LoadMode::Full).await.expect("submitted");
    module.start(task).await;
    let token = module.lock(task).await;
    module.freeze(task, token).await;
    let late = module.plan_publish(task, token, 1).await.expect("legal when planned");
    let table = module.table().await;
    let release = txn::release_lock(&module.meta.keys, &table, task, TASK_LOCK, token);
    assert!(matches!(module.meta.run(release).await, Ok(TxnOutcome::Committed(_))));
    assert_eq!(module.run(late).await, None, "the lock is gone");
    let second = module.lock(task).await;
    let late = module.plan_publish(task, token, 1).await.expect("planned from fresh records");
    assert_eq!(module.run(late).await, None, "the lock is another's");
    let good = module.plan_publish(task, second, 1).await.expect("legal");
    assert!(module.run(good).await.is_some());
    assert_eq!(module.task(task.0).await.value.attempt, 2);
}

#[tokio::test]
async fn an_exclusion_or_topology_change_behind_a_flips_back_refuses_it() {
    let mut module = Module::new().await;
    module.load(1).await;
    module.commit(LoadMode::Full, 2).await;
    module.report_all(&[content_of(1), content_of(2)]).await;

    let flip = txn::flip(&module.view().await, TABLE, 4).expect("legal");
    module.change(|view| txn::exclude(view, TABLE, &slot("a/0"), "dead", 4)).await;
    assert_eq!(module.run(flip).await, None);

    let flip = txn::flip(&module.view().await, TABLE, 4).expect("legal");
    let moved = Assignment { server: "other".into(), addr: "127.0.0.1:7999".into() };
    module.change(|view| txn::reassign(view, &BTreeMap::from([(slot("b/0"), moved.clone())]))).await;
    assert_eq!(module.run(flip).await, None);

    let refusal = module.refusal(|view| txn::flip(view, TABLE, 4)).await;
    assert!(matches!(&refusal, Refusal::NotHeld { missing: 1, required: 3, .. }), "{refusal:?}");
    assert!(refusal.to_string().contains("b/0"), "{refusal}");
}

#[tokio::test]
async fn a_topology_change_planned_before_any_change_of_alignment_is_refused() {
    let mut module = Module::new().await;
    module.load(1).await;
    let shield = BTreeMap::from([("b".to_owned(), SectState::Shielded)]);
    let plan = |module: &Module| {
        let (meta, shield) = (module.meta.clone(), shield.clone());
        async move { txn::change_sects(&meta.view().await.expect("read"), &shield).expect("legal") }
    };

    let before_publish = plan(&module).await;
    module.commit(LoadMode::Full, 2).await;
    assert_eq!(module.run(before_publish).await, None, "publish");

    module.report_all(&[content_of(1), content_of(2)]).await;
    let before_flip = plan(&module).await;
    module.flip().await;
    assert_eq!(module.run(before_flip).await, None, "flip");

    let before_exclude = plan(&module).await;
    module.change(|view| txn::exclude(view, TABLE, &slot("a/0"), "dead", 4)).await;
    assert_eq!(module.run(before_exclude).await, None, "exclude");
    let refusal = module.refusal(|view| txn::change_sects(view, &shield)).await;
    assert!(matches!(refusal, Refusal::OverBudget { sects: 1, needed: 1, left: 0, .. }), "{refusal:?}");

    module.change(|view| txn::readmit(view, TABLE, &slot("a/0"))).await;
    let before_rollback = plan(&module).await;
    module.rollback(1).await;
    assert_eq!(module.run(before_rollback).await, None, "rollback");

    let before_release = plan(&module).await;
    module.change(|view| txn::release(view, TABLE, None, 6)).await;
    assert_eq!(module.run(before_release).await, None, "release");
    let last = plan(&module).await;
    assert!(module.run(last).await.is_some(), "nothing in between");
}

#[tokio::test]
async fn of_two_topology_changes_planned_at_once_one_is_refused() {
    let mut module = Module::new().await;
    let moved = Assignment { server: "other".into(), addr: "127.0.0.1:7999".into() };
    for round in 0..2 {
        let view = module.view().await;
        let shield = BTreeMap::from([("b".to_owned(), SectState::Shielded)]);
        let reassign = BTreeMap::from([(slot("a/0"), moved.clone())]);
        let plans = [
            txn::change_sects(&view, &shield).expect("legal"),
            txn::add_sect(&view, "c", servers("c", 1)).expect("legal"),
            txn::reassign(&view, &reassign).expect("legal"),
        ];
        let mut plans = plans.to_vec();
        if round == 1 {
            plans.reverse();
        }
        let mut committed = 0;
        for plan in plans {
            committed += usize::from(module.run(plan).await.is_some());
        }
        assert_eq!(committed, 1, "round {round}");
        assert_eq!(module.view().await.topology().map(|topology| topology.value.generation), Some(2));
        module = Module::new().await;
    }
}

#[tokio::test]
async fn zero_required_slots_never_means_all() {
    let mut module = Module::new().await;
    module.commit(LoadMode::Full, 1).await;
    module.report_all(&[content_of(1)]).await;
    // No legal change leads here; a topology written by hand does.
    let topology = module.meta.topology().await.expect("read").expect("a topology");
    let mut none = topology.value.clone();
    for sect in none.sects.values_mut() {
        sect.state = SectState::Shielded;
    }
    let by_hand = Op::Put { key: topology.key.clone(), value: encode::<Topology>(&none), lease: None };
    module.meta.run(Txn { compares: vec![], ops: vec![by_hand] }).await.expect("written");
    let refusal = module.refusal(|view| txn::flip(view, TABLE, 4)).await;
    assert_eq!(refusal, Refusal::NoRequiredSlots(TABLE.into()));
    let view = module.view().await;
    assert!(!Standing::of(&view, view.table(TABLE).expect("the table"), content_of(1)).is_held());

    let mut fresh = Module::new().await;
    let both = BTreeMap::from(["a", "b"].map(|sect| (sect.to_owned(), SectState::Retired)));
    assert!(matches!(fresh.refusal(|view| txn::change_sects(view, &both)).await, Refusal::SectIs { .. }));
    let one = BTreeMap::from([("a".to_owned(), SectState::Retired)]);
    fresh.change(|view| txn::change_sects(view, &one)).await;
    let other = BTreeMap::from([("b".to_owned(), SectState::Shielded)]);
    assert!(matches!(fresh.refusal(|view| txn::change_sects(view, &other)).await, Refusal::SectIs { .. }));
}

#[tokio::test]
async fn a_cancel_in_every_state_says_what_is_so() {
    let mut module = Module::new().await;
    let cancel = |task: TaskId| move |view: &fkv_meta::View| txn::cancel_task(view, TABLE, task, 9);

    let queued = module.submit(LoadMode::Full).await.expect("submitted");
    assert_eq!(module.change(cancel(queued)).await.task.state, TaskState::Cancelled);
    assert!(module.table().await.value.queue.is_empty());
    let again = module.refusal(cancel(queued)).await;
    assert_eq!(again.kind(), RefusalKind::Precondition);
    assert_eq!(again.to_string(), "task 1 of table `t` was cancelled: there is nothing left to cancel");

    let running = module.submit(LoadMode::Full).await.expect("submitted");
    module.start(running).await;
    let token = module.lock(running).await;
    module.freeze(running, token).await;
    let publish = module.plan_publish(running, token, 1).await.expect("legal when planned");
    assert_eq!(module.change(cancel(running)).await.task.state, TaskState::Cancelled);
    assert_eq!(module.table().await.value.running, None);
    assert_eq!(module.run(publish).await, None, "a cancelled task commits nothing");
    let uid = module.table().await.uid();
    assert_eq!(module.meta.lock(uid, running, TASK_LOCK).await, Ok(None), "its worker sees it at once");

    module.load(1).await;
    let (aligning, _) = module.commit(LoadMode::Full, 2).await;
    let late = module.refusal(cancel(aligning)).await.to_string();
    assert_eq!(late, "task 4 of table `t` has committed its version: roll the table back instead");
    module.report_all(&[content_of(2)]).await;
    module.flip().await;
    let finished = module.refusal(cancel(aligning)).await.to_string();
    assert_eq!(finished, "task 4 of table `t` has finished: there is nothing left to cancel");

    let failing = module.submit(LoadMode::Incremental).await.expect("submitted");
    module.start(failing).await;
    let token = module.lock(failing).await;
    let (table, task) = (module.table().await, module.task(failing.0).await);
    let plan = txn::fail_task(&module.meta.keys, &table, &task, Some(token), error("bad"), txn::Retry::Pointless);
    assert!(module.run(plan.expect("legal")).await.is_some());
    let failed = module.refusal(cancel(failing)).await.to_string();
    assert_eq!(failed, "task 5 of table `t` has failed: skip it to let later increments start");
    module.change(|view| txn::skip_task(view, TABLE, failing, 9)).await;
    assert!(matches!(module.refusal(cancel(failing)).await, Refusal::TaskIs { state: TaskState::Skipped, .. }));
    assert!(matches!(module.refusal(cancel(TaskId(99))).await, Refusal::NoTask { .. }));
}

#[tokio::test]
async fn a_task_fails_when_its_attempts_are_used_up_and_a_retry_brings_new_ones() {
    let mut module = Module::new().await;
    let task = module.submit(LoadMode::Full).await.expect("submitted");
    module.start(task).await;
    for attempt in 1..=TaskRecord::ATTEMPTS {
        let token = module.lock(task).await;
        let (table, record) = (module.table().await, module.task(task.0).await);
        assert_eq!(record.value.attempt, attempt);
        let (keys, why) = (&module.meta.keys, error(&format!("store down {attempt}")));
        let plan = txn::fail_task(keys, &table, &record, Some(token), why, txn::Retry::MayHelp);
        let plan = plan.expect("legal");
        let last = attempt == TaskRecord::ATTEMPTS;
        assert_eq!(plan.after.task.state, if last { TaskState::Failed } else { TaskState::Running });
        assert!(module.run(plan).await.is_some());
    }
    let record = module.task(task.0).await;
    assert_eq!(record.value.errors.len(), TaskRecord::ATTEMPTS as usize);
    assert_eq!(module.table().await.value.running, None);
    module.change(|view| txn::retry_task(view, TABLE, task, 9)).await;
    module.start(task).await;
    module.lock(task).await;
    assert_eq!(module.task(task.0).await.value.attempt, TaskRecord::ATTEMPTS + 1, "attempts are never numbered again");
}

#[tokio::test]
async fn the_last_worker_of_a_task_may_die_without_a_word() {
    let mut module = Module::new().await;
    let task = module.submit(LoadMode::Full).await.expect("submitted");
    module.start(task).await;
    for _ in 0..TaskRecord::CLAIMS {
        let token = module.lock(task).await;
        let table = module.table().await;
        let anybody = || {
            let (keys, table) = (module.meta.keys.clone(), table.clone());
            move |record: &fkv_meta::Stamped<TaskRecord>| {
                txn::fail_task(&keys, &table, record, None, error("its worker is gone"), txn::Retry::MayHelp)
            }
        };
        let record = module.task(task.0).await;
        let early = anybody()(&record).expect("planned");
        assert_eq!(module.run(early).await, None, "somebody still holds the lock");
        let release = txn::release_lock(&module.meta.keys, &table, task, TASK_LOCK, token);
        module.meta.run(release).await.expect("a transaction");
    }
    let (table, record) = (module.table().await, module.task(task.0).await);
    let spent = txn::claim_task(&module.meta.keys, &table, &record, "w", module.lease);
    assert!(matches!(spent, Err(Refusal::OutOfAttempts { .. })), "{spent:?}");
    let plan = txn::fail_task(&module.meta.keys, &table, &record, None, error("gone"), txn::Retry::MayHelp);
    assert!(module.run(plan.expect("legal")).await.is_some());
    assert_eq!(module.task(task.0).await.value.state, TaskState::Failed);
}

#[tokio::test]
async fn a_failed_increment_blocks_later_ones_until_retried_skipped_or_overtaken() {
    let mut module = Module::new().await;
    module.load(1).await;
    let fail = async |module: &mut Module| {
        let task = module.submit(LoadMode::Incremental).await.expect("submitted");
        module.start(task).await;
        let token = module.lock(task).await;
        let (table, record) = (module.table().await, module.task(task.0).await);
        let keys = &module.meta.keys;
        let plan = txn::fail_task(keys, &table, &record, Some(token), error("bad row"), txn::Retry::Pointless);
        assert!(module.run(plan.expect("legal")).await.is_some());
        assert_eq!(module.table().await.value.blocked_by, Some(task));
        task
    };
    let first = fail(&mut module).await;
    let waiting = module.submit(LoadMode::Incremental).await.expect("submitted");
    let start = |task: TaskId| move |view: &fkv_meta::View| txn::start_task(view, TABLE, task, 9);
    assert!(matches!(module.refusal(start(waiting)).await, Refusal::Blocked { by, .. } if by == first));
    assert_eq!(next_task(&module.view().await, &module.table().await), None);

    // Retried: it comes before what waits behind it.
    module.change(|view| txn::retry_task(view, TABLE, first, 9)).await;
    assert_eq!(next_task(&module.view().await, &module.table().await), Some(NextTask::Start(first)));
    assert!(matches!(module.refusal(start(waiting)).await, Refusal::Blocked { .. }));
    module.change(|view| txn::cancel_task(view, TABLE, first, 9)).await;
    assert_eq!(next_task(&module.view().await, &module.table().await), Some(NextTask::Start(waiting)), "given up");
    module.change(|view| txn::cancel_task(view, TABLE, waiting, 9)).await;

    // Overtaken by a full load submitted later.
    let second = fail(&mut module).await;
    let waiting = module.submit(LoadMode::Incremental).await.expect("submitted");
    let full = module.submit(LoadMode::Full).await.expect("submitted");
    let after = module.submit(LoadMode::Incremental).await.expect("submitted");
    assert_eq!(next_task(&module.view().await, &module.table().await), Some(NextTask::Start(full)));
    assert!(matches!(module.refusal(start(after)).await, Refusal::Blocked { .. }));
    module.start(full).await;
    let token = module.lock(full).await;
    module.freeze(full, token).await;
    let publish = module.plan_publish(full, token, 2).await.expect("legal");
    assert!(module.run(publish).await.is_some());
    module.report_all(&[content_of(1), content_of(2)]).await;
    module.flip().await;
    assert_eq!(module.table().await.value.blocked_by, None);
    assert_eq!(next_task(&module.view().await, &module.table().await), Some(NextTask::Skip(waiting)));
    assert!(matches!(module.refusal(start(waiting)).await, Refusal::Overtaken { .. }));
    let retry = module.refusal(|view| txn::retry_task(view, TABLE, second, 9)).await;
    assert!(matches!(retry, Refusal::Overtaken { .. }), "{retry:?}");
    module.change(|view| txn::skip_task(view, TABLE, waiting, 9)).await;
    assert_eq!(next_task(&module.view().await, &module.table().await), Some(NextTask::Start(after)));

    // Skipped.
    module.change(|view| txn::cancel_task(view, TABLE, after, 9)).await;
    let third = fail(&mut module).await;
    module.change(|view| txn::skip_task(view, TABLE, third, 9)).await;
    assert_eq!(module.table().await.value.blocked_by, None);
}

#[tokio::test]
async fn submitting_is_idempotent_by_id_and_bounded() {
    let mut module = Module::new().await;
    let view = module.view().await;
    let full = spec(LoadMode::Full);
    let Ok(txn::Submitted::New(plan)) = txn::submit(&view, TABLE, None, "nightly", &full, 1) else {
        panic!("a new id makes a new task");
    };
    let Ok(txn::Submitted::New(racing)) = txn::submit(&view, TABLE, None, "nightly", &full, 1) else {
        panic!("planned from the same view");
    };
    let task = plan.after.task.task;
    assert!(module.run(*plan).await.is_some());
    assert_eq!(module.run(*racing).await, None, "two at once make one task");
    let (view, uid) = (module.view().await, module.table().await.uid());
    let existing = module.meta.submit(uid, "nightly").await.expect("read");
    let again = txn::submit(&view, TABLE, existing.as_ref(), "nightly", &full, 1);
    assert_eq!(again, Ok(txn::Submitted::Already(task)));
    let other = fkv_meta::record::LoadSpec { max_bad_rows: 1, ..full.clone() };
    let conflict = txn::submit(&view, TABLE, existing.as_ref(), "nightly", &other, 1).expect_err("another spec");
    assert_eq!(
        (conflict.kind(), conflict),
        (RefusalKind::Exists, Refusal::SubmitConflict { submit_id: "nightly".into(), task })
    );
    for bad in ["", &"x".repeat(129)] {
        assert!(matches!(txn::submit(&view, TABLE, None, bad, &full, 1), Err(Refusal::Invalid(_))));
    }
    for _ in 1..TableRecord::QUEUE_MAX {
        module.submit(LoadMode::Full).await.expect("room in the queue");
    }
    let over = module.submit(LoadMode::Full).await.expect_err("the queue is full");
    assert_eq!(over.kind(), RefusalKind::Exhausted, "{over}");
}

#[tokio::test]
async fn a_rollback_is_shown_at_once_where_every_required_slot_holds_the_version() {
    let mut module = Module::new().await;
    module.load(1).await;
    module.load(2).await;
    let back = module.rollback(1).await;
    assert!(back.at_once);
    assert_eq!(module.shown().await, Some((Version(1), Epoch(3))));
    assert_eq!(module.table().await.value.phase, TablePhase::RolledBack { to: Version(1), head: Version(2) });

    // Forward to the head, which one slot has dropped: it loads first.
    module.report(&["b/1"], &[content_of(1)]).await;
    let again = module.refusal(|view| txn::rollback(view, TABLE, None, None, 5)).await;
    let refused = Refusal::RolledBackAlready { table: TABLE.into(), to: Version(1) };
    assert_eq!(again, refused, "repeated after a lost answer it would show the bad version again");
    let forward = module.rollback(2).await;
    assert!(!forward.at_once);
    assert_eq!(forward.standing.missing, [(slot("b/1"), Lack::Loading)]);
    assert_eq!(forward.standing.required.len(), 4);
    assert_eq!(module.shown().await, Some((Version(1), Epoch(3))));
    let early = module.refusal(|view| txn::release(view, TABLE, None, 6)).await;
    assert_eq!(early, Refusal::NotYetShown { table: TABLE.into(), to: Version(2) });
    module.report(&["b/1"], &[content_of(1), content_of(2)]).await;
    module.flip().await;
    assert_eq!(module.shown().await, Some((Version(2), Epoch(4))));
    let released = module.change(|view| txn::release(view, TABLE, None, 6)).await;
    assert_eq!(released.version.content, content_of(2));
    assert!(released.table.quarantine.is_empty(), "nothing lies between the head and itself");
    assert_eq!(module.shown().await, Some((Version(3), Epoch(5))), "nothing has to be loaded");
}

#[tokio::test]
async fn a_rollback_without_a_version_while_a_load_aligns_keeps_what_is_shown() {
    let mut module = Module::new().await;
    module.load(1).await;
    module.load(2).await;
    let (task, _) = module.commit(LoadMode::Full, 3).await;
    let back = module.change(|view| txn::rollback(view, TABLE, None, None, 5)).await;
    assert_eq!(back.stopped, Some(task));
    assert_eq!(back.table.phase, TablePhase::RolledBack { to: Version(2), head: Version(3) });
    assert_eq!(module.shown().await, Some((Version(2), Epoch(4))));
}

#[tokio::test]
async fn a_first_load_that_never_aligns_can_be_cancelled() {
    let mut module = Module::new().await;
    let (first, _) = module.commit(LoadMode::Full, 1).await;
    let cancelled = module.change(|view| txn::cancel_task(view, TABLE, first, 5)).await;
    assert_eq!(cancelled.task.state, TaskState::Cancelled);
    let table = &cancelled.table;
    assert_eq!((table.target, table.running, table.full_required), (None, None, true));
    let refused = module.submit(LoadMode::Incremental).await.expect_err("a full load must come first");
    assert_eq!(refused, Refusal::FullRequired(TABLE.into()));
    assert_eq!(module.load(2).await, Version(2), "numbers are never used again");
}

#[tokio::test]
async fn a_slot_that_is_excluded_does_not_hold_a_rollback_up() {
    let mut module = Module::new().await;
    module.load(1).await;
    module.load(2).await;
    module.report(&["a/1"], &[content_of(2)]).await;
    module.change(|view| txn::exclude(view, TABLE, &slot("a/1"), "slow", 4)).await;
    assert!(module.rollback(1).await.at_once);
    let lacks = module.refusal(|view| txn::readmit(view, TABLE, &slot("a/1"))).await;
    assert!(matches!(lacks, Refusal::SlotLacks { version: Version(1), .. }), "{lacks:?}");
    module.report(&["a/1"], &[content_of(1)]).await;
    module.change(|view| txn::readmit(view, TABLE, &slot("a/1"))).await;
}

#[tokio::test]
async fn a_rollback_stops_the_running_task_and_refuses_writes_until_released() {
    let mut module = Module::new().await;
    module.load(1).await;
    module.load(2).await;
    let running = module.submit(LoadMode::Incremental).await.expect("submitted");
    let waiting = module.submit(LoadMode::Full).await.expect("submitted");
    module.start(running).await;
    let token = module.lock(running).await;
    module.freeze(running, token).await;
    let late = module.plan_publish(running, token, 3).await.expect("legal when planned");
    assert_eq!(module.rollback(1).await.stopped, Some(running));
    assert_eq!(module.run(late).await, None);
    let stopped = module.task(running.0).await.value;
    assert_eq!(stopped.state, TaskState::Failed);
    assert!(stopped.errors.iter().any(|error| error.message.contains("rolled back to version 1")), "{stopped:?}");
    assert_eq!(module.table().await.value.blocked_by, Some(running), "its rows are in no version");

    let submit = module.submit(LoadMode::Full).await.expect_err("rolled back");
    assert_eq!(submit.to_string(), "table `t` is rolled back to version 1: release it first");
    let start = module.refusal(|view| txn::start_task(view, TABLE, waiting, 9)).await;
    assert!(matches!(start, Refusal::RolledBack { .. }));
    let released = module.change(|view| txn::release(view, TABLE, Some(Epoch(3)), 6)).await;
    assert_eq!(released.version.kind, VersionKind::Release { of: Version(1) });
    assert_eq!((released.table.head, released.table.epoch), (Version(3), Epoch(4)));
    // What lay between is never used again.
    let goal = module.refusal(|view| txn::rollback(view, TABLE, Some(Version(2)), None, 7)).await;
    assert_eq!(goal, Refusal::Quarantined { table: TABLE.into(), version: Version(2) });
    let pin = module.refusal(|view| txn::pin(view, TABLE, Version(2), "keep")).await;
    assert!(matches!(pin, Refusal::Quarantined { .. }));
    module.change(|view| txn::pin(view, TABLE, Version(1), "keep")).await;
    module.start(waiting).await;
}

#[tokio::test]
async fn rollbacks_that_make_no_sense_are_refused() {
    let mut module = Module::new().await;
    let rollback = |to: Option<u64>, expected: Option<u64>| {
        move |view: &fkv_meta::View| txn::rollback(view, TABLE, to.map(Version), expected.map(Epoch), 5)
    };
    assert_eq!(module.refusal(rollback(Some(1), None)).await, Refusal::NeverShown(TABLE.into()));
    module.load(1).await;
    assert_eq!(module.refusal(rollback(None, None)).await, Refusal::NoPrevious(TABLE.into()));
    module.load(2).await;
    assert!(matches!(module.refusal(rollback(Some(2), None)).await, Refusal::AlreadyTarget { .. }));
    assert!(matches!(module.refusal(rollback(Some(9), None)).await, Refusal::NoVersion { .. }));
    let stale = module.refusal(rollback(Some(1), Some(1))).await;
    assert_eq!(
        (stale.kind(), stale.to_string()),
        (RefusalKind::Stale, "table `t` is at epoch 2, not 1: look at it again".to_owned())
    );
    assert_eq!(module.refusal(|view| txn::release(view, TABLE, None, 6)).await, Refusal::NotRolledBack(TABLE.into()));
    let elsewhere = module.refusal(|view| txn::rollback(view, "u", None, None, 5)).await;
    assert_eq!(elsewhere.kind(), RefusalKind::NotFound);
}

#[tokio::test]
async fn a_first_load_that_cannot_be_aligned_leaves_nothing_but_the_need_of_a_full_load() {
    let mut module = Module::new().await;
    let (task, _) = module.commit(LoadMode::Full, 1).await;
    let failed = module.change(|view| txn::fail_alignment(view, TABLE, "two servers are too small", 5)).await;
    assert_eq!((failed.table.target, failed.table.full_required), (None, true));
    let record = module.task(task.0).await.value;
    assert_eq!(record.state, TaskState::Failed);
    assert!(record.errors.iter().any(|error| error.message.contains("too small")));
    let refused = module.submit(LoadMode::Incremental).await.expect_err("a full load must come first");
    assert_eq!(refused, Refusal::FullRequired(TABLE.into()));
    assert_eq!(module.load(2).await, Version(2), "numbers are never used again");
    assert!(!module.table().await.value.full_required);
    module.submit(LoadMode::Incremental).await.expect("something is shown now");
}

#[tokio::test]
async fn a_later_load_that_cannot_be_aligned_is_rolled_back() {
    let mut module = Module::new().await;
    module.load(1).await;
    let (task, _) = module.commit(LoadMode::Full, 2).await;
    let failed = module.change(|view| txn::fail_alignment(view, TABLE, "too slow", 5)).await;
    assert!(failed.at_once, "everybody still holds what is shown");
    assert_eq!(failed.stopped, Some(task));
    assert_eq!(failed.table.phase, TablePhase::RolledBack { to: Version(1), head: Version(2) });
    assert_eq!(module.shown().await, Some((Version(1), Epoch(3))));
    let again = module.refusal(|view| txn::fail_alignment(view, TABLE, "too slow", 5)).await;
    assert!(matches!(again, Refusal::RolledBack { .. }), "a rollback never fails this way");
    module.change(|view| txn::release(view, TABLE, None, 6)).await;
    let none = module.refusal(|view| txn::fail_alignment(view, TABLE, "too slow", 5)).await;
    assert!(matches!(none, Refusal::NothingToAlign(_)));
}

#[tokio::test]
async fn a_canary_holds_the_flip_back_until_it_is_promoted_or_aborted() {
    let mut module = Module::new().await;
    module.load(1).await;
    let set = |view: &fkv_meta::View| txn::set_canary(view, TABLE, &["a".to_owned()]);
    assert!(matches!(module.refusal(set).await, Refusal::NothingToAlign(_)));
    module.commit(LoadMode::Full, 2).await;
    module.report_all(&[content_of(1), content_of(2)]).await;
    let unknown = module.refusal(|view| txn::set_canary(view, TABLE, &["z".to_owned()])).await;
    assert_eq!(unknown, Refusal::NoSect("z".into()));
    let canary = module.change(set).await.canary.expect("set");
    assert_eq!((canary.epoch, canary.content, canary.sects), (Epoch(2), content_of(2), vec!["a".to_owned()]));
    assert!(matches!(module.refusal(|view| txn::flip(view, TABLE, 4)).await, Refusal::CanarySet(_)));
    module.change(|view| txn::promote_canary(view, TABLE)).await;
    assert!(matches!(module.refusal(|view| txn::promote_canary(view, TABLE)).await, Refusal::NoCanary(_)));
    module.flip().await;

    module.commit(LoadMode::Full, 3).await;
    module.change(set).await;
    let aborted = module.change(|view| txn::abort_canary(view, TABLE, "more errors", 5)).await;
    assert_eq!((aborted.table.canary, aborted.at_once), (None, true));
    assert_eq!(module.shown().await, Some((Version(2), Epoch(4))));
}

#[tokio::test]
async fn a_report_that_arrives_late_does_not_replace_its_successor() {
    let mut module = Module::new().await;
    module.commit(LoadMode::Full, 1).await;
    module.report(&["b/1"], &[content_of(1)]).await;
    let standing = module.meta.report(&slot("b/1")).await.expect("read").expect("a report");
    // Its answer is lost on the way there, and the next one says that nothing is held any more.
    let late = txn::report(&module.meta.keys, &slot("b/1"), Some(standing.modified), &standing.value);
    module.report(&["b/1"], &[]).await;
    let newer = module.meta.report(&slot("b/1")).await.expect("read").expect("a report");
    assert_eq!(module.meta.run(late).await, Ok(TxnOutcome::Refused));
    // Nor does the first of all, which found none there.
    let first = txn::report(&module.meta.keys, &slot("b/1"), None, &standing.value);
    assert_eq!(module.meta.run(first).await, Ok(TxnOutcome::Refused));
    assert_eq!(module.meta.report(&slot("b/1")).await.expect("read"), Some(newer));
}

#[tokio::test]
async fn a_report_counts_only_while_its_incarnation_holds_the_claim() {
    let mut module = Module::new().await;
    module.commit(LoadMode::Full, 1).await;
    module.report_all(&[content_of(1)]).await;
    // The server of b/1 is restarted: the new incarnation has reported nothing yet.
    let old = module.meta.claim(&slot("b/1")).await.expect("read").expect("a claim").created.0;
    let new = module.claim(&slot("b/1")).await;
    assert!(new > old);
    let refusal = module.refusal(|view| txn::flip(view, TABLE, 4)).await;
    assert!(refusal.to_string().contains("b/1: its server has reported nothing yet"), "{refusal}");
    // A late report of the old incarnation changes nothing.
    let zombie = fkv_meta::record::Report {
        incarnation: old,
        generation: 1,
        tables: BTreeMap::from([(
            module.table().await.uid(),
            vec![fkv_meta::record::Held { content: content_of(1), version: Version(1) }],
        )]),
        problems: BTreeMap::new(),
    };
    let late = txn::report(&module.meta.keys, &slot("b/1"), None, &zombie);
    assert_eq!(module.meta.run(late).await, Ok(TxnOutcome::Refused));
    // Not even if it stood there: written by hand, past the compare.
    let by_hand = Txn { compares: vec![], ..txn::report(&module.meta.keys, &slot("b/1"), None, &zombie) };
    assert!(matches!(module.meta.run(by_hand).await, Ok(TxnOutcome::Committed(_))));
    let refusal = module.refusal(|view| txn::flip(view, TABLE, 4)).await;
    assert!(matches!(&refusal, Refusal::NotHeld { missing: 1, .. }), "{refusal}");
    module.report(&["b/1"], &[content_of(1)]).await;

    // The claim's lease ends.
    module.meta.store.revoke(module.lease).await.expect("revoked");
    let refusal = module.refusal(|view| txn::flip(view, TABLE, 4)).await;
    assert!(matches!(&refusal, Refusal::NotHeld { missing: 4, .. }), "{refusal}");
}

#[tokio::test]
async fn only_the_assigned_server_claims_a_slot() {
    let module = Module::new().await;
    let topology = module.meta.topology().await.expect("read").expect("a topology");
    let keys = &module.meta.keys;
    let claim = |server: &str| SlotClaim { server: server.into(), addr: "127.0.0.1:1".into() };
    let standing = module.meta.claim(&slot("a/0")).await.expect("read");
    let other = txn::claim_slot(keys, &topology, &slot("a/0"), None, &claim("b0"), module.lease);
    assert_eq!(other, Err(Refusal::NotAssigned { slot: slot("a/0"), server: "a0".into() }));
    let nowhere = txn::claim_slot(keys, &topology, &slot("a/7"), None, &claim("a0"), module.lease);
    assert_eq!(nowhere, Err(Refusal::NoSlot(slot("a/7"))));
    // The slot moves to another server while the former one's claim still stands.
    let moved = Assignment { server: "new".into(), addr: "127.0.0.1:2".into() };
    let mut module = module;
    let topology = module.change(|view| txn::reassign(view, &BTreeMap::from([(slot("a/0"), moved.clone())]))).await;
    assert_eq!(topology.generation, 2);
    let topology = module.meta.topology().await.expect("read").expect("a topology");
    let keys = &module.meta.keys;
    let held = txn::claim_slot(keys, &topology, &slot("a/0"), standing.as_ref(), &claim("new"), module.lease);
    assert_eq!(held, Err(Refusal::ClaimHeld { slot: slot("a/0"), server: "a0".into() }));
}

#[tokio::test]
async fn a_job_is_committed_by_one_attempt() {
    let mut module = Module::new().await;
    let task = module.submit(LoadMode::Full).await.expect("submitted");
    module.start(task).await;
    let token = module.lock(task).await;
    let (table, unplanned) = (module.table().await, module.task(task.0).await);
    module.freeze(task, token).await;
    let record = module.task(task.0).await;
    let plan = record.value.plan.clone().expect("frozen");
    let keys = module.meta.keys.clone();
    let claimant = txn::Claimant { worker: "another", lease: module.lease };
    for (record, plan) in [(&unplanned, plan.clone()), (&record, object("older"))] {
        let refused = txn::claim_job(&keys, &table, record, &plan, "slice-0", None, claimant);
        assert_eq!(refused, Err(Refusal::OtherPlan { table: TABLE.into(), task }), "only jobs of the plan are claimed");
    }
    let claim = |job: Option<&fkv_meta::Stamped<fkv_meta::record::JobRecord>>| {
        txn::claim_job(&keys, &table, &record, &plan, "slice-0", job, claimant)
    };
    let first = module.run(claim(None).expect("legal")).await.expect("claimed, without the lock of the task");
    let job = async || module.meta.job(table.uid(), task, "slice-0").await.expect("read").expect("claimed once");
    assert_eq!(module.run(claim(Some(&job().await)).expect("planned")).await, None, "the lock is held");
    let release = txn::release_lock(&keys, &table, task, "slice-0", first);
    module.meta.run(release).await.expect("a transaction");
    let second = module.run(claim(Some(&job().await)).expect("legal")).await.expect("claimed");
    let commit = |job: &fkv_meta::Stamped<fkv_meta::record::JobRecord>, token, output: &str| {
        txn::commit_job(&keys, &table, &record, "slice-0", job, token, object(output)).expect("planned")
    };
    assert_eq!(module.run(commit(&job().await, first, "zombie")).await, None);
    assert!(module.run(commit(&job().await, second, "good")).await.is_some());
    assert_eq!(job().await.value.state, JobState::Done { output: object("good") });
    assert_eq!(claim(Some(&job().await)), Err(Refusal::JobEnded("slice-0".into())));
    for bad in ["", "a/b", TASK_LOCK] {
        let claimed = txn::claim_job(&keys, &table, &record, &plan, bad, None, claimant);
        assert!(matches!(claimed, Err(Refusal::Name(_))), "{bad}");
    }
    // The task is cancelled: an open job can no longer be committed, failed or claimed.
    let other = txn::claim_job(&keys, &table, &record, &plan, "slice-1", None, claimant).expect("legal");
    let token = module.run(other).await.expect("claimed");
    let open = module.meta.job(table.uid(), task, "slice-1").await.expect("read").expect("claimed");
    let late = txn::commit_job(&keys, &table, &record, "slice-1", &open, token, object("late")).expect("planned");
    let word = txn::fail_job(&keys, &table, &record, ("slice-1", &open), token, error("late"), txn::Retry::MayHelp);
    let third = txn::claim_job(&keys, &table, &record, &plan, "slice-2", None, claimant).expect("legal");
    module.change(|view| txn::cancel_task(view, TABLE, task, 9)).await;
    assert_eq!(module.run(late).await, None);
    assert_eq!(module.run(word.expect("planned")).await, None, "a zombie leaves no word");
    assert_eq!(module.run(third).await, None);
    let cancelled = module.task(task.0).await;
    let refused = txn::fail_job(&keys, &table, &cancelled, ("slice-1", &open), token, error("x"), txn::Retry::MayHelp);
    assert!(matches!(refused, Err(Refusal::TaskIs { .. })), "{refused:?}");
}

#[tokio::test]
async fn a_job_fails_by_its_errors_or_when_too_many_workers_were_lost_to_it() {
    let mut module = Module::new().await;
    let task = module.submit(LoadMode::Full).await.expect("submitted");
    module.start(task).await;
    let token = module.lock(task).await;
    module.freeze(task, token).await;
    let (table, keys) = (module.table().await, module.meta.keys.clone());
    let uid = table.uid();
    let claimant = txn::Claimant { worker: "w", lease: module.lease };
    // Errors: on the job and on the task.
    for attempt in 1..=TaskRecord::ATTEMPTS {
        let record = module.task(task.0).await;
        let plan = record.value.plan.clone().expect("frozen");
        let before = module.meta.job(uid, task, "part-0").await.expect("read");
        let claim = txn::claim_job(&keys, &table, &record, &plan, "part-0", before.as_ref(), claimant);
        let token = module.run(claim.expect("legal")).await.expect("claimed");
        let job = module.meta.job(uid, task, "part-0").await.expect("read").expect("claimed");
        let why = error(&format!("store down {attempt}"));
        let failed = txn::fail_job(&keys, &table, &record, ("part-0", &job), token, why, txn::Retry::MayHelp);
        let failed = failed.expect("legal");
        let last = attempt == TaskRecord::ATTEMPTS;
        assert_eq!(failed.after.job.state, if last { JobState::Failed } else { JobState::Open });
        assert_eq!(failed.after.task.errors, failed.after.job.errors);
        assert!(module.run(failed).await.is_some());
    }
    let record = module.task(task.0).await;
    assert_eq!(record.value.errors.len(), TaskRecord::ATTEMPTS as usize);
    assert_eq!(record.value.state, TaskState::Running, "who holds the task fails it");
    let plan = record.value.plan.clone().expect("frozen");
    let job = module.meta.job(uid, task, "part-0").await.expect("read");
    let spent = txn::claim_job(&keys, &table, &record, &plan, "part-0", job.as_ref(), claimant);
    assert_eq!(spent, Err(Refusal::JobEnded("part-0".into())));
    // An error that no other attempt would mend.
    let claim = txn::claim_job(&keys, &table, &record, &plan, "part-1", None, claimant).expect("legal");
    let token = module.run(claim).await.expect("claimed");
    let job = module.meta.job(uid, task, "part-1").await.expect("read").expect("claimed");
    let why = txn::fail_job(&keys, &table, &record, ("part-1", &job), token, error("bad"), txn::Retry::Pointless);
    assert_eq!(why.expect("legal").after.job.state, JobState::Failed);
    // Workers that go without a word.
    for attempt in 1..=fkv_meta::record::JobRecord::CLAIMS {
        let before = module.meta.job(uid, task, "part-2").await.expect("read");
        let claim = txn::claim_job(&keys, &table, &record, &plan, "part-2", before.as_ref(), claimant);
        let claim = claim.expect("legal");
        assert_eq!(claim.after.attempt, attempt);
        let token = module.run(claim).await.expect("claimed");
        let release = txn::release_lock(&keys, &table, task, "part-2", token);
        module.meta.run(release).await.expect("a transaction");
    }
    let job = module.meta.job(uid, task, "part-2").await.expect("read");
    let spent = txn::claim_job(&keys, &table, &record, &plan, "part-2", job.as_ref(), claimant);
    assert!(matches!(spent, Err(Refusal::OutOfAttempts { .. })), "{spent:?}");
    // The view has the jobs of the task while it runs.
    let names = |view: &fkv_meta::View| view.jobs(uid, task).map(|(name, _)| name.to_owned()).collect::<Vec<_>>();
    let view = module.meta.view().await.expect("read");
    assert_eq!(names(&view), ["part-0", "part-1", "part-2"]);
    assert_eq!(view.job(uid, task, "part-0").map(|job| job.value.state.clone()), Some(JobState::Failed));
    module.change(|view| txn::cancel_task(view, TABLE, task, 9)).await;
    assert!(names(&module.meta.view().await.expect("read")).is_empty());
}

#[tokio::test]
async fn a_plan_once_frozen_stays() {
    let mut module = Module::new().await;
    let task = module.submit(LoadMode::Full).await.expect("submitted");
    module.start(task).await;
    let token = module.lock(task).await;
    module.freeze(task, token).await;
    let (table, record) = (module.table().await, module.task(task.0).await);
    let keys = &module.meta.keys;
    let freeze =
        |as_of, plan: &str| txn::freeze_plan(keys, &table, &record, token, as_of, object("inputs"), object(plan));
    assert!(freeze(100, "plan").is_ok(), "the same again, after an answer was lost");
    assert!(matches!(freeze(101, "plan"), Err(Refusal::Invalid(_))));
    assert!(matches!(freeze(100, "other"), Err(Refusal::Invalid(_))));
}

#[tokio::test]
async fn sects_join_take_over_and_leave() {
    let mut module = Module::new().await;
    module.load(1).await;
    module.commit(LoadMode::Full, 2).await;
    module.change(|view| txn::add_sect(view, "c", servers("c", 1))).await;
    let exists = module.refusal(|view| txn::add_sect(view, "c", servers("c", 1))).await;
    assert_eq!(exists, Refusal::SectExists("c".into()));
    let illegal = module.refusal(|view| txn::add_sect(view, "d", servers("d", 7))).await;
    assert!(illegal.to_string().contains("7 roles are not possible"), "{illegal}");
    let to = |sect: &str, state| BTreeMap::from([(sect.to_owned(), state)]);
    let swap = BTreeMap::from([("c".to_owned(), SectState::Active), ("a".to_owned(), SectState::Retired)]);
    module.claim(&slot("c/0")).await;
    module.report(&["c/0"], &[content_of(1)]).await;
    let early = module.refusal(|view| txn::change_sects(view, &swap)).await;
    assert!(matches!(early, Refusal::SlotLacks { version: Version(2), .. }), "it must hold the target too: {early:?}");
    // It is not required while it joins.
    module.report_all(&[content_of(1), content_of(2)]).await;
    module.flip().await;
    module.report(&["c/0"], &[content_of(2)]).await;
    let topology = module.change(|view| txn::change_sects(view, &swap)).await;
    assert_eq!(topology.active_slots().collect::<Vec<_>>(), [slot("b/0"), slot("b/1"), slot("c/0")]);
    let back = module.refusal(|view| txn::change_sects(view, &to("a", SectState::Active))).await;
    assert_eq!(back.to_string(), "sect `a` is retired: add a sect under a new name instead");
    assert!(matches!(module.refusal(|view| txn::remove_sect(view, "b")).await, Refusal::SectIs { .. }));
    module.change(|view| txn::remove_sect(view, "a")).await;
    module.change(|view| txn::change_sects(view, &to("b", SectState::Shielded))).await;
    module.change(|view| txn::change_sects(view, &to("b", SectState::Active))).await;
}

#[tokio::test]
async fn versions_in_use_are_not_given_to_gc() {
    let mut module = Module::new().await;
    for content in 1..=4 {
        module.load(content).await;
    }
    let tombstone = |version: u64| move |view: &fkv_meta::View| txn::tombstone(view, TABLE, Version(version));
    assert!(matches!(module.refusal(tombstone(4)).await, Refusal::InUse { .. }), "shown");
    assert!(matches!(module.refusal(tombstone(3)).await, Refusal::InUse { .. }), "retained");
    module.change(|view| txn::pin(view, TABLE, Version(2), "audit")).await;
    assert!(matches!(module.refusal(tombstone(2)).await, Refusal::InUse { .. }), "pinned");
    module.change(|view| txn::unpin(view, TABLE, Version(2), "audit")).await;
    // A rollback to the version that is planned meanwhile wins, or loses cleanly.
    let plan = txn::tombstone(&module.view().await, TABLE, Version(2)).expect("legal");
    module.rollback(2).await;
    assert_eq!(module.run(plan).await, None);
    module.change(tombstone(1)).await;
    let dead = module.refusal(|view| txn::rollback(view, TABLE, Some(Version(1)), None, 5)).await;
    assert!(matches!(dead, Refusal::NotLive { .. }), "{dead:?}");
    assert!(matches!(module.refusal(|view| txn::forget_version(view, TABLE, Version(3))).await, Refusal::InUse { .. }));
    module.change(|view| txn::forget_version(view, TABLE, Version(1))).await;
    assert!(matches!(module.refusal(tombstone(1)).await, Refusal::NoVersion { .. }));
}

#[tokio::test]
async fn a_table_made_again_shares_nothing_with_the_old_one() {
    let mut module = Module::new().await;
    module.load(1).await;
    let old = module.table().await.uid();
    let task = module.submit(LoadMode::Full).await.expect("submitted");
    module.start(task).await;
    let stale = module.refusal(|view| txn::drop_table(view, TABLE, Some(Epoch(9)), 9)).await;
    assert_eq!(stale.kind(), RefusalKind::Stale);
    module.change(|view| txn::drop_table(view, TABLE, Some(Epoch(1)), 9)).await;
    let view = module.view().await;
    assert!(view.table(TABLE).is_none() && view.table_by_uid(old).is_none());
    assert_eq!(view.dropped().map(|(uid, _)| uid).collect::<Vec<_>>(), [old]);
    assert_eq!(view.task(old, task).map(|task| task.value.state), Some(TaskState::Cancelled));
    module.change(|view| txn::create_table(view, new_table(TABLE), 10)).await;
    let new = module.table().await;
    assert!(new.uid() > old);
    assert_eq!((new.value.head, module.view().await.versions(new.uid()).count()), (Version(0), 0));
    let twice = module.refusal(|view| txn::create_table(view, new_table(TABLE), 10)).await;
    assert_eq!(twice, Refusal::TableExists(TABLE.into()));
}

#[tokio::test]
async fn clusters_that_cannot_work_are_refused() {
    let module = Module::bare().await;
    let sects = BTreeMap::from([("a".to_owned(), servers("a", 2))]);
    assert_eq!(module.refusal(|view| txn::init_cluster(view, sects.clone())).await, Refusal::TopologyExists);
    let empty = fkv_meta::View::empty(module.meta.keys.clone());
    let init = |name: &str, servers: Vec<Assignment>| {
        txn::init_cluster(&empty, BTreeMap::from([(name.to_owned(), servers)])).expect_err("refused")
    };
    let at = |addr: &str| vec![Assignment { server: "s".into(), addr: addr.into() }];
    assert!(init("a", servers("a", 7)).to_string().contains("roles"), "illegal role counts name the legal ones");
    assert!(matches!(init("a", vec![]), Refusal::Invalid(_)));
    assert!(matches!(init("a/b", at("h:1")), Refusal::Name(_)));
    for addr in ["", "h", "h:", "h:0", ":7000", "h:70000"] {
        assert!(matches!(init("a", at(addr)), Refusal::Invalid(_)), "{addr}");
    }
    assert!(matches!(txn::init_cluster(&empty, BTreeMap::new()), Err(Refusal::Invalid(_))));
}
