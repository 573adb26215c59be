//! Random sequences of legal and illegal changes, planned from fresh and from stale views, over an embedded store. After
//! every committed change the invariants of the design that metadata can express are checked, by code that does not
//! share the state machine's own checks.

use std::collections::BTreeMap;

use fkv_formats::id::{ContentId, PART_COUNT, Part, Slot, TableUid, TaskId, Version};
use fkv_formats::route::RoleTable;
use fkv_meta::record::{
    Label, LoadMode, SectState, TablePhase, TableRecord, TaskState, VersionKind, VersionRecord, VersionState,
};
use fkv_meta::{Stamped, View};

use crate::world::{self, World};

/// What has ever been seen; nothing of it may change.
#[derive(Default)]
struct Memory {
    contents: BTreeMap<(TableUid, Version), ContentId>,
    outputs: BTreeMap<(TableUid, TaskId), Version>,
}

/// Whether a version was left behind by a release.
fn quarantined(table: &TableRecord, version: Version, content: ContentId) -> bool {
    let within = |q: &&fkv_meta::record::Quarantine| q.after < version && version <= q.through;
    table.quarantine.iter().filter(within).any(|q| q.exempt != content)
}

fn required(view: &View, table: &TableRecord) -> Vec<Slot> {
    let Some(topology) = view.topology() else { return Vec::new() };
    let active = topology.value.sects.iter().filter(|(_, sect)| sect.state == SectState::Active);
    active
        .flat_map(|(name, sect)| {
            (0..sect.slots.len()).map(move |role| format!("{name}/{role}").parse::<Slot>().expect("a slot"))
        })
        .filter(|slot| !table.exclusions.contains_key(slot))
        .collect()
}

/// Whether all required slots have reported `content` under claims that exist, as of the view.
fn all_hold(view: &View, table: &Stamped<TableRecord>, content: ContentId) -> bool {
    let slots = required(view, &table.value);
    let holds = |slot: &Slot| {
        let (Some(claim), Some(report)) = (view.claim(slot), view.report(slot)) else { return false };
        let held = report.value.tables.get(&table.uid());
        claim.created.0 == report.value.incarnation && held.is_some_and(|h| h.iter().any(|h| h.content == content))
    };
    !slots.is_empty() && slots.iter().all(holds)
}

fn check_exclusions(view: &View, table: &TableRecord) {
    let Some(topology) = view.topology() else { return };
    let active: Vec<_> = topology.value.sects.iter().filter(|(_, sect)| sect.state == SectState::Active).collect();
    assert!(!active.is_empty(), "no active sect is left");
    if table.exclusions.is_empty() {
        return;
    }
    let routes: Vec<RoleTable> = active
        .iter()
        .map(|(_, sect)| RoleTable::new(u16::try_from(sect.slots.len()).expect("few")).expect("legal"))
        .collect();
    for part in (0..PART_COUNT).map(Part) {
        let serving = active.iter().zip(&routes).filter(|((name, _), route)| {
            let slot = Slot { sect: (*name).clone(), role: route.role_of(part) };
            !table.exclusions.contains_key(&slot)
        });
        let least = active.len().div_ceil(2).max(1);
        assert!(serving.count() >= least, "part {part} of {} is below its budget", table.name);
    }
}

