//! The table `[image_agent.evidence]`: where signatures and attestations are looked for besides the
//! tag `.sig` of the image's repository, and how much of what is there is read.

use std::path::PathBuf;
use std::time::Duration;

use super::{ConfigError, Section, value};

/// Where evidence is looked for besides the registry, and within which limits anywhere.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EvidencePlaces {
    /// What of it is read.
    pub limits: EvidenceLimits,
    /// An OCI layout in the guest.
    pub layout: Option<PathBuf>,
    /// A folder of resources: `<folder>/sha256-<hex>` has the bundles about that document.
    pub delivered: Option<String>,
}

/// What of the evidence about one document is read, for each place where it is looked for. Whoever
/// may write to a registry may put any amount there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EvidenceLimits {
    /// Pieces that are looked at. Default 64.
    pub candidates: usize,
    /// Bytes of one of them. Default 1 MiB.
    pub candidate_bytes: u64,
    /// Bytes of all of them. Default 8 MiB.
    pub total_bytes: u64,
    /// For the registry and its mirrors together. Default 30 s.
    pub deadline: Duration,
}

impl Default for EvidenceLimits {
    fn default() -> Self {
        Self {
            candidates: 64,
            candidate_bytes: 1 << 20,
            total_bytes: 8 << 20,
            deadline: Duration::from_secs(30),
        }
    }
}

impl EvidenceLimits {
    /// Takes as many bytes out of the `room` for all as something may have, and gives the limit for
    /// reading it, or says which limit it exceeds. That is its `size` if that is known.
    pub(crate) fn admit(&self, size: Option<u64>, room: &mut u64) -> Result<u64, String> {
        let most = self.candidate_bytes;
        let Some(size) = size else {
            let limit = most.min(*room);
            *room = room.saturating_sub(limit);
            return match limit {
                0 => Err(self.exceeded_by_more_than(limit)),
                limit => Ok(limit),
            };
        };
        if size > most {
            return Err(format!(
                "it has {size} bytes, at most {most} are read, \
                 see image_agent.evidence.candidate_bytes"
            ));
        }
        *room = room.checked_sub(size).ok_or_else(|| {
            let most = self.total_bytes;
            format!(
                "it has {size} bytes, which is beyond the {most} that are read in all, \
                 see image_agent.evidence.total_bytes"
            )
        })?;
        Ok(size)
    }

    /// Which limit something exceeds that has more bytes than the `limit` for reading it.
    pub(crate) fn exceeded_by_more_than(&self, limit: u64) -> String {
        if limit == self.candidate_bytes {
            return format!(
                "it has more than {limit} bytes, see image_agent.evidence.candidate_bytes"
            );
        }
        let most = self.total_bytes;
        format!(
            "it has more than {limit} bytes, which is beyond the {most} that are read in all, \
             see image_agent.evidence.total_bytes"
        )
    }
}

/// What `section` sets, and the defaults of the rest.
pub(super) fn read(section: Option<Section<'_>>) -> Result<EvidencePlaces, ConfigError> {
    let mut places = EvidencePlaces::default();
    let Some(mut section) = section else {
        return Ok(places);
    };
    let limits = &mut places.limits;
    let candidates = section.number("candidates", 1, MOST_CANDIDATES)?;
    if let Some(number) = candidates.and_then(|number| usize::try_from(number).ok()) {
        limits.candidates = number;
    }
    if let Some(number) = section.number("candidate_bytes", 1, MOST_BYTES)? {
        limits.candidate_bytes = number;
    }
    if let Some(number) = section.number("total_bytes", 1, MOST_BYTES)? {
        limits.total_bytes = number;
    }
    if let Some(seconds) = section.number("deadline", 1, HOUR)? {
        limits.deadline = Duration::from_secs(seconds);
    }
    places.layout = section.parsed("layout", value::absolute_path)?;
    places.delivered = section.parsed("delivered", value::folder)?;
    section.finish()?;
    Ok(places)
}

const MOST_CANDIDATES: u64 = 4096;
/// What is kept in memory as a whole stays within what a small guest has.
const MOST_BYTES: u64 = 64 << 20;
const HOUR: u64 = 60 * 60;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, Environment};

    fn parse(text: &str) -> Result<EvidencePlaces, String> {
        let parsed = Config::parse(text, &Environment::default());
        parsed
            .map(|(config, _warnings)| config.image_agent.evidence)
            .map_err(|error| crate::error::chain(&error))
    }

    #[test]
    fn keys_take_effect_and_what_is_not_said_has_a_default() {
        assert_eq!(parse(""), Ok(EvidencePlaces::default()));
        let text = "[image_agent.evidence]\ncandidates = 10\ncandidate_bytes = 20\n\
                    total_bytes = 30\ndeadline = 40\nlayout = \"/run/evidence\"\n\
                    delivered = \"kbs:///default/evidence\"\n";
        let expected = EvidencePlaces {
            limits: EvidenceLimits {
                candidates: 10,
                candidate_bytes: 20,
                total_bytes: 30,
                deadline: Duration::from_secs(40),
            },
            layout: Some(PathBuf::from("/run/evidence")),
            delivered: Some("kbs:///default/evidence".to_owned()),
        };
        assert_eq!(parse(text), Ok(expected));
    }

    #[test]
    fn a_folder_is_what_a_resource_can_be_in() {
        for good in ["kbs:///a/b", "file:///run/evidence", "/run/evidence"] {
            let text = format!("[image_agent.evidence]\ndelivered = \"{good}\"\n");
            assert!(parse(&text).is_ok(), "{good}");
        }
        for bad in ["kbs:///a", "kbs:///a/b/c", "kbs:///a/b/", "evidence", ""] {
            let text = format!("[image_agent.evidence]\ndelivered = \"{bad}\"\n");
            let complaint = parse(&text).unwrap_err();
            assert!(
                complaint.contains("image_agent.evidence.delivered"),
                "{bad}: {complaint}"
            );
        }
    }

    #[test]
    fn what_exceeds_a_limit_is_told_which_and_takes_no_room() {
        let limits = EvidenceLimits {
            candidate_bytes: 5,
            total_bytes: 8,
            ..EvidenceLimits::default()
        };
        let mut room = limits.total_bytes;
        assert_eq!(limits.admit(Some(5), &mut room), Ok(5));
        let large = limits.admit(Some(6), &mut room).unwrap_err();
        assert_eq!(
            large,
            "it has 6 bytes, at most 5 are read, see image_agent.evidence.candidate_bytes"
        );
        let late = limits.admit(Some(4), &mut room).unwrap_err();
        assert_eq!(
            late,
            "it has 4 bytes, which is beyond the 8 that are read in all, \
             see image_agent.evidence.total_bytes"
        );
        assert_eq!(limits.admit(Some(2), &mut room), Ok(2));
        // What is of unknown size may have what is left.
        assert_eq!(limits.admit(None, &mut room), Ok(1));
        let beyond = "it has more than 0 bytes, which is beyond the 8 that are read in all, \
                      see image_agent.evidence.total_bytes";
        assert_eq!(limits.admit(None, &mut room), Err(beyond.to_owned()));
        room = limits.total_bytes;
        assert_eq!(limits.admit(None, &mut room), Ok(5));
        assert_eq!(room, 3);
        assert_eq!(
            limits.exceeded_by_more_than(5),
            "it has more than 5 bytes, see image_agent.evidence.candidate_bytes"
        );
    }
}
