//! Memos: bytes that a caller keeps beside the log, each in place of the one before, and can do without.
//!
//! ```text
//! memos/{name}     a frame (see `codec`) with the magic `QUIPUMEM`, version 1, generation 0
//! ```
//!
//! Nothing of the log depends on them, recovery does not look at them, and `verify` does not either. Crash: a memo is
//! written beside the old one, synced and renamed, so either is there. One that is damaged is as if it were missing.

use std::path::PathBuf;

use crate::error::{At, Error, Result};
use crate::files::codec::{frame, unframe};
use crate::files::layout::Layout;
use crate::files::sealed::replace_file;
use crate::files::slots::read_if_exists;
use crate::io::disk::Disk;

const MAGIC: [u8; 8] = *b"QUIPUMEM";
const VERSION: u32 = 1;

/// Keeps a memo.
///
/// # Errors
/// What the disk said: the memo before is still there.
pub(crate) fn write(disk: &dyn Disk, layout: &Layout, name: &str, bytes: &[u8]) -> Result<()> {
    let path = path(layout, name)?;
    let dir = layout.memos_dir();
    disk.create_dir_all(&dir).at("making", &dir)?;
    replace_file(disk, &path, &frame(MAGIC, VERSION, 0, bytes)).at("writing", &path)
}

/// The memo of that name; `None` if there is none, or it cannot be read, which is logged.
pub(crate) fn read(disk: &dyn Disk, layout: &Layout, name: &str) -> Option<Vec<u8>> {
    let path = path(layout, name).ok()?;
    match read_if_exists(disk, &path) {
        Ok(bytes) => match unframe(MAGIC, VERSION, &bytes?) {
            Ok((_, payload)) => Some(payload.to_vec()),
            Err(error) => {
                tracing::warn!(name, ?error, "a memo cannot be read, and begins anew");
                None
            }
        },
        Err(error) => {
            tracing::warn!(name, %error, "a memo cannot be read, and begins anew");
            None
        }
    }
}

fn path(layout: &Layout, name: &str) -> Result<PathBuf> {
    let fits = |byte: u8| byte.is_ascii_lowercase() || byte == b'-';
    match !name.is_empty() && name.bytes().all(fits) {
        true => Ok(layout.memos_dir().join(name)),
        false => Err(Error::Invalid(format!(
            "{name:?} is no name of a memo: use a to z and -"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::io::disk::OpenMode;
    use crate::sim::SimDisk;

    #[test]
    fn a_memo_is_replaced_as_a_whole_and_a_damaged_one_is_as_if_it_were_missing() {
        let (disk, layout) = (SimDisk::new(1), Layout::new(Path::new("/data")));
        disk.create_dir_all(Path::new("/data")).unwrap();
        assert_eq!(read(&disk, &layout, "lag"), None);
        for bytes in [&b"one"[..], b"", &[7; 9000]] {
            write(&disk, &layout, "lag", bytes).unwrap();
            assert_eq!(read(&disk, &layout, "lag").as_deref(), Some(bytes));
        }
        let file = disk
            .open(Path::new("/data/memos/lag"), OpenMode::ReadWrite)
            .unwrap();
        let len = file.len().unwrap();
        file.set_len(len - 1).unwrap();
        assert_eq!(read(&disk, &layout, "lag"), None);
        for wrong in ["", "../lag", "a/b", "A"] {
            assert!(write(&disk, &layout, wrong, b"x").is_err(), "{wrong}");
        }
    }
}
