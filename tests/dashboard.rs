//! The page: how its files are served, and what it does in a real browser (scripts in `tests/dashboard`).
//!
//! The browser's tests need node, Chromium, and the packages of `tests/dashboard/package-lock.json` in
//! `target/browser` (or in `QUIPU_TEST_BROWSER`); where one is missing they say that they are skipped. Screenshots go to
//! `target/screenshots`.
#![allow(
    clippy::disallowed_methods,
    reason = "it looks for programs and makes a directory"
)]

mod support;

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use http::Method;
use support::{Server, Service};

/// The settings of a server where one has to sign in.
const SIGNED_IN: &[(&str, &str)] = &[
    ("QUIPU_AUTH", "tokens"),
    ("QUIPU_ADMIN_TOKEN", "the-administrators-token"),
];
const POLICY: &str = "default-src 'self'; frame-ancestors 'none'";

#[tokio::test]
async fn the_page_and_its_files_have_a_policy_a_type_and_a_tag() {
    let service = Service::start();
    for (path, content_type) in [
        ("/", "text/html; charset=utf-8"),
        ("/docs", "text/html; charset=utf-8"),
        ("/assets/app.js", "text/javascript; charset=utf-8"),
        ("/assets/style.css", "text/css; charset=utf-8"),
        ("/assets/icon.svg", "image/svg+xml"),
    ] {
        let answer = service.get(path).await;
        assert_eq!(answer.status, 200, "{path}");
        assert_eq!(answer.header("content-type"), Some(content_type));
        assert_eq!(answer.header("cache-control"), Some("no-cache"));
        let tag = answer.header("etag").expect("a tag").to_owned();
        let again = service
            .send(Method::GET, path, &[("if-none-match", &tag)], "")
            .await;
        assert_eq!((again.status, again.text()), (304, ""), "{path}");
        for answer in [&answer, &again] {
            assert_eq!(answer.header("content-security-policy"), Some(POLICY), "{path}");
            assert_eq!(answer.header("x-content-type-options"), Some("nosniff"), "{path}");
            assert_eq!(answer.header("etag"), Some(&*tag));
        }
        let other = service
            .send(Method::GET, path, &[("if-none-match", "\"other\"")], "")
            .await;
        assert_eq!((other.status, other.body), (200, answer.body.clone()));
        let head = service.send(Method::HEAD, path, &[], "").await;
        assert_eq!(
            (head.status, head.text(), head.header("etag")),
            (200, "", Some(&*tag))
        );
    }
}

#[tokio::test]
async fn what_the_page_has_not_is_a_problem() {
    let service = Service::start();
    for path in [
        "/assets/none.js",
        "/assets/../src/lib.rs",
        "/assets/index.html",
        "/index.html",
    ] {
        service.get(path).await.problem(404, "not-found");
    }
    service.get("/?x=1").await.problem(400, "invalid-request");
    service
        .call(Method::POST, "/", "{}")
        .await
        .problem(405, "method-not-allowed");
}

/// What a browser's test needs.
struct Browser {
    node: PathBuf,
    chromium: PathBuf,
    modules: PathBuf,
}

/// `None` where something is missing; says what.
fn browser() -> Option<Browser> {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR"))
        .parent()
        .expect("a directory below target");
    let modules =
        std::env::var_os("QUIPU_TEST_BROWSER").map_or_else(|| target.join("browser"), PathBuf::from);
    let chromium = std::env::var_os("QUIPU_TEST_CHROMIUM").map(PathBuf::from);
    let chromium = chromium.or_else(|| {
        ["chromium", "chromium-browser", "google-chrome"]
            .into_iter()
            .find_map(found)
    });
    let missing = match (found("node"), chromium) {
        (None, _) => "node",
        (_, None) => "Chromium",
        (Some(node), Some(chromium)) => match modules.join("node_modules/playwright-core").exists() {
            true => {
                return Some(Browser {
                    node,
                    chromium,
                    modules,
                });
            }
            false => "playwright-core (npm ci in target/browser)",
        },
    };
    support::skipped(&format!("there is no {missing}"));
    None
}

fn found(program: &str) -> Option<PathBuf> {
    let path: OsString = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .map(|dir| dir.join(program))
        .find(|file| file.is_file())
}

/// Runs a script against a server of its own.
#[track_caller]
fn run(script: &str, flags: &str, settings: &[(&str, &str)]) {
    let Some(browser) = browser() else {
        return;
    };
    let dir = tempfile::tempdir().expect("a temporary directory");
    let flags = format!("--journal-file-bytes 4194304 --max-request-bytes 1048576 {flags}");
    let server = Server::start_with_flags(&dir.path().join("data"), &flags, settings);
    run_against(&browser, &server, script);
}

