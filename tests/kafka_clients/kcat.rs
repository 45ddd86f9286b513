//! kcat, and so Debian's librdkafka.

use std::time::Instant;

use super::*;
use crate::support::PATIENCE;

fn kcat() -> Option<PathBuf> {
    let is_there = Command::new("kcat").arg("-V").output();
    if !is_there.is_ok_and(|output| output.status.success()) {
        skipped("kcat");
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
    // The offset of a time that no record has: the end.
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
