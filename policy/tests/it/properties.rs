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

/// A path or data under a key that begins with `prefix`, in one of the forms of `suffixes`.
fn material(prefix: &'static str, many: bool) -> impl Strategy<Value = (String, Value)> {
    let path = "(/[a-z]{1,5}|kbs:///default/key/[a-z]{1,5})";
    let data = prop::collection::vec(any::<u8>(), 1..20).prop_map(|data| STANDARD.encode(data));
    let one = prop_oneof![
        path.prop_map(|path| ("Path", json!(path))),
        data.clone().prop_map(|data| ("Data", json!(data))),
    ];
    let several = prop_oneof![
        prop::collection::vec(path, 1..3).prop_map(|paths| ("Paths", json!(paths))),
        prop::collection::vec(data, 1..3).prop_map(|datas| ("Datas", json!(datas))),
    ];
    let any = if many {
        prop_oneof![one, several].boxed()
    } else {
        one.boxed()
    };
    any.prop_map(move |(suffix, value)| (format!("{prefix}{suffix}"), value))
}

fn object(kind: Option<&str>, members: Vec<(String, Value)>) -> Value {
    let kind = kind.map(|kind| ("type".to_owned(), json!(kind)));
    kind.into_iter().chain(members).collect()
}

fn identity() -> impl Strategy<Value = Value> {
    prop_oneof![
        prop::sample::select(vec![
            "matchExact",
            "matchRepoDigestOrExact",
            "matchRepository"
        ])
        .prop_map(|kind| json!({"type": kind})),
        "[a-z]{1,5}/[a-z]{1,5}:[a-z0-9]{1,5}"
            .prop_map(|text| json!({"type": "exactReference", "dockerReference": text})),
        "[a-z]{1,5}\\.io/[a-z]{1,5}"
            .prop_map(|text| json!({"type": "exactRepository", "dockerRepository": text})),
        ("[a-z]{1,5}\\.io(/[a-z]{1,5})?", "[a-z]{1,5}\\.io:[0-9]{2}").prop_map(
            |(one, other)| json!({"type": "remapIdentity", "prefix": one, "signedPrefix": other})
        ),
    ]
}

fn signed_by() -> impl Strategy<Value = Value> {
    let types = [
        "GPGKeys",
        "signedByGPGKeys",
        "X509Certificates",
        "signedByX509CAs",
    ];
    let keys = prop_oneof![
        material("key", false),
        prop::collection::vec("/[a-z]{1,5}", 1..3)
            .prop_map(|paths| ("keyPaths".to_owned(), json!(paths))),
    ];
    let parts = (
        prop::sample::select(types.to_vec()),
        keys,
        any::<bool>(),
        identity(),
    );
    parts.prop_map(|(kind, key, weak, identity)| {
        let mut members = vec![key, ("keyType".to_owned(), json!(kind))];
        members.push(("signedIdentity".to_owned(), identity));
        members.extend(weak.then(|| ("allowWeakHashes".to_owned(), json!(true))));
        object(Some("signedBy"), members)
    })
}

fn sigstore_signed(with_pki: bool) -> impl Strategy<Value = Value> {
    let text = || "[a-z@.:/]{1,9}";
    let logs = || material("rekorPublicKey", true);
    let ct_log = || prop::option::of(material("ctLogPublicKey", true));
    let named = |name: &str, value: String| (name.to_owned(), json!(value));
    let keys = (material("key", true), prop::option::of(logs()))
        .prop_map(|(key, log)| [key].into_iter().chain(log).collect::<Vec<_>>());
    let fulcio = (material("ca", false), text(), text(), ct_log(), logs()).prop_map(
        move |(ca, issuer, email, ct_log, log)| {
            let mut members = vec![
                ca,
                named("oidcIssuer", issuer),
                named("subjectEmail", email),
            ];
            members.extend(ct_log);
            vec![("fulcio".to_owned(), object(None, members)), log]
        },
    );
    let below = prop::option::of(material("caIntermediates", false));
    let pki = (
        material("caRoots", false),
        below,
        text(),
        prop::option::of(text()),
        ct_log(),
    )
        .prop_map(move |(roots, below, email, host, ct_log)| {
            let mut members = vec![roots, named("subjectEmail", email)];
            members.extend(host.map(|host| named("subjectHostname", host)));
            members.extend(below.into_iter().chain(ct_log));
            vec![("pki".to_owned(), object(None, members))]
        });
    let trust = if with_pki {
        prop_oneof![keys, fulcio, pki].boxed()
    } else {
        prop_oneof![keys, fulcio].boxed()
    };
    (trust, identity()).prop_map(|(mut members, identity)| {
        members.push(("signedIdentity".to_owned(), identity));
        object(Some("sigstoreSigned"), members)
    })
}

