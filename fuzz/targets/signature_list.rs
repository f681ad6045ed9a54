//! A registry's list gives messages in its own order, no more than any honest one has, or an error.
#![no_main]

use fuzz::assert_printable;
use libfuzzer_sys::fuzz_target;
use policy::parse_signature_list;

fuzz_target!(|data: &[u8]| match parse_signature_list(data) {
    Ok(signatures) => {
        assert!(signatures.is_sorted_by(|one, next| one.position < next.position));
        assert!(signatures.iter().all(|one| one.position < 128));
    }
    Err(error) => assert_printable(&error),
});
