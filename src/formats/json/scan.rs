//! Reading JSON in place: one pass over bytes, nothing allocated, nothing copied.
//!
//! Values are stored unchanged, so they need not be decoded, only delimited: [`Scanner::value`] checks that a value is
//! JSON by RFC 8259 and finds its end. Strings are scanned eight bytes at a time up to the next special byte.
//!
//! Invariants: input is never trusted (every access is checked, nothing recurses, [`MAX_DEPTH`] bounds nesting with a
//! bit a level), and the position never goes back. The caller refuses bytes that are not UTF-8 first.

use std::borrow::Cow;

/// The deepest nesting of arrays and objects in a value. Readers in other languages stop at 512 (PHP), 1,000 (Java,
/// Python) or 10,000 (Go); a reader that cannot read a record would be stuck at it.
pub const MAX_DEPTH: usize = 512;

/// A fault and its byte. Boxed, so that results of the hot functions stay in registers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Fault(Box<(usize, Cow<'static, str>)>);

impl Fault {
    #[cold]
    pub(crate) fn new(at: usize, what: impl Into<Cow<'static, str>>) -> Self {
        Self(Box::new((at, what.into())))
    }

    pub(crate) fn at(&self) -> usize {
        self.0.0
    }

    pub(crate) fn what(&self) -> &str {
        &self.0.1
    }
}

/// A string without its quotes; the form of its escapes is checked.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Text<'a> {
    pub(crate) raw: &'a [u8],
    /// Where `raw` begins.
    pub(crate) at: usize,
    pub(crate) escaped: bool,
}

impl<'a> Text<'a> {
    /// The decoded string; borrowed unless it has escapes.
    ///
    /// # Errors
    /// A surrogate without its other half, which has no UTF-8.
    #[inline]
    pub(crate) fn decode(self) -> Result<Cow<'a, [u8]>, Fault> {
        if self.escaped {
            self.unescape().map(Cow::Owned)
        } else {
            Ok(Cow::Borrowed(self.raw))
        }
    }

    #[cold]
    fn unescape(self) -> Result<Vec<u8>, Fault> {
        let mut out = Vec::with_capacity(self.raw.len());
        let mut rest = self.raw;
        while let Some(escape) = memchr::memchr(b'\\', rest) {
            let (plain, tail) = rest.split_at(escape);
            out.extend_from_slice(plain);
            let at = self.at + self.raw.len() - tail.len();
            let broken = || Fault::new(at, "an escape is cut off");
            let code = *tail.get(1).ok_or_else(broken)?;
            rest = tail.get(2..).unwrap_or_default();
            let plain = match code {
                b'b' => 8,
                b'f' => 12,
                b'n' => b'\n',
                b'r' => b'\r',
                b't' => b'\t',
                b'u' => {
                    let first = hex4(rest).ok_or_else(broken)?;
                    rest = rest.get(4..).unwrap_or_default();
                    let lone = || Fault::new(at, "a surrogate without its other half");
                    let character = if (0xd800..0xdc00).contains(&first) {
                        let second = rest
                            .strip_prefix(b"\\u")
                            .and_then(hex4)
                            .filter(|second| (0xdc00..0xe000).contains(second))
                            .ok_or_else(lone)?;
                        rest = rest.get(6..).unwrap_or_default();
                        0x1_0000 + ((first - 0xd800) << 10) + (second - 0xdc00)
                    } else {
                        first
                    };
                    let character = char::from_u32(character).ok_or_else(lone)?;
                    out.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
                    continue;
                }
                other => other,
            };
            out.push(plain);
        }
        out.extend_from_slice(rest);
        Ok(out)
    }
}

fn hex4(bytes: &[u8]) -> Option<u32> {
    bytes.get(..4)?.iter().try_fold(0, |number, byte| {
        Some(number << 4 | (*byte as char).to_digit(16)?)
    })
}

/// A position in JSON.
#[derive(Clone, Debug)]
pub(crate) struct Scanner<'a> {
    bytes: &'a [u8],
    pos: usize,
}

