//! Batches of a Kafka client, compressed or not, through all that Produce does with them, and back by Fetch and as JSON.
//!
//! What is stored and what is refused is decided here a second time, by the limits alone. What was refused is refused the
//! same way again. What was stored comes back with its records, at offsets without gaps from the one that was answered: as
//! the batch that was sent, byte for byte where the topic changes nothing, and as rows, from any offset on.

use axum::Router;
use axum::body::Body;
use http::{Request, StatusCode, header};
use http_body_util::BodyExt as _;
use quipu::formats::render::Layout;
use quipu_segments::batch::{
    BatchHeader, Batches, Codec, HEADER_BYTES, Records, SealedBatch, inflate, verify,
};
use quipu_segments::{TimestampMs, TopicSettings, TopicSpec};
use serde_json::{Value, json};
use tower::ServiceExt as _;

use super::batches::reseal;
use super::input::Input;
use super::record::Owned;
use super::round_trip::rendered;
use super::service::{MAX_REQUEST_BYTES, Service};

const MAX_KEY_BYTES: usize = 100;
const MAX_HEADERS: usize = 5;
const MAX_HEADER_BYTES: usize = 200;
const MAX_RECORD_BYTES: usize = 3000;
/// What a batch may take beside a record of the largest size.
const BATCH_OVERHEAD_BYTES: usize = 12;
/// The attribute bits that a client may set: compression, and one that has no meaning in what clients send.
const MAY_BE_SET: i16 = !(1 << 3 | 1 << 4 | 1 << 5);
/// After so many runs the service is emptied.
const RUNS: u32 = 200;

const PRODUCE: (i16, i16) = (0, 8);
const FETCH: (i16, i16) = (1, 11);

/// A topic for each way in which a topic changes what it stores.
const TOPICS: [&str; 4] = ["plain", "zstd", "stamped", "keyed"];

struct Routed {
    service: Service,
    router: Router,
    runs: std::cell::Cell<u32>,
}

/// What Produce answers for the batch.
#[derive(Debug, PartialEq, Eq)]
struct Produced {
    error: i16,
    base_offset: i64,
    /// The numbers of the records at fault, and what else is said.
    rest: Vec<u8>,
}

pub fn run(data: &[u8]) {
    thread_local! {
        static ROUTED: Routed = {
            let service = Service::new(|config| {
                config.limits.max_key_bytes = MAX_KEY_BYTES;
                config.limits.max_headers_per_record = MAX_HEADERS;
                config.limits.max_header_bytes = MAX_HEADER_BYTES;
            });
            let router = quipu::http::router(service.app.clone());
            Routed { service, router, runs: std::cell::Cell::new(0) }
        };
    }
    ROUTED.with(
        |Routed {
             service,
             router,
             runs,
         }| {
            if runs.replace((runs.get() + 1) % RUNS) == 0 {
                begin(service);
            }
            service.run(one(service, router, data));
        },
    );
}

fn begin(service: &Service) {
    service.empty();
    for name in TOPICS {
        let mut spec = TopicSpec::new(1, TopicSettings::default());
        let (of_its_own, value) = match name {
            "zstd" => ("compression_type", "zstd"),
            "stamped" => ("timestamp_type", "log_append_time"),
            "keyed" => ("cleanup_policy", "compact"),
            _ => ("ack", "durable"),
        };
        spec.properties.insert(of_its_own.to_owned(), json!(value));
        spec.properties
            .insert("max_record_bytes".to_owned(), json!(MAX_RECORD_BYTES));
        service.create_topic(name, spec);
    }
}

