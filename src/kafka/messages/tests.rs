//! Round trips of every message in every version, and frames that real clients and Kafka 4.4 have sent.

use bytes::{Bytes, BytesMut};

use super::every::{every, rewrite};
use super::{
    acls::*, admin::*, api_versions::*, cluster::*, configs::*, consumers::*, coordinator::*, fetch::*,
    group_offsets::*, groups::*, metadata::*, offsets::*, produce::*, sasl::*, transactions::*,
};
use crate::kafka::header::{API_VERSIONS, RequestHeader, skip_tags};
use crate::kafka::wire::sample::Sampler;
use crate::kafka::wire::{Message, Reader, Version};

/// Frames without their lengths, a line each: key, version, `req` or `rsp`, and the bytes in hexadecimal digits.
const FRAMES: &str = include_str!("frames.txt");

fn round_trip<M: Message + Clone + PartialEq + std::fmt::Debug>(seed: u64) {
    for number in M::VERSIONS {
        let version = M::version(number);
        let message = M::sample(&mut Sampler::new(seed), version);
        let bytes = Bytes::from(message.encode(number).concat());
        let mut reader = Reader::new(BytesMut::from(&bytes[..]));
        let again = M::decode(&mut reader, number);
        assert_eq!(again.as_ref(), Ok(&message), "version {number}, seed {seed}");
        assert_eq!(reader.remaining(), 0, "version {number}, seed {seed}");
        // Every cut is refused or is another message, and nothing panics.
        for length in (0..bytes.len()).step_by(bytes.len() / 32 + 1) {
            let cut = M::decode(&mut Reader::new(BytesMut::from(&bytes[..length])), number);
            assert_ne!(
                cut,
                Ok(message.clone()),
                "version {number}, seed {seed}, cut at {length}"
            );
        }
    }
}

#[test]
fn every_message_comes_back_as_it_was_in_every_version() {
    macro_rules! round_trips {
        ($($key:literal $request:ident $answer:ident;)*) => {
            for seed in 0..200 {
                $(round_trip::<$request>(seed); round_trip::<$answer>(seed);)*
            }
        };
    }
    every!(round_trips);
}

#[test]
fn an_unknown_tagged_field_is_skipped() {
    let request = HeartbeatRequest {
        group_id: "g".into(),
        ..HeartbeatRequest::default()
    };
    let mut bytes = request.encode(4).concat();
    assert_eq!(bytes.pop(), Some(0), "no tagged fields");
    bytes.extend([2, 5, 3, 1, 2, 3, 99, 0]);
    let mut reader = Reader::new(BytesMut::from(&bytes[..]));
    assert_eq!(HeartbeatRequest::decode(&mut reader, 4), Ok(request));
    assert_eq!(reader.remaining(), 0);
}

/// The bytes after the header of a frame.
fn body(key: i16, version: i16, is_answer: bool, frame: Vec<u8>, first_flexible: i16) -> Bytes {
    let mut reader = Reader::new(BytesMut::from(&frame[..]));
    let version = Version {
        number: version,
        is_flexible: version >= first_flexible && !(is_answer && key == API_VERSIONS),
    };
    if is_answer {
        reader.i32().expect("a correlation id");
    } else {
        let header = RequestHeader::read(&mut reader).expect("a header");
        assert_eq!((header.key, header.version), (key, version.number));
    }
    skip_tags(&mut reader, version).expect("tagged fields");
    reader.take(reader.remaining()).expect("the rest")
}

fn first_flexible(key: i16) -> Option<i16> {
    macro_rules! by_key {
        ($($key:literal $request:ident $answer:ident;)*) => {
            match key {
                $($key => {
                    assert_eq!($request::FLEXIBLE, $answer::FLEXIBLE, "of API {key}");
                    assert_eq!($request::VERSIONS, $answer::VERSIONS, "of API {key}");
                    Some($request::FLEXIBLE)
                })*
                _ => None,
            }
        };
    }
    every!(by_key)
}

#[test]
fn frames_of_real_clients_and_of_kafka_are_read_and_written_byte_for_byte() {
    let mut count = 0;
    for line in FRAMES.lines().filter(|line| !line.starts_with('#')) {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let [key, version, direction, hex] = fields[..] else {
            panic!("not a frame: {line}");
        };
        let (key, version) = (key.parse().expect("a key"), version.parse().expect("a version"));
        let is_answer = direction == "rsp";
        let digits = |at| u8::from_str_radix(&hex[at..at + 2], 16).expect("two digits");
        let frame: Vec<u8> = (0..hex.len()).step_by(2).map(digits).collect();
        let flexible = first_flexible(key).unwrap_or_else(|| panic!("API {key} is not known"));
        let body = body(key, version, is_answer, frame, flexible);
        let place = format!("{direction} {key} v{version}");
        let rewritten = rewrite(key, version, is_answer, body.clone())
            .expect("a known API")
            .unwrap_or_else(|error| panic!("{place}: {error}"));
        assert_eq!(rewritten.left, 0, "{place}");
        assert_eq!(rewritten.bytes, body, "{place}");
        count += 1;
    }
    assert!(count > 200, "{count}");
}
