//! Classic groups over a broker on a simulated disk: what is durable when, over power cuts; which kinds of groups meet; and
//! what commits do.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::commits::CommitRow;
use super::rebalance::Phase;
use super::*;
use crate::broker::Broker;
use crate::broker::caller::Caller;
use crate::broker::engine::sim::{SimClock, SimDisk};
use crate::broker::engine::{Offset, TimestampMs};
use crate::broker::groups::alter::Alteration;
use crate::broker::groups::live::{GroupState, GroupType};
use crate::broker::groups::membership::Join;
use crate::broker::groups::outside::NamedCommit;
use crate::broker::groups::reset::{Reset, Target};
use crate::broker::refusal::Reason;
use crate::broker::topics::lookup::Start;

const NOW: TimestampMs = TimestampMs(1_700_000_000_000);
/// An assignment of partition 1 of `orders`.
const PARTITION_1: &[u8] = b"\0\x01\0\0\0\x01\0\x06orders\0\0\0\x01\0\0\0\x01\xff\xff\xff\xff";
const SUBSCRIPTION: &[u8] = b"\0\x01\0\0\0\x01\0\x06orders\xff\xff\xff\xff";

struct World {
    disk: SimDisk,
    clock: Arc<SimClock>,
    broker: Broker,
}

fn joining(client: &str, instance: Option<&str>) -> Joining {
    Joining {
        member: None,
        fresh: calls::fresh_id(Some(client)),
        instance: instance.map(Arc::from),
        client_id: Some(client.to_owned()),
        address: Some("127.0.0.1".to_owned()),
        protocol_type: "consumer".into(),
        protocols: vec![("range".into(), Bytes::from_static(SUBSCRIPTION))],
        session_timeout: 10_000,
        rebalance_timeout: 60_000,
        needs_id: false,
        may_skip: false,
    }
}

fn who(joined: &Joined) -> Identity<'_> {
    Identity {
        member: &joined.member,
        instance: None,
        generation_id: joined.generation_id,
    }
}

const NOBODY: Identity<'static> = Identity {
    member: "",
    instance: None,
    generation_id: -1,
};

fn row(offset: u64) -> CommitRow {
    CommitRow {
        topic: "orders".to_owned(),
        partition: 1,
        offset: Some(offset),
        leader_epoch: Some(0),
        metadata: Some("m".to_owned()),
    }
}

fn ordered() -> Join {
    Join {
        session_timeout: 10_000,
        ..Join::of(&["orders"], GroupType::Ordered)
    }
}

impl World {
    fn new(seed: u64) -> Self {
        let (disk, clock) = (SimDisk::new(seed), Arc::new(SimClock::new(NOW)));
        let broker = Broker::on(&disk, &clock).unwrap();
        let created = broker.topics.create(&Caller::default(), "orders", Some(2), &[]);
        created.unwrap();
        Self { disk, clock, broker }
    }

    fn restart(&mut self, disk: SimDisk) {
        self.broker = Broker::on(&disk, &self.clock).unwrap();
        self.disk = disk;
    }

    /// Lets the clock run, and the group notice.
    fn advance(&self, ms: u64) {
        self.clock.advance(Duration::from_millis(ms));
        self.broker.groups.describe("g");
    }

    /// Lets clients join the group, the first one as its leader, and ends the rebalance.
    async fn join(&self, clients: Vec<Joining>) -> Vec<Result<Joined, Denied>> {
        let mut tasks = Vec::new();
        for (index, joining) in clients.into_iter().enumerate() {
            let groups = self.broker.groups.clone();
            tasks.push(tokio::spawn(async move {
                groups.join_classic(&Caller::default(), "g", &joining).await
            }));
            while self.broker.groups.describe("g").len() <= index && !tasks[index].is_finished() {
                tokio::task::yield_now().await;
            }
        }
        self.advance(INITIAL_DELAY_MS);
        self.advance(MOST_INITIAL_DELAY_MS);
        let mut joined = Vec::new();
        for task in tasks {
            joined.push(task.await.unwrap());
        }
        joined
    }

