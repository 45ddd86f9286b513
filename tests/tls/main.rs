//! Who reaches the server and how: addresses beyond loopback, proxies, TLS.
#![allow(
    clippy::disallowed_methods,
    reason = "it looks at the binary's files, and writes certificates"
)]

#[path = "../support/mod.rs"]
mod support;

mod authority;
mod command_line;
mod handshakes;
mod open;
mod reload;
mod secure;
mod sign_in;
mod signals;
