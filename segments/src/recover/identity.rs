//! The identity of a data directory: the file `FORMAT`, and how the id is found without it.
//!
//! `FORMAT` holds the directory's id, which the checkpoint and the journal's files carry too. If `FORMAT` is missing,
//! damaged or from another directory, the id is taken from those files, `FORMAT` is written again, and the old one is
//! kept beside it as `FORMAT.damaged`. A `FORMAT` of an unknown version is refused and left alone.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::error::{At, Error, Result};
use crate::files::checkpoint::{self, Checkpoint};
use crate::files::description::{TOPIC_MAGIC, TopicBody};
use crate::files::layout::{BACKUP_FILE, Layout, TOPIC_FILE, parse_journal_name};
use crate::files::sealed::{self, SealError, keep_aside, replace_file, seal_json, unseal_json};
use crate::files::slots::{Slots, list_if_exists, read_if_exists};
use crate::io::clock::Clock;
use crate::io::disk::{Disk, OpenMode};
use crate::journal::format::{BLOCK_BYTES, FileHeader};
use crate::types::TimestampMs;

/// The magic of `FORMAT`.
pub(crate) const FORMAT_MAGIC: &str = "quipu-data";

/// The body of `FORMAT`.
#[derive(Serialize, Deserialize)]
pub(crate) struct Format {
    /// The directory's id, in 16 hexadecimal digits.
    pub(crate) id: String,
    pub(crate) made: TimestampMs,
}

/// What is known about a directory's identity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) id: u64,
    /// What is wrong with `FORMAT`, if anything: it must be written again.
    pub(crate) fault: Option<String>,
}

/// Finds the identity of a directory, and changes nothing; `None` if nothing shows that it is a data directory.
///
/// # Errors
/// [`Error::Directory`] for a version that this program does not know; [`Error::Io`] if a file cannot be read.
pub(crate) fn find(disk: &dyn Disk, layout: &Layout) -> Result<Option<Identity>> {
    let restoring = layout.restoring();
    if disk.exists(&restoring).at("looking for", &restoring)? {
        return Err(Error::Directory(format!(
            "a restore into {} was not finished: remove what is in it, and restore again",
            layout.root.display()
        )));
    }
    let said = read_format(disk, layout)?;
    let evidence = evidence(disk, layout)?;
    let path = layout.format();
    Ok(match (said, evidence) {
        // A single other file could itself come from another directory.
        (Ok(id), Evidence::Known(others)) if others.len() > 1 && !others.contains(&id) => Some(Identity {
            id: others[0],
            fault: Some(format!(
                "it is of the data directory {id:016x}, everything else of {:016x}",
                others[0]
            )),
        }),
        (Ok(id), _) => Some(Identity { id, fault: None }),
        (Err(what), Evidence::Known(others)) => Some(Identity {
            // If no file carries an id, a new one is as good: no file names the old one.
            id: others.first().copied().unwrap_or_else(new_id),
            fault: Some(what),
        }),
        (Err(what), Evidence::Nothing) if what != MISSING => {
            return Err(Error::Directory(format!(
                "{} is {what}, and nothing else says that this is a quipu data directory: restore it from a backup, or \
                 choose an empty directory",
                path.display()
            )));
        }
        (Err(_), Evidence::Nothing) => None,
    })
}

/// Finds the identity of a directory, makes an empty one a data directory, and writes `FORMAT` again if needed. Returns
/// the id, and what was repaired.
///
/// # Errors
/// As of [`find`]; [`Error::Directory`] if it holds something else.
pub(crate) fn identify(disk: &dyn Disk, clock: &dyn Clock, layout: &Layout) -> Result<(u64, Option<String>)> {
    let root = layout.root.display();
    if let Some(identity) = find(disk, layout)? {
        let Some(fault) = identity.fault else {
            // The process that wrote `FORMAT` may have been killed before it synced the name. Then a power cut could
            // take `FORMAT` and leave the names that are made from here on.
            disk.sync_dir(&layout.root)
                .map_err(|error| Error::io(format!("syncing {root}"), error))?;
            return Ok((identity.id, None));
        };
        let kept = mend(disk, clock.now(), layout, identity.id)?;
        return Ok((
            identity.id,
            Some(format!(
                "{}: {fault}: it was written again{kept}",
                layout.format().display()
            )),
        ));
    }
    let entries = disk
        .list(&layout.root)
        .map_err(|error| Error::io(format!("listing {root}"), error))?;
    if entries.iter().any(|entry| entry.name == BACKUP_FILE) {
        return Err(Error::Directory(format!(
            "{root} is a backup, which no server opens: make a data directory of it with quipu restore {root} --data DIR"
        )));
    }
    if let Some(entry) = entries
        .iter()
        .find(|entry| !matches!(&*entry.name, "LOCK" | "FORMAT.new" | "lost+found"))
    {
        return Err(Error::Directory(format!(
            "{root} is not a quipu data directory (it has {} and no FORMAT): choose an empty one",
            entry.name
        )));
    }
    sync_ancestors(disk, &layout.root)?;
    let id = chosen(clock);
    write(disk, clock.now(), layout, id)?;
    Ok((id, None))
}

