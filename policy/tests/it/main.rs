//! The guarantees of the crate, through its public interface.
//!
//! The modules are marked as tests so that the lints for product code leave their helpers alone.

#[cfg(test)]
mod bundles;
#[cfg(test)]
mod certificates;
#[cfg(test)]
mod decide;
#[cfg(test)]
mod document;
#[cfg(test)]
mod extension;
#[cfg(test)]
mod guide;
#[cfg(test)]
mod holders;
#[cfg(test)]
mod image;
#[cfg(test)]
mod keys;
#[cfg(test)]
mod logs;
#[cfg(test)]
mod manifest;
#[cfg(test)]
mod properties;
#[cfg(test)]
mod simple;
#[cfg(test)]
mod support;
