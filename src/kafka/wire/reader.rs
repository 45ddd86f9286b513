//! Reads primitives from a frame.

use bytes::{Buf, Bytes, BytesMut};

use super::{Field, Malformed, Text, Version};

/// What arrays of any frame may take in memory.
const ALLOWANCE_BYTES: usize = 64 << 10;
/// What they may take for each byte of the frame besides.
const ALLOWANCE_FACTOR: usize = 8;
/// What they may take at most.
const MAX_ALLOWANCE_BYTES: usize = 32 << 20;
/// What each tagged field counts for besides: no message has many, and each is work.
const TAG_BYTES: usize = 64;

const SHORT: Malformed = Malformed("the message ends too early");
const LENGTH: Malformed = Malformed("a length is negative, or beyond the end of the message");

/// A frame, or the rest of it.
#[derive(Debug)]
pub(crate) struct Reader {
    rest: Rest,
    allowance: usize,
    charged: usize,
}

impl Reader {
    pub(crate) fn new(bytes: BytesMut) -> Self {
        let factored = bytes.len().saturating_mul(ALLOWANCE_FACTOR);
        Self {
            allowance: (ALLOWANCE_BYTES.saturating_add(factored)).min(MAX_ALLOWANCE_BYTES),
            rest: Rest::Own(bytes),
            charged: 0,
        }
    }

    /// How much more the arrays of this frame may take in memory, in bytes.
    #[cfg(any(test, feature = "fuzzing"))]
    pub(crate) fn allowance(&self) -> usize {
        self.allowance
    }

    /// Another reader of the same bytes, which are not copied. What somebody may change ([`Reader::take_own`]) is a copy
    /// from then on.
    pub(crate) fn again(&mut self) -> Self {
        let bytes = match std::mem::take(&mut self.rest) {
            Rest::Own(bytes) => bytes.freeze(),
            Rest::Shared(bytes) => bytes,
        };
        self.rest = Rest::Shared(bytes.clone());
        Self {
            rest: Rest::Shared(bytes),
            ..*self
        }
    }

    /// What the arrays that were read take in memory, in bytes.
    pub(crate) fn charged(&self) -> usize {
        self.charged
    }

    /// How many bytes are left.
    pub(crate) fn remaining(&self) -> usize {
        self.rest.remaining()
    }

    pub(crate) fn i8(&mut self) -> Result<i8, Malformed> {
        self.rest.try_get_i8().map_err(|_| SHORT)
    }

    pub(crate) fn i16(&mut self) -> Result<i16, Malformed> {
        self.rest.try_get_i16().map_err(|_| SHORT)
    }

    pub(crate) fn i32(&mut self) -> Result<i32, Malformed> {
        self.rest.try_get_i32().map_err(|_| SHORT)
    }

    pub(crate) fn i64(&mut self) -> Result<i64, Malformed> {
        self.rest.try_get_i64().map_err(|_| SHORT)
    }

    /// An unsigned varint of at most 32 bits.
    pub(crate) fn varint(&mut self) -> Result<u32, Malformed> {
        let mut value = 0;
        for shift in [0, 7, 14, 21, 28] {
            let byte = self.rest.try_get_u8().map_err(|_| SHORT)?;
            value |= u32::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return match shift == 28 && byte > 0x0f {
                    true => Err(Malformed("a varint of more than 32 bits")),
                    false => Ok(value),
                };
            }
        }
        Err(Malformed("a varint of more than 5 bytes"))
    }

    /// The next `count` bytes, without a copy.
    pub(crate) fn take(&mut self, count: usize) -> Result<Bytes, Malformed> {
        self.cut(count).map(|bytes| match bytes {
            Rest::Own(bytes) => bytes.freeze(),
            Rest::Shared(bytes) => bytes,
        })
    }

    /// The same, for somebody who may change them.
    pub(crate) fn take_own(&mut self, count: usize) -> Result<BytesMut, Malformed> {
        self.cut(count).map(|bytes| match bytes {
            Rest::Own(bytes) => bytes,
            Rest::Shared(bytes) => bytes.into(),
        })
    }

    fn cut(&mut self, count: usize) -> Result<Rest, Malformed> {
        if count > self.remaining() {
            return Err(LENGTH);
        }
        Ok(match &mut self.rest {
            Rest::Own(bytes) => Rest::Own(bytes.split_to(count)),
            Rest::Shared(bytes) => Rest::Shared(bytes.split_to(count)),
        })
    }

    /// The length of bytes or of an array: compact, or an `i32`. `None`: null.
    pub(crate) fn length(&mut self, version: Version) -> Result<Option<usize>, Malformed> {
        if version.is_flexible {
            return Ok((self.varint()? as usize).checked_sub(1));
        }
        signed(self.i32()?)
    }

    /// The length of a text: compact, or an `i16`. `None`: null.
    pub(crate) fn text_length(&mut self, version: Version) -> Result<Option<usize>, Malformed> {
        if version.is_flexible {
            return self.length(version);
        }
        signed(self.i16()?.into())
    }

    /// A text of `length` bytes.
    pub(crate) fn text(&mut self, length: usize) -> Result<Text, Malformed> {
        Text::of(self.take(length)?)
    }

    /// An array of `count` elements.
    pub(crate) fn array<T: Field>(&mut self, count: usize, version: Version) -> Result<Vec<T>, Malformed> {
        // Every element takes at least a byte.
        if count > self.remaining() {
            return Err(LENGTH);
        }
        let bytes = count.saturating_mul(size_of::<T>());
        self.allow(bytes)?;
        self.charged += bytes;
        let mut elements = Vec::with_capacity(count);
        for _ in 0..count {
            elements.push(T::read(self, version)?);
        }
        Ok(elements)
    }

    fn allow(&mut self, bytes: usize) -> Result<(), Malformed> {
        self.allowance = (self.allowance.checked_sub(bytes)).ok_or(Malformed(
            "the message has more elements than a frame of its size may have",
        ))?;
        Ok(())
    }

    /// Reads tagged fields. `known` reads one of a tag that it knows and returns true; of others it reads nothing.
    pub(crate) fn tags(
        &mut self,
        mut known: impl FnMut(&mut Self, u32) -> Result<bool, Malformed>,
    ) -> Result<(), Malformed> {
        for _ in 0..self.varint()? {
            self.allow(TAG_BYTES)?;
            let (tag, size) = (self.varint()?, self.varint()? as usize);
            let field = self.cut(size)?;
            let after = std::mem::replace(&mut self.rest, field);
            if known(self, tag)? && self.rest.has_remaining() {
                return Err(Malformed("a tagged field is longer than what it holds"));
            }
            self.rest = after;
        }
        Ok(())
    }
}

