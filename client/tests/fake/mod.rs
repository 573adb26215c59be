//! A module of scripted KVSvrs in this process: real gRPC over loopback, contents and moods set by the test.
//!
//! Every value names the content and the key it is of, so that a mixed or misplaced answer shows itself.

#![allow(dead_code, unreachable_pub, reason = "each test binary uses a part of what the others see")]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use fkv_client::{Client, ClientConfig, Keys, SectState, SectView, TableAnswer, TableView, TopologyView};
use fkv_env::{Clock, Env, SystemClock, TaskHandle, incoming};
use fkv_formats::hash::{hash_bytes, hash_u64};
use fkv_formats::id::{ContentId, Epoch, Role, Slot, TableUid, Version};
use fkv_formats::route::{RoleTable, part_of};
use fkv_formats::schema::{KeyType, TableKind, ValueType};
use fkv_rpc::kv::kv_server::{Kv, KvServer};
use fkv_rpc::kv::{BatchGetReply, BatchGetRequest, StatusReply, StatusRequest, TopologyReply, TopologyRequest};
use fkv_rpc::packed::{
    HeldContent, KeyStatus, Keys as WireKeys, REPLY_BYTES_MAX, REQUEST_BYTES_MAX, ReplyHeader, ReplyWriter, Request,
    Section, SectionLabel, SectionStatus, Selector, Shown,
};
use fkv_rpc::status::{ErrorKind, Failure};
use tonic::{Response, Status};

/// The uid of the table that tests read.
pub const UID: u64 = 10;
/// Its name.
pub const TABLE: &str = "features";

/// Content `number` as version `number` at `epoch`.
pub fn shown(number: u8, epoch: u64) -> Shown {
    Shown { version: Version(number.into()), content: content(number), epoch: Epoch(epoch) }
}

pub fn content(number: u8) -> ContentId {
    ContentId([number; 32])
}

/// What a server holds of a table.
#[derive(Clone, Debug, Default)]
pub struct Holding {
    /// What it believes everybody shows.
    pub aligned: Option<Shown>,
    /// What it can answer with; at most two. It serves the aligned one by default, or else the first.
    pub held: Vec<Shown>,
}

/// How a server behaves.
#[derive(Clone, Debug, Default)]
pub enum Mood {
    #[default]
    Well,
    /// Fails every call with this kind.
    Fails(ErrorKind),
    /// Never answers.
    Hangs,
    /// Refuses every section.
    Refuses(SectionStatus),
    /// Answers with bytes that are no reply.
    Babbles,
    /// Answers no section of more keys than this.
    Sparing(usize),
    /// Takes no request of more keys than this.
    Allows(usize),
    /// Has room for the answers of so many keys in a reply; sections that do not fit are refused.
    Cramped(usize),
    /// Is no KVSvr at all, but something else that speaks gRPC at its address.
    Foreign,
}

/// What a server was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asked {
    pub uid: u64,
    pub selector: Selector,
    pub keys: usize,
    pub canary: bool,
    pub read_ts_ms: u64,
}

/// The state of a server, changed by tests as they please.
#[derive(Debug, Default)]
pub struct State {
    /// Which roles, of how many, it owns.
    pub owns: Vec<(u16, u16)>,
    pub tables: BTreeMap<u64, Holding>,
    pub value_types: BTreeMap<u64, ValueType>,
    /// The topology it tells.
    pub topology: TopologyView,
    pub mood: Mood,
    pub asked: Vec<Asked>,
}

impl State {
    /// Shows `aligned` of the table, and holds these beside it.
    pub fn show(&mut self, aligned: Shown, others: &[Shown]) {
        let held = std::iter::once(aligned).chain(others.iter().copied()).collect();
        self.tables.insert(UID, Holding { aligned: Some(aligned), held });
    }
}

/// One scripted server.
#[derive(Debug)]
pub struct Server {
    pub address: String,
    state: Arc<Mutex<State>>,
    _task: TaskHandle,
}

impl Server {
    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no test panics holding it")
    }
}

/// A clock that tests can push forward.
#[derive(Debug)]
pub struct PushedClock {
    system: SystemClock,
    pushed_ms: AtomicU64,
}

impl PushedClock {
    pub fn push(&self, by: Duration) {
        self.pushed_ms.fetch_add(u64::try_from(by.as_millis()).expect("a short time"), Ordering::SeqCst);
    }
}

