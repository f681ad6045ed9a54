//! Whatever a trusted root trusts, what was signed stays what it was.
#![no_main]

use std::sync::LazyLock;

use fuzz::assert_printable;
use fuzz::honest::{BUNDLES, EMAIL, HONEST, OIDC_ISSUER, SIGSTORE};
use libfuzzer_sys::fuzz_target;
use policy::{BundleArtifact, BundleSigner, TrustedRoot, UntrustedBundle, verify_bundle};

static SIGNED: LazyLock<Vec<UntrustedBundle>> = LazyLock::new(|| {
    let bundles = BUNDLES.iter();
    bundles
        .map(|bundle| UntrustedBundle::parse(bundle).unwrap())
        .collect()
});

fuzz_target!(|data: &[u8]| {
    let root = match TrustedRoot::parse(data) {
        Ok(root) => root,
        Err(problem) => {
            assert!(data != SIGSTORE, "{problem}");
            return assert_printable(&problem);
        }
    };
    let signer = BundleSigner::Identity {
        identity: EMAIL,
        issuer: OIDC_ISSUER,
    };
    for bundle in &*SIGNED {
        let judge = |content| verify_bundle(&root, bundle, BundleArtifact::Bytes(content), &signer);
        if let Err(problem) = judge(HONEST.manifest) {
            assert!(data != SIGSTORE, "{problem}");
            assert_printable(&problem);
        }
        assert!(judge(b"another").is_err());
    }
});
