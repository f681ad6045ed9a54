//! One blob, from its first byte to its last, over as many connections as that takes.
//!
//! What an attempt has brought stays: the next one asks for the rest (RFC 9110 section 14) and goes
//! on sending down the same pipe, whose other end keeps its digest and its decompressor. That two
//! attempts were about the same bytes is not taken on trust from an `ETag`: a blob's address is its
//! digest, and the digest of the whole is checked at its end.

use std::time::{Duration, Instant};

use reqwest::header::CONTENT_RANGE;
use reqwest::{Response, StatusCode};

use super::blob::BlobSender;
use super::error::{RegistryError, Wanted};
use super::http;
use super::throttle::Throttle;

/// A blob on its way.
#[derive(Debug)]
pub(crate) struct Download {
    pub(crate) wanted: Wanted,
    /// Bytes of the whole blob, as its descriptor has it.
    size: u64,
    /// Bytes that have been sent down the pipe.
    offset: u64,
    /// How long a connection may take for what would be progress.
    idle: Duration,
}

/// How much has come for how long a wait.
#[derive(Debug, Default)]
struct Pace {
    waited: Duration,
    brought: u64,
}

impl Pace {
    /// Whether that is worth waiting on.
    fn keeps_up(&mut self, waited: Duration, brought: u64, idle: Duration) -> bool {
        self.waited = self.waited.saturating_add(waited);
        self.brought = self.brought.saturating_add(brought);
        if self.waited < idle {
            return true;
        }
        let ended = std::mem::take(self);
        ended.brought >= LEAST_RATE.saturating_mul(idle.as_secs())
    }
}

/// How an attempt ended that did not fail.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// All bytes were sent.
    Complete,
    /// The unpacker has gone.
    NobodyListens,
}

impl Download {
    /// A blob of `size` bytes, none of which has come. A connection that brings hardly anything in
    /// `idle` is as good as one that brings nothing.
    pub(crate) fn new(wanted: Wanted, size: u64, idle: Duration) -> Self {
        Self {
            wanted,
            size,
            offset: 0,
            idle,
        }
    }

    /// The first byte that is still missing.
    pub(crate) fn offset(&self) -> u64 {
        self.offset
    }

    /// Sends what `response` brings of the bytes that are missing.
    pub(crate) async fn receive(
        &mut self,
        mut response: Response,
        sender: &BlobSender,
        throttle: &Throttle,
        progress: &mut impl FnMut(u64),
    ) -> Result<Ended, RegistryError> {
        let mut surplus = self.surplus(&response)?;
        let mut pace = Pace::default();
        loop {
            let Ok(room) = sender.room().await else {
                return Ok(Ended::NobodyListens);
            };
            let begun = Instant::now();
            let mut chunk = match http::next_chunk(&mut response, &self.wanted).await {
                Ok(Some(chunk)) => chunk,
                Ok(None) => break,
                // Nothing is missing but the end, and there is nothing to ask anybody for.
                Err(_) if self.offset == self.size => break,
                Err(error) => return Err(error),
            };
            let count = u64::try_from(chunk.len()).unwrap_or(u64::MAX);
            if !pace.keeps_up(begun.elapsed(), count, self.idle) {
                let wanted = self.wanted.clone();
                return Err(RegistryError::Stalled { wanted });
            }
            throttle.pass(chunk.len()).await;
            if surplus > 0 {
                let known = usize::try_from(surplus)
                    .unwrap_or(usize::MAX)
                    .min(chunk.len());
                let _had_before = chunk.split_to(known);
                surplus = surplus.saturating_sub(u64::try_from(known).unwrap_or(u64::MAX));
                if chunk.is_empty() {
                    continue;
                }
            }
            let count = u64::try_from(chunk.len()).unwrap_or(u64::MAX);
            let reached = self.offset.saturating_add(count);
            if reached > self.size {
                return Err(self.wrong_size(reached));
            }
            room.fill(chunk);
            self.offset = reached;
            progress(count);
        }
        if self.offset < self.size {
            let (found, expected) = (self.offset, self.size);
            return Err(RegistryError::Broken {
                wanted: self.wanted.clone(),
                reason: format!("it ended after {found} of {expected} bytes"),
            });
        }
        Ok(Ended::Complete)
    }

