//! The one crossing from async to blocking work.

/// Runs `work` off the async threads. A panic in it goes on in the caller, whose pull it ends.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(value) => value,
        Err(stopped) => match stopped.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // The runtime is shutting down and has not even begun the work.
            Err(_cancelled) => std::future::pending().await,
        },
    }
}
