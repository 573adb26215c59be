//! The control API as tests use it: what must work, works or panics with the server's words; the rest gives its
//! status back.

use fkv_env::{ChannelOptions, Env, channel};
use fkv_formats::schema::Schema;
use fkv_rpc::control::control_client::ControlClient;
use fkv_rpc::control::{
    CancelTaskRequest, Cluster, CreateTableRequest, DropTableReply, DropTableRequest, InitClusterRequest,
    ListTasksRequest, ListVersionsRequest, LoadSpec, ReleaseReply, ReleaseRequest, RollbackReply, RollbackRequest,
    SectSpec, ShowClusterRequest, ShowTableRequest, ShowTaskRequest, SubmitLoadReply, SubmitLoadRequest, Table, Task,
    Version,
};
use tonic::Status;
use tonic::transport::Channel;

use crate::wait;

/// A connection to the control API of one DataSvr.
#[derive(Clone, Debug)]
pub struct Control {
    env: Env,
    client: ControlClient<Channel>,
}

/// Whether a task in this state has ended.
#[must_use]
pub fn is_terminal(state: &str) -> bool {
    matches!(state, "finished" | "failed" | "cancelled" | "skipped")
}

/// A load of Parquet files with the columns that [`crate::rows`] writes.
#[must_use]
pub fn full_load(inputs: impl IntoIterator<Item = String>) -> LoadSpec {
    LoadSpec {
        inputs: inputs.into_iter().collect(),
        mode: "full".into(),
        format: "parquet".into(),
        key_column: "key".into(),
        value_columns: vec!["value".into()],
        ..LoadSpec::default()
    }
}

impl Control {
    /// Connects (on first use) to `endpoint`, a `host:port`.
    ///
    /// # Panics
    /// `endpoint` is no `host:port`.
    #[must_use]
    pub fn new(env: &Env, endpoint: &str) -> Self {
        let channel = channel(env.net.clone(), endpoint, ChannelOptions::default()).expect("a host:port");
        Self { env: env.clone(), client: ControlClient::new(channel) }
    }

    /// Waits until the API answers.
    pub async fn ready(&self) {
        wait::until(&self.env, "the control API", async || self.try_cluster().await.map_err(|s| s.to_string())).await;
    }

    /// Declares the sects.
    ///
    /// # Errors
    /// The server's status.
    pub async fn init_cluster(&self, sects: Vec<SectSpec>) -> Result<Cluster, Status> {
        self.client.clone().init_cluster(InitClusterRequest { sects }).await.map(tonic::Response::into_inner)
    }

    /// The cluster.
    ///
    /// # Errors
    /// The server's status.
    pub async fn try_cluster(&self) -> Result<Cluster, Status> {
        self.client.clone().show_cluster(ShowClusterRequest {}).await.map(tonic::Response::into_inner)
    }

    /// Creates a table.
    ///
    /// # Errors
    /// The server's status.
    pub async fn try_create(&self, name: &str, schema: &Schema) -> Result<Table, Status> {
        self.client.clone().create_table(Self::create_request(name, schema)).await.map(tonic::Response::into_inner)
    }

    /// Creates a table whose servers keep an image that was replaced in their local files only.
    ///
    /// # Errors
    /// The server's status.
    pub async fn create_retaining_on_disk(&self, name: &str, schema: &Schema) -> Result<Table, Status> {
        let request = CreateTableRequest { retain_old: "disk".into(), ..Self::create_request(name, schema) };
        self.client.clone().create_table(request).await.map(tonic::Response::into_inner)
    }

    fn create_request(name: &str, schema: &Schema) -> CreateTableRequest {
        CreateTableRequest {
            name: name.into(),
            kind: schema.kind.to_string(),
            key_type: schema.key.to_string(),
            value_type: schema.value.to_string(),
            storage: schema.storage.to_string(),
            f16_overflow: schema.f16_overflow.to_string(),
            ttl: schema.ttl,
            ..CreateTableRequest::default()
        }
    }

    /// Creates a table.
    pub async fn create(&self, name: &str, schema: &Schema) -> Table {
        self.try_create(name, schema).await.unwrap_or_else(|status| panic!("cannot create `{name}`: {status}"))
    }

    /// Drops a table.
    ///
    /// # Errors
    /// The server's status.
    pub async fn drop_table(&self, name: &str) -> Result<DropTableReply, Status> {
        let request = DropTableRequest { table: name.into(), ..DropTableRequest::default() };
        self.client.clone().drop_table(request).await.map(tonic::Response::into_inner)
    }