    /// How many bytes at the beginning of `response` have come before: none of what answers a
    /// request for the rest, all of them when the server sends the whole again.
    fn surplus(&self, response: &Response) -> Result<u64, RegistryError> {
        let (surplus, expected) = match response.status() {
            StatusCode::PARTIAL_CONTENT => {
                self.check_range(response)?;
                (0, self.size.saturating_sub(self.offset))
            }
            _ => (self.offset, self.size),
        };
        match response.content_length() {
            Some(found) if found != expected => {
                let before = self.offset.saturating_sub(surplus);
                Err(self.wrong_size(before.saturating_add(found)))
            }
            _ => Ok(surplus),
        }
    }

    fn check_range(&self, response: &Response) -> Result<(), RegistryError> {
        let header = response.headers().get(CONTENT_RANGE);
        let stated = header.and_then(|value| value.to_str().ok());
        let range = stated.and_then(Range::parse);
        let fits = |range: Range| {
            range.first == self.offset
                && range.last.checked_add(1) == Some(self.size)
                && range.size.is_none_or(|size| size == self.size)
        };
        if range.is_some_and(fits) {
            return Ok(());
        }
        Err(RegistryError::WrongRange {
            wanted: self.wanted.clone(),
            offset: self.offset,
            size: self.size,
        })
    }

    fn wrong_size(&self, found: u64) -> RegistryError {
        RegistryError::WrongSize {
            wanted: self.wanted.clone(),
            expected: self.size,
            found,
        }
    }
}

/// Bytes a second that are worth waiting for: far less than what a bad line brings, shared by all
/// layers that are under way.
const LEAST_RATE: u64 = 512;

/// A `Content-Range`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Range {
    first: u64,
    last: u64,
    size: Option<u64>,
}

impl Range {
    /// RFC 9110 section 14.4: `bytes 10-99/100`, `bytes 10-99/*`.
    fn parse(text: &str) -> Option<Self> {
        let (unit, rest) = text.trim().split_once(' ')?;
        let (range, size) = rest.split_once('/')?;
        let (first, last) = range.split_once('-')?;
        let size = match size {
            "*" => None,
            size => Some(number(size)?),
        };
        let (first, last) = (number(first)?, number(last)?);
        unit.eq_ignore_ascii_case("bytes")
            .then_some(Self { first, last, size })
    }
}

