//! Files of a version that this program does not know, and the bytes that `docs/internals/formats.md` shows.

#![allow(clippy::disallowed_methods, reason = "tests change files of data directories")]

#[path = "golden/listing.rs"]
#[allow(unreachable_pub, dead_code, reason = "other tests use it too")]
mod listing;
mod support;

use std::path::{Path, PathBuf};

use listing::{Tree, from_text, read_tree, row, write_tree};
use quipu_segments::{Error, Log, Offset, Options, ReadRequest, TimestampMs, verify};
use support::{of_parts, part, plain_spec, records, store};

fn options() -> Options {
    Options {
        journal_file_bytes: 68 << 10,
        max_request_bytes: 4 << 10,
        ..support::options()
    }
}

fn golden_path(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden")
        .join(path)
}

fn golden(name: &str) -> Tree {
    from_text(&std::fs::read_to_string(golden_path(&format!("{name}.txt"))).expect("a listing"))
}

/// Sets the version in a binary file, with the header that all of them share, or in a sealed JSON file.
fn of_version(version: u32, bytes: &mut Vec<u8>) {
    if bytes.first() == Some(&b'{') {
        let text = String::from_utf8(bytes.clone()).expect("JSON");
        let body = text.split_once("\"body\":").expect("a body").1.trim_end();
        let body = body.strip_suffix('}').expect("its end");
        let magic = text.split('"').nth(3).expect("a magic");
        let crc = crc32fast::hash(format!("{magic}{version}{body}").as_bytes());
        *bytes = format!("{{\"magic\":\"{magic}\",\"version\":{version},\"crc32\":{crc},\"body\":{body}}}\n")
            .into_bytes();
        return;
    }
    let end = match &bytes[..8] {
        b"QUIPUJNL" => 40,
        b"quipuidx" | b"quiputim" => 64,
        _ => 32 + u64::from_le_bytes(bytes[24..32].try_into().expect("eight bytes")) as usize,
    };
    bytes[8..12].copy_from_slice(&version.to_le_bytes());
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&bytes[..12]);
    hasher.update(&bytes[16..end]);
    let crc = hasher.finalize();
    bytes[12..16].copy_from_slice(&crc.to_le_bytes());
}

fn is_index(path: &Path) -> bool {
    path.extension()
        .is_some_and(|extension| extension == "index" || extension == "timeindex")
}

/// A golden directory with leftovers that an opening would remove, and with the changed file.
fn with_future(name: &str, path: &Path) -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a directory");
    let mut tree = golden(name);
    of_version(2, tree.get_mut(path).and_then(Option::as_mut).expect("a file"));
    tree.insert("staging/9/topic.json".into(), Some(b"begun".to_vec()));
    let log = "deleted/8/0/00000000000000000000.log";
    tree.insert(log.into(), Some(b"going".to_vec()));
    write_tree(dir.path(), &tree);
    dir
}

#[test]
fn a_file_of_a_version_from_the_future_is_refused_by_name_and_nothing_is_changed() {
    let mut kinds = [0; 5];
    for name in ["v1/clean", "v1/killed", "v1/power-cut"] {
        for (path, bytes) in golden(name) {
            let kind = match path.to_str().expect("UTF-8") {
                _ if bytes.is_none() || is_index(&path) => continue,
                "FORMAT" => 0,
                "checkpoint.0" | "checkpoint.1" => 1,
                "state.0" | "state.1" if bytes.as_ref().is_some_and(|bytes| bytes[0] != 0) => 2,
                path if path.ends_with(".journal") => 3,
                path if path.ends_with("/topic.json") => 4,
                _ => continue,
            };
            kinds[kind] += 1;
            let dir = with_future(name, &path);
            let before = read_tree(dir.path());
            let opened = Log::open(dir.path(), options()).map(drop);
            let checked = verify(dir.path(), &mut |_| {}).map(drop);
            for result in [opened, checked] {
                let Err(Error::Directory(message)) = result else {
                    panic!("{name}, {}: {result:?}", path.display());
                };
                let file = dir.path().join(&path);
                let parts = ["version 2", "knows version 1", "nothing was changed", "newer"];
                for part in parts.into_iter().chain(file.to_str()) {
                    assert!(message.contains(part), "{part:?} in {message:?}");
                }
            }
            let is_same = read_tree(dir.path()) == before;
            assert!(is_same, "{name}, {}: something was changed", path.display());
        }
    }
    assert!(kinds.iter().all(|count| *count >= 3), "{kinds:?}");
}

