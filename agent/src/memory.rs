//! Keeps what is secret where it is.

use rustix::mm::{MlockAllFlags, mlockall};
use rustix::process::{DumpableBehavior, Resource, getrlimit, set_dumpable_behavior};
use rustix::thread::{CapabilitySet, capabilities};
use tracing::{debug, warn};

/// From now on no core dump has our memory and no debugger of the same user reads it; and, where
/// we may lock as much as we like, what we touch is not swapped out either.
///
/// With a limit nothing is locked: beyond it, allocating itself would fail.
pub(crate) fn protect() {
    forbid_dumps();
    if !may_lock_everything() {
        debug!("memory is not locked: RLIMIT_MEMLOCK is finite and CAP_IPC_LOCK is missing");
        return;
    }
    let flags = MlockAllFlags::CURRENT | MlockAllFlags::FUTURE | MlockAllFlags::ONFAULT;
    if let Err(error) = mlockall(flags) {
        warn!(%error, "memory cannot be locked");
    }
}

/// That alone: what a command for people fetches is no more for a core dump.
pub(crate) fn forbid_dumps() {
    if let Err(error) = set_dumpable_behavior(DumpableBehavior::NotDumpable) {
        warn!(%error, "core dumps of this process cannot be forbidden");
    }
}

fn may_lock_everything() -> bool {
    let is_capable =
        capabilities(None).is_ok_and(|sets| sets.effective.contains(CapabilitySet::IPC_LOCK));
    is_capable || getrlimit(Resource::Memlock).current.is_none()
}

#[cfg(test)]
mod tests {
    use rustix::process::dumpable_behavior;

    use super::*;

    #[test]
    fn process_is_not_dumped_from_then_on() {
        assert_eq!(dumpable_behavior(), Ok(DumpableBehavior::Dumpable));
        forbid_dumps();
        assert_eq!(dumpable_behavior(), Ok(DumpableBehavior::NotDumpable));
    }
}
