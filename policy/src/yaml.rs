//! As much of YAML as configuration needs, with one reading only.
//!
//! The parser of events is `saphyr-parser`; this refuses what makes two readings or large memory
//! out of few bytes: duplicate keys, aliases, tags, more than one document, deep nesting.

use saphyr_parser::{Event, Parser, ScalarStyle, ScanError, Span};
use thiserror::Error;

/// A value of a document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Yaml {
    Scalar { text: String, is_plain: bool },
    Sequence(Vec<Yaml>),
    Mapping(Vec<(String, Yaml)>),
}

impl Yaml {
    /// Reads a text with at most one document; an empty one has the value null.
    pub(crate) fn parse(document: &[u8]) -> Result<Self, YamlProblem> {
        if document.len() > MAX_BYTES {
            let found = document.len();
            return Err(YamlProblem::TooLarge { found });
        }
        let text = std::str::from_utf8(document)?;
        let mut reader = Reader {
            parser: Parser::new_from_str(text),
        };
        reader.document()
    }

    pub(crate) fn is_null(&self) -> bool {
        match self {
            Self::Scalar { text, is_plain } => *is_plain && NULLS.contains(&text.as_str()),
            Self::Sequence(_) | Self::Mapping(_) => false,
        }
    }

    pub(crate) fn text(&self) -> Option<&str> {
        match self {
            Self::Scalar { text, .. } => Some(text),
            Self::Sequence(_) | Self::Mapping(_) => None,
        }
    }

    /// A truth value as YAML 1.2 has it; `yes` and `on` are texts.
    pub(crate) fn truth(&self) -> Option<bool> {
        match self {
            Self::Scalar {
                text,
                is_plain: true,
            } => match text.as_str() {
                "true" | "True" | "TRUE" => Some(true),
                "false" | "False" | "FALSE" => Some(false),
                _ => None,
            },
            _ => None,
        }
    }

    pub(crate) fn members(&self) -> Option<&[(String, Yaml)]> {
        match self {
            Self::Mapping(members) => Some(members),
            Self::Scalar { .. } | Self::Sequence(_) => None,
        }
    }
}

/// What can be wrong with a YAML document. Whoever wrote it is at fault.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum YamlProblem {
    /// More than configuration has.
    #[error("it has {found} bytes, at most {MAX_BYTES} are read")]
    TooLarge {
        /// The size.
        found: usize,
    },
    /// The bytes are not UTF-8.
    #[error("it is not UTF-8: {0}")]
    NotUtf8(#[from] std::str::Utf8Error),
    /// The grammar does not allow it.
    #[error("{0}")]
    Syntax(#[from] ScanError),
    /// A key stands twice in one mapping.
    #[error("line {line}: duplicate key {key:?}")]
    DuplicateKey {
        /// The line, from 1.
        line: usize,
        /// The key.
        key: String,
    },
    /// A key is not a text.
    #[error("line {line}: a key must be a text")]
    Key {
        /// The line, from 1.
        line: usize,
    },
    /// YAML has it, this does not.
    #[error("line {line}: {what} not supported")]
    Unsupported {
        /// The line, from 1.
        line: usize,
        /// What it is.
        what: &'static str,
    },
    /// Nested too deeply.
    #[error("line {line}: nested deeper than {MAX_DEPTH} levels")]
    TooDeep {
        /// The line, from 1.
        line: usize,
    },
}

struct Reader<'a> {
    parser: Parser<'a, saphyr_parser::StrInput<'a>>,
}

impl<'a> Reader<'a> {
    fn document(&mut self) -> Result<Yaml, YamlProblem> {
        let mut value = None;
        while let Some((event, span)) = self.next()? {
            match event {
                Event::DocumentStart(_) if value.is_some() => {
                    return Err(unsupported(span, "a second document is"));
                }
                Event::Nothing
                | Event::StreamStart
                | Event::StreamEnd
                | Event::DocumentStart(_)
                | Event::DocumentEnd => {}
                event => value = Some(self.value(event, span, 0)?),
            }
        }
        Ok(value.unwrap_or(Yaml::Scalar {
            text: String::new(),
            is_plain: true,
        }))
    }

    fn next(&mut self) -> Result<Option<(Event<'a>, Span)>, YamlProblem> {
        Ok(self.parser.next_event().transpose()?)
    }

