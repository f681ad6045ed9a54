//! The whole scene of `CoCo`'s guide to signed images: a registry, a KBS over https that holds the
//! owner's key and policy, and guests that are configured to use them.

use serde_json::{Value, json};

use crate::cosign::{Claim, Key, KeyKind, Signature, signature_image, signature_tag};
use crate::guest::Guest;
use crate::image::Image;
use crate::kbs::DevKbs;
use crate::registry::Registry;

/// Where the guide stores the owner's key.
pub const KEY: &str = "default/cosign-key/1";
/// Where the guide stores the owner's policy.
pub const POLICY: &str = "default/security-policy/test";

/// A registry, a KBS and an owner.
#[derive(Debug)]
pub struct Scene {
    /// Debian's registry, over http.
    pub registry: Registry,
    /// The KBS, over https.
    pub kbs: DevKbs,
    /// The owner's key; its public half is in the KBS under [`KEY`].
    pub key: Key,
}

impl Scene {
    /// Starts registry and KBS, mints the owner's key, and registers key and policy.
    pub async fn start() -> Self {
        let registry = Registry::start().await;
        let kbs = DevKbs::https();
        let key = Key::mint(KeyKind::P256);
        kbs.put(KEY, key.public_pem());
        let scene = Self { registry, kbs, key };
        scene.set_policy(&scene.guide_policy());
        scene
    }

    /// The policy of the guide, word for word but for the registry.
    pub fn guide_policy(&self) -> Value {
        let signed = json!([{"type": "sigstoreSigned", "keyPath": format!("kbs:///{KEY}")}]);
        json!({
            "default": [{"type": "reject"}],
            "transports": {"docker": {self.registry.host(): signed}},
        })
    }

    /// Replaces the owner's policy.
    pub fn set_policy(&self, policy: &Value) {
        self.kbs.put(POLICY, policy.to_string());
    }

    /// A guest configured for this scene: policy from the KBS, plain http to the registry.
    pub fn guest(&self) -> Guest {
        let mut guest = Guest::new();
        guest.settings = guest
            .settings
            .clone()
            .with("kbc.name", "cc_kbc")
            .with("kbc.url", self.kbs.url())
            .with("kbc.kbs_cert", self.kbs.certificate())
            .with(
                "image.image_security_policy_uri",
                format!("kbs:///{POLICY}"),
            )
            .with("image_agent.attester", "sample")
            .insecure_registry(self.registry.host());
        guest
    }

    /// `host:port/repository`.
    pub fn name(&self, repository: &str) -> String {
        format!("{}/{repository}", self.registry.host())
    }

    /// Pushes an image and signs it as the guide does; returns the reference by tag.
    pub async fn push_signed(&self, name: &str, image: &Image) -> String {
        let reference = self.registry.push(name, image).await;
        let (repository, _) = name.rsplit_once(':').expect("repository:tag");
        self.sign(repository, &image.digest()).await;
        reference
    }

    /// Signs `digest` with the owner's key as plain `cosign sign --key` does.
    pub async fn sign(&self, repository: &str, digest: &str) {
        self.sign_with(&self.key, repository, digest).await;
    }

    /// The same with another key.
    pub async fn sign_with(&self, key: &Key, repository: &str, digest: &str) {
        let signature = key.attest(&Claim::of(&self.name(repository), digest));
        self.push_signatures(repository, digest, [signature]).await;
    }

    /// Replaces the signatures of `digest`.
    pub async fn push_signatures(
        &self,
        repository: &str,
        digest: &str,
        signatures: impl IntoIterator<Item = Signature>,
    ) {
        let name = format!("{repository}:{}", signature_tag(digest));
        self.registry
            .push(&name, &signature_image(signatures))
            .await;
    }
}
