//! Whatever a layer is, nothing outside its staging directory changes and nothing of it stays.
#![no_main]

use fuzz::assert_printable;
use fuzz::layer::{PLAIN, attempt};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Err(error) = attempt(PLAIN, data, data, |_| {}) {
        assert_printable(&error);
    }
});
