//! Where a request comes from if proxies have passed it on.
//!
//! What a request says about that is believed only as far as the setting `trusted_proxies` reaches. A proxy appends the
//! address that it was called from, so the list is read from right to left: each entry was written by the proxy on its
//! right, and counts only if that one is trusted. The first address that is no trusted proxy's is the client's;
//! everything left of it is the client's own invention.
//!
//! Without sign-in a proxy on this machine would make loopback public. So a request that a proxy has passed on is refused
//! then, unless the setting `insecure` allows it. A proxy that adds no header cannot be noticed.

use std::net::{IpAddr, SocketAddr};

use http::{HeaderMap, HeaderName, header};
use ipnet::IpNet;

use super::problem::{Code, Problem};
use crate::settings::{Config, parse_network};

static X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// What the settings say about proxies.
#[derive(Debug)]
pub(crate) struct Proxies {
    /// No proxy may pass requests on.
    are_refused: bool,
    trusted: Vec<IpNet>,
}

impl Proxies {
    pub(crate) fn of(config: &Config) -> Self {
        let trusted = config.trusted_proxies.iter();
        Self {
            are_refused: !config.asks_for_tokens() && !config.insecure,
            trusted: trusted.filter_map(|text| parse_network(text)).collect(),
        }
    }

    /// The client's address, given the other end of the connection. Its port is 0 if a proxy has not named it.
    ///
    /// # Errors
    /// 403 for a request that no proxy may pass on; 400 if two headers disagree about the client.
    pub(crate) fn client(
        &self,
        peer: Option<SocketAddr>,
        headers: &HeaderMap,
    ) -> Result<Option<SocketAddr>, Problem> {
        if self.are_refused
            && let Some(name) = headers.keys().find(|name| is_of_a_proxy(name))
        {
            let remedy = "set auth=tokens and trusted_proxies, or start the server with --insecure";
            let detail = format!(
                "a proxy has passed this request on (it has {name}), but nobody has to sign in here; {remedy}"
            );
            return Err(Problem::new(Code::Forbidden, detail));
        }
        let Some(peer) = peer.filter(|peer| self.trusts(peer.ip())) else {
            return Ok(peer);
        };
        let forwarded = self.first_untrusted(peer, fields(headers, &header::FORWARDED), forwarded_for);
        let x_forwarded = self.first_untrusted(peer, fields(headers, &X_FORWARDED_FOR), address_of);
        match (forwarded, x_forwarded) {
            // A proxy sets one of them, and lets through what the client has sent of the other.
            (Some(one), Some(other)) if one.ip() != other.ip() => {
                let detail = "Forwarded and X-Forwarded-For name different clients; the proxy must remove the one that it does not set";
                Err(Problem::invalid("forwarded", detail))
            }
            (one, other) => Ok(one.or(other).or(Some(peer))),
        }
    }

    /// Whether an address is that of a trusted proxy.
    pub(crate) fn trusts(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.trusted.iter().any(|network| network.contains(&address))
    }

    /// The client's address by one header; `None` without that header. An entry that is no address (`unknown`, or a
    /// name that hides it) ends the search: then the proxy that wrote it stands for the client.
    fn first_untrusted<'a>(
        &self,
        peer: SocketAddr,
        entries: Vec<&'a str>,
        address_in: impl Fn(&'a str) -> Option<SocketAddr>,
    ) -> Option<SocketAddr> {
        let mut client = peer;
        for entry in entries.iter().rev() {
            if !self.trusts(client.ip()) {
                break;
            }
            match address_in(entry) {
                Some(address) => client = address,
                None => break,
            }
        }
        (!entries.is_empty()).then_some(client)
    }
}

/// Whether a header is one that proxies add to what they pass on.
fn is_of_a_proxy(name: &HeaderName) -> bool {
    let name = name.as_str();
    matches!(name, "forwarded" | "via" | "x-real-ip") || name.starts_with("x-forwarded-")
}

