//! Watches readers: every answer must be of one version, and what a client is told must only ever move forward.
//!
//! ```text
//!   reader ── Observation ─▶ Audit ── values against the model at the one data version they name
//!                                  ── version ↔ content id, content id ↔ data version: for ever
//!                                  ── epochs per reader: never back
//! ```
//!
//! The audit trusts no label: it works out from the values which data was read, and then holds the labels against it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Mutex, PoisonError};

use fkv_formats::id::{ContentId, Epoch, Version};

use crate::model::{Answer, Model};

/// One answered batch, as a client saw it.
#[derive(Clone, Debug)]
pub struct Observation {
    /// Version of the answer's label.
    pub version: Version,
    /// Content id of the answer's label.
    pub content: ContentId,
    /// Epoch of the answer's label.
    pub epoch: Epoch,
    /// The answer's `as_of`, in Unix seconds.
    pub as_of: u32,
    /// The read timestamp asked with, in Unix seconds.
    pub read_ts: u32,
    /// Per key: its index in the model, and what was answered.
    pub answers: Vec<(u64, Answer)>,
}

/// A broken promise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Violation {
    /// Values of two versions in one answer.
    Mixed {
        /// The data version of the first value.
        first: Version,
        /// What was found at another key.
        index: u64,
        /// As found.
        found: Answer,
        /// As it should be.
        wanted: Answer,
    },
    /// A value that no version of the table has at this key.
    Alien {
        /// The key's index.
        index: u64,
        /// The value.
        value: Vec<u8>,
    },
    /// A content id whose data is not what it was.
    ContentChanged {
        /// The content id.
        content: ContentId,
        /// The data it had.
        had: Version,
        /// The data it has now.
        has: Version,
    },
    /// A version number with a second content id.
    VersionChanged {
        /// The version.
        version: Version,
        /// Its content id.
        had: ContentId,
        /// The content id in this answer.
        has: ContentId,
    },
    /// A reader was shown an older epoch than before, with another content.
    EpochFell {
        /// The epoch it had seen.
        from: Epoch,
        /// The epoch of this answer.
        to: Epoch,
    },
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}

#[derive(Debug, Default)]
struct Seen {
    data_of: BTreeMap<ContentId, Version>,
    content_of: BTreeMap<Version, ContentId>,
    answers: u64,
    keys: u64,
    shown: BTreeSet<(Version, Epoch)>,
}

/// What all readers of one table saw together.
#[derive(Debug)]
pub struct Audit {
    model: Model,
    seen: Mutex<Seen>,
}

/// One reader's memory: a client, or anything else for which epochs must not fall.
#[derive(Clone, Copy, Debug, Default)]
pub struct Reader {
    newest: Option<(Epoch, ContentId)>,
}

/// Figures of an audit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Figures {
    /// Batches checked.
    pub answers: u64,
    /// Keys checked.
    pub keys: u64,
    /// Versions seen, as labelled, with the version whose data they have.
    pub versions: BTreeMap<Version, Version>,
    /// The (version, epoch) pairs seen.
    pub shown: BTreeSet<(Version, Epoch)>,
}

impl Audit {
    /// An audit of a table whose content is `model`.
    #[must_use]
    pub const fn new(model: Model) -> Self {
        let seen =
            Seen { data_of: BTreeMap::new(), content_of: BTreeMap::new(), answers: 0, keys: 0, shown: BTreeSet::new() };
        Self { model, seen: Mutex::new(seen) }
    }

    /// The model.
    #[must_use]
    pub const fn model(&self) -> &Model {
        &self.model
    }

    /// Checks one answer of `reader`.
    ///
    /// # Errors
    /// The first broken promise.
    pub fn check(&self, reader: &mut Reader, observation: &Observation) -> Result<(), Violation> {
        let data = self.check_values(observation)?;
        let Observation { version, content, epoch, .. } = *observation;
        {
            let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(data) = data {
                let had = *seen.data_of.entry(content).or_insert(data);
                if had != data {
                    return Err(Violation::ContentChanged { content, had, has: data });
                }
            }
            let had = *seen.content_of.entry(version).or_insert(content);
            if had != content {
                return Err(Violation::VersionChanged { version, had, has: content });
            }
            seen.answers += 1;
            seen.keys += observation.answers.len() as u64;
            seen.shown.insert((version, epoch));
        }
        if let Some((from, newest)) = reader.newest
            && epoch < from
            && content != newest
        {
            return Err(Violation::EpochFell { from, to: epoch });
        }
        if reader.newest.is_none_or(|(from, _)| epoch >= from) {
            reader.newest = Some((epoch, content));
        }
        Ok(())
    }

    /// Figures of everything checked so far.
    #[must_use]
    pub fn figures(&self) -> Figures {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let versions = seen.content_of.iter().filter_map(|(version, id)| Some((*version, *seen.data_of.get(id)?)));
        Figures { answers: seen.answers, keys: seen.keys, versions: versions.collect(), shown: seen.shown.clone() }
    }

