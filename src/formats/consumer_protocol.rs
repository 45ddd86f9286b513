//! What members of the protocol type `consumer` tell each other through the broker: which topics a member subscribes to,
//! and which partitions its leader gives it. Kafka's clients define these formats; a broker reads them only to show them.
//!
//! ```text
//! subscription  version:i16 topics:[string] …         string  length:i16 and UTF-8
//! assignment    version:i16 [topic:string [i32]] …    [x]     count:i32 and so many x
//! ```
//!
//! What follows depends on the version, and is not read.

/// The longest name of a topic that Kafka, and this server, has. What is longer names none.
const MAX_TOPIC_BYTES: usize = 249;

/// What an assignment has of a topic: a slice of it, since an assignment may have as many numbers as fit into its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AssignedTopic<'a> {
    /// The topic's name.
    pub name: &'a str,
    numbers: &'a [[u8; 4]],
}

impl<'a> AssignedTopic<'a> {
    /// The partitions, in the assignment's order.
    pub fn partitions(&self) -> impl Iterator<Item = u32> + use<'a> {
        self.numbers.iter().map(|number| u32::from_be_bytes(*number))
    }
}

/// The topics of a subscription, in its order; `None`: it is none.
#[must_use]
pub fn subscribed_topics(mut bytes: &[u8]) -> Option<Vec<&str>> {
    let rest = &mut bytes;
    version(rest)?;
    let count = count(rest, MIN_TOPIC_BYTES)?;
    (0..count).map(|_| topic(rest)).collect()
}

/// The topics of an assignment, in its order; `None`: it is none. No bytes are an assignment of nothing.
#[must_use]
pub fn assigned_topics(mut bytes: &[u8]) -> Option<Vec<AssignedTopic<'_>>> {
    let rest = &mut bytes;
    if rest.is_empty() {
        return Some(Vec::new());
    }
    version(rest)?;
    let topics = count(rest, MIN_TOPIC_BYTES)?;
    let assigned = (0..topics).map(|_| {
        let name = topic(rest)?;
        let numbers = count(rest, 4)?;
        let (numbers, after) = rest.split_at_checked(4 * numbers)?;
        *rest = after;
        let numbers = numbers.as_chunks().0;
        let is_valid = numbers.iter().all(|number| i32::from_be_bytes(*number) >= 0);
        is_valid.then_some(AssignedTopic { name, numbers })
    });
    assigned.collect()
}

/// What a topic takes at least: a length, and a name.
const MIN_TOPIC_BYTES: usize = 3;

fn take<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (taken, after) = rest.split_first_chunk()?;
    *rest = after;
    Some(*taken)
}

fn version(rest: &mut &[u8]) -> Option<i16> {
    Some(i16::from_be_bytes(take(rest)?)).filter(|version| *version >= 0)
}

/// A count of things that each take at least so many bytes.
fn count(rest: &mut &[u8], least: usize) -> Option<usize> {
    let count = usize::try_from(i32::from_be_bytes(take(rest)?)).ok()?;
    (count <= rest.len() / least).then_some(count)
}

fn topic<'a>(rest: &mut &'a [u8]) -> Option<&'a str> {
    let length = usize::try_from(i16::from_be_bytes(take(rest)?)).ok()?;
    if !(1..=MAX_TOPIC_BYTES).contains(&length) {
        return None;
    }
    let (name, after) = rest.split_at_checked(length)?;
    *rest = after;
    std::str::from_utf8(name).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    // Version 1, two topics, no user data, nothing owned.
    const SUBSCRIPTION: &[u8] = b"\0\x01\0\0\0\x02\0\x01a\0\x02bc\xff\xff\xff\xff\0\0\0\0";
    // Version 1: partitions 0 and 258 of a, none of b.
    const ASSIGNMENT: &[u8] =
        b"\0\x01\0\0\0\x02\0\x01a\0\0\0\x02\0\0\0\0\0\0\x01\x02\0\x01b\0\0\0\0\xff\xff\xff\xff";

    /// The topics of an assignment with their partitions.
    fn assigned(bytes: &[u8]) -> Option<Vec<(&str, Vec<u32>)>> {
        let topics = assigned_topics(bytes)?.into_iter();
        Some(
            topics
                .map(|topic| (topic.name, topic.partitions().collect()))
                .collect(),
        )
    }

    #[test]
    fn what_clients_send_is_read() {
        assert_eq!(subscribed_topics(SUBSCRIPTION), Some(vec!["a", "bc"]));
        assert_eq!(
            assigned(ASSIGNMENT),
            Some(vec![("a", vec![0, 258]), ("b", vec![])])
        );
        assert_eq!(assigned(b""), Some(Vec::new()));
        assert_eq!(subscribed_topics(b""), None);
    }

    #[test]
    fn a_name_that_no_topic_has_is_not_read() {
        for (length, is_read) in [(0, false), (1, true), (249, true), (250, false), (32_000, false)] {
            let name = "n".repeat(length);
            let head = [
                &b"\0\x01\0\0\0\x01"[..],
                &(length as i16).to_be_bytes(),
                name.as_bytes(),
            ]
            .concat();
            let whole = [&head[..], b"\0\0\0\x01\0\0\0\x07"].concat();
            assert_eq!(
                assigned(&whole),
                is_read.then(|| vec![(&*name, vec![7])]),
                "{length}"
            );
            assert_eq!(
                subscribed_topics(&head),
                is_read.then(|| vec![&*name]),
                "{length}"
            );
        }
    }

    #[test]
    fn no_bytes_are_too_wrong_to_read() {
        for whole in [SUBSCRIPTION, ASSIGNMENT] {
            for length in 0..whole.len() {
                drop(subscribed_topics(&whole[..length]));
                drop(assigned_topics(&whole[..length]));
            }
        }
        // A count that the bytes cannot hold, a negative one, a negative partition, no UTF-8.
        for bad in [
            &b"\0\0\x7f\xff\xff\xff\0\0"[..],
            b"\0\0\xff\xff\xff\xff",
            b"\0\0\0\0\0\x01\0\x01\xff\0\0\0\0",
            b"\0\0\0\0\0\x01\0\x01a\0\0\0\x01\xff\xff\xff\xff",
            b"\xff\xff\0\0\0\0",
        ] {
            assert_eq!(assigned_topics(bad), None, "{bad:?}");
        }
    }
}
