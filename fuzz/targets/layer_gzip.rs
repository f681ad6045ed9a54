//! The same of gzip; and what is unpacked is what another decoder makes of it.
#![no_main]

use std::io::Read;

use fuzz::assert_printable;
use fuzz::layer::{PLAIN, attempt};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let mut content = Vec::new();
    let decoder = flate2::bufread::MultiGzDecoder::new(data);
    // Of what cannot be decoded, the content is not what is left of it.
    if decoder.take(1 << 20).read_to_end(&mut content).is_err() {
        content = b"nothing".to_vec();
    }
    if let Err(error) = attempt(&format!("{PLAIN}+gzip"), data, &content, |_| {}) {
        assert_printable(&error);
    }
});
