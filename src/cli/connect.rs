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
}

/// The server and the token of a context.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Named {
    server: String,
    token: Option<String>,
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
        }
    }
    /// A client for the chosen server; nothing is sent yet.
    /// Errors: [`Usage`] for an address, a token or a context that cannot work; a file of contexts that cannot be read.
    pub(crate) fn client(&self) -> anyhow::Result<Client> {
        for name in ["QUIPU_SERVER", "QUIPU_TOKEN", "QUIPU_CONTEXT"] {
            // A value that cannot be read must not silently mean another server.
            if let Err(VarError::NotUnicode(_)) = std::env::var(name) {
                return Err(Usage(format!("{name} is not UTF-8")).into());
            }
        }
        let named = self.resolve(&|name| std::env::var(name).ok(), Contexts::read)?;
        Ok(Client::new(&named.server, named.token.as_deref())?)
    }

    /// A client for the server at `uri`; it sends the token only if that is the server the command talks to.
    /// Errors: As [`Self::client`].
    pub(crate) fn client_of(&self, uri: &http::Uri) -> anyhow::Result<Client> {
        let authority = uri.authority().map_or("", |authority| authority.as_str());
        let own = self.client()?;
        if own.base().strip_prefix("http://") == Some(authority) {
            return Ok(own);
        }
        Ok(Client::new(authority, None)?)
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
        let at = |server| Named {
            server,
            token: own_token(),
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
        let Named { server, token } = named.ok_or_else(|| Usage(contexts.unknown(&name)))?;
        // With --context both server and token are the context's; only --token replaces the token.
        let own = match &self.context {
            Some(_) => self.token.clone(),
            None => own_token(),
        };
        let token = own.or(token);
        Ok(Named { server, token })
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
    /// Saves the --server and --token under a name
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
            let client = Client::new(&server, connect.token.as_deref())?;
            let server = client.base().to_owned();
            let answer = json!({"context": name, "server": server});
            let text = format!("context {name} is {server}");
            let token = connect.token;
            contexts.contexts.insert(name, Named { server, token });
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
