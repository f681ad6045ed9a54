//! What stands beside a signature proves who signed what, and nothing about anything else.
#![no_main]

use std::sync::LazyLock;

use fuzz::honest::{ANNOTATIONS, EMAIL, HONEST, OIDC_ISSUER, SIGSTORE};
use fuzz::{assert_printable, parts};
use libfuzzer_sys::fuzz_target;
use policy::{
    BundleArtifact, BundleSigner, COSIGN_PAYLOAD, CosignSignature, TrustedRoot,
    signature_as_bundle, verify_bundle,
};

static ROOT: LazyLock<TrustedRoot> = LazyLock::new(|| TrustedRoot::parse(SIGSTORE).unwrap());
const KEYS: [&str; 4] = [
    "dev.sigstore.cosign/certificate",
    "dev.sigstore.cosign/chain",
    "dev.sigstore.cosign/bundle",
    "dev.sigstore.cosign/rfc3161timestamp",
];

fuzz_target!(|data: &[u8]| {
    let Some([payload, signature, beside @ ..]) = parts::<6>(data) else {
        return;
    };
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let written = KEYS
        .iter()
        .zip(beside)
        .filter(|(_, bytes)| !bytes.is_empty());
    let found = CosignSignature {
        found: "input".to_owned(),
        media_type: COSIGN_PAYLOAD.to_owned(),
        payload: Ok(payload.to_vec()),
        annotations: written
            .map(|(key, bytes)| ((*key).to_owned(), text(bytes)))
            .collect(),
    };
    let bundle = match signature_as_bundle(&found, payload, &text(signature)) {
        Ok(bundle) => bundle,
        Err(problem) => {
            assert!(data != ANNOTATIONS, "{problem}");
            return assert_printable(&problem);
        }
    };
    let signer = BundleSigner::Identity {
        identity: EMAIL,
        issuer: OIDC_ISSUER,
    };
    let judge = |content| verify_bundle(&ROOT, &bundle, BundleArtifact::Bytes(content), &signer);
    if let Err(problem) = judge(HONEST.manifest) {
        assert!(data != ANNOTATIONS, "{problem}");
        assert_printable(&problem);
    }
    assert!(judge(b"another").is_err());
});
