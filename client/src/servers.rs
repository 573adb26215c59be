//! The servers a client talks to: connections, one request at a time, and their health.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use fkv_env::{ChannelOptions, Env, channel, timeout};
use fkv_rpc::kv::kv_client::KvClient;
use fkv_rpc::kv::{BatchGetRequest, TopologyRequest};
use fkv_rpc::packed::{MESSAGE_OVERHEAD_BYTES, REPLY_BYTES_MAX, REQUEST_BYTES_MAX, Reply};
use fkv_rpc::status::{ErrorKind, Failure, Retry};
use fkv_rpc::topology::TopologyView;
use tonic::transport::Channel;
use tonic::{Request, Status};

use crate::health::Health;

/// One server: some connections to one address.
#[derive(Debug)]
pub(crate) struct Server {
    address: Arc<str>,
    /// Each a connection of its own; used in turn.
    stubs: Vec<KvClient<Channel>>,
    next: AtomicUsize,
    health: Mutex<Health>,
}

/// All servers, by address.
#[derive(Debug)]
pub(crate) struct Servers {
    env: Env,
    options: ChannelOptions,
    connections: usize,
    by_address: Mutex<BTreeMap<Arc<str>, Arc<Server>>>,
}

impl Servers {
    pub(crate) fn new(env: Env, options: ChannelOptions, connections: usize) -> Self {
        Self { env, options, connections, by_address: Mutex::default() }
    }

    /// The server at `address`, a `host:port`. Connects when first used.
    pub(crate) fn get(&self, address: &str) -> Result<Arc<Server>, Failure> {
        let mut by_address = self.by_address.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(server) = by_address.get(address) {
            return Ok(Arc::clone(server));
        }
        let stub = || -> std::io::Result<KvClient<Channel>> {
            let channel = channel(Arc::clone(&self.env.net), address, self.options)?;
            Ok(KvClient::new(channel)
                .max_decoding_message_size(REPLY_BYTES_MAX + MESSAGE_OVERHEAD_BYTES)
                .max_encoding_message_size(REQUEST_BYTES_MAX + MESSAGE_OVERHEAD_BYTES))
        };
        let stubs: Vec<_> = (0..self.connections)
            .map(|_| stub())
            .collect::<Result<_, _>>()
            .map_err(|error| Failure::new(ErrorKind::BadRequest, error.to_string()))?;
        let address: Arc<str> = address.into();
        let server = Arc::new(Server {
            address: Arc::clone(&address),
            stubs,
            next: AtomicUsize::new(0),
            health: Mutex::default(),
        });
        by_address.insert(address, Arc::clone(&server));
        Ok(server)
    }

    /// Forgets all servers but these; their connections close with their last call.
    pub(crate) fn retain(&self, addresses: &BTreeSet<&str>) {
        let mut by_address = self.by_address.lock().unwrap_or_else(PoisonError::into_inner);
        by_address.retain(|address, _| addresses.contains(&**address));
    }
}

impl Server {
    /// Its address.
    pub(crate) fn address(&self) -> &Arc<str> {
        &self.address
    }

    /// Whether it may be asked at `now`; see [`Health::admit`].
    pub(crate) fn admit(&self, now: Duration) -> bool {
        self.health.lock().unwrap_or_else(PoisonError::into_inner).admit(now)
    }

    /// Whether it is left alone at `now` because it failed.
    pub(crate) fn is_ejected(&self, now: Duration) -> bool {
        self.health.lock().unwrap_or_else(PoisonError::into_inner).is_ejected(now)
    }

    /// Another server was faster although it was asked much later: as bad as a failure.
    pub(crate) fn outpaced(&self, env: &Env) {
        let mut health = self.health.lock().unwrap_or_else(PoisonError::into_inner);
        if health.failed(env.clock.monotonic()) {
            tracing::warn!(address = %self.address, "server ejected for being slow");
        }
    }

    /// Sends a packed request body and reads the reply. `hurried` says that `limit` is less than a healthy server may
    /// take, so that running into it says nothing about this one.
    pub(crate) async fn batch_get(
        &self,
        env: &Env,
        body: Bytes,
        limit: Duration,
        hurried: bool,
    ) -> Result<Reply, Failure> {
        let mut request = Request::new(BatchGetRequest { body });
        // The server may stop working soon after nobody waits any more. It is `limit`, by the injected clock, that ends the
        // wait here.
        request.set_timeout(limit + limit / 4);
        let answer = self.call(env, limit, |mut stub| async move { stub.batch_get(request).await }).await;
        let reply = answer.and_then(|answer| {
            Reply::parse(answer.into_inner().body)
                .map_err(|error| Failure::new(ErrorKind::Internal, format!("the reply cannot be read: {error}")))
        });
        match &reply {
            Err(failure) if hurried && failure.kind == ErrorKind::DeadlineExceeded => {}
            reply => self.note(env, reply),
        }
        reply
    }

    /// Asks for the topology.
    pub(crate) async fn topology(&self, env: &Env, limit: Duration) -> Result<TopologyView, Failure> {
        let request = Request::new(TopologyRequest {});
        let answer = self.call(env, limit, |mut stub| async move { stub.topology(request).await }).await;
        answer.and_then(|answer| {
            TopologyView::try_from(answer.into_inner())
                .map_err(|error| Failure::new(ErrorKind::Internal, format!("the topology cannot be used: {error}")))
        })
    }

    async fn call<T, F>(
        &self,
        env: &Env,
        limit: Duration,
        call: impl FnOnce(KvClient<Channel>) -> F,
    ) -> Result<T, Failure>
    where
        F: Future<Output = Result<T, Status>>,
    {
        let stub = &self.stubs[self.next.fetch_add(1, Ordering::Relaxed) % self.stubs.len()];
        match timeout(&*env.clock, limit, call(stub.clone())).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(status)) => Err(Failure::of(&status)),
            Err(_) => {
                let message = format!("no answer within {} ms", limit.as_millis());
                Err(Failure::new(ErrorKind::DeadlineExceeded, message))
            }
        }
    }

    /// Counts the outcome for or against the server. A refusal that any server would give says nothing about it.
    fn note<T>(&self, env: &Env, outcome: &Result<T, Failure>) {
        let mut health = self.health.lock().unwrap_or_else(PoisonError::into_inner);
        match outcome {
            Err(failure) if !is_final(failure) => {
                if health.failed(env.clock.monotonic()) {
                    tracing::warn!(address = %self.address, error = %failure, "server ejected after failures in a row");
                }
            }
            _ => health.succeeded(),
        }
    }
}

/// Whether another server would say the same. The hint decides too: something else that listens at a server's former
/// address may well say that it does not know the method.
pub(crate) fn is_final(failure: &Failure) -> bool {
    let stands = failure.retry == Retry::No;
    match failure.kind {
        ErrorKind::BadRequest | ErrorKind::BatchTooLarge | ErrorKind::Unsupported | ErrorKind::Refused => stands,
        ErrorKind::NotFound | ErrorKind::AlreadyExists | ErrorKind::Conflict => stands,
        ErrorKind::Overloaded | ErrorKind::Unavailable | ErrorKind::DeadlineExceeded | ErrorKind::Internal => false,
    }
}
