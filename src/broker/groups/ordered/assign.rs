//! Which member gets which partition: a pure function, sticky and balanced.
//!
//! - Every partition goes to a member that subscribes to its topic, if there is one; to one only.
//! - Balanced: a member has at most one partition more than any other member that could take one of them.
//! - Sticky: a partition stays with its owner unless the owner is gone or has too many. No more partitions move than
//!   needed: if all members subscribe to the same topics, a joining member gets its share and nothing else moves.
//! - The same input gives the same answer, in any order.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::broker::engine::{PartitionId, TopicId};

/// The members, each with the topics that it subscribes to.
pub type Subscriptions = BTreeMap<Arc<str>, BTreeSet<TopicId>>;

/// The member that gets each partition. Partitions whose topic has no subscriber are left out.
///
/// `owners` are the present owners. Cost: about (partitions + members) × classes × log(members), and members × topics once;
/// topics with the same subscribers are one class.
pub fn assign(
    members: &Subscriptions,
    partitions: &[PartitionId],
    owners: &BTreeMap<PartitionId, Arc<str>>,
) -> BTreeMap<PartitionId, Arc<str>> {
    let mut loads = Loads::new(members);
    let partitions: BTreeSet<PartitionId> = partitions.iter().copied().collect();
    let mut unowned = Vec::new();
    for partition in &partitions {
        let owner = owners
            .get(partition)
            .and_then(|owner| loads.index.get(owner).copied());
        match owner.filter(|owner| loads.topics[*owner].contains(&partition.topic)) {
            Some(owner) => loads.give(owner, *partition),
            None => unowned.push(*partition),
        }
    }
    for partition in unowned {
        if let Some(member) = loads.least(partition.topic) {
            loads.give(member, partition);
        }
    }
    loads.balance();
    let names: Vec<&Arc<str>> = members.keys().collect();
    let mut assigned = BTreeMap::new();
    for (member, held) in loads.held.iter().enumerate() {
        for partition in held.values().flatten() {
            assigned.insert(*partition, Arc::clone(names[member]));
        }
    }
    assigned
}

/// The same, in ranges: of each topic, the first members get neighbouring partitions from the front, and one more than the
/// others if they cannot be shared evenly. Not sticky: what a member gets follows from its place among the members.
pub fn assign_ranges(
    members: &[(&Arc<str>, &BTreeSet<TopicId>)],
    partitions: &[PartitionId],
) -> BTreeMap<PartitionId, Arc<str>> {
    let mut topics: BTreeMap<TopicId, BTreeSet<PartitionId>> = BTreeMap::new();
    for partition in partitions {
        topics.entry(partition.topic).or_default().insert(*partition);
    }
    let mut assigned = BTreeMap::new();
    for (topic, partitions) in topics {
        let subscribers = members.iter().filter(|(_, topics)| topics.contains(&topic));
        let subscribers: Vec<&Arc<str>> = subscribers.map(|(name, _)| *name).collect();
        let count = partitions.len();
        for (place, partition) in partitions.into_iter().enumerate() {
            // The last member whose range begins at this place or before.
            let least = count / subscribers.len().max(1);
            let longer = count % subscribers.len().max(1);
            let member = match place < longer * (least + 1) {
                true => place / (least + 1),
                false => longer + (place - longer * (least + 1)) / least.max(1),
            };
            if let Some(name) = subscribers.get(member) {
                assigned.insert(partition, Arc::clone(name));
            }
        }
    }
    assigned
}

/// The partitions of each member, and the subscribers of each class of topics sorted by their number of partitions.
struct Loads<'a> {
    index: BTreeMap<&'a Arc<str>, usize>,
    topics: Vec<&'a BTreeSet<TopicId>>,
    held: Vec<BTreeMap<TopicId, BTreeSet<PartitionId>>>,
    load: Vec<usize>,
    /// Topics with the same subscribers are one class.
    class_of: BTreeMap<TopicId, usize>,
    /// By member: the classes that it subscribes to.
    classes: Vec<Vec<usize>>,
    /// By class: the subscribers, sorted by load and then by name.
    subscribers: Vec<BTreeSet<(usize, usize)>>,
}