#[test]
fn a_flipped_bit_in_a_version_is_damage_and_not_a_version_from_the_future() {
    for (path, bytes) in golden("v1/power-cut") {
        let Some(mut bytes) = bytes.filter(|bytes| bytes.starts_with(b"QUIPU")) else {
            continue;
        };
        bytes[8] ^= 2;
        let dir = tempfile::tempdir().expect("a directory");
        write_tree(dir.path(), &golden("v1/power-cut"));
        std::fs::write(dir.path().join(&path), bytes).expect("written");
        let log = Log::open(dir.path(), options());
        assert!(log.is_ok(), "{}: {:?}", path.display(), log.err());
    }
}

#[test]
fn an_index_of_a_version_from_the_future_is_left_as_it_is_and_its_log_is_read() {
    let name = "v1/clean";
    let paths: Vec<PathBuf> = golden(name).into_keys().filter(|path| is_index(path)).collect();
    assert!(paths.len() >= 6, "{paths:?}");
    for path in paths {
        let dir = with_future(name, &path);
        let before = std::fs::read(dir.path().join(&path)).expect("an index");
        for _ in 0..2 {
            let log = Log::open(dir.path(), options()).expect("indexes are derived");
            for topic in log.topics() {
                for partition in &*topic.partitions() {
                    let records = records(TimestampMs(5), &[b"1"]);
                    let part = part(partition.clone(), records).json_lines(true);
                    store(&log, of_parts(vec![part])).expect("durable");
                    let mut from = partition.positions().log_start_offset;
                    while from < partition.positions().end_offset {
                        let request = ReadRequest::new(from, 1);
                        from = partition.read(request).expect("its log is whole").next_offset;
                    }
                    partition
                        .offset_for_time(TimestampMs(0))
                        .expect("its log is whole");
                }
            }
            log.close().expect("it closes");
        }
        let after = std::fs::read(dir.path().join(&path)).expect("an index");
        assert_eq!(after, before, "{}", path.display());
    }
}

#[test]
fn a_journal_file_cut_within_the_padding_of_its_last_round_is_replayed() {
    let tree = golden("v1/power-cut");
    let path = Path::new("journal/00000000000000000001.journal");
    let journal = tree[path].as_ref().expect("a file");
    let is_round = |at: &usize| journal[at + 4..].starts_with(b"RND1");
    let last = (0..journal.len()).step_by(4096).rfind(is_round).expect("a round");
    let length = u32::from_le_bytes(journal[last + 16..last + 20].try_into().expect("four bytes"));
    let end = last + 32 + length as usize;
    assert!(!end.is_multiple_of(4096), "there is padding");
    let dir = tempfile::tempdir().expect("a directory");
    write_tree(dir.path(), &tree);
    std::fs::write(dir.path().join(path), &journal[..end]).expect("cut");
    assert!(verify(dir.path(), &mut |_| {}).is_ok());
    let log = Log::open(dir.path(), options()).expect("every round is there");
    let end = |topic: &str| {
        let topic = log.topic(topic).expect("it is there");
        topic.partition(0).expect("it is there").positions().end_offset
    };
    assert_eq!((end("late"), end("mixed")), (Offset::new(3), Offset::new(43)));
}

#[test]
fn a_directory_of_a_topic_that_is_made_now_has_the_files_that_the_documentation_lists() {
    let document = include_str!("../../docs/internals/formats.md");
    let dir = tempfile::tempdir().expect("a directory");
    let log = Log::open(dir.path(), options()).expect("a new directory");
    log.create_topic("t", plain_spec(1)).expect("made");
    log.close().expect("it closes");
    for path in read_tree(dir.path()).into_keys() {
        let name = path.iter().next().expect("a name").to_string_lossy();
        let is_known = document.contains(&*name);
        assert!(is_known, "docs/internals/formats.md does not know {name}");
    }
}

/// Every block of the form
///
/// ````text
/// ```hex golden/v1/clean: checkpoint.0
/// 00000000  51 …
/// ```
/// ````
///
/// shows what is in the golden directory.
#[test]
fn the_bytes_in_the_documentation_are_those_of_the_golden_directories() {
    let document = include_str!("../../docs/internals/formats.md");
    let mut shown = 0;
    for block in document.split("```hex golden/").skip(1) {
        let (head, rest) = block.split_once('\n').expect("a line");
        let (name, path) = head.split_once(": ").expect("a directory and a file");
        let tree = golden(name);
        let bytes = tree[Path::new(path)].as_ref().expect("a file");
        for line in rest.lines().take_while(|line| *line != "```") {
            let (at, expected) = row(line);
            let found = &bytes[at..at + expected.len()];
            assert_eq!(found, expected, "{name}: {path} at {at:#x}");
            let again = listing::line(at, &expected);
            assert_eq!(again, line, "{name}: {path} at {at:#x}");
            shown += 1;
        }
    }
    assert!(shown > 20, "{shown} rows are shown");
}
