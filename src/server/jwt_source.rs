//! Where the keys for JWTs come from: a file, or a URL of the issuer.
//!
//! They are read at the start, again every [`FILE_INTERVAL`] or [`URL_INTERVAL`], by which a key that the issuer takes back
//! stops being accepted, on SIGHUP, and when a token names an unknown key. A file that cannot be used stops the start; an
//! issuer that does not answer yet stops nothing.

use std::io::Read as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustls::crypto::ring;
use tokio::sync::watch;
use ureq::tls::{Certificate, RootCerts, TlsConfig};

use crate::broker::access::verify::{Claims, Verified, Verifier};
use crate::broker::engine::{Clock, TimestampMs};
use crate::broker::jwt::keys::{Keys, MAX_SET_BYTES, Source};
use crate::broker::jwt::{Checked, Jwts};
use crate::settings::Config;

/// How often a file is read again.
const FILE_INTERVAL: Duration = Duration::from_secs(10);
/// How often a URL is read again.
const URL_INTERVAL: Duration = Duration::from_secs(600);
/// How long the issuer has to answer.
const TIMEOUT: Duration = Duration::from_secs(10);

/// The issuer that the settings name.
pub(super) struct Issuer {
    jwts: Jwts,
    keys: Arc<Keys>,
    is_url: bool,
}

impl Issuer {
    /// What the settings say; `None` without an issuer. Blocks on a file, and on nothing else.
    ///
    /// # Errors
    /// A message for the operator: the file cannot be used.
    pub(super) fn open(config: &Config, clock: Arc<dyn Clock>) -> Result<Option<Self>, String> {
        let (Some(issuer), Some(audience), Some(source)) = (
            config.jwt_issuer.clone(),
            config.jwt_audience.clone(),
            config.jwt_keys.clone(),
        ) else {
            return Ok(None);
        };
        let is_url = is_url(&source);
        let keys = match is_url {
            true => Keys::new(url(source), clock),
            false => {
                let keys = Keys::new(file(source.clone()), clock);
                keys.open()
                    .map_err(|error| format!("jwt_keys, {source}: {error}"))?;
                keys
            }
        };
        let keys = Arc::new(keys);
        Ok(Some(Self {
            jwts: Jwts::new(issuer, audience, keys.clone()),
            keys,
            is_url,
        }))
    }

    /// Reads the keys again; returns whether they could be read. Blocks.
    pub(super) fn read(&self) -> bool {
        // It logs its errors itself.
        self.keys.read().is_ok()
    }

    /// Reads the keys again and again until the server stops; those of a URL for the first time now.
    pub(super) async fn watch(self: Arc<Self>, mut stopping: watch::Receiver<bool>) {
        let interval = match self.is_url {
            true => {
                self.keys.ask().await;
                URL_INTERVAL
            }
            false => FILE_INTERVAL,
        };
        loop {
            tokio::select! {
                () = tokio::time::sleep(interval) => {}
                // An error means that the server is gone, which also ends this task.
                _ = stopping.wait_for(|stopping| *stopping) => return,
            }
            let issuer = self.clone();
            let _ = tokio::task::spawn_blocking(move || issuer.read()).await;
        }
    }
}

impl Verifier for Issuer {
    fn verify<'a>(&'a self, token: &'a str, now: TimestampMs) -> Verified<'a> {
        Box::pin(async move {
            let Checked { claims, expires, key } = self.jwts.check(token, now).await?;
            Ok(Claims { claims, expires, key })
        })
    }
}

fn is_url(setting: &str) -> bool {
    setting.starts_with("https://") || setting.starts_with("http://")
}

#[allow(clippy::disallowed_methods, reason = "settings are no storage")]
fn file(path: String) -> Source {
    Box::new(move || {
        let mut set = Vec::new();
        let file = std::fs::File::open(Path::new(&path)).map_err(|error| error.to_string())?;
        let read = file.take(MAX_SET_BYTES + 1).read_to_end(&mut set);
        read.map_err(|error| error.to_string())?;
        within_bounds(set)
    })
}

fn url(url: String) -> Source {
    let roots = rustls_native_certs::load_native_certs().certs;
    let roots: Vec<_> = roots
        .iter()
        .map(|root| Certificate::from_der(root).to_owned())
        .collect();
    let tls = TlsConfig::builder()
        .unversioned_rustls_crypto_provider(Arc::new(ring::default_provider()))
        .root_certs(RootCerts::new_with_certs(&roots))
        .build();
    let agent = ureq::Agent::config_builder()
        .tls_config(tls)
        // A redirect could lead to where nobody has looked.
        .max_redirects(0)
        .max_redirects_will_error(true)
        .proxy(None)
        .user_agent(concat!("quipu/", env!("CARGO_PKG_VERSION")))
        .timeout_global(Some(TIMEOUT))
        .build()
        .new_agent();
    Box::new(move || {
        let answer = agent.get(&url).header("accept", "application/json").call();
        let answer = answer.map_err(|error| error.to_string())?;
        if answer.status() != http::StatusCode::OK {
            return Err(format!("{url} answers {}", answer.status()));
        }
        let mut set = Vec::new();
        let body = answer.into_body().into_reader();
        let read = body.take(MAX_SET_BYTES + 1).read_to_end(&mut set);
        read.map_err(|error| error.to_string())?;
        within_bounds(set)
    })
}

fn within_bounds(set: Vec<u8>) -> Result<Vec<u8>, String> {
    match set.len() as u64 > MAX_SET_BYTES {
        true => Err(format!("the set of keys is larger than {MAX_SET_BYTES} bytes")),
        false => Ok(set),
    }
}
