//! The body of a produce request: decoded and counted as it arrives, held only within the server's budget.
//!
//! - [`Incoming`] gives the decoded bytes chunk by chunk. A chunk is at most what the connection read at once or, for a
//!   compressed body, [`CHUNK_BYTES`] and a little: so a body that unpacks to gigabytes costs no more memory than
//!   another. The decoder's own memory (a window of up to 8 MiB, if the body asks for it) counts in the budget too, and
//!   is not allocated before the body's first byte.
//! - [`Budget`] is the request's share of the server's memory for bodies; it is returned when dropped, after the
//!   append. A body that holds memory and arrives slowly gives way to requests that wait for memory ([`Pace`]).
//! - Reading a body that is already in memory never waits. So after every [`TURN_BYTES`] the reader lets other tasks
//!   run; only then can it notice that its client has gone or that the server stops.
//! - [`Incoming::drain`] reads on after a refusal: a client that writes its whole body before it reads then gets the
//!   answer, and not a connection reset.

use std::io::{self, Write as _};
use std::time::Duration;

use axum::body::Body;
use bytes::{Buf as _, Bytes};
use flate2::write::MultiGzDecoder;
use http::{HeaderMap, header};
use http_body::Body as _;
use http_body_util::BodyExt as _;
use tokio::sync::watch;
use tokio::task::yield_now;
use tokio::time::timeout;
use zstd::zstd_safe::{DCtx, DParameter, InBuffer, OutBuffer, get_error_name};

use crate::broker::budget::{Budget, Pace, Pool};
use crate::broker::refusal::Reason;
use crate::http::body::broken;
use crate::http::problem::{Code, Problem};

/// About how many bytes are decoded at once.
const CHUNK_BYTES: usize = 64 << 10;

/// After this many bytes other tasks get a turn: if every third byte becomes a record, that takes 2 ms.
const TURN_BYTES: usize = 64 << 10;
/// The most calls of a decoder before it reports whether there is output: members and frames may be empty.
const DECODER_CALLS: usize = 16;
/// The least bytes counted for one step of a decoder: beginning a gzip member takes as long as decoding some KiB.
const STEP_BYTES: usize = TURN_BYTES / 4;

/// The largest window that a zstd body may ask for, as a power of two: the 8 MiB that RFC 9659 allows in HTTP.
const ZSTD_WINDOW_LOG: u32 = 23;

/// The memory for decoding gzip: the window, the tables, and a buffer for output.
const GZIP_BYTES: usize = 96 << 10;

/// The most bytes, and the longest time, for which the rest of a refused body is read.
const DRAIN_BYTES: usize = 256 << 20;
const DRAIN_TIME: Duration = Duration::from_secs(30);

/// A request's body.
pub(crate) struct Incoming<'a> {
    pool: &'a Pool,
    body: Body,
    coding: Coding,
    /// Made when the first bytes arrive.
    decoder: Option<Decoder>,
    /// The bytes that the decoder has not decoded yet.
    input: Bytes,
    /// Covers the decoder's memory.
    room: Budget<'a>,
    pace: Pace<'a>,
    /// Bytes since other tasks had a turn.
    worked_bytes: usize,
    /// The length that the client declares, before decoding.
    content_length: Option<u64>,
    /// Whether the client waits for `100 Continue` before it sends the body.
    expects_continue: bool,
    begun: bool,
    ended: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Coding {
    Identity,
    Gzip,
    Zstd,
    /// A coding that is not supported.
    Other,
}

impl<'a> Incoming<'a> {
    pub(crate) fn new(pool: &'a Pool, headers: &HeaderMap, body: Body) -> Self {
        let length = headers.get(header::CONTENT_LENGTH);
        let content_length = length.and_then(|length| length.to_str().ok()?.parse().ok());
        Self {
            pool,
            body,
            coding: Coding::of(headers),
            decoder: None,
            input: Bytes::new(),
            room: Budget::new(pool),
            pace: Pace::new(pool),
            worked_bytes: 0,
            content_length,
            expects_continue: headers.contains_key(header::EXPECT),
            begun: false,
            ended: false,
        }
    }

