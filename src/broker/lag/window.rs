//! The status of a group in a partition over the last minute: how fast it reads, and whether it keeps up.
//!
//! A [`Window`] keeps samples of the committed offset and the partition's ends. Judging it includes a current sample,
//! so the result is never older than the request. Rates cover [`RATE_SPAN`], the status [`STATUS_SPAN`]; a window that
//! is still shorter reports neither a stalled group nor one that falls behind.

use std::collections::VecDeque;
use std::time::Duration;

use crate::broker::engine::{Monotonic, Offset, TimestampMs};

/// The span of rates. If samples are further apart, a rate covers two of them.
pub const RATE_SPAN: Duration = Duration::from_secs(10);
/// The span of a status.
pub const STATUS_SPAN: Duration = Duration::from_secs(60);
/// The distance of the points at which [`Status::Behind`] compares the lag.
const POINT_SPAN: Duration = Duration::from_secs(10);
/// The shortest span with a rate: over less, one commit would look like a storm.
const MIN_RATE_SPAN: Duration = Duration::from_secs(1);

/// The positions of a group and a partition at one time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sample {
    /// The time.
    pub at: Monotonic,
    /// The committed offset.
    pub committed: Option<Offset>,
    /// When it was committed.
    pub last_commit: Option<TimestampMs>,
    /// The first stored record.
    pub log_start_offset: Offset,
    /// One past the last durable record.
    pub end_offset: Offset,
    /// In a shared group: nothing is due, although records may be unsettled.
    pub is_idle: bool,
}

impl Sample {
    /// The group's next record.
    fn next_unread(&self) -> Offset {
        self.committed.unwrap_or(Offset::ZERO).max(self.log_start_offset)
    }

    /// The records to read.
    pub fn lag(&self) -> u64 {
        self.end_offset.since(self.next_unread())
    }

    /// Records read between `self` and `later`. A commit that went back reads nothing, and deleted records were not
    /// read.
    fn consumed_until(&self, later: &Self) -> u64 {
        let (Some(before), Some(after)) = (self.committed, later.committed) else {
            // Without a committed offset, the start of reading is unknown.
            return 0;
        };
        after.since(before.max(later.log_start_offset))
    }

    /// Whether retention deleted records that the group had yet to read at `self`, with no commit in between.
    fn lost_until(&self, later: &Self) -> bool {
        later.log_start_offset > self.log_start_offset
            && later.committed.unwrap_or(Offset::ZERO) < later.log_start_offset
            && self.lag() > 0
    }
}

/// Records a second, over the last [`RATE_SPAN`].
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Rates {
    /// Records that the group read and committed; 0 until one second is sampled.
    pub consume: f64,
    /// Records appended to the partition; 0 until one second is sampled.
    pub produce: f64,
}

impl Rates {
    /// The rates of several partitions together.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self {
            consume: self.consume + other.consume,
            produce: self.produce + other.produce,
        }
    }

    /// Milliseconds until `lag` records are read at these rates; `None` if never.
    #[must_use]
    pub fn drain_ms(self, lag: u64) -> Option<u64> {
        if lag == 0 {
            return Some(0);
        }
        let gain = self.consume - self.produce;
        // A cast of a float saturates: centuries are as good as for ever, and never negative.
        (gain > 0.0).then(|| (lag as f64 / gain * 1000.0).ceil() as u64)
    }
}

/// A group's status in a partition, the worst last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Status {
    /// The group has read everything, or is getting closer.
    #[default]
    Ok,
    /// The lag grew throughout [`STATUS_SPAN`]: it never reached 0, shrank at none of the points ten seconds apart, and
    /// is larger than at the start.
    Behind,
    /// There were records to read throughout [`STATUS_SPAN`], and nothing was committed.
    Stalled,
    /// Unread records were deleted within [`STATUS_SPAN`].
    Losing,
}

impl Status {
    /// The name in answers.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Behind => "behind",
            Self::Stalled => "stalled",
            Self::Losing => "losing",
        }
    }

    /// The number in metrics: 0 is well, 3 the worst.
    #[must_use]
    pub const fn number(self) -> u64 {
        self as u64
    }
}

