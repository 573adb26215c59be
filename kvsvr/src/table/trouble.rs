//! A load that failed: what is wrong, and when it is tried again.

use std::time::Duration;

use fkv_formats::id::ContentId;

use crate::ledger::{DoesNotFit, Ledger};

/// What kind of failure a load met; decides what happens next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TroubleKind {
    /// The store, the disk or the stored bytes: tried again with growing pauses.
    Failed,
    /// It does not fit: tried again with growing pauses, and soon when room is made.
    DoesNotFit,
    /// An object is not there: what metadata says of the version is read again first.
    Missing,
    /// This build cannot serve such a version: only another version or another build helps.
    Unsupported,
}

/// A failed load.
#[derive(Clone, Debug)]
pub(crate) struct Trouble {
    content: ContentId,
    kind: TroubleKind,
    text: String,
    /// What the ledger refused, if that is why.
    refused: Option<DoesNotFit>,
    attempts: u32,
    failed_at: Duration,
    retry_at: Option<Duration>,
}

impl Trouble {
    const PAUSE_MIN: Duration = Duration::from_millis(200);
    const PAUSE_MAX: Duration = Duration::from_secs(30);
    /// Shortest pause before room that was made is tried. An attempt gives back what it held itself: without a pause,
    /// tables of which none fits would wake each other without end.
    const ROOM_PAUSE: Duration = Duration::from_secs(1);

    pub(crate) fn new(content: ContentId, kind: TroubleKind, text: impl Into<String>) -> Self {
        Self { content, kind, text: text.into(), refused: None, attempts: 1, failed_at: Duration::ZERO, retry_at: None }
    }

    /// It did not fit, because the ledger refused this.
    pub(crate) fn of_refusal(content: ContentId, refused: DoesNotFit, text: impl Into<String>) -> Self {
        Self { refused: Some(refused), ..Self::new(content, TroubleKind::DoesNotFit, text) }
    }

    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    pub(crate) const fn retry_at(&self) -> Option<Duration> {
        self.retry_at
    }

    pub(crate) fn is_due(&self, now: Duration) -> bool {
        self.retry_at.is_some_and(|at| at <= now)
    }

    pub(crate) fn wants_reread(&self) -> bool {
        self.kind == TroubleKind::Missing
    }

    pub(crate) fn waits_for_room(&self) -> bool {
        self.kind == TroubleKind::DoesNotFit
    }

    /// Room was made: what did not fit is tried soon, if it may fit now.
    pub(crate) fn room_was_made(&mut self, ledger: &Ledger) {
        if self.kind == TroubleKind::DoesNotFit && self.refused.is_none_or(|refused| ledger.has_room_for(refused)) {
            let soon = self.failed_at + Self::ROOM_PAUSE;
            self.retry_at = Some(self.retry_at.map_or(soon, |at| at.min(soon)));
        }
    }

    /// This trouble, coming after an earlier one; the pause doubles while it is about the same content.
    pub(crate) fn after(mut self, before: Option<Self>, now: Duration) -> Self {
        let attempts = before.filter(|before| before.content == self.content).map_or(0, |before| before.attempts);
        self.attempts = attempts.saturating_add(1);
        self.failed_at = now;
        self.retry_at = match self.kind {
            TroubleKind::Unsupported => None,
            _ => {
                let pause = Self::PAUSE_MIN.saturating_mul(1 << self.attempts.saturating_sub(1).min(16));
                Some(now + pause.min(Self::PAUSE_MAX))
            }
        };
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn content(number: u8) -> ContentId {
        ContentId([number; 32])
    }

    #[test]
    fn pauses_grow_to_a_limit_and_start_anew_with_another_content() {
        let now = Duration::from_secs(5);
        let failed = || Trouble::new(content(1), TroubleKind::Failed, "no");
        let first = failed().after(None, now);
        assert_eq!(first.retry_at(), Some(now + Trouble::PAUSE_MIN));
        let mut last = first;
        for _ in 0..40 {
            last = failed().after(Some(last), now);
        }
        assert_eq!(last.retry_at(), Some(now + Trouble::PAUSE_MAX));
        let other = Trouble::new(content(2), TroubleKind::Failed, "no").after(Some(last), now);
        assert_eq!(other.retry_at(), Some(now + Trouble::PAUSE_MIN));
    }

    #[test]
    fn what_this_build_cannot_serve_is_not_tried_again() {
        let now = Duration::from_secs(5);
        assert_eq!(Trouble::new(content(1), TroubleKind::Unsupported, "no").after(None, now).retry_at(), None);
    }

    #[test]
    fn room_helps_soon_but_never_at_once_and_only_if_it_is_enough() {
        let now = Duration::from_secs(5);
        let ledger = Ledger::new(100, 100);
        let other = ledger.reserve(60, 0).expect("fits");
        let refused = ledger.reserve(80, 0).expect_err("too much");
        let failed = || Trouble::of_refusal(content(1), refused, "no");
        let mut tight = failed().after(None, now);
        for _ in 0..10 {
            tight = failed().after(Some(tight), now);
        }
        assert_eq!(tight.retry_at(), Some(now + Trouble::PAUSE_MAX));
        tight.room_was_made(&ledger);
        assert_eq!(tight.retry_at(), Some(now + Trouble::PAUSE_MAX), "room of another kind");
        drop(other);
        tight.room_was_made(&ledger);
        assert_eq!(tight.retry_at(), Some(now + Trouble::ROOM_PAUSE));
        assert!(!tight.is_due(now) && tight.is_due(now + Trouble::ROOM_PAUSE));
    }
}