async fn one(service: &Service, router: &Router, data: &[u8]) {
    let mut input = Input::new(data);
    let (choice, skip) = (input.u8(), u64::from(input.u8()));
    let topic = TOPICS[usize::from(choice >> 4) % TOPICS.len()];
    let mut batch = input.rest().to_vec();
    if choice & 1 == 1 {
        reseal(&mut batch, true);
    }
    if choice & 2 == 2
        && let Ok(sealed) = SealedBatch::from_validated(batch.clone())
        && sealed.header().attributes.compression() == 0
    {
        let codec = Codec::ALL[usize::from(choice >> 2) % 4];
        let packed = sealed.with_codec(Some(codec), None);
        batch = packed.expect("there is nothing to inflate").into_bytes();
    }
    let expected = records_of(&batch, topic == "keyed");
    let is_numbered = BatchHeader::peek(&batch).is_ok_and(|header| header.producer_id.0 >= 0);
    let produced = produce(service, topic, &batch).await;
    let Some(expected) = expected.filter(|_| produced.error == 0 || !is_numbered) else {
        assert_ne!(produced.error, 0, "{produced:?}");
        assert_eq!(produced.base_offset, -1);
        assert_eq!(
            produce(service, topic, &batch).await,
            produced,
            "refused the same way"
        );
        return;
    };
    assert_eq!(produced.error, 0, "{produced:?}");
    let header = BatchHeader::peek(&batch).expect("it was stored");
    let first = u64::try_from(produced.base_offset).expect("an offset");
    if is_numbered {
        // A repeated batch is known by its numbers alone, and another one may have had the same.
        let again = produce(service, topic, &batch).await;
        assert_eq!(again, produced, "a repeated batch is answered as the first");
        let mut stored = fetch(service, topic, first).await;
        stored.truncate(
            Batches::new(&stored)
                .next()
                .expect("a batch")
                .expect("whole")
                .1
                .len(),
        );
        if BatchHeader::peek(&stored).map(|stored| stored.crc) != Ok(header.crc) {
            return;
        }
    }
    let from = first + skip % u64::from(header.record_count);
    let stored = fetch(service, topic, from).await;
    let stored_records = whole(&batch, &stored, topic, first, &expected);
    rows(router, topic, from, &stored_records[(from - first) as usize..]).await;
}

/// The records of a batch that is to be stored; `None` if it is to be refused.
fn records_of(batch: &[u8], needs_keys: bool) -> Option<Vec<Owned>> {
    let header = verify(batch).ok()?;
    let is_alone = header.total_bytes() == batch.len();
    let fits = batch.len() <= MAX_RECORD_BYTES + BATCH_OVERHEAD_BYTES;
    let is_plain = header.attributes.0 & !MAY_BE_SET == 0;
    let is_dense = header.record_count > 0 && header.last_offset_delta == header.record_count - 1;
    if !(is_alone && fits && is_plain && is_dense) {
        return None;
    }
    let plain = inflate(batch, MAX_REQUEST_BYTES).ok()?;
    let records = Records::new(&plain).ok()?.map(|record| {
        let record = record.ok()?;
        let owned = Owned::of(&record);
        let (key, value) = (len(&owned.key), len(&owned.value));
        let headers: usize = owned
            .headers
            .iter()
            .map(|(name, value)| name.len() + len(value))
            .sum();
        let is_small = key <= MAX_KEY_BYTES
            && owned.headers.len() <= MAX_HEADERS
            && headers <= MAX_HEADER_BYTES
            && key + value + headers <= MAX_RECORD_BYTES;
        (is_small && (owned.key.is_some() || !needs_keys)).then_some(owned)
    });
    let records: Vec<Owned> = records.collect::<Option<_>>()?;
    (records.len() == header.record_count as usize).then_some(records)
}

fn len(bytes: &Option<Vec<u8>>) -> usize {
    bytes.as_ref().map_or(0, Vec::len)
}

/// Checks the batch that is stored for the one that was sent; returns its records.
fn whole(sent: &[u8], stored: &[u8], topic: &str, first: u64, expected: &[Owned]) -> Vec<Owned> {
    let (header, batch) = Batches::new(stored)
        .next()
        .expect("a batch")
        .expect("a whole one");
    let sent_header = BatchHeader::peek(sent).expect("it was stored");
    verify(batch).expect("its CRC is right");
    assert_eq!(header.base_offset.get(), first);
    assert_eq!(header.record_count as usize, expected.len());
    assert_eq!(header.partition_leader_epoch, 0);
    let codec = match topic {
        "zstd" => Ok(Some(Codec::Zstd)),
        _ => sent_header.attributes.codec(),
    };
    assert_eq!(header.attributes.codec(), codec);
    if header.attributes.codec() == sent_header.attributes.codec() {
        assert_eq!(batch[HEADER_BYTES..], sent[HEADER_BYTES..], "byte for byte");
    }
    let plain = inflate(batch, MAX_REQUEST_BYTES).expect("what was stored inflates");
    let records = Records::new(&plain).expect("a batch");
    let (mut found, mut expected_offset) = (Vec::new(), header.base_offset);
    for record in records {
        let record = record.expect("a record that was stored");
        assert_eq!(record.offset, expected_offset);
        expected_offset = expected_offset.plus(1);
        found.push(Owned::of(&record));
    }
    let largest = found.iter().map(|record| record.timestamp).max();
    assert_eq!(largest, Some(header.max_timestamp));
    if topic == "stamped" {
        assert!(header.attributes.is_log_append_time());
        let of_sent: Vec<TimestampMs> = expected.iter().map(|record| record.timestamp).collect();
        let mut restored = found.clone();
        for (record, timestamp) in restored.iter_mut().zip(of_sent) {
            record.timestamp = timestamp;
        }
        assert_eq!(restored, expected);
    } else {
        assert_eq!(found, expected);
    }
    found
}

