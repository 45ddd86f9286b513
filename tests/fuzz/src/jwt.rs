//! JSON Web Tokens, and the sets of keys that sign them.
//!
//! The one key here has signed the one token here. So a token that is found to be signed has the signed text, byte for
//! byte. A set of keys of any bytes never lets an unsigned token pass: at least one of its keys would have to fit.

use quipu::broker::jwt::fuzzing::is_signed;

use super::input::Input;

/// The example of RFC 8037, appendix A: a key, and what it has signed.
const KEYS: &str =
    r#"{"keys":[{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}"#;
const TOKEN: &str = "eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc.\
    hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg";

pub fn run(data: &[u8]) {
    assert_eq!(is_signed(KEYS.as_bytes(), TOKEN), Some(true));
    let mut input = Input::new(data);
    match input.u8() % 4 {
        // Any text.
        0 => check(&String::from_utf8_lossy(input.rest())),
        // The signed token with some bytes changed.
        1 => {
            let mut token = TOKEN.as_bytes().to_vec();
            let bytes = input.rest();
            for change in bytes.chunks_exact(3).take(4) {
                let at = usize::from(u16::from_le_bytes([change[0], change[1]])) % token.len();
                token[at] = change[2] & 0x7f;
            }
            check(&String::from_utf8_lossy(&token));
        }
        // The signed token with a part replaced.
        2 => {
            let which = usize::from(input.u8() % 3);
            let part = String::from_utf8_lossy(input.rest());
            let mut parts: Vec<&str> = TOKEN.split('.').collect();
            parts[which] = &part;
            check(&parts.join("."));
        }
        // Any set of keys.
        _ => {
            let set = input.rest();
            let signed = is_signed(set, TOKEN) == Some(true);
            let is_there =
                String::from_utf8_lossy(set).contains("11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo");
            // A name may be written with escapes, and a key's text too: then it is there all the same.
            assert!(!signed || is_there || set.contains(&b'\\'));
        }
    }
}

fn check(token: &str) {
    let signed = is_signed(KEYS.as_bytes(), token) == Some(true);
    assert_eq!(signed, token == TOKEN, "{token}");
}
