//! The HTTP client of every command: one blocking connection pool.
//!
//! Every request returns a [`Failure`] if it has no answer, or another one than a success.

use std::fmt;
use std::io::{self, Read};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use http::{HeaderMap, Method, Request, StatusCode};
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::Usage;
use super::failure::one_line;
pub(crate) use super::failure::{Failure, Problem};
pub(crate) use super::route::Route;
use super::trust::{self, Trust};

/// Longest silence of the server in an answer to a read, beyond what the read itself asked to wait.
const READ_TIMEOUT: Duration = Duration::from_secs(60);
/// Longest silence after records were sent: the server may have a long queue to store first.
const POST_TIMEOUT: Duration = Duration::from_secs(120);
/// Longest silence in a stream, in which a server that has nothing to say sends a comment every 15 seconds: three
/// of them may be late.
const STREAM_TIMEOUT: Duration = Duration::from_secs(50);

const ACCEPT_JSON: (&str, &str) = ("accept", "application/json");

/// Talks to one server. Cheap to clone; clones share their connections.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    agent: ureq::Agent,
    base: String,
    authorization: Option<String>,
    /// Longest time of a request with its answer; none for no limit but those on silence.
    limit: Option<Duration>,
    /// Whether the user was told that the server is away: once is enough for all clones.
    pub(super) is_away: Arc<AtomicBool>,
}

/// An answer that is not a problem.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    /// A header, as text.
    pub(crate) fn text(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// A header that is a whole number.
    pub(crate) fn number(&self, name: &str) -> Option<u64> {
        self.text(name)?.parse().ok()
    }
}

impl Client {
    /// A client for the server at `server` (`http://` may be left out).
    /// Errors: [`Usage`] for an address or a token that cannot work.
    pub(crate) fn new(server: &str, token: Option<&str>) -> Result<Self, Usage> {
        Self::with(server, token, &Trust::default())
    }

    /// The same with files for TLS, which are read only for a server with `https://`.
    /// Errors: Also [`Usage`] for a file that cannot be used.
    pub(crate) fn with(server: &str, token: Option<&str>, trust: &Trust) -> Result<Self, Usage> {
        let base = base_address(server)?;
        let authorization = match token.map(str::trim) {
            None | Some("") => None,
            Some(token) if token.bytes().all(|byte| byte.is_ascii_graphic()) => {
                Some(format!("Bearer {token}"))
            }
            Some(_) => return Err(Usage("--token must be visible ASCII characters".to_owned())),
        };
        let config = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .proxy(None)
            .user_agent(concat!("quipu/", env!("CARGO_PKG_VERSION")))
            .timeout_connect(Some(Duration::from_secs(10)))
            .max_idle_connections(128)
            .max_idle_connections_per_host(128);
        let config = match base.starts_with("https://") {
            true => config.tls_config(trust.config()?),
            false => config,
        };
        Ok(Self {
            agent: config.build().new_agent(),
            base,
            authorization,
            limit: None,
            is_away: Arc::default(),
        })
    }

    /// The same client, but each of its requests fails if the answer is not there whole after `limit`.
    pub(crate) fn within(self, limit: Duration) -> Self {
        let limit = Some(limit);
        Self { limit, ..self }
    }

    /// The server's address without a slash at its end.
    pub(crate) fn base(&self) -> &str {
        &self.base
    }

    /// Reads JSON.
    pub(crate) fn get<T: DeserializeOwned>(&self, route: &Route) -> Result<T, Failure> {
        let answer = self.read(route, "application/json", Duration::ZERO)?;
        self.parse(&answer.body)
    }

    /// Reads a body of the given type, from a server that may hold its answer back for `wait`.
    pub(crate) fn read(&self, route: &Route, accept: &str, wait: Duration) -> Result<Answer, Failure> {
        let silence = Some(READ_TIMEOUT + wait);
        self.answer(self.run(&Method::GET, route, &[("accept", accept)], (), silence, silence)?)
    }

    /// Sends JSON, or nothing, and reads the JSON answer (`null` for an empty one).
    pub(crate) fn send(
        &self,
        method: &Method,
        route: &Route,
        body: Option<&Value>,
    ) -> Result<Value, Failure> {
        Ok(self.send_for_status(method, route, body)?.1)
    }

    /// The same, with the status of the answer.
    pub(crate) fn send_for_status(
        &self,
        method: &Method,
        route: &Route,
        body: Option<&Value>,
    ) -> Result<(StatusCode, Value), Failure> {
        let headers = [ACCEPT_JSON, ("content-type", "application/json")];
        let answer = match body.map(Value::to_string) {
            None => self.run(method, route, &headers[..1], (), None, None)?,
            Some(body) => self.run(method, route, &headers, body, None, None)?,
        };
        let answer = self.answer(answer)?;
        let body = match answer.body.is_empty() {
            true => Value::Null,
            false => self.parse(&answer.body)?,
        };
        Ok((answer.status, body))
    }

