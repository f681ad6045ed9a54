//! Points in time as certificates, tokens and trusted roots write them.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rcgen::{CertificateParams, date_time_ymd};

/// Seconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment(pub u64);

impl Moment {
    /// The present.
    pub fn now() -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        Self(since.expect("it is later than 1970").as_secs())
    }

    /// So many seconds later.
    #[must_use]
    pub fn plus(self, seconds: u64) -> Self {
        Self(self.0 + seconds)
    }

    /// So many seconds earlier.
    #[must_use]
    pub fn minus(self, seconds: u64) -> Self {
        Self(self.0 - seconds)
    }

    /// `2026-11-22T10:56:21Z`.
    pub fn rfc3339(self) -> String {
        let (year, month, day, hour, minute, second) = self.parts();
        format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
    }

    /// The content of an ASN.1 `GeneralizedTime`: `20261122105621Z`.
    pub(super) fn generalized(self) -> String {
        let (year, month, day, hour, minute, second) = self.parts();
        format!("{year:04}{month:02}{day:02}{hour:02}{minute:02}{second:02}Z")
    }

    /// Makes a certificate valid from here for so many seconds.
    pub(super) fn limit(self, seconds: u64, params: &mut CertificateParams) {
        let begin = date_time_ymd(1970, 1, 1) + Duration::from_secs(self.0);
        params.not_before = begin;
        params.not_after = begin + Duration::from_secs(seconds);
    }

    fn parts(self) -> (i32, u8, u8, u8, u8, u8) {
        let time = date_time_ymd(1970, 1, 1) + Duration::from_secs(self.0);
        let (hour, minute, second) = time.to_hms();
        (
            time.year(),
            time.month().into(),
            time.day(),
            hour,
            minute,
            second,
        )
    }
}

/// When every service of the kit began: 2020-01-01.
pub(super) const START: u64 = 1_577_836_800;
/// How long its certificates are good, but for those of signers: 40 years.
pub(super) const LONG: u64 = 40 * 365 * 24 * 3600;
