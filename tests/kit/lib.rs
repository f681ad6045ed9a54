//! Test kit: the world that the daemon lives in, made at run time and gone with the test.
//!
//! Nothing here leaves loopback, and nothing shares code with what it tests: the registry is the
//! distribution's, signatures are made by openssl, ttrpc messages are encoded by hand.
#![expect(
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a set-up that breaks must fail the test, with the place where it broke"
)]

pub mod archive;
pub mod attestation_agent;
pub mod authority;
pub mod client;
pub mod cosign;
pub mod delay;
pub mod files;
pub mod front;
pub mod guest;
pub mod hostile;
pub mod image;
pub mod kbs;
pub mod line;
pub mod programs;
pub mod registry;
pub mod scene;
pub mod settings;
pub mod sigstore;
pub mod token_server;
pub mod tsm;
pub mod ways;

#[cfg(test)]
mod tests;
