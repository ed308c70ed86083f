//! Numbers as people read them, in tables and in sentences.

/// A small whole number as it is; otherwise about four significant digits, scientific where that is shorter.
pub fn short(value: f64) -> String {
    let magnitude = value.abs();
    if value.fract() == 0.0 && magnitude < 1e5 {
        format!("{value:.0}")
    } else if (1e-3..1e5).contains(&magnitude) {
        // What is rounded up to a power of ten has its digits.
        let reaches = |power: f64| magnitude >= power * (1.0 - 5e-5);
        let integer_digits = [10.0, 100.0, 1000.0, 1e4].iter().filter(|&&power| reaches(power)).count();
        let leading_zeros = [1.0, 0.1, 0.01].iter().filter(|&&power| !reaches(power)).count();
        let decimals = (3 + leading_zeros).saturating_sub(integer_digits);
        format!("{value:.decimals$}")
    } else {
        format!("{value:.2e}")
    }
}

/// A number as it is given to a program: without what arithmetic left in its last digits, as of 0.001 · 0.3333.
pub fn plain(value: f64) -> String {
    format!("{value:.11e}").parse().unwrap_or(value).to_string()
}

/// Numbers of as many digits are not rounded.
const MANY_DIGITS: usize = 6;

/// Distance of neighbouring values of a record that rounds to places behind the point; 0 of one that does not round.
pub fn grain(values: &[f64]) -> f64 {
    let mut places = 0;
    for value in values {
        let text = format!("{value}");
        let digits = text.bytes().filter(u8::is_ascii_digit).skip_while(|digit| *digit == b'0').count();
        if digits >= MANY_DIGITS {
            return 0.0;
        }
        places = places.max(text.split_once('.').map_or(0, |(_, behind)| behind.len()));
    }
    10_f64.powi(-i32::try_from(places).unwrap_or(i32::MAX))
}

/// A count of things, whose name takes an s where they are not one.
pub fn counted(count: u64, thing: &str) -> String {
    let ending = if count == 1 { "" } else { "s" };
    format!("{} {thing}{ending}", grouped(count))
}

/// A whole number with thousands separated.
pub fn grouped(value: u64) -> String {
    let digits = value.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Bytes in decimal units.
pub fn bytes(value: u64) -> String {
    const UNITS: [&str; 5] = ["kB", "MB", "GB", "TB", "PB"];
    if value < 1000 {
        return format!("{value} B");
    }
    let mut scaled = value as f64;
    let mut unit = "B";
    for next in UNITS {
        if scaled < 1000.0 {
            break;
        }
        scaled /= 1000.0;
        unit = next;
    }
    format!("{scaled:.1} {unit}")
}

/// A share as a percentage; never "0%" for something that is there.
pub fn share(part: u64, whole: u64) -> String {
    if part == 0 || whole == 0 {
        return "0%".to_owned();
    }
    let percent = 100.0 * part as f64 / whole as f64;
    if percent < 0.1 { "<0.1%".to_owned() } else { format!("{percent:.1}%") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_for_a_program_has_no_digits_of_rounding() {
        assert_eq!((0.001_f64 * 0.3333).to_string(), "0.00033329999999999997");
        assert_eq!(plain(0.001 * 0.3333), "0.0003333");
        assert_eq!([plain(1.0 / 3.0), plain(3e-7), plain(0.0)], ["0.333333333333", "0.0000003", "0"]);
    }

    #[test]
    fn the_grain_of_rounded_numbers_is_a_unit_of_their_last_place() {
        for (values, expected) in [
            (&[0.02, 0.3, 1.0][..], 0.01),
            (&[3.0, 20.0], 1.0),
            (&[0.1234, 0.2], 1e-4),
            (&[0.5, 0.123_456], 0.0),
            (&[f64::from(0.1f32)], 0.0),
        ] {
            assert_eq!(grain(values), expected, "{values:?}");
        }
    }

    #[test]
    fn four_digits_are_kept_and_extremes_are_scientific() {
        assert_eq!(short(0.0), "0");
        assert_eq!(short(25.0), "25");
        assert_eq!(short(1234.56), "1235");
        assert_eq!(short(0.012_345), "0.01235");
        assert_eq!(short(-2.5e-9), "-2.50e-9");
        assert_eq!(short(3.0e38), "3.00e38");
    }

    #[test]
    fn thousands_are_separated() {
        assert_eq!(grouped(999), "999");
        assert_eq!(grouped(1_234_567), "1,234,567");
    }

    #[test]
    fn one_thing_takes_no_s() {
        assert_eq!(counted(0, "step"), "0 steps");
        assert_eq!(counted(1, "step"), "1 step");
        assert_eq!(counted(1000, "logged step"), "1,000 logged steps");
    }

    #[test]
    fn a_share_that_is_not_zero_never_reads_as_zero() {
        assert_eq!(share(0, 10), "0%");
        assert_eq!(share(1, 1_000_000), "<0.1%");
        assert_eq!(share(1, 2), "50.0%");
    }
}
