//! `notOlder`: how recent a signature must be, by what the signature itself says.

use std::fmt;
use std::str::FromStr;

use semver::Version;
use spki::der::DateTime;
use thiserror::Error;

use crate::claims::Claims;

/// The bounds of a `notOlder` requirement; at least one is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Freshness {
    pub(crate) signed_after: Option<Moment>,
    pub(crate) minimum_version: Option<MinimumVersion>,
}

impl Freshness {
    /// Whether the claims of a signature, all signed, meet every bound. What is missing does not.
    pub(crate) fn check(&self, claims: &Claims) -> Result<(), Stale> {
        if let Some(wanted) = &self.signed_after {
            wanted.check(claims)?;
        }
        if let Some(wanted) = &self.minimum_version {
            wanted.check(claims)?;
        }
        Ok(())
    }
}

/// A moment in UTC, to the second.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moment(DateTime);

impl Moment {
    fn seconds(self) -> i64 {
        // Years go to 9999.
        i64::try_from(self.0.unix_duration().as_secs()).unwrap_or(i64::MAX)
    }

    fn check(self, claims: &Claims) -> Result<(), Stale> {
        let found = claims.timestamp.ok_or(Stale::NoTimestamp)?;
        if found > self.seconds() {
            Ok(())
        } else {
            Err(Stale::SignedBefore {
                wanted: self,
                found,
            })
        }
    }
}

impl FromStr for Moment {
    type Err = spki::der::Error;

    /// Reads the one form of RFC 3339 that has no other reading: `2026-01-31T12:00:00Z`.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().map(Self)
    }
}

impl fmt::Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A signed annotation and the least version that it must name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct MinimumVersion {
    pub(crate) annotation: String,
    pub(crate) version: Version,
}

impl MinimumVersion {
    fn check(&self, claims: &Claims) -> Result<(), Stale> {
        let annotation = || self.annotation.clone();
        let written = claims.annotations.get(&self.annotation);
        let written = written.ok_or_else(|| Stale::NoVersion {
            annotation: annotation(),
        })?;
        let found = Version::parse(written).map_err(|source| Stale::NotAVersion {
            annotation: annotation(),
            found: written.clone(),
            why: source.to_string(),
        })?;
        // Precedence leaves build metadata out of account (semver.org, item 11).
        if self.version.cmp_precedence(&found).is_le() {
            Ok(())
        } else {
            Err(Stale::OlderVersion {
                annotation: annotation(),
                wanted: self.version.clone(),
                found,
            })
        }
    }
}

/// Why a good signature is not recent enough. It may be an old one played back.
#[derive(Debug, Clone, PartialEq, Error)]
#[non_exhaustive]
pub enum Stale {
    /// The signed payload does not say when.
    #[error("its payload has no timestamp")]
    NoTimestamp,
    /// It was signed too early.
    #[error("it was signed {found} seconds after 1970, not after {wanted}")]
    SignedBefore {
        /// The moment after which it must have been signed.
        wanted: Moment,
        /// When it was signed, in seconds since 1970.
        found: i64,
    },
    /// The signed payload names no version.
    #[error("its payload has no annotation {annotation:?}")]
    NoVersion {
        /// The annotation that is to name it.
        annotation: String,
    },
    /// What the signed payload names is no version.
    #[error("its annotation {annotation:?} is {found:?}, which is no semantic version: {why}")]
    NotAVersion {
        /// The annotation.
        annotation: String,
        /// Its value.
        found: String,
        /// What is wrong with it.
        why: String,
    },
    /// The signature is for an older version.
    #[error("its annotation {annotation:?} is {found}, at least {wanted} is wanted")]
    OlderVersion {
        /// The annotation.
        annotation: String,
        /// The least version.
        wanted: Version,
        /// The version that is signed.
        found: Version,
    },
}
