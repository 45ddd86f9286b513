//! Data directories that earlier versions made: they must open for ever.
//!
//! `golden/v1/*.txt` are directories of format version 1 as text (see `golden/listing.rs`), `golden/v1/*.json` what is
//! in them. They are never made again: [`MADE`] fixes every byte of them. A change of the format adds its own
//! directories: add a scenario with a new name to [`SCENARIOS`], run
//!
//! ```text
//! cargo test -p quipu-segments --test golden -- --ignored new_golden_directories_are_made
//! ```
//!
//! which writes the missing files and changes nothing else, and add the checksums that it prints to [`MADE`].

#![allow(clippy::disallowed_methods, reason = "tests copy data directories")]

#[path = "golden/listing.rs"]
#[allow(unreachable_pub, dead_code, reason = "other tests use it too")]
mod listing;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use listing::{Tree, from_text, read_tree, to_text, write_tree};
use quipu_segments::batch::{
    BatchBuilder, BatchHeader, Batches, Record, Records as BatchRecords, SealedBatch,
};
use quipu_segments::sim::SimClock;
use quipu_segments::{
    AppendRequest, Appended, Clock, Log, Offset, Once, Options, Part, Partition, ProducerId, ReadRequest,
    RealDisk, Records, StateChange, TimestampMs, Topic, TopicSettings, TopicSpec,
};
use serde_json::{Value, json};

/// Every golden file with the CRC-32 of its bytes.
const MADE: [(&str, u32); 10] = [
    ("v1/clean.json", 0xcff2eb65),
    ("v1/clean.txt", 0x5dd2d69e),
    ("v1/fresh.json", 0x0d457f65),
    ("v1/fresh.txt", 0x799f901f),
    ("v1/killed.json", 0x0e49bd79),
    ("v1/killed.txt", 0x638964b5),
    ("v1/once.json", 0xcf205b91),
    ("v1/once.txt", 0xe163bfd2),
    ("v1/power-cut.json", 0xdb9059d0),
    ("v1/power-cut.txt", 0x63f98613),
];

/// How a directory was left.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    Close,
    Kill,
    /// Log files hold what was synced before the last step: the rest is only in the journal.
    PowerCut,
}

/// A directory's name, its description, the steps that fill it, and how it is left.
type Scenario = (&'static str, &'static str, &'static [fn(&Log)], End);

/// A change here changes no existing directory.
const SCENARIOS: [Scenario; 5] = [
    ("v1/fresh", "Made, closed, never written to.", &[], End::Close),
    (
        "v1/clean",
        "Topics, groups and all kinds of records; closed.",
        &[fill],
        End::Close,
    ),
    (
        "v1/killed",
        "The same and more; killed, so that there is a journal to replay.",
        &[fill, go_on],
        End::Kill,
    ),
    (
        "v1/power-cut",
        "The same, with the end of the logs in the journal alone.",
        &[fill, go_on],
        End::PowerCut,
    ),
    (
        "v1/once",
        "Requests with keys and batches of producers, in part in the journal alone.",
        &[repeatable, repeatable_later],
        End::PowerCut,
    ),
];

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden")
        .join(name)
}

fn options() -> Options {
    Options {
        // The smallest allowed size: listings show a journal file's bytes, but not its zeros.
        journal_file_bytes: 68 << 10,
        journal_files: 2,
        max_request_bytes: 4 << 10,
        background: false,
        ..Options::default()
    }
}

fn open(dir: &Path) -> Log {
    let clock: Arc<dyn Clock> = Arc::new(SimClock::new(TimestampMs(1_700_000_000_000)));
    Log::open_with(Arc::new(RealDisk::new()), clock, dir, options()).expect("it opens")
}

fn part(topic: &Topic, partition: u32, records: Records, json_lines: bool) -> Part {
    Part::new(topic.partition(partition).expect("it is there"), records).json_lines(json_lines)
}

fn append(log: &Log, parts: Vec<Part>, state: Vec<StateChange>) {
    let request = AppendRequest {
        parts,
        state,
        ..AppendRequest::default()
    };
    let ticket = log.append(request).expect("queued");
    assert!(log.run_round().expect("a healthy log"));
    ticket.wait().expect("durable");
}

fn append_part(log: &Log, part: Part) {
    append(log, vec![part], Vec::new());
}

/// Trims partition 0 of a topic.
fn trim(topic: &Topic, before: u64) {
    let partition = topic.partition(0).expect("it is there");
    partition.trim(Offset::new(before)).expect("trimmed");
}

