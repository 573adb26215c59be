//! Align: shows a table's target once every required slot has reported its content. Every DataSvr runs this; the
//! transaction compares everything it rests on, so that it does not matter which one is first.

use std::sync::Arc;

use fkv_env::Env;
use fkv_formats::id::TaskId;
use fkv_meta::mirror::Mirror;
use fkv_meta::record::{Progress, TableRecord, TaskState};
use fkv_meta::store::{MetaError, TxnOutcome};
use fkv_meta::{Meta, Refusal, Stamped, View, txn};
use tokio_util::sync::CancellationToken;

use crate::progress::Stage;
use crate::worker::hold::pause;

/// Aligns all tables until told to stop.
#[derive(Debug)]
pub(crate) struct Aligner {
    pub(crate) env: Env,
    pub(crate) meta: Meta,
    pub(crate) mirror: Arc<Mirror>,
    pub(crate) stop: CancellationToken,
}

impl Aligner {
    pub(crate) async fn run(self) {
        tokio::select! {
            biased;
            () = self.stop.cancelled() => {}
            () = self.follow() => {}
        }
    }

    /// Looks at every view; ends with the mirror.
    async fn follow(&self) {
        let mut views = self.mirror.subscribe();
        loop {
            let view = Arc::clone(&views.borrow_and_update());
            let mut again = false;
            for table in view.tables() {
                if let Err(error) = self.align(&view, table).await {
                    tracing::warn!(table = %table.value.name, %error, "alignment could not be looked at; trying again");
                    again = true;
                }
            }
            if again {
                // The view may not change again: look at the same one after a pause.
                pause(&self.env, 5).await;
            } else if views.changed().await.is_err() {
                return;
            }
        }
    }

    async fn align(&self, view: &View, table: &Stamped<TableRecord>) -> Result<(), MetaError> {
        let name = &table.value.name;
        match txn::flip(view, name, self.env.clock.unix_ms()) {
            Ok(planned) => {
                // Refused: the view is behind; the next one decides anew. Ambiguous: likewise.
                if let TxnOutcome::Committed(revision) = self.meta.run(planned.txn).await?
                    && let Some(aligned) = planned.after.table.aligned
                {
                    tracing::info!(
                        table = %name, version = %aligned.version, epoch = %aligned.epoch, revision = revision.0,
                        content = %aligned.content.short(), "version aligned"
                    );
                }
                Ok(())
            }
            Err(Refusal::NothingToAlign(_)) => Ok(()),
            Err(refusal) => self.say_what_is_missing(view, table, &refusal).await,
        }
    }

    /// Puts on the aligning task what it waits for.
    async fn say_what_is_missing(
        &self,
        view: &View,
        table: &Stamped<TableRecord>,
        refusal: &Refusal,
    ) -> Result<(), MetaError> {
        let Some((task, since_ms)) = aligning(view, table) else { return Ok(()) };
        let (uid, waiting_for) = (table.uid(), refusal.to_string());
        let last = view.progress(uid, task).map(|progress| progress.value.clone()).unwrap_or_default();
        if last.stage == Stage::Align.name() && last.waiting_for == waiting_for {
            return Ok(());
        }
        let at_ms = self.env.clock.unix_ms();
        let stage = Stage::Align.name().to_owned();
        let progress = Progress { stage, stage_since_ms: since_ms, at_ms, waiting_for, ..last };
        self.meta.run(txn::put_progress(view.keys(), uid, task, &progress)).await?;
        Ok(())
    }
}

/// The task whose version the table is aligning, and since when.
fn aligning(view: &View, table: &Stamped<TableRecord>) -> Option<(TaskId, u64)> {
    let task = view.task(table.uid(), table.value.running?)?;
    (task.value.state == TaskState::Aligning).then_some((task.value.task, task.value.changed_ms))
}