    /// The leader gives partition 1 to every member.
    async fn sync(&self, joined: &[Joined]) -> Vec<Result<Synced, Denied>> {
        let leader = joined.iter().find(|joined| joined.leader == joined.member);
        let members = leader.map_or(&[][..], |leader| &leader.members);
        let give = |row: &JoinedMember| (Arc::clone(&row.member), Bytes::from_static(PARTITION_1));
        let assignments: Vec<(Arc<str>, Bytes)> = members.iter().map(give).collect();
        let nobody = Caller::default();
        let syncs = joined.iter().map(|joined| {
            let leads = joined.leader == joined.member;
            let syncing = Syncing {
                who: who(joined),
                protocol_type: Some("consumer"),
                protocol: Some("range"),
                assignments: if leads { assignments.clone() } else { Vec::new() },
            };
            let (groups, nobody) = (&self.broker.groups, &nobody);
            async move { groups.sync_classic(nobody, "g", &syncing).await }
        });
        futures_util::future::join_all(syncs).await
    }

    /// A group with two members and their assignments.
    async fn two_members(&self) -> Vec<Joined> {
        let joined = self.join(vec![joining("a", None), joining("b", None)]).await;
        let joined: Vec<Joined> = joined.into_iter().map(Result::unwrap).collect();
        for synced in self.sync(&joined).await {
            assert_eq!(synced.unwrap().assignment, PARTITION_1);
        }
        joined
    }

    async fn commit(&self, who: &Identity<'_>, row: CommitRow) -> Result<Result<(), Reason>, Denied> {
        let groups = &self.broker.groups;
        let mut results = groups
            .commit_classic(&Caller::default(), "g", who, true, &[row])
            .await?;
        Ok(results.remove(0).map_err(|refusal| refusal.reason))
    }

    async fn leave(&self, joined: &[Joined]) {
        let (nobody, groups) = (Caller::default(), &self.broker.groups);
        for joined in joined {
            let members = [(Some(&*joined.member), None)];
            let left = groups.leave_classic(&nobody, "g", &members).await.unwrap();
            assert!(left[0].is_ok());
        }
    }
}

#[tokio::test]
async fn a_power_cut_at_any_call_of_the_disk_leaves_a_generation_as_its_members_know_it_or_none() {
    let mut stored = 0;
    for calls in 1..30 {
        let mut world = World::new(calls);
        let joined = world.join(vec![joining("a", None), joining("b", None)]).await;
        let joined: Vec<Joined> = joined.into_iter().map(Result::unwrap).collect();
        world.disk.stop_at(calls);
        let synced = world.sync(&joined).await;
        let is_told = synced.iter().any(Result::is_ok);
        let disk = match calls % 2 {
            0 => world.disk.after_power_cut(),
            _ => world.disk.after_kill(),
        };
        world.restart(disk);
        let members = world.broker.groups.describe("g");
        assert!(
            !is_told || members.len() == 2,
            "a member was told what is not stored"
        );
        assert!(
            members.is_empty() || members.len() == 2,
            "all of a generation or nothing of it"
        );
        let is_stored = !members.is_empty();
        stored += u32::from(is_stored);
        for joined in &joined {
            let committed = world.commit(&who(joined), row(0)).await;
            assert_eq!(committed.is_ok(), is_stored, "{calls} {committed:?}");
            let nobody = Caller::default();
            let beat = world.broker.groups.heartbeat_classic(&nobody, "g", &who(joined));
            assert_eq!(beat.is_ok(), is_stored);
        }
        for member in members {
            assert_eq!(member.assignment, [(Arc::from("orders"), 1)]);
        }
    }
    assert!((1..29).contains(&stored), "{stored}: both cases were met");
}

