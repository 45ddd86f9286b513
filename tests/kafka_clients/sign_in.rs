//! Every client signs in: SCRAM without TLS; SCRAM, PLAIN and OAUTHBEARER under it; kcat and Kafka's tools with a
//! certificate, too. What is wrong is refused with an error that the client shows.
//!
//! The part `sign_in` of a script sends a record and reads it back; `refused` gets a wrong secret.

use quipu::settings::{Auth, Secret};

use super::*;
use crate::authority::{self, Authority};
use crate::issuer::{ISSUER, Issuer};
use crate::tls_server::Secure;

const ADMIN: &str = "the-first-administrators-token";

/// A server on which everybody has to sign in.
struct Closed {
    server: Secure,
    issuer: Issuer,
    /// `None`: it has no TLS.
    authority: Option<PathBuf>,
}

impl Closed {
    fn new(has_tls: bool) -> Self {
        let issuer = Issuer::new();
        let server = Secure::with(|config, directory| {
            config.auth = Auth::Tokens;
            config.admin_token = Secret::of(ADMIN);
            config.kafka_listen = Some(([127, 0, 0, 1], 0).into());
            let keys = directory.join("keys.json");
            std::fs::write(&keys, issuer.keys()).expect("a file");
            config.jwt_issuer = Some(ISSUER.to_owned());
            config.jwt_audience = Some("quipu".to_owned());
            config.jwt_keys = Some(keys.display().to_string());
            if !has_tls {
                (config.tls_cert, config.tls_key) = (None, None);
            }
        });
        let authority = has_tls.then(|| server.ca_file());
        let closed = Self {
            server,
            issuer,
            authority,
        };
        if has_tls {
            let rights = json!(["read", "write", "create", "describe"]);
            let rules = json!([{"allow": rights, "topics": ["*"], "groups": ["*"]}]);
            let principal = json!({"match": {"jwt": {"sub": "billing"}}, "rules": rules});
            closed.put("/v1/principals/billing", &principal);
        }
        closed
    }

    /// The same with TLS, where a certificate signs in. It is in the file `billing.pem`, with its key; that in
    /// `stranger.pem` has the same authority, and another name. There are the topics `orders`, which the first one may use,
    /// and `secret`.
    fn of_certificates() -> Self {
        let clients = Authority::new("the clients' authority");
        let server = Secure::with(|config, directory| {
            config.auth = Auth::Tokens;
            config.admin_token = Secret::of(ADMIN);
            config.kafka_listen = Some(([127, 0, 0, 1], 0).into());
            config.tls_client_ca = Some(authority::write(directory, "clients.pem", &clients.pem));
            for name in ["billing", "stranger"] {
                let own = clients.sign_with(&[&format!("{name}.example")], |_| {});
                authority::write(directory, &format!("{name}.pem"), &(own.key + &own.cert));
            }
        });
        let authority = Some(server.ca_file());
        let closed = Self {
            server,
            issuer: Issuer::new(),
            authority,
        };
        for topic in ["orders", "secret"] {
            closed.put(&format!("/v1/topics/{topic}"), &json!({"partitions": 1}));
        }
        let rules = json!([{"allow": ["read", "write", "describe"], "topics": ["orders"]}]);
        let principal = json!({"match": {"cert": "billing.example"}, "rules": rules});
        closed.put("/v1/principals/billing", &principal);
        closed
    }

    /// The administrator makes something over HTTPS.
    fn put(&self, path: &str, body: &Value) {
        let mut stream = self.server.connect().expect("a handshake");
        let kind = format!("application/json\r\nAuthorization: Bearer {ADMIN}");
        let made = stream.call("PUT", path, &kind, body.to_string().as_bytes());
        let made = made.expect("an answer");
        assert!(made.starts_with("HTTP/1.1 201 "), "{made}");
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

    /// Runs a command to its end; returns whether that was a success, and what it printed.
    fn ends(&self, mut command: Command, mechanism: &str) -> (bool, String) {
        let [secret, wrong] = match mechanism {
            "OAUTHBEARER" => [&self.issuer, &Issuer::new()].map(|issuer| issuer.token("billing")),
            _ => [ADMIN, "quipu_wrong"].map(str::to_owned),
        };
        command
            .env("PROTOCOL", self.protocol())
            .env("MECHANISM", mechanism)
            .env("TOKEN", secret)
            .env("WRONG", wrong)
            .env("CA", self.authority.clone().unwrap_or_default())
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .current_dir(self.server.dir())
            .stdin(Stdio::null());
        let output = command.output().expect("it starts");
        let [out, err] =
            [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes).into_owned());
        match output.status.success() {
            true => (true, out),
            false => (false, out + &err),
        }
    }

    /// The same, which must be a success.
    fn run(&self, command: Command, mechanism: &str) -> String {
        let name = format!("{command:?}");
        let (is_success, printed) = self.ends(command, mechanism);
        assert!(
            is_success,
            "{mechanism} over {}: {name}: {printed}",
            self.protocol()
        );
        printed
    }
}

