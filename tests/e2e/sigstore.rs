//! Sigstore as it is today: bundles, referrers, certificates instead of keys, and attestations.

mod attestations;
mod discovery;
mod elsewhere;
mod evidence;
mod flood;
mod legacy;
mod lessons;
mod logged;
mod names;
mod partial;
mod places;
mod root;

use std::process::Command;

use kit::cosign::{Key, KeyKind};
use kit::front::{Front, Referrers};
use kit::guest::{Daemon, Guest};
use kit::image::Image;
use kit::scene::{KEY, Scene};
use kit::sigstore::{Attached, Bundle, Sigstore, Statement, fallback_tag, referrers};
use serde_json::{Value, json};

/// Where the owner's trusted root is.
const ROOT: &str = "default/trusted-root/1";

/// A registry behind a front, an owner with a key and a private Sigstore, and a guest.
struct Stage {
    scene: Scene,
    front: Front,
    services: Sigstore,
    guest: Guest,
}

impl Stage {
    /// One whose policy wants the owner's key.
    async fn set() -> Self {
        let scene = Scene::start().await;
        let front = Front::start(&scene.registry).await;
        front.announce(false);
        let services = Sigstore::mint();
        scene.kbs.put(ROOT, services.trusted_root().to_string());
        let mut guest = scene.guest();
        guest.settings = guest
            .settings
            .clone()
            .with("image_agent.verbose_errors", true)
            .insecure_registry(&front.host());
        let stage = Self {
            scene,
            front,
            services,
            guest,
        };
        stage.demand(&json!({"type": "sigstoreSigned", "keyPath": format!("kbs:///{KEY}")}));
        stage
    }

    /// Makes this the one requirement of the policy.
    fn demand(&self, requirement: &Value) {
        self.scene.set_policy(&json!({
            "default": [{"type": "reject"}],
            "transports": {"docker": {self.front.host(): [requirement]}},
        }));
    }

    /// Pushes an image; returns its reference by way of the front.
    async fn push(&self, name: &str, image: &Image) -> String {
        self.scene.registry.push(name, image).await;
        format!("{}/{name}", self.front.host())
    }

    /// The owner's bundle for an image.
    fn bundle(&self, image: &Image) -> Bundle {
        Bundle::keyed(&self.scene.key, &Statement::signature(&image.digest()))
    }

    /// The same, as it is attached to the image.
    fn attached(&self, image: &Image) -> Attached {
        Attached::bundle(image, &self.bundle(image))
    }

    /// Puts artefacts beside an image of `repository`, listed by nobody.
    async fn store(&self, repository: &str, attached: &[Attached]) {
        for one in attached {
            let registry = &self.scene.registry;
            registry.push_untagged(repository, &one.image).await;
        }
    }

    /// Lists artefacts of `repository` under the tag for that.
    async fn tag(&self, repository: &str, image: &Image, attached: &[Attached]) {
        let name = format!("{repository}:{}", fallback_tag(&image.digest()));
        self.scene.registry.push(&name, &referrers(attached)).await;
    }

    /// Stores artefacts and has the front list them, all on one page.
    async fn refer(&self, repository: &str, image: &Image, attached: &[Attached]) {
        self.store(repository, attached).await;
        let entries = attached.iter().map(Attached::entry);
        let list = Referrers::paged(100).list(&image.digest(), entries);
        self.front.set_referrers(Some(list));
    }

    /// Fails unless the image is delivered.
    async fn delivers(&self, daemon: &Daemon, case: &str, reference: &str) {
        let bundle = self.guest.bundle(&case.replace([' ', ',', '/'], "-"));
        let result = daemon.pull(reference, &bundle).await;
        assert!(result.is_ok(), "{case}: {result:?}\n{}", daemon.log());
    }
}

/// A key that is nobody's.
fn stranger() -> Key {
    Key::mint(KeyKind::P256)
}

/// Runs `image-agent` in the guest and returns what it prints.
fn verify(guest: &Guest, reference: &str) -> (Option<i32>, String, String) {
    let mut command: Command = guest.program();
    command.args(["verify", "--json", reference, "-c"]);
    let output = command.arg(guest.write_config()).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (
        output.status.code(),
        text(&output.stdout),
        text(&output.stderr),
    )
}
