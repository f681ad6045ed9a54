//! The owners' guide: every policy in it is one, or is marked as none.

use policy::Policy;

const GUIDE: &str = include_str!("../../../docs/policy.md");

/// The blocks of a language, each with what stands behind the language.
fn blocks() -> Vec<(&'static str, &'static str)> {
    GUIDE
        .split("\n```json")
        .skip(1)
        .map(|rest| {
            let (kind, rest) = rest.split_once('\n').unwrap();
            let (text, _) = rest.split_once("\n```").unwrap();
            (kind.trim(), text)
        })
        .collect()
}

#[test]
fn every_policy_in_the_guide_is_what_it_is_said_to_be() {
    let blocks = blocks();
    assert!(blocks.len() > 10, "{} blocks", blocks.len());
    for (kind, text) in blocks {
        let parsed = Policy::parse(text.as_bytes());
        match kind {
            "" => {
                let policy = parsed.unwrap_or_else(|error| panic!("{error}:\n{text}"));
                assert!(
                    policy.warnings().is_empty(),
                    "{:?}:\n{text}",
                    policy.warnings()
                );
            }
            "invalid" => assert!(parsed.is_err(), "this is a policy:\n{text}"),
            other => panic!("what is a {other:?} policy?"),
        }
    }
}

#[test]
fn every_requirement_and_identity_is_in_the_guide() {
    let words = [
        "insecureAcceptAnything",
        "reject",
        "signedBy",
        "sigstoreSigned",
        "signedBaseLayer",
        "attestedBy",
        "digestOnly",
        "digestAllowed",
        "encrypted",
        "notOlder",
        "requireDigest",
        "threshold",
        "matchExact",
        "matchRepoDigestOrExact",
        "matchRepository",
        "exactReference",
        "exactRepository",
        "remapIdentity",
    ];
    for word in words {
        assert!(
            GUIDE.contains(&format!("`{word}`")) || GUIDE.contains(&format!("### {word}\n")),
            "{word}"
        );
    }
    for own in [
        "digestAllowed",
        "encrypted",
        "notOlder",
        "requireDigest",
        "threshold",
    ] {
        let example = format!("{{\"type\": \"{own}\"");
        let spread = format!("\"type\": \"{own}\",");
        assert!(GUIDE.contains(&example) || GUIDE.contains(&spread), "{own}");
    }
}
