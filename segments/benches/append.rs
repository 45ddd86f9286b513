//! What an append costs: a round of one request, of many, and over many partitions, synced on the real disk.
//!
//! The directory is made where `QUIPU_BENCH_DIR` says, else in the system's temporary directory.

#![allow(missing_docs, reason = "the macros of the benchmark make public items")]

use std::hint::black_box;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use quipu_segments::batch::BatchBuilder;
use quipu_segments::{
    AppendRequest, Log, Options, Part, Partition, Records, TimestampMs, TopicSettings, TopicSpec,
};

fn request(partition: &Arc<Partition>, bytes: usize) -> AppendRequest {
    let value = vec![b'7'; bytes];
    let mut builder = BatchBuilder::new();
    builder.push(TimestampMs(1_357_035_420_000), Some(b"N14228"), Some(&value), &[]);
    let records = Records::Loose(builder);
    let part = Part::new(Arc::clone(partition), records).json_lines(true);
    AppendRequest::of(vec![part])
}

/// One round: `requests` requests of `bytes` each, spread over `partitions`.
fn bench_rounds(criterion: &mut Criterion) {
    let parent = std::env::var_os("QUIPU_BENCH_DIR").map_or_else(std::env::temp_dir, PathBuf::from);
    let dir = tempfile::tempdir_in(parent).expect("a directory to write in");
    let options = Options {
        background: false,
        ..Options::default()
    };
    let log = Log::open(dir.path(), options).expect("an empty directory");
    let settings = TopicSettings {
        retention_bytes: Some(64 << 20),
        ..TopicSettings::default()
    };
    let spec = TopicSpec::new(256, settings);
    let topic = log.create_topic("bench", spec).expect("an empty directory");
    let mut group = criterion.benchmark_group("durable round");
    group.sample_size(20).measurement_time(Duration::from_secs(2));
    for (requests, partitions, bytes) in [(1, 1, 100), (256, 1, 100), (256, 256, 100), (1, 1, 64 << 10)] {
        group.throughput(Throughput::Elements(requests as u64));
        group.bench_function(
            format!("{requests} requests of {bytes} B over {partitions} partitions"),
            |bencher| {
                bencher.iter(|| {
                    let tickets: Vec<_> = (0..requests)
                        .map(|number| {
                            let partition = topic.partition(number % partitions).expect("256 partitions");
                            log.append(request(&partition, bytes))
                                .expect("the queue is empty")
                        })
                        .collect();
                    log.run_round().expect("the disk works");
                    for ticket in tickets {
                        black_box(ticket.wait().expect("the disk works"));
                    }
                });
            },
        );
        log.apply_retention().expect("the disk works");
    }
    group.finish();
}

criterion_group!(benches, bench_rounds);
criterion_main!(benches);
