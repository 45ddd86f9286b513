//! `/v1/tokens`: tokens that the server makes.

use std::time::Duration;

use axum::extract::RawQuery;
use axum::response::IntoResponse;
use http::StatusCode;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::{QuotasBody, RuleBody, bodies_of, rules_of};
use crate::broker::access::tokens::{Described, NewToken, TokenChange};
use crate::broker::caller::Caller;
use crate::broker::engine::TimestampMs;
use crate::broker::names;
use crate::broker::rights::quota::Limits;
use crate::formats::time::parse_time;
use crate::http::app::App;
use crate::http::body::{JsonBody, OptionalJson};
use crate::http::openapi::shapes;
use crate::http::params::Params;
use crate::http::path::{NoQuery, PrincipalName};
use crate::http::problem::Problem;
use crate::http::{Answer, json_answer, ok};

/// The longest body that describes a token.
const MOST_BODY_BYTES: usize = 1 << 20;

pub(in crate::http) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(create_token, list_tokens))
        .routes(routes!(describe_token, alter_token, revoke_token))
        .routes(routes!(rotate_token))
}

/// A token to make.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct NewTokenBody {
    /// Its name, which no other token and no principal has: 1 to 249 of `A-Z a-z 0-9 . _ -`.
    #[schema(value_type = shapes::PrincipalName)]
    name: String,
    /// What it allows.
    #[schema(max_items = 100)]
    rules: Vec<RuleBody>,
    /// When it ends: milliseconds since the Unix epoch, or RFC 3339; null: never.
    #[serde(default)]
    #[schema(value_type = Option<shapes::Time>)]
    expires: Option<Value>,
    /// What it may use.
    #[serde(default)]
    quotas: Option<QuotasBody>,
}

/// What to change of a token; what is left out stays.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct TokenChangeBody {
    /// What it allows.
    #[serde(default)]
    #[schema(max_items = 100)]
    rules: Option<Vec<RuleBody>>,
    /// When it ends; null: never.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<shapes::Time>)]
    expires: Option<Option<Value>>,
    /// What it may use; null: no limits.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<QuotasBody>)]
    quotas: Option<Option<QuotasBody>>,
}

/// How a token is rotated.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct RotationBody {
    /// How long the former secret stays valid, in milliseconds: default 0; at most 2592000000 (30 days).
    #[serde(default)]
    #[schema(maximum = 2_592_000_000_u64)]
    overlap_ms: u64,
}

/// A token with its secret, which is shown once.
#[derive(Debug, Serialize, ToSchema)]
struct SecretBody {
    /// The token's name.
    name: String,
    /// The secret: send it as `Authorization: Bearer …`.
    token: String,
}

/// A token without its secret.
#[derive(Debug, Serialize, ToSchema)]
struct TokenBody {
    /// Its name.
    name: String,
    /// What it allows.
    rules: Vec<RuleBody>,
    /// When it ends; null: never.
    expires: Option<i64>,
    /// What it may use.
    quotas: QuotasBody,
    /// When it was made.
    created: i64,
    /// Until when the secret from before its last rotation is valid; left out if it is not.
    #[serde(skip_serializing_if = "Option::is_none")]
    overlap_until: Option<i64>,
}

/// Tokens, sorted by name.
#[derive(Debug, Serialize, ToSchema)]
struct TokensBody {
    /// The tokens.
    tokens: Vec<TokenBody>,
    /// There are more: pass this as `after`.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
}

impl From<&Described> for TokenBody {
    fn from(token: &Described) -> Self {
        Self {
            name: token.name.clone(),
            rules: bodies_of(&token.rules),
            expires: token.expires.map(TimestampMs::get),
            quotas: token.quotas.into(),
            created: token.created.get(),
            overlap_until: token.overlap_until.map(TimestampMs::get),
        }
    }
}

/// Makes a token
///
/// The answer has its secret, which is never shown again: the server keeps a hash.
#[utoipa::path(post, path = "/v1/tokens", tag = "access", request_body = NewTokenBody,
    responses((status = 201, description = "The token with its secret", body = SecretBody),
        (status = 409, description = "`principal-exists`: a token or principal has the name")))]
async fn create_token(
    app: App,
    caller: Caller,
    _: NoQuery,
    JsonBody(body): JsonBody<NewTokenBody, MOST_BODY_BYTES>,
) -> Answer {
    let new = NewToken {
        name: body.name,
        rules: rules_of(body.rules),
        expires: body.expires.as_ref().map(time_of).transpose()?,
        quotas: body.quotas.map_or_else(Limits::default, Limits::from),
    };
    let name = new.name.clone();
    let token = app.access.create_token(&caller, new).await?;
    Ok(json_answer(StatusCode::CREATED, &SecretBody { name, token }))
}

