//! Whatever entries meet in a layer and in one below it, nothing outside the staging directory of
//! the upper one changes or stays, and it never asks for what lies below once more.
#![no_main]

use fuzz::assert_printable;
use fuzz::layer::attempt_onto;
use fuzz::tar::{Entry, archive};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|layers: (Vec<Entry>, Vec<Entry>)| {
    let (below, content) = (archive(&layers.0), archive(&layers.1));
    if let Err(error) = attempt_onto(&below, &content) {
        assert_printable(&error);
    }
});
