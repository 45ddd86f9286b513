//! Which texts are hosts, origins, networks and URLs.

use std::net::{IpAddr, Ipv6Addr};

use ipnet::IpNet;

/// Whether the text is a scheme, a host and perhaps a port: browsers send nothing else as an origin, so more would
/// never match.
pub(super) fn is_origin(text: &str) -> bool {
    let rest = text
        .strip_prefix("http://")
        .or_else(|| text.strip_prefix("https://"));
    let (host, port) = match rest.and_then(|rest| rest.rsplit_once(':')) {
        Some((host, port)) if !port.ends_with(']') => (host, port),
        _ => (rest.unwrap_or_default(), "0"),
    };
    let address = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let is_address = address.is_some_and(|address| address.parse::<Ipv6Addr>().is_ok());
    (is_address || is_host(host)) && port.parse::<u16>().is_ok()
}

/// The network that a text names; an address alone is a network of one.
pub(crate) fn parse_network(text: &str) -> Option<IpNet> {
    let alone = || text.parse::<IpAddr>().map(IpNet::from);
    text.parse().or_else(|_| alone()).ok()
}

/// Whether the text is the name of a host, or an IPv4 address.
pub(super) fn is_host(text: &str) -> bool {
    let is_allowed = |b: u8| b.is_ascii_alphanumeric() || b"_-".contains(&b);
    let name = text.strip_suffix('.').unwrap_or(text);
    let mut labels = name.split('.');
    labels.all(|label| !label.is_empty() && label.bytes().all(is_allowed))
}

/// The host and the port that a text names; an IPv6 address stands in brackets.
pub(crate) fn host_and_port(text: &str) -> Option<(&str, u16)> {
    let (host, port) = text.rsplit_once(':')?;
    let port = port.parse().ok().filter(|port| *port > 0)?;
    match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        Some(address) => address.parse::<Ipv6Addr>().is_ok().then_some((address, port)),
        None => is_host(host).then_some((host, port)),
    }
}

/// Whether the text is the path of a file, or a URL whose answer nobody on the way can change: one with `https://`, or one of
/// this machine.
pub(super) fn is_key_source(text: &str) -> bool {
    let Some((scheme, rest)) = text.split_once("://") else {
        return true;
    };
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let in_brackets = authority.strip_prefix('[').and_then(|rest| rest.split_once(']'));
    let host = in_brackets.map_or_else(
        || authority.split(':').next().unwrap_or_default(),
        |(host, _)| host,
    );
    let is_here = host == "localhost" || host.parse().is_ok_and(|address: IpAddr| address.is_loopback());
    is_origin(&format!("https://{authority}")) && (scheme == "https" || (scheme == "http" && is_here))
}