fn check_state(view: &View, table: &Stamped<TableRecord>, memory: &mut Memory) {
    let (uid, table_record) = (table.uid(), &table.value);
    let record = table_record;
    // Versions: dense numbers, one content each, all up to the head.
    let versions: Vec<&VersionRecord> = view.versions(uid).map(|version| &version.value).collect();
    for version in &versions {
        assert!(version.version.0 >= 1 && version.version <= record.head, "{version:?}");
        let known = *memory.contents.entry((uid, version.version)).or_insert(version.content);
        assert_eq!(known, version.content, "version {} has changed its content", version.version);
        assert!(!version.forms.is_empty());
    }
    let known = memory.contents.range((uid, Version(0))..=(uid, Version(u64::MAX))).count() as u64;
    assert_eq!(known, record.head.0, "numbers of versions are dense");
    let live = |version: Version| view.version(uid, version).is_some_and(|v| v.value.state == VersionState::Live);
    for label in [record.target, record.aligned].into_iter().flatten() {
        assert!(live(label.version), "{label:?} is not live");
        assert_eq!(memory.contents.get(&(uid, label.version)), Some(&label.content));
        assert!(label.epoch <= record.epoch);
    }
    if record.head.0 > 0 {
        assert!(live(record.head), "the head is not live");
    }
    if let (Some(target), Some(aligned)) = (record.target, record.aligned) {
        assert!(aligned.epoch <= target.epoch);
    }
    match record.phase {
        TablePhase::Normal => {
            for label in [record.target, record.aligned].into_iter().flatten() {
                // While a release waits for its flip, what is shown is the same content under an older number.
                let same = record.target.is_some_and(|target| target.content == label.content);
                assert!(same || !quarantined(record, label.version, label.content), "{label:?}");
            }
            assert!(record.target.is_none_or(|target| target.version == record.head));
        }
        TablePhase::RolledBack { to, head } => {
            assert_eq!(head, record.head, "nothing is committed while rolled back");
            assert!(live(to) && record.target.map(|target| target.version) == Some(to));
            assert_eq!(record.running, None, "nothing runs while rolled back");
        }
    }
    if record.full_required {
        assert_eq!((record.target, record.aligned), (None, None));
    }
    if let Some(canary) = &record.canary {
        assert_eq!(record.target.map(|target| (target.epoch, target.content)), Some((canary.epoch, canary.content)));
        assert_ne!(record.aligned.map(|aligned| aligned.epoch), Some(canary.epoch));
    }
    // Tasks: one at work at most, the queue is what is queued.
    let tasks: Vec<_> = view.tasks(uid).map(|task| &task.value).collect();
    let of = |states: &[TaskState]| -> Vec<TaskId> {
        tasks.iter().filter(|task| states.contains(&task.state)).map(|task| task.task).collect()
    };
    assert_eq!(of(&[TaskState::Running, TaskState::Aligning]), record.running.into_iter().collect::<Vec<_>>());
    let mut queue = record.queue.clone();
    queue.sort();
    assert_eq!(of(&[TaskState::Queued]), queue);
    assert!(record.queue.len() <= TableRecord::QUEUE_MAX);
    for task in tasks {
        assert!(task.attempt <= task.attempts_max());
        if let Some(version) = task.version {
            assert_eq!(*memory.outputs.entry((uid, task.task)).or_insert(version), version, "one version per task");
        }
    }
    if let Some(by) = record.blocked_by {
        let state = view.task(uid, by).expect("the blocking task").value.state;
        assert!(matches!(state, TaskState::Failed | TaskState::Queued | TaskState::Running), "{state:?}");
    }
    check_exclusions(view, record);
}

fn may_follow(from: TaskState, to: TaskState) -> bool {
    match from {
        TaskState::Queued => matches!(to, TaskState::Running | TaskState::Cancelled | TaskState::Skipped),
        TaskState::Running => matches!(to, TaskState::Aligning | TaskState::Failed | TaskState::Cancelled),
        TaskState::Aligning => matches!(to, TaskState::Finished | TaskState::Failed | TaskState::Cancelled),
        TaskState::Failed => matches!(to, TaskState::Queued | TaskState::Skipped),
        TaskState::Finished | TaskState::Cancelled | TaskState::Skipped => false,
    }
}

