//! Amounts for people: three digits say enough.

use std::time::Duration;

/// Bytes in units of 1024: `0 bytes`, `1000 bytes`, `64 KiB`, `1.2 MiB`.
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
    // What would be written as 1024 is one of the next unit.
    while amount >= 1023.5 {
        let Some(next) = units.next() else { break };
        amount /= 1024.0;
        unit = next;
    }
    format!("{} {unit}", short(amount))
}

/// A length of time: `87 µs`, `3.5 ms`, `35 ms`, `1.2 s`.
pub(super) fn time(span: Duration) -> String {
    let micros = span.as_nanos() as f64 / 1e3;
    if micros < 999.5 {
        format!("{} µs", short(micros))
    } else if micros < 999_500.0 {
        format!("{} ms", short(micros / 1e3))
    } else {
        format!("{} s", short(micros / 1e6))
    }
}

/// A number with its thousands apart: `1 234 567`.
pub(super) fn count(number: u64) -> String {
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

/// Bytes a second in units of 1000: `6.40 kB/s`, `1234.56 MB/s`.
pub(super) fn throughput(bytes: f64) -> String {
    if bytes < 1e5 {
        format!("{:.2} kB/s", bytes / 1e3)
    } else {
        format!("{:.2} MB/s", bytes / 1e6)
    }
}

/// How many a second: `0.5`, `2`, `123 457`.
pub(super) fn rate(number: f64) -> String {
    if number < 99.95 { short(number) } else { count(number.round() as u64) }
}

/// A number with at most one decimal, and none where it says nothing.
fn short(number: f64) -> String {
    if number >= 99.95 {
        return format!("{number:.0}");
    }
    let text = format!("{number:.1}");
    text.strip_suffix(".0").map_or(text.clone(), str::to_owned)
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
    fn thousands_stand_apart() {
        assert_eq!(count(0), "0");
        assert_eq!(count(999), "999");
        assert_eq!(count(1000), "1 000");
        assert_eq!(count(1_234_567), "1 234 567");
    }
}
