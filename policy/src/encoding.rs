//! The two text encodings that keys and signatures come in.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use thiserror::Error;

/// Decodes standard base64 with padding; line breaks within it mean nothing, as in Go and in PEM.
pub(crate) fn decode_base64(text: &str) -> Result<Vec<u8>, base64::DecodeError> {
    let joined: String = text.chars().filter(|c| !matches!(c, '\r' | '\n')).collect();
    STANDARD.decode(joined)
}

pub(crate) fn encode_base64(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}

/// The label and content of a text that is exactly one PEM block (RFC 7468).
///
/// Lines may be of any length: keys are pasted into JSON and YAML by hand.
pub(crate) fn decode_pem(text: &[u8]) -> Result<(&str, Vec<u8>), PemError> {
    let text = str::from_utf8(text)?.trim();
    let (label, body) = text
        .strip_prefix("-----BEGIN ")
        .and_then(|rest| rest.split_once("-----"))
        .ok_or(PemError::NoBlock)?;
    let body = body
        .strip_suffix("-----")
        .and_then(|body| body.strip_suffix(label))
        .and_then(|body| body.strip_suffix("-----END "))
        .ok_or(PemError::NotOneBlock)?;
    if body.contains("-----") {
        return Err(PemError::NotOneBlock);
    }
    let joined: String = body.chars().filter(|c| !c.is_ascii_whitespace()).collect();
    Ok((label, STANDARD.decode(joined)?))
}

/// Whether the text looks like PEM rather than base64.
pub(crate) fn is_pem(text: &str) -> bool {
    text.trim_start().starts_with("-----BEGIN ")
}

/// Why a text is not one PEM block. Whoever stored the key is at fault.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum PemError {
    /// PEM is text.
    #[error("it is not text: {0}")]
    NotText(#[from] std::str::Utf8Error),
    /// Nothing begins with `-----BEGIN`.
    #[error("it does not begin with -----BEGIN")]
    NoBlock,
    /// The text does not end with the end of the block that it begins with.
    #[error("it is not exactly one PEM block")]
    NotOneBlock,
    /// What stands between the lines is not base64.
    #[error("its content is not base64: {0}")]
    NotBase64(#[from] base64::DecodeError),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_one_block_however_it_is_wrapped() {
        let rows: [&[u8]; 4] = [
            b"-----BEGIN X-----\nYWJj\n-----END X-----\n",
            b"\r\n-----BEGIN X-----\r\nYW\r\nJj\r\n-----END X-----\r\n\r\n",
            b"-----BEGIN X-----YWJj-----END X-----",
            b"-----BEGIN X-----\n  YWJj\n-----END X-----",
        ];
        for text in rows {
            assert_eq!(decode_pem(text), Ok(("X", b"abc".to_vec())));
        }
    }

    #[test]
    fn refuses_anything_but_one_block() {
        let block = "-----BEGIN X-----\nYWJj\n-----END X-----\n";
        let rows = [
            ("empty", String::new(), PemError::NoBlock),
            (
                "prose in front",
                format!("key:\n{block}"),
                PemError::NoBlock,
            ),
            (
                "two blocks",
                format!("{block}{block}"),
                PemError::NotOneBlock,
            ),
            ("prose behind", format!("{block}x"), PemError::NotOneBlock),
            (
                "other end",
                block.replace("END X", "END Y"),
                PemError::NotOneBlock,
            ),
            (
                "cut short",
                "-----BEGIN X-----\nYWJj".to_owned(),
                PemError::NotOneBlock,
            ),
        ];
        for (name, text, expected) in rows {
            assert_eq!(decode_pem(text.as_bytes()), Err(expected), "{name}");
        }
        let strange = decode_pem(b"-----BEGIN X-----\nY!Jj\n-----END X-----");
        assert_eq!(
            strange,
            Err(PemError::NotBase64(base64::DecodeError::InvalidByte(
                1, b'!'
            )))
        );
    }

    #[test]
    fn base64_ignores_line_breaks_and_nothing_else() {
        assert_eq!(decode_base64("YW\r\nJj\n"), Ok(b"abc".to_vec()));
        assert!(matches!(
            decode_base64("YW Jj"),
            Err(base64::DecodeError::InvalidByte(2, b' '))
        ));
        assert!(matches!(
            decode_base64("YWI"),
            Err(base64::DecodeError::InvalidPadding)
        ));
    }
}
