//! Every object key below the store's root.
//!
//! ```text
//!   tables/{uid}/tasks/{task}/{job}/{attempt}-{token}/{object}
//!          16 hex      20 decimal   10 decimal, 16 hex
//!
//!   object   inputs     the frozen input list        job @task
//!            plan       the plan                     job @task
//!            form       a form                       job @task
//!            slice-{n}  a slice, n of 5 digits       jobs that read input
//!            pack-{n}   a pack, n of 5 digits        jobs that build parts
//!            bad-rows   samples of unusable rows     jobs that read input
//!            output     what a job counted and made  all jobs
//! ```
//!
//! Outputs are scoped by attempt and by the token of its lock, so that two attempts never write one object: what a
//! zombie writes is garbage, never state. The table's uid stands in front, so that everything of a dropped table lies
//! below one prefix.

use std::fmt;

use crate::id::{TableUid, TaskId};

/// One attempt at a job, which has its own place in the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attempt<'a> {
    /// The table.
    pub uid: TableUid,
    /// The task.
    pub task: TaskId,
    /// The job; letters, digits and `@ . _ -`.
    pub job: &'a str,
    /// Number of the attempt, from 1.
    pub attempt: u32,
    /// Token of the attempt: the create revision of its lock.
    pub token: u64,
}

/// What an object holds, from its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ObjectKind {
    /// The frozen input list of a task.
    Inputs,
    /// The plan of a task.
    Plan,
    /// A form.
    Form,
    /// A slice, with its number within the attempt.
    Slice(u32),
    /// A pack, with its number within the attempt.
    Pack(u32),
    /// Samples of rows that could not be used.
    BadRows,
    /// What a job made: its counts and its packs.
    Output,
}

impl fmt::Display for ObjectKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Inputs => f.write_str("inputs"),
            Self::Plan => f.write_str("plan"),
            Self::Form => f.write_str("form"),
            Self::Slice(number) => write!(f, "slice-{number:05}"),
            Self::Pack(number) => write!(f, "pack-{number:05}"),
            Self::BadRows => f.write_str("bad-rows"),
            Self::Output => f.write_str("output"),
        }
    }
}

impl ObjectKind {
    fn parse(text: &str) -> Option<Self> {
        Some(match text {
            "inputs" => Self::Inputs,
            "plan" => Self::Plan,
            "form" => Self::Form,
            "bad-rows" => Self::BadRows,
            "output" => Self::Output,
            _ => match text.split_once('-')? {
                ("slice", number) => Self::Slice(number.parse().ok()?),
                ("pack", number) => Self::Pack(number.parse().ok()?),
                _ => return None,
            },
        })
    }
}

/// The prefix of everything of a table, with a slash at its end.
#[must_use]
pub fn table_prefix(uid: TableUid) -> String {
    format!("tables/{:016x}/", uid.0)
}

/// The prefix of everything of a task, with a slash at its end.
#[must_use]
pub fn task_prefix(uid: TableUid, task: TaskId) -> String {
    format!("{}tasks/{:020}/", table_prefix(uid), task.0)
}

impl<'a> Attempt<'a> {
    /// The prefix of everything of the attempt, with a slash at its end.
    ///
    /// # Panics
    /// If the job's name has characters that could leave its place: names are the program's own.
    #[must_use]
    pub fn prefix(&self) -> String {
        assert!(is_job_name(self.job), "`{}` is not the name of a job", self.job);
        format!("{}{}/{:010}-{:016x}/", task_prefix(self.uid, self.task), self.job, self.attempt, self.token)
    }

    /// The path of an object of the attempt.
    ///
    /// # Panics
    /// As [`prefix`](Self::prefix).
    #[must_use]
    pub fn object(&self, kind: ObjectKind) -> String {
        format!("{}{kind}", self.prefix())
    }

    /// The path of the frozen input list.
    #[must_use]
    pub fn inputs(&self) -> String {
        self.object(ObjectKind::Inputs)
    }

