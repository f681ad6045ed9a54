//! What the guest's builder says outside of the file: environment and kernel command line.

use super::document::Found;
use super::error::{ConfigError, Fault, Origin};
use super::nearest::nearest;

/// Everything besides the file that the configuration depends on, as plain values.
#[derive(Debug, Clone, Default)]
pub struct Environment {
    /// `AA_KBC_PARAMS`: `<kbc>::<url>`, used when the file has no `[kbc]` table.
    pub aa_kbc_params: Option<String>,
    /// `AA_SOCKET`: overrides `aa.aa_socket`.
    pub aa_socket: Option<String>,
    /// `KBS_CERT`: certificates in PEM, used when `kbc.kbs_cert` is absent.
    pub kbs_cert: Option<String>,
    /// `CDH_DEFAULT_IMAGE_AUTHENTICATED_REGISTRY_CREDENTIALS`: location of an auth.json; overrides
    /// `image.authenticated_registry_credentials_uri`.
    pub registry_credentials: Option<String>,
    /// `OFFLINE_FS_KBC_EXTRA_FILE_PATH`: further resource files, separated by commas.
    pub offline_fs_kbc_extra_file_path: Option<String>,
    /// `RUST_LOG`: overrides `log.level`.
    pub rust_log: Option<String>,
    /// `/proc/cmdline`; absent when it cannot be read.
    pub kernel_command_line: Option<String>,
}

impl Environment {
    /// The environment of this process and the command line of its kernel.
    pub fn from_process() -> Self {
        // Bytes that are not UTF-8 become a replacement character, which no value may hold.
        let variable = |name: &str| {
            let value = std::env::var_os(name)?.to_string_lossy().into_owned();
            (!value.is_empty()).then_some(value)
        };
        let command_line = std::fs::read("/proc/cmdline");
        Self {
            aa_kbc_params: variable(AA_KBC_PARAMS),
            aa_socket: variable(AA_SOCKET),
            kbs_cert: variable(KBS_CERT),
            registry_credentials: variable(REGISTRY_CREDENTIALS),
            offline_fs_kbc_extra_file_path: variable(EXTRA_FILES),
            rust_log: variable("RUST_LOG"),
            kernel_command_line: command_line
                .ok()
                .map(|bytes| String::from_utf8_lossy(&bytes).into_owned()),
        }
    }
}

/// The value of an environment variable, with its name for errors.
pub(super) fn variable<'a>(
    variable: &'static str,
    value: Option<&'a String>,
) -> Option<Found<&'a str>> {
    let value = value
        .map(String::as_str)
        .filter(|value| !value.is_empty())?;
    Some(Found {
        value,
        origin: Origin::Environment { variable },
    })
}

/// The words of a kernel command line, `parameter=value` each.
#[derive(Debug, Default)]
pub(super) struct CommandLine {
    parameters: Vec<(String, String)>,
}

impl CommandLine {
    /// Splits `text` as the kernel does: at blanks, except between double quotes, which may stand
    /// around the value or around the whole word.
    pub(super) fn parse(text: &str) -> Self {
        let mut quoted = false;
        let words = text.split(|letter: char| {
            quoted ^= letter == '"';
            letter.is_ascii_whitespace() && !quoted
        });
        let parameters = words.map(|word| {
            let word = word
                .strip_prefix('"')
                .map_or(word, |word| word.strip_suffix('"').unwrap_or(word));
            let (parameter, value) = word.split_once('=').unwrap_or((word, ""));
            let value = value
                .strip_prefix('"')
                .map_or(value, |value| value.strip_suffix('"').unwrap_or(value));
            (parameter.to_owned(), value.to_owned())
        });
        Self {
            parameters: parameters.collect(),
        }
    }

    /// The value of `parameter`, if it has one. Two different values are an error: which one
    /// counts is told neither by the kernel nor by its documentation.
    pub(super) fn value(
        &self,
        parameter: &'static str,
    ) -> Result<Option<Found<&str>>, ConfigError> {
        let mut values = self
            .parameters
            .iter()
            .filter(|(name, value)| name == parameter && !value.is_empty())
            .map(|(_, value)| value.as_str());
        let Some(value) = values.next() else {
            return Ok(None);
        };
        let found = Found {
            value,
            origin: Origin::CommandLine { parameter },
        };
        match values.find(|other| *other != value) {
            None => Ok(Some(found)),
            Some(other) => Err(found.fault(Fault::Contradiction {
                first: value.to_owned(),
                second: other.to_owned(),
            })),
        }
    }

