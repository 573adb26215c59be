//! Listening and connecting.

use std::fmt::Debug;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};

use async_trait::async_trait;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// What a byte stream must be able to do.
trait Duplex: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Duplex for T {}

/// One connection: a byte stream in both directions.
pub struct Conn(Box<dyn Duplex>);

impl Conn {
    /// Wraps any byte stream.
    pub fn new(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) -> Self {
        Self(Box::new(stream))
    }
}

impl Debug for Conn {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Conn")
    }
}

impl AsyncRead for Conn {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Conn {
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

/// A bound address that accepts connections.
#[async_trait]
pub trait Listener: Send + Debug {
    /// The bound address, with the port the system chose if it was asked to.
    ///
    /// # Errors
    /// As the operating system says.
    fn local_addr(&self) -> io::Result<SocketAddr>;
    /// The next connection and its peer.
    ///
    /// # Errors
    /// As the operating system says; accepting may go on afterwards.
    async fn accept(&mut self) -> io::Result<(Conn, SocketAddr)>;
}

/// A network.
#[async_trait]
pub trait Net: Send + Sync + Debug {
    /// Binds `addr`; port 0 lets the system choose.
    ///
    /// # Errors
    /// `AddrInUse` if the port is taken; otherwise as the operating system says.
    async fn listen(&self, addr: SocketAddr) -> io::Result<Box<dyn Listener>>;
    /// Connects to `authority`, a `host:port`.
    ///
    /// # Errors
    /// As the operating system says.
    async fn connect(&self, authority: &str) -> io::Result<Conn>;
}

/// TCP with `TCP_NODELAY`.
#[derive(Clone, Copy, Debug)]
pub struct TcpNet;

#[derive(Debug)]
struct TcpAcceptor(tokio::net::TcpListener);

#[async_trait]
impl Listener for TcpAcceptor {
    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.0.local_addr()
    }

    async fn accept(&mut self) -> io::Result<(Conn, SocketAddr)> {
        let (stream, peer) = self.0.accept().await?;
        stream.set_nodelay(true)?;
        Ok((Conn::new(stream), peer))
    }
}

#[async_trait]
#[allow(clippy::disallowed_methods, reason = "the one place that opens sockets")]
impl Net for TcpNet {
    async fn listen(&self, addr: SocketAddr) -> io::Result<Box<dyn Listener>> {
        Ok(Box::new(TcpAcceptor(tokio::net::TcpListener::bind(addr).await?)))
    }

    async fn connect(&self, authority: &str) -> io::Result<Conn> {
        let stream = tokio::net::TcpStream::connect(authority).await?;
        stream.set_nodelay(true)?;
        Ok(Conn::new(stream))
    }
}