    /// A table.
    ///
    /// # Errors
    /// The server's status.
    pub async fn try_table(&self, name: &str) -> Result<Table, Status> {
        self.client.clone().show_table(ShowTableRequest { table: name.into() }).await.map(tonic::Response::into_inner)
    }

    /// A table.
    pub async fn table(&self, name: &str) -> Table {
        self.try_table(name).await.unwrap_or_else(|status| panic!("cannot show `{name}`: {status}"))
    }

    /// Submits a load.
    ///
    /// # Errors
    /// The server's status.
    pub async fn submit(&self, table: &str, spec: LoadSpec, submit_id: &str) -> Result<SubmitLoadReply, Status> {
        let request = SubmitLoadRequest { table: table.into(), spec: Some(spec), submit_id: submit_id.into() };
        self.client.clone().submit_load(request).await.map(tonic::Response::into_inner)
    }

    /// Submits a load and gives the number of its task.
    pub async fn start_load(&self, table: &str, spec: LoadSpec) -> u64 {
        let reply = self.submit(table, spec, "").await;
        let reply = reply.unwrap_or_else(|status| panic!("cannot submit a load of `{table}`: {status}"));
        reply.task.expect("a submit answers with its task").task
    }

    /// A task.
    ///
    /// # Errors
    /// The server's status.
    pub async fn task(&self, table: &str, task: u64) -> Result<Task, Status> {
        let request = ShowTaskRequest { table: table.into(), task };
        self.client.clone().show_task(request).await.map(tonic::Response::into_inner)
    }

    /// The newest tasks of a table.
    ///
    /// # Errors
    /// The server's status.
    pub async fn tasks(&self, table: &str) -> Result<Vec<Task>, Status> {
        let request = ListTasksRequest { table: table.into(), limit: 0 };
        self.client.clone().list_tasks(request).await.map(|reply| reply.into_inner().tasks)
    }

    /// Cancels a task.
    ///
    /// # Errors
    /// The server's status.
    pub async fn cancel(&self, table: &str, task: u64) -> Result<Task, Status> {
        let request = CancelTaskRequest { table: table.into(), task };
        self.client.clone().cancel_task(request).await.map(tonic::Response::into_inner)
    }

    /// Waits until a task has one of the `states`.
    pub async fn wait_for(&self, table: &str, task: u64, states: &[&str]) -> Task {
        let what = format!("task {task} of `{table}` to be {}", states.join(" or "));
        wait::until(&self.env, &what, async || match self.task(table, task).await {
            Ok(task) if states.contains(&task.state.as_str()) => Ok(task),
            Ok(task) => Err(format!("{task:?}")),
            Err(status) => Err(status.to_string()),
        })
        .await
    }

    /// Waits until a task has ended, whichever way.
    pub async fn wait_end(&self, table: &str, task: u64) -> Task {
        self.wait_for(table, task, &["finished", "failed", "cancelled", "skipped"]).await
    }

    /// Submits a load, waits for its end and insists that it succeeded.
    pub async fn load(&self, table: &str, spec: LoadSpec) -> Task {
        let task = self.start_load(table, spec).await;
        let task = self.wait_end(table, task).await;
        assert_eq!(task.state, "finished", "the load of `{table}` failed: {:?}", task.errors);
        task
    }

    /// The versions of a table.
    ///
    /// # Errors
    /// The server's status.
    pub async fn versions(&self, table: &str) -> Result<Vec<Version>, Status> {
        let request = ListVersionsRequest { table: table.into() };
        self.client.clone().list_versions(request).await.map(|reply| reply.into_inner().versions)
    }

    /// Rolls a table back to a version.
    ///
    /// # Errors
    /// The server's status.
    pub async fn rollback(&self, table: &str, to: u64, dry_run: bool) -> Result<RollbackReply, Status> {
        let request = RollbackRequest { table: table.into(), to, dry_run, expected_epoch: None };
        self.client.clone().rollback(request).await.map(tonic::Response::into_inner)
    }

    /// Ends a rollback.
    ///
    /// # Errors
    /// The server's status.
    pub async fn release(&self, table: &str, dry_run: bool) -> Result<ReleaseReply, Status> {
        let request = ReleaseRequest { table: table.into(), dry_run, expected_epoch: None };
        self.client.clone().release(request).await.map(tonic::Response::into_inner)
    }

    /// Waits until what a table shows is its target.
    pub async fn wait_aligned(&self, table: &str) -> Table {
        wait::until(&self.env, &format!("`{table}` to align"), async || match self.try_table(table).await {
            Ok(table) if table.target.is_some() && table.target == table.aligned => Ok(table),
            Ok(table) => Err(format!("{table:?}")),
            Err(status) => Err(status.to_string()),
        })
        .await
    }
}
