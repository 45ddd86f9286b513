//! What single commands do against the real service, and offline.

use std::io::Read;
use std::process::Command;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::service::{Service, tens};
use crate::{ended, file, in_the_end, quipu, run_offline};

#[test]
fn records_are_printed_as_their_reader_wants_them() {
    let service = Service::with_ten(1);
    service.ok("topic create text");
    service.produce("text --raw", "plain text\n\"quoted\"\nnull\n");
    let with_header = r#"{"key":"k","value":1,"timestamp":0,"headers":{"type":"x","n":"1"}}"#;
    service.produce("text", &format!("{with_header}\n"));
    let format = r"text --format %t/%p@%o\t%k=%v; --from offset:3";
    for (line, expected) in [
        ("text --raw", "plain text\n\"quoted\"\nnull\n1\n"),
        (format, "text/0@3\tk=1;"),
        ("text --header type=x --header n=1 --format %o", "3"),
        ("text --header type=y", ""),
        (
            "text --header 'type=#' --header type=y --header 'n=*' --format %o",
            "3",
        ),
        (
            "text --from offset:0 --header 'type=*' --header type=y --format %o",
            "3",
        ),
        ("t text --format '%t%v ' --key b --max 2", "t1 t4 "),
        ("t text --from offset:3 --header type=x --format %t", "text"),
        ("t --raw --until 1970-01-01T00:00:02Z", "0\n1\n"),
        ("t --raw --from -10m", ""),
        ("t --group g --raw --max 2", "0\n1\n"),
        ("t --group g --format %v --key c", "258"),
    ] {
        assert_eq!(service.ok(&format!("consume {line}")), expected, "{line}");
    }
    // A record names its topic where there are several, however it is read.
    for more in ["", "--from offset:0", "--group both"] {
        let text = service.ok(&format!("consume t text --format %t {more}"));
        assert_eq!(text.len(), "t".len() * 10 + "text".len() * 4, "{text}");
        if more.contains("both") {
            service.ok("group delete both");
        }
        let text = service.ok(&format!("consume text t --max 1 {more}"));
        let record: Value = serde_json::from_str(&text).unwrap();
        assert!(record["topic"].is_string(), "{text}");
    }
    for more in ["", "--follow", "--group none", "--group none --follow", "text"] {
        let ended = service.run(&format!("consume t {more} --from offset:11"));
        ended.fails_as("quipu: offset-out-of-range: offset 11 lies beyond the end of partition 0 of t, 10\n");
        assert_eq!(ended.out, "", "{more}");
    }
    service.fails("lag none", "unknown-group");
}

#[test]
fn a_reader_that_does_not_read_holds_up_no_signal() {
    let service = Service::start();
    service.ok("topic create t");
    service.produce("t", &tens(0..20_000));
    for line in ["consume t", "consume t --follow", "replay t --from 0"] {
        for signal in [Signal::INT, Signal::TERM] {
            let mut running = service.spawn(line);
            running.out.read_exact(&mut [0]).unwrap();
            kill_process(Pid::from_child(&running.child), signal).unwrap();
            // More than a pipe holds is left, and nobody reads it.
            running.end_unread().quiet();
        }
    }
}

#[test]
fn another_consumer_under_the_same_group_is_noticed() {
    let service = Service::start();
    service.ok("topic create t");
    service.produce("t", &tens(0..20_000));
    let dir = TempDir::new().unwrap();
    let path = file(&dir, "offsets", "t 0 3\n");
    let seek = format!("group seek g --to-file {path}");
    for follow in ["", "--follow"] {
        for other in ["consume t --group g", &seek] {
            let mut consumer = service.spawn(&format!("consume t --group g {follow}"));
            consumer.line();
            // More than a pipe holds is left: the other one ends before this one has printed it.
            service.ok(other);
            consumer.lines(19_999);
            let ended = consumer.stop();
            let expected = "quipu: warning: somebody else commits offsets of group g too";
            assert!(ended.err.starts_with(expected), "{other}: {}", ended.err);
            assert_eq!(ended.err.lines().count(), 1, "{}", ended.err);
            ended.ok();
            service.ok("group reset g --topic t --to earliest");
        }
    }
}