    /// A budget for the memory that the reader of the body holds.
    pub(super) fn budget(&self) -> Budget<'a> {
        Budget::new(self.pool)
    }

    /// Checks the coding, before the first byte is read.
    ///
    /// # Errors
    /// 415 for a coding other than gzip and zstd.
    pub(crate) fn check_coding(&self) -> Result<(), Problem> {
        if self.coding != Coding::Other {
            return Ok(());
        }
        let detail = "the body's content-encoding is not supported; gzip and zstd are, one at a time";
        Err(Problem::new(Code::UnsupportedMediaType, detail))
    }

    /// The next decoded bytes, not empty; `None` at the end. `budget` is the share that the request already holds.
    ///
    /// # Errors
    /// 400 for a body that is damaged or cut off; 408 if the client stopped sending; 503 if the server has no room for
    /// a decoder, or if others wait for memory that a slow client's request holds.
    pub(crate) async fn next(&mut self, budget: &Budget<'_>) -> Result<Option<Bytes>, Problem> {
        loop {
            if self.worked_bytes >= TURN_BYTES {
                self.worked_bytes = 0;
                yield_now().await;
            }
            if let Some(decoder) = &mut self.decoder {
                let decoded = decoder
                    .step(&mut self.input)
                    .map_err(|error| decoder.corrupt(&error))?;
                // Zstd allocates its window after a frame's header, and fills it only while it decodes.
                let held = decoder.held_bytes();
                self.room.cover_beside(budget.covered() + held, held).await?;
                if let Some(decoded) = decoded {
                    self.worked_bytes += decoded.len().max(STEP_BYTES);
                    if decoded.is_empty() {
                        continue;
                    }
                    return Ok(Some(decoded));
                }
            }
            let frame = self.frame(budget.covered()).await?;
            self.worked_bytes += frame.as_ref().map_or(0, Bytes::len);
            if matches!(self.coding, Coding::Identity | Coding::Other) {
                return Ok(frame);
            }
            let decoder = match &mut self.decoder {
                Some(decoder) => decoder,
                None => {
                    let decoder = self.decoder.insert(Decoder::new(self.coding)?);
                    self.room
                        .cover_beside(budget.covered(), decoder.held_bytes())
                        .await?;
                    decoder
                }
            };
            match frame {
                Some(frame) => self.input = frame,
                None => return decoder.finish().map_err(|error| decoder.corrupt(&error)),
            }
        }
    }

    /// The decoder's share of the server's budget, in bytes.
    pub(crate) fn covered(&self) -> usize {
        self.room.covered()
    }

    /// The whole decoded body, at most `max_bytes`, covered by `budget`. A body in one piece is not copied.
    ///
    /// # Errors
    /// 413 `request-too-large`, at once if the declared length is too large; those of [`Incoming::next`] and of
    /// [`Budget::cover`].
    pub(super) async fn whole(
        &mut self,
        budget: &mut Budget<'_>,
        max_bytes: usize,
    ) -> Result<Bytes, Problem> {
        let too_large = || {
            let limit = format!("a request of this type has at most {max_bytes} bytes, decoded");
            let detail = limit + "; send application/x-ndjson, or split it";
            Problem::new(Reason::RequestTooLarge, detail)
        };
        let length = usize::try_from(self.content_length.unwrap_or(0)).unwrap_or(usize::MAX);
        if length > max_bytes {
            return Err(too_large());
        }
        let Some(first) = self.next(budget).await? else {
            return Ok(Bytes::new());
        };
        if first.len() > max_bytes {
            return Err(too_large());
        }
        if self.ended || (self.coding == Coding::Identity && self.body.is_end_stream()) {
            self.ended = true;
            budget
                .cover_arriving(self.room.covered(), first.len(), length)
                .await?;
            return Ok(first);
        }
        let mut whole: Vec<u8> = Vec::new();
        let mut next = Some(first);
        while let Some(chunk) = next {
            if whole.len() + chunk.len() > max_bytes {
                return Err(too_large());
            }
            let bytes = whole.len() + chunk.len();
            budget.cover_arriving(self.room.covered(), bytes, length).await?;
            // What is covered is allocated at once, so that it is not copied again and again.
            if length <= budget.covered() {
                whole.reserve_exact(length.saturating_sub(whole.len()));
            }
            whole.extend_from_slice(&chunk);
            next = self.next(budget).await?;
        }
        Ok(whole.into())
    }

    /// Reads the rest of the body in the background, within bounds, so that the client can read the answer.
    pub(super) fn drain(self, mut stopping: watch::Receiver<bool>) {
        // This returns the decoder's memory.
        let Self {
            mut body,
            expects_continue,
            begun,
            ended,
            ..
        } = self;
        // A client that waits for `100 Continue` takes the answer as a no; reading the body would send it a yes.
        if ended || body.is_end_stream() || (expects_continue && !begun) {
            return;
        }
        tokio::spawn(async move {
            let read_on = async {
                let mut bytes = 0;
                while bytes < DRAIN_BYTES {
                    match body.frame().await {
                        Some(Ok(frame)) => bytes += frame.data_ref().map_or(0, Bytes::len),
                        Some(Err(_)) | None => break,
                    }
                }
            };
            tokio::select! {
                _ = timeout(DRAIN_TIME, read_on) => {}
                _ = stopping.wait_for(|stopping| *stopping) => {}
            }
        });
    }

    /// The next bytes as they were sent, for a request that holds `held_bytes`.
    async fn frame(&mut self, held_bytes: usize) -> Result<Option<Bytes>, Problem> {
        self.begun = true;
        let held_bytes = held_bytes + self.room.covered();
        loop {
            match self.pace.wait(held_bytes, self.body.frame()).await? {
                None => {
                    self.ended = true;
                    return Ok(None);
                }
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data()
                        && !data.is_empty()
                    {
                        self.pace.count_of(held_bytes, data.len());
                        return Ok(Some(data));
                    }
                }
                Some(Err(error)) => {
                    self.ended = true;
                    return Err(broken(&error));
                }
            }
        }
    }
}

