//! JSON in: from a request's body to sealed batches, beside `serde_json` reading each line into a borrowed record; and murmur2.

use std::borrow::Cow;
use std::hint::black_box;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use quipu::broker::limits::Limits;
use quipu::broker::produce::TopicRules;
use quipu::broker::produce::limits::RecordLimits;
use quipu::broker::produce::placing::{Placer, Placing};
use quipu::broker::topics::catalog::Compression;
use quipu::formats::json::{RecordError, parse_record, parse_records};
use quipu::formats::partitioner::{Rotation, murmur2};
use quipu_segments::{Ack, Records, TimestampMs, TopicId};
use serde::Deserialize;
use serde_json::value::RawValue;

/// The fields that the reference reads.
#[derive(Deserialize)]
struct Line<'a> {
    #[serde(borrow)]
    key: Option<Cow<'a, str>>,
    timestamp: Option<i64>,
    #[serde(borrow)]
    value: Option<&'a RawValue>,
}

/// Events like those of an airport, about 205 bytes a line.
fn lines(count: usize) -> Vec<u8> {
    let mut all = Vec::new();
    for number in 0..count {
        let (aircraft, minute) = (number * 7919 % 4000, number % 60);
        let line = format!(
            "{{\"key\":\"N{aircraft:05}\",\"timestamp\":{},\"value\":{{\"event\":\"FlightDeparted\",\"aircraft\":\"N{aircraft:05}\",\
             \"carrier\":\"UA\",\"flight\":{},\"origin\":\"EWR\",\"dest\":\"IAH\",\"scheduled\":\"2013-01-01T10:{minute:02}:00Z\",\
             \"delay_min\":{}}}}}\n",
            1_357_035_420_000_u64 + number as u64 * 47_000,
            number % 8000,
            number % 90,
        );
        all.extend_from_slice(line.as_bytes());
    }
    all
}

fn placer<'a>(limits: &'a Limits, rotation: &'a Rotation, partitions: u32) -> Placer<'a> {
    let rules = TopicRules {
        max_record_bytes: 1 << 20,
        log_append_time: false,
        compression: Compression::AsSent,
        ack: Ack::Durable,
        compacts: false,
    };
    let placing = Placing {
        topic: TopicId(1),
        partitions,
        log_append_time: false,
        codec: None,
        limits: RecordLimits::of(limits, &rules),
        rotation,
        unkeyed: None,
        repartition: false,
        one_partition: false,
        extra_headers: Vec::new(),
    };
    Placer::new(placing, TimestampMs(1_700_000_000_000))
}

fn benches(c: &mut Criterion) {
    let (limits, rotation) = (Limits::default(), Rotation::default());
    let body = lines(5_000);

    let mut group = c.benchmark_group("ndjson");
    group.throughput(Throughput::Bytes(body.len() as u64));
    group.bench_function("serde_json_borrowed", |b| {
        b.iter(|| {
            for line in body.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
                let line: Line<'_> = serde_json::from_slice(line).expect("the lines are records");
                black_box((line.key, line.timestamp, line.value));
            }
        });
    });
    group.bench_function("parse", |b| {
        b.iter(|| {
            for line in body.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
                black_box(parse_record(line).expect("the lines are records"));
            }
        });
    });
    for partitions in [1, 6, 1024] {
        group.bench_function(format!("parse_place_seal/{partitions}"), |b| {
            let mut placer = placer(&limits, &rotation, partitions);
            b.iter(|| {
                for line in body.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
                    let record = parse_record(line).expect("the lines are records");
                    placer.add(&record).expect("the records fit");
                }
                for part in placer.take(TimestampMs(0)) {
                    match part.records {
                        Records::Loose(builder) => drop(black_box(builder.seal())),
                        Records::Sealed(batches) => drop(black_box(batches)),
                    }
                }
            });
        });
    }
    group.finish();

    let line = lines(1);
    let one = [br#"{"records":["#, line.trim_ascii_end(), b"]}"].concat();
    let mut group = c.benchmark_group("one_record_request");
    group.throughput(Throughput::Elements(1));
    group.bench_function("parse_and_place", |b| {
        b.iter_batched(
            || placer(&limits, &rotation, 16),
            |mut placer| {
                parse_records(black_box(&one), |_, record| {
                    placer.add(&record).expect("the record fits");
                    Ok::<(), RecordError>(())
                })
                .expect("the body is a record");
                placer.take(TimestampMs(0))
            },
            BatchSize::SmallInput,
        );
    });
    group.finish();

    let mut group = c.benchmark_group("murmur2");
    for bytes in [6, 36, 1024] {
        let key = vec![b'k'; bytes];
        group.throughput(Throughput::Bytes(bytes as u64));
        group.bench_function(bytes.to_string(), |b| b.iter(|| murmur2(black_box(&key))));
    }
    group.finish();
}

criterion_group!(json_in, benches);
criterion_main!(json_in);
