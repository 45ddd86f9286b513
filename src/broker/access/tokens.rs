//! Tokens that the server makes: created, changed, rotated, revoked.

use std::time::Duration;

use super::records::{Token, remove_token, set_token};
use super::{ADMIN, Access, Known, secret};
use crate::broker::caller::Caller;
use crate::broker::engine::TimestampMs;
use crate::broker::names::Rule as NameRule;
use crate::broker::refusal::{Reason, Refusal};
use crate::broker::rights::quota::Limits;
use crate::broker::rights::{self, Rule};

/// The rule for names of tokens and principals: that of topics.
pub const NAME: NameRule = crate::broker::names::PRINCIPAL;

/// The most tokens, and the most principals.
pub(super) const MAX: usize = 100_000;
/// The longest time for which a rotated token's former secret stays valid.
const MOST_OVERLAP: Duration = Duration::from_hours(24 * 30);

/// What a new token is to be.
#[derive(Clone, Debug)]
pub struct NewToken {
    /// Its name.
    pub name: String,
    /// What it allows.
    pub rules: Vec<Rule>,
    /// When it ends.
    pub expires: Option<TimestampMs>,
    /// What it may use.
    pub quotas: Limits,
}

/// A change of a token; what is `None` stays.
#[derive(Clone, Debug, Default)]
pub struct TokenChange {
    /// Other rules.
    pub rules: Option<Vec<Rule>>,
    /// Another end, or none.
    pub expires: Option<Option<TimestampMs>>,
    /// Other quotas.
    pub quotas: Option<Limits>,
}

/// A token without its secret.
#[derive(Clone, Debug)]
pub struct Described {
    /// Its name.
    pub name: String,
    /// What it allows.
    pub rules: Vec<Rule>,
    /// When it ends.
    pub expires: Option<TimestampMs>,
    /// What it may use.
    pub quotas: Limits,
    /// When it was made.
    pub created: TimestampMs,
    /// Until when the secret from before the last rotation is valid, if it still is.
    pub overlap_until: Option<TimestampMs>,
}

impl Access {
    /// Makes a token, and returns its secret, which nobody gets again.
    ///
    /// # Errors
    /// [`Reason::InvalidRequest`]; [`Reason::PrincipalExists`]: a token or a principal has the name; those of an append.
    pub async fn create_token(&self, caller: &Caller, new: NewToken) -> Result<String, Refusal> {
        NAME.check(&new.name).map_err(|refusal| refusal.at("/name"))?;
        rights::check(&new.rules)?;
        check_limits(&new.quotas)?;
        check_expires(new.expires, self.now())?;
        let name = new.name.clone();
        let decide = move |access: &Self| {
            access.check_free(&new.name)?;
            let secret = secret::make()?;
            let expires = new.expires.map(TimestampMs::get);
            let kept = access.kept(&new.name, &secret);
            let token = Token::new(new.rules, expires, new.quotas, access.now().get(), kept);
            Ok((set_token(&new.name, &token), (token, secret)))
        };
        self.change(
            caller,
            ("token.create", format!("tokens/{name}")),
            decide,
            move |table, (token, secret)| {
                table.put_token(&name, token);
                secret
            },
        )
        .await
    }

    /// All tokens, by name.
    #[must_use]
    pub fn tokens(&self) -> Vec<Described> {
        let now = self.now();
        let table = self.0.table.read();
        let all = table.tokens.iter();
        all.map(|(name, known)| described(name, known, now)).collect()
    }

    /// A token.
    ///
    /// # Errors
    /// [`Reason::UnknownPrincipal`].
    pub fn token(&self, name: &str) -> Result<Described, Refusal> {
        let table = self.0.table.read();
        let known = table.tokens.get(name).ok_or_else(|| unknown("token", name))?;
        Ok(described(name, known, self.now()))
    }

    /// Changes a token. What runs with it ends, and begins anew under what it is then.
    ///
    /// # Errors
    /// [`Reason::UnknownPrincipal`], [`Reason::InvalidRequest`]; those of an append.
    pub async fn alter_token(&self, caller: &Caller, name: &str, change: TokenChange) -> Result<(), Refusal> {
        if let Some(rules) = &change.rules {
            rights::check(rules)?;
        }
        if let Some(quotas) = &change.quotas {
            check_limits(quotas)?;
        }
        check_expires(change.expires.flatten(), self.now())?;
        let (name, stored) = (name.to_owned(), name.to_owned());
        let decide = move |access: &Self| {
            let mut token = access.record_of(&name)?;
            if let Some(rules) = change.rules {
                token.rules = rules;
            }
            if let Some(expires) = change.expires {
                token.expires = expires.map(TimestampMs::get);
            }
            if let Some(quotas) = change.quotas {
                token.quotas = quotas;
            }
            Ok((set_token(&name, &token), token))
        };
        self.change(
            caller,
            ("token.alter", format!("tokens/{stored}")),
            decide,
            move |table, token| table.put_token(&stored, token),
        )
        .await
    }

