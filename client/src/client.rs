//! The asynchronous client: drives calls over the network.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use bytes::Bytes;
use fkv_env::{Env, TaskHandle, timeout};
use fkv_rpc::packed::{Reply, RequestHeader, RequestWriter, SectionHeader, ValueForm};
use fkv_rpc::status::{ErrorKind, Failure};
use fkv_rpc::topology::TopologyView;
use futures::future::{BoxFuture, join_all};
use futures::stream::{FuturesUnordered, StreamExt};

use crate::answer::{BatchAnswer, TableAnswer};
use crate::call::{Action, Bounds, Call, Event};
use crate::hedge::HedgeBudget;
use crate::memory::Memories;
use crate::plan::{Router, Rpc, TableInput};
use crate::split::{Keys, index, key_bytes};
use crate::topology::{Directory, Snapshot};
use crate::{ClientConfig, ClientError, ReadOptions};

/// What to read of one table.
#[derive(Clone, Copy, Debug)]
pub struct TableRead<'a> {
    /// The table's name.
    pub table: &'a str,
    /// The keys, in any order; a key may stand there more than once.
    pub keys: Keys<'a>,
}

/// Reads batches of keys, each batch of one version. Cheap to share behind an `Arc`; calls run at the same time.
#[derive(Debug)]
pub struct Client {
    env: Env,
    config: ClientConfig,
    directory: Arc<Directory>,
    memories: Memories,
    hedges: HedgeBudget,
    /// Keeps the topology up to date as long as the client lives.
    _refresher: TaskHandle,
}

impl Client {
    /// Learns the module from one of the endpoints.
    ///
    /// # Errors
    /// `BadRequest` if the configuration makes no sense, `Unavailable` if no endpoint answers.
    pub async fn connect(env: Env, config: ClientConfig) -> Result<Self, ClientError> {
        config.validate()?;
        let directory = Arc::new(Directory::open(env.clone(), &config).await?);
        let kept = Arc::clone(&directory);
        let refresher = env.spawn.spawn("client-topology", Box::pin(async move { kept.keep_fresh().await }));
        let hedges = HedgeBudget::new(config.hedge_percent_max);
        Ok(Self { env, config, directory, memories: Memories::default(), hedges, _refresher: refresher })
    }