/// Digits and nothing else; the standard library would take a sign, too.
fn number(text: &str) -> Option<u64> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| text.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use bytes::Bytes;
    use reqwest::Body;

    use super::*;
    use crate::registry::blob_channel;

    const BLOB: &[u8] = b"0123456789";
    const IDLE: Duration = Duration::from_secs(30);

    fn answer(status: u16, range: Option<&str>, body: &'static [&'static [u8]]) -> Response {
        let pieces = body
            .iter()
            .map(|piece| Ok::<_, std::io::Error>(Bytes::from_static(piece)));
        let body = Body::wrap_stream(futures_util::stream::iter(pieces));
        let mut answer = ::http::Response::builder().status(status);
        if let Some(range) = range {
            answer = answer.header(CONTENT_RANGE, range);
        }
        answer.body(body).unwrap().into()
    }

    /// An answer whose line breaks after `body`.
    fn broken(body: &'static [u8]) -> Response {
        let pieces = [
            Ok(Bytes::from_static(body)),
            Err(std::io::Error::other("reset")),
        ];
        let body = Body::wrap_stream(futures_util::stream::iter(pieces));
        ::http::Response::new(body).into()
    }

    /// What reaches the unpacker of a blob of which `had` bytes came before, and how it ended.
    async fn receive(had: usize, answer: Response) -> (Vec<u8>, Result<Ended, RegistryError>) {
        let (sender, mut reader) = blob_channel();
        let wanted = Wanted::blob("registry.example", "app", "sha256:0");
        let mut download = Download::new(wanted, 10, IDLE);
        let room = sender.room().await.unwrap();
        room.fill(Bytes::from_static(&BLOB[..had]));
        download.offset = u64::try_from(had).unwrap();
        let reading = tokio::task::spawn_blocking(move || {
            let mut bytes = Vec::new();
            let _cut_short_when_the_sender_goes = reader.read_to_end(&mut bytes);
            bytes
        });
        let throttle = Throttle::new(None);
        let ended = download
            .receive(answer, &sender, &throttle, &mut |_count| {})
            .await;
        drop(sender);
        (reading.await.unwrap(), ended)
    }

    #[tokio::test]
    async fn the_rest_is_appended_to_what_is_there() {
        for range in ["bytes 4-9/10", "bytes 4-9/*", "Bytes 4-9/10"] {
            let rest = answer(206, Some(range), &[b"45", b"6789"]);
            let (bytes, ended) = receive(4, rest).await;
            assert_eq!((bytes.as_slice(), ended.unwrap()), (BLOB, Ended::Complete));
        }
    }

    #[test]
    fn a_byte_now_and_then_is_no_progress_and_a_slow_line_is() {
        let seconds = Duration::from_secs;
        let mut pace = Pace::default();
        assert!(pace.keeps_up(seconds(29), 1, IDLE));
        assert!(!pace.keeps_up(seconds(1), LEAST_RATE * 30 - 2, IDLE));
        for _ in 0..100 {
            assert!(pace.keeps_up(seconds(10), 8 << 10, IDLE));
        }
    }

    #[tokio::test]
    async fn a_line_that_breaks_behind_the_last_byte_costs_nothing() {
        let (bytes, ended) = receive(0, broken(BLOB)).await;
        assert_eq!((bytes.as_slice(), ended.unwrap()), (BLOB, Ended::Complete));
        let (bytes, ended) = receive(0, broken(b"012345678")).await;
        assert_eq!(bytes, b"012345678");
        assert!(
            matches!(ended, Err(RegistryError::Broken { .. })),
            "{ended:?}"
        );
    }

    #[tokio::test]
    async fn what_is_sent_again_is_not_fed_twice() {
        const SPLITS: [&[&[u8]]; 3] = [
            &[b"0123456789"],
            &[b"01", b"23", b"45", b"6789"],
            &[b"01234", b"56789"],
        ];
        for pieces in SPLITS {
            let whole = answer(200, None, pieces);
            let (bytes, ended) = receive(4, whole).await;
            assert_eq!((bytes.as_slice(), ended.unwrap()), (BLOB, Ended::Complete));
        }
    }

    #[tokio::test]
    async fn another_range_than_the_rest_is_refused_before_a_byte_of_it_is_used() {
        for range in [
            None,
            Some("bytes 0-9/10"),
            Some("bytes 3-9/10"),
            Some("bytes 4-8/10"),
            Some("bytes 4-9/11"),
            Some("bytes +4-9/10"),
            Some("bytes */10"),
            Some("octets 4-9/10"),
            Some("bytes 4-18446744073709551615/*"),
        ] {
            let (bytes, ended) = receive(4, answer(206, range, &[b"456789"])).await;
            assert_eq!(bytes, b"0123", "{range:?}");
            assert!(
                matches!(
                    ended,
                    Err(RegistryError::WrongRange {
                        offset: 4,
                        size: 10,
                        ..
                    })
                ),
                "{range:?}: {ended:?}"
            );
        }
    }

    #[tokio::test]
    async fn more_bytes_than_the_descriptor_says_never_reach_the_unpacker() {
        let (bytes, ended) =
            receive(4, answer(206, Some("bytes 4-9/10"), &[b"45", b"67890"])).await;
        assert_eq!(bytes, b"012345");
        assert!(
            matches!(
                ended,
                Err(RegistryError::WrongSize {
                    expected: 10,
                    found: 11,
                    ..
                })
            ),
            "{ended:?}"
        );
    }

    #[tokio::test]
    async fn an_end_before_the_end_can_be_gone_on_from() {
        let (bytes, ended) = receive(4, answer(206, Some("bytes 4-9/10"), &[b"45"])).await;
        assert_eq!(bytes, b"012345");
        let error = ended.unwrap_err();
        assert!(error.is_transient(), "{error:?}");
        assert!(
            error
                .to_string()
                .ends_with("(it ended after 6 of 10 bytes)"),
            "{error}"
        );
    }
}
