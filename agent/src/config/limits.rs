//! The table `[image_agent.limits]`: its keys are the fields of [`Limits`].

use rootfs::Limits;

use super::{ConfigError, Section};

/// The limits that `section` sets, and the defaults of the rest.
pub(super) fn read(section: Option<Section<'_>>) -> Result<Limits, ConfigError> {
    let mut limits = Limits::default();
    let Some(mut section) = section else {
        return Ok(limits);
    };
    let fields = [
        ("unpacked_bytes", &mut limits.unpacked_bytes, MOST),
        ("image_bytes", &mut limits.image_bytes, MOST),
        ("ratio", &mut limits.ratio, MOST),
        ("ratio_free_bytes", &mut limits.ratio_free_bytes, MOST),
        ("entries", &mut limits.entries, MOST),
        ("path_bytes", &mut limits.path_bytes, PATH_MAX),
        ("path_depth", &mut limits.path_depth, PATH_MAX),
        ("header_bytes", &mut limits.header_bytes, MOST_IN_MEMORY),
        ("xattr_bytes", &mut limits.xattr_bytes, MOST),
        ("kept_bytes", &mut limits.kept_bytes, MOST),
    ];
    for (key, field, maximum) in fields {
        if let Some(number) = section.number(key, 1, maximum)? {
            *field = number;
        }
    }
    // RFC 8878 section 3.1.1.1.2: windows begin at 1 KiB; decoders stop at 2 GiB.
    let window = section.number("zstd_window_log", 10, 27)?;
    if let Some(log) = window.and_then(|log| u32::try_from(log).ok()) {
        limits.zstd_window_log = log;
    }
    section.finish()?;
    Ok(limits)
}

/// The largest integer of TOML.
const MOST: u64 = u64::MAX >> 1;
/// What is kept in memory as a whole stays within what a small guest has.
const MOST_IN_MEMORY: u64 = 64 << 20;
/// Linux `PATH_MAX`.
const PATH_MAX: u64 = 4096;
