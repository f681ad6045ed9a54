//! From the document, the environment and the kernel command line to a [`Config`].

mod image;
mod kbc;

use std::path::PathBuf;
use std::time::Duration;

use kbs_client::AttestationAgent;

use super::environment::{AA_SOCKET, CommandLine, variable};
use super::{
    AttesterName, Config, ConfigError, Credential, Document, Environment, Fault, Own, Section,
    Timeouts, Warning, downloads, evidence, kbs, limits, registry, store, value,
};

/// Reads every key of `document`; what it does not say, `environment` does, or a default.
pub(super) fn read(
    document: &Document<'_>,
    environment: &Environment,
) -> Result<(Config, Vec<Warning>), ConfigError> {
    let command_line = environment.kernel_command_line.as_deref();
    let mut reader = Reader {
        environment,
        command_line: CommandLine::parse(command_line.unwrap_or_default()),
        warnings: Vec::new(),
    };
    if command_line.is_none() {
        reader.warnings.push(Warning::NoCommandLine);
    }
    let config = reader.config(document.root())?;
    reader.look_for_misspelled_parameters();
    Ok((config, reader.warnings))
}

struct Reader<'e> {
    environment: &'e Environment,
    command_line: CommandLine,
    warnings: Vec<Warning>,
}

impl Reader<'_> {
    fn config(&mut self, mut root: Section<'_>) -> Result<Config, ConfigError> {
        let socket = root.parsed("socket", value::socket)?;
        let log_level = Self::log_level(&mut root)?;
        let image_agent = Self::image_agent(&mut root)?;
        let kbc = self.kbc(&mut root, &image_agent)?;
        let aa_socket = self.aa_socket(&mut root)?;
        let credentials = self.credentials(&mut root)?;
        let image = self.image(&mut root)?;
        if root.string("services_dir")?.is_some() {
            self.not_yet("services_dir", "socket per service");
        }
        if root.boolean("skip_sealed_secret_verification")?.is_some() {
            self.not_yet("skip_sealed_secret_verification", "sealed secrets");
        }
        root.finish()?;
        let socket = socket.unwrap_or_else(|| PathBuf::from(SOCKET));
        Ok(Config {
            socket,
            kbc,
            aa_socket,
            credentials,
            image,
            log_level,
            image_agent,
        })
    }

    fn log_level(root: &mut Section<'_>) -> Result<String, ConfigError> {
        let mut level = None;
        if let Some(mut log) = root.section("log")? {
            level = log.parsed("level", value::log_level)?;
            log.finish()?;
        }
        Ok(level.unwrap_or_else(|| "info".to_owned()))
    }

    fn aa_socket(&self, root: &mut Section<'_>) -> Result<PathBuf, ConfigError> {
        let mut in_file = None;
        if let Some(mut aa) = root.section("aa")? {
            in_file = aa.parsed("aa_socket", value::socket)?;
            aa.finish()?;
        }
        let from_environment = variable(AA_SOCKET, self.environment.aa_socket.as_ref())
            .map(|found| found.parse(value::socket))
            .transpose()?;
        let path = from_environment.or(in_file);
        Ok(path.unwrap_or_else(|| PathBuf::from(AttestationAgent::DEFAULT_SOCKET)))
    }

    fn image_agent(root: &mut Section<'_>) -> Result<Own, ConfigError> {
        let Some(mut own) = root.section("image_agent")? else {
            return Ok(Own::default());
        };
        let name = own.parsed("attester", |text| value::word(text, &AttesterName::NAMES))?;
        let mut named = AttesterName::named();
        let attester = named.find(|(known, _)| Some(*known) == name);
        let config = Own {
            attester: attester.map(|(_, attester)| attester),
            kbs: kbs::read(own.section("kbs")?)?,
            require_authenticated_kbs: own.flag("require_authenticated_kbs")?,
            verbose_errors: own.flag("verbose_errors")?,
            strict_identity: own.flag("strict_identity")?,
            danger_host_writable_store: own.flag("danger_host_writable_store")?,
            limits: limits::read(own.section("limits")?)?,
            timeouts: timeouts(own.section("timeouts")?)?,
            downloads: downloads::read(own.section("downloads")?)?,
            store: store::read(own.section("store")?)?,
            platform: own.parsed("platform", value::platform)?,
            certs_d: certs_d(&mut own)?,
            credential_helpers: credential_helpers(&mut own)?,
            registries: registry::read(own.sections("registry")?)?,
            evidence: evidence::read(own.section("evidence")?)?,
        };
        own.finish()?;
        Ok(config)
    }

    /// `[[credentials]]`, then `cdh.kbs_resources`.
    fn credentials(&mut self, root: &mut Section<'_>) -> Result<Vec<Credential>, ConfigError> {
        let mut credentials = Vec::new();
        for mut section in root.sections("credentials")? {
            let resource_uri = section.parsed("resource_uri", value::resource)?;
            let path = section.parsed("path", value::credential_path)?;
            let missing = section.missing(if path.is_none() {
                "path"
            } else {
                "resource_uri"
            });
            section.finish()?;
            let (Some(resource_uri), Some(path)) = (resource_uri, path) else {
                return Err(missing);
            };
            credentials.push(Credential { resource_uri, path });
        }
        let Some(list) = self.command_line.value("cdh.kbs_resources")? else {
            return Ok(credentials);
        };
        let listed = list.parse(|text| {
            text.split(',')
                .filter(|item| !item.is_empty())
                .map(listed_credential)
                .collect()
        });
        credentials.append(&mut listed?);
        Ok(credentials)
    }

    /// Most parameters are others' business, so a wrong name is no error.
    fn look_for_misspelled_parameters(&mut self) {
        let known = [image::IMAGE_PARAMETERS.as_slice(), &[kbc::KBC_PARAMETER]].concat();
        for (parameter, nearest) in self.command_line.misspelled(&known) {
            self.warnings.push(Warning::MisspelledParameter {
                parameter: parameter.to_owned(),
                nearest: nearest.to_owned(),
            });
        }
    }

    fn not_yet(&mut self, key: &str, missing: &'static str) {
        self.warnings.push(Warning::NotYet {
            key: key.to_owned(),
            missing,
        });
    }

    fn overridden(&mut self, loser: &str, winner: &str) {
        let (loser, winner) = (loser.to_owned(), winner.to_owned());
        self.warnings.push(Warning::Overridden { loser, winner });
    }
}

