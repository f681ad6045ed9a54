//! Mirrors and other places that images are fetched from, and which of them is asked when.

use kit::authority::Authority;
use kit::client::Code;
use kit::hostile::{Fault, Hostile, closed_port};
use kit::image::{Format, Image, host_architecture};
use kit::registry::Registry;
use kit::scene::Scene;
use kit::ways::Way;
use toml::{Table, Value};

use super::{DENIED, FAILED, assert_says, content, trusting_guest};

/// An entry of `registries.conf` for `prefix`, with mirrors as `location` and further keys.
pub(crate) fn entry(prefix: &str, insecure: bool, mirrors: &[(&str, &[&str])]) -> Value {
    let mut entry = Table::new();
    entry.insert("location".to_owned(), prefix.into());
    entry.insert("insecure".to_owned(), insecure.into());
    let mirrors = mirrors.iter().map(|(location, flags)| {
        let mut mirror = Table::new();
        mirror.insert("location".to_owned(), (*location).into());
        for flag in *flags {
            mirror.insert((*flag).to_owned(), true.into());
        }
        Value::Table(mirror)
    });
    entry.insert("mirror".to_owned(), Value::Array(mirrors.collect()));
    Value::Table(entry)
}

pub(crate) const REGISTRIES: &str = "image.registry_config.registry";

#[tokio::test(flavor = "multi_thread")]
async fn a_mirror_that_cannot_be_reached_gives_way_to_the_next_and_then_to_the_registry() {
    let (registry, mirror) = (Registry::start().await, Hostile::start().await);
    let (image, other) = (Image::small("mirrored"), Image::small("not mirrored"));
    registry.push("app:1", &image).await;
    registry.push("app:2", &other).await;
    mirror.push("copies/app:1", &image);
    let (dead, copies) = (closed_port(), format!("{}/copies", mirror.host()));
    let mirrors: [(&str, &[&str]); 2] = [(&dead, &["insecure"]), (&copies, &["insecure"])];
    let mut guest = trusting_guest(registry.host());
    let entries = vec![entry(registry.host(), true, &mirrors)];
    guest.settings = guest.settings.clone().with(REGISTRIES, entries);
    let daemon = guest.start().await;

    let reference = format!("{}/app:1", registry.host());
    let digest = daemon.delivers(&reference, &guest.bundle("c1")).await;
    assert_eq!(digest, image.digest());
    assert_eq!(content(&guest.bundle("c1"), "etc/mark"), "mirrored");
    let asked = mirror.requests();
    assert!(
        asked
            .iter()
            .any(|line| line.contains("/v2/copies/app/manifests/1")),
        "{asked:?}"
    );
    assert!(
        asked
            .iter()
            .any(|line| line.contains("/v2/copies/app/blobs/")),
        "{asked:?}"
    );

    let reference = format!("{}/app:2", registry.host());
    let digest = daemon.delivers(&reference, &guest.bundle("c2")).await;
    assert_eq!(digest, other.digest());
}

