#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

mod attester;
mod cache;
mod client;
mod clock;
mod config;
mod error;
mod handshake;
mod init_data;
mod jwe;
mod key;
mod lifetime;
mod messages;
mod offline;
mod protobuf;
mod secret;
mod tls;
mod transport;
mod ttrpc;
mod uri;

pub use attester::agent::{AgentError, AttestationAgent};
pub use attester::detect::{DetectError, DetectedAttester};
pub use attester::event_log::{EventLogError, tdx_evidence};
pub use attester::snp::{SnpError, snp_evidence};
pub use attester::tsm::{TsmAttester, TsmError, TsmProvider, TsmSettings};
pub use attester::{Attester, AttesterError, ReportData, SampleAttester};
pub use client::{Attestation, KbsClient};
pub use config::{Freshness, KbsConfig, SessionProof, Timeouts, Trust};
pub use error::{ConfigError, Error, Refusal, Unreachability};
pub use handshake::{
    Answer, Attested, Challenged, Evidence, Handshake, Method, PROTOCOL_VERSION, Request,
};
pub use init_data::{InitData, InitDataError};
pub use jwe::JweError;
pub use key::{KeyError, TeeKey, TeeKeyAlgorithm};
pub use offline::{OfflineError, OfflineFs};
pub use secret::Secret;
pub use uri::{ResourceUri, UriError};
