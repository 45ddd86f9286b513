//! What the modules of a crate import from each other: for the tests that check its layers.

#![allow(unreachable_pub, reason = "each test binary has it as a module of its own")]
#![allow(clippy::disallowed_methods, reason = "the test reads the sources")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

/// Modules by their names, each with the modules that its sources import: the entries of one folder.
pub type Imports = BTreeMap<String, BTreeSet<String>>;

/// Every source below `dir`: its module path (`commit::plan`), and its text without comments and tests.
pub fn sources(dir: &Path) -> Vec<(String, String)> {
    let mut all = Vec::new();
    collect(dir, "", &mut all);
    assert!(all.len() > 50, "only {} sources", all.len());
    all
}

fn collect(dir: &Path, module: &str, into: &mut Vec<(String, String)>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let stem = path.file_stem().unwrap().to_str().unwrap();
        let name = match (module, stem) {
            (_, "mod" | "lib") => module.to_owned(),
            ("", stem) => stem.to_owned(),
            (module, stem) => format!("{module}::{stem}"),
        };
        if path.is_dir() {
            collect(&path, &name, into);
        } else if path.extension().is_some_and(|extension| extension == "rs") && stem != "lib" {
            let text = fs::read_to_string(&path).unwrap();
            let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
            let lines = code.lines().filter(|line| !line.trim_start().starts_with("//"));
            into.push((name, lines.collect::<Vec<_>>().join("\n")));
        }
    }
}

/// The modules and items that a source names with `crate::…`, `super::…` and `self::…`, also in groups in braces.
pub fn imports_of(module: &str, code: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for start in ["crate::", "super::", "self::"] {
        for (at, _) in code.match_indices(start) {
            if code[..at].ends_with(|c: char| c.is_alphanumeric() || c == ':' || c == '_') {
                continue;
            }
            let mut path: Vec<&str> = module.split("::").filter(|name| !name.is_empty()).collect();
            let mut rest = &code[at..];
            if let Some(behind) = rest.strip_prefix("crate::") {
                path.clear();
                rest = behind;
            }
            rest = rest.strip_prefix("self::").unwrap_or(rest);
            while let Some(behind) = rest.strip_prefix("super::") {
                path.pop();
                rest = behind;
            }
            expand(&path, rest, &mut found);
        }
    }
    found
}

/// Adds the paths with which `rest` begins: one, or several in braces.
fn expand(before: &[&str], rest: &str, found: &mut BTreeSet<String>) {
    let end = rest.find(|c: char| !(c.is_alphanumeric() || c == '_' || c == ':'));
    let (names, rest) = rest.split_at(end.unwrap_or(rest.len()));
    let mut path = before.to_vec();
    path.extend(
        names
            .split("::")
            .filter(|name| !name.is_empty() && *name != "self"),
    );
    let Some(group) = rest.strip_prefix('{') else {
        found.insert(path.join("::"));
        return;
    };
    let (mut depth, mut from) = (0, 0);
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            ',' if depth == 0 => {
                expand(&path, group[from..at].trim(), found);
                from = at + 1;
            }
            '}' if depth == 0 => return expand(&path, group[from..at].trim(), found),
            '}' => depth -= 1,
            _ => {}
        }
    }
}

/// What the entries of one folder (`""`: the top) import from each other.
pub fn imports_within(folder: &str, sources: &[(String, String)]) -> Imports {
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

/// Checks that no two entries of the named folders import each other, and no two folders below any folder.
pub fn assert_no_circles(folders: &[&str], sources: &[(String, String)]) {
    for folder in folders {
        let within = imports_within(folder, sources);
        assert_eq!(
            circle(&within),
            Vec::<String>::new(),
            "in {folder:?}: {within:#?}"
        );
    }
    let parents = sources.iter().filter_map(|(module, _)| module.rsplit_once("::"));
    let all: BTreeSet<&str> = parents.map(|(folder, _)| folder).collect();
    for folder in &all {
        let mut within = imports_within(folder, sources);
        within.retain(|name, _| all.contains(&*format!("{folder}::{name}")));
        assert_eq!(circle(&within), Vec::<String>::new(), "in {folder}: {within:#?}");
    }
}

/// The modules that import themselves through others.
pub fn circle(imports: &Imports) -> Vec<String> {
    let mut left = imports.clone();
    // A module that imports none of the rest is in no circle, nor is one that none of the rest imports.
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
