//! How long a session serves.

use std::time::{Duration, Instant, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::messages::TokenLife;

/// The moment after which a session is not used any more; none is known when the server says none.
///
/// Both ends are *differences of the server's own clock*, counted on our monotonic clock from
/// receipt: the wall clock of a guest belongs to its host and decides nothing here.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Lifetime {
    ends: Option<Instant>,
}

impl Lifetime {
    /// From `Expires` of the cookie and `Date` of the same answer (RFC 6265 section 5.2.1).
    pub(crate) fn of_cookie(expires: Option<&str>, date: Option<&str>, received: Instant) -> Self {
        let moment = |text: &str| httpdate::parse_http_date(text).ok();
        let length = expires.and_then(moment).zip(date.and_then(moment)).map(
            |(expires, date): (SystemTime, SystemTime)| {
                expires.duration_since(date).unwrap_or(Duration::ZERO)
            },
        );
        Self::starting(received, length)
    }

    /// From `exp` and `iat` of the token, read without trusting it: this only spares a request that
    /// the server would refuse. A token that says nothing is bounded by its cookie alone.
    pub(crate) fn of_token(token: &str, received: Instant) -> Self {
        let length = untrusted_claims(token).map(|life: TokenLife| {
            Duration::try_from_secs_f64(life.exp - life.iat).unwrap_or(Duration::ZERO)
        });
        Self::starting(received, length)
    }

    pub(crate) fn shorter_of(self, other: Self) -> Self {
        Self {
            ends: self.ends.into_iter().chain(other.ends).min(),
        }
    }

    pub(crate) fn is_over(self, now: Instant) -> bool {
        self.ends.is_some_and(|ends| now >= ends)
    }

    /// A tenth, and at most half a minute, is kept back, so that a request does not arrive at the
    /// very moment of the end.
    fn starting(received: Instant, length: Option<Duration>) -> Self {
        let usable = |length: Duration| length.saturating_sub((length / 10).min(LARGEST_MARGIN));
        Self {
            ends: length
                .map(usable)
                .and_then(|length| received.checked_add(length)),
        }
    }
}

/// The claims of a token (RFC 7519 section 3), whoever has signed it.
pub(crate) fn untrusted_claims<T: serde::de::DeserializeOwned>(token: &str) -> Option<T> {
    let claims = token.split('.').nth(1)?;
    let claims = URL_SAFE_NO_PAD.decode(claims).ok()?;
    serde_json::from_slice(&claims).ok()
}

const LARGEST_MARGIN: Duration = Duration::from_secs(30);

#[cfg(test)]
mod tests {
    use super::*;

    const EXPIRES: Option<&str> = Some("Sun, 22 Nov 2026 10:57:57 GMT");
    const DATE: Option<&str> = Some("Sun, 22 Nov 2026 10:52:57 GMT");

    fn token(claims: &str) -> String {
        format!("e30.{}.sig", URL_SAFE_NO_PAD.encode(claims))
    }

    /// Seconds after receipt at which the session is given up.
    fn length(lifetime: Lifetime, received: Instant) -> Option<u64> {
        lifetime
            .ends
            .map(|ends| ends.duration_since(received).as_secs())
    }

    #[test]
    fn cookie_lives_by_the_clock_of_the_server_less_a_margin() {
        let now = Instant::now();
        let rows = [
            (EXPIRES, DATE, Some(270)),
            (DATE, EXPIRES, Some(0)),
            (None, DATE, None),
            (EXPIRES, None, None),
            (Some("tomorrow"), DATE, None),
        ];
        for (expires, date, expected) in rows {
            assert_eq!(
                length(Lifetime::of_cookie(expires, date, now), now),
                expected
            );
        }
    }

    #[test]
    fn token_lives_for_exp_minus_iat_whatever_the_wall_clock_says() {
        let now = Instant::now();
        let rows = [
            (token(r#"{"iat":1000,"exp":1300}"#), Some(270)),
            (token(r#"{"iat":1000.5,"exp":1010.5}"#), Some(9)),
            (token(r#"{"iat":1000,"exp":900}"#), Some(0)),
            (token(r#"{"iat":0,"exp":1e300}"#), Some(0)),
            (token(r#"{"exp":1300}"#), None),
            (token("not json"), None),
            ("opaque".to_owned(), None),
        ];
        for (token, expected) in rows {
            assert_eq!(
                length(Lifetime::of_token(&token, now), now),
                expected,
                "{token}"
            );
        }
    }

    #[test]
    fn session_ends_with_whichever_ends_first() {
        let now = Instant::now();
        let lasting = |seconds| Lifetime::starting(now, Some(Duration::from_secs(seconds)));
        let unknown = Lifetime::default();
        assert_eq!(lasting(10).shorter_of(lasting(20)), lasting(10));
        assert_eq!(unknown.shorter_of(lasting(20)), lasting(20));
        assert!(!unknown.shorter_of(unknown).is_over(now));
        assert!(!lasting(10).is_over(now));
        assert!(lasting(10).is_over(now + Duration::from_secs(9)));
    }
}