/// The result of a window.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Verdict {
    /// The rates.
    pub rates: Rates,
    /// The status.
    pub status: Status,
}

/// The samples of the last [`STATUS_SPAN`], and one before them.
#[derive(Clone, Debug, Default)]
pub struct Window {
    samples: VecDeque<Packed>,
}

impl Window {
    /// Adds a sample, and drops those no longer needed. A sample that is not later than the last is ignored.
    pub fn push(&mut self, sample: Sample) {
        let sample = Packed::of(&sample);
        if self.samples.back().is_some_and(|last| last.at_ms >= sample.at_ms) {
            return;
        }
        self.samples.push_back(sample);
        // The first sample is at least as old as the span, so that the whole span is covered.
        let begin = sample.at_ms.saturating_sub(millis(STATUS_SPAN));
        while self.samples.get(1).is_some_and(|second| second.at_ms <= begin) {
            self.samples.pop_front();
        }
    }

    /// The rates and status of the window and the current positions.
    pub fn judge(&self, now: &Sample) -> Verdict {
        let until = Packed::of(now).at_ms;
        let before = self.samples.iter().filter(|sample| sample.at_ms < until);
        // At once: as it grew it would be copied, for each of many partitions.
        let mut samples = Vec::with_capacity(self.samples.len() + 1);
        samples.extend(before.map(Packed::unpack).chain([*now]));
        Verdict {
            rates: rates(&samples),
            status: status(&samples),
        }
    }

    /// The memory in use, in bytes.
    pub fn heap_bytes(&self) -> usize {
        self.samples.capacity() * size_of::<Packed>()
    }
}

/// The rates over the end of `samples`, which are in order of time.
pub fn rates(samples: &[Sample]) -> Rates {
    let Some(last) = samples.last() else {
        return Rates::default();
    };
    let is_before = |sample: &Sample| last.at.since(sample.at) >= RATE_SPAN;
    let first = samples.iter().rposition(is_before).unwrap_or(0);
    let span = last.at.since(samples[first].at);
    if span < MIN_RATE_SPAN {
        return Rates::default();
    }
    let (mut consumed, mut produced) = (0u64, 0u64);
    for pair in samples[first..].windows(2) {
        consumed = consumed.saturating_add(pair[0].consumed_until(&pair[1]));
        produced = produced.saturating_add(pair[1].end_offset.since(pair[0].end_offset));
    }
    Rates {
        consume: consumed as f64 / span.as_secs_f64(),
        produce: produced as f64 / span.as_secs_f64(),
    }
}

/// The status by `samples`, which are in order of time; the last one is current.
pub fn status(samples: &[Sample]) -> Status {
    let Some(now) = samples.last() else {
        return Status::Ok;
    };
    let before = samples
        .iter()
        .rposition(|sample| now.at.since(sample.at) >= STATUS_SPAN);
    let window = &samples[before.unwrap_or(0)..];
    if window.windows(2).any(|pair| pair[0].lost_until(&pair[1])) {
        return Status::Losing;
    }
    if before.is_none() {
        // Before the first sample anything may have happened.
        let is_lost = now
            .committed
            .is_some_and(|committed| committed < now.log_start_offset);
        return if is_lost { Status::Losing } else { Status::Ok };
    }
    let has_committed = window
        .windows(2)
        .any(|pair| (pair[0].committed, pair[0].last_commit) != (pair[1].committed, pair[1].last_commit));
    // A group that caught up once within the span is neither stalled nor behind, whatever followed.
    if window.iter().any(|sample| sample.is_idle || sample.lag() == 0) {
        return Status::Ok;
    }
    if !has_committed {
        return Status::Stalled;
    }
    if grew_throughout(window, now) {
        return Status::Behind;
    }
    Status::Ok
}

