//! What a poll of an ordered group takes: its member's partitions, each from its next offset.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::{Delivered, MAX_RECORDS, Piece, Polled, Polling, Range, Read, Taken, Wanted};
use crate::broker::engine::{PartitionId, Topic, TopicId};
use crate::broker::filter::Filter;
use crate::broker::groups::Groups;
use crate::broker::groups::poll_id::MAX_PARTITIONS;
use crate::broker::groups::settle::Uncounted;
use crate::broker::refusal::Refusal;
use crate::broker::rights::Right;

impl Groups {
    /// The partitions and offsets that the member may read now.
    pub(super) fn take_assigned(&self, polling: &Polling<'_>, wanted: &Wanted) -> Result<Taken<'_>, Refusal> {
        let member = polling.member;
        let (places, is_new, filter) = {
            let (_, mut core) = self.lock(&polling.cell);
            core.refresh(polling.group, &self.log, self.coordinator.change());
            let is_polling = core.members.check_poll(member, polling.token).map(drop);
            is_polling.map_err(|error| polling.refused(error))?;
            let places = core.ordered().map(|(ordered, _)| ordered.readable(member));
            let places = places.unwrap_or_else(|| Ok(Default::default()));
            let (places, is_new) = places.map_err(|error| polling.refused(error))?;
            (places, is_new, Arc::clone(&core.filter))
        };
        let mut taken = Taken {
            is_new,
            most: wanted.max_records.unwrap_or(MAX_RECORDS),
            filter,
            ..Taken::default()
        };
        let mut topics: BTreeMap<TopicId, Option<Arc<Topic>>> = BTreeMap::new();
        for place in places {
            let id = place.partition;
            let topic = topics
                .entry(id.topic)
                .or_insert_with(|| self.log.topic_by_id(id.topic))
                .as_ref()
                // What it has in hand may be of a topic that it may no longer read.
                .filter(|topic| polling.caller.may_topic(Right::Read, topic.name()));
            let Some((topic, partition)) = topic.zip(topic.and_then(|topic| topic.partition(id.index)))
            else {
                continue;
            };
            let positions = partition.positions();
            let from = positions.log_start_offset.max(place.from);
            if positions.end_offset > from && taken.pieces.len() < MAX_PARTITIONS {
                taken.pieces.push(Piece {
                    topic: Arc::clone(topic),
                    partition: Arc::clone(&partition),
                    from,
                    // If the lost records are deleted, the partition is read like any other.
                    until: place.until.filter(|until| *until > from),
                    deliveries: None,
                    letter: None,
                });
            }
            taken.ends.push((partition, from));
        }
        Ok(taken)
    }

    /// Makes the answer from what was read; `None` if a partition has changed hands since, or the filter has changed.
    pub(super) fn deliver_assigned(
        &self,
        polling: &Polling<'_>,
        filter: &Arc<Filter>,
        read: Read,
    ) -> Result<Option<Polled>, Refusal> {
        let pages = read.pages;
        // What was read without a match is passed over already.
        let ranges = match pages.is_empty() {
            true => Vec::new(),
            false => read.ranges.iter().map(Range::parts).collect(),
        };
        let answer = {
            let (now, mut core) = self.lock(&polling.cell);
            if !Arc::ptr_eq(&core.filter, filter) {
                return Ok(None);
            }
            let Some((ordered, members)) = core.ordered() else {
                return Ok(None);
            };
            let answer = ordered.deliver(members, polling.member, polling.token, ranges, now);
            let answer = answer.map_err(|error| polling.refused(error))?;
            if answer.is_some() && !filter.is_open() {
                let matching =
                    |delivered: &Delivered| Some((delivered.partition, delivered.page.kept.clone()?));
                ordered.note_matching(polling.member, pages.iter().filter_map(matching).collect());
            }
            answer
        };
        // A partition that was moved comes to the one list, whether its records were acknowledged or not.
        let lost = |moved: &[PartitionId]| -> Vec<PartitionId> {
            let all: BTreeSet<PartitionId> = polling.lost.iter().chain(moved).copied().collect();
            all.into_iter().collect()
        };
        Ok(answer.map(|answer| Polled {
            poll_id: answer
                .poll_id
                .encode(self.coordinator.directory(), polling.group, polling.member),
            epoch: answer.epoch,
            assignment: self.named(&answer.assignment),
            lease_expires: None,
            pages,
            lost_partitions: self.named(&lost(&answer.moved)),
            uncounted: Uncounted::default(),
            produced: polling.produced.clone(),
        }))
    }
}
