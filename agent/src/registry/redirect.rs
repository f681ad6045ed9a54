//! Which redirects are followed.

use reqwest::Url;
use reqwest::header::{HeaderMap, LOCATION};

use super::error::RegistryError;
use super::http::Request;

/// Where an answer to `request` that came from `from` leads, if it may.
pub(super) fn redirect_target(
    from: &Url,
    headers: &HeaderMap,
    request: &Request<'_>,
) -> Result<Url, RegistryError> {
    let location = headers.get(LOCATION).and_then(|value| value.to_str().ok());
    let bad = |reason| RegistryError::BadRedirect {
        wanted: request.wanted.clone(),
        reason,
    };
    let target = location
        .and_then(|location| from.join(location).ok())
        .ok_or_else(|| bad("its Location is missing or not a URL"))?;
    if request.form.is_some() {
        return Err(bad("what was posted is for one address alone"));
    }
    match (from.scheme(), target.scheme()) {
        (_, "https") => Ok(target),
        // Anyone on the way of plain http can write a redirect. It must not make us fetch, and
        // report the digest of, what only this guest can reach.
        ("http", "http") if same_origin(from, &target) || may_be_plain(&target, request) => {
            Ok(target)
        }
        ("http", "http") => Err(bad(
            "it leads over plain http to a host that is not configured as insecure",
        )),
        ("https", "http") => Err(bad("it leads from https to http")),
        _ => Err(bad("it leads to a scheme other than https")),
    }
}

fn may_be_plain(target: &Url, request: &Request<'_>) -> bool {
    let host = target.host_str().unwrap_or_default();
    let place = match target.port() {
        Some(port) => format!("{host}:{port}"),
        None => host.to_owned(),
    };
    request.plain_hosts.contains(&place)
}

/// Whether credentials for one are for the other as well.
pub(crate) fn same_origin(one: &Url, other: &Url) -> bool {
    one.origin() == other.origin()
}

#[cfg(test)]
mod tests {
    use reqwest::header::HeaderValue;

    use super::*;
    use crate::registry::error::Wanted;

    fn target(from: &str, location: &str) -> Result<Url, RegistryError> {
        let mut headers = HeaderMap::new();
        headers.insert(LOCATION, HeaderValue::from_str(location).unwrap());
        let home = Url::parse(from).unwrap();
        let request = Request {
            home: &home,
            form: None,
            url: home.clone(),
            wanted: Wanted::manifest("registry.example", "app", "1"),
            accept: None,
            from: 0,
            authorization: None,
            plain_hosts: &["cdn.example:8000".to_owned()],
        };
        redirect_target(&request.url, &headers, &request)
    }

    #[test]
    fn redirect_stays_on_https() {
        assert_eq!(
            target("https://registry.example/v2/", "/blob?sig=1")
                .unwrap()
                .as_str(),
            "https://registry.example/blob?sig=1"
        );
        assert_eq!(
            target("https://registry.example/v2/", "https://cdn.example/b")
                .unwrap()
                .as_str(),
            "https://cdn.example/b"
        );
        for location in [
            "http://cdn.example/b",
            "ftp://cdn.example/b",
            "file:///etc/passwd",
        ] {
            assert!(
                matches!(
                    target("https://registry.example/v2/", location),
                    Err(RegistryError::BadRedirect { .. })
                ),
                "{location}"
            );
        }
    }

    #[test]
    fn plain_http_redirect_cannot_reach_into_the_guest() {
        let registry = "http://registry.example:5000/v2/";
        assert!(target(registry, "/blob").is_ok());
        assert!(target(registry, "http://cdn.example:8000/b").is_ok());
        assert!(target(registry, "https://cdn.example/b").is_ok());
        for location in [
            "http://127.0.0.1:8006/cdh/resource/default/key/1",
            "http://registry.example:8006/x",
            "http://169.254.169.254/",
        ] {
            assert!(
                matches!(
                    target(registry, location),
                    Err(RegistryError::BadRedirect { .. })
                ),
                "{location}"
            );
        }
    }

    #[test]
    fn credentials_belong_to_one_origin() {
        let registry = Url::parse("https://registry.example/v2/").unwrap();
        for other in [
            "https://registry.example:8443/v2/",
            "http://registry.example/v2/",
            "https://cdn.registry.example/v2/",
        ] {
            assert!(
                !same_origin(&Url::parse(other).unwrap(), &registry),
                "{other}"
            );
        }
        assert!(same_origin(
            &Url::parse("https://registry.example:443/x").unwrap(),
            &registry
        ));
    }
}
