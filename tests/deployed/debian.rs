//! The Debian package: what it is made of, and the man pages and completions that the binary makes.

use std::collections::BTreeSet;

use crate::{quipu, read, root};

#[test]
fn every_file_of_the_package_is_in_the_repository_or_made_by_its_script() {
    let manifest: toml::Table = read("Cargo.toml").parse().expect("TOML");
    let package = &manifest["package"]["metadata"]["deb"];
    let script = read("scripts/package");
    let mut targets = BTreeSet::new();
    for asset in package["assets"].as_array().expect("assets") {
        let asset = asset.as_array().expect("an asset").as_slice();
        let [source, target, mode] = asset else {
            panic!("an asset is a source, a target and a mode: {asset:?}");
        };
        let (source, target): (&str, &str) = (text(source), text(target));
        let is_made = source.strip_prefix("target/package/").is_some_and(|made| {
            let folder = made.split('/').next().expect("a name");
            script.contains(&format!("$out/{folder}"))
        });
        let is_there = match source.strip_suffix("/*") {
            Some(folder) => root().join(folder).is_dir(),
            None => root().join(source).is_file(),
        };
        assert!(is_made || is_there, "{source}");
        assert!(["644", "755"].contains(&text(mode)), "{source}: {mode}");
        let name = source.rsplit('/').next().expect("a name");
        // A folder takes the file under its own name.
        let is_folder = target.ends_with('/');
        targets.insert(format!("{target}{}", if is_folder { name } else { "" }));
    }
    for kept in package["conf-files"].as_array().expect("files") {
        let kept = text(kept).trim_start_matches('/');
        assert!(targets.contains(kept), "{kept} is no file of the package");
    }
    for folder in [
        &package["maintainer-scripts"],
        &package["systemd-units"]["unit-scripts"],
    ] {
        assert!(root().join(text(folder)).is_dir(), "{folder}");
    }
    let post = read("deploy/debian/postinst");
    assert!(post.contains("\n#DEBHELPER#\n"), "the unit is started there");
    let unit = read("deploy/systemd/quipu.service");
    assert!(unit.contains("\nUser=quipu\n") && post.contains("useradd") && post.contains(" quipu\n"));
}

fn text(value: &toml::Value) -> &str {
    value.as_str().expect("a text")
}

#[test]
fn every_command_has_a_man_page_that_names_its_flags() {
    let dir = tempfile::tempdir().expect("a directory");
    let pages = dir.path().join("man");
    let made = quipu(&["man"]).arg(&pages).output().expect("it runs");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let page = |name: &str| {
        let text = std::fs::read_to_string(pages.join(name));
        text.unwrap_or_else(|error| panic!("{name}: {error}"))
    };
    let help = quipu(&["--help"]).output().expect("it runs");
    let help = String::from_utf8(help.stdout).expect("text");
    let (_, commands) = help.split_once("Commands:\n").expect("a list of commands");
    let commands = commands.lines().take_while(|line| !line.is_empty());
    let mut count = 0;
    for line in commands.filter(|line| line.starts_with("  ") && !line.starts_with("   ")) {
        let name = line.split_whitespace().next().expect("a name");
        if name != "help" {
            page(&format!("quipu-{name}.1"));
            count += 1;
        }
    }
    assert!(count > 10, "only {count} commands were found in\n{help}");
    let serve = page("quipu-serve.1");
    for setting in quipu::settings::SETTINGS {
        // Dashes are escaped in a man page.
        let flag = format!("\\-\\-{}", setting.flag_name().replace('-', "\\-"));
        assert!(serve.contains(&flag), "quipu-serve.1 has no {flag}");
    }
    assert!(
        page("quipu.1").contains("quipu\\-serve"),
        "the first page names the others"
    );
    assert!(!pages.join("quipu-man.1").exists(), "what is hidden has no page");
    let names = std::fs::read_dir(&pages)
        .expect("pages")
        .map(|page| page.expect("a page").file_name());
    let names: Vec<_> = names.map(|name| name.to_string_lossy().into_owned()).collect();
    let helps: Vec<_> = names.iter().filter(|name| name.contains("-help")).collect();
    assert!(helps.is_empty(), "{helps:?}");
    // Written after `.TH`: no markup of the shell's help may end up in a page.
    let serve = page("quipu-serve.1");
    assert!(
        serve.contains(".SH OPTIONS") && !serve.contains('\u{1b}'),
        "{serve}"
    );
}

#[test]
fn a_binary_that_is_not_below_20_mib_is_not_packed() {
    let dir = tempfile::tempdir().expect("a directory");
    let binary = dir.path().join("quipu");
    let file = std::fs::File::create(&binary).expect("a file");
    file.set_len(20 << 20).expect("a sparse file");
    let mut command = std::process::Command::new(root().join("scripts/package"));
    let output = command.arg(&binary).output().expect("bash runs");
    let said = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(
        said.contains("20971520 bytes") && said.contains("not below 20 MiB"),
        "{said}"
    );
}
