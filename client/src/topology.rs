//! What the client knows of the module, and how it stays up to date.
//!
//! ```text
//!   any KVSvr ── Topology ──▶ Snapshot: tables, and the active sects with role tables and servers
//!                                ▲ replaced whole: on an interval, on a higher generation in a reply,
//!                                │ on an unknown table, on a wrong topology
//! ```

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use fkv_env::{Env, timeout};
use fkv_formats::id::{Role, Slot};
use fkv_formats::route::RoleTable;
use fkv_rpc::status::Failure;
use fkv_rpc::topology::{SectState, TableView, TopologyView};
use tokio::sync::Notify;

use crate::servers::{Server, Servers};
use crate::{ClientConfig, ClientError};

/// How many servers are asked for the topology before the client makes do with what it has heard.
const SERVERS_ASKED_MAX: usize = 3;
/// The shortest time between two refreshes that replies gave rise to.
const REFRESH_PAUSE: Duration = Duration::from_millis(100);

/// The module at one time; never changed.
#[derive(Debug)]
pub(crate) struct Snapshot {
    pub(crate) view: TopologyView,
    /// The sects that get reads, by name.
    pub(crate) sects: Vec<ActiveSect>,
}

/// A sect that gets reads.
#[derive(Debug)]
pub(crate) struct ActiveSect {
    pub(crate) name: String,
    pub(crate) roles: RoleTable,
    /// The server of each role.
    pub(crate) servers: Vec<Arc<Server>>,
}

impl Snapshot {
    fn new(view: TopologyView, servers: &Servers) -> Result<Self, ClientError> {
        let mut sects = Vec::new();
        for (name, sect) in view.sects.iter().filter(|(_, sect)| sect.state == SectState::Active) {
            let unusable = |error: &dyn std::fmt::Display| ClientError::Unavailable(format!("sect {name}: {error}"));
            let count = u16::try_from(sect.addresses.len()).map_err(|error| unusable(&error))?;
            let roles = RoleTable::new(count).map_err(|error| unusable(&error))?;
            let servers = sect.addresses.iter().map(|address| servers.get(address)).collect::<Result<_, _>>();
            sects.push(ActiveSect { name: name.clone(), roles, servers: servers.map_err(|error| unusable(&error))? });
        }
        Ok(Self { view, sects })
    }

    /// The table named `name`.
    pub(crate) fn table(&self, name: &str) -> Result<&TableView, ClientError> {
        if let Some(table) = self.view.tables.get(name) {
            return Ok(table);
        }
        Err(match self.view.unreadable.get(name) {
            Some(reason) => ClientError::BadRequest(format!("table `{name}` needs a newer client: {reason}")),
            None => ClientError::UnknownTable { table: name.to_owned() },
        })
    }
}

impl ActiveSect {
    /// The server that answers for `role` of `table`; none if the slot is excluded for it.
    pub(crate) fn server(&self, table: &TableView, role: Role) -> Option<&Arc<Server>> {
        let excluded = !table.excluded.is_empty() && table.excluded.contains(&Slot { sect: self.name.clone(), role });
        self.servers.get(usize::from(role.0)).filter(|_| !excluded)
    }
}

/// Holds the newest snapshot and fetches newer ones.
#[derive(Debug)]
pub(crate) struct Directory {
    env: Env,
    endpoints: Vec<String>,
    rpc_timeout: Duration,
    interval: Duration,
    servers: Servers,
    current: Mutex<Arc<Snapshot>>,
    /// Held while the topology is fetched, so that many calls that want it make one request.
    fetching: tokio::sync::Mutex<()>,
    changed: Notify,
}

impl Directory {
    /// Fetches the topology from one of the endpoints.
    pub(crate) async fn open(env: Env, config: &ClientConfig) -> Result<Self, ClientError> {
        let servers = Servers::new(env.clone(), config.channel, config.connections_per_server);
        let nothing = Snapshot { view: TopologyView::default(), sects: Vec::new() };
        let directory = Self {
            env,
            endpoints: config.endpoints.clone(),
            rpc_timeout: config.rpc_timeout,
            interval: config.topology_refresh,
            servers,
            current: Mutex::new(Arc::new(nothing)),
            fetching: tokio::sync::Mutex::new(()),
            changed: Notify::new(),
        };
        directory.refresh(&directory.snapshot(), None).await?;
        Ok(directory)
    }

