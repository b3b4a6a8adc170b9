//! How often something happens: a kind of value that only the client has.

use std::fmt::{self, Display};
use std::str::FromStr;

use super::value::{ValueError, is_digits, split_unit};

/// How many times a second: more than 0, at most 1 000 000 000, with up to three decimals. `k` is a
/// thousand and `M` a million.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    per_thousand_seconds: u64,
}

/// Units of a [`Rate`] with their factor.
const UNITS: [(&str, u64); 4] = [("", 1), ("k", 1_000), ("K", 1_000), ("M", 1_000_000)];

impl Rate {
    const MAX: u64 = 1_000_000_000 * 1_000;

    /// From one time to the next, in nanoseconds; not rounded, so that many of them do not drift.
    pub fn interval(self) -> f64 {
        1e12 / self.per_thousand_seconds as f64
    }
}

impl FromStr for Rate {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let invalid =
            || ValueError(format!("'{text}' is not a rate a second such as 100, 0.5 or 20k"));
        let (number, unit) = split_unit(text);
        let (_, scale) = UNITS.iter().find(|(name, _)| *name == unit).ok_or_else(invalid)?;
        let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
        if !is_digits(whole) || !is_digits(fraction) {
            return Err(invalid());
        }
        let range = || ValueError(format!("{text} is not in 0.001..=1000M a second"));
        let thousandths = match fraction.trim_end_matches('0') {
            "" => 0,
            digits if digits.len() <= 3 => {
                format!("{digits:0<3}").parse().map_err(|_| invalid())?
            }
            _ => return Err(invalid()),
        };
        let whole = whole.parse::<u64>().ok().and_then(|whole| whole.checked_mul(1_000));
        whole
            .and_then(|whole| whole.checked_add(thousandths)?.checked_mul(*scale))
            .filter(|rate| (1..=Self::MAX).contains(rate))
            .map(|per_thousand_seconds| Self { per_thousand_seconds })
            .ok_or_else(range)
    }
}

impl Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (self.per_thousand_seconds as f64 / 1e3).fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_may_have_decimals_and_a_unit() {
        for (text, thousandths) in
            [("1", 1_000), ("0.5", 500), ("20k", 20_000_000), ("1.5k", 1_500_000), ("0.001", 1)]
        {
            let rate: Rate = text.parse().expect(text);
            assert_eq!(rate.per_thousand_seconds, thousandths, "{text}");
        }
        assert_eq!("4k".parse().map(Rate::interval), Ok(250_000.0));
        assert_eq!("2".parse::<Rate>().map(|rate| rate.to_string()), Ok("2".to_owned()));
        assert_eq!("0.25".parse::<Rate>().map(|rate| rate.to_string()), Ok("0.25".to_owned()));
    }

    #[test]
    fn what_is_no_rate_is_refused() {
        for text in ["", "k", "-1", "1/s", "1.0.0", "fast", "0.0001", ".5"] {
            let ValueError(message) = text.parse::<Rate>().expect_err(text);
            assert!(message.contains("is not a rate"), "{text}: {message}");
        }
        for text in ["0", "0.0", "1001M", "99999999999999999999"] {
            let ValueError(message) = text.parse::<Rate>().expect_err(text);
            assert!(message.contains("is not in 0.001..=1000M"), "{text}: {message}");
        }
    }
}