fn numbers(from: i64, count: i64) -> Records {
    let mut records = BatchBuilder::new();
    for number in from..from + count {
        let value = format!("{{\"number\":{number}}}");
        let time = TimestampMs(1_357_035_420_000 + number * 1000);
        records.push(time, Some(b"N14228"), Some(value.as_bytes()), &[]);
    }
    Records::Loose(records)
}

fn odd_ones() -> Records {
    let mut records = BatchBuilder::new();
    records.push(TimestampMs(7), None, None, &[]);
    records.push(
        TimestampMs(-1),
        Some(b""),
        Some(b""),
        &[(b"empty", Some(b"")), (b"none", None)],
    );
    records.push(
        TimestampMs(5),
        Some(b"\xff\x00"),
        Some(b"not JSON"),
        &[(b"a", Some(b"1")), (b"a", Some(b"2"))],
    );
    Records::Loose(records)
}

/// A batch as a producer compressed it.
fn compressed() -> Records {
    let batch = include_bytes!("fixtures/gzip.batch").to_vec();
    Records::Sealed(vec![SealedBatch::from_validated(batch).expect("one batch")])
}

/// What the service stores about a group: that it exists, and an offset that it committed.
fn committed(group: &str, topic: &Topic, partition: u32, offset: u64, metadata: &str) -> Vec<StateChange> {
    let mut key = vec![b'o'];
    key.extend_from_slice(group.as_bytes());
    key.push(0);
    key.extend_from_slice(&topic.id().0.to_be_bytes());
    key.extend_from_slice(&partition.to_be_bytes());
    let mut value = vec![1];
    value.extend_from_slice(&offset.to_be_bytes());
    value.extend_from_slice(&1_700_000_000_000_i64.to_be_bytes());
    value.push(u8::from(!metadata.is_empty()));
    value.extend_from_slice(metadata.as_bytes());
    vec![
        StateChange::set([b"g", group.as_bytes()].concat(), vec![1]),
        StateChange::set(key, value),
    ]
}

fn spec(partitions: u32, segment_bytes: u64) -> TopicSpec {
    TopicSpec {
        partitions,
        settings: TopicSettings {
            segment_bytes,
            retention_ms: Some(i64::MAX as u64),
            ..TopicSettings::default()
        },
        properties: BTreeMap::from([("ack".to_owned(), "durable".into())]),
    }
}

/// Three topics: `orders` of several segments, trimmed and raised; `mixed` with all kinds of records; one that is deleted.
fn fill(log: &Log) {
    let orders = log.create_topic("orders", spec(1, 400)).expect("made");
    let mixed = log.create_topic("mixed", spec(2, 1 << 20)).expect("made");
    let gone = log.create_topic("gone", spec(1, 1 << 20)).expect("made");
    for round in 0..6 {
        append_part(log, part(&orders, 0, numbers(round * 4, 4), true));
    }
    append(
        log,
        vec![
            part(&mixed, 0, odd_ones(), false),
            part(&gone, 0, numbers(0, 1), true),
        ],
        committed("billing", &orders, 0, 11, "as of noon"),
    );
    append(
        log,
        vec![part(&mixed, 0, compressed(), false)],
        committed("audit", &mixed, 0, 2, ""),
    );
    log.sync_segments().expect("synced");
    log.delete_topic("gone", Vec::new()).expect("deleted");
    trim(&orders, 9);
    let raised = TopicSpec {
        partitions: 3,
        ..(*orders.spec()).clone()
    };
    log.alter_topic("orders", raised).expect("raised");
    append(
        log,
        vec![
            part(&orders, 2, numbers(100, 2), true),
            part(&mixed, 1, numbers(200, 1), true),
        ],
        Vec::new(),
    );
}

/// More of the same, synced only in the journal.
fn go_on(log: &Log) {
    let topic = |name| log.topic(name).expect("it is there");
    let late = log.create_topic("late", spec(1, 1 << 20)).expect("made");
    let removed = log.create_topic("removed", spec(1, 1 << 20)).expect("made");
    append(
        log,
        vec![
            part(&topic("orders"), 0, numbers(24, 8), true),
            part(&late, 0, odd_ones(), false),
        ],
        committed("billing", &topic("orders"), 0, 20, ""),
    );
    append_part(log, part(&removed, 0, numbers(0, 1), true));
    log.delete_topic("removed", Vec::new()).expect("deleted");
    trim(&topic("orders"), 13);
    append_part(log, part(&topic("mixed"), 0, compressed(), false));
}

