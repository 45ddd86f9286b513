//! The documents are true: their commands run, their links lead somewhere, and the things that they name exist.
//!
//! Rules of a page, which CONTRIBUTING.md gives to its writers:
//!
//! - All its ` ```sh ` blocks run in order in one bash under `set -euo pipefail`, in an empty directory that holds only
//!   a link to `examples/`, with `quipu` on the path. A page without `quipu serve` gets a server of its own.
//! - The pages say `localhost:7420`; the test gives each page an address of its own instead.
//! - A line that begins with `cargo ` or `scripts/` is not run, because it builds or takes minutes: the script, the test
//!   or the example that it names must exist.
//! - A block that begins with ` ```sh no-run: REASON ` is only parsed.
//! - A block that begins with ` ```python NAME.py ` is saved under that name, so that a later ` ```sh ` block can run it.
//!   Pages with such blocks are passed over where there is no Python.
//! - A ` ```text ` block after a ` ```sh ` block is what that block prints. `…` stands for anything within a line; a
//!   line that is only `…` stands for any lines.
#![allow(
    clippy::disallowed_methods,
    reason = "these tests read the repository and start processes"
)]

#[path = "support/skipped.rs"]
mod skipped;

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use skipped::skipped;

/// The documents outside of `docs/`.
const OTHERS: &str = "README.md ARCHITECTURE.md CONTRIBUTING.md CHANGELOG.md examples/README.md";

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    let path = root().join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Every document, by its path in the repository.
fn documents() -> Vec<String> {
    let mut all: Vec<_> = OTHERS.split(' ').map(str::to_owned).collect();
    let mut folders = vec![root().join("docs")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).expect("a folder of the repository") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "md") {
                let name = path.strip_prefix(root()).expect("below the repository");
                all.push(name.to_string_lossy().into_owned());
            }
        }
    }
    all.sort();
    all
}

/// A fenced block: the line it begins on, the words after the fence, and its text.
struct Block {
    line: usize,
    info: String,
    text: String,
}

fn blocks(document: &str) -> Vec<Block> {
    let mut all = Vec::new();
    let mut open: Option<Block> = None;
    for (index, line) in document.lines().enumerate() {
        match (&mut open, line.strip_prefix("```")) {
            (Some(_), Some("")) => all.extend(open.take()),
            (Some(block), _) => {
                block.text += line;
                block.text.push('\n');
            }
            (None, Some(info)) => {
                open = Some(Block {
                    line: index + 1,
                    info: info.to_owned(),
                    text: String::new(),
                });
            }
            (None, None) => {}
        }
    }
    assert!(open.is_none(), "a block is not closed");
    all
}

/// A document without its fenced blocks.
fn prose(document: &str) -> String {
    let mut inside = false;
    let outside = document.lines().filter(|line| {
        let fence = line.starts_with("```");
        inside ^= fence;
        !inside && !fence
    });
    outside.fold(String::new(), |all, line| all + line + "\n")
}

/// Whether a line of a shell block is not run; the error is a thing that the line names and that does not exist.
fn is_passed_over(line: &str) -> Result<bool, String> {
    let line = line.split(" #").next().unwrap_or_default();
    let mut words = line.split_whitespace().skip_while(|word| {
        let name = word.split_once('=').map_or("", |(name, _)| name);
        !name.is_empty() && name.chars().all(|c| c.is_ascii_uppercase() || c == '_')
    });
    let first = words.next().unwrap_or_default();
    let exists = |path: String| {
        let path = root().join(path);
        path.with_extension("rs").is_file() || path.join("main.rs").is_file() || path.join("mod.rs").is_file()
    };
    if first.starts_with("scripts/") {
        let is_there = root().join(first).is_file();
        return is_there.then_some(true).ok_or(format!("there is no {first}"));
    }
    if first != "cargo" {
        return Ok(false);
    }
    let words: Vec<_> = words.collect();
    let base = if words.contains(&"quipu-segments") {
        "segments/"
    } else {
        ""
    };
    let named = words.windows(2).filter_map(|pair| match pair[0] {
        "--test" => Some(format!("{base}tests/{}", pair[1])),
        "--example" => Some(format!("{base}examples/{}", pair[1])),
        _ => None,
    });
    match named.filter(|path| !exists(path.clone())).collect::<Vec<_>>() {
        missing if missing.is_empty() => Ok(true),
        missing => Err(format!("there is no {}", missing.join(", no "))),
    }
}

