//! Groups through the router: offsets that are committed from outside ([`outside`]) or reset ([`reset`]), members of ordered groups ([`ordered`]),
//! topic patterns ([`patterns`]), `topics` in polls ([`subscriptions`]), filters and settings ([`filters`]), work queues
//! ([`shared`]; with an order or a filter: [`keyed`]), what these hold ([`queue_figures`]), large dead letters ([`large_letters`]), outputs with what is acknowledged ([`outputs`]), and how far behind
//! a group is ([`lag`]; of all groups: [`lag_overview`]).
#![allow(clippy::disallowed_methods, reason = "a test reads a document")]

mod filters;
mod keyed;
mod lag;
mod lag_overview;
mod large_letters;
mod ordered;
mod outputs;
mod outside;
mod patterns;
mod queue_figures;
mod reset;
mod shared;
mod subscriptions;
#[path = "../support/mod.rs"]
mod support;
