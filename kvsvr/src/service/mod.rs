//! The gRPC service: BatchGet, Topology, Status.
//!
//! ```text
//!   BatchGet ── gate ── parse ──┬─ up to INLINE_KEYS_MAX keys: here ──────┐
//!                               └─ more: on the CPU pool ─────────────────┴─▶ lookup::answer ── packed reply
//! ```
//!
//! A lookup of a few thousand keys takes some hundred microseconds: moving it to another thread would cost about as
//! much as it saves. A larger one would keep the other connections of its thread waiting, so it runs on the CPU pool.
//! A deadline (`grpc-timeout`) ends a request that still waits; one whose lookup has begun is answered.

mod gate;

use std::sync::Arc;

use fkv_env::Env;
use fkv_meta::record::SectState;
use fkv_rpc::kv::{self, kv_server};
use fkv_rpc::packed;
use fkv_rpc::status::{ErrorKind, Failure};
use tonic::{Request, Response, Status};

use self::gate::Gate;
use crate::config::RequestLimits;
use crate::image::{Labelled, Picture, Registry};
use crate::ledger::Ledger;
use crate::lookup::{self, Answering};

/// Up to this many keys are looked up on the thread that received the request.
const INLINE_KEYS_MAX: usize = 8192;

/// What the service needs.
#[derive(Debug)]
pub(crate) struct KvService {
    env: Env,
    module: String,
    server: String,
    limits: RequestLimits,
    registry: Arc<Registry>,
    ledger: Arc<Ledger>,
    gate: Gate,
}

impl KvService {
    pub(crate) fn new(
        env: &Env,
        module: &str,
        server: &str,
        limits: &RequestLimits,
        registry: Arc<Registry>,
        ledger: Arc<Ledger>,
    ) -> Self {
        Self {
            env: env.clone(),
            module: module.to_owned(),
            server: server.to_owned(),
            limits: limits.clone(),
            registry,
            ledger,
            gate: Gate::new(limits.concurrent_max, limits.queue_max),
        }
    }

    fn check(&self, request: &packed::Request, body_bytes: usize) -> Result<(), Failure> {
        let too_large = |what: &str, found: usize, max: usize| {
            let message = format!("{found} {what} in one request; this server allows {max}: split the batch");
            Err(Failure::new(ErrorKind::BatchTooLarge, message))
        };
        if request.key_count() > self.limits.keys_max {
            return too_large("keys", request.key_count(), self.limits.keys_max);
        }
        if body_bytes > self.limits.request_bytes_max {
            return too_large("bytes", body_bytes, self.limits.request_bytes_max);
        }
        Ok(())
    }

    fn status_of(&self, picture: &Picture) -> kv::StatusReply {
        let tables = picture.tables.iter().map(|(uid, entry)| {
            let pair = entry.served.pair();
            kv::TableStatus {
                uid: uid.0,
                name: entry.record.name.clone(),
                serving: pair.serving.as_ref().map(image_status),
                other: pair.other.as_ref().map(image_status),
                problem: entry.problem.clone(),
                flips: entry.served.flips(),
            }
        });
        kv::StatusReply {
            server: self.server.clone(),
            slots: picture.slots.iter().map(ToString::to_string).collect(),
            generation: picture.topology.generation,
            metadata_connected: picture.connected,
            tables: tables.collect(),
            memory_bytes_used: self.ledger.used().memory,
            memory_bytes_max: self.ledger.max().memory,
        }
    }

    fn topology_of(&self, picture: &Picture) -> kv::TopologyReply {
        let sects = picture.topology.sects.iter().map(|(name, sect)| kv::Sect {
            name: name.clone(),
            state: match sect.state {
                SectState::Joining => kv::SectState::Joining,
                SectState::Active => kv::SectState::Active,
                SectState::Shielded => kv::SectState::Shielded,
                SectState::Retired => kv::SectState::Retired,
            }
            .into(),
            addresses: sect.slots.iter().map(|slot| slot.addr.clone()).collect(),
        });
        let tables = picture.tables.iter().map(|(uid, entry)| {
            let schema = &entry.record.schema;
            kv::Table {
                name: entry.record.name.clone(),
                uid: uid.0,
                kind: schema.kind.to_string(),
                key_type: schema.key.to_string(),
                value_type: schema.value.to_string(),
                excluded_slots: entry.record.exclusions.keys().map(ToString::to_string).collect(),
            }
        });
        kv::TopologyReply {
            module: self.module.clone(),
            generation: picture.topology.generation,
            sects: sects.collect(),
            tables: tables.collect(),
        }
    }
}

fn image_status(held: &Labelled) -> kv::ImageStatus {
    kv::ImageStatus {
        version: held.label.version.0,
        content_id: held.label.content.to_string(),
        epoch: held.label.epoch.0,
        records: held.image.records(),
        memory_bytes: held.image.memory_bytes(),
        complete: held.complete,
    }
}

#[tonic::async_trait]
impl kv_server::Kv for KvService {
    async fn batch_get(&self, request: Request<kv::BatchGetRequest>) -> Result<Response<kv::BatchGetReply>, Status> {
        let _turn = self.gate.enter().await.map_err(Status::from)?;
        let body = request.into_inner().body;
        let body_bytes = body.len();
        let request = packed::Request::parse(body)
            .map_err(|error| Status::from(Failure::new(kind_of(&error), error.to_string())))?;
        self.check(&request, body_bytes).map_err(Status::from)?;
        let picture = Arc::clone(&self.registry.picture());
        let answering = Answering { now_ms: self.env.clock.unix_ms(), reply_bytes_max: self.limits.reply_bytes_max };
        let body = if request.key_count() <= INLINE_KEYS_MAX {
            lookup::answer(&request, &picture, answering)
        } else {
            let work = move || lookup::answer(&request, &picture, answering);
            self.env
                .compute(work)
                .await
                .map_err(|_| Status::from(Failure::new(ErrorKind::Internal, "the lookup failed; see the log")))?
        };
        Ok(Response::new(kv::BatchGetReply { body }))
    }

    async fn topology(&self, _: Request<kv::TopologyRequest>) -> Result<Response<kv::TopologyReply>, Status> {
        Ok(Response::new(self.topology_of(&self.registry.picture())))
    }

    async fn status(&self, _: Request<kv::StatusRequest>) -> Result<Response<kv::StatusReply>, Status> {
        Ok(Response::new(self.status_of(&self.registry.picture())))
    }
}

/// A body that is only too large can be sent in pieces; any other that cannot be read is a fault of its sender.
const fn kind_of(error: &packed::PackedError) -> ErrorKind {
    match error {
        packed::PackedError::TooLong { .. } | packed::PackedError::Keys(_) => ErrorKind::BatchTooLarge,
        _ => ErrorKind::BadRequest,
    }
}
