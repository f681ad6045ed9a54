//! The configuration as a whole, through its front door.

use std::path::{Path, PathBuf};
use std::time::Duration;

mod complaints;
mod effective;
mod sources;

use super::*;
use crate::registries::Transport;

/// An environment with a kernel command line and nothing else.
fn booted_with(command_line: &str) -> Environment {
    Environment {
        kernel_command_line: Some(command_line.to_owned()),
        ..Environment::default()
    }
}

fn parse(text: &str) -> Result<(Config, Vec<Warning>), ConfigError> {
    Config::parse(text, &booted_with(""))
}

fn config(text: &str) -> Config {
    parse(text)
        .unwrap_or_else(|error| panic!("{text}\n{error:?}"))
        .0
}

fn warnings(text: &str) -> Vec<Warning> {
    parse(text)
        .unwrap_or_else(|error| panic!("{text}\n{error:?}"))
        .1
}

fn fault(result: Result<(Config, Vec<Warning>), ConfigError>) -> (Origin, Fault) {
    match result {
        Err(ConfigError::Value { origin, source }) => (origin, *source),
        other => panic!("expected an illegal value, found {other:?}"),
    }
}

/// What passes for a certificate here: the TLS stack judges the rest.
const PEM: &str = "-----BEGIN CERTIFICATE-----\nMAMCAQE=\n-----END CERTIFICATE-----\n";
const OTHER_PEM: &str = "-----BEGIN CERTIFICATE-----\nMAMCAQI=\n-----END CERTIFICATE-----\n";
const REJECT: &str = r#"{"default":[{"type":"reject"}]}"#;

/// Every key that the Confidential Data Hub reads, as its users write them.
fn complete_file() -> String {
    format!(
        r#"
socket = "unix:///run/confidential-containers/cdh.sock"
services_dir = "/run/guest-services"
skip_sealed_secret_verification = true

[aa]
aa_socket = "unix:///run/aa.sock"

[kbc]
name = "cc_kbc"
url = "http://kbs.example:8080"
kbs_cert = """
{PEM}"""

[[credentials]]
path = "/run/confidential-containers/cdh/kbs/kms/ecsRamRole.json"
resource_uri = "kbs:///default/aliyun/ecs_ram_role"

[[credentials]]
path = "/run/confidential-containers/cdh/kbs/test/file"
resource_uri = "kbs:///default/test/file"

[image]
max_concurrent_layer_downloads_per_image = 5
sigstore_config_uri = "kbs:///default/sigstore-config/test"
sigstore_config = "docker: {{}}"
image_security_policy_uri = "kbs:///default/security-policy/test"
image_security_policy = '{REJECT}'
authenticated_registry_credentials_uri = "kbs:///default/credential/test"
anonymous_fallback_on_unauthorized = true
registry_configuration_uri = "kbs:///default/registry-configuration/test"
extra_root_certificates = ["""
{PEM}""", """
{OTHER_PEM}"""]
work_dir = "/run/image-rs"

[image.registry_config]
unqualified-search-registries = ["docker.io", "example1.com"]

[[image.registry_config.registry]]
prefix = "example.com/banned"
blocked = true

[[image.registry_config.registry]]
prefix = "example.com/foo"
insecure = false
blocked = false
location = "internal-registry-for-example.com/bar"

[[image.registry_config.registry.mirror]]
location = "example-mirror-0.local/mirror-for-foo"

[[image.registry_config.registry.mirror]]
location = "example-mirror-1.local/mirrors/foo"
insecure = true

[[image.registry_config.registry]]
location = "docker.io"

[[image.registry_config.registry.mirror]]
location = "123456.mirror.aliyuncs.com"

[image.image_pull_proxy]
https_proxy = "http://user:s3cret@127.0.0.1:5432"
http_proxy = "127.0.0.1:5432"
no_proxy = "192.168.0.1,localhost"

[log]
level = "debug"
"#
    )
}

