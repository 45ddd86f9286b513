//! Choices taken from the front of a fuzzer's bytes; zeros after their end.

pub(super) struct Input<'a> {
    rest: &'a [u8],
}

impl<'a> Input<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    fn array<const N: usize>(&mut self) -> [u8; N] {
        let mut array = [0; N];
        let bytes = self.bytes(N);
        array[..bytes.len()].copy_from_slice(bytes);
        array
    }

    pub(super) fn u8(&mut self) -> u8 {
        self.array::<1>()[0]
    }

    pub(super) fn u16(&mut self) -> u16 {
        u16::from_le_bytes(self.array())
    }

    pub(super) fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.array())
    }

    /// As many bytes as are there, at most `count`.
    pub(super) fn bytes(&mut self, count: usize) -> &'a [u8] {
        let (bytes, rest) = self.rest.split_at(count.min(self.rest.len()));
        self.rest = rest;
        bytes
    }

    /// Bytes with their length in two bytes before them.
    pub(super) fn part(&mut self) -> &'a [u8] {
        let count = self.u16();
        self.bytes(count.into())
    }

    /// Bytes with their length in one byte before them; `None` for the largest length.
    pub(super) fn short(&mut self) -> Option<&'a [u8]> {
        match self.u8() {
            u8::MAX => None,
            count => Some(self.bytes(count.into())),
        }
    }

    pub(super) fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.rest)
    }
}

/// The checksum of a header: of bytes 0 to 12 and those from 16 on.
pub(super) fn checksum(bytes: &[u8]) -> u32 {
    let mut hasher = quipu_segments::fuzzing::crc32fast::Hasher::new();
    hasher.update(&bytes[..12]);
    hasher.update(&bytes[16..]);
    hasher.finalize()
}
