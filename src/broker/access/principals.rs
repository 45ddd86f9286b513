//! Principals: rules for JWTs, by their claims, and for certificates, by their names.
//!
//! If several are for one JWT, the one with the most claims counts, and of these the first by name. A certificate's is the
//! first by name.

use std::cmp::Reverse;
use std::sync::Arc;

use serde_json::{Map, Value};

use super::records::{Match, Principal as Ruled, remove_principal, set_principal};
use super::tokens::{NAME, check_limits, unknown};
use super::{Access, Table};
use crate::broker::caller::Caller;
use crate::broker::refusal::Refusal;
use crate::broker::rights;
use crate::broker::rights::grant::{Certificate, Principal};

/// The most claims of a match.
const MAX_CLAIMS: usize = 20;
/// The longest name of a certificate.
const MAX_NAME_BYTES: usize = 4096;

impl Access {
    /// Sets a principal's rules; returns whether it is new. What runs for it ends, and begins anew under what it is then.
    ///
    /// # Errors
    /// [`Reason::InvalidRequest`](crate::broker::refusal::Reason::InvalidRequest);
    /// [`Reason::PrincipalExists`](crate::broker::refusal::Reason::PrincipalExists): a token has the name; those of an append.
    pub async fn put_principal(&self, caller: &Caller, name: &str, ruled: Ruled) -> Result<bool, Refusal> {
        NAME.check(name).map_err(|refusal| refusal.at("name"))?;
        rights::check(&ruled.rules)?;
        check_limits(&ruled.quotas)?;
        match &ruled.r#match {
            Match::Jwt(claims) if claims.is_empty() || claims.len() > MAX_CLAIMS => {
                let detail = format!("name 1 to {MAX_CLAIMS} claims with their values");
                return Err(Refusal::invalid("/match/jwt", detail));
            }
            Match::Cert(text) if text.is_empty() || text.len() > MAX_NAME_BYTES => {
                return Err(Refusal::invalid(
                    "/match/cert",
                    "name a subject or an alternative name",
                ));
            }
            _ => {}
        }
        let (name, stored) = (name.to_owned(), name.to_owned());
        let decide = move |access: &Self| {
            let is_new = !access.0.table.read().principals.contains_key(&name);
            if is_new {
                access.check_free(&name)?;
            }
            Ok((set_principal(&name, &ruled), (ruled, is_new)))
        };
        self.change(
            caller,
            ("principal.put", format!("principals/{stored}")),
            decide,
            move |table, (ruled, is_new)| {
                table.put_principal(&stored, ruled);
                is_new
            },
        )
        .await
    }

    /// A principal.
    ///
    /// # Errors
    /// [`Reason::UnknownPrincipal`](crate::broker::refusal::Reason::UnknownPrincipal).
    pub fn principal(&self, name: &str) -> Result<Ruled, Refusal> {
        let table = self.0.table.read();
        let known = table
            .principals
            .get(name)
            .ok_or_else(|| unknown("principal", name))?;
        Ok(known.record.clone())
    }

    /// All principals, by name.
    #[must_use]
    pub fn principals(&self) -> Vec<(String, Ruled)> {
        let table = self.0.table.read();
        let all = table.principals.iter();
        all.map(|(name, known)| (name.clone(), known.record.clone()))
            .collect()
    }

    /// Removes a principal: what runs for it ends.
    ///
    /// # Errors
    /// [`Reason::UnknownPrincipal`](crate::broker::refusal::Reason::UnknownPrincipal); those of an append.
    pub async fn remove_principal(&self, caller: &Caller, name: &str) -> Result<(), Refusal> {
        let (name, stored) = (name.to_owned(), name.to_owned());
        let decide = move |access: &Self| {
            access.principal(&name)?;
            Ok((remove_principal(&name), ()))
        };
        self.change(
            caller,
            ("principal.remove", format!("principals/{stored}")),
            decide,
            move |table, ()| drop(table.take_principal(&stored)),
        )
        .await
    }
}

