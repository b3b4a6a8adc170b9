//! The kinds of values a setting can have.
//!
//! Each has one text form, which the command line, the environment and the file share: `FromStr`
//! reads it and checks the range, `Display` writes it back.

use std::fmt::{self, Display};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use serde::de::{Deserialize, Deserializer, Error as _, Visitor};
use serde::ser::{Serialize, Serializer};

/// Why a text is not a value: one clause that repeats the text.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ValueError(pub(super) String);

/// Implements `Deserialize` through `FromStr` (the file may hold a number or a string) and
/// `Serialize` through `Display`.
macro_rules! text_in_file {
    ($kind:ty, $expected:literal) => {
        impl<'de> Deserialize<'de> for $kind {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                scalar(deserializer, $expected)
            }
        }

        impl Serialize for $kind {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }
    };
}
pub(super) use text_in_file;

/// Reads a number or a string of the file as the text it would be on the command line.
pub(super) fn scalar<'de, D, T>(deserializer: D, expected: &'static str) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: FromStr<Err = ValueError>,
{
    let text = deserializer.deserialize_any(ScalarVisitor(expected))?;
    text.parse().map_err(D::Error::custom)
}

/// Turns a scalar into its text; carries what to tell about anything else.
struct ScalarVisitor(&'static str);

impl Visitor<'_> for ScalarVisitor {
    type Value = String;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }

    fn visit_i64<E>(self, value: i64) -> Result<String, E> {
        Ok(value.to_string())
    }

    fn visit_u64<E>(self, value: u64) -> Result<String, E> {
        Ok(value.to_string())
    }

    fn visit_i128<E>(self, value: i128) -> Result<String, E> {
        Ok(value.to_string())
    }

    fn visit_u128<E>(self, value: u128) -> Result<String, E> {
        Ok(value.to_string())
    }

    fn visit_f64<E>(self, value: f64) -> Result<String, E> {
        // Unlike Display, Debug keeps 8090.0 and 1e300 as they are.
        Ok(format!("{value:?}"))
    }

    fn visit_str<E>(self, value: &str) -> Result<String, E> {
        Ok(value.to_owned())
    }
}

/// A whole number in `MIN..=MAX`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Number<T, const MIN: u64, const MAX: u64>(T);

impl<T: Copy, const MIN: u64, const MAX: u64> Number<T, MIN, MAX> {
    /// The number.
    pub fn get(self) -> T {
        self.0
    }
}

impl<T: TryFrom<u64>, const MIN: u64, const MAX: u64> FromStr for Number<T, MIN, MAX> {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let digits = text.strip_prefix('-').unwrap_or(text);
        if !is_digits(digits) {
            return Err(ValueError(format!("'{text}' is not a whole number")));
        }
        text.parse()
            .ok()
            .filter(|number| (MIN..=MAX).contains(number))
            .and_then(|number| T::try_from(number).ok())
            .map(Self)
            .ok_or_else(|| ValueError(format!("{text} is not in {MIN}..={MAX}")))
    }
}

impl<T: Display, const MIN: u64, const MAX: u64> Display for Number<T, MIN, MAX> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl<'de, T: TryFrom<u64>, const MIN: u64, const MAX: u64> Deserialize<'de>
    for Number<T, MIN, MAX>
{
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        scalar(deserializer, "a whole number")
    }
}

impl<T: Serialize, const MIN: u64, const MAX: u64> Serialize for Number<T, MIN, MAX> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

/// A length of time: whole milliseconds, at most 365 days. A bare number is seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    milliseconds: u64,
}

/// Units of a [`Span`] with their milliseconds, the largest first.
const TIME_UNITS: [(&str, u64); 4] = [("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)];

impl Span {
    const MAX_MILLISECONDS: u64 = 365 * 24 * 3_600_000;

    /// The same length of time.
    pub fn get(self) -> Duration {
        Duration::from_millis(self.milliseconds)
    }

    /// The same length of time, or nothing where 0 means "off".
    pub fn unless_zero(self) -> Option<Duration> {
        (self.milliseconds != 0).then(|| self.get())
    }
}

impl FromStr for Span {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let invalid =
            || ValueError(format!("'{text}' is not a duration such as 10, 1.5s, 250ms, 2m or 1h"));
        let too_long = || ValueError(format!("'{text}' is longer than 8760h (365 days)"));
        let too_fine = || ValueError(format!("'{text}' is not a whole number of milliseconds"));

        let (number, unit) = split_unit(text);
        let scale = match unit {
            "" => 1000,
            _ => TIME_UNITS.iter().find(|(name, _)| *name == unit).ok_or_else(invalid)?.1,
        };
        let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
        if !is_digits(whole) || !is_digits(fraction) {
            return Err(invalid());
        }
        let fraction = fraction.trim_end_matches('0');
        // Nine places are more than an hour has milliseconds; the bound keeps the power below small.
        if fraction.len() > 9 {
            return Err(too_fine());
        }
        let numerator = format!("0{fraction}").parse::<u64>().map_err(|_| too_fine())? * scale;
        let denominator = fraction.bytes().fold(1_u64, |power, _| power * 10);
        if numerator % denominator != 0 {
            return Err(too_fine());
        }
        whole
            .parse::<u64>()
            .ok()
            .and_then(|whole| whole.checked_mul(scale)?.checked_add(numerator / denominator))
            .filter(|milliseconds| *milliseconds <= Self::MAX_MILLISECONDS)
            .map(|milliseconds| Self { milliseconds })
            .ok_or_else(too_long)
    }
}

impl Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let exact = TIME_UNITS.iter().find(|(_, scale)| self.milliseconds % scale == 0);
        match exact {
            Some((unit, scale)) if self.milliseconds != 0 => {
                write!(f, "{}{unit}", self.milliseconds / scale)
            }
            _ => f.write_str("0s"),
        }
    }
}

