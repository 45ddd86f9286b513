//! The names of the simulated file system: directories with a current and a durable state.
//!
//! Each change of names (create, rename, remove) waits until one of its directories is synced. A power cut keeps or
//! loses each waiting change independently. A rename is one change: it is done or not, in both of its directories. A
//! file that was renamed twice has one name, whichever of the two renames is lost. A change that was waiting when a
//! directory sync failed may become doubtful: no later sync of the same process makes it durable.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Component, Path};

use super::file::FileData;
use super::rng::{Mood, Rng};

pub(super) type Ino = u64;
const ROOT: Ino = 0;

#[derive(Clone, Debug, Default)]
struct Dir {
    current: BTreeMap<String, Ino>,
    durable: BTreeMap<String, Ino>,
}

/// `name` leads to `to`; if `to` is `None`, `name` no longer leads to `from`.
#[derive(Clone, Debug)]
struct Edit {
    dir: Ino,
    name: String,
    from: Option<Ino>,
    to: Option<Ino>,
}

impl Edit {
    fn new(dir: Ino, name: &str, from: Option<Ino>, to: Option<Ino>) -> Self {
        let name = name.to_owned();
        Self { dir, name, from, to }
    }

    /// Whether both edits are about the same name.
    fn is_about(&self, other: &Self) -> bool {
        (self.dir, &self.name) == (other.dir, &other.name)
    }
}

#[derive(Clone, Debug)]
struct Change {
    edits: Vec<Edit>,
    doubtful: bool,
    /// A rename, since which no sync of its directories has come.
    is_new_rename: bool,
}

#[derive(Clone, Debug)]
pub(super) struct Tree {
    next: Ino,
    files: BTreeMap<Ino, FileData>,
    dirs: BTreeMap<Ino, Dir>,
    waiting: Vec<Change>,
}

pub(super) enum Found {
    File(Ino),
    Dir(Ino),
}

fn not_found(path: &Path) -> io::Error {
    let what = format!("{} is not there", path.display());
    io::Error::new(io::ErrorKind::NotFound, what)
}

fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, what)
}

fn names(path: &Path) -> io::Result<Vec<&str>> {
    let names = path.components().filter_map(|component| match component {
        Component::Normal(name) => Some(name.to_str().ok_or_else(|| invalid("a name that is not UTF-8"))),
        Component::ParentDir => Some(Err(invalid(".. is not simulated"))),
        _ => None,
    });
    names.collect()
}

impl Tree {
    pub(super) fn new() -> Self {
        Self {
            next: ROOT + 1,
            files: BTreeMap::new(),
            dirs: BTreeMap::from([(ROOT, Dir::default())]),
            waiting: Vec::new(),
        }
    }

    pub(super) fn file(&self, ino: Ino) -> &FileData {
        self.files
            .get(&ino)
            .expect("files are kept as long as their disk")
    }

    pub(super) fn file_mut(&mut self, ino: Ino) -> &mut FileData {
        self.files
            .get_mut(&ino)
            .expect("files are kept as long as their disk")
    }

    pub(super) fn flipped_bits(&self) -> usize {
        let flips = |file: &FileData| file.flips(0, usize::MAX).count();
        self.files.values().map(flips).sum()
    }

    /// Makes every page with a flipped bit be read again, and returns how many bits there were.
    pub(super) fn evict_flipped(&mut self) -> usize {
        let count = self.flipped_bits();
        self.files.values_mut().for_each(FileData::evict_flipped);
        count
    }

    /// Makes every page whose writeback failed be read again.
    pub(super) fn evict_dropped(&mut self) {
        self.files.values_mut().for_each(FileData::evict_dropped);
    }

    /// The pages that all named files take.
    pub(super) fn allocated_pages(&self) -> usize {
        let named = self.files.values().filter(|file| file.links > 0);
        named.map(FileData::allocated_pages).sum()
    }

