//! What a certificate says about its holder.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;
use x509_cert::Certificate;
use x509_cert::der::{Decode as _, Error};
use x509_cert::ext::pkix::SubjectAltName;
use x509_cert::ext::pkix::name::GeneralName;

use crate::broker::engine::TimestampMs;
use crate::broker::rights::grant::Certificate as Presented;

/// When a certificate expires, in milliseconds since the epoch.
///
/// # Errors
/// It is no certificate.
pub(super) fn expiry_ms(certificate: &CertificateDer<'_>) -> Result<i64, Error> {
    let certificate = Certificate::from_der(certificate)?;
    let not_after = certificate.tbs_certificate().validity().not_after;
    Ok(i64::try_from(not_after.to_unix_duration().as_millis()).unwrap_or(i64::MAX))
}

/// What a client's certificate says.
///
/// # Errors
/// It is no certificate.
fn read(der: &CertificateDer<'_>) -> Result<Presented, Error> {
    let expires = TimestampMs(expiry_ms(der)?);
    let certificate = Certificate::from_der(der)?;
    let certificate = certificate.tbs_certificate();
    let alternative = certificate.get_extension::<SubjectAltName>()?;
    let alternative = alternative.map_or_else(Vec::new, |(_, SubjectAltName(names))| names);
    Ok(Presented {
        expires,
        subject: certificate.subject().to_string(),
        names: alternative.iter().filter_map(text_of).collect(),
    })
}

/// The certificate that a client has presented, which the handshake has verified.
pub(super) fn of_client(stream: &TlsStream<TcpStream>) -> Option<Arc<Presented>> {
    let own = stream.get_ref().1.peer_certificates()?.first()?;
    match read(own) {
        Ok(certificate) => Some(Arc::new(certificate)),
        Err(error) => {
            tracing::debug!(%error, "a client's certificate cannot be read, so it signs nobody in");
            None
        }
    }
}

/// A name as text; `None` for the kinds that have no text of their own.
fn text_of(name: &GeneralName) -> Option<String> {
    match name {
        GeneralName::DnsName(text)
        | GeneralName::Rfc822Name(text)
        | GeneralName::UniformResourceIdentifier(text) => Some(text.as_str().to_owned()),
        GeneralName::IpAddress(address) => {
            let bytes = address.as_bytes();
            let four = <[u8; 4]>::try_from(bytes).map(|bytes| Ipv4Addr::from(bytes).to_string());
            let sixteen = || <[u8; 16]>::try_from(bytes).map(|bytes| Ipv6Addr::from(bytes).to_string());
            four.or_else(|_| sixteen()).ok()
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use rcgen::string::Ia5String;
    use rcgen::{CertificateParams, DnType, KeyPair, SanType, date_time_ymd};

    use super::*;

    #[test]
    fn all_names_of_a_certificate_are_text() {
        let mut params = CertificateParams::default();
        params.not_after = date_time_ymd(2050, 1, 1);
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CountryName, "CH");
        params
            .distinguished_name
            .push(DnType::OrganizationName, "Example, Inc.");
        params.distinguished_name.push(DnType::CommonName, "billing");
        let text = |text: &str| Ia5String::try_from(text).unwrap();
        params.subject_alt_names = vec![
            SanType::DnsName(text("billing.example")),
            SanType::Rfc822Name(text("billing@example.org")),
            SanType::URI(text("spiffe://example.org/billing")),
            SanType::IpAddress([192, 0, 2, 7].into()),
            SanType::IpAddress("2001:db8::7".parse().unwrap()),
        ];
        let certificate = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
        let found = read(certificate.der()).unwrap();
        assert_eq!(found.subject, "CN=billing,O=Example\\, Inc.,C=CH");
        let alternative =
            "billing.example billing@example.org spiffe://example.org/billing 192.0.2.7 2001:db8::7";
        assert_eq!(found.names.join(" "), alternative);
        assert_eq!(found.expires.get(), 2_524_608_000_000);
    }

    #[test]
    fn no_name_can_be_written_such_that_it_is_anothers() {
        let subject = |parts: &[(DnType, &str)]| {
            let mut params = CertificateParams::default();
            params.distinguished_name = rcgen::DistinguishedName::new();
            for (kind, text) in parts {
                params.distinguished_name.push(kind.clone(), *text);
            }
            let certificate = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
            read(certificate.der()).unwrap().subject
        };
        let honest = subject(&[
            (DnType::OrganizationName, "Example"),
            (DnType::CommonName, "billing"),
        ]);
        assert_eq!(honest, "CN=billing,O=Example");
        for text in [
            "billing,O=Example",
            "billing+O=Example",
            "billing\\,O=Example",
            "billing;O=Example",
            "\"billing\",O=Example",
            "#0c07",
            " billing",
            "billing ",
            "billing\0",
        ] {
            let found = subject(&[(DnType::CommonName, text)]);
            assert!(found != honest && found != "CN=billing", "{found}");
            // What has a meaning of its own in the text is escaped.
            let plain = found.replace("\\\\", "").replace("\\,", "").replace("\\+", "");
            assert!(!plain.contains([',', '+']), "{found}");
        }
        let hex = subject(&[(DnType::CommonName, "#0c07")]);
        assert!(hex.starts_with("CN=\\#") || hex.starts_with("CN=#0c05"), "{hex}");
    }

    #[test]
    fn a_certificate_without_names_has_none_and_junk_is_no_certificate() {
        let params = CertificateParams::default();
        let certificate = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
        assert!(read(certificate.der()).unwrap().names.is_empty());
        let bytes = certificate.der();
        for cut in [0, 1, bytes.len() / 2, bytes.len() - 1] {
            let cut = CertificateDer::from(bytes[..cut].to_vec());
            assert!(read(&cut).is_err() && expiry_ms(&cut).is_err());
        }
    }
}
