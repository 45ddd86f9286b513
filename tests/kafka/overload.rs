//! Overload slows clients and refuses none; what clients make the server hold for them is bounded, however small their
//! requests are and whether they read the answers.

use quipu_segments::batch::Codec;

use super::*;

const OFFSET_FETCH: i16 = 9;
const JOIN: i16 = 11;
const SYNC: i16 = 14;
const DESCRIBE_GROUPS: i16 = 15;
const CREATE_TOPICS: i16 = 19;
const DESCRIBE_CONFIGS: i16 = 32;
const ALTER_CONFIGS: i16 = 33;
const DESCRIBE_LOG_DIRS: i16 = 35;
const OFFSET_DELETE: i16 = 47;
const DESCRIBE_PRODUCERS: i16 = 61;
const CONSUMER_GROUP_DESCRIBE: i16 = 69;
/// The most memory of the server whatever they do, without file pages.
const MAX_ANONYMOUS_BYTES: u64 = 320 << 20;

fn all_topics(correlation: i32) -> Vec<u8> {
    Out::new().i32(-1).frame(METADATA, 1, correlation)
}

#[test]
fn whoever_asks_for_all_topics_and_does_not_read_costs_little_and_keeps_nobody_out() {
    // Not closed for its silence alone.
    let fixture = Fixture::with(&[("QUIPU_WRITE_IDLE_TIMEOUT_MS", "3600000")]);
    for number in 0..3 {
        fixture.server.create_topic(&format!("t{number}"), 4000);
    }
    let mut request = Vec::new();
    for number in 0..30 {
        request.extend(all_topics(number));
    }
    let mut clients: Vec<Client> = (0..300).map(|_| fixture.client()).collect();
    for client in &mut clients {
        client.send(&request);
    }
    let mut other = fixture.client();
    assert_eq!(produce(&mut other, "t0", -1, &batch(&["a"])), (0, 0));
    // It gets its turn again and again, and those who read nothing are closed for that.
    let begin = Instant::now();
    loop {
        other.send(&all_topics(7));
        assert_eq!(other.receive().0, 7);
        let bytes = fixture.server.anonymous_bytes();
        assert!(bytes < MAX_ANONYMOUS_BYTES, "{bytes}");
        let answer = fixture.http("", "GET", "/metrics", &serde_json::Value::Null);
        let stalled = "quipu_stalled_connections_total{listener=\"kafka\"} ";
        let count = answer.text().lines().find_map(|line| line.strip_prefix(stalled));
        if count.is_some_and(|count| count != "0") {
            return;
        }
        assert!(begin.elapsed() < support::PATIENCE, "nobody is closed");
    }
}

#[test]
fn a_full_queue_of_the_log_slows_producers_and_refuses_nothing() {
    let fixture = Fixture::with(&[("QUIPU_QUEUE_BYTES", "1MiB")]);
    fixture.server.create_topic("t", 1);
    let value = "x".repeat(600_000);
    let sent = batch(&[&value]);
    let mut clients: Vec<Client> = (0..12).map(|_| fixture.client()).collect();
    let sending: Vec<_> = clients
        .iter_mut()
        .map(|client| {
            let mut stream = client.stream.try_clone().expect("a socket");
            let sent = sent.clone();
            std::thread::spawn(move || {
                for number in 0..10 {
                    let frame = produce_request("t", 0, 1, &sent).frame(PRODUCE, 3, number);
                    std::io::Write::write_all(&mut stream, &frame).expect("it reads");
                }
            })
        })
        .collect();
    for client in &mut clients {
        for number in 0..10 {
            let (correlation, answer) = client.receive();
            assert_eq!((correlation, produced(answer).0), (number, 0));
        }
    }
    for thread in sending {
        thread.join().expect("it sends");
    }
}

