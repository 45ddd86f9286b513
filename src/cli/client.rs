//! The HTTP client of every command: one blocking connection pool.

use std::fmt;
use std::io::{self, Read};
use std::time::Duration;

use http::{HeaderMap, Method, Request, StatusCode};
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::Usage;
use super::failure::one_line;
pub(crate) use super::failure::{Failure, Problem};
pub(crate) use super::route::Route;

/// Longest silence of the server in an answer to a read, beyond what the read itself asked to wait.
const READ_TIMEOUT: Duration = Duration::from_secs(60);
/// Longest silence after records were sent: the server may have a long queue to store first.
const POST_TIMEOUT: Duration = Duration::from_secs(120);
/// Longest silence in a stream, in which a server that has nothing to say sends a comment every 15 seconds: three
/// of them may be late.
const STREAM_TIMEOUT: Duration = Duration::from_secs(50);

/// Talks to one server. Cheap to clone; clones share their connections.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    agent: ureq::Agent,
    base: String,
    authorization: Option<String>,
}

/// An answer that is not a problem.
#[derive(Debug)]
pub(crate) struct Answer {
    /// Its status, a success.
    pub(crate) status: StatusCode,
    /// Its headers.
    pub(crate) headers: HeaderMap,
    /// Its body.
    pub(crate) body: Vec<u8>,
}

impl Answer {
    /// A header, as text.
    pub(crate) fn text(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// A header that is a whole number.
    pub(crate) fn number(&self, name: &str) -> Option<u64> {
        self.headers.get(name)?.to_str().ok()?.parse().ok()
    }
}

impl Client {
    /// A client for the server at `server` (`http://` may be left out).
    ///
    /// # Errors
    /// [`Usage`] for an address or a token that cannot work.
    pub(crate) fn new(server: &str, token: Option<&str>) -> Result<Self, Usage> {
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
            .max_idle_connections_per_host(128)
            .build();
        Ok(Self {
            agent: config.new_agent(),
            base,
            authorization,
        })
    }

    /// The server's address without a slash at its end.
    pub(crate) fn base(&self) -> &str {
        &self.base
    }

    /// Reads JSON.
    ///
    /// # Errors
    /// [`Failure`].
    pub(crate) fn get<T: DeserializeOwned>(&self, route: &Route) -> Result<T, Failure> {
        let answer = self.read(route, "application/json", Duration::ZERO)?;
        self.parse(&answer.body)
    }

    /// Reads a body of the given type, from a server that may hold its answer back for `wait`.
    ///
    /// # Errors
    /// [`Failure`].
    pub(crate) fn read(&self, route: &Route, accept: &str, wait: Duration) -> Result<Answer, Failure> {
        let request = self.request(&Method::GET, route).header("accept", accept);
        let request = request.body(()).map_err(|error| self.unexpected(&error))?;
        let request = self
            .agent
            .configure_request(request)
            .timeout_recv_response(Some(READ_TIMEOUT + wait))
            .timeout_per_read(Some(READ_TIMEOUT + wait))
            .build();
        self.answer(self.agent.run(request))
    }

    /// Sends JSON, or nothing, and reads the JSON answer (`null` for an empty one).
    ///
    /// # Errors
    /// [`Failure`].
    pub(crate) fn send(
        &self,
        method: &Method,
        route: &Route,
        body: Option<&Value>,
    ) -> Result<Value, Failure> {
        Ok(self.send_for_status(method, route, body)?.1)
    }

    /// The same, with the status of the answer.
    ///
    /// # Errors
    /// [`Failure`].
    pub(crate) fn send_for_status(
        &self,
        method: &Method,
        route: &Route,
        body: Option<&Value>,
    ) -> Result<(StatusCode, Value), Failure> {
        let request = self.request(method, route).header("accept", "application/json");
        let answer = match body {
            None => {
                let request = request.body(()).map_err(|error| self.unexpected(&error))?;
                self.answer(self.agent.run(request))?
            }
            Some(body) => {
                let request = request.header("content-type", "application/json");
                let request = request
                    .body(body.to_string())
                    .map_err(|error| self.unexpected(&error))?;
                self.answer(self.agent.run(request))?
            }
        };
        if answer.body.is_empty() {
            return Ok((answer.status, Value::Null));
        }
        Ok((answer.status, self.parse(&answer.body)?))
    }

