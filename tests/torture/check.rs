//! Compares what the server serves with the history.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::Path;

use serde_json::Value;

use crate::fetch::fetch;
use crate::ground;
use crate::history::{Counts, Cuts, Held, History, Presence, Sent, State, Topic};
use crate::records::Id;
use crate::support::{Connection, Server};

/// The content of a partition, as the server serves it.
struct Served {
    log_start: u64,
    end: u64,
    size_bytes: u64,
    records: Vec<(u64, Id)>,
}

type Found = BTreeMap<(String, u32), Served>;

/// Where the records of each request were found: index in the request, partition, offset.
type Places = HashMap<u64, Vec<(u32, u32, u64)>>;

/// After a restart: checks that everything promised is there, and that what was in flight is whole or absent. From then
/// on, what is there counts as read.
pub fn restarted(server: &Server, data: &Path, history: &History, retention_bytes: &BTreeMap<String, u64>) {
    let mut state = history.state();
    let state = &mut *state;
    check_topics(server, data, state);
    let found = read_all(server, state, false);
    let mut of_request: Places = HashMap::new();
    for ((name, partition), served) in &found {
        let held = &state.topics[name].held[*partition as usize];
        let place = (&**name, *partition);
        check_known(place, held, served);
        check_retention(place, held, served, retention_bytes.get(name));
        check_order(place, served);
        for (offset, id) in &served.records {
            if *offset >= held.checked_end {
                let sent = state.requests.get(&id.request);
                let sent =
                    sent.unwrap_or_else(|| panic!("{id:?} at {place:?} {offset} is not of this round"));
                assert_eq!(sent.topic, *name, "{id:?} is in another topic");
                let found = sent.partitions[id.index as usize];
                assert_eq!(found, *partition, "{id:?} is in another partition");
            }
            // Requests of earlier rounds were checked in their rounds.
            if state.requests.contains_key(&id.request) {
                let places = of_request.entry(id.request).or_default();
                places.push((id.index, *partition, *offset));
            }
        }
        Counts::add(&history.counts.checked_records, served.records.len() as u64);
    }
    for (request, sent) in &state.requests {
        let places = of_request.get(request).map_or(&[][..], Vec::as_slice);
        check_request(*request, sent, places, state, &found);
    }
    check_groups(server, state);

    state.requests.clear();
    for ((name, partition), served) in found {
        let topic = state.topics.get_mut(&name).expect("it was read");
        let held = &mut topic.held[partition as usize];
        held.known = served.records.into_iter().collect();
        held.log_start = served.log_start;
        held.end = served.end;
        held.checked_end = served.end;
    }
}

/// While the server runs, after something has failed: checks that everything known to be stored is served.
pub fn reads_go_on(server: &Server, history: &History) {
    let state = history.state();
    for ((name, partition), served) in &read_all(server, &state, true) {
        let held = &state.topics[name].held[*partition as usize];
        check_known((&**name, *partition), held, served);
        check_order((&**name, *partition), served);
    }
}

