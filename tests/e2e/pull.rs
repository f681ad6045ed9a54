//! Images that are to be delivered.

use std::fs::File;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::Command;

use kit::archive::{Archive, Entry};
use kit::cosign::{Claim, Key, KeyKind, signature_image, signature_tag};
use kit::hostile::Hostile;
use kit::image::{
    Compression, Format, Image, ImageBuilder, Layer, busybox_layout, host_architecture,
};
use kit::programs::{require, run};
use kit::registry::Registry;
use kit::scene::Scene;
use serde_json::{Value, json};
use tar::EntryType;

use super::{content, image_of, run_inside, trusting_guest};

#[tokio::test(flavor = "multi_thread")]
async fn signed_busybox_is_delivered_and_runs() {
    let scene = Scene::start().await;
    let layout = tempfile::tempdir().unwrap();
    let layout = layout.path().join("layout");
    busybox_layout(&layout);
    let reference = scene
        .registry
        .push_layout("busybox:1", &layout, "busybox", &[]);
    let digest = scene.registry.digest("busybox:1").await;
    scene.sign("busybox", &digest).await;

    let guest = scene.guest();
    let daemon = guest.start().await;
    let bundle = guest.bundle("c1");
    assert_eq!(daemon.delivers(&reference, &bundle).await, digest);

    assert_eq!(
        run_inside(
            &bundle,
            "echo hello; echo more > /written; /bin/busybox cat /written"
        ),
        "hello\nmore\n"
    );
    let config = std::fs::read_to_string(bundle.join("config.json")).unwrap();
    let config: Value = serde_json::from_str(&config).unwrap();
    assert_eq!(config["process"]["args"], json!(["/bin/sh"]));
    assert_eq!(config["process"]["user"]["uid"], json!(0));
    assert_eq!(config["root"]["path"], json!("rootfs"));
    assert!(config["ociVersion"].as_str().unwrap().starts_with("1."));
    assert_eq!(daemon.children(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_real_runtime_runs_the_delivered_bundle() {
    let registry = Registry::start().await;
    let layout = tempfile::tempdir().unwrap();
    let layout = layout.path().join("layout");
    busybox_layout(&layout);
    let reference = registry.push_layout("busybox:1", &layout, "busybox", &[]);
    let guest = trusting_guest(registry.host());
    let bundle = guest.bundle("c1");
    guest.start().await.delivers(&reference, &bundle).await;

    let commands = guest.path().join("tmp/commands");
    std::fs::write(
        &commands,
        "echo $$ $PATH; busybox hostname; busybox id -u; >/new\n",
    )
    .unwrap();
    // The image's command is its shell, which reads what to do from its standard input.
    let runc = if Path::new("/usr/sbin/runc").exists() {
        "/usr/sbin/runc".into()
    } else {
        require("runc", "runc")
    };
    let state = guest.path().join("tmp/runc");
    let name = format!("image-agent-e2e-{}", std::process::id());
    let output = run(Command::new(runc)
        .arg("--root")
        .arg(&state)
        .args(["run", "--bundle"])
        .arg(&bundle)
        .arg(name)
        .stdin(File::open(&commands).unwrap()));
    assert_eq!(
        String::from_utf8_lossy(&output.stdout),
        "1 /bin\nimage-agent\n0\n"
    );
    assert!(bundle.join("rootfs/new").exists(), "it is writable");
}

/// An image of one file that names it, for this machine.
fn marked(mark: &str, compression: Compression) -> ImageBuilder {
    let archive = Archive::new().directory("etc/").file("etc/mark", mark);
    Image::of([Layer::new(archive, compression)])
}

#[tokio::test(flavor = "multi_thread")]
async fn every_format_and_compression_is_delivered() {
    let registry = Registry::start().await;
    let guest = trusting_guest(registry.host());
    let daemon = guest.start().await;
    for (name, image) in [
        ("none", marked("none", Compression::None)),
        ("gzip", marked("gzip", Compression::Gzip)),
        ("zstd", marked("zstd", Compression::Zstd)),
        ("docker", marked("docker", Compression::Gzip).docker()),
    ] {
        let image = image.build();
        let reference = registry.push(&format!("{name}:1"), &image).await;
        let bundle = guest.bundle(name);
        assert_eq!(daemon.delivers(&reference, &bundle).await, image.digest());
        assert_eq!(content(&bundle, "etc/mark"), name);
    }
    let image = Image::small("converted");
    let reference = registry.push_with_skopeo("converted:1", &image, &["--format", "v2s2"]);
    let digest = registry.digest("converted:1").await;
    assert_ne!(digest, image.digest());
    let bundle = guest.bundle("converted");
    assert_eq!(daemon.delivers(&reference, &bundle).await, digest);
    assert_eq!(content(&bundle, "etc/mark"), "converted");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_platform_of_this_machine_is_chosen_from_an_index() {
    let registry = Registry::start().await;
    let guest = trusting_guest(registry.host());
    let daemon = guest.start().await;
    let here = format!("linux/{}", host_architecture());
    let foreign = if host_architecture() == "amd64" {
        "arm64"
    } else {
        "amd64"
    };
    let there = format!("linux/{foreign}");
    for (name, format) in [("oci", Format::Oci), ("docker", Format::Docker)] {
        let other = marked("other", Compression::Gzip)
            .config(|config| config["architecture"] = foreign.into());
        let chosen = marked(name, Compression::Gzip);
        let (other, chosen) = match format {
            Format::Oci => (other.build(), chosen.build()),
            Format::Docker => (other.docker().build(), chosen.docker().build()),
        };
        let digest = chosen.digest();
        let entries = [(there.as_str(), other), (here.as_str(), chosen)];
        let index = Image::index(format, entries);
        let reference = registry.push(&format!("{name}:1"), &index).await;
        let bundle = guest.bundle(name);
        let answered = daemon.delivers(&reference, &bundle).await;
        assert_eq!(
            answered, digest,
            "that of the platform's manifest, not of the index"
        );
        assert_eq!(content(&bundle, "etc/mark"), name);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn references_by_tag_digest_and_both_are_delivered() {
    let registry = Registry::start().await;
    let guest = trusting_guest(registry.host());
    let daemon = guest.start().await;
    let image = Image::small("references");
    registry.push("deep/path/app:latest", &image).await;
    let host = registry.host();
    let digest = image.digest();
    for (number, reference) in [
        format!("{host}/deep/path/app"),
        format!("{host}/deep/path/app:latest"),
        format!("{host}/deep/path/app@{digest}"),
        format!("{host}/deep/path/app:latest@{digest}"),
        format!("{host}/deep/path/app:other@{digest}"),
    ]
    .iter()
    .enumerate()
    {
        let bundle = guest.bundle(&format!("c{number}"));
        assert_eq!(
            daemon.delivers(reference, &bundle).await,
            digest,
            "{reference}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_kind_of_key_is_accepted() {
    let scene = Scene::start().await;
    let guest = scene.guest();
    let daemon = guest.start().await;
    let mut scopes = serde_json::Map::new();
    let mut pushed = Vec::new();
    for kind in KeyKind::ALL {
        let name = format!("{kind:?}").to_lowercase();
        let key = Key::mint(kind);
        scene
            .kbs
            .put(&format!("default/cosign-key/{name}"), key.public_pem());
        scopes.insert(
            format!("{}/{name}", scene.registry.host()),
            json!([{"type": "sigstoreSigned", "keyPath": format!("kbs:///default/cosign-key/{name}")}]),
        );
        let image = Image::small(&name);
        let reference = scene.registry.push(&format!("{name}:1"), &image).await;
        scene.sign_with(&key, &name, &image.digest()).await;
        pushed.push((name, reference, image.digest()));
    }
    scene.set_policy(&json!({"default": [{"type": "reject"}], "transports": {"docker": scopes}}));
    for (name, reference, digest) in pushed {
        assert_eq!(
            daemon.delivers(&reference, &guest.bundle(&name)).await,
            digest,
            "{name}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signature_on_the_resolved_index_is_accepted() {
    let scene = Scene::start().await;
    let guest = scene.guest();
    let daemon = guest.start().await;
    let here = format!("linux/{}", host_architecture());
    let chosen = Image::small("indexed");
    let index = Image::index(Format::Oci, [(here.as_str(), chosen.clone())]);
    let reference = scene.registry.push("app:1", &index).await;
    scene.sign("app", &index.digest()).await;
    assert_eq!(
        daemon.delivers(&reference, &guest.bundle("c1")).await,
        chosen.digest()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signature_on_the_platform_manifest_of_an_index_is_accepted() {
    let scene = Scene::start().await;
    let guest = scene.guest();
    let daemon = guest.start().await;
    let here = format!("linux/{}", host_architecture());
    let chosen = Image::small("indexed");
    let index = Image::index(Format::Oci, [(here.as_str(), chosen.clone())]);
    let reference = scene.registry.push("app:1", &index).await;
    scene.sign("app", &chosen.digest()).await;
    assert_eq!(
        daemon.delivers(&reference, &guest.bundle("c1")).await,
        chosen.digest()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn signatures_name_a_repository_or_the_right_tag() {
    let scene = Scene::start().await;
    let guest = scene.guest();
    let daemon = guest.start().await;
    let stranger = Key::mint(KeyKind::P256);
    let owner = &scene.key;
    for (number, case) in [
        "repository",
        "tag",
        "annotated",
        "foreign first",
        "broken first",
    ]
    .into_iter()
    .enumerate()
    {
        let repository = format!("app{number}");
        let image = Image::small(case);
        let reference = scene
            .registry
            .push(&format!("{repository}:1"), &image)
            .await;
        let claim = Claim::of(&scene.name(&repository), &image.digest());
        let good = owner.attest(&claim);
        let signatures = match case {
            "repository" => vec![good],
            "tag" => vec![owner.attest(&claim.naming_tag("1"))],
            "annotated" => {
                vec![owner.attest(&claim.optional(json!({"creator": "ci", "env": "a"})))]
            }
            "foreign first" => vec![stranger.attest(&claim), good.clone(), good],
            _ => vec![
                good.clone().annotated("%%%"),
                good.clone().over("{}"),
                good.clone().over("not even JSON").annotated(""),
                good,
            ],
        };
        scene
            .push_signatures(&repository, &image.digest(), signatures)
            .await;
        let bundle = guest.bundle(&repository);
        assert_eq!(
            daemon.delivers(&reference, &bundle).await,
            image.digest(),
            "{case}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_over_https_is_trusted_by_its_extra_root() {
    let registry = Registry::start_https().await;
    let image = Image::small("https");
    let reference = registry.push("app:1", &image).await;
    let mut guest = trusting_guest("nobody.invalid");

    let daemon = guest.start().await;
    let before = guest.residue();
    let refusal = daemon.refuses(&reference, &guest.bundle("c1")).await;
    assert_eq!(
        refusal.code,
        kit::client::Code::UNAUTHENTICATED,
        "{refusal:?}"
    );
    super::assert_says(
        "unknown authority",
        &refusal.message,
        &[super::FAILED, "certificate"],
    );
    guest.assert_residue(&before, "unknown authority").await;
    drop(daemon);

    guest.settings = guest
        .settings
        .clone()
        .with("image.extra_root_certificates", vec![registry.authority()]);
    let daemon = guest.start().await;
    assert_eq!(
        daemon.delivers(&reference, &guest.bundle("c1")).await,
        image.digest()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_wants_a_token_is_given_an_anonymous_one() {
    let registry = Hostile::start().await;
    let image = Image::small("token");
    let reference = registry.push("app:1", &image);
    let realm = format!("http://{}/token", registry.host());
    let challenge = format!("Bearer realm=\"{realm}\",service=\"registry\"");
    registry.arm_times("/manifests/", kit::hostile::Fault::Challenge(challenge), 1);
    let token = r#"{"token":"anonymous"}"#;
    registry.arm("/token", kit::hostile::Fault::Bytes(token.into()));
    let guest = trusting_guest(&registry.host());
    let daemon = guest.start().await;
    assert_eq!(
        daemon.delivers(&reference, &guest.bundle("c1")).await,
        image.digest()
    );
    let asked = registry.requests();
    let tokens = asked
        .iter()
        .filter(|request| *request == "GET /token")
        .count();
    assert_eq!(tokens, 1, "one token serves the whole pull: {asked:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blob_behind_a_redirect_is_delivered() {
    let registry = Hostile::start().await;
    let elsewhere = Hostile::start().await;
    let image = Image::small("redirected");
    let reference = registry.push("app:1", &image);
    elsewhere.push("app:1", &image);
    for (digest, _) in &image.blobs {
        let path = format!("/v2/app/blobs/{digest}");
        let target = format!("http://{}{path}", elsewhere.host());
        registry.arm(&path, kit::hostile::Fault::Redirect(target));
    }
    let mut guest = trusting_guest(&registry.host());
    guest.settings = guest.settings.clone().insecure_registry(&elsewhere.host());
    let daemon = guest.start().await;
    assert_eq!(
        daemon.delivers(&reference, &guest.bundle("c1")).await,
        image.digest()
    );
    assert_eq!(
        elsewhere.requests().len(),
        image.blobs.len(),
        "{:?}",
        elsewhere.requests()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_root_file_system_is_what_the_layers_say() {
    let registry = Registry::start().await;
    let guest = trusting_guest(registry.host());
    let daemon = guest.start().await;
    let capability = b"\x01\0\0\x02\0\x20\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
    let lower = Archive::new()
        .directory("bin/")
        .entry(&Entry::file("bin/tool", "tool").mode(0o4755).owner(0, 7))
        .hard_link("bin/same-tool", "bin/tool")
        .entry(
            &Entry::file("bin/ping", "ping")
                .owner(3, 4)
                .attribute("security.capability", capability),
        )
        .directory("gone/")
        .file("gone/old", "old")
        .directory("opaque/")
        .file("opaque/hidden", "hidden")
        .file("whited-out", "lower")
        .entry(&Entry::file("times", "t").extension("mtime", "1234567890.123456789"));
    let upper = Archive::new()
        .symlink("absolute", "/bin/tool")
        .character_device("null", 1, 3)
        .entry(&Entry::new("pipe", EntryType::Fifo).mode(0o640))
        .file(b"caf\xe9", "latin-1")
        .file(".wh.whited-out", "")
        .file(".wh.gone", "")
        .directory("opaque/")
        .file("opaque/.wh..wh..opq", "")
        .file("opaque/shown", "shown")
        .entry(
            &Entry::new("sticky/", EntryType::Directory)
                .mode(0o1777)
                .owner(70_000, 80_000),
        );
    let image = Image::of([Layer::gzip(lower), Layer::new(upper, Compression::Zstd)]).build();
    let reference = registry.push("app:1", &image).await;
    let bundle = guest.bundle("c1");
    daemon.delivers(&reference, &bundle).await;
    let root = bundle.join("rootfs");
    check_root(&root, capability);

    let again = guest.bundle("c2");
    daemon.delivers(&reference, &again).await;
    check_root(&again.join("rootfs"), capability);
    std::fs::write(root.join("bin/tool"), "changed").unwrap();
    assert_eq!(
        content(&again, "bin/tool"),
        "tool",
        "bundles do not see each other's writes"
    );
}

fn check_root(root: &Path, capability: &[u8]) {
    let stat = |name: &str| std::fs::symlink_metadata(root.join(name)).unwrap();
    let absent = |name: &str| std::fs::symlink_metadata(root.join(name)).is_err();

    let (tool, same) = (stat("bin/tool"), stat("bin/same-tool"));
    assert_eq!(tool.permissions().mode() & 0o7777, 0o4755);
    assert_eq!((tool.uid(), tool.gid()), (0, 7));
    assert_eq!((tool.ino(), tool.nlink()), (same.ino(), 2));
    let mut value = vec![0; 64];
    let length =
        rustix::fs::getxattr(root.join("bin/ping"), "security.capability", &mut value).unwrap();
    assert_eq!(&value[..length], capability);
    assert_eq!((stat("bin/ping").uid(), stat("bin/ping").gid()), (3, 4));
    assert_eq!(
        (stat("times").mtime(), stat("times").mtime_nsec()),
        (1_234_567_890, 123_456_789)
    );

    assert!(absent("gone") && absent("whited-out") && absent("opaque/hidden"));
    assert!(absent(".wh.gone") && absent("opaque/.wh..wh..opq"));
    assert_eq!(
        std::fs::read_to_string(root.join("opaque/shown")).unwrap(),
        "shown"
    );

    assert_eq!(
        std::fs::read_link(root.join("absolute")).unwrap(),
        Path::new("/bin/tool")
    );
    assert!(stat("null").file_type().is_char_device());
    assert_eq!(stat("null").rdev(), 0x103);
    assert!(stat("pipe").file_type().is_fifo());
    assert_eq!(stat("pipe").permissions().mode() & 0o7777, 0o640);
    let sticky = stat("sticky");
    assert_eq!(sticky.permissions().mode() & 0o7777, 0o1777);
    assert_eq!((sticky.uid(), sticky.gid()), (70_000, 80_000));
    let latin = std::ffi::OsStr::from_encoded_bytes_checked(b"caf\xe9");
    assert_eq!(
        std::fs::read_to_string(root.join(latin)).unwrap(),
        "latin-1"
    );
}

/// A name of bytes that are no UTF-8.
trait OsStrBytes {
    fn from_encoded_bytes_checked(bytes: &[u8]) -> &std::ffi::OsStr;
}

impl OsStrBytes for std::ffi::OsStr {
    fn from_encoded_bytes_checked(bytes: &[u8]) -> &std::ffi::OsStr {
        std::os::unix::ffi::OsStrExt::from_bytes(bytes)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn layers_are_shared_between_images_and_fetched_once() {
    let registry = Hostile::start().await;
    let guest = trusting_guest(&registry.host());
    let daemon = guest.start().await;
    let base = Layer::gzip(Archive::new().file("base", "base"));
    let first = Image::of([base.clone(), Layer::gzip(Archive::new().file("own", "1"))]).build();
    let second = Image::of([base.clone(), Layer::gzip(Archive::new().file("own", "2"))]).build();
    let first = registry.push("first:1", &first);
    let second = registry.push("second:1", &second);
    daemon.delivers(&first, &guest.bundle("c1")).await;
    daemon.delivers(&second, &guest.bundle("c2")).await;
    assert_eq!(content(&guest.bundle("c2"), "base"), "base");
    assert_eq!(content(&guest.bundle("c2"), "own"), "2");
    let fetched = registry
        .requests()
        .iter()
        .filter(|path| path.contains(&base.digest))
        .count();
    assert_eq!(fetched, 1, "{:?}", registry.requests());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_tag_is_resolved_once_and_the_rest_goes_by_digest() {
    let registry = Hostile::start().await;
    let guest = trusting_guest(&registry.host());
    let daemon = guest.start().await;
    let here = format!("linux/{}", host_architecture());
    let chosen = Image::small("once");
    let index = Image::index(Format::Oci, [(here.as_str(), chosen.clone())]);
    let reference = registry.push("app:1", &index);
    daemon.delivers(&reference, &guest.bundle("c1")).await;
    let manifests: Vec<_> = registry
        .requests()
        .into_iter()
        .filter(|request| request.contains("/manifests/"))
        .collect();
    let expected = [
        "GET /v2/app/manifests/1".to_owned(),
        format!("GET /v2/app/manifests/{}", chosen.digest()),
    ];
    assert_eq!(manifests, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_delivery_frees_what_it_no_longer_needs() {
    let registry = Hostile::start().await;
    let guest = trusting_guest(&registry.host());
    let daemon = guest.start().await;
    let reference = registry.push("app:1", &image_of(Archive::new().file("a", "a")));
    daemon.delivers(&reference, &guest.bundle("warm")).await;
    let open = || {
        std::fs::read_dir(format!("/proc/{}/fd", daemon.pid()))
            .unwrap()
            .count()
    };
    let before = open();
    for number in 0..20 {
        daemon
            .delivers(&reference, &guest.bundle(&format!("c{number}")))
            .await;
    }
    assert!(
        open() <= before + 4,
        "{before} descriptors before, {} after",
        open()
    );
}

#[test]
fn signature_tags_are_those_of_cosign() {
    let tag = signature_tag("sha256:00ff");
    assert_eq!(tag, "sha256-00ff.sig");
    let key = Key::mint(KeyKind::P256);
    let image = signature_image([key.attest(&Claim::of("host/app", "sha256:00ff"))]);
    let manifest: Value = serde_json::from_slice(&image.manifest).unwrap();
    let payload: Value = serde_json::from_slice(&image.blobs[1].1).unwrap();
    assert_eq!(
        manifest["layers"][0]["mediaType"],
        kit::cosign::PAYLOAD_TYPE
    );
    assert_eq!(
        payload["critical"]["identity"]["docker-reference"],
        "host/app"
    );
}
