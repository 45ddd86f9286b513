//! Tokens and what they allow, on the real binary: every route, what is leaked to nobody, sessions of browsers, what ends with a
//! token, quotas.
#![allow(clippy::disallowed_methods, reason = "it looks at the binary's files")]

#[path = "../support/mod.rs"]
mod support;

mod hostile;
mod lives;
mod pages;
mod quotas;
mod rights;
mod routes;
mod sessions;
mod start;
mod world;
