//! Programs as people write them, with nothing but the address changed: an event producer and consumer over kafka-python,
//! which `docs/use/kafka.md` shows, and an app of Faust.

use super::*;

/// The program on the page, as it stands.
fn example() -> String {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/use/kafka.md");
    let page = std::fs::read_to_string(page).expect("the page");
    let (_, rest) = page.split_once("```python events.py\n").expect("the example");
    rest.split_once("\n```").expect("its end").0.to_owned()
}

#[test]
fn the_example_on_the_page_runs_with_the_address_of_quipu() {
    for environment in ["kafka-python-2", "kafka-python-3"] {
        let python = installed().join(environment).join("bin/python");
        if !python.exists() {
            skipped(environment);
            continue;
        }
        let fixture = Fixture::new();
        let program = example().replace("localhost:9092", &fixture.kafka.to_string());
        let mut command = bounded(&python);
        command.args(["-c", &program]);
        let printed = fixture.output(command);
        assert!(printed.ends_with("read 10 events\n"), "{printed}");
        let records = fixture.all_records("events");
        assert_eq!(records.len(), 10, "{records:?}");
        assert_eq!(records[0]["value"]["type"], "order.created", "{records:?}");
        // The consumer has committed what it has read, by itself.
        let lag = fixture.server.get("/v1/groups/example/lag");
        assert_eq!(lag["lag"], 0, "{lag}");
    }
}

#[test]
fn a_faust_app_counts_in_windows() {
    let python = installed().join("faust/bin/python");
    if !python.exists() {
        skipped("faust");
        return;
    }
    let fixture = Fixture::new();
    let mut app = bounded(&python);
    app.arg(script("python/faust_app.py"))
        .args(["worker", "-l", "warn", "--without-web"])
        .env("KAFKA", format!("kafka://{}", fixture.kafka))
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .current_dir(fixture.directory.path())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(std::fs::File::create(fixture.directory.path().join("faust.log")).expect("a file"));
    let mut app = Running(app.spawn().expect("it starts"));
    let mut expected = BTreeMap::new();
    let mut lines = Vec::new();
    for n in 0..60_u64 {
        let (user, at) = (["ann", "bob", "eve"][n as usize % 3], 1000 + n);
        let total: &mut u64 = expected.entry((user.to_owned(), at / 10)).or_default();
        *total += n;
        lines.push(json!({"key": user, "value": {"user": user, "amount": n, "at": at}}));
    }
    let body = json!({ "records": lines }).to_string();
    // The app creates its topics.
    let begin = std::time::Instant::now();
    let log = || std::fs::read_to_string(fixture.directory.path().join("faust.log")).unwrap_or_default();
    let wait = |app: &mut Running| {
        assert!(
            app.0.try_wait().expect("a process").is_none(),
            "it has ended: {}",
            log()
        );
        assert!(
            begin.elapsed().as_secs() < 240,
            "waited in vain: {}\n{}",
            log(),
            fixture.server.log()
        );
        std::thread::sleep(std::time::Duration::from_millis(50));
    };
    let is_there = |topic: &str| {
        let path = format!("/v1/topics/{topic}");
        fixture.server.connect().get(&path).status == 200
    };
    while !is_there("faust-payments") {
        wait(&mut app);
    }
    let path = "/v1/topics/faust-payments/records";
    fixture
        .server
        .expect(200, "POST", path, "application/json", body.as_bytes());
    loop {
        let mut found: BTreeMap<(String, u64), u64> = BTreeMap::new();
        // Made with the first total.
        let totals = match is_there("faust-totals") {
            true => fixture.all_records("faust-totals"),
            false => Vec::new(),
        };
        for record in totals {
            let value = &record["value"];
            let number = |name: &str| value[name].as_f64().expect("a number") as u64;
            let user = value["user"].as_str().expect("a text").to_owned();
            let most = found.entry((user, number("window"))).or_default();
            *most = number("total").max(*most);
        }
        if found == expected {
            break;
        }
        wait(&mut app);
    }
    // The table's changelog is a topic like any other.
    let topics = fixture.server.get("/v1/topics?q=changelog");
    assert_eq!(topics["topics"].as_array().map(Vec::len), Some(1), "{topics}");
}

/// A process that ends with the test.
pub(crate) struct Running(pub(crate) std::process::Child);

impl Drop for Running {
    fn drop(&mut self) {
        let pid = rustix::process::Pid::from_child(&self.0);
        // `timeout` passes it on.
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        let _ = self.0.wait();
    }
}
