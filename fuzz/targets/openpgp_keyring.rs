//! No altered keyring makes another key the owner's, and reading one twice changes nothing.
#![no_main]

use std::sync::LazyLock;

use fuzz::honest::{KEYRING, MESSAGE, now};
use libfuzzer_sys::fuzz_target;
use policy::{Hashes, Keyrings, open_simple};

static OWNER: LazyLock<String> = LazyLock::new(|| signer(KEYRING).unwrap());

fuzz_target!(|data: &[u8]| {
    if let Some(signer) = signer(data) {
        assert_eq!(signer, *OWNER);
    }
});

/// Who signed the honest message, by a keyring.
fn signer(keyring: &[u8]) -> Option<String> {
    let mut keys = Keyrings::default();
    keys.add(keyring).ok()?;
    let count = keys.len();
    keys.add(keyring).unwrap();
    assert_eq!(keys.len(), count);
    let opened = open_simple(&keys, MESSAGE, now(), Hashes::Strong);
    opened.ok().map(|(fingerprint, _)| fingerprint)
}
