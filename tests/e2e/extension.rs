//! The signature extension of registries: signatures that the real `skopeo copy --sign-by` stores in
//! the registry itself.

use bytes::Bytes;
use kit::client::Code;
use kit::files::Files;
use kit::front::Front;
use kit::guest::Guest;
use kit::image::Image;
use kit::scene::Scene;
use serde_json::{Value, json};

use super::simple::{RING, Signer};
use super::{DENIED, FAILED, UNDECIDED, assert_says};

/// A registry with the extension, an owner who signs, and a guest that wants the owner's signature.
struct Stage {
    scene: Scene,
    front: Front,
    owner: Signer,
    guest: Guest,
}

impl Stage {
    async fn set() -> Self {
        let scene = Scene::start().await;
        let front = Front::start(&scene.registry).await;
        scene.set_policy(&json!({
            "default": [{"type": "reject"}],
            "transports": {"docker": {front.host(): [
                {"type": "signedBy", "keyType": "GPGKeys", "keyPath": format!("kbs:///{RING}")},
            ]}},
        }));
        let owner = Signer::new();
        scene.kbs.put(RING, owner.keyring());
        let mut guest = scene.guest();
        guest.settings = guest
            .settings
            .clone()
            .with("image_agent.verbose_errors", true)
            .insecure_registry(&front.host());
        Self {
            scene,
            front,
            owner,
            guest,
        }
    }

