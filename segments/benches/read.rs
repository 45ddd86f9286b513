//! What reading costs when everything is in memory: a fetch at a random offset, at the end, and the lookups by offset and
//! by time; and what the first read of a partition costs after a start.

use std::hint::black_box;
use std::path::Path;
use std::sync::Arc;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use quipu_segments::batch::BatchBuilder;
use quipu_segments::{
    AppendRequest, Log, Offset, Options, Part, Partition, ReadRequest, Records, TimestampMs, TopicSettings,
    TopicSpec,
};

const BATCHES: u64 = 16 * 1024;
const RECORDS: u64 = 16;
const VALUE: [u8; 100] = [b'v'; 100];

fn open(dir: &Path) -> Log {
    Log::open(dir, Options::default()).expect("the log opens")
}

/// About 32 MiB in batches of 2 KiB; the timestamp of each record is its offset.
fn fill(log: &Log) {
    let spec = TopicSpec::new(1, TopicSettings::default());
    let topic = log.create_topic("t", spec).expect("the topic is new");
    let partition = topic.partition(0).expect("it has one partition");
    for batch in 0..BATCHES {
        let mut builder = BatchBuilder::new();
        for record in 0..RECORDS {
            let time = TimestampMs((batch * RECORDS + record) as i64);
            builder.push(time, Some(b"N14228"), Some(&VALUE), &[]);
        }
        let part = Part {
            partition: Arc::clone(&partition),
            // Sealed batches stay as they are.
            records: Records::Sealed(vec![builder.seal()]),
            expected_offset: None,
            json_lines: true,
        };
        let request = AppendRequest::of(vec![part]);
        let ticket = log.append(request).expect("there is room");
        // Rounds of many: this is not about appending.
        if batch % 64 == 63 {
            ticket.wait().expect("it is stored");
        }
    }
}

fn partition(log: &Log) -> Arc<Partition> {
    let topic = log.topic("t").expect("it was made");
    topic.partition(0).expect("it has one partition")
}

fn request(from: u64, max_bytes: usize) -> ReadRequest {
    ReadRequest::new(Offset::new(from), max_bytes)
}

/// Offsets all over the log, in no order.
struct Offsets(u64);

impl Offsets {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        (self.0 >> 20) % (BATCHES * RECORDS)
    }
}

fn warm(c: &mut Criterion) {
    let dir = tempfile::tempdir().expect("a directory for the log");
    let log = open(dir.path());
    fill(&log);
    let partition = partition(&log);
    partition.read(request(0, usize::MAX)).expect("all is readable");
    let mut offsets = Offsets(0);

    let mut group = c.benchmark_group("warm");
    for max_bytes in [1, 64 << 10, 1 << 20] {
        group.bench_function(format!("fetch of {max_bytes} bytes"), |b| {
            b.iter(|| {
                let fetched = partition.try_read(request(offsets.next(), max_bytes));
                black_box(fetched.expect("it is warm").expect("it is readable"))
            });
        });
    }
    group.bench_function("fetch of the last record", |b| {
        let last = BATCHES * RECORDS - 1;
        b.iter(|| black_box(partition.try_read(request(last, 1 << 20)).expect("it is warm")));
    });
    group.bench_function("lookup by offset", |b| {
        b.iter(|| {
            black_box(
                partition
                    .locate(Offset::new(offsets.next()))
                    .expect("it is there"),
            )
        });
    });
    group.bench_function("lookup by time", |b| {
        b.iter(|| {
            let time = TimestampMs(offsets.next() as i64);
            black_box(partition.offset_for_time(time).expect("it is there"))
        });
    });
    group.finish();
    log.close().expect("it closes");
}

fn cold(c: &mut Criterion) {
    let dir = tempfile::tempdir().expect("a directory for the log");
    let log = open(dir.path());
    fill(&log);
    log.close().expect("it closes");
    // The directory's lock goes with the log.
    drop(log);

    let mut group = c.benchmark_group("cold");
    group.sample_size(10);
    group.throughput(Throughput::Bytes(BATCHES * RECORDS * VALUE.len() as u64));
    group.bench_function("open, map and verify everything", |b| {
        b.iter_batched(
            || open(dir.path()),
            |log| {
                let fetched = partition(&log)
                    .read(request(0, usize::MAX))
                    .expect("it is readable");
                log.close().expect("it closes");
                fetched
            },
            BatchSize::PerIteration,
        );
    });
    group.finish();
}

criterion_group!(benches, warm, cold);
criterion_main!(benches);
