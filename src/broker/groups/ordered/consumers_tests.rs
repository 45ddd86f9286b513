use proptest::prelude::*;

use super::*;
use crate::broker::groups::members::Joining;

const SESSION: Ms = 1_000;
const TIMEOUT: Ms = 300;

fn id(index: u32) -> PartitionId {
    PartitionId::new(TopicId(1), index)
}

/// A group over the partitions of one topic.
struct World {
    group: Ordered,
    members: Members,
    partitions: BTreeSet<PartitionId>,
    now: Ms,
}

impl World {
    fn new(partitions: u32) -> Self {
        Self {
            group: Ordered::default(),
            members: Members::new(7, 0),
            partitions: (0..partitions).map(id).collect(),
            now: 0,
        }
    }

    fn add(&mut self, name: &str) {
        let joining = Joining {
            member: name.into(),
            client_id: None,
            address: None,
            session_timeout: SESSION,
            instance: None,
        };
        self.members.join(joining, self.now);
        if let Some(member) = self.members.get_mut(name) {
            member.topics = BTreeSet::from([TopicId(1)]);
        }
        self.group.join(&name.into());
    }

    fn refresh(&mut self) {
        self.group.refresh(&mut self.members, &self.partitions, |_| None);
    }

    fn join(&mut self, name: &str, instance: Option<&str>) -> Told {
        self.add(name);
        let terms = Terms {
            instance: instance.map(Arc::from),
            assignor: None,
            rebalance_timeout: TIMEOUT,
        };
        self.group.consume(name, terms);
        self.refresh();
        let heard = Heard {
            epoch: None,
            owned: None,
            wants_all: true,
        };
        self.group
            .hear(&mut self.members, name, &heard, self.now)
            .unwrap()
    }

    fn beat(&mut self, name: &str, epoch: i32, owned: Option<&[u32]>) -> Result<Told, Rejected> {
        let owned: Option<Vec<PartitionId>> = owned.map(|owned| owned.iter().copied().map(id).collect());
        let heard = Heard {
            epoch: Some(epoch),
            owned: owned.as_deref(),
            wants_all: false,
        };
        let told = self.group.hear(&mut self.members, name, &heard, self.now)?;
        let _ = self.members.touch(name, None, self.now);
        Ok(told)
    }

    /// Ends sessions that are over, and names them.
    fn expire(&mut self) -> Vec<String> {
        let expired = self.members.expired(self.now);
        for name in &expired {
            self.members.leave(name);
            self.group.leave(&mut self.members, name);
        }
        expired.iter().map(|name| name.to_string()).collect()
    }
}

fn indexes(told: &Told) -> Vec<u32> {
    let assignment = told.assignment.as_deref().expect("an assignment");
    assignment.iter().map(|id| id.index).collect()
}

#[test]
fn the_first_epoch_is_2_and_an_assignment_is_told_once() {
    let mut world = World::new(4);
    let told = world.join("a", None);
    assert_eq!((told.epoch, indexes(&told)), (2, vec![0, 1, 2, 3]));
    let again = world.beat("a", 2, None).unwrap();
    assert_eq!((again.epoch, again.assignment), (2, None));
}

#[test]
fn a_partition_changes_hands_when_its_owner_has_given_it_up_and_not_before() {
    let mut world = World::new(4);
    world.join("a", None);
    let joined = world.join("b", None);
    assert!(joined.waits && indexes(&joined).is_empty());
    let told = world.beat("a", 2, Some(&[0, 1, 2, 3])).unwrap();
    assert_eq!(indexes(&told), [0, 1], "it is told to give two up");
    let epoch = told.epoch;
    for owned in [None, Some(&[0, 1, 2, 3][..]), Some(&[0, 1, 2])] {
        assert_eq!(world.beat("a", epoch, owned).unwrap().assignment, None);
        let waiting = world.beat("b", joined.epoch, Some(&[])).unwrap();
        let expected = owned.map_or(0, |owned| 4 - owned.len());
        assert_eq!(
            waiting.assignment.map_or(0, |all| all.len()),
            expected,
            "{owned:?}"
        );
    }
    world.beat("a", epoch, Some(&[0, 1])).unwrap();
    let newest = world.group.newest_epoch();
    let told = world.beat("b", newest, Some(&[3])).unwrap();
    assert_eq!((indexes(&told), told.waits), (vec![2, 3], false));
    assert!(!world.group.is_reconciling());
}

