//! What single commands do against the real service, and offline.

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Command, Stdio};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::service::{Service, interrupt, post, ten, values};
use crate::{failed, quipu, run, stderr, stdout};

#[test]
fn records_are_printed_as_their_reader_wants_them() {
    let service = Service::with_ten("1");
    service.ok(&["topic", "create", "text"]);
    service.produce(&["text", "--raw"], "plain text\n\"quoted\"\nnull\n");
    let with_header =
        "{\"key\":\"k\",\"value\":1,\"timestamp\":0,\"headers\":{\"type\":\"x\",\"n\":\"1\"}}\n";
    service.produce(&["text"], with_header);
    for (args, expected) in [
        (&["text", "--raw"][..], "plain text\n\"quoted\"\nnull\n1\n"),
        (
            &["text", "--format", "%t/%p@%o\\t%k=%v;", "--from", "offset:3"],
            "text/0@3\tk=1;",
        ),
        (
            &["text", "--header", "type=x", "--header", "n=1", "--format", "%o"],
            "3",
        ),
        (&["text", "--header", "type=y"], ""),
        (
            &["t", "text", "--format", "%t%v ", "--key", "b", "--max", "2"],
            "t1 t4 ",
        ),
        (
            &[
                "t", "text", "--from", "offset:3", "--header", "type=x", "--format", "%t",
            ],
            "text",
        ),
        (&["t", "--raw", "--until", "1970-01-01T00:00:02Z"], "0\n1\n"),
        (&["t", "--raw", "--from", "-10m"], ""),
        (&["t", "--group", "g", "--raw", "--max", "2"], "0\n1\n"),
        (&["t", "--group", "g", "--format", "%v", "--key", "c"], "258"),
    ] {
        assert_eq!(service.ok(&[&["consume"], args].concat()), expected, "{args:?}");
    }
    // A record names its topic where there are several, however it is read.
    for more in [&[][..], &["--from", "offset:0"], &["--group", "both"]] {
        let text = service.ok(&[&["consume", "t", "text", "--format", "%t"], more].concat());
        assert_eq!(text.len(), "t".len() * 10 + "text".len() * 4, "{text}");
        if more.contains(&"both") {
            service.ok(&["group", "delete", "both"]);
        }
        let text = service.ok(&[&["consume", "text", "t", "--max", "1"], more].concat());
        let record: Value = serde_json::from_str(&text).unwrap();
        assert!(record["topic"].is_string(), "{text}");
    }
    assert_eq!(
        failed(&run(&service.url, &["consume", "t", "--from", "offset:11"])),
        "quipu: offset-out-of-range: offset 11 lies beyond the end of partition 0 of t, 10\n"
    );
}

#[test]
fn a_reader_that_does_not_read_holds_up_no_signal() {
    let service = Service::start();
    service.ok(&["topic", "create", "t"]);
    let lines: String = (0..20_000).map(ten).collect();
    service.produce(&["t"], &lines);
    for args in [
        &["consume", "t"][..],
        &["consume", "t", "--follow"],
        &["replay", "t", "--from", "0"],
    ] {
        let mut child = service.spawn(args);
        let mut out = child.stdout.take().unwrap();
        out.read_exact(&mut [0]).unwrap();
        interrupt(&child);
        // More than a pipe holds is left, and nobody takes it.
        let output = child.wait_with_output().unwrap();
        assert_eq!(
            (output.status.code(), &*stderr(&output)),
            (Some(0), ""),
            "{args:?}"
        );
    }
}

#[test]
fn another_consumer_under_the_same_group_is_noticed() {
    let service = Service::with_ten("1");
    let mut child = service.spawn(&["consume", "t", "--group", "g", "--follow"]);
    while service.json(&["group", "list"])["groups"][0]["group"] != "g"
        || service.json(&["lag", "g"])["lag"] != 0
    {
        std::thread::yield_now();
    }
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("offsets");
    std::fs::write(&path, "t 0 3\n").unwrap();
    service.ok(&["group", "seek", "g", "--to-file", path.to_str().unwrap()]);
    service.produce(&["t"], &ten(10));
    let mut line = String::new();
    BufReader::new(child.stderr.take().unwrap())
        .read_line(&mut line)
        .unwrap();
    assert!(
        line.starts_with("quipu: warning: somebody else commits offsets of group g too"),
        "{line}"
    );
    interrupt(&child);
    assert_eq!(child.wait_with_output().unwrap().status.code(), Some(0));
}

