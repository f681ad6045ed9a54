//! From bytes to values (RFC 8259), with nothing forgiven.

use std::collections::BTreeSet;

use super::{Json, JsonError, JsonProblem, Member, Place, Position, Value, join};

impl Json {
    pub(crate) fn parse(raw: &[u8]) -> Result<Self, JsonError> {
        let text = str::from_utf8(raw).map_err(|source| {
            let (before, _) = raw
                .split_at_checked(source.valid_up_to())
                .unwrap_or_default();
            let position = before
                .iter()
                .fold(Position::START, |at, byte| at.after(*byte));
            JsonError {
                place: Place::top(position),
                problem: JsonProblem::NotUtf8,
            }
        })?;
        let mut parser = Parser {
            rest: text,
            at: Position::START,
            path: Vec::new(),
            values: 0,
        };
        let document = parser.value()?;
        parser.space();
        match parser.peek() {
            None => Ok(document),
            Some(_) => Err(parser.syntax("the end of the document")),
        }
    }
}

impl Place {
    fn top(position: Position) -> Self {
        Self {
            position,
            path: String::new(),
        }
    }
}

enum Step {
    Key(String),
    Index(usize),
}

struct Parser<'a> {
    rest: &'a str,
    at: Position,
    path: Vec<Step>,
    values: usize,
}

impl Parser<'_> {
    fn value(&mut self) -> Result<Json, JsonError> {
        self.space();
        if self.path.len() > MAX_DEPTH {
            return Err(self.error(JsonProblem::TooDeep { limit: MAX_DEPTH }));
        }
        self.values += 1;
        if self.values > MAX_VALUES {
            return Err(self.error(JsonProblem::TooManyValues { limit: MAX_VALUES }));
        }
        let at = self.at;
        let value = match self.peek() {
            Some('{') => Value::Object(self.object()?),
            Some('[') => Value::Array(self.array()?),
            Some('"') => Value::String(self.string()?),
            Some('-' | '0'..='9') => Value::Number(self.number()?),
            _ if self.word("null") => Value::Null,
            _ if self.word("true") => Value::Bool(true),
            _ if self.word("false") => Value::Bool(false),
            _ => return Err(self.syntax("a value")),
        };
        Ok(Json { at, value })
    }

    fn object(&mut self) -> Result<Vec<Member>, JsonError> {
        self.bump();
        let mut members = Vec::new();
        let mut seen = BTreeSet::new();
        self.space();
        if self.take('}') {
            return Ok(members);
        }
        loop {
            self.space();
            let at = self.at;
            if self.peek() != Some('"') {
                return Err(self.syntax("a key in double quotes"));
            }
            let key = self.string()?;
            self.path.push(Step::Key(key.clone()));
            if !seen.insert(key.clone()) {
                return Err(self.error_at(at, JsonProblem::DuplicateKey));
            }
            self.space();
            self.expect(':', "a colon")?;
            let value = self.value()?;
            self.path.pop();
            members.push(Member { key, at, value });
            self.space();
            if self.take('}') {
                return Ok(members);
            }
            self.expect(',', "a comma or the closing brace")?;
        }
    }

    fn array(&mut self) -> Result<Vec<Json>, JsonError> {
        self.bump();
        let mut items = Vec::new();
        self.space();
        if self.take(']') {
            return Ok(items);
        }
        loop {
            self.path.push(Step::Index(items.len()));
            items.push(self.value()?);
            self.path.pop();
            self.space();
            if self.take(']') {
                return Ok(items);
            }
            self.expect(',', "a comma or the closing bracket")?;
        }
    }

    fn string(&mut self) -> Result<String, JsonError> {
        self.bump();
        let mut text = String::new();
        loop {
            match self.peek() {
                Some('"') => {
                    self.bump();
                    return Ok(text);
                }
                Some('\\') => text.push(self.escape()?),
                Some(c) if c >= ' ' => {
                    text.push(c);
                    self.bump();
                }
                _ => return Err(self.syntax("the closing quote of a string")),
            }
        }
    }

    fn escape(&mut self) -> Result<char, JsonError> {
        self.bump();
        let escaped = match self.peek() {
            Some(c @ ('"' | '\\' | '/')) => c,
            Some('b') => '\u{8}',
            Some('f') => '\u{c}',
            Some('n') => '\n',
            Some('r') => '\r',
            Some('t') => '\t',
            Some('u') => return self.unicode_escape(),
            _ => return Err(self.syntax("an escape sequence")),
        };
        self.bump();
        Ok(escaped)
    }

    /// `\uXXXX`, or two of them for a character beyond the basic plane (RFC 8259 section 7).
    fn unicode_escape(&mut self) -> Result<char, JsonError> {
        let first = self.code_unit()?;
        if let Some(c) = char::from_u32(first.into()) {
            return Ok(c);
        }
        let second = if self.take('\\') {
            self.code_unit()?
        } else {
            0
        };
        char::decode_utf16([first, second])
            .next()
            .and_then(Result::ok)
            .ok_or_else(|| self.syntax("the second half of a surrogate pair"))
    }

    fn code_unit(&mut self) -> Result<u16, JsonError> {
        self.expect('u', "a second \\u escape")?;
        let mut unit = 0;
        for _ in 0..4 {
            let digit = self
                .peek()
                .and_then(|c| c.to_digit(16))
                .and_then(|d| u16::try_from(d).ok());
            unit = unit << 4 | digit.ok_or_else(|| self.syntax("four hexadecimal digits"))?;
            self.bump();
        }
        Ok(unit)
    }

    /// `-? (0 | [1-9][0-9]*) (\.[0-9]+)? ([eE][+-]?[0-9]+)?`
    fn number(&mut self) -> Result<String, JsonError> {
        let start = self.rest;
        self.take('-');
        if !self.take('0') {
            self.digits()?;
        }
        if self.take('.') {
            self.digits()?;
        }
        if self.take('e') || self.take('E') {
            let _sign = self.take('+') || self.take('-');
            self.digits()?;
        }
        let length = start.len() - self.rest.len();
        Ok(start.chars().take(length).collect())
    }

    fn digits(&mut self) -> Result<(), JsonError> {
        if !self.peek().is_some_and(|c| c.is_ascii_digit()) {
            return Err(self.syntax("a digit"));
        }
        while self.peek().is_some_and(|c| c.is_ascii_digit()) {
            self.bump();
        }
        Ok(())
    }

    fn space(&mut self) {
        while matches!(self.peek(), Some(' ' | '\t' | '\n' | '\r')) {
            self.bump();
        }
    }

    fn word(&mut self, word: &str) -> bool {
        let found = self.rest.starts_with(word);
        if found {
            word.chars().for_each(|_| self.bump());
        }
        found
    }

    fn expect(&mut self, wanted: char, expected: &'static str) -> Result<(), JsonError> {
        if self.take(wanted) {
            Ok(())
        } else {
            Err(self.syntax(expected))
        }
    }

    fn take(&mut self, wanted: char) -> bool {
        let found = self.peek() == Some(wanted);
        if found {
            self.bump();
        }
        found
    }

    fn peek(&self) -> Option<char> {
        self.rest.chars().next()
    }

    fn bump(&mut self) {
        let mut chars = self.rest.chars();
        if let Some(c) = chars.next() {
            let mut bytes = [0; 4];
            for byte in c.encode_utf8(&mut bytes).bytes() {
                self.at = self.at.after(byte);
            }
        }
        self.rest = chars.as_str();
    }

    fn syntax(&self, expected: &'static str) -> JsonError {
        let found = self
            .peek()
            .map_or_else(|| "the end".to_owned(), |c| format!("{c:?}"));
        self.error(JsonProblem::Syntax { expected, found })
    }

    fn error(&self, problem: JsonProblem) -> JsonError {
        self.error_at(self.at, problem)
    }

    fn error_at(&self, position: Position, problem: JsonProblem) -> JsonError {
        let path = self
            .path
            .iter()
            .fold(String::new(), |path, step| match step {
                Step::Key(key) => join(&path, key),
                Step::Index(index) => format!("{path}[{index}]"),
            });
        JsonError {
            place: Place { position, path },
            problem,
        }
    }
}

