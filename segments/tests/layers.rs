//! Checks the layers of the crate against its sources: what its folders import, and that no two import each other.

#![allow(clippy::disallowed_methods, reason = "the test reads the sources")]

#[path = "support/layers.rs"]
mod layers;

use std::fs;
use std::path::Path;

use layers::{assert_no_circles, circle, imports_of, imports_within, sources};

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
    // The entry for fuzz targets may import everything, and nothing may import it.
    let mut all = all_sources();
    all.retain(|(module, _)| module != "fuzzing");
    for (module, code) in &all {
        let named = imports_of(module, code);
        let is_item = |path: &&String| !path.starts_with(|first: char| first.is_ascii_lowercase());
        let hidden = named.iter().find(is_item);
        assert_eq!(
            hidden, None,
            "{module}: an import names its module's path, one a line"
        );
    }
    assert_no_circles(&[""], &all);
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
