//! Parses Server-Sent Events by the WHATWG's standard, from bytes in pieces of any size.
//!
//! Lines end with CR, LF or both; a line that begins with a colon is a comment; an empty line completes an event; an
//! incomplete event at the end of the stream is dropped. An `id` takes effect when its event ends, even without data,
//! so [`Parser::last_id`] is the position to resume from.

use std::time::Duration;

use memchr::{memchr, memchr2};

/// The longest line, and the most data of an event: above the largest record of a server, even as base64.
const MAX_BYTES: usize = 128 << 20;

/// An event, borrowed until the next one begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Event<'a> {
    /// Its type; `message` if the server names none.
    pub(crate) kind: &'a str,
    /// Its data; line feeds separate its lines.
    pub(crate) data: &'a [u8],
}

/// A line or an event that is larger than any that quipu sends.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("an event of more than {} MiB", MAX_BYTES >> 20)]
pub(crate) struct TooLarge;

/// The state of a stream.
#[derive(Debug, Default)]
pub(crate) struct Parser {
    /// The beginning of an incomplete line.
    line: Vec<u8>,
    /// Whether the last line ended with CR, so that a LF next would belong to it.
    after_cr: bool,
    /// Whether the first line, which may begin with a byte order mark, is complete.
    begun: bool,
    kind: String,
    data: Vec<u8>,
    /// The `id` that takes effect when the event ends.
    id: String,
    /// The `id` of the last complete event; empty if there was none.
    pub(super) last_id: String,
    /// The server's requested wait before the next connection.
    pub(super) retry: Option<Duration>,
}

