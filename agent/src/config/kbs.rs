//! The table `[image_agent.kbs]`: how the Key Broker Service is asked.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use kbs_client::{Freshness, SessionProof, TeeKeyAlgorithm, Timeouts, Trust};
use policy::Digest;
use url::Url;

use super::{ConfigError, Fault, Found, Section, masked, value};

/// How the Key Broker Service is asked, besides where.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct KbsSettings {
    /// Whether `kbs_cert` stands in place of the system's certificates, which is the default, or
    /// beside them.
    pub trust: Trust,
    /// Cookie or token.
    pub proof: SessionProof,
    /// The key that resources are encrypted to.
    pub tee_key: TeeKeyAlgorithm,
    /// How long what was fetched may serve again. By default it does not.
    pub freshness: Freshness,
    /// How long to wait.
    pub timeouts: Timeouts,
    /// Longest answer that is read, in bytes; as the client has it when absent.
    pub max_response_bytes: Option<usize>,
    /// The proxy on the way.
    pub proxy: Option<Url>,
    /// The init-data of the guest; where guests have them when absent, if they are there.
    pub init_data: Option<PathBuf>,
    /// Where the kernel takes requests for quotes; where Linux has it when absent.
    pub configfs_tsm: Option<PathBuf>,
    /// The only policies that may come from `image_security_policy_uri`; any when empty.
    pub accepted_policies: Vec<Digest>,
}

/// What `section` sets, and the defaults of the rest.
pub(super) fn read(section: Option<Section<'_>>) -> Result<KbsSettings, ConfigError> {
    let mut settings = KbsSettings::default();
    let Some(mut section) = section else {
        return Ok(settings);
    };
    let trust = section.parsed("kbs_cert", |text| value::word(text, &["only", "added"]))?;
    if trust == Some("added") {
        settings.trust = Trust::Added;
    }
    let proof = section.parsed("proof", |text| value::word(text, &["cookie", "bearer"]))?;
    if proof == Some("bearer") {
        settings.proof = SessionProof::Bearer;
    }
    let key = section.parsed("tee_key", |text| value::word(text, &KEY_NAMES))?;
    let mut keys = KEY_NAMES.into_iter().zip(KEYS);
    if let Some((_, key)) = keys.find(|(name, _)| Some(*name) == key) {
        settings.tee_key = key;
    }
    settings.proxy = section.parsed("proxy", value::proxy_url)?;
    settings.init_data = section.parsed("init_data", value::absolute_path)?;
    settings.configfs_tsm = section.parsed("configfs_tsm", value::absolute_path)?;
    let longest = section.number("max_response_bytes", 1 << 16, 1 << 30)?;
    settings.max_response_bytes = longest.and_then(|bytes| bytes.try_into().ok());
    read_durations(&mut section, &mut settings)?;
    let policies = section.strings("accepted_policies")?.into_iter();
    settings.accepted_policies = policies
        .map(|found: Found<&str>| found.parse(digest))
        .collect::<Result<_, _>>()?;
    section.finish()?;
    Ok(settings)
}

fn read_durations(
    section: &mut Section<'_>,
    settings: &mut KbsSettings,
) -> Result<(), ConfigError> {
    let fields = [
        ("ttl", 0, &mut settings.freshness.ttl),
        ("stale", 0, &mut settings.freshness.stale),
        ("connect", 1, &mut settings.timeouts.connect),
        ("total", 1, &mut settings.timeouts.total),
        ("retry", 0, &mut settings.timeouts.retry),
        ("evidence", 1, &mut settings.timeouts.evidence),
    ];
    for (key, minimum, field) in fields {
        if let Some(seconds) = section.number(key, minimum, DAY)? {
            *field = Duration::from_secs(seconds);
        }
    }
    Ok(())
}

impl KbsSettings {
    /// The table as a file would have to say it: keys and values.
    pub(super) fn statements(&self) -> Vec<(&'static str, toml::Value)> {
        let seconds = |duration: Duration| i64::try_from(duration.as_secs()).unwrap_or(i64::MAX);
        let mut keys = KEY_NAMES.into_iter().zip(KEYS);
        let key = keys.find(|(_, key)| *key == self.tee_key);
        let trust = match self.trust {
            Trust::Pinned => "only",
            Trust::Added => "added",
        };
        let proof = match self.proof {
            SessionProof::Cookie => "cookie",
            SessionProof::Bearer => "bearer",
        };
        let policies = self.accepted_policies.iter().map(ToString::to_string);
        let mut statements: Vec<(&'static str, toml::Value)> = vec![
            ("kbs_cert", trust.into()),
            ("proof", proof.into()),
            ("tee_key", key.map_or("P-256", |(name, _)| name).into()),
            ("ttl", seconds(self.freshness.ttl).into()),
            ("stale", seconds(self.freshness.stale).into()),
            ("connect", seconds(self.timeouts.connect).into()),
            ("total", seconds(self.timeouts.total).into()),
            ("retry", seconds(self.timeouts.retry).into()),
            ("evidence", seconds(self.timeouts.evidence).into()),
            ("accepted_policies", policies.collect::<Vec<_>>().into()),
        ];
        let proxy = self.proxy.as_ref().map(masked);
        let path = |path: &PathBuf| path.display().to_string();
        let optional = [
            ("proxy", proxy),
            ("init_data", self.init_data.as_ref().map(path)),
            ("configfs_tsm", self.configfs_tsm.as_ref().map(path)),
        ];
        let present = optional
            .into_iter()
            .filter_map(|(key, value)| Some((key, value?.into())));
        statements.extend(present);
        if let Some(longest) = self.max_response_bytes {
            let longest = i64::try_from(longest).unwrap_or(i64::MAX);
            statements.push(("max_response_bytes", longest.into()));
        }
        statements
    }
}

