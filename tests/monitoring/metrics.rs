//! The list of metrics is the one that is documented, its form is Prometheus', and its rows are bounded.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::process::{Command, Stdio};

use quipu::settings::Config;

use super::deployed::{promtool, read};
use super::running::{Running, families};

#[tokio::test]
async fn every_metric_is_documented_with_its_labels_and_every_documented_one_exists() {
    let running = Running::start(Config::default()).await;
    let found = families(&running.metrics().await);
    let page = read("docs/operate/monitor.md");
    let section = page.split_once("### Every metric").expect("the section").1;
    let section = section.split("\n## ").next().expect("a part");
    let mut documented = BTreeMap::new();
    for line in section.lines().filter(|line| line.starts_with("| `")) {
        let cells: Vec<&str> = line.split(" | ").collect();
        let quoted = |cell: &str| {
            cell.split('`')
                .skip(1)
                .step_by(2)
                .map(str::to_owned)
                .collect::<Vec<_>>()
        };
        let name = quoted(cells[0]).remove(0);
        let mut labels = quoted(cells[1]);
        labels.sort_unstable();
        assert!(
            documented.insert(name.clone(), labels).is_none(),
            "{name} is documented twice"
        );
    }
    let names = |all: Vec<&String>| all.into_iter().cloned().collect::<Vec<_>>();
    assert_eq!(names(documented.keys().collect()), names(found.keys().collect()));
    for (name, family) in &found {
        let labels: Vec<_> = family
            .labels
            .iter()
            .filter(|label| *label != "le")
            .cloned()
            .collect();
        assert!(
            family.rows == 0 || documented[name] == labels,
            "{name} has the labels {labels:?}"
        );
    }
    // Only damage has no rows here.
    let without_rows = found
        .iter()
        .filter(|(_, family)| family.rows == 0)
        .map(|(name, _)| &**name);
    let without_rows: Vec<_> = without_rows.collect();
    assert_eq!(
        without_rows,
        [
            "quipu_damaged_bytes",
            "quipu_damaged_offsets",
            "quipu_damaged_ranges"
        ]
    );
}

#[tokio::test]
async fn promtool_finds_nothing_wrong() {
    let Some(promtool) = promtool() else { return };
    let running = Running::start(Config::default()).await;
    let text = running.metrics().await;
    let mut check = Command::new(promtool);
    check
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut check = check.spawn().expect("promtool starts");
    check
        .stdin
        .take()
        .expect("piped")
        .write_all(text.as_bytes())
        .expect("it reads");
    let output = check.wait_with_output().expect("it ends");
    let said =
        String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.is_empty(), "{said}");
}

#[tokio::test]
async fn above_the_bound_only_partitions_with_lag_have_rows_and_sums_count_all() {
    let config = Config {
        metrics_partitions: 3,
        ..Config::default()
    };
    let running = Running::start(config).await;
    let text = running.metrics().await;
    let rows = |name: &str| {
        let rows = text.lines().filter(|line| line.starts_with(&format!("{name}{{")));
        rows.map(|row| row.split_once('{').expect("labels").1.to_owned())
            .collect::<Vec<_>>()
    };
    // Of two groups with four partitions each, those that have not read their record.
    let lag = [
        r#"group="billing",topic="orders",partition="3"} 1"#,
        r#"group="work",topic="orders",partition="2"} 1"#,
        r#"group="work",topic="orders",partition="3"} 1"#,
    ];
    assert_eq!(rows("quipu_group_lag_records"), lag);
    let ends = [
        r#"topic="orders",partition="2"} 1"#,
        r#"topic="orders",partition="3"} 1"#,
    ];
    assert_eq!(rows("quipu_partition_end_offset"), ends);
    let totals = [r#"group="billing"} 1"#, r#"group="work"} 2"#];
    assert_eq!(rows("quipu_group_total_lag_records"), totals);
    let topics = [r#"topic="dead"} 0"#, r#"topic="orders"} 2"#];
    assert_eq!(rows("quipu_topic_appended_records_total"), topics);
    // Five of the groups' partitions, two and one of the topics' partitions.
    let left_out = text
        .lines()
        .find(|line| line.starts_with("quipu_series_left_out"));
    assert_eq!(left_out, Some("quipu_series_left_out 8"));
}
