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
        let python = kafka_clients().join(environment).join("bin/python");
        if !python.exists() {
            is_missing(environment);
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

/// The app in one of the environments: it counts what is produced over HTTP.
fn faust_counts_in_windows(environment: &str) {
    let python = kafka_clients().join(environment).join("bin/python");
    if !python.exists() {
        is_missing(environment);
        return;
    }
    let fixture = Fixture::new();
    let mut app = bounded(&python);
    app.arg(script("python/faust_app.py"))
        .args(["worker", "-l", "warn", "--without-web"])
        .env("KAFKA", format!("kafka://{}", fixture.kafka))
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .current_dir(fixture.directory.path());
    let mut app = Running::start(app, fixture.directory.path().join("faust.log"), None);
    let mut expected = BTreeMap::new();
    let mut lines = Vec::new();
    for n in 0..60_u64 {
        let (user, at) = (["ann", "bob", "eve"][n as usize % 3], 1000 + n);
        let total: &mut u64 = expected.entry((user.to_owned(), at / 10)).or_default();
        *total += n;
        lines.push(json!({"key": user, "value": {"user": user, "amount": n, "at": at}}));
    }
    let body = json!({ "records": lines }).to_string();
    let is_there = |topic: &str| {
        let path = format!("/v1/topics/{topic}");
        fixture.server.connect().get(&path).status == 200
    };
    fixture.until("the app creates its topics", &mut [&mut app], || {
        is_there("faust-payments")
    });
    let path = "/v1/topics/faust-payments/records";
    fixture
        .server
        .expect(200, "POST", path, "application/json", body.as_bytes());
    fixture.until("the totals", &mut [&mut app], || {
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
        found == expected
    });
    // The table's changelog is a topic like any other.
    let topics = fixture.server.get("/v1/topics?q=changelog");
    assert_eq!(topics["topics"].as_array().map(Vec::len), Some(1), "{topics}");
}

#[test]
fn a_faust_app_counts_in_windows() {
    faust_counts_in_windows("faust");
}

/// The last release of the first Faust, over a client of its own time.
#[test]
fn an_app_of_faust_1_counts_in_windows() {
    faust_counts_in_windows("faust-1");
}
