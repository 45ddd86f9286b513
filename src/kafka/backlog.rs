//! What the server holds for one client: the answers that it has not read, and the memory that they and their requests
//! take.
//!
//! A request is handled only while the answers before it take at most [`SMALL_ANSWER_BYTES`]. So a client that does not
//! read costs little, and at most one large answer, which has a share of the memory for answers
//! ([`Kafka::answers`](super::Inner::answers)).

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use tokio::sync::{Notify, OwnedSemaphorePermit};

/// An answer up to this size has no share of the memory, in bytes.
pub(crate) const SMALL_ANSWER_BYTES: usize = 16 << 10;

/// What is held for one client.
#[derive(Debug, Default)]
pub(crate) struct Backlog {
    /// The bytes of rendered answers that are not sent yet.
    unread: AtomicUsize,
    /// The bytes of the shares that requests hold.
    of_requests: AtomicUsize,
    /// The bytes of the shares that answers hold.
    of_answers: AtomicUsize,
    /// Notified when an answer is sent.
    sent: Notify,
}

impl Backlog {
    /// Waits until the next request may be handled.
    pub(crate) async fn wait(&self) {
        loop {
            let sent = self.sent.notified();
            if self.unread.load(Relaxed) <= SMALL_ANSWER_BYTES {
                return;
            }
            sent.await;
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

    /// Holds a request's share until the result is dropped.
    pub(crate) fn hold_request(self: &Arc<Self>, share: Option<OwnedSemaphorePermit>) -> Held {
        Held::new(self, share, |backlog| &backlog.of_requests)
    }

    /// Holds an answer's share until the result is dropped.
    pub(crate) fn hold_answer(self: &Arc<Self>, share: Option<OwnedSemaphorePermit>) -> Held {
        Held::new(self, share, |backlog| &backlog.of_answers)
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

/// A share of memory that a [`Backlog`] counts.
pub(crate) struct Held {
    backlog: Arc<Backlog>,
    share: Option<OwnedSemaphorePermit>,
    counter: fn(&Backlog) -> &AtomicUsize,
}

impl Held {
    fn new(
        backlog: &Arc<Backlog>,
        share: Option<OwnedSemaphorePermit>,
        counter: fn(&Backlog) -> &AtomicUsize,
    ) -> Self {
        let held = Self {
            backlog: Arc::clone(backlog),
            share,
            counter,
        };
        counter(backlog).fetch_add(held.bytes(), Relaxed);
        held
    }

    fn bytes(&self) -> usize {
        let permits = self.share.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
        permits * 1024
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        (self.counter)(&self.backlog).fetch_sub(self.bytes(), Relaxed);
    }
}

/// An answer that is not sent yet.
pub(crate) struct Unread {
    backlog: Arc<Backlog>,
    bytes: usize,
}

impl Drop for Unread {
    fn drop(&mut self) {
        self.backlog.unread.fetch_sub(self.bytes, Relaxed);
        self.backlog.sent.notify_waiters();
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
}
