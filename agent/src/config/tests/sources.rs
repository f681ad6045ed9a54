//! Which of file, environment and kernel command line is believed.

use super::*;

#[test]
fn kbc_comes_from_the_file_else_the_environment_else_the_command_line_else_files() {
    let file = "[kbc]\nname = \"cc_kbc\"\nurl = \"https://file\"";
    let offline = "[kbc]\nname = \"offline_fs_kbc\"";
    let line = "agent.aa_kbc_params=cc_kbc::https://line";
    let rows = [
        (
            file,
            Some("cc_kbc::https://env"),
            line,
            Some("https://file/"),
        ),
        (offline, Some("cc_kbc::https://env"), line, None),
        ("", Some("cc_kbc::https://env"), line, Some("https://env/")),
        ("", None, line, Some("https://line/")),
        ("", Some(""), line, Some("https://line/")),
        ("[image]", None, line, Some("https://line/")),
        ("", Some("offline_fs_kbc::null"), line, None),
        (
            "",
            None,
            "agent.aa_kbc_params=cc_kbc::http://[fd00::1]:8080",
            Some("http://[fd00::1]:8080/"),
        ),
        ("", None, "agent.aa_kbc_params=offline_fs_kbc::null", None),
        ("", None, "quiet", None),
    ];
    for (text, variable, line, expected) in rows {
        let mut environment = booted_with(line);
        environment.aa_kbc_params = variable.map(str::to_owned);
        let kbc = Config::parse(text, &environment).unwrap().0.kbc;
        let url = match &kbc {
            Kbc::Kbs { url, .. } => Some(url.as_str()),
            Kbc::OfflineFs { .. } => None,
        };
        assert_eq!(url, expected, "{text:?} {variable:?} {line:?}");
    }
}

#[test]
fn a_misspelled_parameter_of_the_kernel_is_warned_of() {
    let line = "quiet agent.log=debug agent.aa_kbc_param=cc_kbc::https://kbs agent.http-proxy=x";
    let (_, warnings) = Config::parse("", &booted_with(line)).unwrap();
    let said: Vec<String> = warnings.iter().map(ToString::to_string).collect();
    assert_eq!(
        said.get(1..).unwrap_or_default(),
        [
            "kernel command line: agent.aa_kbc_param has no effect, did you mean \
             \"agent.aa_kbc_params\"?",
            "kernel command line: agent.http-proxy has no effect, did you mean \
             \"agent.http_proxy\"?",
        ],
        "{said:?}"
    );
}

#[test]
fn variables_of_today_take_effect() {
    let environment = Environment {
        aa_socket: Some("unix:///run/other.sock".to_owned()),
        kbs_cert: Some(PEM.to_owned()),
        registry_credentials: Some("file:///run/peerpod/auth.json".to_owned()),
        ..booted_with("")
    };
    let text = "[kbc]\nname = \"cc_kbc\"\nurl = \"https://kbs\"\n\
                [aa]\naa_socket = \"unix:///run/aa.sock\"\n\
                [image]\nauthenticated_registry_credentials_uri = \"kbs:///a/b/c\"\n";
    let (config, warnings) = Config::parse(text, &environment).unwrap();
    assert_eq!(config.aa_socket, Path::new("/run/other.sock"));
    assert!(
        matches!(&config.kbc, Kbc::Kbs { certificates: Some(pem), .. } if pem == PEM),
        "{:?}",
        config.kbc
    );
    let credentials = config.image.registry_credentials.as_deref();
    assert_eq!(credentials, Some("file:///run/peerpod/auth.json"));
    assert!(warnings.iter().any(|warning| matches!(
        warning,
        Warning::Overridden { loser, .. } if loser == "image.authenticated_registry_credentials_uri"
    )));
    let environment = Environment {
        offline_fs_kbc_extra_file_path: Some("/etc/a.json,/etc/b.json".to_owned()),
        ..booted_with("")
    };
    let extra_files = vec![PathBuf::from("/etc/a.json"), PathBuf::from("/etc/b.json")];
    assert_eq!(
        Config::parse("", &environment).unwrap().0.kbc,
        Kbc::OfflineFs { extra_files }
    );
}

#[test]
fn certificate_of_the_file_wins_over_the_one_of_the_environment() {
    let environment = Environment {
        kbs_cert: Some(OTHER_PEM.to_owned()),
        ..booted_with("")
    };
    let text = format!("[kbc]\nname = \"cc_kbc\"\nurl = \"https://kbs\"\nkbs_cert = '''\n{PEM}'''");
    let kbc = Config::parse(&text, &environment).unwrap().0.kbc;
    assert!(
        matches!(&kbc, Kbc::Kbs { certificates: Some(pem), .. } if pem == PEM),
        "{kbc:?}"
    );
}

#[test]
fn malformed_variables_are_refused_by_name() {
    let rows: [(&str, Environment); 4] = [
        (
            "AA_SOCKET",
            Environment {
                aa_socket: Some("x".to_owned()),
                ..booted_with("")
            },
        ),
        (
            "KBS_CERT",
            Environment {
                kbs_cert: Some("x".to_owned()),
                ..booted_with("agent.aa_kbc_params=cc_kbc::https://kbs")
            },
        ),
        (
            "CDH_DEFAULT_IMAGE_AUTHENTICATED_REGISTRY_CREDENTIALS",
            Environment {
                registry_credentials: Some("x".to_owned()),
                ..booted_with("")
            },
        ),
        (
            "OFFLINE_FS_KBC_EXTRA_FILE_PATH",
            Environment {
                offline_fs_kbc_extra_file_path: Some("x".to_owned()),
                ..booted_with("")
            },
        ),
    ];
    for (expected, environment) in rows {
        let (origin, _) = fault(Config::parse("", &environment));
        assert_eq!(origin, Origin::Environment { variable: expected });
    }
}