#[track_caller]
fn run_against(browser: &Browser, server: &Server, script: &str) {
    let screenshots = Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("screenshots");
    std::fs::create_dir_all(&screenshots).expect("a directory for screenshots");
    let output = Command::new(&browser.node)
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/dashboard/run.mjs"))
        .args([script, &format!("http://{}", server.address)])
        .arg(screenshots)
        .env("QUIPU_TEST_BROWSER", &browser.modules)
        .env("QUIPU_TEST_CHROMIUM", &browser.chromium)
        .env(
            "QUIPU_TEST_KAFKA",
            server.kafka.map(|at| at.to_string()).unwrap_or_default(),
        )
        .output()
        .expect("node runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "{script}: {said}\nthe server's log:\n{}",
        server.log()
    );
    // Such as the comparison of an alert with what Prometheus's tool says of it.
    let skipped = said.lines().filter_map(|line| line.strip_prefix("skipped: "));
    let skipped: BTreeSet<&str> = skipped.collect();
    skipped.into_iter().for_each(support::skipped);
}

#[test]
fn an_operator_finds_a_group_that_is_behind_and_mends_it() {
    run("story", "", &[]);
}

#[test]
fn every_view_is_accessible_and_fits_in_light_dark_and_narrow() {
    run("views", "", &[]);
}

#[test]
fn figures_are_those_of_the_api() {
    run("figures", "", &[]);
}

#[test]
fn charts_draw_what_the_history_of_lag_says() {
    run("chart", "", &[]);
}

#[test]
fn records_are_found_by_every_way_to_begin_filter_and_search() {
    run("browse", "", &[]);
}

#[test]
fn what_an_operator_changes_on_the_page_is_changed_as_it_was_said() {
    run("manage", "", &[("QUIPU_KAFKA_LISTEN", "127.0.0.1:0")]);
}

#[test]
fn damage_and_a_disk_that_fills_up_are_said_above_every_view() {
    let Some(browser) = browser() else { return };
    let dir = tempfile::tempdir().expect("a temporary directory");
    let data = dir.path().join("data");
    let server = Server::start(&data);
    server.create_topic("orders", 3);
    for at in 0..10 {
        let record = format!(r#"{{"records":[{{"partition":2,"value":{at}}}]}}"#);
        server.expect(
            200,
            "POST",
            "/v1/topics/orders/records",
            "application/json",
            record.as_bytes(),
        );
    }
    server.stop();
    // Ten batches of the same length: the last byte but two of the fourth is wrong.
    let segment = data.join("topics/orders/2/00000000000000000000.log");
    let mut bytes = std::fs::read(&segment).expect("a segment");
    let batch = bytes.len() / 10;
    bytes[4 * batch - 3] ^= 1;
    std::fs::write(&segment, bytes).expect("it can be written");
    run_against(&browser, &Server::start(&data), "banners");
}

#[test]
fn an_empty_server_leads_to_a_first_record_by_mouse_and_by_keyboard() {
    run("first", "", &[]);
}

#[test]
fn a_thousand_topics_and_two_hundred_groups_are_shown_in_pages() {
    run("many", "", &[]);
}

#[test]
fn an_open_server_a_fault_and_a_server_that_is_gone_are_said() {
    run("warnings", "--allowed-hosts quipu.example", &[]);
}

#[test]
fn values_of_every_kind_are_text_and_none_of_them_stops_the_page() {
    run("values", "", &[]);
}

#[test]
fn a_refresh_takes_no_focus_and_a_dialog_acts_on_what_it_was_opened_for() {
    run("refresh", "", &[]);
}

#[test]
fn dead_letters_without_a_reason_are_chosen_apart_from_all_others() {
    run("reasons", "", &[]);
}

#[test]
fn a_full_disk_is_said_and_what_is_deleted_on_the_page_makes_room() {
    let Some(browser) = browser() else { return };
    let dir = tempfile::tempdir().expect("a temporary directory");
    // No file may be larger than 10 MiB: beyond that a write fails, as on a full disk.
    let mut shell = Command::new("sh");
    let exec = "trap '' XFSZ; ulimit -f 20480; exec \"$0\" \"$@\" --journal-file-bytes 4194304 --max-request-bytes 1048576";
    shell.args(["-c", exec, env!("CARGO_BIN_EXE_quipu")]);
    let server = Server::try_start(&dir.path().join("data"), shell).expect("it starts");
    run_against(&browser, &server, "full");
}

#[test]
fn every_call_of_the_api_is_found_and_shown_with_a_command_that_works() {
    run("docs", "", &[]);
}

#[test]
fn a_days_operation_from_the_alert_to_the_audit_log() {
    run("day", "", SIGNED_IN);
}

#[test]
fn a_browser_signs_in_with_a_token_and_out_again() {
    run("sign-in", "", SIGNED_IN);
}
