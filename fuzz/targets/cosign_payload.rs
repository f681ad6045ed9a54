//! No payload opens with a signature over another, and what opens reads alike for everybody.
#![no_main]

use std::sync::LazyLock;

use fuzz::assert_printable;
use fuzz::honest::{HONEST, cosign_key};
use fuzz::payload::assert_read_alike;
use libfuzzer_sys::fuzz_target;
use policy::{Payload, PublicKey, open_cosign};

static KEYS: LazyLock<[PublicKey; 1]> = LazyLock::new(|| [cosign_key()]);

fuzz_target!(|data: &[u8]| {
    let signature = str::from_utf8(HONEST.signature).unwrap();
    let opened = open_cosign(&*KEYS, data, signature);
    assert_eq!(opened.is_ok(), data == HONEST.payload);
    match Payload::parse_cosign(data) {
        Ok(payload) => {
            assert!(Payload::parse_simple(data).is_err());
            assert_read_alike(data, &payload);
        }
        Err(error) => assert_printable(&error),
    }
});
