//! A data directory as text: every file's length and bytes in hexadecimal, rows of zeros left out.
//!
//! ```text
//! # what it is
//! dir staging
//! file FORMAT 101
//! 00000000  7b 22 6d 61 67 69 63 22  3a 22 71 75 69 70 75 2d  |{"magic":"quipu-|
//! ```

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

/// Paths within the directory: a file with its bytes, a directory with `None`.
pub type Tree = BTreeMap<PathBuf, Option<Vec<u8>>>;

const ROW: usize = 16;

/// Everything in a directory.
pub fn read_tree(root: &Path) -> Tree {
    let mut tree = Tree::new();
    read_dir(root, Path::new(""), &mut tree);
    tree
}

fn read_dir(root: &Path, dir: &Path, tree: &mut Tree) {
    for entry in std::fs::read_dir(root.join(dir)).expect("a directory") {
        let entry = entry.expect("an entry");
        let path = dir.join(entry.file_name());
        if entry.file_type().expect("a type").is_dir() {
            read_dir(root, &path, tree);
            tree.insert(path, None);
        } else {
            let bytes = std::fs::read(entry.path()).expect("a file");
            tree.insert(path, Some(bytes));
        }
    }
}

/// Makes the files and directories of a listing.
pub fn write_tree(root: &Path, tree: &Tree) {
    for (path, contents) in tree {
        let path = root.join(path);
        match contents {
            None => std::fs::create_dir_all(path).expect("a directory"),
            Some(bytes) => {
                std::fs::create_dir_all(path.parent().expect("it has one")).expect("a directory");
                std::fs::write(path, bytes).expect("a file");
            }
        }
    }
}

/// The text of a directory.
pub fn to_text(title: &str, tree: &Tree) -> String {
    let mut text = format!("# {title}\n");
    for (path, contents) in tree {
        let path = path.display();
        let Some(bytes) = contents else {
            writeln!(text, "dir {path}").expect("a string");
            continue;
        };
        writeln!(text, "file {path} {}", bytes.len()).expect("a string");
        for (row, chunk) in bytes.chunks(ROW).enumerate() {
            if chunk.iter().any(|byte| *byte != 0) {
                text.push_str(&line(row * ROW, chunk));
                text.push('\n');
            }
        }
    }
    text
}

/// One row: position, bytes, and the bytes as text where they are printable.
pub fn line(at: usize, bytes: &[u8]) -> String {
    let mut line = format!("{at:08x} ");
    for index in 0..ROW {
        if index % 8 == 0 {
            line.push(' ');
        }
        match bytes.get(index) {
            Some(byte) => write!(line, "{byte:02x} ").expect("a string"),
            None => line.push_str("   "),
        }
    }
    let shown = |byte: &u8| {
        if (0x20..0x7f).contains(byte) {
            *byte as char
        } else {
            '.'
        }
    };
    let text: String = bytes.iter().map(shown).collect();
    write!(line, " |{text}|").expect("a string");
    line
}

/// Parses the text of a directory.
pub fn from_text(text: &str) -> Tree {
    let mut tree = Tree::new();
    let mut file: Option<PathBuf> = None;
    for line in text
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
    {
        if let Some(path) = line.strip_prefix("dir ") {
            tree.insert(path.into(), None);
        } else if let Some(rest) = line.strip_prefix("file ") {
            let (path, length) = rest.rsplit_once(' ').expect("a path and a length");
            let length = length.parse().expect("a length");
            tree.insert(path.into(), Some(vec![0; length]));
            file = Some(path.into());
        } else {
            let (at, bytes) = row(line);
            let path = file.as_ref().expect("rows follow their file");
            let contents = tree.get_mut(path).and_then(Option::as_mut).expect("a file");
            contents[at..at + bytes.len()].copy_from_slice(&bytes);
        }
    }
    tree
}

/// Parses one row: position and bytes.
pub fn row(line: &str) -> (usize, Vec<u8>) {
    let (at, rest) = line.split_once("  ").expect("a position");
    let (bytes, _) = rest.split_once(" |").expect("bytes, then text");
    let bytes = bytes
        .split_whitespace()
        .map(|byte| u8::from_str_radix(byte, 16).expect("a byte in hexadecimal"))
        .collect();
    (
        usize::from_str_radix(at, 16).expect("a position in hexadecimal"),
        bytes,
    )
}
