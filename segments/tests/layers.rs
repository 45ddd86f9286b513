//! The layers of the crate, held against its sources: what its folders import, and that no two import each other.

#![allow(clippy::disallowed_methods, reason = "the test reads the sources")]

#[path = "support/layers.rs"]
mod layers;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use layers::{circle, imports_of, imports_within, sources};

fn all_sources() -> Vec<(String, String)> {
    sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"))
}

#[test]
fn the_engine_knows_no_async_runtime() {
    for (module, code) in all_sources() {
        for forbidden in ["tokio", "async fn", "async move", ".await"] {
            assert!(!code.contains(forbidden), "{module} has {forbidden}");
        }
    }
    let manifest = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml")).unwrap();
    assert!(!manifest.contains("tokio"));
}

#[test]
fn no_two_entries_of_the_top_folder_and_no_two_folders_below_it_import_each_other() {
    // The door for fuzz targets reaches into everything, and nothing reaches into it.
    let all: Vec<_> = all_sources()
        .into_iter()
        .filter(|(module, _)| module != "fuzzing")
        .collect();
    for (module, code) in &all {
        let named = imports_of(module, code);
        let hidden = named
            .iter()
            .find(|path| !path.starts_with(|first: char| first.is_ascii_lowercase()));
        assert_eq!(
            hidden, None,
            "{module}: an import is by the path of its module, one a line"
        );
    }
    let top = imports_within("", &all);
    assert_eq!(circle(&top), Vec::<String>::new(), "{top:#?}");
    let folders: BTreeSet<&str> = all
        .iter()
        .filter_map(|(module, _)| Some(module.rsplit_once("::")?.0))
        .collect();
    for folder in &folders {
        let is_folder = |name: &str| folders.contains(&*format!("{folder}::{name}"));
        let mut within = imports_within(folder, &all);
        within.retain(|name, _| is_folder(name));
        assert_eq!(circle(&within), Vec::<String>::new(), "in {folder}: {within:#?}");
    }
}

#[test]
fn a_circle_is_found_in_whatever_way_it_is_written() {
    let source = |module: &str, code: &str| (module.to_owned(), code.to_owned());
    for (a, b, is_circle) in [
        ("use crate::b::B;", "use crate::a::A;", true),
        ("use crate::b::B;", "fn f() { crate::a::deep::g() }", true),
        ("use super::super::b::B;", "use super::a::A;", true),
        ("use crate::b::B;", "use crate::c::C;", false),
        ("use crate::b::B;", "", false),
    ] {
        let sources = [source("a::deep", a), source("b", b), source("c", "")];
        let found = circle(&imports_within("", &sources));
        assert_eq!(!found.is_empty(), is_circle, "{a} {b}: {found:?}");
    }
}
