//! The recent past of every group and partition: a minute of samples, and a day of points.
//!
//! The sampler calls [`History::sample`] with a row for each partition in each group's scope. Every call feeds the
//! windows (see [`super::window`]); when the wall clock has entered a new interval, the call also opens a slot and adds
//! a point to every series. The next call drops a partition that left its group's scope.
//!
//! Memory is bounded:
//!
//! | pairs of group and partition | a sample every | a point every |
//! |---|---|---|
//! | up to 1,000 | second | 10 s |
//! | up to 2,000, 4,000, … | 10 s | 20 s, 40 s, … |
//! | above [`MAX_TRACKS`] | those above have no rates, no status but what the moment tells, and no points | |
//!
//! A group has a history only if all its pairs have points: a sum of some of them would be too small, and look right.
//!
//! Points are kept for [`KEPT`]; if they exceed [`MAX_BYTES`], the oldest are dropped. Setting the wall clock back
//! drops all points. A restart drops the windows; the points are written beside the log from time to time (see
//! [`super::memo`]).

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use super::memo::Memo;
use super::series::{Point, Series, Slot};
use super::window::{Sample, Verdict, Window};
use crate::broker::engine::{Located, Offset, PartitionId, TimestampMs};

/// How long points are kept.
pub const KEPT: Duration = Duration::from_hours(24);
/// Pairs of group and partition that are sampled at the finest intervals.
pub const FINE_TRACKS: usize = 1000;
/// The most pairs of group and partition that are sampled.
pub const MAX_TRACKS: usize = 32_000;
/// The most memory for windows and series together. A thousand partitions that never rest take about 90 MB a day, quiet
/// ones about 1 kB each.
pub const MAX_BYTES: usize = 128 << 20;

const FINE_SAMPLE: Duration = Duration::from_secs(1);
const COARSE_SAMPLE: Duration = Duration::from_secs(10);
const FINE_SLOT_MS: i64 = 10_000;

/// A group and a partition in its scope, when sampled.
#[derive(Clone, Debug)]
pub struct Row {
    /// The group.
    pub group: Arc<str>,
    /// The partition.
    pub partition: PartitionId,
    /// The positions of both.
    pub sample: Sample,
    /// The point for the history, if a slot is due.
    pub point: Point,
}

/// The location of a group's next record: valid until the next record or the end changes.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    /// The next record to be read.
    pub next: Offset,
    /// The end at the time of the lookup.
    pub end_offset: Offset,
    /// The result.
    pub located: Located,
}

/// The whole history, shared by reports, charts and the sampler; its lock is never held across disk access.
#[derive(Debug, Default)]
pub struct History {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    groups: BTreeMap<Arc<str>, BTreeMap<PartitionId, Track>>,
    /// The number of pairs in `groups`.
    tracks: usize,
    /// Raised by every sample; pairs that the sample lacked are dropped.
    generation: u64,
    slots: VecDeque<SlotTime>,
    /// The number of the first of `slots`.
    first_slot: Slot,
    /// The groups some of whose pairs have no room, as of the last sample.
    partial: BTreeSet<Arc<str>>,
    max_tracks: usize,
    max_bytes: usize,
}

/// When a slot was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SlotTime {
    pub(super) at: TimestampMs,
    /// The current interval.
    pub(super) interval_ms: i64,
}

/// A group in a partition.
#[derive(Debug)]
struct Track {
    window: Window,
    series: Series,
    place: Option<Place>,
    generation: u64,
}

/// A part of a group's history.
#[derive(Clone, Debug, Default)]
pub struct Recording {
    /// The number of the first of `times`.
    pub first: Slot,
    /// When each slot was taken.
    pub times: Vec<TimestampMs>,
    /// The longest interval between two slots that were not late.
    pub interval_ms: i64,
    /// By partition.
    pub series: Vec<(PartitionId, Series)>,
}

/// A group with the series of its partitions.
pub type OfGroup = (Arc<str>, Vec<Series>);

impl Default for State {
    fn default() -> Self {
        Self {
            groups: BTreeMap::new(),
            tracks: 0,
            generation: 0,
            slots: VecDeque::new(),
            first_slot: 0,
            partial: BTreeSet::new(),
            max_tracks: MAX_TRACKS,
            max_bytes: MAX_BYTES,
        }
    }
}

impl History {
    /// How long to wait between two samples; depends on the number of pairs.
    pub fn sample_interval(&self) -> Duration {
        if self.state.lock().tracks <= FINE_TRACKS {
            FINE_SAMPLE
        } else {
            COARSE_SAMPLE
        }
    }

