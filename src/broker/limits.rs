//! The limits on what one client may ask of the server.

/// The limits on one client.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Decoded body of any request but NDJSON, in bytes.
    pub max_request_bytes: usize,
    /// Request line and headers of one request, in bytes.
    pub max_request_head_bytes: usize,
    /// A record's key, in bytes.
    pub max_key_bytes: usize,
    /// Headers of one record.
    pub max_headers_per_record: usize,
    /// Names and values of one record's headers together, in bytes.
    pub max_header_bytes: usize,
    /// Connections at once; those above are answered `overloaded` and closed.
    pub max_connections: usize,
    /// Decoded request bodies held in memory at once, in bytes.
    pub max_in_flight_bytes: u64,
    /// Partitions of one topic, and those that one request to several topics writes to.
    pub max_partitions: u32,
    /// Unsettled records that the queues of all groups remember; each takes about 200 bytes of memory.
    pub max_queue_records: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_request_bytes: 32 << 20,
            max_request_head_bytes: 64 << 10,
            max_key_bytes: 32 << 10,
            max_headers_per_record: 100,
            max_header_bytes: 32 << 10,
            max_connections: 20_000,
            max_in_flight_bytes: 64 << 20,
            max_partitions: 10_000,
            max_queue_records: 10_000_000,
        }
    }
}
