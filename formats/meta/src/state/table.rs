//! What a table's record becomes.

use fkv_formats::id::{ContentId, Epoch, TaskId, Version};

use crate::record::{Label, LoadMode, Quarantine, TablePhase, TableRecord, VersionKind, VersionRecord, VersionState};
use crate::refusal::Refusal;

/// Whether a version with this content was left behind by a release.
#[must_use]
pub fn is_quarantined(table: &TableRecord, version: Version, content: ContentId) -> bool {
    table.quarantine.iter().any(|range| covers(range, version, content))
}

fn covers(range: &Quarantine, version: Version, content: ContentId) -> bool {
    version > range.after && version <= range.through && content != range.exempt
}

/// Checks the epoch the caller saw.
pub(crate) fn check_epoch(table: &TableRecord, expected: Option<Epoch>) -> Result<(), Refusal> {
    match expected {
        Some(expected) if expected != table.epoch => {
            Err(Refusal::Epoch { table: table.name.clone(), expected, found: table.epoch })
        }
        _ => Ok(()),
    }
}

/// Checks that commits and other writes are allowed.
pub(crate) fn check_normal(table: &TableRecord) -> Result<(), Refusal> {
    match table.phase {
        TablePhase::Normal => Ok(()),
        TablePhase::RolledBack { to, .. } => Err(Refusal::RolledBack { table: table.name.clone(), to }),
    }
}

/// Checks that a version is live.
pub(crate) fn check_live(table: &TableRecord, version: &VersionRecord) -> Result<(), Refusal> {
    match version.state {
        VersionState::Live => Ok(()),
        VersionState::Tombstoned => Err(Refusal::NotLive { table: table.name.clone(), version: version.version }),
    }
}

/// Checks that a version may become a base, a pin or the goal of a rollback.
pub(crate) fn check_usable(table: &TableRecord, version: &VersionRecord) -> Result<(), Refusal> {
    check_live(table, version)?;
    if is_quarantined(table, version.version, version.content) {
        return Err(Refusal::Quarantined { table: table.name.clone(), version: version.version });
    }
    Ok(())
}

/// The target, if servers do not all show it yet.
pub(crate) fn unaligned_target(table: &TableRecord) -> Option<Label> {
    table.target.filter(|target| table.aligned.is_none_or(|aligned| aligned.epoch != target.epoch))
}

/// The table with a new version as head and target.
pub(crate) fn committed(table: &TableRecord, task: TaskId, mode: LoadMode, build: (Version, ContentId)) -> TableRecord {
    let (version, content) = build;
    let epoch = table.epoch.next();
    let mut after =
        TableRecord { head: version, epoch, target: Some(Label { version, content, epoch }), ..table.clone() };
    after.canary = None;
    match mode {
        LoadMode::Full => {
            after.full_required = false;
            after.blocked_by = None;
            after.last_full = after.last_full.max(task);
        }
        LoadMode::Incremental => after.blocked_by = after.blocked_by.filter(|by| *by != task),
    }
    after
}

/// The table showing its target.
pub(crate) fn aligned(table: &TableRecord) -> TableRecord {
    let shown_before = table.aligned.filter(|old| table.target.is_none_or(|new| new.content != old.content));
    TableRecord { aligned: table.target, previous: shown_before.or(table.previous), ..table.clone() }
}

/// The table rolled back to a usable version, not yet showing it.
pub(crate) fn rolled_back(table: &TableRecord, to: &VersionRecord) -> TableRecord {
    let head = match table.phase {
        TablePhase::Normal => table.head,
        TablePhase::RolledBack { head, .. } => head,
    };
    let epoch = table.epoch.next();
    TableRecord {
        epoch,
        phase: TablePhase::RolledBack { to: to.version, head },
        target: Some(Label { version: to.version, content: to.content, epoch }),
        canary: None,
        ..table.clone()
    }
}

/// The table after its first commit could not be aligned: there is nothing to go back to.
pub(crate) fn without_target(table: &TableRecord) -> TableRecord {
    TableRecord { target: None, canary: None, full_required: true, ..table.clone() }
}

