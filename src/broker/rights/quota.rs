//! What a principal uses, over all its connections, and how much of it it may: bytes and requests a second, and requests in
//! flight.
//!
//! Bytes and requests are paid into a bucket that holds one second's worth and fills at the given rate. A request of any
//! size passes while the bucket has something left; what it takes beyond that is a debt, and until it is paid the next
//! request waits or is refused. So a large request is possible, and the rate holds all the same.
//!
//! Time is given by the caller, in nanoseconds of the monotonic clock. No limit, no cost: the fields are looked at first.

use std::time::Duration;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::broker::engine::Monotonic;

/// The limits of a principal; `None`: no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Bytes a second, of bodies in both directions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes_per_second: Option<u64>,
    /// Requests a second; a burst may have one second's worth.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requests_per_second: Option<u64>,
    /// Requests in flight.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connections: Option<u64>,
}

/// What a principal has used.
#[derive(Debug, Default)]
pub struct Quota {
    limits: Limits,
    used: Mutex<Used>,
}

#[derive(Debug, Default)]
struct Used {
    bytes: Option<Bucket>,
    requests: Option<Bucket>,
    in_flight: u64,
}

/// A bucket whose content may be negative: a debt.
#[derive(Clone, Copy, Debug)]
struct Bucket {
    /// Millionths of what is counted.
    content: i128,
    at: Duration,
}

const MILLION: i128 = 1_000_000;

impl Bucket {
    fn full(per_second: u64, now: Duration) -> Self {
        Self {
            content: i128::from(per_second) * MILLION,
            at: now,
        }
    }

    fn fill(&mut self, per_second: u64, now: Duration) {
        let passed = now.saturating_sub(self.at).as_micros();
        let passed = i128::try_from(passed)
            .unwrap_or(i128::MAX / 2)
            .min(i128::from(u32::MAX) * MILLION);
        let rate = i128::from(per_second);
        self.content = (self.content + passed * rate).min(rate * MILLION);
        self.at = self.at.max(now);
    }

    /// Until there is `least` in it.
    fn wait(&self, per_second: u64, least: i128) -> Option<Duration> {
        let missing = least - self.content;
        let rate = i128::from(per_second.max(1));
        (missing > 0)
            .then(|| Duration::from_micros(u64::try_from(missing.div_euclid(rate) + 1).unwrap_or(u64::MAX)))
    }
}

/// Why a request is refused for now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exceeded {
    /// The limit.
    pub what: &'static str,
    /// When it is worth trying again.
    pub retry_after: Duration,
}