#[tokio::test]
async fn members_that_stay_away_after_a_restart_lose_their_place_when_their_sessions_end() {
    let mut world = World::new(1);
    let joined = world.two_members().await;
    world.restart(world.disk.after_kill());
    let live = world.broker.groups.live("g").unwrap();
    assert_eq!(
        (live.kind, live.members, live.state),
        (GroupType::Classic, 2, GroupState::Stable)
    );
    let partition = live.partitions.iter().next().unwrap();
    assert_eq!((partition.0.index, partition.1.is_some()), (1, true));
    world.advance(9_000);
    let nobody = Caller::default();
    let groups = &world.broker.groups;
    groups.heartbeat_classic(&nobody, "g", &who(&joined[1])).unwrap();
    world.advance(1_000);
    let beat = groups.heartbeat_classic(&nobody, "g", &who(&joined[1]));
    assert!(matches!(beat, Err(Denied::Rebalancing)), "{beat:?}");
    let beat = groups.heartbeat_classic(&nobody, "g", &who(&joined[0]));
    assert!(matches!(beat, Err(Denied::UnknownMember)), "{beat:?}");
}

#[tokio::test]
async fn that_the_last_member_has_left_is_durable_and_its_offsets_can_be_reset_at_once() {
    let mut world = World::new(2);
    let joined = world.two_members().await;
    assert_eq!(world.commit(&who(&joined[0]), row(0)).await.unwrap(), Ok(()));
    let reset = |while_active| Reset {
        topics: None,
        partitions: None,
        to: Target::At(Start::Latest),
        dry_run: false,
        while_active,
        preview: None,
    };
    let nobody = Caller::default();
    for while_active in [false, true] {
        let refusal = world.broker.groups.reset(&nobody, "g", reset(while_active)).await;
        assert_eq!(refusal.unwrap_err().reason, Reason::GroupActive);
    }
    let refusal = world.broker.groups.delete(&nobody, "g").await.unwrap_err();
    assert_eq!(refusal.reason, Reason::GroupActive);
    let refusal = world
        .broker
        .groups
        .forget_topic(&nobody, "g", "orders")
        .await
        .unwrap_err();
    assert_eq!(refusal.reason, Reason::GroupActive);
    world.leave(&joined[..1]).await;
    // The other one is removed by somebody else.
    let kicked = world
        .broker
        .groups
        .leave(&nobody, "g", &joined[1].member, None)
        .await;
    kicked.unwrap();
    world.restart(world.disk.after_power_cut());
    assert!(world.broker.groups.live("g").is_none());
    assert_eq!(world.broker.groups.kind_of("g"), GroupType::Classic);
    world
        .broker
        .groups
        .reset(&nobody, "g", reset(false))
        .await
        .unwrap();
    // The numbers of generations go on.
    let again = world.join(vec![joining("a", None)]).await.remove(0).unwrap();
    assert!(again.generation_id > joined[0].generation_id, "{again:?}");
    world.leave(&[again]).await;
    world.broker.groups.delete(&nobody, "g").await.unwrap();
    assert!(!world.broker.groups.exists("g"));
    assert_eq!(
        world.broker.log.state_prefix(b"c").len() + world.broker.log.state_prefix(b"mg").len(),
        0
    );
}

