//! Removes committed offsets that have been unused for long, if `offsets_retention_ms` is set.
//!
//! A group ages while it has no members, commits nothing and changes no subscription, and only while the server runs. A
//! restart resets its age: members do not survive a restart, and a group that waits for an idle topic has an old commit
//! and is alive all the same. The age is measured on the monotonic clock, so setting the wall clock forward expires
//! nothing; the newest commit must also be old enough by the wall clock.
//!
//! A group is removed with its last offset. A group with redriven dead letters keeps their fates (see
//! [`letters`]): without them a redrive could give records back twice. A group that has neither committed nor subscribed
//! stays: its age is unknown, and it costs only its name. A classic one has no subscription, and ages since it was first
//! seen without members.
//!
//! Removing a group is one append: a crash leaves all of it or nothing.

use std::collections::HashMap;
use std::time::Duration;

use super::classic::stored;
use super::members::Ms;
use super::offsets::{self, Committed};
use super::repeats;
use super::shared::{codec, letters};
use super::subscriptions::{patterns_prefix, subscribed_at, subscriptions_prefix};
use super::{Groups, generation};
use crate::broker::engine::{Error, Log, StateChange, TimestampMs};

/// The shortest time between two checks.
const LEAST_INTERVAL: Duration = Duration::from_secs(1);
/// The longest, well below the time for which a group without members is remembered.
const MOST_INTERVAL: Duration = Duration::from_secs(300);

/// A group whose offsets were removed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expired {
    /// Its name.
    pub group: String,
    /// How many committed offsets it had.
    pub offsets: usize,
    /// The age of the newest of them, by the wall clock; the retention, if it had none.
    pub age: Duration,
    /// The group had no other state, so it is removed too.
    pub is_deleted: bool,
}

/// The time of something of which no time is stored: long ago.
const UNKNOWN: TimestampMs = TimestampMs(0);

/// What earlier checks saw of the groups.
#[derive(Debug, Default)]
pub struct Expiry {
    groups: HashMap<String, Seen>,
}

/// A group without members, as a check saw it.
#[derive(Clone, Copy, Debug)]
struct Seen {
    newest: TimestampMs,
    /// Since when the group has had no members and this newest commit.
    since: Ms,
}

impl Expiry {
    /// Checks every group, and removes the offsets older than `retention`; returns once that is durable. Locks one
    /// group at a time, so other groups' commits wait no longer than for any deletion.
    ///
    /// Cost: a walk over the state of all groups.
    ///
    /// # Errors
    /// Those of [`Log::append`]: the next check retries the remaining groups.
    pub async fn look(&mut self, groups: &Groups, retention: Duration) -> Result<Vec<Expired>, Error> {
        let (looking, mut seen) = (groups.clone(), std::mem::take(self));
        let looked = tokio::task::spawn_blocking(move || {
            let due = seen.due(&looking, retention);
            (seen, due)
        });
        // This fails only if the task panics or the runtime ends.
        let (seen, due) = looked.await.map_err(|_| Error::Closed)?;
        *self = seen;
        let mut expired = Vec::new();
        for group in due {
            // Until the guard is dropped, nobody joins, commits or deletes.
            let guard = groups.alone().await;
            let Some(plan) = Plan::of(&groups.log, &group) else {
                continue;
            };
            if self
                .groups
                .get(&group)
                .is_none_or(|seen| seen.newest != plan.newest)
            {
                continue;
            }
            let Some(outside) = groups.begin_outside(&group) else {
                continue;
            };
            let log = groups.log.clone();
            let (changes, done) = (
                plan.changes,
                Expired {
                    offsets: plan.offsets,
                    age: match plan.newest {
                        UNKNOWN => retention,
                        newest => age(newest, groups.clock.now()),
                    },
                    is_deleted: plan.is_deleted,
                    group,
                },
            );
            super::finish(
                (guard, outside),
                async move { super::append(&log, changes).await },
            )
            .await?;
            self.groups.remove(&done.group);
            tracing::info!(
                group = done.group,
                offsets = done.offsets,
                age_ms = u64::try_from(done.age.as_millis()).unwrap_or(u64::MAX),
                deleted = done.is_deleted,
                "the group had no members and committed nothing for offsets_retention_ms: its offsets are removed"
            );
            expired.push(done);
        }
        Ok(expired)
    }