impl Parser {
    /// Reads on and passes each complete event to `take`.
    /// Errors: [`TooLarge`]; the stream cannot be read further.
    pub(crate) fn push(&mut self, mut bytes: &[u8], mut take: impl FnMut(Event<'_>)) -> Result<(), TooLarge> {
        if self.after_cr && !bytes.is_empty() {
            bytes = bytes.strip_prefix(b"\n").unwrap_or(bytes);
            self.after_cr = false;
        }
        while let Some(end) = memchr2(b'\r', b'\n', bytes) {
            let rest = &bytes[end + 1..];
            if self.line.is_empty() {
                self.whole_line(&bytes[..end], &mut take)?;
            } else {
                let mut line = std::mem::take(&mut self.line);
                line.extend_from_slice(&bytes[..end]);
                self.whole_line(&line, &mut take)?;
                line.clear();
                self.line = line;
            }
            bytes = match (bytes[end], rest.first()) {
                (b'\r', Some(b'\n')) => &rest[1..],
                (b'\r', None) => {
                    self.after_cr = true;
                    rest
                }
                _ => rest,
            };
        }
        if self.line.len() + bytes.len() > MAX_BYTES {
            return Err(TooLarge);
        }
        self.line.extend_from_slice(bytes);
        Ok(())
    }

    fn whole_line(&mut self, mut line: &[u8], take: &mut impl FnMut(Event<'_>)) -> Result<(), TooLarge> {
        if !self.begun {
            self.begun = true;
            line = line.strip_prefix(b"\xef\xbb\xbf").unwrap_or(line);
        }
        if line.is_empty() {
            self.dispatch(take);
            return Ok(());
        }
        let (field, value) = match memchr(b':', line) {
            Some(0) => return Ok(()),
            Some(colon) => {
                let value = &line[colon + 1..];
                (&line[..colon], value.strip_prefix(b" ").unwrap_or(value))
            }
            None => (line, &b""[..]),
        };
        match field {
            b"data" => {
                if self.data.len() + value.len() >= MAX_BYTES {
                    return Err(TooLarge);
                }
                self.data.extend_from_slice(value);
                self.data.push(b'\n');
            }
            b"event" => self.kind = String::from_utf8_lossy(value).into_owned(),
            b"id" if !value.contains(&0) => self.id = String::from_utf8_lossy(value).into_owned(),
            b"retry" if value.iter().all(u8::is_ascii_digit) => {
                let milliseconds = std::str::from_utf8(value).ok().and_then(|text| text.parse().ok());
                self.retry = milliseconds.map(Duration::from_millis).or(self.retry);
            }
            _ => {}
        }
        Ok(())
    }

    fn dispatch(&mut self, take: &mut impl FnMut(Event<'_>)) {
        self.last_id.clone_from(&self.id);
        if let Some((_, data)) = self.data.split_last() {
            let kind = Some(&*self.kind).filter(|kind| !kind.is_empty());
            take(Event {
                kind: kind.unwrap_or("message"),
                data,
            });
        }
        self.data.clear();
        self.kind.clear();
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Type, data, and the last id after it, of each event; then the last id and the delay at the end.
    type Read = (Vec<(String, String)>, String, Option<Duration>);

    fn read<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Read {
        let mut parser = Parser::default();
        let mut events = Vec::new();
        for piece in pieces {
            let pushed = parser.push(piece, |event| {
                let data = String::from_utf8_lossy(event.data).into_owned();
                events.push((event.kind.to_owned(), data));
            });
            pushed.unwrap();
        }
        (events, parser.last_id, parser.retry)
    }

    fn events(text: &str) -> Vec<(String, String)> {
        read([text.as_bytes()]).0
    }

    fn event(kind: &str, data: &str) -> (String, String) {
        (kind.to_owned(), data.to_owned())
    }

    #[test]
    fn every_kind_of_line_end_is_one() {
        for end in ["\n", "\r", "\r\n"] {
            let text = ["event: record", "id: 7", "data: {}", "", "data: b", "", ""].join(end);
            let found = events(&text);
            assert_eq!(found, [event("record", "{}"), event("message", "b")], "{end:?}");
        }
        let both = [event("message", "a"), event("message", "b")];
        assert_eq!(events("data: a\r\rdata: b\n\r"), both);
    }

    #[test]
    fn the_data_of_an_event_is_its_lines_without_the_blank_before_each() {
        for (text, data) in [
            ("data: a\ndata:b\ndata:  c\ndata\n\n", "a\nb\n c\n"),
            ("data:\n\n", ""),
            ("data: a: b\n\n", "a: b"),
            // Comments and unknown fields are ignored.
            (": heartbeat\n\n:\nfoo: bar\nDATA: x\n data: y\ndata: z\n\n", "z"),
            // A byte order mark is skipped once.
            ("\u{feff}data: a\n\n\u{feff}data: b\n\n", "a"),
            // An event without its empty line is none.
            ("data: a\n\ndata: b\n", "a"),
        ] {
            assert_eq!(events(text), [event("message", data)], "{text:?}");
        }
        let pieces = [&b"\xef"[..], b"\xbb", b"\xbfdata: a\n\n"];
        assert_eq!(read(pieces).0, [event("message", "a")]);
    }

    #[test]
    fn an_id_counts_from_the_end_of_its_event_and_without_data_too() {
        let cut = "id: a\ndata: x\n\nid: b\ndata: y\n";
        let without = "id: a\ndata: x\n\ndata: y\n\n";
        for (text, id, why) in [
            (cut, "a", "the event of b is not whole"),
            ("id: a\n\n", "a", "no data is needed"),
            (without, "a", "an event without one changes nothing"),
            ("id: a\n\nid\n\n", "", "an empty one takes it back"),
            ("id: a\n\nid: b\0\n\n", "a", "one with a zero byte is ignored"),
        ] {
            assert_eq!(read([text.as_bytes()]).1, id, "{why}");
        }
        assert_eq!(events("id: a\n\nevent: end\n\n"), [], "no data, no event");
    }

    #[test]
    fn the_delay_is_digits_only() {
        let retry = |text: &str| read([format!("retry{text}\n").as_bytes()]).2;
        assert_eq!(retry(": 250"), Some(Duration::from_millis(250)));
        for wrong in [": -1", ": 1.5", "", ": 99999999999999999999999"] {
            assert_eq!(retry(wrong), None, "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn any_split_of_the_bytes_gives_the_same_events(
            pieces in prop::collection::vec(prop::sample::select(&[
                "data: {\"n\":1}", "data:x", "data", "id: c1.é", "id", "event: record", "event: gap", ": comment", "retry: 10",
                "other: 1", "\u{feff}", " ", "\n", "\n", "\n\n", "\r", "\r\n", "\r\n\r\n", "\0",
            ][..]), 0..60),
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..40),
        ) {
            let bytes = pieces.concat().into_bytes();
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
            cuts.extend([0, bytes.len()]);
            cuts.sort_unstable();
            let split = cuts.windows(2).map(|pair| &bytes[pair[0]..pair[1]]);
            prop_assert_eq!(read(split), read([&bytes[..]]));
        }
    }
}