#[test]
fn a_group_is_moved_to_where_another_is_and_its_members_are_kicked() {
    let service = Service::with_ten(1);
    service.ok("consume t --group one --max 4");
    let dry = service.json("group seek two --to-group one --dry-run");
    assert_eq!(dry["dry_run"], true);
    assert_eq!(dry["offsets"][0]["new_offset"], 4);
    service.fails("group describe two", "unknown-group");
    let text = service.ok("group seek two --to-group one --topic t");
    assert_eq!(text, "TOPIC  PARTITION  OLD  NEW\nt              0    -    4\n");
    assert_eq!(service.values("consume t --group two --max 1"), [4]);
    let none = service.failed("group seek two --to-group one --topic u");
    assert_eq!(none, "quipu: group one has no offsets in these topics\n");

    let body = json!({"topics": ["t"], "wait_ms": 0});
    service.post("/v1/groups/one/members/m/poll", &body);
    service.fails("group seek one --to-group two", "live members");
    assert_eq!(service.ok("group kick one m"), "member m of group one is gone\n");
    let unknown = "unknown-member: group one has no member m; quipu group describe one shows its members";
    service.fails("group kick one m", unknown);
    service.ok("group seek one --to-group two");
}

#[test]
fn settings_of_a_group_are_changed_and_shown() {
    let service = Service::with_ten(1);
    let join = json!({"topics": ["t"], "type": "shared", "wait_ms": 0});
    service.post("/v1/groups/q/members/m/poll", &join);
    let alter = "group alter q --lease-ms 60000 --filter key=a.* --filter header.type=b --filter key=c";
    assert_eq!(service.ok(alter), "group q is changed\n");
    let described = service.ok("group describe q");
    assert!(described.contains("leases of 60000 ms"), "{described}");
    let shown = r#"only records that match {"header.type":["b"],"key":["a.*","c"]}"#;
    assert!(described.contains(shown), "{described}");
    let altered = service.json("group alter q --unset filter --unset lease_ms --max-deliveries 2");
    let expected = json!({"lease_ms": 30_000, "max_deliveries": 2, "dead_letter_topic": null, "order": null,
        "filter": null});
    assert_eq!(altered["settings"], expected);
    service.fails("group alter q --filter key=a*", "invalid-request");
    service.fails("group alter q --unset leases", "invalid-request");
    service.fails("group alter q --order key", "live members");
    service.ok("group kick q m");
    service.ok("group alter q --order key");
    assert!(service.ok("group describe q").contains("in order of each key"));
    service.fails("group alter none --unset filter", "unknown-group");
}

#[test]
fn dead_letters_are_given_back_or_discarded() {
    let service = Service::with_ten(1);
    let join = json!({"topics": ["t"], "type": "shared", "wait_ms": 0, "max_records": 3});
    service.post("/v1/groups/q/members/m/poll", &join);
    let rejected = [0, 1, 2].map(|n| json!({"topic": "t", "partition": 0, "offset": n}));
    service.post("/v1/groups/q/members/m/settle", &json!({"reject": rejected}));
    let redrive = "group redrive q --topic t.dlq";
    let dry = "group redrive q --reason rej --dry-run";
    assert_eq!(service.ok(dry), "3 dead letters would be given back to q\n");
    let chosen = format!("{redrive} --offset 0:0 --offset 0:2 --offset 0:9 --dry-run");
    assert_eq!(service.ok(&chosen), "2 dead letters would be given back to q\n");
    for wrong in [
        "group redrive q --offset 0:1",
        "group redrive q --topic t.dlq --offset 1",
    ] {
        assert_eq!(service.run(wrong).code, Some(2), "{wrong}");
    }
    assert_eq!(service.json(&format!("{redrive} --max 1"))["redriven"], 1);
    let one = "1 dead letter discarded; there may be more\n";
    assert_eq!(service.ok("group redrive q --discard --max 1"), one);
    let last = json!({"redriven": 1, "discarded": 0, "at_end": true, "dry_run": false});
    assert_eq!(service.json(redrive), last);
    assert_eq!(service.ok(redrive), "0 dead letters given back to q\n");
}

#[test]
fn the_oldest_records_of_a_topic_are_trimmed() {
    let service = Service::with_ten(1);
    let trim =
        |before: &str| service.json(&format!("topic trim t --before {before}"))["partitions"][0].clone();
    assert_eq!(trim("1970-01-01T00:00:03Z --dry-run")["records"], 3);
    assert_eq!(trim("offset:2")["records"], 2, "the dry run deleted nothing");
    assert_eq!(service.values("consume t --max 1"), [2]);
    assert_eq!(trim("offset:1")["records"], 0, "deleted records stay deleted");
    service.fails("topic trim t --before offset:11", "beyond the end");
    assert_eq!(trim("latest")["log_start_offset"], 10);
}

#[test]
fn a_lag_that_is_too_large_ends_with_1_and_names_the_group() {
    let service = Service::with_ten(1);
    service.ok("consume t --group g --max 3");
    for (line, behind) in [
        ("lag --fail-above 6", Some("g by 7 records")),
        ("lag g --fail-above 6", Some("g by 7 records")),
        ("lag --fail-above-time 1h30m --output json", Some("g by ")),
        ("lag --fail-above 7", None),
    ] {
        let ended = service.run(line);
        assert!(!ended.out.is_empty(), "the lag is printed all the same");
        match behind {
            Some(text) => assert!(ended.failed().contains(text), "{line}"),
            None => assert_eq!(ended.code, Some(0)),
        }
    }
}