#[test]
fn without_anything_every_default_is_todays_and_no_image_may_run() {
    let (config, warnings) = parse("").unwrap();
    assert_eq!(
        config.socket,
        Path::new("/run/confidential-containers/cdh.sock")
    );
    assert_eq!(
        config.kbc,
        Kbc::OfflineFs {
            extra_files: Vec::new()
        }
    );
    let aa = "/run/confidential-containers/attestation-agent/attestation-agent.sock";
    assert_eq!(config.aa_socket, Path::new(aa));
    assert_eq!(config.credentials, []);
    assert_eq!(config.log_level, "info");
    let image = config.image;
    assert_eq!(image.work_dir, Path::new("/run/kata-containers/image/"));
    assert!(matches!(&image.policy, PolicySource::NotConfigured { .. }));
    assert_eq!(image.sigstore_config, None);
    assert_eq!(image.registry_credentials, None);
    assert!(image.registries.entries().is_empty());
    assert_eq!(image.registry_configuration, None);
    assert_eq!(image.max_concurrent_layer_downloads, None);
    assert_eq!(image.proxy, Proxy::default());
    assert_eq!(image.extra_root_certificates, Vec::<String>::new());
    let own = config.image_agent;
    assert_eq!(own.attester, None);
    assert!(!own.require_authenticated_kbs && !own.verbose_errors);
    assert_eq!(own.limits, rootfs::Limits::default());
    let seconds = [own.timeouts.connect, own.timeouts.idle, own.timeouts.total];
    assert_eq!(seconds, [10, 30, 1200].map(Duration::from_secs));
    assert!(
        matches!(warnings.as_slice(), [Warning::NoPolicy { .. }]),
        "{warnings:?}"
    );
}

#[test]
fn every_key_of_todays_file_takes_effect() {
    let config = config(&complete_file());
    assert_eq!(
        config.socket,
        Path::new("/run/confidential-containers/cdh.sock")
    );
    assert_eq!(config.aa_socket, Path::new("/run/aa.sock"));
    let Kbc::Kbs { url, certificates } = &config.kbc else {
        panic!("{:?}", config.kbc)
    };
    assert_eq!(url.as_str(), "http://kbs.example:8080/");
    assert_eq!(certificates.as_deref(), Some(PEM));
    let credentials: Vec<_> = config
        .credentials
        .iter()
        .map(|one| (one.resource_uri(), one.path()))
        .collect();
    assert_eq!(
        credentials,
        [
            (
                "kbs:///default/aliyun/ecs_ram_role",
                Path::new("kms/ecsRamRole.json")
            ),
            ("kbs:///default/test/file", Path::new("test/file")),
        ]
    );
    assert_eq!(config.log_level, "debug");
    let image = &config.image;
    assert_eq!(image.work_dir, Path::new("/run/image-rs"));
    assert_eq!(
        image.policy,
        PolicySource::Uri("kbs:///default/security-policy/test".to_owned())
    );
    let sigstore = Source::Uri("kbs:///default/sigstore-config/test".to_owned());
    assert_eq!(image.sigstore_config, Some(sigstore));
    assert_eq!(
        image.registry_credentials.as_deref(),
        Some("kbs:///default/credential/test")
    );
    assert_eq!(image.registries.entries().len(), 3);
    assert_eq!(image.registry_configuration, None, "the table wins");
    assert_eq!(image.max_concurrent_layer_downloads, NonZeroUsize::new(5));
    assert_eq!(image.extra_root_certificates, [PEM, OTHER_PEM]);
    let route = config.route();
    assert_eq!(
        route.https_proxy.as_deref(),
        Some("http://user:s3cret@127.0.0.1:5432/")
    );
    assert_eq!(route.http_proxy.as_deref(), Some("http://127.0.0.1:5432/"));
    assert_eq!(route.no_proxy.as_deref(), Some("192.168.0.1,localhost"));
    assert_eq!(route.extra_root_certificates, [PEM, OTHER_PEM]);
    assert_eq!(route.timeouts, config.image_agent.timeouts);
}

#[test]
fn every_key_without_effect_is_named_in_a_warning() {
    let text: Vec<String> = warnings(&complete_file())
        .iter()
        .map(ToString::to_string)
        .collect();
    let named = [
        "services_dir has no effect",
        "skip_sealed_secret_verification has no effect",
        "kbc.url: http://kbs.example:8080/ is plain http",
        "kbc.kbs_cert has no effect",
        "image.sigstore_config has no effect: image.sigstore_config_uri wins",
        "image.image_security_policy has no effect: image.image_security_policy_uri wins",
        "image.registry_configuration_uri has no effect: image.registry_config wins",
        "image.registry_config.unqualified-search-registries has no effect",
    ];
    for name in named {
        assert_eq!(
            text.iter().filter(|line| line.starts_with(name)).count(),
            1,
            "{name}: {text:#?}"
        );
    }
    assert_eq!(text.len(), named.len(), "{text:#?}");
}

