//! quipu: a partitioned, append-only event log that you talk to over HTTP.

pub mod app;
pub mod catalog;
pub mod cloudevents;
pub mod config;
pub mod damage;
pub mod groups;
pub mod http;
pub mod lag;
pub mod metrics;
pub mod partitioner;
pub mod records;
pub mod render;
pub mod server;
pub mod stream;