text_in_file!(Span, "a duration such as 10 or \"1.5s\"");

/// A [`Span`] of whole seconds, at most the 32767 that TCP_KEEPIDLE takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeepaliveDelay(Span);

impl KeepaliveDelay {
    const MAX_MILLISECONDS: u64 = 32_767_000;

    /// The delay, or nothing when it is 0: keepalive is off.
    pub fn unless_zero(self) -> Option<Duration> {
        self.0.unless_zero()
    }
}

impl FromStr for KeepaliveDelay {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let span: Span = text.parse()?;
        if span.milliseconds % 1000 != 0 {
            return Err(ValueError(format!("'{text}' is not a whole number of seconds")));
        }
        if span.milliseconds > Self::MAX_MILLISECONDS {
            return Err(ValueError(format!("'{text}' is longer than 32767 seconds")));
        }
        Ok(Self(span))
    }
}

impl Display for KeepaliveDelay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

text_in_file!(KeepaliveDelay, "a whole number of seconds such as 60 or \"1m\"");

/// A number of bytes in `MIN..=MAX`. K and KiB are 1024 bytes, KB is 1000, in any case; so for M and G.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size<const MIN: usize, const MAX: usize>(usize);

/// Units of a [`Size`] with their bytes. The first three are those it is written in, largest first.
const SIZE_UNITS: [(&str, usize); 11] = [
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("", 1),
    ("B", 1),
    ("K", 1 << 10),
    ("M", 1 << 20),
    ("G", 1 << 30),
    ("KB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
];

impl<const MIN: usize, const MAX: usize> Size<MIN, MAX> {
    /// The number of bytes.
    pub fn get(self) -> usize {
        self.0
    }
}

impl<const MIN: usize, const MAX: usize> FromStr for Size<MIN, MAX> {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let invalid = || ValueError(format!("'{text}' is not a size such as 65536, 64KiB or 1MiB"));
        let (number, unit) = split_unit(text);
        let (_, scale) = SIZE_UNITS
            .iter()
            .find(|(name, _)| name.eq_ignore_ascii_case(unit))
            .ok_or_else(invalid)?;
        if !is_digits(number) {
            return Err(invalid());
        }
        number
            .parse::<usize>()
            .ok()
            .and_then(|number| number.checked_mul(*scale))
            .filter(|bytes| (MIN..=MAX).contains(bytes))
            .map(Self)
            .ok_or_else(|| {
                let (min, max) = (Self(MIN), Self(MAX));
                ValueError(format!("{text} is not in {min}..={max}"))
            })
    }
}

impl<const MIN: usize, const MAX: usize> Display for Size<MIN, MAX> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let exact = SIZE_UNITS[..3].iter().find(|(_, scale)| self.0 % scale == 0);
        match exact {
            Some((unit, scale)) if self.0 != 0 => write!(f, "{}{unit}", self.0 / scale),
            _ => write!(f, "{}", self.0),
        }
    }
}

impl<'de, const MIN: usize, const MAX: usize> Deserialize<'de> for Size<MIN, MAX> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        scalar(deserializer, "a size such as 65536 or \"64KiB\"")
    }
}

impl<const MIN: usize, const MAX: usize> Serialize for Size<MIN, MAX> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// The path of a file: not empty, and UTF-8 so that it can stand in the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FilePath(String);

impl FilePath {
    /// The path.
    pub fn get(&self) -> PathBuf {
        PathBuf::from(&self.0)
    }
}

impl FromStr for FilePath {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        // A NUL cannot be typed, but the file can hold one, and no system call takes it.
        if text.is_empty() || text.contains('\0') {
            return Err(ValueError(format!("'{text}' is not a path")));
        }
        Ok(Self(text.to_owned()))
    }
}

impl Display for FilePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for FilePath {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

impl Serialize for FilePath {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

/// Reads a switch: `true` or `false`, and as many write it in the environment, 1/0, yes/no, on/off.
///
/// # Errors
/// Anything else.
pub fn switch(text: &str) -> Result<bool, ValueError> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "yes" | "on" | "1" => Ok(true),
        "false" | "no" | "off" | "0" => Ok(false),
        _ => Err(ValueError(format!("'{text}' is neither true nor false"))),
    }
}

pub(super) fn is_digits(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// Splits `1.5s` into `1.5` and `s`.
pub(super) fn split_unit(text: &str) -> (&str, &str) {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    text.split_at(end)
}
