//! The crate from outside: archives in, directories out.
//!
//! These tests set owners, devices and `trusted.*` attributes, so they need root, and fail without.

mod adversarial;
mod fidelity;
mod kit;
mod metadata;
mod names;
mod properties;
mod stream;
mod whiteout;
