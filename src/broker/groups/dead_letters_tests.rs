//! Tests of redrives, over a broker on a simulated disk.

use std::path::Path;
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::broker::Broker;
use crate::broker::caller::Caller;
use crate::broker::engine::sim::{SimClock, SimDisk};
use crate::broker::groups::live::GroupType;
use crate::broker::groups::membership::Join;
use crate::broker::groups::poll;
use crate::broker::groups::settle::{Place, Settling};
use crate::broker::limits::Limits;
use crate::broker::refusal::Value;
use crate::broker::topics::skips::Gap;

const NOW: TimestampMs = TimestampMs(1_700_000_000_000);

fn open(disk: &SimDisk) -> Result<Broker, Error> {
    Broker::on(disk, &SimClock::new(NOW))
}

/// A broker whose topic `jobs` has six records in each of two partitions.
fn new_broker(disk: &SimDisk) -> Broker {
    let broker = open(disk).unwrap();
    broker
        .topics
        .create(&Caller::default(), "jobs", Some(2), &[])
        .unwrap();
    for partition in 0..2 {
        append(&broker, "jobs", partition, 6);
    }
    broker
}

/// Appends records with the values 0, 1 and so on, to a partition.
fn append(broker: &Broker, topic: &str, partition: u32, count: u32) {
    let partition = broker.log.topic(topic).unwrap().partition(partition).unwrap();
    let mut records = crate::broker::engine::batch::BatchBuilder::new();
    for number in 0..count {
        let value = number.to_string();
        let header: (&[u8], Option<&[u8]>) = (b"n", Some(value.as_bytes()));
        records.push(
            TimestampMs(number.into()),
            Some(b"k"),
            Some(value.as_bytes()),
            &[header],
        );
    }
    let part = crate::broker::engine::Part::new(partition, crate::broker::engine::Records::Loose(records));
    let ticket = broker.log.append(AppendRequest::of(vec![part])).unwrap();
    ticket.wait().unwrap();
}

/// What a poll delivered: the place, the value, the headers, and how often it was delivered and redriven.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Given {
    place: Place,
    value: String,
    headers: usize,
    deliveries: u32,
    redriven: Option<u32>,
}

fn join(topics: &[&str]) -> Join {
    Join::of(topics, GroupType::Shared)
}

async fn poll(broker: &Broker, group: &str, topics: &[&str]) -> Vec<Given> {
    let wanted = poll::Wanted {
        ack: None,
        max_records: Some(1000),
        max_bytes: 1 << 20,
        wait: Duration::ZERO,
        instance: None,
    };
    let polled = broker
        .groups
        .poll(&Caller::default(), group, "m", &wanted, None, Some(join(topics)))
        .await
        .unwrap();
    let mut given = Vec::new();
    for delivered in &polled.pages {
        for record in delivered.page.records() {
            let (record, _) = record.unwrap();
            given.push(Given {
                place: Place {
                    topic: delivered.topic.to_string(),
                    partition: delivered.partition.index,
                    offset: record.offset,
                },
                value: String::from_utf8(record.value.unwrap().to_vec()).unwrap(),
                headers: record.headers.len(),
                deliveries: delivered.deliveries.unwrap(),
                redriven: delivered.redriven,
            });
        }
    }
    given.sort();
    given
}

/// A redrive by nobody in particular.
async fn redrive(broker: &Broker, group: &str, what: Redrive) -> Result<Redriven, Refusal> {
    broker.groups.redrive(&Caller::default(), group, what).await
}

async fn reject(broker: &Broker, group: &str, given: &[Given]) {
    let reject = given
        .iter()
        .map(|given| (given.place.clone(), format!("bad {}", given.value)));
    let settling = Settling {
        reject: reject.collect(),
        ..Settling::default()
    };
    let uncounted = broker
        .groups
        .settle(&Caller::default(), group, "m", settling, None)
        .await
        .unwrap()
        .0;
    assert_eq!(uncounted, Default::default());
}

/// Has a group reject everything that waits for it.
async fn reject_all(broker: &Broker, group: &str, topics: &[&str]) -> Vec<Given> {
    let given = poll(broker, group, topics).await;
    reject(broker, group, &given).await;
    given
}