impl Coding {
    fn of(headers: &HeaderMap) -> Self {
        let mut all = headers.get_all(header::CONTENT_ENCODING).iter();
        match (all.next().map(|coding| coding.as_bytes()), all.next()) {
            (None, _) => Self::Identity,
            (Some(coding), None) if coding.eq_ignore_ascii_case(b"identity") => Self::Identity,
            (Some(coding), None)
                if coding.eq_ignore_ascii_case(b"gzip") || coding.eq_ignore_ascii_case(b"x-gzip") =>
            {
                Self::Gzip
            }
            (Some(coding), None) if coding.eq_ignore_ascii_case(b"zstd") => Self::Zstd,
            _ => Self::Other,
        }
    }
}

enum Decoder {
    /// One member after another, as in the output of `cat a.gz b.gz`.
    Gzip(Box<MultiGzDecoder<Vec<u8>>>),
    Zstd(Box<Zstd>),
}

impl Decoder {
    fn new(coding: Coding) -> Result<Self, Problem> {
        if coding == Coding::Gzip {
            return Ok(Self::Gzip(Box::new(MultiGzDecoder::new(Vec::new()))));
        }
        let zstd = Zstd::new().map_err(|error| Problem::new(Reason::Internal, error.to_string()))?;
        Ok(Self::Zstd(Box::new(zstd)))
    }

    fn held_bytes(&self) -> usize {
        match self {
            Self::Gzip(_) => GZIP_BYTES,
            Self::Zstd(zstd) => zstd.decoder.sizeof(),
        }
    }

    #[cold]
    fn corrupt(&self, error: &io::Error) -> Problem {
        let coding = if matches!(self, Self::Gzip(_)) {
            "gzip"
        } else {
            "zstd"
        };
        Problem::invalid("", format!("the body cannot be decoded as {coding}: {error}"))
    }