    /// The pages that take space here and not in `before`.
    pub(super) fn pages_not_in(&self, before: &Self) -> usize {
        let pages = |(ino, file): (&Ino, &FileData)| file.pages_not_in(before.files.get(ino));
        self.files.iter().map(pages).sum()
    }

    fn dir(&mut self, ino: Ino) -> &mut Dir {
        self.dirs
            .get_mut(&ino)
            .expect("directories are kept as long as their disk")
    }

    fn found(&self, ino: Ino) -> Found {
        if self.dirs.contains_key(&ino) {
            Found::Dir(ino)
        } else {
            Found::File(ino)
        }
    }

    pub(super) fn look_up(&self, path: &Path) -> io::Result<Option<Found>> {
        let mut at = ROOT;
        for name in names(path)? {
            match self.dirs.get(&at).and_then(|dir| dir.current.get(name)) {
                Some(next) => at = *next,
                None => return Ok(None),
            }
        }
        Ok(Some(self.found(at)))
    }

    pub(super) fn look_up_dir(&self, path: &Path) -> io::Result<Ino> {
        match self.look_up(path)? {
            Some(Found::Dir(ino)) => Ok(ino),
            Some(Found::File(_)) => Err(io::Error::new(
                io::ErrorKind::NotADirectory,
                format!("{} is a file", path.display()),
            )),
            None => Err(not_found(path)),
        }
    }

