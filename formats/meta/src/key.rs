//! Every metadata key, in one place.
//!
//! All keys of a module live under `/fkv/{module}/`. Numbers are zero-padded so that the order of keys is the order
//! of numbers.
//!
//! | key | value | written by | read by |
//! |---|---|---|---|
//! | `topology` | [`Topology`](crate::record::Topology) | control API | all |
//! | `alignments` | empty; put by every change that moves alignment, so that topology changes can compare it | DataSvr | DataSvr |
//! | `tables/{name}` | [`TableRecord`](crate::record::TableRecord); its create revision is the table's uid | control API, DataSvr | all |
//! | `dropped/{uid}` | [`DroppedTable`](crate::record::DroppedTable): what GC has still to remove | control API | GC |
//! | `versions/{uid}/{version}` | [`VersionRecord`](crate::record::VersionRecord) | DataSvr | all |
//! | `tasks/{uid}/{task}` | [`TaskRecord`](crate::record::TaskRecord) | control API, DataSvr | DataSvr |
//! | `submits/{uid}/{submit id}` | [`SubmitRecord`](crate::record::SubmitRecord): makes submitting idempotent | control API | control API |
//! | `jobs/{uid}/{task}/{job}` | [`JobRecord`](crate::record::JobRecord); appears when the job is first claimed | workers | DataSvr |
//! | `locks/{uid}/{task}/{job}` | [`LockRecord`](crate::record::LockRecord), leased; its create revision is the token. Job `@task` is the lock of the task itself | workers | workers |
//! | `progress/{uid}/{task}` | [`Progress`](crate::record::Progress); never compared | the task's worker | control API |
//! | `claims/{sect}/{role}` | [`SlotClaim`](crate::record::SlotClaim), leased; its create revision is the incarnation | KVSvr | DataSvr |
//! | `reports/{sect}/{role}` | [`Report`](crate::record::Report) | KVSvr | DataSvr |
//! | `workers/{worker}` | [`WorkerRecord`](crate::record::WorkerRecord), leased | DataSvr | control API |

use fkv_formats::id::{Slot, TableUid, TaskId, Version};

/// The keys of one module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Keys {
    prefix: String,
}

/// What a key stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Topology,
    Alignments,
    Table(String),
    Dropped(TableUid),
    Version(TableUid, Version),
    Task(TableUid, TaskId),
    Submit,
    Job(TableUid, TaskId, String),
    Lock(TableUid, TaskId, String),
    Progress(TableUid, TaskId),
    Claim(Slot),
    Report(Slot),
    Worker(String),
}

/// Name of the pseudo-job whose lock is the lock of the whole task.
pub const TASK_LOCK: &str = "@task";

/// Why a name cannot be used in a key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what} `{name}` is not allowed: use 1 to {max} of a-z A-Z 0-9 . _ -, starting with a letter or digit")]
pub struct BadName {
    what: &'static str,
    name: String,
    max: usize,
}

/// Checks a module, table, sect, server or worker name. `what` is the noun for the message.
///
/// # Errors
/// [`BadName`] says what is allowed.
pub fn check_name(what: &'static str, name: &str) -> Result<(), BadName> {
    const MAX: usize = 128;
    let first = name.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric());
    let rest = name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'));
    if first && rest && name.len() <= MAX {
        Ok(())
    } else {
        Err(BadName { what, name: name.chars().take(MAX).collect(), max: MAX })
    }
}

fn parse_uid(text: &str) -> Option<TableUid> {
    u64::from_str_radix(text, 16).ok().map(TableUid)
}

fn parse_slot(sect: &str, role: &str) -> Option<Slot> {
    Some(Slot { sect: sect.to_owned(), role: role.parse().ok()? })
}

impl Keys {
    /// The keys of `module`.
    ///
    /// # Errors
    /// [`BadName`] if the module's name cannot stand in a key.
    pub fn new(module: &str) -> Result<Self, BadName> {
        check_name("module", module)?;
        Ok(Self { prefix: format!("/fkv/{module}/") })
    }

    /// The prefix of all keys of the module.
    #[must_use]
    pub fn all(&self) -> &str {
        &self.prefix
    }

