//! Strict JSON with positions: what decides must not have two readings.
//!
//! Over RFC 8259 this refuses duplicate keys (compared after unescaping), lone surrogates, text
//! that is not UTF-8, and deep nesting. Every error says where it stands.

use std::borrow::Cow;
use std::fmt;
use std::rc::Rc;

use thiserror::Error;

mod parse;

/// A fault in a JSON document and its place. Whoever wrote the document is at fault.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{place}: {problem}")]
pub struct JsonError {
    place: Place,
    problem: JsonProblem,
}

impl JsonError {
    /// Where the fault stands.
    pub fn place(&self) -> &Place {
        &self.place
    }

    /// What is wrong there.
    pub fn problem(&self) -> &JsonProblem {
        &self.problem
    }
}

/// A place in a JSON document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    position: Position,
    path: String,
}

impl Place {
    /// The line, from 1.
    pub fn line(&self) -> u32 {
        self.position.line
    }

    /// The column in bytes, from 1.
    pub fn column(&self) -> u32 {
        self.position.column
    }

    /// The way to the value, e.g. `transports.docker."quay.io/org"[0].keyPath`; empty at the top.
    pub fn path(&self) -> &str {
        &self.path
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "line {} column {}",
            self.position.line, self.position.column
        )?;
        if self.path.is_empty() {
            Ok(())
        } else {
            write!(f, ": {}", self.path)
        }
    }
}

/// What can be wrong with a JSON document.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum JsonProblem {
    /// The bytes are not UTF-8.
    #[error("the text is not UTF-8")]
    NotUtf8,
    /// The grammar wants something else here.
    #[error("expected {expected}, found {found}")]
    Syntax {
        /// What may stand here.
        expected: &'static str,
        /// What does.
        found: String,
    },
    /// Arrays and objects are nested too deeply.
    #[error("nested deeper than {limit} levels")]
    TooDeep {
        /// The limit.
        limit: usize,
    },
    /// There are more values than any honest document has: parsing them would cost the memory
    /// that the document's own size limit was to save.
    #[error("more than {limit} values")]
    TooManyValues {
        /// The limit.
        limit: usize,
    },
    /// A key stands twice in one object.
    #[error("duplicate key")]
    DuplicateKey,
    /// A key has no meaning here.
    #[error("unknown key{}", DidYouMean(.suggestion.as_deref()))]
    UnknownKey {
        /// The nearest known key.
        suggestion: Option<String>,
    },
    /// A key must be there.
    #[error("the key {key:?} is missing")]
    MissingKey {
        /// The key.
        key: &'static str,
    },
    /// The value has another type.
    #[error("expected {expected}, found {found}")]
    WrongType {
        /// The type wanted.
        expected: &'static str,
        /// The type found.
        found: &'static str,
    },
}

/// Writes `, did you mean X` when there is an X.
pub(crate) struct DidYouMean<'a>(pub(crate) Option<&'a str>);

impl fmt::Display for DidYouMean<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.map_or(Ok(()), |suggestion| {
            write!(f, ", did you mean {suggestion}")
        })
    }
}

/// A parsed document; what has no escapes in it stays where it is in the text.
#[derive(Debug)]
pub(crate) struct Json<'t> {
    at: Position,
    value: Value<'t>,
}

impl Json<'_> {
    /// The document as the start of a walk.
    pub(crate) fn root(&self) -> Node<'_> {
        Node {
            json: self,
            way: None,
        }
    }
}

/// A value and the way to it.
#[derive(Debug, Clone)]
pub(crate) struct Node<'a> {
    json: &'a Json<'a>,
    way: Option<Rc<Way<'a>>>,
}

/// The way to a value, from its end: written out only where there is something to say of it.
#[derive(Debug)]
struct Way<'a> {
    before: Option<Rc<Way<'a>>>,
    step: Step<&'a str>,
}

