//! The manifests for Kubernetes.

use std::collections::BTreeSet;
use std::process::Command;

use crate::skipped::skipped;
use crate::{is_setting, read, root};

const MANIFEST: &str = "deploy/kubernetes/quipu.yaml";

/// The values of a key, wherever it stands.
fn values<'a>(text: &'a str, key: &str) -> Vec<&'a str> {
    let lines = text.lines().filter(|line| !line.trim_start().starts_with('#'));
    let pairs = lines.filter_map(|line| line.trim_start().trim_start_matches("- ").split_once(": "));
    pairs
        .filter(|(name, _)| *name == key)
        .map(|(_, value)| value.trim())
        .collect()
}

#[test]
fn the_pod_has_no_rights_no_variables_of_services_and_the_directories_of_the_image() {
    let manifest = read(MANIFEST);
    let has = |key: &str, value: &str| {
        let found = values(&manifest, key);
        assert!(found.contains(&value), "{key} is {found:?}, not {value}");
    };
    has("enableServiceLinks", "false");
    has("automountServiceAccountToken", "false");
    has("runAsNonRoot", "true");
    has("readOnlyRootFilesystem", "true");
    has("allowPrivilegeEscalation", "false");
    has("replicas", "1");
    assert!(!manifest.to_lowercase().contains("insecure"));
    let image = read("deploy/Dockerfile");
    let user = image
        .lines()
        .find_map(|line| line.strip_prefix("USER "))
        .expect("a user");
    let (user, group) = user.split_once(':').expect("a group");
    has("runAsUser", user);
    has("runAsGroup", group);
    has("fsGroup", group);
    for path in values(&manifest, "mountPath") {
        assert!(image.contains(path), "the image knows no {path}");
    }
    let ports = values(&manifest, "containerPort");
    assert_eq!(ports, ["7420", "9092"]);
    for port in ports {
        assert!(image.contains(&format!("EXPOSE {port}\n")), "{port}");
    }
    let variables: Vec<&str> = values(&manifest, "name")
        .into_iter()
        .filter(|name| name.starts_with("QUIPU_"))
        .collect();
    assert!(!variables.is_empty());
    for variable in variables {
        assert!(is_setting(variable), "{variable}");
    }
    let page = read("docs/operate/kubernetes.md");
    for secret in ["quipu-tls", "quipu-admin"] {
        assert!(
            manifest.contains(&format!("name: {secret}\n")) && page.contains(secret),
            "{secret}"
        );
    }
}

/// The value of the Pod's variable.
fn variable<'a>(manifest: &'a str, name: &str) -> &'a str {
    let (_, behind) = manifest
        .split_once(&format!("- name: {name}\n"))
        .unwrap_or_else(|| panic!("there is no {name}"));
    let line = behind.lines().next().expect("a line").trim();
    line.strip_prefix("value: ").expect("a value")
}

#[test]
fn kafka_clients_reach_the_listener_through_the_service_under_the_name_that_they_are_told() {
    let manifest = read(MANIFEST);
    let documents: Vec<&str> = manifest.split("\n---\n").collect();
    let [service, _, pod] = documents.as_slice() else {
        panic!("{} documents", documents.len());
    };
    let listen = variable(pod, "QUIPU_KAFKA_LISTEN");
    let listen: std::net::SocketAddr = listen.parse().expect("an address");
    assert!(listen.ip().is_unspecified(), "{listen}");
    let port = listen.port();
    assert!(
        pod.contains(&format!("- name: kafka\n              containerPort: {port}\n")),
        "the Pod has no port {port} of that name"
    );
    let (_, of_service) = service.split_once("- name: tcp-kafka\n").expect("a port");
    let (at_service, target) = (values(of_service, "port")[0], values(of_service, "targetPort")[0]);
    assert_eq!(target, "kafka");
    let advertised = variable(pod, "QUIPU_KAFKA_ADVERTISE");
    let (host, advertised_port) = advertised.split_once(':').expect("a port");
    assert_eq!(advertised_port, at_service);
    let names = variable(pod, "QUIPU_ALLOWED_HOSTS");
    assert!(
        names.split(',').any(|name| name == host),
        "{host} is not in {names}"
    );
    let page = read("docs/operate/kubernetes.md");
    assert!(page.contains(advertised) && page.contains("QUIPU_KAFKA_ADVERTISE"));
}

#[test]
fn probes_ask_paths_that_exist_over_tls() {
    let manifest = read(MANIFEST);
    let sources = read("src/http/operate.rs");
    let paths: BTreeSet<&str> = values(&manifest, "path").into_iter().collect();
    assert_eq!(paths, BTreeSet::from(["/health/live", "/health/ready"]));
    for path in paths {
        assert!(sources.contains(&format!("path = \"{path}\"")), "{path}");
    }
    let probes = values(&manifest, "scheme");
    assert_eq!(probes, ["HTTPS"; 3]);
}

#[test]
fn the_manifests_fit_the_schema_of_kubernetes() {
    let python = std::env::var("QUIPU_TEST_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let module = Command::new(&python)
        .args(["-c", "import kubernetes_validate"])
        .output();
    if !module.is_ok_and(|output| output.status.success()) {
        skipped("this Python has no kubernetes-validate");
        return;
    }
    let check = "import sys, yaml, kubernetes_validate\n\
        documents = list(yaml.safe_load_all(open(sys.argv[1])))\n\
        for document in documents: kubernetes_validate.validate(document, kubernetes_validate.latest_version(), strict=True)\n\
        print(len(documents))";
    let output = Command::new(&python)
        .args(["-c", check])
        .arg(root().join(MANIFEST))
        .output();
    let output = output.expect("it runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    assert_eq!(
        String::from_utf8_lossy(&output.stdout).trim(),
        "3",
        "two Services and a StatefulSet"
    );
}