#[tokio::test]
async fn a_group_has_one_kind_at_a_time_and_becomes_another_when_it_has_no_members() {
    let world = World::new(3);
    let (nobody, groups) = (Caller::default(), &world.broker.groups);
    groups.join(&nobody, "g", Some("h"), ordered()).await.unwrap();
    let denied = world.join(vec![joining("a", None)]).await.remove(0);
    assert!(matches!(denied, Err(Denied::InconsistentProtocol)), "{denied:?}");
    let denied = world.commit(&NOBODY, row(0)).await;
    assert!(matches!(denied, Err(Denied::UnknownMember)), "{denied:?}");
    let described = groups.describe_classic(&nobody, "g");
    assert!(matches!(described, Err(Denied::InconsistentProtocol)));
    groups.leave(&nobody, "g", "h", None).await.unwrap();

    let joined = world.two_members().await;
    assert_eq!(groups.overview("g").kind, GroupType::Classic);
    let refusal = groups.join(&nobody, "g", Some("h"), ordered()).await.unwrap_err();
    assert_eq!(refusal.reason, Reason::GroupActive);
    let named = NamedCommit {
        topic: "orders".to_owned(),
        partition: 0,
        offset: 0,
        metadata: None,
    };
    let refusal = groups
        .commit_outside(&nobody, "g", std::slice::from_ref(&named))
        .await
        .unwrap_err();
    assert_eq!(refusal.reason, Reason::GroupActive);
    let refusal = groups
        .commit_as(&nobody, "g", "h", (1, None), &[named], None)
        .await
        .unwrap_err();
    assert_eq!(refusal.reason, Reason::GroupActive);
    let filter = crate::broker::filter::Filter::from_fields(
        &[("key".to_owned(), vec!["c7".to_owned()])].into_iter().collect(),
    );
    let filters = Alteration {
        filter: Some(Arc::new(filter.unwrap())),
        ..Alteration::default()
    };
    let refusal = groups.alter(&nobody, "g", &filters).await.unwrap_err();
    assert_eq!(refusal.reason, Reason::GroupActive);
    let described = groups.describe_classic(&nobody, "g").unwrap().unwrap();
    assert_eq!(
        (described.phase, &*described.protocol, described.members.len()),
        (Phase::Stable, "range", 2)
    );
    assert_eq!(described.members[0].assignment, PARTITION_1);

    world.leave(&joined).await;
    assert_eq!(
        groups.describe_classic(&nobody, "g").unwrap().unwrap().phase,
        Phase::Empty
    );
    groups.join(&nobody, "g", Some("h"), ordered()).await.unwrap();
    assert_eq!(groups.overview("g").kind, GroupType::Ordered);
    assert_eq!(world.broker.log.state_prefix(b"cg").len(), 0);
    groups.leave(&nobody, "g", "h", None).await.unwrap();

    // Kafka's clients cannot filter, and a queue has no partitions to assign.
    groups.alter(&nobody, "g", &filters).await.unwrap();
    let denied = world.join(vec![joining("a", None)]).await.remove(0);
    assert!(matches!(denied, Err(Denied::InconsistentProtocol)), "{denied:?}");
    groups.delete(&nobody, "g").await.unwrap();
    let shared = Join {
        kind: GroupType::Shared,
        ..ordered()
    };
    groups.join(&nobody, "g", Some("h"), shared).await.unwrap();
    groups.leave(&nobody, "g", "h", None).await.unwrap();
    let denied = world.join(vec![joining("a", None)]).await.remove(0);
    assert!(matches!(denied, Err(Denied::InconsistentProtocol)), "{denied:?}");
    let denied = world.commit(&NOBODY, row(0)).await;
    assert!(matches!(denied, Err(Denied::Refused(refusal)) if refusal.reason == Reason::GroupTypeMismatch));
}

