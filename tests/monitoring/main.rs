//! What an operator graphs and reads: metrics, the alerts and the dashboard that are made of them, the log, and traces.
#![allow(
    clippy::disallowed_methods,
    reason = "these tests read the repository and the log"
)]

#[path = "../support/mod.rs"]
mod support;

mod collector;
mod deployed;
mod log;
mod metrics;
mod running;
mod traces;
#[allow(dead_code, reason = "some of it is for the tests of Kafka's protocol alone")]
#[path = "../kafka/wire.rs"]
mod wire;
