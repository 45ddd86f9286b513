//! Record batches: stored as they came, or refused.

use super::*;

fn sealed(values: &[&str]) -> SealedBatch {
    let mut builder = BatchBuilder::new();
    for value in values {
        builder.push(TimestampMs(5), Some(b"k"), Some(value.as_bytes()), &[]);
    }
    builder.seal()
}

pub(super) fn batch(values: &[&str]) -> Vec<u8> {
    sealed(values).as_bytes().to_vec()
}

/// A batch whose header is changed, with the checksum set right.
fn changed(change: impl FnOnce(&mut BatchHeader)) -> Vec<u8> {
    let mut bytes = batch(&["1"]);
    let mut header = BatchHeader::peek(&bytes).unwrap();
    change(&mut header);
    header.encode(bytes.first_chunk_mut().unwrap());
    header.crc = crc32c(&bytes[21..]);
    header.encode(bytes.first_chunk_mut().unwrap());
    bytes
}

/// CRC-32C, bit by bit.
fn crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc: u32, _| {
            (crc >> 1) ^ if crc & 1 == 1 { 0x82f6_3b78 } else { 0 }
        })
    })
}

#[tokio::test]
async fn batches_are_stored_as_they_came() {
    let server = Server::with_topic(2);
    let path = "/v1/topics/t/partitions/1/records";
    let answer = server.batches(path, batch(&["a", "b"])).await;
    let found = answer.ok();
    assert_eq!(found, json!({"first_offset": 0, "last_offset": 1, "records": 2}));
    let mut moved = sealed(&["d"]);
    moved.set_base_offset(Offset::new(777));
    let body = [&batch(&["c"])[..], moved.as_bytes()].concat();
    let answer = server.batches(path, streamed(&body, 10)).await;
    let found = answer.ok();
    assert_eq!(found, json!({"first_offset": 2, "last_offset": 3, "records": 2}));
    let stored = server.stored("t", 1);
    let found = stored.iter().map(Stored::value).collect::<Vec<_>>();
    assert_eq!(found, ["a", "b", "c", "d"]);
    let found = stored.iter().map(|record| record.offset).collect::<Vec<_>>();
    assert_eq!(found, [0, 1, 2, 3]);
    let (bytes, json_lines) = server.runs("t", 1);
    assert!(bytes.starts_with(&batch(&["a", "b"])));
    assert!(!json_lines, "nobody has looked at the values");
    let uri = format!("{path}?expected_offset=3&ack=written");
    let answer = server.batches(&uri, batch(&["x"])).await;
    answer.problem(412, "offset-mismatch");
    let uri = format!("{path}?expected_offset=4&ack=written");
    server.batches(&uri, batch(&["x"])).await.ok();
}

#[tokio::test]
async fn batches_to_a_topic_with_its_own_time_get_it() {
    let server = Server::new();
    server.topic("t", 1, json!({"timestamp_type": "log_append_time"}));
    server.batches(TO_PARTITION, batch(&["a"])).await.ok();
    assert_eq!(server.stored("t", 0)[0].timestamp, NOW);
}

#[tokio::test]
async fn damaged_batches_are_refused() {
    let server = Server::with_topic(1);
    let good = batch(&["a", "b"]);
    let mut flipped = good.clone();
    *flipped.last_mut().unwrap() ^= 1;
    for body in [
        Vec::new(),
        b"{\"records\":[{}]}".to_vec(),
        good[..good.len() - 1].to_vec(),
        good[..20].to_vec(),
        flipped,
        [&good[..], b"x"].concat(),
        [&good[..], &good[..30]].concat(),
        changed(|header| header.record_count = 2),
        changed(|header| header.last_offset_delta = 1),
        // Records that are not compressed as the header says.
        changed(|header| header.attributes.0 |= 1),
        changed(|header| header.attributes.0 |= 4),
        // A producer without an epoch and a sequence.
        changed(|header| header.producer_id.0 = 0),
    ] {
        let answer = server.batches(TO_PARTITION, body).await;
        answer.problem(400, "invalid-request");
    }
    assert!(server.stored("t", 0).is_empty());
}

#[tokio::test]
async fn batches_of_later_versions_are_not_supported() {
    let server = Server::with_topic(1);
    for body in [
        changed(|header| header.attributes.0 |= 1 << 4),
        changed(|header| header.attributes.0 |= 1 << 5),
        [batch(&["good"]), changed(|header| header.attributes.0 |= 1 << 4)].concat(),
    ] {
        let answer = server.batches(TO_PARTITION, body).await;
        answer.problem(501, "not-supported");
    }
    assert!(server.stored("t", 0).is_empty());
}

#[tokio::test]
async fn batches_keep_the_limits_of_the_topic() {
    let server = Server::with(|limits| limits.max_request_bytes = 5000);
    server.topic("t", 1, json!({"max_record_bytes": 100}));
    let body = batch(&["x".repeat(99).as_str()]);
    server.batches(TO_PARTITION, body).await.ok();
    let answer = server
        .batches(TO_PARTITION, batch(&["x", "x".repeat(100).as_str()]))
        .await;
    answer.problem(413, "record-too-large");
    let answer = server.batches(TO_PARTITION, batch(&vec!["x"; 1000])).await;
    answer.problem(413, "request-too-large");
}

#[tokio::test]
async fn each_type_has_its_path() {
    let server = Server::with_topic(2);
    for (path, content_type) in [
        (TO_PARTITION, "application/json"),
        (TO_PARTITION, NDJSON),
        (TO_PARTITION, "text/plain"),
        (RECORDS, BATCH),
        (RECORDS, "application/json; charset=utf-16"),
    ] {
        let answer = server.post_as(path, content_type, "{}").await;
        answer.problem(415, "unsupported-media-type");
    }
    for partition in ["2", "01", "x", "4294967296"] {
        let path = format!("/v1/topics/t/partitions/{partition}/records");
        refused(server.batches(&path, batch(&["1"])), 404, "unknown-partition").await;
    }
    let uri = "/v1/topics/x/partitions/0/records";
    refused(server.batches(uri, batch(&["1"])), 404, "unknown-topic").await;
}

#[tokio::test]
async fn a_mark_is_set_for_keyed_records_in_batches_too() {
    let server = Server::new();
    let topic = server.topic("t", 6, json!({}));
    let home = partition_of_key(b"k", 6);
    for (partition, marked) in [(home, false), ((home + 1) % 6, true)] {
        let path = format!("/v1/topics/t/partitions/{partition}/records");
        server.batches(&path, batch(&["1"])).await.ok();
        let found = server.app.log.state_get(&keyed_elsewhere(topic.id())).is_some();
        assert_eq!(found, marked);
    }
}