/// Whether `actual` matches `expected`, where `…` stands for anything.
fn is_output(expected: &[&str], actual: &[&str]) -> bool {
    fn is_line(expected: &str, actual: &str) -> bool {
        let Some((begin, rest)) = expected.split_once('…') else {
            return expected == actual;
        };
        let Some(actual) = actual.strip_prefix(begin) else {
            return false;
        };
        let ends = (0..=actual.len()).filter(|&at| actual.is_char_boundary(at));
        ends.into_iter().any(|at| is_line(rest, &actual[at..]))
    }
    match expected {
        [] => actual.is_empty(),
        ["…", rest @ ..] => (0..=actual.len()).any(|skipped| is_output(rest, &actual[skipped..])),
        [first, rest @ ..] => {
            matches!(actual, [line, others @ ..] if is_line(first, line) && is_output(rest, others))
        }
    }
}

fn lines(text: &str) -> Vec<&str> {
    text.trim_end().lines().map(str::trim_end).collect()
}

/// Runs a page's blocks; `Err` says what is wrong with it.
fn run(page: &str, document: &str, address: &str) -> Result<(), String> {
    let here = |line: usize| format!("{page}:{line}");
    let blocks = blocks(document);
    let dir = tempfile::tempdir().expect("a directory");
    let [work, outputs, home, bin] = ["work", "outputs", "home", "bin"].map(|name| dir.path().join(name));
    for folder in [&work, &outputs, &home, &bin] {
        fs::create_dir(folder).expect("a folder");
    }
    let link = |to: &Path, from: PathBuf| std::os::unix::fs::symlink(to, from).expect("a link");
    link(&root().join("examples"), work.join("examples"));
    link(Path::new(env!("CARGO_BIN_EXE_quipu")), bin.join("quipu"));

    let mut script = "set -euo pipefail\n".to_owned();
    let serves = |block: &Block| block.info == "sh" && block.text.contains("quipu serve");
    if !blocks.iter().any(serves) {
        let data = dir.path().join("data").display().to_string();
        script += &format!("quipu serve --data '{data}' >'{data}.log' 2>&1 &\n");
        script +=
            "curl -sf --retry 60 --retry-all-errors --retry-delay 1 localhost:7420/health/ready >/dev/null\n";
    }
    let mut ran = 0;
    for (index, block) in blocks.iter().enumerate() {
        let info = block.info.as_str();
        if let Some(reason) = info.strip_prefix("sh no-run: ") {
            assert!(reason.len() > 10, "{}: say why it is not run", here(block.line));
            let parsed = Command::new("bash").args(["-nc", &block.text]).output();
            let parsed = parsed.map_err(|error| format!("bash: {error}"))?;
            if !parsed.status.success() {
                let message = String::from_utf8_lossy(&parsed.stderr).into_owned();
                return Err(format!("{}: {message}", here(block.line)));
            }
        } else if info == "sh" {
            let out = outputs.display();
            script +=
                &format!("echo {index} >'{out}/current'; exec >'{out}/{index}.out' 2>'{out}/{index}.err'\n");
            for (at, line) in block.text.lines().enumerate() {
                let passed = is_passed_over(line);
                if !passed.map_err(|missing| format!("{}: {missing}", here(block.line + at + 1)))? {
                    script += line;
                    script.push('\n');
                    ran += usize::from(!line.trim().is_empty());
                }
            }
        } else if let Some(name) = info.strip_prefix("python ") {
            let program = block.text.replace("localhost:7420", address);
            fs::write(work.join(name), program).expect("a program of the page");
        } else if info.is_empty() || info.starts_with("hex ") {
        } else if ![
            "text",
            "json",
            "toml",
            "python",
            "js",
            "go",
            "java",
            "nginx",
            "properties",
            "yaml",
        ]
        .contains(&info)
        {
            let line = here(block.line);
            return Err(format!(
                "{line}: what is a block of {info:?}? A shell block is `sh`"
            ));
        }
    }
    if ran == 0 {
        return Ok(());
    }
    let script = script.replace("localhost:7420", address);
    let script = script.replace("127.0.0.1:7420", address);
    // Of a certificate that the page makes.
    let host = address.split(':').next().unwrap_or_default();
    let script = script.replace("IP:127.0.0.1", &format!("IP:{host}"));
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap_or_default());
    let mut command = Command::new("timeout");
    command.args(["300", "bash", "-c", &script]);
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("QUIPU_")) {
        command.env_remove(name);
    }
    let mut child = command
        .current_dir(&work)
        .env("PATH", path)
        .env("HOME", &home)
        .env_remove("XDG_STATE_HOME")
        .env_remove("XDG_CONFIG_HOME")
        .env("QUIPU_LISTEN", address)
        .env("QUIPU_SERVER", format!("http://{address}"))
        // Small journals, because many servers at once preallocate theirs.
        .env("QUIPU_JOURNAL_FILE_BYTES", "37748736")
        .env("QUIPU_JOURNAL_FILES", "2")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0)
        .spawn()
        .expect("bash starts");
    let status = child.wait().expect("it was started here");
    // Kills servers and anything else that still runs.
    let group = rustix::process::Pid::from_child(&child);
    let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);

    let output = |index: usize, kind: &str| {
        let text = fs::read(outputs.join(format!("{index}.{kind}"))).unwrap_or_default();
        String::from_utf8_lossy(&text).replace(address, "localhost:7420")
    };
    if !status.success() {
        let current = fs::read_to_string(outputs.join("current")).unwrap_or_default();
        let Ok(index) = current.trim().parse::<usize>() else {
            let log = fs::read_to_string(dir.path().join("data.log")).unwrap_or_default();
            return Err(format!("{page}: no server: {log}"));
        };
        let (out, err) = (output(index, "out"), output(index, "err"));
        let line = here(blocks[index].line);
        return Err(format!("{line}: the block ended with {status}:\n{out}{err}"));
    }
    let mut shell = None;
    for (index, block) in blocks.iter().enumerate() {
        if block.info == "sh" {
            shell = Some(index);
        } else if block.info == "text" {
            let line = here(block.line);
            let shell = shell.take().ok_or(format!("{line}: what printed this?"))?;
            let (text, printed) = (&block.text, output(shell, "out"));
            if !is_output(&lines(text), &lines(&printed)) {
                return Err(format!(
                    "{line}: the page says\n{text}and this was printed:\n{printed}"
                ));
            }
        }
    }
    Ok(())
}