    /// The groups whose age exceeds the retention.
    fn due(&mut self, groups: &Groups, retention: Duration) -> Vec<String> {
        let (now, wall) = (groups.now_ms(), groups.clock.now());
        let names = groups.names();
        self.groups.retain(|group, _| names.binary_search(group).is_ok());
        let mut due = Vec::new();
        for group in names {
            let Some(newest) = newest(&groups.log, &group) else {
                self.groups.remove(&group);
                continue;
            };
            let seen = self
                .groups
                .entry(group.clone())
                .or_insert(Seen { newest, since: now });
            if seen.newest != newest {
                *seen = Seen { newest, since: now };
            }
            if let Some(last) = groups.coordinator.had_members(&group, now) {
                seen.since = seen.since.max(last);
            }
            let waited = Duration::from_millis(now.saturating_sub(seen.since));
            if waited >= retention && age(newest, wall) >= retention {
                due.push(group);
            }
        }
        due
    }
}

/// How long to wait between two checks.
pub fn interval(retention: Duration) -> Duration {
    (retention / 10).clamp(LEAST_INTERVAL, MOST_INTERVAL)
}

/// Checks repeatedly until the server stops; returns at once if offsets are kept for ever. Spawn it once.
pub async fn run(groups: Groups, retention: Option<Duration>) {
    let Some(retention) = retention else { return };
    let mut stopping = groups.stopping.clone();
    let mut expiry = Expiry::default();
    loop {
        if let Err(error) = expiry.look(&groups, retention).await {
            tracing::warn!(%error, "old offsets of groups could not be removed; the next check retries");
        }
        tokio::select! {
            () = tokio::time::sleep(interval(retention)) => {}
            // An error means that the service is gone, which also ends this task.
            _ = stopping.wait_for(|stopping| *stopping) => return,
        }
    }
}

/// The state that a group's removal deletes.
struct Plan {
    newest: TimestampMs,
    offsets: usize,
    changes: Vec<StateChange>,
    is_deleted: bool,
}

impl Plan {
    /// `None` for a group that has neither committed nor subscribed, and is not classic.
    fn of(log: &Log, group: &str) -> Option<Self> {
        let newest = newest(log, group)?;
        let keys = |prefix: &[u8]| log.state_prefix(prefix).into_iter().map(|(key, _)| key);
        let is_deleted = keys(&letters::fates_prefix(group)).next().is_none();
        let mut changes: Vec<StateChange> = keys(&offsets::offsets_prefix(group))
            .map(|key| StateChange::remove(&*key))
            .collect();
        let offsets = changes.len();
        let prefixes = [
            subscriptions_prefix(group),
            patterns_prefix(group),
            codec::states_prefix(group),
            repeats::group_prefix(group),
            stored::members_prefix(group),
        ];
        for prefix in prefixes {
            changes.extend(keys(&prefix).map(|key| StateChange::remove(&*key)));
        }
        match is_deleted {
            true => {
                let own = [
                    offsets::group_key(group),
                    generation::key(group),
                    stored::key(group),
                ];
                changes.extend(own.into_iter().map(StateChange::remove));
            }
            false => changes.push(generation::begin(group)),
        }
        Some(Self {
            newest,
            offsets,
            changes,
            is_deleted,
        })
    }
}

