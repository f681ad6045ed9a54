//! What the fuzz targets share.
//!
//! A target takes any bytes at all and holds them to a property: what is read prints as what reads
//! the same, nothing leaves the staging directory, and nothing opens or is approved but what
//! [`honest`] signers made, whose private keys are gone. A broken property is a panic.

use std::error::Error;

pub mod honest;
pub mod layer;
pub mod payload;
pub mod tar;

/// Asserts that an error can be printed: its text, in which what others wrote is quoted, and those
/// of its causes are each in one line and can neither forge another nor steer a terminal.
pub fn assert_printable(error: &(dyn Error + 'static)) {
    let mut cause = Some(error);
    while let Some(error) = cause {
        let text = error.to_string();
        assert!(!text.contains(char::is_control), "{text:?}");
        cause = error.source();
    }
}

/// The parts of an input, which bytes of zero separate.
pub fn parts<const COUNT: usize>(data: &[u8]) -> Option<[&[u8]; COUNT]> {
    let parts: Vec<&[u8]> = data.splitn(COUNT, |byte| *byte == 0).collect();
    parts.try_into().ok()
}
