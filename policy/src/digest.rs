//! Content digests: the only place that knows `algorithm:hex`.

use std::fmt;
use std::str::FromStr;

use aws_lc_rs::digest as hash;
use thiserror::Error;

/// A content digest as OCI image-spec, descriptor.md ("Digests") registers them.
///
/// The hexadecimal form is lower case and of the exact length of the algorithm, so equal digests
/// have equal text.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest(Bytes);

impl Digest {
    /// The sha256 digest of `content`.
    pub fn sha256_of(content: &[u8]) -> Self {
        Self::of(Algorithm::Sha256, content)
    }

    /// The digest of `content` under `algorithm`.
    pub fn of(algorithm: Algorithm, content: &[u8]) -> Self {
        let mut hasher = Hasher::new(algorithm);
        hasher.update(content);
        hasher.finish()
    }

    /// Whether `content` has this digest.
    pub fn matches(&self, content: &[u8]) -> bool {
        Self::of(self.algorithm(), content) == *self
    }

    /// The algorithm.
    pub fn algorithm(&self) -> Algorithm {
        match self.0 {
            Bytes::Sha256(_) => Algorithm::Sha256,
            Bytes::Sha384(_) => Algorithm::Sha384,
            Bytes::Sha512(_) => Algorithm::Sha512,
        }
    }

    /// The digest bytes in lower-case hexadecimal, without the algorithm.
    pub fn hex(&self) -> String {
        self.bytes()
            .iter()
            .flat_map(|byte| [byte >> 4, byte & 15])
            .map(hex_digit)
            .collect()
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        match &self.0 {
            Bytes::Sha256(bytes) => bytes,
            Bytes::Sha384(bytes) => bytes,
            Bytes::Sha512(bytes) => bytes,
        }
    }
}

impl FromStr for Digest {
    type Err = DigestError;

    fn from_str(text: &str) -> Result<Self, DigestError> {
        let (name, hex) = text.split_once(':').ok_or(DigestError::NoColon)?;
        let algorithm =
            Algorithm::from_name(name).ok_or_else(|| DigestError::UnknownAlgorithm {
                algorithm: name.to_owned(),
            })?;
        match algorithm {
            Algorithm::Sha256 => parse_hex(algorithm, hex).map(Bytes::Sha256),
            Algorithm::Sha384 => parse_hex(algorithm, hex).map(Bytes::Sha384),
            Algorithm::Sha512 => parse_hex(algorithm, hex).map(Bytes::Sha512),
        }
        .map(Self)
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.algorithm(), self.hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl serde::Serialize for Digest {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// The digest algorithms that image references and signatures may name.
///
/// Complete: the OCI registry of algorithms that today's tools accept has no others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Algorithm {
    /// SHA-256, 32 bytes.
    Sha256,
    /// SHA-384, 48 bytes.
    Sha384,
    /// SHA-512, 64 bytes.
    Sha512,
}

impl Algorithm {
    /// The name in front of the colon.
    pub fn name(self) -> &'static str {
        match self {
            Self::Sha256 => "sha256",
            Self::Sha384 => "sha384",
            Self::Sha512 => "sha512",
        }
    }

    fn from_name(name: &str) -> Option<Self> {
        [Self::Sha256, Self::Sha384, Self::Sha512]
            .into_iter()
            .find(|known| known.name() == name)
    }
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Computes a [`Digest`] of content that arrives in pieces.
#[derive(Clone)]
pub struct Hasher {
    algorithm: Algorithm,
    context: hash::Context,
}

impl Hasher {
    /// Starts a digest under `algorithm`; to check content against a digest, take its algorithm.
    pub fn new(algorithm: Algorithm) -> Self {
        let context = hash::Context::new(match algorithm {
            Algorithm::Sha256 => &hash::SHA256,
            Algorithm::Sha384 => &hash::SHA384,
            Algorithm::Sha512 => &hash::SHA512,
        });
        Self { algorithm, context }
    }

    /// Adds the next piece.
    pub fn update(&mut self, piece: &[u8]) {
        self.context.update(piece);
    }

    /// The digest of everything added.
    pub fn finish(self) -> Digest {
        let output = self.context.finish();
        Digest(match self.algorithm {
            Algorithm::Sha256 => Bytes::Sha256(sized(output.as_ref())),
            Algorithm::Sha384 => Bytes::Sha384(sized(output.as_ref())),
            Algorithm::Sha512 => Bytes::Sha512(sized(output.as_ref())),
        })
    }
}

impl fmt::Debug for Hasher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hasher")
            .field("algorithm", &self.algorithm)
            .finish_non_exhaustive()
    }
}

