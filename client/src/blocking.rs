//! The same client for programs without an asynchronous runtime.

use fkv_env::Env;
use fkv_rpc::topology::TopologyView;
use tokio::runtime::{Builder, Runtime};

use crate::answer::{BatchAnswer, TableAnswer};
use crate::{ClientConfig, ClientError, Keys, ReadOptions, TableRead};

/// Reads batches of keys, waiting for each. May be shared by many threads, whose calls then run at the same time. Must not be
/// used, or dropped, inside an asynchronous runtime.
#[derive(Debug)]
pub struct Client {
    // Dropped before the runtime its connections live on.
    client: crate::Client,
    runtime: Runtime,
}

impl Client {
    /// Learns the module from one of the endpoints. Connections are served by two threads of the client's own.
    ///
    /// # Errors
    /// As [`crate::Client::connect`]; `Unavailable` also if the threads cannot be started.
    pub fn connect(env: Env, config: ClientConfig) -> Result<Self, ClientError> {
        let runtime = Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("fkv-client")
            .enable_all()
            .build()
            .map_err(|error| ClientError::Unavailable(format!("cannot start the client's threads: {error}")))?;
        let client = runtime.block_on(crate::Client::connect(env, config))?;
        Ok(Self { client, runtime })
    }

    /// As [`crate::Client::batch_get`].
    ///
    /// # Errors
    /// See [`ClientError`]; nothing is answered then.
    pub fn batch_get(&self, reads: &[TableRead<'_>], options: &ReadOptions) -> Result<BatchAnswer, ClientError> {
        self.runtime.block_on(self.client.batch_get(reads, options))
    }

    /// As [`crate::Client::get`].
    ///
    /// # Errors
    /// See [`ClientError`]; nothing is answered then.
    pub fn get(&self, table: &str, keys: Keys<'_>, options: &ReadOptions) -> Result<TableAnswer, ClientError> {
        self.runtime.block_on(self.client.get(table, keys, options))
    }

    /// The module as the client knows it now.
    #[must_use]
    pub fn topology(&self) -> TopologyView {
        self.client.topology()
    }

    /// As [`crate::Client::refresh`].
    ///
    /// # Errors
    /// `Unavailable` if no server answers.
    pub fn refresh(&self) -> Result<TopologyView, ClientError> {
        self.runtime.block_on(self.client.refresh())
    }
}
