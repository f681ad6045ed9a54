//! Registries and images that attack: each gives its own clear error and leaves nothing behind.

use std::time::{Duration, Instant};

use bytes::Bytes;
use kit::archive::{Archive, Entry};
use kit::client::{CallError, Code};
use kit::guest::Guest;
use kit::hostile::{Fault, Hostile, closed_port};
use kit::image::{Compression, Image, Layer, sha256};
use serde_json::json;
use tar::EntryType;

use super::{FAILED, assert_says, image_of, trusting_guest};

/// One attack: an image, what the registry does wrong, and what the caller is to hear.
struct Attack {
    name: &'static str,
    image: Image,
    fault: Option<(&'static str, Fault)>,
    code: Code,
    says: &'static [&'static str],
}

impl Attack {
    /// An honest image from a registry that does `fault` where the path has `at`.
    fn by_registry(
        name: &'static str,
        at: &'static str,
        fault: Fault,
        code: Code,
        says: &'static [&'static str],
    ) -> Self {
        Self {
            name,
            image: Image::small(name),
            fault: Some((at, fault)),
            code,
            says,
        }
    }

    /// An image that attacks by itself.
    fn by_image(
        name: &'static str,
        image: Image,
        code: Code,
        says: &'static [&'static str],
    ) -> Self {
        Self {
            name,
            image,
            fault: None,
            code,
            says,
        }
    }
}

/// A guest that gives up on a silent registry within a second.
fn impatient_guest(registry: &Hostile) -> Guest {
    let mut guest = trusting_guest(&registry.host());
    guest.settings = guest
        .settings
        .clone()
        .with("image_agent.timeouts.connect", 2)
        .with("image_agent.timeouts.idle", 1)
        .with("image_agent.timeouts.total", 30)
        .with("image_agent.downloads.attempts", 2);
    guest
}

/// Runs every attack through one daemon, each at a bundle of its own, and after each looks for
/// what is left; at the end an honest image must still be delivered.
async fn refuse_all(attacks: Vec<Attack>) {
    let registry = Hostile::start().await;
    let guest = impatient_guest(&registry);
    let daemon = guest.start().await;
    let before = guest.residue();
    for (number, attack) in attacks.into_iter().enumerate() {
        let name = attack.name;
        registry.disarm();
        let reference = registry.push(&format!("attack{number}:1"), &attack.image);
        if let Some((path, fault)) = attack.fault {
            registry.arm(path, fault);
        }
        let began = Instant::now();
        let refusal = daemon
            .refuses(&reference, &guest.bundle(&format!("c{number}")))
            .await;
        assert_eq!(refusal.code, attack.code, "{name}: {}", refusal.message);
        assert_says(name, &refusal.message, &[FAILED]);
        assert_says(name, &refusal.message, attack.says);
        assert!(
            !refusal.message.contains("the words of the registry"),
            "{name}: {refusal:?}"
        );
        assert!(
            !refusal.message.contains(&*guest.path().to_string_lossy()),
            "{name}: {refusal:?}"
        );
        assert!(
            began.elapsed() < Duration::from_secs(15),
            "{name} took {:?}",
            began.elapsed()
        );
        guest.assert_residue(&before, name).await;
        assert_eq!(daemon.children(), Vec::<String>::new(), "{name}");
    }
    registry.disarm();
    let honest = registry.push("honest:1", &Image::small("honest"));
    daemon.delivers(&honest, &guest.bundle("honest")).await;
    let peak = daemon.peak_memory();
    assert!(peak < 200 << 10, "the daemon grew to {peak} KiB");
}

