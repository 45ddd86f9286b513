//! Members of groups by the server-side protocol (KIP-848) over bare sockets, alone and beside members over HTTP: the codes
//! that Kafka 4.4 was seen to answer with.

use super::*;

const OFFSET_COMMIT: i16 = 8;
const OFFSET_FETCH: i16 = 9;
const JOIN: i16 = 11;
const DESCRIBE_CLASSIC: i16 = 15;
const LIST: i16 = 16;
const HEARTBEAT: i16 = 68;
const DESCRIBE: i16 = 69;

/// Fields of flexible versions.
trait Compact {
    fn length(self, length: usize) -> Self;
    fn compact(self, text: &str) -> Self;
    fn maybe(self, text: Option<&str>) -> Self;
    fn tags(self) -> Self;
}

impl Compact for Out {
    /// One byte is enough here.
    fn length(self, length: usize) -> Self {
        assert!(length < 127);
        self.raw(&[length as u8 + 1])
    }

    fn compact(self, text: &str) -> Self {
        let length = text.len() + 1;
        let head = match length < 128 {
            true => self.raw(&[length as u8]),
            false => self.raw(&[(length & 127) as u8 | 128, (length >> 7) as u8]),
        };
        head.raw(text.as_bytes())
    }

    fn maybe(self, text: Option<&str>) -> Self {
        match text {
            Some(text) => self.compact(text),
            None => self.raw(&[0]),
        }
    }

    fn tags(self) -> Self {
        self.raw(&[0])
    }
}

trait ReadCompact {
    fn count(&mut self) -> Option<usize>;
    fn maybe(&mut self) -> Option<String>;
    fn id(&mut self) -> Vec<u8>;
    fn tags(&mut self);
}

impl ReadCompact for In {
    fn count(&mut self) -> Option<usize> {
        let (mut value, mut shift) = (0, 0);
        loop {
            let byte = self.i8() as u8;
            value |= usize::from(byte & 127) << shift;
            shift += 7;
            if byte < 128 {
                return value.checked_sub(1);
            }
        }
    }

    fn maybe(&mut self) -> Option<String> {
        let length = self.count()?;
        Some(String::from_utf8(self.bytes(length as i32)).expect("a text"))
    }

    fn id(&mut self) -> Vec<u8> {
        self.bytes(16)
    }

    fn tags(&mut self) {
        assert_eq!(self.i8(), 0, "no tagged fields");
    }
}

/// A heartbeat, with what a test changes.
#[derive(Clone, Debug)]
struct Beat<'a> {
    version: i16,
    group: &'a str,
    member: &'a str,
    epoch: i32,
    instance: Option<&'a str>,
    rack: Option<&'a str>,
    timeout: i32,
    topics: Option<&'a [&'a str]>,
    regex: Option<&'a str>,
    assignor: Option<&'a str>,
    /// Partitions of one topic.
    owned: Option<(&'a [u8], &'a [i32])>,
}

const NONE: &[u8] = &[];

/// The first heartbeat of a member.
const JOINS: Beat<'static> = Beat {
    version: 1,
    group: "g",
    member: "",
    epoch: 0,
    instance: None,
    rack: None,
    timeout: 300_000,
    topics: Some(&["t"]),
    regex: None,
    assignor: None,
    owned: Some((NONE, &[])),
};

/// A heartbeat that says nothing new.
const LIVES: Beat<'static> = Beat {
    timeout: -1,
    topics: None,
    owned: None,
    ..JOINS
};

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Told {
    error: i16,
    member: String,
    epoch: i32,
    interval: i32,
    /// By topic id.
    assignment: Option<Vec<(Vec<u8>, Vec<i32>)>>,
}

impl Told {
    /// The partitions of the one topic.
    #[track_caller]
    fn partitions(&self) -> Vec<i32> {
        assert_eq!(self.error, 0, "{self:?}");
        let topics = self.assignment.as_deref().expect("an assignment");
        assert!(topics.len() <= 1, "{self:?}");
        topics
            .iter()
            .flat_map(|(_, partitions)| partitions.clone())
            .collect()
    }
}

impl Beat<'_> {
    fn send(&self, client: &mut Client) -> Told {
        let mut out = Out::new()
            .tags()
            .compact(self.group)
            .compact(self.member)
            .i32(self.epoch)
            .maybe(self.instance)
            .maybe(self.rack)
            .i32(self.timeout);
        out = match self.topics {
            None => out.raw(&[0]),
            Some(topics) => topics
                .iter()
                .fold(out.length(topics.len()), |out, name| out.compact(name)),
        };
        if self.version >= 1 {
            out = out.maybe(self.regex);
        }
        out = out.maybe(self.assignor);
        out = match self.owned {
            None => out.raw(&[0]),
            Some((_, [])) => out.length(0),
            Some((topic, partitions)) => {
                let head = out.length(1).raw(topic).length(partitions.len());
                partitions.iter().fold(head, |out, index| out.i32(*index)).tags()
            }
        };
        let mut answer = client.ask(HEARTBEAT, self.version, out.tags());
        answer.tags();
        assert_eq!(answer.i32(), 0, "throttle time");
        let mut told = Told {
            error: answer.i16(),
            ..Told::default()
        };
        let message = answer.maybe();
        told.member = answer.maybe().unwrap_or_default();
        (told.epoch, told.interval) = (answer.i32(), answer.i32());
        if answer.i8() >= 0 {
            let topics = answer.count().expect("a list");
            let topic = |_| {
                let id = answer.id();
                let count = answer.count().expect("a list");
                let partitions = (0..count).map(|_| answer.i32()).collect();
                answer.tags();
                (id, partitions)
            };
            told.assignment = Some((0..topics).map(topic).collect());
            answer.tags();
        }
        answer.tags();
        answer.end();
        assert!(told.error == 0 || told.assignment.is_none(), "{message:?}");
        told
    }
}