impl Table {
    /// Whose a JWT with these claims is.
    pub(super) fn principal_of_claims(&self, claims: &Map<String, Value>) -> Option<&Arc<Principal>> {
        let for_these = self
            .principals
            .values()
            .filter_map(|known| match &known.record.r#match {
                Match::Jwt(wanted) => {
                    let has = |(name, value): (&String, &Value)| {
                        claims.get(name).is_some_and(|found| says(found, value))
                    };
                    wanted.iter().all(has).then_some((wanted.len(), &known.principal))
                }
                Match::Cert(_) => None,
            });
        // Of equal ones the first.
        let found = for_these.min_by_key(|(claims, _)| Reverse(*claims));
        found.map(|(_, principal)| principal)
    }

    /// Whose a certificate is.
    pub(super) fn principal_of_certificate(&self, certificate: &Certificate) -> Option<&Arc<Principal>> {
        let mut principals = self.principals.values();
        let found = principals.find(|known| match &known.record.r#match {
            Match::Cert(name) => certificate.has(name),
            Match::Jwt(_) => false,
        });
        found.map(|known| &known.principal)
    }
}

/// Whether a claim is this value, or a list that has it.
fn says(found: &Value, wanted: &Value) -> bool {
    found == wanted || found.as_array().is_some_and(|all| all.contains(wanted))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::broker::engine::TimestampMs;
    use crate::broker::rights::quota::Limits;

    fn table(principals: &[(&str, Match)]) -> Table {
        let mut table = Table::default();
        for (name, of) in principals {
            let ruled = Ruled::new(of.clone(), Vec::new(), Limits::default());
            table.put_principal(name, ruled);
        }
        table
    }

    fn object(value: Value) -> Map<String, Value> {
        value.as_object().expect("an object").clone()
    }

    fn name(found: Option<&Arc<Principal>>) -> Option<&str> {
        found.map(|principal| &*principal.name)
    }

    #[test]
    fn a_jwt_is_of_the_principal_that_matches_most_of_its_claims() {
        let jwt = |claims| Match::Jwt(object(claims));
        let table = table(&[
            ("a", jwt(json!({"team": "red"}))),
            ("b", jwt(json!({"team": "red"}))),
            ("c", jwt(json!({"team": "red", "level": 3}))),
            ("d", jwt(json!({"team": "red", "admin": true}))),
            ("e", Match::Cert("red".to_owned())),
        ]);
        for (claims, expected) in [
            (json!({"team": "red"}), Some("a")),
            (json!({"team": "red", "level": 3}), Some("c")),
            (json!({"team": "red", "level": 3, "admin": true}), Some("c")),
            (json!({"team": "red", "admin": true}), Some("d")),
            (json!({"team": ["blue", "red"], "level": [3]}), Some("c")),
            (json!({"team": "red", "level": "3", "admin": "true"}), Some("a")),
            (json!({"team": "redder"}), None),
            (json!({"team": "RED"}), None),
            (json!({"team": {"red": "red"}}), None),
            (json!({"team": [["red"]]}), None),
            (json!({"level": 3, "admin": true}), None),
            (json!({}), None),
        ] {
            let claims = object(claims);
            assert_eq!(name(table.principal_of_claims(&claims)), expected, "{claims:?}");
        }
    }

    #[test]
    fn a_certificate_is_of_the_first_principal_that_has_one_of_its_names() {
        let cert = |name: &str| Match::Cert(name.to_owned());
        let table = table(&[
            ("a", cert("one.example")),
            ("b", cert("CN=two")),
            ("c", cert("one.example")),
            ("d", Match::Jwt(object(json!({"sub": "three.example"})))),
        ]);
        let certificate = |subject: &str, names: &[&str]| Certificate {
            subject: subject.to_owned(),
            names: names.iter().map(|name| (*name).to_owned()).collect(),
            expires: TimestampMs(i64::MAX),
        };
        for (certificate, expected) in [
            (certificate("", &["one.example"]), Some("a")),
            (
                certificate("CN=two", &["other.example", "one.example"]),
                Some("a"),
            ),
            (certificate("CN=two", &[]), Some("b")),
            (certificate("CN=two,O=x", &["two.example", "ONE.example"]), None),
            (certificate("CN=three.example", &["three.example"]), None),
        ] {
            assert_eq!(name(table.principal_of_certificate(&certificate)), expected);
        }
    }
}
