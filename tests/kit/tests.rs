//! The kit against the real programs.

use std::process::Command;
use std::time::Duration;

use crate::archive::{Archive, Entry};
use crate::cosign::{self, Claim, Key, KeyKind};
use crate::guest::Guest;
use crate::hostile::{Fault, Hostile, closed_port};
use crate::image::{Compression, Format, Image, Layer, busybox_layout, sha256};
use crate::programs::{require, run};
use crate::registry::Registry;
use crate::settings::Settings;

#[test]
fn archives_are_what_tar_reads() {
    let archive = Archive::new()
        .directory("etc/")
        .entry(
            &Entry::file("etc/a", "text")
                .mode(0o4755)
                .owner(3_000_000, 7),
        )
        .symlink("etc/b", "a")
        .hard_link("etc/c", "etc/a")
        .finish();
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), archive).unwrap();
    let listing = run(Command::new("tar")
        .args(["--numeric-owner", "-tvf"])
        .arg(file.path()));
    let listing = String::from_utf8(listing.stdout).unwrap();
    let kinds: Vec<_> = listing.lines().map(|line| &line[..10]).collect();
    assert_eq!(
        kinds,
        ["drwxr-xr-x", "-rwsr-xr-x", "lrwxrwxrwx", "hrw-r--r--"],
        "{listing}"
    );
    assert!(listing.contains("3000000/7"), "{listing}");
}

#[test]
fn sparse_entries_are_what_tar_reads() {
    let archive = Archive::new()
        .entry(&Entry::sparse("big", 10 << 30))
        .finish();
    let file = tempfile::NamedTempFile::new().unwrap();
    assert!(archive.len() <= 2048, "{} bytes", archive.len());
    std::fs::write(file.path(), archive).unwrap();
    let listing = run(Command::new("tar").arg("-tvf").arg(file.path()));
    assert!(
        String::from_utf8(listing.stdout)
            .unwrap()
            .contains("10737418240")
    );
}

#[test]
fn zeros_decompress_to_the_claimed_size() {
    for (compression, program) in [(Compression::Gzip, "gzip"), (Compression::Zstd, "zstd")] {
        if compression == Compression::Zstd {
            let layer = Layer::zeros(128 << 20, compression);
            let content = zstd::decode_all(layer.blob.as_ref()).unwrap();
            assert_eq!(content.len(), (128 << 20) + 1536);
            continue;
        }
        let layer = Layer::zeros(128 << 20, compression);
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), &layer.blob).unwrap();
        let output = run(Command::new("sh")
            .args(["-c", &format!("{program} -dc | wc -c")])
            .stdin(std::fs::File::open(file.path()).unwrap()));
        assert_eq!(
            String::from_utf8(output.stdout).unwrap().trim(),
            "134219264"
        );
    }
}

#[test]
fn openssl_verifies_what_every_kind_of_key_signs() {
    let openssl = require("openssl", "openssl");
    for kind in [
        KeyKind::P256,
        KeyKind::P384,
        KeyKind::P521,
        KeyKind::Rsa2048,
    ] {
        let key = Key::mint(kind);
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        std::fs::write(path("public"), key.public_pem()).unwrap();
        std::fs::write(path("message"), "message").unwrap();
        std::fs::write(path("signature"), key.sign(b"message")).unwrap();
        run(Command::new(&openssl)
            .args(["dgst", "-sha256", "-verify"])
            .arg(path("public"))
            .arg("-signature")
            .arg(path("signature"))
            .arg(path("message")));
    }
    assert_eq!(Key::mint(KeyKind::Ed25519).sign(b"message").len(), 64);
}

#[tokio::test]
async fn the_real_registry_takes_every_kind_of_push() {
    let registry = Registry::start().await;
    let image = Image::small("one");
    registry.push("app:direct", &image).await;
    assert_eq!(registry.digest("app:direct").await, image.digest());
    registry.push_with_skopeo("app:skopeo", &image, &[]);
    assert_eq!(registry.digest("app:skopeo").await, image.digest());
    registry.push_with_skopeo("app:docker", &image, &["--format", "v2s2"]);
    assert_ne!(registry.digest("app:docker").await, image.digest());

    let docker = Image::of([Layer::gzip(Archive::new().file("a", "b"))])
        .docker()
        .build();
    let list = Image::index(Format::Docker, [("linux/amd64", docker)]);
    registry.push("app:list", &list).await;
    assert_eq!(registry.digest("app:list").await, list.digest());

    let index = Image::index(Format::Oci, [("linux/amd64", image.clone())]);
    registry.push_with_skopeo("app:index", &index, &["--all"]);
    assert_eq!(registry.digest("app:index").await, index.digest());

    let key = Key::mint(KeyKind::P256);
    let claim = Claim::of(&format!("{}/app", registry.host()), &image.digest());
    let signature = cosign::signature_image([key.attest(&claim)]);
    let tag = format!("app:{}", cosign::signature_tag(&image.digest()));
    registry.push(&tag, &signature).await;
    assert_eq!(registry.digest(&tag).await, signature.digest());
}