#[async_trait]
impl Clock for PushedClock {
    fn unix_ms(&self) -> u64 {
        self.system.unix_ms() + self.pushed_ms.load(Ordering::SeqCst)
    }

    fn monotonic(&self) -> Duration {
        self.system.monotonic() + Duration::from_millis(self.pushed_ms.load(Ordering::SeqCst))
    }

    async fn sleep(&self, duration: Duration) {
        self.system.sleep(duration).await;
    }
}

/// A module of scripted servers.
#[derive(Debug)]
pub struct Module {
    pub env: Env,
    pub clock: Arc<PushedClock>,
    pub sects: BTreeMap<String, Vec<Server>>,
    pub topology: TopologyView,
}

impl Module {
    /// Starts a server per role of each sect, all showing version 1 at epoch 1 of a table of 64-bit keys.
    pub async fn start(sects: &[(&str, u16)]) -> Self {
        Self::start_with(sects, KeyType::U64, ValueType::Bytes).await
    }

    pub async fn start_with(sects: &[(&str, u16)], key: KeyType, value: ValueType) -> Self {
        let clock = Arc::new(PushedClock { system: SystemClock::new(), pushed_ms: AtomicU64::new(0) });
        let env = Env { clock: clock.clone(), ..Env::real(1).expect("a pool of one thread") };
        let table = TableView { uid: TableUid(UID), kind: TableKind::Mem, key, value, excluded: BTreeSet::new() };
        let mut topology = TopologyView {
            module: "test".to_owned(),
            generation: 1,
            tables: BTreeMap::from([(TABLE.to_owned(), table)]),
            ..TopologyView::default()
        };
        let mut started: BTreeMap<String, Vec<Server>> = BTreeMap::new();
        for (name, roles) in sects {
            let mut servers = Vec::new();
            for role in 0..*roles {
                let server = serve(&env).await;
                server.state().owns.push((*roles, role));
                server.state().value_types.insert(UID, value);
                server.state().show(shown(1, 1), &[]);
                servers.push(server);
            }
            let addresses = servers.iter().map(|server| server.address.clone()).collect();
            topology.sects.insert((*name).to_owned(), SectView { state: SectState::Active, addresses });
            started.insert((*name).to_owned(), servers);
        }
        let module = Self { env, clock, sects: started, topology };
        module.tell(&module.topology);
        module
    }

    pub fn servers(&self) -> impl Iterator<Item = &Server> {
        self.sects.values().flatten()
    }

    pub fn server(&self, sect: &str, role: usize) -> &Server {
        &self.sects[sect][role]
    }

    /// Has every server tell `topology`.
    pub fn tell(&self, topology: &TopologyView) {
        self.servers().for_each(|server| server.state().topology = topology.clone());
    }

    /// Has every server show and hold the same.
    pub fn show_all(&self, aligned: Shown, others: &[Shown]) {
        self.servers().for_each(|server| server.state().show(aligned, others));
    }

    /// A configuration for tests: patient servers, no hedges, no refresh but on demand.
    pub fn config(&self) -> ClientConfig {
        let first = self.servers().next().expect("a server").address.clone();
        let mut config = ClientConfig::new([first]);
        config.sect = Some("a".to_owned());
        config.rpc_timeout = Duration::from_secs(20);
        config.deadline = Duration::from_secs(60);
        config.hedge_after = None;
        config.topology_refresh = Duration::from_secs(3600);
        config
    }

    pub async fn client(&self) -> Client {
        self.client_with(self.config()).await
    }

    pub async fn client_with(&self, config: ClientConfig) -> Client {
        Client::connect(self.env.clone(), config).await.expect("the first server tells the topology")
    }

    /// What all servers were asked since the last time, by `sect/role`.
    pub fn take_asked(&self) -> BTreeMap<String, Vec<Asked>> {
        let mut asked = BTreeMap::new();
        for (sect, servers) in &self.sects {
            for (role, server) in servers.iter().enumerate() {
                let taken = std::mem::take(&mut server.state().asked);
                if !taken.is_empty() {
                    asked.insert(format!("{sect}/{role}"), taken);
                }
            }
        }
        asked
    }
}

/// Keys enough that each of a few roles has some.
pub fn keys() -> Vec<u64> {
    (0..60).map(|number| number * 7919 % 101).collect()
}

