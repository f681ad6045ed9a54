//! The crate from outside: archives in, directories out.
//!
//! These tests set owners, devices and `trusted.*` attributes, so they need root, and fail without.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::too_many_lines,
    reason = "tests fail by panicking, and a table is as long as what it lists"
)]

mod adversarial;
mod below;
mod exhaustion;
mod fidelity;
mod kit;
mod malformed;
mod metadata;
mod names;
mod properties;
mod reference;
mod stream;
mod whiteout;
