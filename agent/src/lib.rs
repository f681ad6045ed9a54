//! image-agent: the daemon inside a confidential VM that pulls, verifies and unpacks images.
//!
//! ```text
//! "reg/app:1"  parse        resolve                 decide                   with_config
//!    String ───────► ImageRef ──► Unverified<Manifest> ──► Approved<Manifest> ──► Approved<Image>
//!                         registry        ▲ rules.needs() ► gather ► Evidence            │ layers()
//!                                                                                        ▼
//!    digest ◄── Bundle ◄── [StoredLayer] ◄─publish─ Staging ◄─untar─ sha(diff_id) ◄─ inflate ◄─ sha(blob)
//!           assemble
//! ```
//!
//! [`pull`] is that line; every other module serves one step of it. What is decided, and by whom,
//! is the business of the [`policy`] crate; what reaches the disk, that of [`rootfs`].

mod accounts;
pub mod auth;
mod blocking;
mod bundle;
pub mod certs;
pub mod challenge;
pub mod cli;
pub mod config;
mod credentials;
mod discovery;
mod documents;
pub mod error;
mod evidence;
mod flight;
mod generated;
mod handle;
mod helper;
mod layers;
mod logging;
mod lookaside;
mod memory;
mod mount;
mod mountinfo;
mod prefetch;
mod printable;
pub mod progress;
pub mod pull;
pub mod record;
pub mod registries;
mod registry;
mod resources;
mod room;
pub mod serve;
mod service;
mod socket;
mod sources;
mod spec;
mod status;
mod store;
mod user;
