//! What was fetched, for as long as it may serve again. In memory only.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use crate::config::Freshness;
use crate::secret::Secret;
use crate::uri::ResourceUri;

/// Resources by name. Of each, one is kept.
#[derive(Debug)]
pub(crate) struct Cache {
    freshness: Freshness,
    entries: HashMap<ResourceUri, Entry>,
    /// How often everything was forgotten: what was asked for before then is not kept after it.
    epoch: u64,
}

#[derive(Debug)]
struct Entry {
    secret: Secret,
    asked: Instant,
}

impl Cache {
    pub(crate) fn new(freshness: Freshness) -> Self {
        Self {
            freshness,
            entries: HashMap::new(),
            epoch: 0,
        }
    }

    /// What need not be asked for again.
    pub(crate) fn fresh(&self, uri: &ResourceUri, now: Instant) -> Option<Secret> {
        self.younger_than(self.freshness.ttl, uri, now)
    }

    /// What may stand in for a KBS that cannot be reached.
    pub(crate) fn stale(&self, uri: &ResourceUri, now: Instant) -> Option<Secret> {
        self.younger_than(self.freshness.stale, uri, now)
    }

    /// The mark to [`keep`](Self::keep) with, taken before asking.
    pub(crate) fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Keeps what was asked for at `asked`, as long as that may be of use.
    pub(crate) fn keep(&mut self, uri: &ResourceUri, secret: &Secret, asked: Instant, epoch: u64) {
        let longest = self.freshness.ttl.max(self.freshness.stale);
        self.entries
            .retain(|_, entry| entry.asked.elapsed() < longest);
        if epoch != self.epoch || longest.is_zero() || self.entries.len() >= MOST {
            return;
        }
        let secret = secret.share();
        self.entries.insert(uri.clone(), Entry { secret, asked });
    }

    /// Forgets one: the KBS does not give it any more.
    pub(crate) fn forget(&mut self, uri: &ResourceUri) {
        self.entries.remove(uri);
    }

    /// Forgets everything, and what is being asked for at this moment, too.
    pub(crate) fn clear(&mut self) {
        self.entries.clear();
        self.epoch = self.epoch.wrapping_add(1);
    }

    fn younger_than(&self, age: Duration, uri: &ResourceUri, now: Instant) -> Option<Secret> {
        let entry = self.entries.get(uri)?;
        let is_younger = now.saturating_duration_since(entry.asked) < age;
        is_younger.then(|| entry.secret.share())
    }
}

/// Against names without end; a guest has a handful.
const MOST: usize = 1024;

#[cfg(test)]
mod tests {
    use zeroize::Zeroizing;

    use super::*;

    fn cache(ttl: u64, stale: u64) -> Cache {
        Cache::new(Freshness {
            ttl: Duration::from_secs(ttl),
            stale: Duration::from_secs(stale),
        })
    }

    fn secret() -> Secret {
        Secret::new(Zeroizing::new(b"secret".to_vec()))
    }

    fn uri(tag: usize) -> ResourceUri {
        format!("kbs:///a/b/{tag}").parse().unwrap()
    }

    #[test]
    fn serves_for_as_long_as_it_may() {
        let mut cache = cache(10, 100);
        let now = Instant::now();
        cache.keep(&uri(1), &secret(), now, 0);
        let after = |seconds| now + Duration::from_secs(seconds);
        for (seconds, fresh, stale) in [
            (0, true, true),
            (9, true, true),
            (10, false, true),
            (100, false, false),
        ] {
            let found = (
                cache.fresh(&uri(1), after(seconds)).is_some(),
                cache.stale(&uri(1), after(seconds)).is_some(),
            );
            assert_eq!(found, (fresh, stale), "{seconds}");
        }
        assert!(cache.fresh(&uri(2), now).is_none());
        cache.forget(&uri(1));
        assert!(cache.stale(&uri(1), now).is_none());
    }

    #[test]
    fn nothing_is_kept_by_default() {
        let mut cache = cache(0, 0);
        cache.keep(&uri(1), &secret(), Instant::now(), 0);
        assert!(cache.entries.is_empty());
    }

    #[test]
    fn what_was_asked_for_before_all_was_forgotten_is_not_kept() {
        let mut cache = cache(10, 0);
        let (now, epoch) = (Instant::now(), cache.epoch());
        cache.clear();
        cache.keep(&uri(1), &secret(), now, epoch);
        assert!(cache.fresh(&uri(1), now).is_none());
        cache.keep(&uri(1), &secret(), now, cache.epoch());
        assert!(cache.fresh(&uri(1), now).is_some());
    }

    #[test]
    fn number_of_names_is_limited() {
        let mut cache = cache(10, 0);
        for tag in 0..MOST + 10 {
            cache.keep(&uri(tag), &secret(), Instant::now(), 0);
        }
        assert_eq!(cache.entries.len(), MOST);
    }
}
