//! A TOML document, read key by key.
//!
//! A [`Section`] learns which keys exist by being asked for them; [`Section::finish`] then refuses
//! the rest. So there is no second list of names that could differ from the code that reads them.

use toml::Spanned;
use toml::de::{DeArray, DeTable, DeValue};

use super::error::{ConfigError, Fault, Origin, Position};
use super::nearest::nearest;

/// A document: its text, for positions, and its tables.
pub(crate) struct Document<'t> {
    text: &'t str,
    table: Spanned<DeTable<'t>>,
}

impl<'t> Document<'t> {
    /// Parses `text`. The parser's message names no value, only what it expected.
    pub(crate) fn parse(text: &'t str) -> Result<Self, ConfigError> {
        let table = DeTable::parse(text).map_err(|error| ConfigError::Syntax {
            at: Position::of(error.span().map_or(text.len(), |span| span.start), text),
            message: error.message().trim_end().replace('\n', ", "),
        })?;
        Ok(Self { text, table })
    }

    /// The table that all others are in.
    pub(crate) fn root(&self) -> Section<'_> {
        Section::new(
            String::new(),
            self.text,
            self.table.span().start,
            self.table.get_ref(),
        )
    }
}

/// A value and where it was written.
#[derive(Debug, Clone)]
pub(crate) struct Found<T> {
    /// The value.
    pub(crate) value: T,
    /// Where it was written.
    pub(crate) origin: Origin,
}

impl<T> Found<T> {
    /// The value as `parse` understands it; its objection gets the place.
    pub(crate) fn parse<U>(
        self,
        parse: impl FnOnce(T) -> Result<U, Fault>,
    ) -> Result<U, ConfigError> {
        parse(self.value).map_err(|source| ConfigError::Value {
            origin: self.origin,
            source: Box::new(source),
        })
    }

    /// An objection to this value.
    pub(crate) fn fault(&self, source: Fault) -> ConfigError {
        ConfigError::Value {
            origin: self.origin.clone(),
            source: Box::new(source),
        }
    }
}

/// A table, and which of its keys have been asked for.
pub(crate) struct Section<'d> {
    path: String,
    text: &'d str,
    start: usize,
    entries: &'d DeTable<'d>,
    known: Vec<&'static str>,
}

impl<'d> Section<'d> {
    fn new(path: String, text: &'d str, start: usize, entries: &'d DeTable<'d>) -> Self {
        Self {
            path,
            text,
            start,
            entries,
            known: Vec::new(),
        }
    }

