//! The token of the first administrator: a setting, or the content of a file, which may change while the server runs.

use std::io;
use std::path::{Path, PathBuf};

use crate::http::app::App;
use crate::settings::{Config, Secret};

/// More than a token and the line break behind it can have.
const MOST_BYTES: u64 = 1024;

/// Why the token cannot be used. The message is for the operator, and has no part of it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AdminTokenError {
    /// The file cannot be read.
    #[error("cannot read the administrator's token in {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The operating system's error.
        source: io::Error,
    },
    /// What the file has is no token.
    #[error("{} must have one line of 8 to 256 visible ASCII characters", path.display())]
    Unfit {
        /// The file.
        path: PathBuf,
    },
}

/// The token of these settings; `None`: there is none.
///
/// # Errors
/// [`AdminTokenError`].
pub fn read(config: &Config) -> Result<Option<Secret>, AdminTokenError> {
    match &config.admin_token_file {
        Some(path) => read_file(path).map(Some),
        None => Ok(config.admin_token.clone()),
    }
}

#[allow(
    clippy::disallowed_methods,
    reason = "a secret of the operator's, not the data directory's"
)]
fn read_file(path: &Path) -> Result<Secret, AdminTokenError> {
    use io::Read;

    let read = || {
        let mut text = String::new();
        let file = std::fs::File::open(path)?;
        file.take(MOST_BYTES).read_to_string(&mut text)?;
        Ok(text)
    };
    let text = read().map_err(|source| AdminTokenError::Read {
        path: path.to_owned(),
        source,
    })?;
    Secret::of(text.trim_end_matches(['\n', '\r'])).ok_or_else(|| AdminTokenError::Unfit {
        path: path.to_owned(),
    })
}

/// Reads the token again and puts it in force: what the former one began ends if it is another one. For SIGHUP.
///
/// # Errors
/// [`AdminTokenError`]: the former token stays in force.
pub fn reload(app: &App) -> Result<(), AdminTokenError> {
    let token = read(&app.config)?;
    app.access.set_admin_token(token.as_ref().map(Secret::reveal));
    Ok(())
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "it writes files for the test")]
mod tests {
    use super::*;

    #[test]
    fn a_file_has_one_token_and_perhaps_a_line_break() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        let config = Config {
            admin_token_file: Some(path.clone()),
            ..Config::default()
        };
        assert!(matches!(read(&config), Err(AdminTokenError::Read { .. })));
        let long = "x".repeat(257);
        for (text, token) in [
            ("12345678", Some("12345678")),
            ("a-token-of-mine\n", Some("a-token-of-mine")),
            ("a-token-of-mine\r\n", Some("a-token-of-mine")),
            ("1234567", None),
            ("two words", None),
            ("line-one\nline-two", None),
            ("", None),
            (&long, None),
        ] {
            std::fs::write(&path, text).unwrap();
            match (read(&config), token) {
                (Ok(Some(found)), Some(token)) => assert_eq!(found.reveal(), token),
                (Err(error @ AdminTokenError::Unfit { .. }), None) => {
                    assert!(text.is_empty() || !error.to_string().contains(text));
                }
                (found, _) => panic!("{text:?}: {found:?}"),
            }
        }
    }
}
