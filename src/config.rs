//! The settings of the server.
#![allow(missing_docs, reason = "signatures first")]
use std::net::SocketAddr;
use std::path::PathBuf;

/// Everything that can be set.
#[derive(Clone, Debug)]
pub struct Config {
    pub data: PathBuf,
    pub listen: SocketAddr,
    pub log_format: LogFormat,
    pub limits: Limits,
    pub journal_file_bytes: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum LogFormat {
    #[default]
    Text,
    Json,
}

#[derive(Clone, Debug)]
pub struct Limits {
    /// 32 MiB: decoded body of any request but NDJSON
    pub max_request_bytes: usize,
    /// 1,000 (raised by tests);
    pub max_key_bytes: usize, // 32 KiB
    pub max_headers_per_record: usize, // 100
    pub max_header_bytes: usize,       // 32 KiB of names and values of one record's headers
    pub max_connections: usize,        // 10_000
    pub max_in_flight_bytes: u64,      // 256 MiB: decoded bodies held
    pub max_partitions: u32,           // partitions of one topic, 10_000
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_request_bytes: 32 << 20,
            max_key_bytes: 32 << 10,
            max_headers_per_record: 100,
            max_header_bytes: 32 << 10,
            max_connections: 10_000,
            max_in_flight_bytes: 64 << 20,
            max_partitions: 10_000,
        }
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            data: "quipu-data".into(),
            listen: ([127, 0, 0, 1], 7420).into(),
            log_format: LogFormat::Text,
            limits: Limits::default(),
            journal_file_bytes: 64 << 20,
        }
    }
}
