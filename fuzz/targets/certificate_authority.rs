//! No altered authority vouches for a stranger.
#![no_main]

use fuzz::honest::{CHAIN, EMAIL, OIDC_ISSUER, ROOT, STRANGER, TIME};
use libfuzzer_sys::fuzz_target;
use policy::Authority;

fuzz_target!(|data: &[u8]| {
    let [leaf, chain] = fuzz::parts(CHAIN).unwrap();
    let authorities = [
        Authority::fulcio(data, OIDC_ISSUER, EMAIL),
        Authority::pki(data, Some(data), Some(EMAIL), None),
    ];
    for authority in authorities.into_iter().flatten() {
        assert!(authority.vouch(STRANGER, data, TIME).is_err());
        let vouched = authority.vouch(leaf, chain, TIME);
        assert!(vouched.is_ok() || data != ROOT, "{vouched:?}");
    }
});
