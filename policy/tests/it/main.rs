//! The guarantees of the crate, through its public interface.

mod decide;
mod document;
mod image;
mod keys;
mod manifest;
mod properties;
mod support;
