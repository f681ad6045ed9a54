//! The table `[image_agent.downloads]`.

use std::num::{NonZeroU32, NonZeroU64};

use super::{ConfigError, Section};

/// What is asked of registries, and how hard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DownloadSettings {
    /// How often one thing is asked for before it counts as not to be had, the first time
    /// included. An attempt that brought bytes is not counted. Default 5.
    pub attempts: NonZeroU32,
    /// The most bytes of layers that come in one second, all pulls together. Default: as many as
    /// the line carries.
    pub bytes_per_second: Option<NonZeroU64>,
    /// About how many bytes of memory fetching and unpacking layers takes, all pulls together.
    /// Default: enough for three large layers and some small ones, or for as many large ones as
    /// `max_concurrent_layer_downloads_per_image` says.
    pub memory_bytes: Option<NonZeroU64>,
}

impl Default for DownloadSettings {
    fn default() -> Self {
        Self {
            attempts: NonZeroU32::MIN.saturating_add(4),
            bytes_per_second: None,
            memory_bytes: None,
        }
    }
}

/// What `section` sets, and the defaults of the rest.
pub(super) fn read(section: Option<Section<'_>>) -> Result<DownloadSettings, ConfigError> {
    let mut settings = DownloadSettings::default();
    let Some(mut section) = section else {
        return Ok(settings);
    };
    let attempts = section.number("attempts", 1, MOST_ATTEMPTS)?;
    if let Some(attempts) = attempts.and_then(|attempts| u32::try_from(attempts).ok()) {
        settings.attempts = NonZeroU32::new(attempts).unwrap_or(settings.attempts);
    }
    let rate = section.number("bytes_per_second", LEAST_RATE, MOST)?;
    settings.bytes_per_second = rate.and_then(NonZeroU64::new);
    let memory = section.number("memory_bytes", LEAST_MEMORY, MOST)?;
    settings.memory_bytes = memory.and_then(NonZeroU64::new);
    section.finish()?;
    Ok(settings)
}

const MOST_ATTEMPTS: u64 = 100;
/// With less, a stream would wait longer than the deadline for its turn, and over HTTP/2 for the
/// megabytes after which the window of its connection is opened anew.
const LEAST_RATE: u64 = 128 << 10;
/// One large layer.
const LEAST_MEMORY: u64 = 4 << 20;
/// The largest integer of TOML.
const MOST: u64 = u64::MAX >> 1;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, Environment, Fault};

    fn parse(text: &str) -> Result<DownloadSettings, ConfigError> {
        let environment = Environment::default();
        Config::parse(text, &environment).map(|(config, _warnings)| config.image_agent.downloads)
    }

    #[test]
    fn keys_take_effect_and_what_is_not_said_has_a_default() {
        assert_eq!(parse("").unwrap(), DownloadSettings::default());
        let text = "[image_agent.downloads]\nattempts = 1\nbytes_per_second = 1000000\n\
            memory_bytes = 8388608\n";
        let expected = DownloadSettings {
            attempts: NonZeroU32::MIN,
            bytes_per_second: NonZeroU64::new(1_000_000),
            memory_bytes: NonZeroU64::new(8 << 20),
        };
        assert_eq!(parse(text).unwrap(), expected);
    }

    #[test]
    fn what_could_not_work_is_refused() {
        for (line, least) in [
            ("attempts = 0", 1),
            ("bytes_per_second = 1", LEAST_RATE),
            ("memory_bytes = 1", LEAST_MEMORY),
        ] {
            let error = parse(&format!("[image_agent.downloads]\n{line}\n")).unwrap_err();
            let is_out_of_range = matches!(&error, ConfigError::Value { source, .. }
                if matches!(**source, Fault::Range { minimum, .. } if minimum == least));
            assert!(is_out_of_range, "{line}: {error:?}");
        }
    }
}
