//! TLS of the listener: the certificate, its key, and the authorities of client certificates.
//!
//! The three files are read at the start, where anything wrong stops it. Later they are read every [`INTERVAL`], and
//! compared by content, because Kubernetes swaps symbolic links, and neither names nor times say that a file is another
//! one. If what they hold fits together, new connections use it; if not, the old stays in force and the log says
//! why, once. Open connections go on with what they began with.
//!
//! A client need not have a certificate, so that probes work without. If it shows one, it must come from
//! `tls_client_ca`, else the handshake fails. Sessions are not resumed where client certificates are checked: a resumed
//! one would be believed after its certificate has expired.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use parking_lot::{Mutex, RwLock};
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::{RootCertStore, ServerConfig};
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;

use super::certificate::expiry_ms;
use crate::metrics::Metrics;
use crate::settings::Config;

/// How often the files are looked at.
const INTERVAL: Duration = Duration::from_secs(10);

/// What the listener needs to speak TLS.
pub(super) struct Tls {
    files: Files,
    /// What the files held when they were last read, or why they could not be read. Held while they are read, so that
    /// two readers take turns.
    seen: Mutex<Seen>,
    /// In force for new connections; replaced whole.
    config: RwLock<Arc<ServerConfig>>,
    metrics: Arc<Metrics>,
}

#[derive(Clone)]
struct Files {
    cert: PathBuf,
    key: PathBuf,
    client_ca: Option<PathBuf>,
}

#[derive(PartialEq, Eq)]
struct Contents {
    cert: Vec<u8>,
    key: Vec<u8>,
    client_ca: Option<Vec<u8>>,
}

impl Files {
    /// # Errors
    /// A message that names the file.
    fn read(&self) -> Result<Contents, String> {
        Ok(Contents {
            cert: read("tls_cert", &self.cert)?,
            key: read("tls_key", &self.key)?,
            client_ca: match &self.client_ca {
                Some(path) => Some(read("tls_client_ca", path)?),
                None => None,
            },
        })
    }
}

#[allow(clippy::disallowed_methods, reason = "settings are no storage")]
fn read(setting: &str, path: &PathBuf) -> Result<Vec<u8>, String> {
    let read = std::fs::read(path);
    read.map_err(|error| format!("cannot read {setting}, {}: {error}", path.display()))
}

impl Contents {
    /// What these files say, and when the server's certificate expires, in milliseconds since the epoch.
    ///
    /// # Errors
    /// A message that names the setting whose file is wrong.
    fn build(&self) -> Result<(ServerConfig, i64), String> {
        let chain = certificates("tls_cert", &self.cert)?;
        let key = PrivateKeyDer::from_pem_slice(&self.key);
        let key = key.map_err(|error| format!("tls_key has no private key in PEM: {error}"))?;
        let expires_ms =
            expiry_ms(&chain[0]).map_err(|error| format!("tls_cert is no certificate: {error}"))?;
        let provider = Arc::new(ring::default_provider());
        let verifier = match &self.client_ca {
            None => WebPkiClientVerifier::no_client_auth(),
            Some(pem) => {
                let mut roots = RootCertStore::empty();
                for certificate in certificates("tls_client_ca", pem)? {
                    let added = roots.add(certificate);
                    added.map_err(|error| {
                        format!("tls_client_ca has a certificate that cannot be used: {error}")
                    })?;
                }
                let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), provider.clone());
                let verifier = verifier.allow_unauthenticated().build();
                verifier.map_err(|error| format!("tls_client_ca cannot be used: {error}"))?
            }
        };
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("the provider has the cipher suites of both versions")
            .with_client_cert_verifier(verifier)
            .with_single_cert(chain, key);
        let mut config = config.map_err(|error| match error {
            rustls::Error::InconsistentKeys(_) => {
                "tls_key is not the key of the certificate in tls_cert".to_owned()
            }
            error => format!("tls_cert and tls_key cannot be used: {error}"),
        })?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        if self.client_ca.is_some() {
            config.session_storage = Arc::new(NoServerSessionStorage {});
            config.send_tls13_tickets = 0;
        }
        Ok((config, expires_ms))
    }
}

/// The certificates in a PEM file, at least one.
fn certificates(setting: &str, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let all = all.map_err(|error| format!("{setting} is not PEM: {error}"))?;
    match all.is_empty() {
        true => Err(format!("{setting} has no certificate in PEM")),
        false => Ok(all),
    }
}

/// The last look at the files.
struct Seen {
    found: Result<Contents, String>,
    /// Whether what they held is used, and not what they held before.
    is_in_force: bool,
}

