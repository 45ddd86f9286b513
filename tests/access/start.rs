//! What a server with tokens needs to start.

use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::support::{Server, contains};
use crate::world::{ADMIN, SMALL, World, rule};

/// Runs a server that must not start; returns the line that says why.
#[track_caller]
fn refusal(flags: &str, settings: &[(&str, &str)]) -> String {
    let dir = tempfile::tempdir().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_quipu"));
    command.env_clear().envs(settings.iter().copied());
    command
        .args(["serve", "--listen", "127.0.0.1:0", "--data"])
        .arg(dir.path().join("data"));
    command.args(SMALL.split(' ')).args(flags.split_whitespace());
    let output = command.stdin(Stdio::null()).output().expect("the binary runs");
    assert!(!output.status.success() && output.stdout.is_empty(), "{output:?}");
    String::from_utf8(output.stderr).expect("text")
}

#[test]
fn a_server_that_nobody_could_sign_in_to_does_not_start() {
    contains(&refusal("--auth tokens", &[]), "nobody could sign in");
    let tokens = ("QUIPU_AUTH", "tokens");
    for wrong in ["short", "with a space", "ümläute-überall"] {
        let line = refusal("", &[tokens, ("QUIPU_ADMIN_TOKEN", wrong)]);
        contains(&line, "8 to 256 visible ASCII characters");
        assert!(!line.contains(wrong), "{line}");
    }
    let both = [
        tokens,
        ("QUIPU_ADMIN_TOKEN", ADMIN),
        ("QUIPU_ADMIN_TOKEN_FILE", "x"),
    ];
    contains(&refusal("", &both), "choose one");
    contains(
        &refusal("--auth tokens --admin-token-file /nothing/there", &[]),
        "cannot read",
    );
    contains(&refusal("--auth token", &[]), "none or tokens");
}

#[test]
fn tokens_outlive_a_restart_and_are_enough_to_start() {
    let world = World::new();
    world.topic("orders", 1);
    let mine = world.token("mine", json!([rule("read", "orders", "")]));
    let other = world.token("other", json!([rule("read", "orders", "")]));
    world.admin("DELETE", "/v1/tokens/other", &Value::Null);
    let world = world.restart();
    let at = "/v1/topics/orders/partitions/0/records?offset=0";
    assert_eq!(world.get(&mine, at).status, 200);
    world.get(&other, at).problem(401, "unauthenticated");
    let world_dir = world.dir;
    world.server.stop();
    let data = world_dir.path().join("data");
    let server = Server::start_with_flags(&data, SMALL, &[("QUIPU_AUTH", "tokens")]);
    let mut connection = server.connect();
    let headers = crate::world::bearer(&mine);
    let answer = connection.request_with("GET", at, "", &headers, b"").unwrap();
    assert_eq!(answer.status, 200);
    // The administrator's token is a setting, and gone with it.
    let answer = connection
        .request_with("GET", at, "", &crate::world::bearer(ADMIN), b"")
        .unwrap();
    assert_eq!(answer.status, 401);
    // Nothing of a secret is in the data, and nothing in the log.
    let secret = mine.strip_prefix("quipu_").expect("a prefix");
    let mut left = vec![data.clone()];
    while let Some(dir) = left.pop() {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => left.push(path),
                false => {
                    let bytes = std::fs::read(&path).unwrap();
                    let found = bytes
                        .windows(secret.len())
                        .any(|window| window == secret.as_bytes());
                    assert!(!found, "{}", path.display());
                }
            }
        }
    }
    assert!(!server.log().contains(secret) && !server.log().contains(ADMIN));
}

#[test]
fn a_file_has_the_administrators_token() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("token");
    std::fs::write(&file, format!("{ADMIN}\n")).unwrap();
    let flags = format!("{SMALL} --auth tokens --admin-token-file {}", file.display());
    let server = Server::start_with_flags(&dir.path().join("data"), &flags, &[]);
    let headers = crate::world::bearer(ADMIN);
    let answer = server
        .connect()
        .request_with("GET", "/v1/tokens", "", &headers, b"")
        .unwrap();
    assert_eq!(answer.ok(), json!({"tokens": []}));
}

#[test]
fn without_auth_everybody_is_everything_and_what_they_present_is_not_looked_at() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start_with_flags(&dir.path().join("data"), SMALL, &[]);
    server.create_topic("orders", 1);
    assert_eq!(
        server.get("/v1/me"),
        json!({"auth": "none", "principal": null, "rules": [], "expires": null})
    );
    let mut connection = server.connect();
    let answer = connection.request_with("GET", "/v1/topics", "", "Authorization: Bearer x\r\n", b"");
    assert_eq!(answer.unwrap().status, 200);
    // Tokens can be made before anybody needs one.
    let body = json!({"name": "a", "rules": [{"allow": ["admin"]}]}).to_string();
    server.expect(201, "POST", "/v1/tokens", "application/json", body.as_bytes());
}
