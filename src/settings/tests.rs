//! Tests of the settings: where they come from, what is refused, and with which words.

use std::time::Duration;

use super::*;
use crate::broker::limits::Limits;

fn load(file: Option<&str>, env: &[(&str, &str)], flags: &[(&str, &str)]) -> Result<Config, ConfigError> {
    let env = env.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned()));
    let flags: Vec<_> = flags.iter().map(|(n, v)| (*n, (*v).to_owned())).collect();
    Config::load(file.map(|text| ("quipu.toml", text)), env, &flags)
}

fn refusal(file: Option<&str>, env: &[(&str, &str)], flags: &[(&str, &str)]) -> String {
    load(file, env, flags).unwrap_err().to_string()
}

#[test]
fn flags_beat_the_environment_which_beats_the_file_which_beats_the_default() {
    let file = "max_connections = 1\nmax_partitions = 2\nmax_key_bytes = 3\n";
    let env = [
        ("QUIPU_MAX_PARTITIONS", "4"),
        ("QUIPU_MAX_KEY_BYTES", "5"),
        ("HOME", "/root"),
    ];
    let config = load(Some(file), &env, &[("max_key_bytes", "6")]).unwrap();
    assert_eq!(config.limits.max_connections, 1);
    assert_eq!(config.limits.max_partitions, 4);
    assert_eq!(config.limits.max_key_bytes, 6);
    assert_eq!(config.limits.max_header_bytes, Limits::default().max_header_bytes);
}

#[test]
fn an_unknown_key_in_the_file_is_named_with_its_line_and_the_nearest_setting() {
    let error = refusal(Some("data = \"x\"\n\nmax_conections = 5\n"), &[], &[]);
    let expected = "quipu.toml line 3: max_conections is not a setting; did you mean max_connections?";
    assert_eq!(error, expected);
    let error = refusal(Some("[other]\ncert = \"x\"\n"), &[], &[]);
    let expected = "quipu.toml line 1: other is not a setting; settings are data, listen";
    assert!(error.starts_with(expected), "{error}");
}

#[test]
fn an_unknown_variable_is_named_and_those_of_others_are_left_alone() {
    let error = refusal(None, &[("QUIPU_LISTN", "x")], &[]);
    let holds = error.contains("QUIPU_LISTN") && error.contains("did you mean listen?");
    assert!(holds, "{error}");
    // The last ones Kubernetes sets where Services are named quipu and quipu-lab.
    let others = "QUIPU_SERVER QUIPU_TOKEN QUIPU_CONTEXT QUIPU_TEST_DIR QUIPU_SEED QUIPU_PORT QUIPU_PORT_7420_TCP \
        QUIPU_PORT_7420_TCP_PROTO QUIPU_SERVICE_HOST QUIPU_SERVICE_PORT QUIPU_SERVICE_PORT_HTTP \
        QUIPU_LAB_PORT_7420_TCP_ADDR QUIPU_LAB_SERVICE_HOST";
    let value = |name| (name, "tcp://10.0.0.7:7420");
    let others: Vec<_> = others.split(' ').map(value).collect();
    assert!(load(None, &others, &[]).is_ok());
    for typo in [
        "QUIPU_PORT",
        "QUIPU_LISTEN_PORT",
        "QUIPU_PORT_7420",
        "QUIPU_SERVICE",
    ] {
        assert!(refusal(None, &[(typo, "7420")], &[]).contains(typo));
    }
}

#[test]
fn a_wrong_value_names_the_setting_what_was_found_and_what_is_allowed() {
    let error = refusal(Some("log_format = \"xml\""), &[], &[]);
    let expected = "quipu.toml line 1: log_format is \"xml\", but it must be text or json";
    assert_eq!(error, expected);
    let error = refusal(None, &[("QUIPU_MAX_CONNECTIONS", "many")], &[]);
    let holds = error.contains("QUIPU_MAX_CONNECTIONS") && error.contains("\"many\"");
    assert!(holds, "{error}");
    assert!(error.contains("a whole number from 1 to 1000000"), "{error}");
    let error = refusal(None, &[], &[("listen", "localhost")]);
    assert!(error.starts_with("--listen: listen is \"localhost\""), "{error}");
    let connections = ["\"5\"", "5.0", "-5"].map(|wrong| format!("max_connections = {wrong}"));
    for wrong in connections.into_iter().chain(["data = 3".to_owned()]) {
        let error = load(Some(&wrong), &[], &[]).unwrap_err();
        assert!(matches!(error, ConfigError::Value { .. }), "{wrong}: {error}");
    }
}

