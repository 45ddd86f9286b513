use std::time::Duration;

use super::*;
use crate::broker::Broker;
use crate::broker::engine::sim::{SimClock, SimDisk};
use crate::broker::groups::consumers::{JoiningConsumer, Saying, Who};
use crate::broker::groups::members::Member;

/// How many of each kind join.
const MANY: usize = 12;

fn broker(partitions: u32) -> (Broker, SimClock) {
    let clock = SimClock::new(TimestampMs(1_700_000_000_000));
    let broker = Broker::on(&SimDisk::new(1), &clock).unwrap();
    let created = broker
        .topics
        .create(&Caller::default(), "orders", Some(partitions), &[]);
    created.unwrap();
    (broker, clock)
}

async fn enter(groups: Groups, member: String) {
    let join = Join {
        session_timeout: 10_000,
        ..Join::of(&["orders"], GroupType::Ordered)
    };
    let joined = groups.join(&Caller::default(), "g", Some(&member), join).await;
    assert_eq!(&*joined.unwrap().member, &*member);
}

fn joining(member: &str) -> JoiningConsumer {
    JoiningConsumer {
        member: member.into(),
        instance: None,
        client_id: None,
        address: None,
        saying: Saying {
            topics: Some(["orders".to_owned()].into()),
            rebalance_timeout: Some(10_000),
            ..Saying::default()
        },
    }
}

async fn consume(groups: Groups, member: String) {
    let joined = groups
        .join_consumer(&Caller::default(), "g", &joining(&member))
        .await;
    joined.unwrap();
}

fn assignments(cell: &Cell) -> usize {
    match &cell.core.lock().kind {
        Kind::Ordered(ordered) => ordered.assignments,
        other => panic!("{other:?}"),
    }
}

