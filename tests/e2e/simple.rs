//! Images signed by the real `skopeo copy --sign-by`, with the signatures in a lookaside over http.

use std::path::Path;
use std::process::Command;

use kit::client::Code;
use kit::files::Files;
use kit::guest::Guest;
use kit::image::Image;
use kit::programs::{require, run};
use kit::scene::Scene;
use serde_json::json;
use tempfile::TempDir;

use super::{DENIED, FAILED, assert_says};

/// Where the guide stores the owner's keyring.
pub(super) const RING: &str = "default/gpg-public-config/test";

/// A person with a `GnuPG` home of their own.
pub(super) struct Signer {
    home: TempDir,
}

impl Signer {
    pub(super) fn new() -> Self {
        let signer = Self {
            home: tempfile::tempdir().unwrap(),
        };
        let arguments = [
            "--passphrase",
            "",
            "--quick-generate-key",
            NAME,
            "rsa2048",
            "sign",
            "never",
        ];
        signer.gpg(&arguments);
        signer
    }

    fn gpg(&self, arguments: &[&str]) -> Vec<u8> {
        let mut gpg = Command::new(require("gpg", "gnupg"));
        gpg.env("GNUPGHOME", self.home.path()).arg("--batch");
        run(gpg.args(arguments)).stdout
    }

    pub(super) fn keyring(&self) -> Vec<u8> {
        self.gpg(&["--export", NAME])
    }

    /// Pushes an image and signs it; the signature goes below `lookaside`.
    fn push(&self, scene: &Scene, name: &str, image: &Image, lookaside: &Path) -> String {
        let reference = scene.name(name);
        let lookaside = format!("file://{}", lookaside.display());
        self.copy(image, &reference, &configuration(scene, &lookaside));
        reference
    }

    /// Copies an image to `reference` and signs it there; `config` is a registries.d document.
    pub(super) fn copy(&self, image: &Image, reference: &str, config: &str) {
        let work = tempfile::tempdir().unwrap();
        let (layout, registries) = (work.path().join("layout"), work.path().join("registries.d"));
        std::fs::create_dir_all(&layout).unwrap();
        std::fs::create_dir_all(&registries).unwrap();
        image.write_layout(&layout, "image");
        std::fs::write(registries.join("test.yaml"), config).unwrap();
        run(Command::new(require("skopeo", "skopeo"))
            .env("GNUPGHOME", self.home.path())
            .arg("--registries.d")
            .arg(registries)
            .args([
                "--insecure-policy",
                "copy",
                "--quiet",
                "--dest-tls-verify=false",
            ])
            .args(["--sign-by", NAME])
            .arg(format!("oci:{}:image", layout.display()))
            .arg(format!("docker://{reference}")));
    }
}

impl Drop for Signer {
    fn drop(&mut self) {
        let mut end = Command::new("gpgconf");
        end.env("GNUPGHOME", self.home.path());
        drop(end.args(["--kill", "all"]).output());
    }
}

const NAME: &str = "owner@example.com";

fn configuration(scene: &Scene, lookaside: &str) -> String {
    format!(
        "docker:\n  {}:\n    lookaside: {lookaside}\n",
        scene.registry.host()
    )
}

fn require_signatures(scene: &Scene) {
    scene.set_policy(&json!({
        "default": [{"type": "reject"}],
        "transports": {"docker": {scene.registry.host(): [
            {"type": "signedBy", "keyType": "GPGKeys", "keyPath": format!("kbs:///{RING}")},
        ]}},
    }));
}

fn guest(scene: &Scene, lookaside: &Files) -> Guest {
    let mut guest = scene.guest();
    guest.settings = guest
        .settings
        .clone()
        .with("image_agent.verbose_errors", true)
        .with(
            "image.sigstore_config",
            configuration(scene, &lookaside.url()),
        );
    guest
}

/// Where the signatures of an image are below a lookaside.
fn place(repository: &str, image: &Image) -> String {
    format!("{repository}@{}", image.digest().replace(':', "="))
}

