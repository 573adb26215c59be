//! Every record as it was ever written can be read for ever. When a record changes, its old file stays, the new form
//! gets a file of its own, and the expected value of the old one says what its missing fields mean.

use std::collections::BTreeMap;
use std::fmt::Debug;

use fkv_formats::id::{ContentId, Digest, Epoch, Slot, TableUid, TaskId, Version};
use fkv_formats::schema::{F16Overflow, KeyType, Schema, Storage, TableKind, ValueType};
use fkv_meta::record::*;

macro_rules! golden {
    ($name:literal) => {
        include_str!(concat!("../testdata/records/", $name, ".json"))
    };
}

/// The file is read as `expected`, and `expected` is written as the file.
fn check<T: Record + PartialEq + Debug>(file: &str, expected: &T) {
    let read: T = decode(file.as_bytes()).unwrap_or_else(|error| panic!("{}: {error}", T::NOUN));
    assert_eq!(&read, expected, "{}", T::NOUN);
    let written: serde_json::Value = serde_json::from_slice(&encode(expected)).expect("JSON");
    let file: serde_json::Value = serde_json::from_str(file).expect("JSON");
    assert_eq!(written, file, "{}: another form is written now; keep this file and add a new one", T::NOUN);
}

fn schema() -> Schema {
    Schema {
        kind: TableKind::Mem,
        key: KeyType::U64,
        value: ValueType::F32(16),
        storage: Storage::F16,
        f16_overflow: F16Overflow::Saturate,
        ttl: true,
    }
}

fn content(of: u8) -> ContentId {
    ContentId([of; 32])
}

fn object(path: &str) -> ObjectRef {
    ObjectRef { path: path.into(), len: 4096, sha256: Digest([7; 32]) }
}

fn error() -> TaskError {
    TaskError { at_ms: 1_700_000_000_123, attempt: 2, worker: "w1".into(), message: "the input changed".into() }
}

fn slot(text: &str) -> Slot {
    text.parse().expect("a slot")
}

#[test]
fn tables() {
    let label = |version, of, epoch| Label { version: Version(version), content: content(of), epoch: Epoch(epoch) };
    let exclusion = Exclusion { cause: "its server is gone".into(), since_ms: 1_700_000_000_000 };
    check(
        golden!("table-1"),
        &TableRecord {
            name: "user_features".into(),
            schema: schema(),
            retain_versions: 3,
            retain_old: RetainOld::Disk,
            filter: Filter::Fuse8,
            created_ms: 1_690_000_000_000,
            head: Version(9),
            epoch: Epoch(12),
            phase: TablePhase::RolledBack { to: Version(7), head: Version(9) },
            target: Some(label(7, 7, 12)),
            aligned: Some(label(9, 9, 11)),
            previous: Some(label(8, 8, 10)),
            next_task: TaskId(15),
            queue: vec![TaskId(13), TaskId(14)],
            running: Some(TaskId(12)),
            blocked_by: Some(TaskId(11)),
            last_full: TaskId(9),
            full_required: true,
            exclusions: BTreeMap::from([(slot("a/2"), exclusion)]),
            canary: Some(Canary { epoch: Epoch(12), content: content(7), sects: vec!["b".into()] }),
            quarantine: vec![Quarantine { after: Version(3), through: Version(5), exempt: content(3) }],
        },
    );
    // Only what has no default: what an older build would have written at the least.
    check_least(
        golden!("table-1-least"),
        &TableRecord {
            name: "t".into(),
            schema: Schema {
                value: ValueType::Bytes,
                storage: Storage::Native,
                f16_overflow: F16Overflow::Reject,
                ttl: false,
                ..schema()
            },
            retain_versions: 1,
            retain_old: RetainOld::Ram,
            filter: Filter::None,
            created_ms: 1,
            head: Version(0),
            epoch: Epoch(0),
            phase: TablePhase::Normal,
            target: None,
            aligned: None,
            previous: None,
            next_task: TaskId(1),
            queue: vec![],
            running: None,
            blocked_by: None,
            last_full: TaskId(0),
            full_required: false,
            exclusions: BTreeMap::new(),
            canary: None,
            quarantine: vec![],
        },
    );
    check(golden!("dropped-table-1"), &DroppedTable { name: "old".into(), dropped_ms: 1_700_000_000_000 });
}

/// The file is read as `expected`, whatever is written now.
fn check_least<T: Record + PartialEq + Debug>(file: &str, expected: &T) {
    let read: T = decode(file.as_bytes()).unwrap_or_else(|error| panic!("{}: {error}", T::NOUN));
    assert_eq!(&read, expected, "{}", T::NOUN);
}

#[test]
fn versions() {
    let form = |kind, path| FormRef { kind, object: object(path) };
    let full = VersionRecord {
        version: Version(7),
        content: content(7),
        kind: VersionKind::Full,
        state: VersionState::Live,
        schema: schema(),
        as_of: 1_700_000_000,
        task: Some(TaskId(10)),
        created_ms: 1_700_000_000_000,
        rows: 1_000_000,
        bytes: 64_000_000,
        forms: vec![form(FormKind::Chain, "a/chain"), form(FormKind::Full, "a/full")],
        pins: vec!["audit".into()],
        references: 3,
    };
    check(golden!("version-1-full"), &full);
    let kind = VersionKind::Increment { base: Version(6) };
    check(golden!("version-1-increment"), &VersionRecord { kind, ..full.clone() });
    let kind = VersionKind::Release { of: Version(2) };
    check(golden!("version-1-release"), &VersionRecord { kind, state: VersionState::Tombstoned, task: None, ..full });
}