fn join(client: &mut Client, member: &str) -> Told {
    Beat { member, ..JOINS }.send(client)
}

fn live(client: &mut Client, member: &str, epoch: i32) -> Told {
    Beat {
        member,
        epoch,
        ..LIVES
    }
    .send(client)
}

fn live_with(client: &mut Client, member: &str, epoch: i32, owned: (&[u8], &[i32])) -> Told {
    Beat {
        member,
        epoch,
        owned: Some(owned),
        ..LIVES
    }
    .send(client)
}

/// The topic's id, of an assignment that has one topic.
fn topic_of(told: &Told) -> Vec<u8> {
    told.assignment.as_ref().expect("an assignment")[0].0.clone()
}

/// Commits one offset in partition 0 or another of `t`; version 9 is the first flexible one with epochs.
fn commit(client: &mut Client, member: &str, epoch: i32, (partition, offset): (i32, i64)) -> i16 {
    let out = Out::new()
        .tags()
        .compact("g")
        .i32(epoch)
        .compact(member)
        .maybe(None)
        .length(1)
        .compact("t")
        .length(1)
        .i32(partition)
        .i64(offset)
        .i32(-1)
        .compact("")
        .tags()
        .tags()
        .tags();
    let mut answer = client.ask(OFFSET_COMMIT, 9, out);
    answer.tags();
    answer.i32();
    assert_eq!(answer.count(), Some(1));
    answer.maybe();
    assert_eq!(answer.count(), Some(1));
    answer.i32();
    answer.i16()
}

/// The error of the group, or the offset in a partition of `t`, version 9.
fn committed(client: &mut Client, member: Option<&str>, epoch: i32, partition: i32) -> Result<i64, i16> {
    let out = Out::new()
        .tags()
        .length(1)
        .compact("g")
        .maybe(member)
        .i32(epoch)
        .length(1)
        .compact("t")
        .length(1)
        .i32(partition)
        .tags()
        .tags()
        .i8(1)
        .tags();
    let mut answer = client.ask(OFFSET_FETCH, 9, out);
    answer.tags();
    answer.i32();
    assert_eq!(answer.count(), Some(1));
    assert_eq!(answer.maybe().as_deref(), Some("g"));
    if answer.count() == Some(0) {
        return Err(answer.i16());
    }
    answer.maybe();
    answer.count();
    answer.i32();
    Ok(answer.i64())
}

#[derive(Debug, PartialEq, Eq)]
struct Member {
    id: String,
    instance: Option<String>,
    epoch: i32,
    client: String,
    topics: Vec<String>,
    regex: Option<String>,
    assignment: Vec<i32>,
    target: Vec<i32>,
    kind: i8,
}

#[derive(Debug, PartialEq, Eq)]
struct Described {
    error: i16,
    state: String,
    assignor: String,
    members: Vec<Member>,
}

fn describe(client: &mut Client, group: &str) -> Described {
    let out = Out::new().tags().length(1).compact(group).i8(0).tags();
    let mut answer = client.ask(DESCRIBE, 1, out);
    answer.tags();
    answer.i32();
    assert_eq!(answer.count(), Some(1));
    let error = answer.i16();
    answer.maybe();
    assert_eq!(answer.maybe().as_deref(), Some(group));
    let state = answer.maybe().expect("a state");
    let epochs = (answer.i32(), answer.i32());
    assert_eq!(epochs.0, epochs.1);
    let assignor = answer.maybe().expect("an assignor");
    let count = answer.count().expect("members");
    let partitions = |answer: &mut In| {
        let mut all = Vec::new();
        for _ in 0..answer.count().expect("topics") {
            answer.id();
            answer.maybe();
            let count = answer.count().expect("partitions");
            all.extend((0..count).map(|_| answer.i32()));
            answer.tags();
        }
        answer.tags();
        all
    };
    let member = |_| {
        let (id, instance, rack) = (answer.maybe(), answer.maybe(), answer.maybe());
        assert_eq!(rack, None);
        let epoch = answer.i32();
        let (client, host) = (answer.maybe(), answer.maybe());
        assert!(host.is_some_and(|host| host == "/127.0.0.1"));
        let topics = answer.count().expect("topics");
        let topics = (0..topics).map(|_| answer.maybe().expect("a name")).collect();
        let member = Member {
            id: id.expect("an id"),
            instance,
            epoch,
            client: client.expect("a name"),
            topics,
            regex: answer.maybe(),
            assignment: partitions(&mut answer),
            target: partitions(&mut answer),
            kind: answer.i8(),
        };
        answer.tags();
        member
    };
    let members = (0..count).map(member).collect();
    assert_eq!(answer.i32(), i32::MIN, "authorized operations");
    answer.tags();
    answer.tags();
    answer.end();
    Described {
        error,
        state,
        assignor,
        members,
    }
}

