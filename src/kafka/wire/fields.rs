//! The types of fields, each with how it is read and written.

use std::fmt;
use std::ops::Deref;

use bytes::{Bytes, BytesMut};

use super::{Malformed, Reader, Version, Writer};

/// The longest text of a version that is not flexible, in bytes: its length is an i16.
const MAX_CLASSIC_BYTES: usize = i16::MAX as usize;

/// Something that a message holds.
pub(crate) trait Field: Sized {
    /// Reads it.
    ///
    /// # Errors
    /// [`Malformed`].
    fn read(reader: &mut Reader, version: Version) -> Result<Self, Malformed>;

    /// Writes it.
    fn write(&self, writer: &mut Writer, version: Version);

    /// Any value that this version can hold.
    #[cfg(test)]
    fn sample(sampler: &mut super::sample::Sampler, version: Version) -> Self;
}

/// A type with a null: [`Option`] of it is a field too.
pub(crate) trait Nullable: Field {
    /// Reads it, or null.
    ///
    /// # Errors
    /// [`Malformed`].
    fn read_nullable(reader: &mut Reader, version: Version) -> Result<Option<Self>, Malformed>;

    /// Writes it, or null.
    fn write_nullable(value: Option<&Self>, writer: &mut Writer, version: Version);
}

impl<T: Nullable> Field for Option<T> {
    fn read(reader: &mut Reader, version: Version) -> Result<Self, Malformed> {
        T::read_nullable(reader, version)
    }

    fn write(&self, writer: &mut Writer, version: Version) {
        T::write_nullable(self.as_ref(), writer, version);
    }

    #[cfg(test)]
    fn sample(sampler: &mut super::sample::Sampler, version: Version) -> Self {
        sampler.bool().then(|| T::sample(sampler, version))
    }
}

/// What stands for null in versions that have none.
pub(crate) fn present<T: Nullable + Default>(_: &Option<T>) -> Option<T> {
    Some(T::default())
}

/// `null` where there must be none.
const NULL: Malformed = Malformed("null for something that must not be null");

macro_rules! number {
    ($($type:ident)*) => {
        $(impl Field for $type {
            fn read(reader: &mut Reader, _: Version) -> Result<Self, Malformed> {
                reader.$type()
            }

            fn write(&self, writer: &mut Writer, _: Version) {
                writer.$type(*self);
            }

            #[cfg(test)]
            fn sample(sampler: &mut super::sample::Sampler, _: Version) -> Self {
                sampler.number() as Self
            }
        })*
    };
}

number!(i8 i16 i32 i64);

impl Field for bool {
    fn read(reader: &mut Reader, _: Version) -> Result<Self, Malformed> {
        Ok(reader.i8()? != 0)
    }

    fn write(&self, writer: &mut Writer, _: Version) {
        writer.i8((*self).into());
    }

    #[cfg(test)]
    fn sample(sampler: &mut super::sample::Sampler, _: Version) -> Self {
        sampler.bool()
    }
}

/// An id of 16 bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Uuid(pub(crate) [u8; 16]);

impl Uuid {
    /// Stands for no id.
    pub(crate) const ZERO: Self = Self([0; 16]);
}

impl Field for Uuid {
    fn read(reader: &mut Reader, _: Version) -> Result<Self, Malformed> {
        let bytes = reader.take(16)?;
        Ok(Self(bytes.first_chunk().copied().unwrap_or_default()))
    }

    fn write(&self, writer: &mut Writer, _: Version) {
        writer.raw(&self.0);
    }

    #[cfg(test)]
    fn sample(sampler: &mut super::sample::Sampler, _: Version) -> Self {
        Self([sampler.number() as u8; 16])
    }
}

/// A text: UTF-8, a slice of its frame if it was read from one.
#[derive(Clone, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Text(Bytes);

impl Text {
    /// The bytes as a text.
    ///
    /// # Errors
    /// [`Malformed`]: they are not UTF-8.
    pub(crate) fn of(bytes: Bytes) -> Result<Self, Malformed> {
        match std::str::from_utf8(&bytes) {
            Ok(_) => Ok(Self(bytes)),
            Err(_) => Err(Malformed("a text that is not UTF-8")),
        }
    }
}

impl Deref for Text {
    type Target = str;

    fn deref(&self) -> &str {
        std::str::from_utf8(&self.0).expect("checked when the text was made")
    }
}

impl fmt::Debug for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

impl From<&str> for Text {
    fn from(text: &str) -> Self {
        Self(Bytes::copy_from_slice(text.as_bytes()))
    }
}

impl From<String> for Text {
    fn from(text: String) -> Self {
        Self(text.into())
    }
}

impl Field for Text {
    fn read(reader: &mut Reader, version: Version) -> Result<Self, Malformed> {
        Self::read_nullable(reader, version)?.ok_or(NULL)
    }

    fn write(&self, writer: &mut Writer, version: Version) {
        Self::write_nullable(Some(self), writer, version);
    }

