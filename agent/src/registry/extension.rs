//! The signature extension of registries: simple-signing signatures that a registry itself keeps.
//!
//! A registry that has it says so by a header, `X-Registry-Supports-Signatures: 1`, and lists the
//! signatures of a document at `/extensions/v2/<repository>/signatures/<digest>`. There is no
//! other specification than the reference implementation (containers/image,
//! `docker/docker_client.go`) and `OpenShift`, whose registry has it. What a list says is read by
//! [`policy::parse_signature_list`].

use policy::Digest;
use reqwest::header::HeaderMap;

/// Whether these headers, of the answer to a GET of `/v2/`, announce the extension.
pub(super) fn is_announced(headers: &HeaderMap) -> bool {
    headers.get(HEADER).is_some_and(|value| value == "1")
}

/// The path of the list. Repository and digest have a grammar without a character that would need
/// escaping.
pub(super) fn path(repository: &str, subject: &Digest) -> String {
    format!("/extensions/v2/{repository}/signatures/{subject}")
}

/// Bytes of a list, as the reference implementation caps it.
pub(super) const MAX_LIST_BYTES: usize = 4 << 20;
const HEADER: &str = "x-registry-supports-signatures";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_extension_is_announced_by_a_header_that_says_1() {
        let announced = |value: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(HEADER, value.parse().unwrap());
            is_announced(&headers)
        };
        assert!(announced("1"));
        for value in ["0", "", "true", "1, 1", "01"] {
            assert!(!announced(value), "{value}");
        }
        assert!(!is_announced(&HeaderMap::new()));
    }

    #[test]
    fn lists_are_at_the_path_of_the_reference_implementation() {
        let subject = Digest::sha256_of(b"");
        assert_eq!(
            path("team/app", &subject),
            format!("/extensions/v2/team/app/signatures/{subject}")
        );
    }
}
