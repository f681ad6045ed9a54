//! No altered key has made the signature.
#![no_main]

use std::sync::LazyLock;

use fuzz::honest::{HONEST, cosign_key};
use libfuzzer_sys::fuzz_target;
use policy::{LogKey, PublicKey, open_cosign};

static KEY: LazyLock<PublicKey> = LazyLock::new(cosign_key);

fuzz_target!(|data: &[u8]| {
    let Ok(key) = PublicKey::from_pem(data) else {
        assert!(LogKey::from_pem(data).is_err());
        return;
    };
    let is_honest = key.fingerprint() == KEY.fingerprint();
    let signature = str::from_utf8(HONEST.signature).unwrap();
    assert_eq!(
        open_cosign(&[key], HONEST.payload, signature).is_ok(),
        is_honest
    );
});
