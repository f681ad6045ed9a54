//! An authority vouches for the one key it certified, whatever leaf and chain are shown to it.
#![no_main]

use std::sync::LazyLock;

use fuzz::assert_printable;
use fuzz::honest::{CHAIN, EMAIL, OIDC_ISSUER, ROOT, TIME};
use libfuzzer_sys::fuzz_target;
use policy::{Authority, Digest};

static AUTHORITIES: LazyLock<[Authority; 2]> = LazyLock::new(|| {
    [
        Authority::fulcio(ROOT, OIDC_ISSUER, EMAIL).unwrap(),
        Authority::pki(ROOT, None, Some(EMAIL), None).unwrap(),
    ]
});
static KEY: LazyLock<Digest> = LazyLock::new(|| vouched(&AUTHORITIES[0], CHAIN).unwrap());

fuzz_target!(|data: &[u8]| {
    for authority in &*AUTHORITIES {
        if let Some(key) = vouched(authority, data) {
            assert_eq!(key, *KEY);
        }
    }
});

/// The key that the authority stands behind, given a leaf and, after a byte of zero, its chain.
fn vouched(authority: &Authority, data: &[u8]) -> Option<Digest> {
    let [leaf, chain] = fuzz::parts(data)?;
    match authority.vouch(leaf, chain, TIME) {
        Ok((key, _)) => Some(*key.fingerprint()),
        Err(problem) => {
            assert_printable(&problem);
            None
        }
    }
}