#[test]
fn a_consumer_that_has_partitions_to_give_up_is_told_of_others_when_it_has_given_them_up_and_not_before() {
    let mut world = World::new(4);
    world.join("a", None);
    world.join("b", None);
    let told = world.beat("a", 2, Some(&[0, 1, 2, 3])).unwrap();
    assert_eq!(indexes(&told), [0, 1], "it is told to give two up");
    world.partitions.extend([4, 5].map(id));
    world.refresh();
    for owned in [None, Some(&[0, 1, 2, 3][..]), Some(&[0, 1, 3])] {
        let beaten = world.beat("a", told.epoch, owned).unwrap();
        assert_eq!((beaten.epoch, beaten.assignment), (told.epoch, None), "{owned:?}");
        assert!(beaten.waits, "it is to get one more");
    }
    assert!(world.group.is_reconciling());
    let others = world.beat("a", told.epoch, Some(&[0, 1])).unwrap();
    assert_eq!((indexes(&others).len(), others.waits), (3, false));
}

#[test]
fn a_heartbeat_whose_answer_was_lost_is_answered_again_and_gives_nothing_up() {
    let mut world = World::new(4);
    let first = world.join("a", None);
    world.join("b", None);
    let lost = world.beat("a", first.epoch, None).unwrap();
    assert_eq!(indexes(&lost), [0, 1]);
    // It still has all four, as far as it knows.
    let again = world.beat("a", first.epoch, Some(&[0, 1, 2, 3])).unwrap();
    assert_eq!((again.epoch, indexes(&again)), (lost.epoch, vec![0, 1]));
    // An old duplicate that names less gives nothing up.
    world.beat("a", first.epoch, Some(&[])).unwrap();
    assert!(world.beat("b", 3, None).unwrap().waits);
    // Not with more than it can have, and not without saying what it has.
    assert_eq!(
        world.beat("a", first.epoch, Some(&[7])),
        Err(Rejected::FencedEpoch)
    );
    assert_eq!(world.beat("a", first.epoch, None), Err(Rejected::FencedEpoch));
    // The answer has arrived.
    world.beat("a", lost.epoch, Some(&[0, 1])).unwrap();
    assert_eq!(
        world.beat("a", first.epoch, Some(&[0, 1])),
        Err(Rejected::FencedEpoch)
    );
    assert_eq!(world.beat("a", 99, Some(&[])), Err(Rejected::FencedEpoch));
    assert_eq!(world.beat("c", 2, None), Err(Rejected::Unknown));
}

#[test]
fn who_does_not_give_up_in_time_is_removed_and_only_then_others_get_its_partitions() {
    let mut world = World::new(2);
    let first = world.join("a", None);
    let joined = world.join("b", None);
    let told = world.beat("a", first.epoch, None).unwrap();
    world.now += TIMEOUT - 1;
    world.beat("a", told.epoch, None).unwrap();
    assert!(world.expire().is_empty());
    assert!(world.beat("b", joined.epoch, None).unwrap().waits);
    world.now += 1;
    assert_eq!(world.expire(), ["a"]);
    let told = world.beat("b", joined.epoch, None).unwrap();
    assert_eq!(indexes(&told), [0, 1]);
}

#[test]
fn nobody_keeps_partitions_for_ever_however_long_it_asks_for() {
    let mut world = World::new(2);
    let joined = world.join("a", None);
    world.group.change_terms("a", None, Some(Ms::MAX), false);
    world.join("b", None);
    world.beat("a", joined.epoch, None).unwrap();
    for (now, gone) in [
        (MOST_REBALANCE_TIMEOUT_MS - 1, &[][..]),
        (MOST_REBALANCE_TIMEOUT_MS, &["a"][..]),
    ] {
        world.now = now;
        for name in ["a", "b"] {
            let _ = world.members.touch(name, None, world.now);
        }
        assert_eq!(world.expire(), gone);
    }
}