#[test]
fn every_shell_block_of_the_documents_runs_and_prints_what_is_said() {
    let missing = ["bash", "curl"].into_iter().find(|tool| {
        let found = Command::new(tool).arg("--version").stdout(Stdio::null()).status();
        !found.is_ok_and(|status| status.success())
    });
    if let Some(tool) = missing {
        skipped(&format!("there is no {tool}"));
        return;
    }
    // All of 127.0.0.0/8 is this machine, so each page of each process that runs these tests gets its own address.
    let process = std::process::id();
    let only = std::env::var("QUIPU_TEST_PAGE").unwrap_or_default();
    let mut pages = documents();
    pages.retain(|page| page.contains(&only));
    let python = Command::new("python3")
        .arg("--version")
        .stdout(Stdio::null())
        .status();
    if !python.is_ok_and(|status| status.success()) {
        let (passed_over, rest) = pages
            .into_iter()
            .partition(|page| read(page).contains("```python "));
        pages = rest;
        let passed_over: Vec<String> = passed_over;
        skipped(&format!("there is no python3, for {}", passed_over.join(", ")));
    }
    let mut problems = Vec::new();
    let (high, low) = (1 + (process >> 8) % 250, process & 0xff);
    for some in pages.iter().zip(1..).collect::<Vec<_>>().chunks(4) {
        std::thread::scope(|scope| {
            let mut running = Vec::new();
            for (page, number) in some {
                let address = format!("127.{high}.{low}.{number}:7420");
                running.push(scope.spawn(move || run(page, &read(page), &address)));
            }
            for page in running {
                problems.extend(page.join().expect("it does not panic").err());
            }
        });
    }
    assert!(problems.is_empty(), "\n{}", problems.join("\n\n"));
}