/// Lists the tokens, without their secrets
#[utoipa::path(get, path = "/v1/tokens", tag = "access",
    params(("limit" = Option<u64>, Query, minimum = 1, maximum = 10000, description = "The largest number of tokens (default 100)"),
        ("after" = Option<String>, Query, description = "Tokens after this name")),
    responses((status = 200, description = "The tokens", body = TokensBody)))]
async fn list_tokens(app: App, RawQuery(query): RawQuery) -> Answer {
    let params = Params::parse(query.as_deref(), &["limit", "after"], &[])?;
    let limit = params.number("limit", 1, 10_000)?.unwrap_or(100) as usize;
    let all = app.access.tokens();
    let (shown, next) = names::page(&all, |token| &token.name, params.get("after"), limit);
    ok(&TokensBody {
        tokens: shown.iter().map(TokenBody::from).collect(),
        next: next.map(str::to_owned),
    })
}

/// Describes a token, without its secret
#[utoipa::path(get, path = "/v1/tokens/{name}", tag = "access",
    params(("name" = shapes::PrincipalName, Path, description = "The token's name")),
    responses((status = 200, description = "The token", body = TokenBody),
        (status = 404, description = "`not-found`")))]
async fn describe_token(app: App, PrincipalName(name): PrincipalName, _: NoQuery) -> Answer {
    ok(&TokenBody::from(&app.access.token(&name)?))
}

/// Changes a token
///
/// What runs with it ends within a second: streams, uploads, polls. They begin anew under what it is then.
#[utoipa::path(patch, path = "/v1/tokens/{name}", tag = "access", request_body = TokenChangeBody,
    params(("name" = shapes::PrincipalName, Path, description = "The token's name")),
    responses((status = 200, description = "The token as it is now", body = TokenBody),
        (status = 404, description = "`not-found`")))]
async fn alter_token(
    app: App,
    caller: Caller,
    PrincipalName(name): PrincipalName,
    _: NoQuery,
    JsonBody(body): JsonBody<TokenChangeBody, MOST_BODY_BYTES>,
) -> Answer {
    let expires = body.expires.map(|given| given.as_ref().map(time_of).transpose());
    let change = TokenChange {
        rules: body.rules.map(rules_of),
        expires: expires.transpose()?,
        quotas: body
            .quotas
            .map(|given| given.map_or_else(Limits::default, Limits::from)),
    };
    app.access.alter_token(&caller, &name, change).await?;
    ok(&TokenBody::from(&app.access.token(&name)?))
}

/// Revokes a token
///
/// Requests with it are refused from this answer on. What runs with it ends within a second.
#[utoipa::path(delete, path = "/v1/tokens/{name}", tag = "access",
    params(("name" = shapes::PrincipalName, Path, description = "The token's name")),
    responses((status = 204, description = "Revoked"),
        (status = 404, description = "`not-found`")))]
async fn revoke_token(app: App, caller: Caller, PrincipalName(name): PrincipalName, _: NoQuery) -> Answer {
    app.access.revoke_token(&caller, &name).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// Gives a token a new secret
///
/// The former secret stays valid for `overlap_ms`. What runs with it goes on until then.
#[utoipa::path(post, path = "/v1/tokens/{name}/rotate", tag = "access", request_body = Option<RotationBody>,
    params(("name" = shapes::PrincipalName, Path, description = "The token's name")),
    responses((status = 200, description = "The token with its new secret", body = SecretBody),
        (status = 404, description = "`not-found`")))]
async fn rotate_token(
    app: App,
    caller: Caller,
    PrincipalName(name): PrincipalName,
    _: NoQuery,
    OptionalJson(body): OptionalJson<RotationBody, MOST_BODY_BYTES>,
) -> Answer {
    let overlap = Duration::from_millis(body.unwrap_or_default().overlap_ms);
    let token = app.access.rotate_token(&caller, &name, overlap).await?;
    ok(&SecretBody { name, token })
}

/// Reads a field that is given; null is given too.
fn given<'de, D: Deserializer<'de>, T: Deserialize<'de>>(
    deserializer: D,
) -> Result<Option<Option<T>>, D::Error> {
    Option::deserialize(deserializer).map(Some)
}

/// The time in `expires`.
fn time_of(value: &Value) -> Result<TimestampMs, Problem> {
    let number = || value.as_i64().filter(|millis| *millis >= 0).map(TimestampMs);
    let time = value.as_str().map_or_else(number, parse_time);
    time.ok_or_else(|| {
        let forms = "milliseconds since the Unix epoch, RFC 3339 as in 2027-01-01T00:00:00Z, or null";
        Problem::invalid("/expires", format!("expires is {forms}"))
    })
}