    /// Pushes an image through the front, signed by `signer`.
    fn push(&self, signer: &Signer, name: &str, image: &Image) -> String {
        let reference = format!("{}/{name}", self.front.host());
        signer.copy(image, &reference, "docker: {}\n");
        reference
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn images_signed_by_skopeo_in_the_registry_are_delivered_and_others_are_refused() {
    let stage = Stage::set().await;
    let (front, guest) = (&stage.front, &stage.guest);
    let image = Image::small("kept by the registry");
    let good = stage.push(&stage.owner, "team/app:1", &image);
    let kept = front.list("team/app", &image.digest());
    assert_eq!(kept.len(), 1, "skopeo stored {kept:?}");

    let stranger = Signer::new();
    let strange = Image::small("signed by a stranger");
    let by_stranger = stage.push(&stranger, "team/strange:1", &strange);
    let other = Image::small("another digest");
    stage.scene.registry.push("team/app:2", &other).await;
    front.set_list("team/app", &other.digest(), kept.clone());
    let other_digest = format!("{}/team/app:2", front.host());
    let unsigned_image = Image::small("unsigned");
    stage
        .scene
        .registry
        .push("team/none:1", &unsigned_image)
        .await;
    let unsigned = format!("{}/team/none:1", front.host());
    let unknown = Image::small("of another version or type");
    stage.scene.registry.push("team/app:4", &unknown).await;
    let with = |key: &str, value: Value| {
        let mut entry = kept[0].clone();
        entry[key] = value;
        entry
    };
    let entries = vec![
        with("schemaVersion", json!(1)),
        with("type", json!("cosign")),
    ];
    front.set_list("team/app", &unknown.digest(), entries);
    let unknown = format!("{}/team/app:4", front.host());

    let daemon = guest.start().await;
    let before = guest.residue();
    let digest = image.digest();
    for (case, reference, word) in [
        ("another key", by_stranger, "not by a key"),
        ("another digest", other_digest, digest.as_str()),
        ("no signature", unsigned, "no signature was found"),
        ("unknown kinds", unknown, "no signature was found"),
    ] {
        let refusal = daemon.refuses(&reference, &guest.bundle("c1")).await;
        assert_eq!(refusal.code, Code::PERMISSION_DENIED, "{case}: {refusal:?}");
        assert_says(case, &refusal.message, &[FAILED, DENIED, word]);
        guest.assert_residue(&before, case).await;
    }
    assert_eq!(daemon.delivers(&good, &guest.bundle("c1")).await, digest);
    let found = format!(
        "http://{}/extensions/v2/team/app/signatures/{digest}[0]",
        front.host()
    );
    assert_says("record", &daemon.log(), &[&found]);
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_that_cannot_be_had_or_read_are_no_permission() {
    let stage = Stage::set().await;
    let (front, guest) = (&stage.front, &stage.guest);
    let image = Image::small("signed");
    let reference = stage.push(&stage.owner, "app:1", &image);
    let kept = front.list("app", &image.digest());
    let list = |entries: Vec<Value>| json!({ "signatures": entries }).to_string();
    let many = list(vec![kept[0].clone(); 129]);
    let spoiled = list(vec![kept[0].clone(), json!({"content": "%"})]);
    let large = format!("{}{}", list(kept), " ".repeat(4 << 20));
    let daemon = guest.start().await;
    for (case, status, body, word) in [
        (
            "no JSON",
            200,
            "<html>".to_owned(),
            "malformed list of signatures",
        ),
        (
            "another shape",
            200,
            "[1]".to_owned(),
            "malformed list of signatures",
        ),
        (
            "one is no base64",
            200,
            spoiled,
            "signature 1 is not base64",
        ),
        ("too many", 200, many, "more than 128 signatures"),
        (
            "too large",
            200,
            large,
            "larger than the limit of 4194304 bytes",
        ),
        ("not found", 404, String::new(), "not found"),
        ("forbidden", 403, String::new(), "HTTP status 403"),
        ("broken", 500, String::new(), "HTTP status 500"),
    ] {
        front.answer_instead(Some((status, Bytes::from(body))));
        let refusal = daemon.refuses(&reference, &guest.bundle("c1")).await;
        let (code, phrase) = match status {
            500 => (Code::UNAVAILABLE, UNDECIDED),
            _ => (Code::PERMISSION_DENIED, DENIED),
        };
        assert_eq!(refusal.code, code, "{case}: {refusal:?}");
        assert_says(case, &refusal.message, &[FAILED, phrase, word]);
    }
    front.answer_instead(None);
    daemon.delivers(&reference, &guest.bundle("c1")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_a_registry_that_announces_it_is_asked_and_then_no_lookaside_is() {
    let mut stage = Stage::set().await;
    let image = Image::small("signed");
    let reference = stage.push(&stage.owner, "app:1", &image);
    stage.front.announce(false);
    let refusal = {
        let daemon = stage.guest.start().await;
        daemon.refuses(&reference, &stage.guest.bundle("c1")).await
    };
    let words = [
        FAILED,
        DENIED,
        "no place for signatures is configured",
        "keeps no signatures itself",
        "sigstore_config",
    ];
    assert_says("not announced", &refusal.message, &words);
    let asked = |front: &Front| {
        let requests = front.requests();
        let lists = requests.iter().filter(|one| one.starts_with("GET /ext"));
        lists.count()
    };
    // skopeo looks for signatures before it adds its own.
    let by_skopeo = asked(&stage.front);

    let folder = tempfile::tempdir().unwrap();
    let lookaside = Files::serve(folder.path());
    let host = stage.front.host();
    let config = format!("docker:\n  {host}:\n    lookaside: {{}}\n");
    let stored = format!("file://{}", folder.path().display());
    stage
        .owner
        .copy(&image, &reference, &config.replace("{}", &stored));
    stage.guest.settings = stage.guest.settings.clone().with(
        "image.sigstore_config",
        config.replace("{}", &lookaside.url()),
    );
    let daemon = stage.guest.start().await;
    daemon.delivers(&reference, &stage.guest.bundle("c1")).await;
    assert_eq!(asked(&stage.front), by_skopeo);

    stage.front.announce(true);
    stage.front.set_list("app", &image.digest(), Vec::new());
    let refusal = daemon.refuses(&reference, &stage.guest.bundle("c2")).await;
    assert_says("announced", &refusal.message, &["no signature was found"]);
    assert!(asked(&stage.front) > by_skopeo);
}
