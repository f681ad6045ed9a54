//! A private Sigstore, minted at run time: certificate authority, certificate log, transparency logs
//! and timestamp authority, and what signers make with them.
//!
//! Nothing here shares code with what is tested but the arithmetic of the curves.

mod attach;
mod authority;
mod bundle;
mod clock;
mod der;
mod identity;
mod key;
mod log;
mod moment;
mod statement;

use std::fmt::Write as _;

use aws_lc_rs::digest;
use serde_json::{Value, json};

use crate::cosign::Key;

pub use self::attach::{
    Attached, attestation_image, attestation_tag, fallback_tag, logged_attestation_image, referrers,
};
pub use self::bundle::{Bundle, Ceremony, MEDIA_TYPE};
pub use self::identity::{GITHUB_ISSUER, Identity, IssuerForms};
pub use self::log::Version;
pub use self::moment::Moment;
pub use self::statement::{Statement, predicate};

/// The services of one private Sigstore.
#[derive(Debug)]
pub struct Sigstore {
    fulcio: authority::Fulcio,
    certificate_log: key::ServiceKey,
    first_log: log::Log,
    second_log: log::Log,
    clock: clock::Clock,
}

impl Default for Sigstore {
    fn default() -> Self {
        Self::mint()
    }
}

impl Sigstore {
    /// Mints every key.
    pub fn mint() -> Self {
        Self::with_intermediate_for(moment::LONG)
    }

    /// With an intermediate authority that was good for a year from 2020 on.
    pub fn with_expired_intermediate() -> Self {
        Self::with_intermediate_for(365 * 24 * 3600)
    }

    fn with_intermediate_for(seconds: u64) -> Self {
        Self {
            fulcio: authority::Fulcio::mint(seconds),
            certificate_log: key::ServiceKey::p256(),
            first_log: log::Log::start(Version::One),
            second_log: log::Log::start(Version::Two),
            clock: clock::Clock::mint(),
        }
    }

    /// The `trusted_root.json`.
    pub fn trusted_root(&self) -> Value {
        let id = self.certificate_log.id();
        json!({
            "mediaType": "application/vnd.dev.sigstore.trustedroot+json;version=0.1",
            "tlogs": [self.first_log.trusted(), self.second_log.trusted()],
            "certificateAuthorities": [self.fulcio.trusted()],
            "ctlogs": [self.certificate_log.trusted("https://ctfe.example", &id)],
            "timestampAuthorities": [self.clock.trusted()],
        })
    }

    /// PEM of the authority's root.
    pub fn root_pem(&self) -> String {
        self.fulcio.root_pem()
    }

    /// PEM of the intermediate and the root.
    pub fn chain_pem(&self) -> String {
        self.fulcio.chain_pem()
    }

    /// PEM of the key of a transparency log.
    pub fn log_pem(&self, version: Version) -> String {
        self.log(version).public_pem()
    }

    /// PEM of the key of the certificate log.
    pub fn certificate_log_pem(&self) -> String {
        self.certificate_log.pair.public_key_pem()
    }

    /// A signing by `identity`.
    pub fn ceremony(&self, identity: Identity) -> Ceremony<'_> {
        Ceremony::new(self, identity)
    }

    /// A bundle by a key, with an entry in the first log.
    pub fn keyed(&self, key: &Key, statement: &Statement) -> Bundle {
        let bundle = Bundle::keyed(key, statement);
        let entry = bundle::take_keyed(&self.first_log, key, statement, &bundle);
        bundle.edit(|json| json["verificationMaterial"]["tlogEntries"] = json!([entry]))
    }

    fn log(&self, version: Version) -> &log::Log {
        match version {
            Version::One => &self.first_log,
            Version::Two => &self.second_log,
        }
    }
}

fn sha256(bytes: &[u8]) -> [u8; 32] {
    let hash = digest::digest(&digest::SHA256, bytes);
    hash.as_ref().try_into().expect("32 bytes")
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").expect("writing to a string succeeds");
        text
    })
}