    /// Decodes up to a chunk of the input; the result may be empty. `None`: it needs more input.
    fn step(&mut self, input: &mut Bytes) -> io::Result<Option<Bytes>> {
        let decoder = match self {
            Self::Zstd(zstd) => return zstd.step(input),
            Self::Gzip(_) if input.is_empty() => return Ok(None),
            Self::Gzip(decoder) => decoder,
        };
        for _ in 0..DECODER_CALLS {
            if input.is_empty() || decoder.get_ref().len() >= CHUNK_BYTES {
                break;
            }
            let before = decoder.get_ref().len();
            // One write produces at most a buffer of 32 KiB, even if the input unpacks to more.
            let taken = decoder.write(input)?;
            if taken == 0 && decoder.get_ref().len() == before {
                return Err(io::Error::other("something follows the data"));
            }
            input.advance(taken);
        }
        Ok(Some(std::mem::take(decoder.get_mut()).into()))
    }

    /// The remaining output, at the end of the body.
    fn finish(&mut self) -> io::Result<Option<Bytes>> {
        match self {
            Self::Zstd(zstd) if zstd.whole => Ok(None),
            Self::Zstd(_) => Err(io::Error::other("the data is cut off")),
            Self::Gzip(decoder) => {
                decoder.try_finish()?;
                let rest = std::mem::take(decoder.get_mut());
                Ok((!rest.is_empty()).then(|| rest.into()))
            }
        }
    }
}

/// Decodes zstd: frames one after another.
struct Zstd {
    decoder: DCtx<'static>,
    /// Whether the input so far ends with a frame.
    whole: bool,
    /// Whether the decoder may hold output for which there was no room.
    full: bool,
}

impl Zstd {
    fn new() -> io::Result<Self> {
        let mut decoder = DCtx::try_create().ok_or(io::ErrorKind::OutOfMemory)?;
        let window = DParameter::WindowLogMax(ZSTD_WINDOW_LOG);
        decoder.set_parameter(window).map_err(failed)?;
        let (whole, full) = (false, false);
        Ok(Self { decoder, whole, full })
    }

    /// As [`Decoder::step`].
    fn step(&mut self, input: &mut Bytes) -> io::Result<Option<Bytes>> {
        if input.is_empty() && !self.full {
            return Ok(None);
        }
        let mut out = vec![0; CHUNK_BYTES];
        let mut written = 0;
        for _ in 0..DECODER_CALLS {
            let mut from = InBuffer::around(&input[..]);
            let mut into = OutBuffer::around(&mut out[..]);
            let hint = self.decoder.decompress_stream(&mut into, &mut from);
            let (hint, taken) = (hint.map_err(failed)?, from.pos());
            written = into.pos();
            input.advance(taken);
            self.whole = hint == 0;
            self.full = written == CHUNK_BYTES && hint != 0;
            if written > 0 || input.is_empty() {
                break;
            }
        }
        out.truncate(written);
        Ok(Some(out.into()))
    }
}

/// An error of zstd, by its name.
#[cold]
fn failed(code: usize) -> io::Error {
    io::Error::other(get_error_name(code))
}

#[cfg(test)]
mod tests {
    use std::sync::LazyLock;

    use futures_util::stream;
    use http::HeaderValue;

    use super::*;

    /// More than any test needs.
    static POOL: LazyLock<Pool> = LazyLock::new(|| Pool::new(1 << 30));

