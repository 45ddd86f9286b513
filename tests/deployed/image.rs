//! The container image: what its Dockerfile sets and runs, without building it.

use std::io::{Read as _, Write as _};
use std::path::Path;

use rcgen::{CertificateParams, KeyPair};

use crate::{Running, is_setting, quipu, read};

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

const DOCKERFILE: &str = "deploy/Dockerfile";

/// The Dockerfile's instructions, each in one line, without comments.
fn instructions() -> Vec<(String, String)> {
    let text = read(DOCKERFILE);
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let joined = lines.collect::<Vec<_>>().join("\n").replace("\\\n", " ");
    let instructions = joined.lines().filter_map(|line| line.split_once(' '));
    let owned = |(name, rest): (&str, &str)| {
        (
            name.to_owned(),
            rest.split_whitespace().collect::<Vec<_>>().join(" "),
        )
    };
    instructions.map(owned).collect()
}

/// What follows an instruction, each time that it is there, in the last stage.
fn last_stage(name: &str) -> Vec<String> {
    let all = instructions();
    let begin = all.iter().rposition(|(name, _)| name == "FROM").expect("a stage");
    let named = all[begin..].iter().filter(|(found, _)| found == name);
    named.map(|(_, rest)| rest.clone()).collect()
}

/// The words of `["a", "b"]`.
fn words(list: &str) -> Vec<String> {
    serde_json::from_str(list).unwrap_or_else(|error| panic!("{list}: {error}"))
}

fn environment() -> Vec<(String, String)> {
    let variables = last_stage("ENV").join(" ");
    let pairs = variables
        .split(' ')
        .map(|pair| pair.split_once('=').expect("NAME=value"));
    pairs
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect()
}

#[test]
fn the_image_is_small_has_no_root_and_never_runs_open_to_all() {
    assert_eq!(last_stage("FROM"), ["scratch"]);
    let user = last_stage("USER").join(" ");
    let ids: Vec<u32> = user.split(':').map(|id| id.parse().expect("a number")).collect();
    assert!(ids.len() == 2 && !ids.contains(&0), "{user}");
    let text = read(DOCKERFILE);
    let code = text.lines().filter(|line| !line.starts_with('#'));
    let code: String = code.map(|line| format!("{line}\n")).collect();
    assert!(
        !code.to_lowercase().contains("insecure"),
        "it must never be set in the image"
    );
    for (name, value) in environment() {
        assert!(is_setting(&name), "{name}={value}");
    }
    let is_set = |name: &str, value: &str| environment().contains(&(name.to_owned(), value.to_owned()));
    assert!(is_set("QUIPU_AUTH", "tokens") && is_set("QUIPU_ON_LOG_FAILED", "exit"));
    let volumes = words(&last_stage("VOLUME")[0]);
    assert!(is_set("QUIPU_DATA", &volumes[0]), "{volumes:?}");
    assert_eq!(last_stage("EXPOSE"), ["7420", "9092"]);
}

#[test]
fn the_command_of_the_image_starts_with_its_secrets_and_is_healthy_and_without_them_it_ends() {
    let [start, run] = ["ENTRYPOINT", "CMD"].map(|name| words(&last_stage(name)[0]));
    let command: Vec<&str> = start.iter().chain(&run).map(String::as_str).collect();
    assert_eq!(command[0], "/usr/bin/quipu");
    let check = last_stage("HEALTHCHECK").join(" ");
    let (_, check) = check.split_once("CMD ").expect("a command");
    let check = words(check);
    assert_eq!(check[..2], ["/usr/bin/quipu", "health"]);

    let dir = tempfile::tempdir().expect("a directory");
    let here = |path: &str| {
        dir.path()
            .join(path.trim_start_matches('/'))
            .display()
            .to_string()
    };
    let settings: Vec<(String, String)> = environment()
        .into_iter()
        .map(|(name, value)| {
            let value = match &*name {
                // Listens on all addresses, at a port of its own.
                "QUIPU_LISTEN" => value.replace(":7420", &format!(":{}", free_port())),
                _ if value.starts_with('/') => here(&value),
                _ => value,
            };
            (name, value)
        })
        .collect();
    let arguments: Vec<&str> = command[1..].to_vec();
    let refused = quipu(&arguments)
        .envs(settings.clone())
        .output()
        .expect("it runs");
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    assert!(refused.stdout.is_empty(), "{refused:?}");

    let secrets = std::path::PathBuf::from(here("/run/secrets/quipu"));
    std::fs::create_dir_all(&secrets).expect("a directory");
    certify(&secrets);
    std::fs::write(secrets.join("admin-token"), "the-first-administrators-token\n").expect("a file");
    let server = Running::start(quipu(&arguments).envs(settings.clone()));
    assert!(server.url.starts_with("https://0.0.0.0:"), "{}", server.url);
    let arguments: Vec<&str> = check[1..].iter().map(String::as_str).collect();
    let health = quipu(&arguments).envs(settings).output().expect("it runs");
    assert!(health.status.success(), "{health:?}");
    server.stop();
}

#[test]
fn kafka_clients_are_served_over_tls_by_the_two_variables_that_the_page_names() {
    let page = read("docs/operate/install.md");
    let page = page.split_whitespace().collect::<Vec<_>>().join(" ");
    let listen = page.split_once("-e QUIPU_KAFKA_LISTEN=").expect("the variable").1;
    let listen = listen.split(' ').next().expect("a value");
    let ours = listen.replace("9092", &free_port().to_string());
    assert_ne!(ours, listen);
    assert!(
        page.contains("-p 9092:9092 -e QUIPU_KAFKA_LISTEN") && page.contains("-e QUIPU_KAFKA_ADVERTISE=")
    );

    let dir = tempfile::tempdir().expect("a directory");
    certify(dir.path());
    let at = |name: &str| dir.path().join(name).display().to_string();
    let mut command = quipu(&["serve"]);
    command
        .env("QUIPU_DATA", at("data"))
        .env("QUIPU_LISTEN", address(2))
        .env("QUIPU_AUTH", "tokens")
        .env("QUIPU_ADMIN_TOKEN", "the-first-administrators-token")
        .env("QUIPU_TLS_CERT", at("tls.crt"))
        .env("QUIPU_TLS_KEY", at("tls.key"))
        .env("QUIPU_KAFKA_LISTEN", &ours)
        .env("QUIPU_KAFKA_ADVERTISE", "quipu.example:9092");
    let server = Running::start(&mut command);
    let port = ours.rsplit(':').next().expect("a port");
    let mut stream = std::net::TcpStream::connect(format!("127.0.0.1:{port}")).expect("it listens");
    // ApiVersions without TLS is not answered: an alert of TLS, or the end.
    let request = [0, 0, 0, 10, 0, 18, 0, 0, 0, 0, 0, 1, 0xff, 0xff];
    stream.write_all(&request).expect("it is sent");
    let mut answer = Vec::new();
    let _reset_or_end = stream.read_to_end(&mut answer);
    assert!(answer.is_empty() || answer[0] == 21, "{answer:?}");
    server.stop();
}

/// A port that nobody uses now. (Addresses of one's own are no help where a server listens on all of them.)
fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("0.0.0.0:0").expect("a port");
    listener.local_addr().expect("an address").port()
}
