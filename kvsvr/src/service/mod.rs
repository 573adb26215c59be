//! The gRPC service: BatchGet, Topology, Status.
//!
//! ```text
//!   BatchGet ── gate ── parse ──┬─ up to INLINE_KEYS_MAX keys: here ──────┐
//!                               ├─ more: on the CPU pool ─────────────────┴─▶ lookup::answer ──┬─▶ packed reply, held
//!                               └─ with tables on SSD: here, between reads ──▶ answer_reading ─┘   until it is sent
//! ```
//!
//! A lookup of a few thousand keys takes some hundred microseconds: moving it to another thread would cost about as
//! much as it saves. A larger one would keep the other connections of its thread waiting, so it runs on the CPU pool.
//! A deadline (`grpc-timeout`) ends a request that still waits, for its turn or for the pool. A lookup that has begun
//! runs to its end, and keeps its turn until then.

mod gate;
mod reply_memory;

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use fkv_env::Env;
use fkv_formats::id::TableUid;
use fkv_meta::record::SectState;
use fkv_rpc::kv::{self, kv_server};
use fkv_rpc::packed;
use fkv_rpc::status::{ErrorKind, Failure};
use tonic::{Request, Response, Status};

use self::gate::Gate;
pub(crate) use self::reply_memory::HoldUntilSent;
use self::reply_memory::ReplyMemory;
use crate::config::{IoEngine, RequestLimits};
use crate::image::{Entry, Labelled, Picture, Registry};
use crate::ledger::Ledger;
use crate::lookup::{self, Answering, DiskReader};

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
    reply_memory: ReplyMemory,
    disk: DiskReader,
}