#[test]
fn a_topic_is_described_once_however_often_it_is_asked_for() {
    let fixture = Fixture::new();
    let name = "a-topic-with-a-name-that-is-longer-than-its-entry-in-the-memory-of-the-server";
    fixture.server.create_topic(name, 100);
    let mut body = Out::new().i32(5000);
    for _ in 0..5000 {
        body = body.text(name);
    }
    let mut answer = fixture.client().ask(METADATA, 1, body);
    answer.i32();
    answer.i32();
    answer.text();
    answer.bytes(4 + 2 + 4);
    assert_eq!(answer.i32(), 1);
}

#[test]
fn what_an_answer_has_no_room_for_is_refused() {
    let fixture = Fixture::new();
    fixture.server.create_topic("t", 1);
    let mut client = fixture.client();
    // Each takes five bytes and some kilobytes of the answer.
    let count = 30_000;
    let mut body = Out::new().i32(count);
    for _ in 0..count {
        body = body.i8(2).text("a-topic-of-a-longer-name").i32(-1);
    }
    fixture.server.create_topic("a-topic-of-a-longer-name", 1);
    let mut answer = client.ask(DESCRIBE_CONFIGS, 1, body.i8(1));
    answer.i32();
    assert_eq!(answer.i32(), count);
    assert_eq!(answer.i16(), 0, "the first is described");
    let bytes = fixture.server.anonymous_bytes();
    assert!(bytes < MAX_ANONYMOUS_BYTES, "{bytes}");
    // A small committed offset is asked for again and again, with all that was stored beside it.
    let note = "n".repeat(4000);
    let head = Out::new().text("g").i32(-1).text("").i64(-1);
    let row = head.i32(1).text("t").i32(1).i32(0).i64(0).text(&note);
    let mut answer = client.ask(8, 2, row);
    answer.bytes(4 + 3 + 4 + 4);
    assert_eq!(answer.i16(), 0);
    let mut body = Out::new().text("g").i32(1).text("t").i32(100_000);
    for _ in 0..100_000 {
        body = body.i32(0);
    }
    let mut answer = client.ask(OFFSET_FETCH, 2, body);
    assert_eq!(answer.i32(), 0);
    assert_eq!(answer.i16(), 42);
    let bytes = fixture.server.anonymous_bytes();
    assert!(bytes < MAX_ANONYMOUS_BYTES, "{bytes}");
}

#[test]
fn whoever_asks_for_large_offsets_and_does_not_read_costs_little() {
    const PARTITIONS: i32 = 3000;
    // Not closed for its silence alone.
    let fixture = Fixture::with(&[("QUIPU_WRITE_IDLE_TIMEOUT_MS", "3600000")]);
    fixture.server.create_topic("t", PARTITIONS as u32);
    let note = "n".repeat(4096);
    let mut body = Out::new().text("g").i32(-1).text("").i64(-1);
    body = body.i32(1).text("t").i32(PARTITIONS);
    for partition in 0..PARTITIONS {
        body = body.i32(partition).i64(0).text(&note);
    }
    let mut other = fixture.client();
    let mut answer = other.ask(8, 2, body);
    answer.bytes(4 + 3 + 4 + 4);
    assert_eq!(answer.i16(), 0);
    let all = || Out::new().text("g").i32(-1);
    let mut answer = other.ask(OFFSET_FETCH, 2, all());
    assert_eq!((answer.i32(), answer.text()), (1, "t".to_owned()));
    assert_eq!((answer.i32(), answer.i32()), (PARTITIONS, 0));
    assert_eq!((answer.i64(), answer.text()), (0, note));
    let mut clients: Vec<Client> = (0..80).map(|_| fixture.client()).collect();
    for client in &mut clients {
        client.send(&all().frame(OFFSET_FETCH, 2, 1));
    }
    let begin = Instant::now();
    loop {
        let answer = fixture.http("", "GET", "/metrics", &serde_json::Value::Null);
        let stalled = "quipu_stalled_connections_total{listener=\"kafka\"} ";
        let count = answer.text().lines().find_map(|line| line.strip_prefix(stalled));
        let bytes = fixture.server.anonymous_bytes();
        assert!(bytes < MAX_ANONYMOUS_BYTES, "{bytes}");
        // By then they all have asked, and those who have an answer do not read it.
        if count.is_some_and(|count| count != "0") {
            return;
        }
        assert!(begin.elapsed() < support::PATIENCE, "nobody is closed");
    }
}