#[test]
fn tasks() {
    let task = TaskRecord {
        task: TaskId(12),
        table: "user_features".into(),
        submit_id: "nightly-2023-11-14".into(),
        spec: LoadSpec {
            inputs: vec!["s3://bucket/day=14/".into(), "file:///data/x.parquet".into()],
            mode: LoadMode::Incremental,
            format: InputFormat::Parquet,
            key_column: "user_id".into(),
            value_columns: vec!["embedding".into()],
            expiry_column: Some("expires".into()),
            delete_column: None,
            nulls: NullPolicy::Zero,
            duplicates: Duplicates::Error,
            max_bad_rows: 10,
            require_success: false,
        },
        state: TaskState::Aligning,
        submitted_ms: 1_700_000_000_000,
        changed_ms: 1_700_000_001_000,
        as_of: Some(1_700_000_000),
        inputs: Some(object("inputs")),
        plan: Some(object("plan")),
        attempt: 2,
        failures: 0,
        retries: 1,
        version: Some(Version(9)),
        stats: BuildStats {
            rows_read: 1,
            records: 2,
            duplicates: 3,
            nulls: 4,
            bad_rows: 5,
            expired: 6,
            deleted: 0,
            saturated: 7,
            bytes_read: 8,
            bytes_written: 9,
        },
        errors: vec![error()],
    };
    check(golden!("task-1"), &task);
    check(golden!("task-1-failures"), &TaskRecord { failures: 2, ..task.clone() });
    let spec = LoadSpec { require_success: true, delete_column: Some("gone".into()), ..task.spec.clone() };
    let stats = BuildStats { deleted: 11, ..task.stats };
    check(golden!("task-1-deletes"), &TaskRecord { spec, stats, ..task });
    let states = [
        TaskState::Queued,
        TaskState::Running,
        TaskState::Aligning,
        TaskState::Finished,
        TaskState::Failed,
        TaskState::Cancelled,
        TaskState::Skipped,
    ];
    let words: Vec<String> = states.iter().map(|state| serde_json::to_string(state).expect("a word")).collect();
    assert_eq!(words.join(" ").replace('"', ""), "queued running aligning finished failed cancelled skipped");
    check(golden!("submit-1"), &SubmitRecord { task: TaskId(12), spec_sha256: Digest([5; 32]) });
    check(golden!("job-1-open"), &JobRecord { state: JobState::Open, attempt: 1, errors: vec![error()] });
    let done = JobState::Done { output: object("slice-0") };
    check(golden!("job-1-done"), &JobRecord { state: done, attempt: 2, errors: vec![] });
    check(golden!("job-1-failed"), &JobRecord { state: JobState::Failed, attempt: 4, errors: vec![] });
    check(golden!("lock-1"), &LockRecord { worker: "w1".into(), attempt: 2 });
    let progress = Progress {
        stage: "build".into(),
        rows_done: 10,
        rows_total: Some(100),
        bytes_done: 1000,
        bytes_total: 10_000,
        stage_since_ms: 1_700_000_000_000,
        at_ms: 1_700_000_001_000,
        waiting_for: "2 slots".into(),
        jobs_done: 0,
        jobs_running: 0,
        jobs_total: 0,
    };
    check(golden!("progress-1"), &progress);
    let jobs = Progress { stage: "slice".into(), jobs_done: 3, jobs_running: 2, jobs_total: 7, ..progress };
    check(golden!("progress-1-jobs"), &jobs);
}

#[test]
fn servers() {
    let assignment = |server: &str, addr: &str| Assignment { server: server.into(), addr: addr.into() };
    let sect = |state, slots| Sect { state, slots };
    check(
        golden!("topology-1"),
        &Topology {
            generation: 4,
            sects: BTreeMap::from([
                ("a".into(), sect(SectState::Active, vec![assignment("s1", "h1:7310"), assignment("s2", "h2:7310")])),
                ("b".into(), sect(SectState::Joining, vec![assignment("s3", "h3:7310")])),
                ("c".into(), sect(SectState::Shielded, vec![assignment("s4", "h4:7310")])),
                ("d".into(), sect(SectState::Retired, vec![assignment("s5", "h5:7310")])),
            ]),
        },
    );
    check(golden!("claim-1"), &SlotClaim { server: "s1".into(), addr: "h1:7310".into() });
    let held = |of: u8, version| Held { content: content(of), version: Version(version) };
    check(
        golden!("report-1"),
        &Report {
            incarnation: 77,
            generation: 4,
            tables: BTreeMap::from([(TableUid(12), vec![held(7, 7), held(9, 9)]), (TableUid(30), vec![])]),
            problems: BTreeMap::from([(TableUid(30), "it does not fit".into())]),
        },
    );
    check(golden!("worker-1"), &WorkerRecord { addr: "h9:7300".into(), started_ms: 1_700_000_000_000 });
}

#[test]
fn what_is_no_record_is_an_error() {
    for bad in ["", "null", "[]", "{}", r#"{"v":0,"worker":"w","attempt":1}"#, r#"{"v":2,"worker":"w","attempt":1}"#] {
        assert!(decode::<LockRecord>(bad.as_bytes()).is_err(), "{bad}");
    }
    assert!(decode::<LockRecord>(br#"{"v":1,"worker":"w"}"#).is_err(), "a field is missing");
    let unknown = decode::<LockRecord>(br#"{"v":1,"worker":"w","attempt":1,"later":true}"#);
    assert!(unknown.is_ok(), "a field that a newer build has added within the format is no error");
}