    /// Reads keys of several tables, each table in one version (unless `options` say otherwise), at one time.
    ///
    /// # Errors
    /// See [`ClientError`]; nothing is answered then.
    pub async fn batch_get(&self, reads: &[TableRead<'_>], options: &ReadOptions) -> Result<BatchAnswer, ClientError> {
        let limit = options.deadline.unwrap_or(self.config.deadline);
        let read_ts_ms = options.read_ts_ms.unwrap_or_else(|| self.env.clock.unix_ms());
        let started = self.env.clock.monotonic();
        let reading = self.read(reads, options, read_ts_ms, started + limit);
        match timeout(&*self.env.clock, limit, reading).await {
            // Requests end with the call's deadline, so that they may fail just before the call does.
            Ok(Err(error)) if error.is_transient() && self.env.clock.monotonic() >= started + limit => {
                Err(ClientError::DeadlineExceeded(limit))
            }
            Ok(answer) => answer,
            Err(_) => Err(ClientError::DeadlineExceeded(limit)),
        }
    }

    /// Reads keys of one table.
    ///
    /// # Errors
    /// See [`ClientError`]; nothing is answered then.
    pub async fn get(&self, table: &str, keys: Keys<'_>, options: &ReadOptions) -> Result<TableAnswer, ClientError> {
        let answer = self.batch_get(&[TableRead { table, keys }], options).await?;
        answer.tables.into_iter().next().ok_or_else(|| ClientError::Unavailable("the call gave no answer".to_owned()))
    }

    /// The module as the client knows it now.
    #[must_use]
    pub fn topology(&self) -> TopologyView {
        self.directory.snapshot().view.clone()
    }

    /// Fetches the topology anew.
    ///
    /// # Errors
    /// `Unavailable` if no server answers; the client goes on with what it knows.
    pub async fn refresh(&self) -> Result<TopologyView, ClientError> {
        Ok(self.directory.refresh(&self.directory.snapshot(), None).await?.view.clone())
    }

    async fn read(
        &self,
        reads: &[TableRead<'_>],
        options: &ReadOptions,
        read_ts_ms: u64,
        deadline_at: Duration,
    ) -> Result<BatchAnswer, ClientError> {
        self.check(reads)?;
        let snapshot = self.resolve(reads).await?;
        let inputs = reads.iter().map(TableInput::new).collect::<Vec<_>>();
        let router = Router {
            snapshot,
            inputs: &inputs,
            sect: self.config.sect.as_deref(),
            seed: self.env.entropy.next_u64(),
            keys_max: self.config.keys_per_rpc_max,
        };
        let bounds = Bounds {
            servers_tried_max: self.config.servers_tried_max,
            sync_rounds_max: self.config.sync_rounds_max,
            restarts_max: self.config.restarts_max,
        };
        let now = || self.env.clock.monotonic();
        let mut call = Call::new(router, &self.memories, options.consistency, options.canary, bounds, now())?;
        let wire = Wire {
            client: self,
            canary: options.canary,
            form: options.form,
            read_ts_ms,
            deadline_at,
            requests: AtomicU32::new(0),
            hedges: AtomicU32::new(0),
        };
        let mut under_way: FuturesUnordered<BoxFuture<'_, Event>> = FuturesUnordered::new();
        loop {
            for action in call.take_actions() {
                under_way.push(wire.act(action, call.router.clone()));
            }
            let Some(event) = under_way.next().await else {
                return Err(ClientError::Unavailable("the call came to a halt".to_owned()));
            };
            if let Event::Answered(_, Err(failure)) = &event
                && failure.kind == ErrorKind::DeadlineExceeded
                && now() >= deadline_at
            {
                // Nobody else can be asked any more; looking for somebody would only use up the probe of a server.
                return Err(ClientError::DeadlineExceeded(options.deadline.unwrap_or(self.config.deadline)));
            }
            call.handle(event, now())?;
            if let Some(mut answer) = call.finish(read_ts_ms, now())? {
                answer.effort.requests = wire.requests.load(Ordering::Relaxed);
                answer.effort.hedges = wire.hedges.load(Ordering::Relaxed);
                return Ok(answer);
            }
        }
    }

    /// Checks what needs no server.
    fn check(&self, reads: &[TableRead<'_>]) -> Result<(), ClientError> {
        if reads.is_empty() {
            return Err(ClientError::BadRequest("a call must name at least one table".to_owned()));
        }
        let mut names = BTreeSet::new();
        if let Some(twice) = reads.iter().find(|read| !names.insert(read.table)) {
            let message = format!("table `{}` is named twice: put its keys into one read", twice.table);
            return Err(ClientError::BadRequest(message));
        }
        let (keys, max) = (reads.iter().map(|read| read.keys.len()).sum::<usize>(), self.config.keys_per_call_max);
        if keys > max {
            return Err(ClientError::BatchTooLarge(format!("{keys} keys are more than the {max} of one call")));
        }
        for read in reads {
            if let Keys::Bytes(keys) = read.keys
                && let Some(long) = keys.iter().find(|key| key.len() > fkv_rpc::packed::KEY_BYTES_MAX)
            {
                return Err(ClientError::BadRequest(format!(
                    "a key for table `{}` has {} bytes; at most {} are possible",
                    read.table,
                    long.len(),
                    fkv_rpc::packed::KEY_BYTES_MAX
                )));
            }
        }
        Ok(())
    }

    /// A snapshot that has all tables, with keys of the types given.
    async fn resolve(&self, reads: &[TableRead<'_>]) -> Result<Arc<Snapshot>, ClientError> {
        let mut snapshot = self.directory.snapshot();
        for read in reads {
            let right = |snapshot: &Snapshot| {
                snapshot.view.tables.get(read.table).is_some_and(|table| table.key == read.keys.key_type())
            };
            // It may have been created, or made again with other keys, since the topology was fetched.
            if !right(&snapshot) {
                snapshot = self.directory.refresh(&snapshot, Some(read.table)).await?;
            }
            let declared = snapshot.table(read.table)?.key;
            if declared != read.keys.key_type() {
                return Err(ClientError::WrongKeyType { table: read.table.to_owned(), declared });
            }
        }
        Ok(snapshot)
    }
}

/// Which of two ways to the same answers was faster.
enum Race {
    /// The request itself, or it failed and nothing came of the others.
    First(Result<Arc<Reply>, Failure>),
    /// The requests sent in its place.
    Second(Vec<(Rpc, Arc<Reply>)>),
}

/// What all requests of a call share.
struct Wire<'a> {
    client: &'a Client,
    canary: bool,
    form: ValueForm,
    read_ts_ms: u64,
    deadline_at: Duration,
    requests: AtomicU32,
    hedges: AtomicU32,
}

impl Wire<'_> {
    /// Does what the call asks for.
    fn act<'f>(&'f self, action: Action, router: Router<'f>) -> BoxFuture<'f, Event> {
        match action {
            Action::Send(rpc) => Box::pin(async move { self.ask(rpc, &router).await }),
            Action::Refresh(seen, share, reason) => Box::pin(async move {
                let name = router.inputs[share.table].name;
                let refreshed = self.client.directory.refresh(&seen, Some(name)).await;
                if let Err(error) = &refreshed {
                    tracing::debug!(%error, "going on with the topology known");
                }
                Event::Refreshed(refreshed.ok(), share, reason)
            }),
            Action::Rest(table, rest) => Box::pin(async move {
                // Up to half as long again, so that calls that met the same state do not meet again.
                let jitter = u64::try_from(rest.as_millis() / 2 + 1).unwrap_or(1);
                let rest = rest + Duration::from_millis(self.client.env.entropy.below(jitter));
                self.client.env.clock.sleep(rest).await;
                Event::Rested(table)
            }),
        }
    }

    /// Sends a request, and where it is slow another one in its place; whichever is whole first is the answer.
    async fn ask(&self, rpc: Rpc, router: &Router<'_>) -> Event {
        match self.race(&rpc, router).await {
            Race::First(result) => Event::Answered(rpc, result),
            Race::Second(replies) => Event::Outpaced(rpc, replies),
        }
    }

    async fn race(&self, rpc: &Rpc, router: &Router<'_>) -> Race {
        let clock = &self.client.env.clock;
        self.client.hedges.earn();
        let first = self.send(rpc, router);
        tokio::pin!(first);
        let Some(delay) = self.client.config.hedge_after else { return Race::First(first.await) };
        tokio::select! {
            biased;
            result = &mut first => return Race::First(result),
            () = clock.sleep(delay) => {}
        }
        let instead = router.instead_of(rpc, clock.monotonic());
        let Some(instead) = instead.filter(|instead| self.client.hedges.spend(instead.len())) else {
            return Race::First(first.await);
        };
        // Now that they are paid for, they are the probes of servers that wait for one.
        for rpc in &instead {
            rpc.server.admit(clock.monotonic());
        }
        self.hedges.fetch_add(u32::try_from(instead.len()).unwrap_or(u32::MAX), Ordering::Relaxed);
        let second = async {
            let results = join_all(instead.iter().map(|rpc| self.send(rpc, router))).await;
            results.into_iter().collect::<Result<Vec<_>, _>>().ok()
        };
        tokio::pin!(second);
        let replies = tokio::select! {
            biased;
            result = &mut first => match result {
                Ok(reply) => return Race::First(Ok(reply)),
                Err(failure) => match second.await {
                    Some(replies) => replies,
                    None => return Race::First(Err(failure)),
                },
            },
            replies = &mut second => match replies {
                Some(replies) => {
                    rpc.server.outpaced(&self.client.env);
                    replies
                }
                None => return Race::First(first.await),
            },
        };
        Race::Second(instead.iter().cloned().zip(replies).collect())
    }

    async fn send(&self, rpc: &Rpc, router: &Router<'_>) -> Result<Arc<Reply>, Failure> {
        self.requests.fetch_add(1, Ordering::Relaxed);
        let env = &self.client.env;
        let left = self.deadline_at.saturating_sub(env.clock.monotonic());
        if left.is_zero() {
            return Err(Failure::new(ErrorKind::DeadlineExceeded, "the call's deadline has passed"));
        }
        let allowed = self.client.config.rpc_timeout;
        let reply = rpc.server.batch_get(env, self.body(rpc, router), left.min(allowed), left < allowed).await?;
        self.client.directory.note_generation(reply.header().generation);
        Ok(Arc::new(reply))
    }

    /// The packed body of a request.
    fn body(&self, rpc: &Rpc, router: &Router<'_>) -> Bytes {
        let sections = rpc.shares.iter().map(|share| (share, &router.inputs[share.table].keys));
        let bytes = sections.clone().map(|(share, keys)| keys.section_bytes(&share.positions)).sum();
        let header = RequestHeader {
            canary: self.canary,
            generation: router.snapshot.view.generation,
            read_ts_ms: self.read_ts_ms,
        };
        let mut writer = RequestWriter::new(header, bytes);
        for (share, keys) in sections {
            let header = SectionHeader { table: share.uid, selector: share.selector, form: self.form };
            let positions = share.positions.iter();
            match keys {
                Keys::U64(keys) => writer.u64_section(header, positions.map(|position| keys[index(*position)])),
                Keys::Bytes(keys) => {
                    let key_bytes = key_bytes(keys, &share.positions);
                    writer.bytes_section(header, key_bytes, positions.map(|position| keys[index(*position)]));
                }
            }
        }
        writer.finish()
    }
}
