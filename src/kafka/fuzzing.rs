//! Gives fuzz targets access to the private decoders. Not part of the API.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, ReadBuf};

use super::frames::{Allowed, End, Frames};
use super::header::RequestHeader;
use super::messages::every;
use super::wire::Reader;
use crate::broker::budget::Pool;

/// A message that was read and written again: its bytes, how many were left after it, the memory of its arrays, and how
/// much that could have been.
pub type Rewritten = (Vec<u8>, usize, usize, usize);

/// Reads bytes as a request or an answer of an API, and writes it again. `None`: there is no such message, or the bytes
/// are not one.
#[must_use]
pub fn rewrite(key: i16, version: i16, is_answer: bool, bytes: Bytes) -> Option<Rewritten> {
    let allowance = Reader::new(bytes.clone().into()).allowance();
    let rewritten = every::rewrite(key, version, is_answer, bytes)?.ok()?;
    Some((rewritten.bytes, rewritten.left, rewritten.charged, allowance))
}

/// Whether bytes begin with the header of a request.
#[must_use]
pub fn has_header(bytes: Bytes) -> bool {
    RequestHeader::read(&mut Reader::new(bytes.into())).is_ok()
}

/// The frames of a stream of bytes.
#[derive(Debug)]
pub struct Cut {
    /// Those that were whole.
    pub frames: Vec<BytesMut>,
    /// Whether a length came behind them that is none.
    pub has_wrong_length: bool,
    /// For each read, how many bytes had arrived, and for how many there was room.
    pub rooms: Vec<(usize, usize)>,
    /// The shared memory that is held at the end, when the frames' shares are given back.
    pub held_bytes: u64,
}

/// Cuts a stream that arrives in pieces of so many bytes into frames of at most `most_bytes`.
pub async fn cut(stream: &[u8], piece: usize, most_bytes: usize) -> Cut {
    let pool = Pool::new(64 << 20);
    let allowed = Allowed {
        most_bytes,
        idle: Duration::MAX,
        pause: Duration::MAX,
    };
    let mut arriving = Arriving {
        stream,
        arrived: 0,
        piece,
        rooms: Vec::new(),
    };
    let (mut found, mut frames) = (Vec::new(), Frames::new(&mut arriving));
    let end = loop {
        match frames.next(&pool, allowed).await {
            Ok(frame) => found.push(frame.bytes),
            Err(end) => break end,
        }
    };
    Cut {
        frames: found,
        has_wrong_length: matches!(end, End::Length(_)),
        rooms: arriving.rooms,
        held_bytes: pool.held_bytes(),
    }
}

/// Bytes that arrive piece by piece.
struct Arriving<'a> {
    stream: &'a [u8],
    arrived: usize,
    piece: usize,
    rooms: Vec<(usize, usize)>,
}

impl AsyncRead for Arriving<'_> {
    fn poll_read(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let arriving = self.get_mut();
        arriving.rooms.push((arriving.arrived, buffer.remaining()));
        let left = &arriving.stream[arriving.arrived..];
        let piece = &left[..left.len().min(arriving.piece).min(buffer.remaining())];
        buffer.put_slice(piece);
        arriving.arrived += piece.len();
        Poll::Ready(Ok(()))
    }
}
