//! Tasks: submit, list, show, watch, cancel.

use std::pin::Pin;
use std::sync::Arc;

use fkv_formats::id::{TableUid, TaskId};
use fkv_meta::record::LoadSpec;
use fkv_meta::store::{MetaError, Revision, TxnOutcome};
use fkv_meta::txn::{self, Submitted};
use fkv_meta::{ChangeError, Refusal, View};
use fkv_rpc::control as rpc;
use fkv_rpc::status::{ErrorKind, Failure};
use futures::Stream;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::failure::{bad_request, of_change, of_meta, of_refusal};
use super::tables::named;
use super::{Service, convert};
use crate::worker::hold::pause;

/// Tasks listed unless told otherwise, and at most.
const LIST_DEFAULT: usize = 100;
const LIST_MAX: usize = 1000;
/// How often a submit is tried while others change the table.
const TRIES: usize = 32;

pub(super) async fn submit(service: &Service, request: rpc::SubmitLoadRequest) -> Result<rpc::SubmitLoadReply, Status> {
    let rpc::SubmitLoadRequest { table, spec, submit_id } = request;
    let spec = spec.ok_or_else(|| bad_request("the request has no load spec"))?;
    let mut spec = convert::load_spec(spec)?;
    for input in &mut spec.inputs {
        // One spelling, so that the same load submitted twice is the same spec.
        if input.starts_with('/') {
            *input = format!("file://{input}");
        }
    }
    let submit_id = if submit_id.is_empty() {
        format!("{:016x}{:016x}", service.env.entropy.next_u64(), service.env.entropy.next_u64())
    } else {
        submit_id
    };
    let mut asked = false;
    for round in 0..TRIES {
        if round > 0 {
            pause(&service.env, round).await;
        }
        match try_submit(service, &table, &spec, &submit_id, &mut asked).await? {
            Some(reply) => return Ok(reply),
            None => continue,
        }
    }
    Err(of_change(ChangeError::Contended))
}

/// One try; `None` if the records changed meanwhile or the answer was lost.
async fn try_submit(
    service: &Service,
    table: &str,
    spec: &LoadSpec,
    submit_id: &str,
    asked: &mut bool,
) -> Result<Option<rpc::SubmitLoadReply>, Status> {
    let view = service.view().await?;
    let uid = named(&view, table)?.uid();
    let existing = service.meta.submit(uid, submit_id).await.map_err(of_meta)?;
    if existing.is_none() {
        for input in &spec.inputs {
            let checked = service.config.sources.check(input, service.store.url());
            checked.map_err(|refused| bad_request(refused.to_string()))?;
        }
    }
    let refused = |refusal: Refusal| of_refusal(&refusal);
    match txn::submit(&view, table, existing.as_ref(), submit_id, spec, service.now_ms()).map_err(refused)? {
        Submitted::Already(task) => {
            let view = service.view().await?;
            let task = Some(find(&view, uid, table, task)?);
            // The task of an earlier try of this very call, whose answer was lost, is one that this call made.
            Ok(Some(rpc::SubmitLoadReply { task, created: *asked }))
        }
        Submitted::New(planned) => {
            *asked = true;
            let planned = *planned;
            match service.meta.run(planned.txn).await {
                Ok(TxnOutcome::Committed(_)) => {
                    let task = &planned.after.task;
                    tracing::info!(table, task = %task.task, submit_id, inputs = ?task.spec.inputs, "task submitted");
                    let task = Some(convert::task(uid, task, None));
                    Ok(Some(rpc::SubmitLoadReply { task, created: true }))
                }
                Ok(TxnOutcome::Refused) => {
                    *asked = false;
                    Ok(None)
                }
                Err(MetaError::Ambiguous(_)) => Ok(None),
                Err(error) => Err(of_meta(error)),
            }
        }
    }
}

fn find(view: &View, uid: TableUid, table: &str, task: TaskId) -> Result<rpc::Task, Status> {
    let found = view.task(uid, task).ok_or_else(|| no_task(table, task))?;
    Ok(convert::task(uid, &found.value, view.progress(uid, task).map(|progress| &progress.value)))
}

fn no_task(table: &str, task: TaskId) -> Status {
    of_refusal(&Refusal::NoTask { table: table.to_owned(), task })
}

