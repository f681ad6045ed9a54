//! What is shown of a configuration.

use super::*;

#[test]
fn effective_configuration_shows_everything_but_secrets() {
    let page = config(&complete_file()).effective_toml();
    for expected in [
        "socket = \"unix:///run/confidential-containers/cdh.sock\"",
        "name = \"cc_kbc\"",
        "# kbs_cert: certificate sha256:",
        "kbs_cert = \"\"\"",
        "# extra_root_certificates: certificate sha256:",
        "path = \"/run/confidential-containers/cdh/kbs/test/file\"",
        "https_proxy = \"http://masked@127.0.0.1:5432/\"",
        "http_proxy = \"http://127.0.0.1:5432/\"",
        "prefix = \"example.com/banned\"",
        "pull-from-mirror = \"all\"",
        "unpacked_bytes = 68719476736",
        "total = 1200",
    ] {
        assert!(page.contains(expected), "{expected} is not in\n{page}");
    }
    assert!(!page.contains("s3cret"), "{page}");
    let debug = format!("{:?}", config(&complete_file()).image.proxy);
    assert!(!debug.contains("s3cret"), "{debug}");
    let nothing = config("").effective_toml();
    assert!(
        nothing.contains("# no policy: every image is refused"),
        "{nothing}"
    );
}

#[test]
fn effective_configuration_read_again_is_the_same() {
    let files = [
        String::new(),
        complete_file(),
        "image.image_security_policy = '''\n{\n \"default\": [{\"type\": \"reject\"}]\n}'''"
            .to_owned(),
        "image_agent.attester = \"sample\"".to_owned(),
    ];
    for text in files {
        let page = config(&text).effective_toml();
        assert_eq!(
            statements(&config(&page).effective_toml()),
            statements(&page)
        );
    }
}

#[test]
fn passwords_are_masked_wherever_they_stand() {
    let rows = [
        ("http://user:pass@host:1/", "http://masked@host:1/"),
        ("http://user@host/", "http://masked@host/"),
        ("http://:pass@host/", "http://masked@host/"),
        ("http://a%40b:c%2Fd@host/x@y", "http://masked@host/x@y"),
        ("http://host/x@y", "http://host/x@y"),
        ("socks5h://u:p@host:1080", "socks5h://masked@host:1080"),
    ];
    for (url, expected) in rows {
        assert_eq!(masked(&Url::parse(url).unwrap()), expected);
    }
}

/// A page without its comments, which name what is not shown.
fn statements(page: &str) -> Vec<&str> {
    page.lines().filter(|line| !line.starts_with('#')).collect()
}
