//! The commands against servers with TLS.

use std::path::Path;
use std::process::{Command, Output, Stdio};

use crate::authority::{Authority, write};
use crate::open::{started, temporary};
use crate::secure::Secure;
use crate::support::contains;

/// Runs a command whose configuration is in `home`, with the standard input given.
fn quipu(home: &Path, args: &str, settings: &[(&str, &str)]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_quipu"));
    command
        .env_clear()
        .env("HOME", home)
        .envs(settings.iter().copied());
    command.args(args.split_whitespace()).stdin(Stdio::null());
    command.output().expect("the binary runs")
}

#[track_caller]
fn works(home: &Path, args: &str, settings: &[(&str, &str)]) -> String {
    let output = quipu(home, args, settings);
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{args}: {text}");
    String::from_utf8(output.stdout).expect("text")
}

#[track_caller]
fn fails(home: &Path, args: &str, settings: &[(&str, &str)], code: i32, why: &str) {
    let output = quipu(home, args, settings);
    let text = String::from_utf8(output.stderr).expect("text");
    assert_eq!(output.status.code(), Some(code), "{args}: {text}");
    assert_eq!(text.lines().count(), 1, "{text}");
    contains(&text, why);
}

#[test]
fn commands_speak_tls_with_the_authority_of_a_flag_the_environment_or_a_context() {
    let secure = Secure::start();
    let home = temporary();
    let (ca, server) = (
        secure.ca_file(),
        format!("https://localhost:{}", secure.address().port()),
    );
    let ca = ca.display().to_string();
    let flags = format!("--server {server} --ca-file {ca}");
    let settings = [("QUIPU_SERVER", &*server), ("QUIPU_CA_FILE", &*ca)];
    works(
        home.path(),
        &format!("topic create t --partitions 2 {flags}"),
        &[],
    );
    let records: String = (0..100).map(|n| format!("{{\"value\":{n}}}\n")).collect();
    let file = write(home.path(), "records.ndjson", &records);
    works(home.path(), &format!("produce t {}", file.display()), &settings);
    // A stream, and a group's loop of polls.
    for command in ["consume t --raw", "consume t --raw --group g"] {
        let printed = works(home.path(), command, &settings);
        assert_eq!(printed.lines().count(), 100, "{command}");
    }
    works(home.path(), &format!("context set c {flags}"), &[]);
    works(home.path(), "context use c", &[]);
    contains(&works(home.path(), "topic list", &[]), "t");
    // A replay to an address trusts the same authority.
    let to = format!("{server}/v1/topics/t/records");
    works(
        home.path(),
        &format!("replay t --from 2013-01-01 --to {to} {flags}"),
        &[],
    );
    secure.stop();
}

#[test]
fn what_is_wrong_with_a_certificate_is_said_in_one_line() {
    let secure = Secure::start();
    let home = temporary();
    let list = |server: &str, ca: &Path| format!("topic list --server {server} --ca-file {}", ca.display());
    let server = format!("https://localhost:{}", secure.address().port());
    let ca = secure.ca_file();
    works(home.path(), &list(&server, &ca), &[]);
    let other = write(home.path(), "other.pem", &Authority::new("another authority").pem);
    let unknown = "its certificate comes from an authority that is not trusted here; --ca-file";
    fails(home.path(), &list(&server, &other), &[], 1, unknown);
    fails(
        home.path(),
        &format!("topic list --server {server}"),
        &[],
        1,
        unknown,
    );
    // At once, and not after trying again for half a minute.
    let records = write(home.path(), "records.ndjson", "{}\n");
    let produce = format!("produce t {} --server {server}", records.display());
    fails(home.path(), &produce, &[], 1, unknown);
    let (http, https) = (server.replace("https", "http"), "it speaks TLS: use https://");
    fails(home.path(), &format!("topic list --server {http}"), &[], 1, https);

    secure.replace(&secure.authority.sign_with(&["quipu.example"], |_| {}));
    secure.reload();
    let name = "its certificate is not for localhost, but for quipu.example";
    fails(home.path(), &list(&server, &ca), &[], 1, name);
    secure.replace(&secure.authority.sign_expired());
    secure.reload();
    fails(
        home.path(),
        &list(&server, &ca),
        &[],
        1,
        "its certificate has expired",
    );
    secure.stop();

    let (_dir, plain) = started("");
    let server = format!("https://{}", plain.address);
    let no_tls = "it does not speak TLS there; try http://";
    fails(home.path(), &list(&server, &other), &[], 1, no_tls);
    plain.stop();
}

#[test]
fn a_client_certificate_is_shown_if_it_is_given() {
    let clients = Authority::new("the clients' authority");
    let secure = Secure::with(|config, dir| {
        config.tls_client_ca = Some(write(dir, "clients.pem", &clients.pem));
    });
    let home = temporary();
    let server = format!("https://localhost:{}", secure.address().port());
    let list = format!(
        "topic list --server {server} --ca-file {}",
        secure.ca_file().display()
    );
    let good = clients.sign();
    let foreign = Authority::new("another authority").sign();
    for (name, pair) in [("good", &good), ("foreign", &foreign)] {
        write(home.path(), &format!("{name}.pem"), &pair.cert);
        write(home.path(), &format!("{name}.key"), &pair.key);
    }
    let file = |name: &str| home.path().join(name).display().to_string();
    let with = |cert: &str, key: &str| format!("{list} --cert {} --cert-key {}", file(cert), file(key));
    works(home.path(), &list, &[]);
    works(home.path(), &with("good.pem", "good.key"), &[]);
    let (cert, key) = (file("good.pem"), file("good.key"));
    let settings = [("QUIPU_CERT", &*cert), ("QUIPU_CERT_KEY", &*key)];
    works(home.path(), &list, &settings);
    let refused = "it does not accept the certificate that --cert names";
    fails(home.path(), &with("foreign.pem", "foreign.key"), &[], 1, refused);
    let wrong = "cannot be used";
    fails(home.path(), &with("good.pem", "foreign.key"), &[], 2, wrong);
    fails(home.path(), &with("good.pem", "good.pem"), &[], 2, wrong);
    let no_certificate = "has no certificate in PEM";
    fails(home.path(), &with("good.key", "good.key"), &[], 2, no_certificate);
    let both = "--cert and --cert-key belong together";
    fails(home.path(), &format!("{list} --cert {cert}"), &[], 2, both);
    secure.stop();
}
