//! Connections of the HTTP API: no more than a bound at a time, and none that stays silent. A caller beyond the bound waits
//! in the listener's queue until another is gone; the API must not eat the open files that clients need.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::serve::Listener;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, Sleep};

/// Connections at a time. Backends keep some tens open each.
const CONNECTIONS_MAX: usize = 1024;

/// Without a byte in either direction for so long, a connection is closed. Longer than a request may take
/// (`REQUEST_TIMEOUT`), as nothing moves while an answer is made.
const SILENCE_MAX: Duration = Duration::from_secs(60);

/// A listener that hands out so many connections at a time.
pub struct BoundedListener {
    inner: TcpListener,
    room: Arc<Semaphore>,
    silence_max: Duration,
}

impl BoundedListener {
    pub fn new(inner: TcpListener) -> BoundedListener {
        BoundedListener::with(inner, CONNECTIONS_MAX, SILENCE_MAX)
    }

    fn with(inner: TcpListener, connections_max: usize, silence_max: Duration) -> BoundedListener {
        BoundedListener { inner, room: Arc::new(Semaphore::new(connections_max)), silence_max }
    }
}

impl Listener for BoundedListener {
    type Io = Connection;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Connection, SocketAddr) {
        let room = self.room.clone().acquire_owned().await.expect("the semaphore is never closed");
        let (stream, address) = Listener::accept(&mut self.inner).await;
        let silence = Box::pin(tokio::time::sleep(self.silence_max));
        (Connection { stream, silence, silence_max: self.silence_max, _room: room }, address)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.inner.local_addr()
    }
}

/// A connection with its place under the bound, given back when it is dropped.
pub struct Connection {
    stream: TcpStream,
    silence: Pin<Box<Sleep>>,
    silence_max: Duration,
    _room: OwnedSemaphorePermit,
}

impl Connection {
    /// Passes on what the socket says, and ends the wait for it when nothing has moved for too long.
    fn watched<T>(&mut self, context: &mut Context<'_>, outcome: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if outcome.is_ready() {
            self.silence.as_mut().reset(Instant::now() + self.silence_max);
            return outcome;
        }
        match self.silence.as_mut().poll(context) {
            Poll::Ready(()) => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let outcome = Pin::new(&mut self.stream).poll_read(context, buffer);
        self.watched(context, outcome)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.watched(context, outcome)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads one byte without a buffer of tokio's.
    async fn read_byte(connection: &mut Connection) -> io::Result<usize> {
        let mut byte = [0u8; 1];
        let mut buffer = ReadBuf::new(&mut byte);
        std::future::poll_fn(|context| Pin::new(&mut *connection).poll_read(context, &mut buffer)).await?;
        Ok(buffer.filled().len())
    }

    async fn bounded(connections_max: usize, silence_max: Duration) -> (BoundedListener, SocketAddr) {
        let inner = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = inner.local_addr().unwrap();
        (BoundedListener::with(inner, connections_max, silence_max), address)
    }

    fn run(test: impl Future<Output = ()>) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async { tokio::time::timeout(Duration::from_secs(20), test).await }).expect("bounded in time");
    }

    #[test]
    fn the_next_waits_until_one_is_gone() {
        run(async {
            let (mut listener, address) = bounded(1, Duration::from_secs(60)).await;
            let _clients = [TcpStream::connect(address).await.unwrap(), TcpStream::connect(address).await.unwrap()];
            let (first, _) = listener.accept().await;
            let second = tokio::time::timeout(Duration::from_millis(100), listener.accept()).await;
            assert!(second.is_err(), "there is room for one");
            drop(first);
            listener.accept().await;
        });
    }

    #[test]
    fn silence_ends_a_connection_and_bytes_keep_it() {
        run(async {
            let (mut listener, address) = bounded(1, Duration::from_millis(400)).await;
            let client = TcpStream::connect(address).await.unwrap();
            let (mut connection, _) = listener.accept().await;
            let began = Instant::now();
            for _ in 0..4 {
                tokio::time::sleep(Duration::from_millis(150)).await;
                client.try_write(b"x").unwrap();
                assert_eq!(read_byte(&mut connection).await.unwrap(), 1);
            }
            assert!(began.elapsed() > Duration::from_millis(400));
            let error = read_byte(&mut connection).await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        });
    }
}
