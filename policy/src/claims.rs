//! What a signer says beside digest and reference: signed, and only as true as the signer is.

use std::collections::BTreeMap;

/// The `optional` part of a payload.
///
/// It comes from signed bytes alone; annotations that stand beside a signature never get here.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Claims {
    /// When it was signed by the signer's clock, in seconds since 1970.
    pub(crate) timestamp: Option<i64>,
    /// The members that are texts.
    pub(crate) annotations: BTreeMap<String, String>,
}
