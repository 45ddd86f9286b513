//! Turns a record into a dead letter, and back. Pure.
//!
//! A dead letter is the record with its key, value, headers and timestamp, and these headers, as text:
//!
//! | header | says |
//! |---|---|
//! | `dlq_topic` `dlq_topic_id` `dlq_partition` `dlq_offset` | where the record lies |
//! | `dlq_group` | which group gave it up |
//! | `dlq_deliveries` | how often it was delivered |
//! | `dlq_reason` | the reason that the rejecting member gave, or that the record was delivered too often |
//! | `dlq_died_at` | when, in milliseconds since the Unix epoch |
//! | `dlq_redriven` | how often it had been redriven; absent: never |
//! | `dlq_seal` | that the server has made it ([`super::seal`]); it is put behind the others when the dead letter is stored |
//!
//! A record that has such headers already, as the dead letter of another queue or from its producer, keeps them under
//! other names: `first_` is put behind `dlq_`. The way back takes it out again, so every record comes back as it was.
//!
//! The timestamp stays the same both ways, as in Kafka Connect: it says when the event happened, and consumers (replay
//! by time, windows) rely on it. A topic with `timestamp_type=log_append_time` records the time of dead-lettering
//! instead. Retention by time uses timestamps, so a topic with short retention soon deletes old records: a topic
//! created for dead letters keeps all.

use std::borrow::Cow;
use std::str::FromStr;

use crate::broker::engine::batch::{BatchBuilder, Record, SealedBatch};
use crate::broker::engine::{Offset, TimestampMs, TopicId};
use crate::formats::json::{ParsedHeader, ParsedRecord, is_json_line};

/// The longest stored reason, in bytes; longer ones are cut.
pub const MAX_REASON_BYTES: usize = 1024;

const PREFIX: &[u8] = b"dlq_";
const EARLIER: &[u8] = b"first_";
const TOPIC: &str = "dlq_topic";
const TOPIC_ID: &str = "dlq_topic_id";
const PARTITION: &str = "dlq_partition";
const OFFSET: &str = "dlq_offset";
const GROUP: &str = "dlq_group";
const DELIVERIES: &str = "dlq_deliveries";
const REASON: &str = "dlq_reason";
const DIED_AT: &str = "dlq_died_at";
const REDRIVEN: &str = "dlq_redriven";
/// That the server has made it, see [`super::seal`].
pub const SEAL: &str = "dlq_seal";
const ALL: [&str; 10] = [
    TOPIC, TOPIC_ID, PARTITION, OFFSET, GROUP, DELIVERIES, REASON, DIED_AT, REDRIVEN, SEAL,
];

/// Where a dead letter comes from, and who gave it up when.
#[derive(Clone, Copy, Debug)]
pub struct Origin<'a> {
    /// The topic's name.
    pub topic: &'a str,
    /// The topic's id.
    pub topic_id: TopicId,
    /// The partition's index.
    pub partition: u32,
    /// The group that dead-lettered it.
    pub group: &'a str,
    /// When it did.
    pub died_at: TimestampMs,
    /// How often the record had been redriven.
    pub redriven: u32,
}

/// A dead letter as it is read, with what its headers say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadLetter<'a> {
    /// The name of the topic that it comes from.
    pub topic: &'a str,
    /// The id of that topic; dead letters of version 0.1.0 have none.
    pub topic_id: Option<TopicId>,
    /// The partition there.
    pub partition: u32,
    /// The offset there.
    pub offset: Offset,
    /// The group that dead-lettered it.
    pub group: &'a str,
    /// How often it was delivered.
    pub deliveries: u32,
    /// Why it died.
    pub reason: Cow<'a, str>,
    /// When; dead letters of version 0.1.0 do not say.
    pub died_at: Option<TimestampMs>,
    /// How often it had been redriven.
    pub redriven: u32,
}

