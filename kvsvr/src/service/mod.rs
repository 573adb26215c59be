//! The gRPC service: BatchGet, Topology, Status.
//!
//! ```text
//!   BatchGet ── gate ── parse ──┬─ up to INLINE_KEYS_MAX keys: here ──┐
//!                               ├─ more: on the CPU pool ─────────────┴─▶ lookup::answer ──┬─▶ packed reply, held
//!                               └─ with tables on SSD: ssd gate ────────▶ answer_reading ──┘   until it is sent
//!                                                                   polled on threads of its own
//! ```
//!
//! A lookup of a few thousand keys takes some hundred microseconds: moving it to another thread would cost about as
//! much as it saves. A larger one would keep the other connections of its thread waiting, so it runs on the CPU pool.
//! A deadline (`grpc-timeout`) ends a request that still waits, for its turn or for the pool. A lookup that has begun
//! runs to its end, and keeps its turn until then.
//!
//! Reads of local files may take long, or for ever. Requests that need them give the common turn back and take one of
//! another gate, and what they compute between reads runs on threads that do nothing else: tables in memory are
//! answered as ever while a device is stuck. The CPU pool is not for them: there each wake-up would wait behind the
//! work of loads. One that takes no more than a group of reads is computed here. A caller that gives up ends its reads.

mod gate;
mod polls;
mod reply_memory;

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use fkv_env::{CpuPool, Env};
use fkv_formats::id::TableUid;
use fkv_meta::record::SectState;
use fkv_rpc::kv::{self, kv_server};
use fkv_rpc::packed;
use fkv_rpc::status::{ErrorKind, Failure};
use tonic::{Request, Response, Status};

use self::gate::Gate;
use self::polls::Polls;
pub(crate) use self::reply_memory::HoldUntilSent;
use self::reply_memory::{Held, ReplyMemory};
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
    /// For requests that read local files.
    ssd_gate: Gate,
    /// Where these are computed.
    ssd_polls: Arc<Polls>,
    reply_memory: ReplyMemory,
    disk: Arc<DiskReader>,
}

/// What requests that read local files need.
#[derive(Debug)]
pub(crate) struct SsdParts {
    pub(crate) reader: DiskReader,
    /// Threads for what they compute.
    pub(crate) cpu: Arc<dyn CpuPool>,
}

impl KvService {
    pub(crate) fn new(
        env: &Env,
        module: &str,
        server: &str,
        limits: &RequestLimits,
        registry: Arc<Registry>,
        ledger: Arc<Ledger>,
        ssd: SsdParts,
    ) -> Self {
        Self {
            env: env.clone(),
            module: module.to_owned(),
            server: server.to_owned(),
            limits: limits.clone(),
            registry,
            ledger,
            gate: Gate::new("requests", limits.concurrent_max, limits.queue_max),
            ssd_gate: Gate::new("requests to tables on SSD", limits.ssd_concurrent_max, limits.ssd_queue_max),
            ssd_polls: Polls::new(ssd.cpu),
            reply_memory: ReplyMemory::new(limits.reply_memory_bytes_max),
            disk: Arc::new(ssd.reader),
        }
    }

    /// Answers a request with tables on SSD.
    async fn answer_reading(&self, request: packed::Request) -> Result<(Bytes, Held), Failure> {
        let turn = self.ssd_gate.enter().await?;
        // What was known before the turn came may be long out of date.
        let picture = self.picture()?;
        let (answering, memory, disk) = (self.answering(), self.reply_memory.clone(), Arc::clone(&self.disk));
        let is_small = request.key_count() <= INLINE_KEYS_MAX && lookup::reads_little(&request, &picture);
        let work = async move {
            // Until the reply is made; from then on its memory counts.
            let _turn = turn;
            let body = lookup::answer_reading(&request, &picture, answering, &disk).await;
            memory.hold(body.len()).map(|held| (body, held))
        };
        if is_small {
            return work.await;
        }
        self.ssd_polls.start(work).await.unwrap_or_else(|_| Err(lookup_failed()))
    }

