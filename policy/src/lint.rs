//! What a policy may say, yet hardly means.

use crate::identities::{Identities, Identity, Matcher};
use crate::identity::SignedIdentity;
use crate::reference::{ImageRef, is_host, is_path};
use crate::requirement::{Requirement, Requirements, SigstoreSigned};

/// A list that lets everything through, or everything that is asked for in the right way.
pub(crate) fn about_list(list: &Requirements) -> Option<&'static str> {
    let open = |requirement: &Requirement| *requirement == Requirement::InsecureAcceptAnything;
    let proves_nothing = |requirement: &Requirement| {
        matches!(
            requirement,
            Requirement::InsecureAcceptAnything
                | Requirement::Encrypted
                | Requirement::RequireDigest
        )
    };
    if list.iter().all(open) {
        Some("every image that comes here is accepted unchecked")
    } else if list.iter().all(proves_nothing) {
        Some("images that nobody has signed or listed are accepted: add sigstoreSigned or signedBy")
    } else {
        None
    }
}

/// A scope that no reference ever meets, or not every one that it should.
pub(crate) fn about_docker_scope(scope: &str) -> Option<&'static str> {
    if scope.is_empty() {
        return None;
    }
    if let Some(domain) = scope.strip_prefix("*.") {
        let reachable = is_host(domain) && !domain.contains(':');
        return (!reachable).then_some(
            "no image meets this scope: a wildcard is *. and a domain, without port or path",
        );
    }
    if is_registry(scope) || is_namespace(scope) {
        return None;
    }
    match scope.parse::<ImageRef>() {
        Ok(image) if image.to_string() == scope && image.tag().is_some() => {
            Some("an image that is asked for by digest does not meet a scope with a tag")
        }
        Ok(image) if image.to_string() == scope => None,
        _ => Some("no image meets this scope: names are compared in full, as host[:port]/path"),
    }
}

/// Hashes for which somebody may have a second text.
pub(crate) fn about_weak_hashes(allowed: bool) -> Option<&'static str> {
    allowed.then_some("signatures and keys with SHA-1 are accepted")
}

/// A name that is left empty beside another one, where all else that is empty is refused.
pub(crate) fn about_empty_subject(empty: bool) -> Option<&'static str> {
    empty.then_some("an empty name asks for nothing: it is as if the key were not there")
}

/// A key that was named before in the same requirement.
pub(crate) fn about_path_seen_before(seen: bool) -> Option<&'static str> {
    seen.then_some("this path stands twice in the requirement")
}

/// A stated identity that keeps the signatures of plain `cosign sign` from counting.
pub(crate) fn about_cosign_identity(identity: &SignedIdentity) -> Option<&'static str> {
    match identity {
        SignedIdentity::MatchExact
        | SignedIdentity::MatchRepoDigestOrExact
        | SignedIdentity::ExactReference(_)
        | SignedIdentity::RemapIdentity(_) => Some(
            "a plain cosign signature names no tag and never meets this identity; \
             matchRepository and exactRepository are met",
        ),
        SignedIdentity::MatchRepository
        | SignedIdentity::ExactRepository(_)
        | SignedIdentity::DigestOnly => None,
    }
}

/// Bundles that count for whatever repository has the image, without the policy saying so.
pub(crate) fn about_digest_only(signed: &SigstoreSigned) -> Option<&'static str> {
    let unsaid = signed.identity.is_none() && signed.takes_bundles();
    unsaid.then_some(
        "a bundle of cosign 3 names no repository, it counts by its digest (digest only): use one key or \
         identity per repository, and say \"signedIdentity\": {\"type\": \"digestOnly\"}",
    )
}

/// Identities one of which is anybody's: whoever can log in anywhere.
pub(crate) fn about_everybody(identities: &Identities) -> Option<&'static str> {
    // What nobody who means somebody would write down.
    let open = |matcher: &Matcher| STRANGERS.iter().all(|text| matcher.matches(text));
    let open = |identity: &Identity| {
        open(&identity.subject) && open(&identity.issuer) && identity.claims.is_empty()
    };
    identities.iter().any(open).then_some(
        "subjectRegExp and issuerRegExp match anything: everybody with an account counts",
    )
}

/// A first component without dot or port is no registry, so a scope of that name is never asked.
fn is_registry(scope: &str) -> bool {
    is_host(scope) && (scope.contains(['.', ':']) || scope == "localhost") && scope != OLD_DOCKER
}

fn is_namespace(scope: &str) -> bool {
    scope
        .split_once('/')
        .is_some_and(|(host, path)| is_registry(host) && is_path(path))
}

const STRANGERS: [&str; 2] = [
    "nobody-7f3a@nowhere.invalid",
    "https://nowhere.invalid/7f3a",
];
const OLD_DOCKER: &str = "index.docker.io";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_the_scopes_that_no_image_meets() {
        let rows = [
            ("", true),
            ("docker.io", true),
            ("docker.io/library", true),
            ("docker.io/library/busybox", true),
            ("localhost/x", true),
            ("example.com:5000/a/b", true),
            ("*.example.com", true),
            ("busybox", false),
            ("library/busybox", false),
            ("index.docker.io/library", false),
            ("example.com/", false),
            ("https://example.com", false),
            ("*.example.com:5000", false),
            ("*.example.com/a", false),
            ("*", false),
            ("example.com/*", false),
        ];
        for (scope, reachable) in rows {
            assert_eq!(about_docker_scope(scope).is_none(), reachable, "{scope}");
        }
        let tagged = about_docker_scope("example.com/a:1").unwrap();
        assert!(tagged.contains("by digest"));
    }
}