#[expect(clippy::too_many_lines, reason = "a table, one row per case")]
#[tokio::test(flavor = "multi_thread")]
async fn answers_that_are_no_image_are_refused() {
    let other = Image::small("other").manifest;
    let html = Bytes::from_static(b"<html>login</html>");
    let huge = Bytes::from(format!(
        r#"{{"schemaVersion":2,"x":"{}"}}"#,
        "x".repeat(5 << 20)
    ));
    let at = "/manifests/1";
    let by = Attack::by_registry;
    refuse_all(vec![
        by(
            "unauthorised",
            at,
            Fault::Status(401),
            Code::UNAUTHENTICATED,
            &["refuses access"],
        ),
        by(
            "forbidden",
            at,
            Fault::Status(403),
            Code::UNAUTHENTICATED,
            &["403"],
        ),
        by(
            "not found",
            at,
            Fault::Status(404),
            Code::NOT_FOUND,
            &["not found"],
        ),
        by(
            "server error",
            at,
            Fault::Status(500),
            Code::UNAVAILABLE,
            &["500"],
        ),
        by(
            "overloaded",
            at,
            Fault::Status(503),
            Code::UNAVAILABLE,
            &["503"],
        ),
        by("hang up", at, Fault::HangUp, Code::UNAVAILABLE, &[]),
        by("silence", at, Fault::StallAfter(10), Code::UNAVAILABLE, &[]),
        by(
            "cut manifest",
            at,
            Fault::CutAfter(10),
            Code::UNAVAILABLE,
            &[],
        ),
        by(
            "short manifest",
            at,
            Fault::Shorter(10),
            Code::DATA_LOSS,
            &["malformed manifest"],
        ),
        by(
            "not JSON",
            at,
            Fault::Bytes(html),
            Code::DATA_LOSS,
            &["malformed manifest"],
        ),
        by(
            "web page",
            at,
            Fault::ContentType("text/html".into()),
            Code::UNIMPLEMENTED,
            &["text/html"],
        ),
        by(
            "4 MiB manifest",
            at,
            Fault::Bytes(huge),
            Code::RESOURCE_EXHAUSTED,
            &["4194304"],
        ),
        by(
            "endless manifest",
            at,
            Fault::Endless,
            Code::RESOURCE_EXHAUSTED,
            &["4194304"],
        ),
        by(
            "redirect loop",
            at,
            Fault::Redirect("/v2/x/manifests/1".into()),
            Code::UNAVAILABLE,
            &["redirect"],
        ),
        by(
            "file redirect",
            at,
            Fault::Redirect("file:///etc/passwd".into()),
            Code::UNAVAILABLE,
            &["redirect"],
        ),
        by(
            "other config",
            "/blobs/",
            Fault::Bytes(other.clone()),
            Code::DATA_LOSS,
            &[],
        ),
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_manifest_that_is_not_its_digest_is_refused() {
    let registry = Hostile::start().await;
    let guest = impatient_guest(&registry);
    let daemon = guest.start().await;
    let before = guest.residue();
    let (image, other) = (Image::small("wanted"), Image::small("other"));
    registry.push("app:1", &image);
    registry.push("app:2", &other);
    registry.arm(&image.digest(), Fault::Bytes(other.manifest.clone()));
    let reference = format!("{}/app@{}", registry.host(), image.digest());
    let refusal = daemon.refuses(&reference, &guest.bundle("c1")).await;
    assert_eq!(refusal.code, Code::DATA_LOSS, "{refusal:?}");
    let words = [FAILED, &image.digest(), &other.digest()];
    assert_says("other manifest", &refusal.message, &words);
    guest.assert_residue(&before, "other manifest").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_is_down_is_unavailable() {
    let host = closed_port();
    let guest = trusting_guest(&host);
    let daemon = guest.start().await;
    let before = guest.residue();
    let refusal = daemon
        .refuses(&format!("{host}/app:1"), &guest.bundle("c1"))
        .await;
    assert_eq!(refusal.code, Code::UNAVAILABLE, "{refusal:?}");
    assert_says("registry down", &refusal.message, &[FAILED, &host]);
    guest.assert_residue(&before, "registry down").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_without_tls_is_not_spoken_to_in_clear() {
    let registry = Hostile::start().await;
    let reference = registry.push("app:1", &Image::small("clear"));
    let guest = trusting_guest("another.invalid");
    let daemon = guest.start().await;
    let refusal = daemon.refuses(&reference, &guest.bundle("c1")).await;
    assert_eq!(refusal.code, Code::UNAVAILABLE, "{refusal:?}");
    assert_eq!(registry.requests(), Vec::<String>::new());
}

#[expect(clippy::too_many_lines, reason = "a table, one row per case")]
#[tokio::test(flavor = "multi_thread")]
async fn manifests_that_mislead_are_refused() {
    let small = |name: &str| Image::of([Layer::gzip(Archive::new().file("a", name))]);
    let layer = Layer::gzip(Archive::new().file("a", "a"));
    let many = vec![layer.clone(); 2000];
    let few = vec![layer.clone(); 501];
    let encrypted = Layer {
        media_type: "application/vnd.oci.image.layer.v1.tar+gzip+encrypted".into(),
        ..layer.clone()
    };
    let unknown = Layer {
        media_type: "application/x-unknown".into(),
        ..layer.clone()
    };
    let big = Bytes::from(format!(r#"{{"x":"{}"}}"#, "x".repeat(5 << 20)));
    let by = Attack::by_image;
    refuse_all(vec![
        by(
            "2,000 layers",
            Image::of(many).build(),
            Code::RESOURCE_EXHAUSTED,
            &["2000", "500"],
        ),
        by(
            "501 layers",
            Image::of(few).build(),
            Code::RESOURCE_EXHAUSTED,
            &["501", "500"],
        ),
        by(
            "encrypted",
            Image::of([encrypted]).build(),
            Code::UNIMPLEMENTED,
            &["encrypted"],
        ),
        by(
            "unknown layer type",
            Image::of([unknown]).build(),
            Code::UNIMPLEMENTED,
            &["application/x-unknown"],
        ),
        by(
            "config over its cap",
            small("a").config_bytes(big).build(),
            Code::RESOURCE_EXHAUSTED,
            &["4194304"],
        ),
        by(
            "config is no JSON",
            small("b").config_bytes("{").build(),
            Code::DATA_LOSS,
            &["malformed image config"],
        ),
        by(
            "other diff_ids",
            small("c")
                .config(|config| config["rootfs"]["diff_ids"] = json!([]))
                .build(),
            Code::DATA_LOSS,
            &["1 layers", "0 diff_ids"],
        ),
        by(
            "other platform",
            small("d")
                .config(|config| config["os"] = "plan9".into())
                .build(),
            Code::DATA_LOSS,
            &["plan9"],
        ),
        by(
            "manifest and index at once",
            small("e")
                .manifest(|manifest| manifest["manifests"] = json!([]))
                .build(),
            Code::DATA_LOSS,
            &["malformed manifest"],
        ),
        by(
            "digest with a path in it",
            small("f")
                .manifest(|manifest| manifest["layers"][0]["digest"] = "sha256:../../x".into())
                .build(),
            Code::DATA_LOSS,
            &["malformed manifest"],
        ),
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn too_many_layers_are_refused_before_any_download() {
    let registry = Hostile::start().await;
    let guest = impatient_guest(&registry);
    let daemon = guest.start().await;
    let layer = Layer::gzip(Archive::new().file("a", "a"));
    let encrypted = Layer {
        media_type: "application/vnd.oci.image.layer.v1.tar+encrypted".into(),
        ..layer.clone()
    };
    let rows = [
        (
            Image::of(vec![layer.clone(); 501]),
            Code::RESOURCE_EXHAUSTED,
            "the image has 501 layers, at most 500 can be mounted",
        ),
        (
            Image::of([layer, encrypted]),
            Code::UNIMPLEMENTED,
            "encrypted",
        ),
    ];
    for (number, (image, code, words)) in rows.into_iter().enumerate() {
        let reference = registry.push(&format!("app{number}:1"), &image.build());
        let refusal = daemon.refuses(&reference, &guest.bundle("c1")).await;
        assert_eq!(refusal.code, code, "{refusal:?}");
        assert_says("layers", &refusal.message, &[FAILED, words]);
        let blobs: Vec<_> = registry
            .requests()
            .into_iter()
            .filter(|path| path.contains("/blobs/"))
            .collect();
        assert_eq!(blobs, Vec::<String>::new());
    }
}

#[expect(clippy::too_many_lines, reason = "a table, one row per case")]
#[tokio::test(flavor = "multi_thread")]
async fn blobs_that_are_not_what_they_should_be_are_refused() {
    let noise: Vec<u8> = (0..300_000_u32)
        .flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes())
        .collect();
    let big = || image_of(Archive::new().file("noise", &noise));
    let blob = |image: &Image| -> &'static str {
        Box::leak(format!("/blobs/{}", image.blobs[1].0).into_boxed_str())
    };
    let mut attacks = Vec::new();
    for (name, fault, code) in [
        (
            "other bytes",
            Fault::Bytes(Bytes::from(vec![7; big().blobs[1].1.len()])),
            Code::DATA_LOSS,
        ),
        ("shorter", Fault::Shorter(1000), Code::DATA_LOSS),
        ("longer", Fault::Longer(1000), Code::DATA_LOSS),
        ("endless", Fault::Endless, Code::DATA_LOSS),
        ("cut", Fault::CutAfter(100_000), Code::UNAVAILABLE),
        ("stalled", Fault::StallAfter(100_000), Code::UNAVAILABLE),
        ("missing", Fault::Status(404), Code::NOT_FOUND),
        ("failing", Fault::Status(502), Code::UNAVAILABLE),
    ] {
        let image = big();
        let at = blob(&image);
        attacks.push(Attack {
            name,
            image,
            fault: Some((at, fault)),
            code,
            says: &["sha256:"],
        });
    }

    let honest = Layer::gzip(Archive::new().file("a", "a"));
    let by = Attack::by_image;
    let wrong_diff_id = Layer {
        diff_id: sha256(b"something else"),
        ..honest.clone()
    };
    attacks.push(by(
        "wrong diff_id",
        Image::of([wrong_diff_id]).build(),
        Code::DATA_LOSS,
        &["diff_id"],
    ));
    let wrong_size = Layer {
        size: honest.size + 1,
        ..honest.clone()
    };
    attacks.push(by(
        "larger in the manifest",
        Image::of([wrong_size]).build(),
        Code::DATA_LOSS,
        &[],
    ));
    let wrong_size = Layer {
        size: honest.size - 1,
        ..honest.clone()
    };
    attacks.push(by(
        "smaller in the manifest",
        Image::of([wrong_size]).build(),
        Code::DATA_LOSS,
        &[],
    ));
    let content = Archive::new().file("a", "a").finish();
    let not_gzip = Layer::from_blob(content.clone(), Compression::Gzip, sha256(&content));
    attacks.push(by(
        "not gzip",
        Image::of([not_gzip]).build(),
        Code::DATA_LOSS,
        &["damaged"],
    ));
    let mut garbage = Compression::Gzip.compress(&content);
    garbage.extend_from_slice(b"garbage");
    let garbage = Layer::from_blob(garbage, Compression::Gzip, sha256(&content));
    attacks.push(by(
        "garbage after gzip",
        Image::of([garbage]).build(),
        Code::DATA_LOSS,
        &["damaged"],
    ));
    let cut = Compression::Gzip.compress(&content);
    let cut = Layer::from_blob(
        cut[..cut.len() - 9].to_vec(),
        Compression::Gzip,
        sha256(&content),
    );
    attacks.push(by(
        "gzip that ends early",
        Image::of([cut]).build(),
        Code::DATA_LOSS,
        &["damaged"],
    ));
    refuse_all(attacks).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bombs_are_refused_by_the_default_limits() {
    let by = Attack::by_image;
    let zeros = |compression| Image::of([Layer::zeros(10 << 30, compression)]).build();
    let sparse = Archive::new().entry(&Entry::sparse("sparse", 10 << 30));
    let limit = Code::RESOURCE_EXHAUSTED;
    refuse_all(vec![
        by(
            "10 GB of zeros in gzip",
            zeros(Compression::Gzip),
            limit,
            &["at most"],
        ),
        by(
            "10 GB of zeros in zstd",
            zeros(Compression::Zstd),
            limit,
            &["at most"],
        ),
        by(
            "10 MB claimed and not delivered",
            bare_claim(),
            Code::DATA_LOSS,
            &["cut short"],
        ),
        by(
            "10 GB of holes in 2 kB",
            image_of(sparse),
            limit,
            &["at most"],
        ),
    ])
    .await;
}

/// A header that claims 10 MB in a layer that is not compressed and ends at once.
fn bare_claim() -> Image {
    let claim = Archive::new().entry(&Entry::file("zeros", "").claiming(10 << 20));
    Image::of([Layer::new(claim, Compression::None)]).build()
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_are_configurable() {
    let registry = Hostile::start().await;
    let image = image_of(Archive::new().file("a", vec![7; 100_000]).file("b", "b"));
    let reference = registry.push("app:1", &image);
    for (key, value, words) in [
        (
            "image_agent.limits.unpacked_bytes",
            50_000,
            ["50000", "unpacked bytes"],
        ),
        ("image_agent.limits.entries", 1, ["1", "entries"]),
    ] {
        let mut guest = impatient_guest(&registry);
        guest.settings = guest.settings.clone().with(key, value);
        let daemon = guest.start().await;
        let before = guest.residue();
        let refusal = daemon.refuses(&reference, &guest.bundle("c1")).await;
        assert_eq!(refusal.code, Code::RESOURCE_EXHAUSTED, "{key}: {refusal:?}");
        assert_says(key, &refusal.message, &words);
        guest.assert_residue(&before, key).await;
    }
}

/// Archives that must be refused.
fn evil_archives() -> Vec<(&'static str, Archive)> {
    vec![
        ("parent directory", Archive::new().file("../escape", "x")),
        (
            "parent directory inside",
            Archive::new().directory("a/").file("a/../../escape", "x"),
        ),
        (
            "parent directory at the end",
            Archive::new().entry(&Entry::new("a/..", EntryType::Directory)),
        ),
        (
            "hard link by parent directories",
            Archive::new().hard_link("l", "../../../../etc/passwd"),
        ),
        (
            "hard link to nothing",
            Archive::new().hard_link("l", "/etc/passwd"),
        ),
        (
            "device where a directory was",
            Archive::new()
                .directory("d/")
                .file("d/f", "x")
                .character_device("d", 1, 3),
        ),
        (
            "whiteout in disguise",
            Archive::new().character_device("w", 0, 0),
        ),
        (
            "overlay attribute",
            Archive::new().entry(
                &Entry::new("d/", EntryType::Directory)
                    .attribute("trusted.overlay.redirect", "/etc"),
            ),
        ),
        ("root entry as a link", Archive::new().symlink("./", "/etc")),
        ("root entry as a file", Archive::new().file(".", "x")),
        (
            "file as a parent",
            Archive::new().file("f", "x").file("f/g", "x"),
        ),
        (
            "archive that ends in an entry",
            Archive::new().raw(Entry::file("f", "").claiming(4096).header().as_bytes()),
        ),
        ("bad checksum", Archive::new().raw([b'x'; 512])),
        ("bad PAX record", Archive::new().entry(&bad_pax())),
        (
            "zero byte in a PAX path",
            Archive::new().entry(&Entry::file("f", "").extension("path", "a\0b")),
        ),
    ]
}

fn bad_pax() -> Entry {
    let mut header = Entry::new("x", EntryType::XHeader);
    header = header.content("999 path=a\n");
    header
}

#[tokio::test(flavor = "multi_thread")]
async fn evil_archives_are_refused() {
    let attacks = evil_archives()
        .into_iter()
        .map(|(name, archive)| {
            Attack::by_image(name, image_of(archive), Code::DATA_LOSS, &["layer"])
        })
        .collect();
    refuse_all(attacks).await;
}

/// Those of [`contained_archives`] that are delivered; the rest is refused.
const DELIVERED_INSIDE: [&str; 4] = [
    "absolute name",
    "double slash",
    "link to a file, then over it",
    "link to a file, then its mode",
];

/// Archives that may be delivered, since one tree unpacked in order stays inside its root; none
/// may reach `outside`.
#[expect(clippy::too_many_lines, reason = "a table, one row per case")]
fn contained_archives(outside: &str) -> Vec<(&'static str, Archive)> {
    let up = format!("../../../../../../../..{outside}");
    vec![
        (
            "absolute name",
            Archive::new().file(format!("{outside}/escape"), "x"),
        ),
        (
            "double slash",
            Archive::new().file(format!("/{outside}/escape"), "x"),
        ),
        (
            "absolute link, then through it",
            Archive::new().symlink("l", outside).file("l/escape", "x"),
        ),
        (
            "relative link, then through it",
            Archive::new().symlink("l", &up).file("l/escape", "x"),
        ),
        (
            "link to a link, then through it",
            Archive::new()
                .symlink("k", outside)
                .symlink("l", "k")
                .file("l/escape", "x"),
        ),
        (
            "link over a directory, then through it",
            Archive::new()
                .directory("d/")
                .symlink("d", outside)
                .file("d/escape", "x"),
        ),
        (
            "link to a file, then over it",
            Archive::new()
                .symlink("l", format!("{outside}/canary"))
                .file("l", "x"),
        ),
        (
            "link to a file, then its mode",
            Archive::new()
                .symlink("l", format!("{outside}/canary"))
                .hard_link("h", "l")
                .entry(&Entry::file("h", "x").mode(0o4777)),
        ),
        (
            "hard link through a link",
            Archive::new()
                .symlink("l", outside)
                .hard_link("h", "l/canary"),
        ),
        (
            "whiteout through a link",
            Archive::new()
                .symlink("l", outside)
                .file("l/.wh.canary", ""),
        ),
        (
            "directory through a link",
            Archive::new()
                .symlink("l", outside)
                .directory("l/escape/")
                .file("l/escape/f", "x"),
        ),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn no_archive_reaches_outside_its_root() {
    let registry = Hostile::start().await;
    let guest = impatient_guest(&registry);
    let daemon = guest.start().await;
    let outside = tempfile::tempdir().unwrap();
    let canary = outside.path().join("canary");
    std::fs::write(&canary, "alive").unwrap();
    let state = |path: &std::path::Path| {
        use std::os::unix::fs::MetadataExt;
        let meta = std::fs::symlink_metadata(path).unwrap();
        (
            meta.mode(),
            meta.nlink(),
            meta.uid(),
            meta.mtime_nsec(),
            meta.ino(),
        )
    };
    let untouched = state(&canary);
    let mut delivered = Vec::new();
    let archives = contained_archives(outside.path().to_str().unwrap());
    for (number, (name, archive)) in archives.into_iter().enumerate() {
        let reference = registry.push(&format!("app{number}:1"), &image_of(archive));
        let bundle = guest.bundle(&format!("c{number}"));
        let before = guest.residue();
        match daemon.pull(&reference, &bundle).await {
            Ok(_) => delivered.push(name),
            Err(CallError::Refused(refusal)) => {
                assert_eq!(refusal.code, Code::DATA_LOSS, "{name}: {refusal:?}");
                guest.assert_residue(&before, name).await;
            }
            Err(lost) => panic!("{name}: {lost:?}\n{}", daemon.log()),
        }
        assert_eq!(std::fs::read_to_string(&canary).unwrap(), "alive", "{name}");
        assert_eq!(state(&canary), untouched, "{name}");
        assert_eq!(
            std::fs::read_dir(outside.path()).unwrap().count(),
            1,
            "{name}"
        );
    }
    assert_eq!(delivered, DELIVERED_INSIDE);
}

/// Whoever sits on plain http must not learn, by a redirect, what only the guest can reach.
#[tokio::test(flavor = "multi_thread")]
async fn a_redirect_into_the_guest_is_not_followed() {
    let registry = Hostile::start().await;
    let inside = Hostile::start().await;
    let reference = registry.push("app:1", &Image::small("redirected"));
    let secret = format!("http://{}/cdh/resource/default/key/1", inside.host());
    registry.arm("/manifests/", Fault::Redirect(secret));
    let guest = trusting_guest(&registry.host());
    let daemon = guest.start().await;
    let refusal = daemon.refuses(&reference, &guest.bundle("c1")).await;
    assert!(refusal.message.contains("redirect refused"), "{refusal:?}");
    assert_eq!(inside.requests(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_but_steady_registry_is_waited_for() {
    let registry = Hostile::start().await;
    let image = image_of(Archive::new().file("a", "a"));
    let reference = registry.push("app:1", &image);
    // Longer as a whole than the patience with silence.
    registry.arm(
        &image.blobs[1].0,
        Fault::Slow(40, Duration::from_millis(300)),
    );
    let guest = impatient_guest(&registry);
    let daemon = guest.start().await;
    assert_eq!(
        daemon.delivers(&reference, &guest.bundle("c1")).await,
        image.digest()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn malformed_references_are_the_callers_fault() {
    let guest = trusting_guest("nobody.invalid");
    let daemon = guest.start().await;
    let before = guest.residue();
    for reference in [
        "",
        " ",
        "UPPER/case",
        "host.example/app:",
        "host.example/app:-bad",
        "host.example/app@sha256:abc",
        "host.example/app@md5:d41d8cd98f00b204e9800998ecf8427e",
        "host.example/../app:1",
        "host.example/app:1\n",
        "https://host.example/app:1",
        "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef",
        &format!("host.example/{}:1", "a".repeat(300)),
    ] {
        let refusal = daemon.refuses(reference, &guest.bundle("c1")).await;
        assert_eq!(
            refusal.code,
            Code::INVALID_ARGUMENT,
            "{reference:?}: {refusal:?}"
        );
        assert_says(reference, &refusal.message, &[FAILED]);
        guest.assert_residue(&before, reference).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn callers_that_speak_nonsense_harm_nobody_else() {
    let registry = Hostile::start().await;
    let reference = registry.push("app:1", &Image::small("nonsense"));
    let guest = trusting_guest(&registry.host());
    let daemon = guest.start().await;
    for (service, method, payload) in [
        ("api.ImagePullService", "PullImage", vec![0xff; 10]),
        (
            "api.ImagePullService",
            "PullImage",
            vec![0x0a, 0x02, 0xff, 0xfe],
        ),
        ("api.ImagePullService", "PushImage", Vec::new()),
        ("api.NoSuchService", "PullImage", Vec::new()),
    ] {
        let answer = daemon.client().call(service, method, payload).await;
        assert!(
            matches!(answer, Err(CallError::Refused(_))),
            "{service}/{method}: {answer:?}"
        );
    }
    let mut stream = std::os::unix::net::UnixStream::connect(guest.socket()).unwrap();
    std::io::Write::write_all(&mut stream, &[0xff; 4096]).unwrap();
    daemon.delivers(&reference, &guest.bundle("c1")).await;
}
