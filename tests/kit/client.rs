//! What kata-agent does: `api.ImagePullService/PullImage` over ttrpc.
//!
//! The two messages are encoded by hand, so that a mistake in the generated code of the daemon
//! cannot hide behind the same mistake here.

use std::path::Path;
use std::time::Duration;

pub use ttrpc::Code;
use ttrpc::asynchronous;

/// How long a call may take before the test gives up on it.
const DEADLINE: Duration = Duration::from_mins(1);

/// A connection to the daemon.
#[derive(Clone)]
pub struct Client {
    connection: asynchronous::Client,
}

impl std::fmt::Debug for Client {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Client").finish_non_exhaustive()
    }
}

/// Why a call brought no image.
#[derive(Debug, Clone, PartialEq)]
pub enum CallError {
    /// The daemon answered with a status.
    Refused(Refusal),
    /// There was no answer: the connection broke, or the deadline passed.
    Lost(String),
}

/// A status of the daemon.
#[derive(Debug, Clone, PartialEq)]
pub struct Refusal {
    /// The ttrpc code.
    pub code: Code,
    /// The text.
    pub message: String,
}

impl Client {
    /// Connects to `socket`.
    pub async fn connect(socket: &Path) -> Result<Self, String> {
        let connection = asynchronous::Client::connect(&format!("unix://{}", socket.display()))
            .await
            .map_err(|error| error.to_string())?;
        Ok(Self { connection })
    }

    /// Asks for `image` at `bundle`; the answer is the manifest digest.
    pub async fn pull(&self, image: &str, bundle: &str) -> Result<String, CallError> {
        self.pull_within(image, bundle, DEADLINE).await
    }

    /// The same from a caller that gives up after `deadline` and says so.
    pub async fn pull_within(
        &self,
        image: &str,
        bundle: &str,
        deadline: Duration,
    ) -> Result<String, CallError> {
        let mut payload = Vec::new();
        put_string(&mut payload, 1, image);
        put_string(&mut payload, 2, bundle);
        let response = self
            .call_within("api.ImagePullService", "PullImage", payload, deadline)
            .await?;
        Ok(string_field(&response, 1))
    }

    /// Calls any method with any payload.
    pub async fn call(
        &self,
        service: &str,
        method: &str,
        payload: Vec<u8>,
    ) -> Result<Vec<u8>, CallError> {
        self.call_within(service, method, payload, DEADLINE).await
    }

    async fn call_within(
        &self,
        service: &str,
        method: &str,
        payload: Vec<u8>,
        deadline: Duration,
    ) -> Result<Vec<u8>, CallError> {
        let request = ttrpc::Request {
            service: service.to_owned(),
            method: method.to_owned(),
            timeout_nano: i64::try_from(deadline.as_nanos()).expect("292 years fit"),
            payload,
            ..ttrpc::Request::default()
        };
        match self.connection.request(request).await {
            Ok(response) => Ok(response.payload),
            Err(ttrpc::Error::RpcStatus(status)) => Err(CallError::Refused(Refusal {
                code: status.code(),
                message: status.message().to_owned(),
            })),
            Err(error) => Err(CallError::Lost(error.to_string())),
        }
    }
}

/// Appends a length-delimited protobuf field.
fn put_string(payload: &mut Vec<u8>, number: u8, text: &str) {
    payload.push(number << 3 | 2);
    let mut length = text.len();
    while length >= 0x80 {
        payload.push(u8::try_from(length & 0x7f).expect("seven bits") | 0x80);
        length >>= 7;
    }
    payload.push(u8::try_from(length).expect("seven bits"));
    payload.extend_from_slice(text.as_bytes());
}

/// Reads a message that holds one short string under `number` and nothing else.
fn string_field(message: &[u8], number: u8) -> String {
    let (head, text) = message
        .split_at_checked(2)
        .expect("the response holds a string");
    assert_eq!(head[0], number << 3 | 2, "the field's tag");
    assert!(text.len() < 0x80, "one byte of length");
    assert_eq!(
        usize::from(head[1]),
        text.len(),
        "the field fills the message"
    );
    String::from_utf8(text.to_vec()).expect("protobuf strings are UTF-8")
}
