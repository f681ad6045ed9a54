//! What is read as the content of an OpenPGP signature reads alike for everybody.
#![no_main]

use fuzz::assert_printable;
use fuzz::payload::assert_read_alike;
use libfuzzer_sys::fuzz_target;
use policy::Payload;

fuzz_target!(|data: &[u8]| {
    match Payload::parse_simple(data) {
        Ok(payload) => {
            assert!(Payload::parse_cosign(data).is_err());
            assert_read_alike(data, &payload);
        }
        Err(error) => assert_printable(&error),
    }
});
