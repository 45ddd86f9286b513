//! The programs of `docs/use/kafka.md`, each as it stands, with nothing but the address changed: what a reader pastes works.

use super::*;

/// What the page has below a heading of the second or third level, up to the next one, in blocks of a language.
pub(crate) fn blocks(heading: &str, language: &str) -> String {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/use/kafka.md");
    let page = std::fs::read_to_string(page).expect("the page");
    let below = page
        .split_once(&format!("## {heading}\n"))
        .map(|(_, rest)| rest.split_once("\n##").map_or(rest, |(below, _)| below));
    let below = below.unwrap_or_else(|| panic!("there is no {heading}"));
    let mut found = String::new();
    let mut is_within = false;
    for line in below.lines() {
        if let Some(fence) = line.strip_prefix("```") {
            is_within = !is_within && fence.split(' ').next() == Some(language);
        } else if is_within {
            found += line;
            found.push('\n');
        }
    }
    assert!(!found.is_empty(), "{heading} has no {language}");
    found
}

impl Fixture {
    /// The program below a heading, for this server.
    fn program(&self, heading: &str, language: &str) -> String {
        let program = blocks(heading, language);
        assert!(program.contains("localhost:9092"), "{heading}: {program}");
        program.replace("localhost:9092", &self.kafka.to_string())
    }

    /// Writes a file into the server's directory.
    fn file(&self, name: &str, text: &str) -> PathBuf {
        let file = self.directory.path().join(name);
        std::fs::write(&file, text).expect("a file");
        file
    }

    /// Runs a program that does not end by itself until it has printed something.
    fn prints(&self, mut command: Command, expected: &str) {
        let log = self.directory.path().join("program.log");
        command
            .current_dir(self.directory.path())
            .env("PYTHONUNBUFFERED", "1");
        let mut running = Running::start(command, log.clone(), None);
        self.until(expected, &mut [&mut running], || {
            let printed = std::fs::read_to_string(&log).unwrap_or_default();
            printed.contains(expected)
        });
    }

    /// The record that each of the programs sends, and nothing else.
    fn has_the_order(&self) {
        let records = self.all_records("orders");
        assert_eq!(records.len(), 1, "{records:?}");
        support::has(&records[0], json!({"key": "c7", "value": {"total": 3}}));
    }

    /// Sends it over HTTP, to a topic of four partitions.
    fn order(&self) {
        self.server.create_topic("orders", PARTITIONS);
        let body = json!({"records": [{"key": "c7", "value": {"total": 3}}]}).to_string();
        let path = "/v1/topics/orders/records";
        self.server
            .expect(200, "POST", path, "application/json", body.as_bytes());
    }

    /// Runs blocks of the shell with more programs on the path.
    fn shell(&self, text: &str, path: &Path) -> String {
        let mut shell = bounded(Path::new("bash"));
        let own = std::env::var("PATH").unwrap_or_default();
        shell
            .args(["-euo", "pipefail", "-c", text])
            .env("PATH", format!("{}:{own}", path.display()))
            .env("QUIPU_SERVER", format!("http://{}", self.server.address));
        self.output(shell)
    }
}

/// Python in one of the environments, with the program that the page has for it in a file.
fn python_on_the_page(environment: &str, heading: &str) -> Option<(Fixture, Command)> {
    let python = kafka_clients().join(environment).join("bin/python");
    if !python.exists() {
        is_missing(environment);
        return None;
    }
    let fixture = Fixture::new();
    let program = fixture.program(heading, "python");
    let mut command = bounded(&python);
    command
        .arg(fixture.file("program.py", &program))
        .env("PYTHONDONTWRITEBYTECODE", "1");
    Some((fixture, command))
}

#[test]
fn kafka_python_on_the_page_runs() {
    for environment in ["kafka-python-2", "kafka-python-3"] {
        let Some((fixture, command)) = python_on_the_page(environment, "kafka-python") else {
            continue;
        };
        fixture.prints(command, "b'c7' b'{\"total\":3}'\n");
        fixture.has_the_order();
    }
}

#[test]
fn aiokafka_on_the_page_runs() {
    if let Some((fixture, command)) = python_on_the_page("aiokafka", "aiokafka") {
        fixture.prints(command, "b'c7' b'{\"total\":3}'\n");
        fixture.has_the_order();
    }
}

#[test]
fn confluent_kafka_on_the_page_runs() {
    if let Some((fixture, command)) = python_on_the_page("confluent-kafka", "confluent-kafka") {
        assert_eq!(fixture.output(command), "b'c7' b'{\"total\":3}'\n");
        fixture.has_the_order();
    }
}

#[test]
fn faust_on_the_page_runs() {
    if let Some((fixture, mut command)) = python_on_the_page("faust", "Faust") {
        fixture.order();
        command.args(["worker", "--without-web"]);
        fixture.prints(command, "{'total': 3}");
    }
}

/// A program of Node; the packages are where it looks for them.
fn node_on_the_page(package: &str) {
    if node(package, "").is_none() {
        return;
    }
    let fixture = Fixture::new();
    let modules = kafka_clients().join("node/node_modules");
    std::os::unix::fs::symlink(modules, fixture.directory.path().join("node_modules")).expect("a link");
    let program = fixture.program(package, "js");
    let mut command = bounded(Path::new("node"));
    command.arg(fixture.file("program.mjs", &program));
    fixture.output(command);
    fixture.has_the_order();
}

