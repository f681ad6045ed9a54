//! Nothing is configured twice, and signatures are looked up beneath what is configured.
#![no_main]

use fuzz::assert_printable;
use fuzz::honest::reference;
use libfuzzer_sys::fuzz_target;
use policy::Lookaside;

fuzz_target!(|data: &[u8]| {
    let lookaside = match Lookaside::parse([("a.yaml", data)]) {
        Ok(lookaside) => lookaside,
        Err(error) => return assert_printable(&error),
    };
    if Lookaside::parse([("a.yaml", data), ("b.yaml", data)]).is_ok() {
        assert_eq!(lookaside, Lookaside::default());
    }
    let image = reference();
    let (configured, base) = (lookaside.configured(&image), lookaside.base(&image));
    assert_eq!(configured.is_some(), base.is_some());
    if let (Some(configured), Some(base)) = (configured, base) {
        let added = "/team/app";
        let expected = |at: usize| [&configured[..at], added, &configured[at..]].concat();
        let end = configured.find(['?', '#']).unwrap_or(configured.len());
        assert_eq!(base, expected(end));
    }
});
