//! Which server a command talks to: `--server`, a named context, the environment, or the default address.
//!
//! A flag wins over the environment, and both win over the context chosen with `quipu context use`. A context's
//! token never goes to another server. `QUIPU_TOKEN` goes to the chosen server, unless `--context` names it.

use std::collections::BTreeMap;
use std::env::VarError;
use std::fs;
use std::io;
use std::path::PathBuf;

use anyhow::{Context as _, bail};
use clap::Subcommand;
use clap::builder::NonEmptyStringValueParser;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::Usage;
use super::client::Client;
use super::files;
use super::output::{self, Table};
use super::trust::Trust;

const VARIABLES: [&str; 6] = [
    "QUIPU_SERVER",
    "QUIPU_TOKEN",
    "QUIPU_CONTEXT",
    "QUIPU_CA_FILE",
    "QUIPU_CERT",
    "QUIPU_CERT_KEY",
];
const DEFAULT_SERVER: &str = "http://127.0.0.1:7420";

/// The flags that every client command has.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Server")]
pub(crate) struct Connect {
    /// Address of the server [env: QUIPU_SERVER] [default: http://127.0.0.1:7420]
    #[arg(long, value_name = "URL", global = true)]
    pub(super) server: Option<String>,
    /// Token that is sent with every request [env: QUIPU_TOKEN]
    #[arg(long, value_name = "TOKEN", global = true)]
    pub(super) token: Option<String>,
    /// Name of a context: a server and token saved with `quipu context set` [env: QUIPU_CONTEXT]
    #[arg(long, value_name = "NAME", global = true, conflicts_with = "server")]
    pub(super) context: Option<String>,
    /// Certificates in PEM of the authorities to trust, for https:// [env: QUIPU_CA_FILE] [default: the system's]
    #[arg(long, value_name = "FILE", global = true)]
    pub(super) ca_file: Option<PathBuf>,
    /// Certificate in PEM to show to the server, for https:// [env: QUIPU_CERT]
    #[arg(long, value_name = "FILE", global = true)]
    pub(super) cert: Option<PathBuf>,
    /// Private key of --cert in PEM [env: QUIPU_CERT_KEY]
    #[arg(long, value_name = "FILE", global = true)]
    pub(super) cert_key: Option<PathBuf>,
}

/// The server, the token and the files of a context.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Named {
    server: String,
    token: Option<String>,
    ca_file: Option<PathBuf>,
    cert: Option<PathBuf>,
    cert_key: Option<PathBuf>,
}

impl Named {
    fn client(&self) -> Result<Client, Usage> {
        Client::with(&self.server, self.token.as_deref(), &self.trust())
    }

    fn trust(&self) -> Trust {
        Trust {
            ca_file: self.ca_file.clone(),
            cert: self.cert.clone(),
            key: self.cert_key.clone(),
            any: false,
        }
    }
}

/// The file `contexts.toml` in the user's configuration directory.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Contexts {
    /// The context of commands that name no server.
    current: Option<String>,
    #[serde(default)]
    contexts: BTreeMap<String, Named>,
}

impl Connect {
    /// From the values of `--server`, `--token` and `--context`.
    pub(super) fn of([server, token, context]: [Option<String>; 3]) -> Self {
        Self {
            server,
            token,
            context,
            ca_file: None,
            cert: None,
            cert_key: None,
        }
    }

    /// Whether the command line or the environment says which server is meant.
    pub(crate) fn is_named(&self) -> bool {
        let is_set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        let by_flag = self.server.is_some() || self.context.is_some();
        by_flag || is_set("QUIPU_SERVER") || is_set("QUIPU_CONTEXT")
    }

    /// A client for the chosen server; nothing is sent yet.
    /// Errors: [`Usage`] for an address, a token or a context that cannot work; a file of contexts that cannot be read.
    pub(crate) fn client(&self) -> anyhow::Result<Client> {
        Ok(self.named()?.client()?)
    }

    fn named(&self) -> anyhow::Result<Named> {
        for name in VARIABLES {
            // A value that cannot be read must not silently mean another server.
            if let Err(VarError::NotUnicode(_)) = std::env::var(name) {
                return Err(Usage(format!("{name} is not UTF-8")).into());
            }
        }
        self.resolve(&|name| std::env::var(name).ok(), Contexts::read)
    }

    /// A client for the server at `uri`; it sends the token, and shows the certificate, only if that is the server the
    /// command talks to.
    /// Errors: As [`Self::client`].
    pub(crate) fn client_of(&self, uri: &http::Uri) -> anyhow::Result<Client> {
        let authority = uri.authority().map_or("", |authority| authority.as_str());
        let server = format!("{}://{authority}", uri.scheme_str().unwrap_or("http"));
        let named = self.named()?;
        let own = named.client()?;
        if own.base() == server {
            return Ok(own);
        }
        let ca_file = named.ca_file;
        let trust = Trust {
            ca_file,
            ..Trust::default()
        };
        Ok(Client::with(&server, None, &trust)?)
    }

