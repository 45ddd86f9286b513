//! The sequences of producers in record batches, with a key and without.

use quipu_segments::batch::BatchHeader;
use serde_json::json;

use crate::fixture::{appended, count, refused, replayed, start};
use crate::requests::{BATCH, Sent, TO_PARTITION, batch, sent};

/// A batch as an idempotent producer sends it.
fn of_producer(producer: i64, epoch: i16, sequence: i32, values: &[&str]) -> Sent {
    let mut bytes = batch(values).as_bytes().to_vec();
    let mut header = BatchHeader::peek(&bytes).expect("a header");
    header.producer_id.0 = producer;
    header.producer_epoch = epoch;
    header.base_sequence = sequence;
    header.encode(bytes.first_chunk_mut().expect("a header"));
    header.crc = crc32c(&bytes[21..]);
    header.encode(bytes.first_chunk_mut().expect("a header"));
    sent(TO_PARTITION, BATCH, bytes)
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
async fn a_producers_batches_are_appended_once_and_in_its_order() {
    let mut service = start().await;
    let offsets = |first: u64, last: u64| json!({"first_offset": first, "last_offset": last, "records": last - first + 1});
    let first = of_producer(7, 0, 0, &["a", "b"]);
    let second = of_producer(7, 0, 2, &["c"]);
    assert_eq!(appended(&service, &first).await, offsets(0, 1));
    let other = of_producer(8, 0, 0, &["x"]);
    assert_eq!(
        appended(&service, &other).await,
        offsets(2, 2),
        "its own sequence"
    );
    assert_eq!(appended(&service, &second).await, offsets(3, 3));
    for _ in 0..2 {
        assert_eq!(replayed(&service, &first).await, offsets(0, 1));
        assert_eq!(replayed(&service, &second).await, offsets(3, 3));
        let early = of_producer(7, 0, 4, &["e"]);
        refused(&service, &early, 409, "out-of-order-sequence").await;
        service = service.restart().await;
    }
    let next_epoch = of_producer(7, 1, 0, &["d"]);
    assert_eq!(appended(&service, &next_epoch).await, offsets(4, 4));
    refused(&service, &of_producer(7, 0, 3, &["late"]), 409, "fenced").await;
    let body = [&first.body[..], &second.body].concat();
    refused(&service, &sent(TO_PARTITION, BATCH, body), 400, "invalid-request").await;
    let body = [batch(&["1"]).as_bytes(), &of_producer(9, 0, 0, &["x"]).body].concat();
    refused(&service, &sent(TO_PARTITION, BATCH, body), 400, "invalid-request").await;
    assert_eq!(count(&service, "t").await, 5);
    assert_eq!(service.metric("quipu_replayed_requests_total").await, 0);
    let both = of_producer(9, 0, 0, &["x", "y"]).key("k");
    assert_eq!(appended(&service, &both).await, offsets(5, 6));
    assert_eq!(replayed(&service, &both).await, offsets(5, 6));
}

#[tokio::test]
async fn a_key_that_comes_with_the_repetition_of_a_producers_batch_is_remembered_too() {
    let service = start().await;
    let first = of_producer(7, 0, 0, &["a", "b"]);
    let body = appended(&service, &first).await;
    let keyed = first.clone().key("k");
    assert_eq!(replayed(&service, &keyed).await, body);
    for n in 0..6 {
        appended(&service, &of_producer(7, 0, 2 + n, &["x"])).await;
    }
    refused(&service, &first, 409, "out-of-order-sequence").await;
    assert_eq!(replayed(&service, &keyed).await, body);
    let other = of_producer(7, 0, 8, &["y"]).key("k");
    refused(&service, &other, 422, "idempotency-key-reused").await;
}
