//! Records of several topics in one append: all of them are stored, or none.
//!
//! [`Several`] places records of any topics, topic by topic as [`placing`](super::placing) does.
//! [`Addressed`] does so for a list of records in which each names its topic, as clients send it: it finds the topics,
//! checks the limits, and says which record is refused. Neither appends anything: [`Placed::add_to`] adds what was
//! placed to an append, which may hold other things too.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::idempotency::{First, unreadable};
use super::limits::{Misfit, RecordLimits, check_stored_bytes};
use super::placing::{ExtraHeader, Placement, Placer, Placing};
use super::whole::{Attempt, Placed, PlacedTopic};
use super::{Producer, TopicRules};
use crate::broker::caller::Caller;
use crate::broker::engine::{Ack, TimestampMs, Topic, TopicId};
use crate::broker::refusal::{Reason, Refusal};
use crate::broker::rights::Right;
use crate::broker::topics::catalog;
use crate::formats::json::ParsedRecord;
use crate::formats::partitioner::Rotation;

/// Places the records of an append, for any topics.
pub struct Several<'a> {
    rotation: &'a Rotation,
    now: TimestampMs,
    /// In the order in which they came.
    topics: Vec<OfTopic<'a>>,
    numbers: BTreeMap<TopicId, usize>,
    /// The topic of each record, and its place there.
    placements: Vec<(u32, Placement)>,
    parts: usize,
    bytes: usize,
}

struct OfTopic<'a> {
    name: String,
    /// `None` in a repeated call, which appends nothing.
    topic: Option<Arc<Topic>>,
    ack: Ack,
    partitions: u32,
    placer: Placer<'a>,
}

impl<'a> Several<'a> {
    /// No records yet; they are appended at the time `now`.
    pub fn new(rotation: &'a Rotation, now: TimestampMs) -> Self {
        Self {
            rotation,
            now,
            topics: Vec::new(),
            numbers: BTreeMap::new(),
            placements: Vec::new(),
            parts: 0,
            bytes: 0,
        }
    }

    /// The number of a topic here. If it is new here, its records get those `extra_headers` whose names they lack.
    pub fn number_of(&mut self, topic: &Arc<Topic>, extra_headers: &[ExtraHeader<'a>]) -> usize {
        if let Some(number) = self.numbers.get(&topic.id()) {
            return *number;
        }
        let rules = TopicRules::of(&topic.spec());
        let placing = Placing {
            topic: topic.id(),
            partitions: topic.partition_count(),
            log_append_time: rules.log_append_time,
            codec: rules.compression.of_records(),
            extra_headers: extra_headers.to_vec(),
            ..self.placing()
        };
        let number = self.begin(
            topic.name().to_owned(),
            Some(Arc::clone(topic)),
            rules.ack,
            placing,
        );
        self.numbers.insert(topic.id(), number);
        number
    }

    /// The number of one more topic, whose records are placed again as they were `first`.
    fn number_of_repeated(&mut self, name: String, first: First) -> usize {
        let placing = Placing {
            partitions: first.partitions,
            unkeyed: first.unkeyed,
            ..self.placing()
        };
        self.begin(name, None, Ack::Durable, placing)
    }

    fn placing(&self) -> Placing<'a> {
        Placing {
            // Counts only for the rotation.
            topic: TopicId(0),
            partitions: 1,
            log_append_time: false,
            codec: None,
            limits: RecordLimits::NONE,
            rotation: self.rotation,
            unkeyed: None,
            repartition: false,
            one_partition: false,
            extra_headers: Vec::new(),
        }
    }

    fn begin(&mut self, name: String, topic: Option<Arc<Topic>>, ack: Ack, placing: Placing<'a>) -> usize {
        self.topics.push(OfTopic {
            name,
            topic,
            ack,
            partitions: placing.partitions,
            placer: Placer::new(placing, self.now),
        });
        self.topics.len() - 1
    }

    /// How many partitions the topic with that number has.
    pub fn partitions(&self, number: usize) -> u32 {
        self.topics[number].partitions
    }

    /// Adds a record to the topic with that number.
    ///
    /// # Errors
    /// Why it is refused; nothing has changed.
    pub fn add(
        &mut self,
        number: usize,
        limits: RecordLimits,
        record: &ParsedRecord<'_>,
    ) -> Result<(), Misfit> {
        let placer = &mut self.topics[number].placer;
        placer.limit(limits);
        let before = placer.bytes();
        let placement = placer.add(record)?;
        self.bytes += placer.bytes() - before;
        self.parts += usize::from(placement.delta == 0);
        self.placements.push((number as u32, placement));
        Ok(())
    }