impl<'a> Scanner<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, pos: 0 }
    }

    pub(crate) fn position(&self) -> usize {
        self.pos
    }

    /// The bytes from `from` to here.
    pub(crate) fn since(&self, from: usize) -> &'a [u8] {
        self.bytes.get(from..self.pos).unwrap_or_default()
    }

    #[inline(always)]
    pub(crate) fn peek(&self) -> Option<u8> {
        self.bytes.get(self.pos).copied()
    }

    /// Skips white space, line breaks too.
    #[inline(always)]
    pub(crate) fn space(&mut self) {
        let mut breaks = false;
        self.space_and_breaks(&mut breaks);
    }

    /// Skips white space and returns whether it had a line break.
    #[inline(always)]
    fn space_and_breaks(&mut self, breaks: &mut bool) {
        while let Some(byte) = self.peek() {
            // One comparison if there is none, the usual case.
            if byte > b' ' {
                break;
            }
            match byte {
                b' ' | b'\t' => {}
                b'\n' | b'\r' => *breaks = true,
                _ => break,
            }
            self.pos += 1;
        }
    }

    /// Skips white space, and `byte` if it follows.
    #[inline(always)]
    pub(crate) fn eat(&mut self, byte: u8) -> bool {
        self.space();
        let found = self.peek() == Some(byte);
        self.pos += usize::from(found);
        found
    }

    /// Skips white space and `byte`, which must follow.
    #[inline(always)]
    pub(crate) fn expect(&mut self, byte: u8, what: &'static str) -> Result<(), Fault> {
        if self.eat(byte) {
            Ok(())
        } else {
            Err(self.unexpected(what))
        }
    }

    /// Only white space may follow.
    pub(crate) fn end(&mut self) -> Result<(), Fault> {
        self.space();
        match self.peek() {
            None => Ok(()),
            Some(_) => Err(self.unexpected("the end")),
        }
    }

    /// A fault here, where `expected` should be.
    #[cold]
    pub(crate) fn unexpected(&self, expected: &str) -> Fault {
        let what = match self.peek() {
            None => format!("the JSON ends early: expected {expected}"),
            Some(0xef) if self.bytes[self.pos..].starts_with(b"\xef\xbb\xbf") => {
                format!("expected {expected}, found a byte order mark within the body")
            }
            Some(byte @ 0x21..0x7f) => format!("expected {expected}, found '{}'", byte as char),
            Some(byte) => format!("expected {expected}, found byte {byte:#04x}"),
        };
        Fault::new(self.pos, what)
    }

    /// A string; white space in front of it is skipped.
    #[inline(always)]
    pub(crate) fn string(&mut self, what: &'static str) -> Result<Text<'a>, Fault> {
        self.space();
        let at = self.pos + 1;
        let escaped = self.skip_string(what)?;
        let raw = self.bytes.get(at..self.pos - 1).unwrap_or_default();
        Ok(Text { raw, at, escaped })
    }

    /// Skips the string that begins here; returns whether it has escapes.
    #[inline(always)]
    fn skip_string(&mut self, what: &'static str) -> Result<bool, Fault> {
        if self.peek() != Some(b'"') {
            return Err(self.unexpected(what));
        }
        self.pos = next_special(self.bytes, self.pos + 1);
        if self.peek() == Some(b'"') {
            self.pos += 1;
            return Ok(false);
        }
        self.skip_escaped_string()
    }

    /// Continues in a string at the first special byte.
    #[inline(never)]
    fn skip_escaped_string(&mut self) -> Result<bool, Fault> {
        loop {
            match self.peek() {
                Some(b'"') => {
                    self.pos += 1;
                    return Ok(true);
                }
                Some(b'\\') => self.escape()?,
                Some(_) => {
                    let what = "a control character in a string must be escaped";
                    return Err(Fault::new(self.pos, what));
                }
                None => return Err(Fault::new(self.pos, "the JSON ends within a string")),
            }
            self.pos = next_special(self.bytes, self.pos);
        }
    }

    fn escape(&mut self) -> Result<(), Fault> {
        let rest = self.bytes.get(self.pos + 1..).unwrap_or_default();
        let length = match rest.first() {
            Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => 2,
            Some(b'u') if rest.get(1..).and_then(hex4).is_some() => 6,
            _ => return Err(Fault::new(self.pos, "not an escape that JSON has")),
        };
        self.pos += length;
        Ok(())
    }

    /// Skips white space and then a value of any kind; returns whether a line break stood between the value's tokens.
    ///
    /// The value's bytes are those from [`Scanner::position`] after [`Scanner::space`] on.
    #[inline]
    pub(crate) fn value(&mut self) -> Result<bool, Fault> {
        let mut breaks = false;
        self.space();
        // A bit for each open array (0) or object (1), the outermost first; the innermost stands in `object`.
        let mut outer = [0_u64; MAX_DEPTH / 64];
        let mut depth = 0_usize;
        let mut object = false;
        loop {
            // A value begins here.
            match self.peek() {
                Some(b'"') => {
                    self.skip_string("a string")?;
                }
                Some(open @ (b'{' | b'[')) => {
                    if depth == MAX_DEPTH {
                        let what = format!("arrays and objects nest deeper than {MAX_DEPTH} levels");
                        return Err(Fault::new(self.pos, what));
                    }
                    let (word, bit) = (depth / 64, depth % 64);
                    outer[word] = outer[word] & !(1 << bit) | u64::from(object) << bit;
                    depth += 1;
                    object = open == b'{';
                    self.pos += 1;
                    self.space_and_breaks(&mut breaks);
                    match self.peek() {
                        Some(b'}') if object => {}
                        Some(b']') if !object => {}
                        _ => {
                            if object {
                                self.name(&mut breaks)?;
                            }
                            continue;
                        }
                    }
                }
                Some(b'-' | b'0'..=b'9') => self.number()?,
                Some(b't') => self.literal(b"true")?,
                Some(b'f') => self.literal(b"false")?,
                Some(b'n') => self.literal(b"null")?,
                _ => return Err(self.unexpected("a value")),
            }
            // A value has ended, or an array or object is about to.
            loop {
                if depth == 0 {
                    return Ok(breaks);
                }
                self.space_and_breaks(&mut breaks);
                match self.peek() {
                    Some(b',') => {
                        self.pos += 1;
                        self.space_and_breaks(&mut breaks);
                        if object {
                            self.name(&mut breaks)?;
                        }
                        break;
                    }
                    Some(b'}') if object => {}
                    Some(b']') if !object => {}
                    _ => return Err(self.unexpected(if object { "',' or '}'" } else { "',' or ']'" })),
                }
                self.pos += 1;
                depth -= 1;
                object = outer[depth / 64] >> (depth % 64) & 1 == 1;
            }
        }
    }

    /// A field's name and its colon, up to the value.
    #[inline(always)]
    fn name(&mut self, breaks: &mut bool) -> Result<(), Fault> {
        self.skip_string("a name in quotes")?;
        self.space_and_breaks(breaks);
        if self.peek() != Some(b':') {
            return Err(self.unexpected("':'"));
        }
        self.pos += 1;
        self.space_and_breaks(breaks);
        Ok(())
    }

    fn literal(&mut self, literal: &'static [u8]) -> Result<(), Fault> {
        let rest = self.bytes.get(self.pos..).unwrap_or_default();
        if !rest.starts_with(literal) {
            return Err(self.unexpected("a value"));
        }
        self.pos += literal.len();
        Ok(())
    }

    /// A number by JSON's grammar.
    #[inline]
    fn number(&mut self) -> Result<(), Fault> {
        self.pos += usize::from(self.peek() == Some(b'-'));
        if self.peek() == Some(b'0') {
            self.pos += 1;
        } else {
            self.digits()?;
        }
        if self.peek() == Some(b'.') {
            self.pos += 1;
            self.digits()?;
        }
        if let Some(b'e' | b'E') = self.peek() {
            self.pos += 1;
            self.pos += usize::from(matches!(self.peek(), Some(b'+' | b'-')));
            self.digits()?;
        }
        Ok(())
    }

    /// A whole number, saturating at the maximum: digits, and perhaps a fraction of zeros, as `5.0` is 5 in JSON; `None`
    /// for anything else.
    #[inline]
    pub(crate) fn whole_number(&mut self) -> Option<u64> {
        let from = self.pos;
        let mut number = 0_u64;
        while let Some(digit @ b'0'..=b'9') = self.peek() {
            number = number.saturating_mul(10).saturating_add(u64::from(digit - b'0'));
            self.pos += 1;
        }
        let mut is_whole = !matches!(self.since(from), [] | [b'0', _, ..]);
        if self.peek() == Some(b'.') {
            let point = self.pos;
            self.pos += 1;
            while self.peek() == Some(b'0') {
                self.pos += 1;
            }
            is_whole &= self.pos > point + 1 && !matches!(self.peek(), Some(b'1'..=b'9'));
        }
        is_whole &= !matches!(self.peek(), Some(b'e' | b'E'));
        is_whole.then_some(number)
    }

    #[inline(always)]
    fn digits(&mut self) -> Result<(), Fault> {
        let from = self.pos;
        while let Some(b'0'..=b'9') = self.peek() {
            self.pos += 1;
        }
        if self.pos == from {
            return Err(self.unexpected("a digit"));
        }
        Ok(())
    }
}

