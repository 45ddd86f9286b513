//! Writes primitives to an answer.

use bytes::{BufMut, Bytes, BytesMut};

use super::Version;

/// Byte fields from this size on are pieces of their own; smaller ones are copied.
const PIECE_BYTES: usize = 1024;

/// An answer in pieces, so that records are not copied into it.
#[derive(Debug, Default)]
pub(crate) struct Writer {
    done: Vec<Bytes>,
    buffer: BytesMut,
    /// The bytes of the pieces that lie elsewhere.
    elsewhere: usize,
}

impl Writer {
    /// The pieces, in order.
    pub(crate) fn finish(mut self) -> Vec<Bytes> {
        self.cut();
        self.done
    }

    /// How many bytes it has in memory of its own: all but the large byte fields, which are slices of what exists.
    pub(crate) fn owned_bytes(&self) -> usize {
        let done: usize = self.done.iter().map(Bytes::len).sum();
        done - self.elsewhere + self.buffer.len()
    }

    fn cut(&mut self) {
        if !self.buffer.is_empty() {
            let piece = self.buffer.split().freeze();
            self.done.push(piece);
        }
    }

    pub(crate) fn i8(&mut self, value: i8) {
        self.buffer.put_i8(value);
    }

    pub(crate) fn i16(&mut self, value: i16) {
        self.buffer.put_i16(value);
    }

    pub(crate) fn i32(&mut self, value: i32) {
        self.buffer.put_i32(value);
    }

    pub(crate) fn i64(&mut self, value: i64) {
        self.buffer.put_i64(value);
    }

    pub(crate) fn varint(&mut self, mut value: u32) {
        while value >= 0x80 {
            self.buffer.put_u8(value as u8 | 0x80);
            value >>= 7;
        }
        self.buffer.put_u8(value as u8);
    }

    /// Bytes as they are.
    pub(crate) fn raw(&mut self, bytes: &[u8]) {
        self.buffer.put_slice(bytes);
    }

    /// Bytes as they are, without a copy if they are many.
    pub(crate) fn piece(&mut self, bytes: &Bytes) {
        if bytes.len() < PIECE_BYTES {
            return self.raw(bytes);
        }
        self.cut();
        self.elsewhere += bytes.len();
        self.done.push(bytes.clone());
    }

    /// The length of bytes or of an array. `None`: null.
    pub(crate) fn length(&mut self, length: Option<usize>, version: Version) {
        if version.is_flexible {
            return self.varint(length.map_or(0, |length| length as u32 + 1));
        }
        self.i32(length.map_or(-1, |length| length as i32));
    }

    /// The length of a text. `None`: null.
    pub(crate) fn text_length(&mut self, length: Option<usize>, version: Version) {
        if version.is_flexible {
            return self.length(length, version);
        }
        self.i16(length.map_or(-1, |length| length as i16));
    }

    /// One tagged field.
    pub(crate) fn tagged(&mut self, tag: u32, write: impl FnOnce(&mut Self)) {
        let mut field = Self::default();
        write(&mut field);
        let pieces = field.finish();
        self.varint(tag);
        self.varint(pieces.iter().map(|piece| piece.len() as u32).sum());
        for piece in &pieces {
            self.piece(piece);
        }
    }
}
