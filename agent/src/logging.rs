//! Logging: events with fields, on stderr.

use std::io::IsTerminal as _;

use tracing_subscriber::EnvFilter;

use crate::config::Environment;

/// Starts logging at `level`, unless `RUST_LOG` says otherwise. A level that is none is `info`.
pub(crate) fn start(level: &str, environment: &Environment) {
    let directives = environment.rust_log.as_deref().unwrap_or(level);
    let filter = EnvFilter::try_new(directives).unwrap_or_else(|_| EnvFilter::new("info"));
    let started = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false)
        .try_init();
    if started.is_err() {
        tracing::debug!("logging was started before");
    }
}
