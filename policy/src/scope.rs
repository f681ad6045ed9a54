//! Which entry of the policy speaks for a reference (containers-policy.json(5), docker transport).

use std::fmt;

use serde::{Serialize, Serializer};

use crate::reference::ImageRef;

/// The entry of a policy that speaks for a reference.
///
/// Complete: a policy has scopes and one default.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scope {
    /// An entry under `transports.docker`; the empty one is the default of the transport.
    Docker(String),
    /// The `default` of the whole policy.
    Default,
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Docker(scope) => write!(f, "transports.docker.{scope:?}"),
            Self::Default => f.write_str("default"),
        }
    }
}

impl Serialize for Scope {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl ImageRef {
    /// The most specific scope that can speak for this reference: the reference itself.
    pub fn policy_identity(&self) -> String {
        self.to_string()
    }

    /// The wider scopes, nearest first: the repository, its parents, the host, then `*.` and each
    /// parent domain. A host with a port is another host, except to the wildcards.
    pub fn policy_namespaces(&self) -> Vec<String> {
        let name = self.name();
        let parents = std::iter::successors(Some(name.as_str()), |scope| {
            scope.rsplit_once('/').map(|(parent, _)| parent)
        });
        let host = self.registry().split(':').next().unwrap_or_default();
        let domains = std::iter::successors(Some(host), |domain| {
            domain.split_once('.').map(|(_, parent)| parent)
        });
        parents
            .map(str::to_owned)
            .chain(domains.skip(1).map(|domain| format!("*.{domain}")))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use crate::reference::ImageRef;

    #[test]
    fn goes_from_the_repository_to_the_host_to_the_wildcards() {
        let rows = [
            (
                "busybox",
                "docker.io/library/busybox docker.io/library docker.io *.io",
            ),
            (
                "a.b.example.com:8443/x/y:t",
                "a.b.example.com:8443/x/y a.b.example.com:8443/x a.b.example.com:8443 \
                 *.b.example.com *.example.com *.com",
            ),
            ("localhost:5000/x", "localhost:5000/x localhost:5000"),
        ];
        for (text, expected) in rows {
            let image: ImageRef = text.parse().unwrap();
            assert_eq!(image.policy_namespaces().join(" "), expected);
        }
    }
}