    /// The text at `key`.
    pub(crate) fn string(
        &mut self,
        key: &'static str,
    ) -> Result<Option<Found<&'d str>>, ConfigError> {
        self.read(key, "a string", |value| value.as_str())
    }

    /// The text at `key`, as `parse` understands it.
    pub(crate) fn parsed<T>(
        &mut self,
        key: &'static str,
        parse: impl FnOnce(&'d str) -> Result<T, Fault>,
    ) -> Result<Option<T>, ConfigError> {
        self.string(key)?
            .map(|found| found.parse(parse))
            .transpose()
    }

    /// The yes or no at `key`; `false` without one.
    pub(crate) fn flag(&mut self, key: &'static str) -> Result<bool, ConfigError> {
        Ok(self.boolean(key)?.is_some_and(|found| found.value))
    }

    /// The yes or no at `key`.
    pub(crate) fn boolean(
        &mut self,
        key: &'static str,
    ) -> Result<Option<Found<bool>>, ConfigError> {
        self.read(key, "true or false", DeValue::as_bool)
    }

    /// The number at `key`, from `minimum` to `maximum`.
    pub(crate) fn number(
        &mut self,
        key: &'static str,
        minimum: u64,
        maximum: u64,
    ) -> Result<Option<u64>, ConfigError> {
        let Some(found) = self.read(key, "an integer", DeValue::as_integer)? else {
            return Ok(None);
        };
        let in_range = |integer: &toml::de::DeInteger<'_>| {
            u64::from_str_radix(integer.as_str(), integer.radix())
                .ok()
                .filter(|number| (minimum..=maximum).contains(number))
                .ok_or_else(|| Fault::Range {
                    found: integer.to_string(),
                    minimum,
                    maximum,
                })
        };
        found.parse(in_range).map(Some)
    }

    /// The list of texts at `key`; empty without one.
    pub(crate) fn strings(
        &mut self,
        key: &'static str,
    ) -> Result<Vec<Found<&'d str>>, ConfigError> {
        let Some(list) = self.array(key, "a list of strings")? else {
            return Ok(Vec::new());
        };
        list.iter()
            .map(|item| self.convert(key, item, "a string", |value| value.as_str()))
            .collect()
    }

    /// The table at `key`.
    pub(crate) fn section(&mut self, key: &'static str) -> Result<Option<Self>, ConfigError> {
        let table = self.read(key, "a table", as_table)?;
        let Some(table) = table else { return Ok(None) };
        let start = self
            .entries
            .get(key)
            .map_or(self.start, |value| value.span().start);
        Ok(Some(Self::new(
            self.path_of(key),
            self.text,
            start,
            table.value,
        )))
    }

    /// The list of tables at `key`; empty without one.
    pub(crate) fn sections(&mut self, key: &'static str) -> Result<Vec<Self>, ConfigError> {
        let Some(list) = self.array(key, "a list of tables")? else {
            return Ok(Vec::new());
        };
        list.iter()
            .enumerate()
            .map(|(index, item)| {
                let table = self.convert(key, item, "a table", as_table)?.value;
                let path = format!("{}[{index}]", self.path_of(key));
                Ok(Self::new(path, self.text, item.span().start, table))
            })
            .collect()
    }

    /// The names and texts of a table that is a dictionary: any name is legal.
    pub(crate) fn dictionary(self) -> Result<Vec<(&'d str, Found<&'d str>)>, ConfigError> {
        self.entries
            .iter()
            .map(|(key, item)| {
                let name: &str = key.get_ref();
                let found = self.convert(name, item, "a string", |value| value.as_str())?;
                Ok((name, found))
            })
            .collect()
    }

    /// Refuses every key that was not asked for.
    pub(crate) fn finish(self) -> Result<(), ConfigError> {
        let is_unknown = |key: &&Spanned<_>| {
            let name: &toml::de::DeString<'_> = key.get_ref();
            !self.known.contains(&name.as_ref())
        };
        let first = self
            .entries
            .keys()
            .filter(is_unknown)
            .min_by_key(|key| key.span().start);
        let Some(key) = first else { return Ok(()) };
        Err(ConfigError::UnknownKey {
            key: self.path_of(key.get_ref()),
            at: Position::of(key.span().start, self.text),
            nearest: nearest(key.get_ref(), self.known.iter().copied()).map(str::to_owned),
        })
    }

    /// That `key` is missing from this table. To be asked after [`Section::finish`] would have
    /// found a misspelled one.
    pub(crate) fn missing(&self, key: &str) -> ConfigError {
        ConfigError::Missing {
            key: self.path_of(key),
            at: Position::of(self.start, self.text),
        }
    }

    /// `key` with the tables that it is in.
    pub(crate) fn path_of(&self, key: &str) -> String {
        if self.path.is_empty() {
            key.to_owned()
        } else {
            format!("{}.{key}", self.path)
        }
    }

    fn array(
        &mut self,
        key: &'static str,
        expected: &'static str,
    ) -> Result<Option<&'d DeArray<'d>>, ConfigError> {
        let found = self.read(key, expected, |value| match value {
            DeValue::Array(list) => Some(list),
            _ => None,
        })?;
        Ok(found.map(|found| found.value))
    }

    fn read<T>(
        &mut self,
        key: &'static str,
        expected: &'static str,
        convert: impl FnOnce(&'d DeValue<'d>) -> Option<T>,
    ) -> Result<Option<Found<T>>, ConfigError> {
        self.known.push(key);
        let entries = self.entries;
        entries
            .get(key)
            .map(|value| self.convert(key, value, expected, convert))
            .transpose()
    }

    fn convert<T>(
        &self,
        key: &str,
        value: &'d Spanned<DeValue<'d>>,
        expected: &'static str,
        convert: impl FnOnce(&'d DeValue<'d>) -> Option<T>,
    ) -> Result<Found<T>, ConfigError> {
        let (key, at) = (
            self.path_of(key),
            Position::of(value.span().start, self.text),
        );
        let found = type_name(value.get_ref());
        convert(value.get_ref())
            .map(|value| Found {
                value,
                origin: Origin::File {
                    key: key.clone(),
                    at,
                },
            })
            .ok_or(ConfigError::WrongType {
                key,
                at,
                expected,
                found,
            })
    }
}

fn as_table<'d>(value: &'d DeValue<'d>) -> Option<&'d DeTable<'d>> {
    match value {
        DeValue::Table(table) => Some(table),
        _ => None,
    }
}

fn type_name(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "an integer",
        DeValue::Float(_) => "a floating-point number",
        DeValue::Boolean(_) => "a boolean",
        DeValue::Datetime(_) => "a date or time",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}
