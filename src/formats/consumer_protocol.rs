//! What members of the protocol type `consumer` tell each other through the broker: which topics a member subscribes to,
//! and which partitions its leader gives it. Kafka's clients define these formats; a broker reads them only to show them.
//!
//! ```text
//! subscription  version:i16 topics:[string] …         string  length:i16 and UTF-8
//! assignment    version:i16 [topic:string [i32]] …    [x]     count:i32 and so many x
//! ```
//!
//! What follows depends on the version, and is not read.

use std::collections::BTreeSet;

/// The topics of a subscription; `None`: it is none.
#[must_use]
pub fn subscribed_topics(mut bytes: &[u8]) -> Option<BTreeSet<String>> {
    let rest = &mut bytes;
    version(rest)?;
    let count = count(rest)?;
    (0..count).map(|_| string(rest)).collect()
}

/// The partitions of an assignment, in its order; `None`: it is none. No bytes are an assignment of nothing.
#[must_use]
pub fn assigned_partitions(mut bytes: &[u8]) -> Option<Vec<(String, u32)>> {
    let rest = &mut bytes;
    if rest.is_empty() {
        return Some(Vec::new());
    }
    version(rest)?;
    let topics = count(rest)?;
    let mut assigned = Vec::new();
    for _ in 0..topics {
        let topic = string(rest)?;
        for _ in 0..count(rest)? {
            let partition = i32::from_be_bytes(take(rest)?);
            assigned.push((topic.clone(), u32::try_from(partition).ok()?));
        }
    }
    Some(assigned)
}

fn take<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (taken, after) = rest.split_first_chunk()?;
    *rest = after;
    Some(*taken)
}

fn version(rest: &mut &[u8]) -> Option<i16> {
    Some(i16::from_be_bytes(take(rest)?)).filter(|version| *version >= 0)
}

/// A count of things that each take at least two bytes.
fn count(rest: &mut &[u8]) -> Option<usize> {
    let count = usize::try_from(i32::from_be_bytes(take(rest)?)).ok()?;
    (count <= rest.len() / 2).then_some(count)
}

fn string(rest: &mut &[u8]) -> Option<String> {
    let length = usize::try_from(i16::from_be_bytes(take(rest)?)).ok()?;
    let (text, after) = rest.split_at_checked(length)?;
    *rest = after;
    Some(std::str::from_utf8(text).ok()?.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    // Version 1, two topics, no user data, nothing owned.
    const SUBSCRIPTION: &[u8] = b"\0\x01\0\0\0\x02\0\x01a\0\x02bc\xff\xff\xff\xff\0\0\0\0";
    // Version 1: partitions 0 and 258 of a, none of b.
    const ASSIGNMENT: &[u8] =
        b"\0\x01\0\0\0\x02\0\x01a\0\0\0\x02\0\0\0\0\0\0\x01\x02\0\x01b\0\0\0\0\xff\xff\xff\xff";

    #[test]
    fn what_clients_send_is_read() {
        let topics = subscribed_topics(SUBSCRIPTION).unwrap();
        assert_eq!(topics, BTreeSet::from(["a".to_owned(), "bc".to_owned()]));
        let partitions = assigned_partitions(ASSIGNMENT).unwrap();
        assert_eq!(partitions, [("a".to_owned(), 0), ("a".to_owned(), 258)]);
        assert_eq!(assigned_partitions(b""), Some(Vec::new()));
        assert_eq!(subscribed_topics(b""), None);
    }

    #[test]
    fn no_bytes_are_too_wrong_to_read() {
        for whole in [SUBSCRIPTION, ASSIGNMENT] {
            for length in 0..whole.len() {
                drop(subscribed_topics(&whole[..length]));
                drop(assigned_partitions(&whole[..length]));
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
            assert_eq!(assigned_partitions(bad), None, "{bad:?}");
        }
    }
}
