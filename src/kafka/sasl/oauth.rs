//! The message of OAUTHBEARER (RFC 7628): a GS2 header, then key-value pairs that are separated by bytes 1.

/// Separates the pairs.
const SEPARATOR: char = '\u{1}';

/// The name that the client wants to act as, if it says so, and its JWT. `None`: it is no such message.
pub(super) fn read(message: &str) -> Option<(Option<&str>, &str)> {
    let pairs = message.strip_suffix(SEPARATOR)?.strip_suffix(SEPARATOR)?;
    let (header, pairs) = pairs.split_once(SEPARATOR)?;
    let (binding, name) = header.strip_suffix(',')?.split_once(',')?;
    // A client without channel binding, or one that thinks that this server has none.
    if !["n", "y"].contains(&binding) {
        return None;
    }
    let name = match name.strip_prefix("a=") {
        Some(name) => Some(name),
        None if name.is_empty() => None,
        None => return None,
    };
    let mut values = pairs
        .split(SEPARATOR)
        .filter_map(|pair| pair.strip_prefix("auth="));
    let (value, None) = (values.next()?, values.next()) else {
        return None;
    };
    let (scheme, token) = value.split_once(' ')?;
    let token = token.trim_matches(' ');
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then_some((name, token))
}

#[cfg(test)]
mod tests {
    use super::read;

    #[test]
    fn the_token_stands_in_the_pair_auth() {
        assert_eq!(read("n,,\u{1}auth=Bearer a.b.c\u{1}\u{1}"), Some((None, "a.b.c")));
        let whole = "y,a=me,\u{1}host=h\u{1}port=1\u{1}auth=bearer a.b.c\u{1}\u{1}";
        assert_eq!(read(whole), Some((Some("me"), "a.b.c")));
        for wrong in [
            "",
            "\u{1}\u{1}",
            "n,,\u{1}\u{1}",
            "n,,\u{1}auth=Bearer a.b.c\u{1}",
            "n,,auth=Bearer a.b.c\u{1}\u{1}",
            "p=tls-unique,,\u{1}auth=Bearer a.b.c\u{1}\u{1}",
            "n,me,\u{1}auth=Bearer a.b.c\u{1}\u{1}",
            "n,,\u{1}auth=Basic a.b.c\u{1}\u{1}",
            "n,,\u{1}auth=Bearer \u{1}\u{1}",
            "n,,\u{1}auth=Bearer a\u{1}auth=Bearer b\u{1}\u{1}",
        ] {
            assert_eq!(read(wrong), None, "{wrong:?}");
        }
    }
}