#[tokio::test(flavor = "multi_thread")]
async fn images_signed_by_skopeo_are_delivered_and_others_are_refused_with_the_reason() {
    let scene = Scene::start().await;
    require_signatures(&scene);
    let (owner, stranger) = (Signer::new(), Signer::new());
    scene.kbs.put(RING, owner.keyring());
    let folder = tempfile::tempdir().unwrap();
    let lookaside = Files::serve(folder.path());
    let guest = guest(&scene, &lookaside);
    let daemon = guest.start().await;

    let image = Image::small("signed by skopeo");
    let good = owner.push(&scene, "team/app:1", &image, folder.path());
    let signature = folder
        .path()
        .join(place("team/app", &image))
        .join("signature-1");
    assert!(
        signature.is_file(),
        "skopeo wrote no {}",
        signature.display()
    );

    let before = guest.residue();
    let by_stranger = Image::small("signed by a stranger");
    let by_stranger_name = stranger.push(&scene, "team/strange:1", &by_stranger, folder.path());
    let unsigned = scene
        .registry
        .push("team/unsigned:1", &Image::small("unsigned"))
        .await;
    let other = Image::small("other digest");
    let other_digest = scene.registry.push("team/app:2", &other).await;
    let moved = folder.path().join(place("team/app", &other));
    std::fs::create_dir_all(&moved).unwrap();
    std::fs::copy(&signature, moved.join("signature-1")).unwrap();
    let other_tag = scene.registry.push("team/app:3", &image).await;
    let digest = image.digest();
    for (case, reference, word) in [
        ("another key", by_stranger_name, "not by a key"),
        ("no signature", unsigned, "no signature was found"),
        ("another digest", other_digest, digest.as_str()),
        ("another tag", other_tag, "matchRepoDigestOrExact"),
    ] {
        let refusal = daemon.refuses(&reference, &guest.bundle("c1")).await;
        assert_eq!(refusal.code, Code::PERMISSION_DENIED, "{case}: {refusal:?}");
        assert_says(case, &refusal.message, &[FAILED, DENIED, word]);
        guest.assert_residue(&before, case).await;
    }
    daemon.delivers(&good, &guest.bundle("c1")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lookaside_that_cannot_be_read_is_no_permission() {
    let scene = Scene::start().await;
    require_signatures(&scene);
    let owner = Signer::new();
    scene.kbs.put(RING, owner.keyring());
    let folder = tempfile::tempdir().unwrap();
    let lookaside = Files::serve(folder.path());
    let mut guest = guest(&scene, &lookaside);
    let image = Image::small("signed");
    let reference = owner.push(&scene, "app:1", &image, folder.path());
    let second = folder.path().join(place("app", &image)).join("signature-2");
    std::fs::write(&second, "-----BEGIN PGP MESSAGE-----").unwrap();
    let refusal = guest
        .start()
        .await
        .refuses(&reference, &guest.bundle("c1"))
        .await;
    assert_says("armored", &refusal.message, &[FAILED, DENIED, "0x2d"]);

    std::fs::remove_file(second).unwrap();
    guest.settings = guest.settings.clone().without("image.sigstore_config");
    let refusal = guest
        .start()
        .await
        .refuses(&reference, &guest.bundle("c1"))
        .await;
    assert_says(
        "not configured",
        &refusal.message,
        &[
            FAILED,
            DENIED,
            "no place for signatures is configured",
            "sigstore_config",
        ],
    );

    guest.settings = guest.settings.clone().with(
        "image.sigstore_config_uri",
        "kbs:///default/sigstore-config/test",
    );
    scene.kbs.put("default/sigstore-config/test", "docker: 1");
    let refusal = guest
        .start()
        .await
        .refuses(&reference, &guest.bundle("c1"))
        .await;
    assert_eq!(refusal.code, Code::FAILED_PRECONDITION, "{refusal:?}");
    assert_says(
        "malformed",
        &refusal.message,
        &[FAILED, "docker should be a mapping"],
    );
}
