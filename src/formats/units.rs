//! Durations and sizes with units, as people write them: `7d`, `1h30m`, `500ms`, `64MiB`.

use std::time::Duration;

/// Longest first, so that `ms` and `min` are not read as `m`.
const SPANS_MS: [(&str, u64); 8] = [
    ("ms", 1),
    ("min", 60_000),
    ("s", 1000),
    ("m", 60_000),
    ("h", 3_600_000),
    ("d", 86_400_000),
    ("w", 604_800_000),
    ("y", 31_557_600_000),
];
const SIZES: [(&str, u64); 9] = [
    ("b", 1),
    ("kb", 1000),
    ("mb", 1_000_000),
    ("gb", 1_000_000_000),
    ("tb", 1_000_000_000_000),
    ("kib", 1 << 10),
    ("mib", 1 << 20),
    ("gib", 1 << 30),
    ("tib", 1 << 40),
];

/// A duration with units (`ms`, `s`, `m` or `min`, `h`, `d`, `w`, `y`), the largest first: `1h30m`, `1.5s`, `7d`. `None`
/// for anything else, a number without a unit included.
pub fn parse_duration(text: &str) -> Option<Duration> {
    let mut rest = text;
    let (mut total, mut smallest) = (0_u64, u64::MAX);
    while !rest.is_empty() {
        let (number, after) = split_number(rest)?;
        let (unit, ms) = SPANS_MS.into_iter().find(|(unit, _)| after.starts_with(unit))?;
        if ms >= smallest {
            return None;
        }
        smallest = ms;
        total = total.checked_add(scaled(number, ms)?)?;
        rest = &after[unit.len()..];
    }
    (smallest < u64::MAX).then(|| Duration::from_millis(total))
}

/// A size with a unit: `64MiB`, `1.5GB`, `512 B`; letters may be of any case. `None` for anything else, a number
/// without a unit included.
pub fn parse_bytes(text: &str) -> Option<u64> {
    let (number, unit) = split_number(text)?;
    let unit = unit.trim_start().to_ascii_lowercase();
    let (_, bytes) = SIZES.into_iter().find(|(name, _)| *name == unit)?;
    scaled(number, bytes)
}

/// The leading number, and the rest.
fn split_number(text: &str) -> Option<(&str, &str)> {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.')?;
    (end > 0).then(|| text.split_at(end))
}

/// `number`, which may have a fraction, times `factor`; exact, or `None` if the result is no whole number.
fn scaled(number: &str, factor: u64) -> Option<u64> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    let digits = u32::try_from(fraction.len())
        .ok()
        .filter(|digits| (1..=9).contains(digits))?;
    let denominator = 10_u128.pow(digits);
    let numerator =
        u128::from(whole.parse::<u64>().ok()?) * denominator + u128::from(fraction.parse::<u64>().ok()?);
    let product = numerator * u128::from(factor);
    (product % denominator == 0).then(|| u64::try_from(product / denominator).ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_units_from_the_largest_to_the_smallest() {
        for (text, ms) in [
            ("500ms", 500),
            ("30s", 30_000),
            ("1.5s", 1500),
            ("5m", 300_000),
            ("5min", 300_000),
            ("1h30m", 5_400_000),
            ("7d", 604_800_000),
            ("1w2d3h4m5s6ms", 788_645_006),
        ] {
            assert_eq!(parse_duration(text), Some(Duration::from_millis(ms)), "{text}");
        }
        let wrong = "5 s -5s 5x 5m1h 5s5s .5s 1.s 1e3s 0.0001ms 99999999999999y";
        for wrong in wrong.split(' ').chain(["", "5 s"]) {
            assert_eq!(parse_duration(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn sizes_have_a_binary_or_a_decimal_unit() {
        for (text, bytes) in [
            ("64MiB", 64 << 20),
            ("64mib", 64 << 20),
            ("1.5GB", 1_500_000_000),
            ("512 B", 512),
            ("2TiB", 2 << 40),
        ] {
            assert_eq!(parse_bytes(text), Some(bytes), "{text}");
        }
        for wrong in ["", "64", "MiB", "64M", "-1MB", "64MiBs", "0.3b", "99999999TiB"] {
            assert_eq!(parse_bytes(wrong), None, "{wrong}");
        }
    }
}
