//! What a record costs on its way into a batch, from batch to batch, and out of one.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use quipu_segments::TimestampMs;
use quipu_segments::batch::{BatchBuilder, BatchHeader, Records, validate, verify};

const NOW: i64 = 1_357_035_420_000;
const VALUE: [u8; 100] = [b'v'; 100];

fn push(builder: &mut BatchBuilder, number: i64) {
    builder.push(TimestampMs(NOW + number / 10), Some(b"N14228"), Some(&VALUE), &[]);
}

fn one() -> BatchBuilder {
    let mut builder = BatchBuilder::new();
    push(&mut builder, 0);
    builder
}

/// A batch of about a MiB, in records of 100 bytes; with or without a header each.
fn mebibyte(header: bool) -> Vec<u8> {
    let mut builder = BatchBuilder::with_capacity(1 << 20);
    for number in 0.. {
        if builder.len() > (1 << 20) - 200 {
            break;
        }
        if header {
            let headers = [(&b"type"[..], Some(&b"FlightDeparted"[..]))];
            builder.push(TimestampMs(NOW + number), Some(b"N14228"), Some(&VALUE), &headers);
        } else {
            push(&mut builder, number);
        }
    }
    builder.seal().into_bytes()
}

fn build(c: &mut Criterion) {
    let mut group = c.benchmark_group("build");
    group.throughput(Throughput::Elements(1));
    group.bench_function("push 1 record", |b| b.iter(|| black_box(one())));
    group.bench_function("push 1 record and seal", |b| b.iter(|| black_box(one().seal())));
    group.throughput(Throughput::Elements(1_000));
    group.bench_function("push 1,000 records and seal", |b| {
        b.iter(|| {
            let mut builder = BatchBuilder::new();
            for number in 0..1_000 {
                push(&mut builder, number);
            }
            black_box(builder.seal())
        });
    });
    group.bench_function("push 1,000 records into a used buffer", |b| {
        let mut buffer = Vec::new();
        b.iter(|| {
            let mut builder = BatchBuilder::with_buffer(std::mem::take(&mut buffer));
            for number in 0..1_000 {
                push(&mut builder, number);
            }
            buffer = black_box(builder.seal()).into_bytes();
        });
    });
    group.finish();
}

fn append(c: &mut Criterion) {
    let mut group = c.benchmark_group("append");
    let parts: Vec<_> = (0..64)
        .map(|number| {
            let mut builder = BatchBuilder::new();
            push(&mut builder, number);
            builder
        })
        .collect();
    group.throughput(Throughput::Elements(64));
    let mut buffer = Vec::new();
    group.bench_function("64 builders of 1 record into a used buffer", |b| {
        b.iter(|| {
            let mut all = BatchBuilder::with_buffer(std::mem::take(&mut buffer));
            for part in &parts {
                all.append(black_box(part));
            }
            buffer = black_box(all.seal()).into_bytes();
        });
    });
    group.bench_function("64 builders of 1 record into a new buffer", |b| {
        b.iter(|| {
            let mut all = BatchBuilder::with_capacity(parts.iter().map(BatchBuilder::len).sum());
            for part in &parts {
                all.append(black_box(part));
            }
            black_box(all.seal())
        });
    });
    group.finish();
}

fn read(c: &mut Criterion) {
    let mut group = c.benchmark_group("read");
    let batch = mebibyte(false);
    group.bench_function("peek", |b| b.iter(|| BatchHeader::peek(black_box(&batch))));
    group.throughput(Throughput::Bytes(batch.len() as u64));
    group.bench_function("verify 1 MiB", |b| b.iter(|| verify(black_box(&batch))));
    group.bench_function("validate 1 MiB", |b| b.iter(|| validate(black_box(&batch))));
    let records = u64::from(verify(&batch).unwrap().record_count);
    group.throughput(Throughput::Elements(records));
    group.bench_function("decode 1 MiB", |b| {
        b.iter(|| {
            for record in Records::new(black_box(&batch)).unwrap() {
                black_box(record.unwrap());
            }
        });
    });
    let batch = mebibyte(true);
    let records = u64::from(verify(&batch).unwrap().record_count);
    group.throughput(Throughput::Elements(records));
    group.bench_function("decode 1 MiB with a header each", |b| {
        b.iter(|| {
            for record in Records::new(black_box(&batch)).unwrap() {
                for header in record.unwrap().headers {
                    black_box(header);
                }
            }
        });
    });
    group.finish();
}

criterion_group!(benches, build, append, read);
criterion_main!(benches);