/// The entries of a header, over all its lines. Text that is not ASCII makes an entry that is no address.
fn fields<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Vec<&'a str> {
    let lines = headers.get_all(name).iter();
    let lines = lines.map(|line| line.to_str().unwrap_or("unknown"));
    lines.flat_map(|line| split(line, ',')).collect()
}

/// Splits a text, but not within quotes.
fn split(text: &str, separator: char) -> impl Iterator<Item = &str> {
    let (mut is_quoted, mut is_escaped) = (false, false);
    let parts = text.split(move |c| {
        let was_escaped = std::mem::replace(&mut is_escaped, false);
        match c {
            '"' if !was_escaped => is_quoted = !is_quoted,
            '\\' if is_quoted && !was_escaped => is_escaped = true,
            _ => {}
        }
        c == separator && !is_quoted
    });
    parts.map(str::trim)
}

/// The address in an entry of `Forwarded` (RFC 7239): its one pair `for`.
fn forwarded_for(entry: &str) -> Option<SocketAddr> {
    let pairs = split(entry, ';').filter_map(|pair| pair.split_once('='));
    let mut nodes = pairs.filter(|(name, _)| name.trim().eq_ignore_ascii_case("for"));
    let (Some((_, node)), None) = (nodes.next(), nodes.next()) else {
        return None;
    };
    let node = node.trim();
    let quoted = node.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
    address_of(quoted.unwrap_or(node))
}