/// The groups with protocol type, state and type.
fn list(client: &mut Client) -> Vec<[String; 4]> {
    let mut answer = client.ask(LIST, 5, Out::new().tags().length(0).length(0).tags());
    answer.tags();
    answer.i32();
    assert_eq!(answer.i16(), 0);
    let count = answer.count().expect("groups");
    let row = |_| {
        let row = [(); 4].map(|()| answer.maybe().expect("a text"));
        answer.tags();
        row
    };
    (0..count).map(row).collect()
}

impl Fixture {
    /// A call over HTTP as JSON.
    fn json(&self, status: u16, method: &str, path: &str, body: &str) -> serde_json::Value {
        self.server
            .expect(status, method, path, "application/json", body.as_bytes())
    }

    /// A poll over HTTP that does not wait; its partitions, its records' partitions, and its `poll_id`.
    fn poll_http(&self, member: &str, ack: Option<&str>) -> (Vec<u64>, Vec<u64>, String) {
        let body = serde_json::json!({"topics": ["t"], "wait_ms": 0, "ack": ack}).to_string();
        let path = format!("/v1/groups/g/members/{member}/poll");
        let polled = self.json(200, "POST", &path, &body);
        let of = |rows: &serde_json::Value| -> Vec<u64> {
            let rows = rows.as_array().expect("a list").iter();
            rows.map(|row| row["partition"].as_u64().expect("a number"))
                .collect()
        };
        let id = polled["poll_id"].as_str().expect("a text").to_owned();
        (of(&polled["assignment"]), of(&polled["records"]), id)
    }
}

#[test]
fn heartbeats_are_refused_as_kafka_refuses_them() {
    let fixture = Fixture::new();
    fixture.server.create_topic("t", 2);
    let mut client = fixture.client();
    let joins = Beat { member: "m", ..JOINS };
    for (beat, code) in [
        (
            Beat {
                group: "",
                ..joins.clone()
            },
            42,
        ),
        (
            Beat {
                group: "no name",
                ..joins.clone()
            },
            24,
        ),
        (
            Beat {
                member: "",
                ..joins.clone()
            },
            42,
        ),
        (
            Beat {
                member: "ü",
                ..joins.clone()
            },
            42,
        ),
        (
            Beat {
                instance: Some(""),
                ..joins.clone()
            },
            42,
        ),
        (
            Beat {
                rack: Some(""),
                ..joins.clone()
            },
            42,
        ),
        (
            Beat {
                timeout: -1,
                ..joins.clone()
            },
            42,
        ),
        (
            Beat {
                owned: None,
                ..joins.clone()
            },
            42,
        ),
        (
            Beat {
                owned: Some((&[7; 16], &[0])),
                ..joins.clone()
            },
            42,
        ),
        (
            Beat {
                topics: None,
                ..joins.clone()
            },
            42,
        ),
        (
            Beat {
                topics: Some(&[]),
                regex: Some(""),
                ..joins.clone()
            },
            42,
        ),
        (
            Beat {
                epoch: -3,
                ..joins.clone()
            },
            42,
        ),
        (
            Beat {
                epoch: -2,
                ..joins.clone()
            },
            42,
        ),
        (
            Beat {
                assignor: Some("sticky"),
                ..joins.clone()
            },
            112,
        ),
        (
            Beat {
                regex: Some("("),
                ..joins.clone()
            },
            128,
        ),
        (
            Beat {
                regex: Some("a{1000}{1000}"),
                ..joins.clone()
            },
            128,
        ),
        (
            Beat {
                epoch: 5,
                ..joins.clone()
            },
            69,
        ),
        (
            Beat {
                epoch: -1,
                ..joins.clone()
            },
            69,
        ),
    ] {
        assert_eq!(beat.send(&mut client).error, code, "{beat:?}");
    }
    let told = joins.send(&mut client);
    assert_eq!(
        (told.error, told.epoch, told.interval, &*told.member),
        (0, 2, 5000, "m")
    );
    assert_eq!(told.partitions(), [0, 1]);
    assert_eq!(
        live(&mut client, "m", 2),
        Told {
            assignment: None,
            ..told.clone()
        },
        "told once"
    );
    for (beat, code) in [
        (
            Beat {
                member: "m",
                epoch: 1,
                ..LIVES
            },
            110,
        ),
        (
            Beat {
                member: "m",
                epoch: 3,
                ..LIVES
            },
            110,
        ),
        (
            Beat {
                member: "n",
                epoch: 2,
                ..LIVES
            },
            25,
        ),
        (
            Beat {
                member: "n",
                epoch: -1,
                ..LIVES
            },
            25,
        ),
        (
            Beat {
                member: "m",
                epoch: 2,
                instance: Some("i"),
                ..LIVES
            },
            25,
        ),
        (
            Beat {
                member: "m",
                epoch: 2,
                assignor: Some("x"),
                ..LIVES
            },
            112,
        ),
        (
            Beat {
                member: "m",
                epoch: 2,
                regex: Some("["),
                ..LIVES
            },
            128,
        ),
    ] {
        assert_eq!(beat.send(&mut client).error, code, "{beat:?}");
    }
    // A join whose answer was lost comes again: the same epoch. Version 0 gives an id, and has no expression.
    let fresh = join(&mut client, "again");
    assert_eq!(join(&mut client, "again"), fresh);
    let given = Beat { version: 0, ..JOINS }.send(&mut client);
    assert!(given.error == 0 && given.member.starts_with("test-"), "{given:?}");
    let left = live(&mut client, "m", -1);
    assert_eq!((left.error, left.epoch), (0, -1));
    assert_eq!(live(&mut client, "m", 2).error, 25);
}