impl<'a> Node<'a> {
    /// The value as an object with no keys but `known`.
    pub(crate) fn object(&self, known: &[&str]) -> Result<Members<'a>, JsonError> {
        let members = self.open_object()?;
        let strange = members
            .entries
            .iter()
            .find(|member| !known.contains(&&*member.key));
        let Some(member) = strange else {
            return Ok(members);
        };
        let suggestion = nearest(&member.key, known.iter().copied()).map(str::to_owned);
        let place = Place {
            position: member.at,
            path: self.below(&member.value, Step::Key(&member.key)).path(),
        };
        Err(JsonError {
            place,
            problem: JsonProblem::UnknownKey { suggestion },
        })
    }

    /// The value as an object with whatever keys.
    pub(crate) fn open_object(&self) -> Result<Members<'a>, JsonError> {
        match &self.json.value {
            Value::Object(entries) => Ok(Members {
                node: self.clone(),
                entries,
            }),
            _ => Err(self.wrong_type("an object")),
        }
    }

    pub(crate) fn array(&self) -> Result<Vec<Node<'a>>, JsonError> {
        let Value::Array(items) = &self.json.value else {
            return Err(self.wrong_type("an array"));
        };
        let item = |(index, json)| self.below(json, Step::Index(index));
        Ok(items.iter().enumerate().map(item).collect())
    }

    pub(crate) fn string(&self) -> Result<&'a str, JsonError> {
        match &self.json.value {
            Value::String(text) => Ok(text),
            _ => Err(self.wrong_type("a string")),
        }
    }

    /// The value as the text of a number.
    pub(crate) fn number(&self) -> Result<&'a str, JsonError> {
        match &self.json.value {
            Value::Number(text) => Ok(text),
            _ => Err(self.wrong_type("a number")),
        }
    }

    pub(crate) fn unsigned(&self) -> Result<u64, JsonError> {
        let wrong = |_: std::num::ParseIntError| self.wrong_type("an integer from 0 to 2^64-1");
        self.number()?.parse().map_err(wrong)
    }

    pub(crate) fn boolean(&self) -> Result<bool, JsonError> {
        match self.json.value {
            Value::Bool(truth) => Ok(truth),
            _ => Err(self.wrong_type("true or false")),
        }
    }

    /// The value as other readers have it.
    pub(crate) fn to_value(&self) -> Result<serde_json::Value, JsonError> {
        use serde_json::Value as Plain;
        Ok(match &self.json.value {
            Value::Null => Plain::Null,
            Value::Bool(truth) => Plain::Bool(*truth),
            Value::Number(text) => {
                let number = serde_json::from_str(text);
                Plain::Number(number.map_err(|_: serde_json::Error| {
                    self.wrong_type("a number that fits into 64 bits")
                })?)
            }
            Value::String(text) => Plain::String(text.to_string()),
            Value::Array(_) => {
                let items = self.array()?;
                let items = items.iter().map(Node::to_value);
                Plain::Array(items.collect::<Result<_, _>>()?)
            }
            Value::Object(_) => {
                let members = self.open_object()?;
                let members = members.iter();
                let members = members.map(|(key, node)| Ok((key.to_owned(), node.to_value()?)));
                Plain::Object(members.collect::<Result<_, JsonError>>()?)
            }
        })
    }

    pub(crate) fn is_null(&self) -> bool {
        matches!(self.json.value, Value::Null)
    }

    pub(crate) fn place(&self) -> Place {
        Place {
            position: self.json.at,
            path: self.path(),
        }
    }

    pub(crate) fn wrong_type(&self, expected: &'static str) -> JsonError {
        let problem = JsonProblem::WrongType {
            expected,
            found: self.json.value.type_name(),
        };
        JsonError {
            place: self.place(),
            problem,
        }
    }

    fn below(&self, json: &'a Json<'a>, step: Step<&'a str>) -> Self {
        let before = self.way.clone();
        Self {
            json,
            way: Some(Rc::new(Way { before, step })),
        }
    }

    fn path(&self) -> String {
        let ways = std::iter::successors(self.way.as_ref(), |way| way.before.as_ref());
        let mut steps: Vec<Step<&str>> = ways.map(|way| way.step).collect();
        steps.reverse();
        path_of(&steps)
    }
}

/// The members of an object.
#[derive(Debug, Clone)]
pub(crate) struct Members<'a> {
    node: Node<'a>,
    entries: &'a [Member<'a>],
}

impl<'a> Members<'a> {
    pub(crate) fn optional(&self, key: &str) -> Option<Node<'a>> {
        self.entries
            .iter()
            .find(|member| member.key == key)
            .map(|member| self.node_of(member))
    }

    /// The member, where null says the same as absent: Go writes `null` for what is not set.
    pub(crate) fn non_null(&self, key: &str) -> Option<Node<'a>> {
        self.optional(key).filter(|node| !node.is_null())
    }

    pub(crate) fn required(&self, key: &'static str) -> Result<Node<'a>, JsonError> {
        self.optional(key).ok_or_else(|| JsonError {
            place: self.node.place(),
            problem: JsonProblem::MissingKey { key },
        })
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&'a str, Node<'a>)> {
        let named = |member: &'a Member<'a>| (&*member.key, self.node_of(member));
        self.entries.iter().map(named)
    }

    pub(crate) fn place(&self) -> Place {
        self.node.place()
    }

    fn node_of(&self, member: &'a Member<'a>) -> Node<'a> {
        self.node.below(&member.value, Step::Key(&member.key))
    }
}

/// The candidate that `word` was probably meant to be; of a long word it is not asked.
pub(crate) fn nearest<'a>(
    word: &str,
    candidates: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    if word.len() > MAX_WORD {
        return None;
    }
    let tolerance = (word.chars().count() / 3).max(1);
    candidates
        .into_iter()
        .map(|candidate| {
            (
                distance(&word.to_lowercase(), &candidate.to_lowercase()),
                candidate,
            )
        })
        .filter(|(distance, _)| *distance <= tolerance)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

