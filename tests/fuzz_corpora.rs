//! The fuzz targets, run over their corpora without libFuzzer, so that found faults do not come back.
#![allow(
    clippy::disallowed_methods,
    unreachable_pub,
    missing_docs,
    reason = "the targets are a crate of their own, with fewer rules"
)]

#[path = "fuzz/src/lib.rs"]
mod targets;

use std::path::Path;

/// Runs every file of a target's corpus, and the empty input.
fn replay(name: &str) {
    let (_, run) = targets::TARGETS
        .into_iter()
        .find(|(target, _)| *target == name)
        .expect("a target of that name");
    run(&[]);
    let dir = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fuzz/corpus")
        .join(name);
    let mut count = 0;
    for entry in std::fs::read_dir(&dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display())) {
        let path = entry.expect("an entry").path();
        let bytes = std::fs::read(&path).expect("a file");
        if let Err(panic) = std::panic::catch_unwind(|| run(&bytes)) {
            eprintln!("the input is {}", path.display());
            std::panic::resume_unwind(panic);
        }
        count += 1;
    }
    assert!(count > 0, "{} holds nothing", dir.display());
}

macro_rules! corpora {
    ($($target:ident)*) => {
        $(
            #[test]
            fn $target() {
                replay(stringify!($target));
            }
        )*

        #[test]
        fn every_target_is_here_and_in_the_crate_for_libfuzzer() {
            let here = [$(stringify!($target)),*];
            assert_eq!(here, targets::TARGETS.map(|(name, _)| name));
            let manifest = include_str!("fuzz/Cargo.toml");
            for name in here {
                assert!(manifest.contains(&format!("path = \"fuzz_targets/{name}.rs\"")), "{name}");
            }
        }
    };
}

corpora! { batches coding compressed connection descriptions directory http index journal json jwt kafka negotiate once query round_trip snapshots }