    /// What `key` stands for; `None` for a key this build does not know.
    pub(crate) fn parse(&self, key: &str) -> Option<Kind> {
        let mut segments = key.strip_prefix(&self.prefix)?.split('/');
        let kind = match segments.next()? {
            "topology" => Kind::Topology,
            "alignments" => Kind::Alignments,
            "tables" => Kind::Table(segments.next()?.to_owned()),
            "dropped" => Kind::Dropped(parse_uid(segments.next()?)?),
            "versions" => Kind::Version(parse_uid(segments.next()?)?, segments.next()?.parse().ok()?),
            "tasks" => Kind::Task(parse_uid(segments.next()?)?, segments.next()?.parse().ok()?),
            "submits" => {
                let _uid_and_id = (segments.next()?, segments.next()?);
                Kind::Submit
            }
            "jobs" => {
                let (uid, task) = (parse_uid(segments.next()?)?, segments.next()?.parse().ok()?);
                Kind::Job(uid, task, segments.next()?.to_owned())
            }
            "locks" => {
                let (uid, task) = (parse_uid(segments.next()?)?, segments.next()?.parse().ok()?);
                Kind::Lock(uid, task, segments.next()?.to_owned())
            }
            "progress" => Kind::Progress(parse_uid(segments.next()?)?, segments.next()?.parse().ok()?),
            "claims" => Kind::Claim(parse_slot(segments.next()?, segments.next()?)?),
            "reports" => Kind::Report(parse_slot(segments.next()?, segments.next()?)?),
            "workers" => Kind::Worker(segments.next()?.to_owned()),
            _ => return None,
        };
        // One thing, one key: parsers of numbers let other spellings through.
        (segments.next().is_none() && self.is_spelling_of(key, &kind)).then_some(kind)
    }

    /// Whether `key` is how this build writes the key of `kind`.
    fn is_spelling_of(&self, key: &str, kind: &Kind) -> bool {
        match kind {
            Kind::Dropped(uid) => self.dropped(*uid) == key,
            Kind::Version(uid, version) => self.version(*uid, *version) == key,
            Kind::Task(uid, task) => self.task(*uid, *task) == key,
            Kind::Job(uid, task, job) => self.job(*uid, *task, job) == key,
            Kind::Lock(uid, task, job) => self.lock(*uid, *task, job) == key,
            Kind::Progress(uid, task) => self.progress(*uid, *task) == key,
            Kind::Claim(slot) => self.claim(slot) == key,
            Kind::Report(slot) => self.report(slot) == key,
            Kind::Topology | Kind::Alignments | Kind::Table(_) | Kind::Submit | Kind::Worker(_) => true,
        }
    }

    /// The topology.
    #[must_use]
    pub fn topology(&self) -> String {
        format!("{}topology", self.prefix)
    }

    /// The key put by every change of alignment.
    #[must_use]
    pub fn alignments(&self) -> String {
        format!("{}alignments", self.prefix)
    }

    /// Prefix of all tables.
    #[must_use]
    pub fn tables(&self) -> String {
        format!("{}tables/", self.prefix)
    }

    /// A table, by name.
    #[must_use]
    pub fn table(&self, name: &str) -> String {
        format!("{}tables/{name}", self.prefix)
    }

    /// Prefix of all dropped tables.
    #[must_use]
    pub fn dropped_tables(&self) -> String {
        format!("{}dropped/", self.prefix)
    }

    /// A dropped table.
    #[must_use]
    pub fn dropped(&self, uid: TableUid) -> String {
        format!("{}dropped/{:016x}", self.prefix, uid.0)
    }

    /// Prefix of a table's versions.
    #[must_use]
    pub fn versions(&self, uid: TableUid) -> String {
        format!("{}versions/{:016x}/", self.prefix, uid.0)
    }

    /// A version.
    #[must_use]
    pub fn version(&self, uid: TableUid, version: Version) -> String {
        format!("{}versions/{:016x}/{:020}", self.prefix, uid.0, version.0)
    }

    /// Prefix of the tasks of all tables.
    #[must_use]
    pub fn all_tasks(&self) -> String {
        format!("{}tasks/", self.prefix)
    }

    /// Prefix of a table's tasks.
    #[must_use]
    pub fn tasks(&self, uid: TableUid) -> String {
        format!("{}tasks/{:016x}/", self.prefix, uid.0)
    }

    /// A task.
    #[must_use]
    pub fn task(&self, uid: TableUid, task: TaskId) -> String {
        format!("{}tasks/{:016x}/{:020}", self.prefix, uid.0, task.0)
    }

    /// What a submit id stands for. The id may hold any characters; it is written in hexadecimal.
    #[must_use]
    pub fn submit(&self, uid: TableUid, submit_id: &str) -> String {
        let id: String = submit_id.bytes().map(|byte| format!("{byte:02x}")).collect();
        format!("{}submits/{:016x}/{id}", self.prefix, uid.0)
    }

    /// Prefix of a task's jobs.
    #[must_use]
    pub fn jobs(&self, uid: TableUid, task: TaskId) -> String {
        format!("{}jobs/{:016x}/{:020}/", self.prefix, uid.0, task.0)
    }

    /// A job.
    #[must_use]
    pub fn job(&self, uid: TableUid, task: TaskId, job: &str) -> String {
        format!("{}jobs/{:016x}/{:020}/{job}", self.prefix, uid.0, task.0)
    }

    /// Prefix of a task's locks.
    #[must_use]
    pub fn locks(&self, uid: TableUid, task: TaskId) -> String {
        format!("{}locks/{:016x}/{:020}/", self.prefix, uid.0, task.0)
    }

    /// The lock of a job, or of the task with job [`TASK_LOCK`].
    #[must_use]
    pub fn lock(&self, uid: TableUid, task: TaskId, job: &str) -> String {
        format!("{}locks/{:016x}/{:020}/{job}", self.prefix, uid.0, task.0)
    }

