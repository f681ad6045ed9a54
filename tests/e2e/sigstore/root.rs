//! One trusted root, read once, judges many bundles: what was proved for one is proved for others in
//! its time, and for nobody else.

use kit::image::sha256;
use kit::sigstore::{Ceremony, Identity, Moment, Sigstore, Statement, Version};
use policy::{
    BundleArtifact, BundleProblem, BundleSigner, Digest, TrustedRoot, UntrustedBundle,
    verify_bundle,
};

use serde_json::{Value, json};

use super::evidence::{EMAIL, ISSUER};

/// Within the year of the intermediate that ended long ago.
const THEN: Moment = Moment(1_590_000_000);

fn judge(root: &TrustedRoot, signer: &Ceremony<'_>) -> Result<(), BundleProblem> {
    let digest = sha256(b"content");
    let bundle = signer.sign(&Statement::signature(&digest)).bytes();
    let bundle = UntrustedBundle::parse(&bundle).unwrap();
    let digest: Digest = digest.parse().unwrap();
    let (identity, issuer) = (EMAIL, ISSUER);
    let signer = BundleSigner::Identity { identity, issuer };
    verify_bundle(root, &bundle, BundleArtifact::Digest(&digest), &signer)
}

/// A signer now, and one then.
fn signers(services: &Sigstore) -> [Ceremony<'_>; 2] {
    let now = services.ceremony(Identity::email(EMAIL, ISSUER));
    let then = now.clone().issued(THEN).signed(THEN.plus(10));
    [now, then]
}

/// A trusted root that names the services of two.
fn both(one: &Sigstore, other: &Sigstore) -> Value {
    let mut both = one.trusted_root();
    for (list, services) in other.trusted_root().as_object().unwrap() {
        if let Some(services) = services.as_array() {
            let list = both[list].as_array_mut().unwrap();
            list.extend(services.iter().cloned());
        }
    }
    both
}

#[test]
fn path_that_was_proved_once_does_not_outlive_its_time() {
    let services = Sigstore::with_expired_intermediate();
    let [now, then] = signers(&services);
    let root = services.trusted_root().to_string();
    let root = TrustedRoot::parse(root.as_bytes()).unwrap();
    for _ in 0..2 {
        assert!(matches!(
            judge(&root, &now),
            Err(BundleProblem::Path { .. })
        ));
        assert_eq!(judge(&root, &then), Ok(()));
    }
}

#[test]
fn path_that_was_proved_once_helps_no_other_authority_of_that_name() {
    let (lasting, expired) = (Sigstore::mint(), Sigstore::with_expired_intermediate());
    let both = both(&lasting, &expired);
    let root = TrustedRoot::parse(both.to_string().as_bytes()).unwrap();
    let ([now, then], [late, in_time]) = (signers(&lasting), signers(&expired));
    for _ in 0..3 {
        assert_eq!(judge(&root, &now), Ok(()));
        assert_eq!(judge(&root, &then), Ok(()));
        assert!(matches!(
            judge(&root, &late),
            Err(BundleProblem::Path { .. })
        ));
        assert_eq!(judge(&root, &in_time), Ok(()));
    }
    let strangers = Sigstore::mint();
    for signer in signers(&strangers) {
        let judged = judge(&root, &signer);
        assert!(
            matches!(judged, Err(BundleProblem::Refused { .. })),
            "{judged:?}"
        );
    }
}

#[test]
fn authority_that_is_trusted_no_longer_gets_nothing_from_one_of_its_name() {
    let (current, former) = (Sigstore::mint(), Sigstore::mint());
    let mut both = both(&current, &former);
    both["certificateAuthorities"][1]["validFor"]["end"] = json!("2024-01-01T00:00:00Z");
    let root = TrustedRoot::parse(both.to_string().as_bytes()).unwrap();
    let ([current, _], [former, _]) = (signers(&current), signers(&former));
    for _ in 0..2 {
        assert_eq!(judge(&root, &current), Ok(()));
        let judged = judge(&root, &former);
        assert!(
            matches!(judged, Err(BundleProblem::Refused { .. })),
            "{judged:?}"
        );
    }
}

#[test]
fn log_proves_nothing_of_what_was_signed_when_it_was_not_trusted() {
    let services = Sigstore::mint();
    let (first, second) = (0, 1);
    let at = |window: Value, log: usize| {
        let mut root = services.trusted_root();
        root["tlogs"][log]["publicKey"]["validFor"] = window;
        TrustedRoot::parse(root.to_string().as_bytes()).unwrap()
    };
    let then = Moment::now().minus(600);
    let signer = services.ceremony(Identity::email(EMAIL, ISSUER));
    let signer = signer.issued(then.minus(1)).signed(then);
    let checkpoints = signer.clone().log(Version::Two);
    let start = Moment(1_577_836_800).rfc3339();
    let ended = |end: Moment| json!({"start": start, "end": end.rfc3339()});
    for (signer, log) in [(&signer, first), (&checkpoints, second)] {
        assert_eq!(judge(&at(ended(then.plus(60)), log), signer), Ok(()));
        // The other log's time is no matter.
        let other = at(ended(then.minus(60)), second - log);
        assert_eq!(judge(&other, signer), Ok(()));
    }
    // The promises of the first one bear a time, so that the engine sees it by itself.
    let judged = judge(&at(ended(then.minus(60)), first), &signer);
    assert!(
        matches!(judged, Err(BundleProblem::Refused { .. })),
        "{judged:?}"
    );
    let begun_since = json!({"start": then.plus(60).rfc3339()});
    for window in [ended(then.minus(60)), begun_since] {
        let judged = judge(&at(window, second), &checkpoints);
        assert!(
            matches!(judged, Err(BundleProblem::LogNotTrusted { .. })),
            "{judged:?}"
        );
    }
}
