//! The lag report of a group over many partitions: what a dashboard asks for every few seconds.
//!
//! `unmoved` asks again while nothing moves; `moved` looks every next record up again, as when all partitions are
//! written to between two reports; `caught_up` has nothing to read; `tick` is the sampler's look of each second.

use std::hint::black_box;
use std::sync::Arc;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use quipu::broker::engine::Log as EngineLog;
use quipu::broker::groups::offsets;
use quipu::http::app::App;
use quipu::settings::Config;
use quipu_segments::batch::BatchBuilder;
use quipu_segments::{
    AppendRequest, Clock, Log, Offset, Part, Records, StateChange, SystemClock, TimestampMs, TopicSettings,
    TopicSpec,
};

const PARTITIONS: u32 = 1000;
const RECORDS: u64 = 200;

fn lag(criterion: &mut Criterion) {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let config = Config {
        data: dir.path().to_owned(),
        ..Config::default()
    };
    let log = Log::open(dir.path(), config.log_options()).expect("the log opens");
    let log = EngineLog::from(log);
    let spec = TopicSpec::new(PARTITIONS, TopicSettings::default());
    log.create_topic("orders", spec).expect("a topic");
    append(&log, RECORDS);
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    let app = App::new(log, config, clock);
    commit(&app.log, "behind", RECORDS / 2);
    commit(&app.log, "caught_up", RECORDS);
    app.lags.sample();

    let mut group = criterion.benchmark_group("lag");
    group.bench_function(BenchmarkId::new("unmoved", PARTITIONS), |bencher| {
        bencher.iter(|| black_box(app.lags.of("behind")));
    });
    group.bench_function(BenchmarkId::new("caught_up", PARTITIONS), |bencher| {
        bencher.iter(|| black_box(app.lags.of("caught_up")));
    });
    group.bench_function(BenchmarkId::new("tick", 2 * PARTITIONS), |bencher| {
        bencher.iter(|| app.lags.sample());
    });
    group.sample_size(20);
    group.bench_function(BenchmarkId::new("moved", PARTITIONS), |bencher| {
        bencher.iter_batched(
            || append(&app.log, 1),
            |()| black_box(app.lags.of("behind")),
            criterion::BatchSize::PerIteration,
        );
    });
    group.finish();
}

/// A batch of as many records to each partition.
fn append(log: &EngineLog, records: u64) {
    let partitions = log.topic("orders").expect("it was made").partitions();
    let parts = partitions.iter().map(|partition| {
        let mut batch = BatchBuilder::new();
        for n in 0..records {
            let time = TimestampMs(1_700_000_000_000 + n as i64 * 1000);
            batch.push(time, None, Some(br#"{"event":"OrderPlaced","total":12.50}"#), &[]);
        }
        Part::new(partition.clone(), Records::Loose(batch)).json_lines(true)
    });
    let request = AppendRequest::of(parts.collect());
    log.append(request)
        .and_then(|ticket| ticket.wait())
        .expect("the disk works");
}

fn commit(log: &EngineLog, group: &str, offset: u64) {
    let partitions = log.topic("orders").expect("it was made").partitions();
    let committed = offsets::Committed {
        offset: Offset::new(offset),
        last_commit: TimestampMs(1_700_000_000_000),
        metadata: None,
        leader_epoch: None,
    };
    let commits = partitions
        .iter()
        .map(|partition| offsets::commit(group, partition.id(), &committed));
    let state: Vec<StateChange> = [offsets::make_group(group)].into_iter().chain(commits).collect();
    let request = AppendRequest::of_state(state);
    log.append(request)
        .and_then(|ticket| ticket.wait())
        .expect("the disk works");
}

criterion_group!(benches, lag);
criterion_main!(benches);
