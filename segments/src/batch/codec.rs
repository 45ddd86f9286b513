//! The four compressions of a batch's records.
//!
//! | bits | codec | the bytes |
//! |---:|---|---|
//! | 1 | gzip | one member or several |
//! | 2 | snappy | blocks in the framing of snappy-java (table below), or one block without it |
//! | 3 | lz4 | one frame |
//! | 4 | zstd | one frame or several, with or without their content size |
//!
//! The framing of snappy-java, big-endian:
//!
//! | bytes | field |
//! |---:|---|
//! | 8 | magic: 0x82, `SNAPPY`, 0 |
//! | 4, 4 | version, and the lowest version that can read it; not looked at |
//! | each block: 4, n | its length, the block |
//!
//! Decoders allocate what they have inflated, up to a limit, and never what the bytes name: a length is trusted only as
//! far as as many compressed bytes can reach.

use std::io::Read;

use super::BatchError;

/// How the records of a batch are compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Codec {
    /// RFC 1952.
    Gzip,
    /// Snappy blocks.
    Snappy,
    /// The LZ4 frame format.
    Lz4,
    /// RFC 8878.
    Zstd,
}

const XERIAL_MAGIC: &[u8; 8] = b"\x82SNAPPY\0";
const XERIAL_HEADER_BYTES: usize = 16;
/// The bytes of a block before it is compressed, as snappy-java has it.
const XERIAL_BLOCK_BYTES: usize = 32 << 10;
/// No snappy block inflates to more than this times its size: a copy of 64 bytes takes three.
const SNAPPY_MOST: usize = 22;
/// Room for the output at first, for each compressed byte: records seldom shrink to less than an eighth.
const USUAL_RATIO: usize = 8;
/// What the room grows by if that was not enough.
const GROWTH: usize = 4;
/// The bit in the third-but-one byte of an lz4 frame that says that a checksum follows the end mark.
const LZ4_CHECKSUM: u8 = 1 << 2;

impl Codec {
    /// All of them, in the order of their bits.
    pub const ALL: [Self; 4] = [Self::Gzip, Self::Snappy, Self::Lz4, Self::Zstd];

    /// Kafka's name of it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Gzip => "gzip",
            Self::Snappy => "snappy",
            Self::Lz4 => "lz4",
            Self::Zstd => "zstd",
        }
    }

    /// The codec that the bits of the attributes stand for.
    #[must_use]
    pub fn of(bits: i16) -> Option<Self> {
        Self::ALL.into_iter().find(|codec| codec.bits() == bits)
    }

    pub(super) fn bits(self) -> i16 {
        match self {
            Self::Gzip => 1,
            Self::Snappy => 2,
            Self::Lz4 => 3,
            Self::Zstd => 4,
        }
    }

    /// Inflates `bytes` to at most `limit` bytes, behind `front` bytes of room in the result.
    ///
    /// Memory: what is inflated, at most twice (a buffer that grows), and the decoder's own (up to 13 MiB for lz4).
    ///
    /// # Errors
    /// [`BatchError::NotCompressed`], [`BatchError::InflatesTooLarge`].
    pub(super) fn inflate(self, bytes: &[u8], front: usize, limit: usize) -> Result<Vec<u8>, BatchError> {
        let wrong = || BatchError::NotCompressed(self);
        if bytes.is_empty() {
            return Err(wrong());
        }
        match self {
            Self::Gzip => {
                let mut out = room(bytes, front, limit);
                read_to(flate2::bufread::MultiGzDecoder::new(bytes), &mut out, limit).map_err(|_| wrong())?;
                within(out, front, limit)
            }
            Self::Lz4 => {
                let mut out = room(bytes, front, limit);
                let mut decoder = lz4_flex::frame::FrameDecoder::new(bytes);
                read_to(&mut decoder, &mut out, limit).map_err(|_| wrong())?;
                let out = within(out, front, limit)?;
                // The decoder takes a frame that was cut between two blocks, and begins another one behind the first.
                let is_whole = decoder.into_inner().is_empty() && ends_as_lz4(bytes);
                is_whole.then_some(out).ok_or_else(wrong)
            }
            Self::Snappy => inflate_snappy(bytes, front, limit),
            Self::Zstd => inflate_zstd(bytes, front, limit),
        }
    }

    /// Compresses `bytes`, behind `front` bytes of room in the result; as Kafka's broker does it by default.
    pub(super) fn deflate(self, bytes: &[u8], front: usize) -> Vec<u8> {
        use std::io::Write;

        let mut out = vec![0; front];
        match self {
            Self::Gzip => {
                let mut encoder = flate2::write::GzEncoder::new(out, flate2::Compression::default());
                encoder.write_all(bytes).expect("a vector takes all");
                encoder.finish().expect("a vector takes all")
            }
            Self::Snappy => {
                out.extend_from_slice(XERIAL_MAGIC);
                out.extend_from_slice(&1_i32.to_be_bytes());
                out.extend_from_slice(&1_i32.to_be_bytes());
                let mut encoder = snap::raw::Encoder::new();
                for block in bytes.chunks(XERIAL_BLOCK_BYTES) {
                    let block = encoder.compress_vec(block).expect("a block is small");
                    out.extend_from_slice(&(block.len() as u32).to_be_bytes());
                    out.extend_from_slice(&block);
                }
                out
            }
            Self::Lz4 => {
                let info = lz4_flex::frame::FrameInfo::new()
                    .block_size(lz4_flex::frame::BlockSize::Max64KB)
                    .block_mode(lz4_flex::frame::BlockMode::Independent);
                let mut encoder = lz4_flex::frame::FrameEncoder::with_frame_info(info, out);
                encoder.write_all(bytes).expect("a vector takes all");
                encoder.finish().expect("a vector takes all")
            }
            Self::Zstd => {
                let packed = zstd::bulk::compress(bytes, zstd::DEFAULT_COMPRESSION_LEVEL);
                out.extend_from_slice(&packed.expect("there is room for what does not compress, too"));
                out
            }
        }
    }
}

