//! The layers of the crate, held against its sources: what its folders import, and that no two import each other.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

/// Modules by their names, each with the modules that its sources import: the entries of one folder.
type Imports = BTreeMap<String, BTreeSet<String>>;

/// Every source below `dir`: its modules as in a path (`commit::plan`), and its text without comments and tests.
fn sources(dir: &Path, module: &str, into: &mut Vec<(String, String)>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let stem = path.file_stem().unwrap().to_str().unwrap();
        let name = match (module, stem) {
            (_, "mod" | "lib") => module.to_owned(),
            ("", stem) => stem.to_owned(),
            (module, stem) => format!("{module}::{stem}"),
        };
        if path.is_dir() {
            sources(&path, &name, into);
        } else if path.extension().is_some_and(|extension| extension == "rs") && stem != "lib" {
            let text = fs::read_to_string(&path).unwrap();
            let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
            let lines = code.lines().filter(|line| !line.trim_start().starts_with("//"));
            into.push((name, lines.collect::<Vec<_>>().join("\n")));
        }
    }
}

/// The modules that a source names by `crate::…` and `super::…`.
fn imports_of(module: &str, code: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for start in ["crate::", "super::"] {
        for (at, _) in code.match_indices(start) {
            if code[..at].ends_with([':', '_']) {
                continue;
            }
            let mut path: Vec<&str> = if start == "super::" {
                module.split("::").collect()
            } else {
                Vec::new()
            };
            let mut rest = &code[at..];
            while let Some(behind) = rest.strip_prefix("super::") {
                path.pop();
                rest = behind;
            }
            let rest = rest.strip_prefix("crate::").unwrap_or(rest);
            let end = rest.find(|c: char| !(c.is_alphanumeric() || c == '_' || c == ':'));
            path.extend(
                rest[..end.unwrap_or(rest.len())]
                    .split("::")
                    .filter(|name| !name.is_empty()),
            );
            found.insert(path.join("::"));
        }
    }
    found
}

/// What the entries of one folder (`""`: the top) import of each other.
fn imports_within(folder: &str, sources: &[(String, String)]) -> Imports {
    let prefix = if folder.is_empty() {
        String::new()
    } else {
        format!("{folder}::")
    };
    let entry = |path: &str| Some(path.strip_prefix(&prefix)?.split("::").next()?.to_owned());
    let entries: BTreeSet<String> = sources.iter().filter_map(|(module, _)| entry(module)).collect();
    let mut imports = Imports::new();
    for (module, code) in sources {
        let Some(from) = entry(module) else { continue };
        let named = imports_of(module, code);
        let named = named.iter().filter_map(|path| entry(path));
        let others = named.filter(|to| *to != from && entries.contains(to));
        imports.entry(from.clone()).or_default().extend(others);
    }
    imports
}

/// The modules that import themselves by way of others.
fn circle(imports: &Imports) -> Vec<String> {
    let mut left = imports.clone();
    // Whoever imports nothing that is left is in no circle, and nor is whoever nobody imports.
    loop {
        let named: BTreeSet<String> = left.values().flatten().cloned().collect();
        let names: BTreeSet<String> = left.keys().cloned().collect();
        let before = left.len();
        left.retain(|name, others| named.contains(name) && others.iter().any(|other| names.contains(other)));
        if left.len() == before {
            return left.into_keys().collect();
        }
    }
}

fn all_sources() -> Vec<(String, String)> {
    let mut all = Vec::new();
    sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), "", &mut all);
    assert!(all.len() > 50, "only {} sources", all.len());
    all
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