    #[cfg(test)]
    fn sample(sampler: &mut super::sample::Sampler, _: Version) -> Self {
        Self::from(sampler.text())
    }
}

impl Nullable for Text {
    fn read_nullable(reader: &mut Reader, version: Version) -> Result<Option<Self>, Malformed> {
        let length = reader.text_length(version)?;
        length.map(|length| reader.text(length)).transpose()
    }

    fn write_nullable(value: Option<&Self>, writer: &mut Writer, version: Version) {
        let text = value.map(|text| match version.is_flexible {
            true => &**text,
            // What other versions could not say the length of. A part of it is better than an answer that nobody can read.
            false => &text[..text.floor_char_boundary(MAX_CLASSIC_BYTES)],
        });
        writer.text_length(text.map(str::len), version);
        if let Some(text) = text {
            writer.raw(text.as_bytes());
        }
    }
}

impl Field for Bytes {
    fn read(reader: &mut Reader, version: Version) -> Result<Self, Malformed> {
        Self::read_nullable(reader, version)?.ok_or(NULL)
    }

    fn write(&self, writer: &mut Writer, version: Version) {
        Self::write_nullable(Some(self), writer, version);
    }

    #[cfg(test)]
    fn sample(sampler: &mut super::sample::Sampler, _: Version) -> Self {
        sampler.text().into()
    }
}

impl Nullable for Bytes {
    fn read_nullable(reader: &mut Reader, version: Version) -> Result<Option<Self>, Malformed> {
        let length = reader.length(version)?;
        length.map(|length| reader.take(length)).transpose()
    }

    fn write_nullable(value: Option<&Self>, writer: &mut Writer, version: Version) {
        writer.length(value.map(Bytes::len), version);
        if let Some(bytes) = value {
            writer.piece(bytes);
        }
    }
}

/// Record batches of a request: a piece of its frame that nobody else holds, so that they are stored without a copy.
impl Field for BytesMut {
    fn read(reader: &mut Reader, version: Version) -> Result<Self, Malformed> {
        Self::read_nullable(reader, version)?.ok_or(NULL)
    }

    fn write(&self, writer: &mut Writer, version: Version) {
        Self::write_nullable(Some(self), writer, version);
    }

    #[cfg(test)]
    fn sample(sampler: &mut super::sample::Sampler, _: Version) -> Self {
        sampler.text().as_bytes().into()
    }
}

impl Nullable for BytesMut {
    fn read_nullable(reader: &mut Reader, version: Version) -> Result<Option<Self>, Malformed> {
        let length = reader.length(version)?;
        length.map(|length| reader.take_own(length)).transpose()
    }

    fn write_nullable(value: Option<&Self>, writer: &mut Writer, version: Version) {
        writer.length(value.map(BytesMut::len), version);
        if let Some(bytes) = value {
            writer.raw(bytes);
        }
    }
}

/// Record batches, in slices of where they lie: bytes that come from several places.
#[derive(Clone, Debug, Default)]
pub(crate) struct Records(pub(crate) Vec<Bytes>);

impl PartialEq for Records {
    fn eq(&self, other: &Self) -> bool {
        self.0.concat() == other.0.concat()
    }
}

impl Field for Records {
    fn read(reader: &mut Reader, version: Version) -> Result<Self, Malformed> {
        // A null stands for no records.
        let bytes = Bytes::read_nullable(reader, version)?;
        Ok(Self(bytes.into_iter().collect()))
    }

    fn write(&self, writer: &mut Writer, version: Version) {
        let length = self.0.iter().map(Bytes::len).sum();
        writer.length(Some(length), version);
        for piece in &self.0 {
            writer.piece(piece);
        }
    }

    #[cfg(test)]
    fn sample(sampler: &mut super::sample::Sampler, version: Version) -> Self {
        Self(vec![
            Bytes::sample(sampler, version),
            Bytes::sample(sampler, version),
        ])
    }
}

impl<T: Field> Field for Vec<T> {
    fn read(reader: &mut Reader, version: Version) -> Result<Self, Malformed> {
        Self::read_nullable(reader, version)?.ok_or(NULL)
    }

    fn write(&self, writer: &mut Writer, version: Version) {
        Self::write_nullable(Some(self), writer, version);
    }

    #[cfg(test)]
    fn sample(sampler: &mut super::sample::Sampler, version: Version) -> Self {
        (0..sampler.number().rem_euclid(3))
            .map(|_| T::sample(sampler, version))
            .collect()
    }
}

impl<T: Field> Nullable for Vec<T> {
    fn read_nullable(reader: &mut Reader, version: Version) -> Result<Option<Self>, Malformed> {
        let count = reader.length(version)?;
        count.map(|count| reader.array(count, version)).transpose()
    }

    fn write_nullable(value: Option<&Self>, writer: &mut Writer, version: Version) {
        writer.length(value.map(Self::len), version);
        for element in value.into_iter().flatten() {
            element.write(writer, version);
        }
    }
}