#[test]
fn a_group_that_is_named_twice_is_described_not_at_all() {
    let fixture = Fixture::new();
    let mut client = fixture.client();
    let body = Out::new().i32(3).text("one").text("two").text("one");
    let mut answer = client.ask(DESCRIBE_GROUPS, 0, body);
    let mut codes = Vec::new();
    for _ in 0..answer.i32() {
        codes.push(answer.i16());
        for _ in 0..4 {
            answer.text();
        }
        assert_eq!(answer.i32(), 0);
    }
    assert_eq!(codes, [42, 0, 42]);
}

#[test]
fn who_asks_for_more_rows_than_an_answer_has_room_for_is_hung_up_on() {
    let fixture = Fixture::new();
    fixture.server.create_topic("t", 1);
    let many = 3_000_000;
    let numbers = vec![0; 4 * many];
    let size = i32::try_from(many).expect("a size");
    let sizes = Out::new().i32(1).text("t").i32(size).raw(&numbers);
    // Compact: two topics at most, a name of one byte, and one more than so many numbers as a varint.
    let count = [0xc1, 0x8d, 0xb7, 0x01];
    let producers = Out::new()
        .raw(&[0, 2, 2, b't'])
        .raw(&count)
        .raw(&numbers)
        .raw(&[0, 0]);
    let mut groups = Out::new().i32(500_000);
    for number in 0..500_000 {
        groups = groups.text(&number.to_string());
    }
    for (key, version, body) in [
        (DESCRIBE_LOG_DIRS, 1, sizes),
        (DESCRIBE_PRODUCERS, 0, producers),
        (DESCRIBE_GROUPS, 0, groups),
    ] {
        let mut client = fixture.client();
        client.send(&body.frame(key, version, 1));
        client.is_closed();
        let log = fixture.server.log();
        assert!(!log.contains("malformed"), "{log}");
    }
    let bytes = fixture.server.anonymous_bytes();
    assert!(bytes < MAX_ANONYMOUS_BYTES, "{bytes}");
}

#[test]
fn joins_that_wait_hold_no_memory_that_the_missing_members_need() {
    const OTHERS: usize = 16;
    let settings = [
        ("QUIPU_MAX_REQUEST_BYTES", "1MiB"),
        ("QUIPU_MAX_IN_FLIGHT_BYTES", "1MiB"),
    ];
    let fixture = Fixture::with(&settings);
    // Version 1: who has no id joins at once.
    let request = |member: &str, metadata: &[u8]| {
        let out = Out::new().text("g").i32(60_000).i32(600_000).text(member);
        out.text("consumer").i32(1).text("range").bytes(metadata)
    };
    let joined = |mut answer: In| {
        let (error, generation) = (answer.i16(), answer.i32());
        answer.text();
        answer.text();
        (error, generation, answer.text())
    };
    let mut first = fixture.client();
    let (error, generation, member) = joined(first.ask(JOIN, 1, request("", b"")));
    assert_eq!((error, generation), (0, 1));
    // All of them together have more than there is memory for requests.
    let frame = request("", &[0; 90_000]).frame(JOIN, 1, 1);
    let mut others: Vec<Client> = (0..OTHERS).map(|_| fixture.client()).collect();
    for client in &mut others {
        client.send(&frame);
    }
    let begin = Instant::now();
    loop {
        let group = fixture.server.get("/v1/groups/g");
        let members = group["members"].as_array().map_or(0, Vec::len);
        if members == 1 + OTHERS {
            break;
        }
        assert!(begin.elapsed() < support::PATIENCE, "{members} members");
    }
    let (error, generation, _) = joined(first.ask(JOIN, 1, request(&member, b"")));
    assert_eq!((error, generation), (0, 2));
    for client in &mut others {
        let (error, generation, _) = joined(client.receive().1);
        assert_eq!((error, generation), (0, 2));
    }
}