    /// Whether a sample taken now goes into the history: its rows then need points.
    pub fn is_slot_due(&self, now: TimestampMs) -> bool {
        self.state.lock().is_slot_due(now)
    }

    /// Adds the positions of every group; pairs missing from `rows` are dropped.
    pub fn sample(&self, now: TimestampMs, rows: &[Row]) {
        self.state.lock().sample(now, rows);
    }

    /// The verdicts of the windows on a group's partitions, with their positions `now`; in the order of `now`. Without
    /// `with_verdicts` only the places are looked up.
    pub fn judge(
        &self,
        group: &str,
        now: &[(PartitionId, Sample)],
        with_verdicts: bool,
    ) -> Vec<(Verdict, Option<Place>)> {
        let state = self.state.lock();
        let tracks = state.groups.get(group);
        let nothing = Window::default();
        let judge = |(id, sample): &(PartitionId, Sample)| {
            let track = tracks.and_then(|tracks| tracks.get(id));
            let window = track.map_or(&nothing, |track| &track.window);
            let verdict = if with_verdicts {
                window.judge(sample)
            } else {
                Verdict::default()
            };
            (verdict, track.and_then(|track| track.place))
        };
        now.iter().map(judge).collect()
    }

    /// Saves the locations of next records, so that no report looks again until a position moves.
    pub fn remember(&self, group: &str, places: &[(PartitionId, Place)]) {
        let mut state = self.state.lock();
        let Some(tracks) = state.groups.get_mut(group) else {
            return;
        };
        for (id, place) in places {
            if let Some(track) = tracks.get_mut(id) {
                track.place = Some(*place);
            }
        }
    }

    /// The history of a group since then, for the partitions that `wanted` accepts; empty if the group has none.
    pub fn recording(
        &self,
        group: &str,
        since: TimestampMs,
        mut wanted: impl FnMut(PartitionId) -> bool,
    ) -> Recording {
        let state = self.state.lock();
        let mut recording = state.times_since(since);
        let tracks = state.groups.get(group).filter(|_| !state.partial.contains(group));
        recording.series = tracks
            .into_iter()
            .flatten()
            .filter(|(id, _)| wanted(**id))
            .map(|(id, track)| (*id, track.series.since(recording.first)))
            .collect();
        recording
    }

    /// The history of all groups since then, and how many have none for want of room; of those groups and partitions that are
    /// wanted. The recording itself has no series.
    pub fn recordings(
        &self,
        since: TimestampMs,
        is_group: impl Fn(&str) -> bool,
        is_partition: impl Fn(PartitionId) -> bool,
    ) -> (Recording, Vec<OfGroup>, usize) {
        let state = self.state.lock();
        let recording = state.times_since(since);
        let wanted = state.groups.iter().filter(|(group, _)| is_group(group));
        let whole = wanted.filter(|(group, _)| !state.partial.contains(*group));
        let groups = whole.map(|(group, tracks)| {
            let series = tracks.iter().filter(|(id, _)| is_partition(**id));
            let series = series.map(|(_, track)| track.series.since(recording.first));
            (Arc::clone(group), series.collect())
        });
        let groups = groups.collect();
        let without = state.partial.iter().filter(|group| is_group(group)).count();
        (recording, groups, without)
    }

    /// A history that goes on from one that was remembered, without its windows.
    pub fn of(memo: Memo) -> Self {
        let mut state = State {
            slots: memo.slots.into(),
            first_slot: memo.first_slot,
            ..State::default()
        };
        let next_slot = state.first_slot + state.slots.len() as Slot;
        for (group, tracks) in memo.groups {
            let tracks: BTreeMap<PartitionId, Track> = tracks
                .into_iter()
                .filter(|(_, series)| series.next_slot() == next_slot)
                .map(|(id, series)| {
                    (
                        id,
                        Track {
                            series,
                            ..Track::new(next_slot)
                        },
                    )
                })
                .collect();
            state.tracks += tracks.len();
            state.groups.insert(group, tracks);
        }
        Self {
            state: Mutex::new(state),
        }
    }

    /// What to remember over a restart.
    pub fn memo(&self) -> Memo {
        let state = self.state.lock();
        let tracks = |tracks: &BTreeMap<PartitionId, Track>| {
            let tracks = tracks.iter();
            tracks.map(|(id, track)| (*id, track.series.clone())).collect()
        };
        let groups = state.groups.iter();
        Memo {
            first_slot: state.first_slot,
            slots: state.slots.iter().copied().collect(),
            groups: groups
                .map(|(group, of)| (Arc::clone(group), tracks(of)))
                .collect(),
        }
    }

