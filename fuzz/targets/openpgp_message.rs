//! A message that opens says what the owner signed: nobody has the owner's key any more.
#![no_main]

use std::sync::LazyLock;

use fuzz::assert_printable;
use fuzz::honest::{KEYRING, MESSAGE, SIMPLE_PAYLOAD, now};
use libfuzzer_sys::fuzz_target;
use policy::{Hashes, Keyrings, Payload, open_simple};

static KEYS: LazyLock<Keyrings> = LazyLock::new(|| {
    let mut keys = Keyrings::default();
    keys.add(KEYRING).unwrap();
    keys
});

fuzz_target!(|data: &[u8]| {
    match open_simple(&KEYS, data, now(), Hashes::AlsoSha1) {
        Ok((_, payload)) => assert_eq!(Payload::parse_simple(SIMPLE_PAYLOAD), Ok(payload)),
        Err(problem) => {
            assert!(data != MESSAGE, "{problem}");
            assert_printable(&problem);
        }
    }
});