/// The position, from `at` on, of the next quote, backslash or control character; the length, if there is none.
#[inline(always)]
fn next_special(bytes: &[u8], mut at: usize) -> usize {
    const ONES: u64 = u64::MAX / 255;
    const HIGH: u64 = ONES * 0x80;
    while let Some(chunk) = bytes.get(at..).and_then(<[u8]>::first_chunk::<8>) {
        let word = u64::from_le_bytes(*chunk);
        // In each term the high bit marks a special byte; a borrow can set wrong bits only above a right one.
        let quote = word ^ (ONES * b'"' as u64);
        let backslash = word ^ (ONES * b'\\' as u64);
        let hits = (quote.wrapping_sub(ONES) & !quote
            | backslash.wrapping_sub(ONES) & !backslash
            | word.wrapping_sub(ONES * 0x20) & !word)
            & HIGH;
        if hits != 0 {
            return at + hits.trailing_zeros() as usize / 8;
        }
        at += 8;
    }
    while let Some(&byte) = bytes.get(at) {
        if byte == b'"' || byte == b'\\' || byte < 0x20 {
            break;
        }
        at += 1;
    }
    at
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Whether all of `text` is one value without white space around it.
    fn is_value(text: &[u8]) -> bool {
        let mut scanner = Scanner::new(text);
        scanner.value().is_ok() && scanner.position() == text.len()
    }

    fn decode(text: &str) -> Result<Vec<u8>, Fault> {
        let text = Scanner::new(text.as_bytes()).string("a string")?;
        text.decode().map(Cow::into_owned)
    }

    #[test]
    fn json_is_accepted_and_anything_else_is_refused() {
        let good = r#"0 -0 10 -1.5 1e9 1E+9 0.0e-0 123456789012345678901234567890 true false null "" [] {} [1] [1,2]
            {"a":1} "\u0000\"\/" [[[[]]],[{"a":[{}]}]] "\ud800""#;
        let spaced = ["[ ]", "{ }", r#"{"a" : [ {} , [ ] ] , "b":null}"#];
        let characters = ["\"\u{7f}\u{e9}\u{10ffff}\""];
        for good in good.split_whitespace().chain(spaced).chain(characters) {
            assert!(is_value(good.as_bytes()), "{good}");
        }
        let bad = r#"- 01 1. .5 +1 1e 1e+ NaN Infinity -Infinity tru True nul 'a' " "\" "\x" "\u12g4" "\u12" [ [1 [1, [1,]
            [,1] { {"a" {"a": {"a":1 {"a":1, {"a":1,} {a:1} {1:1} {"a",1} [} {] [1} {"a":1] ] } , : /**/1 0x10 1_000 [1]]
            {"a":{}]"#;
        let spaced = ["", "\"\n\"", "\"\0\"", "[1 2]", r#"{"a" 1}"#, "\u{feff}1"];
        for bad in bad.split_whitespace().chain(spaced) {
            assert!(!is_value(bad.as_bytes()), "{bad}");
        }
    }

    #[test]
    fn nesting_is_bounded_and_needs_no_stack() {
        let nested = |depth: usize| [b"[".repeat(depth), b"]".repeat(depth)].concat();
        assert!(is_value(&nested(MAX_DEPTH)));
        assert!(!is_value(&nested(MAX_DEPTH + 1)));
        assert!(!is_value(&b"[".repeat(10_000_000)));
        assert!(!is_value(&b"{\"a\":".repeat(1_000_000)));
        let pairs = |close: &[u8]| {
            [
                &b"[{\"a\":".repeat(MAX_DEPTH / 2),
                &b"1"[..],
                &close.repeat(MAX_DEPTH / 2),
            ]
            .concat()
        };
        assert!(is_value(&pairs(b"}]")));
        assert!(!is_value(&pairs(b"]}")));
    }

    #[test]
    fn escapes_mean_what_json_says() {
        for (text, decoded) in [
            (r#""a\u00e9\n\r\t\b\f\/\\\"z""#, "a\u{e9}\n\r\t\u{8}\u{c}/\\\"z"),
            (r#""\ud83d\ude00!""#, "\u{1f600}!"),
            (r#""\uD83D\uDE00""#, "\u{1f600}"),
            (r#""\u0000""#, "\0"),
        ] {
            assert_eq!(decode(text).unwrap(), decoded.as_bytes());
        }
    }

    #[test]
    fn half_a_surrogate_pair_is_no_character() {
        let lone = r#""\ud800" "\udc00" "\ud800\ud800" "\ud800x" "\ud800\n" "\ud800\u0041""#;
        for lone in lone.split(' ') {
            assert!(decode(lone).is_err(), "{lone}");
        }
    }

    #[test]
    fn line_breaks_between_tokens_are_reported_and_those_around_the_value_are_not() {
        let breaks = |text: &str| Scanner::new(text.as_bytes()).value().unwrap();
        assert!(!breaks("\n{\"a\": [1,\t2]}\n") && !breaks("\"a\\n\""));
        let broken =
            "{\n} [\r] [1\n] [1,\n2] {\"a\"\n:1} {\"a\":\n1} {\"a\":1\r\n} [[\n]] {\"a\":1,\n\"b\":2}";
        for text in broken.split(' ') {
            assert!(breaks(text), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn the_next_special_byte_is_found_wherever_it_stands(bytes in prop::collection::vec(any::<u8>(), 0..40), at in 0_usize..40) {
            let at = at.min(bytes.len());
            let expected = bytes[at..].iter().position(|b| *b == b'"' || *b == b'\\' || *b < 0x20).map_or(bytes.len(), |n| at + n);
            prop_assert_eq!(next_special(&bytes, at), expected);
        }

        #[test]
        fn exactly_the_json_that_serde_json_reads_is_accepted(text in "[\\[\\]{}\",:0-9a-f\\\\ue.+\\- \\ntrlsn]{0,24}") {
            let theirs = serde_json::from_str::<&serde_json::value::RawValue>(&text).is_ok();
            let mut scanner = Scanner::new(text.as_bytes());
            let ours = scanner.value().and_then(|_| scanner.end()).is_ok();
            prop_assert_eq!(ours, theirs, "{}", text);
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            let mut scanner = Scanner::new(&bytes);
            let _ = scanner.value();
            let _ = Scanner::new(&bytes).string("a string").and_then(Text::decode);
        }

        #[test]
        fn strings_decode_as_serde_json_decodes_them(text in any::<String>()) {
            let json = serde_json::to_string(&text).unwrap();
            prop_assert_eq!(decode(&json).unwrap(), text.as_bytes());
        }
    }
}
