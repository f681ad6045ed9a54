//! A login that is found belongs to the host that was asked for, and no error quotes the file.
#![no_main]

use agent::auth::{AuthFile, Found};
use fuzz::assert_printable;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let file = match AuthFile::parse(data) {
        Ok(file) => file,
        Err(error) => return assert_printable(&error),
    };
    assert_eq!(file.find("", ""), file.find("", ""));
    if let Found::Login { key, login } = file.find("registry.example", "team/app") {
        let bare = key.split_once("://").map_or(key, |(_, bare)| bare);
        assert_eq!(bare.split('/').next(), Some("registry.example"));
        assert!(!login.password().ends_with('\n'));
        assert_eq!(format!("{login:?}"), "Login(masked)");
    }
    if let Found::Login { key, .. } = file.find("docker.io", "library/app") {
        assert!(key.contains("docker.io"));
    }
});
