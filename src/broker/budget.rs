//! The memory for requests that arrive, whatever the wire, and which request gives way when it runs out.
//!
//! - [`Budget`]: a request's share of `max_in_flight_bytes`. If other requests hold all of it, a request waits a
//!   little, and is then refused as overloaded, before any of it is in memory.
//! - A request of at most [`SMALL_BYTES`] never waits: it is counted if there is room, and passes if there is none. A
//!   connection has buffers of that size in any case, and the number of connections has a bound. So whoever holds all of
//!   the memory stops no heartbeat, commit or small write.
//! - A body takes its memory when more than that has arrived ([`Budget::cover_arriving`]): all that it announces if that
//!   is at most a quarter of the pool, so that it never waits with a part of it; otherwise as its bytes come. However
//!   large it is, it leaves a quarter to others.
//! - [`Pace`]: a slow body that holds memory is refused only if other requests wait for that memory, so clients that
//!   announce or begin much and send nothing keep no one out. What a body holds must arrive within [`WHOLE_TIME`] while
//!   others wait: who holds much must send much. Time during which the server does not wait for the client does not
//!   count, and each byte received extends the time.
//! - Of the requests that hold memory and wait for more, the one that came last gives way to other waiting requests after
//!   a second, then the one before it, until one can go on. Otherwise such requests would wait for each other, and all
//!   later ones would wait in vain.
//! - Where a request cannot be refused without its connection being closed (Kafka's protocol), it waits for as long as it
//!   takes ([`Budget::unhurried`]): its client is slowed. It still gives way if it holds memory that others wait for.
//! - A producer's long answer keeps its request's share. The server closes clients that read nothing of such an answer
//!   ([`Pool::set_relief`]), again only if other requests wait.

use std::collections::BTreeSet;
use std::pin::pin;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::{Instant, sleep_until, timeout, timeout_at};

use super::refusal::{Reason, Refusal};

/// A request up to this size never waits for memory.
pub const SMALL_BYTES: usize = 32 << 10;
/// The most that a body which is announced takes at once, in a pool that is four times as large.
const MOST_AT_ONCE_BYTES: usize = 16 << 20;
/// Above this the budget grows in steps of this size, so that not every chunk of a large body takes the lock.
const STEP_BYTES: usize = 64 << 10;
/// How long a request waits for its share before it is refused.
const WAIT: Duration = Duration::from_secs(5);
/// The same for a request that is not refused for waiting.
const UNHURRIED: Duration = Duration::from_secs(366 * 86_400);
/// How often waiting requests check which clients to close.
const RELIEF_INTERVAL: Duration = Duration::from_millis(250);
/// A body this small never gives way: the budget has as much for every connection.
const TINY_BYTES: usize = 4 << 10;
/// How long other requests wait for one that holds memory and makes no progress. Several such may come one after
/// another, so it is a small part of [`WAIT`].
const PATIENCE: Duration = Duration::from_secs(1);
/// The least bytes that extend a body's time by a second.
const BYTES_A_SECOND: usize = 64 << 10;
/// In which time as much as a body holds must arrive while others wait for memory, if that is faster.
const WHOLE_TIME: Duration = Duration::from_secs(30);

/// The memory for all request bodies.
pub struct Pool {
    /// A permit is a KiB.
    semaphore: Arc<Semaphore>,
    permits: usize,
    /// The requests that wait.
    waiting: watch::Sender<Queue>,
    /// Closes clients that read nothing of an answer that holds a share; set by the server.
    relief: OnceLock<Box<dyn Fn() + Send + Sync>>,
}

