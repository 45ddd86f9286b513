//! A reader of Server-Sent Events by the standard (WHATWG HTML, section 9.2.6), fed in pieces of any size.

use serde_json::Value;

/// An event that was dispatched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    pub name: String,
    pub data: String,
    /// The last event ID when it was dispatched.
    pub id: String,
}

impl Event {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.data).unwrap_or_else(|error| panic!("{error} in {self:?}"))
    }
}

/// The state of an `EventSource`.
#[derive(Clone, Debug, Default)]
pub struct EventReader {
    /// The bytes of an unfinished line.
    line: Vec<u8>,
    name: String,
    data: String,
    id_buffer: String,
    /// The last event ID: what is sent as `Last-Event-ID`.
    pub last_id: String,
    pub retry_ms: Option<u64>,
    pub comments: usize,
}

impl EventReader {
    /// A new connection: forgets what was half read, but keeps the last event ID.
    pub fn reconnected(&mut self) {
        *self = Self {
            last_id: self.last_id.clone(),
            id_buffer: self.last_id.clone(),
            retry_ms: self.retry_ms,
            ..Self::default()
        };
    }

    /// Takes bytes; returns the events that they complete.
    pub fn feed(&mut self, bytes: &[u8]) -> Vec<Event> {
        let mut events = Vec::new();
        for &byte in bytes {
            assert_ne!(
                byte, b'\r',
                "the server ends lines with line feeds, and data has no line breaks"
            );
            if byte != b'\n' {
                self.line.push(byte);
                continue;
            }
            let line = String::from_utf8(std::mem::take(&mut self.line)).expect("the stream is UTF-8");
            self.take_line(&line, &mut events);
        }
        events
    }

    fn take_line(&mut self, line: &str, events: &mut Vec<Event>) {
        if line.is_empty() {
            self.last_id.clone_from(&self.id_buffer);
            let data = std::mem::take(&mut self.data);
            let name = std::mem::take(&mut self.name);
            if !data.is_empty() {
                events.push(Event {
                    name,
                    data: data.strip_suffix('\n').expect("each line adds one").to_owned(),
                    id: self.last_id.clone(),
                });
            }
            return;
        }
        if line.starts_with(':') {
            self.comments += 1;
            return;
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "event" => value.clone_into(&mut self.name),
            "data" => {
                self.data.push_str(value);
                self.data.push('\n');
            }
            "id" => value.clone_into(&mut self.id_buffer),
            "retry" => self.retry_ms = value.parse().ok(),
            other => panic!("a field {other:?} that no event has"),
        }
    }
}
