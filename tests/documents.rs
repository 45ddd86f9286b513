//! What the documents say of the sources is so.

#![allow(clippy::disallowed_methods, reason = "these tests read the repository")]

use std::path::Path;

fn read(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The first table behind a heading, without its head: rows of cells.
fn table(document: &str, heading: &str) -> Vec<Vec<String>> {
    let (_, rest) = document
        .split_once(&format!("\n{heading}\n"))
        .unwrap_or_else(|| panic!("there is no {heading}"));
    let rows = rest
        .lines()
        .skip_while(|line| !line.starts_with('|'))
        .take_while(|line| line.starts_with('|'));
    let cells = |line: &str| {
        let line = line.trim_matches('|');
        line.split('|').map(|cell| cell.trim().to_owned()).collect()
    };
    rows.skip(2).map(cells).collect()
}

/// The sources of a test that is named by its path: one file, or that and a directory.
fn sources(path: &str) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    let mut all = std::fs::read_to_string(root.with_extension("rs")).unwrap_or_default();
    for entry in std::fs::read_dir(&root).into_iter().flatten() {
        let path = entry.expect("it is there").path();
        if path.extension().is_some_and(|extension| extension == "rs") {
            all += &std::fs::read_to_string(path).expect("it is there");
        }
    }
    assert!(!all.is_empty(), "there is no test {path}");
    all
}

#[test]
fn every_fault_of_the_readme_has_a_test_and_every_test_that_is_named_exists() {
    let faults = table(&read("README.md"), "### What each fault costs");
    let shown = table(&read("docs/reliability.md"), "## Which test shows it");
    let first = |rows: &[Vec<String>]| rows.iter().map(|row| row[0].clone()).collect::<Vec<_>>();
    assert_eq!(first(&faults), first(&shown), "the same faults in the same order");
    let mut count = 0;
    for row in &shown {
        let mut source = String::new();
        let mut names = 0;
        for word in row[1].split('`').skip(1).step_by(2) {
            if word.contains('/') {
                source = sources(word);
            } else {
                let is_test = ["#[test]\nfn ", "#[tokio::test]\nasync fn "]
                    .iter()
                    .any(|begin| source.contains(&format!("{begin}{word}(")));
                assert!(is_test, "{}: there is no test {word}", row[0]);
                names += 1;
            }
        }
        assert!(
            names > 0 || row[1].starts_with("none: "),
            "{}: no test is named",
            row[0]
        );
        count += names;
    }
    assert!(count > 15, "only {count} names were found");
}