#[test]
fn a_partition_goes_from_one_member_to_another_when_it_is_given_up() {
    let fixture = Fixture::new();
    fixture.server.create_topic("t", 4);
    let (mut one, mut two) = (fixture.client(), fixture.client());
    let first = join(&mut one, "a");
    assert_eq!(first.partitions(), [0, 1, 2, 3]);
    let topic = topic_of(&first);
    let second = join(&mut two, "b");
    assert_eq!(second.partitions(), [0; 0]);
    assert!(second.interval < 5000, "it asks again soon: {second:?}");
    let told = live_with(&mut one, "a", first.epoch, (&topic, &[0, 1, 2, 3]));
    assert_eq!(told.partitions(), [0, 1]);
    assert!(told.epoch > first.epoch);
    assert_eq!(describe(&mut one, "g").state, "Reconciling");
    // It still reads them: it may commit, with the epoch before, too; the other one gets nothing yet.
    assert_eq!(commit(&mut one, "a", first.epoch, (3, 7)), 0);
    assert_eq!(commit(&mut one, "a", told.epoch, (3, 8)), 0);
    assert_eq!(live(&mut two, "b", second.epoch).assignment, None);
    assert_eq!(
        live_with(&mut one, "a", told.epoch, (&topic, &[0, 1])),
        Told {
            assignment: None,
            ..told.clone()
        }
    );
    let got = live(&mut two, "b", second.epoch);
    assert_eq!((got.partitions(), got.interval), (vec![2, 3], 5000));
    assert_eq!(commit(&mut one, "a", told.epoch, (3, 9)), 113, "another has it");
    assert_eq!(committed(&mut two, Some("b"), got.epoch, 3), Ok(8));
    // Offsets go back if a consumer says so, and away.
    for (offset, found) in [(2, 2), (-1, -1), (5, 5)] {
        assert_eq!(commit(&mut two, "b", got.epoch, (3, offset)), 0);
        assert_eq!(committed(&mut two, None, -1, 3), Ok(found));
    }
    for (member, epoch, code) in [
        ("b", got.epoch + 1, 113),
        ("b", second.epoch - 1, 113),
        ("x", 2, 25),
        ("", -1, 25),
    ] {
        assert_eq!(commit(&mut two, member, epoch, (3, 1)), code, "{member} {epoch}");
    }
    assert_eq!(committed(&mut two, Some("b"), got.epoch + 1, 3), Err(113));
    assert_eq!(committed(&mut two, Some("x"), 2, 3), Err(25));
    let described = describe(&mut one, "g");
    assert_eq!((&*described.state, &*described.assignor), ("Stable", "uniform"));
    let expected = |id: &str, epoch, assignment: [i32; 2]| Member {
        id: id.to_owned(),
        instance: None,
        epoch,
        client: "test".to_owned(),
        topics: vec!["t".to_owned()],
        regex: None,
        assignment: assignment.to_vec(),
        target: assignment.to_vec(),
        kind: 1,
    };
    assert_eq!(
        described.members,
        [
            expected("a", told.epoch, [0, 1]),
            expected("b", got.epoch, [2, 3])
        ]
    );
    let row = ["g", "consumer", "Stable", "Consumer"].map(str::to_owned);
    assert_eq!(list(&mut one), [row]);
    // The one leaves, and the other gets everything.
    assert_eq!(live(&mut one, "a", -1).error, 0);
    assert_eq!(live(&mut two, "b", got.epoch).partitions(), [0, 1, 2, 3]);
    assert_eq!(live(&mut two, "b", -1).error, 0);
    let empty = describe(&mut one, "g");
    assert_eq!((empty.error, &*empty.state, empty.members.len()), (0, "Empty", 0));
    assert_eq!(list(&mut one)[0][2..], ["Empty", "Consumer"].map(str::to_owned));
}

#[test]
fn a_lost_answer_is_given_again_and_a_second_process_fences_the_first() {
    let fixture = Fixture::new();
    fixture.server.create_topic("t", 2);
    let mut client = fixture.client();
    let first = join(&mut client, "a");
    let topic = topic_of(&first);
    join(&mut client, "b");
    let lost = live(&mut client, "a", first.epoch);
    assert_eq!(lost.partitions(), [0]);
    // The client says everything, with the epoch that it knows.
    let whole = Beat {
        member: "a",
        epoch: first.epoch,
        owned: Some((&topic, &[0, 1])),
        ..JOINS
    };
    assert_eq!(whole.send(&mut client), lost);
    assert_eq!(whole.send(&mut client), lost, "and again");
    let stranger = Beat {
        owned: Some((&[9; 16], &[0])),
        ..whole.clone()
    };
    assert_eq!(stranger.send(&mut client).error, 110);
    // A whole heartbeat gets a whole answer.
    let all = Beat {
        epoch: lost.epoch,
        owned: Some((&topic, &[0])),
        ..whole.clone()
    };
    assert_eq!(all.send(&mut client), lost);
    assert_eq!(whole.send(&mut client).error, 110, "the answer had arrived");
    // Another process with this id joins: the first one has to join again, and commits nothing.
    let second = join(&mut client, "a");
    assert_eq!(second.partitions(), [0]);
    assert_eq!(live(&mut client, "a", lost.epoch).error, 110);
    assert_eq!(commit(&mut client, "a", lost.epoch, (0, 1)), 113);
    assert_eq!(commit(&mut client, "a", second.epoch, (0, 1)), 0);
}