#[derive(Debug)]
enum Value<'t> {
    Null,
    Bool(bool),
    Number(&'t str),
    String(Cow<'t, str>),
    Array(Vec<Json<'t>>),
    Object(Vec<Member<'t>>),
}

impl Value<'_> {
    fn type_name(&self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Bool(_) => "a boolean",
            Self::Number(_) => "a number",
            Self::String(_) => "a string",
            Self::Array(_) => "an array",
            Self::Object(_) => "an object",
        }
    }
}

#[derive(Debug)]
struct Member<'t> {
    key: Cow<'t, str>,
    at: Position,
    value: Json<'t>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Position {
    line: u32,
    column: u32,
}

impl Position {
    fn new(line: u32, bytes_before: usize) -> Self {
        let column = u32::try_from(bytes_before.saturating_add(1));
        Self {
            line,
            column: column.unwrap_or(u32::MAX),
        }
    }

    /// The position behind a text.
    fn after(text: &[u8]) -> Self {
        let mut lines = text.split(|byte| *byte == b'\n');
        let line = u32::try_from(lines.clone().count()).unwrap_or(u32::MAX);
        Self::new(line, lines.next_back().map_or(0, <[u8]>::len))
    }
}

/// A step from a value to one within it.
#[derive(Debug, Clone, Copy)]
enum Step<K> {
    Key(K),
    Index(usize),
}

/// A key that is not a plain word is quoted, so that a dot within it cannot mislead; one that is
/// long is cut.
fn path_of<K: AsRef<str>>(steps: &[Step<K>]) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'-';
    let mut path = String::new();
    for step in steps {
        let written = match step {
            Step::Index(index) => format!("[{index}]"),
            Step::Key(key) => {
                let key = beginning(key.as_ref());
                let dot = if path.is_empty() { "" } else { "." };
                if !key.is_empty() && key.bytes().all(plain) {
                    format!("{dot}{key}")
                } else {
                    format!("{dot}{key:?}")
                }
            }
        };
        path.push_str(&written);
    }
    path
}

fn beginning(key: &str) -> Cow<'_, str> {
    match key.char_indices().nth(MAX_WORD) {
        Some((end, _)) => Cow::Owned(format!("{}...", key.get(..end).unwrap_or(key))),
        None => Cow::Borrowed(key),
    }
}

/// The Levenshtein distance.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = i;
        let mut left = i + 1;
        let mut next = vec![left];
        for (y, above) in b.iter().zip(row.iter().skip(1)) {
            left = (diagonal + usize::from(x != *y))
                .min(above + 1)
                .min(left + 1);
            diagonal = *above;
            next.push(left);
        }
        row = next;
    }
    row.last().copied().unwrap_or_default()
}

/// No key that has a meaning anywhere is as long.
const MAX_WORD: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_every_kind_of_value() {
        let text = br#" {"s":"a\"\\\/\b\f\n\r\t\u00e9\ud83d\ude00", "n":[-0, 1.5e+3, 18446744073709551615],
            "o":{}, "t":true, "f":false, "z":null} "#;
        let json = Json::parse(text).unwrap();
        let members = json.root().open_object().unwrap();
        let string = members.required("s").unwrap();
        assert_eq!(
            string.string().unwrap(),
            "a\"\\/\u{8}\u{c}\n\r\t\u{e9}\u{1f600}"
        );
        let numbers = members.required("n").unwrap().array().unwrap();
        assert_eq!(numbers[1].number().unwrap(), "1.5e+3");
        assert_eq!(numbers[2].unsigned(), Ok(u64::MAX));
        let error = numbers[1].unsigned().unwrap_err();
        assert_eq!(error.place().path(), "n[1]");
        assert!(members.required("z").unwrap().is_null());
        assert!(members.non_null("z").is_none());
    }

    #[test]
    fn an_unknown_key_names_the_nearest_known_one() {
        let json = Json::parse(br#"{"keyPth": 1}"#).unwrap();
        let error = json
            .root()
            .object(&["type", "keyPath", "keyPaths"])
            .unwrap_err();
        assert_eq!(
            error.to_string(),
            "line 1 column 2: keyPth: unknown key, did you mean keyPath"
        );
        assert_eq!(nearest("zzz", ["type", "keyPath"]), None);
    }

    #[test]
    fn a_long_key_has_no_neighbour_and_is_cut_in_the_path() {
        let key = "k".repeat(4_000_000);
        let text = format!(r#"{{"{key}": 1}}"#);
        let json = Json::parse(text.as_bytes()).unwrap();
        let error = json.root().object(&["type"]).unwrap_err();
        assert_eq!(error.place().path(), format!("\"{}...\"", "k".repeat(64)));
        let expected = JsonProblem::UnknownKey { suggestion: None };
        assert_eq!(error.problem(), &expected);
    }
}