#[tokio::test]
async fn the_real_registry_speaks_https_and_takes_busybox_of_umoci() {
    let registry = Registry::start_https().await;
    let layout = tempfile::tempdir().unwrap();
    let layout = layout.path().join("layout");
    busybox_layout(&layout);
    registry.push_layout("busybox:1", &layout, "busybox", &[]);
    assert!(registry.digest("busybox:1").await.starts_with("sha256:"));
    assert!(
        registry
            .authority()
            .starts_with("-----BEGIN CERTIFICATE-----")
    );
}

#[tokio::test]
async fn the_hostile_registry_does_what_it_is_told() {
    let hostile = Hostile::start().await;
    let image = Image::small("one");
    hostile.push("app:1", &image);
    let client = reqwest::Client::builder()
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .build()
        .unwrap();
    let url = format!("http://{}/v2/app/manifests/1", hostile.host());
    let get = || async {
        client
            .get(&url)
            .timeout(Duration::from_millis(500))
            .send()
            .await
    };

    let honest = get().await.unwrap();
    assert_eq!(sha256(&honest.bytes().await.unwrap()), image.digest());
    assert_eq!(hostile.requests(), ["GET /v2/app/manifests/1"]);

    hostile.arm_times("/manifests/", Fault::Status(503), 1);
    assert_eq!(get().await.unwrap().status().as_u16(), 503);
    assert_eq!(get().await.unwrap().status().as_u16(), 200);

    let length = image.manifest.len();
    for (fault, claimed, received) in [
        (Fault::Shorter(10), Some(10), Some(10)),
        (Fault::Longer(3), Some(length + 3), Some(length + 3)),
        (Fault::CutAfter(10), Some(length), None),
        (Fault::StallAfter(10), Some(length), None),
        (Fault::Endless, None, None),
        (
            Fault::Slow(100, Duration::from_millis(5)),
            Some(length),
            Some(length),
        ),
    ] {
        hostile.disarm();
        hostile.arm("/manifests/1", fault.clone());
        let answer = get().await.unwrap();
        let claim = answer
            .content_length()
            .map(|length| usize::try_from(length).unwrap());
        assert_eq!(claim, claimed, "{fault:?}");
        let body = if claimed.is_none() {
            None
        } else {
            answer.bytes().await.ok()
        };
        assert_eq!(body.map(|body| body.len()), received, "{fault:?}");
    }

    hostile.disarm();
    hostile.arm("/manifests/1", Fault::HangUp);
    assert!(get().await.unwrap_err().is_request());
    assert!(
        reqwest::get(format!("http://{}/", closed_port()))
            .await
            .unwrap_err()
            .is_connect()
    );
}

#[test]
fn settings_nest_and_append() {
    let settings = Settings::default()
        .with("socket", "unix:///s")
        .with("image.work_dir", "/w")
        .insecure_registry("a:1")
        .insecure_registry("b:2")
        .without("socket");
    let text = settings.to_string();
    let parsed: toml::Table = text.parse().unwrap();
    assert_eq!(parsed["image"]["work_dir"].as_str(), Some("/w"));
    assert_eq!(
        parsed["image"]["registry_config"]["registry"]
            .as_array()
            .unwrap()
            .len(),
        2
    );
    assert_eq!(parsed.get("socket"), None);
}

#[tokio::test]
async fn residue_is_whatever_a_pull_could_leave() {
    let guest = Guest::new();
    for directory in ["work/layers", "work/staging", "run"] {
        std::fs::create_dir_all(guest.path().join(directory)).unwrap();
    }
    std::fs::write(guest.path().join("log"), "").unwrap();
    std::fs::write(guest.socket(), "").unwrap();
    guest.write_config();
    let clean = guest.residue();
    assert_eq!(clean.len(), 0, "{clean:?}");

    for file in [
        "work/staging/a",
        "work/layers/k",
        "work/stray",
        "run/cdh.sock.7",
        "tmp/x",
        "y",
    ] {
        std::fs::write(guest.path().join(file), "").unwrap();
    }
    std::fs::create_dir(guest.bundle("c1")).unwrap();
    run(Command::new("mount")
        .args(["-t", "tmpfs", "kit"])
        .arg(guest.bundle("c1")));
    let found: Vec<_> = guest.residue().into_iter().collect();
    let expected = [
        "bundles/c1",
        "mount bundles/c1",
        "run/cdh.sock.7",
        "tmp/x",
        "work/layers/k",
        "work/staging/a",
        "work/stray",
        "y",
    ];
    assert_eq!(found, expected);
    assert_eq!(guest.residue_beside_layers().len(), expected.len() - 1);
    let path = guest.path().to_owned();
    drop(guest);
    assert!(!path.exists(), "a guest unmounts and erases everything");
}