#[test]
fn a_group_is_moved_to_where_another_is_and_its_members_are_kicked() {
    let service = Service::with_ten("1");
    service.ok(&["consume", "t", "--group", "one", "--max", "4"]);
    let dry = service.json(&["group", "seek", "two", "--to-group", "one", "--dry-run"]);
    assert_eq!(
        (&dry["dry_run"], &dry["offsets"][0]["new_offset"]),
        (&json!(true), &json!(4))
    );
    assert!(failed(&run(&service.url, &["group", "describe", "two"])).contains("unknown-group"));
    let text = service.ok(&["group", "seek", "two", "--to-group", "one", "--topic", "t"]);
    assert_eq!(text, "TOPIC  PARTITION  OLD  NEW\nt              0    -    4\n");
    assert_eq!(
        values(&service.ok(&["consume", "t", "--group", "two", "--max", "1"])),
        [4]
    );
    let none = failed(&run(
        &service.url,
        &["group", "seek", "two", "--to-group", "one", "--topic", "u"],
    ));
    assert_eq!(none, "quipu: group one has no offsets in these topics\n");

    post(
        &service,
        "/v1/groups/one/members/m/poll",
        &json!({"topics": ["t"], "wait_ms": 0}),
    );
    assert!(
        failed(&run(&service.url, &["group", "seek", "one", "--to-group", "two"])).contains("live members")
    );
    assert_eq!(
        service.ok(&["group", "kick", "one", "m"]),
        "member m of group one is gone\n"
    );
    assert!(failed(&run(&service.url, &["group", "kick", "one", "m"])).contains("unknown-member"));
    service.ok(&["group", "seek", "one", "--to-group", "two"]);
}

#[test]
fn dead_letters_are_given_back() {
    let service = Service::with_ten("1");
    let join = json!({"topics": ["t"], "type": "shared", "wait_ms": 0, "max_records": 3});
    post(&service, "/v1/groups/q/members/m/poll", &join);
    let rejected: Vec<Value> = (0..3)
        .map(|n| json!({"topic": "t", "partition": 0, "offset": n}))
        .collect();
    post(
        &service,
        "/v1/groups/q/members/m/settle",
        &json!({"reject": rejected}),
    );
    let redrive =
        |more: &[&str]| service.json(&[&["group", "redrive", "q", "--topic", "t.dlq"], more].concat());
    assert_eq!(redrive(&["--max", "2"])["redriven"], 2);
    assert_eq!(redrive(&[]), json!({"redriven": 1, "at_end": true}));
    assert_eq!(
        service.ok(&["group", "redrive", "q", "--topic", "t.dlq"]),
        "0 records of t.dlq given back to group q\n"
    );
}

#[test]
fn the_oldest_records_of_a_topic_are_trimmed() {
    let service = Service::with_ten("1");
    let trim = |args: &[&str]| {
        service.json(&[&["topic", "trim", "t", "--before"], args].concat())["partitions"][0].clone()
    };
    assert_eq!(trim(&["1970-01-01T00:00:03Z", "--dry-run"])["records"], 3);
    assert_eq!(trim(&["offset:2"])["records"], 2, "the dry run deleted nothing");
    assert_eq!(values(&service.ok(&["consume", "t", "--max", "1"])), [2]);
    assert_eq!(trim(&["offset:1"])["records"], 0, "what is gone stays gone");
    assert!(
        failed(&run(
            &service.url,
            &["topic", "trim", "t", "--before", "offset:11"]
        ))
        .contains("beyond the end")
    );
    assert_eq!(trim(&["latest"])["log_start_offset"], 10);
}

#[test]
fn a_lag_that_is_too_large_ends_with_1_and_names_the_group() {
    let service = Service::with_ten("1");
    service.ok(&["consume", "t", "--group", "g", "--max", "3"]);
    for (args, behind) in [
        (&["lag", "--fail-above", "6"][..], Some("g by 7 records")),
        (&["lag", "g", "--fail-above", "6"], Some("g by 7 records")),
        (
            &["lag", "--fail-above-time", "1h30m", "--output", "json"],
            Some("g by "),
        ),
        (&["lag", "--fail-above", "7"], None),
    ] {
        let output = run(&service.url, args);
        match behind {
            Some(text) => assert!(failed(&output).contains(text), "{args:?}"),
            None => assert_eq!(output.status.code(), Some(0)),
        }
        assert!(!output.stdout.is_empty(), "the lag is printed all the same");
    }
}

