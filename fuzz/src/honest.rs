//! What honest signers made, as `mint.sh` wrote it down.

use std::collections::BTreeMap;
use std::sync::LazyLock;
use std::time::{Duration, SystemTime};

use policy::{
    COSIGN_PAYLOAD, CosignSignature, Document, Evidence, ImageRef, Manifest, OCI_MANIFEST, Policy,
    PublicKey, Unverified,
};

use crate::parts;

/// The name that everything was signed under.
pub const NAME: &str = "registry.example/team/app:1.0";
/// When the log took in the signature, and at which time everything is judged: 2030-01-01.
pub const TIME: u64 = 1_893_456_000;
/// Whom the certificate names.
pub const EMAIL: &str = "dev@example.com";
/// Where that one logged in.
pub const OIDC_ISSUER: &str = "https://login.example.com";
/// Where policies find [`COSIGN_KEY`].
pub const KEY_LOCATION: &str = "kbs:///default/key/cosign";
/// Where policies find [`LOG_KEY`].
pub const LOG_LOCATION: &str = "kbs:///default/key/log";

/// The public key of the cosign signature.
pub const COSIGN_KEY: &[u8] = include_bytes!("../seeds/public_key/honest");
/// The public key of the log.
pub const LOG_KEY: &[u8] = include_bytes!("../keys/log.pem");
/// The root under which the certificate chain ends.
pub const ROOT: &[u8] = include_bytes!("../seeds/certificate_authority/honest");
/// Leaf and chain, separated by a byte of zero.
pub const CHAIN: &[u8] = include_bytes!("../seeds/certificate_chain/honest");
/// A certificate like the leaf, under a root that nobody has.
pub const STRANGER: &[u8] = include_bytes!("../keys/stranger.pem");
/// The owner's keyring.
pub const KEYRING: &[u8] = include_bytes!("../seeds/openpgp_keyring/honest");
/// A simple-signing signature, and what it signs.
pub const MESSAGE: &[u8] = include_bytes!("../seeds/openpgp_message/honest");
/// The payload of [`MESSAGE`].
pub const SIMPLE_PAYLOAD: &[u8] = include_bytes!("../seeds/simple_payload/honest");
/// What private services of Sigstore are trusted for, by a `trusted_root.json`.
pub const SIGSTORE: &[u8] = include_bytes!("../seeds/trusted_root/honest");
/// Bundles by [`EMAIL`] about the manifest of [`HONEST`]: a statement and the bytes themselves, and a
/// statement in a log that has no time.
pub const BUNDLES: [&[u8]; 3] = [
    include_bytes!("../seeds/sigstore_bundle/statement"),
    include_bytes!("../seeds/sigstore_bundle/blob"),
    include_bytes!("../seeds/sigstore_bundle/second"),
];
/// A bundle about the same by the holder of [`MANAGED_KEY`].
pub const KEYED_BUNDLE: &[u8] = include_bytes!("../seeds/sigstore_bundle/keyed");
/// The blob among [`BUNDLES`] as a signature with its evidence beside it: payload, signature in
/// base64, certificate, chain, log entry and timestamp, separated by bytes of zero.
pub const ANNOTATIONS: &[u8] = include_bytes!("../seeds/signature_annotations/honest");
/// What the first of [`BUNDLES`] signs.
pub const STATEMENT: &[u8] = include_bytes!("../seeds/statement/honest");
/// The public key of a signer without a certificate.
pub const MANAGED_KEY: &[u8] = include_bytes!("../keys/managed.pem");
/// A [`Signed`] as `approval` reads it.
pub const SIGNED: &[u8] = include_bytes!("../seeds/approval/honest");

/// The manifest of an image with its cosign signature and what the log says of that.
#[derive(Debug, Clone, Copy)]
pub struct Signed<'a> {
    /// The bytes of the manifest.
    pub manifest: &'a [u8],
    /// What is signed.
    pub payload: &'a [u8],
    /// The signature in base64.
    pub signature: &'a [u8],
    /// What stands beside it about the log.
    pub bundle: &'a [u8],
}

/// The one that was honestly made.
pub static HONEST: LazyLock<Signed<'static>> = LazyLock::new(|| Signed::parse(SIGNED).unwrap());

impl<'a> Signed<'a> {
    /// Reads the four, separated by bytes of zero.
    pub fn parse(data: &'a [u8]) -> Option<Self> {
        let [manifest, payload, signature, bundle] = parts(data)?;
        Some(Self {
            manifest,
            payload,
            signature,
            bundle,
        })
    }

    /// The manifest under [`NAME`], if it is one.
    pub fn resolve(&self) -> Option<Unverified<Manifest>> {
        let name = reference();
        match Document::parse(&name, Some(OCI_MANIFEST), self.manifest.to_vec()) {
            Ok(Document::Manifest(manifest)) => Some(manifest),
            _ => None,
        }
    }

    /// The signature as it was found for `manifest`, and the honest keys.
    pub fn evidence(&self, manifest: &Unverified<Manifest>) -> Evidence {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let annotations = [
            ("dev.cosignproject.cosign/signature", text(self.signature)),
            ("dev.sigstore.cosign/bundle", text(self.bundle)),
        ];
        let signature = CosignSignature {
            found: "input".to_owned(),
            media_type: COSIGN_PAYLOAD.to_owned(),
            payload: Ok(self.payload.to_vec()),
            annotations: annotations.map(|(key, text)| (key.to_owned(), text)).into(),
        };
        let resources = [(KEY_LOCATION, COSIGN_KEY), (LOG_LOCATION, LOG_KEY)];
        let resources = resources.map(|(location, key)| (location.to_owned(), Ok(key.to_vec())));
        Evidence {
            resources: resources.into(),
            cosign: BTreeMap::from([(*manifest.digest(), Ok(vec![signature]))]),
            now: Some(now()),
            ..Evidence::default()
        }
    }

    /// Whether `policy` approves it.
    pub fn is_approved_by(&self, policy: &Policy) -> bool {
        self.resolve().is_some_and(|manifest| {
            let evidence = self.evidence(&manifest);
            let rules = policy.rules_for(manifest.reference());
            rules.decide(manifest, &evidence).is_ok()
        })
    }
}

/// [`NAME`], read.
pub fn reference() -> ImageRef {
    NAME.parse().unwrap()
}

/// [`COSIGN_KEY`], read.
pub fn cosign_key() -> PublicKey {
    PublicKey::from_pem(COSIGN_KEY).unwrap()
}

/// [`TIME`] as a clock has it.
pub fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(TIME)
}