/// The version that ends a rollback to `of`.
pub(crate) fn release_of(table: &TableRecord, of: &VersionRecord, now_ms: u64) -> VersionRecord {
    VersionRecord {
        version: table.head.next(),
        content: of.content,
        kind: VersionKind::Release { of: of.version },
        state: VersionState::Live,
        schema: of.schema.clone(),
        as_of: of.as_of,
        task: None,
        created_ms: now_ms,
        rows: of.rows,
        bytes: of.bytes,
        forms: of.forms.clone(),
        pins: Vec::new(),
        references: 0,
    }
}

/// The table after its rollback to `of` has been released as version `new`. Quarantined ranges without a live version
/// are forgotten: versions never come back to life, nor are their numbers used again.
pub(crate) fn released<'a>(
    table: &TableRecord,
    new: &VersionRecord,
    (of, head): (Version, Version),
    live: impl Iterator<Item = &'a VersionRecord> + Clone,
) -> TableRecord {
    let epoch = table.epoch.next();
    let mut after = TableRecord {
        head: new.version,
        epoch,
        phase: TablePhase::Normal,
        target: Some(Label { version: new.version, content: new.content, epoch }),
        ..table.clone()
    };
    after.quarantine.push(Quarantine { after: of, through: head, exempt: new.content });
    after.quarantine.retain(|range| live.clone().any(|version| covers(range, version.version, version.content)));
    after.previous = after.previous.filter(|label| !is_quarantined(&after, label.version, label.content));
    after
}

/// Why a version is still needed; `None` if GC may have it. `versions` are all of the table's.
pub(crate) fn need<'a>(
    table: &TableRecord,
    version: &VersionRecord,
    versions: impl DoubleEndedIterator<Item = &'a VersionRecord>,
) -> Option<&'static str> {
    let in_use = |version: Version| {
        let shown = |label: &Option<Label>| label.is_some_and(|label| label.version == version);
        let pair = match table.phase {
            TablePhase::RolledBack { to, head } => version == to || version == head,
            TablePhase::Normal => false,
        };
        match () {
            () if version == table.head => Some("it is the head"),
            () if shown(&table.target) => Some("it is the target"),
            () if shown(&table.aligned) => Some("it is what servers show"),
            () if pair => Some("the table is rolled back to it or from it"),
            () => None,
        }
    };
    if let Some(why) = in_use(version.version) {
        return Some(why);
    }
    if !version.pins.is_empty() {
        return Some("it is pinned");
    }
    let retained = versions
        .rev()
        .filter(|other| other.state == VersionState::Live)
        .filter(|other| !is_quarantined(table, other.version, other.content))
        .filter(|other| in_use(other.version).is_none())
        .take(usize::try_from(table.retain_versions).unwrap_or(usize::MAX))
        .any(|other| other.version == version.version);
    retained.then_some("it is one of the newest versions, which are retained")
}

#[cfg(test)]
pub(crate) mod tests {
    use std::collections::BTreeMap;

    use fkv_formats::id::Digest;
    use fkv_formats::schema::{F16Overflow, KeyType, Schema, Storage, TableKind, ValueType};

    use super::*;
    use crate::record::{FormKind, FormRef, ObjectRef, RetainOld};

    pub(crate) fn schema() -> Schema {
        Schema {
            kind: TableKind::Mem,
            key: KeyType::U64,
            value: ValueType::F32(1),
            storage: Storage::Native,
            f16_overflow: F16Overflow::Reject,
            ttl: false,
        }
    }

    pub(crate) fn table() -> TableRecord {
        TableRecord {
            name: "t".into(),
            schema: schema(),
            retain_versions: 1,
            retain_old: RetainOld::Ram,
            filter: Default::default(),
            created_ms: 1,
            head: Version(0),
            epoch: Epoch(0),
            phase: TablePhase::Normal,
            target: None,
            aligned: None,
            previous: None,
            next_task: TaskId(1),
            queue: Vec::new(),
            running: None,
            blocked_by: None,
            last_full: TaskId(0),
            full_required: false,
            exclusions: BTreeMap::new(),
            canary: None,
            quarantine: Vec::new(),
        }
    }

