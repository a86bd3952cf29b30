//! Numbers for people.

use std::{fmt::Display, net::IpAddr};

/// Bytes with a binary unit: `999 B`, `1.5 KiB`, `20.0 GiB`.
pub(super) fn bytes(count: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if count < 1024 {
        return format!("{count} B");
    }
    let mut amount = count as f64 / 1024.0;
    let mut unit = 0;
    // Below what `{:.1}` would round up to 1024.0.
    while amount >= 1023.95 && unit + 1 < UNITS.len() {
        amount /= 1024.0;
        unit += 1;
    }
    format!("{amount:.1} {}", UNITS[unit])
}

/// A span of seconds in its two largest units: `7s`, `3m12s`, `5h04m`, `2d03h`.
pub(super) fn age(seconds: u64) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{minutes}m{:02}s", seconds % 60),
        3600..86_400 => format!("{hours}h{:02}m", minutes % 60),
        _ => format!("{days}d{:02}h", hours % 24),
    }
}

/// Time of day in UTC: `14:05:09.003`.
pub(super) fn time_of_day(time_ms: u64) -> String {
    let (seconds, ms) = (time_ms / 1000, time_ms % 1000);
    format!("{:02}:{:02}:{:02}.{ms:03}", seconds / 3600 % 24, seconds / 60 % 60, seconds % 60)
}

/// An end of a flow: `1.2.3.4:80`, `[2001:db8::1]:80`; an echo's port is its identifier: `1.2.3.4 id 77`.
pub(super) fn end(protocol: &str, address: IpAddr, port: u16) -> String {
    match (protocol, address) {
        ("icmp" | "icmpv6", _) if port != 0 => format!("{address} id {port}"),
        (_, IpAddr::V6(_)) if port != 0 => format!("[{address}]:{port}"),
        (_, IpAddr::V4(_)) if port != 0 => format!("{address}:{port}"),
        _ => address.to_string(),
    }
}

/// Things with commas; `-` for none.
pub(super) fn list<T: Display>(things: &[T]) -> String {
    if things.is_empty() {
        return "-".to_owned();
    }
    things.iter().map(T::to_string).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_take_the_unit_that_fits() {
        let rows = [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (1536, "1.5 KiB"),
            ((1 << 20) - 1, "1.0 MiB"),
            (20 << 30, "20.0 GiB"),
            (u64::MAX, "16.0 EiB"),
        ];
        for (count, text) in rows {
            assert_eq!(bytes(count), text);
        }
    }

    #[test]
    fn ages_show_two_units() {
        let rows = [
            (0, "0s"),
            (59, "59s"),
            (60, "1m00s"),
            (192, "3m12s"),
            (3600, "1h00m"),
            (86_399, "23h59m"),
            (183_600, "2d03h"),
        ];
        for (seconds, text) in rows {
            assert_eq!(age(seconds), text);
        }
    }

    #[test]
    fn ends_show_ports_as_the_protocol_means_them() {
        let rows = [
            ("tcp", "1.2.3.4", 80, "1.2.3.4:80"),
            ("udp", "2001:db8::1", 53, "[2001:db8::1]:53"),
            ("icmp", "1.2.3.4", 77, "1.2.3.4 id 77"),
            ("47", "1.2.3.4", 0, "1.2.3.4"),
        ];
        for (protocol, address, port, text) in rows {
            assert_eq!(end(protocol, address.parse().unwrap(), port), text);
        }
    }

    #[test]
    fn the_time_of_day_wraps_at_midnight() {
        assert_eq!(time_of_day(0), "00:00:00.000");
        assert_eq!(time_of_day(86_400_000 * 20_000 + 50_709_003), "14:05:09.003");
    }

    #[test]
    fn lists_say_none_as_a_dash() {
        assert_eq!(list::<u8>(&[]), "-");
        assert_eq!(list(&[1, 2]), "1,2");
    }
}