#[tokio::test(flavor = "multi_thread")]
async fn when_no_place_has_the_image_each_is_named_with_its_own_cause() {
    let (registry, mirror) = (Registry::start().await, Hostile::start().await);
    let dead = closed_port();
    let failing = mirror.host();
    let blocked = "blocked.example";
    let mirrors: [(&str, &[&str]); 3] = [
        (&dead, &["insecure"]),
        (&failing, &["insecure"]),
        (blocked, &[]),
    ];
    let mut forbidden = Table::new();
    forbidden.insert("location".to_owned(), blocked.into());
    forbidden.insert("blocked".to_owned(), true.into());
    let mut guest = trusting_guest(registry.host());
    let entries = vec![
        entry(registry.host(), true, &mirrors),
        Value::Table(forbidden),
    ];
    guest.settings = guest
        .settings
        .clone()
        .with(REGISTRIES, entries)
        .with("image_agent.verbose_errors", true);
    mirror.arm("/v2/app/manifests/1", Fault::Status(403));
    let daemon = guest.start().await;
    let reference = format!("{}/app:1", registry.host());
    let refusal = daemon.refuses(&reference, &guest.bundle("c1")).await;
    assert_eq!(refusal.code, Code::NOT_FOUND, "{refusal:?}");
    let words = [
        FAILED,
        "none of 3 places has it",
        &format!("[1] manifest 1 of app from {dead}: no connection"),
        &format!("[2] manifest 1 of app from {failing}: access refused without credentials"),
        &format!("[3] manifest 1 of app from {}: not found", registry.host()),
        "blocked.example is blocked by the registries configuration",
    ];
    assert_says("nowhere", &refusal.message, &words);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_place_that_is_misconfigured_leaves_the_others_as_they_are() {
    let (registry, mirror) = (Registry::start().await, Hostile::start().await);
    let image = Image::small("configured");
    registry.push("app:1", &image).await;
    let location = mirror.host();
    let mirrors: [(&str, &[&str]); 1] = [(&location, &["insecure"])];
    let mut guest = trusting_guest(registry.host());
    let logins = guest.path().join("auth.json");
    let helpers = format!(r#"{{"credHelpers":{{"{location}":"not-enabled"}}}}"#);
    std::fs::write(&logins, helpers).unwrap();
    guest.settings = guest
        .settings
        .clone()
        .with(REGISTRIES, vec![entry(registry.host(), true, &mirrors)])
        .with("image_agent.verbose_errors", true)
        .with(
            "image.authenticated_registry_credentials_uri",
            format!("file://{}", logins.display()),
        );
    let daemon = guest.start().await;
    let reference = format!("{}/app:1", registry.host());
    let digest = daemon.delivers(&reference, &guest.bundle("c1")).await;
    assert_eq!(digest, image.digest());
    let reference = format!("{}/none:1", registry.host());
    let refusal = daemon.refuses(&reference, &guest.bundle("c2")).await;
    assert_eq!(refusal.code, Code::NOT_FOUND, "{refusal:?}");
    let named = format!("{location} cannot be asked: registry: the registry credentials for");
    assert_says("named", &refusal.message, &["not found", &named]);
    assert_eq!(mirror.requests(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn signatures_that_a_mirror_fails_to_serve_come_from_the_registry() {
    let (scene, mirror) = (Scene::start().await, Hostile::start().await);
    let image = Image::small("signed elsewhere");
    let reference = scene.push_signed("app:1", &image).await;
    mirror.push("app:1", &image);
    let location = mirror.host();
    let mirrors: [(&str, &[&str]); 1] = [(&location, &["insecure"])];
    let mut guest = scene.guest();
    let entries = vec![entry(scene.registry.host(), true, &mirrors)];
    guest.settings = guest.settings.clone().with(REGISTRIES, entries);
    let daemon = guest.start().await;
    for fault in [Fault::Status(503), Fault::HangUp] {
        mirror.disarm();
        mirror.arm("/v2/app/manifests/sha256-", fault.clone());
        let bundle = guest.bundle(&format!("{fault:?}").replace(['(', ')'], ""));
        let digest = daemon.delivers(&reference, &bundle).await;
        assert_eq!(digest, image.digest(), "{fault:?}");
    }
    // That it has none is an answer.
    mirror.disarm();
    let refusal = daemon.refuses(&reference, &guest.bundle("none")).await;
    assert_says("none", &refusal.message, &[DENIED]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_by_the_policy_is_final_and_asks_no_other_place() {
    let (registry, mirror) = (Hostile::start().await, Hostile::start().await);
    let image = Image::small("unsigned");
    registry.push("app:1", &image);
    mirror.push("app:1", &image);
    let location = mirror.host();
    let mirrors: [(&str, &[&str]); 1] = [(&location, &["insecure"])];
    let mut guest = trusting_guest(&registry.host());
    let policy = format!(
        r#"{{"default":[{{"type":"insecureAcceptAnything"}}],
            "transports":{{"docker":{{"{}":[{{"type":"reject"}}]}}}}}}"#,
        registry.host()
    );
    guest.settings = guest
        .settings
        .clone()
        .with(REGISTRIES, vec![entry(&registry.host(), true, &mirrors)])
        .with("image.image_security_policy", policy);
    let daemon = guest.start().await;
    // The policy is about the name that was asked for, wherever the bytes are from.
    let reference = format!("{}/app:1", registry.host());
    let refusal = daemon.refuses(&reference, &guest.bundle("c1")).await;
    assert_eq!(refusal.code, Code::PERMISSION_DENIED, "{refusal:?}");
    assert_says("final", &refusal.message, &[FAILED, DENIED]);
    assert_ne!(mirror.requests(), Vec::<String>::new());
    assert_eq!(registry.requests(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mirror_that_lies_about_a_digest_is_passed_over() {
    let (registry, mirror) = (Registry::start().await, Hostile::start().await);
    let (image, other) = (Image::small("honest"), Image::small("other"));
    registry.push("app:1", &image).await;
    mirror.push("app:1", &image);
    let path = format!("/v2/app/manifests/{}", image.digest());
    mirror.arm(&path, Fault::Bytes(other.manifest.clone()));
    let location = mirror.host();
    let mirrors: [(&str, &[&str]); 1] = [(&location, &["insecure"])];
    let mut guest = trusting_guest(registry.host());
    let entries = vec![entry(registry.host(), true, &mirrors)];
    guest.settings = guest.settings.clone().with(REGISTRIES, entries);
    let daemon = guest.start().await;
    let reference = format!("{}/app@{}", registry.host(), image.digest());
    let digest = daemon.delivers(&reference, &guest.bundle("c1")).await;
    assert_eq!(digest, image.digest());
    assert!(mirror.requests().iter().any(|line| line.contains(&path)));
}

#[tokio::test(flavor = "multi_thread")]
async fn blocked_name_is_refused_before_anybody_is_asked() {
    let registry = Hostile::start().await;
    registry.push("app:1", &Image::small("blocked"));
    let mut guest = trusting_guest(&registry.host());
    let mut blocked = Table::new();
    blocked.insert(
        "prefix".to_owned(),
        format!("{}/app", registry.host()).into(),
    );
    blocked.insert("blocked".to_owned(), true.into());
    guest.settings = guest
        .settings
        .clone()
        .with(REGISTRIES, vec![Value::Table(blocked)]);
    let daemon = guest.start().await;
    let reference = format!("{}/app:1", registry.host());
    let refusal = daemon.refuses(&reference, &guest.bundle("c1")).await;
    assert_eq!(refusal.code, Code::PERMISSION_DENIED, "{refusal:?}");
    assert_says(
        "blocked",
        &refusal.message,
        &["registry blocked by configuration"],
    );
    assert_eq!(registry.requests(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn drop_ins_on_disk_count_in_the_order_of_their_names() {
    let registry = Registry::start().await;
    let image = Image::small("dropped in");
    registry.push("app:1", &image).await;
    let mut guest = trusting_guest(registry.host());
    let file = guest.path().join("registries.conf");
    let folder = guest.path().join("registries.conf.d");
    std::fs::create_dir(&folder).unwrap();
    let leads_to = |host: &str| {
        format!("[[registry]]\nprefix = \"team.example\"\nlocation = \"{host}\"\ninsecure = true\n")
    };
    std::fs::write(&file, leads_to(&closed_port())).unwrap();
    let drop_in = |name: &str, text: &str| std::fs::write(folder.join(name), text).unwrap();
    drop_in("20-last.conf", &leads_to(registry.host()));
    drop_in("10-first.conf", &leads_to(&closed_port()));
    drop_in("30-none.conf.bak", "[[registry");
    guest.settings = guest
        .settings
        .clone()
        .without("image.registry_config")
        .with(
            "image.registry_configuration_uri",
            format!("file://{}", file.display()),
        );
    let daemon = guest.start().await;
    let digest = daemon
        .delivers("team.example/app:1", &guest.bundle("c1"))
        .await;
    assert_eq!(digest, image.digest());

    drop_in(
        "40-blocked.conf",
        "[[registry]]\nprefix = \"team.example\"\nblocked = true\n",
    );
    let refusal = daemon
        .refuses("team.example/app:1", &guest.bundle("c2"))
        .await;
    assert_eq!(refusal.code, Code::PERMISSION_DENIED, "{refusal:?}");
    drop_in("50-broken.conf", "[[registry");
    let refusal = daemon
        .refuses("team.example/app:1", &guest.bundle("c2"))
        .await;
    assert_eq!(refusal.code, Code::FAILED_PRECONDITION, "{refusal:?}");
    assert_says(
        "broken",
        &refusal.message,
        &["malformed registries configuration"],
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn nginx_is_a_mirror_over_http2_and_ipv6_and_is_told_the_registry() {
    let registry = Registry::start().await;
    let image = Image::small("behind nginx");
    registry.push("team/app:1", &image).await;
    let authority = Authority::mint("mirror");
    let mirror = Way::nginx(registry.host(), &authority, None);
    let mut guest = trusting_guest(registry.host());
    // By a name that has addresses of both kinds, the one of IPv6 first where the guest has one.
    let location = format!("localhost:{}", mirror.port());
    let mirrors: [(&str, &[&str]); 1] = [(&location, &["ns"])];
    guest.settings = guest
        .settings
        .clone()
        .with(REGISTRIES, vec![entry("registry.example", false, &mirrors)])
        .with(
            "image.extra_root_certificates",
            vec![authority.certificate()],
        );
    let daemon = guest.start().await;
    let digest = daemon
        .delivers("registry.example/team/app:1", &guest.bundle("c1"))
        .await;
    assert_eq!(digest, image.digest());
    let log = mirror.log();
    assert!(
        log.contains("GET /v2/team/app/manifests/1?ns=registry.example HTTP/2.0"),
        "{log}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn insecure_registry_may_speak_tls_that_nobody_vouches_for() {
    let registry = Registry::start_https().await;
    let image = Image::small("self-signed");
    let reference = registry.push("app:1", &image).await;
    let guest = trusting_guest(registry.host());
    let daemon = guest.start().await;
    let digest = daemon.delivers(&reference, &guest.bundle("c1")).await;
    assert_eq!(digest, image.digest());

    let mut strict = trusting_guest("other.example");
    strict.settings = strict
        .settings
        .clone()
        .with("image_agent.verbose_errors", true);
    let daemon = strict.start().await;
    let refusal = daemon.refuses(&reference, &strict.bundle("c1")).await;
    assert_eq!(refusal.code, Code::UNAUTHENTICATED, "{refusal:?}");
    let words = ["registry not trusted", "UnknownIssuer"];
    assert_says("strict", &refusal.message, &words);
}

/// What does not pass is told at once; what may is asked for again.
#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_that_is_not_trusted_is_told_at_once_and_a_closed_port_is_asked_again() {
    let honest = Authority::mint("honest");
    let expired = Authority::mint_by("expired", &[], |server| {
        server.not_before = rcgen::date_time_ymd(2001, 1, 1);
        server.not_after = rcgen::date_time_ymd(2002, 1, 1);
    });
    let other = Authority::mint_by("other", &[], |server| {
        server.subject_alt_names =
            vec![rcgen::SanType::DnsName("other.example".try_into().unwrap())];
    });
    let trusted = [&expired, &other].map(|authority| authority.certificate().to_owned());
    let mut guest = trusting_guest("unused.example");
    guest.settings = guest
        .settings
        .clone()
        .with("image.extra_root_certificates", trusted.to_vec())
        .with("image_agent.verbose_errors", true);
    let daemon = guest.start().await;
    let attempts = || daemon.log().matches("trying again").count();
    for (case, authority, reason) in [
        ("issuer", honest, "UnknownIssuer"),
        ("time", expired, "certificate expired"),
        (
            "name",
            other,
            "certificate not valid for name \"127.0.0.1\"",
        ),
    ] {
        let registry = Hostile::start_under(authority).await;
        let reference = registry.push("app:1", &Image::small(case));
        let refusal = daemon.refuses(&reference, &guest.bundle(case)).await;
        assert_eq!(refusal.code, Code::UNAUTHENTICATED, "{case}: {refusal:?}");
        let words = [
            "its certificate is not trusted",
            reason,
            "ca in [[image_agent.registry]]",
        ];
        assert_says(case, &refusal.message, &words);
        assert_eq!(attempts(), 0, "{case}");
    }
    let reference = format!("{}/app:1", closed_port());
    let refusal = daemon.refuses(&reference, &guest.bundle("closed")).await;
    assert_eq!(refusal.code, Code::UNAVAILABLE, "{refusal:?}");
    assert_says(
        "closed",
        &refusal.message,
        &["no connection", "after 5 attempts"],
    );
    assert_eq!(attempts(), 4, "{}", daemon.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn tag_of_a_mirror_that_lacks_our_platform_is_looked_up_at_the_next_place() {
    let (registry, mirror) = (Hostile::start().await, Hostile::start().await);
    let image = Image::small("for us");
    let reference = registry.push("app:1", &image);
    let foreign = Image::index(Format::Oci, [("linux/s390x", Image::small("for others"))]);
    mirror.push("app:1", &foreign);
    let mut guest = trusting_guest(&registry.host());
    let mirrors: [(&str, &[&str]); 1] = [(&mirror.host(), &["insecure"])];
    let entries = vec![entry(&registry.host(), true, &mirrors)];
    guest.settings = guest.settings.clone().with(REGISTRIES, entries);
    let daemon = guest.start().await;
    let found = daemon.delivers(&reference, &guest.bundle("c1")).await;
    assert_eq!(found, image.digest());
    let by_digest = format!("{}/app@{}", registry.host(), foreign.digest());
    let refusal = daemon.refuses(&by_digest, &guest.bundle("c2")).await;
    assert_eq!(refusal.code, Code::NOT_FOUND, "{refusal:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn insecure_registry_stands_in_over_tls_for_a_mirror_that_breaks() {
    let (registry, mirror) = (Hostile::start_https().await, Hostile::start().await);
    let image = Image::small("half mirrored");
    let reference = registry.push("app:1", &image);
    mirror.push("app:1", &image);
    let mut guest = trusting_guest(&registry.host());
    let mirrors: [(&str, &[&str]); 1] = [(&mirror.host(), &["insecure"])];
    let entries = vec![entry(&registry.host(), true, &mirrors)];
    guest.settings = guest.settings.clone().with(REGISTRIES, entries);
    let daemon = guest.start().await;
    for (digest, _) in &image.blobs {
        mirror.arm(&format!("/v2/app/blobs/{digest}"), Fault::Status(404));
    }
    let found = daemon.delivers(&reference, &guest.bundle("c1")).await;
    assert_eq!(found, image.digest());
    assert_eq!(registry.requests().len(), image.blobs.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn platform_of_the_configuration_is_the_one_that_is_chosen() {
    let registry = Registry::start().await;
    let (here, there) = (Image::small("here"), Image::small("there"));
    let host = format!("linux/{}", host_architecture());
    let entries = [
        (host.as_str(), here),
        ("linux/riscv64/rva23", there.clone()),
    ];
    let index = Image::index(kit::image::Format::Oci, entries);
    let reference = registry.push("app:1", &index).await;
    let mut guest = trusting_guest(registry.host());
    guest.settings = guest
        .settings
        .clone()
        .with("image_agent.platform", "linux/riscv64/rva23");
    let daemon = guest.start().await;
    let pulled = daemon.pull(&reference, &guest.bundle("c1")).await;
    assert_eq!(pulled.ok().as_deref(), Some(there.digest().as_str()));
}