#[test]
fn who_gives_up_in_time_stays() {
    let mut world = World::new(2);
    let first = world.join("a", None);
    world.join("b", None);
    let told = world.beat("a", first.epoch, None).unwrap();
    world.beat("a", told.epoch, Some(&[0])).unwrap();
    world.now += TIMEOUT;
    assert!(world.expire().is_empty());
}

#[test]
fn a_static_member_that_comes_back_gets_its_partitions_under_its_new_id_and_nobody_else_moves() {
    let mut world = World::new(4);
    world.join("a", Some("one"));
    world.join("b", None);
    let told = world.beat("a", 2, None).unwrap();
    world.beat("a", told.epoch, Some(&[0, 1])).unwrap();
    let other = world.beat("b", 3, None).unwrap();
    world.group.go_away(&mut world.members, "a").unwrap();
    assert!(world.group.is_away("a"));
    assert_eq!(world.beat("a", told.epoch, Some(&[])), Err(Rejected::FencedEpoch));
    assert_eq!(world.beat("b", other.epoch, None).unwrap().assignment, None);
    assert_eq!(world.group.member_of("one").map(|name| &**name), Some("a"));
    world.members.leave("a");
    world.group.pass_on("a", &"z".into());
    let back = world.join("z", Some("one"));
    assert_eq!(indexes(&back), [0, 1]);
    assert!(back.epoch > told.epoch);
    assert_eq!(world.beat("b", other.epoch, None).unwrap().assignment, None);
}

#[test]
fn commits_count_with_the_own_epoch_and_with_earlier_ones_where_the_partition_was_the_members_since() {
    let mut world = World::new(4);
    let first = world.join("a", None);
    world.join("b", None);
    let told = world.beat("a", first.epoch, None).unwrap();
    let commit = |world: &World, epoch, index| world.group.check_commits("a", epoch, &[id(index)]);
    for (epoch, index, expected) in [
        (told.epoch, 0, Ok(())),
        // While it gives it up.
        (told.epoch, 3, Ok(())),
        (first.epoch, 0, Ok(())),
        (first.epoch - 1, 0, Err(Rejected::StaleEpoch)),
        (told.epoch + 1, 0, Err(Rejected::StaleEpoch)),
        (0, 0, Err(Rejected::StaleEpoch)),
        (-1, 0, Err(Rejected::StaleEpoch)),
    ] {
        assert_eq!(commit(&world, epoch, index), expected, "{epoch} {index}");
    }
    world.beat("a", told.epoch, Some(&[0, 1])).unwrap();
    for epoch in [first.epoch, told.epoch] {
        assert_eq!(
            commit(&world, epoch, 3),
            Err(Rejected::StaleEpoch),
            "another has it"
        );
    }
    assert_eq!(world.group.check_commits("c", 2, &[]), Err(Rejected::Unknown));
}

#[test]
fn a_commit_that_runs_keeps_its_partition_and_the_next_owner_begins_there() {
    let mut world = World::new(1);
    let told = world.join("a", None);
    let begun = world.group.begin_consumer_commit(&[id(0), id(0), id(9)]);
    assert_eq!(begun, BTreeSet::from([id(0)]));
    world.add("m");
    world.refresh();
    world.members.leave("a");
    world.group.leave(&mut world.members, "a");
    assert_eq!(world.group.tell(&mut world.members, "m").unwrap().1, []);
    let committed = |_| Some(Offset::new(5));
    world
        .group
        .end_consumer_commit(&mut world.members, &begun, committed);
    assert_eq!(world.group.tell(&mut world.members, "m").unwrap().1, [id(0)]);
    assert_eq!(world.group.readable("m").unwrap().0[0].from, Offset::new(5));
    assert_eq!(told.epoch, 2);
}

#[test]
fn a_reset_fences_the_consumers_whose_partitions_it_moves() {
    let mut world = World::new(2);
    let told = world.join("a", None);
    world
        .group
        .move_to(&mut world.members, &[(id(1), Offset::new(3))]);
    assert_eq!(
        world.beat("a", told.epoch, Some(&[0, 1])),
        Err(Rejected::FencedEpoch)
    );
    let commit = world.group.check_commits("a", told.epoch, &[id(0)]);
    assert_eq!(commit, Err(Rejected::StaleEpoch));
    let again = world.join("a", None);
    assert_eq!(indexes(&again), [0, 1]);
    assert!(again.epoch > told.epoch);
}

