//! A whole data directory, as it was left by a kill, with some of its files changed.
//!
//! It opens or is refused. An opened directory can be read from end to end, each read making progress, and opens again
//! to the same positions after it was closed. `verify` reads all of it. Changes may be sealed, so that checksums are
//! right and the numbers behind them are not.

use std::collections::BTreeMap;
use std::io::IoSlice;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use quipu_segments::batch::{BatchBuilder, BatchHeader, Batches, HEADER_BYTES};
use quipu_segments::fuzzing::{crc32c::crc32c, crc32fast};
use quipu_segments::sim::{SimClock, SimDisk};
use quipu_segments::{
    AppendRequest, Disk, Error, Log, Offset, OpenMode, Options, Part, Partition, Positions, ReadRequest,
    Records, StateChange, TimestampMs, TopicSettings, TopicSpec, verify_on,
};

use super::input::{Input, checksum};
use super::journal;

const DIR: &str = "/data";
/// More damaged ranges and batches than the directory has: a read loop without progress is stopped there.
const MOST_READS: usize = 10_000;

pub fn run(data: &[u8]) {
    let (base, files) = base();
    let disk = base.after_kill();
    let mut input = Input::new(data);
    for _ in 0..8 {
        if input.is_empty() {
            break;
        }
        let path = &files[usize::from(input.u8()) % files.len()];
        change(&disk, path, files, &mut input);
    }
    let verified = verify_on(&disk, Path::new(DIR), &mut |_| {});
    let Ok(log) = open(&disk) else { return };
    drop(verified);
    let before = positions(&log);
    for topic in log.topics() {
        for partition in &*topic.partitions() {
            read_all(partition);
        }
    }
    if log.close().is_ok() {
        drop(log);
        let log = open(&disk).expect("what was closed opens again");
        assert_eq!(positions(&log), before);
    }
}

fn options() -> Options {
    Options {
        journal_file_bytes: 96 << 10,
        journal_files: 2,
        max_request_bytes: 16 << 10,
        background: false,
        ..Options::default()
    }
}

fn open(disk: &SimDisk) -> Result<Log, Error> {
    let clock = SimClock::new(TimestampMs(1_700_000_000_000));
    Log::open_with(Arc::new(disk.clone()), Arc::new(clock), Path::new(DIR), options())
}

/// A directory with every kind of content, and its files.
fn base() -> &'static (SimDisk, Vec<PathBuf>) {
    static BASE: OnceLock<(SimDisk, Vec<PathBuf>)> = OnceLock::new();
    BASE.get_or_init(|| {
        let disk = SimDisk::new(1);
        let log = open(&disk).expect("a new directory");
        let settings = TopicSettings {
            segment_bytes: 2 << 10,
            ..TopicSettings::default()
        };
        let spec = |partitions| TopicSpec {
            partitions,
            settings: settings.clone(),
            properties: BTreeMap::from([("ack".to_owned(), "durable".into())]),
        };
        let orders = log.create_topic("orders", spec(2)).expect("made");
        let gone = log.create_topic("gone", spec(1)).expect("made");
        for number in 0..40_i64 {
            let parts = [orders.partition(0), orders.partition(1), gone.partition(0)];
            let parts = parts.into_iter().flatten().enumerate();
            let parts = parts
                .filter(|(index, _)| *index == 0 || number % 3 == 0 && (*index == 1 || number < 20))
                .map(|(_, partition)| {
                    let mut records = BatchBuilder::new();
                    for record in 0..1 + number % 3 {
                        let value = format!("{{\"number\":{number},\"record\":{record}}}");
                        records.push(TimestampMs(number), Some(b"key"), Some(value.as_bytes()), &[]);
                    }
                    Part::new(partition, Records::Loose(records)).json_lines(true)
                })
                .collect();
            let state = StateChange {
                key: format!("group/{}", number % 5).into_bytes(),
                value: (number % 7 != 0).then(|| number.to_string().into_bytes()),
            };
            let request = AppendRequest {
                parts,
                state: vec![state],
                ..AppendRequest::default()
            };
            let ticket = log.append(request).expect("queued");
            assert!(log.run_round().expect("a healthy log"));
            ticket.wait().expect("durable");
            if number % 10 == 5 && number != 35 {
                log.sync_segments().expect("synced");
            }
            if number == 25 {
                let first = orders.partition(0).expect("it is there");
                first.trim(Offset::new(9)).expect("trimmed");
                log.delete_topic("gone", Vec::new()).expect("deleted");
            }
        }
        let disk = disk.after_kill();
        let mut files = Vec::new();
        list(&disk, Path::new(DIR), &mut files);
        (disk, files)
    })
}

fn list(disk: &SimDisk, dir: &Path, files: &mut Vec<PathBuf>) {
    for entry in disk.list(dir).expect("a directory") {
        let path = dir.join(&entry.name);
        if entry.is_dir {
            list(disk, &path, files);
        } else {
            files.push(path);
        }
    }
}

