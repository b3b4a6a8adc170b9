//! Rates: values that only `bench` has.

use std::fmt::{self, Display};
use std::str::FromStr;

use super::scaled::{Unscaled, scaled};
use super::value::{ValueError, out_of_range};

/// A number per second: more than 0, at most 1 000 000 000, in steps of 0.001. `k` is a thousand and
/// `M` a million.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    per_thousand_seconds: u64,
}

impl Rate {
    const MAX: u64 = 1_000_000_000 * 1_000;

    /// Returns the time between two events in nanoseconds, not rounded, so that a long series does not
    /// drift.
    pub fn interval(self) -> f64 {
        1e12 / self.per_thousand_seconds as f64
    }
}

impl FromStr for Rate {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let factor = |unit: &str| match unit {
            "" => Some(1_000),
            "k" | "K" => Some(1_000_000),
            "M" => Some(1_000_000_000),
            _ => None,
        };
        match scaled(text, factor) {
            Ok(rate) if (1..=Self::MAX).contains(&rate) => Ok(Self { per_thousand_seconds: rate }),
            Ok(_) | Err(Unscaled::TooLarge) => Err(out_of_range("0.001", "1000M per second")),
            Err(Unscaled::TooFine | Unscaled::Invalid) => {
                Err(ValueError(format!("'{text}' is not a rate a second such as 100, 0.5 or 20k")))
            }
        }
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
        for (text, thousandths) in [
            ("1", 1_000),
            ("0.5", 500),
            (".5", 500),
            ("20k", 20_000_000),
            ("1.5k", 1_500_000),
            ("0.001", 1),
        ] {
            let rate: Rate = text.parse().expect(text);
            assert_eq!(rate.per_thousand_seconds, thousandths, "{text}");
        }
        assert_eq!("4k".parse().map(Rate::interval), Ok(250_000.0));
        assert_eq!("2".parse::<Rate>().map(|rate| rate.to_string()), Ok("2".to_owned()));
        assert_eq!("0.25".parse::<Rate>().map(|rate| rate.to_string()), Ok("0.25".to_owned()));
    }

    #[test]
    fn what_is_no_rate_is_refused() {
        for text in ["", "k", "-1", "1/s", "1.0.0", "fast", "0.0001", "."] {
            let ValueError(message) = text.parse::<Rate>().expect_err(text);
            assert!(message.contains("is not a rate"), "{text}: {message}");
        }
        for text in ["0", "0.0", "1001M", "99999999999999999999"] {
            let ValueError(message) = text.parse::<Rate>().expect_err(text);
            assert_eq!(message, "must be between 0.001 and 1000M per second", "{text}");
        }
    }
}