#[test]
fn static_members_come_back_to_what_they_had() {
    let fixture = Fixture::new();
    fixture.server.create_topic("t", 4);
    let mut client = fixture.client();
    for assignor in ["uniform", "range"] {
        let joins = |member, instance| Beat {
            member,
            instance: Some(instance),
            assignor: Some(assignor),
            ..JOINS
        };
        let first = joins("z", "one").send(&mut client);
        let topic = topic_of(&first);
        assert_eq!(joins("y", "one").send(&mut client).error, 111, "it has not left");
        let other = joins("b", "two").send(&mut client);
        let told = live(&mut client, "z", first.epoch);
        let kept = told.partitions();
        live_with(&mut client, "z", told.epoch, (&topic, &kept));
        let other = live(&mut client, "b", other.epoch);
        let of_b = other.partitions();
        assert_eq!((kept.len(), of_b.len()), (2, 2), "{assignor}");
        let away = Beat {
            member: "z",
            epoch: -2,
            instance: Some("one"),
            ..LIVES
        };
        assert_eq!(
            Beat {
                member: "b",
                ..away.clone()
            }
            .send(&mut client)
            .error,
            82
        );
        let left = away.send(&mut client);
        assert_eq!((left.error, left.epoch), (0, -2));
        assert_eq!(live(&mut client, "z", told.epoch).error, 110);
        let back = joins("a", "one").send(&mut client);
        assert_eq!(back.partitions(), kept, "{assignor}");
        assert_eq!(
            live(&mut client, "b", other.epoch),
            Told {
                assignment: None,
                ..other.clone()
            }
        );
        // The process before it.
        let old = Beat {
            member: "z",
            epoch: told.epoch,
            instance: Some("one"),
            ..LIVES
        };
        assert_eq!(old.send(&mut client).error, 82);
        assert_eq!(commit(&mut client, "z", told.epoch, (0, 1)), 25);
        let described = describe(&mut client, "g");
        assert_eq!(described.assignor, assignor);
        assert_eq!(described.members[0].instance.as_deref(), Some("one"));
        for (member, epoch) in [("a", -1), ("b", -1)] {
            assert_eq!(live(&mut client, member, epoch).error, 0);
        }
    }
}

#[test]
fn ranges_are_neighbours() {
    let fixture = Fixture::new();
    fixture.server.create_topic("t", 5);
    let mut client = fixture.client();
    let joins = |member| Beat {
        member,
        assignor: Some("range"),
        ..JOINS
    };
    let first = joins("b").send(&mut client);
    assert_eq!(first.partitions(), [0, 1, 2, 3, 4]);
    let second = joins("a").send(&mut client);
    let told = live(&mut client, "b", first.epoch);
    assert_eq!(told.partitions(), [3, 4]);
    live_with(&mut client, "b", told.epoch, (&topic_of(&first), &[3, 4]));
    assert_eq!(live(&mut client, "a", second.epoch).partitions(), [0, 1, 2]);
}

#[test]
fn subscriptions_change_and_follow_names_and_expressions_to_topics_that_are_made_later() {
    let fixture = Fixture::new();
    fixture.server.create_topic("t-1", 1);
    let mut client = fixture.client();
    let mut told = Beat {
        member: "m",
        topics: Some(&["later"]),
        regex: Some("t-[0-9]+"),
        ..JOINS
    }
    .send(&mut client);
    // Its client learns the name by the id, and sends an empty name with it.
    let by_id = Out::new()
        .tags()
        .length(1)
        .raw(&topic_of(&told))
        .compact("")
        .tags()
        .i8(0)
        .i8(0)
        .tags();
    let mut answer = client.ask(METADATA, 12, by_id);
    answer.bytes(1 + 4 + 1 + 4);
    answer.maybe();
    answer.bytes(4 + 1 + 1);
    answer.maybe();
    answer.i32();
    assert_eq!((answer.count(), answer.i16()), (Some(1), 0));
    assert_eq!(answer.maybe().as_deref(), Some("t-1"));
    let count = |told: &Told| told.assignment.as_ref().map(|topics| topics.len());
    assert_eq!(count(&told), Some(1));
    for (name, topics) in [("t-22", 2), ("t-x", 2), ("at-1", 2), ("later", 3)] {
        fixture.server.create_topic(name, 1);
        let next = live(&mut client, "m", told.epoch);
        told = Told {
            assignment: next.assignment.clone().or(told.assignment),
            ..next
        };
        assert_eq!(count(&told), Some(topics), "{name}");
    }
    // Deleted and made again under its name.
    fixture.json(204, "DELETE", "/v1/topics/later", "");
    told = live(&mut client, "m", told.epoch);
    assert_eq!(count(&told), Some(2));
    fixture.server.create_topic("later", 1);
    told = live(&mut client, "m", told.epoch);
    assert_eq!(count(&told), Some(3));
    let described = describe(&mut client, "g");
    assert_eq!(described.members[0].topics, ["later"]);
    assert_eq!(described.members[0].regex.as_deref(), Some("t-[0-9]+"));
    // What a consumer is to read is in the group's lag, before it has committed.
    fixture.json(
        200,
        "POST",
        "/v1/topics/t-22/records",
        r#"{"records":[{"value":1}]}"#,
    );
    assert_eq!(fixture.server.get("/v1/groups/g/lag")["lag"], 1);
    let only = Beat {
        member: "m",
        epoch: told.epoch,
        topics: Some(&["t-x"]),
        regex: Some(""),
        ..LIVES
    };
    assert_eq!(count(&only.send(&mut client)), Some(1));
}