impl Quota {
    /// Nothing used yet.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            used: Mutex::default(),
        }
    }

    /// The limits.
    #[must_use]
    pub fn limits(&self) -> Limits {
        self.limits
    }

    /// Whether there is any limit.
    #[must_use]
    pub fn is_limited(&self) -> bool {
        self.limits != Limits::default()
    }

    /// Counts a request that begins. One that `must_pass` is counted and never refused. [`Quota::end`] ends it.
    ///
    /// # Errors
    /// [`Exceeded`]: nothing is counted.
    pub fn begin(&self, now: Monotonic, must_pass: bool) -> Result<(), Exceeded> {
        let Limits {
            bytes_per_second,
            requests_per_second,
            connections,
        } = self.limits;
        let mut used = self.used.lock();
        let refused = |what, retry_after| {
            if must_pass {
                return Ok(());
            }
            Err(Exceeded { what, retry_after })
        };
        if connections.is_some_and(|most| used.in_flight >= most) {
            refused("connections", Duration::from_secs(1))?;
        }
        if let Some(rate) = bytes_per_second {
            let bytes = used.bytes.get_or_insert_with(|| Bucket::full(rate, now.0));
            bytes.fill(rate, now.0);
            if let Some(wait) = bytes.wait(rate, 1) {
                refused("bytes_per_second", wait)?;
            }
        }
        if let Some(rate) = requests_per_second {
            let requests = used.requests.get_or_insert_with(|| Bucket::full(rate, now.0));
            requests.fill(rate, now.0);
            match requests.wait(rate, MILLION) {
                Some(wait) => refused("requests_per_second", wait)?,
                None => requests.content -= MILLION,
            }
        }
        used.in_flight += 1;
        Ok(())
    }

    /// A request has ended.
    pub fn end(&self) {
        let mut used = self.used.lock();
        used.in_flight = used.in_flight.saturating_sub(1);
    }

    /// Counts bytes of a body, and says how long the next ones should wait.
    pub fn pay(&self, bytes: u64, now: Monotonic) -> Option<Duration> {
        let rate = self.limits.bytes_per_second?;
        let mut used = self.used.lock();
        let bucket = used.bytes.get_or_insert_with(|| Bucket::full(rate, now.0));
        bucket.fill(rate, now.0);
        bucket.content -= i128::from(bytes) * MILLION;
        bucket.wait(rate, 0)
    }

    /// Counts bytes no more that were paid for before they came, and have not come.
    pub fn give_back(&self, bytes: u64) {
        let Some(rate) = self.limits.bytes_per_second else {
            return;
        };
        if let Some(bucket) = &mut self.used.lock().bytes {
            let full = i128::from(rate) * MILLION;
            bucket.content = (bucket.content + i128::from(bytes) * MILLION).min(full);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Monotonic {
        Monotonic(Duration::from_millis(ms))
    }

    fn quota(bytes: Option<u64>, requests: Option<u64>, connections: Option<u64>) -> Quota {
        Quota::new(Limits {
            bytes_per_second: bytes,
            requests_per_second: requests,
            connections,
        })
    }

    #[test]
    fn a_burst_has_one_second_of_requests_and_then_they_come_at_the_rate() {
        let quota = quota(None, Some(4), None);
        for _ in 0..4 {
            quota.begin(at(0), false).unwrap();
        }
        let exceeded = quota.begin(at(0), false).unwrap_err();
        assert_eq!(exceeded.what, "requests_per_second");
        assert!(
            exceeded.retry_after > Duration::from_millis(249)
                && exceeded.retry_after < Duration::from_millis(251)
        );
        assert!(quota.begin(at(249), false).is_err() && quota.begin(at(251), false).is_ok());
        // Days later it is one second's worth again.
        for _ in 0..4 {
            quota.begin(at(1 << 40), false).unwrap();
        }
        assert!(quota.begin(at(1 << 40), false).is_err());
        assert!(quota.begin(at(1 << 40), true).is_ok());
    }

    #[test]
    fn a_large_request_passes_and_its_debt_is_paid_before_the_next() {
        let quota = quota(Some(1000), None, None);
        quota.begin(at(0), false).unwrap();
        assert_eq!(quota.pay(1000, at(0)), None);
        let wait = quota.pay(4000, at(0)).unwrap();
        assert!(
            wait >= Duration::from_secs(4) && wait < Duration::from_millis(4001),
            "{wait:?}"
        );
        let exceeded = quota.begin(at(3000), false).unwrap_err();
        assert_eq!(exceeded.what, "bytes_per_second");
        assert!(quota.begin(at(3000), true).is_ok());
        assert!(quota.begin(at(4001), false).is_ok());
    }

    #[test]
    fn what_was_paid_for_and_has_not_come_is_given_back() {
        let quota = quota(Some(1000), None, None);
        quota.pay(5000, at(0));
        quota.give_back(4000);
        assert_eq!(quota.pay(0, at(0)), None);
        assert!(quota.begin(at(0), false).is_err() && quota.begin(at(1), false).is_ok());
        // No more than a full bucket.
        quota.give_back(9000);
        assert!(quota.pay(1001, at(1)).is_some());
    }

    #[test]
    fn requests_in_flight_are_counted_until_they_end() {
        let quota = quota(None, None, Some(2));
        quota.begin(at(0), false).unwrap();
        quota.begin(at(0), false).unwrap();
        assert_eq!(quota.begin(at(0), false).unwrap_err().what, "connections");
        quota.begin(at(0), true).unwrap();
        quota.end();
        assert!(quota.begin(at(0), false).is_err(), "one that passed counts too");
        quota.end();
        assert!(quota.begin(at(0), false).is_ok());
    }

    #[test]
    fn without_limits_nothing_is_refused_and_nothing_waits() {
        let quota = Quota::default();
        assert!(!quota.is_limited());
        for _ in 0..100 {
            quota.begin(at(0), false).unwrap();
            assert_eq!(quota.pay(u64::MAX, at(0)), None);
        }
    }
}
