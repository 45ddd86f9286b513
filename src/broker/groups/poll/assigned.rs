//! What a poll of an ordered group takes: its member's partitions, each from its next offset.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{Delivered, MAX_RECORDS, Piece, Polled, Polling, Taken, Wanted};
use crate::broker::engine::{Topic, TopicId};
use crate::broker::groups::Groups;
use crate::broker::groups::poll_id::MAX_PARTITIONS;
use crate::broker::groups::settle::Uncounted;
use crate::broker::refusal::Refusal;

impl Groups {
    /// The partitions and offsets that the member may read now.
    pub(super) fn take_assigned(&self, polling: &Polling<'_>, wanted: &Wanted) -> Result<Taken<'_>, Refusal> {
        let member = polling.member;
        let (places, is_new) = {
            let (_, mut core) = self.lock(&polling.cell);
            core.refresh(polling.group, &self.log, &self.coordinator);
            let is_polling = core.members.check_poll(member, polling.token).map(drop);
            is_polling.map_err(|error| polling.refused(error))?;
            let places = core.ordered().map(|(ordered, _)| ordered.readable(member));
            let places = places.unwrap_or_else(|| Ok(Default::default()));
            places.map_err(|error| polling.refused(error))?
        };
        let mut taken = Taken {
            is_new,
            most: wanted.max_records.unwrap_or(MAX_RECORDS),
            ..Taken::default()
        };
        let mut topics: BTreeMap<TopicId, Option<Arc<Topic>>> = BTreeMap::new();
        for place in places {
            let id = place.partition;
            let topic = topics
                .entry(id.topic)
                .or_insert_with(|| self.log.topic_by_id(id.topic));
            let Some((topic, partition)) = topic
                .as_ref()
                .zip(topic.as_ref().and_then(|topic| topic.partition(id.index)))
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

    /// Makes the answer from the pages; `None` if a partition has changed hands since it was read.
    pub(super) fn deliver_assigned(
        &self,
        polling: &Polling<'_>,
        pages: Vec<Delivered>,
    ) -> Result<Option<Polled>, Refusal> {
        let range = |delivered: &Delivered| {
            let page = &delivered.page;
            (delivered.partition, page.from, page.next_offset)
        };
        let ranges = pages.iter().map(range).collect();
        let answer = {
            let (now, mut core) = self.lock(&polling.cell);
            let Some((ordered, members)) = core.ordered() else {
                return Ok(None);
            };
            let answer = ordered.deliver(members, polling.member, polling.token, ranges, now);
            answer.map_err(|error| polling.refused(error))?
        };
        Ok(answer.map(|answer| Polled {
            poll_id: answer.poll_id.encode(polling.group, polling.member),
            epoch: answer.epoch,
            assignment: self.named(&answer.assignment),
            lease_expires: None,
            pages,
            lost_partitions: self.named(&polling.lost),
            uncounted: Uncounted::default(),
            produced: polling.produced.clone(),
        }))
    }
}