mod minted {
    //! What the kit mints, as the engine judges it that the product uses.

    use sigstore_verify::trust_root::TrustedRoot;
    use sigstore_verify::types::{Bundle as Parsed, Sha256Hash};
    use sigstore_verify::{VerificationPolicy, Verifier};

    use crate::image::sha256;
    use crate::sigstore::{Bundle, Ceremony, Identity, Moment, Sigstore, Statement, Version};

    const EMAIL: &str = "dev@example.com";
    const ISSUER: &str = "https://login.example.com";

    fn judge(services: &Sigstore, bundle: &Bundle, content: &[u8]) -> Result<(), String> {
        let root = TrustedRoot::from_json(&services.trusted_root().to_string());
        let root = root.map_err(|error| error.to_string())?;
        let verifier = Verifier::new(&root).map_err(|error| error.to_string())?;
        let text = String::from_utf8(bundle.bytes().to_vec()).expect("JSON");
        let bundle = Parsed::from_json(&text).map_err(|error| error.to_string())?;
        let hex = sha256(content);
        let hash = Sha256Hash::from_hex(hex.trim_start_matches("sha256:")).expect("a digest");
        let policy = VerificationPolicy::new(EMAIL, ISSUER);
        let result = verifier.verify(hash, &bundle, &policy);
        result.map(drop).map_err(|error| error.to_string())
    }

    fn signer(services: &Sigstore) -> Ceremony<'_> {
        services.ceremony(Identity::email(EMAIL, ISSUER))
    }

    #[test]
    fn evidence_of_every_kind_counts() {
        let services = Sigstore::mint();
        let signer = signer(&services);
        let statement = Statement::signature(&sha256(b"content"));
        for (case, signer) in [
            ("everything", signer.clone()),
            ("no timestamp", signer.clone().without_timestamp()),
            ("the second log", signer.clone().log(Version::Two)),
        ] {
            let verdict = judge(&services, &signer.sign(&statement), b"content");
            assert_eq!(verdict, Ok(()), "{case}");
            let verdict = judge(&services, &signer.sign_blob(b"content"), b"content");
            assert_eq!(verdict, Ok(()), "{case}, a blob");
        }
    }

    #[test]
    fn what_is_left_out_or_spoiled_is_missed() {
        let services = Sigstore::mint();
        let signer = signer(&services);
        let statement = Statement::signature(&sha256(b"content"));
        let sign = |signer: Ceremony<'_>| signer.sign(&statement);
        let spoil = |pointer: &str| signer.sign(&statement).spoiled(pointer);
        let entry = "/verificationMaterial/tlogEntries/0";
        let stamp =
            "/verificationMaterial/timestampVerificationData/rfc3161Timestamps/0/signedTimestamp";
        let second = signer.clone().log(Version::Two);
        let other = Sigstore::mint();
        for (case, bundle) in [
            ("no log", sign(signer.clone().without_log())),
            (
                "no certificate log",
                sign(signer.clone().without_certificate_log()),
            ),
            ("no time", sign(second.without_timestamp())),
            (
                "late",
                sign(signer.clone().issued(Moment::now().minus(7200))),
            ),
            ("proof", spoil(&format!("{entry}/inclusionProof/rootHash"))),
            ("path", spoil(&format!("{entry}/inclusionProof/hashes/0"))),
            (
                "promise",
                spoil(&format!("{entry}/inclusionPromise/signedEntryTimestamp")),
            ),
            ("timestamp", spoil(stamp)),
            ("payload", spoil("/dsseEnvelope/payload")),
            ("signature", spoil("/dsseEnvelope/signatures/0/sig")),
            (
                "other services",
                other
                    .ceremony(Identity::email(EMAIL, ISSUER))
                    .sign(&statement),
            ),
        ] {
            assert!(judge(&services, &bundle, b"content").is_err(), "{case}");
        }
    }
}
