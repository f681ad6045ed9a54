//! From bytes to values (RFC 8259), with nothing forgiven.

use std::borrow::Cow;
use std::collections::HashSet;

use super::{Json, JsonError, JsonProblem, Member, Place, Position, Step, Value, path_of};

impl<'t> Json<'t> {
    pub(crate) fn parse(raw: &'t [u8]) -> Result<Self, JsonError> {
        let text = str::from_utf8(raw).map_err(|source| {
            let before = raw.get(..source.valid_up_to()).unwrap_or_default();
            JsonError {
                place: Place {
                    position: Position::after(before),
                    path: String::new(),
                },
                problem: JsonProblem::NotUtf8,
            }
        })?;
        let mut parser = Parser {
            text,
            offset: 0,
            line: 1,
            line_start: 0,
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

/// Goes over the bytes of a text, and stands always between two characters: what it steps over is
/// ASCII, or ends where ASCII begins.
struct Parser<'a> {
    text: &'a str,
    offset: usize,
    line: u32,
    line_start: usize,
    path: Vec<Step<Cow<'a, str>>>,
    values: usize,
}

impl<'a> Parser<'a> {
    fn value(&mut self) -> Result<Json<'a>, JsonError> {
        self.space();
        if self.path.len() > MAX_DEPTH {
            return Err(self.error(JsonProblem::TooDeep { limit: MAX_DEPTH }));
        }
        self.values += 1;
        if self.values > MAX_VALUES {
            return Err(self.error(JsonProblem::TooManyValues { limit: MAX_VALUES }));
        }
        let at = self.position();
        let value = match self.peek() {
            Some(b'{') => Value::Object(self.object()?),
            Some(b'[') => Value::Array(self.array()?),
            Some(b'"') => Value::String(self.string()?),
            Some(b'-' | b'0'..=b'9') => Value::Number(self.number()?),
            _ if self.word("null") => Value::Null,
            _ if self.word("true") => Value::Bool(true),
            _ if self.word("false") => Value::Bool(false),
            _ => return Err(self.syntax("a value")),
        };
        Ok(Json { at, value })
    }

    fn object(&mut self) -> Result<Vec<Member<'a>>, JsonError> {
        self.bump();
        let mut members: Vec<Member<'a>> = Vec::new();
        let mut seen = HashSet::new();
        self.space();
        if self.take(b'}') {
            return Ok(members);
        }
        loop {
            self.space();
            let at = self.position();
            if self.peek() != Some(b'"') {
                return Err(self.syntax("a key in double quotes"));
            }
            let key = self.string()?;
            self.path.push(Step::Key(key.clone()));
            let is_double = if members.len() < FEW {
                members.iter().any(|member| member.key == key)
            } else {
                if seen.is_empty() {
                    seen.extend(members.iter().map(|member| member.key.clone()));
                }
                !seen.insert(key.clone())
            };
            if is_double {
                return Err(self.error_at(at, JsonProblem::DuplicateKey));
            }
            self.space();
            self.expect(b':', "a colon")?;
            let value = self.value()?;
            self.path.pop();
            members.push(Member { key, at, value });
            self.space();
            if self.take(b'}') {
                return Ok(members);
            }
            self.expect(b',', "a comma or the closing brace")?;
        }
    }

