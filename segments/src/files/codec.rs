//! Little-endian fields of the engine's own files: a bounds-checked reader, and the frame that small files share.
//!
//! # Frame
//! | bytes | field |
//! |---|---|
//! | 8 | magic, one for each kind of file |
//! | 4 | version of the payload |
//! | 4 | CRC-32 (IEEE) of the two fields before and of all that follows, up to the payload's end |
//! | 8 | generation: larger is newer |
//! | 8 | length of the payload |
//! | n | payload |
//!
//! Bytes after the payload are ignored (a file that is written in place keeps its length). The frame is the same in
//! every version, and its checksum covers the version: so a newer version can be told from a flipped bit.

/// The bytes of a frame before its payload.
pub(crate) const FRAME_HEADER_BYTES: usize = 32;

/// Reads fields from bytes that cannot be trusted: every call returns `None` if too few bytes are left.
#[derive(Clone, Copy)]
pub(crate) struct Fields<'a> {
    rest: &'a [u8],
}

impl<'a> Fields<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    pub(crate) fn bytes(&mut self, count: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.rest.split_at_checked(count)?;
        self.rest = rest;
        Some(head)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.bytes(N)?.try_into().ok()
    }

    pub(crate) fn u8(&mut self) -> Option<u8> {
        self.array().map(u8::from_le_bytes)
    }

    pub(crate) fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    pub(crate) fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    pub(crate) fn i64(&mut self) -> Option<i64> {
        self.array().map(i64::from_le_bytes)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }
}

/// Why a frame was refused.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum FrameError {
    /// Too short, another magic, or a checksum that does not match: damaged or never finished.
    Damaged(&'static str),
    /// A whole frame of a version that this program does not know.
    Version(u32),
}

/// Puts a payload into its frame.
pub(crate) fn frame(magic: [u8; 8], version: u32, generation: u64, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(FRAME_HEADER_BYTES + payload.len());
    out.extend_from_slice(&magic);
    out.extend_from_slice(&version.to_le_bytes());
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(&generation.to_le_bytes());
    out.extend_from_slice(&(payload.len() as u64).to_le_bytes());
    out.extend_from_slice(payload);
    let crc = checksum(&out);
    out[12..16].copy_from_slice(&crc.to_le_bytes());
    out
}

/// The CRC-32 of bytes 0 to 12 (magic and version) and of all from 16 on; the checksum itself stands in between.
/// `bytes` has at least 16 bytes.
pub(crate) fn checksum(bytes: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&bytes[..12]);
    hasher.update(&bytes[16..]);
    hasher.finalize()
}

/// Takes the payload out of its frame: `(generation, payload)`.
pub(crate) fn unframe(magic: [u8; 8], version: u32, bytes: &[u8]) -> Result<(u64, &[u8]), FrameError> {
    let mut fields = Fields::new(bytes);
    let short = FrameError::Damaged("too short");
    let Some(found) = fields.bytes(8) else {
        return Err(short);
    };
    if found != magic {
        return Err(FrameError::Damaged("another magic"));
    }
    let (Some(found_version), Some(crc), Some(generation), Some(length)) =
        (fields.u32(), fields.u32(), fields.u64(), fields.u64())
    else {
        return Err(short);
    };
    let Some(payload) = usize::try_from(length)
        .ok()
        .and_then(|length| fields.bytes(length))
    else {
        return Err(FrameError::Damaged("shorter than its length says"));
    };
    if checksum(&bytes[..FRAME_HEADER_BYTES + payload.len()]) != crc {
        return Err(FrameError::Damaged("the checksum does not match"));
    }
    if found_version != version {
        return Err(FrameError::Version(found_version));
    }
    Ok((generation, payload))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAGIC: [u8; 8] = *b"QUIPUTST";

    #[test]
    fn every_flipped_bit_of_a_frame_is_noticed() {
        let bytes = frame(MAGIC, 1, 7, b"payload");
        assert_eq!(unframe(MAGIC, 1, &bytes), Ok((7, &b"payload"[..])));
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            let found = unframe(MAGIC, 1, &flipped);
            assert!(
                matches!(found, Err(FrameError::Damaged(_))),
                "bit {bit}: {found:?}"
            );
        }
    }

    #[test]
    fn a_frame_cut_anywhere_is_damaged_and_one_with_bytes_after_it_is_not() {
        let mut bytes = frame(MAGIC, 1, 7, b"payload");
        for length in 0..bytes.len() {
            assert!(unframe(MAGIC, 1, &bytes[..length]).is_err(), "length {length}");
        }
        bytes.extend_from_slice(&[0; 100]);
        assert!(unframe(MAGIC, 1, &bytes).is_ok());
    }

    #[test]
    fn a_version_from_the_future_is_named() {
        for version in [2, 4, 7, 8] {
            let bytes = frame(MAGIC, version, 7, b"payload");
            assert_eq!(unframe(MAGIC, 1, &bytes), Err(FrameError::Version(version)));
        }
    }
}
