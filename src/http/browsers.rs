//! The rules for web pages: which `Host` names are answered, which origins may change something, and CORS.
//!
//! Every page that a browser on this machine opens can reach a server on loopback. So a `Host` must name this server
//! (DNS rebinding points a page's own name here, and the browser sends that name), and a request that changes something
//! must not come from a page of another origin. Clients that are not browsers send neither `Origin` nor
//! `Sec-Fetch-Site`, and pass. Answers have CORS headers only if origins are configured.

use std::net::{IpAddr, Ipv6Addr};

use axum::response::{IntoResponse, Response};
use http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_HEADERS,
    ACCESS_CONTROL_REQUEST_METHOD, HOST, ORIGIN, VARY,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};

use super::params::values_of;
use super::problem::{Code, Problem};
use crate::settings::Config;

/// The response headers that pages may read.
const EXPOSED: &str = "next-offset, log-start-offset, end-offset, gaps, etag, idempotency-replayed, retry-after, allow, \
    www-authenticate, x-request-id";
/// The methods for pages of a configured origin, and for pages of any origin (`*`).
const METHODS: &str = "GET, HEAD, POST, PUT, PATCH, DELETE";
const READING: &str = "GET, HEAD";
static SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// Checks that a request is meant for this server, and that no page of another origin changes something with it.
///
/// # Errors
/// 400 for a `Host` that is missing or repeated, 403 `forbidden` otherwise. The request must not be routed then.
pub(crate) fn check<B>(config: &Config, request: &http::Request<B>) -> Result<(), Problem> {
    let headers = request.headers();
    let mut hosts = values_of(headers, &HOST);
    let (Some(host), None) = (hosts.next(), hosts.next()) else {
        return Err(Problem::invalid("host", "a request has one Host header, exactly"));
    };
    let host = host.to_str().unwrap_or_default();
    let in_target = request.uri().authority().map(http::uri::Authority::as_str);
    for found in [Some(host), in_target].into_iter().flatten() {
        if !is_own_host(config, found) {
            let shown: String = found.chars().take(250).collect();
            let remedy = "add the name to its setting allowed_hosts, or use its IP address";
            let detail = format!("this server does not answer as {shown:?}; {remedy}");
            return Err(Problem::new(Code::Forbidden, detail));
        }
    }
    if request.method().is_safe() {
        return Ok(());
    }
    if is_own_page(config, headers, host) || is_of_configured_page(config, headers) {
        return Ok(());
    }
    let from = values_of(headers, &ORIGIN)
        .next()
        .and_then(|origin| origin.to_str().ok());
    let from: String = from.unwrap_or("another origin").chars().take(250).collect();
    let remedy = "add its origin to the setting cors_origins to allow that";
    let detail = format!("a web page of {from} must not change anything here; {remedy}");
    Err(Problem::new(Code::Forbidden, detail))
}

/// Whether a request comes from a page of this server or of an origin that is configured by name, or from no page: only then
/// a session's cookie counts.
pub(crate) fn is_trusted_page(config: &Config, headers: &HeaderMap) -> bool {
    let host = headers
        .get(HOST)
        .and_then(|host| host.to_str().ok())
        .unwrap_or_default();
    is_own_page(config, headers, host) || is_of_configured_page(config, headers)
}

fn is_own_page(config: &Config, headers: &HeaderMap, host: &str) -> bool {
    let mut sites = values_of(headers, &SEC_FETCH_SITE).peekable();
    if sites.peek().is_some() {
        return sites.all(|site| site == "same-origin" || site == "none");
    }
    values_of(headers, &ORIGIN).all(|origin| is_own_origin(config, host, origin))
}

fn is_of_configured_page(config: &Config, headers: &HeaderMap) -> bool {
    let pages = || config.cors_origins.iter().filter(|allowed| *allowed != "*");
    let mut origins = values_of(headers, &ORIGIN).peekable();
    origins.peek().is_some() && origins.all(|origin| pages().any(|allowed| origin == allowed))
}