    /// The memory in use, in bytes.
    pub fn heap_bytes(&self) -> usize {
        self.state.lock().heap_bytes()
    }
}

impl State {
    /// The interval of points: doubles when the number of pairs doubles.
    fn slot_interval_ms(&self) -> i64 {
        let doublings = self
            .tracks
            .div_ceil(FINE_TRACKS)
            .max(1)
            .next_power_of_two()
            .ilog2();
        FINE_SLOT_MS << doublings
    }

    /// The slots since then, without series.
    fn times_since(&self, since: TimestampMs) -> Recording {
        let skipped = self.slots.partition_point(|slot| slot.at < since);
        let slots = self.slots.iter().skip(skipped);
        Recording {
            first: self.first_slot + skipped as Slot,
            times: slots.clone().map(|slot| slot.at).collect(),
            interval_ms: slots.map(|slot| slot.interval_ms).max().unwrap_or(FINE_SLOT_MS),
            series: Vec::new(),
        }
    }

    fn is_slot_due(&self, now: TimestampMs) -> bool {
        let Some(last) = self.slots.back() else {
            return true;
        };
        let interval_ms = self.slot_interval_ms();
        // A clock that was set back by less than that waits until it reaches the last slot again.
        now.get().div_euclid(interval_ms) > last.at.get().div_euclid(interval_ms)
            || now.get() < last.at.get().saturating_sub(interval_ms)
    }

    fn sample(&mut self, now: TimestampMs, rows: &[Row]) {
        let is_slot = self.is_slot_due(now);
        let slot = is_slot.then(|| self.open_slot(now));
        let next_slot = self.first_slot + self.slots.len() as Slot;
        self.generation += 1;
        self.partial.clear();
        for row in rows {
            let is_room = self.tracks < self.max_tracks;
            let tracks = match self.groups.get_mut(&row.group) {
                Some(tracks) => tracks,
                None if is_room => self.groups.entry(row.group.clone()).or_default(),
                None => {
                    self.partial.insert(row.group.clone());
                    continue;
                }
            };
            let track = match tracks.get_mut(&row.partition) {
                Some(track) => track,
                None if is_room => {
                    self.tracks += 1;
                    tracks
                        .entry(row.partition)
                        .or_insert(Track::new(slot.unwrap_or(next_slot)))
                }
                None => {
                    self.partial.insert(row.group.clone());
                    continue;
                }
            };
            let is_first = track.generation != self.generation;
            track.generation = self.generation;
            track.window.push(row.sample);
            if let Some(slot) = slot.filter(|_| is_first) {
                if track.series.next_slot() != slot {
                    // The partition was sampled, but not when the last slot was taken.
                    track.series = Series::new(slot);
                }
                track.series.push(row.point);
            }
        }
        let generation = self.generation;
        for tracks in self.groups.values_mut() {
            tracks.retain(|_, track| track.generation == generation);
        }
        self.groups.retain(|_, tracks| !tracks.is_empty());
        self.tracks = self.groups.values().map(BTreeMap::len).sum();
        if is_slot {
            self.drop_old(now);
        }
    }

    fn open_slot(&mut self, now: TimestampMs) -> Slot {
        if self.slots.back().is_some_and(|last| now < last.at) {
            self.first_slot += self.slots.len() as Slot;
            self.slots.clear();
            for track in self.groups.values_mut().flat_map(BTreeMap::values_mut) {
                track.series = Series::new(self.first_slot);
            }
        }
        let interval_ms = self.slot_interval_ms();
        self.slots.push_back(SlotTime { at: now, interval_ms });
        self.first_slot + self.slots.len() as Slot - 1
    }

    /// Drops points that are too old, and then the oldest until the rest fits the bound.
    fn drop_old(&mut self, now: TimestampMs) {
        let kept_ms = i64::try_from(KEPT.as_millis()).unwrap_or(i64::MAX);
        let begin = now.get().saturating_sub(kept_ms);
        let old = self.slots.partition_point(|slot| slot.at.get() <= begin);
        self.drop_slots(old);
        while self.heap_bytes() > self.max_bytes && self.slots.len() > 1 {
            self.drop_slots(self.slots.len().div_ceil(16));
        }
    }

