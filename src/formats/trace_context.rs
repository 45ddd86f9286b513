//! Trace contexts: the value of `traceparent` (W3C Trace Context, level 1).

/// A place in a trace: one span of somebody.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceContext {
    /// The trace; never all zeros.
    pub trace_id: [u8; 16],
    /// The span; never all zeros.
    pub span_id: [u8; 8],
    /// Whether its maker records it.
    pub is_sampled: bool,
}

impl TraceContext {
    /// Reads `00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01`. Of later versions the same fields are read, as the
    /// standard asks. `None` for anything else.
    #[must_use]
    pub fn parse(text: &[u8]) -> Option<Self> {
        let (fields, rest) = text.split_at_checked(55)?;
        let is_version_0 = fields.starts_with(b"00");
        let may_follow = rest.is_empty() || (!is_version_0 && rest[0] == b'-');
        let dashes = [fields[2], fields[35], fields[52]];
        if !may_follow || dashes != [b'-'; 3] || fields.starts_with(b"ff") {
            return None;
        }
        let [_version] = hex(&fields[..2])?;
        let [flags] = hex(&fields[53..])?;
        let (trace_id, span_id) = (hex(&fields[3..35])?, hex(&fields[36..52])?);
        (trace_id != [0; 16] && span_id != [0; 8]).then_some(Self {
            trace_id,
            span_id,
            is_sampled: flags & 1 == 1,
        })
    }
}

/// Bytes from lower-case hexadecimal digits.
fn hex<const N: usize>(digits: &[u8]) -> Option<[u8; N]> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn the_example_of_the_standard_is_read() {
        let context = TraceContext::parse(TEXT.as_bytes()).unwrap();
        assert_eq!(context.trace_id[..3], [0x4b, 0xf9, 0x2f]);
        assert_eq!(context.span_id, [0, 0xf0, 0x67, 0xaa, 0x0b, 0xa9, 0x02, 0xb7]);
        assert!(context.is_sampled);
        let unsampled = TEXT.replace("-01", "-02");
        assert!(!TraceContext::parse(unsampled.as_bytes()).unwrap().is_sampled);
        let later = format!("01{}-more", &TEXT[2..]);
        assert_eq!(TraceContext::parse(later.as_bytes()), Some(context));
    }

    #[test]
    fn what_is_not_a_trace_context_is_none() {
        for wrong in [
            "",
            "00",
            &TEXT[..54],
            &format!("{TEXT}-more"),
            &format!("{TEXT}0"),
            &TEXT.replace("4bf9", "4BF9"),
            &TEXT.replace("00-4", "ff-4"),
            &TEXT.replace("00-4", "0g-4"),
            &TEXT.replace("4bf92f3577b34da6a3ce929d0e0e4736", &"0".repeat(32)),
            &TEXT.replace("00f067aa0ba902b7", &"0".repeat(16)),
            &TEXT.replace("-01", "-0x"),
            &TEXT.replace("-00f", "_00f"),
        ] {
            assert_eq!(TraceContext::parse(wrong.as_bytes()), None, "{wrong}");
        }
    }
}