    /// Bytes of the records so far.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// How many partitions they go to.
    pub fn parts(&self) -> usize {
        self.parts
    }

    /// The placed records; the answer names their topics.
    pub fn placed(self) -> Placed {
        let now = self.now;
        let mut names = Vec::with_capacity(self.topics.len());
        let mut first_parts = Vec::with_capacity(self.topics.len());
        let mut parts = 0;
        let take = |mut of: OfTopic<'_>| {
            let placed = PlacedTopic::of(of.topic, of.ack, of.partitions, &mut of.placer, now);
            names.push(of.name);
            first_parts.push(parts);
            parts += placed.parts() as u32;
            placed
        };
        let topics: Vec<_> = self.topics.into_iter().map(take).collect();
        let in_all = |(topic, placement): (u32, Placement)| Placement {
            part: first_parts[topic as usize] + placement.part,
            ..placement
        };
        Placed {
            topics,
            names,
            placements: self.placements.into_iter().map(in_all).collect(),
            bytes: self.bytes,
        }
    }
}

/// Places a list of records that name their topics.
pub struct Addressed<'a> {
    producer: &'a Producer,
    caller: &'a Caller,
    several: Several<'a>,
    /// The JSON pointer of the list: the errors of its record 3 name `/records/3`, or fields in it.
    list: &'static str,
    extra_headers: Vec<ExtraHeader<'a>>,
    /// The topics' numbers and limits, by name.
    topics: HashMap<Vec<u8>, (usize, RecordLimits)>,
    /// In a repeated call: how the records of the next new topic were placed the first time.
    firsts: Option<std::vec::IntoIter<First>>,
    max_bytes: usize,
    max_parts: usize,
}

impl Producer {
    /// Begins a list of records for several topics, at `list` in its document; every record gets those
    /// `extra_headers` whose names it lacks.
    ///
    /// A call that was appended before is placed as it was then, even if its topics have changed or are gone.
    pub fn addressed<'a>(
        &'a self,
        caller: &'a Caller,
        list: &'static str,
        attempt: &Attempt,
        extra_headers: Vec<ExtraHeader<'a>>,
    ) -> Addressed<'a> {
        let is_new = attempt.firsts.is_none();
        let limit = |limit| if is_new { limit } else { usize::MAX };
        Addressed {
            producer: self,
            caller,
            several: Several::new(&self.rotation, attempt.now),
            list,
            extra_headers,
            topics: HashMap::new(),
            firsts: attempt.firsts.clone().map(Vec::into_iter),
            max_bytes: limit(self.limits.max_request_bytes),
            max_parts: limit(self.limits.max_partitions as usize),
        }
    }
}