#[test]
fn text_that_is_no_toml_is_refused_without_being_quoted() {
    let rows = [
        (
            "[image]\nimage_pull_proxy = { https_proxy = \"http://u:s3cret@p\"",
            2,
        ),
        ("socket = \"a\"\nsocket = \"b\"", 2),
        ("[kbc]\nname = \"cc_kbc\"\n[kbc]", 3),
        ("a\0b = s3cret", 1),
        ("= s3cret", 1),
    ];
    for (text, line) in rows {
        let error = parse(text).unwrap_err();
        let shown = error.to_string();
        let ConfigError::Syntax { at, message } = error else {
            panic!("{text}: {error:?}")
        };
        assert_eq!(at.line, line, "{text}: {message}");
        assert!(!message.is_empty() && !shown.contains("s3cret"), "{shown}");
    }
    // What other tools would read as YAML or JSON is not TOML.
    assert!(matches!(
        parse("{\"kbc\":{}}"),
        Err(ConfigError::Syntax { .. })
    ));
}

#[test]
fn blank_values_that_templates_leave_are_none() {
    let config = config(
        "[kbc]\nname = \"offline_fs_kbc\"\nurl = \"\"\nkbs_cert = \"\"\n\
         [image.image_pull_proxy]\nhttps_proxy = \"\"\nhttp_proxy = \" \"\nno_proxy = \"\"\n",
    );
    assert_eq!(config.image.proxy, Proxy::default());
    assert_eq!(
        config.kbc,
        Kbc::OfflineFs {
            extra_files: Vec::new()
        }
    );
    let text = "[kbc]\nname = \"cc_kbc\"\nurl = \"https://kbs\"\nkbs_cert = \"\"";
    assert!(matches!(
        super::Config::parse(text, &booted_with("")).unwrap().0.kbc,
        Kbc::Kbs {
            certificates: None,
            ..
        }
    ));
}

#[test]
fn credentials_stay_beneath_their_folder() {
    let paths = [
        "/etc/passwd",
        "/run/confidential-containers/cdh/kbs",
        "/run/confidential-containers/cdh/kbs/",
        "/run/confidential-containers/cdh/kbsx",
        "/run/confidential-containers/cdh/kbs/../x",
        "/run/confidential-containers/cdh/kbs/a/../../x",
        "/run/confidential-containers/cdh/kbs/./x",
        "/run/confidential-containers/cdh/kbs//x",
        "/run/confidential-containers/cdh/kbs/x/",
        "run/confidential-containers/cdh/kbs/x",
        "x",
        "",
    ];
    for path in paths {
        let text = format!("[[credentials]]\nresource_uri = \"kbs:///a/b/c\"\npath = \"{path}\"");
        let (_, found) = fault(parse(&text));
        assert!(
            matches!(&found, Fault::CredentialPath { found } if found == path),
            "{found:?}"
        );
    }
}

#[test]
fn unauthenticated_kbs_is_warned_of_and_refused_on_demand() {
    let rows = [
        ("https://kbs.example", true),
        ("HTTPS://kbs.example", true),
        ("http://kbs.example", false),
        ("http://10.0.0.1:8080", false),
        ("http://127.0.0.1:8080", true),
        ("http://127.8.9.1", true),
        ("http://[::1]:8080", true),
        ("http://localhost:8080", true),
        ("http://localhost.example", false),
        ("http://127.0.0.1.example", false),
        ("http://[::ffff:10.0.0.1]", false),
    ];
    for (url, authenticated) in rows {
        let text = format!("[kbc]\nname = \"cc_kbc\"\nurl = \"{url}\"\n");
        let (config, warnings) = parse(&text).unwrap();
        assert_eq!(config.kbc.is_authenticated(), authenticated, "{url}");
        let warned = warnings
            .iter()
            .any(|warning| matches!(warning, Warning::PlainHttpKbs { .. }));
        assert_eq!(warned, !authenticated, "{url}");
        let insisting = parse(&format!(
            "{text}[image_agent]\nrequire_authenticated_kbs = true\n"
        ));
        if authenticated {
            assert!(
                insisting.unwrap().0.image_agent.require_authenticated_kbs,
                "{url}"
            );
        } else {
            let (origin, found) = fault(insisting);
            assert!(
                matches!(&origin, Origin::File { key, .. } if key == "kbc.url"),
                "{origin:?}"
            );
            assert!(
                matches!(found, Fault::UnauthenticatedKbs { .. }),
                "{found:?}"
            );
        }
    }
}

