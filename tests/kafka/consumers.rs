//! Members of groups by the server-side protocol (KIP-848) over bare sockets, alone and beside members over HTTP: the codes
//! that Kafka 4.4 was seen to answer with.

mod heartbeats;
mod late;
mod quotas;
mod rights;

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
