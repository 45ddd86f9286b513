//! Groups through the router: offsets that are committed from outside ([`outside`]), members of ordered groups ([`ordered`]),
//! topic patterns ([`patterns`]), `topics` in polls ([`subscriptions`]), filters and settings ([`filters`]), work queues
//! ([`shared`]), what these hold ([`queue_figures`]), outputs with what is acknowledged ([`outputs`]), and how far behind
//! a group is ([`lag`]).
#![allow(clippy::disallowed_methods, reason = "a test reads a document")]

mod filters;
mod lag;
mod ordered;
mod outputs;
mod outside;
mod patterns;
mod queue_figures;
mod shared;
mod subscriptions;
#[path = "../support/mod.rs"]
mod support;
