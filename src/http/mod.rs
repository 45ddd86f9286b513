//! The HTTP API: one file a resource, thin handlers (parse, call, convert).

mod accept;
mod blocking;
mod chunks;
mod fetch;
pub mod params;
mod path;
pub mod problem;
mod topics;

use axum::Router;
use utoipa_axum::router::OpenApiRouter;

use crate::app::App;

/// The whole API over `app`; the server and the tests use the same.
pub fn router(app: App) -> Router {
    let (router, _api) = OpenApiRouter::<App>::new()
        .merge(topics::routes())
        .merge(fetch::routes())
        .split_for_parts();
    router.with_state(app)
}
