//! Calls of the control API, with errors that say what to do.

use std::future::Future;
use std::time::Duration;

use fkv_env::{ChannelOptions, timeout};
use fkv_rpc::control;
use fkv_rpc::control::control_client::ControlClient;
use tonic::transport::Channel;
use tonic::{Code, Request, Response, Status};

use crate::context::Context;
use crate::failure::{Failure, Outcome};

/// How long one call may take. Only watching a task takes longer.
const CALL_TIME_MAX: Duration = Duration::from_secs(60);

/// A client of the control API. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Control {
    client: ControlClient<Channel>,
    endpoint: String,
    env: fkv_env::Env,
}

macro_rules! calls {
    ($($(#[$doc:meta])* $name:ident($request:ident) -> $reply:ident;)+) => {
        impl Control {
            $($(#[$doc])*
            pub(crate) async fn $name(&self, request: control::$request) -> Outcome<control::$reply> {
                let mut client = self.client.clone();
                self.call(async move { client.$name(Request::new(request)).await }).await
            })+
        }
    };
}

calls! {
    /// Creates a table.
    create_table(CreateTableRequest) -> Table;
    /// All tables.
    list_tables(ListTablesRequest) -> ListTablesReply;
    /// One table.
    show_table(ShowTableRequest) -> Table;
    /// Drops a table.
    drop_table(DropTableRequest) -> DropTableReply;
    /// Submits a load task.
    submit_load(SubmitLoadRequest) -> SubmitLoadReply;
    /// The newest tasks.
    list_tasks(ListTasksRequest) -> ListTasksReply;
    /// One task.
    show_task(ShowTaskRequest) -> Task;
    /// Cancels a task.
    cancel_task(CancelTaskRequest) -> Task;
    /// The versions of a table.
    list_versions(ListVersionsRequest) -> ListVersionsReply;
    /// One version.
    show_version(ShowVersionRequest) -> Version;
    /// Rolls a table back.
    rollback(RollbackRequest) -> RollbackReply;
    /// Ends a rollback.
    release(ReleaseRequest) -> ReleaseReply;
    /// Declares the servers of a module.
    init_cluster(InitClusterRequest) -> Cluster;
    /// The servers of a module.
    show_cluster(ShowClusterRequest) -> Cluster;
}

impl Control {
    /// A client of the control API the context names. Connects on the first call.
    pub(crate) fn new(context: &Context) -> Outcome<Self> {
        Self::at(&context.env, &context.endpoint)
    }

    /// A client of the control API at `endpoint`.
    pub(crate) fn at(env: &fkv_env::Env, endpoint: &str) -> Outcome<Self> {
        let channel = fkv_env::channel(env.net.clone(), endpoint, ChannelOptions::default())
            .map_err(|error| Failure::usage(error.to_string()))?;
        Ok(Self { client: ControlClient::new(channel), endpoint: endpoint.to_owned(), env: env.clone() })
    }

    /// The states of a task as they change; the stream ends after the terminal one, or when the connection breaks.
    pub(crate) async fn watch_task(&self, table: &str, task: u64) -> Outcome<tonic::Streaming<control::Task>> {
        let mut client = self.client.clone();
        let request = control::ShowTaskRequest { table: table.to_owned(), task };
        self.call(async move { client.watch_task(Request::new(request)).await }).await
    }

    /// The next state of a watched task.
    pub(crate) async fn next_task(
        &self,
        states: &mut tonic::Streaming<control::Task>,
    ) -> Outcome<Option<control::Task>> {
        states.message().await.map_err(|status| self.failure(&status))
    }

    async fn call<T>(&self, call: impl Future<Output = Result<Response<T>, Status>>) -> Outcome<T> {
        match timeout(&*self.env.clock, CALL_TIME_MAX, call).await {
            Ok(Ok(response)) => Ok(response.into_inner()),
            Ok(Err(status)) => Err(self.failure(&status)),
            Err(_) => Err(Failure::coded(
                "deadline_exceeded",
                format!("the control API at {} did not answer within {} s", self.endpoint, CALL_TIME_MAX.as_secs()),
            )
            .hint("whether the request took effect is not known: look before trying again")),
        }
    }

    fn failure(&self, status: &Status) -> Failure {
        let endpoint = &self.endpoint;
        let message = status.message();
        match status.code() {
            // A status with a source never left this process: connecting or the connection failed.
            Code::Unavailable | Code::Unknown if std::error::Error::source(status).is_some() => Failure::coded(
                "unavailable",
                format!("cannot reach the control API at {endpoint}: {}", root_cause(status)),
            )
            .hint("start a cluster with `fkv up`, or name another address with --endpoint or FKV_ENDPOINT"),
            Code::Unimplemented if message.is_empty() => {
                Failure::coded("unimplemented", format!("{endpoint} does not serve this call of the control API"))
                    .hint("check that --endpoint names a DataSvr (or `fkv up`), not a KVSvr, of the same release")
            }
            Code::InvalidArgument => Failure::coded("invalid_argument", message).counts_as_usage(),
            code => Failure::coded(code_word(code), message),
        }
    }
}

/// The innermost reason of a failed connection: the outer ones only say that there was one.
fn root_cause(status: &Status) -> String {
    let mut error: &dyn std::error::Error = status;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}

fn code_word(code: Code) -> &'static str {
    match code {
        Code::Ok => "ok",
        Code::Cancelled => "cancelled",
        Code::Unknown => "unknown",
        Code::InvalidArgument => "invalid_argument",
        Code::DeadlineExceeded => "deadline_exceeded",
        Code::NotFound => "not_found",
        Code::AlreadyExists => "already_exists",
        Code::PermissionDenied => "permission_denied",
        Code::ResourceExhausted => "resource_exhausted",
        Code::FailedPrecondition => "failed_precondition",
        Code::Aborted => "aborted",
        Code::OutOfRange => "out_of_range",
        Code::Unimplemented => "unimplemented",
        Code::Internal => "internal",
        Code::Unavailable => "unavailable",
        Code::DataLoss => "data_loss",
        Code::Unauthenticated => "unauthenticated",
    }
}