/// Why a text is not a digest. Whoever wrote the text is at fault.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum DigestError {
    /// There is no `algorithm:` in front.
    #[error("a digest is written algorithm:hex, there is no colon")]
    NoColon,
    /// The algorithm is none of sha256, sha384, sha512.
    #[error("unknown digest algorithm {algorithm:?}, known are sha256, sha384 and sha512")]
    UnknownAlgorithm {
        /// What stands before the colon.
        algorithm: String,
    },
    /// The hexadecimal part has the wrong length.
    #[error("a {algorithm} digest has {expected} hexadecimal digits, found {found}")]
    Length {
        /// The algorithm named.
        algorithm: Algorithm,
        /// Its number of digits.
        expected: usize,
        /// The number of bytes after the colon.
        found: usize,
    },
    /// A character is not one of `0-9a-f`.
    #[error("a digest has lower-case hexadecimal digits only")]
    NotLowerHex,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Bytes {
    Sha256([u8; 32]),
    Sha384([u8; 48]),
    Sha512([u8; 64]),
}

fn parse_hex<const N: usize>(algorithm: Algorithm, hex: &str) -> Result<[u8; N], DigestError> {
    if hex.len() != 2 * N {
        return Err(DigestError::Length {
            algorithm,
            expected: 2 * N,
            found: hex.len(),
        });
    }
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(hex.as_bytes().as_chunks::<2>().0) {
        let [high, low] = pair.map(hex_value);
        *byte = high.ok_or(DigestError::NotLowerHex)? << 4 | low.ok_or(DigestError::NotLowerHex)?;
    }
    Ok(bytes)
}

fn hex_value(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    }
}

fn hex_digit(value: u8) -> char {
    char::from(if value < 10 {
        b'0' + value
    } else {
        b'a' + (value - 10)
    })
}

/// The output of an algorithm has its length by construction; a shorter one would leave zeros,
/// which match no content.
fn sized<const N: usize>(output: &[u8]) -> [u8; N] {
    let mut bytes = [0; N];
    for (to, from) in bytes.iter_mut().zip(output) {
        *to = *from;
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prints_the_known_digests_of_abc() {
        let rows = [
            (
                Algorithm::Sha256,
                "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
            ),
            (
                Algorithm::Sha384,
                "sha384:cb00753f45a35e8bb5a03d699ac65007272c32ab0eded1631a8b605a43ff5bed\
                 8086072ba1e7cc2358baeca134c825a7",
            ),
            (
                Algorithm::Sha512,
                "sha512:ddaf35a193617abacc417349ae20413112e6fa4e89a97ea20a9eeee64b55d39a\
                 2192992a274fc1a836ba3c23a3feebbd454d4423643ce80e2a9ac94fa54ca49f",
            ),
        ];
        for (algorithm, text) in rows {
            let digest = Digest::of(algorithm, b"abc");
            assert_eq!(digest.to_string(), text);
            assert_eq!(text.parse(), Ok(digest));
            assert!(digest.matches(b"abc"));
            assert!(!digest.matches(b"abd"));
        }
    }

    #[test]
    fn refuses_whatever_is_not_exactly_a_digest() {
        let short = DigestError::Length {
            algorithm: Algorithm::Sha256,
            expected: 64,
            found: 63,
        };
        let long = DigestError::Length {
            algorithm: Algorithm::Sha256,
            expected: 64,
            found: 65,
        };
        let unknown = |name: &str| DigestError::UnknownAlgorithm {
            algorithm: name.to_owned(),
        };
        let rows = [
            ("no colon", "sha256".to_owned(), DigestError::NoColon),
            ("short", format!("sha256:{}", "a".repeat(63)), short),
            ("long", format!("sha256:{}", "a".repeat(65)), long),
            (
                "upper-case hex",
                format!("sha256:{}", "A".repeat(64)),
                DigestError::NotLowerHex,
            ),
            (
                "path traversal",
                format!("sha256:../..{}", "a".repeat(59)),
                DigestError::NotLowerHex,
            ),
            (
                "upper-case name",
                format!("SHA256:{}", "a".repeat(64)),
                unknown("SHA256"),
            ),
            (
                "leading space",
                format!(" sha256:{}", "a".repeat(64)),
                unknown(" sha256"),
            ),
            ("md5", format!("md5:{}", "a".repeat(32)), unknown("md5")),
        ];
        for (name, text, expected) in rows {
            assert_eq!(text.parse::<Digest>(), Err(expected), "{name}");
        }
    }

    #[test]
    fn pieces_hash_as_the_whole() {
        let mut hasher = Hasher::new(Algorithm::Sha256);
        hasher.update(b"a");
        hasher.update(b"");
        hasher.update(b"bc");
        assert_eq!(hasher.finish(), Digest::sha256_of(b"abc"));
    }
}
