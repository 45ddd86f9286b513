//! The message of PLAIN (RFC 4616): `[authorization id] NUL name NUL password`.

/// The name and the token. `None`: it is no such message, or wants to act for somebody else.
pub(super) fn read(message: &str) -> Option<(&str, &str)> {
    let mut parts = message.split('\0');
    let (acts_for, name, token) = (parts.next()?, parts.next()?, parts.next()?);
    let is_whole = parts.next().is_none() && !name.is_empty() && !token.is_empty();
    (is_whole && (acts_for.is_empty() || acts_for == name)).then_some((name, token))
}

#[cfg(test)]
mod tests {
    use super::read;

    #[test]
    fn a_message_has_three_parts_and_acts_for_nobody_else() {
        assert_eq!(read("\0u\0t"), Some(("u", "t")));
        assert_eq!(read("u\0u\0t"), Some(("u", "t")));
        for wrong in ["", "\0", "\0u", "\0\0t", "\0u\0", "v\0u\0t", "\0u\0t\0", "u t"] {
            assert_eq!(read(wrong), None, "{wrong:?}");
        }
    }
}
