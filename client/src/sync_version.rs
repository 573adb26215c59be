//! Which content a call answers with when roles disagree. Pure: labels in, a decision out.
//!
//! ```text
//!   labels of a call ──▶ Evidence (highest aligned epoch, epoch of each content)
//!   floor, verdict   ──▶ Memory   (per table, over calls)
//!                           │
//!                        decide ──▶ Accept(content)   all pieces are of it: answer
//!                               ──▶ Ask(content)      ask the other pieces for exactly it
//!                               ──▶ Nothing           no content can be had for all
//! ```
//!
//! The goal is the aligned content of the highest aligned epoch seen, or the floor's content if the floor is newer. If it
//! cannot be completed: the content of highest epoch that every piece's server holds. Whatever the decision, an
//! answer is of one content and not below the floor.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use fkv_formats::id::{ContentId, Epoch};
use fkv_rpc::packed::{SectionLabel, Shown};

/// For how long a verdict saves later calls the way to it.
const VERDICT_LASTS: Duration = Duration::from_secs(1);

/// A content and the highest epoch known of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mark {
    pub(crate) content: ContentId,
    pub(crate) epoch: Epoch,
}

/// What a client remembers of a table between calls.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Memory {
    /// The last strict answer, under the highest epoch its content was known of: later ones are of its content or of a
    /// higher epoch.
    floor: Option<Shown>,
    /// What was settled on while replies disagreed.
    verdict: Option<Verdict>,
}

#[derive(Clone, Copy, Debug)]
struct Verdict {
    content: ContentId,
    /// The highest aligned epoch seen when it was reached; a higher one overturns it.
    top: Option<Epoch>,
    until: Duration,
}

/// What the labels of one call show.
#[derive(Clone, Debug, Default)]
pub(crate) struct Evidence {
    /// The aligned content of the highest aligned epoch.
    top: Option<Shown>,
    /// Each content that was served or aligned somewhere, under its highest epoch.
    shown: BTreeMap<ContentId, Shown>,
}

/// What to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Decision {
    /// Every piece is of this content, and it may be given to the caller.
    Accept(ContentId),
    /// Ask for exactly this content wherever a piece is of another one.
    Ask(ContentId),
    /// No content is left to try.
    Nothing,
}

/// What besides the labels decides.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rules<'a> {
    /// What the client remembers. `None` for calls that floors do not bind: they take any common content.
    pub(crate) memory: Option<&'a Memory>,
    /// Contents that could not be completed in this call.
    pub(crate) failed: &'a BTreeSet<ContentId>,
    /// Monotonic time.
    pub(crate) now: Duration,
}

impl Evidence {
    /// Takes a label into account, of an answered or a refused section.
    pub(crate) fn note(&mut self, label: &SectionLabel) {
        for shown in [label.served, label.aligned].into_iter().flatten() {
            let best = self.shown.entry(shown.content).or_insert(shown);
            if shown.epoch > best.epoch {
                *best = shown;
            }
        }
        if let Some(aligned) = label.aligned
            && self.top.is_none_or(|top| aligned.epoch > top.epoch)
        {
            self.top = Some(aligned);
        }
    }

    /// `content` under the highest epoch any label named with it.
    pub(crate) fn shown(&self, content: ContentId) -> Option<Shown> {
        self.shown.get(&content).copied()
    }

    fn mark(&self, content: ContentId) -> Option<Mark> {
        self.shown(content).map(|shown| Mark { content, epoch: shown.epoch })
    }
}

impl Memory {
    /// The content to ask for at once, if replies disagreed a moment ago.
    pub(crate) fn start(&self, now: Duration) -> Option<ContentId> {
        self.verdict.filter(|verdict| now < verdict.until).map(|verdict| verdict.content)
    }

    /// Forgets what replies disagreed on.
    pub(crate) fn forget_verdict(&mut self) {
        self.verdict = None;
    }

    /// Whether an answer of `mark` is not below the floor.
    fn admits(&self, mark: Mark) -> bool {
        self.floor.is_none_or(|floor| mark.content == floor.content || mark.epoch > floor.epoch)
    }

    /// Raises the floor to an answer that is about to be given, and remembers whether replies disagreed. Gives the content
    /// under the highest epoch known of it, also from earlier calls. `None`: the floor has risen above it since the
    /// decision (another call was faster), and the answer must not be given.
    pub(crate) fn settle(
        &mut self,
        content: ContentId,
        evidence: &Evidence,
        pieces: &[SectionLabel],
        now: Duration,
    ) -> Option<Shown> {
        let seen = evidence.shown(content)?;
        if !self.admits(Mark { content, epoch: seen.epoch }) {
            return None;
        }
        // Stale servers name an older epoch of the floor's own content; it is no less new for that.
        let shown = self.floor.filter(|floor| floor.content == content && floor.epoch > seen.epoch).unwrap_or(seen);
        self.floor = Some(shown);
        let mut aligned = pieces.iter().map(|label| label.aligned.map(|shown| shown.epoch));
        let first = aligned.next().flatten();
        self.verdict = if aligned.all(|epoch| epoch == first) {
            None
        } else {
            Some(Verdict { content, top: evidence.top.map(|top| top.epoch), until: now + VERDICT_LASTS })
        };
        Some(shown)
    }
}

/// Decides on the labels of a call's pieces, all of which are answered.
pub(crate) fn decide(rules: Rules<'_>, evidence: &Evidence, pieces: &[SectionLabel]) -> Decision {
    let floor = rules.memory.and_then(|memory| memory.floor);
    let mark = |shown: Shown| Mark { content: shown.content, epoch: shown.epoch };
    let admits = |mark: Mark| rules.memory.is_none_or(|memory| memory.admits(mark));
    let open_goal = evidence
        .top
        .filter(|top| admits(mark(*top)))
        .or(floor)
        .map(|goal| goal.content)
        .filter(|content| !rules.failed.contains(content));

    if let Some(common) = common_content(pieces)
        && evidence.mark(common).is_some_and(admits)
        && (rules.memory.is_none()
            || open_goal.is_none_or(|goal| goal == common)
            || is_verdict(rules, evidence, common))
    {
        return Decision::Accept(common);
    }
    if let Some(goal) = open_goal {
        return Decision::Ask(goal);
    }
    let held = |label: &SectionLabel, content: ContentId| {
        label.served.is_some_and(|served| served.content == content)
            || label.other.is_some_and(|other| other.content == content)
    };
    let best = evidence
        .shown
        .values()
        .map(|shown| mark(*shown))
        .filter(|mark| !rules.failed.contains(&mark.content) && admits(*mark))
        .filter(|mark| pieces.iter().all(|label| held(label, mark.content)))
        .max_by_key(|mark| mark.epoch);
    match best {
        Some(best) if common_content(pieces) == Some(best.content) => Decision::Accept(best.content),
        Some(best) => Decision::Ask(best.content),
        None => Decision::Nothing,
    }
}

/// The content all pieces were served from, if it is one.
pub(crate) fn common_content(pieces: &[SectionLabel]) -> Option<ContentId> {
    let first = pieces.first()?.served?.content;
    pieces.iter().all(|label| label.served.is_some_and(|served| served.content == first)).then_some(first)
}

/// Whether an earlier call settled on `content` knowing all that this one knows.
fn is_verdict(rules: Rules<'_>, evidence: &Evidence, content: ContentId) -> bool {
    rules.memory.and_then(|memory| memory.verdict).is_some_and(|verdict| {
        verdict.content == content && rules.now < verdict.until && evidence.top.map(|top| top.epoch) <= verdict.top
    })
}

#[cfg(test)]
mod tests;
