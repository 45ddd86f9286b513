//! Rendering records as JSON: the work of a JSON fetch that is not reading or sending.
//!
//! Throughput counts the bytes of the answer. `copy` is the reference: the same bytes copied once, which no renderer
//! can beat.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use quipu::formats::render::{Layout, RecordRenderer};
use quipu_segments::TimestampMs;
use quipu_segments::batch::{BatchBuilder, Records};

/// A batch of about a MiB of records like those of the flights data.
fn flights() -> Vec<u8> {
    batch(|n| {
        format!(
            r#"{{"event":"FlightDeparted","aircraft":"N{:05}","carrier":"UA","flight":{},"origin":"EWR","dest":"IAH","scheduled":"2013-01-01T10:15:00Z","delay_min":{}}}"#,
            n * 7919 % 100_000,
            n % 7000,
            n % 90
        )
    })
}

/// The same of events of 95 bytes.
fn small_events() -> Vec<u8> {
    batch(|n| {
        let mut event = format!(r#"{{"id":{n},"kind":"click","text":""#);
        event.extend(std::iter::repeat_n('x', 93 - event.len()));
        event + "\"}"
    })
}

fn batch(value: impl Fn(u64) -> String) -> Vec<u8> {
    let mut batch = BatchBuilder::new();
    let mut number = 0;
    while batch.len() < 1 << 20 {
        let key = format!("N{:05}", number * 7919 % 100_000);
        let time = TimestampMs(1_357_035_420_000 + number as i64 * 61_000);
        batch.push(time, Some(key.as_bytes()), Some(value(number).as_bytes()), &[]);
        number += 1;
    }
    batch.seal().into_bytes()
}

fn render(batch: &[u8], renderer: &RecordRenderer, json_lines: bool, out: &mut Vec<u8>) {
    out.clear();
    for record in Records::new(batch).expect("a batch of our own") {
        renderer.push(out, &record.expect("a batch of our own"), json_lines);
        out.push(b',');
    }
}

fn json_out(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("json_out");
    for (name, batch) in [("flights", flights()), ("95_bytes", small_events())] {
        let mut out = Vec::new();
        let document = RecordRenderer::new(None, 3, Layout::Document);
        render(&batch, &document, true, &mut out);
        let expected = out.clone();
        group.throughput(Throughput::Bytes(expected.len() as u64));
        group.bench_function(BenchmarkId::new("copy", name), |bencher| {
            bencher.iter(|| {
                out.clear();
                out.extend_from_slice(black_box(&expected));
            });
        });
        group.bench_function(BenchmarkId::new("known_json", name), |bencher| {
            bencher.iter(|| render(black_box(&batch), &document, true, &mut out));
        });
        assert_eq!(out, expected);
        let lines = RecordRenderer::new(Some("flights"), 3, Layout::Lines);
        group.bench_function(BenchmarkId::new("checked_lines", name), |bencher| {
            bencher.iter(|| render(black_box(&batch), &lines, false, &mut out));
        });
        group.bench_function(BenchmarkId::new("walk_only", name), |bencher| {
            bencher.iter(|| {
                Records::new(black_box(&batch))
                    .expect("a batch of our own")
                    .map(|record| record.expect("a batch of our own").value.map_or(0, <[u8]>::len))
                    .sum::<usize>()
            });
        });
    }
    group.finish();
}

criterion_group!(benches, json_out);
criterion_main!(benches);
