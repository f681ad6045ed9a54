//! The distribution token flow: a `WWW-Authenticate` challenge answered by a bearer token.
//!
//! Specification: distribution `spec/auth/token`. Anonymous pulls from public registries need it
//! as much as authenticated ones do. An identity token is exchanged by a POST (`spec/auth/oauth`).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http_auth::ChallengeRef;
use reqwest::Url;
use reqwest::header::{HeaderMap, HeaderValue, WWW_AUTHENTICATE};
use serde::Deserialize;
use url::form_urlencoded;
use zeroize::Zeroizing;

use super::error::{RegistryError, Wanted};
use super::http::{Http, Request};
use crate::auth::Login;

/// Answers the challenge of a 401 with the value of an `Authorization` header.
///
/// The header is for the registry that sent the challenge and for no other host.
pub(crate) async fn answer_challenge(
    http: &Http,
    repository: &str,
    registry: &Url,
    headers: &HeaderMap,
    login: Option<&Login>,
) -> Result<HeaderValue, RegistryError> {
    let host = registry.host_str().unwrap_or_default();
    let wanted = Wanted::token(host, repository);
    match Challenge::among(headers, registry, &wanted)? {
        Challenge::Basic => match login {
            Some(login) => basic(login).ok_or_else(|| challenge_error(&wanted, UNSENDABLE)),
            None => Err(challenge_error(
                &wanted,
                "it wants a password and none is configured",
            )),
        },
        Challenge::Bearer { realm, .. } if http.forbids(&realm) => Err(challenge_error(
            &wanted,
            "its token realm is an address of the guest itself that the configuration does not \
             name",
        )),
        Challenge::Bearer { realm, service } => {
            let service = service.as_deref();
            let form = login.and_then(|login| exchange(login, service, repository));
            let header = match (&form, login) {
                (None, Some(login)) => {
                    Some(basic(login).ok_or_else(|| challenge_error(&wanted, UNSENDABLE))?)
                }
                _ => None,
            };
            let url = match form {
                Some(_) => realm,
                None => token_url(realm, service, repository),
            };
            let request = Request {
                plain_hosts: &[],
                home: registry,
                url,
                wanted,
                accept: None,
                from: 0,
                authorization: header.as_ref(),
                form: form.as_ref(),
            };
            fetch_token(http, &request).await
        }
    }
}

/// The value of an `Authorization` header (RFC 7617), marked as sensitive.
fn basic(login: &Login) -> Option<HeaderValue> {
    let pair = Zeroizing::new(format!("{}:{}", login.user(), login.password()));
    let value = Zeroizing::new(format!("Basic {}", STANDARD.encode(pair.as_bytes())));
    let mut header = HeaderValue::try_from(value.as_str()).ok()?;
    header.set_sensitive(true);
    Some(header)
}

/// The form that exchanges an identity token, if there is one, for a pull token.
fn exchange(login: &Login, service: Option<&str>, repository: &str) -> Option<Zeroizing<String>> {
    let token = login.identity_token()?;
    let mut form = form_urlencoded::Serializer::new(String::new());
    form.append_pair("grant_type", "refresh_token");
    if let Some(service) = service {
        form.append_pair("service", service);
    }
    form.append_pair("client_id", "image-agent");
    form.append_pair("scope", &scope(repository));
    form.append_pair("refresh_token", token);
    Some(Zeroizing::new(form.finish()))
}

/// Our own scope rather than the one in the challenge: we pull this repository, nothing else.
fn scope(repository: &str) -> String {
    format!("repository:{repository}:pull")
}

/// What a registry asks for.
#[derive(Debug, PartialEq, Eq)]
enum Challenge {
    Basic,
    Bearer { realm: Url, service: Option<String> },
}

impl Challenge {
    /// The strongest challenge that we can answer: a token before a password.
    fn among(headers: &HeaderMap, registry: &Url, wanted: &Wanted) -> Result<Self, RegistryError> {
        let mut basic = None;
        for value in headers.get_all(WWW_AUTHENTICATE) {
            let text = value
                .to_str()
                .ok()
                .and_then(|text| http_auth::parse_challenges(text).ok())
                .ok_or_else(|| challenge_error(wanted, "its WWW-Authenticate is malformed"))?;
            for challenge in &text {
                if challenge.scheme.eq_ignore_ascii_case("bearer") {
                    return Self::bearer(challenge, registry, wanted);
                }
                if challenge.scheme.eq_ignore_ascii_case("basic") {
                    basic = Some(Self::Basic);
                }
            }
        }
        basic.ok_or_else(|| challenge_error(wanted, "it names neither Bearer nor Basic"))
    }

