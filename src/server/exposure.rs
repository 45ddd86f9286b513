//! Which addresses the server may listen on, given who has to sign in and where TLS ends.
//!
//! Loopback is open to the users of this machine, whatever the settings. Beyond it, tokens must be asked for, and must
//! not travel in plain text. `insecure` lifts that and nothing else.

use crate::settings::{Config, TlsEnd};

/// Whether the server may listen on the addresses of these settings.
///
/// # Errors
/// The message for the operator: what is missing, and what to set. Nothing must be opened then.
pub(super) fn check(config: &Config) -> Result<(), String> {
    let mut all = [Some(config.listen), config.kafka_listen].into_iter().flatten();
    let open = all.find(|listen| !listen.ip().to_canonical().is_loopback());
    let Some(listen) = open.filter(|_| !config.insecure) else {
        return Ok(());
    };
    let remedy = match (config.asks_for_tokens(), config.tls) {
        (false, _) => {
            "nobody would have to sign in there: set auth=tokens, and tls_cert with tls_key or tls=proxy with trusted_proxies"
        }
        (true, TlsEnd::Proxy) if config.trusted_proxies.is_empty() => {
            "tls=proxy needs the addresses of the proxies: set trusted_proxies"
        }
        (true, TlsEnd::Here) if !config.has_certificate() => {
            "tokens would travel there in plain text: set tls_cert and tls_key, or tls=proxy and trusted_proxies if a proxy in front has TLS"
        }
        (true, _) => return Ok(()),
    };
    Err(format!(
        "will not listen on {listen}, which is not a loopback address: {remedy}; or listen on 127.0.0.1, or accept the risk with --insecure"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PROXY: &str = "tls=proxy needs the addresses of the proxies";
    const PLAIN: &str = "tokens would travel there in plain text";

    #[test]
    fn tokens_travel_only_under_tls() {
        for (has_certificate, behind, proxies, expected) in [
            (true, false, false, None),
            (true, false, true, None),
            (false, true, true, None),
            (false, true, false, Some(PROXY)),
            (false, false, false, Some(PLAIN)),
            (false, false, true, Some(PLAIN)),
        ] {
            let set = |config: &mut Config| {
                config.auth = crate::settings::Auth::Tokens;
                config.tls_cert = has_certificate.then(|| "cert.pem".into());
                config.tls = if behind { TlsEnd::Proxy } else { TlsEnd::Here };
                config
                    .trusted_proxies
                    .extend(proxies.then(|| "10.0.0.0/8".to_owned()));
            };
            let found = found("0.0.0.0:1", set);
            match expected {
                None => assert_eq!(found, Ok(())),
                Some(why) => assert!(found.as_ref().is_err_and(|said| said.contains(why)), "{found:?}"),
            }
        }
    }

    fn found(listen: &str, set: impl FnOnce(&mut Config)) -> Result<(), String> {
        let mut config = Config {
            listen: listen.parse().unwrap(),
            ..Config::default()
        };
        set(&mut config);
        check(&config)
    }

    #[test]
    fn the_address_for_kafka_is_held_to_the_same_rule() {
        let open = |config: &mut Config| config.kafka_listen = "0.0.0.0:9092".parse().ok();
        let refusal = found("127.0.0.1:1", open).unwrap_err();
        assert!(
            refusal.starts_with("will not listen on 0.0.0.0:9092"),
            "{refusal}"
        );
        let insecure = |config: &mut Config| {
            open(config);
            config.insecure = true;
        };
        assert_eq!(found("127.0.0.1:1", insecure), Ok(()));
        let here = |config: &mut Config| config.kafka_listen = "127.0.0.1:9092".parse().ok();
        assert_eq!(found("127.0.0.1:1", here), Ok(()));
    }

    #[test]
    fn without_sign_in_only_loopback_is_listened_on() {
        for loopback in ["127.0.0.1:1", "127.9.9.9:1", "[::1]:1", "[::ffff:127.0.0.1]:1"] {
            assert_eq!(found(loopback, |_| {}), Ok(()), "{loopback}");
        }
        for open in [
            "0.0.0.0:1",
            "[::]:1",
            "192.0.2.1:1",
            "[::ffff:0.0.0.0]:1",
            "[2001:db8::1]:1",
        ] {
            let refusal = found(open, |_| {}).unwrap_err();
            let begin = format!(
                "will not listen on {open}, which is not a loopback address: nobody would have to sign in"
            );
            assert!(refusal.starts_with(&begin), "{refusal}");
            assert_eq!(found(open, |config| config.insecure = true), Ok(()), "{open}");
            let behind_a_proxy = |config: &mut Config| {
                config.tls = TlsEnd::Proxy;
                config.trusted_proxies = vec!["10.0.0.0/8".to_owned()];
            };
            assert!(found(open, behind_a_proxy).is_err(), "{open}");
        }
    }
}
