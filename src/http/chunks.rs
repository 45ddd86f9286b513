//! Response bodies that an async function writes, one chunk at a time, as the client reads.
//!
//! The function is part of the body and runs only when the connection asks for more. A slow reader therefore holds one
//! chunk and the connection's buffer, and a client that disconnects stops the function: there is no task and no queue.
//! A function, unlike a hand-written state machine, can keep iterators over its own data between chunks.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use axum::body::Body;
use bytes::Bytes;
use http_body::{Frame, SizeHint};
use parking_lot::Mutex;

/// Bytes rendered before they are passed to the connection: large enough that a chunk costs little, small enough for
/// thousands of slow readers. A body that fits in one chunk is sent with its length.
pub(crate) const CHUNK_BYTES: usize = 64 << 10;

/// The buffer size of a chunk for this many stored bytes: text takes up to twice as much, and the last record may
/// exceed it.
pub(crate) fn chunk_capacity(stored_bytes: u64) -> usize {
    let expected = usize::try_from(stored_bytes * 2 + 512).unwrap_or(CHUNK_BYTES);
    expected.min(CHUNK_BYTES + CHUNK_BYTES / 16)
}

/// The result of polling a body.
pub(crate) type PolledFrame<E> = Poll<Option<Result<Frame<Bytes>, E>>>;

/// The writer's end for chunks.
pub(crate) struct Chunks {
    slot: Arc<Slot>,
}

/// Holds at most one chunk, from the writer to the body, within one poll.
type Slot = Mutex<Option<Bytes>>;

impl Chunks {
    /// For tests of unsent chunks.
    #[cfg(test)]
    pub(crate) fn to_nowhere() -> Self {
        Self { slot: Arc::default() }
    }

    /// Hands a chunk to the client; returns when the connection wants more.
    pub(crate) async fn send(&mut self, chunk: Bytes) {
        *self.slot.lock() = Some(chunk);
        // No waker is kept: the body takes the chunk in this very poll and polls again when it wants more.
        let is_taken = |_: &mut Context<'_>| match *self.slot.lock() {
            Some(_) => Poll::Pending,
            None => Poll::Ready(()),
        };
        std::future::poll_fn(is_taken).await;
    }
}

/// The body that `write` writes: the chunks it sends, then the one it returns, which may be empty.
///
/// If `write` finishes before its first chunk, the body has a known length. The first chunk is written at once; the
/// others on demand. A later error breaks the connection off, so that no client takes a part for the whole.
///
/// # Errors
/// Those of `write` before its first chunk.
pub(crate) fn body<F, E>(write: impl FnOnce(Chunks) -> F) -> Result<Body, E>
where
    F: Future<Output = Result<Bytes, E>> + Send + 'static,
    E: std::error::Error + Send + Sync + 'static,
{
    let mut written = Written::begin(write);
    match written.first(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(Some(all)) => Ok(Body::from(all?)),
        Poll::Ready(None) | Poll::Pending => Ok(Body::new(written)),
    }
}

/// The same for a `write` that may wait before its first chunk: this function waits too, so an error before the first
/// chunk can still choose the status. An empty chunk begins the answer.
///
/// # Errors
/// Those of `write` before its first chunk.
pub(crate) async fn begun<F, E>(write: impl FnOnce(Chunks) -> F) -> Result<Body, E>
where
    F: Future<Output = Result<Bytes, E>> + Send + 'static,
    E: std::error::Error + Send + Sync + 'static,
{
    let mut written = Written::begin(write);
    match std::future::poll_fn(|context| written.first(context)).await {
        Some(all) => Ok(Body::from(all?)),
        None => Ok(Body::new(written)),
    }
}

struct Written<F> {
    /// `None` once it has returned.
    writer: Option<Pin<Box<F>>>,
    slot: Arc<Slot>,
}

impl<F: Future<Output = Result<Bytes, E>>, E> Written<F> {
    fn begin(write: impl FnOnce(Chunks) -> F) -> Self {
        let slot = Arc::<Slot>::default();
        let writer = Box::pin(write(Chunks { slot: slot.clone() }));
        Self {
            writer: Some(writer),
            slot,
        }
    }