    /// The path of the plan.
    #[must_use]
    pub fn plan(&self) -> String {
        self.object(ObjectKind::Plan)
    }

    /// The path of the form.
    #[must_use]
    pub fn form(&self) -> String {
        self.object(ObjectKind::Form)
    }

    /// The path of the attempt's slice `number`.
    #[must_use]
    pub fn slice(&self, number: u32) -> String {
        self.object(ObjectKind::Slice(number))
    }

    /// The path of the attempt's pack `number`.
    #[must_use]
    pub fn pack(&self, number: u32) -> String {
        self.object(ObjectKind::Pack(number))
    }

    /// The path of the samples of unusable rows.
    #[must_use]
    pub fn bad_rows(&self) -> String {
        self.object(ObjectKind::BadRows)
    }

    /// The path of what the job made.
    #[must_use]
    pub fn output(&self) -> String {
        self.object(ObjectKind::Output)
    }

    /// Reads a path back; `None` if it is not one of ours.
    #[must_use]
    pub fn parse(path: &'a str) -> Option<(Self, ObjectKind)> {
        let mut segments = path.split('/');
        let mut next = || segments.next();
        let ("tables", uid, "tasks", task) = (next()?, next()?, next()?, next()?) else { return None };
        let (job, (attempt, token), kind) = (next()?, next()?.split_once('-')?, ObjectKind::parse(next()?)?);
        let read = Self {
            uid: TableUid(u64::from_str_radix(uid, 16).ok()?),
            task: task.parse().ok()?,
            job,
            attempt: attempt.parse().ok()?,
            token: u64::from_str_radix(token, 16).ok()?,
        };
        // One path, one spelling: whatever else the parsers above let through is not ours.
        (is_job_name(job) && read.object(kind) == path).then_some((read, kind))
    }
}

fn is_job_name(job: &str) -> bool {
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'@' | b'.' | b'_' | b'-');
    !job.is_empty() && job.len() <= 128 && !job.starts_with('.') && job.bytes().all(legal)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ATTEMPT: Attempt<'_> =
        Attempt { uid: TableUid(0xab), task: TaskId(7), job: "@task", attempt: 2, token: 0x1f };

    #[test]
    fn paths_are_frozen() {
        assert_eq!(
            ATTEMPT.pack(3),
            "tables/00000000000000ab/tasks/00000000000000000007/@task/0000000002-000000000000001f/pack-00003"
        );
        assert!(ATTEMPT.pack(3).starts_with(&task_prefix(TableUid(0xab), TaskId(7))));
        assert!(!ATTEMPT.pack(3).starts_with(&table_prefix(TableUid(0xa))));
    }

    #[test]
    fn a_path_is_read_back_and_no_other_spelling_is() {
        let kinds = [
            ObjectKind::Inputs,
            ObjectKind::Plan,
            ObjectKind::Form,
            ObjectKind::Slice(0),
            ObjectKind::Slice(7),
            ObjectKind::Pack(12),
            ObjectKind::Pack(123_456),
            ObjectKind::BadRows,
            ObjectKind::Output,
        ];
        for kind in kinds {
            assert_eq!(Attempt::parse(&ATTEMPT.object(kind)), Some((ATTEMPT, kind)));
        }
        let path = ATTEMPT.pack(3);
        for other in [
            path.replace("00ab", "00AB"),
            path.replace("pack-00003", "pack-3"),
            path.replace("pack-00003", "pack-+0003"),
            path.replace("pack-00003", "slice"),
            path.replace("pack-00003", "form-00003"),
            path.replace("@task", ".."),
            path.replace("@task", "a b"),
            path.replace("/tasks/", "/task/"),
            format!("{path}/x"),
            String::new(),
        ] {
            assert_eq!(Attempt::parse(&other), None, "{other}");
        }
    }

    #[test]
    #[should_panic(expected = "is not the name of a job")]
    fn a_job_name_cannot_leave_its_place() {
        let _ = Attempt { job: "../x", ..ATTEMPT }.prefix();
    }
}