impl Tls {
    /// What the settings say; `None` without a certificate. Blocks on the files.
    ///
    /// # Errors
    /// A message for the operator.
    pub(super) fn load(config: &Config, metrics: Arc<Metrics>) -> Result<Option<Self>, String> {
        let (Some(cert), Some(key)) = (config.tls_cert.clone(), config.tls_key.clone()) else {
            return Ok(None);
        };
        let files = Files {
            cert,
            key,
            client_ca: config.tls_client_ca.clone(),
        };
        let contents = files.read()?;
        let (built, expires_ms) = contents.build()?;
        metrics.certificate_expires_ms.store(expires_ms, Relaxed);
        Ok(Some(Self {
            files,
            seen: Mutex::new(Seen {
                found: Ok(contents),
                is_in_force: true,
            }),
            config: RwLock::new(Arc::new(built)),
            metrics,
        }))
    }

    /// For the next handshake.
    pub(super) fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(self.config.read().clone())
    }

    /// Reads the files again, and takes what they hold if it is new and fits together. Returns whether what they hold is in
    /// force now. Blocks on the files.
    pub(super) fn reload(&self) -> bool {
        let mut seen = self.seen.lock();
        let found = self.files.read();
        if seen.found == found {
            return seen.is_in_force;
        }
        let built = match &found {
            Ok(contents) => contents.build(),
            Err(error) => Err(error.clone()),
        };
        let is_in_force = built.is_ok();
        match built {
            Ok((config, expires_ms)) => {
                *self.config.write() = Arc::new(config);
                self.metrics.certificate_expires_ms.store(expires_ms, Relaxed);
                tracing::info!(expires_ms, "new connections use the new certificate");
            }
            Err(error) => tracing::error!(error, "the old certificate stays in force"),
        }
        *seen = Seen { found, is_in_force };
        is_in_force
    }
}

/// Looks at the files until the server stops.
pub(super) async fn watch(tls: Arc<Tls>, mut stopping: watch::Receiver<bool>) {
    loop {
        tokio::select! {
            () = tokio::time::sleep(INTERVAL) => {}
            // An error means that the server is gone, which also ends this task.
            _ = stopping.wait_for(|stopping| *stopping) => return,
        }
        let tls = tls.clone();
        // It logs what is wrong itself.
        let _ = tokio::task::spawn_blocking(move || tls.reload()).await;
    }
}

/// The answer to plain HTTP on a port that speaks TLS.
pub(super) const PLAIN_HTTP: &str = "HTTP/1.1 400 Bad Request\r\ncontent-type: text/plain; charset=utf-8\r\n\
    cache-control: no-store\r\nconnection: close\r\ncontent-length: 55\r\n\r\n\
    this port speaks TLS: use https:// instead of http://\r\n";

/// Whether a connection's first byte is that of a request in plain HTTP, and not of a TLS handshake.
pub(super) fn is_plain_http(first: u8) -> bool {
    first.is_ascii_alphabetic()
}

/// What a failed handshake is logged as.
pub(super) fn log_failure(error: &io::Error) {
    tracing::debug!(%error, "a TLS handshake failed");
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "the files are real")]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_renewed_certificate_is_noticed_by_itself() {
        let dir = tempfile::tempdir().unwrap();
        let renew = |year| {
            let mut params = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
            params.not_after = rcgen::date_time_ymd(year, 1, 1);
            let key = rcgen::KeyPair::generate().unwrap();
            let certificate = params.self_signed(&key).unwrap();
            std::fs::write(dir.path().join("cert.pem"), certificate.pem()).unwrap();
            std::fs::write(dir.path().join("key.pem"), key.serialize_pem()).unwrap();
        };
        renew(2080);
        let config = Config {
            tls_cert: Some(dir.path().join("cert.pem")),
            tls_key: Some(dir.path().join("key.pem")),
            ..Config::default()
        };
        let metrics = Arc::new(Metrics::new());
        let tls = Arc::new(Tls::load(&config, metrics.clone()).unwrap().unwrap());
        let (stop, stopping) = watch::channel(false);
        let watching = tokio::spawn(watch(tls.clone(), stopping));
        let before = (
            tls.acceptor().config().clone(),
            metrics.certificate_expires_ms.load(Relaxed),
        );
        renew(2081);
        // The clock of the test goes on whenever all tasks wait.
        while metrics.certificate_expires_ms.load(Relaxed) == before.1 {
            tokio::time::sleep(INTERVAL).await;
        }
        assert!(metrics.certificate_expires_ms.load(Relaxed) > before.1);
        let now = tls.acceptor().config().clone();
        assert!(!Arc::ptr_eq(&now, &before.0));
        // What has not changed makes nothing new, so sessions can still be resumed.
        tls.reload();
        assert!(Arc::ptr_eq(&now, tls.acceptor().config()));
        stop.send_replace(true);
        watching.await.unwrap();
    }
}
