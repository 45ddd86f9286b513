//! The files in `deploy/` that are made of metrics: each metric and label that they name exists in a server's output.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::path::Path;
use std::process::{Command, Stdio};

use quipu::settings::Config;
use serde_json::{Value, json};

use super::running::{Family, Running, families, labels_of, name_of_family};
use super::support::skipped;

/// Labels that Prometheus adds.
const ADDED: [&str; 3] = ["instance", "job", "le"];

pub(crate) fn read(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The tool of Prometheus, by `QUIPU_TEST_PROMTOOL` or the path; says so if it is not there.
pub(crate) fn promtool() -> Option<OsString> {
    let tool = std::env::var_os("QUIPU_TEST_PROMTOOL").unwrap_or_else(|| "promtool".into());
    let mut probe = Command::new(&tool);
    let probe = probe.arg("--version").stdout(Stdio::null()).stderr(Stdio::null());
    if probe.status().is_ok_and(|status| status.success()) {
        return Some(tool);
    }
    skipped("there is no promtool (Debian's package prometheus has it)");
    None
}

/// Checks the metrics that a text names, with their labels; returns how many there are.
fn check(text: &str, families: &BTreeMap<String, Family>) -> Result<usize, String> {
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let (mut count, mut rest) = (0, text);
    let known: BTreeSet<&str> = families
        .values()
        .flat_map(|family| &family.labels)
        .map(|label| &**label)
        .collect();
    while let Some(at) = rest.find(['q', 'p', 'b']) {
        let before = rest[..at].chars().next_back();
        let word: &str = &rest[at..at + rest[at..].find(|c| !is_part(c)).unwrap_or(rest.len() - at)];
        let behind = &rest[at + word.len()..];
        let is_whole = before.is_none_or(|c| !is_part(c));
        if is_whole && (word.starts_with("quipu_") || word.starts_with("process_")) {
            let name = name_of_family(word, families).ok_or(format!("there is no metric {word}"))?;
            count += 1;
            if behind.starts_with('{') {
                for label in labels_of(behind) {
                    let is_there = families[&name].labels.contains(&label) || ADDED.contains(&&*label);
                    is_there
                        .then_some(())
                        .ok_or(format!("{word} has no label {label}"))?;
                }
            }
        } else if is_whole && word == "by" {
            let list = behind.trim_start().strip_prefix('(').unwrap_or_default();
            for label in list
                .split(')')
                .next()
                .unwrap_or_default()
                .split(',')
                .map(str::trim)
            {
                let is_there = known.contains(label) || ADDED.contains(&label);
                is_there
                    .then_some(())
                    .ok_or(format!("there is no label {label}"))?;
            }
        }
        rest = &rest[at + word.len().max(1)..];
    }
    Ok(count)
}

/// Checks the labels that a text for people names as `{{label}}` or `{{ $labels.label }}`.
fn check_shown(text: &str, families: &BTreeMap<String, Family>) -> Result<(), String> {
    for part in text.split("{{").skip(1) {
        let inside = part.split("}}").next().unwrap_or_default().trim();
        let label = inside.strip_prefix("$labels.").unwrap_or(inside);
        if inside.starts_with("$value") {
            continue;
        }
        let is_there = families.values().any(|family| family.labels.contains(label));
        (is_there || ADDED.contains(&label))
            .then_some(())
            .ok_or(format!("there is no label {label}"))?;
    }
    Ok(())
}

#[tokio::test]
async fn every_metric_and_label_of_the_alerts_exists() {
    let running = Running::start(Config::default()).await;
    let families = families(&running.metrics().await);
    let rules = read("deploy/prometheus/alerts.yml");
    let mut count = 0;
    for line in rules.lines().map(str::trim).filter(|line| !line.starts_with('#')) {
        let checked = match line.strip_prefix("expr: ") {
            Some(expression) => check(expression, &families).map(|found| count += found),
            None => check_shown(line, &families),
        };
        checked.unwrap_or_else(|error| panic!("{error} in {line}"));
    }
    assert!(count >= 17, "{count} metrics in the alerts");
    // Each alert has a test of its own.
    let tests = read("deploy/prometheus/alerts_test.yml");
    let alerts = rules
        .lines()
        .filter_map(|line| line.trim().strip_prefix("- alert: "));
    for alert in alerts {
        assert!(
            tests.contains(&format!("alertname: {alert}\n")),
            "{alert} has no test"
        );
    }
}

#[tokio::test]
async fn every_metric_and_label_of_the_dashboard_exists() {
    let running = Running::start(Config::default()).await;
    let families = families(&running.metrics().await);
    let dashboard: Value = serde_json::from_str(&read("deploy/grafana/quipu.json")).expect("JSON");
    let mut count = 0;
    let mut checked = |text: &Value| {
        let text = text.as_str().expect("a text");
        count += check(text, &families).unwrap_or_else(|error| panic!("{error} in {text}"));
    };
    for panel in dashboard["panels"].as_array().expect("panels") {
        for target in panel["targets"].as_array().into_iter().flatten() {
            checked(&target["expr"]);
            let legend = target["legendFormat"].as_str().expect("a legend");
            check_shown(legend, &families).unwrap_or_else(|error| panic!("{error} in {legend}"));
        }
    }
    for variable in dashboard["templating"]["list"].as_array().expect("variables") {
        if variable["type"] == "query" {
            checked(&variable["query"]["query"]);
        }
    }
    assert!(count >= 40, "{count} metrics in the dashboard");
}

#[test]
fn every_expression_of_the_dashboard_is_one_that_prometheus_can_parse() {
    let Some(promtool) = promtool() else { return };
    let dashboard: Value = serde_json::from_str(&read("deploy/grafana/quipu.json")).expect("JSON");
    let parsed = |dashboard: &Value| {
        let mut rules = Vec::new();
        for panel in dashboard["panels"].as_array().expect("panels") {
            for target in panel["targets"].as_array().into_iter().flatten() {
                // What Grafana puts in the place of its variables.
                let mut expression = target["expr"].as_str().expect("a text").to_owned();
                for (variable, value) in [("$__rate_interval", "2m"), ("$instance", ".*"), ("$group", "a|b")]
                {
                    expression = expression.replace(variable, value);
                }
                assert!(!expression.contains('$'), "what is it in Grafana? {expression}");
                rules.push(json!({"record": format!("rule_{}", rules.len()), "expr": expression}));
            }
        }
        assert!(rules.len() >= 40, "{} expressions in the dashboard", rules.len());
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("dashboard.yml");
        // JSON is YAML.
        let text = json!({"groups": [{"name": "dashboard", "rules": rules}]}).to_string();
        std::fs::write(&file, text).expect("a file");
        let output = Command::new(&promtool)
            .args(["check", "rules"])
            .arg(&file)
            .output();
        let output = output.expect("promtool starts");
        let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        output.status.success().then_some(()).ok_or(said.into_owned())
    };
    assert_eq!(parsed(&dashboard), Ok(()));
    // One bracket less is noticed.
    let mut broken = dashboard;
    let panels = broken["panels"].as_array_mut().expect("panels").iter_mut();
    let mut expressions = panels.filter_map(|panel| panel.pointer_mut("/targets/0/expr"));
    let expression = expressions.find(|text| text.as_str().is_some_and(|text| text.ends_with(')')));
    let expression = expression.expect("one with a function");
    let text = expression.as_str().expect("a text");
    *expression = text[..text.len() - 1].into();
    assert!(parsed(&broken).is_err());
}

#[test]
fn the_dashboard_and_the_alerts_show_kafka_clients() {
    let (dashboard, alerts) = (
        read("deploy/grafana/quipu.json"),
        read("deploy/prometheus/alerts.yml"),
    );
    for metric in [
        "quipu_kafka_requests_total",
        "quipu_kafka_request_duration_seconds_bucket",
        "quipu_kafka_errors_total",
    ] {
        assert!(dashboard.contains(metric), "{metric}");
    }
    assert!(dashboard.contains(r#"listener=\"kafka\""#) && alerts.contains("quipu_kafka_errors_total"));
}

#[test]
fn a_wrong_name_in_an_expression_is_noticed() {
    let text = "# TYPE quipu_a gauge\nquipu_a{topic=\"x\"} 1\n# TYPE quipu_h histogram\nquipu_h_bucket{le=\"1\"} 1\n";
    let families = families(text);
    assert_eq!(
        check(
            "sum by (topic) (quipu_a{topic=\"a,b=\"}) / quipu_h_count",
            &families
        ),
        Ok(2)
    );
    for (wrong, error) in [
        ("rate(quipu_b[5m])", "there is no metric quipu_b"),
        ("quipu_a_count", "there is no metric quipu_a_count"),
        ("quipu_a{topic=~\"x\",group=\"g\"}", "quipu_a has no label group"),
        ("sum by (topic, group) (quipu_a)", "there is no label group"),
    ] {
        assert_eq!(check(wrong, &families), Err(error.to_owned()));
    }
    assert_eq!(
        check_shown(
            "{{topic}} {{ $labels.instance }} {{ $value | humanize }}",
            &families
        ),
        Ok(())
    );
    assert!(check_shown("{{group}}", &families).is_err());
}

#[test]
fn the_alert_rules_pass_their_own_tests() {
    let Some(promtool) = promtool() else { return };
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/prometheus");
    for arguments in ["check rules alerts.yml", "test rules alerts_test.yml"] {
        let mut command = Command::new(&promtool);
        let output = command
            .args(arguments.split(' '))
            .current_dir(&folder)
            .output()
            .expect("promtool starts");
        let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "promtool {arguments}: {said}");
    }
}