#[test]
fn a_file_that_is_not_toml_is_named_with_the_line() {
    let error = refusal(Some("data = \"x\"\nlisten = \n"), &[], &[]);
    assert!(error.starts_with("quipu.toml line 2: "), "{error}");
}

#[test]
fn values_that_do_not_go_together_are_refused() {
    let error = refusal(None, &[], &[("max_request_bytes", "100000000")]);
    let holds = error.contains("max_in_flight_bytes") && error.contains("100000000");
    assert!(holds, "{error}");
    let error = refusal(None, &[], &[("journal_file_bytes", "4194304")]);
    assert!(error.contains("journal_file_bytes"), "{error}");
}

#[test]
fn every_setting_takes_its_default_back_as_text() {
    for setting in SETTINGS {
        let shown = setting.show(&Config::default());
        let config = load(None, &[(&setting.env_name(), &shown)], &[])
            .unwrap_or_else(|error| panic!("{}: {error}", setting.name));
        assert_eq!(setting.show(&config), shown, "{}", setting.name);
        if matches!(setting.access, Access::Number { .. }) {
            let config = load(Some(&format!("{} = {shown}", setting.name)), &[], &[]).unwrap();
            assert_eq!(setting.show(&config), shown, "{}", setting.name);
        }
    }
}

#[test]
fn durations_and_sizes_may_have_units_everywhere() {
    let file = "idle_timeout_ms = \"2m\"\nmax_request_bytes = \"16MiB\"\n";
    let env = [("QUIPU_DRAIN_TIMEOUT_MS", "30s")];
    let config = load(Some(file), &env, &[("queue_bytes", "1GiB")]).unwrap();
    assert_eq!(config.idle_timeout, Duration::from_secs(120));
    assert_eq!(config.limits.max_request_bytes, 16 << 20);
    assert_eq!(config.drain_timeout, Duration::from_secs(30));
    assert_eq!(config.queue_bytes, 1 << 30);
    for (name, wrong) in [
        ("queue_bytes", "30s"),
        ("drain_timeout_ms", "64MiB"),
        ("max_connections", "5s"),
    ] {
        let error = refusal(None, &[], &[(name, wrong)]);
        assert!(error.contains("a whole number from"), "{error}");
    }
}

#[test]
fn origins_are_a_list_in_the_file_and_have_no_path() {
    let file = "cors_origins = [\"https://a.example\", \"http://b:8080\"]\nallowed_hosts = [\"quipu\", \"b.\"]\n\
        public_url = \"https://c.example/\"";
    let config = load(Some(file), &[], &[]).unwrap();
    assert_eq!(config.cors_origins, ["https://a.example", "http://b:8080"]);
    assert_eq!(config.allowed_hosts, ["quipu", "b."]);
    assert_eq!(config.public_url.as_deref(), Some("https://c.example"));
    for right in ["http://[::1]:7420", "https://127.0.0.1", "http://localhost/", ""] {
        assert!(load(None, &[], &[("public_url", right)]).is_ok(), "{right}");
    }
    let origins = "https://a.example/path example.org https://u@a.example https://a?b https://a#b http://a,";
    let hosts = "quipu:7420 http://quipu quipu/below a,,b , . a..b u@quipu";
    let urls = "c.example https://c.example/below * https://user:word@c.example https://c.example?a=b \
        https://c.example#part https:// https://:80 https://c.example:x ftp://c.example https://[c]";
    for (name, all) in [
        ("cors_origins", origins),
        ("allowed_hosts", hosts),
        ("public_url", urls),
    ] {
        for wrong in all.split(' ') {
            let error = refusal(None, &[], &[(name, wrong)]);
            let holds = error.contains(&format!("{name} is {wrong:?}, but it must be"));
            assert!(holds, "{error}");
        }
    }
    for empty in [
        "allowed_hosts = [\"\"]",
        "cors_origins = [\"https://a.example\", \" \"]",
    ] {
        assert!(load(Some(empty), &[], &[]).is_err(), "{empty}");
    }
}
