//! Paths of the HTTP API, percent-encoded.

use std::fmt;

/// A path below the server's address with its query, percent-encoded where needed.
#[derive(Clone, Debug)]
pub(crate) struct Route {
    text: String,
    has_query: bool,
}

impl Route {
    /// `/a/b/c` from its segments.
    pub(crate) fn new(segments: &[&str]) -> Self {
        let mut text = String::new();
        for segment in segments {
            text.push('/');
            encode(&mut text, segment);
        }
        Self {
            text,
            has_query: false,
        }
    }

    /// A path, with its query if it has one, as it stands in an address.
    pub(crate) fn of(uri: &http::Uri) -> Self {
        let text = uri.path_and_query().map_or("/", |path| path.as_str()).to_owned();
        Self {
            has_query: text.contains('?'),
            text,
        }
    }

    /// Adds a query parameter.
    pub(crate) fn with(mut self, name: &str, value: impl fmt::Display) -> Self {
        self.text.push(if self.has_query { '&' } else { '?' });
        self.has_query = true;
        encode(&mut self.text, name);
        self.text.push('=');
        encode(&mut self.text, &value.to_string());
        self
    }
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
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
        assert_eq!(
            route.to_string(),
            "/v1/topics/a%2F..%2Fb%3Fc%3Dd%23e/records?key=x%26y%3Dz%20%C3%A9"
        );
    }
}
