//! A client over a bare socket that builds and reads frames by hand, without the server's codec.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};

use crate::support::PATIENCE;

/// Bytes of a message, written by hand.
#[derive(Clone, Debug, Default)]
pub(crate) struct Out(pub(crate) Vec<u8>);

impl Out {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    pub(crate) fn raw(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self
    }

    pub(crate) fn i8(self, value: i8) -> Self {
        self.raw(&value.to_be_bytes())
    }

    pub(crate) fn i16(self, value: i16) -> Self {
        self.raw(&value.to_be_bytes())
    }

    pub(crate) fn i32(self, value: i32) -> Self {
        self.raw(&value.to_be_bytes())
    }

    pub(crate) fn i64(self, value: i64) -> Self {
        self.raw(&value.to_be_bytes())
    }

    /// A text with its length.
    pub(crate) fn text(self, text: &str) -> Self {
        self.i16(text.len() as i16).raw(text.as_bytes())
    }

    /// Null for a text.
    pub(crate) fn null(self) -> Self {
        self.i16(-1)
    }

    /// Bytes with their length.
    pub(crate) fn bytes(self, bytes: &[u8]) -> Self {
        self.i32(bytes.len() as i32).raw(bytes)
    }

    /// A frame of this body: classic header, client id `test`.
    pub(crate) fn frame(self, key: i16, version: i16, correlation: i32) -> Vec<u8> {
        let head = Self::new().i16(key).i16(version).i32(correlation).text("test");
        let body = [head.0, self.0].concat();
        Self::new().bytes(&body).0
    }
}

/// Bytes of an answer, read by hand.
#[derive(Debug)]
pub(crate) struct In(Vec<u8>, usize);

impl In {
    pub(crate) fn of(bytes: Vec<u8>) -> Self {
        Self(bytes, 0)
    }

    fn take<const N: usize>(&mut self) -> [u8; N] {
        let bytes = self.0[self.1..].first_chunk::<N>();
        self.1 += N;
        *bytes.unwrap_or_else(|| panic!("the answer ends at {}: {:?}", self.1, self.0))
    }

    pub(crate) fn i8(&mut self) -> i8 {
        i8::from_be_bytes(self.take())
    }

    pub(crate) fn i16(&mut self) -> i16 {
        i16::from_be_bytes(self.take())
    }

    pub(crate) fn i32(&mut self) -> i32 {
        i32::from_be_bytes(self.take())
    }

    pub(crate) fn i64(&mut self) -> i64 {
        i64::from_be_bytes(self.take())
    }

    pub(crate) fn bytes(&mut self, length: i32) -> Vec<u8> {
        let length = usize::try_from(length).unwrap_or(0);
        let bytes = self.0[self.1..self.1 + length].to_vec();
        self.1 += length;
        bytes
    }

    pub(crate) fn text(&mut self) -> String {
        let length = self.i16();
        String::from_utf8(self.bytes(length.into())).expect("a text")
    }

    /// What was not read.
    pub(crate) fn rest(self) -> Vec<u8> {
        self.0[self.1..].to_vec()
    }

    /// Everything was read.
    pub(crate) fn end(self) {
        assert_eq!(self.1, self.0.len(), "bytes are left: {:?}", &self.0[self.1..]);
    }
}

/// A connection.
pub(crate) struct Client {
    pub(crate) stream: TcpStream,
    correlation: i32,
}

impl Client {
    pub(crate) fn to(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).expect("it listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("a time");
        stream.set_nodelay(true).expect("a socket");
        Self {
            stream,
            correlation: 0,
        }
    }

    /// Sends bytes; the server may have closed the connection.
    pub(crate) fn send(&mut self, bytes: &[u8]) {
        let _ = self.stream.write_all(bytes);
    }

    /// The next answer, after its correlation id.
    pub(crate) fn receive(&mut self) -> (i32, In) {
        let mut length = [0; 4];
        self.stream.read_exact(&mut length).expect("an answer");
        let mut bytes = vec![0; u32::from_be_bytes(length) as usize];
        self.stream.read_exact(&mut bytes).expect("a whole answer");
        let mut answer = In(bytes, 0);
        (answer.i32(), answer)
    }

    /// Sends a request, and returns its answer.
    pub(crate) fn ask(&mut self, key: i16, version: i16, body: Out) -> In {
        self.correlation += 1;
        let frame = body.frame(key, version, self.correlation);
        self.send(&frame);
        let (correlation, answer) = self.receive();
        assert_eq!(correlation, self.correlation);
        answer
    }

    /// The server closes the connection without an answer.
    #[track_caller]
    pub(crate) fn is_closed(&mut self) {
        let mut byte = [0];
        // A read with a time limit is not begun anew by itself after a signal.
        let read = loop {
            match self.stream.read(&mut byte) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                read => break read,
            }
        };
        match read {
            Ok(0) => {}
            Err(error) if error.kind() == ErrorKind::ConnectionReset => {}
            other => panic!("not closed: {other:?}"),
        }
    }
}
