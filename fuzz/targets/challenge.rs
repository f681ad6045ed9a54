//! Whatever a registry asks for, a password or a token goes to https alone, or stays on its host.
#![no_main]

use agent::challenge::Challenge;
use libfuzzer_sys::fuzz_target;
use url::Url;

fuzz_target!(|data: &[u8]| {
    let values = || data.split(|byte| *byte == b'\n');
    let secure = Url::parse("https://registry.example/v2/").expect("a URL");
    let plain = Url::parse("http://registry.example/v2/").expect("a URL");
    if let Ok(Challenge::Bearer { realm, .. }) = Challenge::among(values(), &secure) {
        assert_eq!(realm.scheme(), "https");
    }
    if let Ok(Challenge::Bearer { realm, .. }) = Challenge::among(values(), &plain) {
        let same = realm.scheme() == "http" && realm.host_str() == Some("registry.example");
        assert!(same || realm.scheme() == "https");
    }
});
