//! Sending requests that store something once, however often they are sent.
//!
//! Each request has an idempotency key, so after a lost answer it is sent again: what was stored the first time is
//! answered as it was then. That holds as long as the topic remembers keys (`dedupe_window_ms`), counted from the first
//! time that the request may have stored anything; after that it is not sent again, and its lines are in doubt.

use std::time::{Duration, SystemTime};

use super::client::{Answer, Client, Failure, Route};
use super::output::{brief_ms, note};
use super::signal::Interrupt;

/// How long a server that was there may be away, or overloaded, for a command that does not follow.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);
/// How long one that has not answered yet may be.
const FIRST_PATIENCE: Duration = Duration::from_secs(1);
/// How much sooner than a key is forgotten its request is given up: it takes a while to arrive.
const MARGIN: Duration = Duration::from_secs(5);

/// The way to one target.
#[derive(Debug)]
pub(crate) struct Delivery<'a> {
    /// Who sends.
    pub(crate) client: &'a Client,
    /// Where to.
    pub(crate) route: Route,
    /// What the requests' keys begin with; request 1 has the key `{key}-1`.
    pub(crate) key: String,
    /// How long the target remembers a key; none if nobody knows.
    pub(crate) window: Option<Duration>,
    /// Ends the waiting between attempts.
    pub(crate) interrupt: &'a Interrupt,
    /// Whether the target has answered before: it is then worth waiting for.
    pub(crate) answered: bool,
    /// Whether somebody has said that the target is away.
    pub(crate) troubled: bool,
}

/// A request that has not been answered as hoped.
#[derive(Debug)]
pub(crate) struct Undelivered {
    /// Why not.
    pub(crate) failure: Failure,
    /// Since when the request may have stored something; none if it is certain that it has not.
    pub(crate) doubt: Option<SystemTime>,
    /// Whether the key may be forgotten by now, so that sending it again could store it again.
    pub(crate) is_late: bool,
}

impl<'a> Delivery<'a> {
    /// The way to `route`, with a key of its own.
    pub(crate) fn new(
        client: &'a Client,
        route: Route,
        key: String,
        window: Option<Duration>,
        interrupt: &'a Interrupt,
    ) -> Self {
        Self {
            client,
            route,
            key,
            window,
            interrupt,
            answered: false,
            troubled: false,
        }
    }

    /// Sends request `number` (from 1), and again until it is answered; `doubt` is since when an earlier process may
    /// have stored some of it.
    ///
    /// # Errors
    /// [`Undelivered`]; what is in doubt then may be sent again under the same number, unless it is late.
    pub(crate) fn send(
        &mut self,
        number: u64,
        body: &[u8],
        mut doubt: Option<SystemTime>,
    ) -> Result<Answer, Undelivered> {
        let key = format!("{}-{number}", self.key);
        let headers = [
            ("content-type", "application/x-ndjson"),
            ("idempotency-key", &key),
        ];
        let mut waited = Duration::ZERO;
        let mut delay = Duration::from_millis(100);
        let mut accepted = 0;
        loop {
            let now = SystemTime::now();
            let failure = match self.client.post_with(&self.route, &headers, body) {
                Ok(answer) => {
                    self.answered = true;
                    self.troubled = false;
                    return Ok(answer);
                }
                Err(failure) => failure,
            };
            if !failure.stored_nothing() {
                doubt.get_or_insert(now);
            }
            self.answered |= matches!(failure, Failure::Problem(_) | Failure::Status { .. });
            if let Failure::Problem(problem) = &failure
                && let Some(now_accepted) = problem.number("accepted")
                && now_accepted > accepted
            {
                // It gets on: it may take as long as it takes.
                accepted = now_accepted;
                waited = Duration::ZERO;
            }
            let wait = failure.retry_after().unwrap_or(delay);
            let patience = if self.answered { PATIENCE } else { FIRST_PATIENCE };
            // After the wait that comes first: a longer one than the key lives would be one too long.
            let is_late = doubt.is_some_and(|since| self.is_late(since, SystemTime::now() + wait));
            let goes_on = failure.passes() && !is_late && waited + wait <= patience;
            if goes_on && !std::mem::replace(&mut self.troubled, true) {
                note(format_args!("{failure}; trying again"));
            }
            if !goes_on || self.interrupt.wait(wait).is_some() {
                return Err(Undelivered {
                    failure,
                    doubt,
                    is_late,
                });
            }
            waited += wait;
            delay = (delay * 2).min(Duration::from_secs(2));
        }
    }

    /// Whether what was first sent at `since` may be forgotten at `now`.
    pub(crate) fn is_late(&self, since: SystemTime, now: SystemTime) -> bool {
        let Some(window) = self.window else {
            return false;
        };
        // A clock that went backwards says nothing about how long it was; the window begins anew then.
        let age = now.duration_since(since).unwrap_or_default();
        age + (window / 10).min(MARGIN) >= window
    }
}

/// A key that no other run has: 128 random bits in hexadecimal.
pub(crate) fn random_key() -> String {
    use std::hash::{BuildHasher, RandomState};
    let (one, other) = (RandomState::new(), RandomState::new());
    format!(
        "quipu-{:016x}{:016x}",
        one.hash_one("key"),
        other.hash_one(std::process::id())
    )
}

/// How long ago something was, for people.
pub(crate) fn ago(since: SystemTime) -> String {
    let age = since.elapsed().unwrap_or_default();
    brief_ms(u64::try_from(age.as_millis()).unwrap_or(u64::MAX))
}