#[test]
fn a_failing_command_another_output_and_a_missing_script_are_each_noticed() {
    let block = |info: &str, text: &str| format!("```{info}\n{text}\n```\n");
    let sh = |text| block("sh", text);
    let cases = [
        (sh("true\nfalse | cat\ntrue"), "page:1: the block ended with"),
        (sh("echo $UNSET"), "UNSET"),
        (
            sh("echo one") + "\n" + &block("text", "two"),
            "page:5: the page says",
        ),
        (
            block("text", "one") + &sh("echo one"),
            "page:1: what printed this?",
        ),
        (
            sh("scripts/nothing --seed 1"),
            "page:2: there is no scripts/nothing",
        ),
        (
            sh("X=1 cargo test --test nothing"),
            "page:2: there is no tests/nothing",
        ),
        (
            block("sh no-run: there is nobody to run it", "if"),
            "syntax error",
        ),
        (block("bash", "true"), "what is a block of"),
    ];
    // It says `quipu serve`, so that it gets no server.
    let serves = sh("true quipu serve");
    for (index, (page, expected)) in cases.into_iter().enumerate() {
        let page = page + &serves;
        let problem = run("page", &page, &format!("127.0.0.{}:1", index + 2)).expect_err(expected);
        assert!(problem.contains(expected), "{expected}: {problem}");
    }
    let fine = sh("echo one; echo a two b; echo 3; echo four") + &block("text", "one\na … b\n…\nfour");
    run("page", &(fine + &serves), "127.0.0.1:1").unwrap();
}

/// Not all of them can run here; those for Kafka clients do in `tests/kafka_clients`.
#[test]
fn every_python_block_of_the_documents_is_python() {
    let mut count = 0;
    for page in documents() {
        for block in blocks(&read(&page)) {
            if block.info.split(' ').next() != Some("python") {
                continue;
            }
            let mut parser = Command::new("python3");
            parser.args(["-c", "import ast, sys; ast.parse(sys.argv[1])", &block.text]);
            let Ok(output) = parser.output() else {
                skipped("there is no python3 that reads the blocks of the documents");
                return;
            };
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{page}:{}: {said}", block.line);
            count += 1;
        }
    }
    assert!(count > 8, "only {count} blocks");
}

/// The Rust sources in these folders, and below them.
fn sources_below(folders: &[&str]) -> Vec<(PathBuf, String)> {
    let mut folders: Vec<PathBuf> = folders.iter().map(|folder| root().join(folder)).collect();
    let mut sources = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).expect("a folder of the repository") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let source = fs::read_to_string(&path).expect("a source");
                sources.push((path, source));
            }
        }
    }
    sources
}

#[test]
fn a_test_that_skips_something_says_so_past_the_harness() {
    // `CONTRIBUTING.md` promises it; the harness keeps what a passing test prints.
    let mut found = 0;
    for (path, source) in sources_below(&["tests", "segments/tests"]) {
        found += source.matches("skipped(").count();
        for line in source.lines().map(|line| line.trim().to_lowercase()) {
            let is_kept = line.starts_with("println!(\"skip") || line.starts_with("eprintln!(\"skip");
            assert!(!is_kept, "{}: {line}", path.display());
        }
    }
    assert!(found > 20, "only {found} tests skip something");
}

/// GitHub's anchor of a heading.
fn anchor(heading: &str) -> String {
    let text = heading.trim_start_matches('#').trim().to_lowercase();
    let is_kept = |c: &char| c.is_alphanumeric() || [' ', '-', '_'].contains(c);
    text.replace(|c| !is_kept(&c), "").replace(' ', "-")
}

#[test]
fn every_link_of_the_documents_leads_somewhere() {
    let anchors = |path: &Path| -> BTreeSet<String> {
        let document = fs::read_to_string(path).unwrap_or_default();
        let prose = prose(&document);
        let headings = prose.lines().filter(|line| line.starts_with('#'));
        headings.map(anchor).collect()
    };
    let mut broken = String::new();
    for page in documents() {
        let path = root().join(&page);
        let document = prose(&read(&page));
        let links = document.split("](").skip(1);
        let links = links.filter_map(|rest| rest.split(')').next());
        for link in links.filter(|link| !link.starts_with("http")) {
            let (file, name) = link.split_once('#').unwrap_or((link, ""));
            let target = match file {
                "" => path.clone(),
                file => path.parent().expect("a folder").join(file),
            };
            if !target.exists() || !name.is_empty() && !anchors(&target).contains(name) {
                let _ = writeln!(broken, "{page}: {link}");
            }
        }
    }
    assert!(broken.is_empty(), "these links lead nowhere:\n{broken}");
}

