//! A log entry speaks for the signature that the log took in, at that time, and for no other.
#![no_main]

use std::sync::LazyLock;

use fuzz::assert_printable;
use fuzz::honest::{COSIGN_KEY, HONEST, LOG_KEY, TIME};
use libfuzzer_sys::fuzz_target;
use policy::{LogKey, open_log_entry};

static LOGS: LazyLock<[LogKey; 1]> = LazyLock::new(|| [LogKey::from_pem(LOG_KEY).unwrap()]);

fuzz_target!(|data: &[u8]| {
    let signature = str::from_utf8(HONEST.signature).unwrap();
    let open = |payload| open_log_entry(&*LOGS, data, COSIGN_KEY, signature, payload);
    match open(HONEST.payload) {
        Ok(time) => assert_eq!(time, TIME),
        Err(problem) => {
            assert!(data != HONEST.bundle, "{problem}");
            assert_printable(&problem);
        }
    }
    assert!(open(b"another payload").is_err());
});