/// Whether the host of an authority (`host`, `host:port`) is loopback, an IP address, or configured.
fn is_own_host(config: &Config, authority: &str) -> bool {
    let Some(host) = host_of(authority) else {
        return false;
    };
    if let Some(address) = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        return address.parse::<Ipv6Addr>().is_ok();
    }
    // A name that ends with the dot of the DNS root is the same name.
    let bare = |name: &str| name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
    let is = |name: &str| bare(host) == bare(name);
    host.parse::<IpAddr>().is_ok()
        || is("localhost")
        || config.allowed_hosts.iter().any(|allowed| is(allowed))
        || own_parts(config)
            .and_then(|(_, own)| host_of(own))
            .is_some_and(is)
}

/// The scheme and the authority of the public URL.
fn own_parts(config: &Config) -> Option<(&str, &str)> {
    parts_of(config.public_url.as_deref()?)
}

/// The host of an authority, without its port; `None` if the port is not a number.
fn host_of(authority: &str) -> Option<&str> {
    match authority.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => {
            port.bytes().all(|byte| byte.is_ascii_digit()).then_some(host)
        }
        _ => Some(authority),
    }
}

/// The scheme and the authority of an origin, without the scheme's default port.
fn parts_of(origin: &str) -> Option<(&str, &str)> {
    let (scheme, authority) = origin.split_once("://")?;
    Some((scheme, without_port_of(scheme, authority)))
}

fn without_port_of<'a>(scheme: &str, authority: &'a str) -> &'a str {
    let port = if scheme == "https" { ":443" } else { ":80" };
    authority.strip_suffix(port).unwrap_or(authority)
}

/// Whether a page of `origin` was loaded from this server: from the request's `Host`, or from the public URL.
fn is_own_origin(config: &Config, host: &str, origin: &HeaderValue) -> bool {
    let Some((scheme, authority)) = origin.to_str().ok().and_then(parts_of) else {
        return false;
    };
    // A proxy may speak TLS in front of this server, so the scheme is taken from the page's origin. But who answers in plain
    // HTTP in the place of a server that speaks TLS is somebody on the way.
    let schemes: &[&str] = if config.has_certificate() {
        &["https"]
    } else {
        &["http", "https"]
    };
    schemes.contains(&scheme) && without_port_of(scheme, host).eq_ignore_ascii_case(authority)
        || own_parts(config)
            .is_some_and(|(own_scheme, own)| own_scheme == scheme && own.eq_ignore_ascii_case(authority))
}

/// A request of a page of another origin that is configured: its answers tell the browser that the page may read them.
pub(crate) struct CrossOrigin {
    origin: HeaderValue,
    /// It is configured by name, not by `*`.
    is_named: bool,
}

impl CrossOrigin {
    /// The page that a request comes from; `None`: no page, or none of a configured origin.
    pub(crate) fn of(config: &Config, headers: &HeaderMap) -> Option<Self> {
        if config.cors_origins.is_empty() {
            return None;
        }
        let origin = headers.get(ORIGIN)?;
        let is_named = config.cors_origins.iter().any(|allowed| *origin == **allowed);
        let is_any = || config.cors_origins.iter().any(|allowed| allowed == "*");
        (is_named || is_any()).then(|| Self {
            origin: origin.clone(),
            is_named,
        })
    }

    /// The answer to the question whether the page may send a request; `None`: the request is none.
    pub(crate) fn preflight<B>(&self, request: &http::Request<B>) -> Option<Response> {
        let is_asking = request.headers().contains_key(ACCESS_CONTROL_REQUEST_METHOD);
        if !is_asking || request.method() != Method::OPTIONS {
            return None;
        }
        let mut response = StatusCode::NO_CONTENT.into_response();
        let headers = response.headers_mut();
        let methods = if self.is_named { METHODS } else { READING };
        headers.insert(ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static(methods));
        headers.insert(ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("600"));
        // A page may send any header that it asks for (the API accepts many): none can do more than the body.
        if let Some(wanted) = request.headers().get(ACCESS_CONTROL_REQUEST_HEADERS) {
            headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, wanted.clone());
        }
        Some(response)
    }
}

