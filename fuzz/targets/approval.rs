//! The manifest that was signed and logged is approved, and no other is.
#![no_main]

use std::sync::LazyLock;

use fuzz::honest::{HONEST, KEY_LOCATION, LOG_LOCATION, SIGNED, Signed};
use libfuzzer_sys::fuzz_target;
use policy::Policy;

static POLICY: LazyLock<Policy> = LazyLock::new(|| {
    let requirement = serde_json::json!({
        "type": "sigstoreSigned", "keyPath": KEY_LOCATION, "rekorPublicKeyPath": LOG_LOCATION,
    });
    let document = serde_json::json!({"default": [requirement]}).to_string();
    Policy::parse(document.as_bytes()).unwrap()
});

fuzz_target!(|data: &[u8]| {
    let is_approved = Signed::parse(data).is_some_and(|signed| {
        let is_approved = signed.is_approved_by(&POLICY);
        assert!(!is_approved || signed.manifest == HONEST.manifest);
        is_approved
    });
    assert!(is_approved || data != SIGNED);
});