/// Each server with the mechanisms that are tried there.
fn each(mut run: impl FnMut(&Closed, &str)) {
    for (has_tls, mechanisms) in [
        (false, &["SCRAM-SHA-256", "SCRAM-SHA-512"][..]),
        (true, &["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER"]),
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
        if mechanism == "OAUTHBEARER" {
            // It asks an issuer for a JWT itself, or makes one that nobody has signed.
            return;
        }
        let with = |secret: &str, arguments: &str| {
            let mut command = bounded(&kcat);
            command.args(["-b", &closed.kafka()]).args(arguments.split(' '));
            for setting in [
                format!("security.protocol={}", closed.protocol()),
                format!("sasl.mechanisms={mechanism}"),
                "sasl.username=admin".to_owned(),
                format!("sasl.password={secret}"),
            ] {
                command.args(["-X", &setting]);
            }
            if let Some(authority) = &closed.authority {
                command.args(["-X", &format!("ssl.ca.location={}", authority.display())]);
            }
            command
        };
        let run = |arguments: &str| closed.run(with(ADMIN, arguments), mechanism);
        let topic = format!("kcat-{mechanism}");
        std::fs::write(closed.server.dir().join("lines"), "k1:one\n").expect("a file");
        run(&format!("-P -t {topic} -K: -l lines"));
        let found = run(&format!("-C -t {topic} -o beginning -e -q -K:"));
        assert_eq!(found, "k1:one\n");
        let as_member = run(&format!("-G {topic} -X auto.offset.reset=earliest -e -q {topic}"));
        assert_eq!(as_member, "one\n");
        let (is_success, said) = closed.ends(with("quipu_wrong", "-L"), mechanism);
        assert!(
            !is_success && said.contains("the token is not valid here"),
            "{said}"
        );
    });
}

impl Closed {
    /// What the page says of signing in, with this server's address and administrator; the authority has the same file.
    fn page(&self, language: &str) -> String {
        let text = page::blocks("Signing in", language);
        assert!(text.contains("ca.pem") && text.contains("quipu_…"), "{text}");
        text.replace("log.example.org:9092", &self.kafka())
            .replace("billing", "admin")
            .replace("quipu_…", ADMIN)
    }
}

#[test]
fn what_the_page_says_of_signing_in_works_with_python_and_kcat() {
    let closed = Closed::new(true);
    let program = closed.page("python");
    let (of_kafka_python, of_faust) = program.split_once("faust.App(").expect("both");
    let of_kafka_python = of_kafka_python.trim_end();
    for (environment, program) in [
        (
            "kafka-python-3",
            format!("from kafka import KafkaProducer\nassert {of_kafka_python}.partitions_for('signed')\n"),
        ),
        // An app connects when its worker runs.
        ("faust", format!("import faust, ssl\nassert faust.App({of_faust}")),
    ] {
        let python = kafka_clients().join(environment).join("bin/python");
        if !python.exists() {
            is_missing(environment);
            continue;
        }
        let mut command = bounded(&python);
        command.args(["-c", &program]);
        closed.run(command, "SCRAM-SHA-512");
    }
    if kcat::kcat().is_some() {
        let mut command = bounded(Path::new("bash"));
        command.args(["-c", &closed.page("sh")]);
        let printed = closed.run(command, "SCRAM-SHA-512");
        assert!(printed.contains("1 brokers"), "{printed}");
    }
    closed.server.stop();
}

/// Kafka's tools, with a file that says how they sign in, as the page has it.
#[test]
fn kafkas_tools_sign_in() {
    if java().is_none() {
        return;
    }
    let closed = Closed::new(true);
    let right = closed.page("properties");
    let wrong = right.replace(ADMIN, "quipu_wrong");
    for (name, text) in [("right", right), ("wrong", wrong)] {
        std::fs::write(closed.server.dir().join(name), text).expect("a file");
    }
    let tool = |name: &str, arguments: &str| {
        let mut command = java().expect("it was there");
        command
            .arg(format!("org.apache.kafka.tools.{name}"))
            .args(["--bootstrap-server", &closed.kafka()])
            .args(arguments.split(' '));
        command
    };
    let run = |name: &str, arguments: &str| {
        let arguments = format!("{arguments} --command-config right");
        closed.run(tool(name, &arguments), "SCRAM-SHA-512")
    };
    run("TopicCommand", "--create --topic signed --partitions 2");
    std::fs::write(closed.server.dir().join("lines"), "one\n").expect("a file");
    let mut producer = Command::new("sh");
    producer.args(["-c", "exec \"$@\" < lines", "sh"]);
    let sending = tool("ConsoleProducer", "--topic signed --command-config right");
    producer.arg(sending.get_program()).args(sending.get_args());
    closed.run(producer, "SCRAM-SHA-512");
    let how = "--topic signed --from-beginning --max-messages 1 --group signed";
    let found = run("consumer.ConsoleConsumer", how);
    assert!(found.starts_with("one\n"), "{found}");
    let described = run("consumer.group.ConsumerGroupCommand", "--describe --group signed");
    assert!(described.contains("signed"), "{described}");
    let refused = tool("TopicCommand", "--list --command-config wrong");
    let (_, said) = closed.ends(refused, "SCRAM-SHA-512");
    assert!(said.contains("the token is not valid here"), "{said}");
    closed.server.stop();
}