impl<'a> Loads<'a> {
    fn new(members: &'a Subscriptions) -> Self {
        let mut by_topic: BTreeMap<TopicId, Vec<usize>> = BTreeMap::new();
        for (member, topics) in members.values().enumerate() {
            for topic in topics {
                by_topic.entry(*topic).or_default().push(member);
            }
        }
        let mut known: BTreeMap<Vec<usize>, usize> = BTreeMap::new();
        let mut class_of = BTreeMap::new();
        let mut classes = vec![Vec::new(); members.len()];
        let mut subscribers = Vec::new();
        for (topic, of_topic) in by_topic {
            let class = known.get(&of_topic).copied().unwrap_or_else(|| {
                let class = subscribers.len();
                for member in &of_topic {
                    classes[*member].push(class);
                }
                subscribers.push(of_topic.iter().map(|member| (0, *member)).collect());
                known.insert(of_topic, class);
                class
            });
            class_of.insert(topic, class);
        }
        Self {
            index: members
                .keys()
                .enumerate()
                .map(|(member, name)| (name, member))
                .collect(),
            topics: members.values().collect(),
            held: vec![BTreeMap::new(); members.len()],
            load: vec![0; members.len()],
            class_of,
            classes,
            subscribers,
        }
    }

    fn least(&self, topic: TopicId) -> Option<usize> {
        let class = self.class_of.get(&topic)?;
        self.subscribers[*class].first().map(|(_, member)| *member)
    }

    fn set_load(&mut self, member: usize, load: usize) {
        let before = std::mem::replace(&mut self.load[member], load);
        for class in &self.classes[member] {
            let subscribers = &mut self.subscribers[*class];
            subscribers.remove(&(before, member));
            subscribers.insert((load, member));
        }
    }

    fn give(&mut self, member: usize, partition: PartitionId) {
        self.held[member]
            .entry(partition.topic)
            .or_default()
            .insert(partition);
        self.set_load(member, self.load[member] + 1);
    }

    /// Moves partitions one at a time, from the member with the most, to a subscriber with at least two fewer.
    fn balance(&mut self) {
        let mut order: BTreeSet<(usize, usize)> = self.load.iter().copied().zip(0..).collect();
        while let Some((member, topic, to)) = order.iter().rev().find_map(|(_, member)| {
            let (topic, to) = self.better_place(*member)?;
            Some((*member, topic, to))
        }) {
            let Some(partition) = self.held[member].get_mut(&topic).and_then(BTreeSet::pop_last) else {
                return;
            };
            order.remove(&(self.load[member], member));
            order.remove(&(self.load[to], to));
            self.set_load(member, self.load[member] - 1);
            self.give(to, partition);
            order.insert((self.load[member], member));
            order.insert((self.load[to], to));
        }
    }

