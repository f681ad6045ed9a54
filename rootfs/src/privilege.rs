//! What the threads that handle hostile bytes may ask of the kernel.

use rustix::io::Result;
use rustix::thread::{CapabilitySet, CapabilitySets, capabilities, set_capabilities};

/// What decompressing and hashing takes: nothing.
pub(crate) const NONE: CapabilitySet = CapabilitySet::empty();

/// What writing a tree takes: owners, modes, devices, `security.capability` and `trusted.*`.
pub(crate) const WRITE: CapabilitySet = CapabilitySet::CHOWN
    .union(CapabilitySet::DAC_OVERRIDE)
    .union(CapabilitySet::FOWNER)
    .union(CapabilitySet::FSETID)
    .union(CapabilitySet::MKNOD)
    .union(CapabilitySet::SETFCAP)
    .union(CapabilitySet::SYS_ADMIN);

/// Leaves the calling thread, for good, no capability but those of `kept` that it has.
pub(crate) fn keep_only(kept: CapabilitySet) -> Result<()> {
    let had = capabilities(None)?;
    set_capabilities(
        None,
        CapabilitySets {
            effective: had.effective & kept,
            permitted: had.permitted & kept,
            inheritable: CapabilitySet::empty(),
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_gives_up_its_own_capabilities_and_no_others() {
        let before = capabilities(None).unwrap();
        assert!(before.effective.contains(WRITE), "these tests need root");
        for kept in [NONE, WRITE] {
            let thread = std::thread::spawn(move || {
                keep_only(kept).unwrap();
                capabilities(None).unwrap()
            });
            let left = thread.join().unwrap();
            assert_eq!((left.effective, left.permitted), (kept, kept));
            assert_eq!(left.inheritable, NONE);
        }
        assert_eq!(capabilities(None).unwrap().effective, before.effective);
    }
}