#[test]
fn the_server_is_chosen_before_or_after_the_subcommand_or_by_a_context() {
    let service = Service::start();
    service.ok(&["topic", "create", "t"]);
    let home = TempDir::new().unwrap();
    let command = |args: &[&str]| {
        let output = quipu(args).env("XDG_CONFIG_HOME", home.path()).output().unwrap();
        (output.status.code(), stdout(&output), stderr(&output))
    };
    for args in [
        &[
            "context",
            "set",
            "here",
            "--server",
            &service.url,
            "--token",
            "secret",
        ][..],
        &["--server", &service.url, "context", "set", "also-here"],
        &["--server", &service.url, "--output", "json", "topic", "list"],
        &["topic", "--server", &service.url, "list"],
        &["topic", "list", "--context", "here"],
        &["--context", "also-here", "topic", "list"],
        &["context", "use", "here"],
        &["topic", "list"],
        &["context", "delete", "also-here"],
    ] {
        let (code, _, text) = command(args);
        assert_eq!(code, Some(0), "{args:?}: {text}");
    }
    let (_, listed, _) = command(&["context", "list", "--output", "json"]);
    let row = json!({"context": "here", "server": service.url, "current": true, "has_token": true});
    assert_eq!(
        serde_json::from_str::<Value>(&listed).unwrap(),
        json!({"contexts": [row]}),
        "no token is shown"
    );
    let file = home.path().join("quipu/contexts.toml");
    let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&file).unwrap().permissions());
    assert_eq!(mode & 0o077, 0, "tokens are the user's own");
    // The environment wins over the context in use, and a wrong file is named.
    let output = quipu(&["topic", "list"])
        .env("XDG_CONFIG_HOME", home.path())
        .env("QUIPU_SERVER", "http://127.0.0.1:1")
        .output()
        .unwrap();
    assert!(failed(&output).contains("cannot reach http://127.0.0.1:1"));
    std::fs::write(&file, "current = 5").unwrap();
    let (code, _, text) = command(&["topic", "list"]);
    assert!(code == Some(1) && text.contains("contexts.toml"), "{text}");
}

#[test]
fn a_load_is_measured_on_a_topic_of_its_own_that_is_deleted() {
    let service = Service::start();
    for args in [
        &[
            "produce",
            "--records",
            "500",
            "--record-bytes",
            "1kB",
            "--batch",
            "7",
        ][..],
        &["fetch", "--records", "500", "--connections", "9"],
        &["tail", "--records", "50", "--connections", "1"],
    ] {
        let sums = service.json(&[&["bench", "--output", "json"], args, &["--partitions", "3"]].concat());
        assert_eq!(sums["bench"], args[0]);
        assert!(sums["records"].as_u64() >= Some(50), "{sums}");
        let latency = &sums["latency_ms"];
        assert!(
            latency["p50"].as_f64() <= latency["p99"].as_f64() && latency["max"].as_f64() > Some(0.0),
            "{sums}"
        );
        assert_eq!(service.json(&["topic", "list"])["topics"], json!([]));
    }
    let text = service.ok(&["bench", "produce", "--records", "10", "--keep"]);
    assert!(
        text.starts_with("produce: 10 records (1.0 kB) in ") && text.contains("\nlatency: p50 "),
        "{text}"
    );
    assert_eq!(
        service.json(&["topic", "list"])["topics"]
            .as_array()
            .unwrap()
            .len(),
        1
    );
}

#[test]
fn names_are_completed_from_the_server() {
    let service = Service::with_ten("1");
    service.ok(&["topic", "create", "orders"]);
    service.ok(&["consume", "t", "--group", "billing"]);
    for (words, expected) in [
        (&["topic", "describe", ""][..], "orders\nt\n"),
        (&["consume", "t", "--group", "b"], "billing\n"),
        (&["topic", "des"], "describe\n"),
        (&["lag", "--fail-a"], "--fail-above\n--fail-above-time\n"),
        (&["group", "kick", "none", ""], ""),
    ] {
        assert_eq!(
            service.ok(&[&["complete", "--"], words].concat()),
            expected,
            "{words:?}"
        );
    }
    let script = stdout(&quipu(&["completions", "bash"]).output().unwrap());
    let test = format!(
        "{script}\nquipu() {{ {} \"$@\"; }}\nCOMP_WORDS=(quipu topic describe o)\nCOMP_CWORD=3\n_quipu\necho \"${{COMPREPLY[@]}}\"\n",
        env!("CARGO_BIN_EXE_quipu")
    );
    let mut bash = Command::new("bash")
        .env("QUIPU_SERVER", &service.url)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    bash.stdin.take().unwrap().write_all(test.as_bytes()).unwrap();
    assert_eq!(stdout(&bash.wait_with_output().unwrap()), "orders\n");
}