    /// The value of `parameter` if it is there at all: empty when it has none.
    pub(super) fn stated(
        &self,
        parameter: &'static str,
    ) -> Result<Option<Found<&str>>, ConfigError> {
        let found = self.value(parameter)?;
        let bare = self.has(parameter).then_some(Found {
            value: "",
            origin: Origin::CommandLine { parameter },
        });
        Ok(found.or(bare))
    }

    /// The parameters of the agents that are none of `known` and look like one, with that one.
    pub(super) fn misspelled(&self, known: &[&'static str]) -> Vec<(&str, &'static str)> {
        let bare = |name: &'static str| name.strip_prefix(PREFIX);
        let written = self.parameters.iter().map(|(name, _)| name.as_str());
        written
            .filter(|name| !known.contains(name))
            .filter_map(|name| {
                let candidates = known.iter().copied().filter_map(bare);
                let nearest = nearest(name.strip_prefix(PREFIX)?, candidates)?;
                let meant = known
                    .iter()
                    .copied()
                    .find(|name| bare(name) == Some(nearest))?;
                Some((name, meant))
            })
            .collect()
    }

    /// Whether `parameter` is there, whatever its value.
    pub(super) fn has(&self, parameter: &str) -> bool {
        self.parameters.iter().any(|(name, _)| name == parameter)
    }
}

/// What the kernel's parameters for kata-agent and for us begin with.
const PREFIX: &str = "agent.";
pub(super) const AA_KBC_PARAMS: &str = "AA_KBC_PARAMS";
pub(super) const AA_SOCKET: &str = "AA_SOCKET";
pub(super) const KBS_CERT: &str = "KBS_CERT";
pub(super) const REGISTRY_CREDENTIALS: &str =
    "CDH_DEFAULT_IMAGE_AUTHENTICATED_REGISTRY_CREDENTIALS";
pub(super) const EXTRA_FILES: &str = "OFFLINE_FS_KBC_EXTRA_FILE_PATH";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn command_line_is_split_as_the_kernel_splits_it() {
        let rows = [
            ("", "x", None),
            ("x", "x", None),
            ("x=", "x", None),
            ("x=1", "x", Some("1")),
            ("  a=b\tx=1\nquiet\n", "x", Some("1")),
            ("x=a=b", "x", Some("a=b")),
            ("x=\"a b\" y=2", "x", Some("a b")),
            ("x=\"a b\" y=2", "y", Some("2")),
            ("\"x=a b\" y=2", "x", Some("a b")),
            ("\"x=a b\" y=2", "y", Some("2")),
            ("x=\"\" y=2", "x", None),
            ("x=\"a b", "x", Some("a b")),
            ("xx=1 X=2", "x", None),
            ("x=1 x=1", "x", Some("1")),
        ];
        for (text, parameter, expected) in rows {
            let line = CommandLine::parse(text);
            let found = line.value(parameter).unwrap().map(|found| found.value);
            assert_eq!(found, expected, "{text:?}");
        }
    }

    #[test]
    fn parameters_that_look_like_ours_are_found_and_those_of_others_are_not() {
        let known = [
            "agent.image_policy_file",
            "agent.aa_kbc_params",
            "agent.http_proxy",
        ];
        let rows = [
            ("agent.aa_kbc_param=x", "agent.aa_kbc_params"),
            ("agent.image_policy_flie=x", "agent.image_policy_file"),
            ("agent.http-proxy", "agent.http_proxy"),
        ];
        for (text, expected) in rows {
            let line = CommandLine::parse(text);
            let name = text.split('=').next().unwrap();
            assert_eq!(line.misspelled(&known), [(name, expected)], "{text}");
        }
        let others = "aa_kbc_param=x agent.aa_kbc_params=x agent.log=debug agent.debug_console \
            agent.image_pull_timeout=1200 agent.cdh_api_timeout=50 agent.server_addr=x agent. \
            agent.guest_components_procs=none agent.config_file=x agent.policy_file=x quiet";
        assert_eq!(CommandLine::parse(others).misspelled(&known), []);
    }

    #[test]
    fn two_values_of_one_parameter_are_refused() {
        let line = CommandLine::parse("x=1 y=0 x=2");
        let error = line.value("x").unwrap_err();
        let ConfigError::Value { origin, source } = error else {
            panic!("{error:?}")
        };
        assert_eq!(origin, Origin::CommandLine { parameter: "x" });
        assert!(
            matches!(&*source, Fault::Contradiction { first, second } if first == "1" && second == "2"),
            "{source:?}"
        );
        assert_eq!(line.value("y").unwrap().unwrap().value, "0");
    }
}