#[tokio::test]
async fn commits_are_kept_with_what_the_client_sends_and_refused_as_kafka_refuses_them() {
    let mut world = World::new(4);
    let first = Identity {
        member: "m",
        generation_id: 1,
        ..NOBODY
    };
    let denied = world.commit(&first, row(0)).await;
    assert!(
        matches!(denied, Err(Denied::IllegalGeneration)),
        "an unknown group: {denied:?}"
    );
    assert_eq!(
        world.commit(&NOBODY, row(0)).await.unwrap(),
        Ok(()),
        "it makes the group"
    );
    let denied = world.commit(&first, row(0)).await;
    assert!(matches!(denied, Err(Denied::UnknownMember)), "{denied:?}");

    let joined = world.two_members().await;
    let member = who(&joined[0]);
    let denied = world.commit(&NOBODY, row(0)).await;
    assert!(matches!(denied, Err(Denied::UnknownMember)), "{denied:?}");
    let older = Identity {
        generation_id: member.generation_id - 1,
        ..member
    };
    let denied = world.commit(&older, row(0)).await;
    assert!(matches!(denied, Err(Denied::IllegalGeneration)), "{denied:?}");
    let long = CommitRow {
        metadata: Some("x".repeat(4097)),
        ..row(0)
    };
    assert_eq!(
        world.commit(&member, long).await.unwrap(),
        Err(Reason::InvalidRequest)
    );
    let elsewhere = CommitRow {
        partition: 2,
        ..row(0)
    };
    assert_eq!(
        world.commit(&member, elsewhere).await.unwrap(),
        Err(Reason::UnknownPartition)
    );
    // Beyond the end, and back.
    for offset in [1_000_000, 7] {
        assert_eq!(world.commit(&member, row(offset)).await.unwrap(), Ok(()));
        assert_eq!(world.broker.lags.of("g").total.lag.lag, 0);
    }
    world.restart(world.disk.after_kill());
    let all = world.broker.groups.committed("g");
    let committed = all.values().next().unwrap();
    assert_eq!(all.len(), 1);
    assert_eq!(
        (
            committed.offset,
            committed.leader_epoch,
            committed.metadata.as_deref()
        ),
        (Offset::new(7), Some(0), Some("m"))
    );
    let withdrawn = CommitRow {
        offset: None,
        ..row(0)
    };
    assert_eq!(world.commit(&member, withdrawn).await.unwrap(), Ok(()));
    assert!(world.broker.groups.committed("g").is_empty());
}

#[tokio::test]
async fn offsets_are_deleted_where_no_member_subscribes() {
    let world = World::new(7);
    let (nobody, groups) = (Caller::default(), world.broker.groups.clone());
    groups.topics.create(&nobody, "other", Some(1), &[]).unwrap();
    let joined = world.two_members().await;
    let other = CommitRow {
        topic: "other".to_owned(),
        partition: 0,
        ..row(0)
    };
    for row in [other, row(0)] {
        assert_eq!(world.commit(&who(&joined[0]), row).await.unwrap(), Ok(()));
    }
    let rows = [("orders".to_owned(), vec![1]), ("other".to_owned(), vec![0, 7])];
    let delete = async || {
        let deleted = groups.delete_offsets(&nobody, "g", &rows).await.unwrap().concat();
        let deleted = deleted
            .into_iter()
            .map(|result| result.map_err(|refusal| refusal.reason));
        deleted.collect::<Vec<_>>()
    };
    let unknown = Err(Reason::UnknownPartition);
    assert_eq!(delete().await, [Err(Reason::GroupActive), Ok(()), unknown]);
    assert_eq!(groups.committed("g").len(), 1);
    world.leave(&joined).await;
    assert_eq!(delete().await, [Ok(()), Ok(()), unknown]);
    assert!(groups.committed("g").is_empty());
    let none = groups.delete_offsets(&nobody, "h", &rows).await;
    assert!(matches!(none, Err(Denied::Refused(refusal)) if refusal.reason == Reason::UnknownGroup));
}

