//! The memory for requests that arrive, whatever the wire, and which request gives way when it runs out.
//!
//! - [`Budget`]: a request's share of `max_in_flight_bytes`. If other requests hold all of it, a request waits a
//!   little, and is then refused as overloaded, before any of it is in memory.
//! - [`Pace`]: a slow body that holds memory is refused only if other requests wait for that memory, so clients that
//!   announce or begin much and send nothing keep no one out. Time during which the server does not wait for the client
//!   does not count, and each byte received extends the time.
//! - A request that holds memory and waits for more gives way to other waiting requests after the same time. Otherwise
//!   such requests would wait for each other, and all later ones would wait in vain.
//! - Where a request cannot be refused without its connection being closed (Kafka's protocol), it waits for as long as it
//!   takes ([`Budget::unhurried`]): its client is slowed. It still gives way if it holds memory that others wait for.
//! - A producer's long answer keeps its request's share. The server closes clients that read nothing of such an answer
//!   ([`Pool::set_relief`]), again only if other requests wait.

use std::pin::pin;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::{Instant, sleep_until, timeout_at};

use super::refusal::{Reason, Refusal};

/// Above this the budget grows in steps of this size, so that not every chunk of a large body takes the lock.
const STEP_BYTES: usize = 64 << 10;
/// How long a request waits for its share before it is refused.
const WAIT: Duration = Duration::from_secs(5);
/// The same for a request that is not refused for waiting.
const UNHURRIED: Duration = Duration::from_secs(366 * 86_400);
/// How often waiting requests check which clients to close.
const RELIEF_INTERVAL: Duration = Duration::from_millis(250);
/// A body this small never gives way: the budget has as much for every connection.
const SMALL_BYTES: usize = 4 << 10;
/// How long other requests wait for one that holds memory and makes no progress. Several such may come one after
/// another, so it is a small part of [`WAIT`].
const PATIENCE: Duration = Duration::from_secs(1);
/// Bytes that extend a body's time by a second.
const BYTES_A_SECOND: u32 = 64 << 10;

/// The memory for all request bodies.
pub struct Pool {
    /// A permit is a KiB.
    semaphore: Arc<Semaphore>,
    permits: usize,
    /// How many requests wait.
    waiting: watch::Sender<usize>,
    /// Closes clients that read nothing of an answer that holds a share; set by the server.
    relief: OnceLock<Box<dyn Fn() + Send + Sync>>,
}

impl Pool {
    /// A pool of so many bytes.
    #[must_use]
    pub fn new(bytes: u64) -> Self {
        let permits = usize::try_from(bytes / 1024)
            .unwrap_or(usize::MAX)
            .min(Semaphore::MAX_PERMITS);
        Self {
            semaphore: Arc::new(Semaphore::new(permits)),
            permits,
            waiting: watch::Sender::new(0),
            relief: OnceLock::new(),
        }
    }

    /// Sets a function that is called regularly while requests wait.
    pub fn set_relief(&self, relief: impl Fn() + Send + Sync + 'static) {
        let _ = self.relief.set(Box::new(relief));
    }

    /// Bytes in use.
    pub fn held_bytes(&self) -> u64 {
        let held = self.permits.saturating_sub(self.semaphore.available_permits());
        held as u64 * 1024
    }
}

/// A request's share of a [`Pool`], returned when dropped.
pub struct Budget<'a> {
    /// A request that needs more than the pool holds takes all of it.
    pool: &'a Pool,
    permit: Option<OwnedSemaphorePermit>,
    wait: Duration,
}

impl<'a> Budget<'a> {
    /// A share of nothing.
    #[must_use]
    pub fn new(pool: &'a Pool) -> Self {
        Self {
            pool,
            permit: None,
            wait: WAIT,
        }
    }

    /// A share of nothing, which waits for more without a limit.
    #[must_use]
    pub fn unhurried(pool: &'a Pool) -> Self {
        Self {
            wait: UNHURRIED,
            ..Self::new(pool)
        }
    }

