//! What an attestation must say: conditions on the fields of its predicate.

use std::cmp::Ordering;

use serde_json::{Number, Value};
use thiserror::Error;

use crate::identities::Pattern;

/// One condition: at a place of the predicate (RFC 6901) there is a value that passes every test.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Condition {
    pub(crate) pointer: String,
    pub(crate) tests: Vec<Test>,
}

/// A test of one value. One that is not there passes none but the test that it is not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Test {
    Equals(Value),
    OneOf(Vec<Value>),
    Matches(Pattern),
    Exists(bool),
    AtLeast(Number),
    AtMost(Number),
}

impl Condition {
    pub(crate) fn check(&self, predicate: &Value) -> Result<(), UnmetCondition> {
        let found = predicate.pointer(&self.pointer);
        match self.tests.iter().find(|test| !test.passes(found)) {
            None => Ok(()),
            Some(test) => Err(UnmetCondition {
                pointer: self.pointer.clone(),
                wanted: test.to_string(),
                found: found.map_or_else(|| "nothing".to_owned(), Value::to_string),
            }),
        }
    }
}

impl Test {
    fn passes(&self, found: Option<&Value>) -> bool {
        let Some(found) = found else {
            return *self == Self::Exists(false);
        };
        match self {
            Self::Equals(wanted) => found == wanted,
            Self::OneOf(wanted) => wanted.contains(found),
            Self::Matches(pattern) => found.as_str().is_some_and(|text| pattern.matches(text)),
            Self::Exists(wanted) => *wanted,
            Self::AtLeast(bound) => {
                order(found, bound).is_some_and(|order| order != Ordering::Less)
            }
            Self::AtMost(bound) => {
                order(found, bound).is_some_and(|order| order != Ordering::Greater)
            }
        }
    }
}

impl std::fmt::Display for Test {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Equals(value) => write!(f, "{value}"),
            Self::OneOf(values) => write!(f, "one of {}", Value::Array(values.clone())),
            Self::Matches(pattern) => write!(f, "a text that matches {:?}", pattern.text()),
            Self::Exists(true) => f.write_str("any value"),
            Self::Exists(false) => f.write_str("no value"),
            Self::AtLeast(bound) => write!(f, "a number from {bound} on"),
            Self::AtMost(bound) => write!(f, "a number up to {bound}"),
        }
    }
}

/// A field of a predicate that is not as the policy wants it.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("its predicate has {found} at {pointer:?}, the policy wants {wanted}")]
#[non_exhaustive]
pub struct UnmetCondition {
    /// Where.
    pub pointer: String,
    /// What should be there.
    pub wanted: String,
    /// What is there.
    pub found: String,
}

/// Whether a number is the one that was written: fractions aside, that is so for integers of 64 bits.
pub(crate) fn is_exact(number: &Number) -> bool {
    let within = |float: f64| float.abs() < LAST_EXACT;
    number.as_i128().is_some() || number.as_f64().is_some_and(within)
}

/// Numbers are compared exactly, or else not at all; a text is none.
fn order(found: &Value, bound: &Number) -> Option<Ordering> {
    let found = found.as_number()?;
    match (found.as_i128(), bound.as_i128()) {
        (Some(found), Some(bound)) => Some(found.cmp(&bound)),
        _ if is_exact(found) && is_exact(bound) => float(found)?.partial_cmp(&float(bound)?),
        _ => None,
    }
}

/// The number, if no float beside it has to stand for it.
fn float(number: &Number) -> Option<f64> {
    number.as_f64().filter(|float| float.abs() < LAST_EXACT)
}

/// From here on floats leave out integers: 2^53.
const LAST_EXACT: f64 = 9_007_199_254_740_992.0;

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_not_there_or_of_another_type_passes_nothing() {
        let predicate = r#"{"a": {"n": 3, "t": "3", "null": null, "f": 2.5,
            "huge": 18446744073709551617, "large": 9007199254740993}, "l": ["x", "y"]}"#;
        let predicate: Value = serde_json::from_str(predicate).unwrap();
        let number = |n: u64| Number::from(n);
        let rows = [
            ("/a/n", Test::Equals(json!(3)), true),
            ("/a/n", Test::Equals(json!("3")), false),
            ("/a/none", Test::Equals(Value::Null), false),
            ("/a/null", Test::Equals(Value::Null), true),
            ("/l/1", Test::OneOf(vec![json!("x"), json!("y")]), true),
            ("/l", Test::OneOf(vec![json!("x"), json!("y")]), false),
            (
                "/a/t",
                Test::Matches(Pattern::parse("[0-9]+").unwrap()),
                true,
            ),
            (
                "/a/n",
                Test::Matches(Pattern::parse("[0-9]+").unwrap()),
                false,
            ),
            ("/a/n", Test::AtLeast(number(3)), true),
            ("/a/n", Test::AtLeast(number(4)), false),
            ("/a/n", Test::AtMost(number(2)), false),
            ("/a/t", Test::AtMost(number(9)), false),
            ("/a/none", Test::AtMost(number(9)), false),
            ("/a/none", Test::Exists(false), true),
            ("/a/none", Test::Exists(true), false),
            ("/a/n", Test::Exists(false), false),
            ("/a/f", Test::AtLeast(number(2)), true),
            ("/a/f", Test::AtMost(number(2)), false),
            // 2^64 + 1, which readers take for 2^64, and 2^53 + 1 beside a fraction.
            ("/a/huge", Test::AtLeast(number(u64::MAX)), false),
            ("/a/huge", Test::AtMost(number(u64::MAX)), false),
            ("/a/huge", Test::Equals(json!(u64::MAX)), false),
            ("/a/large", Test::AtMost(number((1 << 53) + 1)), true),
            ("/a/large", Test::AtMost(number(1 << 53)), false),
            (
                "/a/large",
                Test::AtMost(Number::from_f64(9e15).unwrap()),
                false,
            ),
        ];
        for (pointer, test, expected) in rows {
            let text = format!("{pointer} {test}");
            let condition = Condition {
                pointer: pointer.to_owned(),
                tests: vec![test],
            };
            assert_eq!(condition.check(&predicate).is_ok(), expected, "{text}");
        }
    }
}
