//! The command line's own files: named contexts, and the progress of loads.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// `$VARIABLE/quipu`, or the same in `~/FALLBACK`; none if neither is known. A relative variable is ignored.
pub(crate) fn directory(variable: &str, fallback: &str) -> Option<PathBuf> {
    let set = |name: &str| std::env::var_os(name).map(PathBuf::from);
    let own = set(variable).filter(|directory| directory.is_absolute());
    let home = || set("HOME").filter(|home| !home.as_os_str().is_empty());
    let directory = own.or_else(|| Some(home()?.join(fallback)))?;
    Some(directory.join("quipu"))
}

/// Replaces a file as a whole; only the user may read it. The new file has the extension `extension` until it is
/// complete, so a crash leaves the old or the new one.
/// Errors: The file or its directory cannot be written; a half-written file is removed.
pub(crate) fn replace(path: &Path, extension: &str, content: &[u8]) -> io::Result<()> {
    let directory = path.parent().unwrap_or(Path::new("/"));
    fs::create_dir_all(directory)?;
    let new = path.with_extension(extension);
    let write = || {
        let mut options = File::options();
        let options = options.create(true).truncate(true).write(true);
        let mut file = options.mode(0o600).open(&new)?;
        file.write_all(content)?;
        file.sync_all()?;
        fs::rename(&new, path)?;
        File::open(directory)?.sync_all()
    };
    write().inspect_err(|_| drop(fs::remove_file(&new)))
}
