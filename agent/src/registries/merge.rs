//! One `registries.conf` out of several: the file itself and its drop-ins.

use super::Registries;
use crate::config::{ConfigError, Warning};

impl Registries {
    /// Parses a `registries.conf` and the drop-ins that complete it, in the order in which they
    /// count (containers-registries.conf.d(5)): an entry takes the place of an earlier one for the
    /// same prefix, an alias that of an earlier one for the same name,
    /// and `credential-helpers` that of an earlier list.
    pub fn parse_all<'t>(
        texts: impl IntoIterator<Item = &'t str>,
    ) -> Result<(Self, Vec<Warning>), ConfigError> {
        let (mut all, mut warnings) = (Self::default(), Vec::new());
        for text in texts {
            let (later, said) = Self::parse(text)?;
            all.complete(later);
            warnings.extend(said);
        }
        Ok((all, warnings))
    }

    fn complete(&mut self, later: Self) {
        for entry in later.entries {
            let same = |other: &&mut super::Entry| other.prefix == entry.prefix;
            match self.entries.iter_mut().find(same) {
                Some(earlier) => *earlier = entry,
                None => self.entries.push(entry),
            }
        }
        self.aliases.extend(later.aliases);
        if !later.helpers.is_empty() {
            self.helpers = later.helpers;
        }
    }
}