/// The proxy's password is masked.
impl fmt::Debug for KbsSettings {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_map().entries(self.statements()).finish()
    }
}

fn digest(text: &str) -> Result<Digest, Fault> {
    text.parse().map_err(|source| Fault::Digest {
        found: text.to_owned(),
        source,
    })
}

const KEYS: [TeeKeyAlgorithm; 3] = [
    TeeKeyAlgorithm::P256,
    TeeKeyAlgorithm::P521,
    TeeKeyAlgorithm::RsaOaep256,
];
/// In the same order.
const KEY_NAMES: [&str; 3] = ["P-256", "P-521", "RSA-OAEP-256"];
const DAY: u64 = 24 * 60 * 60;

#[cfg(test)]
mod tests {
    use super::super::{Config, Document, Environment};
    use super::*;

    fn settings(text: &str) -> Result<KbsSettings, ConfigError> {
        let environment = Environment {
            kernel_command_line: Some(String::new()),
            ..Environment::default()
        };
        let (config, _) = super::super::read::read(&Document::parse(text)?, &environment)?;
        Ok(config.image_agent.kbs)
    }

    const POLICY: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn every_key_takes_effect() {
        let text = format!(
            "[image_agent.kbs]\nkbs_cert = \"added\"\nproof = \"bearer\"\ntee_key = \"P-521\"\n\
             max_response_bytes = 65536\nttl = 1\nstale = 2\nconnect = 3\ntotal = 4\nretry = 0\nevidence = 6\n\
             proxy = \"http://proxy:3128\"\ninit_data = \"/i\"\nconfigfs_tsm = \"/t\"\n\
             accepted_policies = [\"{POLICY}\"]\n"
        );
        let seconds = Duration::from_secs;
        let mut expected = KbsSettings {
            trust: Trust::Added,
            proof: SessionProof::Bearer,
            tee_key: TeeKeyAlgorithm::P521,
            proxy: Some("http://proxy:3128".parse().unwrap()),
            init_data: Some("/i".into()),
            configfs_tsm: Some("/t".into()),
            accepted_policies: vec![POLICY.parse().unwrap()],
            max_response_bytes: Some(65536),
            ..KbsSettings::default()
        };
        expected.freshness = Freshness {
            ttl: seconds(1),
            stale: seconds(2),
        };
        expected.timeouts = Timeouts {
            connect: seconds(3),
            total: seconds(4),
            retry: seconds(0),
            evidence: seconds(6),
        };
        let found = settings(&text).unwrap();
        assert_eq!(found, expected);
        let again = Config::parse(&text, &Environment::default()).unwrap().0;
        let page = again.effective_toml();
        assert_eq!(settings(&page).unwrap(), expected, "{page}");
    }

    #[test]
    fn nothing_is_kept_and_only_the_certificate_is_trusted_by_default() {
        let found = settings("").unwrap();
        assert_eq!(found, KbsSettings::default());
        assert_eq!(
            (found.trust, found.freshness.ttl),
            (Trust::Pinned, Duration::ZERO)
        );
    }

    #[test]
    fn values_that_are_none_are_refused_with_their_place() {
        let rows = [
            (
                "proof = \"token\"",
                "expected one of cookie, bearer, found \"token\"",
            ),
            ("kbs_cert = \"\"", "expected one of only, added, found \"\""),
            ("connect = 0", "expected a number from 1 to 86400, found 0"),
            (
                "accepted_policies = [\"sha256:00\"]",
                "expected a digest such as sha256: and 64 digits",
            ),
            ("init_data = \"x\"", "expected an absolute path"),
        ];
        for (line, expected) in rows {
            let error = settings(&format!("[image_agent.kbs]\n{line}\n")).unwrap_err();
            let text = crate::error::chain(&error);
            assert!(text.contains("line 2") && text.contains(expected), "{text}");
        }
    }

    #[test]
    fn password_of_the_proxy_is_masked() {
        let text = "image_agent.kbs.proxy = \"http://user:s3cret@proxy\"";
        let shown = format!("{:?}", settings(text).unwrap());
        assert!(
            shown.contains("masked@proxy") && !shown.contains("s3cret"),
            "{shown}"
        );
    }
}