    /// Posts NDJSON records with these headers and reads the answer.
    /// Errors: [`Failure`]. [`Failure::stored_nothing`] tells whether it is certain that nothing was stored.
    pub(crate) fn post(
        &self,
        route: &Route,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Result<Answer, Failure> {
        let types = [ACCEPT_JSON, ("content-type", "application/x-ndjson")];
        let (headers, silence) = ([&types, headers].concat(), Some(POST_TIMEOUT));
        self.answer(self.run(&Method::POST, route, &headers, body, silence, silence)?)
    }

    /// Opens a stream of Server-Sent Events, after the event `last` if it is given; `None` if nothing comes after it.
    /// If the server is silent for longer than [`STREAM_TIMEOUT`], the reader returns an error.
    pub(crate) fn open(
        &self,
        route: &Route,
        last: Option<&str>,
    ) -> Result<Option<Box<dyn Read + Send>>, Failure> {
        let mut headers = vec![("accept", "text/event-stream")];
        headers.extend(last.map(|last| ("last-event-id", last)));
        let (first, silence) = (Some(READ_TIMEOUT), Some(STREAM_TIMEOUT));
        let answer = self.run(&Method::GET, route, &headers, (), first, silence)?;
        if !answer.status().is_success() {
            let failure = self.answer(answer).err();
            return Err(failure.unwrap_or_else(|| self.unexpected(&"a success that is none")));
        }
        if answer.status() == StatusCode::NO_CONTENT {
            return Ok(None);
        }
        let kind = answer.headers().get("content-type");
        let kind = kind.and_then(|kind| kind.to_str().ok()).unwrap_or_default();
        if !kind.starts_with("text/event-stream") {
            return Err(self.unexpected(&format_args!("a stream of type {kind:?}")));
        }
        Ok(Some(Box::new(answer.into_body().into_reader())))
    }

    /// The failure of a read that broke off.
    pub(crate) fn lost(&self, error: &io::Error) -> Failure {
        Failure::Lost {
            server: self.base.clone(),
            reason: broken(error),
        }
    }

    /// Sends a request and reads the head of its answer: `first` is the longest silence before it, `silence` later.
    fn run(
        &self,
        method: &Method,
        route: &Route,
        headers: &[(&str, &str)],
        body: impl ureq::AsSendBody,
        first: Option<Duration>,
        silence: Option<Duration>,
    ) -> Result<http::Response<ureq::Body>, Failure> {
        let uri = format!("{}{route}", self.base);
        let mut request = Request::builder().method(method).uri(uri);
        let token = self.authorization.as_deref();
        let headers = headers.iter().copied();
        for (name, value) in headers.chain(token.map(|token| ("authorization", token))) {
            request = request.header(name, value);
        }
        let request = request.body(body).map_err(|error| self.unexpected(&error))?;
        let request = self.agent.configure_request(request).timeout_recv_response(first);
        let request = request
            .timeout_per_read(silence)
            .timeout_global(self.limit)
            .build();
        self.agent.run(request).map_err(|error| self.failure(&error))
    }

    /// Reads JSON from an answer.
    /// Errors: [`Failure::Unexpected`].
    pub(crate) fn parse<T: DeserializeOwned>(&self, body: &[u8]) -> Result<T, Failure> {
        serde_json::from_slice(body).map_err(|error| self.unexpected(&error))
    }

    /// The failure of an answer that quipu never gives.
    pub(crate) fn unexpected(&self, reason: &dyn fmt::Display) -> Failure {
        Failure::Unexpected {
            server: self.base.clone(),
            reason: one_line(&reason.to_string()),
        }
    }

    /// Reads the whole answer; everything but a success becomes a [`Failure`].
    fn answer(&self, answer: http::Response<ureq::Body>) -> Result<Answer, Failure> {
        let (head, body) = answer.into_parts();
        let (mut reader, mut body) = (body.into_reader(), Vec::new());
        reader.read_to_end(&mut body).map_err(|error| self.lost(&error))?;
        if head.status.is_success() {
            return Ok(Answer {
                status: head.status,
                headers: head.headers,
                body,
            });
        }
        let seconds = head.headers.get("retry-after");
        let seconds = seconds.and_then(|value| value.to_str().ok()?.parse().ok());
        let retry_after = seconds.map(Duration::from_secs);
        let members = serde_json::from_slice(&body).unwrap_or_default();
        let is_tls = head.status == StatusCode::BAD_REQUEST && body.starts_with(b"this port speaks TLS");
        if is_tls && self.base.starts_with("http://") {
            let (server, reason) = (
                self.base.clone(),
                "it speaks TLS: use https:// instead of http://".to_owned(),
            );
            return Err(Failure::Tls { server, reason });
        }
        Err(match Problem::of(members, retry_after) {
            Some(problem) => Failure::Problem(Box::new(problem)),
            None => Failure::Status {
                server: self.base.clone(),
                status: head.status,
                retry_after,
            },
        })
    }

    fn failure(&self, error: &ureq::Error) -> Failure {
        let server = self.base.clone();
        if let Some(reason) = trust::explain(error) {
            let reason = one_line(&reason);
            return Failure::Tls { server, reason };
        }
        let reason = match error {
            ureq::Error::Protocol(reason) => return self.unexpected(reason),
            ureq::Error::Io(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                let uri = self.base.parse::<http::Uri>();
                let port = match uri.is_ok_and(|uri| uri.port().is_some()) {
                    true => "",
                    false if self.base.starts_with("https://") => " at port 443, as the address names none",
                    false => " at port 80, as the address names none",
                };
                format!("connection refused{port}; is `quipu serve` running there?")
            }
            ureq::Error::Timeout(ureq::Timeout::Connect | ureq::Timeout::Resolve) => {
                "no connection within 10 seconds".to_owned()
            }
            // The standard library gives a failed look-up no kind of its own.
            ureq::Error::Io(error) if error.to_string().starts_with("failed to lookup address") => {
                one_line(&error.to_string())
            }
            ureq::Error::HostNotFound => "no such host".to_owned(),
            ureq::Error::ConnectionFailed => "connection failed".to_owned(),
            ureq::Error::BadUri(reason) => reason.clone(),
            sent => {
                let reason = match sent {
                    ureq::Error::Io(error) => broken(error),
                    ureq::Error::Timeout(_) => "no answer in time".to_owned(),
                    other => one_line(&other.to_string()),
                };
                return Failure::Lost { server, reason };
            }
        };
        Failure::NotSent { server, reason }
    }
}

fn broken(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => "it was closed before the answer was complete".to_owned(),
        io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => "it was reset".to_owned(),
        _ => one_line(&error.to_string()),
    }
}

