//! `/v1/principals`: rules for JWTs and certificates.

use std::collections::BTreeMap;

use axum::extract::RawQuery;
use axum::response::IntoResponse;
use http::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::{QuotasBody, RuleBody, bodies_of, rules_of};
use crate::broker::access::records::{Match, Principal};
use crate::broker::caller::Caller;
use crate::broker::names;
use crate::broker::rights::quota::Limits;
use crate::http::app::App;
use crate::http::body::JsonBody;
use crate::http::openapi::shapes;
use crate::http::params::Params;
use crate::http::path::{NoQuery, PrincipalName};
use crate::http::problem::Problem;
use crate::http::{Answer, json_answer, ok};

/// The longest body that describes a principal.
const MOST_BODY_BYTES: usize = 1 << 20;

pub(in crate::http) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(list_principals))
        .routes(routes!(put_principal, describe_principal, remove_principal))
}

/// Whom rules are for: either of the fields.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = PrincipalMatch)]
struct MatchBody {
    /// JWTs in which every one of these claims has this value, or is a list that has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    jwt: Option<BTreeMap<String, ClaimValue>>,
    /// Client certificates with this subject (RFC 4514) or alternative name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(min_length = 1, max_length = 4096)]
    cert: Option<String>,
}

/// What a claim is compared with.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(
    untagged,
    expecting = "a claim is compared with a text, a whole number, true or false"
)]
enum ClaimValue {
    Text(String),
    Flag(bool),
    Number(i64),
}

/// Rules for JWTs or certificates.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct NewPrincipalBody {
    /// Whom they are for.
    r#match: MatchBody,
    /// What they allow.
    #[schema(max_items = 100)]
    rules: Vec<RuleBody>,
    /// What all of them together may use.
    #[serde(default)]
    quotas: Option<QuotasBody>,
}

/// A principal.
#[derive(Debug, Serialize, ToSchema)]
struct PrincipalBody {
    /// Its name.
    name: String,
    /// Whom its rules are for.
    r#match: MatchBody,
    /// What they allow.
    rules: Vec<RuleBody>,
    /// What all of them together may use.
    quotas: QuotasBody,
}

/// Principals, sorted by name.
#[derive(Debug, Serialize, ToSchema)]
struct PrincipalsBody {
    /// The principals.
    principals: Vec<PrincipalBody>,
    /// There are more: pass this as `after`.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
}

impl PrincipalBody {
    fn of(name: &str, principal: &Principal) -> Self {
        let (jwt, cert) = match &principal.r#match {
            Match::Jwt(claims) => (Some(claims.iter().filter_map(shown).collect()), None),
            Match::Cert(name) => (None, Some(name.clone())),
        };
        Self {
            name: name.to_owned(),
            r#match: MatchBody { jwt, cert },
            rules: bodies_of(&principal.rules),
            quotas: principal.quotas.into(),
        }
    }
}

/// Sets the rules of a principal
///
/// If several principals are for one JWT, the one with the most claims counts, and of these the first by name. What runs for
/// the principal ends within a second, and begins anew under the new rules.
#[utoipa::path(put, path = "/v1/principals/{name}", tag = "access", request_body = NewPrincipalBody,
    params(("name" = shapes::PrincipalName, Path, description = "1 to 249 of `A-Z a-z 0-9 . _ -`; no token has the name")),
    responses((status = 200, description = "The principal is replaced", body = PrincipalBody),
        (status = 201, description = "The principal is new", body = PrincipalBody),
        (status = 409, description = "`principal-exists`: a token has the name")))]
async fn put_principal(
    app: App,
    caller: Caller,
    PrincipalName(name): PrincipalName,
    _: NoQuery,
    JsonBody(body): JsonBody<NewPrincipalBody, MOST_BODY_BYTES>,
) -> Answer {
    let of = match (body.r#match.jwt, body.r#match.cert) {
        (Some(claims), None) => Match::Jwt(claims.into_iter().map(stored).collect()),
        (None, Some(name)) => Match::Cert(name),
        _ => {
            let detail = r#"match is {"jwt":{claim:value}} or {"cert":"a subject or an alternative name"}"#;
            return Err(Problem::invalid("/match", detail));
        }
    };
    let quotas = body.quotas.map_or_else(Limits::default, Limits::from);
    let principal = Principal::new(of, rules_of(body.rules), quotas);
    let described = PrincipalBody::of(&name, &principal);
    let status = match app.access.put_principal(&caller, &name, principal).await? {
        true => StatusCode::CREATED,
        false => StatusCode::OK,
    };
    Ok(json_answer(status, &described))
}

/// `None` for a value that no call could have set.
fn shown((claim, value): (&String, &Value)) -> Option<(String, ClaimValue)> {
    let value = match value {
        Value::String(text) => ClaimValue::Text(text.clone()),
        Value::Bool(flag) => ClaimValue::Flag(*flag),
        other => ClaimValue::Number(other.as_i64()?),
    };
    Some((claim.clone(), value))
}

fn stored((claim, value): (String, ClaimValue)) -> (String, Value) {
    let value = match value {
        ClaimValue::Text(text) => text.into(),
        ClaimValue::Flag(flag) => flag.into(),
        ClaimValue::Number(number) => number.into(),
    };
    (claim, value)
}

/// Lists the principals
#[utoipa::path(get, path = "/v1/principals", tag = "access",
    params(("limit" = Option<u64>, Query, minimum = 1, maximum = 10000, description = "The largest number of principals (default 100)"),
        ("after" = Option<String>, Query, description = "Principals after this name")),
    responses((status = 200, description = "The principals", body = PrincipalsBody)))]
async fn list_principals(app: App, RawQuery(query): RawQuery) -> Answer {
    let params = Params::parse(query.as_deref(), &["limit", "after"], &[])?;
    let limit = params.number("limit", 1, 10_000)?.unwrap_or(100) as usize;
    let all = app.access.principals();
    let (shown, next) = names::page(&all, |(name, _)| name, params.get("after"), limit);
    ok(&PrincipalsBody {
        principals: shown
            .iter()
            .map(|(name, of)| PrincipalBody::of(name, of))
            .collect(),
        next: next.map(str::to_owned),
    })
}

/// Describes a principal
#[utoipa::path(get, path = "/v1/principals/{name}", tag = "access",
    params(("name" = shapes::PrincipalName, Path, description = "The principal's name")),
    responses((status = 200, description = "The principal", body = PrincipalBody),
        (status = 404, description = "`not-found`")))]
async fn describe_principal(app: App, PrincipalName(name): PrincipalName, _: NoQuery) -> Answer {
    let principal = app.access.principal(&name)?;
    ok(&PrincipalBody::of(&name, &principal))
}

/// Removes a principal
///
/// JWTs and certificates that no other principal is for are refused from this answer on. What runs for it ends within a second.
#[utoipa::path(delete, path = "/v1/principals/{name}", tag = "access",
    params(("name" = shapes::PrincipalName, Path, description = "The principal's name")),
    responses((status = 204, description = "Removed"),
        (status = 404, description = "`not-found`")))]
async fn remove_principal(
    app: App,
    caller: Caller,
    PrincipalName(name): PrincipalName,
    _: NoQuery,
) -> Answer {
    app.access.remove_principal(&caller, &name).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}
