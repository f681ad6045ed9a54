//! The configuration as the daemon and `config check` see it.

use std::process::Output;

use kit::client::Code;
use kit::guest::Guest;
use kit::image::Image;
use kit::programs::run;
use kit::scene::Scene;
use kit::settings::Settings;

use super::{ACCEPT_ANYTHING, FAILED, assert_says, trusting_guest};

/// Configurations that must be refused, and words of the error.
#[expect(clippy::too_many_lines, reason = "a table, one row per case")]
fn broken() -> Vec<(&'static str, Settings, &'static [&'static str])> {
    let base = || trusting_guest("127.0.0.1:1").settings.clone();
    vec![
        (
            "misspelled table",
            base().with("imagee.work_dir", "/x"),
            &["imagee", "image"],
        ),
        (
            "misspelled key",
            base().with("image.image_security_policy_ury", "kbs:///a/b/c"),
            &["image_security_policy_ury", "image_security_policy_uri"],
        ),
        (
            "misspelled key of ours",
            base().with("image_agent.verbose_error", true),
            &["verbose_errors"],
        ),
        (
            "misspelled limit",
            base().with("image_agent.limits.entrys", 1),
            &["entrys", "entries"],
        ),
        (
            "wrong type",
            base().with("image.work_dir", 7),
            &["work_dir", "string"],
        ),
        (
            "negative limit",
            base().with("image_agent.limits.entries", -1),
            &["entries"],
        ),
        (
            "socket without a scheme",
            base().with("socket", "/x"),
            &["socket", "unix://"],
        ),
        (
            "socket with a path that the kernel does not take",
            base().with("socket", format!("unix:///run/{}", "x".repeat(103))),
            &["socket", "107 bytes", "108"],
        ),
        (
            "malformed registries.d document",
            base().with("image.sigstore_config", "docker: 1"),
            &["image.sigstore_config", "docker should be a mapping"],
        ),
        (
            "malformed policy",
            base().with("image.image_security_policy", r#"{"default": []}"#),
            &["image.image_security_policy", "default"],
        ),
        (
            "malformed registries.conf",
            base().with("image.registry_config.registry", "x"),
            &["image.registry_config.registry"],
        ),
        (
            "unknown kbc",
            base().with("kbc.name", "cc_kbcc"),
            &["cc_kbcc", "cc_kbc"],
        ),
        (
            "kbs without a url",
            base().with("kbc.name", "cc_kbc"),
            &["kbc.url"],
        ),
        (
            "malformed policy location",
            base().with("image.image_security_policy_uri", "kbs:///only/two"),
            &["image_security_policy_uri"],
        ),
        (
            "malformed certificate",
            base().with("image.extra_root_certificates", vec!["x"]),
            &["extra_root_certificates"],
        ),
        (
            "unauthenticated kbs",
            base()
                .with("kbc.name", "cc_kbc")
                .with("kbc.url", "http://kbs.example:8080")
                .with("image_agent.require_authenticated_kbs", true),
            &["require_authenticated_kbs"],
        ),
    ]
}

fn check(guest: &Guest) -> Output {
    let config = guest.write_config();
    guest
        .program()
        .args(["config", "check"])
        .arg(config)
        .output()
        .unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn broken_configurations_are_refused_by_name() {
    for (case, settings, words) in broken() {
        let mut guest = Guest::new();
        let socket = guest.socket();
        guest.settings = settings;
        let checked = check(&guest);
        assert!(!checked.status.success(), "{case}");
        assert_says(case, &text(&checked.stderr), words);

        let config = guest.write_config();
        let served = guest
            .program()
            .args(["serve", "-c"])
            .arg(config)
            .output()
            .unwrap();
        assert!(!served.status.success(), "{case}");
        assert_says(case, &text(&served.stderr), words);
        assert!(!socket.exists(), "{case}");
    }
}

#[test]
fn files_that_are_no_toml_are_refused_with_the_place() {
    let guest = Guest::new();
    let path = guest.path().join("tmp/broken.toml");
    for (content, words) in [
        ("socket = ", "line 1"),
        ("[kbc]\nname = \"cc_kbc\"\nname = \"cc_kbc\"\n", "line 3"),
        ("[image\n", "line 1"),
    ] {
        std::fs::write(&path, content).unwrap();
        let checked = guest
            .program()
            .args(["config", "check"])
            .arg(&path)
            .output()
            .unwrap();
        assert!(!checked.status.success(), "{content}");
        assert_says(content, &text(&checked.stderr), &[words]);
    }
    let missing = guest
        .program()
        .args(["config", "check", "/nonexistent.toml"])
        .output()
        .unwrap();
    assert!(!missing.status.success());
    assert_says("missing", &text(&missing.stderr), &["/nonexistent.toml"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn started_by_kata_agent_a_broken_configuration_answers_every_call() {
    for (case, settings, words) in broken() {
        let mut guest = Guest::new();
        let socket = format!("unix://{}", guest.socket().display());
        if case.starts_with("socket ") {
            // Then the socket is the default one, which is not this test's to bind.
            continue;
        }
        guest.settings = settings.with("socket", socket);
        let daemon = guest.start_as_confidential_data_hub().await;
        for _ in 0..2 {
            let refusal = daemon
                .refuses("host.example/app:1", &guest.bundle("c1"))
                .await;
            assert_eq!(
                refusal.code,
                Code::FAILED_PRECONDITION,
                "{case}: {refusal:?}"
            );
            assert_says(case, &refusal.message, &[FAILED]);
            assert_says(case, &refusal.message, words);
        }
        assert_eq!(guest.residue().len(), 0, "{case}: {:?}", guest.residue());
    }
}

#[test]
fn config_check_prints_what_is_in_force_with_secrets_masked() {
    let mut guest = trusting_guest("registry.example:5000");
    guest.settings = guest
        .settings
        .clone()
        .with("kbc.name", "cc_kbc")
        .with("kbc.url", "http://kbs.example:8080")
        .with(
            "image.image_pull_proxy.https_proxy",
            "http://user:hunter2@proxy.example:3128",
        );
    let checked = check(&guest);
    assert!(checked.status.success(), "{}", text(&checked.stderr));
    let printed = text(&checked.stdout);
    let parsed: toml::Table = printed
        .parse()
        .unwrap_or_else(|error| panic!("{error}\n{printed}"));
    assert_eq!(parsed["image"]["work_dir"].as_str(), guest.work().to_str());
    assert_eq!(
        parsed["log"]["level"].as_str(),
        Some("info"),
        "defaults are filled in"
    );
    assert_eq!(
        parsed["image_agent"]["require_authenticated_kbs"].as_bool(),
        Some(false)
    );
    assert_says(
        "effective",
        &printed,
        &["proxy.example:3128", "registry.example:5000"],
    );
    assert!(!printed.contains("hunter2"), "{printed}");
    assert_says(
        "plain http",
        &text(&checked.stderr),
        &["warning", "http://kbs.example:8080"],
    );
}

#[test]
fn keys_whose_service_is_not_here_yet_are_warned_of_by_name() {
    let mut guest = trusting_guest("127.0.0.1:1");
    guest.settings = guest
        .settings
        .clone()
        .with("skip_sealed_secret_verification", true)
        .with("services_dir", "/run/services");
    let checked = check(&guest);
    assert!(checked.status.success(), "{}", text(&checked.stderr));
    let words = ["skip_sealed_secret_verification", "services_dir"];
    assert_says("not yet", &text(&checked.stderr), &words);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_value_of_the_verification_flag_permits_anything() {
    let scene = Scene::start().await;
    let image = Image::small("flag");
    scene.registry.push("app:1", &image).await;
    let guest = Guest::new();
    let policy = "agent.image_policy_file=kbs:///default/security-policy/test";
    for (line, legal, words) in [
        (
            "agent.enable_signature_verification=false".to_owned(),
            true,
            "no image policy",
        ),
        (String::new(), true, "no image policy"),
        (
            policy.to_owned(),
            true,
            "kbs:///default/security-policy/test",
        ),
        (
            format!("{policy} agent.enable_signature_verification=false"),
            true,
            "kbs:///default/security-policy/test",
        ),
        (
            format!("{policy} agent.enable_signature_verification=true"),
            true,
            "kbs:///default/security-policy/test",
        ),
        (
            "agent.enable_signature_verification=maybe".to_owned(),
            false,
            "enable_signature_verification",
        ),
    ] {
        let command_line = guest.path().join("tmp/cmdline");
        std::fs::write(&command_line, &line).unwrap();
        let config = guest.path().join("tmp/cdh.toml");
        std::fs::write(&config, "[kbc]\nname = \"offline_fs_kbc\"\n").unwrap();
        // In a mount namespace of its own the program sees our kernel command line.
        let script = format!(
            "mount --bind {} /proc/cmdline && exec {} config check {}",
            command_line.display(),
            kit::guest::program().display(),
            config.display(),
        );
        let output = std::process::Command::new("unshare")
            .args(["--mount", "--propagation", "private", "sh", "-c", &script])
            .output()
            .unwrap();
        let said = text(&output.stdout) + &text(&output.stderr);
        assert_eq!(output.status.success(), legal, "{line}: {said}");
        assert_says(&line, &said, &[words]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_and_a_number_of_parallel_downloads_take_effect() {
    let registry = kit::hostile::Hostile::start().await;
    let reference = registry.push("app:1", &Image::small("proxy"));
    let mut guest = trusting_guest(&registry.host());
    let nowhere = format!("http://{}", kit::hostile::closed_port());
    guest.settings = guest
        .settings
        .clone()
        .with("image.image_security_policy", ACCEPT_ANYTHING)
        .with("image.max_concurrent_layer_downloads_per_image", 1)
        .with("image.image_pull_proxy.http_proxy", nowhere);
    let daemon = guest.start().await;
    let refusal = daemon.refuses(&reference, &guest.bundle("c1")).await;
    assert_eq!(refusal.code, Code::UNAVAILABLE, "{refusal:?}");
    assert_eq!(
        registry.requests(),
        Vec::<String>::new(),
        "everything goes to the proxy"
    );
    drop(daemon);
    guest.settings = guest
        .settings
        .clone()
        .with("image.image_pull_proxy.no_proxy", "127.0.0.1");
    let daemon = guest.start().await;
    daemon.delivers(&reference, &guest.bundle("c1")).await;
}

#[test]
fn the_version_is_told_under_both_names() {
    let guest = Guest::new();
    let version = text(&run(guest.program().arg("--version")).stdout);
    assert!(version.starts_with("image-agent "), "{version}");
}