fn all() -> Redrive {
    Redrive {
        dead_letter_topic: None,
        max_records: 1000,
        offsets: None,
        reason: None,
        discard: false,
        dry_run: false,
    }
}

fn at_most(max_records: u64) -> Redrive {
    Redrive { max_records, ..all() }
}

const fn done(redriven: u64, discarded: u64, at_end: bool) -> Redriven {
    Redriven {
        redriven,
        discarded,
        passed_over: 0,
        at_end,
    }
}

/// What these tests keep of a record.
fn offset_of(record: &Record<'_>, _: u32) -> String {
    record.offset.to_string()
}

async fn waiting(broker: &Broker, group: &str) -> Vec<Listed> {
    let wanted = WantedLetters {
        fate: Fate::Waiting,
        reason: None,
        limit: 1000,
        after: None,
    };
    broker
        .groups
        .dead_letters(&Caller::default(), group, wanted, offset_of)
        .await
        .unwrap()
        .letters
}

/// How many dead letters of a group wait, as its lag says; checked against the list.
async fn counted(broker: &Broker, group: &str) -> u64 {
    let counted = broker.lags.of(group).dead_letters.unwrap();
    assert_eq!(counted, waiting(broker, group).await.len() as u64, "{group}");
    counted
}

#[tokio::test]
async fn the_count_of_waiting_dead_letters_follows_what_becomes_of_them() {
    let disk = SimDisk::new(1);
    let broker = new_broker(&disk);
    poll(&broker, "g", &["jobs"]).await;
    assert_eq!(counted(&broker, "g").await, 0);
    let own = Join {
        kind: GroupType::Ordered,
        ..join(&["jobs"])
    };
    broker
        .groups
        .join(&Caller::default(), "ordered", None, own)
        .await
        .unwrap();
    assert_eq!(broker.lags.of("ordered").dead_letters, None);
    // In turns, so that each block has dead letters of both groups.
    for _ in 0..6 {
        for partition in 0..2 {
            append(&broker, "jobs", partition, 6);
        }
        reject_all(&broker, "g", &["jobs"]).await;
        reject_all(&broker, "h", &["jobs"]).await;
    }
    let both = async |broker: &Broker| (counted(broker, "g").await, counted(broker, "h").await);
    assert_eq!(both(&broker).await, (72, 84));
    redrive(&broker, "g", at_most(5)).await.unwrap();
    let discard = Redrive {
        discard: true,
        ..at_most(70)
    };
    redrive(&broker, "h", discard).await.unwrap();
    let dry = Redrive {
        dry_run: true,
        ..all()
    };
    redrive(&broker, "h", dry).await.unwrap();
    assert_eq!(both(&broker).await, (67, 14));
    // What was redriven is rejected again.
    assert_eq!(reject_all(&broker, "g", &["jobs"]).await.len(), 5);
    assert_eq!(both(&broker).await, (72, 14));
    let dead = broker.log.topic("jobs.dlq").unwrap().partition(0).unwrap();
    for log_start in [0, 1, 63, 64, 100] {
        dead.trim(Offset::new(log_start)).unwrap();
        both(&broker).await;
    }
    let before = both(&broker).await;
    let broker = open(&disk.after_kill()).unwrap();
    assert_eq!(both(&broker).await, before);
    redrive(&broker, "g", all()).await.unwrap();
    assert_eq!(both(&broker).await, (0, before.1));
}

#[tokio::test]
async fn dead_letters_are_given_back_once_to_their_group_alone_as_they_were() {
    let disk = SimDisk::new(1);
    let broker = new_broker(&disk);
    let first = reject_all(&broker, "g", &["jobs"]).await;
    assert_eq!(first.len(), 12);
    assert_eq!(reject_all(&broker, "h", &["jobs"]).await.len(), 12);
    for (what, expected) in [
        (at_most(4), done(4, 0, false)),
        (at_most(8), done(8, 0, true)),
        (at_most(4), done(0, 0, true)),
    ] {
        assert_eq!(redrive(&broker, "g", what).await.unwrap(), expected);
    }
    let broker = open(&disk.after_kill()).unwrap();
    assert_eq!(redrive(&broker, "g", all()).await.unwrap(), done(0, 0, true));
    let expected: Vec<Given> = first
        .iter()
        .map(|given| Given {
            redriven: Some(1),
            ..given.clone()
        })
        .collect();
    assert_eq!(poll(&broker, "g", &["jobs"]).await, expected);
    assert!(poll(&broker, "h", &["jobs"]).await.is_empty());
    assert_eq!(
        poll(&broker, "i", &["jobs"]).await.len(),
        12,
        "nothing was appended"
    );
}

