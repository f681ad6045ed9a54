//! `WWW-Authenticate`: what a registry wants before it serves (RFC 9110 section 11.6.1, distribution
//! `spec/auth/token`).
//!
//! Pure: the values of headers in, a challenge that may be answered out.

use http_auth::ChallengeRef;
use url::Url;

/// What a registry asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Challenge {
    /// A user and a password.
    Basic,
    /// A token from somewhere else.
    Bearer {
        /// Where tokens are.
        realm: Url,
        /// Who the token is for, as the token server knows it.
        service: Option<String>,
    },
}

/// A challenge that cannot, or must not, be answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ChallengeFault {
    /// It is no challenge.
    Malformed,
    /// Its realm is no address.
    Realm,
    /// A password or a token would leave TLS.
    PlainRealm,
    /// It asks for something that we do not have.
    Scheme,
}

impl ChallengeFault {
    /// In words.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Malformed => "its WWW-Authenticate is malformed",
            Self::Realm => "its token realm is not a URL",
            Self::PlainRealm => "its token realm is not https",
            Self::Scheme => "it names neither Bearer nor Basic",
        }
    }
}

impl Challenge {
    /// The strongest challenge that we can answer: a token before a password.
    ///
    /// `values` are those of the headers, `registry` the one that sent them.
    pub fn among<'v>(
        values: impl IntoIterator<Item = &'v [u8]>,
        registry: &Url,
    ) -> Result<Self, ChallengeFault> {
        let mut basic = None;
        let mut fault = ChallengeFault::Scheme;
        for value in values {
            let text = std::str::from_utf8(value).ok();
            let Some(challenges) = text.and_then(|text| http_auth::parse_challenges(text).ok())
            else {
                // What we cannot read may be what we need not answer.
                fault = ChallengeFault::Malformed;
                continue;
            };
            for challenge in &challenges {
                if challenge.scheme.eq_ignore_ascii_case("bearer") {
                    return Self::bearer(challenge, registry);
                }
                if challenge.scheme.eq_ignore_ascii_case("basic") {
                    basic = Some(Self::Basic);
                }
            }
        }
        basic.ok_or(fault)
    }

    fn bearer(challenge: &ChallengeRef<'_>, registry: &Url) -> Result<Self, ChallengeFault> {
        let parameter = |name: &str| {
            let mut parameters = challenge.params.iter();
            let found = parameters.find(|(key, _)| key.eq_ignore_ascii_case(name));
            found.map(|(_, value)| value.to_unescaped())
        };
        let realm = parameter("realm")
            .and_then(|realm| Url::parse(&realm).ok())
            .ok_or(ChallengeFault::Realm)?;
        // A password or token must not leave TLS because a registry says so (CVE-2019-10214).
        let plain_same_host = realm.scheme() == "http"
            && registry.scheme() == "http"
            && realm.host_str() == registry.host_str();
        if realm.scheme() != "https" && !plain_same_host {
            return Err(ChallengeFault::PlainRealm);
        }
        let service = parameter("service");
        Ok(Self::Bearer { realm, service })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn challenge(registry: &str, value: &str) -> Result<Challenge, ChallengeFault> {
        Challenge::among([value.as_bytes()], &Url::parse(registry).unwrap())
    }

    #[test]
    fn challenge_that_cannot_be_read_spoils_no_other() {
        let registry = Url::parse("https://registry.example").unwrap();
        let values = [b"Negotiate abc==".as_slice(), b"Basic realm=\"x\""];
        let answered = Challenge::among(values, &registry).unwrap();
        assert_eq!(answered, Challenge::Basic);
        let alone = Challenge::among(values.into_iter().take(1), &registry);
        assert_eq!(alone.unwrap_err(), ChallengeFault::Malformed);
    }

    #[test]
    fn token_is_preferred_to_password() {
        let value = r#"Basic realm="x", Bearer realm="https://auth.example/token",service="reg""#;
        assert_eq!(
            challenge("https://registry.example", value).unwrap(),
            Challenge::Bearer {
                realm: Url::parse("https://auth.example/token").unwrap(),
                service: Some("reg".into())
            }
        );
        assert_eq!(
            challenge("https://registry.example", "Basic realm=\"x\"").unwrap(),
            Challenge::Basic
        );
    }

    #[test]
    fn token_realm_must_be_https_unless_the_registry_itself_is_plain() {
        let plain = r#"Bearer realm="http://registry.example:5001/token""#;
        for registry in ["https://registry.example", "http://other.example"] {
            let found = challenge(registry, plain);
            assert_eq!(found, Err(ChallengeFault::PlainRealm), "{registry}");
        }
        assert!(challenge("http://registry.example:5000", plain).is_ok());
    }

    #[test]
    fn what_cannot_be_answered_is_said() {
        let rows = [
            ("Bearer realm=\"token\"", ChallengeFault::Realm),
            ("Bearer service=\"x\"", ChallengeFault::Realm),
            ("Negotiate", ChallengeFault::Scheme),
            ("Bearer realm=\"", ChallengeFault::Malformed),
        ];
        for (value, expected) in rows {
            let found = challenge("https://registry.example", value);
            assert_eq!(found, Err(expected), "{value}");
        }
    }
}
