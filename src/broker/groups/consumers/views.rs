//! How a group with consumers is described. Members that poll are described beside them.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::broker::caller::Caller;
use crate::broker::engine::PartitionId;
use crate::broker::groups::Groups;
use crate::broker::groups::classic::Denied;
use crate::broker::groups::classic::calls::check_name;
use crate::broker::groups::live::GroupType;
use crate::broker::groups::ordered::partitions::consumers::Assignor;
use crate::broker::groups::subscriptions;
use crate::broker::rights::Right;

/// An ordered group, as Kafka's tools see it.
#[derive(Clone, Debug, Default)]
pub struct ConsumerGroup {
    /// Whether a member waits for partitions, has to give some up, or has not been told yet.
    pub is_reconciling: bool,
    /// The newest epoch; 0 without members.
    pub epoch: i32,
    /// How the partitions are shared.
    pub assignor: Assignor,
    /// The members, sorted by name.
    pub members: Vec<ConsumerMember>,
}

/// A member of a [`ConsumerGroup`].
#[derive(Clone, Debug)]
pub struct ConsumerMember {
    /// Its id.
    pub member: Arc<str>,
    /// The name of a static member.
    pub instance: Option<Arc<str>>,
    /// Its epoch; `None`: it polls.
    pub epoch: Option<i32>,
    /// The client's own name for itself.
    pub client_id: Option<String>,
    /// Where it connected from.
    pub address: Option<String>,
    /// The names that it subscribes to.
    pub topics: Vec<String>,
    /// The expression that it subscribes to.
    pub regex: Option<String>,
    /// The partitions that it has.
    pub assignment: Vec<PartitionId>,
    /// Those that it is to have.
    pub target: Vec<PartitionId>,
}

/// What a member takes in memory while it is described, besides its subscription and its partitions, in bytes.
const MEMBER_BYTES: usize = 1024;

impl Groups {
    /// What [`Groups::describe_consumers`] makes of a group, in bytes, at most.
    pub fn consumers_bytes(&self, group: &str) -> usize {
        let Some(cell) = self.coordinator.find(group) else {
            return 0;
        };
        let (_, mut core) = self.lock(&cell);
        let said = core.member_count() * MEMBER_BYTES + core.text_bytes();
        let partitions = core
            .ordered()
            .map_or(0, |(ordered, _)| ordered.partitions().count());
        // Each may be one that a member has, and one that another is to have.
        said + 2 * size_of::<PartitionId>() * partitions
    }

    /// Describes a group whose members are, or were, those of an ordered group. `None`: there is no such group.
    ///
    /// # Errors
    /// [`Denied::OtherKind`]: it is of another kind, or nobody but outsiders has committed in it. [`Denied::InvalidName`],
    /// [`Denied::Refused`].
    pub fn describe_consumers(&self, caller: &Caller, group: &str) -> Result<Option<ConsumerGroup>, Denied> {
        check_name(group)?;
        caller.check_group(&[Right::Describe], group)?;
        if !self.exists(group) {
            return Ok(None);
        }
        if self.kind_of(group) != GroupType::Ordered {
            return Err(Denied::OtherKind);
        }
        let live = self.coordinator.find(group).and_then(|cell| {
            let (_, mut core) = self.lock(&cell);
            if core.member_count() == 0 {
                return None;
            }
            let mut members: BTreeMap<Arc<str>, ConsumerMember> = core
                .members
                .iter()
                .map(|(name, member)| {
                    let described = ConsumerMember {
                        member: Arc::clone(name),
                        instance: None,
                        epoch: None,
                        client_id: member.client_id.clone(),
                        address: member.address.clone(),
                        topics: core.topics_of(name).cloned().collect(),
                        regex: core.regex_of(name).map(|regex| regex.text().to_owned()),
                        assignment: Vec::new(),
                        target: Vec::new(),
                    };
                    (Arc::clone(name), described)
                })
                .collect();
            let (ordered, _) = core.ordered()?;
            for (id, owner) in ordered.partitions() {
                if let Some(member) = owner.and_then(|owner| members.get_mut(owner)) {
                    member.assignment.push(id);
                }
            }
            for (id, target) in ordered.targets() {
                if let Some(member) = members.get_mut(target) {
                    member.target.push(id);
                }
            }
            for (name, member) in &mut members {
                if let Some(registered) = ordered.registered(name) {
                    (member.instance, member.epoch) = (registered.instance, Some(registered.epoch));
                }
            }
            Some(ConsumerGroup {
                is_reconciling: ordered.is_reconciling(),
                epoch: ordered.newest_epoch(),
                assignor: ordered.assignor(),
                members: members.into_values().collect(),
            })
        });
        let has_subscribed = || {
            !subscriptions::topics(&self.log, group).is_empty()
                || !subscriptions::patterns(&self.log, group).is_empty()
        };
        match live {
            Some(live) => Ok(Some(live)),
            None if has_subscribed() => Ok(Some(ConsumerGroup::default())),
            // To Kafka such a group is a classic one.
            None => Err(Denied::OtherKind),
        }
    }
}