#[test]
fn kafkajs_on_the_page_runs() {
    node_on_the_page("kafkajs");
}

#[test]
fn platformatic_kafka_on_the_page_runs() {
    node_on_the_page("@platformatic/kafka");
}

/// Only its statements are on the page.
#[test]
fn franz_go_on_the_page_runs() {
    if go().is_none() {
        return;
    }
    if Command::new("go").arg("version").output().is_err() {
        is_missing("go");
        return;
    }
    let fixture = Fixture::new();
    let home = fixture.directory.path().join("go");
    std::fs::create_dir(&home).expect("a directory");
    for file in ["go.mod", "go.sum"] {
        std::fs::copy(script("go").join(file), home.join(file)).expect("a copy");
    }
    let program = format!(
        "package main\nimport (\n\"context\"\n\"fmt\"\n\"github.com/twmb/franz-go/pkg/kgo\"\n)\n\
         func main() {{\nctx := context.Background()\n{}if err != nil {{ panic(err) }}\n}}\n",
        fixture.program("franz-go", "go")
    );
    fixture.file("go/main.go", &program);
    let mut command = bounded(Path::new("go"));
    // A `go.mod` that has more than the program needs is no reason to ask anybody.
    command.args(["run", "-C"]).arg(&home).arg(".").envs([
        ("GOFLAGS", "-mod=mod"),
        ("GOPROXY", "off"),
        ("GOTOOLCHAIN", "local"),
    ]);
    assert_eq!(fixture.output(command), "{\"total\":3}\n");
    fixture.has_the_order();
}

/// A program of Java in a file; only its statements are on the page.
fn java_on_the_page(fixture: &Fixture, heading: &str) -> Option<Command> {
    let mut command = java()?;
    let packages = [
        "java.util",
        "org.apache.kafka.clients.producer",
        "org.apache.kafka.common.serialization",
        "org.apache.kafka.streams",
        "org.apache.kafka.streams.kstream",
    ];
    let imports: String = packages
        .iter()
        .map(|name| format!("import {name}.*;\n"))
        .collect();
    let program = format!(
        "{imports}class Program {{ public static void main(String[] none) throws Exception {{\n{}}} }}\n",
        fixture.program(heading, "java")
    );
    // Streams keeps its state there.
    let temporary = fixture.directory.path().display();
    command
        .arg(format!("-Djava.io.tmpdir={temporary}"))
        .arg(fixture.file("Program.java", &program));
    Some(command)
}

#[test]
fn java_on_the_page_runs() {
    let fixture = Fixture::new();
    if let Some(command) = java_on_the_page(&fixture, "Java") {
        fixture.output(command);
        fixture.has_the_order();
    }
}

#[test]
fn streams_on_the_page_runs() {
    let fixture = Fixture::new();
    let Some(mut command) = java_on_the_page(&fixture, "Kafka Streams") else {
        return;
    };
    fixture.order();
    command.current_dir(fixture.directory.path());
    let log = fixture.directory.path().join("streams.log");
    let mut running = Running::start(command, log, None);
    fixture.until("the count", &mut [&mut running], || {
        let described = fixture.server.connect().get("/v1/topics/counts");
        described.status == 200 && !fixture.all_records("counts").is_empty()
    });
    let counts = fixture.all_records("counts");
    // A long of Java: 1.
    support::has(&counts[0], json!({"key": "c7", "value_base64": "AAAAAAAAAAE="}));
}

#[test]
fn kcat_on_the_page_runs() {
    if kcat::kcat().is_none() {
        return;
    }
    let fixture = Fixture::new();
    let own = Path::new(env!("CARGO_BIN_EXE_quipu"))
        .parent()
        .expect("a directory");
    let printed = fixture.shell(&fixture.program("kcat", "sh"), own);
    assert_eq!(printed, "{\"total\":3}\n");
    fixture.has_the_order();
}

/// The tools as their scripts start them, with these names.
#[test]
fn kafkas_tools_on_the_page_run() {
    if java().is_none() {
        return;
    }
    let fixture = Fixture::new();
    let jars = kafka_clients().join("java/jars/*");
    let home = fixture.directory.path().join("bin");
    std::fs::create_dir(&home).expect("a directory");
    for (name, class) in [
        ("kafka-topics", "TopicCommand"),
        ("kafka-console-producer", "ConsoleProducer"),
        ("kafka-console-consumer", "consumer.ConsoleConsumer"),
        ("kafka-consumer-groups", "consumer.group.ConsumerGroupCommand"),
    ] {
        let text = format!(
            "#!/bin/sh\nexec java -XX:+UseSerialGC -XX:TieredStopAtLevel=1 -Xmx384m -cp '{}' org.apache.kafka.tools.{class} \"$@\"\n",
            jars.display()
        );
        let file = fixture.file(&format!("bin/{name}.sh"), &text);
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(file, mode).expect("a mode");
    }
    let printed = fixture.shell(&fixture.program("Kafka's tools", "sh"), &home);
    assert!(printed.contains("{\"total\":3}\n"), "{printed}");
    let row = printed.lines().find(|line| line.starts_with("billing "));
    assert!(row.is_some(), "the group is described: {printed}");
}
