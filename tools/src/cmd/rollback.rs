//! `fkv rollback`.

use std::time::Duration;

use fkv_rpc::control;
use serde::Serialize;

use crate::cli::RollbackArgs;
use crate::context::Context;
use crate::control::Control;
use crate::failure::{Failure, OUTAGE_MAX, Outcome};
use crate::progress::Progress;
use crate::view::TableView;

/// Pause between looks at the table while waiting for its target to be shown.
const LOOK_PAUSE: Duration = Duration::from_millis(50);

#[derive(Serialize)]
struct RolledBack {
    dry_run: bool,
    flips_at_once: bool,
    slots_to_load: Vec<String>,
    stopped_task: Option<u64>,
    table: TableView,
}

pub(super) async fn run(context: &Context, args: RollbackArgs) -> Outcome {
    let control = Control::new(context)?;
    let request = control::RollbackRequest {
        table: args.table,
        to: args.to.unwrap_or(0),
        expected_epoch: args.expected_epoch,
        dry_run: args.dry_run,
    };
    let reply = control.rollback(request).await?;
    let mut done = RolledBack {
        dry_run: reply.dry_run,
        flips_at_once: reply.flips_at_once,
        slots_to_load: reply.slots_to_load,
        stopped_task: (reply.stopped_task != 0).then_some(reply.stopped_task),
        table: reply.table.ok_or_else(|| Failure::failed("the control API answered without a table"))?.into(),
    };
    if args.wait && !done.dry_run {
        done.table = wait_until_shown(context, &control, &done.table).await?;
    }
    context.print(&done, |out| {
        let name = &done.table.name;
        let target = done.table.target.as_ref().map_or_else(|| "nothing".to_owned(), |label| label.text());
        let shown = done.table.aligned == done.table.target;
        match (done.dry_run, done.flips_at_once) {
            (true, true) => writeln!(out, "table {name} would show {target} at once: every server holds it")?,
            (true, false) => writeln!(
                out,
                "table {name} would show {target} after {} of its slots have loaded it: {}",
                done.slots_to_load.len(),
                done.slots_to_load.join(", ")
            )?,
            (false, _) if shown => writeln!(out, "table {name} is rolled back: it shows {target}")?,
            (false, _) => writeln!(
                out,
                "table {name} is rolled back to {target}; it is shown when these slots have loaded it: {}",
                done.slots_to_load.join(", ")
            )?,
        }
        match (done.stopped_task, done.dry_run) {
            (Some(task), false) => writeln!(out, "task {task} was stopped")?,
            (Some(task), true) => writeln!(out, "task {task} would be stopped")?,
            (None, _) => {}
        }
        if done.dry_run { writeln!(out, "nothing was changed") } else { Ok(()) }
    })
}

/// Waits until the table shows its target, or a newer one.
pub(super) async fn wait_until_shown(context: &Context, control: &Control, table: &TableView) -> Outcome<TableView> {
    let Some(target) = &table.target else { return Ok(table.clone()) };
    let clock = &context.env.clock;
    let mut progress = Progress::new(clock.clone());
    let mut unreachable_since = None;
    loop {
        let request = control::ShowTableRequest { table: table.name.clone() };
        let now = match control.show_table(request).await {
            Ok(now) => TableView::from(now),
            Err(failure) if failure.is_outage() => {
                let since = *unreachable_since.get_or_insert_with(|| clock.monotonic());
                if clock.monotonic().saturating_sub(since) > OUTAGE_MAX {
                    return Err(failure.hint("the change itself was made; see `fkv table show` for when it is shown"));
                }
                progress.update("the control API cannot be reached; trying again", 0, None);
                clock.sleep(LOOK_PAUSE).await;
                continue;
            }
            Err(failure) => return Err(failure),
        };
        unreachable_since = None;
        if now.aligned.as_ref().is_some_and(|aligned| aligned.epoch >= target.epoch) {
            return Ok(now);
        }
        if now.target.as_ref().is_none_or(|now| now.epoch > target.epoch) {
            return Err(Failure::coded("overtaken", format!("table {} has another target by now", table.name))
                .hint("somebody else loaded, rolled back or released it; see `fkv table show`"));
        }
        progress.update(&format!("servers load {}", target.text()), 0, None);
        context.env.clock.sleep(LOOK_PAUSE).await;
    }
}
