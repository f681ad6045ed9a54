//! One unary ttrpc call over a unix socket: all that the attestation agent needs to be asked.
//!
//! A message is ten bytes of head (length, stream, kind, flags) and a protobuf message. There is one
//! connection for each call, so that no call waits for another.

use std::io;
use std::path::Path;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use zeroize::Zeroizing;

use crate::protobuf::{Fields, Value, put_bytes, put_number};

/// What a call gives when it gives no answer.
#[derive(Debug)]
pub(crate) enum CallError {
    /// No connection, or one that broke.
    Io(io::Error),
    /// The service says no.
    Status { code: u64, message: String },
    /// The answer is not one.
    Malformed { expected: &'static str },
    /// The answer is longer than ttrpc allows.
    TooLarge { length: u32 },
}

/// Calls `service/method` at `socket`. The caller sets the deadline; the service is told of it.
pub(crate) async fn call(
    socket: &Path,
    service: &str,
    method: &str,
    payload: &[u8],
    timeout: Duration,
) -> Result<Zeroizing<Vec<u8>>, CallError> {
    let request = request(service, method, payload, timeout);
    let mut stream = UnixStream::connect(socket).await.map_err(CallError::Io)?;
    stream.write_all(&request).await.map_err(CallError::Io)?;
    let mut head = [0; HEAD];
    stream.read_exact(&mut head).await.map_err(CallError::Io)?;
    let length = answer_length(head)?;
    let mut answer = Zeroizing::new(vec![0; length]);
    stream
        .read_exact(&mut answer)
        .await
        .map_err(CallError::Io)?;
    read_answer(&answer)
}

fn request(service: &str, method: &str, payload: &[u8], timeout: Duration) -> Vec<u8> {
    let mut body = Vec::new();
    put_bytes(&mut body, 1, service.as_bytes());
    put_bytes(&mut body, 2, method.as_bytes());
    put_bytes(&mut body, 3, payload);
    let nanoseconds = u64::try_from(timeout.as_nanos()).unwrap_or(u64::MAX >> 1);
    put_number(&mut body, 4, nanoseconds);
    let length = u32::try_from(body.len()).unwrap_or(u32::MAX);
    let mut message = length.to_be_bytes().to_vec();
    message.extend(STREAM.to_be_bytes());
    message.extend([REQUEST, 0]);
    message.extend(body);
    message
}

fn answer_length(head: [u8; HEAD]) -> Result<usize, CallError> {
    let [l0, l1, l2, l3, s0, s1, s2, s3, kind, _flags] = head;
    let length = u32::from_be_bytes([l0, l1, l2, l3]);
    let stream = u32::from_be_bytes([s0, s1, s2, s3]);
    if kind != RESPONSE || stream != STREAM {
        return Err(CallError::Malformed {
            expected: "a ttrpc response to our request",
        });
    }
    usize::try_from(length)
        .ok()
        .filter(|length| *length <= LONGEST)
        .ok_or(CallError::TooLarge { length })
}

/// `Response { 1: Status { 1: code, 2: message }, 2: payload }`; success may carry a status, too.
fn read_answer(answer: &[u8]) -> Result<Zeroizing<Vec<u8>>, CallError> {
    let mut payload = Zeroizing::new(Vec::new());
    for field in Fields::of(answer) {
        match field.map_err(malformed)? {
            (1, Value::Bytes(status)) => read_status(status)?,
            (2, Value::Bytes(bytes)) => payload = Zeroizing::new(bytes.to_vec()),
            _ => {}
        }
    }
    Ok(payload)
}

fn read_status(status: &[u8]) -> Result<(), CallError> {
    let (mut code, mut message) = (0, String::new());
    for field in Fields::of(status) {
        match field.map_err(malformed)? {
            (1, Value::Number(number)) => code = number,
            (2, Value::Bytes(bytes)) => message = String::from_utf8_lossy(bytes).into_owned(),
            _ => {}
        }
    }
    if code == 0 {
        return Ok(());
    }
    Err(CallError::Status { code, message })
}

fn malformed(_: crate::protobuf::Malformed) -> CallError {
    CallError::Malformed {
        expected: "a protobuf message",
    }
}

const HEAD: usize = 10;
/// Clients use odd numbers, the first of a connection is this.
const STREAM: u32 = 1;
const REQUEST: u8 = 1;
const RESPONSE: u8 = 2;
/// As ttrpc limits it.
const LONGEST: usize = 4 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    const SERVICE: &str = "attestation_agent.AttestationAgentService";

    #[test]
    fn request_has_the_recorded_bytes() {
        let mut payload = Vec::new();
        put_bytes(&mut payload, 1, b"hello");
        let found = request(SERVICE, "GetEvidence", &payload, Duration::from_secs(5));
        let expected = [
            b"\0\0\0\x47\0\0\0\x01\x01\0\x0a\x29",
            SERVICE.as_bytes(),
            b"\x12\x0bGetEvidence\x1a\x07\x0a\x05hello\x20\x80\xe4\x97\xd0\x12",
        ]
        .concat();
        assert_eq!(found, expected);
    }

    #[test]
    fn success_with_an_empty_status_is_success() {
        let recorded = b"\x0a\0\x12\x06\x0a\x04null";
        assert_eq!(*read_answer(recorded).unwrap(), b"\x0a\x04null");
        assert_eq!(*read_answer(b"").unwrap(), b"");
    }

    #[test]
    fn status_is_told_with_code_and_message() {
        let error = read_answer(b"\x0a\x0f\x08\x0c\x12\x0bNoSuch meth").unwrap_err();
        let CallError::Status { code, message } = error else {
            panic!("{error:?}")
        };
        assert_eq!((code, &*message), (12, "NoSuch meth"));
    }

    #[test]
    fn head_of_another_message_is_refused() {
        let head = |length: u32, stream: u32, kind| {
            let (length, stream) = (length.to_be_bytes(), stream.to_be_bytes());
            let bytes = [&length[..], &stream, &[kind, 0]].concat();
            answer_length(bytes.try_into().unwrap())
        };
        assert_eq!(head(42, 1, RESPONSE).unwrap(), 42);
        for (stream, kind) in [(1, REQUEST), (1, 3), (3, RESPONSE)] {
            let error = head(42, stream, kind).unwrap_err();
            assert!(matches!(error, CallError::Malformed { .. }), "{error:?}");
        }
        let error = head(u32::MAX, 1, RESPONSE).unwrap_err();
        assert!(
            matches!(error, CallError::TooLarge { length: u32::MAX }),
            "{error:?}"
        );
    }
}