/// Reads the rows from an offset on, and compares them.
async fn rows(router: &Router, topic: &str, from: u64, expected: &[Owned]) {
    let (mut next, end) = (from, from + expected.len() as u64);
    let mut left = expected.iter();
    while next < end {
        let uri = format!("/v1/topics/{topic}/partitions/0/records?offset={next}&until_offset={end}");
        let request = Request::get(uri).header(header::ACCEPT, "application/x-ndjson");
        let request = request.body(Body::empty()).expect("a request");
        let answer = router.clone().oneshot(request).await.expect("an answer");
        assert_eq!(answer.status(), StatusCode::OK);
        let body = answer.into_body().collect().await.expect("a body").to_bytes();
        let before = next;
        for line in body.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            let record = left.next().expect("no more rows than records");
            let row: Value = serde_json::from_slice(line).expect("JSON");
            assert_eq!(row["offset"], next);
            next += 1;
            rendered(record, line, Layout::Lines);
        }
        assert!(next > before, "a page has a record");
    }
    assert!(left.next().is_none());
}

async fn produce(service: &Service, topic: &str, batch: &[u8]) -> Produced {
    let body = [
        &(-1_i16).to_be_bytes()[..], // no transaction
        &(-1_i16).to_be_bytes(),     // acks
        &1000_i32.to_be_bytes(),
        &1_i32.to_be_bytes(),
        &text(topic),
        &1_i32.to_be_bytes(),
        &0_i32.to_be_bytes(),
        &(batch.len() as u32).to_be_bytes(),
        batch,
    ];
    let answer = service.ask_kafka(PRODUCE.0, PRODUCE.1, &body.concat()).await;
    // Counts of topics and partitions, the topic, the partition.
    let answer = &answer[4 + text(topic).len() + 4 + 4..];
    let (error, rest) = answer.split_first_chunk().expect("an error code");
    let (base_offset, rest) = rest.split_first_chunk().expect("an offset");
    Produced {
        error: i16::from_be_bytes(*error),
        base_offset: i64::from_be_bytes(*base_offset),
        // Times and the start of the log.
        rest: rest[16..].to_vec(),
    }
}

/// The batches from the one on that has an offset.
async fn fetch(service: &Service, topic: &str, offset: u64) -> Vec<u8> {
    let body = [
        &(-1_i32).to_be_bytes()[..], // no replica
        &0_i32.to_be_bytes(),        // wait
        &0_i32.to_be_bytes(),
        &(1_i32 << 20).to_be_bytes(),
        &[0],
        &0_i32.to_be_bytes(), // no session
        &(-1_i32).to_be_bytes(),
        &1_i32.to_be_bytes(),
        &text(topic),
        &1_i32.to_be_bytes(),
        &0_i32.to_be_bytes(),
        &(-1_i32).to_be_bytes(), // no epoch
        &offset.to_be_bytes(),
        &0_i64.to_be_bytes(),
        &(1_i32 << 20).to_be_bytes(),
        &0_i32.to_be_bytes(),
        &text(""),
    ];
    let answer = service.ask_kafka(FETCH.0, FETCH.1, &body.concat()).await;
    // Throttle, error, session, and as above.
    let answer = &answer[4 + 2 + 4 + 4 + text(topic).len() + 4 + 4..];
    let (error, rest) = answer.split_first_chunk().expect("an error code");
    assert_eq!(i16::from_be_bytes(*error), 0, "what was stored can be fetched");
    let (aborted, rest) = rest[24..].split_first_chunk().expect("a count");
    assert!(i32::from_be_bytes(*aborted) <= 0, "no transactions");
    let (length, records) = rest[4..].split_first_chunk().expect("a length");
    assert_eq!(records.len(), i32::from_be_bytes(*length) as usize);
    records.to_vec()
}

fn text(text: &str) -> Vec<u8> {
    [&(text.len() as u16).to_be_bytes()[..], text.as_bytes()].concat()
}