fn change(disk: &SimDisk, path: &Path, files: &[PathBuf], input: &mut Input<'_>) {
    let choice = input.u8();
    let at = usize::from(input.u16());
    let Some(mut bytes) = disk.contents(path) else {
        return;
    };
    let at = at % (bytes.len() + 1);
    match choice % 7 {
        0 => {
            for (byte, mask) in bytes[at..].iter_mut().zip(input.bytes(8)) {
                *byte ^= mask;
            }
        }
        1 | 2 => {
            for (byte, new) in bytes[at..].iter_mut().zip(input.short().unwrap_or_default()) {
                *byte = *new;
            }
        }
        3 => bytes.truncate(at),
        4 => bytes.extend_from_slice(input.short().unwrap_or_default()),
        5 => {
            let other = &files[usize::from(input.u8()) % files.len()];
            bytes = disk.contents(other).unwrap_or_default();
        }
        _ => {
            disk.remove_file(path).expect("it was there");
            return;
        }
    }
    if choice & 128 == 128 {
        seal(path, &mut bytes);
    }
    let file = disk.open(path, OpenMode::Create).expect("a file");
    file.set_len(bytes.len() as u64).expect("set");
    file.write_all_at(&[IoSlice::new(&bytes)], 0).expect("written");
}

/// Corrects a file's checksums.
fn seal(path: &Path, bytes: &mut Vec<u8>) {
    let name = path.file_name().and_then(|name| name.to_str());
    let name = name.unwrap_or_default();
    let extension = name.rsplit('.').next().unwrap_or_default();
    let number = |bytes: &[u8], at: usize, count: usize| {
        let digits = bytes.get(at..at + count).unwrap_or_default().iter().rev();
        digits.fold(0_u64, |number, byte| number << 8 | u64::from(*byte)) as usize
    };
    match (name, extension) {
        ("checkpoint.0" | "checkpoint.1" | "state.0" | "state.1", _) => {
            let end = number(bytes, 24, 8).saturating_add(32);
            if let Some(covered) = bytes.get(..end) {
                let crc = checksum(covered);
                bytes[12..16].copy_from_slice(&crc.to_le_bytes());
            }
        }
        (_, "index" | "timeindex") if bytes.len() >= 64 => {
            let crc = crc32fast::hash(&bytes[64..]);
            bytes[52..56].copy_from_slice(&crc.to_le_bytes());
            let crc = checksum(&bytes[..64]);
            bytes[12..16].copy_from_slice(&crc.to_le_bytes());
        }
        (_, "log") => {
            let mut at = 0;
            while let Ok(header) = BatchHeader::peek(&bytes[at..]) {
                let end = at + header.total_bytes();
                let Some(covered) = bytes.get(at + 21..end) else {
                    break;
                };
                let crc = crc32c(covered);
                bytes[at + 17..at + 21].copy_from_slice(&crc.to_be_bytes());
                at = end;
            }
        }
        (_, "journal") if bytes.len() >= 40 => {
            let crc = checksum(&bytes[..40]);
            bytes[12..16].copy_from_slice(&crc.to_le_bytes());
            let sequence: u64 = name[..20].parse().expect("a journal file's name");
            for at in (4096..bytes.len()).step_by(4096) {
                let end = at + 32 + number(bytes, at + 16, 4);
                if bytes.get(at + 4..at + 8) == Some(b"RND1")
                    && let Some(covered) = bytes.get(at + 4..end)
                {
                    let crc = journal::checksum(covered, sequence);
                    bytes[at..at + 4].copy_from_slice(&crc.to_le_bytes());
                }
            }
        }
        ("topic.json" | "FORMAT", _) => {
            let text = std::str::from_utf8(bytes).ok();
            let parts = text.and_then(|text| text.split_once("\"body\":"));
            let parts = parts.and_then(|(head, body)| Some((head.split_once("\"crc32\":")?.0, body)));
            let Some((head, body)) = parts else { return };
            let body = body.trim_end();
            let body = body.strip_suffix('}').unwrap_or(body);
            let kind = if name == "FORMAT" { "data" } else { "topic" };
            let crc = crc32fast::hash(format!("quipu-{kind}1{body}").as_bytes());
            *bytes = format!("{head}\"crc32\":{crc},\"body\":{body}}}\n").into_bytes();
        }
        _ => {}
    }
}

fn positions(log: &Log) -> BTreeMap<String, Positions> {
    log.topics()
        .iter()
        .flat_map(|topic| topic.partitions().to_vec())
        .map(|partition| (partition.name().to_owned(), partition.positions()))
        .collect()
}

fn read_all(partition: &Arc<Partition>) {
    let positions = partition.positions();
    let (mut from, end_offset) = (positions.log_start_offset, positions.end_offset);
    for _ in 0..MOST_READS {
        if from >= end_offset {
            return;
        }
        let request = ReadRequest::new(from, 4 << 10);
        from = match partition.read(request) {
            Ok(fetched) => {
                assert!(fetched.next_offset > from, "a read at {from} gets nowhere");
                let mut next = None;
                for run in &fetched.runs {
                    for batch in Batches::new(&run.bytes) {
                        let (header, batch) = batch.expect("runs are whole batches");
                        assert!(batch.len() >= HEADER_BYTES);
                        assert!(next.is_none_or(|next| next <= header.base_offset), "offsets rise");
                        next = Some(header.next_offset());
                    }
                }
                let goes_on = next.is_some_and(|next| next > from);
                assert!(goes_on, "the offset asked for is in it or beyond");
                fetched.next_offset
            }
            Err(Error::Damaged {
                damaged_from,
                damaged_until,
                ..
            }) => {
                assert!(damaged_from <= from && from < damaged_until, "damage is named");
                damaged_until
            }
            Err(error) => panic!("{from} cannot be read: {error}"),
        };
    }
    panic!("{} does not end: at {from} of {end_offset}", partition.name());
}
