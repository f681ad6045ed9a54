//! Init-data, which the host carries, are read or refused in words that are safe to print.
#![no_main]

use fuzz::assert_printable;
use kbs_client::InitData;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Err(error) = InitData::parse(text.to_owned()) {
        assert_printable(&error);
    }
});