/// Why a record is not a dead letter.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoDeadLetter {
    /// The header is missing: the record was written to the topic directly.
    #[error("it has no header {0}")]
    Missing(&'static str),
    /// A dead letter's header has another form.
    #[error("its header {0} is malformed")]
    Malformed(&'static str),
}

/// The reason of a record that was delivered too often.
pub fn delivered_too_often(deliveries: u32) -> String {
    match deliveries {
        1 => "delivered once and not settled".to_owned(),
        _ => format!("delivered {deliveries} times and not settled"),
    }
}

/// The dead letter of a record, as a copy. Like any record, it is placed by its key.
pub fn of_record(
    record: &Record<'_>,
    origin: Origin<'_>,
    deliveries: u32,
    reason: &str,
) -> ParsedRecord<'static> {
    let own = |bytes: &[u8]| Cow::Owned(bytes.to_vec());
    let kept = record.headers.into_iter();
    let kept = kept.map(|(name, value)| (Cow::Owned(put_away(name)), value.map(own)));
    let reason = &reason[..reason.floor_char_boundary(MAX_REASON_BYTES)];
    let added = [
        (TOPIC, origin.topic.to_owned()),
        (TOPIC_ID, origin.topic_id.0.to_string()),
        (PARTITION, origin.partition.to_string()),
        (OFFSET, record.offset.to_string()),
        (GROUP, origin.group.to_owned()),
        (DELIVERIES, deliveries.to_string()),
        (REASON, reason.to_owned()),
        (DIED_AT, origin.died_at.get().to_string()),
    ];
    let redriven = (origin.redriven > 0).then(|| (REDRIVEN, origin.redriven.to_string()));
    let added = added.into_iter().chain(redriven);
    let added = added.map(|(name, value)| (Cow::Borrowed(name.as_bytes()), Some(value.into_bytes().into())));
    let headers: Vec<ParsedHeader<'static>> = kept.chain(added).collect();
    ParsedRecord {
        partition: None,
        timestamp: Some(record.timestamp),
        key: record.key.map(own),
        value: record.value.map(own),
        json_line: record.value.is_none_or(is_json_line),
        headers,
    }
}

/// What a dead letter says of itself.
///
/// # Errors
/// Why the record is no dead letter.
pub fn read<'a>(record: &Record<'a>) -> Result<DeadLetter<'a>, NoDeadLetter> {
    let reason = bytes(record, REASON).unwrap_or_default();
    Ok(DeadLetter {
        topic: text(record, TOPIC)?,
        topic_id: optional(number(record, TOPIC_ID))?.map(TopicId),
        partition: number(record, PARTITION)?,
        offset: Offset::try_new(number(record, OFFSET)?).ok_or(NoDeadLetter::Malformed(OFFSET))?,
        group: text(record, GROUP)?,
        deliveries: optional(number(record, DELIVERIES))?.unwrap_or(0),
        reason: String::from_utf8_lossy(reason),
        died_at: optional(number(record, DIED_AT))?.map(TimestampMs),
        redriven: optional(number(record, REDRIVEN))?.unwrap_or(0),
    })
}

/// The record that a dead letter was, in a batch of its own, at the offset that it had.
pub fn original(record: &Record<'_>, offset: Offset) -> SealedBatch {
    let kept = record.headers.into_iter();
    let kept: Vec<(Vec<u8>, Option<&[u8]>)> = kept
        .filter_map(|(name, value)| Some((take_back(name)?, value)))
        .collect();
    let headers: Vec<(&[u8], Option<&[u8]>)> = kept.iter().map(|(name, value)| (&name[..], *value)).collect();
    let mut builder = BatchBuilder::new();
    builder.push(record.timestamp, record.key, record.value, &headers);
    let mut sealed = builder.seal();
    sealed.set_base_offset(offset);
    sealed
}

/// Whether a header is one that dead letters add, of this queue or an earlier one.
fn is_added(name: &[u8]) -> bool {
    let Some(mut rest) = name.strip_prefix(PREFIX) else {
        return false;
    };
    while let Some(behind) = rest.strip_prefix(EARLIER) {
        rest = behind;
    }
    ALL.iter().any(|added| added.as_bytes()[PREFIX.len()..] == *rest)
}

/// The name of a record's header in its dead letter.
fn put_away(name: &[u8]) -> Vec<u8> {
    match is_added(name) {
        true => [PREFIX, EARLIER, &name[PREFIX.len()..]].concat(),
        false => name.to_vec(),
    }
}

/// The name of a dead letter's header in the record that it was; `None` for one that was added.
fn take_back(name: &[u8]) -> Option<Vec<u8>> {
    if !is_added(name) {
        return Some(name.to_vec());
    }
    let rest = name[PREFIX.len()..].strip_prefix(EARLIER)?;
    Some([PREFIX, rest].concat())
}