impl KvService {
    pub(crate) fn new(
        env: &Env,
        module: &str,
        server: &str,
        limits: &RequestLimits,
        registry: Arc<Registry>,
        ledger: Arc<Ledger>,
        disk: DiskReader,
    ) -> Self {
        Self {
            env: env.clone(),
            module: module.to_owned(),
            server: server.to_owned(),
            limits: limits.clone(),
            registry,
            ledger,
            gate: Gate::new(limits.concurrent_max, limits.queue_max),
            reply_memory: ReplyMemory::new(limits.reply_memory_bytes_max),
            disk,
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

    /// What is known of the cluster. A server that has neither STATE nor heard of metadata cannot tell a table that does
    /// not exist from one it has not heard of.
    fn picture(&self) -> Result<Arc<Picture>, Status> {
        let picture = Arc::clone(&self.registry.picture());
        if !picture.informed {
            let message = "this server has not heard of the cluster yet: ask another one";
            return Err(Failure::new(ErrorKind::Unavailable, message).into());
        }
        Ok(picture)
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
        let io = self.disk.io.counts();
        kv::StatusReply {
            io_engine: match self.disk.io.engine() {
                IoEngine::Uring => "uring",
                IoEngine::Auto | IoEngine::Pread => "pread",
            }
            .to_owned(),
            block_reads: io.reads,
            block_read_bytes: io.read_bytes,
            block_read_failures: io.failures,
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
        // One entry per name. A table that metadata lost is kept, and may have been made again since: the table that
        // metadata has is meant then.
        let mut by_name: BTreeMap<&str, (&TableUid, &Entry)> = BTreeMap::new();
        for (uid, entry) in &picture.tables {
            let other = by_name.get(entry.record.name.as_str());
            if other.is_none_or(|(_, other)| other.missing || !entry.missing) {
                by_name.insert(&entry.record.name, (uid, entry));
            }
        }
        let tables = by_name.into_values().map(|(uid, entry)| {
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
        let turn = self.gate.enter().await.map_err(Status::from)?;
        let body = request.into_inner().body;
        let body_bytes = body.len();
        let request = packed::Request::parse(body)
            .map_err(|error| Status::from(Failure::new(kind_of(&error), error.to_string())))?;
        self.check(&request, body_bytes).map_err(Status::from)?;
        let picture = self.picture()?;
        let answering = Answering { now_ms: self.env.clock.unix_ms(), reply_bytes_max: self.limits.reply_bytes_max };
        let is_small = request.key_count() <= INLINE_KEYS_MAX;
        let memory = self.reply_memory.clone();
        if lookup::reads(&request, &picture) {
            // Reads dominate: what is computed between them is done here. A caller that gives up ends them.
            let body = lookup::answer_reading(&request, &picture, answering, &self.disk).await;
            drop(turn);
            let held = memory.hold(body.len()).map_err(Status::from)?;
            return Ok(reply(body, held));
        }
        let work = move || {
            // Until the reply is made; from then on its memory counts.
            let _turn = turn;
            let body = lookup::answer(&request, &picture, answering);
            memory.hold(body.len()).map(|held| (body, held))
        };
        let (body, held) = if is_small {
            work()
        } else {
            let asker = Arc::new(());
            let asked = Arc::downgrade(&asker);
            // A caller that gave up while the work was queued drops this future, and `asker` with it.
            let outcome = self.env.compute(move || (asked.strong_count() > 0).then(work)).await;
            drop(asker);
            let failed = || Failure::new(ErrorKind::Internal, "the lookup failed; see the log");
            outcome.ok().flatten().unwrap_or_else(|| Err(failed()))
        }
        .map_err(Status::from)?;
        Ok(reply(body, held))
    }

    async fn topology(&self, _: Request<kv::TopologyRequest>) -> Result<Response<kv::TopologyReply>, Status> {
        Ok(Response::new(self.topology_of(self.picture()?.as_ref())))
    }

    async fn status(&self, _: Request<kv::StatusRequest>) -> Result<Response<kv::StatusReply>, Status> {
        Ok(Response::new(self.status_of(&self.registry.picture())))
    }
}

fn reply(body: Bytes, held: reply_memory::Held) -> Response<kv::BatchGetReply> {
    let mut response = Response::new(kv::BatchGetReply { body });
    response.extensions_mut().insert(held);
    response
}

/// A body that is only too large can be sent in pieces; any other that cannot be read is a fault of its sender.
const fn kind_of(error: &packed::PackedError) -> ErrorKind {
    match error {
        packed::PackedError::TooLong { .. } | packed::PackedError::Keys(_) => ErrorKind::BatchTooLarge,
        _ => ErrorKind::BadRequest,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Mutex, PoisonError};

    use fkv_env::CpuPool;
    use fkv_meta::record::Topology;
    use fkv_rpc::packed::{RequestHeader, RequestWriter, SectionHeader, Selector, ValueForm};
    use tonic::Code;

    use super::kv_server::Kv;
    use super::*;
    use crate::config::IoConfig;
    use crate::image::PartSet;

    /// A pool that does nothing before it is told to.
    #[derive(Default)]
    struct Queue(Mutex<Vec<Box<dyn FnOnce() + Send>>>);

    impl std::fmt::Debug for Queue {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("Queue")
        }
    }

    impl CpuPool for Queue {
        fn execute(&self, work: Box<dyn FnOnce() + Send>) {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).push(work);
        }

        fn for_each(&self, count: usize, work: &(dyn Fn(usize) + Sync)) {
            (0..count).for_each(work);
        }

        fn parallelism(&self) -> usize {
            1
        }
    }

    impl Queue {
        fn run(&self) {
            let queued = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
            queued.into_iter().for_each(|work| work());
        }
    }

    fn service(env: &Env, informed: bool) -> KvService {
        let registry = Arc::new(Registry::new());
        registry.publish(Picture {
            topology: Arc::new(Topology { generation: u64::from(informed), ..Topology::default() }),
            slots: Vec::new(),
            owned: Arc::new(PartSet::EMPTY),
            tables: BTreeMap::new(),
            connected: false,
            informed,
        });
        let limits = RequestLimits { concurrent_max: 1, queue_max: 0, ..RequestLimits::default() };
        let config = IoConfig { engine: IoEngine::Pread, pread_threads: 1, ..IoConfig::default() };
        let io = crate::io::open(&config).expect("threads start");
        let cache = crate::cache::RecordCache::new(0).expect("no memory is taken");
        let disk = DiskReader { io, cache, faults: Arc::default() };
        KvService::new(env, "rank", "kv-1", &limits, registry, Ledger::new(1, 1), disk)
    }

    fn request(count: usize) -> Request<kv::BatchGetRequest> {
        let mut writer = RequestWriter::new(RequestHeader::default(), packed::u64_section_bytes(count));
        let header = SectionHeader { table: TableUid(1), selector: Selector::Aligned, form: ValueForm::Native };
        writer.u64_section(header, (0..count).map(|key| key as u64));
        Request::new(kv::BatchGetRequest { body: writer.finish() })
    }

    /// Callers that give up early must not pile lookups up behind the pool.
    #[tokio::test]
    async fn a_lookup_keeps_its_turn_until_it_is_over_though_its_caller_gave_up() {
        let queue = Arc::new(Queue::default());
        let env = Env { cpu: Arc::clone(&queue) as Arc<dyn CpuPool>, ..Env::real(1).expect("threads start") };
        let service = service(&env, true);
        let large = INLINE_KEYS_MAX + 1;
        let mut asked = service.batch_get(request(large));
        assert!(futures::poll!(asked.as_mut()).is_pending(), "it is queued");
        drop(asked);
        let refused = service.batch_get(request(1)).await.expect_err("the only turn is taken");
        assert_eq!(refused.code(), Code::ResourceExhausted);
        queue.run();
        assert!(service.batch_get(request(1)).await.is_ok());

        let mut asked = service.batch_get(request(large));
        assert!(futures::poll!(asked.as_mut()).is_pending());
        queue.run();
        assert!(asked.await.is_ok(), "one that is still asked for is answered");
    }

    #[tokio::test]
    async fn a_server_that_knows_nothing_sends_its_callers_elsewhere() {
        let env = Env::real(1).expect("threads start");
        let blank = service(&env, false);
        let refused = blank.topology(Request::new(kv::TopologyRequest {})).await.expect_err("it knows nothing");
        assert_eq!(Failure::of(&refused).kind, ErrorKind::Unavailable);
        let refused = blank.batch_get(request(1)).await.expect_err("nor of any table");
        assert_eq!(Failure::of(&refused).kind, ErrorKind::Unavailable);
        assert!(blank.status(Request::new(kv::StatusRequest {})).await.is_ok());
        assert!(service(&env, true).topology(Request::new(kv::TopologyRequest {})).await.is_ok());
    }
}