async fn until_there_are(cell: &Cell, members: usize) {
    while cell.core.lock().member_count() != members {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn members_that_come_and_go_together_cost_one_assignment_and_nobody_waits_on_a_thread() {
    let (broker, clock) = broker(8);
    let groups = broker.groups.clone();
    enter(groups.clone(), "first".to_owned()).await;
    let cell = groups.coordinator.find("g").unwrap();

    // Somebody assigns the partitions, and takes long.
    let turn = cell.assigning.lock().await;
    let before = assignments(&cell);
    let mut tasks = Vec::new();
    for number in 0..MANY {
        tasks.push(tokio::spawn(enter(groups.clone(), format!("m{number}"))));
        tasks.push(tokio::spawn(consume(groups.clone(), format!("c{number}"))));
    }
    // All of them are members, and whoever asks for the group is answered.
    until_there_are(&cell, 2 * MANY + 1).await;
    assert_eq!(groups.describe("g").len(), 2 * MANY + 1);
    assert_eq!(assignments(&cell), before);
    drop(turn);
    for task in tasks {
        task.await.unwrap();
    }
    assert_eq!(assignments(&cell), before + 1, "one for all of them");

    let turn = cell.assigning.lock().await;
    let mut tasks = Vec::new();
    for number in 0..MANY {
        let (groups, consumers) = (groups.clone(), groups.clone());
        tasks.push(tokio::spawn(async move {
            let name = format!("m{number}");
            groups.leave(&Caller::default(), "g", &name, None).await.unwrap();
        }));
        tasks.push(tokio::spawn(async move {
            let name = format!("c{number}");
            let who = Who {
                member: &name,
                instance: None,
            };
            consumers
                .leave_consumer(&Caller::default(), "g", &who, false)
                .await
                .unwrap();
        }));
    }
    until_there_are(&cell, 1).await;
    drop(turn);
    for task in tasks {
        task.await.unwrap();
    }
    assert_eq!(assignments(&cell), before + 2, "one for all that leave");
    let owned = |cell: &Cell| match &cell.core.lock().kind {
        Kind::Ordered(ordered) => ordered.partitions().filter(|(_, owner)| owner.is_some()).count(),
        other => panic!("{other:?}"),
    };
    assert_eq!(owned(&cell), 8, "the one that is left has everything");

    // Those whose sessions end at the same time.
    for number in 0..MANY {
        enter(groups.clone(), format!("m{number}")).await;
    }
    let before = assignments(&cell);
    clock.advance(Duration::from_secs(11));
    assert_eq!(groups.describe("g").len(), 0);
    assert_eq!(assignments(&cell), before + 1, "one for all of them");
}

#[tokio::test]
async fn partitions_of_one_that_leaves_go_to_others_even_if_its_call_is_given_up() {
    let (broker, _clock) = broker(2);
    let groups = broker.groups.clone();
    consume(groups.clone(), "a".to_owned()).await;
    consume(groups.clone(), "b".to_owned()).await;
    let cell = groups.coordinator.find("g").unwrap();
    let turn = cell.assigning.lock().await;
    let leaving = {
        let groups = groups.clone();
        tokio::spawn(async move {
            let who = Who {
                member: "a",
                instance: None,
            };
            groups.leave_consumer(&Caller::default(), "g", &who, false).await
        })
    };
    until_there_are(&cell, 1).await;
    // The task runs until it waits for its turn.
    for _ in 0..10 {
        tokio::task::yield_now().await;
    }
    leaving.abort();
    let _ = leaving.await;
    drop(turn);
    let is_given = || match &cell.core.lock().kind {
        Kind::Ordered(ordered) => ordered
            .partitions()
            .all(|(_, owner)| owner.is_some_and(|owner| **owner == *"b")),
        other => panic!("{other:?}"),
    };
    while !is_given() {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn one_that_joins_again_keeps_its_partitions_though_another_goes_before_its_turn() {
    let (broker, clock) = broker(9);
    let groups = broker.groups.clone();
    for name in ["a", "b", "c"] {
        enter(groups.clone(), name.to_owned()).await;
    }
    let cell = groups.coordinator.find("g").unwrap();
    let of_a = || -> Vec<PartitionId> {
        match &cell.core.lock().kind {
            Kind::Ordered(ordered) => {
                let of_a = |(id, owner): (PartitionId, Option<&Arc<str>>)| {
                    owner.is_some_and(|owner| **owner == *"a").then_some(id)
                };
                ordered.partitions().filter_map(of_a).collect()
            }
            other => panic!("{other:?}"),
        }
    };
    // Those that are there give up what is too much by polling without partitions: here, all join once more.
    for name in ["a", "b", "c"] {
        enter(groups.clone(), name.to_owned()).await;
    }
    let before = of_a();
    assert_eq!(before.len(), 3);
    clock.advance(Duration::from_secs(6));
    let heartbeat = groups.heartbeat(&Caller::default(), "g", "b", None, None, false);
    heartbeat.unwrap();
    let key = || cell.core.lock().members.get("a").unwrap().key();
    let first = key();
    let turn = cell.assigning.lock().await;
    let joining = tokio::spawn(enter(groups.clone(), "a".to_owned()));
    while key() == first {
        tokio::task::yield_now().await;
    }
    // The session of c ends.
    clock.advance(Duration::from_secs(5));
    assert_eq!(groups.describe("g").len(), 2);
    drop(turn);
    joining.await.unwrap();
    let after = of_a();
    assert!(
        before.iter().all(|id| after.contains(id)),
        "{before:?}, {after:?}"
    );
}

#[tokio::test]
async fn of_two_processes_that_join_with_one_id_at_the_same_time_one_is_told_to_join_again() {
    let (broker, _clock) = broker(2);
    let groups = broker.groups.clone();
    consume(groups.clone(), "first".to_owned()).await;
    let cell = groups.coordinator.find("g").unwrap();
    let turn = cell.assigning.lock().await;
    let key = || cell.core.lock().members.get("a").map(Member::key);
    let mut tasks = Vec::new();
    for _ in 0..2 {
        let (groups, before) = (groups.clone(), key());
        tasks.push(tokio::spawn(async move {
            groups.join_consumer(&Caller::default(), "g", &joining("a")).await
        }));
        while key() == before {
            tokio::task::yield_now().await;
        }
    }
    drop(turn);
    let mut joined = Vec::new();
    for task in tasks {
        joined.push(task.await.unwrap().is_ok());
    }
    assert_eq!(joined, [false, true], "the second has taken its place");
}
