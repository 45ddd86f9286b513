//! The traces in which the records of an answer were produced, for the span of the request. Without a tracer nothing is
//! looked at.

use axum::response::Response;

use super::app::App;
use crate::broker::fetch::page::Page;
use crate::traces::Linking;

/// No links yet; `None` without a tracer.
pub(crate) fn none(app: &App) -> Option<Linking> {
    app.tracer.as_ref().map(|_| Linking::default())
}

/// Links of all pages. Records that cannot be read end it: the answer itself says so.
pub(crate) fn of<'a>(app: &App, pages: impl IntoIterator<Item = &'a Page>) -> Option<Linking> {
    let links = none(app)?;
    for record in pages.into_iter().flat_map(Page::records) {
        let Ok((record, _)) = record else { break };
        if !links.add(record.headers.iter()) {
            break;
        }
    }
    Some(links)
}

/// Hands the links on with the answer.
pub(crate) fn set(response: &mut Response, links: Option<Linking>) {
    if let Some(links) = links {
        response.extensions_mut().insert(links);
    }
}
