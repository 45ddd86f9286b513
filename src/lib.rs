//! quipu: a partitioned, append-only event log that you talk to over HTTP.

pub mod app;
pub mod catalog;
pub mod config;
pub mod http;
pub mod metrics;
pub mod render;