impl std::fmt::Display for Codec {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(self.name())
    }
}

/// An output with `front` bytes, and with capacity for what usually follows.
fn room(bytes: &[u8], front: usize, limit: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(front + first_capacity(bytes, limit));
    out.resize(front, 0);
    out
}

fn first_capacity(bytes: &[u8], limit: usize) -> usize {
    bytes.len().saturating_mul(USUAL_RATIO).min(limit)
}

/// Reads to the end, or to the first byte beyond the limit.
fn read_to(reader: impl Read, out: &mut Vec<u8>, limit: usize) -> std::io::Result<()> {
    reader.take(limit as u64 + 1).read_to_end(out).map(drop)
}

fn within(out: Vec<u8>, front: usize, limit: usize) -> Result<Vec<u8>, BatchError> {
    if out.len() - front > limit {
        return Err(BatchError::InflatesTooLarge { limit });
    }
    Ok(out)
}

/// Whether the end of an lz4 frame is its end mark.
fn ends_as_lz4(frame: &[u8]) -> bool {
    let has_checksum = frame.get(4).is_some_and(|flags| flags & LZ4_CHECKSUM != 0);
    let end = frame.len() - if has_checksum { 4 } else { 0 };
    frame[..end].ends_with(&[0; 4])
}

fn inflate_snappy(bytes: &[u8], front: usize, limit: usize) -> Result<Vec<u8>, BatchError> {
    let wrong = BatchError::NotCompressed(Codec::Snappy);
    if !bytes.starts_with(XERIAL_MAGIC) {
        let mut out = vec![0; front];
        add_block(bytes, &mut out, front, limit)?;
        return Ok(out);
    }
    let mut out = room(bytes, front, limit);
    let mut rest = bytes;
    while !rest.is_empty() {
        // Streams may be joined: then the header comes again.
        if rest.starts_with(XERIAL_MAGIC) {
            rest = rest.get(XERIAL_HEADER_BYTES..).ok_or(wrong.clone())?;
            continue;
        }
        let (len, behind) = rest.split_first_chunk::<4>().ok_or(wrong.clone())?;
        let (block, behind) = behind
            .split_at_checked(u32::from_be_bytes(*len) as usize)
            .ok_or(wrong.clone())?;
        add_block(block, &mut out, front, limit)?;
        rest = behind;
    }
    Ok(out)
}

