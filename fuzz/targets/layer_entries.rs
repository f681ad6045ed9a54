//! Whatever entries meet in a layer, nothing outside its staging directory changes or stays.
#![no_main]

use fuzz::assert_printable;
use fuzz::layer::{PLAIN, attempt};
use fuzz::tar::{Entry, archive};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|entries: Vec<Entry>| {
    let content = archive(&entries);
    if let Err(error) = attempt(PLAIN, &content, &content, |_| {}) {
        assert_printable(&error);
    }
});
