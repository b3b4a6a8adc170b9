//! Tests of the values: numbers, durations, sizes.

use std::path::PathBuf;
use std::time::Duration;

use proptest::prelude::*;

use crate::config::choice::{Fault, LogFormat, LogLevel};
use crate::config::rate::Rate;
use crate::config::value::Value;
use crate::config::value::{FilePath, KeepaliveDelay, Number, Size, Span, ValueError};

type BufferSize = Size<4096, 16_777_216>;

fn milliseconds(text: &str) -> Result<u128, String> {
    text.parse().map(|span: Span| span.get().as_millis()).map_err(|error| error.to_string())
}

#[test]
fn spans_are_seconds_unless_they_have_a_unit() {
    for (text, expected) in [
        ("0", 0),
        ("10", 10_000),
        ("010", 10_000),
        ("1.5", 1500),
        (".5", 500),
        (".5s", 500),
        (".25h", 900_000),
        ("1.500000000000", 1500),
        ("250ms", 250),
        ("1.5s", 1500),
        ("0.001s", 1),
        ("2m", 120_000),
        ("1h", 3_600_000),
        ("0.5h", 1_800_000),
        ("8760h", 31_536_000_000),
        ("31536000", 31_536_000_000),
    ] {
        assert_eq!(milliseconds(text), Ok(expected), "{text}");
    }
}

#[test]
fn what_is_no_span_is_refused() {
    for text in [
        "", " ", "s", ".", ".s", "5.", "..5", "1..5", "1.5.5", "-1", "+1", "1 s", "1S", "1d",
        "1sec", "1e3", "nan", "inf", "٣", "1m30s", "0x10",
    ] {
        let message = milliseconds(text).expect_err(text);
        assert!(message.contains("is not a duration"), "{text}: {message}");
    }
    for text in ["8760.1h", "31536001", "18446744073709551615h", "99999999999999999999999"] {
        let message = milliseconds(text).expect_err(text);
        assert_eq!(message, "must be between 0s and 8760h (365 days)", "{text}");
    }
    for text in ["0.5ms", "0.0001s", "0.0000000001h", "1.0000000000000000000000000001"] {
        let message = milliseconds(text).expect_err(text);
        assert!(message.ends_with("whole number of milliseconds"), "{text}: {message}");
    }
}

#[test]
fn spans_are_written_in_their_largest_unit() {
    for (text, written) in
        [("0ms", "0s"), ("60", "1m"), ("90", "90s"), ("1500ms", "1500ms"), ("0.5h", "30m")]
    {
        assert_eq!(text.parse::<Span>().map(|span| span.to_string()), Ok(written.to_owned()));
    }
}

#[test]
fn a_keepalive_delay_is_whole_seconds_that_the_kernel_takes() {
    let delay = |text: &str| text.parse::<KeepaliveDelay>().map(KeepaliveDelay::unless_zero);
    assert_eq!(delay("0"), Ok(None));
    assert_eq!(delay("1m"), Ok(Some(Duration::from_secs(60))));
    assert_eq!(delay("32767"), Ok(Some(Duration::from_secs(32767))));
    assert_eq!(delay("32768"), Err(ValueError("must be between 0s and 32767s".into())));
    assert!(delay("1500ms").is_err());
    assert!(delay("x").is_err());
}

#[test]
fn sizes_are_bytes_unless_they_have_a_unit() {
    let size = |text: &str| text.parse().map(|size: BufferSize| size.get());
    for (text, expected) in [
        ("4096", 4096),
        ("4096B", 4096),
        ("64K", 65_536),
        ("64KiB", 65_536),
        ("64kib", 65_536),
        ("64KB", 64_000),
        ("1M", 1_048_576),
        ("1MB", 1_000_000),
        ("16MiB", 16_777_216),
    ] {
        assert_eq!(size(text), Ok(expected), "{text}");
    }
    for text in ["", "K", "-1", "1.5M", "64 K", "64X", "4Ki", "0x1000"] {
        let ValueError(message) = size(text).expect_err(text);
        assert!(message.contains("is not a size"), "{text}: {message}");
    }
    for text in ["0", "4095", "17M", "16777217", "99999999999999999999", "18014398509481984K"] {
        let ValueError(message) = size(text).expect_err(text);
        assert_eq!(message, "must be between 4KiB and 16MiB", "{text}");
    }
}

#[test]
fn numbers_know_their_range() {
    let number = |text: &str| text.parse::<Number<u16, 1, 100>>().map(Number::get);
    assert_eq!(number("1"), Ok(1));
    assert_eq!(number("0100"), Ok(100));
    for text in ["0", "101", "-1", "70000", "99999999999999999999"] {
        assert_eq!(number(text), Err(ValueError("must be between 1 and 100".into())), "{text}");
    }
    for text in ["", "-", "--1", "+1", "1.0", "x", "1x", " 1", "٣"] {
        assert_eq!(number(text), Err(ValueError(format!("'{text}' is not a whole number"))));
    }
}

#[test]
fn paths_are_not_empty_and_switches_have_two_positions() {
    assert!("".parse::<FilePath>().is_err());
    assert!("a\0b".parse::<FilePath>().is_err());
    assert_eq!("/run/x".parse().map(|p: FilePath| p.get()), Ok(PathBuf::from("/run/x")));
    for (text, expected) in [("true", true), ("ON", true), ("1", true), ("no", false)] {
        assert_eq!(bool::parse(text), Ok(expected));
    }
    assert!(bool::parse("").is_err());
    assert!(bool::parse("2").is_err());
}

proptest! {
    #[test]
    fn no_text_panics(text in r"\PC{0,30}|[0-9.]{0,25}[a-zA-Z]{0,3}") {
        if let Ok(span) = text.parse::<Span>() {
            prop_assert!(span.get() <= Duration::from_secs(365 * 24 * 3600));
            prop_assert_eq!(span.to_string().parse(), Ok(span));
        }
        if let Ok(delay) = text.parse::<KeepaliveDelay>() {
            prop_assert_eq!(delay.to_string().parse(), Ok(delay));
        }
        if let Ok(size) = text.parse::<Size<0, { usize::MAX }>>() {
            prop_assert_eq!(size.to_string().parse(), Ok(size));
        }
        if let Ok(number) = text.parse::<Number<u64, 0, { u64::MAX }>>() {
            prop_assert_eq!(number.to_string().parse(), Ok(number));
        }
        if let Ok(rate) = text.parse::<Rate>() {
            prop_assert_eq!(rate.to_string().parse(), Ok(rate));
        }
        let _ = (text.parse::<LogLevel>(), text.parse::<LogFormat>(), text.parse::<Fault>());
    }

    #[test]
    fn every_span_and_size_is_read_back(number in 0..31_536_000_000_u64, size: usize) {
        let span: Span = format!("{number}ms").parse().expect("a span");
        prop_assert_eq!(span.get(), Duration::from_millis(number));
        prop_assert_eq!(span.to_string().parse(), Ok(span));
        let seconds = format!("{}.{:03}", number / 1000, number % 1000);
        prop_assert_eq!(seconds.parse(), Ok(span));

        let size: Size<0, { usize::MAX }> = size.to_string().parse().expect("a size");
        prop_assert_eq!(size.to_string().parse(), Ok(size));
    }
}
