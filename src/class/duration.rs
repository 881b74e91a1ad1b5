//! Durations as Go's flags spell them.

use std::time::Duration;

/// Go's longest, some 292 years. Times are added to such durations, which have an end too.
const LONGEST: Duration = Duration::from_nanos(i64::MAX as u64);

/// Go's duration syntax, as far as flags use it: `5s`, `500ms`, `1m30s`, `0.5s`.
pub(crate) fn parse(text: &str) -> Result<Duration, String> {
    let invalid = || "expected a duration such as 5s, 500ms or 1m30s".to_owned();
    let (mut rest, mut total) = (text, Duration::ZERO);
    if rest.is_empty() {
        return Err(invalid());
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(invalid)?;
        let (number, tail) = rest.split_at(digits);
        let unit_end = tail.find(|c: char| c.is_ascii_digit()).unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(unit_end);
        let number: f64 = number.parse().map_err(|_| invalid())?;
        let seconds = match unit {
            "h" => 3600.0,
            "m" => 60.0,
            "s" => 1.0,
            "ms" => 1e-3,
            "us" => 1e-6,
            _ => return Err(invalid()),
        };
        let part = Duration::try_from_secs_f64(number * seconds).map_err(|_| invalid())?;
        total = total.checked_add(part).filter(|sum| *sum <= LONGEST).ok_or_else(invalid)?;
        rest = tail;
    }
    Ok(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_longer_than_gos_longest_is_no_duration() {
        assert_eq!(parse("2562047h"), Ok(Duration::from_secs(2_562_047 * 3600)));
        for text in ["2562048h", "5000000000000000h", "2562047h48m"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
