//! The container image: what its Dockerfile sets and runs, without building it.

use std::path::Path;

use rcgen::{CertificateParams, KeyPair};

use crate::{Running, quipu};

/// An address that no other process of these tests uses: all of 127.0.0.0/8 is this machine.
fn address(last: u8) -> String {
    let process = std::process::id();
    format!("127.{}.{}.{last}:27420", 1 + (process >> 8) % 250, process & 0xff)
}

/// Writes a certificate for a name that is not this machine's, and its key: `tls.crt`, `tls.key`.
fn certify(dir: &Path) {
    let key = KeyPair::generate().expect("a key");
    let params = CertificateParams::new(vec!["quipu.example".to_owned()]).expect("a name");
    let certificate = params.self_signed(&key).expect("a certificate");
    std::fs::write(dir.join("tls.crt"), certificate.pem()).expect("a file");
    std::fs::write(dir.join("tls.key"), key.serialize_pem()).expect("a file");
}

#[test]
fn health_asks_the_server_that_the_environment_describes_over_tls_too() {
    let dir = tempfile::tempdir().expect("a directory");
    certify(dir.path());
    let at = |name: &str| dir.path().join(name).display().to_string();
    let settings = [
        ("QUIPU_DATA", at("data")),
        ("QUIPU_LISTEN", address(1)),
        ("QUIPU_TLS_CERT", at("tls.crt")),
        ("QUIPU_TLS_KEY", at("tls.key")),
    ];
    let health = |args: &[&str]| {
        let mut command = quipu(&["health"]);
        command.args(args).envs(settings.clone()).env("HOME", dir.path());
        let output = command.output().expect("it runs");
        let err = String::from_utf8_lossy(&output.stderr).into_owned();
        (output.status.code(), err)
    };
    let (code, err) = health(&[]);
    assert_eq!(code, Some(1), "{err}");
    assert!(err.contains("connection refused"), "{err}");
    let server = Running::start(quipu(&["serve"]).envs(settings.clone()));
    assert_eq!(health(&[]), (Some(0), String::new()));
    assert_eq!(health(&["--for", "writes"]), (Some(0), String::new()));
    // Whoever is named is verified.
    let (code, err) = health(&["--server", &server.url]);
    assert_eq!(code, Some(1), "{err}");
    assert!(err.contains("certificate"), "{err}");

    // The same by a file.
    let file = at("quipu.toml");
    let [listen, cert, key] = [1, 2, 3].map(|at: usize| &settings[at].1);
    let text = format!("listen = {listen:?}\ntls_cert = {cert:?}\ntls_key = {key:?}\n");
    std::fs::write(&file, text).expect("a file");
    let output = quipu(&["health", "--config", &file]).output().expect("it runs");
    assert!(output.status.success(), "{output:?}");
    server.stop();
}
