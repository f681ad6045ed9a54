//! What can go wrong on the way to an answer.

use std::io;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::{self, StreamExt as _};
use http::{HeaderValue, Response, header};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;

use super::answer;

/// How a request is treated instead of being answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// The answer comes this late.
    Delay(Duration),
    /// Status 200 and a body without end.
    EndlessBody,
    /// Status 200 and a length of 3 MiB, announced and kept.
    LongBody,
    /// One byte of a long body, ten times a second.
    Drip,
    /// The connection ends in the middle of the body.
    CutConnection,
    /// The right answer, cut in half, as a complete message.
    Truncate,
    /// This answer.
    Answer {
        /// Status.
        status: u16,
        /// Headers beside `Date` and `Content-Length`.
        headers: Vec<(&'static str, String)>,
        /// Body.
        body: String,
    },
}

impl Fault {
    /// An error in the shape of the KBS, with a status of one's own.
    pub fn error(status: u16, kind: &str, detail: &str) -> Self {
        Self::Answer {
            status,
            headers: Vec::new(),
            body: answer::error_body(kind, detail),
        }
    }

    /// This status and nothing else.
    pub fn status(status: u16) -> Self {
        Self::Answer {
            status,
            headers: Vec::new(),
            body: String::new(),
        }
    }

    /// Success, with this body.
    pub fn message(body: &str) -> Self {
        Self::Answer {
            status: 200,
            headers: Vec::new(),
            body: body.to_owned(),
        }
    }

    /// A redirect to this address.
    pub fn redirect(location: &str) -> Self {
        let headers = vec![("location", location.to_owned())];
        Self::Answer {
            status: 307,
            headers,
            body: String::new(),
        }
    }

    /// What replaces `answer`.
    pub(super) async fn apply(
        self,
        answer: Response<BoxBody<Bytes, io::Error>>,
    ) -> Response<BoxBody<Bytes, io::Error>> {
        match self {
            Self::Delay(delay) => {
                tokio::time::sleep(delay).await;
                answer
            }
            Self::EndlessBody => streamed(None, stream::repeat_with(|| Ok(block()))),
            Self::LongBody => {
                let blocks = stream::repeat_with(|| Ok(block())).take(3 * 16);
                streamed(Some(3 * 1024 * 1024), blocks)
            }
            Self::Drip => {
                let bytes = stream::repeat(()).then(|()| async {
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    Ok(Bytes::from_static(b" "))
                });
                streamed(Some(1_000_000), bytes)
            }
            Self::CutConnection => {
                let cut = Err(io::Error::from(io::ErrorKind::ConnectionReset));
                streamed(
                    Some(1000),
                    stream::iter([Ok(Bytes::from_static(b"{")), cut]),
                )
            }
            Self::Truncate => {
                let whole = answer
                    .into_body()
                    .collect()
                    .await
                    .expect("a body in memory");
                let whole = whole.to_bytes();
                answer::json(whole.slice(..whole.len() / 2).to_vec())
            }
            Self::Answer {
                status,
                headers,
                body,
            } => {
                let mut response = answer::plain(status, body);
                for (name, value) in headers {
                    let value = HeaderValue::from_str(&value).expect("a legal header");
                    response.headers_mut().append(name, value);
                }
                response
            }
        }
    }
}

fn block() -> Bytes {
    Bytes::from(vec![b' '; 64 * 1024])
}

fn streamed(
    length: Option<u64>,
    blocks: impl stream::Stream<Item = io::Result<Bytes>> + Send + Sync + 'static,
) -> Response<BoxBody<Bytes, io::Error>> {
    let body = StreamBody::new(blocks.map(|block| block.map(Frame::data)));
    let mut response = Response::new(BodyExt::boxed(body));
    if let Some(length) = length {
        response
            .headers_mut()
            .insert(header::CONTENT_LENGTH, HeaderValue::from(length));
    }
    response
}
