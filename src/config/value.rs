//! Types of values.
//!
//! A value has one text form in the command line, the environment and the file. Parsing checks the
//! range.

use std::fmt::{self, Display};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use super::scaled::{Unscaled, is_digits, scaled};

/// Reason why a text is not a value: one clause. A reason about the form repeats the text; one about the
/// range does not, as its readers have the text or the line.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ValueError(pub(super) String);

/// Form of a value in the file and on the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// `true` or `false`; on the command line the option alone means `true`.
    Switch,
    /// A number of the file, in quotes or not.
    Number,
    /// A number or a string of the file, written back as a string.
    Scalar,
    /// A string of the file, even if it looks like a number.
    Text,
    /// An array of strings, or one string with commas; the option is repeatable.
    List,
}

/// Types that an option can have.
pub(super) trait Value: Sized {
    /// Placeholder in `--help`.
    const NAME: &'static str;
    const FORM: Form;
    /// All values, if they are words.
    const CHOICES: &'static [&'static str] = &[];

    fn parse(text: &str) -> Result<Self, ValueError>;

    /// Returns the text that `parse` reads back.
    fn text(&self) -> String;
}

/// A [`Value`] that is parsed by `FromStr` and written by `Display`.
pub(super) trait Scalar: FromStr<Err = ValueError> + Display {
    const NAME: &'static str;
    const FORM: Form = Form::Scalar;
    const CHOICES: &'static [&'static str] = &[];
}

impl<T: Scalar> Value for T {
    const NAME: &'static str = T::NAME;
    const FORM: Form = T::FORM;
    const CHOICES: &'static [&'static str] = T::CHOICES;

    fn parse(text: &str) -> Result<Self, ValueError> {
        text.parse()
    }

    fn text(&self) -> String {
        self.to_string()
    }
}

/// Values separated by commas; none if the text is empty.
impl<T: Scalar> Value for Vec<T> {
    const NAME: &'static str = T::NAME;
    const FORM: Form = Form::List;

    fn parse(text: &str) -> Result<Self, ValueError> {
        // An error about a part of a value does not repeat the value.
        let named = |item: &str, ValueError(reason)| match reason.contains(item.trim()) {
            false if item != text => ValueError(format!("'{}': {reason}", item.trim())),
            _ => ValueError(reason),
        };
        let items = text.split(',').filter(|_| !text.is_empty());
        items.map(|item| T::parse(item).map_err(|error| named(item, error))).collect()
    }

    fn text(&self) -> String {
        self.iter().map(T::text).collect::<Vec<_>>().join(",")
    }
}

/// `true` or `false`; in the environment many write 1/0, yes/no, on/off.
impl Value for bool {
    const NAME: &'static str = "BOOL";
    const FORM: Form = Form::Switch;

    fn parse(text: &str) -> Result<Self, ValueError> {
        match text.to_ascii_lowercase().as_str() {
            "true" | "yes" | "on" | "1" => Ok(true),
            "false" | "no" | "off" | "0" => Ok(false),
            _ => Err(ValueError(format!("'{text}' is neither true nor false"))),
        }
    }

    fn text(&self) -> String {
        self.to_string()
    }
}

impl Value for String {
    const NAME: &'static str = "TEXT";
    const FORM: Form = Form::Text;

    fn parse(text: &str) -> Result<Self, ValueError> {
        Ok(text.to_owned())
    }

    fn text(&self) -> String {
        self.clone()
    }
}

/// A whole number in `MIN..=MAX`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Number<T, const MIN: u64, const MAX: u64>(T);

impl<T: Copy, const MIN: u64, const MAX: u64> Number<T, MIN, MAX> {
    /// Returns the number.
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
            .ok_or_else(|| out_of_range(MIN, MAX))
    }
}

impl<T: Display, const MIN: u64, const MAX: u64> Display for Number<T, MIN, MAX> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl<T: TryFrom<u64> + Display, const MIN: u64, const MAX: u64> Scalar for Number<T, MIN, MAX> {
    const NAME: &'static str = "N";
    const FORM: Form = Form::Number;
}

/// A duration of whole milliseconds, at most 365 days. A number without a unit is in seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    milliseconds: u64,
}

/// Parses a [`Span`] that is not zero.
///
/// # Errors
/// The text is not a duration, or is zero.
pub fn positive(text: &str) -> Result<Span, ValueError> {
    let span = text.parse::<Span>()?;
    match span.unless_zero() {
        Some(_) => Ok(span),
        None => Err(out_of_range("1ms", Span::MAX)),
    }
}