    fn bearer(
        challenge: &ChallengeRef<'_>,
        registry: &Url,
        wanted: &Wanted,
    ) -> Result<Self, RegistryError> {
        let parameter = |name: &str| {
            challenge
                .params
                .iter()
                .find(|(key, _)| key.eq_ignore_ascii_case(name))
                .map(|(_, value)| value.to_unescaped())
        };
        let realm = parameter("realm")
            .and_then(|realm| Url::parse(&realm).ok())
            .ok_or_else(|| challenge_error(wanted, "its token realm is not a URL"))?;
        // A password or token must not leave TLS because a registry says so (CVE-2019-10214).
        let plain_http_is_configured = registry.scheme() == "http";
        let plain_same_host = realm.scheme() == "http"
            && plain_http_is_configured
            && realm.host_str() == registry.host_str();
        if realm.scheme() != "https" && !plain_same_host {
            return Err(challenge_error(wanted, "its token realm is not https"));
        }
        Ok(Self::Bearer {
            realm,
            service: parameter("service"),
        })
    }
}

fn token_url(mut realm: Url, service: Option<&str>, repository: &str) -> Url {
    let mut query = realm.query_pairs_mut();
    if let Some(service) = service {
        query.append_pair("service", service);
    }
    query.append_pair("scope", &scope(repository));
    drop(query);
    realm
}

async fn fetch_token(http: &Http, request: &Request<'_>) -> Result<HeaderValue, RegistryError> {
    // Once: what wants the token is tried again as a whole.
    let answer = http.get_small_once(request, MAX_TOKEN_ANSWER).await?;
    if !answer.status.is_success() {
        return Err(RegistryError::refusal(&request.wanted, &answer));
    }
    let malformed = || challenge_error(&request.wanted, "the token server's answer is malformed");
    let token: TokenAnswer = serde_json::from_slice(&answer.body).map_err(|_| malformed())?;
    let token = token.token.or(token.access_token).ok_or_else(malformed)?;
    let mut header = HeaderValue::try_from(format!("Bearer {token}")).map_err(|_| malformed())?;
    header.set_sensitive(true);
    Ok(header)
}

fn challenge_error(wanted: &Wanted, reason: &'static str) -> RegistryError {
    RegistryError::Challenge {
        wanted: wanted.clone(),
        reason,
    }
}

/// The token server's answer; its text never appears in an error, for it holds the token.
#[derive(Deserialize)]
struct TokenAnswer {
    token: Option<String>,
    access_token: Option<String>,
}

const UNSENDABLE: &str = "the credentials for it cannot be sent";
/// As the reference implementation caps it.
const MAX_TOKEN_ANSWER: usize = 1 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    fn challenge(registry: &str, value: &str) -> Result<Challenge, RegistryError> {
        let mut headers = HeaderMap::new();
        headers.insert(WWW_AUTHENTICATE, HeaderValue::from_str(value).unwrap());
        let registry = Url::parse(registry).unwrap();
        Challenge::among(
            &headers,
            &registry,
            &Wanted::token("registry.example", "app"),
        )
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
        assert!(matches!(
            challenge("https://registry.example", plain),
            Err(RegistryError::Challenge {
                reason: "its token realm is not https",
                ..
            })
        ));
        assert!(challenge("http://registry.example:5000", plain).is_ok());
        assert!(matches!(
            challenge("http://other.example", plain),
            Err(RegistryError::Challenge {
                reason: "its token realm is not https",
                ..
            })
        ));
    }

    #[test]
    fn scope_is_the_repository_that_we_pull() {
        let url = token_url(
            Url::parse("https://a.example/t?x=1").unwrap(),
            Some("s"),
            "team/app",
        );
        assert_eq!(
            url.as_str(),
            "https://a.example/t?x=1&service=s&scope=repository%3Ateam%2Fapp%3Apull"
        );
    }
}
