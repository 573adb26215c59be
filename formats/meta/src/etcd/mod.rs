//! etcd (3.4 or newer) over gRPC: a thin client, generated from the few messages used.
//!
//! ```text
//!   get, list ─▶ Range      any endpoint, the next one when one fails
//!   txn       ─▶ Txn        another endpoint only if the request was never sent; otherwise the caller must read back
//!   watch     ─▶ Watch      one stream per watch, on an endpoint that knows a leader and over a connection of its own:
//!                           events that nobody takes yet must not fill the window that other answers need
//!   leases    ─▶ Lease*     one keep-alive call per renewal
//! ```

mod convert;
mod proto;
mod watch;

use std::fmt::Debug;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use fkv_env::{ChannelOptions, Env};
use tonic::metadata::MetadataValue;
use tonic::transport::Channel;
use tonic::{Request, Status};

use self::convert::Failure;
use self::proto::etcdserverpb as pb;
use self::proto::etcdserverpb::kv_client::KvClient;
use self::proto::etcdserverpb::lease_client::LeaseClient;
use crate::store::{Entry, LeaseId, MetaError, MetaStore, Revision, Snapshot, Txn, TxnOutcome, WatchStream};

/// The most bytes of one response; pages and fragments keep well below it.
const RESPONSE_BYTES_MAX: usize = 64 << 20;
/// Keys per page of a list. A value is a small record, so that a page is a few megabytes at most.
const PAGE_KEYS: i64 = 1000;
/// How often a list starts anew when the revision of its first page is compacted before its last.
const LIST_TRIES: usize = 4;

/// How long calls may take.
#[derive(Clone, Copy, Debug)]
struct Timeouts {
    call: Duration,
}

/// A cluster of etcd servers.
#[derive(Debug)]
pub struct EtcdStore {
    env: Env,
    endpoints: Vec<Endpoint>,
    /// The endpoint asked first.
    preferred: AtomicUsize,
    timeouts: Timeouts,
}

#[derive(Debug)]
struct Endpoint {
    authority: String,
    channel: Channel,
}

impl EtcdStore {
    /// A client of the servers at these endpoints (`host:port`). Connections are made on first use, so that this also
    /// works while etcd is down. They are plain.
    ///
    /// # Errors
    /// `InvalidInput` if there is none, or one is not a `host:port`.
    pub fn connect(env: &Env, endpoints: &[&str]) -> std::io::Result<Self> {
        let open = |authority: &&str| {
            let authority = authority.trim();
            let port = authority.rsplit_once(':').and_then(|(host, port)| (!host.is_empty()).then_some(port));
            if port.and_then(|port| port.parse::<u16>().ok()).is_none() {
                let reason = format!("`{authority}` is not a host:port");
                return Err(std::io::Error::new(std::io::ErrorKind::InvalidInput, reason));
            }
            Ok(Endpoint { authority: authority.to_owned(), channel: connect(env, authority)? })
        };
        let endpoints: Vec<Endpoint> = endpoints.iter().map(open).collect::<Result<_, _>>()?;
        if endpoints.is_empty() {
            return Err(std::io::Error::new(std::io::ErrorKind::InvalidInput, "no endpoint is given"));
        }
        let timeouts = Timeouts { call: Duration::from_secs(5) };
        Ok(Self { env: env.clone(), endpoints, preferred: AtomicUsize::new(0), timeouts })
    }

    /// Tells etcd to forget the history before `at`. In production etcd's own auto-compaction does this.
    ///
    /// # Errors
    /// `Unavailable`.
    pub async fn compact(&self, at: Revision) -> Result<(), MetaError> {
        let request = pb::CompactionRequest { revision: convert::to_i64(at), physical: true };
        let called = self.ask(|channel| async move { KvClient::new(channel).compact(request).await }).await;
        called.map(drop)
    }

    /// Calls one endpoint after the other until one answers. For calls that may be made twice.
    async fn ask<T, F>(&self, call: impl Fn(Channel) -> F) -> Result<T, MetaError>
    where
        F: Future<Output = Result<tonic::Response<T>, Status>>,
    {
        self.each(|_, failure| failure, |endpoint| self.limited(call(endpoint.channel.clone()))).await
    }