    /// Polls the writer until it has returned, which gives its result, or has a first chunk.
    fn first(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Bytes, E>>> {
        match self.writer.as_mut().map(|writer| writer.as_mut().poll(context)) {
            Some(Poll::Ready(all)) => Poll::Ready(Some(all)),
            Some(Poll::Pending) if self.slot.lock().is_none() => Poll::Pending,
            Some(Poll::Pending) | None => Poll::Ready(None),
        }
    }
}

impl<F: Future<Output = Result<Bytes, E>>, E> http_body::Body for Written<F> {
    type Data = Bytes;
    type Error = E;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> PolledFrame<E> {
        // The first poll of the writer may have left a chunk here.
        if let Some(chunk) = self.slot.lock().take() {
            return Poll::Ready(Some(Ok(Frame::data(chunk))));
        }
        let Some(writer) = &mut self.writer else {
            return Poll::Ready(None);
        };
        match writer.as_mut().poll(context) {
            Poll::Ready(last) => {
                self.writer = None;
                let last = last.map(|last| (!last.is_empty()).then_some(last)).transpose();
                Poll::Ready(last.map(|last| last.map(Frame::data)))
            }
            Poll::Pending => match self.slot.lock().take() {
                Some(chunk) => Poll::Ready(Some(Ok(Frame::data(chunk)))),
                None => Poll::Pending,
            },
        }
    }

    fn is_end_stream(&self) -> bool {
        self.writer.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::default()
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::sync::atomic::{AtomicU32, Ordering};

    use http_body::Body as _;
    use http_body_util::BodyExt;

    use super::*;

    #[tokio::test]
    async fn a_body_written_at_once_has_a_length() {
        let body = body(|_| async { Ok::<_, Infallible>(Bytes::from_static(b"all of it")) }).unwrap();
        assert_eq!(body.size_hint().exact(), Some(9));
        assert_eq!(body.collect().await.unwrap().to_bytes(), "all of it");
    }

    #[tokio::test]
    async fn chunks_are_written_only_as_they_are_read() {
        let written = Arc::new(AtomicU32::new(0));
        let count = Arc::clone(&written);
        let mut body = body(|mut chunks| async move {
            for _ in 0..3 {
                count.fetch_add(1, Ordering::Relaxed);
                chunks.send(Bytes::from_static(b"chunk")).await;
            }
            Ok::<_, Infallible>(Bytes::from_static(b"rest"))
        })
        .unwrap();
        assert_eq!(body.size_hint().exact(), None);
        for expected in 1..=3 {
            let frame = body.frame().await.unwrap().unwrap();
            assert_eq!(frame.into_data().unwrap(), "chunk");
            assert_eq!(written.load(Ordering::Relaxed), expected);
        }
        assert_eq!(body.collect().await.unwrap().to_bytes(), "rest");
    }

    #[tokio::test]
    async fn a_writer_may_wait_between_chunks() {
        let body = body(|mut chunks| async move {
            for _ in 0..3 {
                tokio::task::yield_now().await;
                chunks.send(Bytes::from_static(b"x")).await;
            }
            Ok::<_, Infallible>(Bytes::new())
        })
        .unwrap();
        assert_eq!(body.collect().await.unwrap().to_bytes(), "xxx");
    }

    #[tokio::test]
    async fn a_body_begins_with_its_first_chunk_however_long_that_takes() {
        let begun = begun(|mut chunks| async move {
            tokio::task::yield_now().await;
            chunks.send(Bytes::from_static(b"x")).await;
            tokio::task::yield_now().await;
            Ok::<_, Infallible>(Bytes::from_static(b"y"))
        });
        let body = begun.await.unwrap();
        assert_eq!(body.size_hint().exact(), None);
        assert_eq!(body.collect().await.unwrap().to_bytes(), "xy");
        let late = super::begun(|_| async {
            tokio::task::yield_now().await;
            Err::<Bytes, _>(std::io::Error::other("damaged"))
        });
        assert!(late.await.is_err());
    }

    #[tokio::test]
    async fn an_error_is_an_answer_before_the_first_chunk_and_a_broken_body_after_it() {
        let failed = || std::io::Error::other("damaged");
        assert!(body(|_| async move { Err::<Bytes, _>(failed()) }).is_err());
        let body = body(|mut chunks| async move {
            chunks.send(Bytes::from_static(b"x")).await;
            Err::<Bytes, _>(failed())
        })
        .unwrap();
        assert!(body.collect().await.is_err());
    }
}