/// Bytes to read.
#[derive(Debug)]
enum Rest {
    Own(BytesMut),
    Shared(Bytes),
}

impl Default for Rest {
    fn default() -> Self {
        Self::Shared(Bytes::new())
    }
}

impl Buf for Rest {
    fn remaining(&self) -> usize {
        self.chunk().len()
    }

    fn chunk(&self) -> &[u8] {
        match self {
            Self::Own(bytes) => bytes,
            Self::Shared(bytes) => bytes,
        }
    }

    fn advance(&mut self, count: usize) {
        match self {
            Self::Own(bytes) => bytes.advance(count),
            Self::Shared(bytes) => bytes.advance(count),
        }
    }
}

fn signed(length: i32) -> Result<Option<usize>, Malformed> {
    match length {
        -1 => Ok(None),
        _ => usize::try_from(length).map(Some).map_err(|_| LENGTH),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn varint(bytes: &'static [u8]) -> Result<u32, Malformed> {
        Reader::new(BytesMut::from(bytes)).varint()
    }

    #[test]
    fn a_varint_has_at_most_32_bits() {
        assert_eq!(varint(&[0x00]), Ok(0));
        assert_eq!(varint(&[0xac, 0x02]), Ok(300));
        assert_eq!(varint(&[0xff, 0xff, 0xff, 0xff, 0x0f]), Ok(u32::MAX));
        assert!(varint(&[0xff, 0xff, 0xff, 0xff, 0x1f]).is_err());
        assert!(varint(&[0x80, 0x80, 0x80, 0x80, 0x80, 0x00]).is_err());
        assert!(varint(&[0x80]).is_err());
    }

    #[test]
    fn bytes_can_be_read_again_without_a_copy() {
        let bytes = BytesMut::from(&[0, 3, b'a', b'b', b'c', 0, 0, 0, 9][..]);
        let place = bytes.as_ptr();
        let mut first = Reader::new(bytes);
        assert_eq!(first.i8(), Ok(0));
        let mut again = first.again();
        for reader in [&mut first, &mut again] {
            assert_eq!(reader.i8(), Ok(3));
            let text = reader.take(3).unwrap();
            assert_eq!(text, "abc");
            assert_eq!(text.as_ptr(), place.wrapping_add(2));
            assert_eq!(reader.remaining(), 4);
            assert_eq!(reader.take_own(5), Err(LENGTH));
            assert_eq!(reader.i32(), Ok(9));
        }
    }

    #[test]
    fn an_array_is_refused_by_its_length_before_anything_is_allocated() {
        let version = Version {
            number: 0,
            is_flexible: false,
        };
        let mut reader = Reader::new(BytesMut::from(&[0x7f, 0xff, 0xff, 0xff, 0, 0][..]));
        assert!(Vec::<i32>::read(&mut reader, version).is_err());
        // A MiB that promises a million arrays of a million texts each.
        let mut bytes = vec![0; 1 << 20];
        bytes[..4].copy_from_slice(&(1_i32 << 19).to_be_bytes());
        let mut reader = Reader::new(BytesMut::from(&bytes[..]));
        assert!(Vec::<[Text; 4]>::read(&mut reader, version).is_err());
    }

    #[test]
    fn a_message_has_few_tagged_fields() {
        let tags = |count: usize| {
            let mut bytes = vec![
                0x80 | (count & 0x7f) as u8,
                0x80 | (count >> 7 & 0x7f) as u8,
                (count >> 14) as u8,
            ];
            bytes.resize(3 + 2 * count, 0);
            Reader::new(BytesMut::from(&bytes[..])).tags(|_, _| Ok(false))
        };
        assert!(tags(1000).is_ok());
        assert!(tags(100_000).is_err());
    }

    impl Field for [Text; 4] {
        fn read(reader: &mut Reader, version: Version) -> Result<Self, Malformed> {
            let mut texts = Self::default();
            for text in &mut texts {
                *text = Text::read(reader, version)?;
            }
            Ok(texts)
        }

        fn write(&self, _: &mut super::super::Writer, _: Version) {}

        fn sample(_: &mut crate::kafka::wire::sample::Sampler, _: Version) -> Self {
            Self::default()
        }
    }
}