#[tokio::test]
async fn a_redriven_record_that_is_rejected_again_keeps_its_origin_and_one_that_is_accepted_is_settled() {
    let disk = SimDisk::new(1);
    let broker = new_broker(&disk);
    reject_all(&broker, "g", &["jobs"]).await;
    redrive(&broker, "g", at_most(2)).await.unwrap();
    let again = reject_all(&broker, "g", &["jobs"]).await;
    assert_eq!(again.len(), 2);
    let letters = waiting(&broker, "g").await;
    assert_eq!(letters.len(), 12);
    let (topic, partition, offset) = &letters[11].origin;
    let place = &again[1].place;
    assert_eq!(
        (topic, *partition, *offset),
        (&place.topic, place.partition, place.offset)
    );
    assert_eq!(letters[11].at.offset, Offset::new(13));
    redrive(&broker, "g", all()).await.unwrap();
    let given = poll(&broker, "g", &["jobs"]).await;
    let counts = given.iter().filter(|given| given.redriven == Some(2));
    assert_eq!((given.len(), counts.count()), (12, 2));
    let settling = Settling {
        accept: given.into_iter().map(|given| given.place).collect(),
        ..Settling::default()
    };
    let broker = {
        broker
            .groups
            .settle(&Caller::default(), "g", "m", settling, None)
            .await
            .unwrap();
        open(&disk.after_kill()).unwrap()
    };
    assert!(poll(&broker, "g", &["jobs"]).await.is_empty());
    let keys = broker.log.state_prefix(b"R");
    assert!(keys.is_empty(), "settled records leave no entries");
}

#[tokio::test]
async fn dead_letters_are_chosen_by_place_and_reason_counted_and_discarded() {
    let disk = SimDisk::new(1);
    let broker = new_broker(&disk);
    reject_all(&broker, "g", &["jobs"]).await;
    let chosen = |reason: Option<&str>, offsets: Option<&[u64]>| Redrive {
        dead_letter_topic: Some("jobs.dlq".to_owned()),
        reason: reason.map(str::to_owned),
        offsets: offsets.map(|offsets| offsets.iter().map(|offset| (0, Offset::new(*offset))).collect()),
        ..all()
    };
    let dry = Redrive {
        dry_run: true,
        ..chosen(Some("bad 3"), None)
    };
    assert_eq!(redrive(&broker, "g", dry).await.unwrap(), done(2, 0, true));
    let discard = Redrive {
        discard: true,
        ..chosen(Some("bad 3"), None)
    };
    assert_eq!(redrive(&broker, "g", discard).await.unwrap(), done(0, 2, true));
    let two = chosen(None, Some(&[0, 7, 99]));
    assert_eq!(redrive(&broker, "g", two).await.unwrap(), done(2, 0, true));
    assert_eq!(poll(&broker, "g", &["jobs"]).await.len(), 2);
    assert_eq!(waiting(&broker, "g").await.len(), 8);
    let mut wanted = WantedLetters {
        fate: Fate::Discarded,
        reason: Some("bad".to_owned()),
        limit: 1,
        after: None,
    };
    let page = broker
        .groups
        .dead_letters(&Caller::default(), "g", wanted.clone(), offset_of)
        .await
        .unwrap();
    assert_eq!(page.reasons, BTreeMap::from([("bad 3".to_owned(), 2)]));
    assert_eq!(page.letters.len(), 1);
    wanted.after = page.next;
    let page = broker
        .groups
        .dead_letters(&Caller::default(), "g", wanted, offset_of)
        .await
        .unwrap();
    assert_eq!((page.letters.len(), page.next), (1, None));
}