#[tokio::test]
async fn a_static_member_that_starts_again_takes_its_place_durably_and_without_a_rebalance() {
    let mut world = World::new(5);
    let joined = world
        .join(vec![joining("a", Some("i1")), joining("b", None)])
        .await;
    let joined: Vec<Joined> = joined.into_iter().map(Result::unwrap).collect();
    world.sync(&joined).await;
    let (nobody, groups) = (Caller::default(), world.broker.groups.clone());
    let again = groups
        .join_classic(&nobody, "g", &joining("a2", Some("i1")))
        .await
        .unwrap();
    assert_eq!(
        (again.generation_id, &again.leader),
        (1, &joined[0].member),
        "the old leader's id"
    );
    assert_ne!(again.member, joined[0].member);
    assert!(again.members.is_empty(), "so that it does not assign");
    let old = Identity {
        instance: Some("i1"),
        ..who(&joined[0])
    };
    let denied = groups.heartbeat_classic(&nobody, "g", &old);
    assert!(matches!(denied, Err(Denied::FencedInstance)), "{denied:?}");
    world.restart(world.disk.after_power_cut());
    let new = Identity {
        instance: Some("i1"),
        ..who(&again)
    };
    let groups = &world.broker.groups;
    groups.heartbeat_classic(&nobody, "g", &new).unwrap();
    groups.heartbeat_classic(&nobody, "g", &who(&joined[1])).unwrap();
    let denied = groups.heartbeat_classic(&nobody, "g", &old);
    assert!(matches!(denied, Err(Denied::FencedInstance)), "{denied:?}");
    let described = groups.describe("g");
    let clients: Vec<_> = described
        .iter()
        .map(|row| row.client_id.clone().unwrap())
        .collect();
    assert!(
        clients.contains(&"a2".to_owned()),
        "everything of it is new: {clients:?}"
    );
}

#[tokio::test]
async fn a_client_that_goes_away_during_a_rebalance_is_not_waited_for() {
    let world = World::new(6);
    let joined = world.two_members().await;
    let (nobody, groups) = (Caller::default(), world.broker.groups.clone());
    let third = {
        let groups = groups.clone();
        tokio::spawn(async move {
            groups
                .join_classic(&Caller::default(), "g", &joining("c", None))
                .await
        })
    };
    while groups.describe("g").len() < 3 {
        tokio::task::yield_now().await;
    }
    third.abort();
    drop(third.await);
    assert_eq!(groups.describe("g").len(), 2);
    let again = |joined: &Joined| Joining {
        member: Some(Arc::clone(&joined.member)),
        ..joining("x", None)
    };
    let (one, two) = (again(&joined[0]), again(&joined[1]));
    let (one, two) = tokio::join!(
        groups.join_classic(&nobody, "g", &one),
        groups.join_classic(&nobody, "g", &two)
    );
    assert_eq!((one.unwrap().generation_id, two.unwrap().generation_id), (2, 2));
}

/// Topics with partitions.
type Topics<'a> = &'a [(&'a str, &'a [u32])];

/// An assignment of them.
fn assignment(topics: Topics<'_>) -> Bytes {
    let mut bytes = b"\0\x01".to_vec();
    bytes.extend((topics.len() as u32).to_be_bytes());
    for (name, partitions) in topics {
        bytes.extend((name.len() as u16).to_be_bytes());
        bytes.extend(name.as_bytes());
        bytes.extend((partitions.len() as u32).to_be_bytes());
        bytes.extend(partitions.iter().flat_map(|partition| partition.to_be_bytes()));
    }
    bytes.extend(b"\xff\xff\xff\xff");
    bytes.into()
}