fn bytes<'a>(record: &Record<'a>, name: &'static str) -> Result<&'a [u8], NoDeadLetter> {
    // The last one counts, as in Kafka, if a name repeats.
    let named = record
        .headers
        .into_iter()
        .filter(|(found, _)| *found == name.as_bytes());
    let (_, value) = named.last().ok_or(NoDeadLetter::Missing(name))?;
    value.ok_or(NoDeadLetter::Malformed(name))
}

fn text<'a>(record: &Record<'a>, name: &'static str) -> Result<&'a str, NoDeadLetter> {
    std::str::from_utf8(bytes(record, name)?).map_err(|_| NoDeadLetter::Malformed(name))
}

fn number<T: FromStr>(record: &Record<'_>, name: &'static str) -> Result<T, NoDeadLetter> {
    let text = text(record, name)?;
    text.parse().map_err(|_| NoDeadLetter::Malformed(name))
}

fn optional<T>(found: Result<T, NoDeadLetter>) -> Result<Option<T>, NoDeadLetter> {
    match found {
        Ok(found) => Ok(Some(found)),
        Err(NoDeadLetter::Missing(_)) => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use crate::broker::engine::batch::Records;

    use super::*;

    type Header<'a> = (&'a [u8], Option<&'a [u8]>);

    const ORIGIN: Origin<'static> = Origin {
        topic: "jobs",
        topic_id: TopicId(5),
        partition: 3,
        group: "workers",
        died_at: TimestampMs(1_700_000_000_000),
        redriven: 0,
    };

    fn sealed(key: Option<&[u8]>, value: Option<&[u8]>, headers: &[Header<'_>]) -> SealedBatch {
        let mut builder = BatchBuilder::new();
        builder.push(TimestampMs(1_357_035_420_000), key, value, headers);
        let mut sealed = builder.seal();
        sealed.set_base_offset(Offset::new(41));
        sealed
    }

    fn stored(parsed: &ParsedRecord<'_>) -> SealedBatch {
        let rows = parsed.headers.iter();
        let headers = rows.map(|(name, value)| (&**name, value.as_deref()));
        let headers: Vec<Header<'_>> = headers.collect();
        sealed(parsed.key.as_deref(), parsed.value.as_deref(), &headers)
    }

    fn first(batch: &SealedBatch) -> Record<'_> {
        Records::new(batch.as_bytes()).unwrap().next().unwrap().unwrap()
    }

    fn header<'a>(record: &'a ParsedRecord<'_>, name: &str) -> Vec<&'a str> {
        let rows = record.headers.iter();
        let named = rows.filter(|(found, _)| **found == *name.as_bytes());
        named
            .map(|(_, value)| std::str::from_utf8(value.as_deref().unwrap()).unwrap())
            .collect()
    }

    #[test]
    fn a_dead_letter_keeps_the_record_and_says_where_it_came_from_and_why() {
        let headers: [Header<'_>; 2] = [(b"type", Some(b"t")), (b"dlq_owner", None)];
        let batch = sealed(Some(b"k"), Some(b"{\"n\":1}"), &headers);
        let letter = of_record(&first(&batch), ORIGIN, 2, "cannot parse");
        assert_eq!(letter.key.as_deref(), Some(&b"k"[..]));
        assert_eq!(letter.value.as_deref(), Some(&b"{\"n\":1}"[..]));
        assert_eq!(letter.timestamp, Some(TimestampMs(1_357_035_420_000)));
        assert_eq!(letter.partition, None);
        assert!(letter.json_line);
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        let rows = letter.headers.iter();
        let headers = rows.map(|(name, value)| (text(name), value.as_deref().map(text)));
        let expected = [
            ("type", Some("t")),
            ("dlq_owner", None),
            ("dlq_topic", Some("jobs")),
            ("dlq_topic_id", Some("5")),
            ("dlq_partition", Some("3")),
            ("dlq_offset", Some("41")),
            ("dlq_group", Some("workers")),
            ("dlq_deliveries", Some("2")),
            ("dlq_reason", Some("cannot parse")),
            ("dlq_died_at", Some("1700000000000")),
        ];
        let expected = expected.map(|(name, value)| (name.to_owned(), value.map(str::to_owned)));
        assert_eq!(headers.collect::<Vec<_>>(), expected);
    }

    #[test]
    fn a_record_comes_back_as_it_was_also_a_tombstone_and_bytes() {
        for (key, value) in [
            (None, None),
            (Some(&b"\xff"[..]), Some(&b"null"[..])),
            (Some(b""), Some(b"\x00\n")),
        ] {
            let original = sealed(key, value, &[(b"a", Some(b"1")), (b"a", None), (b"", Some(b""))]);
            let letter = stored(&of_record(&first(&original), ORIGIN, 5, &delivered_too_often(5)));
            let letter = first(&letter);
            let said = read(&letter).unwrap();
            let expected = DeadLetter {
                topic: "jobs",
                topic_id: Some(TopicId(5)),
                partition: 3,
                offset: Offset::new(41),
                group: "workers",
                deliveries: 5,
                reason: "delivered 5 times and not settled".into(),
                died_at: Some(ORIGIN.died_at),
                redriven: 0,
            };
            assert_eq!(said, expected);
            assert_eq!(
                super::original(&letter, said.offset).as_bytes(),
                original.as_bytes()
            );
        }
    }

    #[test]
    fn a_record_dead_lettered_by_several_queues_keeps_what_each_says_and_comes_back_step_by_step() {
        let headers: [Header<'_>; 2] = [(b"dlq_reason", Some(b"mine")), (b"dlq_first_x", Some(b"1"))];
        let record = sealed(None, Some(b"1"), &headers);
        let mut steps = vec![record];
        for reason in ["first", "second", "third"] {
            let last = steps.last().unwrap();
            steps.push(stored(&of_record(&first(last), ORIGIN, 5, reason)));
        }
        let third = first(&steps[3]);
        assert_eq!(read(&third).unwrap().reason, "third");
        let found: Vec<_> = third
            .headers
            .into_iter()
            .filter(|(name, _)| name.ends_with(b"reason"))
            .collect();
        let expected: [Header<'_>; 4] = [
            (b"dlq_first_first_first_reason", Some(b"mine")),
            (b"dlq_first_first_reason", Some(b"first")),
            (b"dlq_first_reason", Some(b"second")),
            (b"dlq_reason", Some(b"third")),
        ];
        assert_eq!(found, expected);
        for step in (0..3).rev() {
            let back = original(&first(&steps[step + 1]), Offset::new(41));
            assert_eq!(back.as_bytes(), steps[step].as_bytes(), "{step}");
        }
    }

    #[test]
    fn a_dead_letter_that_was_redriven_says_how_often() {
        let record = sealed(None, None, &[]);
        let again = Origin {
            redriven: 2,
            ..ORIGIN
        };
        let letter = stored(&of_record(&first(&record), again, 1, "x"));
        assert_eq!(read(&first(&letter)).unwrap().redriven, 2);
    }

    #[test]
    fn a_long_reason_is_cut_between_characters() {
        let batch = sealed(None, None, &[]);
        let letter = of_record(&first(&batch), ORIGIN, 1, &"€".repeat(400));
        assert_eq!(header(&letter, "dlq_reason"), ["€".repeat(341)]);
    }

    #[test]
    fn a_record_that_is_no_dead_letter_names_the_fault() {
        let topic: Header<'_> = (b"dlq_topic", Some(b"jobs"));
        let group: Header<'_> = (b"dlq_group", Some(b"workers"));
        let partition = |value| -> Header<'static> { (b"dlq_partition", value) };
        for (headers, expected) in [
            (&[][..], NoDeadLetter::Missing("dlq_topic")),
            (&[topic, group], NoDeadLetter::Missing("dlq_partition")),
            (
                &[topic, partition(Some(b"1"))],
                NoDeadLetter::Missing("dlq_offset"),
            ),
            (
                &[topic, group, partition(Some(b"-1"))],
                NoDeadLetter::Malformed("dlq_partition"),
            ),
            (
                &[topic, group, partition(Some(b"1")), partition(None)],
                NoDeadLetter::Malformed("dlq_partition"),
            ),
            (
                &[(b"dlq_topic", Some(b"\xff"))],
                NoDeadLetter::Malformed("dlq_topic"),
            ),
        ] {
            let batch = sealed(None, None, headers);
            assert_eq!(read(&first(&batch)), Err(expected));
        }
    }
}