/// Says in an answer who may read it; every answer, a refusal too, of a server that has `cors_origins`.
pub(crate) fn expose(config: &Config, page: Option<CrossOrigin>, headers: &mut HeaderMap) {
    if config.cors_origins.is_empty() {
        return;
    }
    headers.append(VARY, HeaderValue::from_static("origin"));
    if let Some(page) = page {
        headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, page.origin);
        headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static(EXPOSED));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> Config {
        Config {
            allowed_hosts: vec!["quipu".to_owned()],
            public_url: Some("https://log.example".to_owned()),
            cors_origins: vec!["https://app.example".to_owned(), "*".to_owned()],
            ..Config::default()
        }
    }

    fn status(method: Method, headers: &[(&str, &str)]) -> u16 {
        let mut request = http::Request::builder().method(method);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.uri("/").body(()).expect("a request of a test");
        check(&config(), &request).map_or_else(|problem| problem.code().row().0, |()| 200)
    }

    #[test]
    fn only_an_own_name_or_an_address_is_answered() {
        let own = "localhost localhost.:7420 LocalHost:7420 127.0.0.1 192.0.2.7:80 [::1]:7420 [::1] quipu:7420 log.example";
        for own in own.split(' ') {
            assert_eq!(status(Method::GET, &[("host", own)]), 200, "{own}");
        }
        let foreign = "evil.example localhost.evil.example 127.0.0.1.evil.example 127.0.0.1:x a@127.0.0.1 ::1 [evil] \
            127.0.0.1:80:evil xn--quipu app.example";
        for foreign in foreign.split(' ').chain([""]) {
            assert_eq!(status(Method::GET, &[("host", foreign)]), 403, "{foreign}");
        }
        assert_eq!(status(Method::GET, &[]), 400);
        let twice = [("host", "localhost"), ("host", "localhost")];
        assert_eq!(status(Method::GET, &twice), 400);
        let request = http::Request::builder()
            .uri("http://evil.example/")
            .header("host", "localhost");
        assert!(check(&config(), &request.body(()).expect("a request of a test")).is_err());
    }

    #[test]
    fn only_an_own_page_or_a_configured_one_changes_anything() {
        for (sites, origins, expected) in [
            ("", "", 200),
            ("", "http://localhost:7420", 200),
            ("", "https://localhost:7420", 200),
            ("", "https://log.example", 200),
            ("", "https://app.example", 200),
            ("", "http://log.example", 403),
            ("", "http://localhost:3000", 403),
            ("", "http://localhost", 403),
            ("", "https://evil.example", 403),
            ("", "null", 403),
            ("", "*", 403),
            ("", "empty", 403),
            ("", "http://localhost:7420 https://evil.example", 403),
            ("same-origin", "http://other", 200),
            ("none", "", 200),
            ("same-site", "http://localhost:7420", 403),
            ("cross-site", "", 403),
            ("cross-site", "https://app.example", 200),
            ("none cross-site", "", 403),
        ] {
            let mut headers = Vec::new();
            headers.extend(sites.split_whitespace().map(|site| ("sec-fetch-site", site)));
            headers.extend(
                origins
                    .split_whitespace()
                    .map(|origin| ("origin", origin.trim_start_matches("empty"))),
            );
            let mut all = vec![("host", "localhost:7420")];
            all.extend_from_slice(&headers);
            assert_eq!(status(Method::GET, &all), 200, "{headers:?}");
            for method in [Method::POST, Method::PUT, Method::PATCH, Method::DELETE] {
                assert_eq!(status(method, &all), expected, "{headers:?}");
            }
        }
        let without_port = [("host", "127.0.0.1:80"), ("origin", "http://127.0.0.1")];
        assert_eq!(status(Method::POST, &without_port), 200);
        let of_no_page = [("host", "localhost"), ("origin", "extension://localhost")];
        assert_eq!(status(Method::POST, &of_no_page), 403);
    }

    #[test]
    fn a_page_in_plain_http_is_not_of_a_server_that_speaks_tls() {
        let config = Config {
            tls_cert: Some("cert.pem".into()),
            ..Config::default()
        };
        for (origin, is_own) in [("https://localhost:7420", true), ("http://localhost:7420", false)] {
            let request = http::Request::post("/").header("host", "localhost:7420");
            let request = request
                .header("origin", origin)
                .body(())
                .expect("a request of a test");
            assert_eq!(check(&config, &request).is_ok(), is_own, "{origin}");
            assert_eq!(is_trusted_page(&config, request.headers()), is_own, "{origin}");
        }
    }
}
