//! Compares the sources with the layers: what each folder must not name, and that no two import each other.

#![allow(clippy::disallowed_methods, reason = "the test reads the sources")]

#[path = "../segments/tests/support/layers.rs"]
mod layers;

use std::collections::BTreeSet;
use std::path::Path;

use quipu::broker::engine::{PARTITION, TOPIC};

use layers::{assert_no_circles, imports_of, sources};

/// Wires, and the crates that only a wire needs.
const WIRES: [&str; 13] = [
    "crate::http",
    "crate::cli",
    "crate::server",
    "crate::metrics",
    "crate::traces",
    "crate::kafka",
    "axum",
    "hyper",
    "hyper_util",
    "http",
    "http_body",
    "http_body_util",
    "utoipa",
];

/// What a folder must not import: other folders, and crates by their names in a path.
const FORBIDDEN: [(&str, &[&str]); 11] = [
    ("broker", &WIRES),
    ("dashboard", &WIRES),
    (
        "dashboard",
        &["crate::broker", "crate::formats", "crate::settings", "tokio"],
    ),
    ("formats", &WIRES),
    ("formats", &["crate::broker", "crate::settings", "tokio"]),
    ("metrics", &["crate::http", "crate::server", "quipu_segments"]),
    (
        "traces",
        &[
            "crate::http",
            "crate::server",
            "crate::metrics",
            "axum",
            "hyper",
            "quipu_segments",
        ],
    ),
    ("http", &["crate::server", "quipu_segments"]),
    ("http", &["crate::kafka"]),
    (
        "kafka",
        &["crate::server", "crate::http", "quipu_segments", "axum", "hyper"],
    ),
    ("server", &["quipu_segments"]),
];

fn all_sources() -> Vec<(String, String)> {
    sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"))
}

/// Whether a source names `what`: from the top of a path on, or through `super`.
fn names(module: &str, code: &str, what: &str) -> bool {
    if let Some(path) = what.strip_prefix("crate::") {
        let is_it = |import: &String| import == path || import.starts_with(&format!("{path}::"));
        return imports_of(module, code).iter().any(is_it);
    }
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    code.match_indices(what).any(|(at, _)| {
        let (before, after) = (&code[..at], &code[at + what.len()..]);
        let before = before.strip_suffix("::").unwrap_or(before);
        let is_use = before.trim_end().ends_with("use") && after.starts_with([';', ' ']);
        !before.ends_with(is_word) && (is_use || after.starts_with("::"))
    })
}

#[test]
fn no_folder_imports_what_lies_above_it() {
    for (module, code) in all_sources() {
        let folder = module.split("::").next().unwrap_or_default();
        for (_, forbidden) in FORBIDDEN.iter().filter(|(of, _)| *of == folder) {
            for what in *forbidden {
                assert!(!names(&module, &code, what), "{module} names {what}");
            }
        }
        if folder == "broker" && module != "broker::engine" {
            let is_named = names(&module, &code, "quipu_segments");
            assert!(
                !is_named,
                "{module}: the broker reaches the engine through broker::engine"
            );
        }
    }
}

#[test]
fn no_two_parts_of_the_service_or_of_the_broker_and_no_two_folders_below_import_each_other() {
    assert_no_circles(&["", "broker"], &all_sources());
}

#[test]
fn a_topic_and_a_partition_are_asked_only_for_what_a_second_engine_has_to_offer() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let topic = root.join("segments/src/topic");
    let listed: BTreeSet<&str> = TOPIC.iter().chain(PARTITION).copied().collect();
    let mut others = Vec::new();
    for file in ["mod.rs", "partition.rs"] {
        let text = std::fs::read_to_string(topic.join(file)).unwrap();
        let blocks = text
            .split("\nimpl ")
            .filter(|block| block.starts_with("Topic {") || block.starts_with("Partition {"));
        let lines = blocks.flat_map(|block| block.split("\n}\n").next().unwrap_or_default().lines());
        let methods = lines
            .filter_map(|line| line.strip_prefix("    pub fn "))
            .filter(|line| line.contains("self"));
        others.extend(methods.filter_map(|line| Some(line.split_once(['(', '<'])?.0.to_owned())));
    }
    assert!(others.iter().any(|name| name == "try_read"), "{others:?}");
    others.retain(|name| !listed.contains(&**name));
    let users = ["broker", "http", "kafka", "metrics", "server"];
    let is_user = |module: &str| users.contains(&module.split("::").next().unwrap_or_default());
    for (module, code) in all_sources().into_iter().filter(|(module, _)| is_user(module)) {
        for name in &others {
            let is_called = code.contains(&format!(".{name}("));
            assert!(!is_called, "{module} calls {name}: list it in broker::engine");
        }
    }
}

#[test]
fn a_name_is_found_in_whatever_way_it_is_written() {
    for (code, what, is_named) in [
        ("use crate::http::problem::Problem;", "crate::http", true),
        ("use crate::{broker, http};", "crate::http", true),
        (
            "use crate::{broker::{self}, http::{self, app}};",
            "crate::http",
            true,
        ),
        ("fn f() { super::super::http::router() }", "crate::http", true),
        ("use crate::httpd::X;", "crate::http", false),
        ("use http::StatusCode;", "http", true),
        ("use http as wire;", "http", true),
        ("fn f(code: ::http::StatusCode) {}", "http", true),
        ("use crate::http::problem::Problem;", "http", false),
        ("use hyper_util::rt::TokioIo;", "hyper", false),
        ("fn f(code: ::http::StatusCode) {}", "crate::http", false),
        ("use crate::broker::engine::Log;", "quipu_segments", false),
        ("use quipu_segments::Log;", "quipu_segments", true),
    ] {
        assert_eq!(names("broker::groups", code, what), is_named, "{code}");
    }
}
