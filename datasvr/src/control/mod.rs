//! The control API: what operators and pipelines ask of any DataSvr.
//!
//! ```text
//!   tables    create, list, show, drop            convert  records ─▶ messages, messages ─▶ specs
//!   tasks     submit, list, show, watch, cancel   failure  refusals and errors ─▶ gRPC statuses
//!   versions  list, show, rollback, release
//!   cluster   init, show
//! ```
//!
//! Every call reads metadata as it is now and every change is one transaction: any DataSvr answers alike, and a call
//! that was repeated finds what the first one did.

mod cluster;
mod convert;
mod failure;
mod tables;
mod tasks;
mod versions;

use std::sync::Arc;

use fkv_env::Env;
use fkv_formats::id::Epoch;
use fkv_meta::mirror::Mirror;
use fkv_meta::{Meta, View};
use fkv_rpc::control as rpc;
use fkv_rpc::control::control_server::Control;
use fkv_store::Store;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use self::failure::of_meta;
use crate::config::DataConfig;

/// The service. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Service {
    pub(crate) env: Env,
    pub(crate) meta: Meta,
    pub(crate) mirror: Arc<Mirror>,
    pub(crate) store: Store,
    pub(crate) config: Arc<DataConfig>,
    pub(crate) stop: CancellationToken,
}

impl Service {
    /// All metadata of the module, as it is now.
    async fn view(&self) -> Result<View, Status> {
        self.meta.view().await.map_err(of_meta)
    }

    fn now_ms(&self) -> u64 {
        self.env.clock.unix_ms()
    }
}

/// The epoch a caller expects, if it said one.
fn expected(epoch: Option<u64>) -> Option<Epoch> {
    epoch.map(Epoch)
}

type Reply<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl Control for Service {
    async fn create_table(&self, request: Request<rpc::CreateTableRequest>) -> Reply<rpc::Table> {
        tables::create(self, request.into_inner()).await.map(Response::new)
    }

    async fn list_tables(&self, _: Request<rpc::ListTablesRequest>) -> Reply<rpc::ListTablesReply> {
        tables::list(self).await.map(Response::new)
    }

    async fn show_table(&self, request: Request<rpc::ShowTableRequest>) -> Reply<rpc::Table> {
        tables::show(self, request.into_inner()).await.map(Response::new)
    }

    async fn drop_table(&self, request: Request<rpc::DropTableRequest>) -> Reply<rpc::DropTableReply> {
        tables::drop(self, request.into_inner()).await.map(Response::new)
    }

    async fn submit_load(&self, request: Request<rpc::SubmitLoadRequest>) -> Reply<rpc::SubmitLoadReply> {
        tasks::submit(self, request.into_inner()).await.map(Response::new)
    }

    async fn list_tasks(&self, request: Request<rpc::ListTasksRequest>) -> Reply<rpc::ListTasksReply> {
        tasks::list(self, request.into_inner()).await.map(Response::new)
    }

    async fn show_task(&self, request: Request<rpc::ShowTaskRequest>) -> Reply<rpc::Task> {
        tasks::show(self, request.into_inner()).await.map(Response::new)
    }

    type WatchTaskStream = tasks::TaskStream;

    async fn watch_task(&self, request: Request<rpc::ShowTaskRequest>) -> Reply<Self::WatchTaskStream> {
        tasks::watch(self, request.into_inner()).await.map(Response::new)
    }

    async fn cancel_task(&self, request: Request<rpc::CancelTaskRequest>) -> Reply<rpc::Task> {
        tasks::cancel(self, request.into_inner()).await.map(Response::new)
    }

    async fn list_versions(&self, request: Request<rpc::ListVersionsRequest>) -> Reply<rpc::ListVersionsReply> {
        versions::list(self, request.into_inner()).await.map(Response::new)
    }

    async fn show_version(&self, request: Request<rpc::ShowVersionRequest>) -> Reply<rpc::Version> {
        versions::show(self, request.into_inner()).await.map(Response::new)
    }

    async fn rollback(&self, request: Request<rpc::RollbackRequest>) -> Reply<rpc::RollbackReply> {
        versions::rollback(self, request.into_inner()).await.map(Response::new)
    }

    async fn release(&self, request: Request<rpc::ReleaseRequest>) -> Reply<rpc::ReleaseReply> {
        versions::release(self, request.into_inner()).await.map(Response::new)
    }

    async fn init_cluster(&self, request: Request<rpc::InitClusterRequest>) -> Reply<rpc::Cluster> {
        cluster::init(self, request.into_inner()).await.map(Response::new)
    }

    async fn show_cluster(&self, _: Request<rpc::ShowClusterRequest>) -> Reply<rpc::Cluster> {
        cluster::show(self).await.map(Response::new)
    }
}
