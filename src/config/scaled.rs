//! Numbers with a unit.

/// Returns `true` if the text is one or more ASCII digits.
pub(super) fn is_digits(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// Reason why [`scaled`] has no result.
pub(super) enum Unscaled {
    /// The text is not a number, or its unit has no factor.
    Invalid,
    /// The number has more decimals than its unit has multiples of the smallest one.
    TooFine,
    TooLarge,
}

/// Converts a number with a unit, such as `1.5s`, to the smallest unit. `factor` returns the size of a
/// unit, at most a billion.
pub(super) fn scaled(
    text: &str,
    factor: impl FnOnce(&str) -> Option<u64>,
) -> Result<u64, Unscaled> {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let factor = factor(unit).ok_or(Unscaled::Invalid)?;
    let (whole, fraction) = match number.split_once('.') {
        Some(("", fraction)) => ("0", fraction),
        Some(parts) => parts,
        None => (number, "0"),
    };
    if !is_digits(whole) || !is_digits(fraction) {
        return Err(Unscaled::Invalid);
    }
    let fraction = fraction.trim_end_matches('0');
    // Nine decimals of a unit of a billion are whole numbers, and their product fits.
    if fraction.len() > 9 {
        return Err(Unscaled::TooFine);
    }
    let numerator = format!("0{fraction}").parse::<u64>().map_err(|_| Unscaled::TooFine)? * factor;
    let denominator = fraction.bytes().fold(1, |power, _| power * 10);
    if numerator % denominator != 0 {
        return Err(Unscaled::TooFine);
    }
    let whole = whole.parse::<u64>().ok().and_then(|whole| whole.checked_mul(factor));
    whole.and_then(|whole| whole.checked_add(numerator / denominator)).ok_or(Unscaled::TooLarge)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_has_digits_before_its_point_or_after_it_or_on_both_sides() {
        let halves = |text| scaled(text, |unit| (unit == "x").then_some(2)).ok();
        for (text, expected) in [("1x", 2), ("1.5x", 3), (".5x", 1), ("0.50x", 1)] {
            assert_eq!(halves(text), Some(expected), "{text}");
        }
        for text in
            ["", "x", ".x", "5.x", "..5x", "1", ".25x", "1y", "-1x", "99999999999999999999x"]
        {
            assert_eq!(halves(text), None, "{text}");
        }
    }
}
