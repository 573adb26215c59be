//! What a client is told at its start and at each call.

use std::time::Duration;

use fkv_env::ChannelOptions;
use fkv_formats::id::Version;
use fkv_rpc::packed::{KEYS_MAX, ValueForm};

use crate::ClientError;

/// How a client finds and treats the servers. [`ClientConfig::new`] gives values that suit a ranking service.
#[derive(Clone, Debug)]
pub struct ClientConfig {
    /// `host:port` of some KVSvrs, of any sect and role; the rest of the module is learnt from them.
    pub endpoints: Vec<String>,
    /// The sect to read from as long as it answers. `None`: another active sect for each call, at random, which
    /// spreads the load.
    pub sect: Option<String>,
    /// How long one request to one server may take before another sect is asked.
    pub rpc_timeout: Duration,
    /// How long a call may take in all, unless the call says otherwise.
    pub deadline: Duration,
    /// How many servers are asked for a key, for one content id, before the call gives up on it.
    pub servers_tried_max: usize,
    /// How many content ids a call tries to complete from one set of replies.
    pub sync_rounds_max: usize,
    /// How often a call starts anew when the replies had no common content.
    pub restarts_max: u32,
    /// After how long an unanswered request is also sent to another sect; `None`: never.
    pub hedge_after: Option<Duration>,
    /// How many requests may be such second ones, per hundred first ones.
    pub hedge_percent_max: u32,
    /// How often the topology is fetched, besides when replies show that it changed.
    pub topology_refresh: Duration,
    /// Most keys in one request; larger groups are divided.
    pub keys_per_rpc_max: usize,
    /// Most keys in one call, over all tables.
    pub keys_per_call_max: usize,
    /// Connections to each server. One HTTP/2 connection is one lock, on both sides.
    pub connections_per_server: usize,
    /// HTTP/2 settings of the connections.
    pub channel: ChannelOptions,
}

impl ClientConfig {
    /// The defaults, with these endpoints.
    pub fn new<S: Into<String>>(endpoints: impl IntoIterator<Item = S>) -> Self {
        Self {
            endpoints: endpoints.into_iter().map(Into::into).collect(),
            sect: None,
            rpc_timeout: Duration::from_millis(500),
            deadline: Duration::from_secs(2),
            servers_tried_max: 4,
            sync_rounds_max: 4,
            restarts_max: 3,
            hedge_after: Some(Duration::from_millis(50)),
            hedge_percent_max: 5,
            topology_refresh: Duration::from_secs(10),
            keys_per_rpc_max: 16_384,
            keys_per_call_max: 1 << 20,
            connections_per_server: 2,
            channel: ChannelOptions::default(),
        }
    }

    /// Checks what the types alone cannot.
    pub(crate) fn validate(&self) -> Result<(), ClientError> {
        let bad = |what: &str| Err(ClientError::BadRequest(format!("client configuration: {what}")));
        if self.endpoints.is_empty() {
            return bad("at least one endpoint is needed");
        }
        if !(1..=KEYS_MAX).contains(&self.keys_per_rpc_max) {
            return bad(&format!("keys_per_rpc_max must be 1 to {KEYS_MAX}"));
        }
        if self.keys_per_call_max > 1 << 30 {
            return bad("keys_per_call_max must be at most 2^30");
        }
        if self.servers_tried_max == 0 || self.sync_rounds_max == 0 || self.connections_per_server == 0 {
            return bad("servers_tried_max, sync_rounds_max and connections_per_server must be at least 1");
        }
        if self.rpc_timeout.is_zero() || self.deadline.is_zero() || self.topology_refresh.is_zero() {
            return bad("rpc_timeout, deadline and topology_refresh must be longer than nothing");
        }
        Ok(())
    }
}

/// Which answers a call accepts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Consistency {
    /// All answers of a table are of one content, never older than what this client gave before.
    #[default]
    Strict,
    /// All answers of every table of the call are of this version, whether or not it is shown at present.
    Pinned(Version),
    /// Whatever each role shows; answers of different contents are flagged as mixed.
    Available,
}

/// How one call reads. The default is strict, in the declared value types, at the present time.
#[derive(Clone, Copy, Debug, Default)]
pub struct ReadOptions {
    /// Which answers are accepted.
    pub consistency: Consistency,
    /// In which type float vectors are wanted.
    pub form: ValueForm,
    /// Whether a canary sect may answer with canary content.
    pub canary: bool,
    /// The time by which expiry is judged, in Unix milliseconds. `None`: now.
    pub read_ts_ms: Option<u64>,
    /// How long the call may take. `None`: [`ClientConfig::deadline`].
    pub deadline: Option<Duration>,
}
