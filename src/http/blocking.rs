//! Calls that may wait for the disk, away from the workers that serve connections.

use super::problem::{Code, Problem};

/// Runs `work` on a thread where waiting is fine, and goes on with its panic if it panics.
///
/// # Errors
/// 503 `shutting-down` where the runtime is ending and no longer starts such work.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Problem> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => Ok(done),
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_) => Err(Problem::new(Code::ShuttingDown, "the server is stopping")),
        },
    }
}
