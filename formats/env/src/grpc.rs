//! tonic over [`Net`]: channels that connect and servers that accept through the injected network.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::Stream;
use futures::future::BoxFuture;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tonic::transport::server::Connected;
use tonic::transport::{Channel, Endpoint, Uri};

use crate::{Clock, Conn, Listener, Net};

/// HTTP/2 settings of a channel.
#[derive(Clone, Copy, Debug)]
pub struct ChannelOptions {
    /// How long connecting may take.
    pub connect_timeout: Duration,
    /// Flow-control window of one stream and of the connection, in bytes.
    pub window_bytes: u32,
    /// Largest HTTP/2 frame the peer may send, in bytes.
    pub frame_bytes: u32,
    /// Idle time after which the peer is pinged; a peer that does not answer in `keep_alive_timeout` is dropped.
    pub keep_alive_interval: Duration,
    /// See `keep_alive_interval`.
    pub keep_alive_timeout: Duration,
}

impl Default for ChannelOptions {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(2),
            window_bytes: 8 << 20,
            frame_bytes: 256 << 10,
            keep_alive_interval: Duration::from_secs(10),
            keep_alive_timeout: Duration::from_secs(5),
        }
    }
}

/// A channel to `authority` (`host:port`) that connects on first use and again after a failure.
///
/// # Errors
/// `InvalidInput` if `authority` is not a `host:port`.
pub fn channel(net: Arc<dyn Net>, authority: &str, options: ChannelOptions) -> io::Result<Channel> {
    let invalid = |error: tonic::transport::Error| {
        io::Error::new(io::ErrorKind::InvalidInput, format!("`{authority}` is not a host:port: {error}"))
    };
    let endpoint = Endpoint::from_shared(format!("http://{authority}"))
        .map_err(invalid)?
        .connect_timeout(options.connect_timeout)
        .initial_stream_window_size(options.window_bytes)
        .initial_connection_window_size(options.window_bytes)
        .max_frame_size(options.frame_bytes)
        .http2_keep_alive_interval(options.keep_alive_interval)
        .keep_alive_timeout(options.keep_alive_timeout)
        .keep_alive_while_idle(true);
    Ok(endpoint.connect_with_connector_lazy(Connector { net }))
}

#[derive(Clone, Debug)]
struct Connector {
    net: Arc<dyn Net>,
}

impl tower::Service<Uri> for Connector {
    type Response = TokioIo<Conn>;
    type Error = io::Error;
    type Future = BoxFuture<'static, io::Result<TokioIo<Conn>>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let net = Arc::clone(&self.net);
        Box::pin(async move {
            let host = uri.host().ok_or(io::ErrorKind::InvalidInput)?;
            let authority = format!("{host}:{}", uri.port_u16().unwrap_or(80));
            Ok(TokioIo::new(net.connect(&authority).await?))
        })
    }
}

/// A [`Conn`] as tonic's server wants it.
#[derive(Debug)]
pub struct GrpcIo(Conn);

impl Connected for GrpcIo {
    type ConnectInfo = ();

    fn connect_info(&self) {}
}

impl AsyncRead for GrpcIo {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for GrpcIo {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.0.is_write_vectored()
    }
}

/// The connections of `listener`, for `Router::serve_with_incoming`. A failed accept (out of file descriptors, a
/// peer gone already) is logged and accepting goes on after a short pause; it never ends the server.
pub fn incoming(listener: Box<dyn Listener>, clock: Arc<dyn Clock>) -> impl Stream<Item = io::Result<GrpcIo>> {
    futures::stream::unfold(listener, move |mut listener| {
        let clock = Arc::clone(&clock);
        async move {
            loop {
                match listener.accept().await {
                    Ok((conn, _)) => return Some((Ok(GrpcIo(conn)), listener)),
                    Err(error) => {
                        tracing::warn!(%error, "cannot accept a connection");
                        clock.sleep(Duration::from_millis(100)).await;
                    }
                }
            }
        }
    })
}
