//! What must hold for every input.

use std::sync::LazyLock;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use policy::{Digest, Document, ImageRef, OCI_MANIFEST, Platform, Policy, Reference};
use proptest::prelude::*;
use proptest::sample::Index;
use serde_json::{Value, json};

use crate::support::{
    KEY, NAME, REPOSITORY, SIGNATURE, Signer, decide, evidence, manifest_bytes, pem, policy,
    resolve, signed_by_key,
};

static SIGNER: LazyLock<Signer> = LazyLock::new(Signer::new);

fn flip(bytes: &mut [u8], at: Index, by: u8) {
    let at = at.index(bytes.len());
    bytes[at] ^= by;
}

fn reference() -> impl Strategy<Value = String> {
    let host = "(localhost|[a-zA-Z0-9]{1,5}(-[a-z0-9]{1,3})?\\.[a-z]{2,4})(:[0-9]{1,5})?";
    let path = "[a-z0-9]{1,6}((\\.|_|__|-{1,3})[a-z0-9]{1,4})?(/[a-z0-9]{1,6}){0,3}";
    let tag = "(:[A-Za-z0-9_][A-Za-z0-9_.-]{0,12})?";
    let digest = "(@sha256:[a-f0-9]{64})?";
    proptest::string::string_regex(&format!("({host}/)?{path}{tag}{digest}")).unwrap()
}

fn requirement() -> impl Strategy<Value = Value> {
    proptest::sample::select(vec![
        json!({"type": "insecureAcceptAnything"}),
        json!({"type": "reject"}),
        signed_by_key(),
        json!({"type": "sigstoreSigned", "keyPath": "kbs:///default/cosign-key/missing"}),
        json!({"type": "sigstoreSigned", "keyPath": KEY,
               "signedIdentity": {"type": "matchExact"}}),
        json!({"type": "sigstoreSigned", "keyPath": KEY, "rekorPublicKeyPath": "/r"}),
        json!({"type": "signedBy", "keyType": "GPGKeys", "keyPath": "/g"}),
    ])
}

proptest! {
    #[test]
    fn a_reference_prints_as_what_parses_to_it(text in reference()) {
        if let Ok(reference) = Reference::parse(&text) {
            prop_assert_eq!(Reference::parse_qualified(&reference.to_string()), Ok(reference));
        }
        if let Ok(image) = ImageRef::parse_edge(&text) {
            let again: ImageRef = image.to_string().parse().unwrap();
            prop_assert_eq!(again.to_string(), image.to_string());
            prop_assert!(image.tag().is_some() != image.digest().is_some());
        }
    }

    #[test]
    fn no_text_makes_the_parsers_panic(text in ".{0,80}", raw in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = text.parse::<ImageRef>();
        let _ = text.parse::<Digest>();
        let _ = Policy::parse(text.as_bytes());
        let _ = Policy::parse(&raw);
        let _ = policy::Payload::parse_cosign(&raw);
        let _ = policy::PublicKey::from_pem(&raw);
        let _ = Document::parse(&NAME.parse().unwrap(), Some(OCI_MANIFEST), raw);
    }

    #[test]
    fn a_changed_byte_never_yields_an_approval(
        at in any::<Index>(),
        by in 1_u8..=255,
        part in 0_u8..4,
    ) {
        let raw = manifest_bytes();
        let digest = Digest::sha256_of(&raw);
        let mut signature = SIGNER.attach(&digest, REPOSITORY);
        let mut key = SIGNER.spki();
        let mut served = raw;
        match part {
            0 => flip(&mut served, at, by),
            1 => flip(signature.payload.as_mut().unwrap(), at, by),
            2 => {
                let text = signature.annotations.get_mut(SIGNATURE).unwrap();
                let mut bytes = STANDARD.decode(&*text).unwrap();
                flip(&mut bytes, at, by);
                *text = STANDARD.encode(bytes);
            }
            _ => flip(&mut key, at, by),
        }
        let reference: ImageRef = NAME.parse().unwrap();
        if let Ok(Document::Manifest(manifest)) =
            Document::parse(&reference, Some(OCI_MANIFEST), served)
        {
            let subject = *manifest.digest();
            let mut evidence = evidence(&SIGNER, &[(subject, vec![signature])]);
            let pem = pem("PUBLIC KEY", &key).into_bytes();
            evidence.resources.insert(KEY.to_owned(), Ok(pem));
            let answer = decide(&policy(&json!([signed_by_key()])), manifest, &evidence);
            prop_assert!(answer.is_err());
        }
    }

    #[test]
    fn one_more_requirement_never_turns_a_refusal_into_an_acceptance(
        list in prop::collection::vec(requirement(), 1..4),
        more in requirement(),
        at in any::<Index>(),
        signed in any::<bool>(),
    ) {
        let raw = manifest_bytes();
        let digest = Digest::sha256_of(&raw);
        let signatures = if signed { vec![SIGNER.attach(&digest, REPOSITORY)] } else { vec![] };
        let evidence = evidence(&SIGNER, &[(digest, signatures)]);
        let allows = |list: &[Value]| {
            decide(&policy(&json!(list)), resolve(NAME, raw.clone()), &evidence).is_ok()
        };
        let before = allows(&list);
        let mut longer = list;
        longer.insert(at.index(longer.len() + 1), more);
        prop_assert!(before || !allows(&longer));
    }

    #[test]
    fn the_chosen_platform_is_always_an_acceptable_one(
        offered in prop::collection::vec(("(amd64|arm64|arm)", "(|v5|v6|v7|v8)"), 0..6),
        wanted in ("(amd64|arm64|arm)", "(|v5|v6|v7|v8)"),
    ) {
        let platform = |(architecture, variant): &(String, String)| Platform {
            os: "linux".to_owned(),
            architecture: architecture.clone(),
            variant: Some(variant.clone()).filter(|variant| !variant.is_empty()),
        };
        let entry = |offer: &(String, String)| json!({
            "mediaType": OCI_MANIFEST, "size": 1, "digest": Digest::sha256_of(offer.1.as_bytes()),
            "platform": {"os": "linux", "architecture": offer.0, "variant": offer.1},
        });
        let index = json!({
            "schemaVersion": 2,
            "mediaType": policy::OCI_INDEX,
            "manifests": offered.iter().map(entry).collect::<Value>(),
        });
        let reference: ImageRef = NAME.parse().unwrap();
        let raw = index.to_string().into_bytes();
        let Ok(Document::Index(index)) = Document::parse(&reference, None, raw) else {
            panic!("no index");
        };
        let acceptable = platform(&wanted).acceptable();
        match index.choose(&platform(&wanted)) {
            Ok(chosen) => prop_assert!(acceptable.contains(chosen.platform().unwrap())),
            Err(_) => prop_assert!(!offered.iter().any(|offer| acceptable.contains(&platform(offer)))),
        }
    }
}