/// Units of a [`Span`] with their milliseconds, the largest first.
const TIME_UNITS: [(&str, u64); 4] = [("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)];

impl Span {
    const MAX_MILLISECONDS: u64 = 365 * 24 * 3_600_000;
    /// The longest duration, for errors.
    const MAX: &str = "8760h (365 days)";

    /// Returns the duration.
    pub fn get(self) -> Duration {
        Duration::from_millis(self.milliseconds)
    }

    /// Returns the duration, or `None` for 0, which disables a timeout.
    pub fn unless_zero(self) -> Option<Duration> {
        (self.milliseconds != 0).then(|| self.get())
    }
}

impl FromStr for Span {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let factor = |unit: &str| match unit {
            "" => Some(1000),
            _ => TIME_UNITS.iter().find(|(name, _)| *name == unit).map(|(_, factor)| *factor),
        };
        let reason = match scaled(text, factor) {
            Ok(milliseconds) if milliseconds <= Self::MAX_MILLISECONDS => {
                return Ok(Self { milliseconds });
            }
            Ok(_) | Err(Unscaled::TooLarge) => return Err(out_of_range("0s", Self::MAX)),
            Err(Unscaled::TooFine) => "is not a whole number of milliseconds",
            Err(Unscaled::Invalid) => "is not a duration such as 10, 1.5s, 250ms, 2m or 1h",
        };
        Err(ValueError(format!("'{text}' {reason}")))
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

impl Scalar for Span {
    const NAME: &'static str = "DUR";
}

/// A [`Span`] of whole seconds, at most the 32767 that TCP_KEEPIDLE takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeepaliveDelay(Span);

impl KeepaliveDelay {
    const MAX_MILLISECONDS: u64 = 32_767_000;

    /// Returns the delay, or `None` for 0, which disables keepalive.
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
            return Err(out_of_range("0s", "32767s"));
        }
        Ok(Self(span))
    }
}

impl Display for KeepaliveDelay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Scalar for KeepaliveDelay {
    const NAME: &'static str = "DUR";
}

/// A number of bytes in `MIN..=MAX`. K and KiB are 1024 bytes and KB is 1000, in any case; M and G are
/// alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size<const MIN: usize, const MAX: usize>(usize);

/// Units of a [`Size`] with their bytes. A size is written in one of the first three, the largest that fits.
const SIZE_UNITS: [(&str, u64); 11] = [
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
    /// Returns the number of bytes.
    pub fn get(self) -> usize {
        self.0
    }
}

impl<const MIN: usize, const MAX: usize> FromStr for Size<MIN, MAX> {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let factor = |unit: &str| {
            let mut units = SIZE_UNITS.iter();
            units.find(|(name, _)| name.eq_ignore_ascii_case(unit)).map(|(_, factor)| *factor)
        };
        let bytes = match scaled(text, factor) {
            Ok(bytes) if !text.contains('.') => usize::try_from(bytes).ok(),
            Err(Unscaled::TooLarge) => None,
            _ => {
                let reason = "is not a size such as 65536, 64KiB or 1MiB";
                return Err(ValueError(format!("'{text}' {reason}")));
            }
        };
        bytes
            .filter(|bytes| (MIN..=MAX).contains(bytes))
            .map(Self)
            .ok_or_else(|| out_of_range(Self(MIN), Self(MAX)))
    }
}

impl<const MIN: usize, const MAX: usize> Display for Size<MIN, MAX> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let exact = SIZE_UNITS[..3].iter().find(|(_, factor)| self.0 as u64 % factor == 0);
        match exact {
            Some((unit, scale)) if self.0 != 0 => write!(f, "{}{unit}", self.0 as u64 / scale),
            _ => write!(f, "{}", self.0),
        }
    }
}

impl<const MIN: usize, const MAX: usize> Scalar for Size<MIN, MAX> {
    const NAME: &'static str = "SIZE";
}

/// The path of a file: not empty, and UTF-8, as the configuration file is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FilePath(String);

impl FilePath {
    /// Returns the path.
    pub fn get(&self) -> PathBuf {
        PathBuf::from(&self.0)
    }
}

impl FromStr for FilePath {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        // The file can hold a NUL, and no system call takes one.
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

impl Scalar for FilePath {
    const NAME: &'static str = "PATH";
    const FORM: Form = Form::Text;
}

/// Returns the error of a value that is less than `min` or more than `max`.
pub(super) fn out_of_range(min: impl Display, max: impl Display) -> ValueError {
    ValueError(format!("must be between {min} and {max}"))
}
