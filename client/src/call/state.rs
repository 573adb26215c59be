//! What a call keeps per table and per job.

use std::collections::BTreeSet;
use std::sync::Arc;

use fkv_formats::id::{ContentId, TableUid};
use fkv_rpc::packed::{SectionLabel, Selector, Shown};

use super::Reason;
use crate::ClientError;
use crate::answer::{AnswerLabel, TableAnswer};
use crate::assemble::{Answered, assemble};
use crate::plan::TableInput;
use crate::servers::Server;
use crate::split::Positions;
use crate::sync_version::Evidence;

/// How far a table is.
#[derive(Debug)]
pub(super) struct Table {
    pub(super) uid: TableUid,
    pub(super) evidence: Evidence,
    /// Contents that could not be completed since the table was started last.
    pub(super) failed: BTreeSet<ContentId>,
    pub(super) pieces: Vec<Piece>,
    pub(super) open_jobs: usize,
    pub(super) rounds: usize,
    pub(super) restarts: u32,
    /// Whether it was started with a remembered content instead of the aligned one.
    pub(super) from_verdict: bool,
    /// Why some keys could not be had at all.
    pub(super) unanswered: Option<Reason>,
    /// Why the last content could not be completed.
    pub(super) obstacle: Option<Reason>,
    pub(super) accepted: Option<Accepted>,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Accepted {
    pub(super) content: ContentId,
    pub(super) mixed: bool,
}

/// A section that answers some keys.
#[derive(Debug)]
pub(super) struct Piece {
    pub(super) answered: Answered,
    /// The keys it answers; fewer than were asked if some were *not here*.
    pub(super) here: Positions,
    pub(super) server: Arc<Server>,
    pub(super) label: SectionLabel,
}

/// Keys to be had whole, of one content.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) table: usize,
    pub(super) selector: Selector,
    /// The piece of other content it shall replace.
    pub(super) replaces: Option<Piece>,
    pub(super) pieces: Vec<Piece>,
    /// Shares under way.
    pub(super) waiting: usize,
    pub(super) open: bool,
}

impl Table {
    pub(super) fn new(uid: TableUid) -> Self {
        Self {
            uid,
            evidence: Evidence::default(),
            failed: BTreeSet::new(),
            pieces: Vec::new(),
            open_jobs: 0,
            rounds: 0,
            restarts: 0,
            from_verdict: false,
            unanswered: None,
            obstacle: None,
            accepted: None,
        }
    }

    /// Forgets what was tried, but not what labels have shown.
    pub(super) fn begin_again(&mut self) {
        self.failed.clear();
        self.pieces.clear();
        self.rounds = 0;
        self.unanswered = None;
    }

    pub(super) fn labels(&self) -> Vec<SectionLabel> {
        self.pieces.iter().map(|piece| piece.label).collect()
    }

    /// The answers, labelled with `shown`.
    pub(super) fn answer(self, input: &TableInput<'_>, shown: Shown) -> Result<TableAnswer, ClientError> {
        let aligned = self.pieces.iter().filter_map(|piece| piece.label.aligned).max_by_key(|shown| shown.epoch);
        let as_of_s = self
            .pieces
            .iter()
            .find(|piece| piece.label.served.is_some_and(|served| served.content == shown.content))
            .map_or(0, |piece| piece.label.as_of_s);
        let mixed = self.accepted.is_some_and(|accepted| accepted.mixed);
        let answered: Vec<Answered> = self.pieces.into_iter().map(|piece| piece.answered).collect();
        let (statuses, values) = assemble(input.keys.len(), &answered).map_err(|_| ClientError::NoCommonVersion {
            table: input.name.to_owned(),
            reason: "the servers show contents of different value types".to_owned(),
        })?;
        let label = AnswerLabel {
            table: self.uid,
            version: shown.version,
            content: shown.content,
            epoch: shown.epoch,
            aligned,
            as_of_s,
        };
        Ok(TableAnswer { label, mixed, statuses, values })
    }
}