    /// An unhurried share that covers what `permit` does.
    #[must_use]
    pub fn holding(pool: &'a Pool, permit: Option<OwnedSemaphorePermit>) -> Self {
        Self {
            permit,
            ..Self::unhurried(pool)
        }
    }

    /// Makes the share cover `bytes`, if that needs no wait; returns whether it covers them.
    pub fn try_cover(&mut self, bytes: usize) -> bool {
        let more = self.missing(bytes);
        if more > 0 {
            let Ok(permit) = self.pool.semaphore.clone().try_acquire_many_owned(more) else {
                return false;
            };
            self.add(permit);
        }
        true
    }

    /// Makes the share cover `bytes`; waits for a while if other bodies hold the rest.
    ///
    /// # Errors
    /// [`Reason::Overloaded`] if the wait ended without success.
    pub async fn cover(&mut self, bytes: usize) -> Result<(), Refusal> {
        self.cover_beside(0, bytes).await
    }

    /// The same for a request that holds `held_bytes` of the server's memory besides.
    ///
    /// # Errors
    /// [`Reason::Overloaded`] if the wait ended without success, or others wait for the memory that the request holds.
    pub async fn cover_beside(&mut self, held_bytes: usize, bytes: usize) -> Result<(), Refusal> {
        if self.try_cover(bytes) {
            return Ok(());
        }
        let more = self.missing(bytes);
        let held_bytes = held_bytes + self.covered();
        let begin = Instant::now();
        let _waiting = Waiting::begin(&self.pool.waiting);
        let acquired = self.pool.semaphore.clone().acquire_many_owned(more);
        let waited = relieved(self.wait, acquired, || {
            if let Some(relief) = self.pool.relief.get() {
                relief();
            }
        });
        let acquired = tokio::select! {
            biased;
            acquired = waited => acquired,
            // This request is one of the waiting ones.
            () = in_the_way(&self.pool.waiting, 1, || held_bytes, begin + PATIENCE) => None,
        };
        let Some(Ok(permit)) = acquired else {
            return Err(overloaded(
                "too many request bodies are in flight already; try again",
            ));
        };
        self.add(permit);
        Ok(())
    }

    /// The permits missing to cover `bytes`.
    fn missing(&self, bytes: usize) -> u32 {
        // Small bodies take exactly their size.
        let step = if bytes > STEP_BYTES { STEP_BYTES } else { 1 };
        let bytes = bytes.next_multiple_of(step);
        let wanted = bytes.div_ceil(1024).min(self.pool.permits);
        let held = self.covered() / 1024;
        u32::try_from(wanted.saturating_sub(held)).unwrap_or(u32::MAX)
    }

    fn add(&mut self, permit: OwnedSemaphorePermit) {
        match &mut self.permit {
            Some(held) => held.merge(permit),
            None => self.permit = Some(permit),
        }
    }

    /// The bytes covered.
    pub fn covered(&self) -> usize {
        let permits = self.permit.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
        permits * 1024
    }

    /// Gives back what covers more than `bytes`.
    pub fn shrink(&mut self, bytes: usize) {
        let needed = bytes.div_ceil(1024);
        if let Some(permit) = &mut self.permit {
            drop(permit.split(permit.num_permits().saturating_sub(needed)));
        }
    }

    /// Passes the share on, and covers nothing any more.
    pub fn take(&mut self) -> Option<OwnedSemaphorePermit> {
        self.permit.take()
    }
}

/// Waits for at most `wait`, and regularly closes clients that may end the wait. `None`: it timed out.
pub async fn relieved<T>(wait: Duration, awaited: impl Future<Output = T>, relief: impl Fn()) -> Option<T> {
    let mut awaited = pin!(awaited);
    let end = Instant::now() + wait;
    loop {
        relief();
        let next = end.min(Instant::now() + RELIEF_INTERVAL);
        if let Ok(result) = timeout_at(next, awaited.as_mut()).await {
            return Some(result);
        }
        if next == end {
            return None;
        }
    }
}