/// An id that no other data directory has.
pub(crate) fn chosen(clock: &dyn Clock) -> u64 {
    let mut hasher = RandomState::new().build_hasher();
    hasher.write_i64(clock.now().get());
    hasher.finish()
}

/// Keeps the damaged `FORMAT` aside and writes it again; says where it is kept.
///
/// # Errors
/// Errors of the disk; the next start does it again.
pub(crate) fn mend(disk: &dyn Disk, now: TimestampMs, layout: &Layout, id: u64) -> Result<String> {
    let kept = keep_aside(disk, &layout.format());
    write(disk, now, layout, id)?;
    Ok(kept)
}

pub(crate) fn write(disk: &dyn Disk, now: TimestampMs, layout: &Layout, id: u64) -> Result<()> {
    let path = layout.format();
    let format = Format {
        id: format!("{id:016x}"),
        made: now,
    };
    replace_file(disk, &path, &seal_json(FORMAT_MAGIC, &format))
        .and_then(|()| disk.sync_dir(&layout.root))
        .at("making", &path)
}

fn new_id() -> u64 {
    RandomState::new().build_hasher().finish()
}

const MISSING: &str = "missing";

/// The id in `FORMAT`; the inner error says what is wrong with the file.
fn read_format(disk: &dyn Disk, layout: &Layout) -> Result<std::result::Result<u64, String>> {
    let Some(bytes) = read_if_exists(disk, &layout.format())? else {
        return Ok(Err(MISSING.into()));
    };
    let format = match unseal_json::<Format>(FORMAT_MAGIC, &bytes) {
        Ok(format) => format,
        Err(SealError::Damaged(what)) => return Ok(Err(format!("damaged ({what})"))),
        Err(SealError::Version(version)) => {
            return Err(Error::version(&layout.format(), version, sealed::VERSION));
        }
    };
    let id = u64::from_str_radix(&format.id, 16);
    Ok(id.map_err(|_| format!("damaged (its id is {:?})", format.id)))
}

/// Whether anything except `FORMAT` shows that this is a data directory.
enum Evidence {
    Nothing,
    /// It is one; the ids are those in its checkpoint and in its journal files, one for each.
    Known(Vec<u64>),
}

fn evidence(disk: &dyn Disk, layout: &Layout) -> Result<Evidence> {
    let mut ids = Vec::new();
    let paths = [layout.checkpoint(0), layout.checkpoint(1)];
    let found = Slots::read(disk, &paths, checkpoint::MAGIC, checkpoint::VERSION)?;
    if let Some(checkpoint) = found.payload.as_deref().and_then(Checkpoint::decode) {
        ids.push(checkpoint.directory_id);
    }
    let dir = layout.journal_dir();
    for entry in list(disk, &dir)? {
        if parse_journal_name(&entry).is_none() {
            continue;
        }
        let mut header = vec![0; BLOCK_BYTES as usize];
        let read = disk
            .open(&dir.join(&entry), OpenMode::Read)
            .and_then(|file| file.read_at(&mut header, 0));
        if let Ok(read) = read
            && let Ok(header) = FileHeader::decode(&header[..read])
        {
            ids.push(header.directory_id);
        }
    }
    if !ids.is_empty() {
        // The id that most files carry comes first; on a tie, the checkpoint's id does.
        let said = ids.clone();
        ids.sort_by_key(|id| std::cmp::Reverse(said.iter().filter(|other| *other == id).count()));
        return Ok(Evidence::Known(ids));
    }
    let dir = layout.topics_dir();
    for topic in list(disk, &dir)? {
        let described = read_if_exists(disk, &dir.join(topic).join(TOPIC_FILE));
        if let Ok(Some(bytes)) = described
            && unseal_json::<TopicBody>(TOPIC_MAGIC, &bytes).is_ok()
        {
            return Ok(Evidence::Known(Vec::new()));
        }
    }
    Ok(Evidence::Nothing)
}

fn list(disk: &dyn Disk, dir: &Path) -> Result<Vec<String>> {
    let entries = list_if_exists(disk, dir)?.into_iter();
    Ok(entries.map(|entry| entry.name).collect())
}

/// Makes the name of a new directory durable, and those of the directories that were made for it: otherwise a
/// power cut could remove all of it. Done before FORMAT exists, so that a start that was cut short repeats it.
pub(crate) fn sync_ancestors(disk: &dyn Disk, root: &Path) -> Result<()> {
    for dir in root.ancestors().skip(1) {
        let dir = if dir.as_os_str().is_empty() {
            Path::new(".")
        } else {
            dir
        };
        match disk.sync_dir(dir) {
            // This process may not read the directory, so it has made nothing in it.
            Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {}
            result => result.at("syncing", dir)?,
        }
    }
    Ok(())
}
