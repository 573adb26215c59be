//! Progress on a terminal, for whatever takes longer than a second.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use fkv_env::Clock;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Work shorter than this shows nothing.
const SHOWN_AFTER: Duration = Duration::from_secs(1);

/// Pause between two looks of a spinner.
const TICK: Duration = Duration::from_millis(100);

/// A bar or spinner on standard error. Hidden where standard error is no terminal, and for the first second.
#[derive(Debug)]
pub(crate) struct Progress {
    bar: ProgressBar,
    clock: Arc<dyn Clock>,
    begun: Duration,
    shown: bool,
}

impl Progress {
    /// Progress of unknown length.
    pub(crate) fn new(clock: Arc<dyn Clock>) -> Self {
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::hidden()).with_style(spinner_style());
        Self { begun: clock.monotonic(), clock, bar, shown: false }
    }

    /// Shows what is being done, and how much of it is done where the total is known.
    pub(crate) fn update(&mut self, what: &str, done: u64, total: Option<u64>) {
        match total {
            Some(total) if total > 0 => {
                if self.bar.length() != Some(total) {
                    self.bar.set_style(bar_style());
                    self.bar.set_length(total);
                }
                self.bar.set_position(done.min(total));
            }
            _ => {
                if self.bar.length().is_some() {
                    self.bar.unset_length();
                    self.bar.set_style(spinner_style());
                }
            }
        }
        self.bar.set_message(what.to_owned());
        if !self.shown && self.clock.monotonic().saturating_sub(self.begun) >= SHOWN_AFTER {
            self.shown = true;
            self.bar.set_draw_target(ProgressDrawTarget::stderr());
        }
        self.bar.tick();
    }
}

/// Shows that `what` goes on until `work` is done.
pub(crate) async fn while_doing<T>(clock: &Arc<dyn Clock>, what: &str, work: impl Future<Output = T>) -> T {
    let mut progress = Progress::new(Arc::clone(clock));
    let mut work = pin!(work);
    loop {
        tokio::select! {
            biased;
            done = &mut work => return done,
            () = clock.sleep(TICK) => progress.update(what, 0, None),
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

fn spinner_style() -> ProgressStyle {
    style("{spinner} {elapsed} {wide_msg}")
}

fn bar_style() -> ProgressStyle {
    style("{spinner} {elapsed} [{bar:30}] {human_pos}/{human_len} {eta} {wide_msg}")
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_templates_are_valid() {
        // `style` falls back to the default one; only here would a typing error be seen.
        for template in [
            "{spinner} {elapsed} {wide_msg}",
            "{spinner} {elapsed} [{bar:30}] {human_pos}/{human_len} {eta} {wide_msg}",
        ] {
            ProgressStyle::with_template(template).expect(template);
        }
    }

    #[test]
    fn a_total_that_becomes_known_and_unknown_again_is_followed() {
        let mut progress = Progress::new(Arc::new(fkv_env::SystemClock::new()));
        progress.update("plan", 0, None);
        assert_eq!(progress.bar.length(), None);
        progress.update("build", 5, Some(10));
        assert_eq!((progress.bar.position(), progress.bar.length()), (5, Some(10)));
        progress.update("build", 50, Some(10));
        assert_eq!(progress.bar.position(), 10);
        progress.update("align", 0, None);
        assert_eq!(progress.bar.length(), None);
    }
}