/// A request with a key, and a batch of a producer; sent before or now.
fn send_once(log: &Log, key: &str, sequence: i32) -> [Appended; 2] {
    let topic = log.topic("orders").expect("it is there");
    let once = Once {
        topic: Some(topic.id()),
        key: key.into(),
        fingerprint: *b"of what it says.",
        expires: TimestampMs(i64::MAX),
        note: b"to be answered again".to_vec(),
    };
    let keyed = AppendRequest {
        parts: vec![
            part(&topic, 1, numbers(1, 2), true),
            part(&topic, 0, numbers(3, 1), true),
        ],
        once: Some(once),
        ..AppendRequest::default()
    };
    let Records::Loose(batch) = numbers(5, 3) else {
        unreachable!("they are loose");
    };
    let mut batch = batch.seal();
    batch.set_producer(ProducerId(4711), 2, sequence);
    let numbered = AppendRequest::of(vec![part(&topic, 0, Records::Sealed(vec![batch]), true)]);
    [keyed, numbered].map(|request| {
        let ticket = log.append(request).expect("queued");
        assert!(log.run_round().expect("a healthy log"));
        ticket.wait().expect("durable")
    })
}

fn repeatable(log: &Log) {
    log.create_topic("orders", spec(2, 1 << 20)).expect("made");
    log.prepare_keys().expect("made");
    send_once(log, "first", 0);
}

fn repeatable_later(log: &Log) {
    send_once(log, "second", 3);
}

fn text(bytes: Option<&[u8]>) -> Value {
    match bytes {
        None => Value::Null,
        Some(bytes) => match std::str::from_utf8(bytes) {
            Ok(text) => json!(text),
            Err(_) => json!({ "bytes": bytes }),
        },
    }
}

/// Everything that a reader can see of a log.
fn describe(log: &Log) -> Value {
    let topics: Vec<Value> = log.topics().iter().map(|topic| describe_topic(topic)).collect();
    let rows = log.state_prefix(b"");
    let state: Vec<Value> = rows.iter().map(|(key, value)| json!([**key, **value])).collect();
    json!({ "directory_id": log.directory_id(), "topics": topics, "state": state })
}

fn describe_topic(topic: &Topic) -> Value {
    let spec = topic.spec();
    let partitions: Vec<Value> = topic.partitions().iter().map(describe_partition).collect();
    json!({
        "name": topic.name(),
        "id": topic.id().0,
        "settings": spec.settings,
        "properties": spec.properties,
        "partitions": partitions,
    })
}

fn describe_partition(partition: &Arc<Partition>) -> Value {
    let positions = partition.positions();
    let mut batches = Vec::new();
    let mut from = positions.log_start_offset;
    while from < positions.end_offset {
        let request = ReadRequest::new(from, 1 << 20);
        let fetched = partition.read(request).expect("nothing is damaged");
        for run in &fetched.runs {
            for batch in Batches::new(&run.bytes) {
                let (header, batch) = batch.expect("whole batches");
                batches.push(describe_batch(&header, batch));
            }
        }
        from = fetched.next_offset;
    }
    json!({
        "log_start_offset": positions.log_start_offset.get(),
        "end_offset": positions.end_offset.get(),
        "batches": batches,
    })
}

fn describe_batch(header: &BatchHeader, batch: &[u8]) -> Value {
    let describe = |record: Result<Record<'_>, _>| {
        let record = record.expect("a record");
        let headers = record.headers.iter();
        let rows = headers.map(|(name, value)| json!([text(Some(name)), text(value)]));
        let headers: Vec<Value> = rows.collect();
        let (key, value) = (text(record.key), text(record.value));
        json!([record.offset.get(), record.timestamp.get(), key, value, headers])
    };
    let records = BatchRecords::new(batch).ok();
    let records: Option<Vec<Value>> = records.map(|records| records.map(describe).collect());
    json!({
        "offsets": [header.base_offset.get(), header.next_offset().get()],
        "max_timestamp": header.max_timestamp.get(),
        "compression": header.attributes.compression(),
        "crc": header.crc,
        "records": records,
    })
}

/// Names of all golden directories that are there.
fn all() -> Vec<String> {
    let mut names = Vec::new();
    for version in std::fs::read_dir(golden("")).expect("it is there") {
        let version = version.expect("an entry").path();
        for file in version.read_dir().into_iter().flatten() {
            let path = file.expect("an entry").path();
            if path.extension().is_some_and(|extension| extension == "txt") {
                let name = path
                    .strip_prefix(golden(""))
                    .expect("below it")
                    .with_extension("");
                names.push(name.to_str().expect("UTF-8").to_owned());
            }
        }
    }
    names.sort();
    names
}

fn unpacked(name: &str) -> tempfile::TempDir {
    let text = std::fs::read_to_string(golden(&format!("{name}.txt"))).expect("a listing");
    let dir = tempfile::tempdir().expect("a directory");
    write_tree(dir.path(), &from_text(&text));
    dir
}