/// Inflates one snappy block behind what is there.
fn add_block(block: &[u8], out: &mut Vec<u8>, front: usize, limit: usize) -> Result<(), BatchError> {
    let wrong = |_| BatchError::NotCompressed(Codec::Snappy);
    let named = snap::raw::decompress_len(block).map_err(wrong)?;
    if named > block.len().saturating_mul(SNAPPY_MOST) {
        return Err(BatchError::NotCompressed(Codec::Snappy));
    }
    let begin = out.len();
    if begin - front + named > limit {
        return Err(BatchError::InflatesTooLarge { limit });
    }
    out.resize(begin + named, 0);
    let written = snap::raw::Decoder::new().decompress(block, &mut out[begin..]);
    written.map(drop).map_err(wrong)
}

/// In one step into a buffer: a decoder of streams would allocate the window that the frame names. A frame that does
/// not fit is begun again with more room, which costs at most a third of the time that the last step takes.
fn inflate_zstd(bytes: &[u8], front: usize, limit: usize) -> Result<Vec<u8>, BatchError> {
    let is_too_small = |code: usize| {
        let too_small = zstd::zstd_safe::zstd_sys::ZSTD_ErrorCode::ZSTD_error_dstSize_tooSmall;
        code == (too_small as usize).wrapping_neg()
    };
    let mut capacity = first_capacity(bytes, limit);
    loop {
        let mut out = vec![0; front + capacity];
        match zstd::zstd_safe::decompress(&mut out[front..], bytes) {
            Ok(written) => {
                out.truncate(front + written);
                return Ok(out);
            }
            Err(code) if !is_too_small(code) => return Err(BatchError::NotCompressed(Codec::Zstd)),
            Err(_) if capacity == limit => return Err(BatchError::InflatesTooLarge { limit }),
            Err(_) => {
                capacity = capacity
                    .saturating_mul(GROWTH)
                    .clamp(64, limit.max(64))
                    .min(limit)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use proptest::prelude::*;

    use super::*;

    const LIMIT: usize = 1 << 20;

    fn inflated(codec: Codec, bytes: &[u8]) -> Result<Vec<u8>, BatchError> {
        codec.inflate(bytes, 0, LIMIT)
    }

    fn text(bytes: usize) -> Vec<u8> {
        (0..bytes)
            .map(|at| b"departed, delayed, landed; "[at % 27] ^ (at / 999) as u8)
            .collect()
    }

    #[test]
    fn what_is_compressed_comes_back_behind_the_room_in_front() {
        for codec in Codec::ALL {
            for size in [0, 1, 27, 32 << 10, (32 << 10) + 1, 200_000] {
                let text = text(size);
                let packed = codec.deflate(&text, 3);
                assert_eq!(&packed[..3], [0; 3]);
                let out = codec.inflate(&packed[3..], 5, LIMIT).unwrap();
                assert_eq!(out[5..], text, "{codec}, {size} bytes");
                assert!(codec.inflate(&packed[3..], 0, size).is_ok(), "exactly the limit");
                if size > 0 {
                    let limit = size - 1;
                    let refused = codec.inflate(&packed[3..], 0, limit);
                    assert_eq!(refused, Err(BatchError::InflatesTooLarge { limit }), "{codec}");
                }
            }
        }
    }

    #[test]
    fn bits_and_codecs_are_those_of_the_protocol() {
        let found: Vec<_> = (0..8).map(|bits| Codec::of(bits).map(Codec::name)).collect();
        let named = [Some("gzip"), Some("snappy"), Some("lz4"), Some("zstd")];
        assert_eq!(found, [&[None], &named[..], &[None; 3]].concat());
    }

    #[test]
    fn data_cut_anywhere_or_with_bytes_behind_it_is_not_whole() {
        let text = text(70_000);
        for codec in Codec::ALL {
            let packed = codec.deflate(&text, 0);
            for end in (0..packed.len()).step_by(97).chain([packed.len() - 1]) {
                let found = inflated(codec, &packed[..end]);
                // A stream of snappy-java has no end mark: between two blocks it looks whole.
                let is_known_cut =
                    codec == Codec::Snappy && found.as_ref().is_ok_and(|out| out.len() < text.len());
                assert!(found.is_err() || is_known_cut, "{codec} cut at {end}");
            }
            let longer = [&packed[..], b"x"].concat();
            assert_eq!(
                inflated(codec, &longer),
                Err(BatchError::NotCompressed(codec)),
                "{codec}"
            );
        }
    }

    #[test]
    fn lz4_frames_without_their_end_mark_are_not_whole() {
        for checksum in [false, true] {
            let info = lz4_flex::frame::FrameInfo::new().content_checksum(checksum);
            let mut encoder = lz4_flex::frame::FrameEncoder::with_frame_info(info, Vec::new());
            encoder.write_all(&text(1000)).unwrap();
            let packed = encoder.finish().unwrap();
            assert_eq!(inflated(Codec::Lz4, &packed).unwrap(), text(1000));
            let end = packed.len() - if checksum { 8 } else { 4 };
            let found = inflated(Codec::Lz4, &packed[..end]);
            assert_eq!(found, Err(BatchError::NotCompressed(Codec::Lz4)));
        }
    }

    #[test]
    fn other_forms_of_the_formats_are_read() {
        let text = text(100_000);
        let (first, second) = text.split_at(40_000);
        let joined = |codec: Codec| [codec.deflate(first, 0), codec.deflate(second, 0)].concat();
        assert_eq!(
            inflated(Codec::Gzip, &joined(Codec::Gzip)).unwrap(),
            text,
            "two members"
        );
        assert_eq!(
            inflated(Codec::Zstd, &joined(Codec::Zstd)).unwrap(),
            text,
            "two frames"
        );
        assert_eq!(
            inflated(Codec::Snappy, &joined(Codec::Snappy)).unwrap(),
            text,
            "two streams"
        );

        let raw = snap::raw::Encoder::new().compress_vec(&text).unwrap();
        assert_eq!(
            inflated(Codec::Snappy, &raw).unwrap(),
            text,
            "a block without framing"
        );

        let mut encoder = zstd::Encoder::new(Vec::new(), 1).unwrap();
        encoder.write_all(&text).unwrap();
        let unsized_frame = encoder.finish().unwrap();
        let named = zstd::zstd_safe::get_frame_content_size(&unsized_frame).unwrap();
        assert_eq!(named, None, "the frame does not name its size");
        assert_eq!(inflated(Codec::Zstd, &unsized_frame).unwrap(), text);

        let info = lz4_flex::frame::FrameInfo::new()
            .block_mode(lz4_flex::frame::BlockMode::Linked)
            .block_checksums(true)
            .content_size(Some(text.len() as u64));
        let mut encoder = lz4_flex::frame::FrameEncoder::with_frame_info(info, Vec::new());
        encoder.write_all(&text).unwrap();
        assert_eq!(
            inflated(Codec::Lz4, &encoder.finish().unwrap()).unwrap(),
            text,
            "linked blocks"
        );
    }

    #[test]
    fn bombs_are_refused_at_the_limit() {
        let zeros = vec![0; 64 << 20];
        for codec in Codec::ALL {
            let bomb = codec.deflate(&zeros, 0);
            let found = codec.inflate(&bomb, 0, LIMIT);
            assert_eq!(
                found,
                Err(BatchError::InflatesTooLarge { limit: LIMIT }),
                "{codec}"
            );
        }
        // Lengths that nothing stands behind.
        let named = [&b"\xff\xff\xff\xff\x0f"[..], &[0; 20]].concat();
        assert_eq!(
            inflated(Codec::Snappy, &named),
            Err(BatchError::NotCompressed(Codec::Snappy))
        );
        let block = [
            &XERIAL_MAGIC[..],
            &[0, 0, 0, 1, 0, 0, 0, 1, 0x7f, 0xff, 0xff, 0xff, 0],
        ]
        .concat();
        assert_eq!(
            inflated(Codec::Snappy, &block),
            Err(BatchError::NotCompressed(Codec::Snappy))
        );
    }

    proptest! {
        #[test]
        fn random_and_damaged_bytes_never_panic_or_pass_the_limit(
            mut bytes in prop::collection::vec(any::<u8>(), 0..200),
            at in any::<prop::sample::Index>(),
            codec in prop::sample::select(&Codec::ALL[..]),
            is_damaged in any::<bool>(),
        ) {
            if is_damaged {
                let flip = bytes.first().copied().unwrap_or(1) | 1;
                bytes = codec.deflate(&bytes, 0);
                let at = at.index(bytes.len());
                bytes[at] ^= flip;
            }
            if let Ok(out) = codec.inflate(&bytes, 0, 5000) {
                prop_assert!(out.len() <= 5000);
            }
        }
    }
}
