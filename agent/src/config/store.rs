//! The table `[image_agent.store]`.

use std::time::Duration;

use super::{ConfigError, Section};

/// How layers are got and kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoreSettings {
    /// How long fetching and unpacking a layer goes on when nobody waits for it any more, so that
    /// a caller who tries again after its deadline finds it further on. Default 300 s; 0 ends it
    /// at once.
    pub linger: Duration,
    /// Write a layer through to the disk before it counts as there. Default false: within one boot,
    /// which is as long as a layer is believed, the kernel keeps what it has been given.
    pub sync: bool,
    /// Mount bundles so that the kernel never waits for the disk on behalf of what a container
    /// writes. Default false.
    pub volatile: bool,
    /// Where no overlay can be mounted, as in a kernel without overlayfs, make a bundle of copies of
    /// its layers instead, which takes time and as much room again. Default false: the pull fails.
    pub copy_without_overlay: bool,
}

impl Default for StoreSettings {
    fn default() -> Self {
        Self {
            linger: Duration::from_mins(5),
            sync: false,
            volatile: false,
            copy_without_overlay: false,
        }
    }
}

/// What `section` sets, and the defaults of the rest.
pub(super) fn read(section: Option<Section<'_>>) -> Result<StoreSettings, ConfigError> {
    let mut settings = StoreSettings::default();
    let Some(mut section) = section else {
        return Ok(settings);
    };
    if let Some(seconds) = section.number("linger", 0, DAY)? {
        settings.linger = Duration::from_secs(seconds);
    }
    settings.sync = section.flag("sync")?;
    settings.volatile = section.flag("volatile")?;
    settings.copy_without_overlay = section.flag("copy_without_overlay")?;
    section.finish()?;
    Ok(settings)
}

const DAY: u64 = 24 * 60 * 60;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, Environment, Fault};

    fn parse(text: &str) -> Result<StoreSettings, ConfigError> {
        let environment = Environment::default();
        Config::parse(text, &environment).map(|(config, _warnings)| config.image_agent.store)
    }

    #[test]
    fn keys_take_effect_and_what_is_not_said_has_a_default() {
        assert_eq!(parse("").unwrap(), StoreSettings::default());
        let text = "[image_agent.store]\nlinger = 0\nsync = true\nvolatile = true\n\
            copy_without_overlay = true\n";
        let expected = StoreSettings {
            linger: Duration::ZERO,
            sync: true,
            volatile: true,
            copy_without_overlay: true,
        };
        assert_eq!(parse(text).unwrap(), expected);
    }

    #[test]
    fn nothing_lingers_for_more_than_a_day() {
        let error = parse("[image_agent.store]\nlinger = 86401\n").unwrap_err();
        let is_out_of_range = matches!(&error, ConfigError::Value { source, .. }
            if matches!(**source, Fault::Range { maximum: DAY, .. }));
        assert!(is_out_of_range, "{error:?}");
    }
}
