//! Bounds the memory of replies: a reply counts from when it is made until its last byte is with the connection. A
//! reader that is slow, or does not read at all, holds its replies; without a bound such readers would take it all.
//!
//! ```text
//!   lookup ── hold(bytes) ──▶ Held ── extension of the response ──▶ body of the HTTP response ── dropped when sent
//! ```

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use fkv_rpc::status::{ErrorKind, Failure};
use futures::FutureExt;
use futures::future::Map;
use http_body::{Frame, SizeHint};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::body::Body;
use tonic::server::NamedService;
use tower::Service;

/// What is counted at once, in bytes: a semaphore counts to no more than 32 bits in one step.
const UNIT_BYTES: usize = 1024;

/// The memory that replies may take.
#[derive(Clone, Debug)]
pub(crate) struct ReplyMemory {
    free: Arc<Semaphore>,
}

/// A reply's share, given back when the last clone is dropped.
#[derive(Clone, Debug)]
pub(crate) struct Held {
    _share: Arc<OwnedSemaphorePermit>,
}

impl ReplyMemory {
    pub(crate) fn new(bytes_max: u64) -> Self {
        let units = usize::try_from(bytes_max).unwrap_or(usize::MAX).div_ceil(UNIT_BYTES);
        Self { free: Arc::new(Semaphore::new(units.min(Semaphore::MAX_PERMITS))) }
    }

    /// A share for a reply of so many bytes.
    pub(crate) fn hold(&self, bytes: usize) -> Result<Held, Failure> {
        let share = u32::try_from(bytes.div_ceil(UNIT_BYTES)).ok();
        let share = share.and_then(|units| Arc::clone(&self.free).try_acquire_many_owned(units).ok());
        share.map(|share| Held { _share: Arc::new(share) }).ok_or_else(|| {
            let message = "the replies that wait to be read take all the memory they may: ask another sect";
            Failure::new(ErrorKind::Overloaded, message)
        })
    }
}

/// A service whose responses keep their [`Held`] until their body is dropped.
#[derive(Clone, Debug)]
pub(crate) struct HoldUntilSent<S>(pub(crate) S);

type Outcome<E> = Result<http::Response<Body>, E>;

impl<S, B> Service<http::Request<B>> for HoldUntilSent<S>
where
    S: Service<http::Request<B>, Response = http::Response<Body>>,
{
    type Response = http::Response<Body>;
    type Error = S::Error;
    type Future = Map<S::Future, fn(Outcome<S::Error>) -> Outcome<S::Error>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, request: http::Request<B>) -> Self::Future {
        self.0.call(request).map(|outcome| outcome.map(hold_until_sent))
    }
}

impl<S: NamedService> NamedService for HoldUntilSent<S> {
    const NAME: &'static str = S::NAME;
}

fn hold_until_sent(mut response: http::Response<Body>) -> http::Response<Body> {
    match response.extensions_mut().remove::<Held>() {
        Some(held) => response.map(|body| Body::new(HeldBody { body, _held: held })),
        None => response,
    }
}

/// A body with its share of the memory.
struct HeldBody {
    body: Body,
    _held: Held,
}

impl http_body::Body for HeldBody {
    type Data = Bytes;
    type Error = tonic::Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, tonic::Status>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reply_counts_until_its_response_is_dropped() {
        let memory = ReplyMemory::new(10 * 1024);
        let mut response = http::Response::new(Body::new(http_body_of("x")));
        response.extensions_mut().insert(memory.hold(10 * 1024).expect("it fits"));
        let response = hold_until_sent(response);
        assert_eq!(memory.hold(1).expect_err("all is in use").kind, ErrorKind::Overloaded);
        let (head, body) = response.into_parts();
        drop(head);
        assert!(memory.hold(1).is_err(), "the body is still to be sent");
        drop(body);
        assert!(memory.hold(10 * 1024).is_ok());
    }

    fn http_body_of(text: &str) -> String {
        text.to_owned()
    }
}
