//! Request bodies in gzip and zstd.
//!
//! A body is decoded to the same bytes however it is cut into pieces, in chunks of bounded size, and to the same bytes
//! as another decoder finds. A compressed body is decoded to what it was.

use std::io::{Read as _, Write as _};

use bytes::Bytes;
use http::HeaderValue;
use quipu::http::fuzzing::decode_body;

use super::input::Input;

/// The most bytes that are decoded of one body.
const MOST_BYTES: usize = 1 << 20;

pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let choice = input.u8();
    let coding = if choice & 1 == 1 { "gzip" } else { "zstd" };
    let piece = usize::from(input.u8()).max(1);
    let (flips, at, mask) = (choice & 2 == 2, usize::from(input.u16()), input.u8());
    let compresses = choice & 4 == 4;
    let plain = input.rest();
    let mut body = if compresses {
        compress(coding, plain)
    } else {
        plain.to_vec()
    };
    if compresses && choice & 8 == 8 {
        body.extend(compress(coding, plain));
    }
    if flips && !body.is_empty() {
        let at = at % body.len();
        body[at] ^= mask;
    }
    let whole = decode(coding, &body, body.len().max(1));
    let cut = decode(coding, &body, piece);
    match (&whole, &cut) {
        (Ok(whole), Ok(cut)) => {
            let shared = whole.len().min(cut.len());
            assert_eq!(whole[..shared], cut[..shared]);
            assert!(whole.len() == cut.len() || shared > MOST_BYTES);
            check_by_another(coding, &body, whole);
        }
        (Err(()), Err(())) => {}
        // libzstd decodes a frame in one piece in another way: it then refuses some empty frames (those that declare
        // another length) that it accepts in pieces.
        (Ok(some), Err(())) | (Err(()), Ok(some)) if coding == "zstd" && some.is_empty() => {}
        // One of them stopped at the limit, before the wrong byte.
        (Ok(some), Err(())) | (Err(()), Ok(some)) => assert!(some.len() > MOST_BYTES, "{}", some.len()),
    }
    if compresses && !(flips && mask != 0) {
        let twice = choice & 8 == 8;
        let expected = if twice {
            [plain, plain].concat()
        } else {
            plain.to_vec()
        };
        assert_eq!(whole, Ok(expected));
    }
}

fn compress(coding: &str, bytes: &[u8]) -> Vec<u8> {
    if coding == "zstd" {
        return zstd::encode_all(bytes, 1).expect("it compresses");
    }
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).expect("it compresses");
    encoder.finish().expect("it compresses")
}

fn decode(coding: &'static str, body: &[u8], piece: usize) -> Result<Vec<u8>, ()> {
    let pieces = body.chunks(piece).map(Bytes::copy_from_slice).collect();
    let chunks = decode_body(HeaderValue::from_static(coding), pieces, MOST_BYTES).map_err(drop)?;
    for chunk in &chunks {
        assert!(!chunk.is_empty() && chunk.len() <= 128 << 10, "{}", chunk.len());
    }
    Ok(chunks.concat())
}

fn check_by_another(coding: &str, body: &[u8], found: &[u8]) {
    let mut expected = Vec::new();
    let most = found.len() as u64 + 1;
    let read = if coding == "zstd" {
        zstd::Decoder::new(body).and_then(|decoder| decoder.take(most).read_to_end(&mut expected))
    } else {
        flate2::read::MultiGzDecoder::new(body)
            .take(most)
            .read_to_end(&mut expected)
    };
    let is_cut = found.len() > MOST_BYTES;
    assert!(is_cut || body.is_empty() || read.is_ok(), "{read:?}");
    let shared = expected.len().min(found.len());
    assert_eq!(expected[..shared], found[..shared]);
    assert!(is_cut || expected.len() == found.len());
}