    /// Calls the preferred endpoint, and others while `verdict` allows it.
    async fn each<'a, T, F>(
        &'a self,
        verdict: impl Fn(&str, Failure) -> Failure,
        call: impl Fn(&'a Endpoint) -> F,
    ) -> Result<T, MetaError>
    where
        F: Future<Output = Result<T, Failure>>,
    {
        let first = self.preferred.load(Ordering::Relaxed);
        let mut last = String::new();
        for offset in 0..self.endpoints.len() {
            let index = (first + offset) % self.endpoints.len();
            let endpoint = &self.endpoints[index];
            match call(endpoint).await.map_err(|failure| verdict(&endpoint.authority, failure)) {
                Ok(answer) => {
                    if offset > 0 {
                        tracing::info!(endpoint = %endpoint.authority, "etcd endpoint changed");
                        self.preferred.store(index, Ordering::Relaxed);
                    }
                    return Ok(answer);
                }
                Err(Failure::Answer(error)) => return Err(error),
                Err(Failure::NotSent(why) | Failure::Lost(why) | Failure::Declined(why)) => {
                    last = format!("{}: {why}", endpoint.authority);
                }
            }
        }
        Err(MetaError::Unavailable(last))
    }

    /// One call within the time limit.
    async fn limited<T>(&self, call: impl Future<Output = Result<tonic::Response<T>, Status>>) -> Result<T, Failure> {
        match fkv_env::timeout(&*self.env.clock, self.timeouts.call, call).await {
            Ok(Ok(response)) => Ok(response.into_inner()),
            Ok(Err(status)) => Err(Failure::of(&status)),
            Err(elapsed) => Err(Failure::Lost(elapsed.to_string())),
        }
    }

    async fn range(&self, request: pb::RangeRequest) -> Result<Page, MetaError> {
        self.each(
            |_, failure| failure,
            |endpoint| {
                let (request, channel) = (request.clone(), endpoint.channel.clone());
                async move {
                    let mut client = KvClient::new(channel).max_decoding_message_size(RESPONSE_BYTES_MAX);
                    match fkv_env::timeout(&*self.env.clock, self.timeouts.call, client.range(request)).await {
                        Ok(Ok(response)) => Ok(Page::Read(response.into_inner())),
                        Ok(Err(status)) if convert::is_compacted(&status) => Ok(Page::Compacted),
                        Ok(Err(status)) if convert::is_future(&status) => Ok(Page::Future),
                        Ok(Err(status)) => Err(Failure::of(&status)),
                        Err(elapsed) => Err(Failure::Lost(elapsed.to_string())),
                    }
                }
            },
        )
        .await
    }

    async fn list_once(&self, prefix: &str, at: Option<Revision>) -> Result<Snapshot, MetaError> {
        let (mut key, range_end) = convert::range_of(prefix);
        let mut at = at;
        let mut entries = Vec::new();
        loop {
            let revision = at.map_or(0, convert::to_i64);
            let request = pb::RangeRequest { key, range_end: range_end.clone(), limit: PAGE_KEYS, revision };
            let page = match (self.range(request).await?, at) {
                (Page::Read(page), _) => page,
                (Page::Compacted, at) => return Err(MetaError::Compacted(at.unwrap_or_default())),
                (Page::Future, at) => {
                    let at = at.unwrap_or_default().0;
                    return Err(MetaError::Invalid(format!("revision {at} does not exist yet")));
                }
            };
            let revision = *at.get_or_insert(header_revision(page.header)?);
            let last = page.kvs.last().map(|kv| kv.key.clone());
            entries.extend(page.kvs.into_iter().filter_map(convert::entry));
            match last {
                Some(last) if page.more => key = after(&last),
                _ => return Ok(Snapshot { revision, entries }),
            }
        }
    }
}

/// A connection, made on first use. The one place where TLS will come in.
fn connect(env: &Env, authority: &str) -> std::io::Result<Channel> {
    fkv_env::channel(Arc::clone(&env.net), authority, ChannelOptions::default())
}

enum Page {
    Read(pb::RangeResponse),
    Compacted,
    Future,
}

/// The first key after `key`.
fn after(key: &Bytes) -> Bytes {
    let mut next = key.to_vec();
    next.push(0);
    Bytes::from(next)
}

fn header_revision(header: Option<pb::ResponseHeader>) -> Result<Revision, MetaError> {
    let header = header.ok_or_else(|| MetaError::Unavailable("etcd answered without a header".to_owned()))?;
    Ok(convert::revision(header.revision))
}

/// Asks etcd to end a stream when its server loses the leader: a server cut off from the others would stay silent.
fn require_leader<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("hasleader", MetadataValue::from_static("true"));
    request
}

