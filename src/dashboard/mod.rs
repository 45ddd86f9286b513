//! The page at `/`, and that of the API at `/docs`: their files, which are part of the binary.
//!
//! Plain HTML, CSS and JavaScript modules: no framework, no build step, nothing from the network. The page uses only the
//! public API, so what it can do, `curl` can. `http/page.rs` serves the files. All links among them are relative, so a
//! proxy may put the page below any path. Where to begin reading: `app.js` (routes and navigation), then one file for
//! each view; `api.js` (calls), `json.js` (JSON whose numbers are not changed) and `dom.js` (elements with text, never
//! markup) are what the views are built of. `docs.js` shows the OpenAPI document that the server has.

use std::sync::LazyLock;

/// One file of the page.
#[derive(Debug)]
pub(crate) struct Asset {
    /// Its name below `/assets/`.
    pub(crate) name: &'static str,
    /// Its content type.
    pub(crate) content_type: &'static str,
    /// Its bytes.
    pub(crate) bytes: &'static [u8],
    /// A strong entity tag, in its quotes: the same bytes have the same tag.
    pub(crate) etag: String,
}

/// The page itself.
static PAGE: LazyLock<Asset> = LazyLock::new(|| asset("index.html", include_bytes!("index.html")));

/// The page of the API.
static DOCS: LazyLock<Asset> = LazyLock::new(|| asset("docs.html", include_bytes!("docs.html")));

macro_rules! assets {
    ($($name:literal),* $(,)?) => {
        /// What the pages load.
        static ASSETS: LazyLock<Vec<Asset>> = LazyLock::new(|| vec![$(asset($name, include_bytes!($name))),*]);
    };
}

assets!(
    "api.js",
    "app.js",
    "banners.js",
    "chart.js",
    "docs-call.js",
    "docs-schema.js",
    "docs.css",
    "docs.js",
    "dom.js",
    "first.js",
    "format.js",
    "group.js",
    "groups.js",
    "icon.svg",
    "json.js",
    "lag.js",
    "letters.js",
    "list.js",
    "live.js",
    "overview.js",
    "produce.js",
    "record.js",
    "records.js",
    "reset.js",
    "session.js",
    "style.css",
    "tail.js",
    "topic.js",
    "topics.js",
);

/// The HTML page.
pub(crate) fn page() -> &'static Asset {
    &PAGE
}

/// The HTML page of the API.
pub(crate) fn docs() -> &'static Asset {
    &DOCS
}

/// The file with this name below `/assets/`.
pub(crate) fn find(name: &str) -> Option<&'static Asset> {
    ASSETS.iter().find(|asset| asset.name == name)
}

fn asset(name: &'static str, bytes: &'static [u8]) -> Asset {
    let content_type = match name.rsplit('.').next() {
        Some("html") => "text/html; charset=utf-8",
        Some("css") => "text/css; charset=utf-8",
        Some("svg") => "image/svg+xml",
        _ => "text/javascript; charset=utf-8",
    };
    let etag = format!("\"{:016x}\"", xxhash_rust::xxh3::xxh3_64(bytes));
    Asset {
        name,
        content_type,
        bytes,
        etag,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts() -> impl Iterator<Item = (&'static str, &'static str)> {
        let all = ASSETS.iter().chain([page(), docs()]);
        all.map(|asset| (asset.name, std::str::from_utf8(asset.bytes).expect("text")))
    }

    /// The places of `text` after each `mark`, up to the next `end`.
    fn after<'a>(text: &'a str, mark: &'a str, end: char) -> impl Iterator<Item = &'a str> {
        text.split(mark)
            .skip(1)
            .filter_map(move |rest| rest.split(end).next())
    }

    #[test]
    fn every_file_that_a_file_names_is_there_and_every_file_is_named() {
        let mut named = Vec::new();
        for (name, text) in texts() {
            let imports = after(text, " from \"./", '"').chain(after(text, "import(\"./", '"'));
            let links = after(text, "=\"assets/", '"');
            for other in imports.chain(links) {
                assert!(find(other).is_some(), "{name} names {other}, which is not there");
                named.push(other.to_owned());
            }
        }
        for asset in ASSETS.iter() {
            assert!(
                named.iter().any(|name| name == asset.name),
                "nobody loads {}",
                asset.name
            );
        }
    }

    #[test]
    fn the_page_has_no_absolute_links_nothing_inline_and_no_markup_from_data() {
        let forbidden = [
            "innerHTML",
            "outerHTML",
            "insertAdjacentHTML",
            "document.write",
            "eval(",
            "new Function",
            "DOMParser",
            "JSON.parse",
            "<style",
            " style=",
            " onclick=",
            "=\"/",
            "fetch(\"/",
            "fetch(`/",
            "\"/v1",
            "`/v1",
            "localStorage",
        ];
        for (name, text) in texts() {
            for word in forbidden {
                assert!(!text.contains(word), "{name} has {word}");
            }
            let hosts = text.replace("http://www.w3.org/2000/svg", "");
            assert!(!hosts.contains("https://"), "{name} names a host");
        }
        for (page, script) in [(page(), "app.js"), (docs(), "docs.js")] {
            let page = std::str::from_utf8(page.bytes).expect("text");
            assert_eq!(page.matches("<script").count(), 1);
            let script = format!("<script type=\"module\" src=\"assets/{script}\"></script>");
            assert!(page.contains(&script));
        }
    }
}