    fn array(&mut self) -> Result<Vec<Json<'a>>, JsonError> {
        self.bump();
        let mut items = Vec::new();
        self.space();
        if self.take(b']') {
            return Ok(items);
        }
        loop {
            self.path.push(Step::Index(items.len()));
            items.push(self.value()?);
            self.path.pop();
            self.space();
            if self.take(b']') {
                return Ok(items);
            }
            self.expect(b',', "a comma or the closing bracket")?;
        }
    }

    /// A text without escapes, as nearly all are, is not copied here.
    fn string(&mut self) -> Result<Cow<'a, str>, JsonError> {
        self.bump();
        let mut text = Cow::Borrowed("");
        loop {
            let run = self.run();
            if text.is_empty() {
                text = Cow::Borrowed(run);
            } else if !run.is_empty() {
                text.to_mut().push_str(run);
            }
            match self.peek() {
                Some(b'"') => {
                    self.bump();
                    return Ok(text);
                }
                Some(b'\\') => text.to_mut().push(self.escape()?),
                _ => return Err(self.syntax("the closing quote of a string")),
            }
        }
    }

    /// What stands here for itself in a string, up to a quote, an escape, a control character or
    /// the end.
    fn run(&mut self) -> &'a str {
        let rest = self.rest();
        let special = |byte: &u8| matches!(byte, b'"' | b'\\' | ..b' ');
        let length = rest.bytes().position(|byte| special(&byte));
        let run = length.and_then(|length| rest.get(..length)).unwrap_or(rest);
        self.offset += run.len();
        run
    }

    fn escape(&mut self) -> Result<char, JsonError> {
        self.bump();
        let escaped = match self.peek() {
            Some(byte @ (b'"' | b'\\' | b'/')) => char::from(byte),
            Some(b'b') => '\u{8}',
            Some(b'f') => '\u{c}',
            Some(b'n') => '\n',
            Some(b'r') => '\r',
            Some(b't') => '\t',
            Some(b'u') => return self.unicode_escape(),
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
        let second = if self.take(b'\\') {
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
        self.expect(b'u', "a second \\u escape")?;
        let mut unit = 0;
        for _ in 0..4 {
            let digit = self
                .peek()
                .and_then(|byte| char::from(byte).to_digit(16))
                .and_then(|digit| u16::try_from(digit).ok());
            unit = unit << 4 | digit.ok_or_else(|| self.syntax("four hexadecimal digits"))?;
            self.bump();
        }
        Ok(unit)
    }

    /// `-? (0 | [1-9][0-9]*) (\.[0-9]+)? ([eE][+-]?[0-9]+)?`
    fn number(&mut self) -> Result<&'a str, JsonError> {
        let start = self.rest();
        self.take(b'-');
        if !self.take(b'0') {
            self.digits()?;
        }
        if self.take(b'.') {
            self.digits()?;
        }
        if self.take(b'e') || self.take(b'E') {
            let _sign = self.take(b'+') || self.take(b'-');
            self.digits()?;
        }
        let length = start.len() - self.rest().len();
        Ok(start.get(..length).unwrap_or_default())
    }

    fn digits(&mut self) -> Result<(), JsonError> {
        if !self.peek().is_some_and(|byte| byte.is_ascii_digit()) {
            return Err(self.syntax("a digit"));
        }
        while self.peek().is_some_and(|byte| byte.is_ascii_digit()) {
            self.bump();
        }
        Ok(())
    }

    /// The only place where lines end: a string has no line break in it.
    fn space(&mut self) {
        while let Some(byte @ (b' ' | b'\t' | b'\n' | b'\r')) = self.peek() {
            self.bump();
            if byte == b'\n' {
                self.line = self.line.saturating_add(1);
                self.line_start = self.offset;
            }
        }
    }

    fn word(&mut self, word: &str) -> bool {
        let found = self.rest().starts_with(word);
        if found {
            self.offset += word.len();
        }
        found
    }

    fn expect(&mut self, wanted: u8, expected: &'static str) -> Result<(), JsonError> {
        if self.take(wanted) {
            Ok(())
        } else {
            Err(self.syntax(expected))
        }
    }

    fn take(&mut self, wanted: u8) -> bool {
        let found = self.peek() == Some(wanted);
        if found {
            self.bump();
        }
        found
    }

    /// The next byte. One that is not ASCII begins a character that only a string may have.
    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.offset).copied()
    }

    /// Steps over a byte of ASCII.
    fn bump(&mut self) {
        self.offset += 1;
    }

    fn rest(&self) -> &'a str {
        self.text.get(self.offset..).unwrap_or_default()
    }

    fn position(&self) -> Position {
        Position::new(self.line, self.offset - self.line_start)
    }

    fn syntax(&self, expected: &'static str) -> JsonError {
        let next = self.rest().chars().next();
        let found = next.map_or_else(|| "the end".to_owned(), |c| format!("{c:?}"));
        self.error(JsonProblem::Syntax { expected, found })
    }

    fn error(&self, problem: JsonProblem) -> JsonError {
        self.error_at(self.position(), problem)
    }

    fn error_at(&self, position: Position, problem: JsonProblem) -> JsonError {
        let path = path_of(&self.path);
        JsonError {
            place: Place { position, path },
            problem,
        }
    }
}

/// So many members are looked through sooner than a set of them is made.
const FEW: usize = 16;
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
    fn a_key_stands_once_among_few_and_among_many() {
        for many in [2, FEW, FEW + 1, 3 * FEW] {
            let members: Vec<_> = (0..many).map(|number| format!("\"k{number}\":0")).collect();
            assert!(Json::parse(format!("{{{}}}", members.join(",")).as_bytes()).is_ok());
            for first in 0..many {
                let twice = format!("{{{},\"k{first}\":0}}", members.join(","));
                let (_, problem) = fault(twice.as_bytes());
                assert_eq!(problem, JsonProblem::DuplicateKey, "{first} of {many}");
            }
        }
    }

    #[test]
    fn nesting_has_a_floor() {
        let (_, problem) = fault("[".repeat(100_000).as_bytes());
        assert_eq!(problem, JsonProblem::TooDeep { limit: MAX_DEPTH });
        assert!(Json::parse(format!("{}{}", "[".repeat(100), "]".repeat(100)).as_bytes()).is_ok());
    }
}