#[test]
fn a_group_of_consumers_that_is_named_twice_is_described_not_at_all() {
    let fixture = Fixture::new();
    let mut client = fixture.client();
    // Version 0: no tagged fields, four groups, and no operations; short texts have one byte of length.
    let mut body = Out::new().raw(&[0, 5]);
    for group in ["one", "two", "one", "six"] {
        body = body.raw(&[4]).raw(group.as_bytes());
    }
    let answer = client.ask(CONSUMER_GROUP_DESCRIBE, 0, body.raw(&[0, 0])).rest();
    // No tagged fields, no throttling, and the rows, which begin with their codes.
    assert_eq!(answer[..6], [0, 0, 0, 0, 0, 5]);
    let mut rest = &answer[6..];
    let mut codes = Vec::new();
    while rest.len() > 1 {
        codes.push(i16::from_be_bytes([rest[0], rest[1]]));
        let message = usize::from(rest[2]) - 1;
        rest = &rest[3 + message..];
        // The name, an empty state, two epochs, no assignor, no members, the operations, no tagged fields.
        rest = &rest[4 + 1 + 8 + 1 + 1 + 4 + 1..];
    }
    assert_eq!(codes, [42, 69, 42, 69]);
}

#[test]
fn a_request_deletes_so_many_offsets_and_names_each_topic_once() {
    let fixture = Fixture::new();
    for topic in ["t", "u"] {
        fixture.server.create_topic(topic, 1);
    }
    let mut client = fixture.client();
    let head = Out::new().text("g").i32(-1).text("").i64(-1).i32(2);
    let row = |head: Out, topic: &str| head.text(topic).i32(1).i32(0).i64(0).null();
    let mut answer = client.ask(8, 2, row(row(head, "t"), "u"));
    answer.bytes(4 + 3 + 4 + 4);
    assert_eq!(answer.i16(), 0, "the group is there");
    let mut many = Out::new().text("g").i32(100_001);
    for _ in 0..100_001 {
        many = many.text("t").i32(0);
    }
    assert_eq!(client.ask(OFFSET_DELETE, 0, many).i16(), 42);
    let mut body = Out::new().text("g").i32(4);
    for (topic, partitions) in [("t", 1), ("u", 1), ("t", 1), ("v", 0)] {
        body = body.text(topic).i32(partitions);
        if partitions > 0 {
            body = body.i32(0);
        }
    }
    let mut answer = client.ask(OFFSET_DELETE, 0, body);
    assert_eq!((answer.i16(), answer.i32()), (0, 0));
    let rows = (0..answer.i32()).map(|_| {
        let topic = answer.text();
        let partitions = answer.i32();
        let code = (partitions > 0).then(|| (answer.i32(), answer.i16()));
        (topic, code)
    });
    let rows: Vec<_> = rows.collect();
    let expected = [
        ("t", Some((0, 42))),
        ("u", Some((0, 0))),
        ("t", Some((0, 42))),
        ("v", None),
    ];
    assert_eq!(rows, expected.map(|(topic, code)| (topic.to_owned(), code)));
}

