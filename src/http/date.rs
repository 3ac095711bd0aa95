//! Dates as texts: `Sun, 06 Nov 1994 08:49:37 GMT` in the head of a response (RFC 9110 section 5.6.7), and
//! `1994-11-06T08:49:37.000Z` (RFC 3339) in bodies.

use std::time::{Duration, SystemTime};

const DAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];

const MONTHS: [(&str, u64); 12] = [
    ("Jan", 31),
    ("Feb", 28),
    ("Mar", 31),
    ("Apr", 30),
    ("May", 31),
    ("Jun", 30),
    ("Jul", 31),
    ("Aug", 31),
    ("Sep", 30),
    ("Oct", 31),
    ("Nov", 30),
    ("Dec", 31),
];

/// The date of now for the head of a response.
pub fn now() -> String {
    text(since_1970(SystemTime::now()).as_secs())
}

/// A time as RFC 3339 writes it, in UTC.
pub fn rfc3339(time: SystemTime) -> String {
    let since = since_1970(time);
    let (day, second) = (Day::at(since.as_secs()), since.as_secs() % 86_400);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!(
        "{:04}-{:02}-{:02}T{hour:02}:{minute:02}:{second:02}.{:03}Z",
        day.year,
        day.month + 1,
        day.day + 1,
        since.subsec_millis()
    )
}

/// A clock that stands before 1970 is one that stands at its begin.
fn since_1970(time: SystemTime) -> Duration {
    time.duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default()
}

/// The date so many seconds after the begin of 1970.
fn text(seconds: u64) -> String {
    let (day, second) = (Day::at(seconds), seconds % 86_400);
    let week_day = DAYS[(seconds / 86_400 % 7) as usize];
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    let (name, year) = (MONTHS[day.month].0, day.year);
    format!(
        "{week_day}, {:02} {name} {year} {hour:02}:{minute:02}:{second:02} GMT",
        day.day + 1
    )
}

/// A day of the calendar; months and days count from 0.
struct Day {
    year: u64,
    month: usize,
    day: u64,
}

impl Day {
    /// The day so many seconds after the begin of 1970.
    fn at(seconds: u64) -> Day {
        let is_leap = |year: u64| {
            year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
        };
        let (mut year, mut day) = (1970, seconds / 86_400);
        while day >= 365 + u64::from(is_leap(year)) {
            day -= 365 + u64::from(is_leap(year));
            year += 1;
        }
        let mut month = 0;
        for (name, days) in MONTHS {
            let days = days + u64::from(name == "Feb" && is_leap(year));
            if day < days {
                break;
            }
            day -= days;
            month += 1;
        }
        Day { year, month, day }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// From `date -u -d @N`.
    #[test]
    fn seconds_are_dates() {
        for (seconds, expected) in [
            (0, "Thu, 01 Jan 1970 00:00:00 GMT"),
            (784_111_777, "Sun, 06 Nov 1994 08:49:37 GMT"),
            (951_782_400, "Tue, 29 Feb 2000 00:00:00 GMT"),
            (951_868_800, "Wed, 01 Mar 2000 00:00:00 GMT"),
            (1_798_761_599, "Thu, 31 Dec 2026 23:59:59 GMT"),
            (4_107_542_400, "Mon, 01 Mar 2100 00:00:00 GMT"),
        ] {
            assert_eq!(text(seconds), expected);
        }
    }
    /// From `date -u -d @N +%FT%T`.
    #[test]
    fn times_are_written_as_rfc_3339_has_them() {
        for (millis, expected) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (784_111_777_005, "1994-11-06T08:49:37.005Z"),
            (951_782_400_999, "2000-02-29T00:00:00.999Z"),
            (1_798_761_599_000, "2026-12-31T23:59:59.000Z"),
            (4_107_542_400_000, "2100-03-01T00:00:00.000Z"),
        ] {
            let time = SystemTime::UNIX_EPOCH + Duration::from_millis(millis);
            assert_eq!(rfc3339(time), expected);
        }
        let before = SystemTime::UNIX_EPOCH - Duration::from_secs(1);
        assert_eq!(rfc3339(before), "1970-01-01T00:00:00.000Z");
    }
}