/// A waiting request; dropping it ends the wait.
struct Waiting<'a>(&'a watch::Sender<usize>);

impl<'a> Waiting<'a> {
    fn begin(waiting: &'a watch::Sender<usize>) -> Self {
        waiting.send_modify(|count| *count += 1);
        Self(waiting)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count -= 1);
    }
}

/// The progress of a body.
pub struct Pace<'a> {
    waiting: &'a watch::Sender<usize>,
    /// How much longer to wait for the client while others wait for the body's memory.
    patience: Duration,
}

impl<'a> Pace<'a> {
    /// The progress of a body that begins.
    #[must_use]
    pub fn new(pool: &'a Pool) -> Self {
        Self {
            waiting: &pool.waiting,
            patience: PATIENCE,
        }
    }

    /// Waits for the client's next data, for a body that holds `held_bytes` of the budget.
    ///
    /// # Errors
    /// [`Reason::Overloaded`] if other requests wait for the budget and the client's time is over.
    pub async fn wait<T>(
        &mut self,
        held_bytes: usize,
        arrival: impl Future<Output = T>,
    ) -> Result<T, Refusal> {
        // Never in the way.
        if held_bytes <= SMALL_BYTES {
            return Ok(arrival.await);
        }
        self.wait_holding(|| held_bytes, arrival).await
    }

    /// The same if what is held may change meanwhile.
    ///
    /// # Errors
    /// As for [`Pace::wait`].
    pub async fn wait_holding<T>(
        &mut self,
        held_bytes: impl Fn() -> usize,
        arrival: impl Future<Output = T>,
    ) -> Result<T, Refusal> {
        let begin = Instant::now();
        let arrived = tokio::select! {
            biased;
            arrived = arrival => arrived,
            () = in_the_way(self.waiting, 0, held_bytes, begin + self.patience) => {
                let detail = "the body comes too slowly while others wait for the memory that it holds; try again";
                return Err(overloaded(detail));
            }
        };
        self.patience = self.patience.saturating_sub(begin.elapsed());
        Ok(arrived)
    }

    /// Counts received bytes.
    pub fn count(&mut self, bytes: usize) {
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        let bought = Duration::from_secs(1).saturating_mul(bytes) / BYTES_A_SECOND;
        self.patience = self.patience.saturating_add(bought).min(PATIENCE);
    }
}

/// Returns when more than `own` requests wait for the budget at `from` or later, if this one's memory would help them.
async fn in_the_way(
    waiting: &watch::Sender<usize>,
    own: usize,
    held_bytes: impl Fn() -> usize,
    mut from: Instant,
) {
    let mut count = waiting.subscribe();
    loop {
        // The sender lives as long as the service.
        if count.wait_for(|count| *count > own).await.is_err() {
            return std::future::pending().await;
        }
        if Instant::now() < from {
            sleep_until(from).await;
            continue;
        }
        if held_bytes() > SMALL_BYTES {
            return;
        }
        from = Instant::now() + PATIENCE;
    }
}

