//! A part of the history in steps, for lists and charts.
//!
//! All lines of a [`Plot`] have the same steps. A step has the largest value of its slots, so that no peak is lost; the
//! line of several partitions is first added up slot by slot (records and bytes are summed, the oldest age counts).

use std::collections::BTreeMap;
use std::sync::Arc;

use super::history::{OfGroup, Recording};
use super::series::Series;
use crate::broker::engine::{PartitionId, TimestampMs, TopicId};

/// The lengths that a step may have, in milliseconds: round ones, for people.
const STEPS_MS: [u64; 14] = [
    10_000, 20_000, 30_000, 60_000, 120_000, 180_000, 300_000, 600_000, 900_000, 1_200_000, 1_800_000,
    3_600_000, 7_200_000, 14_400_000,
];

/// The figure that a line shows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Metric {
    /// Records to be read.
    #[default]
    Lag,
    /// The age of the next record.
    LagMs,
    /// Stored bytes to be read.
    LagBytes,
}

/// The unit that a line stands for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum By {
    /// The whole group.
    Group,
    /// A topic.
    Topic,
    /// A partition.
    #[default]
    Partition,
}

/// The lag of a group or a part of it in a slot or a step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Value {
    /// Records to be read.
    pub lag: u64,
    /// The age of the oldest record to be read next, in milliseconds.
    pub lag_ms: u64,
    /// Stored bytes to be read.
    pub lag_bytes: u64,
}

impl Value {
    /// The figure of a metric.
    pub const fn get(&self, metric: Metric) -> u64 {
        match metric {
            Metric::Lag => self.lag,
            Metric::LagMs => self.lag_ms,
            Metric::LagBytes => self.lag_bytes,
        }
    }

    fn and(self, other: Self) -> Self {
        Self {
            lag: self.lag.saturating_add(other.lag),
            lag_ms: self.lag_ms.max(other.lag_ms),
            lag_bytes: self.lag_bytes.saturating_add(other.lag_bytes),
        }
    }

    fn max(self, other: Self) -> Self {
        Self {
            lag: self.lag.max(other.lag),
            lag_ms: self.lag_ms.max(other.lag_ms),
            lag_bytes: self.lag_bytes.max(other.lag_bytes),
        }
    }
}

/// A request for a plot.
#[derive(Clone, Copy, Debug)]
pub struct Request {
    /// Where the plot ends.
    pub until: TimestampMs,
    /// How long it is, in milliseconds.
    pub window_ms: u64,
    /// The unit of a line.
    pub by: By,
    /// The figure that ranks the lines.
    pub metric: Metric,
    /// The most lines; the rest are added up as others.
    pub max_lines: usize,
    /// The most steps.
    pub max_steps: u64,
}

/// A line, worst first in a plot.
#[derive(Clone, Debug)]
pub struct Line {
    /// The topic; `None` for the group.
    pub topic: Option<TopicId>,
    /// The partition; `None` for a topic.
    pub partition: Option<u32>,
    /// A value for each step; `None` if no sample was taken.
    pub values: Vec<Option<Value>>,
}

/// A part of the history, in steps.
#[derive(Clone, Debug, Default)]
pub struct Plot {
    /// When the first step begins.
    pub from: TimestampMs,
    /// The length of a step, in milliseconds.
    pub step_ms: u64,
    /// When each step begins.
    pub times: Vec<TimestampMs>,
    /// The lines, the worst first.
    pub lines: Vec<Line>,
    /// Lines that were left out.
    pub left_out: usize,
    /// The omitted lines together.
    pub others: Vec<Option<Value>>,
    /// All lines together.
    pub total: Vec<Option<Value>>,
}

/// The shortest step that shows `window_ms` in at most `max_steps` and is at least `interval_ms`.
fn step_ms(window_ms: u64, max_steps: u64, interval_ms: u64) -> u64 {
    let least = window_ms.div_ceil(max_steps.max(1)).max(interval_ms);
    let nice = STEPS_MS.into_iter().find(|step| *step >= least);
    nice.unwrap_or(least)
}

/// When the recording for a request must begin, with room for whole steps.
pub fn since(request: &Request) -> TimestampMs {
    let window_ms = i64::try_from(request.window_ms).unwrap_or(i64::MAX);
    let longest = STEPS_MS[STEPS_MS.len() - 1] as i64;
    TimestampMs(
        request
            .until
            .get()
            .saturating_sub(window_ms)
            .saturating_sub(longest),
    )
}