#[test]
fn the_server_is_chosen_before_or_after_the_subcommand_or_by_a_context() {
    let service = Service::start();
    service.ok("topic create t");
    let home = TempDir::new().unwrap();
    let run = |line: &str| ended(quipu(line).env("XDG_CONFIG_HOME", home.path()));
    let url = &service.url;
    for line in [
        format!("context set here --server {url} --token secret"),
        format!("--server {url} context set also-here"),
        format!("--server {url} --output json topic list"),
        format!("topic --server {url} list"),
        "topic list --context here".to_owned(),
        "--context also-here topic list".to_owned(),
        "context use here".to_owned(),
        "topic list".to_owned(),
        "context delete also-here".to_owned(),
    ] {
        run(&line).ok();
    }
    let listed: Value = serde_json::from_str(&run("context list --output json").ok()).unwrap();
    let row = json!({"context": "here", "server": url, "current": true, "has_token": true});
    assert_eq!(listed, json!({"contexts": [row]}), "no token is shown");
    let file = home.path().join("quipu/contexts.toml");
    let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&file).unwrap().permissions());
    assert_eq!(mode & 0o077, 0, "tokens are the user's own");
    // The environment wins over the context in use, and a wrong file is named.
    let mut command = quipu("topic list");
    command.env("XDG_CONFIG_HOME", home.path());
    let elsewhere = ended(command.env("QUIPU_SERVER", "http://127.0.0.1:1"));
    assert!(elsewhere.failed().contains("cannot reach http://127.0.0.1:1"));
    std::fs::write(&file, "current = 5").unwrap();
    assert!(run("topic list").failed().contains("contexts.toml"));
}

#[test]
fn a_load_is_measured_on_a_topic_of_its_own_that_is_deleted() {
    let service = Service::start();
    for line in [
        "produce --records 500 --record-bytes 1kB --batch 7",
        "fetch --records 500 --connections 9",
        "tail --records 50 --connections 1",
        // More than one request may have: it is cut.
        "produce --records 50 --record-bytes 1MiB --batch 100000",
        "fetch --records 50 --record-bytes 1MiB",
        "tail --records 50 --record-bytes 1MiB --rate 1000000 --connections 1",
    ] {
        let sums = service.json(&format!("bench {line} --partitions 3"));
        assert!(line.starts_with(sums["bench"].as_str().unwrap()), "{sums}");
        assert!(sums["records"].as_u64() >= Some(50), "{sums}");
        let latency = |name: &str| sums["latency_ms"][name].as_f64();
        assert!(latency("p50") <= latency("p99"), "{sums}");
        assert!(latency("max") > Some(0.0), "{sums}");
        assert_eq!(service.json("topic list")["topics"], json!([]));
    }
    let text = service.ok("bench produce --records 10 --keep");
    assert!(text.starts_with("produce: 10 records (1.0 kB) in "), "{text}");
    assert!(text.contains("\nlatency: p50 "), "{text}");
    assert_eq!(service.json("topic list")["topics"].as_array().unwrap().len(), 1);
}

#[test]
fn names_are_completed_from_the_server() {
    let service = Service::with_ten(1);
    service.ok("topic create orders");
    service.ok("consume t --group billing");
    for (words, expected) in [
        ("topic describe ''", "orders\nt\n"),
        ("consume t --group b", "billing\n"),
        ("topic des", "describe\n"),
        ("lag --fail-a", "--fail-above\n--fail-above-time\n"),
        ("group kick none ''", ""),
    ] {
        in_the_end(expected, || service.run(&format!("complete -- {words}"))).ok();
    }
    let script = run_offline("completions bash").ok();
    let quipu = env!("CARGO_BIN_EXE_quipu");
    let url = &service.url;
    for (line, expected) in [
        (format!("--server {url} topic describe o"), "orders"),
        (format!("--server={url} topic  describe o"), "orders"),
        (format!("--server {url} consume t --group=b"), "billing"),
        (format!("--server {url} consume t --group="), "billing"),
        ("topic list --output=j".to_owned(), "json"),
    ] {
        // bash breaks words at `:` and `=` too, and takes what follows the last break.
        let words = line.replace(':', " : ").replace('=', " = ");
        let test = format!(
            "{script}\nquipu() {{ {quipu} \"$@\"; }}\nCOMP_LINE='quipu {line}'\nCOMP_WORDS=(quipu {words})\n\
             COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1))\n_quipu\necho \"${{COMPREPLY[@]}}\"\n"
        );
        in_the_end(&format!("{expected}\n"), || {
            Command::new("bash").args(["-c", &test]).output().unwrap().into()
        });
    }
}