#[test]
fn most_of_the_consumers_that_would_like_an_assignor_decide() {
    let mut world = World::new(4);
    for (name, assignor) in [("a", None), ("b", Some(Assignor::Range)), ("c", None)] {
        world.join(name, None);
        world.group.change_terms(name, assignor, None, false);
    }
    assert_eq!(world.group.assignor(), Assignor::Range);
    world
        .group
        .change_terms("c", Some(Assignor::Uniform), None, false);
    assert_eq!(world.group.assignor(), Assignor::Uniform);
}

#[test]
fn further_assignments_do_not_prolong_the_time_to_give_up() {
    const ALL: [u32; 6] = [0, 1, 2, 3, 4, 5];
    for gives_up in [false, true] {
        let mut world = World::new(6);
        let first = world.join("a", None);
        world.join("b", None);
        let told = world.beat("a", first.epoch, Some(&ALL)).unwrap();
        assert_eq!(indexes(&told).len(), 3);
        let after = indexes(&told);
        world.now = 200;
        world.join("c", None);
        let told = world.beat("a", told.epoch, Some(&ALL)).unwrap();
        assert_eq!(indexes(&told).len(), 2, "another one goes");
        world.now = 250;
        if gives_up {
            // The first three in time; the fourth may take longer.
            world.beat("a", told.epoch, Some(&after)).unwrap();
        }
        world.now = TIMEOUT + 1;
        let late = if gives_up { &[][..] } else { &["a"][..] };
        assert_eq!(world.expire(), late);
        world.now = 200 + TIMEOUT + 1;
        let late = if gives_up { &["a"][..] } else { &[][..] };
        assert_eq!(world.expire(), late);
    }
}

#[test]
fn a_topic_is_not_forgotten_while_a_consumer_has_some_of_it() {
    let mut world = World::new(1);
    let first = world.join("a", None);
    // It subscribes to the topic no longer.
    world.members.get_mut("a").unwrap().topics.clear();
    world.refresh();
    let orders = HashSet::from([TopicId(1)]);
    assert_eq!(world.group.forget_topics(&orders), orders);
    let told = world.beat("a", first.epoch, Some(&[0])).unwrap();
    assert_eq!(world.group.forget_topics(&orders), orders);
    world.beat("a", told.epoch, Some(&[])).unwrap();
    assert_eq!(world.group.forget_topics(&orders), HashSet::new());
}

#[test]
fn epochs_begin_anew_behind_the_largest_one() {
    assert_eq!(next(0), 1);
    assert_eq!(next(i32::MAX - 1), 1);
}

/// What clients do, which know only what arrived.
#[derive(Clone, Copy, Debug)]
enum Step {
    Join(usize),
    /// A heartbeat; the client does what it is told before the next one.
    Beat(usize),
    /// The answer is lost: the next heartbeat says everything.
    Lost(usize),
    Leave(usize),
    /// An old heartbeat comes once more.
    Duplicate(usize),
    /// A member that polls joins, waits in a poll for a moment, or leaves.
    Polls(usize),
    Time(Ms),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        1 => (0_usize..3).prop_map(Step::Join),
        6 => (0_usize..3).prop_map(Step::Beat),
        2 => (0_usize..3).prop_map(Step::Lost),
        1 => (0_usize..3).prop_map(Step::Leave),
        1 => (0_usize..3).prop_map(Step::Duplicate),
        2 => (0_usize..2).prop_map(Step::Polls),
        1 => (0_u64..200).prop_map(Step::Time),
    ]
}

#[derive(Clone, Debug, Default)]
struct Client {
    epoch: i32,
    reads: Vec<u32>,
    /// An answer may have been lost.
    is_unsure: bool,
    old: Option<(i32, Vec<u32>)>,
}

