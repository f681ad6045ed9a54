//! A bundle proves who signed what, whatever is written into it, and nothing about anything else.
#![no_main]

use std::sync::LazyLock;

use fuzz::assert_printable;
use fuzz::honest::{BUNDLES, EMAIL, HONEST, KEYED_BUNDLE, MANAGED_KEY, OIDC_ISSUER, SIGSTORE};
use libfuzzer_sys::fuzz_target;
use policy::{
    BundleArtifact, BundleSigner, PublicKey, TrustedRoot, UntrustedBundle, verify_bundle,
};

static ROOT: LazyLock<TrustedRoot> = LazyLock::new(|| TrustedRoot::parse(SIGSTORE).unwrap());
static KEY: LazyLock<PublicKey> = LazyLock::new(|| PublicKey::from_pem(MANAGED_KEY).unwrap());

fuzz_target!(|data: &[u8]| {
    let bundle = match UntrustedBundle::parse(data) {
        Ok(bundle) => bundle,
        Err(problem) => {
            assert!(
                !BUNDLES.contains(&data) && data != KEYED_BUNDLE,
                "{problem}"
            );
            return assert_printable(&problem);
        }
    };
    let identity = BundleSigner::Identity {
        identity: EMAIL,
        issuer: OIDC_ISSUER,
    };
    for (signer, honest) in [
        (identity, BUNDLES.contains(&data)),
        (BundleSigner::Key(&KEY), data == KEYED_BUNDLE),
    ] {
        let judge =
            |content| verify_bundle(&ROOT, &bundle, BundleArtifact::Bytes(content), &signer);
        if let Err(problem) = judge(HONEST.manifest) {
            assert!(!honest, "{problem}");
            assert_printable(&problem);
        }
        assert!(judge(b"another").is_err());
    }
});