    fn value(&mut self, event: Event<'a>, span: Span, depth: usize) -> Result<Yaml, YamlProblem> {
        if depth > MAX_DEPTH {
            let line = line(span);
            return Err(YamlProblem::TooDeep { line });
        }
        match event {
            Event::Scalar(_, _, _, Some(_))
            | Event::SequenceStart(_, Some(_))
            | Event::MappingStart(_, Some(_)) => Err(unsupported(span, "tags are")),
            Event::Scalar(text, style, _, None) => Ok(Yaml::Scalar {
                text: text.into_owned(),
                is_plain: style == ScalarStyle::Plain,
            }),
            Event::SequenceStart(_, None) => self.sequence(depth),
            Event::MappingStart(_, None) => self.mapping(depth),
            _ => Err(unsupported(span, "aliases are")),
        }
    }

    fn sequence(&mut self, depth: usize) -> Result<Yaml, YamlProblem> {
        let mut items = Vec::new();
        while let Some((event, span)) = self.next()? {
            if event == Event::SequenceEnd {
                break;
            }
            items.push(self.value(event, span, depth + 1)?);
        }
        Ok(Yaml::Sequence(items))
    }

    fn mapping(&mut self, depth: usize) -> Result<Yaml, YamlProblem> {
        let mut members: Vec<(String, Yaml)> = Vec::new();
        while let Some((event, span)) = self.next()? {
            if event == Event::MappingEnd {
                break;
            }
            let line = line(span);
            let Yaml::Scalar { text: key, .. } = self.value(event, span, depth + 1)? else {
                return Err(YamlProblem::Key { line });
            };
            if members.iter().any(|(known, _)| *known == key) {
                return Err(YamlProblem::DuplicateKey { line, key });
            }
            let Some((event, span)) = self.next()? else {
                break;
            };
            members.push((key, self.value(event, span, depth + 1)?));
        }
        Ok(Yaml::Mapping(members))
    }
}

fn unsupported(span: Span, what: &'static str) -> YamlProblem {
    let line = line(span);
    YamlProblem::Unsupported { line, what }
}

fn line(span: Span) -> usize {
    span.start.line()
}

const NULLS: [&str; 5] = ["", "~", "null", "Null", "NULL"];
const MAX_BYTES: usize = 256 * 1024;
const MAX_DEPTH: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_nested_mappings() {
        let yaml = Yaml::parse(b"# c\na:\n  b: 'x'\n  c: [true, \"true\", ~]\n").unwrap();
        let (name, a) = &yaml.members().unwrap()[0];
        assert_eq!(name, "a");
        let members = a.members().unwrap();
        assert_eq!(members[0].1.text(), Some("x"));
        let Yaml::Sequence(items) = &members[1].1 else {
            panic!("{a:?}");
        };
        assert_eq!(items[0].truth(), Some(true));
        assert_eq!(items[1].truth(), None);
        assert!(items[2].is_null());
        assert!(Yaml::parse(b"").unwrap().is_null());
    }

    #[test]
    fn refuses_what_has_two_readings_or_grows() {
        let deep = format!("{}{}", "[".repeat(30), "]".repeat(30));
        let rows = [
            (
                "a key twice",
                "a: 1\na: 2",
                YamlProblem::DuplicateKey {
                    line: 2,
                    key: "a".to_owned(),
                },
            ),
            (
                "an alias",
                "a: &x 1\nb: *x",
                YamlProblem::Unsupported {
                    line: 2,
                    what: "aliases are",
                },
            ),
            (
                "a tag",
                "a: !!str 1",
                YamlProblem::Unsupported {
                    line: 1,
                    what: "tags are",
                },
            ),
            (
                "a second document",
                "a: 1\n---\na: 2",
                YamlProblem::Unsupported {
                    line: 2,
                    what: "a second document is",
                },
            ),
            (
                "a mapping as key",
                "? {a: 1}\n: 2",
                YamlProblem::Key { line: 1 },
            ),
            ("nesting", deep.as_str(), YamlProblem::TooDeep { line: 1 }),
        ];
        for (row, text, expected) in rows {
            assert_eq!(Yaml::parse(text.as_bytes()), Err(expected), "{row}");
        }
        let large = vec![b'#'; MAX_BYTES + 1];
        let found = MAX_BYTES + 1;
        assert_eq!(Yaml::parse(&large), Err(YamlProblem::TooLarge { found }));
    }
}