proptest! {
    #[test]
    fn no_partition_is_read_by_two_members_whatever_is_lost_or_comes_twice(
        steps in prop::collection::vec(step(), 1..120),
    ) {
        const NAMES: [&str; 3] = ["a", "b", "c"];
        const POLLERS: [&str; 2] = ["p", "q"];
        let mut world = World::new(5);
        let mut clients: [Option<Client>; 3] = Default::default();
        for step in steps {
            match step {
                Step::Join(which) if clients[which].is_none() => {
                    let told = world.join(NAMES[which], None);
                    clients[which] = Some(Client { epoch: told.epoch, reads: indexes(&told), ..Client::default() });
                }
                Step::Beat(which) | Step::Lost(which) => {
                    let Some(client) = &mut clients[which] else { continue };
                    let owned = client.reads.clone();
                    let arrives = matches!(step, Step::Beat(_));
                    match world.beat(NAMES[which], client.epoch, Some(&owned)) {
                        Ok(told) if arrives => {
                            client.old = Some((client.epoch, owned));
                            client.epoch = told.epoch;
                            if told.assignment.is_some() {
                                client.reads = indexes(&told);
                            }
                            client.is_unsure = false;
                        }
                        Ok(_) => client.is_unsure = true,
                        // It gives everything up and joins again.
                        Err(_) => {
                            let told = world.join(NAMES[which], None);
                            *client = Client { epoch: told.epoch, reads: indexes(&told), ..Client::default() };
                        }
                    }
                }
                Step::Duplicate(which) => {
                    if let Some((epoch, owned)) = clients[which].as_ref().and_then(|client| client.old.clone()) {
                        let _ = world.beat(NAMES[which], epoch, Some(&owned));
                    }
                }
                Step::Leave(which) if clients[which].take().is_some() => {
                    world.members.leave(NAMES[which]);
                    world.group.leave(&mut world.members, NAMES[which]);
                }
                Step::Polls(which) => {
                    let name = POLLERS[which];
                    if world.members.get(name).is_none() {
                        world.add(name);
                        world.refresh();
                        world.group.tell(&mut world.members, name).unwrap();
                    } else if world.now.is_multiple_of(3) {
                        world.members.leave(name);
                        world.group.leave(&mut world.members, name);
                    } else {
                        let asking = crate::broker::groups::members::Asking { is_ordered: true, ..Default::default() };
                        let token = world.members.begin_poll(name, asking, world.now).unwrap().token;
                        world.members.wait(name, token).unwrap();
                        world.group.go_on(&mut world.members, name);
                        world.group.deliver(&mut world.members, name, token, Vec::new(), world.now).unwrap();
                    }
                }
                Step::Time(passes) => {
                    world.now += passes;
                    for gone in world.expire() {
                        // Its client notices at its next heartbeat: what it reads until then it cannot commit.
                        if let Some(which) = NAMES.iter().position(|name| *name == gone) {
                            clients[which] = None;
                        }
                    }
                }
                Step::Join(_) | Step::Leave(_) => {}
            }
            let mut readers: BTreeMap<u32, &str> = BTreeMap::new();
            for (client, name) in clients.iter().zip(NAMES) {
                for index in client.iter().flat_map(|client| &client.reads) {
                    let before = readers.insert(*index, name);
                    prop_assert_eq!(before, None, "{} and {} read {}", name, before.unwrap_or_default(), index);
                }
            }
            for (partition, owner) in world.group.partitions() {
                if let (Some(owner), Some(reader)) = (owner, readers.get(&partition.index)) {
                    prop_assert!(**owner == **reader, "{} reads what {} has", reader, owner);
                }
            }
        }
        // What is left alone settles: everything is read by somebody.
        for _ in 0..6 {
            for (client, name) in clients.iter_mut().zip(NAMES) {
                let Some(client) = client else { continue };
                let told = match world.beat(name, client.epoch, Some(&client.reads.clone())) {
                    Ok(told) => told,
                    Err(_) => world.join(name, None),
                };
                client.epoch = told.epoch;
                if told.assignment.is_some() {
                    client.reads = indexes(&told);
                }
            }
            for name in POLLERS {
                if world.members.get(name).is_some() {
                    world.members.leave(name);
                    world.group.leave(&mut world.members, name);
                }
            }
        }
        if clients.iter().any(Option::is_some) {
            let mut read: Vec<u32> = clients.iter().flatten().flat_map(|client| client.reads.clone()).collect();
            read.sort_unstable();
            prop_assert_eq!(read, [0, 1, 2, 3, 4]);
            prop_assert!(!world.group.is_reconciling());
        }
    }
}
