//! Waiting without an async runtime: for an append's answer, and for new records.
//!
//! Both are plain futures: any executor can poll them, and a thread can block on them.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};

use crate::error::{Error, Result};
use crate::io::sync::Mutex;
use crate::io::sync::atomic::{AtomicBool, Ordering};
use crate::io::sync::thread::{self, Thread};
use crate::types::Offset;

/// The answer to an append.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Appended {
    /// The first offset of each part, in the request's order; for a repetition, in the order of the first request.
    pub base_offsets: Vec<Offset>,
    /// Set if the request is a repetition, so that nothing was appended: the note of the first request with the key
    /// ([`Once::note`](crate::Once::note)), or no bytes for a producer's batch.
    pub repeated: Option<Vec<u8>>,
}

enum Slot {
    Waiting(Option<Waker>),
    Answered(Result<Appended>),
    Taken,
}

/// Waits for the answer to an append: as a future, or by [`Ticket::wait`].
///
/// Dropping it does not cancel the append.
#[must_use = "an append is not known to be stored before its ticket is answered"]
pub struct Ticket {
    slot: Arc<Mutex<Slot>>,
}

impl Ticket {
    /// Blocks until the answer is there.
    ///
    /// # Errors
    /// The append's error.
    pub fn wait(self) -> Result<Appended> {
        block_on(self)
    }
}

impl Future for Ticket {
    type Output = Result<Appended>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let mut slot = self.slot.lock();
        match std::mem::replace(&mut *slot, Slot::Taken) {
            Slot::Answered(answer) => Poll::Ready(answer),
            Slot::Waiting(earlier) => {
                let waker = match earlier {
                    Some(waker) if waker.will_wake(context.waker()) => waker,
                    _ => context.waker().clone(),
                };
                *slot = Slot::Waiting(Some(waker));
                Poll::Pending
            }
            Slot::Taken => panic!("a ticket was polled after its answer"),
        }
    }
}

/// The committer's side of a [`Ticket`]. If it is dropped without an answer, it answers [`Error::Closed`].
pub(crate) struct Answer {
    slot: Option<Arc<Mutex<Slot>>>,
}

/// A ticket and the side that answers it.
pub(crate) fn ticket() -> (Ticket, Answer) {
    let slot = Arc::new(Mutex::new(Slot::Waiting(None)));
    (
        Ticket {
            slot: Arc::clone(&slot),
        },
        Answer { slot: Some(slot) },
    )
}

impl Answer {
    /// Gives the answer and returns the waker: the caller wakes all of a round together, outside of its locks.
    pub(crate) fn give(mut self, answer: Result<Appended>) -> Option<Waker> {
        self.put(answer)
    }

    fn put(&mut self, answer: Result<Appended>) -> Option<Waker> {
        let slot = self.slot.take()?;
        match std::mem::replace(&mut *slot.lock(), Slot::Answered(answer)) {
            Slot::Waiting(waker) => waker,
            Slot::Answered(_) | Slot::Taken => None,
        }
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        if let Some(waker) = self.put(Err(Error::Closed)) {
            waker.wake();
        }
    }
}

/// The wakers of all who wait for records of one partition.
#[derive(Default)]
pub(crate) struct Waiters {
    /// Whether `list` has any waker. The committer reads it in every round, so it reads it without the lock.
    any: AtomicBool,
    list: Mutex<WaiterList>,
}

#[derive(Default)]
struct WaiterList {
    next_id: u64,
    /// By id, so that thousands that wait for one partition come and go cheaply, and are woken in order of arrival.
    wakers: BTreeMap<u64, Waker>,
}

impl Waiters {
    /// Registers a waker, or replaces the one that was registered as `id`; returns its id.
    pub(crate) fn register(&self, id: Option<u64>, waker: &Waker) -> u64 {
        let mut list = self.list.lock();
        if let Some(id) = id
            && let Some(slot) = list.wakers.get_mut(&id)
        {
            slot.clone_from(waker);
            return id;
        }
        list.next_id += 1;
        let id = list.next_id;
        list.wakers.insert(id, waker.clone());
        self.any.store(true, Ordering::SeqCst);
        id
    }

    /// Forgets a waker.
    pub(crate) fn forget(&self, id: u64) {
        let mut list = self.list.lock();
        list.wakers.remove(&id);
        self.any.store(!list.wakers.is_empty(), Ordering::SeqCst);
    }

    /// Wakes all and forgets them. Called after the new `end_offset` was set under a lock. A waiter takes that lock to
    /// look again after it has registered: this lock, and not `any` alone, makes sure that nobody is missed.
    pub(crate) fn wake_all(&self) {
        if self.any.load(Ordering::SeqCst) {
            self.wake_listed();
        }
    }

    /// Wakes all and forgets them, after a flag that they look at was set without a lock. A waiter takes the list's
    /// lock to register before it looks: either it is woken here, or it registers later and sees the flag. (Without the
    /// list's lock, `any` could be read before other threads see the flag, and a waiter would wait for ever.)
    pub(crate) fn wake_for_good(&self) {
        self.wake_listed();
    }

    fn wake_listed(&self) {
        let wakers = {
            let mut list = self.list.lock();
            self.any.store(false, Ordering::SeqCst);
            std::mem::take(&mut list.wakers)
        };
        for waker in wakers.into_values() {
            waker.wake();
        }
    }
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// Runs a future to its end on this thread.
pub(crate) fn block_on<T>(future: impl Future<Output = T>) -> T {
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut context = Context::from_waker(&waker);
    let mut future = pin!(future);
    loop {
        if let Poll::Ready(value) = future.as_mut().poll(&mut context) {
            return value;
        }
        thread::park();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ticket_whose_answer_is_dropped_says_closed() {
        let (ticket, answer) = ticket();
        drop(answer);
        assert!(matches!(ticket.wait(), Err(Error::Closed)));
    }

    #[test]
    fn a_blocked_thread_gets_the_answer_of_another() {
        let (ticket, answer) = ticket();
        let thread = std::thread::spawn(move || {
            let appended = Appended {
                base_offsets: vec![Offset::new(7)],
                repeated: None,
            };
            if let Some(waker) = answer.give(Ok(appended)) {
                waker.wake();
            }
        });
        assert_eq!(ticket.wait().unwrap().base_offsets, [Offset::new(7)]);
        thread.join().unwrap();
    }

    #[test]
    fn a_waiter_that_gives_up_is_forgotten() {
        let waiters = Waiters::default();
        let id = waiters.register(None, Waker::noop());
        assert_eq!(waiters.register(Some(id), Waker::noop()), id);
        assert_eq!(waiters.list.lock().wakers.len(), 1);
        waiters.forget(id);
        assert!(waiters.list.lock().wakers.is_empty());
        assert!(!waiters.any.load(Ordering::SeqCst));
    }
}
