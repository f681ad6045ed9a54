//! The little of protobuf that ttrpc and the attestation agent need: numbers and bytes.

/// A message lacks the end of a field, or has a field of an unknown kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Malformed;

/// The content of a field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Value<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

/// The fields of a message, by number, in order. Ends after the first fault.
pub(crate) struct Fields<'a> {
    rest: &'a [u8],
}

impl<'a> Fields<'a> {
    pub(crate) fn of(message: &'a [u8]) -> Self {
        Self { rest: message }
    }

    fn field(&mut self) -> Option<(u64, Value<'a>)> {
        let key = self.number()?;
        let value = match key & 7 {
            0 => Value::Number(self.number()?),
            1 => Value::Bytes(self.take(8)?),
            2 => {
                let length = usize::try_from(self.number()?).ok()?;
                Value::Bytes(self.take(length)?)
            }
            5 => Value::Bytes(self.take(4)?),
            _ => return None,
        };
        Some((key >> 3, value))
    }

    /// Seven bits in each byte, lowest first; the eighth says that there is more.
    fn number(&mut self) -> Option<u64> {
        let mut number = 0_u64;
        for shift in (0..64).step_by(7) {
            let (byte, rest) = self.rest.split_first()?;
            self.rest = rest;
            let bits = u64::from(byte & 0x7f);
            number |= bits << shift;
            if byte & 0x80 == 0 {
                return Some(number);
            }
        }
        None
    }

    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.rest.split_at_checked(count)?;
        self.rest = rest;
        Some(taken)
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = Result<(u64, Value<'a>), Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let field = self.field().ok_or(Malformed);
        if field.is_err() {
            self.rest = &[];
        }
        Some(field)
    }
}

/// The bytes of the first field `number` of `message`; empty when it is not there, as protobuf's
/// third version has it.
pub(crate) fn bytes_of(message: &[u8], number: u64) -> Result<&[u8], Malformed> {
    let mut found = &[][..];
    for field in Fields::of(message) {
        if let (at, Value::Bytes(bytes)) = field?
            && at == number
        {
            found = bytes;
        }
    }
    Ok(found)
}

pub(crate) fn put_bytes(message: &mut Vec<u8>, number: u64, bytes: &[u8]) {
    put(message, number << 3 | 2);
    put(message, u64::try_from(bytes.len()).unwrap_or(u64::MAX));
    message.extend_from_slice(bytes);
}

pub(crate) fn put_number(message: &mut Vec<u8>, number: u64, value: u64) {
    put(message, number << 3);
    put(message, value);
}

fn put(message: &mut Vec<u8>, mut number: u64) {
    loop {
        let [low, ..] = number.to_le_bytes();
        number >>= 7;
        if number == 0 {
            message.push(low & 0x7f);
            return;
        }
        message.push(low | 0x80);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        for value in [0, 1, 127, 128, 5_000_000_000, u64::MAX] {
            let mut message = Vec::new();
            put_number(&mut message, 4, value);
            put_bytes(&mut message, 16, b"bytes");
            let fields: Vec<_> = Fields::of(&message).collect();
            let expected = [
                Ok((4, Value::Number(value))),
                Ok((16, Value::Bytes(b"bytes"))),
            ];
            assert_eq!(fields, expected);
            assert_eq!(bytes_of(&message, 16), Ok(&b"bytes"[..]));
            assert_eq!(bytes_of(&message, 3), Ok(&b""[..]));
        }
    }

    #[test]
    fn message_that_ends_too_early_is_malformed() {
        let mut message = Vec::new();
        put_bytes(&mut message, 1, &[7; 200]);
        for length in 1..message.len() {
            assert_eq!(bytes_of(&message[..length], 1), Err(Malformed), "{length}");
        }
        for message in [&[0xff; 11][..], &[0x0b], &[0x0c], &[0x0f, 1]] {
            assert_eq!(bytes_of(message, 1), Err(Malformed), "{message:?}");
        }
    }
}