    fn resolve(
        &self,
        environment: &dyn Fn(&str) -> Option<String>,
        contexts: impl FnOnce() -> anyhow::Result<Contexts>,
    ) -> anyhow::Result<Named> {
        let variable = |name| environment(name).filter(|value| !value.is_empty());
        let own_token = || self.token.clone().or_else(|| variable("QUIPU_TOKEN"));
        let server = match &self.context {
            Some(_) => None,
            None => self.server.clone().or_else(|| variable("QUIPU_SERVER")),
        };
        let file = |flag: &Option<PathBuf>, name| flag.clone().or_else(|| variable(name).map(PathBuf::from));
        let ca_file = file(&self.ca_file, "QUIPU_CA_FILE");
        let (cert, key) = (
            file(&self.cert, "QUIPU_CERT"),
            file(&self.cert_key, "QUIPU_CERT_KEY"),
        );
        let at = |server| Named {
            server,
            token: own_token(),
            ca_file: ca_file.clone(),
            cert: cert.clone(),
            cert_key: key.clone(),
        };
        if let Some(server) = server {
            return Ok(at(server));
        }
        let name = self.context.clone().or_else(|| variable("QUIPU_CONTEXT"));
        let mut contexts = contexts()?;
        let Some(name) = name.or(contexts.current.take()) else {
            return Ok(at(DEFAULT_SERVER.to_owned()));
        };
        let named = contexts.contexts.remove(&name);
        let named = named.ok_or_else(|| Usage(contexts.unknown(&name)))?;
        // With --context both server and token are the context's; only --token replaces the token.
        let own = match &self.context {
            Some(_) => self.token.clone(),
            None => own_token(),
        };
        Ok(Named {
            server: named.server,
            token: own.or(named.token),
            ca_file: ca_file.or(named.ca_file),
            cert: cert.or(named.cert),
            cert_key: key.or(named.cert_key),
        })
    }
}

impl Contexts {
    fn path() -> anyhow::Result<PathBuf> {
        let directory = files::directory("XDG_CONFIG_HOME", ".config");
        let directory =
            directory.context("contexts need a home directory: neither XDG_CONFIG_HOME nor HOME is set")?;
        Ok(directory.join("contexts.toml"))
    }

    /// What is in the file; nothing without one.
    fn read() -> anyhow::Result<Self> {
        let Ok(path) = Self::path() else {
            return Ok(Self::default());
        };
        let text = match fs::read_to_string(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            text => text.with_context(|| format!("cannot read {}", path.display()))?,
        };
        let parsed: Result<Self, toml::de::Error> = toml::from_str(&text);
        parsed.map_err(|error| anyhow::anyhow!("{}: {}", path.display(), error.message()))
    }

    /// Replaces the file as a whole; only the user may read it, as it has tokens.
    fn write(&self) -> anyhow::Result<()> {
        let path = Self::path()?;
        let text = toml::to_string(self)?;
        // Two commands at once must not write the same new file.
        let replaced = files::replace(&path, &format!("{}.new", std::process::id()), text.as_bytes());
        replaced.with_context(|| format!("cannot write {}", path.display()))
    }

    fn unknown(&self, name: &str) -> String {
        let names: Vec<&str> = self.contexts.keys().map(String::as_str).collect();
        match names.is_empty() {
            true => format!("there is no context {name}; `quipu context set {name} --server URL` makes it"),
            false => format!("there is no context {name}; there are {}", names.join(", ")),
        }
    }
}

pub(crate) const EXAMPLES: &str = "Examples:
  quipu context set prod --server http://quipu.example:7420 --token TOKEN
  quipu context use prod
  quipu --context prod topic list";

#[derive(Debug, Subcommand)]
pub(crate) enum Action {
    /// Saves the --server under a name, with --token, --ca-file, --cert and --cert-key
    #[command(
        after_help = "Examples:\n  quipu context set prod --server http://quipu.example:7420 --token TOKEN"
    )]
    Set(Name),
    /// Lists all contexts
    #[command(after_help = "Examples:\n  quipu context list")]
    List,
    /// Selects the context for commands that name no server
    #[command(after_help = "Examples:\n  quipu context use prod")]
    Use(Name),
    /// Deletes a context
    #[command(after_help = "Examples:\n  quipu context delete prod")]
    Delete(Name),
}

#[derive(Debug, clap::Args)]
pub(crate) struct Name {
    /// Name of the context
    #[arg(value_name = "NAME", value_parser = NonEmptyStringValueParser::new())]
    name: String,
}

