//! A stored signature is the message it holds, or reads the same when it is written again.
#![no_main]

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use fuzz::assert_printable;
use libfuzzer_sys::fuzz_target;
use policy::StoredSignature;

fuzz_target!(|data: &[u8]| match StoredSignature::parse(data.to_vec()) {
    Ok(StoredSignature::Simple(message)) => {
        assert_eq!(
            message,
            data.strip_prefix(b"\0simple-signing\n").unwrap_or(data)
        );
    }
    Ok(StoredSignature::Sigstore(found)) => {
        let payload = STANDARD.encode(&found.payload);
        let again = serde_json::json!({
            "mimeType": found.mime_type, "payload": payload, "annotations": found.annotations,
        });
        let again = format!("\0sigstore-json\n{again}").into_bytes();
        assert_eq!(
            StoredSignature::parse(again),
            Ok(StoredSignature::Sigstore(found))
        );
    }
    Ok(_) => {}
    Err(error) => assert_printable(&error),
});