#[test]
fn the_files_of_a_data_directory_are_printed_and_damage_in_them_is_named() {
    let service = Service::with_ten(1);
    service.produce("t", &tens(10..13));
    let _running = service.restart_after(|data| {
        let partition = data.join("topics/t/0");
        let path = |name: &str| partition.join(name).to_str().unwrap().to_owned();
        let log = path("00000000000000000000.log");
        let index = path("00000000000000000000.index");
        let times = path("00000000000000000000.timeindex");
        let journals = std::fs::read_dir(data.join("journal")).unwrap();
        let journal = journals.map(|entry| entry.unwrap().path()).min().unwrap();
        let journal = journal.to_str().unwrap();
        let inspect = |file: &str| run_offline(&format!("inspect {file}"));
        let kinds = [
            (&*log, "segment"),
            (&index, "index"),
            (&times, "time index"),
            (journal, "journal"),
        ];
        for (file, kind) in kinds {
            let answer = inspect(&format!("{file} --output json")).ok();
            let answer: Value = serde_json::from_str(&answer).unwrap();
            assert_eq!((&answer["kind"], &answer["damage"]), (&json!(kind), &json!([])));
            assert!(!answer["parts"].as_array().unwrap().is_empty(), "{answer}");
        }
        let text = inspect(&log).out;
        let begin = "batch at 0: first_offset 0, last_offset 9, records 10, ";
        assert!(text.starts_with(begin), "{text}");
        assert!(text.contains(": segment of "), "{text}");
        assert!(text.contains("first_timestamp 1970-01-01T00:00:00Z"), "{text}");

        let flipped = |file: &str, at: usize| {
            let mut bytes = std::fs::read(file).unwrap();
            bytes[at] ^= 1;
            bytes
        };
        let whole = std::fs::read(&log).unwrap();
        std::fs::write(&log, flipped(&log, 70)).unwrap();
        let damaged = inspect(&log);
        assert!(damaged.failed().contains("is damaged: byte 0: crc32c"));
        let is_printed = damaged.out.contains("first_offset 10");
        assert!(is_printed, "the later batches are printed too");
        std::fs::write(&log, &whole[..whole.len() - 1]).unwrap();
        assert!(inspect(&log).failed().contains("is damaged: byte "));
        std::fs::write(&log, &whole).unwrap();
        let wrong = path("wrong.index");
        std::fs::write(&wrong, flipped(&index, 20)).unwrap();
        assert!(inspect(&wrong).failed().contains("checksum of the header"));
        std::fs::remove_file(&wrong).unwrap();
        let cut = path("wrong.journal");
        let whole = std::fs::read(journal).unwrap();
        std::fs::write(&cut, &whole[..whole.len() - 1]).unwrap();
        assert!(inspect(&cut).failed().contains("its end is missing"));
        for name in ["wrong.journal", "wrong.index", "wrong.timeindex"] {
            std::fs::write(path(name), "").unwrap();
            assert!(inspect(&path(name)).failed().contains("is damaged: "), "{name}");
        }
        let foreign = data.join("topics/t/topic.json");
        for (file, part) in [
            (
                foreign.to_str().unwrap(),
                "is not a segment, an index or a journal file of quipu",
            ),
            (data.to_str().unwrap(), "is a directory"),
            ("no-such-file", "no-such-file"),
        ] {
            assert!(inspect(file).failed().contains(part), "{file}");
        }
    });
}

#[test]
fn every_help_has_an_example_and_offline_commands_have_no_server() {
    let mut commands = vec![String::new()];
    let mut leaves = 0;
    while let Some(command) = commands.pop() {
        let text = run_offline(&format!("{command} --help")).ok();
        let listed = text.split_once("\nCommands:\n").map_or("", |(_, rest)| rest);
        let lines = listed.lines().take_while(|line| !line.is_empty());
        let names = lines.filter_map(|line| line.strip_prefix("  ")?.split(' ').next());
        let before = commands.len();
        let names = names.filter(|name| !["", "help"].contains(name));
        commands.extend(names.map(|name| format!("{command} {name}")));
        leaves += usize::from(commands.len() == before);
        let first = command.split_whitespace().next().unwrap_or_default();
        assert!(text.contains("\nExamples:\n"), "{command}: {text}");
        let is_offline = ["serve", "demo", "verify", "inspect", "restore", "completions"].contains(&first);
        assert_eq!(text.contains("--server"), !is_offline, "{command}");
    }
    assert!(leaves > 30, "only {leaves} commands were found");
}