pub(crate) fn run(action: Action, connect: Connect, is_json: bool) -> anyhow::Result<()> {
    let mut contexts = Contexts::read()?;
    let (text, answer) = match action {
        Action::List => return list(&contexts, is_json),
        Action::Set(Name { name }) => {
            let Some(server) = connect.server else {
                return Err(Usage::of("give --server URL; QUIPU_SERVER is not saved"));
            };
            let named = Named {
                server,
                token: connect.token,
                ca_file: absolute(connect.ca_file)?,
                cert: absolute(connect.cert)?,
                cert_key: absolute(connect.cert_key)?,
            };
            let server = named.client()?.base().to_owned();
            let answer = json!({"context": name, "server": server});
            let text = format!("context {name} is {server}");
            contexts.contexts.insert(name, Named { server, ..named });
            (text, answer)
        }
        Action::Use(Name { name }) => {
            if !contexts.contexts.contains_key(&name) {
                bail!(contexts.unknown(&name));
            }
            contexts.current = Some(name.clone());
            (
                format!("commands go to context {name} now"),
                json!({"current": name}),
            )
        }
        Action::Delete(Name { name }) => {
            if contexts.contexts.remove(&name).is_none() {
                bail!(contexts.unknown(&name));
            }
            contexts.current.take_if(|current| *current == name);
            (format!("context {name} is deleted"), json!({"deleted": name}))
        }
    };
    contexts.write()?;
    output::done(&answer, &text, is_json)
}

/// The path that a context keeps: it must mean the same file from any directory.
fn absolute(path: Option<PathBuf>) -> anyhow::Result<Option<PathBuf>> {
    let path = path.map(std::path::absolute).transpose();
    path.context("cannot tell the current directory")
}

/// The names of all contexts.
pub(crate) fn names() -> Vec<String> {
    Contexts::read().map_or_else(|_| Vec::new(), |contexts| contexts.contexts.into_keys().collect())
}

/// Tokens are not shown.
fn list(contexts: &Contexts, is_json: bool) -> anyhow::Result<()> {
    let is_current = |name: &String| contexts.current.as_ref() == Some(name);
    let all = contexts.contexts.iter();
    if is_json {
        let rows = all.map(|(name, named)| {
            json!({"context": name, "server": named.server, "current": is_current(name), "has_token": named.token.is_some()})
        });
        return Ok(output::json(&json!({"contexts": rows.collect::<Vec<_>>()}))?);
    }
    let mark = |is: bool, word| if is { word } else { "-" };
    Table::of(all)
        .text("CONTEXT", |(name, _)| *name)
        .text("CURRENT", |(name, _)| mark(is_current(name), "*"))
        .text("SERVER", |(_, named)| &named.server)
        .text("TOKEN", |(_, named)| mark(named.token.is_some(), "yes"))
        .print(&["TOKEN", "CURRENT"])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_win_over_the_environment_and_both_over_the_current_context() {
        let contexts = || {
            Ok(toml::from_str(
                "current = 'one'\n[contexts.one]\nserver = 'http://one'\ntoken = 't1'\n[contexts.two]\nserver = 'http://two'\n",
            )?)
        };
        // Flags --server, --token, --context; variables QUIPU_SERVER, QUIPU_TOKEN, QUIPU_CONTEXT; server and token.
        for (flags, variables, expected) in [
            (["", "", ""], ["", "", ""], ("http://one", "t1")),
            (["", "f", ""], ["", "e", ""], ("http://one", "f")),
            (["", "", ""], ["", "e", ""], ("http://one", "e")),
            (["", "", "two"], ["s", "e", "one"], ("http://two", "")),
            (["", "f", "two"], ["s", "e", "one"], ("http://two", "f")),
            (["", "", ""], ["", "", "two"], ("http://two", "")),
            (["", "", ""], ["s", "", "two"], ("s", "")),
            (["", "", ""], ["s", "e", ""], ("s", "e")),
            (["f", "", ""], ["s", "", "two"], ("f", "")),
            (["f", "f", ""], ["s", "e", ""], ("f", "f")),
        ] {
            let flag = |index: usize| Some(flags[index].to_owned()).filter(|text: &String| !text.is_empty());
            let connect = Connect::of([0, 1, 2].map(flag));
            let variable = |name: &str| {
                let names = ["QUIPU_SERVER", "QUIPU_TOKEN", "QUIPU_CONTEXT"];
                let index = names.iter().position(|known| *known == name);
                Some(variables[index?].to_owned())
            };
            let found = connect.resolve(&variable, contexts).unwrap();
            let found = (&*found.server, found.token.as_deref().unwrap_or(""));
            assert_eq!(found, expected, "{flags:?} {variables:?}");
        }
        let connect = Connect::of([None, None, Some("three".to_owned())]);
        let error = connect.resolve(&|_| None, contexts).unwrap_err();
        assert_eq!(error.to_string(), "there is no context three; there are one, two");
    }
}
