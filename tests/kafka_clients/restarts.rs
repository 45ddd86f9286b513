//! Members of groups of real clients, all at once, while the server is killed (`kill -9`) and comes back: each record is
//! read, what was committed is not read again, and the partitions of a classic group's members do not change hands.

use std::collections::BTreeSet;

use super::phoenix::Phoenix;
use super::*;

const KILLS: usize = 4;
/// Records that are sent before and after each kill.
const RECORDS: u32 = 200;

/// A group, and its client.
struct Group {
    name: String,
    out: PathBuf,
    process: Running,
    /// A classic generation is durable, members of the server-side protocol are not; and kafkajs joins again whenever it has
    /// lost its connection.
    keeps_its_place: bool,
}

impl Group {
    /// Each member and its partitions; all must have been given out. Not the generation: Java's client forgets what it knew of
    /// topics when the only broker is away, and joins again for that, with what it has.
    fn members(&self, phoenix: &Phoenix) -> Option<Vec<String>> {
        let group = phoenix
            .server()
            .connect()
            .get(&format!("/v1/groups/{}", self.name));
        let members = group.json()["members"].as_array()?.clone();
        let is_shared = members.len() == 2
            && members.iter().all(|member| {
                let count = |partitions: &Value| partitions.as_array().map(Vec::len);
                count(&member["assignment"]) == Some(2)
            });
        let row = |member: &Value| format!("{} {}", member["member_id"], member["assignment"]);
        is_shared.then(|| members.iter().map(row).collect())
    }

    fn has_read_all(&self, phoenix: &Phoenix) -> bool {
        let answer = phoenix
            .server()
            .connect()
            .get(&format!("/v1/groups/{}/lag", self.name));
        answer.status == 200 && answer.json()["lag"] == 0
    }

    /// What it has read, as `PARTITION@OFFSET`.
    fn read(&self) -> Vec<(u64, u64)> {
        let said = std::fs::read_to_string(&self.out).expect("its output");
        said.split_whitespace()
            .filter_map(|word| {
                let (partition, offset) = word.split_once('@')?;
                Some((partition.parse().ok()?, offset.parse().ok()?))
            })
            .collect()
    }
}

/// Waits until something holds of each group.
fn each(phoenix: &Phoenix, groups: &mut [Group], what: &str, holds: impl Fn(&Group) -> bool) {
    for at in 0..groups.len() {
        let begin = Instant::now();
        while !holds(&groups[at]) {
            for group in groups.iter_mut() {
                let ended = group.process.child.try_wait().expect("a process");
                let said = || std::fs::read_to_string(&group.process.log).unwrap_or_default();
                assert!(
                    ended.is_none(),
                    "{} has ended with {ended:?}: {}",
                    group.name,
                    said()
                );
            }
            let (name, log) = (&groups[at].name, phoenix.server().log());
            assert!(
                begin.elapsed() < PATIENCE,
                "{name}: {what}: waited in vain:\n{log}"
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// Sends records; returns the partition and the offset of each.
fn send(phoenix: &Phoenix) -> Vec<(u64, u64)> {
    let records: Vec<_> = (0..RECORDS)
        .map(|n| json!({"partition": n % PARTITIONS, "value": n}))
        .collect();
    let body = json!({ "records": records }).to_string();
    let path = "/v1/topics/read/records";
    let answer = phoenix
        .server()
        .expect(200, "POST", path, "application/json", body.as_bytes());
    let number = |value: &Value| value.as_u64().expect("a number");
    let offsets = answer["offsets"].as_array().expect("offsets");
    offsets
        .iter()
        .map(|at| (number(&at["partition"]), number(&at["offset"])))
        .collect()
}

#[test]
fn members_of_groups_go_on_where_they_were_while_the_server_is_killed() {
    let confluent = || python("confluent-kafka", "confluent_kafka", "confluent.py");
    let clients = [
        ("lrd", "readers", confluent()),
        ("lrd-new", "server_side_readers", confluent()),
        ("aio", "readers", python("aiokafka", "aiokafka", "aio.py")),
        ("kjs", "readers", node("kafkajs", "kafkajs.mjs")),
        ("franz", "readers", go()),
        ("franz-new", "server_side_readers", go()),
        ("java", "readers", java_clients()),
        ("java-new", "server_side_readers", java_clients()),
    ];
    let mut phoenix = Phoenix::new();
    let stop = phoenix.directory.path().join("stop");
    phoenix.server().create_topic("read", PARTITIONS);
    let mut groups = Vec::new();
    for (prefix, part, program) in clients {
        let Some(Program(mut command)) = program else {
            continue;
        };
        command
            .args([&phoenix.kafka.to_string(), prefix, part])
            .env("QUIPU_TEST_STOP", &stop)
            .current_dir(phoenix.directory.path());
        let [out, err] = ["out", "err"].map(|end| phoenix.directory.path().join(format!("{prefix}.{end}")));
        groups.push(Group {
            name: format!("{prefix}-readers"),
            process: Running::start(command, err, Some(&out)),
            out,
            keeps_its_place: part == "readers" && prefix != "kjs",
        });
    }
    let (mut sent, mut under_way) = (BTreeSet::new(), BTreeSet::new());
    let are_shared = |phoenix: &Phoenix, groups: &mut [Group]| {
        let holds = |group: &Group| group.members(phoenix).is_some();
        each(phoenix, groups, "two members share the topic", holds);
    };
    are_shared(&phoenix, &mut groups);
    let before: Vec<_> = groups.iter().map(|group| group.members(&phoenix)).collect();
    for kill in 0..KILLS {
        let is_quiet = kill % 2 == 0;
        if is_quiet {
            are_shared(&phoenix, &mut groups);
        }
        let new = send(&phoenix);
        sent.extend(new.clone());
        if is_quiet {
            each(&phoenix, &mut groups, "all is committed", |group| {
                group.has_read_all(&phoenix)
            });
        } else {
            // Some have read what they have not committed.
            under_way.extend(new);
        }
        phoenix.kill();
        phoenix.rise();
    }
    are_shared(&phoenix, &mut groups);
    sent.extend(send(&phoenix));
    each(&phoenix, &mut groups, "all is committed in the end", |group| {
        group.has_read_all(&phoenix) && group.members(&phoenix).is_some()
    });
    for (group, before) in groups.iter().zip(before) {
        let after = group.members(&phoenix);
        assert!(
            after == before || !group.keeps_its_place,
            "a restart moves no partition: {}: {before:?} became {after:?}",
            group.name
        );
    }
    std::fs::write(&stop, "").expect("a file");
    for mut group in groups {
        let status = group.process.child.wait().expect("it ends");
        let said = std::fs::read_to_string(&group.process.log).unwrap_or_default();
        assert!(status.success(), "{}: {status}: {said}", group.name);
        let (read, mut seen) = (group.read(), BTreeSet::new());
        for at in read {
            let is_new = seen.insert(at);
            assert!(
                is_new || under_way.contains(&at),
                "{} read {at:?} again, which it had committed",
                group.name
            );
        }
        assert_eq!(seen, sent, "what {} has read, and what was sent", group.name);
    }
}