#[tokio::test]
async fn an_assignment_is_shown_as_far_as_its_partitions_exist_and_each_once() {
    let long = "n".repeat(32_000);
    let all: &[(Topics<'_>, &[u32])] = &[
        (&[("orders", &[1, 0])], &[0, 1]),
        (
            &[("orders", &[1, 1]), ("orders", &[0, 1, 2]), ("none", &[0])],
            &[0, 1],
        ),
        (&[("orders", &[2, 1 << 30])], &[]),
        (&[("orders", &[0]), (&long, &[0, 1, 2, 3])], &[]),
    ];
    for (topics, shown) in all {
        let world = World::new(8);
        let joined = world.join(vec![joining("a", None)]).await.remove(0).unwrap();
        let syncing = Syncing {
            who: who(&joined),
            protocol_type: None,
            protocol: None,
            assignments: vec![(Arc::clone(&joined.member), assignment(topics))],
        };
        let (nobody, groups) = (Caller::default(), &world.broker.groups);
        groups.sync_classic(&nobody, "g", &syncing).await.unwrap();
        let described = groups.describe("g").remove(0).assignment;
        let expected: Vec<(Arc<str>, u32)> = shown.iter().map(|index| ("orders".into(), *index)).collect();
        assert_eq!(described, expected, "{} topics", topics.len());
        let live = groups.live("g").unwrap().partitions;
        let live: Vec<u32> = live.keys().map(|id| id.index).collect();
        assert_eq!(live, *shown);
    }
}

#[tokio::test]
async fn who_comes_after_the_last_member_waits_until_its_leaving_is_stored() {
    for act in 0..3 {
        let world = World::new(9);
        let joined = world.join(vec![joining("a", None)]).await.remove(0).unwrap();
        for synced in world.sync(std::slice::from_ref(&joined)).await {
            synced.unwrap();
        }
        let (nobody, groups) = (Caller::default(), &world.broker.groups);
        let cell = groups.coordinator.find("g").unwrap();
        {
            // Nothing stores it before somebody asks for it.
            let (now, mut core) = groups.lock(&cell);
            let left = core.classic().unwrap().leave(Some(&joined.member), None, now);
            assert_eq!(left.unwrap(), joined.member);
        }
        match act {
            0 => assert_eq!(world.commit(&NOBODY, row(0)).await.unwrap(), Ok(())),
            1 => groups.delete(&nobody, "g").await.unwrap(),
            _ => {
                let rows = [("orders".to_owned(), vec![1])];
                let deleted = groups.delete_offsets(&nobody, "g", &rows).await.unwrap();
                assert!(deleted[0][0].is_ok(), "{deleted:?}");
            }
        }
    }
}

/// Makes a join one that is refused.
type Spoil = fn(&mut Joining);

#[tokio::test]
async fn a_join_that_is_refused_makes_no_group() {
    let world = World::new(10);
    let groups = &world.broker.groups;
    // Somebody may come to the group, but not these.
    let promised = Joining {
        needs_id: true,
        ..joining("a", None)
    };
    let denied = groups.join_classic(&Caller::default(), "g", &promised).await;
    assert!(matches!(denied, Err(Denied::MemberIdRequired(_))), "{denied:?}");
    let refused: [(Spoil, &str); 5] = [
        (|joining| joining.session_timeout = 1, "SessionTimeout"),
        (|joining| joining.protocols.clear(), "InconsistentProtocol"),
        (
            |joining| joining.protocol_type = "".into(),
            "InconsistentProtocol",
        ),
        (|joining| joining.member = Some("other".into()), "UnknownMember"),
        (
            |joining| joining.protocols[0].1 = vec![0; stored::MAX_BYTES].into(),
            "TooLarge",
        ),
    ];
    for (spoil, code) in refused {
        let mut joining = joining("a", None);
        spoil(&mut joining);
        let denied = groups.join_classic(&Caller::default(), "g", &joining).await;
        assert_eq!(format!("{:?}", denied.unwrap_err()), code);
        assert!(!groups.exists("g"), "{code}");
    }
}

#[tokio::test]
async fn a_group_that_its_first_member_gives_up_is_stored_as_a_classic_one() {
    let world = World::new(11);
    let groups = world.broker.groups.clone();
    let first = {
        let groups = groups.clone();
        tokio::spawn(async move {
            groups
                .join_classic(&Caller::default(), "g", &joining("a", None))
                .await
        })
    };
    while groups.describe("g").is_empty() {
        tokio::task::yield_now().await;
    }
    first.abort();
    drop(first.await);
    groups.save_if_empty(&groups.coordinator.find("g").unwrap()).await;
    assert!(stored::is_classic(&world.broker.log, "g"));
    let joined = world.join(vec![joining("a", None)]).await.remove(0).unwrap();
    assert_eq!(joined.generation_id, 1);
}

#[tokio::test]
async fn what_cannot_be_stored_is_refused_to_whoever_says_it() {
    // A request to the log has at most a MiB here.
    let world = World::new(12);
    let large = |client: &str| {
        let mut joining = joining(client, None);
        joining.protocols[0].1 = vec![0; 300 << 10].into();
        joining
    };
    let mut all = world.join(["a", "b", "c", "d"].map(large).into()).await;
    let denied = all.pop().unwrap();
    assert!(
        matches!(denied, Err(Denied::Full)),
        "there is room for three: {denied:?}"
    );
    let joined: Vec<Joined> = all.into_iter().map(Result::unwrap).collect();
    let leader = joined
        .iter()
        .find(|joined| joined.leader == joined.member)
        .unwrap();
    let syncing = Syncing {
        who: who(leader),
        protocol_type: None,
        protocol: None,
        assignments: vec![(Arc::clone(&leader.member), vec![0; 200 << 10].into())],
    };
    let nobody = Caller::default();
    let denied = world.broker.groups.sync_classic(&nobody, "g", &syncing).await;
    assert!(matches!(denied, Err(Denied::TooLarge)), "{denied:?}");
    // Nothing has changed, and the group goes on with an assignment that fits.
    for synced in world.sync(&joined).await {
        assert_eq!(synced.unwrap().assignment, PARTITION_1);
    }
    let larger = Joining {
        member: Some(Arc::clone(&leader.member)),
        protocols: vec![("range".into(), vec![0; 500 << 10].into())],
        ..joining("a", None)
    };
    let denied = world.broker.groups.join_classic(&nobody, "g", &larger).await;
    assert!(matches!(denied, Err(Denied::TooLarge)), "{denied:?}");
}

#[tokio::test]
async fn a_member_of_a_full_server_takes_no_more_and_more_memory_with_each_rebalance() {
    const FIRST: usize = 64 << 10;
    let world = World::new(13);
    let groups = &world.broker.groups;
    let joins = async |member: Option<&Arc<str>>, bytes: usize| {
        let joining = Joining {
            member: member.cloned(),
            protocols: vec![("range".into(), vec![0; bytes].into())],
            ..joining("a", None)
        };
        world.join(vec![joining]).await.remove(0)
    };
    let syncs = async |joined: &Joined, bytes: usize| {
        let syncing = Syncing {
            who: who(joined),
            protocol_type: None,
            protocol: None,
            assignments: vec![(Arc::clone(&joined.member), vec![0; bytes].into())],
        };
        groups.sync_classic(&Caller::default(), "g", &syncing).await
    };
    let said = || {
        let cell = groups.coordinator.find("g").unwrap();
        let (_, mut core) = groups.lock(&cell);
        core.classic().unwrap().said_bytes()
    };
    let mut joined = joins(None, FIRST).await.unwrap();
    syncs(&joined, FIRST).await.unwrap();
    let member = Arc::clone(&joined.member);
    let first = said();
    groups.coordinator.fill(MAX_SAID_BYTES);
    let (mut metadata, mut assignment) = (FIRST, FIRST);
    for _ in 0..8 {
        // As much as it can, and else a little more than before.
        for more in [metadata + assignment + 1000, metadata.max(assignment) + 500] {
            if let Ok(again) = joins(Some(&member), more).await {
                (joined, metadata) = (again, more);
                break;
            }
        }
        for more in [metadata + assignment + 1000, metadata.max(assignment) + 500] {
            if syncs(&joined, more).await.is_ok() {
                assignment = more;
                break;
            }
        }
        assert!(metadata > FIRST && assignment > FIRST, "it is not kept out");
        assert!(said() < 2 * first, "{} bytes, at first {first}", said());
    }
    // At twice as much in all it may say what it has said, and nothing more.
    groups.coordinator.fill(MAX_SAID_BYTES);
    let denied = joins(Some(&member), metadata + 1).await;
    assert!(matches!(denied, Err(Denied::Refused(_))), "{denied:?}");
    joined = joins(Some(&member), metadata).await.unwrap();
    let denied = syncs(&joined, assignment + 1).await;
    assert!(matches!(denied, Err(Denied::Refused(_))), "{denied:?}");
    syncs(&joined, assignment).await.unwrap();
}