/// Whether the lag is larger at the end than at the start, and never fell from point to point.
fn grew_throughout(window: &[Sample], now: &Sample) -> bool {
    let points = u32::try_from(STATUS_SPAN.as_secs() / POINT_SPAN.as_secs()).unwrap_or(1);
    let lag_before = |points: u32| {
        let is_before = |sample: &&Sample| now.at.since(sample.at) >= POINT_SPAN * points;
        window.iter().rev().find(is_before).map_or(0, Sample::lag)
    };
    let mut earlier = lag_before(points);
    let begin = earlier;
    for point in (0..points).rev() {
        let lag = lag_before(point);
        if lag < earlier {
            return false;
        }
        earlier = lag;
    }
    earlier > begin
}

/// No valid offset has this bit.
const IDLE: u64 = 1 << 63;

/// A sample in 40 bytes.
#[derive(Clone, Copy, Debug)]
struct Packed {
    at_ms: u64,
    /// `u64::MAX` for none: it is no valid offset. With [`IDLE`], the sample is idle.
    committed: u64,
    /// `i64::MIN` for none.
    last_commit: i64,
    log_start_offset: Offset,
    end_offset: Offset,
}

impl Packed {
    fn of(sample: &Sample) -> Self {
        Self {
            at_ms: millis(sample.at.0),
            committed: match sample.committed {
                None => u64::MAX,
                Some(committed) if sample.is_idle => committed.get() | IDLE,
                Some(committed) => committed.get(),
            },
            last_commit: sample.last_commit.map_or(i64::MIN, TimestampMs::get),
            log_start_offset: sample.log_start_offset,
            end_offset: sample.end_offset,
        }
    }