impl Plot {
    /// Plots a recording, which should reach back to [`since`].
    pub fn of(recording: &Recording, request: &Request) -> Self {
        let steps = Steps::of(recording, request);
        let mut lines: BTreeMap<(Option<TopicId>, Option<u32>), Vec<&Series>> = BTreeMap::new();
        for (PartitionId { topic, index }, series) in &recording.series {
            let key = match request.by {
                By::Group => (None, None),
                By::Topic => (Some(*topic), None),
                By::Partition => (Some(*topic), Some(*index)),
            };
            lines.entry(key).or_default().push(series);
        }
        let mut lines: Vec<(Line, Vec<&Series>)> = lines
            .into_iter()
            .map(|((topic, partition), members)| {
                let values = steps.values(&members);
                let line = Line {
                    topic,
                    partition,
                    values,
                };
                (line, members)
            })
            .collect();
        // Stable: equal lines stay in order of topic and partition.
        lines.sort_by_key(|(line, _)| std::cmp::Reverse(badness(&line.values, request.metric)));
        let rest = lines.split_off(lines.len().min(request.max_lines));
        let members = |lines: &[(Line, Vec<&Series>)]| -> Vec<Option<Value>> {
            let members: Vec<&Series> = lines
                .iter()
                .flat_map(|(_, members)| members.iter().copied())
                .collect();
            steps.values(&members)
        };
        let all: Vec<&Series> = recording.series.iter().map(|(_, series)| series).collect();
        Self {
            from: TimestampMs(steps.begin.saturating_mul(steps.step)),
            step_ms: steps.step.unsigned_abs(),
            times: steps.times().collect(),
            left_out: rest.len(),
            others: members(&rest),
            total: steps.values(&all),
            lines: lines.into_iter().map(|(line, _)| line).collect(),
        }
    }

    /// Whether the plot is empty.
    pub fn is_empty(&self) -> bool {
        self.total.iter().all(Option::is_none)
    }
}

/// A line for each of many groups, in the same steps.
#[derive(Clone, Debug, Default)]
pub struct Groups {
    /// The length of a step, in milliseconds.
    pub step_ms: u64,
    /// When each step begins: from the first sample in the window on.
    pub times: Vec<TimestampMs>,
    /// The groups, the worst first.
    pub lines: Vec<(Arc<str>, Vec<Option<Value>>)>,
    /// Groups that were left out.
    pub left_out: usize,
}

impl Groups {
    /// Plots the recordings of groups, which should reach back to [`since`]. The unit of a line is the group, whatever the
    /// request says.
    pub fn of(recording: &Recording, groups: &[OfGroup], request: &Request) -> Self {
        let steps = Steps::of(recording, request);
        let line = |(name, series): &OfGroup| {
            let members: Vec<&Series> = series.iter().collect();
            (Arc::clone(name), steps.values(&members))
        };
        let mut lines: Vec<(Arc<str>, Vec<Option<Value>>)> = groups.iter().map(line).collect();
        // Stable: equal groups stay in order of their names.
        lines.sort_by_key(|(_, values)| std::cmp::Reverse(badness(values, request.metric)));
        let left_out = lines.len().saturating_sub(request.max_lines);
        lines.truncate(request.max_lines);
        // The first step may be a part of one, and is one too many then.
        let most = usize::try_from(request.max_steps).unwrap_or(usize::MAX);
        let is_empty = |index: &usize| lines.iter().all(|(_, values)| values[*index].is_none());
        let first = (0..steps.count).take_while(is_empty).count();
        let first = first.max(steps.count.saturating_sub(most));
        for (_, values) in &mut lines {
            values.drain(..first);
        }
        Self {
            step_ms: steps.step.unsigned_abs(),
            times: steps.times().skip(first).collect(),
            lines,
            left_out,
        }
    }
}

/// The rank of a line: the largest value, then the latest.
fn badness(values: &[Option<Value>], metric: Metric) -> (u64, u64) {
    let figures = || values.iter().flatten().map(|value| value.get(metric));
    (figures().max().unwrap_or(0), figures().next_back().unwrap_or(0))
}

struct Steps<'a> {
    recording: &'a Recording,
    /// The number of the first step, counted from the Unix epoch.
    begin: i64,
    count: usize,
    step: i64,
}

