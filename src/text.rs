//! Text for people: amounts, plurals, one-line messages, system errors.

use std::fmt::{self, Write};
use std::io;
use std::time::Duration;

/// Formats bytes in units of 1024: `0 bytes`, `1000 bytes`, `64 KiB`, `1.2 MiB`.
pub(crate) fn bytes(count: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    if count == 1 {
        return "1 byte".to_owned();
    }
    if count < 1024 {
        return format!("{count} bytes");
    }
    let mut amount = count as f64 / 1024.0;
    let mut units = UNITS.iter();
    let mut unit = units.next().unwrap_or(&"");
    // An amount that rounds to 1024 has the next unit.
    while amount >= 1023.5 {
        let Some(next) = units.next() else { break };
        amount /= 1024.0;
        unit = next;
    }
    format!("{} {unit}", short(amount))
}

/// Formats a duration: `87 µs`, `3.5 ms`, `35 ms`, `1.2 s`.
pub(crate) fn time(span: Duration) -> String {
    let micros = span.as_nanos() as f64 / 1e3;
    if micros < 999.5 {
        format!("{} µs", short(micros))
    } else if micros < 999_500.0 {
        format!("{} ms", short(micros / 1e3))
    } else {
        format!("{} s", short(micros / 1e6))
    }
}

/// Formats a number in groups of three digits: `1 234 567`.
pub(crate) fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() * 4 / 3);
    for (index, digit) in digits.char_indices() {
        if index > 0 && (digits.len() - index) % 3 == 0 {
            text.push(' ');
        }
        text.push(digit);
    }
    text
}

/// Formats a number and its noun: `1 case`, `2 cases`.
pub(crate) fn plural(number: u64, noun: &str) -> String {
    format!("{} {noun}{}", count(number), if number == 1 { "" } else { "s" })
}

/// Formats bytes per second in units of 1000: `6.40 kB/s`, `1234.56 MB/s`.
pub(crate) fn throughput(bytes: f64) -> String {
    if bytes < 1e5 {
        format!("{:.2} kB/s", bytes / 1e3)
    } else {
        format!("{:.2} MB/s", bytes / 1e6)
    }
}

/// Formats a number per second: `0.5`, `2`, `123 457`.
pub(crate) fn rate(number: f64) -> String {
    if number < 99.95 { short(number) } else { count(number.round() as u64) }
}

/// Formats a number with one decimal, unless that is 0 or the number has three digits.
fn short(number: f64) -> String {
    if number >= 99.95 {
        return format!("{number:.0}");
    }
    let text = format!("{number:.1}");
    text.strip_suffix(".0").map_or(text.clone(), str::to_owned)
}

/// Returns the text of a system error without the "(os error 2)" that Rust appends.
pub(crate) fn reason(error: &io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error").next().unwrap_or_default().to_owned()
}

/// Returns the text with control characters escaped, so that no input can forge a second line.
pub(crate) fn one_line(text: &str) -> String {
    let mut line = String::with_capacity(text.len());
    // Writing to a String cannot fail.
    let _ = write_one_line(&mut line, text);
    line
}

/// Like [`one_line`], but without an allocation.
///
/// # Errors
/// Those of `out`.
pub(crate) fn write_one_line(out: &mut impl Write, text: &str) -> fmt::Result {
    for letter in text.chars() {
        if letter.is_control() {
            write!(out, "{}", letter.escape_default())?;
        } else {
            out.write_char(letter)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_have_the_unit_that_fits() {
        for (number, text) in [
            (0, "0 bytes"),
            (1, "1 byte"),
            (1000, "1000 bytes"),
            (1024, "1 KiB"),
            (65_536, "64 KiB"),
            (1_246_184, "1.2 MiB"),
            (1_048_575, "1 MiB"),
            (2 * 1_048_576 - 20_000, "2 MiB"),
            (5 << 30, "5 GiB"),
            (5000 << 40, "5000 TiB"),
        ] {
            assert_eq!(bytes(number), text);
        }
    }

    #[test]
    fn times_have_the_unit_that_fits() {
        for (nanos, text) in [
            (0, "0 µs"),
            (87_000, "87 µs"),
            (24_130, "24.1 µs"),
            (999_900, "1 ms"),
            (3_450_000, "3.5 ms"),
            (35_000_000, "35 ms"),
            (999_900_000, "1 s"),
            (1_234_000_000, "1.2 s"),
            (100_000_000_000, "100 s"),
        ] {
            assert_eq!(time(Duration::from_nanos(nanos)), text);
        }
    }

    #[test]
    fn throughput_is_in_thousands_or_millions() {
        assert_eq!(throughput(6_400.0), "6.40 kB/s");
        assert_eq!(throughput(3.09e6), "3.09 MB/s");
        assert_eq!(throughput(2.964e9), "2964.00 MB/s");
    }

    #[test]
    fn small_rates_have_a_decimal() {
        assert_eq!(rate(0.5), "0.5");
        assert_eq!(rate(2.0), "2");
        assert_eq!(rate(123_456.7), "123 457");
    }

    #[test]
    fn one_is_singular() {
        assert_eq!(plural(0, "case"), "0 cases");
        assert_eq!(plural(1, "case"), "1 case");
        assert_eq!(plural(1200, "case"), "1 200 cases");
    }

    #[test]
    fn control_characters_are_escaped() {
        assert_eq!(one_line("a\nb\u{1b}[0m é"), "a\\nb\\u{1b}[0m é");
    }

    #[test]
    fn thousands_stand_apart() {
        assert_eq!(count(0), "0");
        assert_eq!(count(999), "999");
        assert_eq!(count(1000), "1 000");
        assert_eq!(count(1_234_567), "1 234 567");
    }
}
