//! One watch: etcd's responses regrouped so that each batch is all of one revision.

use std::collections::VecDeque;

use fkv_env::Env;
use futures::stream;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tonic::transport::Channel;

use super::proto::etcdserverpb as pb;
use super::proto::etcdserverpb::watch_client::WatchClient;
use super::{RESPONSE_BYTES_MAX, Timeouts, convert, require_leader};
use crate::store::{Event, MetaError, Revision, WatchBatch, WatchStream};

/// Starts a watch on one endpoint and waits until etcd has confirmed it.
pub(super) async fn start(
    env: &Env,
    timeouts: &Timeouts,
    channel: Channel,
    prefix: &str,
    from: Revision,
) -> Result<WatchStream, convert::Failure> {
    let (key, range_end) = convert::range_of(prefix);
    let create = pb::WatchCreateRequest { key, range_end, start_revision: convert::to_i64(from), fragment: true };
    let request = pb::WatchRequest { request_union: Some(pb::watch_request::RequestUnion::CreateRequest(create)) };
    // The sender lives as long as the stream: closing it would end the watch.
    let (sender, receiver) = mpsc::channel(1);
    let queued = sender.try_send(request);
    debug_assert!(queued.is_ok(), "an empty channel takes one request");
    let mut client = WatchClient::new(channel).max_decoding_message_size(RESPONSE_BYTES_MAX);
    let opened = fkv_env::timeout(&*env.clock, timeouts.call, async {
        let mut responses = client.watch(require_leader(ReceiverStream::new(receiver))).await?.into_inner();
        let first = responses.message().await?;
        Ok::<_, tonic::Status>((first, responses))
    });
    let (first, responses) = match opened.await {
        Ok(Ok(opened)) => opened,
        Ok(Err(status)) => return Err(convert::Failure::of(&status)),
        Err(elapsed) => return Err(convert::Failure::Lost(elapsed.to_string())),
    };
    let mut watching =
        Watching { from, responses, _requests: sender, open: None, partial: Vec::new(), ready: VecDeque::new() };
    let Some(first) = first else {
        return Err(convert::Failure::Lost("etcd ended a watch at once".to_owned()));
    };
    // A watch from a revision no longer kept is confirmed or refused with its first response; both are the stream's.
    let early = watching.take(first).err();
    Ok(Box::pin(stream::unfold(Some((watching, early)), |state| async move {
        let (mut watching, early) = state?;
        let next = match early {
            Some(error) => Err(error),
            None => watching.next().await,
        };
        match next {
            Ok(batch) => Some((Ok(batch), Some((watching, None)))),
            Err(error) => Some((Err(error), None)),
        }
    })))
}

struct Watching {
    from: Revision,
    responses: Streaming<pb::WatchResponse>,
    _requests: mpsc::Sender<pb::WatchRequest>,
    /// The revision at which `partial` was changed.
    open: Option<Revision>,
    partial: Vec<Event>,
    ready: VecDeque<WatchBatch>,
}

impl Watching {
    async fn next(&mut self) -> Result<WatchBatch, MetaError> {
        loop {
            if let Some(batch) = self.ready.pop_front() {
                return Ok(batch);
            }
            let lost = |status: tonic::Status| MetaError::Unavailable(format!("the watch broke: {}", status.message()));
            let response = self.responses.message().await.map_err(lost)?;
            self.take(response.ok_or_else(|| MetaError::Unavailable("etcd ended the watch".to_owned()))?)?;
        }
    }

    fn take(&mut self, response: pb::WatchResponse) -> Result<(), MetaError> {
        if response.canceled {
            return Err(if response.compact_revision > 0 {
                MetaError::Compacted(self.from)
            } else {
                MetaError::Unavailable(format!("etcd cancelled the watch: {}", response.cancel_reason))
            });
        }
        for (at, event) in response.events.into_iter().filter_map(convert::event) {
            if self.open != Some(at) {
                self.close();
                self.open = Some(at);
            }
            self.partial.push(event);
        }
        // etcd cuts responses into fragments anywhere, but otherwise only between revisions.
        if !response.fragment {
            self.close();
        }
        Ok(())
    }

    fn close(&mut self) {
        if let Some(revision) = self.open.take() {
            self.from = Revision(revision.0 + 1);
            self.ready.push_back(WatchBatch { revision, events: std::mem::take(&mut self.partial) });
        }
    }
}
