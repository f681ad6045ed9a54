//! One vector, this crate's answer to it, and the count.

use std::collections::BTreeMap;
use std::error::Error;
use std::fmt;

use base64::Engine;
use serde_json::Value;

/// A vector of an area.
pub(crate) struct Vector<'a> {
    area: &'static str,
    value: &'a Value,
    name: &'a str,
}

impl<'a> Vector<'a> {
    pub(crate) fn new(area: &'static str, value: &'a Value) -> Result<Self, Box<dyn Error>> {
        let name = value
            .get("name")
            .and_then(Value::as_str)
            .ok_or("a vector has no name")?;
        Ok(Self { area, value, name })
    }

    pub(crate) fn member(&self, key: &str) -> Option<&'a Value> {
        self.value.get(key)
    }

    pub(crate) fn text(&self, key: &str) -> Result<&'a str, Box<dyn Error>> {
        let text = self.member(key).and_then(Value::as_str);
        Ok(text.ok_or_else(|| format!("{}: {}: no text {key}", self.area, self.name))?)
    }

    pub(crate) fn base64(&self, key: &str) -> Result<Vec<u8>, Box<dyn Error>> {
        Ok(base64::engine::general_purpose::STANDARD.decode(self.text(key)?)?)
    }

    pub(crate) fn texts(&self, key: &str) -> Vec<&'a str> {
        let list = self.member(key).and_then(Value::as_array);
        list.into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .collect()
    }

    fn tolerates(&self, outcome: &str) -> bool {
        self.texts("tolerate").contains(&outcome)
    }
}

/// What this crate says to a vector.
pub(crate) enum Answer {
    Accept,
    /// Accepted with another result than the vector's: as bad as accepting what must be refused.
    Differs(String),
    Reject(String),
    NotApplicable(&'static str),
}

impl Answer {
    pub(crate) fn of<T, E: fmt::Display>(result: Result<T, E>) -> Self {
        match result {
            Ok(_) => Self::Accept,
            Err(error) => Self::Reject(error.to_string()),
        }
    }

    /// Accept if what was found is what the vector has.
    pub(crate) fn compare<T: PartialEq + fmt::Debug>(found: &T, expected: &T) -> Self {
        if found == expected {
            Self::Accept
        } else {
            Self::Differs(format!("expected {expected:?}, found {found:?}"))
        }
    }
}

#[derive(Default)]
pub(crate) struct Tally {
    passed: usize,
    pub(crate) wrongly_accepted: usize,
    pub(crate) wrongly_refused: usize,
    deliberate: usize,
    not_applicable: BTreeMap<&'static str, usize>,
    details: Vec<String>,
}

impl Tally {
    pub(crate) fn count(&mut self, vector: &Vector<'_>, answer: Answer) {
        let expect_accept = vector.member("expect").and_then(Value::as_str) == Some("accept");
        let deliberate = DELIBERATE
            .iter()
            .find(|(area, name, _)| *area == vector.area && *name == vector.name);
        let right = match (&answer, expect_accept) {
            (Answer::NotApplicable(reason), _) => {
                *self.not_applicable.entry(reason).or_default() += 1;
                return;
            }
            (Answer::Accept, true) | (Answer::Reject(_), false) => true,
            (Answer::Accept, false) => vector.tolerates("accept"),
            (Answer::Reject(_), true) => vector.tolerates("reject"),
            (Answer::Differs(_), _) => false,
        };
        let (counter, verdict, why) = match answer {
            _ if right => {
                self.passed += 1;
                return;
            }
            Answer::Reject(why) => (&mut self.wrongly_refused, "wrongly refused", why),
            Answer::Differs(why) => (&mut self.wrongly_accepted, "wrong result", why),
            Answer::Accept | Answer::NotApplicable(_) => {
                let reason = vector.member("reason").map(ToString::to_string);
                (
                    &mut self.wrongly_accepted,
                    "wrongly accepted",
                    reason.unwrap_or_default(),
                )
            }
        };
        let (counter, verdict, why) = match deliberate {
            Some((_, _, reason)) => (&mut self.deliberate, "deliberate", (*reason).to_owned()),
            None => (counter, verdict, why),
        };
        *counter += 1;
        self.details.push(format!(
            "{verdict}: {}: {}: {why}",
            vector.area, vector.name
        ));
    }

    pub(crate) fn add(&mut self, other: &Self) {
        self.passed += other.passed;
        self.wrongly_accepted += other.wrongly_accepted;
        self.wrongly_refused += other.wrongly_refused;
        self.deliberate += other.deliberate;
        for (reason, count) in &other.not_applicable {
            *self.not_applicable.entry(reason).or_default() += count;
        }
        self.details.extend(other.details.iter().cloned());
    }

    pub(crate) fn details(&self) -> &[String] {
        &self.details
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "passed {:4}  wrongly accepted {}  wrongly refused {}  deliberate {}",
            self.passed, self.wrongly_accepted, self.wrongly_refused, self.deliberate
        )?;
        for (reason, count) in &self.not_applicable {
            write!(f, "  not applicable {count} ({reason})")?;
        }
        Ok(())
    }
}

/// Where this crate differs on purpose, by area and name, and why. docs/policy.md explains each.
const DELIBERATE: [(&str, &str, &str); 3] = [
    (
        "policy-eval",
        "sigstore default identity on a cosign signature",
        "without a signedIdentity, a signature that names only a repository speaks for it",
    ),
    (
        "policy-eval",
        "sigstore default identity by digest on a cosign signature (signed name has no tag)",
        "without a signedIdentity, a signature that names only a repository speaks for it",
    ),
    (
        "sigstore-verify",
        "p384 key, sha384 digest",
        "a P-384 or P-521 key may sign with the hash of its own strength",
    ),
];