/// Checks one step of a table. `planned_from` is the view the change was planned from.
fn check_step(before: &View, after: &View, planned_from: &View, old: &TableRecord, new: &Stamped<TableRecord>) {
    let (uid, table) = (new.uid(), &new.value);
    assert!(table.epoch >= old.epoch && table.epoch.0 <= old.epoch.0 + 1, "epochs grow one by one");
    assert!(table.head >= old.head && table.head.0 <= old.head.0 + 1, "heads grow one by one");
    assert!(table.next_task >= old.next_task && table.last_full >= old.last_full);
    if table.target != old.target && table.target.is_some() {
        assert_eq!(table.target.map(|target| target.epoch), Some(table.epoch));
        assert!(table.epoch > old.epoch, "a new target has a new epoch");
    }
    let epoch = |label: Option<Label>| label.map_or(0, |label| label.epoch.0);
    assert!(epoch(table.aligned) >= epoch(old.aligned), "what is shown never gets older");
    if table.aligned != old.aligned {
        let shown = table.aligned.expect("what is shown never becomes nothing");
        assert_eq!(table.aligned, table.target, "only the target becomes shown");
        let from = planned_from.table_by_uid(uid).expect("the table it was planned from");
        assert!(all_hold(planned_from, from, shown.content), "{shown:?} was aligned but not held by all");
        assert!(old.canary.is_none() || table.phase != old.phase, "a canary holds the flip back");
    }
    if table.head > old.head {
        let version = &after.version(uid, table.head).expect("the new head").value;
        match (version.kind, old.phase) {
            (VersionKind::Release { of }, TablePhase::RolledBack { to, head }) => {
                assert_eq!((of, table.phase), (to, TablePhase::Normal));
                let released = &before.version(uid, to).expect("the version rolled back to").value;
                assert_eq!(version.content, released.content);
                for left in after.versions(uid).filter(|v| v.value.state == VersionState::Live) {
                    let behind = left.value.version > to && left.value.version <= head;
                    if behind && left.value.content != released.content {
                        assert!(quarantined(table, left.value.version, left.value.content));
                    }
                }
            }
            (kind, TablePhase::Normal) => {
                let task = version.task.and_then(|task| before.task(uid, task)).expect("the task that built it");
                assert_eq!((task.value.state, old.running), (TaskState::Running, Some(task.value.task)));
                assert!(!old.full_required || kind == VersionKind::Full);
                match kind {
                    VersionKind::Full => assert_eq!(task.value.spec.mode, LoadMode::Full),
                    VersionKind::Increment { base } => {
                        assert_eq!(base, old.head, "an increment builds on the head");
                        let base = &before.version(uid, base).expect("the base").value;
                        assert_eq!(base.state, VersionState::Live);
                        assert!(!quarantined(old, base.version, base.content));
                        assert!(old.blocked_by.is_none_or(|by| by == task.value.task));
                        assert!(task.value.task >= old.last_full, "an overtaken increment was committed");
                    }
                    VersionKind::Release { .. } => panic!("a release of a table that is not rolled back"),
                }
            }
            (_, TablePhase::RolledBack { .. }) => panic!("a commit while rolled back"),
        }
    }
    if let (TablePhase::RolledBack { .. }, TablePhase::Normal) = (old.phase, table.phase) {
        assert!(table.head > old.head, "only a release ends a rollback");
    }
    if let TablePhase::RolledBack { to, .. } = table.phase
        && table.phase != old.phase
    {
        let goal = &before.version(uid, to).expect("the goal").value;
        assert!(goal.state == VersionState::Live && !quarantined(old, to, goal.content));
    }
    for task in after.tasks(uid) {
        if let Some(was) = before.task(uid, task.value.task) {
            let (from, to) = (was.value.state, task.value.state);
            assert!(from == to || may_follow(from, to), "task {}: {from:?} to {to:?}", task.value.task);
            assert!(task.value.attempt >= was.value.attempt);
        }
    }
    for version in before.versions(uid) {
        match after.version(uid, version.value.version) {
            None => assert_eq!(version.value.state, VersionState::Tombstoned, "only tombstoned versions go"),
            Some(now) => {
                let was_dead = version.value.state == VersionState::Tombstoned;
                assert!(!was_dead || now.value.state == VersionState::Tombstoned, "no version comes back");
                if now.value.pins.len() > version.value.pins.len() {
                    assert!(!quarantined(old, now.value.version, now.value.content), "a quarantined version is pinned");
                }
            }
        }
    }
}

fn check_topology_step(before: &View, after: &View) {
    let (Some(old), Some(new)) = (before.topology(), after.topology()) else { return };
    if old.value == new.value {
        return;
    }
    assert_eq!(new.value.generation, old.value.generation + 1);
    for (name, sect) in &new.value.sects {
        let newly = sect.state == SectState::Active
            && old.value.sects.get(name).is_some_and(|sect| sect.state != SectState::Active);
        if !newly {
            continue;
        }
        for table in after.tables() {
            for label in [table.value.aligned, table.value.target].into_iter().flatten() {
                let slots = required(after, &table.value).into_iter().filter(|slot| slot.sect == *name);
                for slot in slots {
                    let report = after.report(&slot).map(|report| &report.value);
                    let held = report.and_then(|report| report.tables.get(&table.uid()));
                    let holds = held.is_some_and(|held| held.iter().any(|held| held.content == label.content));
                    assert!(holds, "{slot} was activated without {label:?}");
                }
            }
        }
    }
}

async fn run(seed: u64, steps: usize) -> BTreeMap<&'static str, usize> {
    let mut world = World::new(seed).await;
    let mut memory = Memory::default();
    let mut before = world.view().await;
    for _ in 0..steps {
        let planned_from = world.step().await;
        let after = world.view().await;
        for table in after.tables() {
            if let Some(old) = before.table_by_uid(table.uid()) {
                check_step(&before, &after, planned_from.as_ref().unwrap_or(&before), &old.value, table);
            }
            check_state(&after, table, &mut memory);
        }
        check_topology_step(&before, &after);
        assert_eq!(after.unreadable().count(), 0);
        before = after;
    }
    world.committed
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_sequence_of_changes_breaks_an_invariant() {
    const SEEDS: u64 = 60;
    const STEPS: usize = 500;
    let mut committed: BTreeMap<&'static str, usize> = BTreeMap::new();
    for seed in 0..SEEDS {
        println!("seed {seed}");
        for (change, count) in run(seed, STEPS).await {
            *committed.entry(change).or_default() += count;
        }
    }
    println!("{committed:#?}");
    // A kind of change that never commits is not tested at all.
    for change in world::CHANGES {
        let count = committed.get(change).copied().unwrap_or(0);
        assert!(count >= 10, "`{change}` was committed {count} times only: {committed:#?}");
    }
}