#[test]
fn a_request_creates_so_many_topics_and_names_each_once() {
    let fixture = Fixture::new();
    let mut client = fixture.client();
    let mut create = |names: &[String]| {
        let mut body = Out::new().i32(names.len() as i32);
        for name in names {
            body = body.text(name).i32(1).i16(1).i32(0).i32(0);
        }
        let mut answer = client.ask(CREATE_TOPICS, 1, body.i32(1000).i8(1));
        let rows = (0..answer.i32()).map(|_| {
            let name = answer.text();
            let code = answer.i16();
            answer.text();
            (name, code)
        });
        rows.collect::<Vec<_>>()
    };
    let named = |name: &str| name.to_owned();
    let answer = create(&[named("a_b"), named("twice"), named("twice"), named("c")]);
    assert_eq!(answer, [(named("a_b"), 0), (named("twice"), 42), (named("c"), 0)]);
    let many: Vec<String> = (0..4001).map(|number| format!("t{number}")).collect();
    let answer = create(&many);
    assert!(answer.len() == many.len() && answer.iter().all(|(_, code)| *code == 44));
}

#[test]
fn a_configuration_is_short() {
    let fixture = Fixture::new();
    fixture.server.create_topic("t", 1);
    let mut client = fixture.client();
    let mut alter = |value: &str| {
        let body = Out::new()
            .i32(1)
            .i8(2)
            .text("t")
            .i32(1)
            .text("cleanup.policy")
            .text(value);
        let mut answer = client.ask(ALTER_CONFIGS, 0, body.i8(1));
        answer.i32();
        assert_eq!(answer.i32(), 1);
        answer.i16()
    };
    assert_eq!(alter("delete"), 0);
    assert_eq!(alter(&"delete,".repeat(1000)), 42);
}

fn join(group: &str, protocols: &[(&str, &[u8])]) -> Out {
    join_again(group, "", protocols)
}

fn join_again(group: &str, member: &str, protocols: &[(&str, &[u8])]) -> Out {
    let head = Out::new().text(group).i32(10_000).text(member).text("consumer");
    let rows = protocols.iter();
    rows.fold(head.i32(protocols.len() as i32), |out, (name, metadata)| {
        out.text(name).bytes(metadata)
    })
}

#[test]
fn members_say_so_much_of_themselves_and_no_more() {
    let fixture = Fixture::new();
    let ask = |group: &str, protocols: &[(&str, &[u8])]| {
        let mut client = fixture.client();
        let code = client.ask(JOIN, 0, join(group, protocols)).i16();
        (code, client)
    };
    let names: Vec<String> = (0..21).map(|number| number.to_string()).collect();
    let many: Vec<(&str, &[u8])> = names.iter().map(|name| (&**name, &b""[..])).collect();
    assert_eq!(ask("g", &many).0, 42);
    let mut few = fixture.client();
    let mut joined = few.ask(JOIN, 0, join("few", &many[..20]));
    assert_eq!(joined.i16(), 0);
    joined.bytes(4);
    let (_, _, member) = (joined.text(), joined.text(), joined.text());
    // Names are names.
    let named = |instance: &str, protocol_type: &str, protocol: &str| {
        let head = Out::new().text("named").i32(10_000).i32(10_000).text("");
        let body = head
            .text(instance)
            .text(protocol_type)
            .i32(1)
            .text(protocol)
            .bytes(b"");
        let mut answer = fixture.client().ask(JOIN, 5, body);
        answer.i32();
        answer.i16()
    };
    let [fits, too_long] = [1000, 1001].map(|length| "n".repeat(length));
    assert_eq!(named("i", &too_long, "p"), 42);
    assert_eq!(named("i", "consumer", &too_long), 42);
    assert_eq!(named(&too_long, "consumer", "p"), 42);
    assert_eq!(named(&fits, &fits, &fits), 0);
    // As much as is stored of a member, with its names.
    let large = vec![7; (1 << 20) - 2000];
    let all = ["a", "b", "c", "d", "e"].map(|name| (name, &large[..]));
    assert_eq!(ask("g", &all).0, 42);
    assert_eq!(ask("g", &[("a", &[7; 1 << 20])]).0, 42);
    // All of them together, too.
    let mut codes = Vec::new();
    let mut clients = Vec::new();
    for number in 0..18 {
        let (code, client) = ask(&format!("g{number}"), &all[..4]);
        codes.push(code);
        clients.push(client);
    }
    assert_eq!(codes[..16], [0; 16]);
    // More may try again later, as others may have left by then.
    assert_eq!(codes[17], 15);
    assert_eq!(ask("few", &many[..1]).0, 15);
    // Whoever is there already is not kept from a rebalance of its group.
    let mut joined = few.ask(JOIN, 0, join_again("few", &member, &many[..20]));
    assert_eq!(joined.i16(), 0);
    let generation = joined.i32();
    let assign = |bytes: &[u8]| {
        let head = Out::new().text("few").i32(generation).text(&member);
        head.i32(1).text(&member).bytes(bytes)
    };
    assert_eq!(few.ask(SYNC, 0, assign(&large)).i16(), 15);
    assert_eq!(few.ask(SYNC, 0, assign(b"all")).i16(), 0);
    assert_eq!(
        few.ask(JOIN, 0, join_again("few", &member, &[("a", &large)]))
            .i16(),
        15
    );
}

