//! The two text encodings that keys and signatures come in.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use thiserror::Error;

/// Decodes standard base64 with padding; line breaks within it mean nothing, as in Go and in PEM.
pub(crate) fn decode_base64(text: &str) -> Result<Vec<u8>, base64::DecodeError> {
    // Hardly any has line breaks, so that they are not looked for at first.
    STANDARD.decode(text).or_else(|error| {
        if text.contains(['\r', '\n']) {
            STANDARD.decode(text.replace(['\r', '\n'], ""))
        } else {
            Err(error)
        }
    })
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

/// Like [`decode_pem`], with nothing behind the block but the end of its last line.
pub(crate) fn decode_lone_pem(text: &[u8]) -> Result<(&str, Vec<u8>), PemError> {
    let line = text.strip_suffix(b"\n").unwrap_or(text);
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    if line.last().is_some_and(u8::is_ascii_whitespace) {
        return Err(PemError::NotOneBlock);
    }
    decode_pem(line)
}

/// The labels and contents of PEM blocks, one after the other.
///
/// A line in front of a block says to people what it is (RFC 7468 section 5.2) and means nothing;
/// text behind the last one is a block that was cut off.
pub(crate) fn decode_pem_blocks(text: &[u8]) -> Result<Vec<(&str, Vec<u8>)>, PemError> {
    let mut blocks = Vec::new();
    let mut rest = str::from_utf8(text)?.trim();
    while !rest.is_empty() {
        let (_, block) = rest.split_once("-----BEGIN ").ok_or(PemError::NoBlock)?;
        let (label, block) = block.split_once("-----").ok_or(PemError::NotOneBlock)?;
        let end = format!("-----END {label}-----");
        let (body, after) = block.split_once(&end).ok_or(PemError::NotOneBlock)?;
        if body.contains("-----") {
            return Err(PemError::NotOneBlock);
        }
        let joined: String = body.chars().filter(|c| !c.is_ascii_whitespace()).collect();
        blocks.push((label, STANDARD.decode(joined)?));
        rest = after.trim();
    }
    Ok(blocks)
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
    fn reads_blocks_one_after_the_other() {
        let two = b"a root\n-----BEGIN X-----\nYWJj\n-----END X-----\n\nanother\n-----BEGIN Y-----\nYQ==\n-----END Y-----\n";
        let blocks = vec![("X", b"abc".to_vec()), ("Y", b"a".to_vec())];
        assert_eq!(decode_pem_blocks(two), Ok(blocks));
        assert_eq!(decode_pem_blocks(b" \n"), Ok(vec![]));
        let rows: [(&str, &[u8], PemError); 4] = [
            ("no block", b"x", PemError::NoBlock),
            (
                "text behind",
                b"-----BEGIN X-----\nYWJj\n-----END X-----\nx",
                PemError::NoBlock,
            ),
            (
                "cut off",
                b"-----BEGIN X-----\nYWJj\n",
                PemError::NotOneBlock,
            ),
            (
                "a block in a block",
                b"-----BEGIN X-----\n-----BEGIN Y-----\nYWJj\n-----END X-----\n",
                PemError::NotOneBlock,
            ),
        ];
        for (row, text, expected) in rows {
            assert_eq!(decode_pem_blocks(text), Err(expected), "{row}");
        }
    }

    #[test]
    fn a_lone_block_has_nothing_behind_it() {
        let block = "-----BEGIN X-----\nYWJj\n-----END X-----";
        for end in ["", "\n", "\r\n"] {
            let text = format!("{block}{end}");
            assert_eq!(decode_lone_pem(text.as_bytes()), Ok(("X", b"abc".to_vec())));
        }
        for end in ["\n\n", " ", " \n"] {
            let text = format!("{block}{end}");
            assert_eq!(decode_lone_pem(text.as_bytes()), Err(PemError::NotOneBlock));
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
