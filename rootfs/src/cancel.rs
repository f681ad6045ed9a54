//! A way to stop from another thread.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::error::Error;

/// A request to stop an [`unpack`](crate::unpack), shared with the thread that may make it.
///
/// It is heeded before every chunk of the blob and of the content, before every entry of the
/// archive and before every directory and link that is finished at the end. What was written is
/// then erased with the staging directory, and nothing interrupts that.
#[derive(Debug, Default)]
pub struct Cancel(AtomicBool);

impl Cancel {
    /// Nothing requested yet.
    pub const fn new() -> Self {
        Self(AtomicBool::new(false))
    }

    /// Asks for the end, which cannot be taken back.
    pub fn request(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Fails once the end has been requested.
    pub(crate) fn check(&self) -> Result<(), Error> {
        if self.0.load(Ordering::Relaxed) {
            Err(Error::Cancelled)
        } else {
            Ok(())
        }
    }
}