    fn drop_slots(&mut self, count: usize) {
        if count == 0 {
            return;
        }
        self.slots.drain(..count);
        if self.slots.capacity() > 2 * self.slots.len() + 64 {
            self.slots.shrink_to(self.slots.len() + 64);
        }
        self.first_slot += count as Slot;
        for track in self.groups.values_mut().flat_map(BTreeMap::values_mut) {
            track.series.drop_before(self.first_slot);
        }
    }

    fn heap_bytes(&self) -> usize {
        let tracks = self.groups.values().flat_map(BTreeMap::values);
        let of = |track: &Track| {
            size_of::<(PartitionId, Track)>() + track.window.heap_bytes() + track.series.heap_bytes()
        };
        tracks.map(of).sum::<usize>() + self.slots.capacity() * size_of::<SlotTime>()
    }
}

impl Track {
    fn new(first: Slot) -> Self {
        Self {
            window: Window::default(),
            series: Series::new(first),
            place: None,
            generation: 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::broker::engine::{Monotonic, TopicId};

    use super::super::window::Status;
    use super::*;

    const START: i64 = 1_700_000_000_000;

    fn id(index: u32) -> PartitionId {
        PartitionId::new(TopicId(1), index)
    }

    /// Partition `index` of `group`, `second` seconds in, with that lag.
    fn row(group: &str, index: u32, second: u64, lag: u64) -> Row {
        Row {
            group: group.into(),
            partition: id(index),
            sample: Sample {
                at: Monotonic(Duration::from_secs(second)),
                committed: Some(Offset::new(100)),
                last_commit: None,
                log_start_offset: Offset::ZERO,
                end_offset: Offset::new(100 + lag),
                is_idle: false,
            },
            point: Point {
                lag,
                next_timestamp: (lag > 0).then_some(TimestampMs(START)),
                bytes: lag * 10,
            },
        }
    }

    fn time(second: u64) -> TimestampMs {
        TimestampMs(START + second as i64 * 1000)
    }

    fn lags(history: &History, group: &str, index: u32) -> Vec<u64> {
        let recording = history.recording(group, TimestampMs(0), |found| found == id(index));
        let Some((_, series)) = recording.series.first() else {
            return Vec::new();
        };
        let points = series.points(recording.first);
        points.map(|(_, point)| point.lag).collect()
    }

    #[test]
    fn a_point_is_taken_every_ten_seconds_and_a_sample_each_time() {
        let history = History::default();
        for second in 0..=60 {
            history.sample(time(second), &[row("g", 0, second, 1000 + second)]);
        }
        assert_eq!(lags(&history, "g", 0), [1000, 1010, 1020, 1030, 1040, 1050, 1060]);
        let now = row("g", 0, 61, 1061).sample;
        let judged = history.judge("g", &[(id(0), now), (id(7), now)], true);
        assert_eq!(judged[0].0.status, Status::Stalled);
        assert_eq!(judged[0].0.rates.produce, 1.0);
        assert_eq!(judged[1].0, Verdict::default(), "nothing is known of it");
    }

    #[test]
    fn a_pair_that_leaves_is_dropped_and_starts_empty_when_it_returns() {
        let history = History::default();
        let both = |second| [row("g", 0, second, 1), row("h", 0, second, 2)];
        history.sample(time(0), &both(0));
        history.sample(time(10), &both(10));
        history.sample(time(15), &both(15)[..1]);
        assert_eq!(lags(&history, "h", 0), Vec::<u64>::new());
        history.sample(time(17), &both(17));
        history.sample(time(20), &both(20));
        assert_eq!(lags(&history, "g", 0), [1, 1, 1]);
        assert_eq!(lags(&history, "h", 0), [2]);
        history.sample(time(30), &[]);
        assert_eq!(history.state.lock().tracks, 0);
    }

    #[test]
    fn intervals_grow_with_the_number_of_pairs() {
        let mut state = State::default();
        for (tracks, seconds) in [
            (0, 10),
            (1000, 10),
            (1001, 20),
            (2000, 20),
            (2001, 40),
            (32_000, 320),
        ] {
            state.tracks = tracks;
            assert_eq!(state.slot_interval_ms(), seconds * 1000, "{tracks}");
        }
        let history = History::default();
        assert_eq!(history.sample_interval(), FINE_SAMPLE);
        let rows: Vec<Row> = (0..1001).map(|index| row("g", index, 0, 1)).collect();
        history.sample(time(0), &rows);
        assert_eq!(history.sample_interval(), COARSE_SAMPLE);
        assert!(!history.is_slot_due(time(10)));
        assert!(history.is_slot_due(time(20)));
    }

    #[test]
    fn sampled_pairs_are_bounded_and_a_group_that_has_no_room_for_all_has_no_history() {
        let history = History::default();
        history.state.lock().max_tracks = 3;
        let mut rows: Vec<Row> = (0..5).map(|index| row("g", index, 0, 1)).collect();
        rows.push(row("h", 0, 0, 1));
        history.sample(time(0), &rows);
        assert_eq!(history.state.lock().tracks, 3);
        history.sample(time(10), &rows[2..]);
        let all = || {
            let (_, groups, without) = history.recordings(TimestampMs(0), |_| true, |_| true);
            let groups = groups
                .iter()
                .map(|(group, series)| (group.to_string(), series.len()));
            (groups.collect::<Vec<_>>(), without)
        };
        // A sum of some of the pairs would be too small.
        assert_eq!(lags(&history, "g", 2), Vec::<u64>::new());
        assert_eq!(all(), (Vec::new(), 2));
        // Freed room is used again.
        history.sample(time(20), &rows[2..]);
        assert_eq!(history.state.lock().tracks, 3);
        assert_eq!(lags(&history, "g", 2), [1, 1, 1]);
        assert_eq!(all(), (vec![("g".to_owned(), 3)], 1));
    }

    #[test]
    fn points_are_kept_for_a_day() {
        let history = History::default();
        for slot in 0..10_000 {
            history.sample(time(slot * 10), &[row("g", 0, slot * 10, slot)]);
        }
        let lags = lags(&history, "g", 0);
        assert_eq!(lags.len(), 8640);
        assert_eq!(lags.first(), Some(&1360));
        assert_eq!(lags.last(), Some(&9999));
        assert!(history.heap_bytes() < 64 * 8640, "{}", history.heap_bytes());
    }

    #[test]
    fn the_oldest_points_are_dropped_when_memory_is_used_up() {
        let history = History::default();
        history.state.lock().max_bytes = 40_000;
        for slot in 0..5000 {
            let lag = slot * 7919 % 100_000;
            let rows = [row("g", 0, slot * 10, lag), row("g", 1, slot * 10, lag * 3)];
            history.sample(time(slot * 10), &rows);
            assert!(history.heap_bytes() <= 40_000);
        }
        let lags = lags(&history, "g", 0);
        assert_eq!(lags.last(), Some(&(4999 * 7919 % 100_000)));
        assert!((400..5000).contains(&lags.len()), "{}", lags.len());
    }

    #[test]
    fn a_clock_set_back_drops_the_points_and_a_small_step_back_waits() {
        let history = History::default();
        for (second, lag) in [(1000, 1), (1010, 2), (1009, 3), (1003, 4)] {
            history.sample(time(second), &[row("g", 0, second, lag)]);
        }
        assert_eq!(lags(&history, "g", 0), [1, 2]);
        history.sample(time(10), &[row("g", 0, 2000, 5)]);
        history.sample(time(20), &[row("g", 0, 2010, 6)]);
        assert_eq!(lags(&history, "g", 0), [5, 6]);
    }

    #[test]
    fn a_recording_has_the_requested_time_and_partitions() {
        let history = History::default();
        for slot in 0..100 {
            let rows = [row("g", 0, slot * 10, slot), row("g", 1, slot * 10, slot)];
            history.sample(time(slot * 10), &rows);
        }
        let recording = history.recording("g", time(900), |found| found == id(1));
        assert_eq!(recording.times.first(), Some(&time(900)));
        assert_eq!((recording.times.len(), recording.series.len()), (10, 1));
        let points: Vec<_> = recording.series[0].1.points(recording.first).collect();
        assert_eq!((points.len(), points[0].1.lag), (10, 90));
        assert!(history.recording("none", time(0), |_| true).series.is_empty());
    }

    #[test]
    fn a_place_is_remembered_for_sampled_pairs() {
        let history = History::default();
        let place = Place {
            next: Offset::new(3),
            end_offset: Offset::new(9),
            located: Located {
                bytes_to_end: 7,
                next: None,
                retention_time: None,
                batch: None,
            },
        };
        history.remember("g", &[(id(0), place)]);
        history.sample(time(0), &[row("g", 0, 0, 1)]);
        let now = [(id(0), row("g", 0, 1, 1).sample)];
        assert!(history.judge("g", &now, true)[0].1.is_none());
        history.remember("g", &[(id(0), place)]);
        let found = history.judge("g", &now, true)[0].1.unwrap().located.bytes_to_end;
        assert_eq!(found, 7);
    }
}
