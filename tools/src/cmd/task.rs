//! `fkv task`: list, show, wait, cancel.

use std::time::Duration;

use fkv_rpc::control;
use serde::Serialize;

use crate::cli::{TaskArgs, TaskVerb};
use crate::context::Context;
use crate::control::Control;
use crate::failure::{Failure, OUTAGE_MAX, Outcome};
use crate::progress::Progress;
use crate::view::{TaskView, write_tasks};

/// Pause before a broken watch is started again.
const RETRY_PAUSE: Duration = Duration::from_millis(300);

pub(super) async fn run(context: &Context, verb: TaskVerb) -> Outcome {
    let control = Control::new(context)?;
    match verb {
        TaskVerb::List { table, limit } => list(context, &control, table, limit).await,
        TaskVerb::Show(args) => {
            let task = TaskView::from(control.show_task(show_request(args)).await?);
            context.print(&task, |out| task.write(out))
        }
        TaskVerb::Wait(args) => {
            let task = wait(context, &control, &args.table, args.task).await?;
            context.print(&task, |out| writeln!(out, "{}", task.line()))?;
            require_finished(&task)
        }
        TaskVerb::Cancel(args) => {
            let request = control::CancelTaskRequest { table: args.table, task: args.task };
            let task = TaskView::from(control.cancel_task(request).await?);
            context.print(&task, |out| writeln!(out, "{}", task.line()))
        }
    }
}

fn show_request(args: TaskArgs) -> control::ShowTaskRequest {
    control::ShowTaskRequest { table: args.table, task: args.task }
}

async fn list(context: &Context, control: &Control, table: Option<String>, limit: u32) -> Outcome {
    #[derive(Serialize)]
    struct Tasks {
        tasks: Vec<TaskView>,
    }
    let request = control::ListTasksRequest { table: table.unwrap_or_default(), limit };
    let reply = control.list_tasks(request).await?;
    let tasks = Tasks { tasks: reply.tasks.into_iter().map(Into::into).collect() };
    context.print(&tasks, |out| write_tasks(&tasks.tasks, out))
}

/// Waits for a task's end and shows its progress meanwhile.
pub(crate) async fn wait(context: &Context, control: &Control, table: &str, task: u64) -> Outcome<TaskView> {
    let clock = &context.env.clock;
    let mut progress = Progress::new(clock.clone());
    let mut unreachable_since: Option<Duration> = None;
    loop {
        let failure = match follow(control, table, task, &mut progress, &mut unreachable_since).await {
            Ok(Some(ended)) => return Ok(ended),
            // The server ended the stream early, as it does on shutdown.
            Ok(None) => None,
            Err(failure) if failure.is_outage() => Some(failure),
            Err(failure) => return Err(failure),
        };
        let since = *unreachable_since.get_or_insert_with(|| clock.monotonic());
        if clock.monotonic().saturating_sub(since) > OUTAGE_MAX {
            return Err(failure.unwrap_or_else(|| {
                Failure::coded("unavailable", "the control API keeps ending the watch of the task")
                    .hint("the task goes on; look at it with `fkv task show`")
            }));
        }
        progress.update("the control API cannot be reached; trying again", 0, None);
        clock.sleep(RETRY_PAUSE).await;
    }
}

/// Follows one watch to its end; gives the task if it has ended.
async fn follow(
    control: &Control,
    table: &str,
    task: u64,
    progress: &mut Progress,
    unreachable_since: &mut Option<Duration>,
) -> Outcome<Option<TaskView>> {
    let mut states = control.watch_task(table, task).await?;
    while let Some(state) = control.next_task(&mut states).await? {
        *unreachable_since = None;
        let view = TaskView::from(state);
        if view.is_ended() {
            return Ok(Some(view));
        }
        let (what, done, total) = view.progress();
        progress.update(&what, done, total);
    }
    Ok(None)
}

/// Fails unless the task's version is shown.
pub(crate) fn require_finished(task: &TaskView) -> Outcome {
    if task.is_finished() {
        return Ok(());
    }
    let reason = task.last_error().map(|error| format!(": {error}")).unwrap_or_default();
    Err(Failure::coded(
        "task_not_finished",
        format!("task {} of table {} {}{reason}", task.task, task.table, task.state),
    )
    .hint(format!("nothing of it is shown; `fkv task show {} {}` has the details", task.table, task.task)))
}
