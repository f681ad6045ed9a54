//! The distribution token flow: a `WWW-Authenticate` challenge answered by a bearer token.
//!
//! Specification: distribution `spec/auth/token`. Anonymous pulls from public registries need it
//! as much as authenticated ones do. An identity token is exchanged by a POST (`spec/auth/oauth`).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use reqwest::Url;
use reqwest::header::{HeaderMap, HeaderValue, WWW_AUTHENTICATE};
use serde::Deserialize;
use url::form_urlencoded;
use zeroize::Zeroizing;

use super::error::{RegistryError, Wanted};
use super::http::{Http, Request};
use crate::auth::Login;
use crate::challenge::Challenge;

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
    let values = headers.get_all(WWW_AUTHENTICATE);
    let values = values.iter().map(HeaderValue::as_bytes);
    let challenge = Challenge::among(values, registry)
        .map_err(|fault| challenge_error(&wanted, fault.reason()))?;
    match challenge {
        Challenge::Basic => match login {
            Some(login) => basic(login).ok_or_else(|| challenge_error(&wanted, UNSENDABLE)),
            None => Err(challenge_error(
                &wanted,
                "it wants a password and none is configured",
            )),
        },
        Challenge::Bearer { realm, .. } if http.forbids(&realm, registry) => Err(challenge_error(
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
