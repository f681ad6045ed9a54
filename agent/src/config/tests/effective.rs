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
        OWN_REGISTRIES.to_owned(),
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

#[test]
fn what_one_registry_has_of_its_own_is_read_and_a_key_that_stands_there_does_not_print() {
    let parsed = config(OWN_REGISTRIES);
    let own = &parsed.image_agent;
    assert_eq!(own.platform.as_ref().unwrap().to_string(), "linux/arm64/v8");
    assert_eq!(own.certs_d, [Path::new("/etc/certs")]);
    assert_eq!(own.credential_helpers, ["ecr-login"]);
    let registry = own.registries.first().unwrap();
    assert_eq!(registry.host, "registry.example:5000");
    let at = |text: &str| Source::Uri(text.to_owned());
    assert_eq!(registry.ca, Some(at("kbs:///a/b/c")));
    assert_eq!(registry.client, Some((at("/cert.pem"), at("/key.pem"))));
    let written = OWN_REGISTRIES.replace("'/key.pem'", "'-----BEGIN PRIVATE KEY-----s3cret'");
    let written = config(&written);
    assert!(!written.effective_toml().contains("s3cret"));
    assert!(!format!("{written:?}").contains("s3cret"));
}

#[test]
fn exceptions_of_the_proxy_are_read_as_the_client_has_them_and_refused_where_it_has_none() {
    let read = |list: &str| {
        let text = format!("image.image_pull_proxy.no_proxy = {list:?}");
        parse(&text).map(|(config, _warnings)| config.image.proxy.exceptions)
    };
    for (list, expected) in [
        (" *.corp.example , .b.example,", "corp.example,.b.example"),
        (
            "10.0.0.0/8,::1,fd00::/8,registry",
            "10.0.0.0/8,::1,fd00::/8,registry",
        ),
        ("*", "*"),
    ] {
        assert_eq!(read(list).unwrap().as_deref(), Some(expected), "{list}");
    }
    for item in [
        "registry.example:5000",
        "10.0.0.1:5000",
        "10.0.0.0/33",
        "[::1]",
        "a b",
    ] {
        let error = read(&format!("a.example,{item}")).unwrap_err();
        let is_named = matches!(&error, ConfigError::Value { source, .. }
            if matches!(&**source, Fault::ProxyException { found } if found == item));
        assert!(is_named, "{item}: {error:?}");
    }
}

#[test]
fn credential_helper_is_a_name_and_no_path() {
    for name in ["", "/bin/sh", "../x", "a b"] {
        let text = format!("image_agent.credential_helpers = [{name:?}]");
        let error = parse(&text).unwrap_err();
        let is_named = matches!(&error, ConfigError::Value { source, .. }
            if matches!(&**source, Fault::HelperName { found } if found == name));
        assert!(is_named, "{name:?}: {error:?}");
    }
}

#[test]
fn half_a_client_certificate_is_refused() {
    let rows = [
        ("host = 'a', client_key = '/k'", "client_certificate"),
        ("host = 'a', client_certificate = '/c'", "client_key"),
        ("ca = '/c'", "host"),
    ];
    for (entry, expected) in rows {
        let error = parse(&format!("image_agent.registry = [{{ {entry} }}]")).unwrap_err();
        let expected = format!("image_agent.registry[0].{expected}");
        assert!(
            matches!(&error, ConfigError::Missing { key, .. } if *key == expected),
            "{entry}: {error:?}"
        );
    }
}

#[test]
fn a_registry_has_one_table_of_its_own() {
    let error = parse("image_agent.registry = [{ host = 'a' }, { host = 'b' }, { host = 'a' }]");
    let error = crate::error::chain(&error.unwrap_err());
    let expected = "does not go with an earlier [[image_agent.registry]] for the same host";
    assert!(error.contains("image_agent.registry[2].host"), "{error}");
    assert!(error.contains(expected), "{error}");
}

const OWN_REGISTRIES: &str = r#"
[image_agent]
platform = "linux/arm64/v8"
certs_d = ["/etc/certs"]
credential_helpers = ["ecr-login"]
[[image_agent.registry]]
host = "registry.example:5000"
ca = "kbs:///a/b/c"
client_certificate = "/cert.pem"
client_key = '/key.pem'
[image.registry_config]
credential-helpers = ["ecr-login", "containers-auth.json"]
[image.registry_config.aliases]
app = "registry.example/app"
[[image.registry_config.registry]]
location = "registry.example"
[[image.registry_config.registry.mirror]]
location = "mirror.example"
ns = true
"#;

/// A page without its comments, which name what is not shown.
fn statements(page: &str) -> Vec<&str> {
    page.lines().filter(|line| !line.starts_with('#')).collect()
}