/// What every content says of a key.
pub fn status_of(h: u64) -> KeyStatus {
    match h % 5 {
        0 => KeyStatus::Absent,
        1 => KeyStatus::Expired,
        _ => KeyStatus::Found,
    }
}

/// The value of a key in a content.
pub fn value_of(content: ContentId, h: u64, value: ValueType) -> Vec<u8> {
    let seed: Vec<u8> = std::iter::once(content.0[0]).chain(h.to_le_bytes()).collect();
    let length = value.fixed_width().unwrap_or(9 + usize::try_from(h % 13).expect("below 13"));
    seed.into_iter().cycle().take(length).collect()
}

/// Checks that every answer is of the label's content and stands at its key's place.
pub fn check(answer: &TableAnswer, keys: &[u64]) {
    check_content(answer, keys, answer.label.content);
}

pub fn check_content(answer: &TableAnswer, keys: &[u64], content: ContentId) {
    assert_eq!(answer.len(), keys.len());
    for (position, key) in keys.iter().enumerate() {
        let h = hash_u64(*key);
        let expected = match status_of(h) {
            KeyStatus::Found => (fkv_client::KeyStatus::Found, Some(value_of(content, h, ValueType::Bytes))),
            KeyStatus::Expired => (fkv_client::KeyStatus::Expired, None),
            _ => (fkv_client::KeyStatus::Absent, None),
        };
        let got = (answer.status(position), answer.bytes(position).map(<[u8]>::to_vec));
        assert_eq!(got, expected, "key {key} at {position}");
    }
}

/// Reads all keys of the table, and checks the answer.
pub async fn read(client: &Client, keys: &[u64]) -> Result<TableAnswer, fkv_client::ClientError> {
    let answer = client.get(TABLE, Keys::U64(keys), &fkv_client::ReadOptions::default()).await?;
    check(&answer, keys);
    Ok(answer)
}

async fn serve(env: &Env) -> Server {
    let listener = env.net.listen("127.0.0.1:0".parse().expect("an address")).await.expect("a free port");
    let address = listener.local_addr().expect("it is bound").to_string();
    let state = Arc::new(Mutex::new(State::default()));
    let service = KvServer::new(Service { state: Arc::clone(&state), clock: env.clock.clone() })
        .max_decoding_message_size(REQUEST_BYTES_MAX + 64)
        .max_encoding_message_size(REPLY_BYTES_MAX + 64);
    let connections = incoming(listener, env.clock.clone());
    let serving = tonic::transport::Server::builder().add_service(service).serve_with_incoming(connections);
    let task = env.spawn.spawn("fake-kvsvr", Box::pin(async move { serving.await.expect("it serves") }));
    Server { address, state, _task: task }
}

#[derive(Debug)]
struct Service {
    state: Arc<Mutex<State>>,
    clock: Arc<dyn Clock>,
}

#[tonic::async_trait]
impl Kv for Service {
    async fn batch_get(&self, request: tonic::Request<BatchGetRequest>) -> Result<Response<BatchGetReply>, Status> {
        let body = request.into_inner().body;
        let request = Request::parse(body).map_err(|error| Failure::new(ErrorKind::BadRequest, error.to_string()))?;
        let mood = {
            let mut state = self.state.lock().expect("no test panics holding it");
            for section in request.sections() {
                state.asked.push(Asked {
                    uid: section.header.table.0,
                    selector: section.header.selector,
                    keys: section.keys.len(),
                    canary: request.header().canary,
                    read_ts_ms: request.header().read_ts_ms,
                });
            }
            state.mood.clone()
        };
        match mood {
            Mood::Fails(kind) => return Err(Failure::new(kind, "as the test wishes").into()),
            Mood::Hangs => std::future::pending::<()>().await,
            Mood::Babbles => {
                return Ok(Response::new(BatchGetReply { body: Bytes::from_static(b"FKVR nonsense") }));
            }
            Mood::Allows(most) if request.key_count() > most => {
                return Err(Failure::new(ErrorKind::BatchTooLarge, "more keys than allowed").into());
            }
            Mood::Foreign => return Err(Status::unimplemented("unknown service")),
            Mood::Well | Mood::Refuses(_) | Mood::Sparing(_) | Mood::Allows(_) | Mood::Cramped(_) => {}
        }
        let state = self.state.lock().expect("no test panics holding it");
        let header = ReplyHeader { generation: state.topology.generation, server_ms: self.clock.unix_ms() };
        let mut writer = ReplyWriter::new(header, 0, REPLY_BYTES_MAX);
        let mut room = if let Mood::Cramped(room) = mood { room } else { usize::MAX };
        for section in request.sections() {
            match room.checked_sub(section.keys.len()) {
                Some(left) => {
                    room = left;
                    state.answer(&section, &mut writer);
                }
                None => writer.refuse(SectionLabel::unknown(section.header.table), SectionStatus::ReplyTooLarge),
            }
        }
        Ok(Response::new(BatchGetReply { body: writer.finish() }))
    }

