//! The same of zstd; and what is unpacked is what another decoder makes of it.
#![no_main]

use std::io::Read;

use fuzz::assert_printable;
use fuzz::layer::{PLAIN, attempt};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let mut content = Vec::new();
    let mut decoder = zstd::Decoder::with_buffer(data).unwrap();
    decoder.window_log_max(20).unwrap();
    // Of what cannot be decoded, the content is not what is left of it.
    if decoder.take(1 << 20).read_to_end(&mut content).is_err() {
        content = b"nothing".to_vec();
    }
    if let Err(error) = attempt(&format!("{PLAIN}+zstd"), data, &content, |_| {}) {
        assert_printable(&error);
    }
});
