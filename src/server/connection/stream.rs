//! The socket of a connection: notes received and sent bytes, and lingers if it closes with unread bytes.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

use super::{ANSWERING, Connection, HEAD, IDLE, LINGER};
use crate::server::socket::Socket;

/// The socket: notes received and sent bytes, and lingers if it closes with unread bytes.
pub(super) struct Stream {
    pub(super) stream: Socket,
    pub(super) connection: Arc<Connection>,
    pub(super) linger: Option<Pin<Box<Sleep>>>,
    pub(super) is_shut: bool,
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buffer))?;
        let connection = &self.connection;
        if let Some(first) = buffer.filled().get(before) {
            connection.first_byte.get_or_init(|| *first);
        }
        if buffer.filled().len() > before && connection.phase.load(Relaxed) == IDLE {
            connection.phase.store(HEAD, Relaxed);
            connection.progress.fetch_add(1, Relaxed);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, buffer);
        self.connection.note_write(&written);
        written
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffers: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, buffers);
        self.connection.note_write(&written);
        written
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(cx);
        // TLS has a buffer of its own, whose last bytes only a flush sends. A plain stream is always flushed.
        if let Socket::Tls(_) = self.stream {
            self.connection.note_write(&flushed);
        }
        flushed
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if !this.is_shut {
            ready!(Pin::new(&mut this.stream).poll_shutdown(cx))?;
            this.is_shut = true;
        }
        if !this.connection.is_unread.load(Relaxed) {
            return Poll::Ready(Ok(()));
        }
        // Nothing else watches the connection from here on.
        this.connection.phase.store(ANSWERING, Relaxed);
        let sleep = || Box::pin(tokio::time::sleep(LINGER));
        let linger = this.linger.get_or_insert_with(sleep);
        if linger.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Ok(()));
        }
        let mut sink = [0; 16 << 10];
        loop {
            let mut buffer = ReadBuf::new(&mut sink);
            match ready!(Pin::new(&mut this.stream).poll_read(cx, &mut buffer)) {
                Ok(()) if !buffer.filled().is_empty() => {}
                _ => return Poll::Ready(Ok(())),
            }
        }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        if self.connection.is_blocked.load(Relaxed) {
            // The client reads nothing: the kernel need not keep sending the rest.
            let _ = self.stream.tcp().set_zero_linger();
        }
    }
}