fn check_topics(server: &Server, data: &Path, state: &mut State) {
    let list = server.get("/v1/topics?limit=1000");
    let list = list["topics"].as_array().expect("a list").iter();
    let name = |topic: &Value| topic["name"].as_str().expect("a name").to_owned();
    let listed: HashSet<String> = list.map(name).collect();
    for name in &listed {
        assert!(state.topics.contains_key(name), "nobody made {name}");
    }
    for (name, topic) in &mut state.topics {
        let is_there = listed.contains(name);
        match topic.presence {
            Presence::Absent => assert!(!is_there, "{name} was deleted, and is there again"),
            Presence::Exists => assert!(is_there, "{name} was made, and is not there"),
            Presence::Unknown => {}
        }
        if !is_there {
            *topic = Topic::new(Presence::Absent, 0);
            state.requests.retain(|_, sent| sent.topic != *name);
            state.groups.retain(|(_, of, _), _| of != name);
            continue;
        }
        let about = server.get(&format!("/v1/topics/{name}"));
        let id = about["id"].as_str().expect("an id").to_owned();
        if let Some(before) = topic.id.replace(id.clone()) {
            assert_eq!(before, id, "{name} is another topic");
        }
        let partitions = about["partition_count"].as_u64().expect("a number") as u32;
        let (low, high) = topic.partitions;
        let is_wanted = (low..=high).contains(&partitions);
        assert!(
            is_wanted,
            "{name} has {partitions} partitions, not {low} to {high}"
        );
        topic.partitions = (partitions, partitions);
        topic.held.resize(partitions as usize, Held::default());
        let setting = &about["config"]["dedupe_window_ms"]["value"];
        let setting = setting.as_u64().expect("a number");
        let (low, high) = topic.setting;
        let is_wanted = high == 0 || setting == low || setting == high;
        assert!(is_wanted, "{name} is set to {setting}, not {low} or {high}");
        topic.setting = (setting, setting);
        topic.presence = Presence::Exists;
    }
    let names = |dir: &str| -> HashSet<String> { ground::names(&data.join(dir)).into_iter().collect() };
    // The log's own topics are not listed.
    let mut topics = names("topics");
    topics.retain(|name| !name.starts_with("__"));
    assert_eq!(topics, listed, "the directories of topics");
    assert!(
        names("deleted").is_empty(),
        "deleted topics are there after a start"
    );
    // Empty since the start, but for a topic of the log's own that is being made.
    ground::until("staging is empty", || names("staging").is_empty());
    // No more files than are kept, whatever happened while one was created.
    let journals = names("journal");
    assert!(journals.len() <= 3, "{journals:?}");
}

fn read_all(server: &Server, state: &State, faults: bool) -> Found {
    let mut found = Found::new();
    let mut connection = server.connect();
    for (name, topic) in &state.topics {
        if topic.presence != Presence::Exists {
            continue;
        }
        let about = server.get(&format!("/v1/topics/{name}"));
        for about in about["partitions"].as_array().expect("an array") {
            let number = |field: &str| match about[field].as_u64() {
                Some(number) => number,
                None => panic!("{field} in {about}"),
            };
            let partition = number("partition") as u32;
            if partition as usize >= topic.held.len() {
                continue;
            }
            let served = read_one(&mut connection, name, partition, &number, faults);
            found.insert((name.clone(), partition), served);
        }
    }
    found
}

fn read_one(
    connection: &mut Connection,
    name: &str,
    partition: u32,
    number: &dyn Fn(&str) -> u64,
    faults: bool,
) -> Served {
    let mut log_start = number("log_start_offset");
    let mut records = Vec::new();
    let mut next = log_start;
    let more = "max_records=100000&max_bytes=8388608";
    loop {
        let page = fetch(connection, name, partition, next, more, faults).expect("an answer");
        if let Some(trimmed) = page.trimmed {
            // Retention goes on during the read: begin again at the new log start.
            log_start = trimmed;
            next = trimmed;
            records.clear();
            continue;
        }
        records.extend(page.records);
        let goes_on = page.next_offset > next || page.next_offset >= page.end_offset;
        assert!(goes_on, "{name}/{partition}: an empty page at {next}");
        next = page.next_offset;
        if next >= page.end_offset {
            break;
        }
    }
    let first = records.first().map_or(log_start, |(offset, _)| *offset);
    for (place, (offset, id)) in records.iter().enumerate() {
        let expected = first + place as u64;
        assert_eq!(*offset, expected, "{name}/{partition}: before {id:?}");
    }
    let end = first + records.len() as u64;
    assert_eq!(first, log_start, "where {name}/{partition} begins");
    Served {
        log_start,
        end: end.max(number("end_offset")),
        size_bytes: number("size_bytes"),
        records,
    }
}

/// Each record that was acknowledged or read is at its offset, and the log start and the end have not gone back.
fn check_known(place: (&str, u32), held: &Held, served: &Served) {
    let (before, now) = ((held.log_start, held.end), (served.log_start, served.end));
    let went_back = now.0 < before.0 || now.1 < before.1;
    assert!(!went_back, "{place:?} went back from {before:?} to {now:?}");
    let count = served.records.len() as u64;
    let got = now.0 + count;
    assert_eq!(got, now.1, "{place:?}: records before the end are missing");
    for (offset, id) in held.known.range(served.log_start..) {
        let (_, found) = served.records[(offset - served.log_start) as usize];
        assert_eq!(found, *id, "{place:?} {offset} was given to two records");
    }
}

