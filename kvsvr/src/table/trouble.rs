//! A load that failed: what is wrong, and when it is tried again.

use std::time::Duration;

use fkv_formats::id::ContentId;

/// What kind of failure a load met; decides what happens next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TroubleKind {
    /// The store, the disk or the stored bytes: tried again with growing pauses.
    Failed,
    /// It does not fit the ledger: tried again with growing pauses, and at once when room is made.
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
    attempts: u32,
    retry_at: Option<Duration>,
}

impl Trouble {
    const PAUSE_MIN: Duration = Duration::from_millis(200);
    const PAUSE_MAX: Duration = Duration::from_secs(30);

    pub(crate) fn new(content: ContentId, kind: TroubleKind, text: impl Into<String>) -> Self {
        Self { content, kind, text: text.into(), attempts: 1, retry_at: None }
    }

    pub(crate) const fn content(&self) -> ContentId {
        self.content
    }

    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    pub(crate) const fn retry_at(&self) -> Option<Duration> {
        self.retry_at
    }

    pub(crate) fn wants_reread(&self) -> bool {
        self.kind == TroubleKind::Missing
    }

    pub(crate) fn waits_for_room(&self) -> bool {
        self.kind == TroubleKind::DoesNotFit
    }

    pub(crate) fn room_was_made(&mut self) {
        if self.kind == TroubleKind::DoesNotFit {
            self.retry_at = Some(Duration::ZERO);
        }
    }

    /// This trouble, coming after an earlier one; the pause doubles while it is about the same content.
    pub(crate) fn after(mut self, before: Option<Self>, now: Duration) -> Self {
        let attempts = before.filter(|before| before.content == self.content).map_or(0, |before| before.attempts);
        self.attempts = attempts.saturating_add(1);
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
    fn what_this_build_cannot_serve_is_not_tried_again_and_room_helps_at_once() {
        let now = Duration::from_secs(5);
        assert_eq!(Trouble::new(content(1), TroubleKind::Unsupported, "no").after(None, now).retry_at(), None);
        let mut tight = Trouble::new(content(1), TroubleKind::DoesNotFit, "no").after(None, now);
        tight.room_was_made();
        assert_eq!(tight.retry_at(), Some(Duration::ZERO));
    }
}
