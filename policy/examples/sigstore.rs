//! Judges a folder of Sigstore bundles and signatures over a private test PKI: each must get the
//! answer that its name stands for. `make conformance` runs it where the vectors are.

use std::collections::BTreeMap;
use std::error::Error;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use policy::{
    BundleArtifact, BundleProblem, BundleSigner, COSIGN_PAYLOAD, CosignSignature, Digest,
    PublicKey, TrustedRoot, UntrustedBundle, open_cosign, signature_as_bundle, verify_bundle,
};
use serde_json::Value;

type Fault = Box<dyn Error>;

fn main() -> Result<(), Fault> {
    let folder = std::env::args_os()
        .nth(1)
        .ok_or("usage: sigstore DIRECTORY")?;
    let count = Vectors::load(Path::new(&folder))?.judge()?;
    writeln!(
        io::stdout(),
        "sigstore: {count} vectors, all as they should be"
    )?;
    Ok(())
}

struct Vectors {
    folder: PathBuf,
    root: TrustedRoot,
    identity: String,
    issuer: String,
}

impl Vectors {
    fn load(folder: &Path) -> Result<Self, Fault> {
        let text = |name: &str| std::fs::read_to_string(folder.join(name));
        Ok(Self {
            folder: folder.to_owned(),
            root: TrustedRoot::parse(&std::fs::read(folder.join("trusted_root.json"))?)?,
            identity: text("identity")?.trim().to_owned(),
            issuer: text("issuer")?.trim().to_owned(),
        })
    }

    fn judge(&self) -> Result<usize, Fault> {
        let mut count = 0;
        for name in GOOD {
            expect(name, true, self.keyless(name)?)?;
        }
        for name in BAD {
            expect(name, false, self.keyless(name)?)?;
        }
        count += GOOD.len() + BAD.len();
        for kind in KEYS {
            let key = self.key(kind)?;
            let logged = format!("keyed-{kind}-rekor1");
            let alone = format!("keyed-{kind}-notlog");
            for (name, expected, signer) in [
                (&logged, true, BundleSigner::KeyAlone(&key)),
                // The engine knows no P-521.
                (&logged, kind != "p521", BundleSigner::Key(&key)),
                (&alone, true, BundleSigner::KeyAlone(&key)),
                (&alone, false, BundleSigner::Key(&key)),
            ] {
                expect(name, expected, self.bundle(name, &signer)?)?;
            }
            self.legacy(kind, &key)?;
            count += 3;
        }
        let other = self.key("rsa2048")?;
        for signer in [BundleSigner::Key(&other), BundleSigner::KeyAlone(&other)] {
            let name = "keyed-p256-rekor1";
            expect(name, false, self.bundle(name, &signer)?)?;
        }
        self.legacy_keyless()?;
        Ok(count + 2)
    }

    fn keyless(&self, name: &str) -> Result<Result<(), BundleProblem>, Fault> {
        self.bundle(name, &self.holder())
    }

    fn holder(&self) -> BundleSigner<'_> {
        BundleSigner::Identity {
            identity: &self.identity,
            issuer: &self.issuer,
        }
    }

    fn bundle(
        &self,
        name: &str,
        signer: &BundleSigner<'_>,
    ) -> Result<Result<(), BundleProblem>, Fault> {
        let document = self.read(&format!("{name}.sigstore.json"))?;
        let bundle = UntrustedBundle::parse(&document)?;
        let blob = self.read("blob.txt")?;
        let digest = self.subject()?;
        let artifact = if name.contains("blob") {
            BundleArtifact::Bytes(&blob)
        } else {
            BundleArtifact::Digest(&digest)
        };
        Ok(verify_bundle(&self.root, &bundle, artifact, signer))
    }

    /// The image that all statements are about but the one with the wrong digest.
    fn subject(&self) -> Result<Digest, Fault> {
        let bundle: Value = serde_json::from_slice(&self.read("keyless-rekor1.sigstore.json")?)?;
        let payload = bundle.pointer("/dsseEnvelope/payload");
        let payload = payload.and_then(Value::as_str).unwrap_or_default();
        let payload = base64::Engine::decode(&base64::engine::general_purpose::STANDARD, payload)?;
        let statement: Value = serde_json::from_slice(&payload)?;
        let hex = statement.pointer("/subject/0/digest/sha256");
        let hex = hex.and_then(Value::as_str);
        Ok(format!("sha256:{}", hex.unwrap_or_default()).parse()?)
    }

    fn legacy(&self, kind: &str, key: &PublicKey) -> Result<(), Fault> {
        let payload = self.read(&format!("legacy-{kind}.payload.json"))?;
        let signature = String::from_utf8(self.read(&format!("legacy-{kind}.sig"))?)?;
        open_cosign(std::slice::from_ref(key), &payload, signature.trim())?;
        Ok(())
    }

    fn legacy_keyless(&self) -> Result<(), Fault> {
        let payload = self.read("legacy-keyless.payload.json")?;
        let annotations: BTreeMap<String, String> =
            serde_json::from_slice(&self.read("legacy-keyless.annotations.json")?)?;
        let signature = annotations.get("dev.cosignproject.cosign/signature");
        let signature = signature.ok_or("no signature")?.clone();
        let found = CosignSignature {
            found: "legacy-keyless".to_owned(),
            media_type: COSIGN_PAYLOAD.to_owned(),
            payload: Ok(payload.clone()),
            annotations,
        };
        let bundle = signature_as_bundle(&found, &payload, &signature)?;
        let artifact = BundleArtifact::Bytes(&payload);
        Ok(verify_bundle(
            &self.root,
            &bundle,
            artifact,
            &self.holder(),
        )?)
    }

    fn key(&self, kind: &str) -> Result<PublicKey, Fault> {
        Ok(PublicKey::from_pem(
            &self.read(&format!("key-{kind}.pub"))?,
        )?)
    }

    fn read(&self, name: &str) -> Result<Vec<u8>, Fault> {
        let file = self.folder.join(name);
        std::fs::read(&file).map_err(|error| format!("{}: {error}", file.display()).into())
    }
}

fn expect(name: &str, expected: bool, found: Result<(), BundleProblem>) -> Result<(), Fault> {
    match found {
        Ok(()) if expected => Ok(()),
        Err(_) if !expected => Ok(()),
        Ok(()) => Err(format!("{name}: accepted").into()),
        Err(problem) => Err(format!("{name}: refused: {problem}").into()),
    }
}

const KEYS: [&str; 6] = ["p256", "p384", "p521", "rsa2048", "rsa4096", "ed25519"];
const GOOD: [&str; 5] = [
    "keyless-rekor1",
    "keyless-rekor1-tsa",
    "keyless-rekor2-tsa",
    "keyless-slsa-attestation",
    "keyless-blob-rekor1",
];
const BAD: [&str; 7] = [
    "keyless-tsa-only",
    "keyless-no-tlog",
    "keyless-rekor2-no-tsa",
    "keyless-other-identity",
    "keyless-wrong-digest",
    "keyless-tampered-sig",
    "keyless-tampered-integrated-time",
];