    fn unpack(&self) -> Sample {
        Sample {
            at: Monotonic(Duration::from_millis(self.at_ms)),
            committed: (self.committed != u64::MAX).then(|| Offset::new(self.committed & !IDLE)),
            last_commit: (self.last_commit != i64::MIN).then_some(TimestampMs(self.last_commit)),
            log_start_offset: self.log_start_offset,
            end_offset: self.end_offset,
            is_idle: self.committed != u64::MAX && self.committed & IDLE != 0,
        }
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(seconds: u64, committed: u64, log_start: u64, end: u64) -> Sample {
        Sample {
            at: Monotonic(Duration::from_secs(seconds)),
            committed: Some(Offset::new(committed)),
            last_commit: Some(TimestampMs(committed as i64)),
            log_start_offset: Offset::new(log_start),
            end_offset: Offset::new(end),
            is_idle: false,
        }
    }

    /// A sample a second for `seconds` and one more, as a function of the second.
    fn each_second(seconds: u64, sample: impl Fn(u64) -> Sample) -> Verdict {
        let mut window = Window::default();
        for second in 0..seconds {
            window.push(sample(second));
        }
        window.judge(&sample(seconds))
    }

    #[test]
    fn rates_count_records_appended_and_read_in_ten_seconds() {
        let verdict = each_second(100, |s| at(s, s * 150, 0, 1000 + s * 20));
        assert_eq!((verdict.rates.consume, verdict.rates.produce), (150.0, 20.0));
        let verdict = each_second(100, |s| at(s, s.min(80) * 150, 0, 20_000));
        assert_eq!(verdict.rates, Rates::default(), "nothing in the last ten seconds");
    }

    #[test]
    fn samples_ten_seconds_apart_give_the_same_rates() {
        let mut window = Window::default();
        for second in (0..100).step_by(10) {
            window.push(at(second, second * 150, 0, second * 200));
        }
        let rates = window.judge(&at(93, 93 * 150, 0, 93 * 200)).rates;
        assert_eq!((rates.consume, rates.produce), (150.0, 200.0));
    }

    #[test]
    fn a_fresh_window_has_the_rates_that_it_saw_and_none_before_a_second_has_passed() {
        assert_eq!(each_second(0, |s| at(s, 7, 0, 9)).rates, Rates::default());
        assert_eq!(each_second(1, |s| at(s, s * 3, 0, 9)).rates.consume, 3.0);
        let mut window = Window::default();
        window.push(at(1, 0, 0, 0));
        let mut now = at(1, 500, 0, 500);
        now.at = Monotonic(Duration::from_millis(1005));
        assert_eq!(window.judge(&now).rates, Rates::default());
    }

    #[test]
    fn a_commit_that_went_back_is_no_negative_rate_and_what_was_read_before_and_after_counts() {
        let committed = |s: u64| if s < 5 { 1000 + s * 10 } else { (s - 5) * 10 };
        let rates = each_second(10, |s| at(s, committed(s), 0, 2000)).rates;
        // Four steps of 10 before the reset and five after it.
        assert_eq!(rates.consume, 9.0);
    }

    #[test]
    fn deleted_records_were_not_read() {
        let course = |s| match s {
            0..10 => at(s, 0, 0, 2000),
            _ => at(s, 1500, 1400, 2000),
        };
        // 100 of them in ten seconds.
        assert_eq!(each_second(10, course).rates.consume, 10.0);
    }

    #[test]
    fn a_lag_drains_only_when_more_is_read_than_appended() {
        let rates = |consume, produce| Rates { consume, produce };
        assert_eq!(rates(155.2, 20.1).drain_ms(1200), Some(8883));
        assert_eq!(rates(20.0, 20.0).drain_ms(1), None);
        assert_eq!(rates(1.0, 20.0).drain_ms(1), None);
        assert_eq!(rates(0.0, 5.0).drain_ms(0), Some(0), "it is drained");
        assert_eq!(rates(1e-300, 0.0).drain_ms(u64::MAX), Some(u64::MAX));
    }

    #[test]
    fn the_status_of_each_course_of_a_minute() {
        type Course = fn(u64) -> Sample;
        let check = |expected: Status, courses: &[(&str, Course)]| {
            for (name, course) in courses {
                assert_eq!(each_second(120, course).status, expected, "{name}");
            }
        };
        check(
            Status::Ok,
            &[
                ("caught up and quiet", |s| at(s, 50, 0, 50)),
                ("keeps up", |s| at(s, s * 10, 0, s * 10 + 10)),
                ("catches up", |s| at(s, s * 10, 0, 5000 + s)),
                ("fell behind, gained once", |s| {
                    at(s, if s < 75 { s } else { s * 9 }, 0, s * 10)
                }),
                ("the same lag throughout, reading", |s| {
                    at(s, s * 10, 0, s * 10 + 700)
                }),
                ("a commit in the window", |s| {
                    at(s, if s < 61 { 10 } else { 20 }, 0, 500)
                }),
                ("new records in a quiet topic", |s| {
                    at(s, 50, 0, if s < 110 { 50 } else { 60 })
                }),
                ("records that were read are deleted", |s| {
                    at(s, 400 + s, s, 500 + s)
                }),
            ],
        );
        check(
            Status::Behind,
            &[("reads, but slower than it grows", |s| at(s, s, 0, s * 10))],
        );
        check(
            Status::Stalled,
            &[
                ("lag and no commit", |s| at(s, 10, 0, 500)),
                ("lag that grows and no commit", |s| at(s, 10, 0, 500 + s)),
                ("deleted long ago", |s| {
                    at(s, 10, if s < 30 { 0 } else { 20 }, 500)
                }),
            ],
        );
        check(
            Status::Losing,
            &[("unread records deleted", |s| {
                at(s, 10, if s < 90 { 0 } else { 20 }, 500)
            })],
        );
    }

    #[test]
    fn a_commit_of_the_same_offset_is_a_commit() {
        let verdict = each_second(120, |s| Sample {
            last_commit: Some(TimestampMs(s as i64 / 40)),
            ..at(s, 10, 0, 500)
        });
        assert_eq!(verdict.status, Status::Ok);
    }

    #[test]
    fn a_short_window_reports_deletions_but_no_stall() {
        assert_eq!(each_second(59, |s| at(s, 10, 0, 500)).status, Status::Ok);
        assert_eq!(each_second(60, |s| at(s, 10, 0, 500)).status, Status::Stalled);
        assert_eq!(each_second(59, |s| at(s, 1, 0, 5 * s)).status, Status::Ok);
        assert_eq!(each_second(0, |s| at(s, 10, 20, 500)).status, Status::Losing);
        assert_eq!(each_second(0, |s| at(s, 20, 20, 500)).status, Status::Ok);
    }

    #[test]
    fn a_commit_that_comes_with_the_deletion_loses_nothing() {
        let course = |s| match s {
            0..90 => at(s, 10, 0, 500),
            _ => at(s, 500, 500, 500),
        };
        assert_eq!(each_second(120, course).status, Status::Ok);
    }

    #[test]
    fn without_a_commit_deleting_unread_records_loses_but_a_trimmed_start_does_not() {
        let uncommitted = |s: u64, log_start: u64| Sample {
            committed: None,
            last_commit: None,
            ..at(s, 0, log_start, 500)
        };
        assert_eq!(each_second(0, |s| uncommitted(s, 20)).status, Status::Ok);
        assert_eq!(each_second(5, |s| uncommitted(s, 20 + s)).status, Status::Losing);
    }

    #[test]
    fn a_window_keeps_no_more_than_it_needs() {
        let mut window = Window::default();
        for second in 0..10_000 {
            window.push(at(second, 0, 0, 0));
            window.push(at(second, 0, 0, 0));
        }
        assert_eq!(window.samples.len(), 61);
        assert!(window.heap_bytes() <= 128 * 40, "{}", window.heap_bytes());
    }

    fn courses() -> impl Strategy<Value = Vec<Sample>> {
        let reset = prop::bool::weighted(0.05);
        let step = (0u64..3000, 0u64..50, 0u64..60, 0u64..40, reset);
        prop::collection::vec(step, 1..150).prop_map(|steps| {
            let (mut time, mut end, mut log_start, mut committed) = (0, 0u64, 0u64, 0u64);
            let mut samples = Vec::new();
            for (ms, produced, consumed, deleted, reset) in steps {
                time += ms + 1;
                end += produced;
                log_start = (log_start + deleted / 4).min(end);
                committed = if reset {
                    committed / 2
                } else {
                    (committed + consumed).min(end)
                };
                let mut sample = at(0, committed, log_start, end);
                sample.at = Monotonic(Duration::from_millis(time));
                samples.push(sample);
            }
            samples
        })
    }

    proptest! {
        #[test]
        fn rates_are_never_negative_and_never_more_than_was_appended_or_reread(samples in courses()) {
            let rates = rates(&samples);
            prop_assert!(rates.consume >= 0.0 && rates.consume.is_finite());
            prop_assert!(rates.produce >= 0.0 && rates.produce.is_finite());
        }

        #[test]
        fn a_window_judges_as_all_samples_would(samples in courses()) {
            let mut window = Window::default();
            let (now, before) = samples.split_last().unwrap();
            for sample in before {
                window.push(*sample);
            }
            let verdict = window.judge(now);
            prop_assert_eq!(verdict.status, status(&samples));
            prop_assert_eq!(verdict.rates, rates(&samples));
        }

        #[test]
        fn a_group_that_is_caught_up_neither_stalls_nor_falls_behind(samples in courses()) {
            let mut samples = samples;
            let last = samples.last_mut().unwrap();
            last.committed = Some(last.end_offset);
            prop_assert!(!matches!(status(&samples), Status::Stalled | Status::Behind));
        }

        #[test]
        fn a_status_of_trouble_has_its_reason_in_the_window(samples in courses()) {
            let now = *samples.last().unwrap();
            let moved = samples.windows(2).any(|pair| pair[1].log_start_offset > pair[0].log_start_offset)
                || now.committed < Some(now.log_start_offset);
            match status(&samples) {
                Status::Losing => prop_assert!(moved),
                Status::Stalled | Status::Behind => prop_assert!(now.lag() > 0 && now.at.since(samples[0].at) >= STATUS_SPAN),
                Status::Ok => {}
            }
        }
    }
}
