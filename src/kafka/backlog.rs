//! What the server holds for one client: the answers that it has not read, and the memory that they and their requests
//! take.
//!
//! A request is handled only while the answers before it take at most [`SMALL_ANSWER_BYTES`]. So a client that does not
//! read costs little, and at most one large answer, which has a share of the memory for answers
//! ([`Kafka::answers`](super::Inner::answers)). The same holds for requests that got no share, because they are small and
//! there was none: while more than [`SMALL_BYTES`] of them wait for their answers, nothing more is handled.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use tokio::sync::{Notify, OwnedSemaphorePermit};

use crate::broker::budget::SMALL_BYTES;

/// An answer up to this size has no share of the memory, in bytes.
pub(crate) const SMALL_ANSWER_BYTES: usize = 16 << 10;

/// What is held for one client.
#[derive(Debug, Default)]
pub(crate) struct Backlog {
    /// The bytes of rendered answers that are not sent yet.
    unread: AtomicUsize,
    /// The bytes of the shares that requests hold.
    of_requests: AtomicUsize,
    /// The bytes of requests without a share.
    uncounted: AtomicUsize,
    /// The bytes of the shares that answers hold.
    of_answers: AtomicUsize,
    /// Notified when an answer is sent, or a request without a share is answered.
    progress: Notify,
}

impl Backlog {
    /// Waits until the next request may be handled.
    pub(crate) async fn wait(&self) {
        loop {
            let progress = self.progress.notified();
            let is_much = self.unread.load(Relaxed) > SMALL_ANSWER_BYTES;
            if !is_much && self.uncounted.load(Relaxed) <= SMALL_BYTES {
                return;
            }
            progress.await;
        }
    }

    /// The bytes of the shares that requests hold.
    pub(crate) fn of_requests(&self) -> usize {
        self.of_requests.load(Relaxed)
    }

    /// The bytes of the shares that answers hold.
    pub(crate) fn of_answers(&self) -> usize {
        self.of_answers.load(Relaxed)
    }

    /// Holds the share of a request of so many bytes until the result is dropped.
    pub(crate) fn hold_request(self: &Arc<Self>, share: Option<OwnedSemaphorePermit>, bytes: usize) -> Held {
        match bytes_of(share.as_ref()) {
            0 => Held::new(self, share, bytes, |backlog| &backlog.uncounted),
            covered => Held::new(self, share, covered, |backlog| &backlog.of_requests),
        }
    }

    /// Holds an answer's share until the result is dropped.
    pub(crate) fn hold_answer(self: &Arc<Self>, share: Option<OwnedSemaphorePermit>) -> Held {
        let bytes = bytes_of(share.as_ref());
        Held::new(self, share, bytes, |backlog| &backlog.of_answers)
    }

    /// Counts an answer of so many bytes, until the result is dropped.
    pub(crate) fn count(self: &Arc<Self>, bytes: usize) -> Unread {
        self.unread.fetch_add(bytes, Relaxed);
        Unread {
            backlog: Arc::clone(self),
            bytes,
        }
    }
}

/// Memory that a [`Backlog`] counts, with its share if it has one.
pub(crate) struct Held {
    backlog: Arc<Backlog>,
    _share: Option<OwnedSemaphorePermit>,
    bytes: usize,
    counter: fn(&Backlog) -> &AtomicUsize,
}

impl Held {
    fn new(
        backlog: &Arc<Backlog>,
        share: Option<OwnedSemaphorePermit>,
        bytes: usize,
        counter: fn(&Backlog) -> &AtomicUsize,
    ) -> Self {
        counter(backlog).fetch_add(bytes, Relaxed);
        Self {
            backlog: Arc::clone(backlog),
            _share: share,
            bytes,
            counter,
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        (self.counter)(&self.backlog).fetch_sub(self.bytes, Relaxed);
        self.backlog.progress.notify_waiters();
    }
}

fn bytes_of(share: Option<&OwnedSemaphorePermit>) -> usize {
    share.map_or(0, OwnedSemaphorePermit::num_permits) * 1024
}

/// An answer that is not sent yet.
pub(crate) struct Unread {
    backlog: Arc<Backlog>,
    bytes: usize,
}

impl Drop for Unread {
    fn drop(&mut self) {
        self.backlog.unread.fetch_sub(self.bytes, Relaxed);
        self.backlog.progress.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[tokio::test]
    async fn a_request_waits_while_much_is_unread_before_it() {
        let backlog = Arc::new(Backlog::default());
        let small = backlog.count(SMALL_ANSWER_BYTES);
        assert_eq!(backlog.wait().now_or_never(), Some(()));
        let more = backlog.count(1);
        let mut waiting = std::pin::pin!(backlog.wait());
        assert_eq!(waiting.as_mut().now_or_never(), None);
        drop(small);
        waiting.await;
        drop(more);
    }

    #[tokio::test]
    async fn a_request_waits_while_much_without_a_share_is_not_answered() {
        let backlog = Arc::new(Backlog::default());
        let small = backlog.hold_request(None, SMALL_BYTES);
        assert_eq!(backlog.wait().now_or_never(), Some(()));
        let more = backlog.hold_request(None, 1);
        let mut waiting = std::pin::pin!(backlog.wait());
        assert_eq!(waiting.as_mut().now_or_never(), None);
        drop(small);
        waiting.await;
        drop(more);
        // Those with a share do not count.
        let pool = Arc::new(tokio::sync::Semaphore::new(1000));
        let share = pool.acquire_many_owned(1000).await.expect("it is open");
        let counted = backlog.hold_request(Some(share), 1_000_000);
        assert_eq!(backlog.of_requests(), 1000 << 10);
        assert_eq!(backlog.wait().now_or_never(), Some(()));
        drop(counted);
        assert_eq!(backlog.of_requests(), 0);
    }
}
