//! Platforms: which entries of an index a guest can run, and in what order of preference.

use std::fmt;

use crate::printable::printable;

/// An operating system, an architecture and maybe a variant, in Go's words (OCI image-index.md).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Platform {
    /// The operating system, e.g. `linux`.
    pub os: String,
    /// The architecture, e.g. `amd64`.
    pub architecture: String,
    /// The variant of the architecture, e.g. `v8`; none when the platform names none.
    pub variant: Option<String>,
}

impl Platform {
    /// The platform that this program was built for.
    pub fn host() -> Self {
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "x86" => "386",
            "aarch64" => "arm64",
            "powerpc64" if cfg!(target_endian = "little") => "ppc64le",
            "loongarch64" => "loong64",
            other => other,
        };
        Self {
            os: std::env::consts::OS.to_owned(),
            architecture: architecture.to_owned(),
            variant: None,
        }
    }

    /// The platforms that serve when this one is wanted, the best first.
    ///
    /// With a variant: from it downwards, then those that name none. Without: those that name
    /// none, then from the newest downwards.
    pub fn acceptable(&self) -> Vec<Self> {
        let known: &[&str] = match self.architecture.as_str() {
            "arm" => &["v8", "v7", "v6", "v5"],
            "arm64" => &["v8"],
            _ => &[],
        };
        let all = known.iter().copied().map(Some);
        let variants: Vec<Option<&str>> = match self.variant.as_deref() {
            None => std::iter::once(None).chain(all).collect(),
            Some(wanted) => {
                let older = all.skip_while(|name| *name != Some(wanted)).skip(1);
                std::iter::once(Some(wanted))
                    .chain(older)
                    .chain([None])
                    .collect()
            }
        };
        let with = |variant: Option<&str>| Self {
            variant: variant.map(str::to_owned),
            os: self.os.clone(),
            architecture: self.architecture.clone(),
        };
        variants.into_iter().map(with).collect()
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let variant = self.variant.iter().flat_map(|variant| ["/", variant]);
        let parts = [&self.os, "/", &self.architecture].into_iter();
        f.write_str(&printable(&parts.chain(variant).collect::<String>()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Found by fuzzing: what an index or a config says is a stranger's.
    #[test]
    fn is_told_in_one_line() {
        let mut platform = Platform {
            os: "li\u{7f}nux".to_owned(),
            architecture: "arm64\n".to_owned(),
            variant: None,
        };
        assert_eq!(platform.to_string(), "li nux/arm64 ");
        platform.variant = Some("v8".to_owned());
        assert_eq!(platform.to_string(), "li nux/arm64 /v8");
    }

    #[test]
    fn prefers_the_wanted_variant_then_older_ones_then_none() {
        let rows = [
            ("arm", Some("v7"), "v7 v6 v5 -"),
            ("arm", Some("v4"), "v4 -"),
            ("arm", None, "- v8 v7 v6 v5"),
            ("arm64", None, "- v8"),
            ("amd64", Some("v3"), "v3 -"),
            ("amd64", None, "-"),
        ];
        for (architecture, variant, expected) in rows {
            let wanted = Platform {
                os: "linux".to_owned(),
                architecture: architecture.to_owned(),
                variant: variant.map(str::to_owned),
            };
            let order: Vec<String> = wanted
                .acceptable()
                .into_iter()
                .map(|platform| platform.variant.unwrap_or_else(|| "-".to_owned()))
                .collect();
            assert_eq!(order.join(" "), expected, "{wanted}");
        }
    }
}
