//! How long a Mount may take.

use std::time::Duration;

use tonic::metadata::MetadataMap;

/// Longest Mount, whatever the caller would wait.
const LIMIT: Duration = Duration::from_secs(60);
/// What is left to the caller for receiving and writing the answer.
const RESERVE: Duration = Duration::from_secs(2);

/// min(60 s, caller's less 2 s, but never less than half of what the caller gave).
pub(super) fn of_call(metadata: &MetadataMap) -> Duration {
    match given(metadata) {
        Some(given) => LIMIT.min(given.saturating_sub(RESERVE).max(given / 2)),
        None => LIMIT,
    }
}

/// What the caller gave.
pub(super) fn given(metadata: &MetadataMap) -> Option<Duration> {
    metadata.get("grpc-timeout").and_then(|value| value.to_str().ok()).and_then(parse)
}

/// `grpc-timeout`: up to eight digits and a unit (gRPC over HTTP/2).
fn parse(text: &str) -> Option<Duration> {
    let unit = text.chars().last()?;
    let digits = text.strip_suffix(unit)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let amount: u64 = digits.parse().ok()?;
    Some(match unit {
        'H' => Duration::from_secs(amount * 3600),
        'M' => Duration::from_secs(amount * 60),
        'S' => Duration::from_secs(amount),
        'm' => Duration::from_millis(amount),
        'u' => Duration::from_micros(amount),
        'n' => Duration::from_nanos(amount),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rule_holds_at_its_corners() {
        let of = |text: &str| {
            let mut metadata = MetadataMap::new();
            metadata.insert("grpc-timeout", text.parse().unwrap());
            of_call(&metadata)
        };
        assert_eq!(of_call(&MetadataMap::new()), LIMIT);
        assert_eq!(of("120S"), LIMIT);
        assert_eq!(of("62S"), LIMIT);
        assert_eq!(of("30S"), Duration::from_secs(28));
        assert_eq!(of("4S"), Duration::from_secs(2));
        assert_eq!(of("3S"), Duration::from_millis(1500));
        assert_eq!(of("100m"), Duration::from_millis(50));
        assert_eq!(of("99999999H"), LIMIT);
        for nonsense in ["", "S", "x", "1x", "-1S", "123456789S"] {
            assert_eq!(of(nonsense), LIMIT, "{nonsense}");
        }
    }
}
