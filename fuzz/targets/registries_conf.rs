//! A name leads to places that are names again, and what is blocked stays so with a drop-in behind.
#![no_main]

use agent::registries::Registries;
use fuzz::assert_printable;
use fuzz::honest::reference;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let registries = match Registries::parse(text) {
        Ok((registries, _)) => registries,
        Err(error) => return assert_printable(&error),
    };
    let image = reference();
    let Ok(endpoints) = registries.endpoints(&image) else {
        return;
    };
    assert!(!endpoints.is_empty());
    for endpoint in &endpoints {
        let name = format!("{}/{}", endpoint.host, endpoint.repository);
        let parsed = policy::ReferenceParts::parse(&name);
        assert!(parsed.is_ok_and(|parts| parts.tag.is_none() && parts.digest.is_none()));
    }
    let (completed, _) = Registries::parse_all([text, ""]).expect("both parse");
    assert_eq!(completed.endpoints(&image).expect("as before"), endpoints);
    if let Ok(named) = registries.reference("app:1") {
        assert_eq!(named.tag(), Some("1"));
    }
});
