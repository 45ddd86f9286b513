//! The messages of SCRAM (RFC 5802).
//!
//! ```text
//! client  n,,n=NAME,r=CLIENT_NONCE
//! server  r=CLIENT_NONCE SERVER_NONCE,s=SALT,i=ITERATIONS
//! client  c=GS2_HEADER,r=CLIENT_NONCE SERVER_NONCE,p=PROOF
//! server  v=SIGNATURE
//! ```
//!
//! The proof and the signature are made over the client's first message without its header, the server's first and the
//! client's last without the proof, with commas between. There is no channel binding.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};

use crate::broker::access::scram::{Challenge, Hash};
use crate::broker::access::{Access, Failure, secret};
use crate::broker::rights::grant::Grant;

/// A client that was asked for its proof.
#[derive(Debug)]
pub(crate) struct Asked {
    hash: Hash,
    name: String,
    challenge: Challenge,
    /// The header of its first message.
    header: String,
    client_nonce: String,
    /// Both nonces, one after the other.
    nonce: String,
    /// The first messages, as they count for the proof.
    messages: String,
}

/// A client's first message.
#[derive(Debug, PartialEq, Eq)]
struct First<'a> {
    header: &'a str,
    bare: &'a str,
    name: String,
    nonce: &'a str,
}

fn read_first(message: &str) -> Option<First<'_>> {
    let mut parts = message.splitn(3, ',');
    let (binding, acts_for, bare) = (parts.next()?, parts.next()?, parts.next()?);
    // A client without channel binding, or one that thinks that this server has none.
    if !["n", "y"].contains(&binding) {
        return None;
    }
    let mut fields = bare.split(',');
    let name = unescape(fields.next()?.strip_prefix("n=")?)?;
    let nonce = fields.next()?.strip_prefix("r=")?;
    let acts_as_itself =
        acts_for.is_empty() || acts_for.strip_prefix("a=").and_then(unescape).as_ref() == Some(&name);
    let is_printable = nonce.bytes().all(|byte| byte.is_ascii_graphic());
    (acts_as_itself && !name.is_empty() && !nonce.is_empty() && is_printable).then_some(First {
        header: &message[..message.len() - bare.len()],
        bare,
        name,
        nonce,
    })
}

/// A name, in which `=2C` stands for a comma and `=3D` for an equals sign.
fn unescape(text: &str) -> Option<String> {
    let mut parts = text.split('=');
    let mut name = parts.next()?.to_owned();
    for part in parts {
        let (sign, rest) = match (part.strip_prefix("2C"), part.strip_prefix("3D")) {
            (Some(rest), _) => (',', rest),
            (_, Some(rest)) => ('=', rest),
            _ => return None,
        };
        name.push(sign);
        name.push_str(rest);
    }
    Some(name)
}

/// Answers a client's first message.
pub(super) fn first(access: &Access, hash: Hash, message: &str) -> Result<(Vec<u8>, Asked), Failure> {
    let first = read_first(message).ok_or(Failure::Wrong)?;
    let bytes: [u8; 18] = secret::random().map_err(|_| Failure::Wrong)?;
    let nonce = format!("{}{}", first.nonce, URL_SAFE_NO_PAD.encode(bytes));
    Ok(ask(access, hash, &first, nonce))
}

fn ask(access: &Access, hash: Hash, first: &First<'_>, nonce: String) -> (Vec<u8>, Asked) {
    let challenge = access.scram_challenge(hash, &first.name);
    let salt = STANDARD.encode(&challenge.salt);
    let answer = format!("r={nonce},s={salt},i={}", challenge.iterations);
    let asked = Asked {
        hash,
        name: first.name.clone(),
        challenge,
        header: first.header.to_owned(),
        client_nonce: first.nonce.to_owned(),
        nonce,
        messages: format!("{},{answer}", first.bare),
    };
    (answer.into_bytes(), asked)
}

/// Answers a client's last message.
pub(super) fn last(access: &Access, asked: &Asked, message: &str) -> Result<(Vec<u8>, Arc<Grant>), Failure> {
    let (unproven, proof) = message.rsplit_once(",p=").ok_or(Failure::Wrong)?;
    let proof = STANDARD.decode(proof).map_err(|_| Failure::Wrong)?;
    let mut fields = unproven.split(',');
    let header = fields.next().and_then(|field| field.strip_prefix("c="));
    let nonce = fields.next().and_then(|field| field.strip_prefix("r="));
    let (Some(header), Some(nonce)) = (header, nonce) else {
        return Err(Failure::Wrong);
    };
    let is_header = STANDARD
        .decode(header)
        .is_ok_and(|bytes| bytes == asked.header.as_bytes());
    // librdkafka before 2.1 repeats its own nonce before that of the answer, and makes its proof over what it sends: it has
    // the server's nonce all the same, so nothing old can be sent again.
    let is_nonce = nonce == asked.nonce || nonce.strip_prefix(&*asked.client_nonce) == Some(&asked.nonce);
    if !is_header || !is_nonce {
        return Err(Failure::Wrong);
    }
    let signed = format!("{},{unproven}", asked.messages);
    let proven = access.scram(
        asked.hash,
        &asked.name,
        &asked.challenge,
        signed.as_bytes(),
        &proof,
    )?;
    let answer = format!("v={}", STANDARD.encode(&proven.signature));
    Ok((answer.into_bytes(), proven.grant))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_first_message_names_the_client_and_has_a_nonce() {
        let first = read_first("n,,n=a=2Cb=3D,r=x0!").unwrap();
        assert_eq!(
            (first.header, first.bare, &*first.name, first.nonce),
            ("n,,", "n=a=2Cb=3D,r=x0!", "a,b=", "x0!")
        );
        assert!(read_first("y,a=u,n=u,r=x,tokenauth=true").is_some());
        for wrong in [
            "",
            "n,,",
            "n,,n=u",
            "n,,r=x,n=u",
            "n,,n=,r=x",
            "n,,n=u,r=",
            "n,,n=u=2,r=x",
            "n,,n=u=2c,r=x",
            "n,a=v,n=u,r=x",
            "n,u,n=u,r=x",
            "p=tls-unique,,n=u,r=x",
            "n,,m=x,n=u,r=x",
            "n,,n=u,r=a b",
        ] {
            assert_eq!(read_first(wrong), None, "{wrong:?}");
        }
    }
}