impl Addressed<'_> {
    /// Adds the record at `index` of the list.
    ///
    /// # Errors
    /// [`Reason::UnknownTopic`], [`Reason::UnknownPartition`], [`Reason::RecordTooLarge`] with the field at fault;
    /// [`Reason::RequestTooLarge`]. The list must not be appended then.
    pub fn add(&mut self, index: usize, topic: &[u8], record: &ParsedRecord<'_>) -> Result<(), Refusal> {
        let list = self.list;
        let (number, limits) = match self.topics.get(topic) {
            Some(known) => *known,
            None => self
                .begin(topic)
                .map_err(|refusal| refusal.at(format!("{list}/{index}/topic")))?,
        };
        self.several.add(number, limits, record).map_err(|misfit| {
            let pointer = format!("{list}/{index}");
            misfit.refuse(&pointer, &format!("{pointer}/partition"))
        })?;
        check_stored_bytes(self.several.bytes(), self.max_bytes)?;
        // Each partition takes memory, and time of the committer, however small its records are.
        if self.several.parts() > self.max_parts {
            let most = self.max_parts;
            let detail = format!("the records go to more than {most} partitions; split the request");
            return Err(Refusal::new(Reason::RequestTooLarge, detail));
        }
        Ok(())
    }

    /// Refuses a topic that the caller may not write to.
    ///
    /// # Errors
    /// [`Reason::Forbidden`].
    pub fn check(&self, topic: &[u8]) -> Result<(), Refusal> {
        match self.topics.contains_key(topic) {
            true => Ok(()),
            false => self
                .caller
                .check_topic(Right::Write, &String::from_utf8_lossy(topic)),
        }
    }

    /// How many topics the records go to.
    pub fn topics(&self) -> usize {
        self.topics.len()
    }

    /// The topic of the first record that names it.
    fn begin(&mut self, name: &[u8]) -> Result<(usize, RecordLimits), Refusal> {
        let text = String::from_utf8_lossy(name);
        self.caller.check_topic(Right::Write, &text)?;
        let known = match &mut self.firsts {
            Some(firsts) => {
                let first = firsts.next().ok_or_else(unreadable)?;
                let number = self.several.number_of_repeated(text.into_owned(), first);
                (number, RecordLimits::NONE)
            }
            None => {
                let topic = catalog::find(&self.producer.log, &text)?;
                let rules = TopicRules::of(&topic.spec());
                let number = self.several.number_of(&topic, &self.extra_headers);
                (number, RecordLimits::of(&self.producer.limits, &rules))
            }
        };
        self.topics.insert(name.to_vec(), known);
        Ok(known)
    }

    /// The placed records; the answer names their topics.
    pub fn placed(self) -> Placed {
        self.several.placed()
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use serde_json::json;

    use super::*;
    use crate::broker::Broker;
    use crate::broker::engine::sim::{SimClock, SimDisk};
    use crate::broker::engine::{AppendRequest, Log, Offset, Options as LogOptions};
    use crate::broker::limits::Limits;
    use crate::broker::produce::Options;
    use crate::formats::json::parse_addressed;

    const NOW: TimestampMs = TimestampMs(1_700_000_000_000);

    /// Topics `a` (of one partition) and `b` (of three).
    fn broker(limits: Limits) -> Broker {
        let clock = Arc::new(SimClock::new(NOW));
        let options = LogOptions {
            journal_file_bytes: 4 << 20,
            journal_files: 2,
            max_request_bytes: 3 << 20,
            ..LogOptions::default()
        };
        let disk = Arc::new(SimDisk::new(1));
        let log = Log::open_with(disk, clock.clone(), Path::new("/data"), options).unwrap();
        let broker = Broker::new(log, clock, limits, None);
        for (name, partitions) in [("a", 1), ("b", 3)] {
            broker
                .topics
                .create(&Caller::default(), name, Some(partitions), &[])
                .unwrap();
        }
        broker
    }

    fn attempt(firsts: Option<Vec<First>>) -> Attempt {
        Attempt {
            options: Options {
                ack: None,
                expected_offset: None,
                repartition: false,
            },
            now: NOW,
            firsts,
        }
    }

    fn place(broker: &Broker, attempt: &Attempt, body: &str) -> Result<Placed, Refusal> {
        let nobody = Caller::default();
        let mut list = broker
            .producer
            .addressed(&nobody, "/records", attempt, Vec::new());
        parse_addressed(body.as_bytes(), |index, addressed| {
            list.add(index, &addressed.topic, &addressed.record)
        })?;
        Ok(list.placed())
    }

    /// What is placed of a body becomes one request; returns that, and the topic, partition and offset of each record.
    fn request(broker: &Broker, placed: Placed, bases: &[u64]) -> (AppendRequest, Vec<(String, u32, u64)>) {
        let mut request = AppendRequest::default();
        let mut places = placed.add_to(&mut request, &broker.log, None).unwrap();
        let bases: Vec<Offset> = bases.iter().map(|base| Offset::new(*base)).collect();
        places.appended(&bases);
        let place = |placement: &Placement| {
            let part = places.parts[placement.part as usize];
            let offset = part.base_offset.plus(u64::from(placement.delta)).get();
            (places.names[part.topic as usize].clone(), part.partition, offset)
        };
        (request, places.placements.iter().map(place).collect())
    }

    fn row(topic: &str, partition: u32, offset: u64) -> (String, u32, u64) {
        (topic.to_owned(), partition, offset)
    }

    const BODY: &str = r#"{"records":[{"topic":"b","partition":2},{"topic":"a"},{"topic":"b"},{"topic":"b","partition":2},{"topic":"a","value":1}]}"#;

    #[test]
    fn records_of_several_topics_are_one_request_with_a_part_for_each_partition() {
        let broker = broker(Limits::default());
        let placed = place(&broker, &attempt(None), BODY).unwrap();
        let (request, places) = request(&broker, placed, &[70, 80, 90]);
        let parts: Vec<_> = request.parts.iter().map(|part| part.partition.name()).collect();
        assert_eq!(parts, ["b/2", "b/0", "a/0"]);
        assert!(request.state.is_empty());
        let expected = [
            row("b", 2, 70),
            row("a", 0, 90),
            row("b", 0, 80),
            row("b", 2, 71),
            row("a", 0, 91),
        ];
        assert_eq!(places, expected);
    }

    #[test]
    fn what_is_placed_joins_an_append_that_has_other_parts_already() {
        let broker = broker(Limits::default());
        let mut request = AppendRequest::default();
        let others = r#"{"records":[{"topic":"a"},{"topic":"b","partition":1}]}"#;
        let others = place(&broker, &attempt(None), others).unwrap();
        others.add_to(&mut request, &broker.log, None).unwrap();
        let placed = place(
            &broker,
            &attempt(None),
            r#"{"records":[{"topic":"b","partition":2}]}"#,
        )
        .unwrap();
        let mut places = placed.add_to(&mut request, &broker.log, None).unwrap();
        assert_eq!(request.parts.len(), 3);
        places.appended(&[5, 6, 7].map(Offset::new));
        assert_eq!(places.parts[0].base_offset, Offset::new(7));
    }

    #[test]
    fn a_repeated_list_is_placed_as_the_first_time_without_its_topics() {
        let broker = broker(Limits::default());
        let first = |partitions, unkeyed| First { partitions, unkeyed };
        let firsts = vec![first(7, Some(5)), first(4, Some(3))];
        broker.topics.delete(&Caller::default(), "a", None).unwrap();
        let places = place(&broker, &attempt(Some(firsts.clone())), BODY).unwrap();
        let parts = places
            .parts()
            .into_iter()
            .map(|part| (part.topic, part.partition));
        assert_eq!(parts.collect::<Vec<_>>(), [(0, 2), (0, 5), (1, 3)]);
        assert_eq!(places.names, ["b", "a"]);
        let refusal = place(&broker, &attempt(Some(firsts[..1].to_vec())), BODY)
            .err()
            .unwrap();
        assert_eq!(refusal.reason, Reason::Internal);
    }

    #[test]
    fn a_call_that_does_not_say_when_it_is_answered_waits_unless_all_its_topics_say_otherwise() {
        let broker = broker(Limits::default());
        let written = [("ack".to_owned(), json!("written"))];
        for name in ["w", "x"] {
            broker
                .topics
                .create(&Caller::default(), name, None, &written)
                .unwrap();
        }
        for (body, expected) in [
            (r#"{"records":[{"topic":"w"},{"topic":"x"}]}"#, Ack::Written),
            (r#"{"records":[{"topic":"w"},{"topic":"a"}]}"#, Ack::Durable),
            (r#"{"records":[{"topic":"a"},{"topic":"w"}]}"#, Ack::Durable),
        ] {
            assert_eq!(
                place(&broker, &attempt(None), body).unwrap().ack(),
                expected,
                "{body}"
            );
        }
    }

    #[test]
    fn a_refusal_names_the_record_and_the_limits_are_those_of_its_topic() {
        let broker = broker(Limits {
            max_request_bytes: 400,
            max_partitions: 3,
            ..Limits::default()
        });
        let small = [("max_record_bytes".to_owned(), json!(4))];
        broker
            .topics
            .create(&Caller::default(), "small", None, &small)
            .unwrap();
        let refused = |records: serde_json::Value| {
            let body = json!({"records": records}).to_string();
            let refusal = place(&broker, &attempt(None), &body)
                .err()
                .expect("it is refused");
            (refusal.reason, refusal.field)
        };
        let at = |pointer: &str| Some(pointer.to_owned());
        let unknown = refused(json!([{"topic": "a"}, {"topic": "none"}]));
        assert_eq!(unknown, (Reason::UnknownTopic, at("/records/1/topic")));
        let internal = refused(json!([{"topic": "__keys"}]));
        assert_eq!(internal, (Reason::UnknownTopic, at("/records/0/topic")));
        let partition = refused(json!([{"topic": "b", "partition": 2}, {"topic": "a", "partition": 1}]));
        assert_eq!(partition, (Reason::UnknownPartition, at("/records/1/partition")));
        let large = refused(json!([{"topic": "a", "value": 12345}, {"topic": "small", "value": 12345}]));
        assert_eq!(large, (Reason::RecordTooLarge, at("/records/1")));
        let bytes = refused(
            json!([{"topic": "a", "value": "x".repeat(200)}, {"topic": "b", "value": "x".repeat(200)}]),
        );
        assert_eq!(bytes, (Reason::RequestTooLarge, None));
        let three = json!([{"topic": "b", "partition": 0}, {"topic": "b", "partition": 1}, {"topic": "a"}]);
        let body = json!({"records": three}).to_string();
        assert!(place(&broker, &attempt(None), &body).is_ok());
        let four = json!([{"topic": "b", "partition": 0}, {"topic": "b", "partition": 1}, {"topic": "a"}, {"topic": "small"}]);
        assert_eq!(refused(four), (Reason::RequestTooLarge, None));
    }
}