/// The requests that wait for a share.
#[derive(Debug, Default)]
struct Queue {
    count: usize,
    /// The numbers of those that hold memory, in the order in which they have begun to wait.
    holding: BTreeSet<u64>,
    next_number: u64,
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
            waiting: watch::Sender::new(Queue::default()),
            relief: OnceLock::new(),
        }
    }

    /// Sets a function that is called regularly while requests wait.
    pub fn set_relief(&self, relief: impl Fn() + Send + Sync + 'static) {
        let _ = self.relief.set(Box::new(relief));
    }

    /// What a body that is announced takes at once, at most, in bytes.
    fn most_at_once(&self) -> usize {
        (self.permits / 4).saturating_mul(1024).min(MOST_AT_ONCE_BYTES)
    }

    /// What a body takes at most, in bytes.
    fn most_of_body(&self) -> usize {
        (self.permits - self.permits / 4).saturating_mul(1024)
    }

    /// All of its bytes.
    #[cfg(test)]
    pub(crate) fn bytes(&self) -> usize {
        self.permits.saturating_mul(1024)
    }

    /// Bytes in use.
    pub fn held_bytes(&self) -> u64 {
        let held = self.permits.saturating_sub(self.semaphore.available_permits());
        held as u64 * 1024
    }
}

/// A request's share of a [`Pool`], returned when dropped.
pub struct Budget<'a> {
    pool: &'a Pool,
    /// The most permits that it takes: whoever needs more takes all.
    most: usize,
    permit: Option<OwnedSemaphorePermit>,
    wait: Duration,
}

