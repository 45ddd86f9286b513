//! Turns a record into a dead letter, and back. Pure.
//!
//! A dead letter is the record with its key, value, headers and timestamp, and these headers, as text:
//!
//! | header | says |
//! |---|---|
//! | `dlq_topic` `dlq_partition` `dlq_offset` | where the record lies |
//! | `dlq_group` | which group gave it up |
//! | `dlq_deliveries` | how often it was delivered |
//! | `dlq_reason` | the reason that the rejecting member gave, or that the record was delivered too often |
//!
//! A record that was a dead letter before already has these headers: they are replaced. Other headers stay.
//!
//! The timestamp stays the same both ways, as in Kafka Connect: it says when the event happened, and consumers (replay
//! by time, windows) rely on it. A topic with `timestamp_type=log_append_time` records the time of dead-lettering
//! instead. Retention by time uses timestamps, so a topic with short retention soon deletes old records: a topic
//! created for dead letters keeps all.

use std::borrow::Cow;
use std::str::FromStr;

use crate::broker::engine::batch::Record;
use crate::formats::json::{ParsedHeader, ParsedRecord, is_json_line};

/// The longest stored reason, in bytes; longer ones are cut.
pub const MAX_REASON_BYTES: usize = 1024;

const TOPIC: &str = "dlq_topic";
const PARTITION: &str = "dlq_partition";
const OFFSET: &str = "dlq_offset";
const GROUP: &str = "dlq_group";
const DELIVERIES: &str = "dlq_deliveries";
const REASON: &str = "dlq_reason";
const ALL: [&str; 6] = [TOPIC, PARTITION, OFFSET, GROUP, DELIVERIES, REASON];

/// Where a dead letter comes from, and why.
#[derive(Clone, Copy, Debug)]
pub struct Origin<'a> {
    /// The topic's name.
    pub topic: &'a str,
    /// The partition's index.
    pub partition: u32,
    /// The group that dead-lettered it.
    pub group: &'a str,
}

/// A dead letter to send back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Returning<'a> {
    /// The name of the topic where it came from.
    pub topic: &'a str,
    /// The group that dead-lettered it.
    pub group: &'a str,
    /// The original record, with its former partition.
    pub record: ParsedRecord<'a>,
}

/// Why a record cannot be sent back as a dead letter.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotReturning {
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
    let kept = others(record).map(|(name, value)| (own(name), value.map(own)));
    let reason = &reason[..reason.floor_char_boundary(MAX_REASON_BYTES)];
    let added = [
        (TOPIC, origin.topic.to_owned()),
        (PARTITION, origin.partition.to_string()),
        (OFFSET, record.offset.to_string()),
        (GROUP, origin.group.to_owned()),
        (DELIVERIES, deliveries.to_string()),
        (REASON, reason.to_owned()),
    ];
    let added = added.map(|(name, value)| (Cow::Borrowed(name.as_bytes()), Some(value.into_bytes().into())));
    let headers: Vec<ParsedHeader<'static>> = kept.chain(added).collect();
    ParsedRecord {
        partition: None,
        timestamp: Some(record.timestamp),
        key: record.key.map(own),
        value: record.value.map(own),
        json_line: is_line(record),
        headers,
    }
}

/// The original record of a dead letter, and its destination.
///
/// # Errors
/// Why the record is no dead letter.
pub fn returning<'a>(record: &Record<'a>) -> Result<Returning<'a>, NotReturning> {
    let topic = text(record, TOPIC)?;
    let group = text(record, GROUP)?;
    let partition: u32 = number(record, PARTITION)?;
    let headers = others(record).map(|(name, value)| (Cow::Borrowed(name), value.map(Cow::Borrowed)));
    let record = ParsedRecord {
        partition: Some(partition.into()),
        timestamp: Some(record.timestamp),
        key: record.key.map(Cow::Borrowed),
        value: record.value.map(Cow::Borrowed),
        json_line: is_line(record),
        headers: headers.collect(),
    };
    Ok(Returning { topic, group, record })
}

/// The record's headers without those that dead letters add.
fn others<'a>(record: &Record<'a>) -> impl Iterator<Item = (&'a [u8], Option<&'a [u8]>)> + use<'a> {
    let is_added = |name: &[u8]| ALL.iter().any(|added| added.as_bytes() == name);
    record
        .headers
        .into_iter()
        .filter(move |(name, _)| !is_added(name))
}

fn text<'a>(record: &Record<'a>, name: &'static str) -> Result<&'a str, NotReturning> {
    // The last one counts, as in Kafka, if a name repeats.
    let named = record
        .headers
        .into_iter()
        .filter(|(found, _)| *found == name.as_bytes());
    let (_, value) = named.last().ok_or(NotReturning::Missing(name))?;
    let value = value.ok_or(NotReturning::Malformed(name))?;
    std::str::from_utf8(value).map_err(|_| NotReturning::Malformed(name))
}

fn number<T: FromStr>(record: &Record<'_>, name: &'static str) -> Result<T, NotReturning> {
    let text = text(record, name)?;
    text.parse().map_err(|_| NotReturning::Malformed(name))
}

fn is_line(record: &Record<'_>) -> bool {
    record.value.is_none_or(is_json_line)
}

#[cfg(test)]
mod tests {
    use crate::broker::engine::batch::{BatchBuilder, Records, SealedBatch};
    use crate::broker::engine::{Offset, TimestampMs};

    use super::*;

    type Header<'a> = (&'a [u8], Option<&'a [u8]>);

    const ORIGIN: Origin<'static> = Origin {
        topic: "jobs",
        partition: 3,
        group: "workers",
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
            ("dlq_partition", Some("3")),
            ("dlq_offset", Some("41")),
            ("dlq_group", Some("workers")),
            ("dlq_deliveries", Some("2")),
            ("dlq_reason", Some("cannot parse")),
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
            let back = returning(&letter).unwrap();
            assert_eq!((back.topic, back.group), ("jobs", "workers"));
            assert_eq!(back.record.partition, Some(3));
            assert_eq!(stored(&back.record).as_bytes(), original.as_bytes());
        }
    }

    #[test]
    fn a_record_dead_lettered_twice_names_only_its_last_place() {
        let original = sealed(None, Some(b"1"), &[(b"a", Some(b"1"))]);
        let once = stored(&of_record(&first(&original), ORIGIN, 5, "first"));
        let other = Origin {
            topic: "jobs.dlq",
            partition: 0,
            group: "others",
        };
        let twice = of_record(&first(&once), other, 1, "second");
        assert_eq!(twice.headers.len(), 7);
        assert_eq!(header(&twice, "dlq_topic"), ["jobs.dlq"]);
        assert_eq!(header(&twice, "dlq_group"), ["others"]);
        assert_eq!(header(&twice, "dlq_reason"), ["second"]);
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
            (&[][..], NotReturning::Missing("dlq_topic")),
            (&[topic], NotReturning::Missing("dlq_group")),
            (&[topic, group], NotReturning::Missing("dlq_partition")),
            (
                &[topic, group, partition(Some(b"-1"))],
                NotReturning::Malformed("dlq_partition"),
            ),
            (
                &[topic, group, partition(Some(b"1")), partition(None)],
                NotReturning::Malformed("dlq_partition"),
            ),
            (
                &[(b"dlq_topic", Some(b"\xff"))],
                NotReturning::Malformed("dlq_topic"),
            ),
        ] {
            let batch = sealed(None, None, headers);
            assert_eq!(returning(&first(&batch)), Err(expected));
        }
    }
}
