//! How images are pulled: `[image]`, or the kernel command line when there is no such table.

use std::num::NonZeroUsize;
use std::path::PathBuf;

use policy::Lookaside;

use super::Reader;
use crate::config::environment::{REGISTRY_CREDENTIALS, variable};
use crate::config::{
    ConfigError, Fault, Image, PolicySource, Proxy, Section, Source, Warning, value,
};
use crate::registries::Registries;

impl Reader<'_> {
    pub(super) fn image(&mut self, root: &mut Section<'_>) -> Result<Image, ConfigError> {
        let mut image = match root.section("image")? {
            Some(section) => self.image_of_file(section)?,
            None => self.image_of_command_line()?,
        };
        let credentials = self.environment.registry_credentials.as_ref();
        if let Some(found) = variable(REGISTRY_CREDENTIALS, credentials) {
            if image.registry_credentials.is_some() {
                let loser = "image.authenticated_registry_credentials_uri";
                self.overridden(
                    loser,
                    &format!("environment variable {REGISTRY_CREDENTIALS}"),
                );
            }
            image.registry_credentials = Some(found.parse(value::location)?);
        }
        if let PolicySource::NotConfigured { hint } = &image.policy {
            self.warnings.push(Warning::NoPolicy { hint: hint.clone() });
        }
        Ok(image)
    }

    fn image_of_file(&mut self, mut image: Section<'_>) -> Result<Image, ConfigError> {
        for parameter in IMAGE_PARAMETERS {
            if self.command_line.has(parameter) {
                self.overridden(
                    &format!("kernel command line: {parameter}"),
                    "the table [image]",
                );
            }
        }
        let work_dir = image.parsed("work_dir", value::absolute_path)?;
        let most = image.number("max_concurrent_layer_downloads_per_image", 1, MAX_DOWNLOADS)?;
        let policy = self.policy(&mut image)?;
        let sigstore_config = self.sigstore_config(&mut image)?;
        let anonymous_fallback = image.flag("anonymous_fallback_on_unauthorized")?;
        let credentials = "authenticated_registry_credentials_uri";
        let (registries, registry_configuration) = self.registries(&mut image)?;
        let config = Image {
            work_dir: work_dir.unwrap_or_else(|| PathBuf::from(WORK_DIR)),
            policy,
            sigstore_config,
            registry_credentials: image.parsed(credentials, value::location)?,
            anonymous_fallback,
            registries,
            registry_configuration,
            max_concurrent_layer_downloads: most
                .and_then(|most| usize::try_from(most).ok().and_then(NonZeroUsize::new)),
            proxy: proxy(image.section("image_pull_proxy")?)?,
            extra_root_certificates: extra_roots(&mut image)?,
        };
        image.finish()?;
        Ok(config)
    }

    fn policy(&mut self, image: &mut Section<'_>) -> Result<PolicySource, ConfigError> {
        let uri = image.parsed("image_security_policy_uri", value::location)?;
        let inline = image.string("image_security_policy")?;
        if uri.is_some() && inline.is_some() {
            self.overridden(
                "image.image_security_policy",
                "image.image_security_policy_uri",
            );
        }
        match (uri, inline) {
            (Some(uri), _) => Ok(PolicySource::Uri(uri)),
            (None, Some(text)) => {
                let parse = |text: &str| policy::Policy::parse(text.as_bytes());
                let inline = PolicySource::Inline(text.value.to_owned());
                let policy = text.parse(|text| parse(text).map_err(Fault::Policy))?;
                let said = policy.warnings().iter();
                self.warnings.extend(said.map(|warning| Warning::Policy {
                    text: warning.to_string(),
                }));
                Ok(inline)
            }
            (None, None) => {
                let mut hint = POLICY_HINT.to_owned();
                if self.command_line.has(POLICY_PARAMETER) {
                    hint.push_str("; with an [image] table in the file, that parameter is ignored");
                }
                Ok(PolicySource::NotConfigured { hint })
            }
        }
    }

    fn sigstore_config(&mut self, image: &mut Section<'_>) -> Result<Option<Source>, ConfigError> {
        let uri = image.parsed("sigstore_config_uri", value::location)?;
        let inline = image.string("sigstore_config")?;
        let source = match (uri, inline) {
            (Some(uri), inline) => {
                if inline.is_some() {
                    self.overridden("image.sigstore_config", "image.sigstore_config_uri");
                }
                Some(Source::Uri(uri))
            }
            (None, Some(text)) => {
                let inline = Source::Inline(text.value.to_owned());
                let parse = |text: &str| Lookaside::parse([("sigstore_config", text.as_bytes())]);
                text.parse(|text| parse(text).map_err(Fault::Lookaside))?;
                Some(inline)
            }
            (None, None) => None,
        };
        Ok(source)
    }

    fn registries(
        &mut self,
        image: &mut Section<'_>,
    ) -> Result<(Registries, Option<String>), ConfigError> {
        let uri = image.parsed("registry_configuration_uri", value::location)?;
        let Some(table) = image.section("registry_config")? else {
            return Ok((Registries::default(), uri));
        };
        if uri.is_some() {
            self.overridden("image.registry_configuration_uri", "image.registry_config");
        }
        Ok((Registries::read(table, &mut self.warnings)?, None))
    }

    /// With no `[image]` table, the kernel command line speaks.
    fn image_of_command_line(&mut self) -> Result<Image, ConfigError> {
        let line = &self.command_line;
        let flag = line
            .stated(VERIFICATION_PARAMETER)?
            .map(|found| found.parse(boolean))
            .transpose()?;
        let location = |parameter| {
            line.value(parameter)?
                .map(|uri| uri.parse(value::location))
                .transpose()
        };
        let policy = location(POLICY_PARAMETER)?;
        let address = |parameter| {
            line.value(parameter)?
                .map(|url| url.parse(value::proxy_url))
                .transpose()
        };
        let image = Image {
            work_dir: PathBuf::from(WORK_DIR),
            policy: policy.map_or_else(
                || PolicySource::NotConfigured {
                    hint: POLICY_HINT.to_owned(),
                },
                PolicySource::Uri,
            ),
            sigstore_config: None,
            registry_credentials: location("agent.image_registry_auth")?,
            anonymous_fallback: false,
            registries: Registries::default(),
            registry_configuration: None,
            max_concurrent_layer_downloads: None,
            proxy: Proxy {
                https: address("agent.https_proxy")?,
                http: address("agent.http_proxy")?,
                exceptions: line
                    .value("agent.no_proxy")?
                    .map(|found| found.parse(value::no_proxy))
                    .transpose()?,
            },
            extra_root_certificates: Vec::new(),
        };
        // `true` with a policy is what it always was; everything else is worth a word.
        let expected = matches!(&image.policy, PolicySource::Uri(_));
        if let Some(value) = flag.filter(|value| *value != expected) {
            self.warnings.push(Warning::VerificationFlag { value });
        }
        Ok(image)
    }
}