    /// Gives a token a new secret, and returns it. The former one stays valid for `overlap`, or ends at once.
    ///
    /// # Errors
    /// [`Reason::UnknownPrincipal`]; [`Reason::InvalidRequest`] for too long an overlap; those of an append.
    pub async fn rotate_token(
        &self,
        caller: &Caller,
        name: &str,
        overlap: Duration,
    ) -> Result<String, Refusal> {
        if overlap > MOST_OVERLAP {
            let detail = format!("an overlap is at most {} ms", MOST_OVERLAP.as_millis());
            return Err(Refusal::invalid("/overlap_ms", detail));
        }
        let (name, stored) = (name.to_owned(), name.to_owned());
        let decide = move |access: &Self| {
            let mut token = access.record_of(&name)?;
            let now = access.now().get();
            let ends = now.saturating_add(i64::try_from(overlap.as_millis()).unwrap_or(i64::MAX));
            // At most two are valid at a time.
            token.secrets.truncate(1);
            let secret = secret::make()?;
            let beside = token.secrets.first();
            let beside = beside.and_then(|former| secret::Kept::beside(&secret, former));
            let kept = beside.unwrap_or_else(|| access.kept(&name, &secret));
            for former in &mut token.secrets {
                former.expires = Some(ends);
            }
            if overlap.is_zero() {
                token.secrets.clear();
            }
            token.secrets.insert(0, kept);
            Ok((set_token(&name, &token), (token, secret)))
        };
        self.change(
            caller,
            ("token.rotate", format!("tokens/{stored}")),
            decide,
            move |table, (token, secret)| {
                table.rotate_token(&stored, token);
                secret
            },
        )
        .await
    }

    /// Revokes a token: requests with it are refused from now on, and what runs with it ends.
    ///
    /// # Errors
    /// [`Reason::UnknownPrincipal`]; those of an append.
    pub async fn revoke_token(&self, caller: &Caller, name: &str) -> Result<(), Refusal> {
        let (name, stored) = (name.to_owned(), name.to_owned());
        let decide = move |access: &Self| {
            access.record_of(&name)?;
            Ok((remove_token(&name), ()))
        };
        self.change(
            caller,
            ("token.revoke", format!("tokens/{stored}")),
            decide,
            move |table, ()| drop(table.take_token(&stored)),
        )
        .await
    }

    fn record_of(&self, name: &str) -> Result<Token, Refusal> {
        let table = self.0.table.read();
        let known = table.tokens.get(name).ok_or_else(|| unknown("token", name))?;
        Ok(known.record.clone())
    }

    /// Refuses a name that is taken: names of tokens and principals are one set, since both are whom a log names.
    pub(super) fn check_free(&self, name: &str) -> Result<(), Refusal> {
        let table = self.0.table.read();
        let taken = table.tokens.contains_key(name) || table.principals.contains_key(name) || name == ADMIN;
        if taken {
            let detail =
                format!("the name {name} is taken, by a token, by a principal or by the first administrator");
            return Err(Refusal::new(Reason::PrincipalExists, detail));
        }
        if table.tokens.len() >= MAX || table.principals.len() >= MAX {
            let detail = format!("there are {MAX} tokens or principals already, which is the most");
            return Err(Refusal::invalid("/name", detail));
        }
        Ok(())
    }
}

fn described(name: &str, known: &Known<Token>, now: TimestampMs) -> Described {
    let token = &known.record;
    let former = token.secrets.iter().filter_map(|secret| secret.expires);
    Described {
        name: name.to_owned(),
        rules: token.rules.clone(),
        expires: token.expires.map(TimestampMs),
        quotas: token.quotas,
        created: TimestampMs(token.created),
        overlap_until: former.max().map(TimestampMs).filter(|until| *until > now),
    }
}

pub(super) fn unknown(what: &str, name: &str) -> Refusal {
    let shown: String = name.chars().take(250).collect();
    Refusal::new(
        Reason::UnknownPrincipal,
        format!("the {what} {shown:?} does not exist"),
    )
}

pub(super) fn check_limits(limits: &Limits) -> Result<(), Refusal> {
    for (name, limit) in [
        ("bytes_per_second", limits.bytes_per_second),
        ("requests_per_second", limits.requests_per_second),
        ("connections", limits.connections),
    ] {
        if limit == Some(0) {
            let detail = "a quota is at least 1; leave it out, or null, for none";
            return Err(Refusal::invalid(format!("/quotas/{name}"), detail));
        }
    }
    Ok(())
}

fn check_expires(expires: Option<TimestampMs>, now: TimestampMs) -> Result<(), Refusal> {
    match expires {
        Some(expires) if expires <= now => Err(Refusal::invalid("/expires", "that time has passed")),
        _ => Ok(()),
    }
}
