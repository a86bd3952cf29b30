//! Bandwidths as people write them: `10M`, `1.5G:256K`.

use crate::{
    api::types::{Bandwidth, Pod},
    cli::units::bytes,
};

/// Prefixes of units: those of Kubernetes, and the letters of `tc`.
const PREFIXES: [(&str, f64); 10] = [
    ("", 1.0),
    ("k", 1e3),
    ("m", 1e6),
    ("g", 1e9),
    ("t", 1e12),
    ("p", 1e15),
    ("ki", 1024.0),
    ("mi", 1_048_576.0),
    ("gi", 1_073_741_824.0),
    ("ti", 1_099_511_627_776.0),
];

/// Reads a rate in bits a second, and perhaps a burst in bytes.
pub(super) fn parse(text: &str) -> Result<Bandwidth, String> {
    let (rate, burst) = match text.split_once(':') {
        Some((rate, burst)) => (rate, Some(burst)),
        None => (text, None),
    };
    let wrong = |what: &str, one: &str, like: &str| format!("'{one}' is no {what}; give one like {like}");
    let rate = amount(rate, &["bit", "bit/s", "b/s"]).ok_or_else(|| {
        let hint = if rate.ends_with("bps") { " ('bps' is bytes to some and bits to others)" } else { "" };
        wrong("rate in bits a second", rate, "10M, 1.5G or 10mbit") + hint
    })?;
    if rate == 0 {
        return Err(
            "a rate of 0 lets nothing pass; to have no limit, leave it out, or say none to 'pod set'".into(),
        );
    }
    let burst =
        burst.map(|burst| amount(burst, &["b"]).ok_or_else(|| wrong("burst in bytes", burst, "256K or 1Mi")));
    Ok(Bandwidth { rate, burst: burst.transpose()? })
}

/// The same, or `none`.
pub(super) fn changed(text: &str) -> Result<Bandwidth, String> {
    if text == "none" { Ok(Bandwidth::default()) } else { parse(text) }
}

/// A number with a prefix and perhaps a unit, rounded.
fn amount(text: &str, units: &[&str]) -> Option<u64> {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let unit = unit.to_ascii_lowercase();
    let prefix = units.iter().find_map(|one| unit.strip_suffix(one)).unwrap_or(&unit);
    let (_, factor) = PREFIXES.iter().find(|(name, _)| *name == prefix)?;
    let amount = number.parse::<f64>().ok()? * factor;
    // Above, not every whole number is a float.
    (amount < 9e15).then_some(amount.round() as u64)
}

/// A limit in words.
pub(super) fn words(limit: Option<Bandwidth>) -> String {
    let Some(limit) = limit else { return "no limit".to_owned() };
    let burst = limit.burst.map(|burst| format!(", {} at once", bytes(burst))).unwrap_or_default();
    format!("{}bit/s{burst}", short(limit.rate))
}

/// Both limits in few characters: `in 10M out 1.5G`.
pub(super) fn both(pod: &Pod) -> String {
    let one = |name: &str, limit: Option<Bandwidth>| Some(format!("{name} {}", short(limit?.rate)));
    let all = [one("in", pod.ingress_bandwidth), one("out", pod.egress_bandwidth)];
    let words: Vec<_> = all.into_iter().flatten().collect();
    if words.is_empty() { "-".to_owned() } else { words.join(" ") }
}

/// A rate as short as it can be said exactly.
fn short(rate: u64) -> String {
    let fits = |(letter, unit): (&str, u64)| {
        let exact = rate >= unit && rate.is_multiple_of((unit / 1000).max(1));
        exact.then(|| format!("{}{letter}", rate as f64 / unit as f64))
    };
    [
        ("P", 1_000_000_000_000_000),
        ("T", 1_000_000_000_000),
        ("G", 1_000_000_000),
        ("M", 1_000_000),
        ("k", 1000),
    ]
    .into_iter()
    .find_map(fits)
    .unwrap_or_else(|| rate.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_bits_and_bursts_are_bytes() {
        let read = |text: &str| parse(text).map(|limit| (limit.rate, limit.burst));
        for (text, rate, burst) in [
            ("10M", 10_000_000, None),
            ("10mbit", 10_000_000, None),
            ("1.5G:256K", 1_500_000_000, Some(256_000)),
            ("1Gbit/s:1Mi", 1_000_000_000, Some(1_048_576)),
            ("512Ki", 524_288, None),
            ("1000000:4096", 1_000_000, Some(4096)),
            ("1P", 1_000_000_000_000_000, None),
        ] {
            assert_eq!(read(text), Ok((rate, burst)), "{text}");
        }
        for wrong in
            ["", "M", "-1M", "ten", "10Q", "1.2.3M", "10M:", "10M:x", "none", "99999P", "10 M", "inf"]
        {
            assert!(read(wrong).is_err(), "{wrong}");
        }
        assert!(read("0").unwrap_err().contains("lets nothing pass"));
        assert!(read("10Mbps").unwrap_err().contains("bytes to some"));
        assert_eq!(changed("none"), Ok(Bandwidth::default()));
        assert!(changed("0").is_err());
    }

    #[test]
    fn limits_are_told_as_they_were_given() {
        let told = |text: &str| words(parse(text).ok());
        assert_eq!(told("10M"), "10Mbit/s");
        assert_eq!(told("1.5G:96Ki"), "1.5Gbit/s, 96.0 KiB at once");
        assert_eq!(told("512Ki"), "524.288kbit/s");
        assert_eq!(told("1234567"), "1234.567kbit/s");
        assert_eq!(words(None), "no limit");
    }
}