#[test]
fn without_an_image_table_the_command_line_speaks() {
    let line = "BOOT_IMAGE=/vmlinuz ro agent.image_policy_file=kbs:///default/policy/1 \
                agent.image_registry_auth=file:///etc/auth.json agent.https_proxy=http://p:1 \
                agent.http_proxy=p:2 agent.no_proxy=\"localhost, 10.0.0.0/8\" quiet";
    for text in ["", "[kbc]\nname = \"offline_fs_kbc\""] {
        let (config, warnings) = Config::parse(text, &booted_with(line)).unwrap();
        let policy = PolicySource::Uri("kbs:///default/policy/1".to_owned());
        assert_eq!(config.image.policy, policy);
        let credentials = config.image.registry_credentials.as_deref();
        assert_eq!(credentials, Some("file:///etc/auth.json"));
        let route = config.route();
        assert_eq!(route.https_proxy.as_deref(), Some("http://p:1/"));
        assert_eq!(route.http_proxy.as_deref(), Some("http://p:2/"));
        assert_eq!(route.no_proxy.as_deref(), Some("localhost,10.0.0.0/8"));
        assert_eq!(warnings, []);
    }
}

#[test]
fn with_an_image_table_the_command_line_is_ignored_and_that_is_said() {
    let line = "agent.image_policy_file=kbs:///a/b/c agent.enable_signature_verification=perhaps \
                agent.image_registry_auth=nonsense agent.https_proxy=ftp://p agent.no_proxy=x";
    let (config, warnings) = Config::parse("[image]", &booted_with(line)).unwrap();
    let PolicySource::NotConfigured { hint } = &config.image.policy else {
        panic!("{:?}", config.image.policy)
    };
    assert!(hint.ends_with("that parameter is ignored"), "{hint}");
    assert_eq!(config.image.registry_credentials, None);
    assert_eq!(config.image.proxy, Proxy::default());
    let ignored = warnings
        .iter()
        .filter(|warning| matches!(warning, Warning::Overridden { .. }))
        .count();
    assert_eq!(ignored, 5, "{warnings:?}");
}

#[test]
fn no_value_of_enable_signature_verification_permits_anything() {
    let policy = "agent.image_policy_file=kbs:///a/b/c";
    let rows = [
        (
            "agent.enable_signature_verification=true",
            policy,
            true,
            None,
        ),
        (
            "agent.enable_signature_verification=false",
            policy,
            true,
            Some(false),
        ),
        ("", policy, true, None),
        (
            "agent.enable_signature_verification=true",
            "",
            false,
            Some(true),
        ),
        ("agent.enable_signature_verification=false", "", false, None),
        ("", "", false, None),
    ];
    for (flag, policy, applied, warned) in rows {
        let line = format!("{flag} {policy}");
        let (config, warnings) = Config::parse("", &booted_with(&line)).unwrap();
        match (applied, &config.image.policy) {
            (true, PolicySource::Uri(uri)) => assert_eq!(uri, "kbs:///a/b/c", "{line}"),
            (false, PolicySource::NotConfigured { hint }) => {
                assert!(hint.starts_with("no image policy is configured"), "{hint}");
            }
            (_, other) => panic!("{line}: {other:?}"),
        }
        let found = warnings.iter().find_map(|warning| match warning {
            Warning::VerificationFlag { value } => Some(*value),
            _ => None,
        });
        assert_eq!(found, warned, "{line}");
    }
}

#[test]
fn a_policy_in_the_file_is_taken_as_it_stands_unless_one_is_named() {
    let inline = format!("[image]\nimage_security_policy = '{REJECT}'");
    assert_eq!(
        config(&inline).image.policy,
        PolicySource::Inline(REJECT.to_owned())
    );
    let both = format!("{inline}\nimage_security_policy_uri = \"/etc/policy.json\"");
    assert_eq!(
        config(&both).image.policy,
        PolicySource::Uri("/etc/policy.json".to_owned())
    );
}

#[test]
fn credentials_of_file_and_command_line_add_up() {
    let text = "[[credentials]]\nresource_uri = \"kbs:///a/b/1\"\n\
                path = \"/run/confidential-containers/cdh/kbs/1\"\n[image]\n";
    let line = "cdh.kbs_resources=kbs:///a/b/2::/run/confidential-containers/cdh/kbs/d/2,\
                kbs:///a/b/3::/run/confidential-containers/cdh/kbs/3";
    let config = Config::parse(text, &booted_with(line)).unwrap().0;
    let found: Vec<_> = config
        .credentials
        .iter()
        .map(|credential| {
            (
                credential.resource_uri(),
                credential.path().to_str().unwrap(),
            )
        })
        .collect();
    assert_eq!(
        found,
        [
            ("kbs:///a/b/1", "1"),
            ("kbs:///a/b/2", "d/2"),
            ("kbs:///a/b/3", "3")
        ]
    );
}

#[test]
fn unreadable_command_line_is_warned_of() {
    let warnings = Config::parse("", &Environment::default()).unwrap().1;
    assert!(warnings.contains(&Warning::NoCommandLine), "{warnings:?}");
}
