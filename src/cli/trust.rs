//! TLS of the client: whose certificates it trusts, and the certificate that it shows.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{AlertDescription, CertificateError};
use ureq::tls::{Certificate, ClientCert, PrivateKey, RootCerts, TlsConfig};

use super::Usage;

/// The files that a command was given for TLS. Without any it trusts what the operating system trusts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Trust {
    /// Certificates of authorities in PEM; only these are trusted then.
    pub(crate) ca_file: Option<PathBuf>,
    /// The client's own certificate chain and its key, in PEM.
    pub(crate) cert: Option<PathBuf>,
    pub(crate) key: Option<PathBuf>,
    /// Whether any certificate will do: only for a server on this machine that is sent no secret.
    pub(crate) any: bool,
}

impl Trust {
    /// How connections are made to servers with `https://`. Reads the files.
    /// Errors: [`Usage`] for a file that cannot be read or has not what it should have.
    pub(crate) fn config(&self) -> Result<TlsConfig, Usage> {
        let provider = Arc::new(ring::default_provider());
        if self.any {
            let config = TlsConfig::builder().unversioned_rustls_crypto_provider(provider);
            return Ok(config.disable_verification(true).build());
        }
        let roots = match &self.ca_file {
            Some(path) => certificates("--ca-file", path)?,
            // Errors are of single files there: what could be read is trusted.
            None => rustls_native_certs::load_native_certs().certs,
        };
        let certificate = |der: &CertificateDer<'_>| Certificate::from_der(der).to_owned();
        let roots: Vec<_> = roots.iter().map(certificate).collect();
        let own = match (&self.cert, &self.key) {
            (None, None) => None,
            (Some(cert), Some(key)) => {
                let (chain, key_pem) = (certificates("--cert", cert)?, read("--cert-key", key)?);
                let wrong = |error: &dyn std::fmt::Display| {
                    let (cert, key) = (cert.display(), key.display());
                    Usage(format!(
                        "--cert {cert} and --cert-key {key} cannot be used: {error}"
                    ))
                };
                let der = PrivateKeyDer::from_pem_slice(&key_pem).map_err(|error| wrong(&error))?;
                // A pair that does not fit would be noticed only when a server asks for it.
                rustls::sign::CertifiedKey::from_der(chain.clone(), der, &provider)
                    .map_err(|error| wrong(&error))?;
                let key = PrivateKey::from_pem(&key_pem).map_err(|error| wrong(&error))?;
                let chain: Vec<_> = chain.iter().map(certificate).collect();
                Some(ClientCert::new_with_certs(&chain, key))
            }
            _ => {
                return Err(Usage(
                    "--cert and --cert-key belong together: give both or neither".to_owned(),
                ));
            }
        };
        let config = TlsConfig::builder()
            .unversioned_rustls_crypto_provider(provider)
            .root_certs(RootCerts::new_with_certs(&roots))
            .client_cert(own);
        Ok(config.build())
    }
}

fn read(flag: &str, path: &Path) -> Result<Vec<u8>, Usage> {
    fs::read(path).map_err(|error| Usage(format!("cannot read {flag} {}: {error}", path.display())))
}

/// The certificates in a PEM file, at least one.
fn certificates(flag: &str, path: &Path) -> Result<Vec<CertificateDer<'static>>, Usage> {
    let pem = read(flag, path)?;
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    match all {
        Ok(all) if !all.is_empty() => Ok(all),
        _ => Err(Usage(format!(
            "{flag} {} has no certificate in PEM",
            path.display()
        ))),
    }
}

/// Why TLS with the server fails, for the user; `None`: it is not TLS that has failed.
pub(crate) fn explain(error: &ureq::Error) -> Option<String> {
    let error = match error {
        ureq::Error::Rustls(error) => error,
        ureq::Error::Io(error) => error.get_ref()?.downcast_ref::<rustls::Error>()?,
        _ => return None,
    };
    Some(match error {
        rustls::Error::InvalidCertificate(wrong) => explain_certificate(wrong),
        rustls::Error::InvalidMessage(_) => {
            "it does not speak TLS there; try http:// instead of https://".to_owned()
        }
        rustls::Error::AlertReceived(alert) => match alert {
            AlertDescription::BadCertificate
            | AlertDescription::CertificateExpired
            | AlertDescription::CertificateRevoked
            | AlertDescription::CertificateUnknown
            | AlertDescription::DecryptError
            | AlertDescription::UnknownCA
            | AlertDescription::UnsupportedCertificate => {
                format!("it does not accept the certificate that --cert names ({alert:?})")
            }
            _ => format!("it refuses the TLS handshake ({alert:?})"),
        },
        other => format!("TLS fails: {other}"),
    })
}

fn explain_certificate(wrong: &CertificateError) -> String {
    match wrong {
        CertificateError::UnknownIssuer => {
            "its certificate comes from an authority that is not trusted here; --ca-file names the certificate of one that is".to_owned()
        }
        CertificateError::NotValidForName => "its certificate is for another name".to_owned(),
        CertificateError::NotValidForNameContext { expected, presented } => {
            let names = match presented.is_empty() {
                true => "no name".to_owned(),
                false => presented.iter().map(|name| bare(name)).collect::<Vec<_>>().join(", "),
            };
            format!("its certificate is not for {}, but for {names}", expected.to_str())
        }
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            "its certificate has expired".to_owned()
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            "its certificate is not valid yet; is the clock of this machine right?".to_owned()
        }
        other => format!("its certificate is not valid: {other}"),
    }
}

/// A name of a certificate without the kind that is written around it, as in `DnsName("localhost")`.
fn bare(name: &str) -> &str {
    let inner = name.split_once('(').and_then(|(_, rest)| rest.strip_suffix(')'));
    inner.map_or(name, |inner| inner.trim_matches('"'))
}