#[cold]
fn overloaded(detail: &str) -> Refusal {
    Refusal::new(Reason::Overloaded, detail)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A pool of this many KiB.
    fn pool(kib: u64) -> Pool {
        Pool::new(kib << 10)
    }

    fn budget(pool: &Pool, wait: Duration) -> Budget<'_> {
        Budget {
            wait,
            ..Budget::new(pool)
        }
    }

    /// A request that holds this many bytes.
    async fn holding(pool: &Pool, bytes: usize) -> Budget<'_> {
        let mut holder = budget(pool, WAIT);
        holder.cover(bytes).await.unwrap();
        holder
    }

    const HOUR: Duration = Duration::from_secs(3600);

    #[tokio::test]
    async fn the_budget_is_returned_however_the_request_ends() {
        let pool = pool(200);
        let mut first = budget(&pool, Duration::ZERO);
        first.cover(1).await.unwrap();
        assert_eq!(pool.semaphore.available_permits(), 199);
        first.cover(1024).await.unwrap();
        assert_eq!(pool.semaphore.available_permits(), 199);
        first.cover(100 << 10).await.unwrap();
        assert_eq!(pool.semaphore.available_permits(), 72, "128 KiB, in steps of 64");
        let mut second = budget(&pool, Duration::ZERO);
        second.cover(60 << 10).await.unwrap();
        let problem = second.cover(100 << 10).await.unwrap_err();
        assert_eq!(problem.reason, Reason::Overloaded);
        drop(first.take());
        second.cover(100 << 10).await.unwrap();
        drop((first, second));
        assert_eq!(pool.semaphore.available_permits(), 200);
        assert_eq!(*pool.waiting.borrow(), 0);
    }

    #[tokio::test]
    async fn a_body_larger_than_the_whole_budget_takes_all_of_it() {
        let pool = pool(10);
        let _all = holding(&pool, 1 << 30).await;
        assert_eq!(pool.semaphore.available_permits(), 0);
    }

    #[tokio::test]
    async fn a_body_waits_for_the_budget_that_another_gives_back() {
        let pool = pool(10);
        let first = holding(&pool, 10 << 10).await;
        let mut second = budget(&pool, HOUR);
        let (covered, ()) = tokio::join!(second.cover(5 << 10), async {
            tokio::task::yield_now().await;
            drop(first);
        });
        covered.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_body_gives_way_only_to_waiting_requests() {
        let pool = pool(100);
        let slow = holding(&pool, 100 << 10).await;
        let mut pace = Pace::new(&pool);
        // Nobody waits: it may take an hour for a byte.
        pace.wait(slow.covered(), tokio::time::sleep(HOUR)).await.unwrap();
        pace.count(1);
        let mut other = budget(&pool, WAIT);
        let slow = async move {
            let result = pace.wait(slow.covered(), tokio::time::sleep(HOUR)).await;
            drop(slow);
            result
        };
        let (evicted, covered) = tokio::join!(slow, other.cover(50 << 10));
        assert_eq!(evicted.unwrap_err().reason, Reason::Overloaded);
        covered.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn one_of_two_requests_that_wait_for_each_others_memory_gives_way() {
        let pool = pool(100);
        let holders = [holding(&pool, 50 << 10).await, holding(&pool, 50 << 10).await];
        let mut waits_with_nothing = budget(&pool, WAIT);
        let [first, second] = holders.map(|mut holder| async move { holder.cover(60 << 10).await });
        let (first, second, other) = tokio::join!(first, second, waits_with_nothing.cover(100 << 10));
        other.unwrap();
        // If one request gives way, the other can continue.
        assert!(first.is_err() != second.is_err(), "{first:?} {second:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_that_waits_alone_never_gives_way() {
        let pool = pool(100);
        let mut last = holding(&pool, 50 << 10).await;
        let first = holding(&pool, 50 << 10).await;
        let (covered, ()) = tokio::join!(last.cover(60 << 10), async {
            tokio::time::sleep(WAIT - Duration::from_millis(1)).await;
            drop(first);
        });
        covered.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_steady_or_tiny_body_never_gives_way() {
        let pool = pool(100);
        pool.waiting.send_replace(1);
        let mut pace = Pace::new(&pool);
        for _ in 0..100 {
            let arrival = tokio::time::sleep(PATIENCE / 2);
            pace.wait(99 << 10, arrival).await.unwrap();
            pace.count(BYTES_A_SECOND as usize);
        }
        pace.wait(SMALL_BYTES, tokio::time::sleep(HOUR)).await.unwrap();
        // One byte per second does not extend the time enough.
        let mut pace = Pace::new(&pool);
        let mut seconds = 0;
        let second = || tokio::time::sleep(Duration::from_secs(1));
        while pace.wait(99 << 10, second()).await.is_ok() {
            pace.count(1);
            seconds += 1;
        }
        assert!(seconds <= 2, "{seconds} s");
    }
}