    fn incoming(coding: &'static str, chunks: Vec<Bytes>) -> Incoming<'static> {
        incoming_within(&POOL, coding, chunks)
    }

    fn incoming_within<'a>(pool: &'a Pool, coding: &'static str, chunks: Vec<Bytes>) -> Incoming<'a> {
        let value = HeaderValue::from_static(coding);
        let coding = (!coding.is_empty()).then_some((header::CONTENT_ENCODING, value));
        let headers = HeaderMap::from_iter(coding);
        let chunks = chunks.into_iter().map(Ok::<_, io::Error>);
        Incoming::new(pool, &headers, Body::from_stream(stream::iter(chunks)))
    }

    fn pieces(bytes: &[u8], size: usize) -> Vec<Bytes> {
        bytes.chunks(size).map(Bytes::copy_from_slice).collect()
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn zstd(bytes: &[u8]) -> Vec<u8> {
        zstd::encode_all(bytes, 3).unwrap()
    }

    /// Zstd that needs its full window, because the size of the content is not known.
    fn windowed(log: u32, bytes: &[u8]) -> Vec<u8> {
        let mut encoder = zstd::Encoder::new(Vec::new(), 1).unwrap();
        encoder.window_log(log).unwrap();
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    async fn whole(mut incoming: Incoming<'_>, max_bytes: usize) -> Result<Bytes, Problem> {
        incoming.whole(&mut Budget::new(&POOL), max_bytes).await
    }

    /// The decoded body of `bytes` in pieces of `size`.
    async fn decoded(coding: &'static str, bytes: &[u8], size: usize, max: usize) -> Result<Bytes, Code> {
        let decoded = whole(incoming(coding, pieces(bytes, size)), max).await;
        decoded.map_err(|problem| problem.code())
    }

    const INVALID: Code = Code::Refused(Reason::InvalidRequest);
    const TOO_LARGE: Code = Code::Refused(Reason::RequestTooLarge);

    /// Bytes that can be compressed, but not to almost nothing.
    fn text() -> Vec<u8> {
        let numbers = (0..40_000_u32).map(|number| number.wrapping_mul(2_654_435_761) >> 20);
        numbers
            .flat_map(|number| number.to_string().into_bytes())
            .collect()
    }

    #[tokio::test]
    async fn compressed_bodies_decode_however_they_are_cut() {
        let text = text();
        for size in [1, 7, 1000, 1 << 20] {
            for (coding, bytes) in [
                ("gzip", gzip(&text)),
                ("zstd", zstd(&text)),
                ("x-gzip", gzip(&text)),
                ("identity", text.clone()),
            ] {
                let decoded = decoded(coding, &bytes, size, text.len()).await.unwrap();
                assert!(decoded == text, "{coding} in pieces of {size}");
            }
        }
    }

    #[tokio::test]
    async fn members_and_frames_may_follow_one_another() {
        for (coding, encode) in [("gzip", gzip as fn(&[u8]) -> Vec<u8>), ("zstd", zstd)] {
            let bytes = [encode(b"one "), encode(b""), encode(b"two")].concat();
            assert_eq!(decoded(coding, &bytes, 5, 100).await.unwrap(), "one two");
        }
    }

    #[tokio::test]
    async fn a_cut_anywhere_in_compressed_data_is_found() {
        let text = b"the quick brown fox jumps over the lazy dog, the quick brown fox";
        for (coding, bytes) in [("gzip", gzip(text)), ("zstd", zstd(text))] {
            for cut in 0..bytes.len() {
                let decoded = decoded(coding, &bytes[..cut], 9, 1000).await;
                assert_eq!(decoded, Err(INVALID), "{coding} cut at {cut}");
            }
        }
    }

    #[tokio::test]
    async fn damaged_data_and_what_follows_it_is_refused() {
        let text = text();
        let mut damaged = gzip(&text);
        let middle = damaged.len() / 2;
        damaged[middle] ^= 0x55;
        assert!(decoded("gzip", &damaged, 4096, text.len() * 2).await.is_err());
        for (coding, mut bytes) in [("gzip", gzip(b"a")), ("zstd", zstd(b"a"))] {
            bytes.extend_from_slice(b"garbage that is neither");
            assert!(decoded(coding, &bytes, 4096, 1000).await.is_err(), "{coding}");
            let plain = b"not compressed at all";
            assert!(decoded(coding, plain, 4, 1000).await.is_err(), "{coding}");
        }
    }

    #[tokio::test]
    async fn a_bomb_is_unpacked_in_chunks_and_refused_at_the_limit() {
        let zeros = vec![0; 64 << 20];
        for (coding, bytes) in [("gzip", gzip(&zeros)), ("zstd", zstd(&zeros))] {
            let mut body = incoming(coding, pieces(&bytes, bytes.len()));
            let mut total = 0;
            while let Some(chunk) = body.next(&Budget::new(&POOL)).await.unwrap() {
                assert!(chunk.len() <= 2 * CHUNK_BYTES, "{coding}: {}", chunk.len());
                total += chunk.len();
            }
            assert_eq!(total, zeros.len(), "{coding}");
            let decoded = decoded(coding, &bytes, bytes.len(), 1 << 20).await;
            assert_eq!(decoded, Err(TOO_LARGE), "{coding}");
        }
    }

    #[tokio::test]
    async fn a_window_above_what_http_allows_is_refused() {
        let bytes = windowed(27, &[1; 4096]);
        assert_eq!(decoded("zstd", &bytes, 4096, 1 << 20).await, Err(INVALID));
    }

    #[tokio::test]
    async fn other_codings_and_several_at_once_are_not_supported() {
        for codings in [
            &["br"][..],
            &["deflate"],
            &["gzip, zstd"],
            &["gzip,gzip"],
            &[""],
            &["gzip", "zstd"],
        ] {
            let value = |coding: &&'static str| (header::CONTENT_ENCODING, HeaderValue::from_static(coding));
            let headers = HeaderMap::from_iter(codings.iter().map(value));
            let body = Incoming::new(&POOL, &headers, Body::empty());
            let code = body.check_coding().map_err(|problem| problem.code());
            assert_eq!(code, Err(Code::UnsupportedMediaType), "{codings:?}");
        }
    }

    #[tokio::test]
    async fn the_limit_counts_decoded_bytes_and_is_exact() {
        for coding in ["", "gzip", "zstd"] {
            for (length, expected) in [(100, Ok(100)), (101, Err(TOO_LARGE))] {
                let text = vec![b'a'; length];
                let bytes = match coding {
                    "gzip" => gzip(&text),
                    "zstd" => zstd(&text),
                    _ => text,
                };
                let decoded = decoded(coding, &bytes, 33, 100).await;
                assert_eq!(decoded.map(|bytes| bytes.len()), expected, "{coding}");
            }
        }
    }

    #[tokio::test]
    async fn a_declared_length_above_the_limit_is_refused_unread() {
        let headers = HeaderMap::from_iter([(header::CONTENT_LENGTH, HeaderValue::from_static("101"))]);
        let never = Body::from_stream(stream::pending::<Result<Bytes, io::Error>>());
        let problem = whole(Incoming::new(&POOL, &headers, never), 100).await;
        assert_eq!(problem.unwrap_err().code(), TOO_LARGE);
    }

    #[tokio::test]
    async fn the_memory_of_decoders_is_part_of_the_budget_and_is_returned() {
        let text = vec![b'a'; 64 << 10];
        for (coding, bytes, least, most) in [
            ("identity", text.clone(), 0, 0),
            ("gzip", gzip(&text), 64 << 10, 128 << 10),
            ("zstd", zstd::bulk::compress(&text, 1).unwrap(), 64 << 10, 1 << 20),
            ("zstd", windowed(ZSTD_WINDOW_LOG, &text), 8 << 20, 9 << 20),
        ] {
            let pool = Pool::new(64 << 20);
            let mut body = incoming_within(&pool, coding, pieces(&bytes, 1 << 20));
            assert_eq!(pool.held_bytes(), 0, "nothing is taken before the first byte");
            body.next(&Budget::new(&POOL)).await.unwrap().unwrap();
            let held = pool.held_bytes();
            assert!((least..=most).contains(&held), "{coding}: {held}");
            drop(body);
            assert_eq!(pool.held_bytes(), 0, "{coding}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_window_that_finds_no_room_is_refused() {
        let bytes = windowed(ZSTD_WINDOW_LOG, &[1; 64 << 10]);
        let pool = Pool::new(10 << 20);
        let mut first = incoming_within(&pool, "zstd", pieces(&bytes, 1 << 20));
        first.next(&Budget::new(&POOL)).await.unwrap().unwrap();
        let mut second = incoming_within(&pool, "zstd", pieces(&bytes, 1 << 20));
        let problem = second.next(&Budget::new(&POOL)).await.unwrap_err();
        assert_eq!(problem.code(), Code::Refused(Reason::Overloaded));
    }
}