#[async_trait]
impl MetaStore for EtcdStore {
    async fn get(&self, key: &str) -> Result<Option<Entry>, MetaError> {
        if key.is_empty() {
            return Err(MetaError::Invalid("a read of an empty key".to_owned()));
        }
        let key = Bytes::copy_from_slice(key.as_bytes());
        match self.range(pb::RangeRequest { key, ..Default::default() }).await? {
            Page::Read(page) => Ok(page.kvs.into_iter().next().and_then(convert::entry)),
            Page::Compacted | Page::Future => {
                Err(MetaError::Unavailable("etcd cannot read its present revision".to_owned()))
            }
        }
    }

    async fn list(&self, prefix: &str, at: Option<Revision>) -> Result<Snapshot, MetaError> {
        if at == Some(Revision(0)) {
            return Err(MetaError::Invalid("revision 0 does not exist".to_owned()));
        }
        let mut tries = 1;
        loop {
            match self.list_once(prefix, at).await {
                Err(MetaError::Compacted(_)) if at.is_none() && tries < LIST_TRIES => tries += 1,
                outcome => return outcome,
            }
        }
    }

    async fn txn(&self, txn: Txn) -> Result<TxnOutcome, MetaError> {
        txn.validate()?;
        let writes = !txn.ops.is_empty();
        let request = convert::txn(txn);
        let response = self
            .each(
                |authority, failure| match failure {
                    // It may have been served: asking another endpoint could do it twice.
                    Failure::Lost(why) if writes => {
                        Failure::Answer(MetaError::Ambiguous(format!("{authority}: {why}")))
                    }
                    failure => failure,
                },
                |endpoint| {
                    let (request, channel) = (request.clone(), endpoint.channel.clone());
                    self.limited(async move { KvClient::new(channel).txn(request).await })
                },
            )
            .await?;
        if response.succeeded {
            Ok(TxnOutcome::Committed(header_revision(response.header)?))
        } else {
            Ok(TxnOutcome::Refused)
        }
    }

    async fn watch(&self, prefix: &str, from: Revision) -> Result<WatchStream, MetaError> {
        if from.0 == 0 {
            return Err(MetaError::Invalid("a watch from revision 0".to_owned()));
        }
        self.each(
            |_, failure| failure,
            |endpoint| async move {
                let invalid = |error: std::io::Error| Failure::Answer(MetaError::Invalid(error.to_string()));
                let channel = connect(&self.env, &endpoint.authority).map_err(invalid)?;
                watch::start(&self.env, &self.timeouts, channel, prefix, from).await
            },
        )
        .await
    }

    async fn grant(&self, ttl: Duration) -> Result<LeaseId, MetaError> {
        if ttl < Duration::from_secs(1) {
            return Err(MetaError::Invalid("a lease of less than a second".to_owned()));
        }
        // Granted twice, one of the two ends unused.
        let request = pb::LeaseGrantRequest { ttl: i64::try_from(ttl.as_secs()).unwrap_or(i64::MAX) };
        let granted = self.ask(|channel| async move { LeaseClient::new(channel).lease_grant(request).await }).await?;
        if !granted.error.is_empty() {
            return Err(MetaError::Unavailable(granted.error));
        }
        convert::lease(granted.id).ok_or_else(|| MetaError::Unavailable("etcd granted lease 0".to_owned()))
    }

    async fn renew(&self, lease: LeaseId) -> Result<(), MetaError> {
        let request = pb::LeaseKeepAliveRequest { id: convert::lease_to_i64(lease) };
        let renewed = self
            .each(
                |_, failure| failure,
                |endpoint| {
                    let channel = endpoint.channel.clone();
                    self.limited(async move {
                        let once = require_leader(tokio_stream::once(request));
                        let mut answers = LeaseClient::new(channel).lease_keep_alive(once).await?.into_inner();
                        let answer = answers.message().await?;
                        answer.map(tonic::Response::new).ok_or_else(|| Status::unavailable("etcd gave no answer"))
                    })
                },
            )
            .await?;
        if renewed.ttl > 0 { Ok(()) } else { Err(MetaError::LeaseGone) }
    }

    async fn revoke(&self, lease: LeaseId) -> Result<(), MetaError> {
        let request = pb::LeaseRevokeRequest { id: convert::lease_to_i64(lease) };
        match self.ask(|channel| async move { LeaseClient::new(channel).lease_revoke(request).await }).await {
            Ok(_) | Err(MetaError::LeaseGone) => Ok(()),
            Err(error) => Err(error),
        }
    }
}
