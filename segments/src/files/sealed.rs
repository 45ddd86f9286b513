//! Small files that are replaced as a whole: JSON with a magic, a version and a checksum.
//!
//! `topic.json`, its copy and `FORMAT` are JSON, so that an operator can read them, on one line:
//!
//! | field | |
//! |---|---|
//! | `magic` | `quipu-topic`; in `FORMAT`, `quipu-data` |
//! | `version` | 1 |
//! | `crc32` | CRC-32 (IEEE) of the magic, the version in decimal digits, and the body's bytes, one after the other |
//! | `body` | `name`, `id`, `partitions`, `settings`, `properties`; in `FORMAT`, `id` (16 hex digits), `made` (ms) |
//!
//! The four fields are the same in every version, and the checksum covers the version. A version from the future and a
//! flipped bit can therefore be told apart.
//!
//! Crash: a file is written beside the old one, synced and renamed, so either the old or the new one is there.

use std::io::IoSlice;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::files::slots::read_if_exists;
use crate::io::disk::{Disk, OpenMode};

/// The version of `topic.json` and of `FORMAT`.
pub(crate) const VERSION: u32 = 1;

#[derive(Deserialize)]
struct SealedJson<'a> {
    magic: &'a str,
    version: u32,
    crc32: u32,
    #[serde(borrow)]
    body: &'a RawValue,
}

/// A small JSON file with magic, version and checksum.
pub(crate) fn seal_json(magic: &str, body: &impl Serialize) -> Vec<u8> {
    let body = serde_json::to_string(body).expect("strings, numbers and maps of them always serialize");
    let crc = checksum(magic, VERSION, &body);
    sealed(magic, VERSION, crc, &body)
}

fn sealed(magic: &str, version: u32, crc: u32, body: &str) -> Vec<u8> {
    format!("{{\"magic\":\"{magic}\",\"version\":{version},\"crc32\":{crc},\"body\":{body}}}\n").into_bytes()
}

fn checksum(magic: &str, version: u32, body: &str) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    for part in [magic, &version.to_string(), body] {
        hasher.update(part.as_bytes());
    }
    hasher.finalize()
}

/// What keeps a sealed JSON file from being read.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum SealError {
    Version(u32),
    Damaged(String),
}

/// Checks and reads a file that [`seal_json`] made.
pub(crate) fn unseal_json<T: DeserializeOwned>(magic: &str, bytes: &[u8]) -> Result<T, SealError> {
    let damaged = |what: String| SealError::Damaged(what);
    let sealed: SealedJson<'_> = serde_json::from_slice(bytes).map_err(|error| damaged(error.to_string()))?;
    if sealed.magic != magic {
        return Err(damaged(format!("magic {:?}, expected {magic:?}", sealed.magic)));
    }
    let crc = checksum(magic, sealed.version, sealed.body.get());
    if crc != sealed.crc32 {
        return Err(damaged(format!("crc32 {crc}, expected {}", sealed.crc32)));
    }
    if sealed.version != VERSION {
        return Err(SealError::Version(sealed.version));
    }
    serde_json::from_str(sealed.body.get()).map_err(|error| damaged(error.to_string()))
}

/// The other name under which [`replace_file`] writes a file.
pub(crate) fn being_replaced(path: &Path) -> PathBuf {
    path.with_extension("new")
}

/// Writes a small file under another name, syncs it and renames it to `path`; the caller must sync the directory.
pub(crate) fn replace_file(disk: &dyn Disk, path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let beside = being_replaced(path);
    let file = disk.open(&beside, OpenMode::Create)?;
    file.set_len(0)?;
    file.write_all_at(&[IoSlice::new(bytes)], 0)?;
    file.sync_data()?;
    disk.rename(&beside, path)
}

/// Copies a damaged file to `{name}.damaged` before it is written over; says where, for the operator. A file that
/// cannot be copied (a full disk) is no reason not to mend it.
pub(crate) fn keep_aside(disk: &dyn Disk, path: &Path) -> String {
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push(".damaged");
    let aside = path.with_file_name(name);
    let Ok(Some(bytes)) = read_if_exists(disk, path) else {
        return String::new();
    };
    match replace_file(disk, &aside, &bytes) {
        Ok(()) => format!("; the damaged one is kept as {}", aside.display()),
        Err(error) => {
            tracing::warn!(path = %aside.display(), %error, "a damaged file could not be kept");
            String::new()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_from_the_future_is_named_whatever_its_body() {
        let body = "{\"new\":true}";
        let future = sealed("quipu-topic", 2, checksum("quipu-topic", 2, body), body);
        let found = unseal_json::<serde_json::Value>("quipu-topic", &future);
        assert_eq!(found, Err(SealError::Version(2)));
    }
}