/// What the page says of TLS without SASL, with this server's address; the files have the same names.
fn tls_on_the_page(closed: &Closed, language: &str) -> String {
    let text = page::blocks("TLS without SASL", language);
    assert!(text.contains("ca.pem") && text.contains("billing.pem"), "{text}");
    text.replace("log.example.org:9092", &closed.kafka())
}

#[test]
fn a_certificate_signs_in_kcat_as_the_page_says() {
    if kcat::kcat().is_none() {
        return;
    }
    let closed = Closed::of_certificates();
    let lists = tls_on_the_page(&closed, "sh");
    let shell = |text: &str| {
        let mut command = bounded(Path::new("bash"));
        command.args(["-c", text]);
        command
    };
    let listed = closed.run(shell(&lists), "a certificate");
    assert!(
        listed.contains("topic \"orders\"") && !listed.contains("secret"),
        "{listed}"
    );
    std::fs::write(closed.server.dir().join("lines"), "k1:one\n").expect("a file");
    let with = |arguments: &str| shell(&lists.replace(" -L ", &format!(" {arguments} ")));
    closed.run(with("-P -t orders -K: -l lines"), "a certificate");
    let found = closed.run(with("-C -t orders -o beginning -e -q -K:"), "a certificate");
    assert_eq!(found, "k1:one\n");
    let (is_success, said) = closed.ends(shell(&lists.replace("billing", "stranger")), "a certificate");
    assert!(!is_success, "{said}");
    closed.server.stop();
}

#[test]
fn a_certificate_signs_in_kafkas_tools_as_the_page_says() {
    if java().is_none() {
        return;
    }
    let closed = Closed::of_certificates();
    let properties = tls_on_the_page(&closed, "properties");
    std::fs::write(closed.server.dir().join("properties"), properties).expect("a file");
    let mut command = java().expect("it was there");
    command
        .args([
            "org.apache.kafka.tools.TopicCommand",
            "--bootstrap-server",
            &closed.kafka(),
        ])
        .args(["--list", "--command-config", "properties"]);
    assert_eq!(closed.run(command, "a certificate"), "orders\n");
    closed.server.stop();
}

#[test]
fn kcat_speaks_tls_to_a_server_where_nobody_signs_in() {
    if kcat::kcat().is_none() {
        return;
    }
    let server = Secure::with(|config, _| config.kafka_listen = Some(([127, 0, 0, 1], 0).into()));
    let authority = Some(server.ca_file());
    let open = Closed {
        server,
        issuer: Issuer::new(),
        authority,
    };
    std::fs::write(open.server.dir().join("lines"), "k1:one\n").expect("a file");
    let kcat = |arguments: &str| {
        let mut command = bounded(Path::new("kcat"));
        command.args([
            "-b",
            &open.kafka(),
            "-X",
            "security.protocol=SSL",
            "-X",
            "ssl.ca.location=ca.pem",
        ]);
        command.args(arguments.split(' '));
        open.run(command, "nothing")
    };
    kcat("-P -t orders -K: -l lines");
    assert_eq!(kcat("-C -t orders -o beginning -e -q -K:"), "k1:one\n");
    open.server.stop();
}

#[test]
fn java_streams_sign_in() {
    let Some(Program(mut command)) = java_clients() else {
        return;
    };
    let closed = Closed::new(true);
    command.args([&closed.kafka(), "signed", "first_counts"]);
    let printed = closed.run(command, "SCRAM-SHA-512");
    assert_eq!(printed, "first_counts: passed\n");
    closed.server.stop();
}

/// A worker, and so the clients that it has for itself and for its connectors.
#[test]
fn connect_signs_in() {
    if java().is_none() {
        return;
    }
    let closed = Closed::new(true);
    let mut properties = connect::properties(&closed.kafka());
    for client in ["", "producer.", "consumer.", "admin."] {
        for line in closed.page("properties").lines() {
            properties += &format!("{client}{line}\n");
        }
    }
    let mut worker = connect::Worker::start(closed.server.dir(), &properties, "signed");
    worker.counts(20);
    worker.writes();
    worker.has_written(20);
    drop(worker);
    closed.server.stop();
}

#[test]
fn a_faust_app_signs_in() {
    let python = kafka_clients().join("faust/bin/python");
    if !python.exists() {
        is_missing("faust");
        return;
    }
    for (has_tls, mechanism) in [
        (false, "SCRAM-SHA-256"),
        (true, "SCRAM-SHA-512"),
        (true, "OAUTHBEARER"),
    ] {
        let closed = Closed::new(has_tls);
        let mut app = bounded(&python);
        app.arg(script("python/faust_signed_in.py"))
            .args(["worker", "-l", "warn", "--without-web"])
            .env("KAFKA", format!("kafka://{}", closed.kafka()));
        let printed = closed.run(app, mechanism);
        assert!(printed.contains("sign_in: passed\n"), "{printed}");
        closed.server.stop();
    }
}
