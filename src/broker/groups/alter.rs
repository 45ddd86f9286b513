//! Changes of a group's settings.

use std::sync::Arc;

use super::live::GroupType;
use super::shared::settings::{GroupValue, Order};
use super::{Groups, append, audited, offsets};
use crate::broker::caller::Caller;
use crate::broker::engine::StateChange;
use crate::broker::filter::Filter;
use crate::broker::refusal::{Reason, Refusal};
use crate::broker::rights::Right;

/// The settings to change; `None` leaves one as it is.
#[derive(Clone, Debug, Default)]
pub struct Alteration {
    /// Of a shared group: how long new leases last, in milliseconds.
    pub lease_ms: Option<u32>,
    /// Of a shared group: how often a record is delivered before it becomes a dead letter.
    pub max_deliveries: Option<u32>,
    /// Of a shared group: where the dead letters go; `Some(None)`: each topic has its own dead letter topic.
    pub dead_letter_topic: Option<Option<String>>,
    /// Of a shared group: the order of the records within a partition.
    pub order: Option<Order>,
    /// The records that the group gets; an open filter: all.
    pub filter: Option<Arc<Filter>>,
}

impl Alteration {
    /// The settings after the change.
    ///
    /// # Errors
    /// [`Reason::GroupTypeMismatch`]: settings of a queue for an ordered group. [`Reason::InvalidRequest`]: a setting
    /// that is out of range, or a dead letter topic among `topics`.
    fn applied_to(
        &self,
        group: &str,
        before: &GroupValue,
        topics: &[Arc<crate::broker::engine::Topic>],
    ) -> Result<GroupValue, Refusal> {
        let filter = self.filter.as_ref().unwrap_or(before.filter());
        let GroupValue::Shared(before) = before else {
            let is_of_queue = self.lease_ms.is_some()
                || self.max_deliveries.is_some()
                || self.dead_letter_topic.is_some()
                || self.order.is_some();
            if is_of_queue {
                let detail = format!("the group {group} is ordered: it has no settings but a filter");
                return Err(Refusal::new(Reason::GroupTypeMismatch, detail));
            }
            return Ok(GroupValue::Ordered(Arc::clone(filter)));
        };
        let mut after = before.clone();
        after.lease_ms = self.lease_ms.unwrap_or(after.lease_ms);
        after.max_deliveries = self.max_deliveries.unwrap_or(after.max_deliveries);
        after.order = self.order.unwrap_or(after.order);
        after.filter = Arc::clone(filter);
        if let Some(topic) = &self.dead_letter_topic {
            after.dead_letter_topic.clone_from(topic);
        }
        let checked = after.check(topics.iter().map(|topic| topic.name()));
        checked.map_err(|unfit| Refusal::invalid(format!("/{}", unfit.field), unfit.to_string()))?;
        Ok(GroupValue::Shared(after))
    }
}

impl Groups {
    /// Changes a group's settings, with or without members; durable when this returns. New leases, and polls from now
    /// on, follow the new settings. What an earlier filter passed over stays passed over.
    ///
    /// # Errors
    /// - [`Reason::UnknownGroup`]. [`Reason::GroupTypeMismatch`]: settings of a queue for an ordered group.
    /// - [`Reason::GroupActive`]: another `order`, and the group has members; a `filter`, and some of them are Kafka's.
    /// - [`Reason::InvalidRequest`]: a setting that is out of range, or a dead letter topic that the group reads.
    /// - Those of [`Groups::commit`].
    pub async fn alter(&self, caller: &Caller, group: &str, alteration: &Alteration) -> Result<(), Refusal> {
        caller.check_group(&[Right::Write, Right::Configure], group)?;
        if let Some(Some(topic)) = &alteration.dead_letter_topic {
            self.check_names_dead_letters(caller, topic)?;
        }
        // Nobody joins, and no topic is added to the group, until the change is durable and applied.
        let guard = self.alone().await;
        self.check_exists(group)?;
        let before = self.value_of(group)?.unwrap_or_default();
        let topics = self.scope(group).0.into_iter();
        let topics: Vec<_> = topics.filter_map(|id| self.log.topic_by_id(id)).collect();
        let after = alteration.applied_to(group, &before, &topics)?;
        if after == before {
            return Ok(());
        }
        let order = |value: &GroupValue| match value {
            GroupValue::Ordered(_) => Order::None,
            GroupValue::Shared(settings) => settings.order,
        };
        // Without members, the queue is forgotten afterwards and loaded again in its new order.
        // Kafka's clients cannot filter.
        let has_kafka = self.kind_of(group) == GroupType::Classic || self.has_consumers(group);
        let filters_classic = after.filter() != before.filter() && has_kafka;
        let is_alone = order(&after) != order(&before) || filters_classic;
        let outside = is_alone.then(|| self.no_members(group));
        let outside = outside.transpose()?;
        let entry = audited(&self.log, caller, "group.alter", group, "", "");
        let (groups, group) = (self.clone(), group.to_owned());
        let task = tokio::spawn(async move {
            let state = vec![
                StateChange::set(offsets::group_key(&group), after.encode()),
                entry,
            ];
            append(&groups.log, state).await?;
            // The cell reads the stored settings under its lock, so one that is made from here on has them.
            if let Some(cell) = groups.coordinator.find(&group) {
                groups.lock(&cell).1.apply(&after);
            }
            if after.dead_letter_topic() != before.dead_letter_topic() {
                // Patterns no longer match the one topic, and match the other again.
                groups.topics.announce();
            }
            drop((outside, guard));
            Ok(())
        });
        task.await.unwrap_or_else(|_| Err(Refusal::stopping()))
    }
}