#[test]
fn the_batches_of_a_request_inflate_to_so_much_together() {
    let fixture = Fixture::new();
    fixture.server.create_topic("t", 1);
    let good = SealedBatch::from_outside(batch(&["good"])).expect("a batch");
    let good = good
        .with_codec(Some(Codec::Zstd), None)
        .expect("nothing to inflate");
    let wrong = errors::with_crc(&["plain"], |bytes| bytes[22] = 4);
    let mut client = fixture.client();
    let mut codes = |wrongs: i32| {
        let mut body = Out::new()
            .null()
            .i16(1)
            .i32(1000)
            .i32(1)
            .text("t")
            .i32(wrongs + 1);
        for _ in 0..wrongs {
            body = body.i32(0).bytes(&wrong);
        }
        produce_codes(&mut client, body.i32(0).bytes(good.as_bytes()))
    };
    let few = codes(3);
    assert!(few[..3].iter().all(|code| ![0, 10].contains(code)), "{few:?}");
    assert_eq!(few[3], 0);
    // What is wrong counts as if it had inflated to all that one may.
    assert_eq!(codes(8)[8], 10);
}

/// The codes of a Produce request with so many times the same batch for a partition.
fn codes_of(client: &mut Client, topic: &str, count: i32, batch: &[u8]) -> Vec<i16> {
    let head = Out::new().null().i16(1).i32(1000).i32(1).text(topic);
    let body = (0..count).fold(head.i32(count), |body, _| body.i32(0).bytes(batch));
    produce_codes(client, body)
}

/// The codes of the partitions of a Produce request to one topic.
fn produce_codes(client: &mut Client, body: Out) -> Vec<i16> {
    let mut answer = client.ask(PRODUCE, 3, body);
    answer.i32();
    answer.text();
    let rows = (0..answer.i32()).map(|_| {
        answer.i32();
        let code = answer.i16();
        answer.bytes(16);
        code
    });
    rows.collect()
}