    fn answering(&self) -> Answering {
        Answering { now_ms: self.env.clock.unix_ms(), reply_bytes_max: self.limits.reply_bytes_max }
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
    fn picture(&self) -> Result<Arc<Picture>, Failure> {
        let picture = Arc::clone(&self.registry.picture());
        if !picture.informed {
            let message = "this server has not heard of the cluster yet: ask another one";
            return Err(Failure::new(ErrorKind::Unavailable, message));
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
        if lookup::reads(&request, &picture) {
            drop(turn);
            let (body, held) = self.answer_reading(request).await?;
            return Ok(reply(body, held));
        }
        let (answering, memory) = (self.answering(), self.reply_memory.clone());
        let is_small = request.key_count() <= INLINE_KEYS_MAX;
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
            outcome.ok().flatten().unwrap_or_else(|| Err(lookup_failed()))
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

fn lookup_failed() -> Failure {
    Failure::new(ErrorKind::Internal, "the lookup failed; see the log")
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

    use fkv_env::RayonPool;
    use fkv_formats::id::Part;
    use fkv_formats::schema::{KeyType, TableKind, ValueType};
    use fkv_meta::record::Topology;
    use fkv_rpc::packed::Reply;
    use tonic::Code;

    use super::kv_server::Kv;
    use super::*;
    use crate::cache::RecordCache;
    use crate::image::PartSet;
    use crate::io::stuck::StuckIo;
    use crate::testing::{self, OwnedKey, Row, add_memory, add_pack, keys_of, memory, on_disk};

    const IN_MEMORY: TableUid = TableUid(1);
    const ON_SSD: TableUid = TableUid(2);
    const UNKNOWN: TableUid = TableUid(3);

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

    /// A service of one table in memory and one on a device that hangs.
    struct World {
        service: KvService,
        io: Arc<StuckIo>,
        _dir: tempfile::TempDir,
    }

    /// The keys of both tables.
    fn keys() -> Vec<u64> {
        keys_of(Part(7), 2000).collect()
    }

    fn service(env: &Env, informed: bool) -> World {
        let ssd_cpu = Arc::new(RayonPool::new(1).expect("threads start"));
        service_with(env, informed, ssd_cpu)
    }

    fn service_with(env: &Env, informed: bool, ssd_cpu: Arc<dyn CpuPool>) -> World {
        let (io, cache) = (StuckIo::new(), RecordCache::new(0).expect("no memory is taken"));
        let dir = tempfile::tempdir().expect("a temporary directory");
        let rows: Vec<Row> = keys()
            .into_iter()
            .map(|key| Row { key: OwnedKey::U64(key), expiry: 0, value: key.to_le_bytes().to_vec() })
            .collect();
        let schema = |kind| testing::schema(kind, KeyType::U64, ValueType::I64);
        let mut in_memory = memory(0);
        add_memory(env, &mut in_memory, &schema(TableKind::Mem), &rows);
        let mut on_ssd = on_disk(&cache);
        add_pack(env, &mut on_ssd, io.as_ref(), dir.path(), "a.pack", &schema(TableKind::Blk), &rows);
        let tables = [
            (IN_MEMORY, testing::entry(&schema(TableKind::Mem), in_memory.finish())),
            (ON_SSD, testing::entry(&schema(TableKind::Blk), on_ssd.finish())),
        ];

        let registry = Arc::new(Registry::new());
        registry.publish(Picture {
            topology: Arc::new(Topology { generation: u64::from(informed), ..Topology::default() }),
            slots: Vec::new(),
            owned: Arc::new([Part(7)].into_iter().collect::<PartSet>()),
            tables: tables.into(),
            connected: false,
            informed,
        });
        let limits = RequestLimits {
            concurrent_max: 1,
            queue_max: 0,
            ssd_concurrent_max: 2,
            ssd_queue_max: 1,
            ..RequestLimits::default()
        };
        let reader = DiskReader { io: Arc::clone(&io) as _, cache, faults: Arc::default() };
        let ssd = SsdParts { reader, cpu: ssd_cpu };
        let service = KvService::new(env, "rank", "kv-1", &limits, registry, Ledger::new(1, 1), ssd);
        World { service, io, _dir: dir }
    }

    fn request_for(table: TableUid, keys: impl IntoIterator<Item = u64>) -> Request<kv::BatchGetRequest> {
        let keys: Vec<OwnedKey> = keys.into_iter().map(OwnedKey::U64).collect();
        Request::new(kv::BatchGetRequest { body: testing::request_body(table, &keys) })
    }

    fn request(count: usize) -> Request<kv::BatchGetRequest> {
        request_for(UNKNOWN, 0..count as u64)
    }

    /// Checks the answers to all keys.
    fn check(reply: Response<kv::BatchGetReply>) {
        let reply = Reply::parse(reply.into_inner().body).expect("a good reply");
        let section = reply.section(0).expect("one section");
        let found: Vec<Vec<u8>> = section.answers().map(|(_, value)| value.to_vec()).collect();
        assert_eq!(found, keys().iter().map(|key| key.to_le_bytes().to_vec()).collect::<Vec<_>>());
    }

    /// Callers that give up early must not pile lookups up behind the pool.
    #[tokio::test]
    async fn a_lookup_keeps_its_turn_until_it_is_over_though_its_caller_gave_up() {
        let queue = Arc::new(Queue::default());
        let env = Env { cpu: Arc::clone(&queue) as Arc<dyn CpuPool>, ..Env::real(1).expect("threads start") };
        let World { service, .. } = service(&env, true);
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

    /// Once, requests that waited for a device had all the turns there are.
    #[tokio::test(flavor = "multi_thread")]
    async fn tables_in_memory_are_answered_while_a_device_hangs() {
        let env = Env::real(1).expect("threads start");
        let World { service, io, _dir } = service(&env, true);
        let ask = || service.batch_get(request_for(ON_SSD, keys()));
        let (mut one, mut two, mut three) = (ask(), ask(), ask());
        while io.held() < 2 {
            for asked in [&mut one, &mut two, &mut three] {
                assert!(futures::poll!(asked.as_mut()).is_pending(), "the device hangs");
            }
            tokio::task::yield_now().await;
        }
        let refused = ask().await.expect_err("two are answered at once, and one waits");
        assert_eq!(refused.code(), Code::ResourceExhausted);
        assert!(refused.message().contains("tables on SSD"), "{refused}");
        for _ in 0..100 {
            check(service.batch_get(request_for(IN_MEMORY, keys())).await.expect("the only common turn is free"));
        }
        // A caller that gives up makes room for the next.
        drop(one);
        while io.held() < 3 {
            assert!(futures::poll!(three.as_mut()).is_pending());
            tokio::task::yield_now().await;
        }
        io.let_go();
        check(two.await.expect("answered"));
        check(three.await.expect("answered"));
    }

    /// Threads that serve connections neither hash thousands of keys nor verify thousands of blocks.
    #[tokio::test]
    async fn what_is_read_from_ssd_is_computed_on_threads_of_its_own_unless_it_is_little() {
        let env = Env::real(1).expect("threads start");
        let queue = Arc::new(Queue::default());
        let World { service, io, _dir } = service_with(&env, true, Arc::clone(&queue) as _);
        let mut asked = service.batch_get(request_for(ON_SSD, keys()));
        assert!(futures::poll!(asked.as_mut()).is_pending());
        assert_eq!(io.held(), 0, "nothing was located here");
        queue.run();
        assert_eq!(io.held(), 1, "but where it belongs");
        let mut little = service.batch_get(request_for(ON_SSD, keys().into_iter().take(3)));
        assert!(futures::poll!(little.as_mut()).is_pending());
        assert_eq!(io.held(), 2, "a few keys are not worth the way");
        drop(little);
        io.let_go();
        let reply = loop {
            if let std::task::Poll::Ready(reply) = futures::poll!(asked.as_mut()) {
                break reply;
            }
            queue.run();
            tokio::task::yield_now().await;
        };
        check(reply.expect("answered"));
    }

    #[tokio::test]
    async fn a_server_that_knows_nothing_sends_its_callers_elsewhere() {
        let env = Env::real(1).expect("threads start");
        let World { service: blank, .. } = service(&env, false);
        let refused = blank.topology(Request::new(kv::TopologyRequest {})).await.expect_err("it knows nothing");
        assert_eq!(Failure::of(&refused).kind, ErrorKind::Unavailable);
        let refused = blank.batch_get(request(1)).await.expect_err("nor of any table");
        assert_eq!(Failure::of(&refused).kind, ErrorKind::Unavailable);
        assert!(blank.status(Request::new(kv::StatusRequest {})).await.is_ok());
        let World { service: informed, .. } = service(&env, true);
        assert!(informed.topology(Request::new(kv::TopologyRequest {})).await.is_ok());
    }
}
