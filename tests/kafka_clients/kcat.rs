//! kcat, and so Debian's librdkafka.

use std::collections::BTreeSet;

use super::*;

pub(crate) fn kcat() -> Option<PathBuf> {
    let is_there = Command::new("kcat").arg("-V").output();
    if !is_there.is_ok_and(|output| output.status.success()) {
        is_missing("kcat");
        return None;
    }
    Some("kcat".into())
}

impl Fixture {
    fn kcat(&self, arguments: &str) -> Vec<String> {
        let mut command = bounded(Path::new("kcat"));
        command
            .args(["-b", &self.kafka.to_string()])
            .args(arguments.split(' '));
        self.output(command).lines().map(str::to_owned).collect()
    }

    /// Sends the records from a file; returns its lines.
    fn kcat_sends(&self, topic: &str, codec: &str, acks: &str) -> Vec<String> {
        let line = |n| format!(r#"key-{n}|{{"n":{n},"text":"héllo {}"}}"#, "x".repeat(100));
        let lines: Vec<String> = (0..COUNT).map(line).collect();
        std::fs::write(self.directory.path().join("lines"), lines.join("\n")).expect("a file");
        let acks = match acks {
            "idempotent" => "-X enable.idempotence=true".to_owned(),
            acks => format!("-X acks={acks}"),
        };
        // librdkafka's own default places keys by CRC-32.
        self.kcat(&format!(
            "-P -t {topic} -l lines -K | -H codec={codec} -z {codec} {acks} -X topic.partitioner=murmur2_random"
        ));
        lines
    }

    fn kcat_checks(&self, codec: &str, acks: &str, placed: &BTreeMap<String, u64>) {
        let topic = format!("kcat-{codec}-{acks}");
        let mut sent = self.kcat_sends(&topic, codec, acks);
        // With acks 0 and 1 kcat ends before its records can be read.
        let begin = Instant::now();
        while self.all_records(&topic).len() < COUNT {
            assert!(begin.elapsed() < PATIENCE, "{topic}: records are missing");
        }
        let mut found = self.kcat(&format!(
            "-C -t {topic} -o beginning -e -q -K | -X check.crcs=true"
        ));
        sent.sort_unstable();
        found.sort_unstable();
        assert!(found == sent, "{topic}: {found:#?}");
        let records = self.all_records(&topic);
        assert_eq!(records.len(), COUNT, "{topic}");
        for record in records {
            let key = record["key"].as_str().expect("a key");
            let n: u64 = key.trim_start_matches("key-").parse().expect("a number");
            let text = format!("héllo {}", "x".repeat(100));
            assert_eq!(record["value"], json!({"n": n, "text": text}), "{topic}");
            assert_eq!(record["headers"], json!({"codec": codec}), "{topic}: {record}");
            assert_eq!(record["partition"], placed[key], "{topic}: {record}");
        }
    }
}

#[test]
fn kcat_sends_and_reads() {
    if kcat().is_none() {
        return;
    }
    let fixture = Fixture::new();
    let placed = fixture.placed();
    for acks in ["0", "1", "all", "idempotent"] {
        fixture.kcat_checks("none", acks, &placed);
    }
    for codec in ["gzip", "snappy", "lz4", "zstd"] {
        for acks in ["0", "1", "all"] {
            fixture.kcat_checks(codec, acks, &placed);
        }
    }
    let listed = fixture.kcat("-L -t kcat-none-all").join("\n");
    assert!(
        listed.contains("topic \"kcat-none-all\" with 4 partitions"),
        "{listed}"
    );
    let partition =
        (0..PARTITIONS).find(|partition| !fixture.records("kcat-none-all", *partition).is_empty());
    let partition = partition.expect("records");
    let end = fixture.records("kcat-none-all", partition).len();
    let first = fixture.kcat(&format!("-Q -t kcat-none-all:{partition}:1"));
    assert_eq!(first, [format!("kcat-none-all [{partition}] offset 0")]);
    let last = fixture.kcat(&format!(
        "-C -t kcat-none-all -p {partition} -o -1 -e -q -f %o\\n"
    ));
    assert_eq!(last, [(end - 1).to_string()]);
    let from = |offset: &str| {
        fixture.kcat(&format!(
            "-C -t kcat-none-all -p {partition} -o {offset} -e -q -f %o\\n"
        ))
    };
    let numbers = |first: usize| -> Vec<String> { (first..end).map(|n| n.to_string()).collect() };
    assert_eq!(from("3"), numbers(3));
    let times = fixture.records("kcat-none-all", partition);
    let times: Vec<_> = times
        .iter()
        .map(|record| record["timestamp"].as_i64().expect("a time"))
        .collect();
    let middle = times[end / 2];
    let first = times
        .iter()
        .position(|time| *time >= middle)
        .expect("it is there");
    assert_eq!(from(&format!("s@{middle}")), numbers(first));
}

#[test]
fn kcat_reads_as_a_member_and_what_is_committed_does_not_come_again() {
    if kcat().is_none() {
        return;
    }
    let fixture = Fixture::new();
    let mut sent = fixture.kcat_sends("grouped", "none", "all");
    let read = || fixture.kcat("-G kcat -X auto.offset.reset=earliest -e -q -K | grouped");
    let mut found = read();
    sent.sort_unstable();
    found.sort_unstable();
    assert!(found == sent, "{found:#?}");
    let lag = fixture.server.get("/v1/groups/kcat/lag");
    assert_eq!(lag["lag"], 0, "{lag}");
    assert_eq!(read(), [""; 0], "it was committed");
}

/// What a member says, in files.
struct Member {
    out: PathBuf,
    err: PathBuf,
}

impl Member {
    /// Starts a member that reads on. The group has the topic's name.
    fn start(fixture: &Fixture, name: &str, topic: &str, settings: &str) -> (Running, Self) {
        let file = |end: &str| fixture.directory.path().join(format!("{topic}-{name}.{end}"));
        let member = Self {
            out: file("out"),
            err: file("err"),
        };
        let fast = "-X auto.offset.reset=earliest -X heartbeat.interval.ms=200 -X session.timeout.ms=45000";
        let address = fixture.kafka;
        let arguments = format!("-b {address} -u -f %p@%o\\n {fast} {settings} -G {topic} {topic}");
        let mut command = bounded(Path::new("kcat"));
        command.args(arguments.split(' '));
        let process = Running::start(command, member.err.clone(), Some(&member.out));
        (process, member)
    }