    /// A task's progress.
    #[must_use]
    pub fn progress(&self, uid: TableUid, task: TaskId) -> String {
        format!("{}progress/{:016x}/{:020}", self.prefix, uid.0, task.0)
    }

    /// Prefix of all slot claims.
    #[must_use]
    pub fn claims(&self) -> String {
        format!("{}claims/", self.prefix)
    }

    /// A slot's claim.
    #[must_use]
    pub fn claim(&self, slot: &Slot) -> String {
        format!("{}claims/{}/{:05}", self.prefix, slot.sect, slot.role.0)
    }

    /// Prefix of all reports.
    #[must_use]
    pub fn reports(&self) -> String {
        format!("{}reports/", self.prefix)
    }

    /// A slot's report.
    #[must_use]
    pub fn report(&self, slot: &Slot) -> String {
        format!("{}reports/{}/{:05}", self.prefix, slot.sect, slot.role.0)
    }

    /// Prefix of all workers.
    #[must_use]
    pub fn workers(&self) -> String {
        format!("{}workers/", self.prefix)
    }

    /// A worker's presence.
    #[must_use]
    pub fn worker(&self, worker: &str) -> String {
        format!("{}workers/{worker}", self.prefix)
    }
}

#[cfg(test)]
mod tests {
    use fkv_formats::id::Role;

    use super::*;

    #[test]
    fn the_order_of_keys_is_the_order_of_numbers() {
        let keys = Keys::new("rank").expect("a good name");
        let uid = TableUid(7);
        assert!(keys.version(uid, Version(9)) < keys.version(uid, Version(10)));
        assert!(keys.task(uid, TaskId(99)) < keys.task(uid, TaskId(100)));
        assert!(keys.version(uid, Version(1)).starts_with(&keys.versions(uid)));
        assert!(!keys.version(TableUid(0x71), Version(1)).starts_with(&keys.versions(uid)));
    }

    #[test]
    fn every_key_is_recognised_for_what_it_is() {
        let keys = Keys::new("rank").expect("a good name");
        let (uid, task, slot) = (TableUid(0xabc), TaskId(12), Slot { sect: "a".into(), role: Role(3) });
        for (key, kind) in [
            (keys.topology(), Kind::Topology),
            (keys.alignments(), Kind::Alignments),
            (keys.table("t"), Kind::Table("t".into())),
            (keys.dropped(uid), Kind::Dropped(uid)),
            (keys.version(uid, Version(7)), Kind::Version(uid, Version(7))),
            (keys.task(uid, task), Kind::Task(uid, task)),
            (keys.submit(uid, "x/y"), Kind::Submit),
            (keys.job(uid, task, "slice-0"), Kind::Job(uid, task, "slice-0".into())),
            (keys.lock(uid, task, TASK_LOCK), Kind::Lock(uid, task, TASK_LOCK.into())),
            (keys.progress(uid, task), Kind::Progress(uid, task)),
            (keys.claim(&slot), Kind::Claim(slot.clone())),
            (keys.report(&slot), Kind::Report(slot.clone())),
            (keys.worker("w"), Kind::Worker("w".into())),
        ] {
            assert_eq!(keys.parse(&key), Some(kind), "{key}");
            assert_eq!(keys.parse(&format!("{key}/more")), None, "{key}");
        }
        for strange in ["/fkv/rank/", "/fkv/other/topology", "/fkv/rank/new/1", "/fkv/rank/tasks/zz/1", ""] {
            assert_eq!(keys.parse(strange), None, "{strange}");
        }
    }

    /// Such keys once stood for a record that has another key, and would have taken its place in a view.
    #[test]
    fn another_spelling_of_a_key_stands_for_nothing() {
        let keys = Keys::new("rank").expect("a good name");
        for strange in [
            "versions/0000000000000ABC/00000000000000000007",
            "versions/abc/00000000000000000007",
            "versions/+000000000000abc/00000000000000000007",
            "versions/0000000000000abc/7",
            "tasks/0000000000000abc/+0000000000000000007",
            "dropped/abc",
            "jobs/0000000000000abc/12/build",
            "claims/a/3",
            "reports/a/+0003",
        ] {
            assert_eq!(keys.parse(&format!("/fkv/rank/{strange}")), None, "{strange}");
        }
    }

    #[test]
    fn names_that_could_escape_their_prefix_are_refused() {
        for bad in ["", "a/b", "..", ".a", "-a", "a b", "ä", &"x".repeat(129)] {
            assert!(check_name("table", bad).is_err(), "{bad}");
        }
        for good in ["a", "user_features.v2", "0-9", &"x".repeat(128)] {
            assert!(check_name("table", good).is_ok(), "{good}");
        }
        let keys = Keys::new("rank").expect("a good name");
        assert!(keys.submit(TableUid(1), "../../x/y").ends_with("/2e2e2f2e2e2f782f79"));
    }
}