impl<'a> Steps<'a> {
    fn of(recording: &'a Recording, request: &Request) -> Self {
        let interval_ms = u64::try_from(recording.interval_ms).unwrap_or(0);
        let step_ms = step_ms(request.window_ms, request.max_steps, interval_ms);
        let step = i64::try_from(step_ms).unwrap_or(i64::MAX).max(1);
        let window = i64::try_from(request.window_ms).unwrap_or(i64::MAX);
        let begin = request.until.get().saturating_sub(window).div_euclid(step);
        let end = request.until.get().div_euclid(step);
        Self {
            recording,
            begin,
            count: usize::try_from(end - begin + 1).unwrap_or(0),
            step,
        }
    }

    /// When each step begins.
    fn times(&self) -> impl Iterator<Item = TimestampMs> + use<> {
        let (begin, step) = (self.begin, self.step);
        (0..self.count as i64).map(move |index| TimestampMs((begin + index).saturating_mul(step)))
    }

    /// The values of several series together.
    fn values(&self, members: &[&Series]) -> Vec<Option<Value>> {
        let Recording { first, times, .. } = self.recording;
        let mut slots: Vec<Option<Value>> = vec![None; times.len()];
        for (slot, point) in members.iter().flat_map(|series| series.points(*first)) {
            let index = usize::try_from(slot - first).unwrap_or(usize::MAX);
            let (Some(value), Some(at)) = (slots.get_mut(index), times.get(index)) else {
                continue;
            };
            let age = |next: TimestampMs| i128::from(at.get()) - i128::from(next.get());
            let point = Value {
                lag: point.lag,
                lag_ms: point
                    .next_timestamp
                    .map_or(0, |next| u64::try_from(age(next)).unwrap_or(0)),
                lag_bytes: point.bytes,
            };
            *value = Some(value.map_or(point, |value| value.and(point)));
        }
        let mut steps: Vec<Option<Value>> = vec![None; self.count];
        for (value, at) in slots.into_iter().zip(times) {
            let step = usize::try_from(at.get().div_euclid(self.step) - self.begin);
            if let (Some(value), Some(step)) = (value, step.ok().and_then(|step| steps.get_mut(step))) {
                *step = Some(step.map_or(value, |before| before.max(value)));
            }
        }
        steps
    }
}

#[cfg(test)]
mod tests {
    use super::super::series::Point;
    use super::*;

    const START: i64 = 1_700_000_000_000;

    fn id(topic: u64, index: u32) -> PartitionId {
        PartitionId::new(TopicId(topic), index)
    }

    type Course = fn(u64) -> u64;

    /// Slots every ten seconds from [`START`] on; each partition's lag as a function of the slot.
    fn recording(slots: u64, partitions: &[(PartitionId, Course)]) -> Recording {
        let series = partitions.iter().map(|(id, lag)| {
            let mut series = Series::new(5);
            for slot in 0..slots {
                let lag = lag(slot);
                series.push(Point {
                    lag,
                    next_timestamp: (lag > 0).then_some(TimestampMs(START - lag as i64)),
                    bytes: lag * 100,
                });
            }
            (*id, series)
        });
        Recording {
            first: 5,
            times: (0..slots as i64)
                .map(|slot| TimestampMs(START + slot * 10_000))
                .collect(),
            interval_ms: 10_000,
            series: series.collect(),
        }
    }

    fn request(slots: u64, by: By) -> Request {
        Request {
            until: TimestampMs(START + (slots as i64 - 1) * 10_000 + 3_000),
            window_ms: (slots - 1) * 10_000,
            by,
            metric: Metric::Lag,
            max_lines: 2,
            max_steps: 360,
        }
    }

    fn lags(values: &[Option<Value>]) -> Vec<Option<u64>> {
        values.iter().map(|value| value.map(|value| value.lag)).collect()
    }

    #[test]
    fn a_short_stretch_is_shown_slot_by_slot_the_worst_line_first() {
        let recording = recording(
            3,
            &[
                (id(1, 0), |_| 1),
                (id(1, 1), |s| s * 2),
                (id(2, 0), |s| 9 - s),
                (id(2, 1), |_| 0),
            ],
        );
        let plot = Plot::of(&recording, &request(3, By::Partition));
        assert_eq!((plot.step_ms, plot.from), (10_000, TimestampMs(START)));
        assert_eq!(plot.times.len(), 3);
        let rows = plot.lines.iter();
        let names: Vec<_> = rows.map(|line| (line.topic, line.partition)).collect();
        assert_eq!(names, [(Some(TopicId(2)), Some(0)), (Some(TopicId(1)), Some(1))]);
        assert_eq!(lags(&plot.lines[0].values), [Some(9), Some(8), Some(7)]);
        assert_eq!(plot.left_out, 2);
        assert_eq!(lags(&plot.others), [Some(1), Some(1), Some(1)]);
        assert_eq!(lags(&plot.total), [Some(10), Some(11), Some(12)]);
        assert_eq!(plot.total[1].unwrap().lag_bytes, 1100);
        // The oldest, not the sum.
        assert_eq!(plot.total[1].unwrap().lag_ms, 10_000 + 8);
    }

