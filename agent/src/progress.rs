//! What a pull tells while it runs.

use std::fmt;
use std::sync::Arc;

use policy::Digest;

/// A step of a pull, for people who wait for it.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Progress<'a> {
    /// The tag has become a manifest.
    Resolved(&'a Digest),
    /// The policy has approved it.
    Approved(&'a Digest),
    /// A layer that has to be fetched: its blob and its size in bytes.
    LayerStarted(&'a Digest, u64),
    /// So many more bytes of a layer have come.
    LayerReceived(&'a Digest, u64),
    /// A layer is in the store: unpacked just now, or there before.
    LayerReady(&'a Digest),
    /// The bundle is mounted.
    Mounted,
}

/// Somebody who listens to the progress of a pull.
#[derive(Clone)]
pub struct Listener(Arc<dyn Fn(Progress<'_>) + Send + Sync>);

impl Listener {
    /// Calls `listen` at every step, from whatever thread the step is taken on.
    pub fn new(listen: impl Fn(Progress<'_>) + Send + Sync + 'static) -> Self {
        Self(Arc::new(listen))
    }

    /// Nobody listens.
    pub fn silent() -> Self {
        Self::new(|_step| {})
    }

    pub(crate) fn tell(&self, step: Progress<'_>) {
        (self.0)(step);
    }
}

impl fmt::Debug for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Listener")
    }
}
