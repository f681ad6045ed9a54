#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

mod attester;
mod client;
mod config;
mod error;
mod handshake;
mod jwe;
mod key;
mod lifetime;
mod messages;
mod offline;
mod secret;
mod transport;
mod uri;

pub use attester::{Attester, AttesterError, ReportData, SampleAttester};
pub use client::KbsClient;
pub use config::{KbsConfig, Timeouts};
pub use error::{ConfigError, Error, Refusal, Unreachability};
pub use handshake::{
    Answer, Attested, Challenged, Evidence, Handshake, Method, PROTOCOL_VERSION, Request,
};
pub use jwe::JweError;
pub use key::{KeyError, TeeKey, TeeKeyAlgorithm};
pub use offline::{OfflineError, OfflineFs};
pub use secret::Secret;
pub use uri::{ResourceUri, UriError};
