//! The errors that Kafka 4.4 was seen to answer with, for the same requests.

use super::*;

fn without_crc(values: &[&str], change: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut bytes = batch(values);
    change(&mut bytes);
    bytes
}

/// CRC-32C, bit by bit.
fn crc32c(bytes: &[u8]) -> u32 {
    let step = |crc: u32| (crc >> 1) ^ (0x82f6_3b78 & (crc & 1).wrapping_neg());
    let add = |crc: u32, byte: &u8| (0..8).fold(crc ^ u32::from(*byte), |crc, _| step(crc));
    !bytes.iter().fold(!0, add)
}

/// A change of the header that the checksum covers, with the checksum made good.
pub(crate) fn with_crc(values: &[&str], change: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut bytes = without_crc(values, change);
    let crc = crc32c(&bytes[21..]).to_be_bytes();
    bytes[17..21].copy_from_slice(&crc);
    bytes
}

#[test]
fn produce_is_refused_as_kafka_refuses_it() {
    let fixture = Fixture::new();
    fixture.server.create_topic("t", 1);
    let mut client = fixture.client();
    let good = batch(&["a"]);
    let cases: [(&str, i16, Vec<u8>, i16); 12] = [
        ("no topic", -1, good.clone(), 3),
        ("acks 2", 2, good.clone(), 21),
        ("crc", -1, without_crc(&["a"], |bytes| bytes[65] ^= 1), 2),
        ("magic 3", -1, without_crc(&["a"], |bytes| bytes[16] = 3), 2),
        ("magic 1", -1, without_crc(&["a"], |bytes| bytes[16] = 1), 87),
        ("two batches", -1, [good.clone(), good.clone()].concat(), 87),
        ("no batch", -1, Vec::new(), 87),
        ("count", -1, with_crc(&["a", "b"], |bytes| bytes[60] = 1), 87),
        ("control", -1, with_crc(&["a"], |bytes| bytes[22] |= 1 << 5), 87),
        ("codec 7", -1, with_crc(&["a"], |bytes| bytes[22] |= 7), -1),
        ("not gzip", -1, with_crc(&["a"], |bytes| bytes[22] |= 1), -1),
        (
            "its own time",
            -1,
            with_crc(&["a"], |bytes| bytes[22] |= 1 << 3),
            32,
        ),
    ];
    for (name, acks, records, code) in cases {
        let topic = if name == "no topic" { "none" } else { "t" };
        assert_eq!(produce(&mut client, topic, acks, &records), (code, -1), "{name}");
    }
    let answer = client.ask(PRODUCE, 3, produce_request("t", 7, -1, &good));
    assert_eq!(produced(answer), (3, -1), "no such partition");
    // Nothing of it was stored, and the connection goes on.
    assert_eq!(produce(&mut client, "t", -1, &good), (0, 0));
}

/// A batch of records, each with a key or without.
fn keyed(keys: &[Option<&str>], codec: Option<Codec>) -> Vec<u8> {
    let mut builder = BatchBuilder::new();
    for key in keys {
        let key = key.map(str::as_bytes);
        builder.push(TimestampMs(1_700_000_000_000), key, Some(b"v"), &[]);
    }
    let packed = builder.seal().with_codec(codec, None);
    packed.expect("nothing to inflate").into_bytes()
}

/// The error of a Produce answer, version 8, its offset, and the records that are at fault.
fn produced_8(mut answer: In) -> (i16, i64, Vec<i32>) {
    assert_eq!(answer.i32(), 1);
    answer.text();
    assert_eq!(answer.i32(), 1);
    answer.i32();
    let (error, offset) = (answer.i16(), answer.i64());
    answer.i64();
    answer.i64();
    let at_fault = (0..answer.i32()).map(|_| {
        let index = answer.i32();
        assert_eq!(answer.i16(), -1, "no message of its own");
        index
    });
    let at_fault = at_fault.collect();
    match error {
        0 => assert_eq!(answer.i16(), -1),
        _ => assert!(!answer.text().is_empty()),
    }
    answer.i32();
    answer.end();
    (error, offset, at_fault)
}