    /// The newest snapshot.
    pub(crate) fn snapshot(&self) -> Arc<Snapshot> {
        Arc::clone(&self.current.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// A snapshot newer than `seen`, in which table `wanted` is if any of a few servers knows it.
    pub(crate) async fn refresh(
        &self,
        seen: &Arc<Snapshot>,
        wanted: Option<&str>,
    ) -> Result<Arc<Snapshot>, ClientError> {
        let _fetching = self.fetching.lock().await;
        let current = self.snapshot();
        if !Arc::ptr_eq(&current, seen) {
            // Another call has fetched it meanwhile.
            return Ok(current);
        }
        let mut last: Option<Failure> = None;
        let mut best: Option<TopologyView> = None;
        let mut heard = 0;
        for address in self.addresses(&current) {
            match self.ask(&address).await {
                Err(failure) => {
                    tracing::debug!(%address, error = %failure, "cannot fetch the topology");
                    last = Some(failure);
                }
                // A server that is behind would send us back.
                Ok(view) if view.generation < current.view.generation => heard += 1,
                Ok(view) => {
                    heard += 1;
                    let has_it = |view: &TopologyView| wanted.is_none_or(|wanted| view.tables.contains_key(wanted));
                    let done = has_it(&view);
                    if done || best.as_ref().is_none_or(|best| view.generation > best.generation) {
                        best = Some(view);
                    }
                    if done {
                        break;
                    }
                }
            }
            if heard == SERVERS_ASKED_MAX {
                break;
            }
        }
        match (best, last) {
            (Some(view), _) => self.install(view),
            (None, Some(failure)) if heard == 0 => {
                Err(ClientError::Unavailable(format!("no server tells the topology: {failure}")))
            }
            (None, _) => Ok(current),
        }
    }

    /// Lets the background task fetch the topology soon if `generation` is newer than what is known.
    pub(crate) fn note_generation(&self, generation: u64) {
        if generation > self.snapshot().view.generation {
            self.changed.notify_one();
        }
    }

    /// Keeps the snapshot up to date, for ever.
    pub(crate) async fn keep_fresh(&self) {
        loop {
            // Up to a tenth earlier, so that many clients do not ask in step.
            let jitter = u64::try_from(self.interval.as_millis() / 10).unwrap_or(u64::MAX);
            let wait = self.interval.saturating_sub(Duration::from_millis(self.env.entropy.below(jitter)));
            if timeout(&*self.env.clock, wait, self.changed.notified()).await.is_ok() {
                self.env.clock.sleep(REFRESH_PAUSE).await;
            }
            if let Err(error) = self.refresh(&self.snapshot(), None).await {
                tracing::warn!(%error, "cannot refresh the topology; going on with the last one");
            }
        }
    }

    async fn ask(&self, address: &str) -> Result<TopologyView, Failure> {
        self.servers.get(address)?.topology(&self.env, self.rpc_timeout).await
    }

    /// Where to ask: the active servers from a random one on, those that failed lately last; then the endpoints.
    fn addresses(&self, current: &Snapshot) -> Vec<String> {
        let mut servers: Vec<&Arc<Server>> = current.sects.iter().flat_map(|sect| &sect.servers).collect();
        servers.sort_unstable_by_key(|server| server.address());
        servers.dedup_by_key(|server| server.address());
        let start = self.env.entropy.below(u64::try_from(servers.len()).unwrap_or(u64::MAX));
        servers.rotate_left(usize::try_from(start).unwrap_or(0));
        let now = self.env.clock.monotonic();
        servers.sort_by_key(|server| server.is_ejected(now));
        let mut addresses: Vec<&str> = servers.into_iter().map(|server| &**server.address()).collect();
        for endpoint in &self.endpoints {
            if !addresses.contains(&endpoint.as_str()) {
                addresses.push(endpoint);
            }
        }
        addresses.into_iter().map(str::to_owned).collect()
    }

    fn install(&self, view: TopologyView) -> Result<Arc<Snapshot>, ClientError> {
        let snapshot = Arc::new(Snapshot::new(view, &self.servers)?);
        let mut addresses: BTreeSet<&str> = self.endpoints.iter().map(String::as_str).collect();
        addresses.extend(snapshot.sects.iter().flat_map(|sect| &sect.servers).map(|server| &**server.address()));
        self.servers.retain(&addresses);
        *self.current.lock().unwrap_or_else(PoisonError::into_inner) = Arc::clone(&snapshot);
        Ok(snapshot)
    }
}
