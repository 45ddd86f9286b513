//! Every client signs in: SCRAM without TLS, SCRAM and PLAIN under it. What is wrong is refused with an error that the client shows.
//!
//! The part `sign_in` of a script sends a record and reads it back; `refused` gets a wrong secret.

use quipu::settings::{Auth, Secret};

use super::*;
use crate::tls_server::Secure;

const ADMIN: &str = "the-first-administrators-token";

/// A server on which everybody has to sign in.
struct Closed {
    server: Secure,
    /// `None`: it has no TLS.
    authority: Option<PathBuf>,
}

impl Closed {
    fn new(has_tls: bool) -> Self {
        let server = Secure::with(|config, _| {
            config.auth = Auth::Tokens;
            config.admin_token = Secret::of(ADMIN);
            config.kafka_listen = Some(([127, 0, 0, 1], 0).into());
            if !has_tls {
                (config.tls_cert, config.tls_key) = (None, None);
            }
        });
        let authority = has_tls.then(|| server.ca_file());
        Self { server, authority }
    }

    fn kafka(&self) -> String {
        self.server.server.kafka_addr().expect("it listens").to_string()
    }

    fn protocol(&self) -> &'static str {
        match self.authority {
            Some(_) => "SASL_SSL",
            None => "SASL_PLAINTEXT",
        }
    }

    /// Runs a command to its end, which must be a success; returns what it printed.
    fn run(&self, mut command: Command, mechanism: &str) -> String {
        command
            .env("PROTOCOL", self.protocol())
            .env("MECHANISM", mechanism)
            .env("TOKEN", ADMIN)
            .env("CA", self.authority.clone().unwrap_or_default())
            .current_dir(self.server.dir())
            .stdin(Stdio::null());
        let output = command.output().expect("it starts");
        let [out, err] =
            [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes).into_owned());
        assert!(output.status.success(), "{command:?}: {out}{err}");
        out
    }
}

/// Each server with the mechanisms that are tried there.
fn each(mut run: impl FnMut(&Closed, &str)) {
    for (has_tls, mechanisms) in [
        (false, ["SCRAM-SHA-256", "SCRAM-SHA-512"]),
        (true, ["PLAIN", "SCRAM-SHA-512"]),
    ] {
        let closed = Closed::new(has_tls);
        for mechanism in mechanisms {
            run(&closed, mechanism);
        }
        closed.server.stop();
    }
}

fn signs_in(program: impl Fn() -> Option<Program>) {
    each(|closed, mechanism| {
        let Some(Program(mut command)) = program() else {
            return;
        };
        let prefix = format!("signed-{mechanism}");
        command.args([&closed.kafka(), &prefix, "sign_in", "refused"]);
        let printed = closed.run(command, mechanism);
        assert_eq!(printed, "sign_in: passed\nrefused: passed\n", "{mechanism}");
    });
}

#[test]
fn kafka_python_signs_in() {
    for environment in ["kafka-python-2", "kafka-python-3"] {
        signs_in(|| python(environment, "kafka", "kafka_python.py"));
    }
}

#[test]
fn aiokafka_signs_in() {
    signs_in(|| python("aiokafka", "aiokafka", "aio.py"));
}

#[test]
fn confluent_kafka_signs_in() {
    signs_in(|| python("confluent-kafka", "confluent_kafka", "confluent.py"));
}

#[test]
fn kafkajs_signs_in() {
    signs_in(|| node("kafkajs", "kafkajs.mjs"));
}

#[test]
fn platformatic_kafka_signs_in() {
    signs_in(|| node("@platformatic/kafka", "platformatic.mjs"));
}

#[test]
fn franz_go_signs_in() {
    signs_in(go);
}

#[test]
fn java_client_signs_in() {
    signs_in(java_clients);
}

#[test]
fn kcat_signs_in() {
    let Some(kcat) = kcat::kcat() else { return };
    each(|closed, mechanism| {
        let mut command = bounded(&kcat);
        command.args(["-b", &closed.kafka(), "-L"]);
        for setting in [
            format!("security.protocol={}", closed.protocol()),
            format!("sasl.mechanisms={mechanism}"),
            "sasl.username=admin".to_owned(),
            format!("sasl.password={ADMIN}"),
        ] {
            command.args(["-X", &setting]);
        }
        if let Some(authority) = &closed.authority {
            command.args(["-X", &format!("ssl.ca.location={}", authority.display())]);
        }
        let printed = closed.run(command, mechanism);
        assert!(printed.contains("1 brokers"), "{printed}");
    });
}
