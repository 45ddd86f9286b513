//! Paths of the HTTP API, percent-encoded.

use std::fmt;

/// A path below the server's address with its query, percent-encoded where needed.
#[derive(Clone, Debug)]
pub(crate) struct Route(String);

impl Route {
    /// `/a/b/c` from its segments.
    pub(crate) fn new(segments: &[&str]) -> Self {
        let mut text = String::new();
        for segment in segments {
            text.push('/');
            encode(&mut text, segment);
        }
        Self(text)
    }

    /// A path, with its query if it has one, as it stands in an address.
    pub(crate) fn of(uri: &http::Uri) -> Self {
        Self(uri.path_and_query().map_or("/", |path| path.as_str()).to_owned())
    }

    /// Adds a query parameter.
    pub(crate) fn with(self, name: &str, value: impl fmt::Display) -> Self {
        let Self(mut text) = self;
        text.push(if text.contains('?') { '&' } else { '?' });
        encode(&mut text, name);
        text.push('=');
        encode(&mut text, &value.to_string());
        Self(text)
    }
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn encode(out: &mut String, text: &str) {
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b':' | b',' => {
                out.push(byte as char);
            }
            other => out.push_str(&format!("%{other:02X}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_cannot_leave_their_segment() {
        let route = Route::new(&["v1", "topics", "a/../b?c=d#e", "records"]).with("key", "x&y=z é");
        let expected = "/v1/topics/a%2F..%2Fb%3Fc%3Dd%23e/records?key=x%26y%3Dz%20%C3%A9";
        assert_eq!(route.to_string(), expected);
    }
}