/// Deeper than any document of the trade, and shallow enough for any stack.
const MAX_DEPTH: usize = 128;
/// A policy of 1,000 scopes has some 20,000.
const MAX_VALUES: usize = 200_000;

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(text: &[u8]) -> (String, JsonProblem) {
        let error = Json::parse(text).unwrap_err();
        (error.place().to_string(), error.problem().clone())
    }

    fn syntax(expected: &'static str, found: &str) -> JsonProblem {
        JsonProblem::Syntax {
            expected,
            found: found.to_owned(),
        }
    }

    #[test]
    fn refuses_what_two_parsers_could_read_differently() {
        let rows: [(&[u8], &str, JsonProblem); 14] = [
            (b"", "line 1 column 1", syntax("a value", "the end")),
            (
                b"{}x",
                "line 1 column 3",
                syntax("the end of the document", "'x'"),
            ),
            (
                "\u{feff}{}".as_bytes(),
                "line 1 column 1",
                syntax("a value", "'\\u{feff}'"),
            ),
            (
                b"{\"a\":1,\n \"a\":2}",
                "line 2 column 2: a",
                JsonProblem::DuplicateKey,
            ),
            (
                b"{\"a\":1, \"\\u0061\":2}",
                "line 1 column 9: a",
                JsonProblem::DuplicateKey,
            ),
            (
                b"{\"a\":[1,]}",
                "line 1 column 9: a[1]",
                syntax("a value", "']'"),
            ),
            (
                b"{\"a\":01}",
                "line 1 column 7",
                syntax("a comma or the closing brace", "'1'"),
            ),
            (b"[+1]", "line 1 column 2: [0]", syntax("a value", "'+'")),
            (b"[NaN]", "line 1 column 2: [0]", syntax("a value", "'N'")),
            (b"// x\n1", "line 1 column 1", syntax("a value", "'/'")),
            (
                b"[\"\\ud800\"]",
                "line 1 column 9: [0]",
                syntax("the second half of a surrogate pair", "'\"'"),
            ),
            (
                b"[\"\n\"]",
                "line 1 column 3: [0]",
                syntax("the closing quote of a string", "'\\n'"),
            ),
            (b"\n\"\xff\"", "line 2 column 2", JsonProblem::NotUtf8),
            (
                b"{'a':1}",
                "line 1 column 2",
                syntax("a key in double quotes", "'\\''"),
            ),
        ];
        for (text, place, problem) in rows {
            assert_eq!(
                fault(text),
                (place.to_owned(), problem),
                "{}",
                text.escape_ascii()
            );
        }
    }

    #[test]
    fn nesting_has_a_floor() {
        let (_, problem) = fault("[".repeat(100_000).as_bytes());
        assert_eq!(problem, JsonProblem::TooDeep { limit: MAX_DEPTH });
        assert!(Json::parse(format!("{}{}", "[".repeat(100), "]".repeat(100)).as_bytes()).is_ok());
    }
}