/// The address in a text: an IP address with or without brackets, perhaps with a port.
fn address_of(text: &str) -> Option<SocketAddr> {
    let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    let without_port = |ip: IpAddr| SocketAddr::new(ip.to_canonical(), 0);
    let address = bare.unwrap_or(text).parse().map(without_port);
    address.or_else(|_| text.parse()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proxies(insecure: bool, trusted: &str) -> Proxies {
        Proxies::of(&Config {
            insecure,
            trusted_proxies: trusted.split_whitespace().map(str::to_owned).collect(),
            ..Config::default()
        })
    }

    fn headers(all: &[(&'static str, &'static str)]) -> HeaderMap {
        let all = all.iter();
        all.map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()))
            .collect()
    }

    fn client(proxies: &Proxies, peer: &str, all: &[(&'static str, &'static str)]) -> Result<String, u16> {
        let found = proxies.client(peer.parse().ok(), &headers(all));
        let shown =
            |address: Option<SocketAddr>| address.map_or(String::new(), |address| address.to_string());
        found.map(shown).map_err(|problem| problem.code().row().0)
    }

    #[test]
    fn a_request_that_a_proxy_passed_on_is_refused_where_nobody_signs_in() {
        let strict = proxies(false, "");
        for name in [
            "forwarded",
            "via",
            "x-real-ip",
            "x-forwarded-for",
            "x-forwarded-host",
            "x-forwarded-proto",
        ] {
            assert_eq!(client(&strict, "127.0.0.1:1", &[(name, "x")]), Err(403), "{name}");
            let insecure = proxies(true, "");
            let found = client(&insecure, "127.0.0.1:1", &[(name, "x")]);
            assert_eq!(found, Ok("127.0.0.1:1".to_owned()), "{name}");
        }
        let others = [("x-forward", "x"), ("x-real", "x"), ("x-request-id", "x")];
        assert_eq!(
            client(&strict, "127.0.0.1:1", &others),
            Ok("127.0.0.1:1".to_owned())
        );
    }

    #[test]
    fn the_client_is_the_first_address_from_the_right_that_is_no_trusted_proxys() {
        let proxies = proxies(true, "10.0.0.0/8 ::1 2001:db8::/32");
        for (peer, x_forwarded_for, expected) in [
            ("10.0.0.1:1", "192.0.2.7", "192.0.2.7:0"),
            ("10.0.0.1:1", "1.1.1.1, 192.0.2.7", "192.0.2.7:0"),
            ("10.0.0.1:1", "1.1.1.1, 192.0.2.7 ,10.9.9.9", "192.0.2.7:0"),
            ("10.0.0.1:1", "1.1.1.1,192.0.2.7,10.9.9.9", "192.0.2.7:0"),
            ("10.0.0.1:1", "192.0.2.7:55", "192.0.2.7:55"),
            ("[::1]:1", "2001:db9::1", "[2001:db9::1]:0"),
            ("[::1]:1", "[2001:db9::1]", "[2001:db9::1]:0"),
            ("[::1]:1", "[2001:db9::1]:55, [2001:db8::2]:4", "[2001:db9::1]:55"),
            ("[::ffff:10.0.0.1]:1", "::ffff:192.0.2.7", "192.0.2.7:0"),
            // All of them are proxies: the leftmost.
            ("10.0.0.1:1", "10.0.0.3, 10.0.0.2", "10.0.0.3:0"),
            // What is no address hides the client: the proxy that wrote it stands for it.
            ("10.0.0.1:1", "192.0.2.7, unknown", "10.0.0.1:1"),
            ("10.0.0.1:1", "192.0.2.7, unknown, 10.0.0.2", "10.0.0.2:0"),
            ("10.0.0.1:1", "", "10.0.0.1:1"),
            ("10.0.0.1:1", "192.0.2.7,", "10.0.0.1:1"),
            // Who is no trusted proxy may write what he likes.
            ("192.0.2.1:1", "203.0.113.9", "192.0.2.1:1"),
            ("192.0.2.1:1", "10.0.0.1", "192.0.2.1:1"),
        ] {
            let found = client(&proxies, peer, &[("x-forwarded-for", x_forwarded_for)]);
            assert_eq!(found, Ok(expected.to_owned()), "{peer} {x_forwarded_for}");
        }
        let lines = [("x-forwarded-for", "1.1.1.1"), ("x-forwarded-for", "192.0.2.7")];
        let found = client(&proxies, "10.0.0.1:1", &lines);
        assert_eq!(found, Ok("192.0.2.7:0".to_owned()));
        assert_eq!(client(&proxies, "10.0.0.1:1", &[]), Ok("10.0.0.1:1".to_owned()));
        assert_eq!(client(&proxies, "closed", &lines), Ok(String::new()));
    }

    #[test]
    fn the_standard_header_is_read_with_its_quotes() {
        let proxies = proxies(true, "10.0.0.0/8");
        for (forwarded, expected) in [
            ("for=192.0.2.7", "192.0.2.7:0"),
            ("For=\"192.0.2.7:55\";proto=https", "192.0.2.7:55"),
            ("by=10.0.0.1; for=\"[2001:db8::1]:4711\"", "[2001:db8::1]:4711"),
            ("for=1.1.1.1, for=192.0.2.7", "192.0.2.7:0"),
            ("for=192.0.2.7;by=\"a,for=1.1.1.1\"", "192.0.2.7:0"),
            ("for=192.0.2.7;host=\"a\\\",for=1.1.1.1;\\\"\"", "192.0.2.7:0"),
            ("for=_hidden", "10.0.0.1:1"),
            ("for=192.0.2.7;for=1.1.1.1", "10.0.0.1:1"),
            ("proto=https", "10.0.0.1:1"),
            ("for=\"192.0.2.7", "10.0.0.1:1"),
        ] {
            let found = client(&proxies, "10.0.0.1:1", &[("forwarded", forwarded)]);
            assert_eq!(found, Ok(expected.to_owned()), "{forwarded}");
        }
    }

    #[test]
    fn two_headers_that_disagree_are_refused() {
        let proxies = proxies(true, "10.0.0.0/8");
        let both = |forwarded, other| [("forwarded", forwarded), ("x-forwarded-for", other)];
        let agreed = client(&proxies, "10.0.0.1:1", &both("for=192.0.2.7", "192.0.2.7"));
        assert_eq!(agreed, Ok("192.0.2.7:0".to_owned()));
        let spoofed = both("for=1.1.1.1", "192.0.2.7");
        assert_eq!(client(&proxies, "10.0.0.1:1", &spoofed), Err(400));
        // From who is not trusted neither counts.
        assert_eq!(
            client(&proxies, "192.0.2.1:1", &spoofed),
            Ok("192.0.2.1:1".to_owned())
        );
    }
}
