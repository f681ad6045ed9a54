//! A policy that is read prints as one that says the same and decides the same.
#![no_main]

use fuzz::assert_printable;
use fuzz::honest::HONEST;
use libfuzzer_sys::fuzz_target;
use policy::Policy;

fuzz_target!(|data: &[u8]| {
    let policy = match Policy::parse(data) {
        Ok(policy) => policy,
        Err(error) => return assert_printable(&error),
    };
    let printed = serde_json::to_string(&policy).unwrap();
    let again = Policy::parse(printed.as_bytes()).expect(&printed);
    assert_eq!(serde_json::to_string(&again).unwrap(), printed);
    assert_eq!(
        HONEST.is_approved_by(&again),
        HONEST.is_approved_by(&policy)
    );
});