    async fn topology(&self, _: tonic::Request<TopologyRequest>) -> Result<Response<TopologyReply>, Status> {
        let state = self.state.lock().expect("no test panics holding it");
        Ok(Response::new(TopologyReply::from(&state.topology)))
    }

    async fn status(&self, _: tonic::Request<StatusRequest>) -> Result<Response<StatusReply>, Status> {
        Err(Status::unimplemented("no test asks"))
    }
}

impl State {
    fn answer(&self, section: &Section<'_>, writer: &mut ReplyWriter) {
        let uid = section.header.table;
        let Some(holding) = self.tables.get(&uid.0) else {
            writer.refuse(SectionLabel::unknown(uid), SectionStatus::UnknownTable);
            return;
        };
        let default = holding
            .held
            .iter()
            .find(|held| holding.aligned.is_some_and(|aligned| aligned.content == held.content))
            .or(holding.held.first());
        let served = match section.header.selector {
            Selector::Aligned => default,
            Selector::Content(content) => holding.held.iter().find(|held| held.content == content),
            Selector::Version(version) => holding.held.iter().find(|held| held.version == version),
        };
        let beside = holding.held.iter().find(|held| Some(*held) != served.or(default));
        let label = SectionLabel {
            table: uid,
            served: served.copied(),
            aligned: holding.aligned,
            other: beside.map(|held| HeldContent { version: held.version, content: held.content }),
            as_of_s: 100,
        };
        match self.mood {
            Mood::Refuses(status) => return writer.refuse(label, status),
            Mood::Sparing(most) if section.keys.len() > most => {
                return writer.refuse(label, SectionStatus::ReplyTooLarge);
            }
            _ => {}
        }
        let Some(served) = served else {
            let status = if holding.held.is_empty() { SectionStatus::NotLoaded } else { SectionStatus::ContentNotHeld };
            return writer.refuse(label, status);
        };
        let hashes: Vec<u64> = match section.keys {
            WireKeys::U64(keys) => keys.iter().map(hash_u64).collect(),
            WireKeys::Bytes(keys) => keys.iter().map(hash_bytes).collect(),
        };
        let owned = |h: &u64| {
            self.owns
                .iter()
                .any(|(roles, role)| RoleTable::new(*roles).expect("legal").role_of(part_of(*h)) == Role(*role))
        };
        if !hashes.is_empty() && !hashes.iter().any(owned) {
            return writer.refuse(label, SectionStatus::WrongTopology);
        }
        let status = |h: &u64| if owned(h) { status_of(*h) } else { KeyStatus::NotHere };
        let value_type = self.value_types.get(&uid.0).copied().unwrap_or(ValueType::Bytes);
        if value_type == ValueType::Bytes {
            let mut answers = writer.variable(label, hashes.len()).expect("it fits");
            for h in &hashes {
                match status(h) {
                    KeyStatus::Found => {
                        answers.found(&value_of(served.content, *h, value_type)).expect("it fits");
                    }
                    missing => answers.missing(missing),
                }
            }
            answers.finish();
        } else {
            let mut answers = writer.dense(label, value_type, hashes.len()).expect("it fits");
            for h in &hashes {
                match status(h) {
                    KeyStatus::Found => {
                        answers.found().copy_from_slice(&value_of(served.content, *h, value_type));
                    }
                    missing => answers.missing(missing),
                }
            }
            answers.finish();
        }
    }
}

/// The slot of a role.
pub fn slot(sect: &str, role: u16) -> Slot {
    Slot { sect: sect.to_owned(), role: Role(role) }
}
