//! Who reaches the server and how: addresses beyond loopback, proxies, TLS.
#![allow(clippy::disallowed_methods, reason = "it looks at the binary's files")]

#[path = "../support/mod.rs"]
mod support;

mod open;