    /// Posts bytes of the given type and reads the JSON answer.
    ///
    /// # Errors
    /// [`Failure`]; only after [`Failure::NotSent`] is it certain that nothing was stored without being said.
    pub(crate) fn post<T: DeserializeOwned>(
        &self,
        route: &Route,
        content_type: &str,
        body: &[u8],
    ) -> Result<T, Failure> {
        let answer = self.post_with(route, &[("content-type", content_type)], body)?;
        self.parse(&answer.body)
    }

    /// Posts bytes with these headers and reads the answer, whatever it is.
    ///
    /// # Errors
    /// [`Failure`].
    pub(crate) fn post_with(
        &self,
        route: &Route,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Result<Answer, Failure> {
        let mut request = self
            .request(&Method::POST, route)
            .header("accept", "application/json");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(body).map_err(|error| self.unexpected(&error))?;
        let request = self
            .agent
            .configure_request(request)
            .timeout_recv_response(Some(POST_TIMEOUT))
            .timeout_per_read(Some(POST_TIMEOUT))
            .build();
        self.answer(self.agent.run(request))
    }

    /// Opens a stream of Server-Sent Events, after the event `last` if there was one; none if nothing comes after it. A
    /// silence in it that is longer than any of the server's is an error of the reader.
    ///
    /// # Errors
    /// [`Failure`].
    pub(crate) fn open(
        &self,
        route: &Route,
        last: Option<&str>,
    ) -> Result<Option<Box<dyn Read + Send>>, Failure> {
        let mut request = self
            .request(&Method::GET, route)
            .header("accept", "text/event-stream");
        if let Some(last) = last {
            request = request.header("last-event-id", last);
        }
        let request = request.body(()).map_err(|error| self.unexpected(&error))?;
        let request = self
            .agent
            .configure_request(request)
            .timeout_recv_response(Some(READ_TIMEOUT))
            .timeout_per_read(Some(STREAM_TIMEOUT))
            .build();
        let answer = self.agent.run(request).map_err(|error| self.failure(&error))?;
        if !answer.status().is_success() {
            return Err(match self.answer(Ok(answer)) {
                Err(failure) => failure,
                Ok(_) => self.unexpected(&"a success that is none"),
            });
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

    /// What it means that reading a stream failed.
    pub(crate) fn lost(&self, error: &io::Error) -> Failure {
        Failure::Lost {
            server: self.base.clone(),
            reason: broken(error),
        }
    }

    fn request(&self, method: &Method, route: &Route) -> http::request::Builder {
        let request = Request::builder()
            .method(method)
            .uri(format!("{}{route}", self.base));
        match &self.authorization {
            Some(authorization) => request.header("authorization", authorization),
            None => request,
        }
    }

    /// Reads JSON from an answer.
    ///
    /// # Errors
    /// [`Failure::Unexpected`].
    pub(crate) fn parse<T: DeserializeOwned>(&self, body: &[u8]) -> Result<T, Failure> {
        serde_json::from_slice(body).map_err(|error| self.unexpected(&error))
    }

    /// The failure of an answer that quipu would not give.
    pub(crate) fn unexpected(&self, reason: &dyn fmt::Display) -> Failure {
        Failure::Unexpected {
            server: self.base.clone(),
            reason: one_line(&reason.to_string()),
        }
    }

    /// Reads the whole answer; everything but a success becomes a [`Failure`].
    fn answer(&self, result: Result<http::Response<ureq::Body>, ureq::Error>) -> Result<Answer, Failure> {
        let (head, body) = result.map_err(|error| self.failure(&error))?.into_parts();
        let mut bytes = Vec::new();
        body.into_reader()
            .read_to_end(&mut bytes)
            .map_err(|error| Failure::Lost {
                server: self.base.clone(),
                reason: broken(&error),
            })?;
        if head.status.is_success() {
            return Ok(Answer {
                status: head.status,
                headers: head.headers,
                body: bytes,
            });
        }
        let seconds = head
            .headers
            .get("retry-after")
            .and_then(|value| value.to_str().ok()?.parse().ok());
        let retry_after = seconds.map(Duration::from_secs);
        let members = serde_json::from_slice(&bytes).unwrap_or_default();
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
        let not_sent = |reason: &str| Failure::NotSent {
            server: server.clone(),
            reason: reason.to_owned(),
        };
        match error {
            ureq::Error::Io(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                let has_port = self
                    .base
                    .parse::<http::Uri>()
                    .is_ok_and(|uri| uri.port().is_some());
                let port = if has_port {
                    ""
                } else {
                    " at port 80, as the address names none"
                };
                not_sent(&format!(
                    "connection refused{port}; is `quipu serve` running there?"
                ))
            }
            ureq::Error::Timeout(ureq::Timeout::Connect | ureq::Timeout::Resolve) => {
                not_sent("no connection within 10 seconds")
            }
            // The standard library gives a failed look-up no kind of its own.
            ureq::Error::Io(error) if error.to_string().starts_with("failed to lookup address") => {
                not_sent(&one_line(&error.to_string()))
            }
            ureq::Error::HostNotFound => not_sent("no such host"),
            ureq::Error::ConnectionFailed => not_sent("connection failed"),
            ureq::Error::BadUri(reason) => not_sent(reason),
            ureq::Error::Protocol(reason) => self.unexpected(reason),
            ureq::Error::Io(error) => Failure::Lost {
                server,
                reason: broken(error),
            },
            ureq::Error::Timeout(_) => Failure::Lost {
                server,
                reason: "no answer in time".to_owned(),
            },
            other => Failure::Lost {
                server,
                reason: one_line(&other.to_string()),
            },
        }
    }
}

fn broken(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => "it was closed before the answer was complete".to_owned(),
        io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => "it was reset".to_owned(),
        _ => one_line(&error.to_string()),
    }
}

fn base_address(server: &str) -> Result<String, Usage> {
    let text = server.trim().trim_end_matches('/');
    let lower = text.to_ascii_lowercase();
    if lower.starts_with("https://") {
        return Err(Usage(format!(
            "this build of quipu speaks no TLS, so it cannot use {text}; give an http:// address"
        )));
    }
    let text = match text.split_once("://") {
        None => format!("http://{text}"),
        Some((_, rest)) if lower.starts_with("http://") => format!("http://{rest}"),
        Some((scheme, _)) => {
            return Err(Usage(format!(
                "--server must be an http:// address, not {scheme}://"
            )));
        }
    };
    let port = text["http://".len()..]
        .split('/')
        .next()
        .and_then(|authority| authority.rsplit_once(':'));
    if let Some((_, port)) = port
        && !port.is_empty()
        && port.bytes().all(|byte| byte.is_ascii_digit())
        && !port.parse::<u16>().is_ok_and(|port| port > 0)
    {
        return Err(Usage(format!(
            "{port} in --server {} is not a port; ports are 1 to 65535",
            server.trim()
        )));
    }
    let good = text.parse::<http::Uri>().is_ok_and(|uri| {
        uri.host().is_some_and(|host| !host.is_empty())
            && uri.query().is_none()
            && !uri
                .authority()
                .is_some_and(|authority| authority.as_str().contains('@'))
    });
    if good && !text.contains('#') && !text.ends_with(':') {
        Ok(text)
    } else {
        Err(Usage(format!(
            "--server must be an address like http://127.0.0.1:7420, not {server:?}"
        )))
    }
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
            ("http://host/below", "http://host/below"),
        ] {
            assert_eq!(base_address(given).unwrap(), used);
        }
        for wrong in [
            "",
            "http://",
            "ftp://host",
            "https://host",
            "http://a b",
            "http://h?x=1",
            "http://u:p@h",
        ] {
            assert!(base_address(wrong).is_err(), "{wrong}");
        }
        for (wrong, port) in [
            ("http://h:99999", "99999"),
            ("h:0", "0"),
            ("[::1]:70000/x", "70000"),
        ] {
            let error = base_address(wrong).unwrap_err().to_string();
            assert_eq!(
                error,
                format!("{port} in --server {wrong} is not a port; ports are 1 to 65535")
            );
        }
    }
}
