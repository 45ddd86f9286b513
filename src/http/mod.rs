//! The HTTP API: one file a resource, thin handlers (parse, call, convert).

mod accept;
pub mod params;
pub mod problem;

use axum::Router;
use utoipa_axum::router::OpenApiRouter;

use crate::app::App;

/// The whole API over `app`; the server and the tests use the same.
pub fn router(app: App) -> Router {
    let (router, _api) = OpenApiRouter::<App>::new().split_for_parts();
    router.with_state(app)
}