pub(super) async fn list(service: &Service, request: rpc::ListTasksRequest) -> Result<rpc::ListTasksReply, Status> {
    let limit = match request.limit {
        0 => LIST_DEFAULT,
        limit => LIST_MAX.min(limit as usize),
    };
    let view = service.view().await?;
    let tables: Vec<_> =
        if request.table.is_empty() { view.tables().collect() } else { vec![named(&view, &request.table)?] };
    let mut tasks: Vec<_> = tables
        .iter()
        .flat_map(|table| view.tasks(table.uid()).rev().take(limit).map(|task| (table.uid(), task)))
        .collect();
    tasks.sort_by_key(|(uid, task)| std::cmp::Reverse((task.value.submitted_ms, *uid, task.value.task)));
    tasks.truncate(limit);
    let tasks = tasks
        .into_iter()
        .map(|(uid, task)| {
            let progress = view.progress(uid, task.value.task).map(|progress| &progress.value);
            convert::task(uid, &task.value, progress)
        })
        .collect();
    Ok(rpc::ListTasksReply { tasks })
}

pub(super) async fn show(service: &Service, request: rpc::ShowTaskRequest) -> Result<rpc::Task, Status> {
    let view = service.view().await?;
    let uid = named(&view, &request.table)?.uid();
    find(&view, uid, &request.table, TaskId(request.task))
}

pub(super) async fn cancel(service: &Service, request: rpc::CancelTaskRequest) -> Result<rpc::Task, Status> {
    let (table, task, now_ms) = (&request.table, TaskId(request.task), service.now_ms());
    let change = service.meta.change(|view| txn::cancel_task(view, table, task, now_ms)).await.map_err(of_change)?;
    tracing::info!(table = %table, task = %task, "task cancelled");
    let view = service.view().await?;
    let uid = named(&view, table)?.uid();
    Ok(convert::task(uid, &change.after.task, view.progress(uid, task).map(|progress| &progress.value)))
}

/// The stream of a watched task.
pub(super) type TaskStream = Pin<Box<dyn Stream<Item = Result<rpc::Task, Status>> + Send>>;

/// A watch: what was sent last, and where the next views come from.
struct Watch {
    first: Option<Arc<View>>,
    views: watch::Receiver<Arc<View>>,
    table: String,
    uid: TableUid,
    task: TaskId,
    /// Revisions of the task and its progress sent last.
    sent: (Revision, Revision),
    /// Views before this one are older than what the caller was shown.
    since: Revision,
    stop: CancellationToken,
    ended: bool,
}

pub(super) async fn watch(service: &Service, request: rpc::ShowTaskRequest) -> Result<TaskStream, Status> {
    let views = service.mirror.subscribe();
    let view = service.view().await?;
    let (uid, task) = (named(&view, &request.table)?.uid(), TaskId(request.task));
    find(&view, uid, &request.table, task)?;
    let watch = Watch {
        since: view.revision(),
        first: Some(Arc::new(view)),
        views,
        table: request.table,
        uid,
        task,
        sent: (Revision(0), Revision(0)),
        stop: service.stop.clone(),
        ended: false,
    };
    Ok(Box::pin(futures::stream::unfold(watch, |mut watch| async move {
        let item = watch.next().await?;
        Some((item, watch))
    })))
}

impl Watch {
    async fn next(&mut self) -> Option<Result<rpc::Task, Status>> {
        if self.ended {
            return None;
        }
        if let Some(first) = self.first.take()
            && let Some(item) = self.look(&first)
        {
            return Some(item);
        }
        loop {
            let view = Arc::clone(&self.views.borrow_and_update());
            if view.revision() >= self.since
                && let Some(item) = self.look(&view)
            {
                return Some(item);
            }
            let open = tokio::select! {
                biased;
                () = self.stop.cancelled() => false,
                changed = self.views.changed() => changed.is_ok(),
            };
            if !open {
                self.ended = true;
                let failure =
                    Failure::new(ErrorKind::Unavailable, "this DataSvr is shutting down: watch at another one");
                return Some(Err(failure.into()));
            }
        }
    }

    /// What to send for a view, if it shows something new.
    fn look(&mut self, view: &View) -> Option<Result<rpc::Task, Status>> {
        let Some(task) = view.task(self.uid, self.task) else {
            self.ended = true;
            return Some(Err(no_task(&self.table, self.task)));
        };
        let progress = view.progress(self.uid, self.task);
        let now = (task.modified, progress.map_or(Revision(0), |progress| progress.modified));
        if now.0 < self.sent.0 || now == self.sent {
            return None;
        }
        self.sent = now;
        self.ended = task.value.state.is_terminal();
        Some(Ok(convert::task(self.uid, &task.value, progress.map(|progress| &progress.value))))
    }
}
