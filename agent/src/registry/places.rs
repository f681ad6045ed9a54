//! The places that serve one image, in the order in which they are asked.
//!
//! A place is where bytes come from and nothing else: the policy judges what was asked for, and
//! what a place sends counts for what its digest is. So any place may stand in for any other.

use std::sync::Arc;

use super::Source;

/// At least one place: mirrors in the order of the configuration, then the one that the name means.
///
/// Each has its own connections, certificates, proxy and credentials.
#[derive(Debug, Clone)]
pub(crate) struct Places {
    first: Arc<Source>,
    others: Vec<Arc<Source>>,
    unasked: Vec<String>,
}

impl Places {
    /// `sources` in this order, unless there is none. Which others cannot be asked, and why, is kept
    /// for errors.
    ///
    /// All but the last are given up sooner than if there were nobody else to ask.
    pub(crate) fn of(sources: Vec<Source>, unasked: Vec<String>) -> Option<Self> {
        let last_host = sources.last().map(Source::place);
        let mut all = sources.into_iter().map(|source| {
            // Another way to the last place is no other place.
            let is_last = Some(source.place()) == last_host;
            Arc::new(if is_last { source } else { source.hasty() })
        });
        Some(Self {
            first: all.next()?,
            others: all.collect(),
            unasked,
        })
    }

    /// The place that is asked first; once the manifest is there, the one that has served it.
    pub(crate) fn first(&self) -> &Arc<Source> {
        &self.first
    }

    /// All of them.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Arc<Source>> {
        std::iter::once(&self.first).chain(&self.others)
    }

    /// All of them, each once, whatever ways there are to it.
    pub(crate) fn sources(&self) -> Vec<&Source> {
        let each = self.iter().filter(|source| !source.is_fallback());
        let first = self.first.is_fallback().then_some(&self.first);
        first.into_iter().chain(each).map(Arc::as_ref).collect()
    }

    /// `first`, which is one of these, and the places that come after it.
    pub(crate) fn beginning_at(&self, first: &Arc<Source>) -> Self {
        let after = self.iter().skip_while(|source| !Arc::ptr_eq(source, first));
        // What is only another way to the place that has just answered is nothing to ask later.
        let is_same = |source: &Source| source.is_fallback() && source.place() == first.place();
        let others = after.skip(1).filter(|source| !is_same(source));
        Self {
            first: Arc::clone(first),
            others: others.cloned().collect(),
            unasked: self.unasked.clone(),
        }
    }

    /// Whether credentials go to any of them.
    pub(crate) fn have_login(&self) -> bool {
        self.iter().any(|source| source.has_login())
    }

    /// These places, without those that `before` had none of any more.
    pub(crate) fn going_on_from(&self, before: &Self) -> Self {
        let is_first = |source: &&Arc<Source>| {
            let (place, first) = (source.place(), before.first());
            place == first.place() && source.is_fallback() == first.is_fallback()
        };
        let first = self.iter().find(is_first).unwrap_or(&self.first);
        self.beginning_at(first)
    }

    /// Which other places would serve the image, too, and why they cannot be asked.
    pub(crate) fn unasked(&self) -> &[String] {
        &self.unasked
    }
}