    fn parent_and_name<'a>(&self, path: &'a Path) -> io::Result<(Ino, &'a str)> {
        let parent = self.look_up_dir(path.parent().unwrap_or(Path::new("")))?;
        let name = names(path)?.pop();
        Ok((parent, name.ok_or_else(|| invalid("the root has no name"))?))
    }

    pub(super) fn list(&self, path: &Path) -> io::Result<Vec<(String, Option<u64>)>> {
        let dir = self.look_up_dir(path)?;
        let entries = &self.dirs.get(&dir).expect("it was just found").current;
        let len = |ino| self.files.get(ino).map(|file| file.len() as u64);
        Ok(entries
            .iter()
            .map(|(name, ino)| (name.clone(), len(ino)))
            .collect())
    }

    fn link(&mut self, ino: Ino, by: i32) {
        if let Some(file) = self.files.get_mut(&ino) {
            file.links = file.links.saturating_add_signed(by);
        }
    }

    fn apply(&mut self, edits: Vec<Edit>) {
        for edit in &edits {
            let old = match edit.to {
                Some(ino) => self.dir(edit.dir).current.insert(edit.name.clone(), ino),
                None => self.dir(edit.dir).current.remove(&edit.name),
            };
            if let Some(ino) = edit.to {
                self.link(ino, 1);
            }
            if let Some(ino) = old {
                self.link(ino, -1);
            }
        }
        self.waiting.push(Change {
            is_new_rename: edits.len() > 1,
            edits,
            doubtful: false,
        });
    }

    pub(super) fn create_file(&mut self, path: &Path) -> io::Result<Ino> {
        let (dir, name) = self.parent_and_name(path)?;
        let ino = self.next;
        self.next += 1;
        self.files.insert(ino, FileData::default());
        self.apply(vec![Edit::new(dir, name, None, Some(ino))]);
        Ok(ino)
    }

    /// Gives a file a second name. Not for files that are renamed: of those, a power cut leaves one name.
    pub(super) fn hard_link(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        let ino = match self.look_up(from)? {
            Some(Found::File(ino)) => ino,
            Some(Found::Dir(_)) => return Err(io::Error::from(io::ErrorKind::PermissionDenied)),
            None => return Err(not_found(from)),
        };
        if self.look_up(to)?.is_some() {
            return Err(io::Error::from(io::ErrorKind::AlreadyExists));
        }
        let (dir, name) = self.parent_and_name(to)?;
        self.apply(vec![Edit::new(dir, name, None, Some(ino))]);
        Ok(())
    }

    pub(super) fn create_dir_all(&mut self, path: &Path) -> io::Result<()> {
        let mut at = ROOT;
        for name in names(path)? {
            at = match self.dirs.get(&at).and_then(|dir| dir.current.get(name)) {
                Some(&ino) => ino,
                None => {
                    let ino = self.next;
                    self.next += 1;
                    self.dirs.insert(ino, Dir::default());
                    self.apply(vec![Edit::new(at, name, None, Some(ino))]);
                    ino
                }
            };
            if !self.dirs.contains_key(&at) {
                return Err(io::Error::new(
                    io::ErrorKind::NotADirectory,
                    format!("{name} in {} is a file", path.display()),
                ));
            }
        }
        Ok(())
    }

    pub(super) fn rename(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        let (from_dir, from_name) = self.parent_and_name(from)?;
        let (to_dir, to_name) = self.parent_and_name(to)?;
        let ino = self.dir(from_dir).current.get(from_name).copied();
        let ino = ino.ok_or_else(|| not_found(from))?;
        if (from_dir, from_name) == (to_dir, to_name) {
            return Ok(());
        }
        let replaced = self.dir(to_dir).current.get(to_name).copied();
        if let Some(old) = replaced {
            let both_dirs = self.dirs.contains_key(&ino) && self.dirs.contains_key(&old);
            if !both_dirs && (self.dirs.contains_key(&ino) || self.dirs.contains_key(&old)) {
                return Err(io::Error::new(
                    io::ErrorKind::NotADirectory,
                    "a file and a directory",
                ));
            }
            if both_dirs && !self.dir(old).current.is_empty() {
                return Err(io::Error::from(io::ErrorKind::DirectoryNotEmpty));
            }
        }
        self.apply(vec![
            Edit::new(to_dir, to_name, replaced, Some(ino)),
            Edit::new(from_dir, from_name, Some(ino), None),
        ]);
        Ok(())
    }

    pub(super) fn remove_file(&mut self, path: &Path) -> io::Result<()> {
        match self.look_up(path)? {
            Some(Found::File(ino)) => {
                let (dir, name) = self.parent_and_name(path)?;
                self.apply(vec![Edit::new(dir, name, Some(ino), None)]);
                Ok(())
            }
            Some(Found::Dir(_)) => Err(io::Error::from(io::ErrorKind::IsADirectory)),
            None => Err(not_found(path)),
        }
    }

    /// Removes everything below and then the directory itself; `steps` counts down, and at 0 the rest stays.
    pub(super) fn remove_dir_all(&mut self, path: &Path, steps: &mut u64) -> io::Result<()> {
        let ino = self.look_up_dir(path)?;
        let entries: Vec<String> = self.dir(ino).current.keys().cloned().collect();
        for name in entries {
            let below = path.join(&name);
            if *steps == 0 {
                return Ok(());
            }
            if matches!(self.look_up(&below)?, Some(Found::Dir(_))) {
                self.remove_dir_all(&below, steps)?;
            } else {
                *steps -= 1;
                self.remove_file(&below)?;
            }
        }
        if *steps == 0 {
            return Ok(());
        }
        *steps -= 1;
        let (dir, name) = self.parent_and_name(path)?;
        self.apply(vec![Edit::new(dir, name, Some(ino), None)]);
        Ok(())
    }

    fn make_durable(&mut self, change: Change) {
        if let [Edit { to: Some(moved), .. }, _, ..] = change.edits[..] {
            // A renamed file has one name, even if an earlier rename of it was lost.
            for dir in self.dirs.values_mut() {
                dir.durable.retain(|_, ino| *ino != moved);
            }
        }
        for edit in change.edits {
            let durable = &mut self.dir(edit.dir).durable;
            match edit.to {
                Some(ino) => {
                    durable.insert(edit.name, ino);
                }
                None if durable.get(&edit.name).copied() == edit.from => {
                    durable.remove(&edit.name);
                }
                None => {}
            }
        }
    }

    pub(super) fn sync_dir(&mut self, dir: Ino) {
        let waiting = std::mem::take(&mut self.waiting);
        let mut done: Vec<Edit> = Vec::new();
        let mut rest: Vec<Change> = Vec::new();
        for change in waiting {
            if !change.doubtful && change.edits.iter().any(|edit| edit.dir == dir) {
                done.extend(change.edits.iter().cloned());
                // Earlier changes of the same names are over: they can no longer come back on their own.
                for earlier in &mut rest {
                    let edits = &mut earlier.edits;
                    edits.retain(|old| !change.edits.iter().any(|new| new.is_about(old)));
                }
                self.make_durable(change);
            } else {
                rest.push(change);
            }
        }
        rest.retain(|change| !change.edits.is_empty());
        self.waiting = rest;
    }

    /// Whether a rename in or out of `dir` waits for its first sync; that sync is then skipped.
    pub(super) fn pass_over_rename(&mut self, dir: Ino) -> bool {
        let mut found = false;
        for change in &mut self.waiting {
            if change.edits.iter().any(|edit| edit.dir == dir) {
                found |= std::mem::take(&mut change.is_new_rename);
            }
        }
        found
    }

    /// A failed directory sync: some of the changes that waited for it become doubtful, which no later sync can undo.
    pub(super) fn fail_sync_dir(&mut self, dir: Ino, rng: &mut Rng) {
        let mood = Mood::draw(rng);
        for change in &mut self.waiting {
            if change.edits.iter().any(|edit| edit.dir == dir) && !mood.keeps(rng) {
                change.doubtful = true;
            }
        }
    }

    /// Whether every change of names in the directory `path` is durable.
    pub(super) fn is_synced(&self, path: &Path) -> io::Result<bool> {
        let dir = self.look_up_dir(path)?;
        let mut waiting = self.waiting.iter().flat_map(|change| &change.edits);
        Ok(!waiting.any(|edit| edit.dir == dir))
    }

    /// What a machine finds after the power was cut.
    pub(super) fn after_power_cut(&self, rng: &mut Rng) -> Self {
        let mut found = self.clone();
        let changes = std::mem::take(&mut found.waiting);
        // Journalling file systems lose the end of the history; others any part of it.
        if rng.chance(1, 4) {
            let kept = rng.index(changes.len() + 1);
            let kept = changes.into_iter().take(kept);
            kept.for_each(|change| found.make_durable(change));
        } else {
            let mood = Mood::draw(rng);
            for change in changes {
                if mood.keeps(rng) {
                    found.make_durable(change);
                }
            }
        }
        for dir in found.dirs.values_mut() {
            dir.current = dir.durable.clone();
        }
        found.forget_unnamed();
        for file in found.files.values_mut() {
            *file = file.after_power_cut(rng);
        }
        found
    }

    /// What a new process finds after a kill.
    pub(super) fn after_kill(&self, rng: &mut Rng) -> Self {
        let mut found = self.clone();
        for file in found.files.values_mut() {
            *file = file.after_kill(rng);
        }
        // A file system forgets a file's pages that it could not write, but not names: it keeps them for the next sync,
        // or stops.
        for change in &mut found.waiting {
            change.doubtful = false;
        }
        found
    }

    fn forget_unnamed(&mut self) {
        let mut named = BTreeSet::from([ROOT]);
        let mut todo = vec![ROOT];
        while let Some(dir) = todo.pop() {
            for &ino in self
                .dirs
                .get(&dir)
                .into_iter()
                .flat_map(|dir| dir.current.values())
            {
                if named.insert(ino) {
                    todo.push(ino);
                }
            }
        }
        self.dirs.retain(|ino, _| named.contains(ino));
        let mut links: BTreeMap<Ino, u32> = BTreeMap::new();
        for ino in self.dirs.values().flat_map(|dir| dir.current.values()) {
            *links.entry(*ino).or_default() += 1;
        }
        self.files.retain(|ino, _| links.contains_key(ino));
        for (ino, file) in &mut self.files {
            file.links = links[ino];
        }
    }
}