fn expectation(name: &str) -> Value {
    let text = std::fs::read_to_string(golden(&format!("{name}.json"))).expect("an expectation");
    serde_json::from_str(&text).expect("JSON")
}

fn assert_clean(dir: &Path, name: &str) {
    let verified = quipu_segments::verify(dir, &mut |_| {}).expect("it can be checked");
    assert!(verified.findings.is_empty(), "{name}: {:?}", verified.findings);
}

#[test]
fn every_golden_directory_opens_with_everything_in_it_and_goes_on() {
    for name in all() {
        let (dir, expected) = (unpacked(&name), expectation(&name));
        assert_clean(dir.path(), &name);
        for opening in ["the first time", "again"] {
            let log = open(dir.path());
            assert_eq!(log.health().damage, [""; 0], "{name}, {opening}");
            assert_eq!(describe(&log), expected, "{name}, {opening}");
            log.close().expect("it closes");
        }
        let log = open(dir.path());
        for topic in log.topics() {
            for partition in &*topic.partitions() {
                let end = partition.positions().end_offset;
                append_part(&log, part(&topic, partition.id().index, numbers(1, 1), true));
                assert_eq!(partition.positions().end_offset, end.plus(1), "{name}");
            }
        }
        let before = describe(&log);
        drop(log);
        let log = open(dir.path());
        assert_eq!(describe(&log), before, "{name}, killed after appends");
        log.close().expect("it closes");
        drop(log);
        assert_clean(dir.path(), &name);
    }
}

#[test]
fn a_request_that_a_golden_directory_has_is_not_appended_again() {
    let dir = unpacked("v1/once");
    for opening in ["the first time", "again"] {
        let log = open(dir.path());
        for (key, sequence, bases) in [("first", 0, [0, 0, 1]), ("second", 3, [2, 4, 5])] {
            let [keyed, numbered] = send_once(&log, key, sequence);
            let found = keyed.repeated.as_deref();
            assert_eq!(found, Some(&b"to be answered again"[..]), "{opening}");
            assert_eq!(numbered.repeated.as_deref(), Some(&b""[..]), "{opening}");
            let told: Vec<Offset> = [keyed.base_offsets, numbered.base_offsets].concat();
            assert_eq!(told, bases.map(Offset::new), "{opening}, {key}");
        }
        log.close().expect("it closes");
    }
}

#[test]
fn golden_directories_are_never_changed() {
    let made: Vec<String> = MADE
        .iter()
        .filter_map(|(file, _)| file.strip_suffix(".txt").map(str::to_owned))
        .collect();
    // If this fails, a golden directory was added or removed without its checksum.
    assert_eq!(all(), made);
    for (file, crc) in MADE {
        let bytes = std::fs::read(golden(file)).unwrap_or_else(|error| panic!("{file}: {error}"));
        assert_eq!(
            crc32fast::hash(&bytes),
            crc,
            "{file} was changed: what it stands for lies on disks out there; add a new one instead"
        );
    }
}

#[test]
#[ignore = "writes golden directories that are not there yet; see the top of this file"]
fn new_golden_directories_are_made() {
    for (name, title, steps, end) in SCENARIOS {
        let (listing, expectation) = (golden(&format!("{name}.txt")), golden(&format!("{name}.json")));
        if listing.exists() || expectation.exists() {
            println!("{name} is there and stays as it is");
            continue;
        }
        let dir = tempfile::tempdir().expect("a directory");
        let log = open(dir.path());
        let mut synced = Tree::new();
        for step in steps {
            log.sync_segments().expect("synced");
            synced = read_tree(dir.path());
            step(&log);
        }
        let described = describe(&log);
        if end == End::Close {
            log.close().expect("it closes");
        }
        drop(log);
        let mut tree = read_tree(dir.path());
        if end == End::PowerCut {
            let is_log = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "log");
            tree.retain(|path, _| !is_log(path) || synced.contains_key(path));
            tree.extend(synced.into_iter().filter(|(path, _)| is_log(path)));
        }
        let version = env!("CARGO_PKG_VERSION");
        let text = to_text(&format!("{title} Made by quipu {version}."), &tree);
        assert_eq!(from_text(&text), tree);
        std::fs::create_dir_all(listing.parent().expect("it has one")).expect("a directory");
        let described = serde_json::to_string_pretty(&described).expect("JSON") + "\n";
        for (path, extension, text) in [(&expectation, "json", described), (&listing, "txt", text)] {
            std::fs::write(path, &text).expect("written");
            println!(
                "    (\"{name}.{extension}\", {:#010x}),",
                crc32fast::hash(text.as_bytes())
            );
        }
    }
}