#[test]
fn the_readme_is_short_gives_the_command_that_runs_for_every_change_and_the_index_names_every_page() {
    let readme = read("README.md");
    assert!(readme.len() <= 10_000, "{} bytes", readme.len());
    let test = "cargo test --workspace";
    for (path, text) in [("README.md", &readme), (".ci/run", &read(".ci/run"))] {
        assert!(text.lines().any(|line| line == test), "{path}: no line is {test}");
    }
    let index = read("docs/README.md");
    for page in documents() {
        if let Some(page) = page.strip_prefix("docs/").filter(|page| *page != "README.md") {
            let is_named = index.contains(&format!("]({page})"));
            assert!(is_named, "docs/README.md: no line for {page}");
        }
    }
}

/// The rows of the first table after a heading, without its head.
fn table(document: &str, heading: &str) -> Vec<Vec<String>> {
    let found = document.split_once(&format!("\n{heading}\n"));
    let (_, rest) = found.unwrap_or_else(|| panic!("there is no {heading}"));
    let rows = rest.lines().skip_while(|line| !line.starts_with('|'));
    let rows = rows.take_while(|line| line.starts_with('|'));
    let cells = |line: &str| {
        let line = line.trim_matches('|');
        line.split('|').map(|cell| cell.trim().to_owned()).collect()
    };
    rows.skip(2).map(cells).collect()
}

/// The table of Kafka clients says the versions that `tests/kafka_clients/install` brings; kcat's is Debian's.
#[test]
fn versions_of_kafka_clients_on_their_page_are_those_that_are_installed() {
    let home = "tests/kafka_clients";
    let installed = read(&format!("{home}/install"));
    let lock: serde_json::Value =
        serde_json::from_str(&read(&format!("{home}/node/package-lock.json"))).expect("JSON");
    let after = |text: &str, begin: &str| -> Vec<String> {
        let is_part = |c: char| c.is_ascii_digit() || c == '.';
        let rests = text.split(begin).skip(1);
        rests
            .map(|rest| rest.chars().take_while(|c| is_part(*c)).collect())
            .collect()
    };
    let pinned = |name: &str| after(&installed, &format!("{name}=="));
    let of_node = |name: &str| {
        let version = lock["packages"][format!("node_modules/{name}")]["version"].as_str();
        vec![version.unwrap_or_else(|| panic!("no {name}")).to_owned()]
    };
    let of_go = after(&read(&format!("{home}/go/go.mod")), "franz-go v");
    let of_java = after(&read(&format!("{home}/java/pom.xml")), "<kafka>");
    let mut expected = vec![
        ("kcat", vec!["1.7.1".to_owned()]),
        ("kafka-python", pinned("kafka-python")),
        ("aiokafka", pinned("aiokafka")),
        ("confluent-kafka", pinned("confluent-kafka")),
        ("kafkajs", of_node("kafkajs")),
        ("@platformatic/kafka", of_node("@platformatic/kafka")),
        ("franz-go", of_go),
        ("Spark", after(&installed, "version=")),
        ("Faust", [pinned("faust-streaming"), pinned(" faust")].concat()),
    ];
    for name in ["Java's client", "Kafka Streams", "Kafka Connect", "Kafka's tools"] {
        expected.push((name, of_java.clone()));
    }
    let mut found = Vec::new();
    for row in table(&read("docs/use/kafka.md"), "## Clients") {
        let name = row[0].trim_start_matches('[');
        let (name, versions) = expected
            .iter()
            .find(|(begin, _)| name.starts_with(begin))
            .unwrap_or_else(|| panic!("{name} is not installed"));
        // As many parts as the page gives.
        let is_there = |version: &String| *version == row[1] || version.starts_with(&format!("{}.", row[1]));
        assert!(
            versions.iter().any(is_there),
            "{name} {}: installed are {versions:?}",
            row[1]
        );
        found.push(*name);
    }
    found.dedup();
    assert_eq!(found.len(), expected.len(), "{found:?}");
}

/// The sources of a test that is named by its path: one file, or that and a directory.
fn sources(path: &str) -> String {
    let root = root().join(path);
    let mut all = fs::read_to_string(root.with_extension("rs")).unwrap_or_default();
    for entry in fs::read_dir(&root).into_iter().flatten() {
        let path = entry.expect("it is there").path();
        if path.extension().is_some_and(|extension| extension == "rs") {
            all += &fs::read_to_string(path).expect("it is there");
        }
    }
    assert!(!all.is_empty(), "there is no test {path}");
    all
}