    /// A topic of which `member` has a partition, and a subscriber of that topic with at least two partitions fewer.
    fn better_place(&self, member: usize) -> Option<(TopicId, usize)> {
        self.held[member]
            .iter()
            .filter(|(_, partitions)| !partitions.is_empty())
            .filter_map(|(topic, _)| self.least(*topic).map(|to| (*topic, to)))
            .filter(|(_, to)| self.load[*to] + 2 <= self.load[member])
            .min_by_key(|(topic, to)| (self.load[*to], *topic))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn id(topic: u64, index: u32) -> PartitionId {
        PartitionId::new(TopicId(topic), index)
    }

    fn name(member: usize) -> Arc<str> {
        format!("m{member:02}").into()
    }

    fn partitions(counts: &[u32]) -> Vec<PartitionId> {
        let of_topic = |(topic, count): (usize, &u32)| (0..*count).map(move |index| id(topic as u64, index));
        counts.iter().enumerate().flat_map(of_topic).collect()
    }

    fn counts(
        assigned: &BTreeMap<PartitionId, Arc<str>>,
        members: &Subscriptions,
    ) -> BTreeMap<Arc<str>, usize> {
        let mut counts: BTreeMap<Arc<str>, usize> = members.keys().map(|name| (name.clone(), 0)).collect();
        for owner in assigned.values() {
            *counts.get_mut(owner).expect("a member") += 1;
        }
        counts
    }

    /// Members with subscriptions to some of four topics.
    fn subscriptions() -> impl Strategy<Value = Subscriptions> {
        prop::collection::btree_map(0_usize..12, prop::collection::btree_set(0_u64..4, 1..=4), 0..10)
            .prop_map(|all| {
                let topics = |topics: BTreeSet<u64>| topics.into_iter().map(TopicId).collect();
                all.into_iter()
                    .map(|(member, set)| (name(member), topics(set)))
                    .collect()
            })
    }

    proptest! {
        #[test]
        fn every_partition_goes_to_one_subscriber_and_loads_are_balanced(
            members in subscriptions(),
            counts_by_topic in prop::collection::vec(0_u32..20, 4),
            before in subscriptions(),
        ) {
            let partitions = partitions(&counts_by_topic);
            let owners = assign(&before, &partitions, &BTreeMap::new());
            let assigned = assign(&members, &partitions, &owners);
            let loads = counts(&assigned, &members);
            for partition in &partitions {
                let subscribers: Vec<&Arc<str>> =
                    members.iter().filter(|(_, topics)| topics.contains(&partition.topic)).map(|(name, _)| name).collect();
                match assigned.get(partition) {
                    None => prop_assert!(subscribers.is_empty()),
                    Some(owner) => {
                        prop_assert!(subscribers.contains(&owner));
                        for other in subscribers {
                            prop_assert!(loads[owner] <= loads[other] + 1, "{owner} has {}, {other} {}", loads[owner], loads[other]);
                        }
                    }
                }
            }
            prop_assert_eq!(&assigned, &assign(&members, &partitions, &assigned), "what is balanced stays");
        }

        #[test]
        fn with_equal_subscriptions_no_more_moves_than_a_new_balance_takes(
            count in 1_u32..60, members_before in 1_usize..9, members_after in 1_usize..9,
        ) {
            let all = |count: usize| -> Subscriptions { (0..count).map(|member| (name(member), BTreeSet::from([TopicId(0)]))).collect() };
            let partitions = partitions(&[count]);
            let owners = assign(&all(members_before), &partitions, &BTreeMap::new());
            let assigned = assign(&all(members_after), &partitions, &owners);
            let moved = partitions.iter().filter(|id| owners.get(id) != assigned.get(id)).count();
            let loads = counts(&assigned, &all(members_after));
            // Joining members get their shares; leaving ones lose theirs.
            let least = if members_after > members_before {
                (members_before..members_after).map(|member| loads[&name(member)]).sum()
            } else {
                owners.values().filter(|owner| !loads.contains_key(*owner)).count()
            };
            prop_assert_eq!(moved, least);
        }
    }

    #[test]
    fn ranges_are_neighbours_and_the_first_members_have_one_more() {
        let all = BTreeSet::from([TopicId(0), TopicId(1)]);
        let one = BTreeSet::from([TopicId(0)]);
        let names = [name(0), name(1), name(2)];
        let members = [(&names[0], &all), (&names[1], &one), (&names[2], &all)];
        let assigned = assign_ranges(&members, &partitions(&[5, 2, 1]));
        let of = |topic| -> Vec<usize> {
            let range = assigned.range(id(topic, 0)..=id(topic, u32::MAX));
            range
                .filter_map(|(_, owner)| names.iter().position(|name| name == owner))
                .collect()
        };
        assert_eq!(of(0), [0, 0, 1, 1, 2]);
        assert_eq!(of(1), [0, 2]);
        assert_eq!(of(2), [0; 0], "nobody subscribes");
        assert_eq!(
            assign_ranges(&members, &partitions(&[2])).len(),
            2,
            "more members than partitions"
        );
        assert_eq!(assign_ranges(&[], &partitions(&[2])).len(), 0);
    }

    #[test]
    fn topics_with_the_same_subscribers_cost_as_one() {
        let both: BTreeSet<TopicId> = (0..50).map(TopicId).collect();
        let half: BTreeSet<TopicId> = (0..25).map(TopicId).collect();
        let mut members = Subscriptions::from([(name(0), both.clone()), (name(1), both)]);
        assert_eq!(Loads::new(&members).subscribers.len(), 1);
        members.insert(name(2), half);
        let loads = Loads::new(&members);
        assert_eq!(loads.subscribers.len(), 2);
        assert_eq!(loads.classes, [vec![0, 1], vec![0, 1], vec![0]]);
    }

    #[test]
    fn a_thousand_members_share_ten_thousand_partitions() {
        let rows = (0..1000).map(|member| (format!("m{member:04}").into(), BTreeSet::from([TopicId(0)])));
        let members: Subscriptions = rows.collect();
        let partitions = partitions(&[10_000]);
        let assigned = assign(&members, &partitions, &BTreeMap::new());
        assert!(counts(&assigned, &members).values().all(|count| *count == 10));
    }
}
