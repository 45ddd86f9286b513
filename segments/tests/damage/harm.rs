//! Kinds of damage, and the bytes that they touch.

use std::collections::BTreeSet;
use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};

use quipu_segments::batch::Batches;

use super::history::contents;

pub(crate) fn files(base: &Path, extension: &str) -> Vec<PathBuf> {
    contents(base)
        .into_keys()
        .filter(|path| path.extension().is_some_and(|found| found == extension))
        .collect()
}

/// The first and the last file of each partition: a sealed segment, and the active one.
pub(crate) fn ends(files: Vec<PathBuf>) -> Vec<PathBuf> {
    let is_end = |at: usize| {
        let dir = |path: Option<&PathBuf>| path.and_then(|path| path.parent().map(Path::to_path_buf));
        let own = dir(files.get(at));
        dir(at.checked_sub(1).and_then(|at| files.get(at))) != own || dir(files.get(at + 1)) != own
    };
    (0..files.len())
        .filter(|at| is_end(*at))
        .map(|at| files[at].clone())
        .collect()
}

pub(crate) fn change(dir: &Path, path: &Path, with: impl Fn(&mut Vec<u8>)) {
    let path = dir.join(path);
    let mut bytes = fs::read(&path).unwrap();
    with(&mut bytes);
    fs::write(path, bytes).unwrap();
}

/// A kind of damage within a file.
pub(crate) type Harm = Box<dyn Fn(&mut Vec<u8>)>;

/// Kinds of damage at places of a file of `length` bytes, each with the bytes that it touches.
pub(crate) fn harms(length: usize, bits: &[usize]) -> Vec<(String, Range<usize>, Harm)> {
    let mut all: Vec<(String, Range<usize>, Harm)> = Vec::new();
    for &at in bits {
        if at < length {
            let flip = move |bytes: &mut Vec<u8>| bytes[at] ^= 1 << (at % 8);
            all.push((format!("bit flipped at {at}"), at..at + 1, Box::new(flip)));
        }
    }
    let mut blocks = vec![
        0,
        length / 2 / 4096 * 4096,
        length.saturating_sub(1) / 4096 * 4096,
    ];
    blocks.dedup();
    for start in blocks {
        let end = (start + 4096).min(length);
        let zero = move |bytes: &mut Vec<u8>| bytes[start..end].fill(0);
        all.push((format!("zeroed {start}..{end}"), start..end, Box::new(zero)));
    }
    for cut in [0, length / 2, length.saturating_sub(1)] {
        let truncate = move |bytes: &mut Vec<u8>| bytes.truncate(cut);
        all.push((format!("cut to {cut}"), cut..length, Box::new(truncate)));
    }
    all
}

/// The offsets in the batches of a log file that overlap a range of bytes.
pub(crate) fn offsets_in(bytes: &[u8], range: &Range<usize>) -> BTreeSet<u64> {
    let mut position = 0;
    let mut offsets = BTreeSet::new();
    for batch in Batches::new(bytes) {
        let (header, batch) = batch.unwrap();
        let end = position + batch.len();
        if position < range.end && end > range.start {
            offsets.extend(header.base_offset.get()..header.next_offset().get());
        }
        position = end;
    }
    offsets
}

/// The partition of a file, by its path.
pub(crate) fn partition_of(path: &Path) -> (&'static str, u32) {
    let parts: Vec<&str> = path.iter().map(|part| part.to_str().unwrap()).collect();
    let topic = if parts[1] == "orders" { "orders" } else { "flights" };
    (topic, parts[2].parse().unwrap())
}