    /// What it says of rebalances, a line each.
    fn rebalances(&self) -> Vec<String> {
        let said = std::fs::read_to_string(&self.err).expect("a file");
        let whole = said.rfind('\n').map_or("", |end| &said[..end]);
        let lines = whole.lines().filter(|line| line.starts_with("% Group "));
        lines.map(str::to_owned).collect()
    }

    /// The partitions that it has.
    fn partitions(&self) -> BTreeSet<u32> {
        let mut has = BTreeSet::new();
        for line in self.rebalances() {
            let named = line.split('[').skip(1).filter_map(|part| part.split(']').next());
            let named: BTreeSet<u32> = named.map(|number| number.parse().expect("a number")).collect();
            match line.contains("revoke") {
                true => has.retain(|partition| !named.contains(partition)),
                false => has.extend(named),
            }
        }
        has
    }

    /// The records that it has read, as `PARTITION@OFFSET`.
    fn read(&self) -> Vec<String> {
        let said = std::fs::read_to_string(&self.out).expect("a file");
        said.lines().map(str::to_owned).collect()
    }

    fn has(&self, count: usize) -> bool {
        self.partitions().len() == count
    }
}

#[test]
fn kcat_members_share_a_topic_and_nothing_comes_twice() {
    if kcat().is_none() {
        return;
    }
    let fixture = Fixture::new();
    for strategy in ["range", "roundrobin", "cooperative-sticky"] {
        let topic = &format!("shared-{strategy}");
        fixture.kcat_sends(topic, "none", "all");
        let settings = format!("-X partition.assignment.strategy={strategy}");
        let (mut one, first) = Member::start(&fixture, "first", topic, &settings);
        fixture.until("the first has all", &mut [&mut one], || {
            first.read().len() == COUNT
        });
        let (mut two, second) = Member::start(&fixture, "second", topic, &settings);
        fixture.until("each has a half", &mut [&mut one, &mut two], || {
            first.has(2) && second.has(2)
        });
        if strategy == "cooperative-sticky" {
            let lines = first.rebalances();
            let revoked = lines.iter().filter(|line| line.contains("revoke of 2")).count();
            assert_eq!(
                revoked, 1,
                "a cooperative member keeps what stays with it: {lines:?}"
            );
        }
        fixture.kcat_sends(topic, "none", "all");
        let read = || [first.read(), second.read()].concat();
        fixture.until("both read the rest", &mut [&mut one, &mut two], || {
            read().len() == 2 * COUNT
        });
        drop(one);
        fixture.until("the second has all", &mut [&mut two], || second.has(4));
        drop(two);
        let lag = fixture.server.get(&format!("/v1/groups/{topic}/lag"));
        assert_eq!(lag["lag"], 0, "both have committed: {lag}");
        let distinct: BTreeSet<String> = read().into_iter().collect();
        assert_eq!(
            (distinct.len(), read().len()),
            (2 * COUNT, 2 * COUNT),
            "{strategy}"
        );
    }
}

#[test]
fn a_static_member_of_kcat_comes_back_and_the_other_does_not_notice() {
    if kcat().is_none() {
        return;
    }
    let fixture = Fixture::new();
    let topic = "static";
    fixture.kcat_sends(topic, "none", "all");
    let named = |file: &str, name: &str| {
        let settings = format!("-X partition.assignment.strategy=range -X group.instance.id={name}");
        Member::start(&fixture, file, topic, &settings)
    };
    let (mut one, first) = named("first", "one");
    let (mut two, second) = named("second", "two");
    fixture.until("each has a half", &mut [&mut one, &mut two], || {
        first.has(2) && second.has(2)
    });
    let (had, heard) = (first.partitions(), second.rebalances());
    drop(one);
    let (mut again, third) = named("again", "one");
    fixture.until("it is back", &mut [&mut again, &mut two], || third.has(2));
    assert_eq!(third.partitions(), had);
    assert_eq!(second.rebalances(), heard);
}