/// The address of a server as requests have it, `http[s]://HOST[:PORT][/PATH]` without a slash at its end.
/// Errors: [`Usage`] for an address that cannot work.
pub(crate) fn base_address(server: &str) -> Result<String, Usage> {
    let text = server.trim().trim_end_matches('/');
    let lower = text.to_ascii_lowercase();
    let text = match text.split_once("://") {
        None => format!("http://{text}"),
        Some((_, rest)) if lower.starts_with("http://") => format!("http://{rest}"),
        Some((_, rest)) if lower.starts_with("https://") => format!("https://{rest}"),
        Some((scheme, _)) => {
            let wrong = format!("--server must be an http:// or https:// address, not {scheme}://");
            return Err(Usage(wrong));
        }
    };
    let rest = text.split_once("://").map_or("", |(_, rest)| rest);
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    // The colons of `[::1]` and of user-info begin no port.
    let after_host = authority.rsplit(']').next().unwrap_or_default();
    let port = after_host.split_once(':').map(|(_, port)| port);
    if let Some(port) = port.filter(|port| !port.is_empty() && !port.contains([':', '@']))
        && !(port.bytes().all(|byte| byte.is_ascii_digit()) && port.parse().is_ok_and(|port: u16| port > 0))
    {
        let server = server.trim();
        let wrong = format!("{port} in the address {server} is not a port; ports are 1 to 65535");
        return Err(Usage(wrong));
    }
    let good = text.parse::<http::Uri>().is_ok_and(|uri| {
        let has_host = uri.host().is_some_and(|host| !host.is_empty());
        has_host && uri.query().is_none() && !authority.contains('@')
    });
    if !good || text.contains('#') || authority.ends_with(':') {
        let wrong = format!("--server must be an address like http://127.0.0.1:7420, not {server:?}");
        return Err(Usage(wrong));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_normal_or_refused() {
        for (given, used) in [
            ("127.0.0.1:7420", "http://127.0.0.1:7420"),
            ("HTTP://host:1/", "http://host:1"),
            ("http://[::1]:7420", "http://[::1]:7420"),
            ("[::1]", "http://[::1]"),
            ("http://host/below", "http://host/below"),
            ("host/a:b", "http://host/a:b"),
            ("https://host", "https://host"),
            ("HTTPS://host:1/below/", "https://host:1/below"),
        ] {
            assert_eq!(base_address(given).unwrap(), used);
        }
        let wrong =
            "|http://|https://|ftp://host|http://a b|http://h?x=1|http://u:p@h|u@h|h:|h:/x|::1|h:1:2|h#x:1";
        for wrong in wrong.split('|') {
            let error = base_address(wrong).unwrap_err().to_string();
            assert!(!error.contains("is not a port"), "{wrong}: {error}");
        }
        for (wrong, port) in [
            ("http://h:99999", "99999"),
            ("h:0", "0"),
            ("[::1]:70000/x", "70000"),
            ("http://h:abc", "abc"),
            ("h:-1", "-1"),
            ("[::1]:7520x", "7520x"),
            ("h:+7520?x", "+7520"),
        ] {
            let error = base_address(wrong).unwrap_err().to_string();
            let expected = format!("{port} in the address {wrong} is not a port; ports are 1 to 65535");
            assert_eq!(error, expected);
        }
        let refused = ureq::Error::Io(io::ErrorKind::ConnectionRefused.into());
        for (server, port) in [
            ("[::1]", " at port 80, as the address names none;"),
            ("https://h", " at port 443, as the address names none;"),
            ("h:1", ";"),
        ] {
            let error = Client::new(server, None).unwrap().failure(&refused).to_string();
            assert!(error.contains(&format!("connection refused{port}")), "{error}");
        }
    }
}