/// When a group last committed or changed its subscription; [`UNKNOWN`] if it did neither and is classic. `None` if it did
/// neither, or an entry is unreadable.
fn newest(log: &Log, group: &str) -> Option<TimestampMs> {
    let committed = log.state_prefix(&offsets::offsets_prefix(group));
    let committed = committed
        .iter()
        .map(|(_, value)| Some(Committed::decode(value).ok()?.last_commit));
    let mut subscribed = log.state_prefix(&subscriptions_prefix(group));
    subscribed.extend(log.state_prefix(&patterns_prefix(group)));
    let subscribed = subscribed.iter().map(|(_, value)| subscribed_at(value));
    let times: Vec<TimestampMs> = committed.chain(subscribed).collect::<Option<_>>()?;
    let is_classic = || stored::is_classic(log, group).then_some(UNKNOWN);
    times.into_iter().max().or_else(is_classic)
}

fn age(newest: TimestampMs, now: TimestampMs) -> Duration {
    Duration::from_millis(u64::try_from(now.get().saturating_sub(newest.get())).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use crate::broker::caller::Caller;
    use crate::broker::engine::sim::{SimClock, SimDisk};
    use crate::broker::engine::{Offset, PartitionId};

    use super::super::Commit;
    use super::super::live::GroupType;
    use super::super::membership::Join;
    use super::super::shared::settings::{GroupValue, Settings};
    use super::*;
    use crate::broker::Broker;
    use crate::broker::state_keys::AUDIT;

    const NOW: TimestampMs = TimestampMs(1_700_000_000_000);
    const DAY: Duration = Duration::from_secs(86_400);
    const MS: Duration = Duration::from_millis(1);

    struct World {
        disk: SimDisk,
        clock: SimClock,
        broker: Broker,
        expiry: Expiry,
    }

    impl World {
        fn new() -> Self {
            let (disk, clock) = (SimDisk::new(1), SimClock::new(NOW));
            let broker = Broker::on(&disk, &clock).unwrap();
            broker
                .topics
                .create(&Caller::default(), "orders", Some(4), &[])
                .unwrap();
            let expiry = Expiry::default();
            Self {
                disk,
                clock,
                broker,
                expiry,
            }
        }

        fn restarted(self) -> Self {
            self.broker.log.close().unwrap();
            drop(self.broker);
            let broker = Broker::on(&self.disk, &self.clock).unwrap();
            let expiry = Expiry::default();
            Self {
                broker,
                expiry,
                ..self
            }
        }

        fn groups(&self) -> &Groups {
            &self.broker.groups
        }

        fn partition(&self, index: u32) -> PartitionId {
            let topic = self.broker.log.topic("orders").unwrap().id();
            PartitionId::new(topic, index)
        }

        async fn commit(&self, group: &str, partitions: u32) {
            let commit = |index| {
                let (partition, offset, metadata) = (self.partition(index), Offset::ZERO, None);
                Commit {
                    partition,
                    offset,
                    leader_epoch: None,
                    metadata,
                }
            };
            let commits = (0..partitions).map(commit).collect();
            let guard = self.broker.groups.commits().await;
            self.groups().commit(guard, group, commits).await.unwrap();
        }

        async fn join(&self, group: &str, kind: GroupType) {
            let request = Join {
                session_timeout: 1_000_000_000_000,
                ..Join::of(&["orders"], kind)
            };
            self.groups()
                .join(&Caller::default(), group, Some("a"), request)
                .await
                .unwrap();
        }

        /// Checks when `passed` is over; returns the names of the expired groups.
        async fn look_after(&mut self, passed: Duration) -> Vec<String> {
            self.clock.advance(passed);
            let expired = self.expiry.look(&self.broker.groups, DAY).await.unwrap();
            expired.into_iter().map(|expired| expired.group).collect()
        }

        /// How many entries the state has, without those of the audit log, and their bytes.
        fn state(&self) -> (usize, usize) {
            let mut rows = self.broker.log.state_prefix(b"");
            rows.retain(|(key, _)| key[0] != AUDIT);
            let bytes = rows.iter().map(|(key, value)| key.len() + value.len()).sum();
            (rows.len(), bytes)
        }
    }

    #[tokio::test]
    async fn a_group_expires_a_retention_after_its_newest_commit_and_is_gone_after_a_restart() {
        let mut world = World::new();
        world.commit("old", 4).await;
        assert_eq!(world.look_after(Duration::ZERO).await, [""; 0]);
        world.clock.advance(DAY / 2);
        world.commit("newer", 1).await;
        assert_eq!(world.look_after(DAY / 2 - MS).await, [""; 0]);
        world.clock.advance(MS);
        let expired = world.expiry.look(&world.broker.groups, DAY).await.unwrap();
        let old = Expired {
            group: "old".to_owned(),
            offsets: 4,
            age: DAY,
            is_deleted: true,
        };
        assert_eq!(expired, [old]);
        let world = world.restarted();
        assert_eq!(world.groups().names(), ["newer"]);
        assert_eq!(world.state().0, 3, "the group, its generation and its one offset");
    }

    #[tokio::test]
    async fn a_commit_resets_the_age_even_between_the_check_and_the_removal() {
        let mut world = World::new();
        world.commit("g", 1).await;
        world.look_after(Duration::ZERO).await;
        world.clock.advance(DAY);
        assert_eq!(world.expiry.due(&world.broker.groups, DAY), ["g"]);
        world.commit("g", 1).await;
        assert_eq!(world.look_after(DAY - MS).await, [""; 0]);
        assert_eq!(world.look_after(DAY).await, ["g"]);
    }

    #[tokio::test]
    async fn a_group_keeps_its_offsets_while_it_has_members_and_for_the_retention_after_the_last_has_gone() {
        let mut world = World::new();
        world.commit("g", 1).await;
        world.join("g", GroupType::Ordered).await;
        assert_eq!(world.look_after(DAY * 10).await, [""; 0]);
        world
            .groups()
            .leave(&Caller::default(), "g", "a", None)
            .await
            .unwrap();
        assert_eq!(world.look_after(DAY - MS).await, [""; 0]);
        assert_eq!(world.look_after(MS).await, ["g"]);
    }

    #[tokio::test]
    async fn a_group_that_never_committed_expires_a_retention_after_its_last_member_has_gone() {
        let mut world = World::new();
        world.join("g", GroupType::Ordered).await;
        assert_eq!(world.look_after(DAY * 10).await, [""; 0]);
        world
            .groups()
            .leave(&Caller::default(), "g", "a", None)
            .await
            .unwrap();
        assert_eq!(world.look_after(DAY - MS).await, [""; 0]);
        assert_eq!(world.look_after(MS).await, ["g"]);
        assert_eq!(world.state().0, 0, "its subscription is gone too");
    }

    #[tokio::test]
    async fn an_answered_join_has_subscribed_the_group_whatever_happens_to_the_server() {
        let world = World::new();
        let orders = world.partition(0).topic;
        for (group, kind) in [("ordered", GroupType::Ordered), ("shared", GroupType::Shared)] {
            world.join(group, kind).await;
        }
        for disk in [world.disk.after_kill(), world.disk.after_power_cut()] {
            let broker = Broker::on(&disk, &world.clock).unwrap();
            for group in ["ordered", "shared"] {
                let topics = super::super::subscriptions::topics(&broker.log, group);
                assert_eq!(topics, [orders].into(), "{group}");
            }
        }
    }

    #[tokio::test]
    async fn neither_a_restart_nor_a_clock_jump_expires_offsets_in_use() {
        let mut world = World::new();
        world.commit("g", 1).await;
        world.look_after(Duration::ZERO).await;
        world.clock.advance(DAY * 10);
        let mut world = world.restarted();
        assert_eq!(world.look_after(Duration::ZERO).await, [""; 0]);
        world.clock.set_wall(TimestampMs(NOW.get() * 2));
        assert_eq!(world.look_after(DAY / 2).await, [""; 0]);
        assert_eq!(world.look_after(DAY / 2).await, ["g"]);
    }

    #[tokio::test]
    async fn an_expired_shared_group_keeps_only_its_redrive_positions() {
        let mut world = World::new();
        let shared = GroupValue::Shared(Settings::default());
        for group in ["plain", "redriven"] {
            let guard = world.broker.groups.alone().await;
            let made = world
                .groups()
                .make(guard, group, &shared, Default::default(), Vec::new());
            made.await.unwrap();
            world.commit(group, 1).await;
            let key = codec::state_key(group, world.partition(0));
            let mut state = vec![StateChange::set(key, vec![1])];
            if group == "redriven" {
                let key = [letters::fates_prefix(group), vec![0; 12]].concat();
                state.push(StateChange::set(key, vec![1; 9]));
            }
            super::super::append(&world.broker.log, state).await.unwrap();
        }
        world.look_after(Duration::ZERO).await;
        assert_eq!(world.look_after(DAY).await, ["plain", "redriven"]);
        assert!(!world.groups().exists("plain"));
        assert!(world.groups().exists("redriven"));
        assert_eq!(
            world.state().0,
            3,
            "its settings, its generation, and how far it was sent back"
        );
        // Nothing is left to expire.
        assert_eq!(world.look_after(DAY * 2).await, [""; 0]);
    }

    #[tokio::test]
    async fn a_group_without_commits_or_with_unreadable_state_is_kept() {
        let mut world = World::new();
        world.commit("none", 0).await;
        world.commit("unreadable", 2).await;
        let broken = StateChange::set(offsets::offset_key("unreadable", world.partition(1)), vec![9]);
        let answer = super::super::append(&world.broker.log, vec![broken]).await;
        answer.unwrap();
        world.look_after(Duration::ZERO).await;
        assert_eq!(world.look_after(DAY * 2).await, [""; 0]);
        assert_eq!(world.groups().names(), ["none", "unreadable"]);
    }

    #[tokio::test]
    async fn a_classic_group_that_never_committed_expires_a_retention_after_it_was_seen_without_members() {
        let mut world = World::new();
        world.commit("g", 0).await;
        let generation = stored::save(&world.broker.log, "g", &stored::Generation::default());
        super::super::append(&world.broker.log, generation).await.unwrap();
        assert_eq!(world.look_after(Duration::ZERO).await, [""; 0]);
        assert_eq!(world.look_after(DAY - MS).await, [""; 0]);
        assert_eq!(world.look_after(MS).await, ["g"]);
        assert_eq!(world.state().0, 0);
    }

    #[tokio::test]
    async fn an_idle_group_costs_its_offsets_and_nothing_in_memory_besides() {
        let world = World::new();
        world.join("g", GroupType::Ordered).await;
        world.commit("g", 4).await;
        world
            .groups()
            .leave(&Caller::default(), "g", "a", None)
            .await
            .unwrap();
        let coordinator = &world.broker.groups.coordinator;
        assert!(coordinator.find("g").is_some(), "a late acknowledgement is known");
        world.clock.advance(Duration::from_secs(601));
        coordinator.tick(world.groups().now());
        assert!(coordinator.find("g").is_none());
        let (rows, bytes) = world.state();
        assert_eq!(
            rows, 7,
            "the group, its generation, a subscription, and four committed offsets"
        );
        assert!(bytes <= 200, "{bytes} bytes");
    }

    #[test]
    fn the_check_interval_follows_the_retention() {
        for (retention_s, interval_s) in [(1, 1), (20, 2), (600, 60), (86_400, 300)] {
            let retention = Duration::from_secs(retention_s);
            let expected = Duration::from_secs(interval_s);
            assert_eq!(interval(retention), expected, "{retention:?}");
        }
    }
}
