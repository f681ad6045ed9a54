//! The four formats that images come in, and the one reading that a document must have.

use super::{
    DOCKER_LIST, DOCKER_MANIFEST, MAX_MANIFEST_BYTES, ManifestError, OCI_INDEX, OCI_MANIFEST,
};
use crate::descriptor::refuse_other_spellings;
use crate::json::{Json, Members, Node};
use crate::printable::printable;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    OciManifest,
    OciIndex,
    DockerManifest,
    DockerList,
}

impl Kind {
    const ALL: [Self; 4] = [
        Self::OciManifest,
        Self::OciIndex,
        Self::DockerManifest,
        Self::DockerList,
    ];

    pub(super) fn media_type(self) -> &'static str {
        match self {
            Self::OciManifest => OCI_MANIFEST,
            Self::OciIndex => OCI_INDEX,
            Self::DockerManifest => DOCKER_MANIFEST,
            Self::DockerList => DOCKER_LIST,
        }
    }

    fn from_media_type(media_type: &str) -> Result<Self, ManifestError> {
        let known = Self::ALL
            .into_iter()
            .find(|kind| kind.media_type() == media_type);
        known.ok_or_else(|| {
            let found = printable(&media_type);
            if SCHEMA1.contains(&media_type) {
                ManifestError::Schema1 { media_type: found }
            } else {
                ManifestError::UnknownType { found: Some(found) }
            }
        })
    }

    pub(super) fn is_index(self) -> bool {
        matches!(self, Self::OciIndex | Self::DockerList)
    }

    pub(super) fn is_oci(self) -> bool {
        matches!(self, Self::OciManifest | Self::OciIndex)
    }

    /// The keys that give this format its meaning, and those that give others theirs.
    fn keys(self) -> (&'static [&'static str], &'static [&'static str]) {
        if self.is_index() {
            (
                &["schemaVersion", "mediaType", "manifests"],
                &["config", "layers", "fsLayers", "history"],
            )
        } else {
            (
                &["schemaVersion", "mediaType", "config", "layers"],
                &["manifests", "fsLayers", "history"],
            )
        }
    }
}

/// The one reading that the document has, or a refusal.
pub(super) fn read<'r>(
    content_type: Option<&str>,
    raw: &'r [u8],
) -> Result<(Kind, Json<'r>), ManifestError> {
    check_length(raw)?;
    let header = content_type.map(|text| text.split(';').next().unwrap_or_default().trim());
    let header = header.map(Kind::from_media_type).transpose()?;
    let json = Json::parse(raw)?;
    let members = json.root().open_object()?;
    let body = members
        .non_null("mediaType")
        .map(|node| node.string())
        .transpose()?;
    let kind = match (header, body) {
        (Some(kind), Some(body)) if kind.media_type() != body => {
            let header = kind.media_type().to_owned();
            return Err(ManifestError::TypeDisagrees {
                header,
                body: printable(&body),
            });
        }
        // Schema 2 has it as a required member.
        (Some(Kind::DockerManifest), None) => {
            return Err(members
                .required("mediaType")
                .map_or_else(Into::into, |node| node.wrong_type("a string").into()));
        }
        (Some(kind), _) => kind,
        (None, Some(body)) => Kind::from_media_type(body)?,
        (None, None) => return Err(ManifestError::UnknownType { found: None }),
    };
    check_keys(kind, &members)?;
    Ok((kind, json))
}

fn check_keys(kind: Kind, members: &Members<'_>) -> Result<(), ManifestError> {
    let (own, foreign) = kind.keys();
    refuse_other_spellings(members, own)?;
    let is_foreign = |key: &str| foreign.iter().any(|known| known.eq_ignore_ascii_case(key));
    if let Some((_, node)) = members
        .iter()
        .find(|(key, _): &(&str, Node<'_>)| is_foreign(key))
    {
        return Err(ManifestError::Ambiguous {
            place: node.place(),
        });
    }
    match members.required("schemaVersion")?.unsigned()? {
        2 => Ok(()),
        found => Err(ManifestError::SchemaVersion { found }),
    }
}

pub(super) fn check_length(raw: &[u8]) -> Result<(), ManifestError> {
    if raw.len() > MAX_MANIFEST_BYTES {
        return Err(ManifestError::TooLarge {
            limit: MAX_MANIFEST_BYTES,
            found: raw.len(),
        });
    }
    Ok(())
}

const SCHEMA1: [&str; 2] = [
    "application/vnd.docker.distribution.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v1+prettyjws",
];