#[test]
fn the_files_of_a_data_directory_are_printed_and_damage_in_them_is_named() {
    let service = Service::with_ten("1");
    let batches: String = (10..13).map(ten).collect();
    service.produce(&["t"], &batches);
    let _running = service.restart_after(|data| {
        let partition = data.join("topics/t/0");
        let path = |name: &str| partition.join(name).to_str().unwrap().to_owned();
        let (log, index, times) = (
            path("00000000000000000000.log"),
            path("00000000000000000000.index"),
            path("00000000000000000000.timeindex"),
        );
        let journals = std::fs::read_dir(data.join("journal")).unwrap();
        let mut journals: Vec<_> = journals.map(|entry| entry.unwrap().path()).collect();
        journals.sort();
        let journal = journals[0].to_str().unwrap().to_owned();
        for (file, kind) in [
            (&log, "segment"),
            (&index, "index"),
            (&times, "time index"),
            (&journal, "journal"),
        ] {
            let output = quipu(&["inspect", file, "--output", "json"]).output().unwrap();
            assert_eq!(output.status.code(), Some(0), "{file}: {}", stderr(&output));
            let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
            assert_eq!((&answer["kind"], &answer["damage"]), (&json!(kind), &json!([])));
            assert!(!answer["parts"].as_array().unwrap().is_empty(), "{answer}");
        }
        let text = stdout(&quipu(&["inspect", &log]).output().unwrap());
        assert!(
            text.starts_with("batch at 0: first_offset 0, last_offset 9, records 10, "),
            "{text}"
        );
        assert!(
            text.contains("first_timestamp 1970-01-01T00:00:00Z") && text.contains(": segment of "),
            "{text}"
        );

        let whole = std::fs::read(&log).unwrap();
        let mut flipped = whole.clone();
        flipped[70] ^= 1;
        std::fs::write(&log, &flipped).unwrap();
        let output = quipu(&["inspect", &log]).output().unwrap();
        assert!(failed(&output).contains("is damaged: byte 0: crc32c"));
        assert!(
            stdout(&output).contains("first_offset 10"),
            "the walk goes on behind it"
        );
        std::fs::write(&log, &whole[..whole.len() - 1]).unwrap();
        assert!(failed(&quipu(&["inspect", &log]).output().unwrap()).contains("is damaged: byte "));
        std::fs::write(&log, &whole).unwrap();
        let mut flipped = std::fs::read(&index).unwrap();
        flipped[20] ^= 1;
        let wrong = path("wrong.index");
        std::fs::write(&wrong, &flipped).unwrap();
        assert!(failed(&quipu(&["inspect", &wrong]).output().unwrap()).contains("checksum of the header"));
        std::fs::remove_file(&wrong).unwrap();
        let foreign = data.join("topics/t/topic.json");
        for (file, part) in [
            (
                foreign.to_str().unwrap(),
                "is not a segment, an index or a journal file of quipu",
            ),
            (data.to_str().unwrap(), "is a directory"),
            ("no-such-file", "no-such-file"),
        ] {
            assert!(
                failed(&quipu(&["inspect", file]).output().unwrap()).contains(part),
                "{file}"
            );
        }
    });
}

#[test]
fn every_help_has_an_example_and_offline_commands_have_no_server() {
    let mut commands = vec![Vec::<String>::new()];
    let mut leaves = 0;
    while let Some(command) = commands.pop() {
        let args: Vec<&str> = command.iter().map(|word| &**word).chain(["--help"]).collect();
        let output = quipu(&args).output().unwrap();
        let text = stdout(&output);
        assert_eq!(output.status.code(), Some(0), "{command:?}");
        let listed = text.split_once("\nCommands:\n").map_or("", |(_, rest)| rest);
        let names = listed
            .lines()
            .take_while(|line| !line.is_empty())
            .filter_map(|line| {
                let name = line.strip_prefix("  ")?.split(' ').next()?;
                (!["", "help"].contains(&name)).then(|| name.to_owned())
            });
        let before = commands.len();
        commands.extend(names.map(|name| [&command[..], &[name]].concat()));
        leaves += usize::from(commands.len() == before);
        let Some(first) = command.first() else { continue };
        assert!(text.contains("\nExamples:\n"), "{command:?}: {text}");
        let is_offline = ["serve", "demo", "verify", "inspect", "completions"].contains(&&**first);
        assert_eq!(text.contains("--server"), !is_offline, "{command:?}");
    }
    assert!(leaves > 30, "only {leaves} commands were found");
}