#[test]
fn records_without_keys_are_refused_by_a_topic_that_is_to_be_compacted_and_named() {
    let fixture = Fixture::new();
    let mut client = fixture.client();
    for (name, policy) in [("compact", "compact"), ("both", "compact,delete")] {
        let configs = [("cleanup.policy", Some(policy))];
        let topic = admin::New::configured(name, &configs);
        assert_eq!(admin::create_one(&mut client, topic), 0);
    }
    fixture.server.create_topic("delete", 1);
    let produce = |client: &mut Client, topic: &str, records: &[u8]| {
        produced_8(client.ask(PRODUCE, 8, produce_request(topic, 0, -1, records)))
    };
    let some = [Some("k"), None, Some(""), None];
    for codec in [None, Some(Codec::Zstd)] {
        for topic in ["compact", "both"] {
            let answer = produce(&mut client, topic, &keyed(&some, codec));
            assert_eq!(answer, (87, -1, vec![1, 3]), "{topic}");
        }
    }
    assert_eq!(
        produce(&mut client, "delete", &keyed(&some, None)),
        (0, 0, vec![])
    );
    // Nothing of it was stored; records with keys are.
    let fine = keyed(&[Some("k"), Some("")], None);
    assert_eq!(produce(&mut client, "compact", &fine), (0, 0, vec![]));
    // A version without the list has the error all the same.
    let answer = client.ask(PRODUCE, 3, produce_request("compact", 0, -1, &keyed(&some, None)));
    assert_eq!(produced(answer), (87, -1));
}

#[test]
fn a_batch_above_the_limit_of_the_topic_is_too_large() {
    let fixture = Fixture::new();
    let body = br#"{"partitions":1,"config":{"max_record_bytes":1000}}"#;
    fixture
        .server
        .expect(201, "PUT", "/v1/topics/t", "application/json", body);
    let large = "x".repeat(2000);
    assert_eq!(
        produce(&mut fixture.client(), "t", -1, &batch(&[&large])),
        (10, -1)
    );
}

#[test]
fn fetch_is_refused_as_kafka_refuses_it() {
    let fixture = Fixture::new();
    fixture.server.create_topic("t", 1);
    let mut client = fixture.client();
    produce(&mut client, "t", -1, &batch(&["a"]));
    for offset in [2, -5, i64::MAX] {
        assert_eq!(fetch(&mut client, "t", offset), (1, -1, Vec::new()), "{offset}");
    }
    assert_eq!(fetch(&mut client, "none", 0).0, 3);
    // Version 9: a larger epoch of the leader than there is. Version 7: a session.
    let head = |session: i32, epoch: i32| {
        Out::new()
            .i32(-1)
            .i32(0)
            .i32(0)
            .i32(1 << 20)
            .i8(0)
            .i32(session)
            .i32(epoch)
    };
    let topic = |out: Out| out.i32(1).text("t").i32(1).i32(0);
    let of_epoch = topic(head(0, -1)).i32(1).i64(0).i64(-1).i32(1 << 20).i32(0);
    let mut answer = client.ask(FETCH, 9, of_epoch);
    assert_eq!(
        (answer.i32(), answer.i16(), answer.i32(), answer.i32()),
        (0, 0, 0, 1)
    );
    answer.text();
    assert_eq!((answer.i32(), answer.i32(), answer.i16()), (1, 0, 75));
    let in_session = topic(head(5, 3)).i64(0).i64(-1).i32(1 << 20).i32(0);
    let mut answer = client.ask(FETCH, 7, in_session);
    assert_eq!(
        (answer.i32(), answer.i16(), answer.i32(), answer.i32()),
        (0, 70, 0, 0)
    );
    answer.end();
}

/// A ListOffsets request for partition 0 of `t`, version 4 or later: the error, the time, the offset and the leader's epoch.
fn listed(client: &mut Client, version: i16, epoch: i32, time: i64) -> (i16, i64, i64, i32) {
    let is_flexible = version >= 6;
    // Lengths of the flexible form have one more, and each structure ends with its tags.
    let (one, tags): (&[u8], &[u8]) = if is_flexible {
        (&[2], &[0])
    } else {
        (&[0, 0, 0, 1], &[])
    };
    let name: &[u8] = if is_flexible { &[2, b't'] } else { &[0, 1, b't'] };
    let head = Out::new().raw(tags).i32(-1).i8(0).raw(one).raw(name).raw(one);
    let asked = head.i32(0).i32(epoch).i64(time).raw(tags).raw(tags);
    let asked = if version >= 10 { asked.i32(30_000) } else { asked };
    let mut answer = client.ask(LIST_OFFSETS, version, asked.raw(tags));
    assert_eq!(answer.bytes(tags.len() as i32), tags);
    assert_eq!(answer.i32(), 0);
    for expected in [one, name, one] {
        assert_eq!(answer.bytes(expected.len() as i32), expected);
    }
    assert_eq!(answer.i32(), 0);
    let found = (answer.i16(), answer.i64(), answer.i64(), answer.i32());
    assert_eq!(answer.rest(), tags.repeat(3));
    found
}