fn not_older() -> impl Strategy<Value = Value> {
    let signature = prop_oneof![signed_by(), sigstore_signed(false)];
    let parts = (
        2000..2100_u32,
        "[0-9]{1,2}\\.[1-9]\\.0(-rc\\.1)?",
        signature,
        0..3_u8,
    );
    let whole = |text: &str| {
        text.strip_prefix('0')
            .filter(|rest| !rest.starts_with('.'))
            .unwrap_or(text)
            .to_owned()
    };
    parts.prop_map(move |(year, version, signature, which)| {
        let mut wanted = json!({"type": "notOlder", "signature": signature});
        if which != 0 {
            wanted["signedAfter"] = json!(format!("{year}-01-31T12:00:00Z"));
        }
        if which != 1 {
            let version = whole(&version);
            wanted["minimumVersion"] = json!({"annotation": "version", "version": version});
        }
        wanted
    })
}

/// Every type of requirement, with every default written out.
fn written_requirement() -> impl Strategy<Value = Value> {
    let digests = prop::collection::btree_map(
        "[a-z]{1,5}\\.io/[a-z]{1,5}",
        prop::collection::btree_set("sha256:[0-9a-f]{64}", 1..3),
        1..3,
    );
    let plain = [
        "insecureAcceptAnything",
        "reject",
        "encrypted",
        "requireDigest",
    ];
    let counted = || prop_oneof![signed_by(), sigstore_signed(false), not_older()];
    let members = || prop::collection::vec(counted(), 1..4);
    let threshold = |of: Vec<Value>, at: Index| json!({"type": "threshold", "count": at.index(of.len()) + 1, "of": of});
    prop_oneof![
        prop::sample::select(plain.to_vec()).prop_map(|kind| json!({"type": kind})),
        signed_by(),
        sigstore_signed(true),
        identity().prop_map(|base| json!({"type": "signedBaseLayer", "baseLayerIdentity": base})),
        digests.prop_map(|digests| json!({"type": "digestAllowed", "digests": digests})),
        not_older(),
        (members(), any::<Index>()).prop_map(move |(of, at)| threshold(of, at)),
        (members(), members(), any::<Index>()).prop_map(move |(inner, mut of, at)| {
            of.push(json!({"type": "threshold", "count": 1, "of": inner}));
            threshold(of, at)
        }),
    ]
}

fn written_policy() -> impl Strategy<Value = Value> {
    let list = || prop::collection::vec(written_requirement(), 1..3).prop_map(Value::from);
    let scope = "(|[a-z]{1,5}\\.io(/[a-z]{1,4})?|\\*\\.[a-z]{2,3}|\"q\\\\)";
    let scopes = || prop::collection::btree_map(scope, list(), 0..3);
    (list(), scopes(), prop::option::of(scopes())).prop_map(|(default, docker, atomic)| {
        let mut transports = json!({"docker": docker});
        if let Some(scopes) = atomic {
            transports["atomic"] = json!(scopes);
        }
        json!({"default": default, "transports": transports})
    })
}

proptest! {
    #[test]
    fn a_policy_prints_as_what_it_was_parsed_from(document in written_policy()) {
        let parse = |text: String| Policy::parse(text.as_bytes()).map_err(|error| {
            TestCaseError::fail(format!("{error} in {text}"))
        });
        let policy = parse(document.to_string())?;
        let printed = serde_json::to_value(&policy).unwrap();
        prop_assert_eq!(&printed, &document);
        // However it is laid out.
        let again = parse(serde_json::to_string_pretty(&printed).unwrap())?;
        prop_assert_eq!(serde_json::to_value(&again).unwrap(), printed);
    }

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