#[test]
fn every_action_of_the_audit_log_is_on_its_page() {
    let page = table(&read("docs/operate/audit.md"), "## What is in it");
    let page: BTreeSet<&str> = page
        .iter()
        .flat_map(|row| row[0].split('`').skip(1).step_by(2))
        .collect();
    let kinds = "topic|records|damage|group|offsets|token|principal|backup";
    let action = regex::Regex::new(&format!(r#""((?:{kinds})\.[a-z]+)""#)).expect("a pattern");
    let mut stored = BTreeSet::new();
    for (_, source) in sources_below(&["src/broker"]) {
        stored.extend(action.captures_iter(&source).map(|found| found[1].to_owned()));
    }
    assert!(stored.len() > 15, "{stored:?}");
    assert_eq!(page, stored.iter().map(String::as_str).collect());
}

#[test]
fn every_documented_fault_has_a_test_and_every_test_that_is_named_exists() {
    let faults = table(&read("docs/operate/reliability.md"), "## What each fault costs");
    let shown = table(&read("docs/internals/testing.md"), "## Which test shows it");
    let first = |rows: &[Vec<String>]| rows.iter().map(|row| row[0].clone()).collect::<Vec<_>>();
    assert_eq!(first(&faults), first(&shown), "the same faults in the same order");
    let mut count = 0;
    for row in &shown {
        let mut source = String::new();
        let mut names = 0;
        for word in row[1].split('`').skip(1).step_by(2) {
            if word.contains('/') {
                source = sources(word);
            } else {
                let begins = ["#[test]\nfn ", "#[tokio::test]\nasync fn "];
                let is_test = begins.map(|begin| source.contains(&format!("{begin}{word}(")));
                let is_test = is_test.contains(&true);
                assert!(is_test, "{}: there is no test {word}", row[0]);
                names += 1;
            }
        }
        let is_shown = names > 0 || row[1].starts_with("none: ");
        assert!(is_shown, "{}: no test is named", row[0]);
        count += names;
    }
    assert!(count > 15, "only {count} names were found");
}

#[test]
fn every_test_of_a_kafka_client_is_listed_once_as_in_or_as_out_with_a_reason() {
    let page = read("docs/internals/kafka-suites.md");
    let suites: Vec<_> = page.split("\n## ").skip(1).collect();
    for suite in &suites {
        let name = suite.lines().next().unwrap_or_default();
        let script = root().join(format!("scripts/kafka_suites/{name}.sh"));
        assert!(script.is_file(), "{name}: there is no {}", script.display());
        let mut tests = BTreeSet::new();
        for row in table(&format!("\n## {suite}"), &format!("## {name}")) {
            let [outcome, reason, listed] = row.as_slice() else {
                panic!("{name}: three cells: {row:?}");
            };
            assert!(["in", "out"].contains(&outcome.as_str()), "{name}: {row:?}");
            assert!(reason.len() > 10, "{name}: say why: {row:?}");
            for test in listed.split('`').skip(1).step_by(2) {
                assert!(tests.insert(test.to_owned()), "{name}: {test} is listed twice");
            }
            assert!(listed.contains('`'), "{name}: no test: {row:?}");
        }
        assert!(!tests.is_empty(), "{name} lists no test");
    }
    // The tests of librdkafka that are in run with both protocols of groups.
    let listed = |name: &str, outcomes: &[&str]| -> BTreeSet<String> {
        let rows = table(&page, &format!("## {name}"));
        let rows = rows.iter().filter(|row| outcomes.contains(&row[0].as_str()));
        rows.flat_map(|row| row[2].split('`').skip(1).step_by(2))
            .map(str::to_owned)
            .collect()
    };
    let (classic, consumer) = (
        listed("librdkafka", &["in"]),
        listed("librdkafka-consumer", &["in", "out"]),
    );
    let missing: Vec<_> = classic.difference(&consumer).collect();
    assert!(missing.is_empty(), "librdkafka-consumer lacks {missing:?}");
    let scripts = fs::read_dir(root().join("scripts/kafka_suites")).expect("the suites");
    let scripts = scripts.map(|entry| entry.expect("an entry").path());
    let scripts = scripts.filter(|path| path.extension().is_some_and(|extension| extension == "sh"));
    assert_eq!(suites.len(), scripts.count(), "a section for each suite");
}