#[test]
fn offsets_are_listed_as_kafka_lists_them() {
    const NONE: (i16, i64, i64, i32) = (0, -1, -1, -1);
    const TOO_NEW: (i16, i64, i64, i32) = (35, -1, -1, -1);
    const EPOCH: (i16, i64, i64, i32) = (75, -1, -1, -1);
    let fixture = Fixture::new();
    fixture.server.create_topic("t", 1);
    let mut client = fixture.client();
    for (version, epoch, time, expected) in [
        (11, -1, -1, (0, -1, 0, 0)),
        (11, 0, -2, (0, -1, 0, 0)),
        // The largest time, and a time, where there are no records.
        (7, -1, -3, NONE),
        (11, 0, -3, NONE),
        (11, 0, 5, NONE),
        // The first offset that is on this machine, the last one that is elsewhere, the first that is still to go there.
        (8, -1, -4, (0, -1, 0, 0)),
        (9, -1, -5, NONE),
        (11, -1, -6, NONE),
        (6, -1, -3, TOO_NEW),
        (7, -1, -4, TOO_NEW),
        (8, -1, -5, TOO_NEW),
        (10, -1, -6, TOO_NEW),
        (11, -1, -7, TOO_NEW),
        (4, 1, -1, EPOCH),
        (11, 1, -2, EPOCH),
        (11, i32::MAX, 5, EPOCH),
    ] {
        let found = listed(&mut client, version, epoch, time);
        assert_eq!(
            found, expected,
            "{time} in epoch {epoch}, version {version}, empty"
        );
    }
    let mut builder = BatchBuilder::new();
    for time in [10, 40, 20, 30] {
        builder.push(TimestampMs(time), None, Some(b"v"), &[]);
    }
    assert_eq!(produce(&mut client, "t", -1, builder.seal().as_bytes()), (0, 0));
    let trimmed = "/v1/topics/t/partitions/0/records?before=1";
    fixture.server.expect(200, "DELETE", trimmed, "", b"");
    for (version, time, expected) in [
        (4, -1, (0, -1, 4, 0)),
        (11, -2, (0, -1, 1, 0)),
        (7, -3, (0, 40, 1, 0)),
        (8, -4, (0, -1, 1, 0)),
        (9, -5, NONE),
        (11, -6, NONE),
        (11, 15, (0, 40, 1, 0)),
        (11, 41, NONE),
    ] {
        let found = listed(&mut client, version, 0, time);
        assert_eq!(found, expected, "{time}, version {version}");
    }
}

#[test]
fn an_epoch_that_has_not_been_has_no_end() {
    let fixture = Fixture::new();
    fixture.server.create_topic("t", 1);
    let mut client = fixture.client();
    assert_eq!(produce(&mut client, "t", -1, &batch(&["a", "b"])), (0, 0));
    for (partition, current, epoch, expected) in [
        (0, -1, 0, (0, 0, 2)),
        (0, 0, 0, (0, 0, 2)),
        (0, -1, 1, (0, -1, -1)),
        (0, 0, i32::MAX, (0, -1, -1)),
        (0, 1, 0, (75, -1, -1)),
        (0, 1, 1, (75, -1, -1)),
        (7, -1, 0, (3, -1, -1)),
    ] {
        let body = Out::new().i32(-1).i32(1).text("t").i32(1).i32(partition);
        let mut answer = client.ask(OFFSET_FOR_LEADER_EPOCH, 3, body.i32(current).i32(epoch));
        assert_eq!((answer.i32(), answer.i32(), answer.text().as_str()), (0, 1, "t"));
        assert_eq!(answer.i32(), 1);
        let error = answer.i16();
        assert_eq!(answer.i32(), partition);
        let found = (error, answer.i32(), answer.i64());
        answer.end();
        assert_eq!(found, expected, "{partition}: epoch {epoch} in {current}");
    }
}

