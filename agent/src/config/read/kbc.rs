//! Where resources come from: `[kbc]`, `AA_KBC_PARAMS`, `agent.aa_kbc_params`.

use url::Url;

use super::Reader;
use crate::config::environment::{AA_KBC_PARAMS, EXTRA_FILES, KBS_CERT, variable};
use crate::config::{AttesterName, ConfigError, Fault, Found, Kbc, Own, Section, Warning, value};

impl Reader<'_> {
    pub(super) fn kbc(&mut self, root: &mut Section<'_>, own: &Own) -> Result<Kbc, ConfigError> {
        let Some(mut section) = root.section("kbc")? else {
            return self.kbc_of_environment(own);
        };
        let name = section.parsed("name", |text| value::word(text, &[CC_KBC, OFFLINE_FS_KBC]))?;
        let url = section.string("url")?;
        let certificates = section.parsed("kbs_cert", value::certificates)?.flatten();
        let missing = |key| Err(section.missing(key));
        match (name, url) {
            (Some(OFFLINE_FS_KBC), _) => {
                section.finish()?;
                self.offline()
            }
            (Some(_), Some(url)) if !url.value.is_empty() => {
                section.finish()?;
                self.kbs(url, certificates, own)
            }
            (name, _) => {
                let error = missing(if name.is_none() { "name" } else { "url" });
                section.finish()?;
                error
            }
        }
    }

    /// `AA_KBC_PARAMS`, else `agent.aa_kbc_params`, else files.
    fn kbc_of_environment(&mut self, own: &Own) -> Result<Kbc, ConfigError> {
        let in_environment = variable(AA_KBC_PARAMS, self.environment.aa_kbc_params.as_ref());
        let on_command_line = self.command_line.value(KBC_PARAMETER)?;
        let Some(found) = in_environment.or(on_command_line) else {
            return self.offline();
        };
        let malformed = || {
            found.fault(Fault::KbcParameters {
                found: found.value.to_owned(),
            })
        };
        let (name, url) = found.value.split_once("::").ok_or_else(malformed)?;
        let origin = found.origin.clone();
        let name = Found {
            value: name,
            origin: origin.clone(),
        };
        let url = Found {
            value: url.to_owned(),
            origin,
        };
        match name.parse(|name| value::word(name, &[CC_KBC, OFFLINE_FS_KBC]))? {
            CC_KBC => self.kbs(
                Found {
                    value: &url.value,
                    origin: url.origin,
                },
                None,
                own,
            ),
            _ => self.offline(),
        }
    }

    fn kbs(
        &mut self,
        url: Found<&str>,
        certificates: Option<String>,
        own: &Own,
    ) -> Result<Kbc, ConfigError> {
        let origin = url.origin.clone();
        let url = url.parse(value::kbs_url)?;
        let certificates = match certificates {
            Some(certificates) => Some(certificates),
            None => variable(KBS_CERT, self.environment.kbs_cert.as_ref())
                .map(|found| found.parse(value::certificates))
                .transpose()?
                .flatten(),
        };
        let kbc = Kbc::Kbs {
            url: url.clone(),
            certificates: certificates.clone(),
        };
        self.judge_kbs(
            &kbc,
            &Found { value: url, origin },
            certificates.is_some(),
            own,
        )?;
        Ok(kbc)
    }

    fn judge_kbs(
        &mut self,
        kbc: &Kbc,
        url: &Found<Url>,
        with_certificates: bool,
        own: &Own,
    ) -> Result<(), ConfigError> {
        let text = url.value.to_string();
        if !kbc.is_authenticated() {
            if own.require_authenticated_kbs {
                return Err(url.fault(Fault::UnauthenticatedKbs { url: text }));
            }
            self.warnings.push(Warning::PlainHttpKbs { url: text });
        }
        if with_certificates && url.value.scheme() != "https" {
            self.warnings.push(Warning::UnusedCertificates);
        }
        if own.attester == Some(AttesterName::Sample) {
            self.warnings.push(Warning::SampleAttester);
        }
        Ok(())
    }

    fn offline(&self) -> Result<Kbc, ConfigError> {
        let Some(files) = variable(
            EXTRA_FILES,
            self.environment.offline_fs_kbc_extra_file_path.as_ref(),
        ) else {
            return Ok(Kbc::OfflineFs {
                extra_files: Vec::new(),
            });
        };
        let extra_files = files.parse(|text| {
            text.split(',')
                .filter(|path| !path.is_empty())
                .map(value::absolute_path)
                .collect()
        })?;
        Ok(Kbc::OfflineFs { extra_files })
    }
}

pub(super) const KBC_PARAMETER: &str = "agent.aa_kbc_params";
const CC_KBC: &str = "cc_kbc";
const OFFLINE_FS_KBC: &str = "offline_fs_kbc";
