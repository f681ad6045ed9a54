//! Which addresses of the guest itself, and of its link, may be asked.
//!
//! A registry says where its blobs and its tokens are. It must not so make us ask, and repeat in an
//! error, what only this guest can reach: the services on its loopback, or the metadata service of
//! its cloud on the link. Whatever the owner's configuration names is his to reach.

use std::collections::BTreeSet;
use std::error::Error;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, PoisonError, RwLock};

use reqwest::Url;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use url::Host;

/// The hosts that the configuration names, without ports.
#[derive(Debug, Clone, Default)]
pub(crate) struct Named(Arc<RwLock<BTreeSet<String>>>);

impl Named {
    /// `hosts`, `host[:port]` each, are named as well.
    pub(crate) fn add<'h>(&self, hosts: impl IntoIterator<Item = &'h str>) {
        let hosts = hosts.into_iter().map(|host| without_port(host).to_owned());
        let mut named = self.0.write().unwrap_or_else(PoisonError::into_inner);
        named.extend(hosts);
    }

    /// Whether `url` has an address as its host that is the guest's own and that nobody has named.
    /// What a name leads to is for the resolver to look at.
    pub(crate) fn forbids(&self, url: &Url) -> bool {
        let address = match url.host() {
            Some(Host::Ipv4(address)) => IpAddr::V4(address),
            Some(Host::Ipv6(address)) => IpAddr::V6(address),
            _ => return false,
        };
        is_near(address) && !self.has(url.host_str().unwrap_or_default())
    }

    fn has(&self, host: &str) -> bool {
        let named = self.0.read().unwrap_or_else(PoisonError::into_inner);
        named.contains(host)
    }
}

/// The system's resolver, but that a name which nobody has configured leads to nothing near.
impl Resolve for Named {
    fn resolve(&self, name: Name) -> Resolving {
        let named = self.clone();
        Box::pin(async move {
            let host = name.as_str();
            let found: Vec<SocketAddr> = tokio::net::lookup_host((host, 0)).await?.collect();
            let near = found.iter().find(|found| is_near(found.ip()));
            match near {
                Some(near) if !named.has(host) => {
                    let (host, address) = (host.to_owned(), near.ip());
                    let error: Box<dyn Error + Send + Sync> = Near { host, address }.into();
                    Err(error)
                }
                _ => {
                    let addresses: Addrs = Box::new(found.into_iter());
                    Ok(addresses)
                }
            }
        })
    }
}

/// A name that leads into the guest.
#[derive(Debug, thiserror::Error)]
#[error(
    "{host} leads to {address}, which is the guest's own and no registry that the configuration \
     names"
)]
pub(super) struct Near {
    host: String,
    address: IpAddr,
}

/// Loopback, link-local, or the address that means this host.
fn is_near(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => v4.is_loopback() || v4.is_link_local() || v4.is_unspecified(),
        IpAddr::V6(v6) => match embedded(v6) {
            Some(address) => is_near(address),
            None => v6.is_loopback() || v6.is_unicast_link_local() || v6.is_unspecified(),
        },
    }
}

/// The IPv4 address that an IPv6 one is another form of.
fn embedded(address: Ipv6Addr) -> Option<IpAddr> {
    address.to_ipv4_mapped().map(IpAddr::V4)
}

/// `[::1]:5000` and `host:5000` without their ports.
fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((bare, port)) if port.bytes().all(|digit| digit.is_ascii_digit()) => bare,
        _ => host,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_the_guest_are_forbidden_in_every_spelling() {
        let named = Named::default();
        for url in [
            "https://127.0.0.1/",
            "https://127.1:8006/",
            "https://2130706433/",
            "https://0x7f.0.0.1/",
            "https://0.0.0.0/",
            "https://169.254.169.254/latest/meta-data",
            "https://[::1]/",
            "https://[::]/",
            "https://[fe80::1]/",
            "https://[::ffff:127.0.0.1]/",
        ] {
            assert!(named.forbids(&Url::parse(url).unwrap()), "{url}");
        }
        for url in [
            "https://10.0.0.1/",
            "https://192.168.1.1/",
            "https://[2001:db8::1]/",
            "https://cdn.example/",
        ] {
            assert!(!named.forbids(&Url::parse(url).unwrap()), "{url}");
        }
    }

    #[test]
    fn what_the_configuration_names_is_not_forbidden() {
        let named = Named::default();
        named.add(["127.0.0.1:5000", "[::1]:5000"]);
        for url in ["https://127.0.0.1:5001/", "https://[::1]/"] {
            assert!(!named.forbids(&Url::parse(url).unwrap()), "{url}");
        }
        assert!(named.forbids(&Url::parse("https://127.0.0.2/").unwrap()));
    }

    #[tokio::test]
    async fn a_name_that_leads_into_the_guest_is_not_resolved_unless_it_is_named() {
        let named = Named::default();
        let name = || "localhost".parse::<Name>().unwrap();
        let error = named.resolve(name()).await.err().unwrap().to_string();
        assert!(error.starts_with("localhost leads to "), "{error}");
        named.add(["localhost:5000"]);
        assert!(named.resolve(name()).await.unwrap().next().is_some());
    }
}
