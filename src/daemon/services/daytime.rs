//! The daytime protocol (RFC 867): date and time as a line of text, then the end.
//!
//! The line has the first form that the RFC suggests, in UTC: `Saturday, November 21, 2026 23:55:10-UTC`.

use super::{Create, Io, Service, ServiceContext};
use crate::sys::clock;

/// Days of the week, from 1970-01-01 on, which was a Thursday.
const WEEKDAYS: [&str; 7] =
    ["Thursday", "Friday", "Saturday", "Sunday", "Monday", "Tuesday", "Wednesday"];

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];

/// Seconds of a day; UTC as the system counts it has no leap seconds.
const DAY: u64 = 86_400;

/// A service that sends date and time and ends the connection.
#[derive(Clone, Copy, Debug, Default)]
pub struct Daytime;

impl Create for Daytime {
    fn create(_: &ServiceContext<'_>) -> Self {
        Self
    }
}

impl Service for Daytime {
    type Session = ();

    fn opened(&mut self, (): &mut (), io: &mut impl Io) {
        io.send(daytime(clock::unix_ms() / 1000).as_bytes());
        io.finish();
    }

    fn received(&mut self, (): &mut (), _: &mut impl Io, _: &[u8]) {}
}

/// Returns the line for a time in seconds since 1970.
fn daytime(unix_seconds: u64) -> String {
    let (days, second) = (unix_seconds / DAY, unix_seconds % DAY);
    let weekday = WEEKDAYS[(days % 7) as usize];
    let (year, month, day) = date(days);
    let month = MONTHS[month];
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{weekday}, {month} {day}, {year} {hour:02}:{minute:02}:{second:02}-UTC\r\n")
}

/// Returns year, month (from 0), and day (from 1) of the day that is `days` after 1970-01-01, in the
/// Gregorian calendar.
fn date(days: u64) -> (u64, usize, u64) {
    // In years that begin in March, a leap day is the last day of its year, and the months have lengths
    // that repeat every 153 days. 1970-01-01 is 719 468 days after 0000-03-01.
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = (month_from_march + 2) % 12;
    let year = 400 * era + year_of_era + u64::from(month < 2);
    (year, month as usize, day)
}

#[cfg(test)]
mod tests {
    use super::super::recorder::converse;
    use super::*;

    #[test]
    fn lines_are_those_of_date() {
        // date -u -d @SECONDS '+%A, %B %-d, %Y %H:%M:%S-UTC'
        for (seconds, line) in [
            (0, "Thursday, January 1, 1970 00:00:00-UTC\r\n"),
            (68_169_599, "Monday, February 28, 1972 23:59:59-UTC\r\n"),
            (68_169_600, "Tuesday, February 29, 1972 00:00:00-UTC\r\n"),
            (951_782_400, "Tuesday, February 29, 2000 00:00:00-UTC\r\n"),
            (1_795_305_310, "Saturday, November 21, 2026 23:55:10-UTC\r\n"),
            (4_107_542_399, "Sunday, February 28, 2100 23:59:59-UTC\r\n"),
            (4_107_542_400, "Monday, March 1, 2100 00:00:00-UTC\r\n"),
            (253_402_300_799, "Friday, December 31, 9999 23:59:59-UTC\r\n"),
        ] {
            assert_eq!(daytime(seconds), line);
        }
    }

    #[test]
    fn every_day_follows_the_one_before_it() {
        let length = |year: u64, month: usize| match month {
            3 | 5 | 8 | 10 => 30,
            1 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
            1 => 28,
            _ => 31,
        };
        let mut expected = (1970, 0, 1);
        // Up to the year 2799: two cycles of 400 years.
        for days in 0..303_000 {
            assert_eq!(date(days), expected, "day {days}");
            let (year, month, day) = expected;
            expected = match (month, day) {
                _ if day < length(year, month) => (year, month, day + 1),
                (11, _) => (year + 1, 0, 1),
                _ => (year, month + 1, 1),
            };
        }
    }

    #[test]
    fn a_connection_gets_the_current_time_and_ends() {
        let before = clock::unix_ms() / 1000;
        let io = converse(&mut Daytime, []);
        let after = clock::unix_ms() / 1000;
        assert!(io.finished);
        assert!((before..=after).any(|second| io.text() == daytime(second)), "{}", io.text());
    }
}
