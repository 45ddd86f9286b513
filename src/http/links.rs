//! The traces in which the records of an answer were produced, for the span of the request. Without a tracer nothing is
//! looked at.

use axum::response::Response;

use super::app::App;
use crate::broker::fetch::page::Page;
use crate::traces::Links;

/// Links of all pages. Records that cannot be read end it: the answer itself says so.
pub(crate) fn of<'a>(app: &App, pages: impl IntoIterator<Item = &'a Page>) -> Option<Links> {
    app.tracer.as_ref()?;
    let mut links = Links::default();
    for record in pages.into_iter().flat_map(Page::records) {
        let Ok((record, _)) = record else { break };
        if links.is_full() {
            break;
        }
        let headers = record.headers.iter();
        for (name, value) in headers {
            if name == b"traceparent"
                && let Some(value) = value
            {
                links.add(value);
            }
        }
    }
    Some(links)
}

/// Hands the links on with the answer.
pub(crate) fn set(response: &mut Response, links: Option<Links>) {
    if let Some(links) = links {
        response.extensions_mut().insert(links);
    }
}
