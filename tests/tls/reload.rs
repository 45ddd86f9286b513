//! Certificates that are replaced while the server runs.

use crate::authority::{Authority, Pair};
use crate::secure::{Secure, connect};
use crate::support::contains;

#[test]
fn new_connections_use_a_new_certificate_and_open_ones_go_on() {
    let secure = Secure::with(|config, _| config.kafka_listen = Some(([127, 0, 0, 1], 0).into()));
    let of_kafka = || {
        let address = secure.server.kafka_addr().expect("it listens");
        connect(address, secure.client())
    };
    let before = secure.expires_ms();
    let mut open = secure.connect().unwrap();
    let old = open.certificate();
    open.get("/v1/topics").unwrap();
    assert_eq!(of_kafka().unwrap().certificate(), old);
    let renewed = secure.authority.sign_with(&["localhost"], |params| {
        params.not_after = rcgen::date_time_ymd(2091, 1, 1);
    });
    secure.replace(&renewed);
    assert_eq!(
        secure.connect().unwrap().certificate(),
        old,
        "nobody has looked yet"
    );
    secure.reload();
    let mut new = secure.connect().unwrap();
    assert_ne!(new.certificate(), old);
    assert_eq!(of_kafka().unwrap().certificate(), new.certificate());
    contains(&new.get("/v1/topics").unwrap(), "HTTP/1.1 200");
    contains(&open.get("/v1/topics").unwrap(), "HTTP/1.1 200");
    assert!(secure.expires_ms() > before);
    secure.stop();
}

#[test]
fn the_metric_says_when_the_certificate_that_is_in_force_expires() {
    let row = "quipu_certificate_expires_timestamp_seconds";
    let secure = Secure::start();
    let expires = || {
        let answer = secure.connect().unwrap().get("/metrics").unwrap();
        let value = answer
            .lines()
            .find_map(|line| line.strip_prefix(row)?.strip_prefix(' '));
        value.expect("a row").parse::<f64>().expect("a number")
    };
    let until = |year| rcgen::date_time_ymd(year, 1, 1);
    let seconds = |year| until(year).unix_timestamp() as f64;
    assert_eq!(expires(), seconds(2090));
    let sign = |year| {
        secure
            .authority
            .sign_with(&["localhost"], |params| params.not_after = until(year))
    };
    secure.replace(&sign(2031));
    secure.reload();
    assert_eq!(expires(), seconds(2031));
    // One that is not taken changes nothing.
    secure.replace(&Pair {
        key: sign(2040).key,
        ..sign(2040)
    });
    secure.reload();
    assert_eq!(expires(), seconds(2031));
    secure.stop();
}

#[test]
fn what_does_not_fit_leaves_the_old_certificate_in_force() {
    let secure = Secure::start();
    let (old, expires_ms) = (secure.connect().unwrap().certificate(), secure.expires_ms());
    let (one, other) = (secure.authority.sign(), secure.authority.sign());
    let good = |text: &str| text.to_owned();
    for (cert, key) in [
        (good(&one.cert), good(&other.key)),
        (good("junk"), good(&one.key)),
        (good(&one.cert), good("")),
        (good(""), good("")),
    ] {
        secure.replace(&Pair { cert, key });
        secure.reload();
        assert_eq!(secure.connect().unwrap().certificate(), old);
        assert_eq!(secure.expires_ms(), expires_ms);
    }
    std::fs::remove_file(secure.dir().join("key.pem")).unwrap();
    secure.reload();
    assert_eq!(secure.connect().unwrap().certificate(), old);
    // One file after the other: the pair is taken once it is whole.
    secure.replace(&one);
    secure.reload();
    assert_ne!(secure.connect().unwrap().certificate(), old);
    secure.stop();
}

#[test]
fn links_that_are_swapped_are_noticed() {
    // As Kubernetes does it: the files are links into a directory that is itself a link.
    let authority = Authority::new("the servers' authority");
    let secure = Secure::with(|config, dir| {
        let (cert, key) = (dir.join("cert.pem"), dir.join("key.pem"));
        let first = dir.join("..first");
        std::fs::create_dir(&first).unwrap();
        std::fs::rename(&cert, first.join("cert.pem")).unwrap();
        std::fs::rename(&key, first.join("key.pem")).unwrap();
        std::os::unix::fs::symlink("..first", dir.join("..data")).unwrap();
        std::os::unix::fs::symlink("..data/cert.pem", &cert).unwrap();
        std::os::unix::fs::symlink("..data/key.pem", &key).unwrap();
        assert!(config.has_certificate());
    });
    let old = secure.connect().unwrap().certificate();
    let (dir, pair) = (secure.dir(), authority.sign());
    let second = dir.join("..second");
    std::fs::create_dir(&second).unwrap();
    crate::authority::write(&second, "cert.pem", &pair.cert);
    crate::authority::write(&second, "key.pem", &pair.key);
    std::os::unix::fs::symlink("..second", dir.join("..next")).unwrap();
    std::fs::rename(dir.join("..next"), dir.join("..data")).unwrap();
    secure.reload();
    assert!(
        secure.connect().is_err(),
        "the new certificate is of another authority"
    );
    let client = crate::secure::client(&authority.pem, None, rustls::ALL_VERSIONS);
    let new = connect(secure.address(), client).unwrap().certificate();
    assert_ne!(new, old);
    secure.stop();
}