#[test]
fn a_batch_is_as_small_as_its_topic_wants_it_in_the_form_that_is_stored() {
    let fixture = Fixture::new();
    let mut client = fixture.client();
    for (name, compression) in [
        ("plain", "uncompressed"),
        ("packed", "gzip"),
        ("as-sent", "producer"),
    ] {
        let configs = [("compression.type", Some(compression))];
        let topic = admin::New::configured(name, &configs);
        assert_eq!(admin::create_one(&mut client, topic), 0);
    }
    let packed = |mebibytes: usize, value_bytes: usize| {
        let value = vec![0; value_bytes];
        let mut builder = BatchBuilder::new();
        for _ in 0..mebibytes {
            builder.push(TimestampMs(1_700_000_000_000), None, Some(&value), &[]);
        }
        let packed = builder.seal().with_codec(Some(Codec::Zstd), None);
        packed.expect("nothing to inflate").into_bytes()
    };
    let large = packed(31, 1 << 20);
    assert!(large.len() < 100_000);
    assert_eq!(codes_of(&mut client, "plain", 40, &large), [10; 40]);
    let bytes = fixture.server.anonymous_bytes();
    assert!(bytes < MAX_ANONYMOUS_BYTES, "{bytes}");
    assert_eq!(codes_of(&mut client, "packed", 2, &large), [0; 2]);
    assert_eq!(codes_of(&mut client, "as-sent", 2, &large), [0; 2]);
    // More of those that fit than there is memory for at once.
    let fits = packed(1, 1_000_000);
    assert_eq!(codes_of(&mut client, "plain", 100, &fits), [0; 100]);
    assert_eq!(produce(&mut client, "plain", -1, &fits), (0, 100));
}

#[test]
fn http_has_places_that_kafka_leaves_free() {
    http_has_a_place("400", 500);
    // One is kept even of few.
    http_has_a_place("10", 20);
}

fn http_has_a_place(limit: &str, count: usize) {
    let fixture = Fixture::with(&[("QUIPU_MAX_CONNECTIONS", limit)]);
    let clients: Vec<Client> = (0..count).map(|_| fixture.client()).collect();
    // They are accepted in order: those above the limit are closed.
    for mut client in clients {
        let frame = Out::new().frame(API_VERSIONS, 0, 1);
        client.send(&frame);
        if !std::io::Read::read(&mut client.stream, &mut [0]).is_ok_and(|read| read > 0) {
            fixture.server.get("/v1/topics");
            return;
        }
        std::mem::forget(client);
    }
    panic!("none is above the limit");
}

#[test]
fn a_connection_that_waits_for_nothing_holds_no_memory() {
    let fixture = Fixture::new();
    fixture.server.create_topic("t", 1);
    let mut client = fixture.client();
    let value = "x".repeat(500_000);
    assert_eq!(produce(&mut client, "t", -1, &batch(&[&value])), (0, 0));
    // The connection is open, and the request is over.
    let begin = Instant::now();
    loop {
        let answer = fixture.http("", "GET", "/metrics", &serde_json::Value::Null);
        let text = answer.text();
        if text.lines().any(|line| line == "quipu_request_bodies_bytes 0") {
            return;
        }
        assert!(begin.elapsed() < support::PATIENCE, "{text}");
    }
}

#[test]
fn a_refusal_names_so_many_records() {
    let fixture = Fixture::new();
    let mut client = fixture.client();
    let body = Out::new().i32(1).text("t").i32(1).i16(1).i32(0);
    let body = body.i32(1).text("cleanup.policy").text("compact");
    let mut answer = client.ask(CREATE_TOPICS, 1, body.i32(1000).i8(0));
    answer.i32();
    answer.text();
    assert_eq!(answer.i16(), 0);
    let values = vec!["v"; 100_000];
    let plain = SealedBatch::from_outside(batch(&values)).expect("a batch");
    let packed = plain
        .with_codec(Some(Codec::Zstd), None)
        .expect("nothing to inflate");
    let head = Out::new().null().i16(-1).i32(30_000).i32(1).text("t");
    let body = (0..3).fold(head.i32(3), |body, _| body.i32(0).bytes(packed.as_bytes()));
    let mut answer = client.ask(PRODUCE, 8, body);
    answer.i32();
    answer.text();
    assert_eq!(answer.i32(), 3);
    // Of a hundred thousand in each batch.
    for named in [1000, 0, 0] {
        answer.i32();
        assert_eq!(answer.i16(), 87);
        answer.bytes(8 + 8 + 8);
        assert_eq!(answer.i32(), named);
        for _ in 0..named {
            answer.bytes(4 + 2);
        }
        assert!(!answer.text().is_empty());
    }
}
