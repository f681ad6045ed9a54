//! The ttrpc interface, generated from `proto/api.proto` by `make proto` and committed; `make lint`
//! fails when it is stale.

#![allow(
    unreachable_pub,
    missing_debug_implementations,
    elided_lifetimes_in_paths,
    clippy::pedantic,
    clippy::as_conversions,
    clippy::unwrap_used,
    clippy::allow_attributes_without_reason,
    reason = "the generator's style is not ours"
)]

pub(crate) mod api;
pub(crate) mod api_ttrpc;
