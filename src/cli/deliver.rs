//! Sends requests so that their records are stored once, however often the requests are sent.
//!
//! Each request has an idempotency key, so after a lost answer it is sent again, and the server repeats its first
//! answer. That works while the topic remembers keys (`dedupe_window_ms`), counted from the first time that the request
//! may have stored anything. After that it is not sent again, and its lines are in doubt.

use std::time::{Duration, SystemTime};

use super::client::{Answer, Client, Failure, Route};
use super::output::{brief_ms, millis, say_once};
use super::signal::Interrupt;

/// How long a server that has answered before may be away or overloaded, for a command that does not follow.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);
/// How long a server that has never answered may be away.
const FIRST_PATIENCE: Duration = Duration::from_secs(1);
/// How long before its key is forgotten a request is given up: it takes a while to arrive.
const MARGIN: Duration = Duration::from_secs(5);

/// The connection to one target.
#[derive(Debug)]
pub(crate) struct Delivery<'a> {
    pub(crate) client: &'a Client,
    pub(crate) route: Route,
    /// The prefix of the requests' keys; request 1 has the key `{key}-1`.
    pub(crate) key: String,
    /// How long the target remembers a key; none if unknown.
    pub(crate) window: Option<Duration>,
    /// Ends the wait between attempts.
    pub(crate) interrupt: &'a Interrupt,
    /// Whether the target has answered before: it is then worth waiting for.
    pub(crate) answered: bool,
    /// Whether the user knows that the target is away.
    pub(crate) troubled: bool,
}

/// A request without the hoped-for answer.
#[derive(Debug)]
pub(crate) struct Undelivered {
    pub(crate) failure: Failure,
    /// Since when the request may have stored something; none if it certainly has not.
    pub(crate) doubt: Option<SystemTime>,
    /// Whether the key may be forgotten, so that sending it again could store it twice.
    pub(crate) is_late: bool,
}

impl<'a> Delivery<'a> {
    /// A connection to `route`, with a new key.
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

    /// Sends request `number` (from 1), repeatedly until it is answered; `doubt` is since when an earlier process may
    /// have stored some of it.
    /// Errors: [`Undelivered`]; a request in doubt may be sent again under the same number, unless it is late.
    pub(crate) fn send(
        &mut self,
        number: u64,
        body: &[u8],
        mut doubt: Option<SystemTime>,
    ) -> Result<Answer, Undelivered> {
        let key = format!("{}-{number}", self.key);
        let headers = [("idempotency-key", &*key)];
        let mut waited = Duration::ZERO;
        let mut delay = Duration::from_millis(100);
        let mut accepted = 0;
        loop {
            let now = SystemTime::now();
            let failure = match self.client.post(&self.route, &headers, body) {
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
                // It makes progress: it has no time limit.
                accepted = now_accepted;
                waited = Duration::ZERO;
            }
            let wait = failure.retry_after().unwrap_or(delay);
            let patience = if self.answered { PATIENCE } else { FIRST_PATIENCE };
            // Include the next wait: it must end before the key is forgotten.
            let is_late = doubt.is_some_and(|since| self.is_late(since, SystemTime::now() + wait));
            let goes_on = failure.passes() && !is_late && waited + wait <= patience;
            if goes_on {
                say_once(&mut self.troubled, format_args!("{failure}; trying again"));
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

    /// Whether the key of a request first sent at `since` may be forgotten at `now`.
    pub(crate) fn is_late(&self, since: SystemTime, now: SystemTime) -> bool {
        let Some(window) = self.window else {
            return false;
        };
        // A clock that went backwards gives no duration; the window begins again.
        let age = now.duration_since(since).unwrap_or_default();
        age + (window / 10).min(MARGIN) >= window
    }
}

/// A unique key: 128 random bits in hexadecimal.
pub(crate) fn random_key() -> String {
    use std::hash::{BuildHasher, RandomState};
    let (one, other) = (RandomState::new(), RandomState::new());
    let (one, other) = (one.hash_one("key"), other.hash_one(std::process::id()));
    format!("quipu-{one:016x}{other:016x}")
}

/// A duration, for people.
pub(crate) fn ago(since: SystemTime) -> String {
    brief_ms(millis(since.elapsed().unwrap_or_default()))
}