fn proxy(section: Option<Section<'_>>) -> Result<Proxy, ConfigError> {
    let Some(mut section) = section else {
        return Ok(Proxy::default());
    };
    let mut address = |key| {
        let found = section
            .string(key)?
            .filter(|found| !found.value.trim().is_empty());
        found.map(|found| found.parse(value::proxy_url)).transpose()
    };
    let (https, http) = (address("https_proxy")?, address("http_proxy")?);
    let exceptions = section.parsed("no_proxy", value::no_proxy)?;
    section.finish()?;
    Ok(Proxy {
        https,
        http,
        exceptions: exceptions.filter(|list| !list.is_empty()),
    })
}

fn extra_roots(image: &mut Section<'_>) -> Result<Vec<String>, ConfigError> {
    let texts = image.strings("extra_root_certificates")?;
    let parsed = texts
        .into_iter()
        .map(|text| text.parse(value::certificates));
    parsed.filter_map(Result::transpose).collect()
}

fn boolean(text: &str) -> Result<bool, Fault> {
    text.parse()
        .map_err(|_: std::str::ParseBoolError| Fault::Boolean {
            found: text.to_owned(),
        })
}

/// Where kata-agent mounts the disk for images.
const WORK_DIR: &str = "/run/kata-containers/image/";
const VERIFICATION_PARAMETER: &str = "agent.enable_signature_verification";
const POLICY_PARAMETER: &str = "agent.image_policy_file";
pub(super) const IMAGE_PARAMETERS: [&str; 6] = [
    POLICY_PARAMETER,
    VERIFICATION_PARAMETER,
    "agent.image_registry_auth",
    "agent.https_proxy",
    "agent.http_proxy",
    "agent.no_proxy",
];
const POLICY_HINT: &str = "no image policy is configured; name one by image_security_policy_uri \
    (kbs:///repository/type/tag or file:///path) or write one as image_security_policy in the table \
    [image] of the configuration file, or, when the file has no such table, by \
    agent.image_policy_file on the kernel command line";
/// No image has more layers.
const MAX_DOWNLOADS: u64 = 500;
