//! Work for the other processor.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

use aws_lc_rs::digest::{SHA256, digest};

use super::BUFFER;

/// Digests on one processor for as long as this lives, as a pull does on both.
#[derive(Debug)]
pub(super) struct Neighbour {
    done: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Neighbour {
    pub(super) fn at_work() -> Neighbour {
        let done = Arc::new(AtomicBool::new(false));
        let until = Arc::clone(&done);
        let thread = thread::spawn(move || {
            let content = vec![0_u8; BUFFER];
            while !until.load(Ordering::Relaxed) {
                std::hint::black_box(digest(&SHA256, &content));
            }
        });
        let thread = Some(thread);
        Neighbour { done, thread }
    }
}

impl Drop for Neighbour {
    fn drop(&mut self) {
        self.done.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // It has nothing that could panic.
            let _ = thread.join();
        }
    }
}