impl<'a> Budget<'a> {
    /// A share of nothing.
    #[must_use]
    pub fn new(pool: &'a Pool) -> Self {
        Self {
            pool,
            most: pool.permits,
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

    /// The same beside another share of the request, of so many bytes: without it, a request that needs all of the pool
    /// would wait for itself.
    #[must_use]
    pub fn beside(pool: &'a Pool, held_bytes: usize) -> Self {
        Self {
            most: pool.permits.saturating_sub(held_bytes.div_ceil(1024)),
            ..Self::unhurried(pool)
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

    /// Makes the share cover a body of which `arrived_bytes` are there or may come with the next read, for a request that
    /// holds `held_bytes` besides. `announced_bytes` are to come in all, if that is known, or else 0.
    ///
    /// # Errors
    /// As for [`Budget::cover_beside`].
    pub async fn cover_arriving(
        &mut self,
        held_bytes: usize,
        arrived_bytes: usize,
        announced_bytes: usize,
    ) -> Result<(), Refusal> {
        let is_at_once = arrived_bytes > SMALL_BYTES && announced_bytes <= self.pool.most_at_once();
        let bytes = match is_at_once {
            true => arrived_bytes.max(announced_bytes),
            false => arrived_bytes,
        };
        self.cover_beside(held_bytes, bytes.min(self.pool.most_of_body()))
            .await
    }

    /// As [`Budget::cover`], for a request that holds `held_bytes` of the server's memory besides.
    ///
    /// # Errors
    /// [`Reason::Overloaded`] if the wait ended without success, or others wait for the memory that the request holds.
    pub async fn cover_beside(&mut self, held_bytes: usize, bytes: usize) -> Result<(), Refusal> {
        if self.try_cover(bytes) || bytes <= SMALL_BYTES {
            return Ok(());
        }
        let more = self.missing(bytes);
        let waiting = Waiting::begin(&self.pool.waiting, held_bytes + self.covered());
        let acquired = self.pool.semaphore.clone().acquire_many_owned(more);
        let waited = relieved(self.wait, acquired, || {
            if let Some(relief) = self.pool.relief.get() {
                relief();
            }
        });
        let acquired = tokio::select! {
            biased;
            acquired = waited => acquired,
            () = waiting.gives_way() => None,
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
        let wanted = bytes.div_ceil(1024).min(self.most);
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
struct Waiting<'a> {
    queue: &'a watch::Sender<Queue>,
    number: u64,
}

impl<'a> Waiting<'a> {
    fn begin(queue: &'a watch::Sender<Queue>, held_bytes: usize) -> Self {
        let mut number = 0;
        queue.send_modify(|queue| {
            queue.count += 1;
            queue.next_number += 1;
            number = queue.next_number;
            if held_bytes > TINY_BYTES {
                queue.holding.insert(number);
            }
        });
        Self { queue, number }
    }

    /// Returns when it has been the last of those that hold memory for a while, and others wait.
    async fn gives_way(&self) {
        let is_next = |queue: &Queue| queue.count > 1 && queue.holding.last() == Some(&self.number);
        let mut queue = self.queue.subscribe();
        loop {
            // The sender lives as long as the service.
            if queue.wait_for(is_next).await.is_err() {
                return std::future::pending().await;
            }
            let other = queue.wait_for(|queue| !is_next(queue));
            if timeout(PATIENCE, other).await.is_err() {
                return;
            }
        }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.queue.send_modify(|queue| {
            queue.count -= 1;
            queue.holding.remove(&self.number);
        });
    }
}

/// The progress of a body.
pub struct Pace<'a> {
    waiting: &'a watch::Sender<Queue>,
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
        if held_bytes <= TINY_BYTES {
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
            () = in_the_way(self.waiting, held_bytes, begin + self.patience) => {
                let detail = "the body comes too slowly while others wait for the memory that it holds; try again";
                return Err(overloaded(detail));
            }
        };
        self.patience = self.patience.saturating_sub(begin.elapsed());
        Ok(arrived)
    }

    /// Counts bytes that the client has received of an answer.
    pub fn count_sent(&mut self, bytes: usize) {
        self.count_of(0, bytes);
    }

    /// Counts received bytes of a body that holds `held_bytes`.
    pub fn count_of(&mut self, held_bytes: usize, bytes: usize) {
        let rate = BYTES_A_SECOND.max(held_bytes / WHOLE_TIME.as_secs() as usize);
        let number = |bytes: usize| u32::try_from(bytes).unwrap_or(u32::MAX);
        let bought = Duration::from_secs(1).saturating_mul(number(bytes)) / number(rate);
        self.patience = self.patience.saturating_add(bought).min(PATIENCE);
    }
}

/// Returns when other requests wait for the budget at `from` or later, if this one's memory would help them.
async fn in_the_way(waiting: &watch::Sender<Queue>, held_bytes: impl Fn() -> usize, mut from: Instant) {
    let mut queue = waiting.subscribe();
    loop {
        // The sender lives as long as the service.
        if queue.wait_for(|queue| queue.count > 0).await.is_err() {
            return std::future::pending().await;
        }
        if Instant::now() < from {
            sleep_until(from).await;
            continue;
        }
        if held_bytes() > TINY_BYTES {
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
    use futures_util::stream::FuturesOrdered;
    use futures_util::{FutureExt, StreamExt};

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
        assert_eq!(pool.waiting.borrow().count, 0);
    }

    #[tokio::test]
    async fn a_body_larger_than_the_whole_budget_takes_all_of_it() {
        let pool = pool(10);
        let _all = holding(&pool, 1 << 30).await;
        assert_eq!(pool.semaphore.available_permits(), 0);
    }

    #[tokio::test]
    async fn a_body_waits_for_the_budget_that_another_gives_back() {
        let pool = pool(100);
        let first = holding(&pool, 100 << 10).await;
        let mut second = budget(&pool, HOUR);
        let (covered, ()) = tokio::join!(second.cover(50 << 10), async {
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
        pace.count_of(slow.covered(), 1);
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
        let _other = Waiting::begin(&pool.waiting, 0);
        let mut pace = Pace::new(&pool);
        for _ in 0..100 {
            let arrival = tokio::time::sleep(PATIENCE / 2);
            pace.wait(99 << 10, arrival).await.unwrap();
            pace.count_of(99 << 10, BYTES_A_SECOND);
        }
        pace.wait(TINY_BYTES, tokio::time::sleep(HOUR)).await.unwrap();
        // One byte per second does not extend the time enough.
        let mut pace = Pace::new(&pool);
        let mut seconds = 0;
        let second = || tokio::time::sleep(Duration::from_secs(1));
        while pace.wait(99 << 10, second()).await.is_ok() {
            pace.count_of(99 << 10, 1);
            seconds += 1;
        }
        assert!(seconds <= 2, "{seconds} s");
    }

    #[tokio::test(start_paused = true)]
    async fn who_holds_much_must_send_much_while_others_wait() {
        let pool = pool(100 << 10);
        let _other = Waiting::begin(&pool.waiting, 0);
        // Each sends 128 KiB a second, for half an hour.
        for (held, is_fast_enough) in [
            (1 << 20, true),
            (3 << 20, true),
            (8 << 20, false),
            (90 << 20, false),
        ] {
            let mut pace = Pace::new(&pool);
            let mut seconds = 0;
            let second = || tokio::time::sleep(Duration::from_secs(1));
            while seconds < 1800 && pace.wait(held, second()).await.is_ok() {
                pace.count_of(held, 128 << 10);
                seconds += 1;
            }
            assert_eq!(seconds == 1800, is_fast_enough, "{held} bytes held: {seconds} s");
        }
    }

    #[tokio::test]
    async fn a_small_request_passes_when_others_hold_all() {
        let pool = pool(100);
        let all = holding(&pool, 100 << 10).await;
        // Others wait already.
        let mut large = budget(&pool, HOUR);
        let mut large = pin!(large.cover(50 << 10));
        assert!(large.as_mut().now_or_never().is_none());
        let mut small = Budget::unhurried(&pool);
        for cover in [1, SMALL_BYTES] {
            let covered = small.cover(cover).now_or_never();
            covered.expect("it does not wait").unwrap();
        }
        assert_eq!(small.covered(), 0);
        let mut small = pin!(small.cover(SMALL_BYTES + 1));
        assert!(small.as_mut().now_or_never().is_none());
        drop(all);
        large.await.unwrap();
        small.await.unwrap();
    }

    #[tokio::test]
    async fn a_body_takes_at_once_what_it_announces_if_that_is_a_part_of_the_pool() {
        const KIB: usize = 1 << 10;
        let pool = pool(1000);
        for (arrived, announced, least, most) in [
            (KIB, 200 * KIB, KIB, KIB),
            (SMALL_BYTES, 200 * KIB, SMALL_BYTES, SMALL_BYTES),
            (40 * KIB, 200 * KIB, 200 * KIB, 256 * KIB),
            (40 * KIB, 300 * KIB, 40 * KIB, 64 * KIB),
            (40 * KIB, 0, 40 * KIB, 64 * KIB),
            (700 * KIB, 5000 * KIB, 700 * KIB, 750 * KIB),
            // It leaves a quarter to others.
            (1000 * KIB, 5000 * KIB, 700 * KIB, 800 * KIB),
            (5000 * KIB, 0, 700 * KIB, 800 * KIB),
        ] {
            let mut body = budget(&pool, Duration::ZERO);
            body.cover_arriving(0, arrived, announced).await.unwrap();
            let covered = body.covered();
            assert!(
                (least..=most).contains(&covered),
                "{arrived} of {announced}: {covered}"
            );
        }
    }

    #[tokio::test(start_paused = true)]
    async fn of_many_requests_that_wait_for_each_others_memory_few_give_way() {
        let pool = pool(1024);
        let mut waiting = FuturesOrdered::new();
        for _ in 0..8 {
            let mut body = Budget::unhurried(&pool);
            body.cover(128 << 10).await.unwrap();
            waiting.push_back(async move { body.cover(192 << 10).await.is_ok() });
        }
        let went_on: Vec<bool> = waiting.collect().await;
        // What one gives back is enough for the others, if they do not all give way at the same time.
        assert_eq!(
            went_on.iter().filter(|went_on| !**went_on).count(),
            1,
            "{went_on:?}"
        );
        assert!(!went_on[7], "it came last");
    }
}