#[tokio::test]
async fn a_group_that_is_made_again_has_none_of_the_earlier_ones_dead_letters() {
    let disk = SimDisk::new(1);
    let broker = new_broker(&disk);
    reject_all(&broker, "g", &["jobs"]).await;
    broker
        .groups
        .leave(&Caller::default(), "g", "m", None)
        .await
        .unwrap();
    broker.groups.delete(&Caller::default(), "g").await.unwrap();
    // The group is made again later: in the same log, by the time of another clock.
    let clock = Arc::new(SimClock::new(TimestampMs(NOW.get() + 1)));
    let broker = Broker::new(broker.log.clone(), clock, Limits::default(), None);
    assert_eq!(poll(&broker, "g", &["jobs"]).await.len(), 12);
    assert_eq!(counted(&broker, "g").await, 0);
    assert_eq!(redrive(&broker, "g", all()).await.unwrap(), done(0, 0, true));
}

#[tokio::test]
async fn a_group_that_is_made_again_counts_only_its_own_dead_letters() {
    let disk = SimDisk::new(1);
    let clock = SimClock::new(NOW);
    let broker = Broker::on(&disk, &clock).unwrap();
    broker
        .topics
        .create(&Caller::default(), "jobs", Some(2), &[])
        .unwrap();
    append(&broker, "jobs", 0, 6);
    reject_all(&broker, "g", &["jobs"]).await;
    assert_eq!(counted(&broker, "g").await, 6);
    broker
        .groups
        .leave(&Caller::default(), "g", "m", None)
        .await
        .unwrap();
    broker.groups.delete(&Caller::default(), "g").await.unwrap();
    assert_eq!(broker.lags.of("g").dead_letters, None);
    clock.advance(Duration::from_millis(1));
    let given = poll(&broker, "g", &["jobs"]).await;
    assert_eq!(counted(&broker, "g").await, 0);
    reject(&broker, "g", &given[..2]).await;
    assert_eq!(counted(&broker, "g").await, 2);
}

#[tokio::test]
async fn dead_letters_whose_topic_is_gone_stop_the_call_and_can_be_discarded() {
    let disk = SimDisk::new(1);
    let broker = new_broker(&disk);
    broker
        .topics
        .create(&Caller::default(), "gone", Some(1), &[])
        .unwrap();
    append(&broker, "gone", 0, 1);
    let topics = ["jobs", "gone"];
    let given = poll(&broker, "g", &topics).await;
    let (gone, jobs): (Vec<Given>, Vec<Given>) =
        given.into_iter().partition(|given| given.place.topic == "gone");
    reject(&broker, "g", &jobs[..2]).await;
    let into_one = |names: &[Given]| names.to_vec();
    reject(&broker, "g", &into_one(&gone)).await;
    let dead = Redrive {
        dead_letter_topic: Some("gone.dlq".to_owned()),
        ..all()
    };
    broker.topics.delete(&Caller::default(), "gone", None).unwrap();
    broker
        .topics
        .create(&Caller::default(), "gone", Some(1), &[])
        .unwrap();
    let refusal = redrive(&broker, "g", dead.clone()).await.unwrap_err();
    assert_eq!(refusal.reason, Reason::UnknownTopic);
    assert_eq!(refusal.value("redriven"), Some(&Value::Number(0)));
    assert_eq!(refusal.value("dead_letter_offset"), Some(&Value::Number(0)));
    let discard = Redrive {
        discard: true,
        ..dead
    };
    assert_eq!(redrive(&broker, "g", discard).await.unwrap(), done(0, 1, true));
    assert_eq!(redrive(&broker, "g", all()).await.unwrap(), done(2, 0, true));
    let nothing = Redrive {
        dead_letter_topic: Some("nothing".to_owned()),
        ..all()
    };
    let refusal = redrive(&broker, "g", nothing).await.unwrap_err();
    assert_eq!(refusal.reason, Reason::UnknownTopic);
}