    /// The data version that the values name, all keys compared with it; none if no value was found.
    fn check_values(&self, observation: &Observation) -> Result<Option<Version>, Violation> {
        let named = observation.answers.iter().find_map(|(index, answer)| match answer {
            Answer::Found(value) => Some((*index, value)),
            Answer::Absent | Answer::Expired => None,
        });
        let Some((index, value)) = named else {
            return Ok(None);
        };
        let alien = || Violation::Alien { index, value: value.clone() };
        let first = self.model.data_version(index, value).ok_or_else(alien)?;
        for (index, found) in &observation.answers {
            let wanted = self.model.answer(first, observation.as_of, *index, observation.read_ts);
            if *found != wanted {
                return Err(Violation::Mixed { first, index: *index, found: found.clone(), wanted });
            }
        }
        Ok(Some(first))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Shape;

    fn content(n: u8) -> ContentId {
        ContentId([n; 32])
    }

    fn audit() -> Audit {
        Audit::new(Model::new(11, 64, Shape::I64))
    }

    /// A right answer of the data of `data`, labelled (`version`, `epoch`).
    fn right(audit: &Audit, data: u64, version: u64, epoch: u64) -> Observation {
        let answers = (0..80).map(|index| (index, audit.model.answer(Version(data), 0, index, 0))).collect();
        Observation {
            version: Version(version),
            content: content(u8::try_from(data).expect("small")),
            epoch: Epoch(epoch),
            as_of: 0,
            read_ts: 0,
            answers,
        }
    }

    #[test]
    fn right_answers_pass_through_flips_rollback_and_release() {
        let audit = audit();
        let mut reader = Reader::default();
        // Load 1, load 2, roll back to 1, release it as 3.
        for (data, version, epoch) in [(1, 1, 1), (2, 2, 2), (1, 1, 3), (1, 3, 4)] {
            audit.check(&mut reader, &right(&audit, data, version, epoch)).expect("nothing is wrong");
        }
        let figures = audit.figures();
        assert_eq!((figures.answers, figures.keys), (4, 320));
        assert_eq!(figures.versions, BTreeMap::from([(1, 1), (2, 2), (3, 1)].map(|(v, d)| (Version(v), Version(d)))));
    }

    #[test]
    fn one_value_of_another_version_is_seen() {
        let audit = audit();
        let mut mixed = right(&audit, 1, 1, 1);
        let other = right(&audit, 2, 1, 1);
        let differs = (0..64).rev().find(|&i| mixed.answers[i] != other.answers[i]).expect("versions differ");
        mixed.answers[differs] = other.answers[differs].clone();
        let violation = audit.check(&mut Reader::default(), &mixed).expect_err("one value of version 2");
        assert!(matches!(violation, Violation::Mixed { first: Version(1), .. }), "{violation}");
    }

    #[test]
    fn a_false_absence_is_seen() {
        let audit = audit();
        let mut lost = right(&audit, 1, 1, 1);
        let present = lost.answers.iter().rposition(|(_, a)| matches!(a, Answer::Found(_))).expect("some are found");
        lost.answers[present].1 = Answer::Absent;
        let violation = audit.check(&mut Reader::default(), &lost).expect_err("a record is missing");
        assert!(matches!(violation, Violation::Mixed { found: Answer::Absent, .. }), "{violation}");
    }

    #[test]
    fn a_value_of_another_key_is_seen() {
        let audit = audit();
        let mut swapped = right(&audit, 1, 1, 1);
        let found: Vec<usize> = (0..64).filter(|&i| matches!(swapped.answers[i].1, Answer::Found(_))).take(2).collect();
        let value = swapped.answers[found[1]].1.clone();
        swapped.answers[found[0]].1 = value;
        let violation = audit.check(&mut Reader::default(), &swapped).expect_err("a value at the wrong key");
        assert!(matches!(violation, Violation::Alien { .. }), "{violation}");
    }

    #[test]
    fn a_content_id_or_version_with_other_data_is_seen() {
        let audit = audit();
        let mut reader = Reader::default();
        audit.check(&mut reader, &right(&audit, 1, 1, 1)).expect("nothing is wrong");
        let mut relabelled = right(&audit, 2, 2, 2);
        relabelled.content = content(1);
        let violation = audit.check(&mut reader, &relabelled).expect_err("content 1 is of data 1");
        assert!(matches!(violation, Violation::ContentChanged { .. }), "{violation}");
        let violation = audit.check(&mut reader, &right(&audit, 2, 1, 2)).expect_err("version 1 is content 1");
        assert!(matches!(violation, Violation::VersionChanged { .. }), "{violation}");
    }

    #[test]
    fn a_falling_epoch_is_seen_per_reader_unless_the_content_is_equal() {
        let audit = audit();
        let (mut reader, mut other) = (Reader::default(), Reader::default());
        audit.check(&mut reader, &right(&audit, 2, 2, 5)).expect("nothing is wrong");
        audit.check(&mut other, &right(&audit, 1, 1, 4)).expect("another reader may be behind");
        audit.check(&mut reader, &right(&audit, 2, 2, 3)).expect("equal content");
        let violation = audit.check(&mut reader, &right(&audit, 1, 1, 4)).expect_err("older than 5");
        assert_eq!(violation, Violation::EpochFell { from: Epoch(5), to: Epoch(4) });
    }
}