#[test]
fn consumers_and_members_over_http_share_one_group() {
    let fixture = Fixture::new();
    fixture.server.create_topic("t", 2);
    let mut client = fixture.client();
    for partition in [0, 1] {
        let body = format!(
            r#"{{"records":[{{"partition":{partition},"value":1}},{{"partition":{partition},"value":2}}]}}"#
        );
        fixture.json(200, "POST", "/v1/topics/t/records", &body);
    }
    let (assigned, records, first) = fixture.poll_http("h", None);
    assert_eq!((assigned, records), (vec![0, 1], vec![0, 0, 1, 1]));
    let waiting = join(&mut client, "k");
    assert_eq!(waiting.partitions(), [0; 0], "the other one has records in hand");
    // Its next poll commits them and gives one up.
    let (assigned, _, second) = fixture.poll_http("h", Some(&first));
    assert_eq!(assigned, [0]);
    let told = live(&mut client, "k", waiting.epoch);
    assert_eq!(told.partitions(), [1]);
    assert_eq!(committed(&mut client, Some("k"), told.epoch, 1), Ok(2));
    assert_eq!(commit(&mut client, "k", told.epoch, (1, 1)), 0, "it goes back");
    assert_eq!(
        commit(&mut client, "k", told.epoch, (0, 1)),
        113,
        "the other one has it"
    );
    assert_eq!(fixture.server.get("/v1/groups/g/lag")["lag"], 1);
    let group = fixture.server.get("/v1/groups/g");
    assert_eq!(
        (group["type"].as_str(), group["state"].as_str()),
        (Some("ordered"), Some("stable"))
    );
    let member = &group["members"][1];
    assert_eq!(
        (
            member["member_id"].as_str(),
            member["client_id"].as_str(),
            member["epoch"].as_i64()
        ),
        (Some("k"), Some("test"), Some(told.epoch.into()))
    );
    assert!(
        member["address"]
            .as_str()
            .is_some_and(|address| address.starts_with("127.0.0.1:"))
    );
    let described = describe(&mut client, "g");
    assert_eq!((described.members[0].kind, described.members[1].kind), (-1, 1));
    assert_eq!(described.members[0].assignment, [0]);
    // Classic members are of another kind, and a poll is not a consumer's call.
    assert_eq!(
        client
            .ask(DESCRIBE_CLASSIC, 4, Out::new().i32(1).text("g").i8(0))
            .bytes(10)[8..],
        [0, 0]
    );
    let classic = Out::new()
        .text("g")
        .i32(10_000)
        .i32(30_000)
        .text("")
        .null()
        .text("consumer");
    let mut answer = client.ask(JOIN, 5, classic.i32(1).text("range").bytes(b""));
    answer.i32();
    assert_eq!(answer.i16(), 23);
    let path = "/v1/groups/g/members/k";
    let problem = fixture.json(404, "POST", &format!("{path}/poll"), r#"{"wait_ms":0}"#);
    assert_eq!(problem["code"], "unknown-member");
    fixture.json(404, "POST", &format!("{path}/heartbeat"), "{}");
    fixture.json(
        404,
        "POST",
        &format!("{path}/commit"),
        r#"{"epoch":3,"offsets":[]}"#,
    );
    let filter = r#"{"filter":{"key":["c7"]}}"#;
    assert_eq!(
        fixture.json(409, "PATCH", "/v1/groups/g", filter)["code"],
        "group-active"
    );
    assert_eq!(join(&mut client, "h").error, 42, "the id of a member that polls");
    // The consumer leaves: the poll goes on from where it has committed.
    assert_eq!(live(&mut client, "k", -1).error, 0);
    let (assigned, records, _) = fixture.poll_http("h", Some(&second));
    assert_eq!((assigned, records), (vec![0, 1], vec![1]));
    // The other way round: the member over HTTP leaves.
    let waiting = join(&mut client, "k");
    fixture.json(204, "DELETE", "/v1/groups/g/members/h", "");
    let told = live(&mut client, "k", waiting.epoch);
    assert_eq!(told.partitions(), [0, 1]);
    // A kick: it has to join again.
    fixture.json(204, "DELETE", path, "");
    assert_eq!(live(&mut client, "k", told.epoch).error, 25);
}

#[test]
fn a_reset_of_a_live_group_makes_its_consumers_join_again() {
    let fixture = Fixture::new();
    fixture.server.create_topic("t", 1);
    let mut client = fixture.client();
    produce(&mut client, "t", -1, &batch(&["a", "b", "c"]));
    let told = join(&mut client, "m");
    assert_eq!(commit(&mut client, "m", told.epoch, (0, 3)), 0);
    let reset = |status, active: bool| {
        let body = format!(r#"{{"to":{{"offset":1}},"while_active":{active}}}"#);
        fixture.json(status, "POST", "/v1/groups/g/offsets/reset", &body)
    };
    assert_eq!(reset(409, false)["code"], "group-active");
    reset(200, true);
    assert_eq!(commit(&mut client, "m", told.epoch, (0, 3)), 113);
    assert_eq!(live(&mut client, "m", told.epoch).error, 110);
    let again = join(&mut client, "m");
    assert_eq!(again.partitions(), [0]);
    assert_eq!(committed(&mut client, Some("m"), again.epoch, 0), Ok(1));
}

#[test]
fn after_a_restart_consumers_join_again_where_they_were() {
    let fixture = Fixture::new();
    fixture.server.create_topic("t", 1);
    let mut client = fixture.client();
    let told = join(&mut client, "m");
    assert_eq!(commit(&mut client, "m", told.epoch, (0, 6)), 0);
    let fixture = fixture.restart_after_kill();
    let mut client = fixture.client();
    assert_eq!(describe(&mut client, "g").state, "Empty");
    assert_eq!(live(&mut client, "m", told.epoch).error, 25);
    assert_eq!(commit(&mut client, "m", told.epoch, (0, 7)), 25);
    let again = join(&mut client, "m");
    assert_eq!(topic_of(&again), topic_of(&told), "the topic's id is the same");
    assert_eq!(committed(&mut client, Some("m"), again.epoch, 0), Ok(6));
}

#[test]
fn groups_of_other_kinds_have_no_consumers() {
    let fixture = Fixture::new();
    fixture.server.create_topic("t", 1);
    let mut client = fixture.client();
    // Queues, with members or without.
    let shared = r#"{"topics":["t"],"member_id":"h","type":"shared"}"#;
    fixture.json(201, "POST", "/v1/groups/g/members", shared);
    assert_eq!(join(&mut client, "m").error, 69);
    assert_eq!(describe(&mut client, "g").error, 69);
    fixture.json(204, "DELETE", "/v1/groups/g/members/h", "");
    assert_eq!(join(&mut client, "m").error, 69);
    fixture.json(204, "DELETE", "/v1/groups/g", "");
    assert_eq!(describe(&mut client, "g").error, 69, "there is none");
    // Classic ones, as long as they have members.
    let classic = Out::new()
        .text("g")
        .i32(10_000)
        .i32(30_000)
        .text("")
        .text("i")
        .text("consumer");
    let mut answer = client.ask(JOIN, 5, classic.i32(1).text("range").bytes(b""));
    answer.i32();
    assert_eq!(answer.i16(), 0);
    assert_eq!(join(&mut client, "m").error, 69);
    assert_eq!(live(&mut client, "m", 2).error, 69);
    assert_eq!(describe(&mut client, "g").error, 69);
    let group = fixture.server.get("/v1/groups/g");
    let member = group["members"][0]["member_id"].as_str().expect("a member");
    fixture.json(204, "DELETE", &format!("/v1/groups/g/members/{member}"), "");
    assert_eq!(join(&mut client, "m").partitions(), [0]);
    // An earlier version of the commit has no epochs.
    let early = Out::new()
        .text("g")
        .i32(2)
        .text("m")
        .null()
        .i32(1)
        .text("t")
        .i32(1)
        .i32(0);
    let mut answer = client.ask(OFFSET_COMMIT, 7, early.i64(0).i32(0).text(""));
    answer.bytes(4 + 4 + 3 + 4 + 4);
    assert_eq!(answer.i16(), 35);
    assert_eq!(live(&mut client, "m", -1).error, 0);
    // A filter, which consumers cannot apply.
    fixture.json(200, "PATCH", "/v1/groups/g", r#"{"filter":{"key":["c7"]}}"#);
    assert_eq!(join(&mut client, "m").error, 42);
}

#[test]
fn consumers_read_what_their_rules_allow() {
    let fixture = crate::sasl::closed(&[]);
    for name in ["t", "t-secret"] {
        let body = serde_json::json!({"partitions": 1});
        let made = fixture.http(crate::sasl::ADMIN, "PUT", &format!("/v1/topics/{name}"), &body);
        made.created();
    }
    let rules = serde_json::json!([{"allow": ["read", "describe"], "topics": ["t"], "groups": ["g"]}]);
    let secret = fixture.token("app", &serde_json::json!({ "rules": rules }));
    let mut client = fixture.client();
    assert_eq!(
        crate::sasl::scram(&mut client, "SCRAM-SHA-256", "app", &secret),
        Ok(0)
    );
    let joins = Beat { member: "m", ..JOINS };
    let other = Beat {
        group: "other",
        ..joins.clone()
    };
    assert_eq!(other.send(&mut client).error, 30);
    assert_eq!(describe(&mut client, "other").error, 30);
    let secret = Beat {
        topics: Some(&["t", "t-secret"]),
        ..joins.clone()
    };
    assert_eq!(secret.send(&mut client).error, 29);
    // An expression brings only what may be read.
    let told = Beat {
        topics: None,
        regex: Some("t.*"),
        ..joins
    }
    .send(&mut client);
    assert_eq!(told.partitions(), [0]);
    assert_eq!(describe(&mut client, "g").members.len(), 1);
}

#[test]
fn a_consumer_without_its_right_is_not_kept_alive_and_others_do_not_see_what_it_reads() {
    let fixture = crate::sasl::closed(&[]);
    for name in ["t", "t-secret"] {
        let body = serde_json::json!({"partitions": 1});
        let made = fixture.http(crate::sasl::ADMIN, "PUT", &format!("/v1/topics/{name}"), &body);
        made.created();
    }
    let rules = |topics: &[&str]| serde_json::json!({"rules": [{"allow": ["read", "describe"], "topics": topics, "groups": ["g"]}]});
    let signed_in = |name: &str, secret: &str| {
        let mut client = fixture.client();
        assert_eq!(
            crate::sasl::scram(&mut client, "SCRAM-SHA-256", name, secret),
            Ok(0)
        );
        client
    };
    let secret = fixture.token("app", &rules(&["t", "t-secret"]));
    let told = Beat {
        member: "m",
        topics: Some(&["t", "t-secret"]),
        ..JOINS
    }
    .send(&mut signed_in("app", &secret));
    assert_eq!(told.error, 0);
    let other = fixture.token("other", &rules(&["t"]));
    let seen = describe(&mut signed_in("other", &other), "g").members;
    assert_eq!(seen[0].topics, ["t"]);
    assert_eq!(seen[0].assignment, [0], "of that topic");

    let changed = fixture.http(crate::sasl::ADMIN, "PATCH", "/v1/tokens/app", &rules(&["t"]));
    assert!(changed.status < 300);
    let mut client = signed_in("app", &secret);
    let wait = std::time::Duration::from_millis(300);
    std::thread::sleep(wait);
    assert_eq!(live(&mut client, "m", told.epoch).error, 29);
    let group = fixture.http(
        crate::sasl::ADMIN,
        "GET",
        "/v1/groups/g",
        &serde_json::Value::Null,
    );
    let silent = group.ok()["members"][0]["idle_ms"].as_u64();
    // What it was refused was no sign of life.
    assert!(silent >= Some(wait.as_millis() as u64), "{silent:?}");
}

#[test]
fn a_consumer_that_joins_once_more_as_a_static_member_is_one() {
    let fixture = Fixture::new();
    fixture.server.create_topic("t", 1);
    let mut client = fixture.client();
    assert_eq!(join(&mut client, "m").error, 0);
    let joins = Beat {
        member: "m",
        instance: Some("i"),
        ..JOINS
    };
    let told = joins.send(&mut client);
    assert_eq!(told.partitions(), [0]);
    let lives = Beat {
        member: "m",
        instance: Some("i"),
        epoch: told.epoch,
        ..LIVES
    };
    assert_eq!(lives.send(&mut client).error, 0);
}

#[test]
fn the_expressions_of_a_group_are_bounded() {
    let fixture = Fixture::new();
    fixture.server.create_topic("t", 1);
    let mut client = fixture.client();
    let mut join = |number: usize, regex: String| {
        let told = Beat {
            member: &format!("m{number}"),
            topics: None,
            regex: Some(&regex),
            ..JOINS
        }
        .send(&mut client);
        (told.error, told.epoch)
    };
    for number in 0..64 {
        assert_eq!(join(number, format!("t{number}")).0, 0);
    }
    let joined = join(64, "t7".into());
    assert_eq!(joined.0, 0, "one of them once more");
    assert_eq!(join(65, "t65".into()).0, 128, "one more");
    let other = Beat {
        member: "m64",
        epoch: joined.1,
        regex: Some("t65"),
        ..LIVES
    };
    assert_eq!(other.send(&mut client).error, 128);
    // One that nobody else has makes room.
    let own = Beat {
        member: "m64",
        epoch: joined.1,
        regex: Some("t8"),
        ..LIVES
    };
    assert_eq!(own.send(&mut client).error, 0);
}

#[test]
fn a_member_keeps_the_beginning_of_the_name_of_its_client() {
    let fixture = Fixture::new();
    fixture.server.create_topic("t", 1);
    let mut client = fixture.client();
    let name = "x".repeat(30_000);
    let body = Out::new()
        .tags()
        .compact("g")
        .compact("m")
        .i32(0)
        .maybe(None)
        .maybe(None)
        .i32(300_000)
        .length(1)
        .compact("t")
        .maybe(None)
        .maybe(None)
        .length(0)
        .tags();
    let head = Out::new()
        .i16(HEARTBEAT)
        .i16(1)
        .i32(9)
        .i16(30_000)
        .raw(name.as_bytes());
    client.send(&Out::new().bytes(&[head.0, body.0].concat()).0);
    assert_eq!(client.receive().0, 9);
    let members = describe(&mut client, "g").members;
    assert_eq!(members[0].client, name[..255]);
}
