//! `/v1/session` and `/v1/me`: signing in from a browser, and who one is.

use axum::response::{IntoResponse, Response};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::{COOKIE, LISTENER, RuleBody, bodies_of, sessions};
use crate::broker::access::Failure;
use crate::broker::caller::Caller;
use crate::broker::engine::TimestampMs;
use crate::broker::refusal::Reason;
use crate::http::app::App;
use crate::http::body::JsonBody;
use crate::http::path::NoQuery;
use crate::http::problem::Problem;
use crate::http::{Answer, ok};
use crate::settings::Config;

/// The longest body: a JWT may be long.
const MOST_BODY_BYTES: usize = 64 << 10;

pub(in crate::http) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(begin_session, end_session))
        .routes(routes!(me))
}

/// What to sign in with.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct SessionBody {
    /// A token, or a JWT.
    token: String,
}

/// Who one is.
#[derive(Debug, Serialize, ToSchema)]
struct MeBody {
    /// `none`: nobody has to sign in. `tokens`: everybody has to.
    #[schema(pattern = "^(none|tokens)$")]
    auth: &'static str,
    /// The name of the token or principal; null: nobody has signed in.
    principal: Option<String>,
    /// What that allows.
    rules: Vec<RuleBody>,
    /// When it ends; null: never.
    expires: Option<i64>,
}

/// Signs in from a browser
///
/// Sets a cookie that stands for the token in every call, and dies with it. No script can read it, and browsers send it only
/// with what a page of this server asks for.
#[utoipa::path(post, path = "/v1/session", tag = "access", request_body = SessionBody,
    responses((status = 204, description = "A session has begun", headers(("Set-Cookie" = String, description = "The session's id"))),
        (status = 401, description = "`unauthenticated`: the token is not valid here")))]
async fn begin_session(
    app: App,
    caller: Caller,
    _: NoQuery,
    JsonBody(body): JsonBody<SessionBody, MOST_BODY_BYTES>,
) -> Answer {
    if !app.access.is_on() {
        let detail = "nobody has to sign in here: the setting auth is none";
        return Err(Problem::invalid("/token", detail));
    }
    let begun = app.access.begin_session(&body.token).await;
    let (id, _) = begun.inspect_err(|refusal| match refusal.reason {
        Reason::Unauthenticated => app.access.count_failure(LISTENER, &caller, Failure::Wrong),
        Reason::Forbidden => app.access.count_failure(LISTENER, &caller, Failure::NoRules),
        _ => {}
    })?;
    Ok(with_cookie(&app.config, &id, ""))
}

/// Signs out: ends the session of the request's cookie, if it has one
#[utoipa::path(delete, path = "/v1/session", tag = "access",
    responses((status = 204, description = "The session has ended", headers(("Set-Cookie" = String, description = "Removes the cookie")))))]
async fn end_session(app: App, headers: HeaderMap, _: NoQuery) -> Answer {
    for id in sessions(&headers) {
        app.access.end_session(id);
    }
    Ok(with_cookie(&app.config, "", "; Max-Age=0"))
}

/// Who one is, and what one may
///
/// An answer whether somebody has signed in or not.
#[utoipa::path(get, path = "/v1/me", tag = "access",
    responses((status = 200, description = "Who one is", body = MeBody),
        (status = 401, description = "`unauthenticated`: a token was sent that is not valid here")))]
async fn me(app: App, caller: Caller, _: NoQuery) -> Answer {
    let grant = caller.grant();
    ok(&MeBody {
        auth: if app.access.is_on() { "tokens" } else { "none" },
        principal: grant.map(|grant| grant.principal.name.to_string()),
        rules: grant.map_or_else(Vec::new, |grant| bodies_of(grant.principal.rules.given())),
        expires: grant.and_then(|grant| grant.expires()).map(TimestampMs::get),
    })
}

fn with_cookie(config: &Config, id: &str, more: &str) -> Response {
    let secure = if config.has_secure_cookies() {
        "; Secure"
    } else {
        ""
    };
    let cookie = format!("{COOKIE}={id}; Path=/; HttpOnly; SameSite=Strict{secure}{more}");
    let cookie = HeaderValue::try_from(cookie).expect("ids and attributes are visible ASCII");
    let no_store = (header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    (StatusCode::NO_CONTENT, [no_store, (header::SET_COOKIE, cookie)]).into_response()
}