    #[test]
    fn lines_of_topics_and_of_the_group_add_up_their_partitions() {
        let recording = recording(2, &[(id(1, 0), |_| 1), (id(1, 1), |_| 2), (id(2, 0), |_| 4)]);
        let plot = Plot::of(&recording, &request(2, By::Topic));
        assert_eq!(lags(&plot.lines[0].values), [Some(4); 2]);
        assert_eq!(lags(&plot.lines[1].values), [Some(3); 2]);
        let plot = Plot::of(&recording, &request(2, By::Group));
        assert_eq!(lags(&plot.lines[0].values), [Some(7); 2]);
        assert_eq!((plot.lines.len(), plot.lines[0].topic), (1, None));
    }

    #[test]
    fn a_long_stretch_keeps_its_peaks() {
        let recording = recording(600, &[(id(1, 0), |s| if s == 77 { 500 } else { 3 })]);
        let plot = Plot::of(
            &recording,
            &Request {
                max_steps: 60,
                ..request(600, By::Partition)
            },
        );
        assert_eq!(plot.step_ms, 120_000);
        assert!(plot.times.len() <= 52, "{}", plot.times.len());
        let lags = lags(&plot.lines[0].values);
        assert_eq!(lags.iter().flatten().filter(|lag| **lag == 500).count(), 1);
        assert!(lags.iter().all(Option::is_some));
    }

    #[test]
    fn groups_have_a_line_each_the_worst_first_from_the_first_sample_on() {
        let parts = recording(3, &[(id(1, 0), |_| 1), (id(1, 1), |s| s * 2), (id(2, 0), |_| 4)]);
        let series: Vec<Series> = parts.series.iter().map(|(_, series)| series.clone()).collect();
        let groups = [
            ("a".into(), vec![series[0].clone()]),
            ("b".into(), series[..2].to_vec()),
            ("c".into(), vec![series[2].clone()]),
        ];
        let request = Request {
            window_ms: 50_000,
            ..request(3, By::Partition)
        };
        let plot = Groups::of(&parts, &groups, &request);
        let rows: Vec<_> = plot
            .lines
            .iter()
            .map(|(name, values)| (&**name, lags(values)))
            .collect();
        let expected = [
            ("b", vec![Some(1), Some(3), Some(5)]),
            ("c", vec![Some(4), Some(4), Some(4)]),
        ];
        assert_eq!((rows, plot.left_out), (expected.to_vec(), 1));
        assert_eq!(
            (plot.step_ms, plot.times.len(), plot.times[0]),
            (10_000, 3, TimestampMs(START))
        );
        let few = Request {
            max_steps: 2,
            window_ms: 20_000,
            ..request
        };
        let plot = Groups::of(&parts, &groups, &few);
        assert_eq!(
            lags(&plot.lines[0].1),
            [Some(3), Some(5)],
            "never more steps than asked for"
        );
        assert!(Groups::of(&Recording::default(), &[], &request).times.is_empty());
    }

    #[test]
    fn a_step_without_samples_has_no_value() {
        let mut recording = recording(3, &[(id(1, 0), |_| 1)]);
        recording.times[2] = TimestampMs(START + 50_000);
        let plot = Plot::of(&recording, &request(6, By::Group));
        assert_eq!(lags(&plot.total), [Some(1), Some(1), None, None, None, Some(1)]);
        assert!(!plot.is_empty());
        assert!(Plot::of(&Recording::default(), &request(6, By::Group)).is_empty());
    }

    #[test]
    fn steps_are_never_finer_than_the_slots() {
        let mut recording = recording(3, &[(id(1, 0), |_| 1)]);
        recording.interval_ms = 40_000;
        assert_eq!(Plot::of(&recording, &request(3, By::Group)).step_ms, 60_000);
        assert_eq!(step_ms(86_400_000, 360, 10_000), 300_000);
        assert_eq!(step_ms(86_400_000, 0, 10_000), 86_400_000);
    }
}