#[test]
fn table_of_ours_takes_effect() {
    let config = config(
        "[image_agent]\nattester = \"sample\"\nverbose_errors = true\n\
         [image_agent.limits]\nunpacked_bytes = 1_000_000\nratio = 2\nratio_free_bytes = 3\n\
         image_bytes = 10\nentries = 4\npath_bytes = 5\npath_depth = 6\nheader_bytes = 7\nxattr_bytes = 0x8\n\
         kept_bytes = 9\nzstd_window_log = 20\n\
         [image_agent.timeouts]\nconnect = 1\nidle = 2\ntotal = 3\n",
    );
    let own = config.image_agent;
    assert_eq!(own.attester, Some(AttesterName::Sample));
    assert!(own.verbose_errors);
    let limits = rootfs::Limits {
        unpacked_bytes: 1_000_000,
        image_bytes: 10,
        ratio: 2,
        ratio_free_bytes: 3,
        entries: 4,
        path_bytes: 5,
        path_depth: 6,
        header_bytes: 7,
        xattr_bytes: 8,
        kept_bytes: 9,
        zstd_window_log: 20,
    };
    assert_eq!(own.limits, limits);
    let seconds = [own.timeouts.connect, own.timeouts.idle, own.timeouts.total];
    assert_eq!(seconds, [1, 2, 3].map(Duration::from_secs));
}

#[test]
fn log_levels_are_words_or_lists() {
    for level in [
        "info",
        "DEBUG",
        "off",
        "info,ttrpc=warn",
        "image_agent=trace",
    ] {
        assert_eq!(config(&format!("log.level = \"{level}\"")).log_level, level);
    }
}

#[test]
fn inline_registries_take_effect() {
    let text = "[image.registry_config]\n[[image.registry_config.registry]]\n\
                location = \"127.0.0.1:5000\"\ninsecure = true\n";
    let image = policy::ImageRef::parse_edge("127.0.0.1:5000/app:1").unwrap();
    let endpoint = config(text).image.registries.lookup(&image).unwrap();
    assert_eq!(endpoint.transport, Transport::PlainHttp);
}

#[test]
fn files_are_read_within_a_cap() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("cdh.toml");
    let load = || Config::load(Some(&path), &booted_with(""));
    assert!(matches!(
        load(),
        Err(ConfigError::Read { path: named, source })
            if named == path && source.kind() == std::io::ErrorKind::NotFound
    ));
    std::fs::write(&path, "log.level = \"warn\"").unwrap();
    assert_eq!(load().unwrap().0.log_level, "warn");
    std::fs::write(&path, b"log.level = \"warn\"\n# \xff").unwrap();
    assert!(matches!(load(), Err(ConfigError::NotUtf8 { line: 2 })));
    std::fs::write(&path, vec![b'\n'; MAX_FILE + 1]).unwrap();
    assert!(matches!(
        load(),
        Err(ConfigError::TooLarge {
            limit: MAX_FILE,
            ..
        })
    ));
}

#[test]
fn socket_of_a_broken_file_is_the_one_that_it_names_if_it_can_be_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("cdh.toml");
    let usual = "/run/confidential-containers/cdh.sock";
    let rows = [
        (
            "socket = \"unix:///run/x.sock\"\nnonsense = 1",
            "/run/x.sock",
        ),
        (
            "socket = \"unix:///run/x.sock\"\n[image\nwork_dir = ",
            "/run/x.sock",
        ),
        ("socket = \"tcp://1.2.3.4\"", usual),
        ("socket = 1", usual),
        ("[aa]\nsocket = \"unix:///run/x.sock\"", usual),
        ("", usual),
    ];
    for (text, expected) in rows {
        std::fs::write(&path, text).unwrap();
        assert_eq!(
            Config::socket_of_broken(Some(&path)),
            Path::new(expected),
            "{text}"
        );
    }
    assert_eq!(
        Config::socket_of_broken(Some(Path::new("/nonexistent"))),
        Path::new(usual)
    );
    assert_eq!(Config::socket_of_broken(None), Path::new(usual));
}
/// An error with its causes, as people see it.
fn said(error: &ConfigError) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(source) = cause {
        text.push_str(": ");
        text.push_str(&source.to_string());
        cause = source.source();
    }
    text
}
