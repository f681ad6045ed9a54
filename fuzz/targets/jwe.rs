//! What opens is what was sealed.
#![no_main]

use std::sync::LazyLock;

use fuzz::assert_printable;
use kbs_client::TeeKey;
use libfuzzer_sys::fuzz_target;

static KEY: LazyLock<TeeKey> =
    LazyLock::new(|| TeeKey::from_pkcs8(include_bytes!("../keys/tee.pk8")).unwrap());

fuzz_target!(|data: &[u8]| match KEY.open(data) {
    Ok(secret) => assert_eq!(secret.expose(), b"sealed by another library"),
    Err(error) => {
        assert!(data != include_bytes!("../seeds/jwe/honest"), "{error}");
        assert_printable(&error);
    }
});
