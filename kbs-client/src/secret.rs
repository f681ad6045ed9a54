//! Bytes that must not be seen.

use std::fmt;
use std::sync::Arc;

use zeroize::Zeroizing;

/// The content of a resource: wiped from memory when dropped, masked in `Debug`, impossible to
/// clone, print or serialize. [`expose`](Secret::expose) is the one way in, so that a search for
/// that word finds every place where a secret is read.
pub struct Secret(Arc<Zeroizing<Vec<u8>>>);

impl Secret {
    /// Takes charge of bytes that came by another way than this client.
    pub fn new(bytes: Zeroizing<Vec<u8>>) -> Self {
        Self(Arc::new(bytes))
    }

    /// The same bytes for one more owner; the last one wipes them.
    pub(crate) fn share(&self) -> Self {
        Self(Arc::clone(&self.0))
    }

    /// The bytes themselves. An empty resource is legal.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Secret(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_shows_neither_content_nor_length() {
        let secret = Secret::new(Zeroizing::new(b"hunter2".to_vec()));
        assert_eq!(format!("{secret:?}"), "Secret(..)");
        assert_eq!(secret.expose(), b"hunter2");
    }
}
