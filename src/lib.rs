//! quipu: a partitioned, append-only event log that you talk to over HTTP.

pub mod broker;
mod dashboard;
pub mod formats;
pub mod http;
pub mod kafka;
pub mod metrics;
pub mod server;
pub mod settings;
pub mod traces;