#[test]
fn an_id_that_no_topic_has_is_not_known() {
    let fixture = Fixture::new();
    let mut client = fixture.client();
    // Fetch 13, flexible: a topic by its id.
    let body = Out::new()
        .raw(&[0])
        .i32(-1)
        .i32(0)
        .i32(0)
        .i32(1)
        .i8(0)
        .i32(0)
        .i32(-1);
    let topic = body
        .raw(&[2])
        .raw(&[7; 16])
        .raw(&[2])
        .i32(0)
        .i32(-1)
        .i64(0)
        .i32(-1)
        .i64(-1)
        .i32(1)
        .raw(&[0, 0]);
    let mut answer = client.ask(FETCH, 13, topic.raw(&[1, 1, 0]));
    answer.i8();
    assert_eq!(
        (answer.i32(), answer.i16(), answer.i32(), answer.i8()),
        (0, 0, 0, 2)
    );
    answer.bytes(16);
    assert_eq!((answer.i8(), answer.i32(), answer.i16()), (2, 0, 100));
}

#[test]
fn bytes_that_are_no_request_close_the_connection() {
    let fixture = Fixture::new();
    let frame = |key, version, body: &[u8]| Out::new().raw(body).frame(key, version, 1);
    // HTTP has an answer, see `mistakes`.
    let cases: [(&str, Vec<u8>); 11] = [
        ("unknown key", frame(999, 0, &[])),
        ("key that is never offered", frame(71, 0, &[0])),
        ("version", frame(METADATA, 14, &[0; 8])),
        ("produce before Kafka 4", frame(PRODUCE, 2, &[0; 32])),
        ("short body", frame(METADATA, 4, &[0, 0])),
        ("array of 2^31-1", frame(METADATA, 4, &i32::MAX.to_be_bytes())),
        (
            "negative array",
            frame(LIST_OFFSETS, 1, &Out::new().i32(-1).i32(-2).0),
        ),
        ("length 0", vec![0; 4]),
        ("negative length", vec![0xff; 4]),
        ("2 GiB", i32::MAX.to_be_bytes().to_vec()),
        ("TLS", vec![0x16, 3, 1, 0, 0xc8, 1, 0, 0, 0xc4]),
    ];
    for (name, bytes) in cases {
        println!("{name}");
        let mut client = fixture.client();
        client.send(&bytes);
        client.is_closed();
    }
}

#[test]
fn bytes_after_the_body_and_a_client_id_of_any_bytes_are_answered() {
    let fixture = Fixture::new();
    let mut client = fixture.client();
    client.ask(METADATA, 1, Out::new().i32(0).raw(&[1, 2, 3]));
    for client_id in [Out::new().null().0, Out::new().i16(2).raw(&[0xff, 0xfe]).0] {
        let head = Out::new().i16(API_VERSIONS).i16(0).i32(9).raw(&client_id);
        client.send(&Out::new().bytes(&head.0).0);
        assert_eq!(client.receive().0, 9);
    }
}

/// A batch of one record with a key of so many bytes, and headers of so many.
fn large(key: usize, headers: (usize, usize)) -> Vec<u8> {
    let (key, value) = (vec![b'k'; key], vec![b'h'; headers.1]);
    let headers: Vec<(&[u8], Option<&[u8]>)> = vec![(b"h", Some(&value)); headers.0];
    let mut builder = BatchBuilder::new();
    builder.push(TimestampMs(1_700_000_000_000), Some(&key), Some(b"v"), &headers);
    builder.seal().into_bytes()
}

#[test]
fn the_limits_of_keys_and_headers_hold_for_kafka_clients_and_are_named() {
    let fixture = Fixture::with(&[
        ("QUIPU_MAX_KEY_BYTES", "1000"),
        ("QUIPU_MAX_RECORD_HEADERS", "2"),
        ("QUIPU_MAX_HEADER_BYTES", "100"),
    ]);
    fixture.server.create_topic("t", 1);
    let mut client = fixture.client();
    assert_eq!(produce(&mut client, "t", -1, &large(1000, (2, 49))), (0, 0));
    for (batch, what) in [
        (large(1001, (0, 0)), "1001 bytes of a key; 1000 are allowed"),
        (large(1, (3, 1)), "3 headers of a record; 2 are allowed"),
        (
            large(1, (2, 50)),
            "102 bytes of a record's headers; 100 are allowed",
        ),
    ] {
        // Version 8 has a message.
        let mut answer = client.ask(PRODUCE, 8, produce_request("t", 0, -1, &batch));
        answer.bytes(4);
        answer.text();
        answer.bytes(4 + 4);
        assert_eq!(answer.i16(), 10, "{what}");
        answer.bytes(8 + 8 + 8 + 4);
        assert_eq!(answer.text(), format!("record 0: {what}"));
    }
}