    pub(crate) fn content(of: u8) -> ContentId {
        ContentId([of; 32])
    }

    pub(crate) fn version(number: u64, of: u8) -> VersionRecord {
        let object = ObjectRef { path: format!("v{number}"), len: 1, sha256: Digest([of; 32]) };
        VersionRecord {
            version: Version(number),
            content: content(of),
            kind: VersionKind::Full,
            state: VersionState::Live,
            schema: schema(),
            as_of: 0,
            task: None,
            created_ms: 1,
            rows: 1,
            bytes: 1,
            forms: vec![FormRef { kind: FormKind::Full, object }],
            pins: Vec::new(),
            references: 0,
        }
    }

    fn label(version: u64, of: u8, epoch: u64) -> Option<Label> {
        Some(Label { version: Version(version), content: content(of), epoch: Epoch(epoch) })
    }

    #[test]
    fn a_release_quarantines_what_it_leaves_behind_but_not_its_own_content() {
        // Version 3 was itself a release of version 1: the same content.
        let versions = [version(1, 1), version(2, 2), version(3, 1), version(4, 4)];
        let shown = TableRecord { head: Version(4), epoch: Epoch(4), aligned: label(4, 4, 4), ..table() };
        let back = rolled_back(&TableRecord { target: label(4, 4, 4), ..shown }, &versions[0]);
        assert_eq!(back.phase, TablePhase::RolledBack { to: Version(1), head: Version(4) });
        let back = aligned(&back);
        assert_eq!(back.previous, label(4, 4, 4));
        let new = release_of(&back, &versions[0], 9);
        let after = released(&back, &new, (Version(1), Version(4)), versions.iter());
        assert_eq!((after.head, after.epoch, after.phase), (Version(5), Epoch(6), TablePhase::Normal));
        let quarantined: Vec<u64> = versions
            .iter()
            .filter(|version| is_quarantined(&after, version.version, version.content))
            .map(|version| version.version.0)
            .collect();
        assert_eq!(quarantined, [2, 4]);
        assert_eq!(after.previous, None, "a quarantined version is no goal, not even by default");
        assert!(!is_quarantined(&after, new.version, new.content));
    }

    #[test]
    fn quarantined_ranges_go_when_nothing_live_is_left_in_them() {
        let back = TableRecord {
            head: Version(9),
            quarantine: vec![Quarantine { after: Version(1), through: Version(3), exempt: content(1) }],
            ..table()
        };
        let new = release_of(&back, &version(8, 8), 9);
        let left =
            |live: &[VersionRecord]| released(&back, &new, (Version(8), Version(9)), live.iter()).quarantine.len();
        assert_eq!(left(&[version(8, 8), version(9, 9)]), 1);
        assert_eq!(left(&[version(3, 3), version(8, 8), version(9, 9)]), 2);
        assert_eq!(left(&[version(8, 8)]), 0, "rolled forward to the head: nothing is left behind");
    }

    #[test]
    fn a_version_is_needed_while_anything_refers_to_it() {
        let versions: Vec<VersionRecord> =
            (1..=6).map(|number| version(number, u8::try_from(number).unwrap())).collect();
        let table = TableRecord {
            head: Version(6),
            target: label(6, 6, 6),
            aligned: label(5, 5, 5),
            retain_versions: 2,
            ..table()
        };
        let free = |table: &TableRecord, versions: &[VersionRecord]| -> Vec<u64> {
            let free = versions.iter().filter(|version| need(table, version, versions.iter()).is_none());
            free.map(|version| version.version.0).collect()
        };
        assert_eq!(free(&table, &versions), [1, 2], "4 and 3 are retained");
        let mut pinned = versions.clone();
        pinned[0].pins.push("audit".into());
        assert_eq!(free(&table, &pinned), [2]);
        let back = TableRecord { phase: TablePhase::RolledBack { to: Version(2), head: Version(6) }, ..table };
        assert_eq!(free(&back, &versions), [1]);
    }
}
