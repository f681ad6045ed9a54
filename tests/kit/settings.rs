//! The daemon's configuration file, key by key.

use std::fmt;

use toml::{Table, Value};

/// A `cdh.toml` under construction; keys are dotted paths.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Settings(Table);

impl Settings {
    /// With this value under this key, whatever was there before.
    #[must_use]
    pub fn with(mut self, key: &str, value: impl Into<Value>) -> Self {
        let (tables, last) = key.rsplit_once('.').map_or(("", key), |split| split);
        let parent =
            tables
                .split('.')
                .filter(|name| !name.is_empty())
                .fold(&mut self.0, |table, name| {
                    table
                        .entry(name)
                        .or_insert_with(|| Value::Table(Table::new()))
                        .as_table_mut()
                        .unwrap_or_else(|| panic!("`{name}` of `{key}` is not a table"))
                });
        parent.insert(last.to_owned(), value.into());
        self
    }

    /// Without this key.
    #[must_use]
    pub fn without(mut self, key: &str) -> Self {
        let (tables, last) = key.rsplit_once('.').map_or(("", key), |split| split);
        let parent = tables
            .split('.')
            .filter(|name| !name.is_empty())
            .try_fold(&mut self.0, |table, name| {
                table.get_mut(name)?.as_table_mut()
            });
        if let Some(parent) = parent {
            parent.remove(last);
        }
        self
    }

    /// With plain http allowed to the registry at `host`.
    #[must_use]
    pub fn insecure_registry(mut self, host: &str) -> Self {
        const KEY: &str = "image.registry_config.registry";
        let mut entry = Table::new();
        entry.insert("location".to_owned(), host.into());
        entry.insert("insecure".to_owned(), true.into());
        let mut registries = self.array(KEY);
        registries.push(Value::Table(entry));
        self = self.with(KEY, registries);
        self
    }

    fn array(&self, key: &str) -> Vec<Value> {
        let found = key
            .split('.')
            .try_fold(None::<&Value>, |at, name| match at {
                None => self.0.get(name).map(Some),
                Some(value) => value.get(name).map(Some),
            });
        found
            .flatten()
            .and_then(Value::as_array)
            .cloned()
            .unwrap_or_default()
    }
}

impl fmt::Display for Settings {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}", self.0)
    }
}
