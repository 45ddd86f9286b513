//! Tokens and principals in the engine's durable state, as JSON.
//!
//! ```text
//! key    'k' name     a token      {"version":1,"rules":[…],"expires":ms,"quotas":{…},"created":ms,"secrets":[…]}
//! key    'P' name     a principal  {"version":1,"match":{"jwt":{…}}|{"cert":"…"},"rules":[…],"quotas":{…}}
//! key    'D'          32 random bytes, by which salts are made up for names that nobody has
//! ```
//!
//! A secret is kept as its SHA-256 and the salted keys of SCRAM (see [`secret`](super::secret)), the newest first; an older
//! one has the time until which it is still valid. An entry that cannot be read lets nobody in, and is logged at the start.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::secret::Kept;
use crate::broker::engine::{AppendRequest, Log, StateChange};
use crate::broker::refusal::Refusal;
use crate::broker::rights::Rule;
use crate::broker::rights::quota::Limits;
use crate::broker::state_keys::{DECOY, PRINCIPAL, TOKEN, topic_of};

const VERSION: u8 = 1;

/// A token that the server made.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Token {
    version: u8,
    /// What it allows.
    pub rules: Vec<Rule>,
    /// When it ends, in milliseconds; none: never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<i64>,
    /// What it may use.
    #[serde(default)]
    pub quotas: Limits,
    /// When it was made, in milliseconds.
    pub created: i64,
    /// Its secrets, the newest first.
    pub secrets: Vec<Kept>,
}

impl Token {
    /// A token with one secret.
    pub fn new(rules: Vec<Rule>, expires: Option<i64>, quotas: Limits, created: i64, secret: Kept) -> Self {
        Self {
            version: VERSION,
            rules,
            expires,
            quotas,
            created,
            secrets: vec![secret],
        }
    }
}

/// Whom a principal's rules are for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Match {
    /// JWTs with these claims: equal to the value, or a list that has it.
    Jwt(Map<String, Value>),
    /// Certificates with this subject (RFC 4514), or this name among their alternative names.
    Cert(String),
}

/// Rules for JWTs or certificates.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Principal {
    version: u8,
    /// For whom.
    pub r#match: Match,
    /// What they allow.
    pub rules: Vec<Rule>,
    /// What it may use.
    #[serde(default)]
    pub quotas: Limits,
}

impl Principal {
    /// Rules for a match.
    pub fn new(r#match: Match, rules: Vec<Rule>, quotas: Limits) -> Self {
        Self {
            version: VERSION,
            r#match,
            rules,
            quotas,
        }
    }
}

fn key(kind: u8, name: &str) -> Vec<u8> {
    [&[kind], name.as_bytes()].concat()
}

fn set(kind: u8, name: &str, record: &impl Serialize) -> StateChange {
    let value = serde_json::to_vec(record).expect("maps of text, numbers and lists are JSON");
    StateChange::set(key(kind, name), value)
}

/// The change that keeps a token.
pub fn set_token(name: &str, token: &Token) -> StateChange {
    set(TOKEN, name, token)
}

/// The change that removes a token.
pub fn remove_token(name: &str) -> StateChange {
    StateChange::remove(key(TOKEN, name))
}

/// The change that keeps a principal.
pub fn set_principal(name: &str, principal: &Principal) -> StateChange {
    set(PRINCIPAL, name, principal)
}

/// The change that removes a principal.
pub fn remove_principal(name: &str) -> StateChange {
    StateChange::remove(key(PRINCIPAL, name))
}

/// What salts are made up with, if it was kept.
pub fn decoy(log: &Log) -> Option<[u8; 32]> {
    let kept = log.state_get(&[DECOY])?;
    <[u8; 32]>::try_from(&*kept).ok()
}

/// Keeps what salts are made up with. Blocks.
///
/// # Errors
/// Those of an append.
pub fn keep_decoy(log: &Log, decoy: &[u8; 32]) -> Result<(), Refusal> {
    let change = StateChange::set(vec![DECOY], decoy.to_vec());
    log.append(AppendRequest::of_state(vec![change]))?.wait()?;
    Ok(())
}

/// All tokens, by name.
pub fn tokens(log: &Log) -> Vec<(String, Token)> {
    read(log, TOKEN, |token: &Token| token.version)
}

/// All principals, by name.
pub fn principals(log: &Log) -> Vec<(String, Principal)> {
    read(log, PRINCIPAL, |principal: &Principal| principal.version)
}

fn read<T: DeserializeOwned>(log: &Log, kind: u8, version: fn(&T) -> u8) -> Vec<(String, T)> {
    let entries = log.state_prefix(&[kind]).into_iter();
    // Not the entries of topics whose keys begin with the same byte.
    let named = entries.filter(|(key, _)| topic_of(key).is_none());
    let known = named.filter_map(|(key, value)| {
        let name = std::str::from_utf8(&key[1..]).ok()?.to_owned();
        match serde_json::from_slice::<T>(&value) {
            Ok(record) if version(&record) == VERSION => Some((name, record)),
            found => {
                let error = found
                    .err()
                    .map_or_else(|| "another version".to_owned(), |error| error.to_string());
                tracing::error!(
                    name,
                    error,
                    "a token or principal cannot be read: it lets nobody in"
                );
                None
            }
        }
    });
    known.collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_layout_of_version_1_does_not_change() {
        let keys = json!({"salt": "AQ==", "iterations": 4096, "stored_key": "Ag==", "server_key": "Aw=="});
        let stored = json!({
            "version": 1, "rules": [{"allow": ["read"], "topics": ["a-*"]}], "expires": 9,
            "quotas": {"bytes_per_second": 5}, "created": 3,
            "secrets": [{"sha256": "AA==", "expires": 7, "scram_sha_256": keys, "scram_sha_512": keys}],
        });
        let token: Token = serde_json::from_value(stored.clone()).unwrap();
        assert_eq!(serde_json::to_value(&token).unwrap(), stored);
        for of in [json!({"jwt": {"sub": "x"}}), json!({"cert": "CN=x"})] {
            let stored = json!({"version": 1, "match": of, "rules": [{"allow": ["admin"]}], "quotas": {}});
            let principal: Principal = serde_json::from_value(stored.clone()).unwrap();
            assert_eq!(serde_json::to_value(&principal).unwrap(), stored);
        }
        assert_eq!(set_token("billing", &token).key, b"kbilling");
        assert_eq!(remove_principal("ci").key, b"Pci");
    }
}