/// Only retention and trims have deleted records.
fn check_retention(place: (&str, u32), held: &Held, served: &Served, retention_bytes: Option<&u64>) {
    if served.log_start > held.trim_sent {
        let wanted = retention_bytes.unwrap_or_else(|| panic!("{place:?}: nobody wanted anything deleted"));
        let left = served.size_bytes;
        assert!(
            left >= *wanted,
            "{place:?}: retention keeps {wanted} bytes, {left} are left"
        );
    }
}

/// Each record is there once, and a client's records are in the order in which it sent them.
fn check_order(place: (&str, u32), served: &Served) {
    let mut last: HashMap<u32, Id> = HashMap::new();
    for (offset, id) in &served.records {
        let before = last.insert(id.client(), *id);
        assert!(
            before < Some(*id),
            "{place:?}: {id:?} at {offset} comes after {before:?}"
        );
    }
}

/// An acknowledged request is there whole, a refused one is not there, any other is there up to a place where it may be
/// cut, over all its partitions. Records that retention has deleted since count as there.
fn check_request(request: u64, sent: &Sent, found: &[(u32, u32, u64)], state: &State, served: &Found) {
    let total = sent.partitions.len() as u32;
    let mut present: Vec<Option<u64>> = vec![None; sent.partitions.len()];
    for (index, partition, offset) in found {
        let before = present[*index as usize].replace(*offset);
        assert!(
            before.is_none(),
            "record {index} of {request:#x} is in {partition} twice"
        );
    }
    let last = present.iter().rposition(Option::is_some);
    let reached = last.map_or(0, |index| index as u32 + 1);
    let may = sent.may;
    assert!(
        reached <= may,
        "{request:#x}: {reached} records are there, {may} were accepted"
    );
    let wanted = sent.cuts.next(reached.max(sent.must), total);
    // From the last to the first, so that each partition's first present record is known.
    let mut first_present: HashMap<u32, u64> = HashMap::new();
    for index in (0..wanted as usize).rev() {
        let partition = sent.partitions[index];
        let place = (sent.topic.clone(), partition);
        let Some(served) = served.get(&place) else {
            panic!("{request:#x} has records in {place:?}, which is not there");
        };
        match present[index] {
            Some(offset) => {
                first_present.insert(partition, offset);
            }
            None => {
                let held = &state.topics[&sent.topic].held[partition as usize];
                // The records of one unit are neighbours in their partition; those of a stream need not be.
                let is_one_unit = matches!(sent.cuts, Cuts::Whole);
                let since = sent.since.as_ref();
                let since = since.map_or(held.checked_end, |since| since[partition as usize]);
                let is_trimmed = match first_present.get(&partition) {
                    Some(first) if is_one_unit => *first == served.log_start,
                    _ => served.log_start > since,
                };
                assert!(
                    is_trimmed,
                    "{request:#x}: record {index} of {total} is not there, {} of the first {wanted} are ({:?}, {} to {} promised); {place:?} has {} to {}",
                    found.len(),
                    sent.cuts,
                    sent.must,
                    sent.may,
                    served.log_start,
                    served.end
                );
            }
        }
    }
}

fn check_groups(server: &Server, state: &mut State) {
    let mut connection = server.connect();
    for ((group, topic, partition), (acknowledged, sent)) in &mut state.groups {
        let answer = connection.get(&format!("/v1/groups/{group}/offsets"));
        let offsets = answer.json()["offsets"].take();
        let offsets = offsets.as_array().cloned().unwrap_or_default();
        let is_row = |row: &&Value| row["topic"] == **topic && row["partition"] == *partition;
        let row = offsets.iter().find(is_row);
        let committed = row.map_or(0, |row| row["offset"].as_u64().expect("a number"));
        let is_allowed = (*acknowledged..=*sent).contains(&committed);
        let what = format!("{group} of {topic}/{partition}");
        assert!(
            is_allowed,
            "{what} is at {committed}, not between {acknowledged} and {sent}"
        );
        (*acknowledged, *sent) = (committed, committed);
    }
}