fn listed_credential(item: &str) -> Result<Credential, Fault> {
    let malformed = || Fault::KbsResource {
        found: item.to_owned(),
    };
    let (uri, path) = item.split_once("::").ok_or_else(malformed)?;
    Ok(Credential {
        resource_uri: value::resource(uri)?,
        path: value::credential_path(path)?,
    })
}

fn certs_d(own: &mut Section<'_>) -> Result<Vec<PathBuf>, ConfigError> {
    let folders = own.strings("certs_d")?.into_iter();
    let folders: Vec<PathBuf> = folders
        .map(|found| found.parse(value::absolute_path))
        .collect::<Result<_, _>>()?;
    if folders.is_empty() {
        return Ok(Own::default().certs_d);
    }
    Ok(folders)
}

fn credential_helpers(own: &mut Section<'_>) -> Result<Vec<String>, ConfigError> {
    let names = own.strings("credential_helpers")?.into_iter();
    names
        .map(|found| found.parse(value::credential_helper))
        .collect()
}

fn timeouts(section: Option<Section<'_>>) -> Result<Timeouts, ConfigError> {
    let mut timeouts = Timeouts::default();
    let Some(mut section) = section else {
        return Ok(timeouts);
    };
    let fields = [
        ("connect", &mut timeouts.connect),
        ("idle", &mut timeouts.idle),
        ("total", &mut timeouts.total),
    ];
    for (key, field) in fields {
        if let Some(seconds) = section.number(key, 1, DAY)? {
            *field = Duration::from_secs(seconds);
        }
    }
    section.finish()?;
    Ok(timeouts)
}

/// Where kata-agent looks for the daemon.
pub(super) const SOCKET: &str = "/run/confidential-containers/cdh.sock";
const DAY: u64 = 24 * 60 * 60;