#[tokio::test]
async fn fates_that_cannot_be_read_give_nothing_back() {
    let disk = SimDisk::new(1);
    let broker = new_broker(&disk);
    reject_all(&broker, "g", &["jobs"]).await;
    let dead = broker.log.topic("jobs.dlq").unwrap().partition(0).unwrap().id();
    let key = crate::broker::groups::offsets::with_partition(letters::fates_prefix("g"), dead);
    for value in [vec![], vec![2, 0, 0, 0, 0, 0, 0, 0, 0], vec![1, 0], vec![1; 10]] {
        let state = vec![StateChange::set(key.clone(), value)];
        broker
            .log
            .append(AppendRequest::of_state(state))
            .unwrap()
            .wait()
            .unwrap();
        let refusal = redrive(&broker, "g", all()).await.unwrap_err();
        assert_eq!(refusal.reason, Reason::Internal);
    }
}

#[tokio::test]
async fn a_redriven_record_whose_dead_letter_is_gone_is_settled() {
    let disk = SimDisk::new(1);
    let broker = new_broker(&disk);
    reject_all(&broker, "g", &["jobs"]).await;
    redrive(&broker, "g", all()).await.unwrap();
    let dead = broker.log.topic("jobs.dlq").unwrap().partition(0).unwrap();
    dead.trim(Offset::new(5)).unwrap();
    assert_eq!(poll(&broker, "g", &["jobs"]).await.len(), 7);
    assert_eq!(broker.lags.of("g").total.lag.lag, 7);
}

#[tokio::test]
async fn damaged_dead_letters_stop_the_call_until_they_are_skipped() {
    let disk = SimDisk::new(1);
    let broker = new_broker(&disk);
    let given = poll(&broker, "g", &["jobs"]).await;
    for batch in given.chunks(4) {
        reject(&broker, "g", batch).await;
    }
    broker.log.close().unwrap();
    drop(broker);
    let path = format!("/data/topics/jobs.dlq/0/{:020}.log", 0);
    let bytes = disk.contents(Path::new(&path)).unwrap();
    // The second batch has the fifth record, which is the first with this reason.
    let reason = bytes.windows(5).position(|bytes| bytes == b"bad 4").unwrap();
    disk.damage(Path::new(&path), reason as u64, 1);
    let broker = open(&disk).unwrap();
    for redriven in [4, 0] {
        let refusal = redrive(&broker, "g", all()).await.unwrap_err();
        assert_eq!(refusal.reason, Reason::CorruptData);
        assert_eq!(refusal.value("redriven"), Some(&Value::Number(redriven)));
        let outcome = if redriven > 0 {
            Outcome::Partial
        } else {
            Outcome::None
        };
        assert_eq!(refusal.outcome, outcome);
    }
    assert_eq!(
        broker.lags.of("g").dead_letters,
        Some(6),
        "those that can be read"
    );
    let dead = broker.log.topic("jobs.dlq").unwrap().partition(0).unwrap();
    let gap = Gap {
        from: Offset::new(4),
        until: Offset::new(6),
    };
    broker.topics.skip(&Caller::default(), &dead, gap, NOW).unwrap();
    assert_eq!(redrive(&broker, "g", all()).await.unwrap(), done(6, 0, true));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn dead_letters_go_back_once_over_a_kill_at_any_call_of_the_disk(calls in 1..40_u64, max in 1..9_u64) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let disk = SimDisk::new(calls);
            let broker = new_broker(&disk);
            let first = reject_all(&broker, "g", &["jobs"]).await;
            disk.stop_at(calls);
            let mut told = 0;
            while let Ok(done) = redrive(&broker, "g", at_most(max)).await {
                told += done.redriven;
                if done.at_end {
                    break;
                }
            }
            drop(broker);
            let broker = open(&disk.after_kill()).unwrap();
            let mut back = poll(&broker, "g", &["jobs"]).await;
            prop_assert!(back.len() as u64 >= told, "{} were said to be given back, {} are", told, back.len());
            let rest = redrive(&broker, "g", all()).await.unwrap();
            prop_assert_eq!(back.len() as u64 + rest.redriven, 12);
            back.extend(poll(&broker, "g", &["jobs"]).await);
            back.sort();
            let places = |given: &[Given]| given.iter().map(|given| given.place.clone()).collect::<Vec<_>>();
            prop_assert_eq!(places(&back), places(&first));
            Ok(())
        })?;
    }
}
