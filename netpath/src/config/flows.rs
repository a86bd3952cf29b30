//! `[flows]`: how many there may be, and how long.

use std::{ops::RangeInclusive, time::Duration};

use toml::Spanned;

use super::{
    ConfigError, DEFAULT_FLOW_ENTRIES,
    value::{Source, within},
};
use crate::datapath::Timeouts;

const ENTRIES: RangeInclusive<u32> = 64..=16_777_216;
/// As many as the largest table holds.
const PER_POD: RangeInclusive<u32> = 1..=8_388_608;
/// Programs note a flow's time once a second, and sweeps come every five.
const SHORTEST: Duration = Duration::from_secs(2);
const LONGEST: Duration = Duration::from_secs(30 * 24 * 3600);

pub(super) fn entries(source: &Source<'_>) -> Result<u32, ConfigError> {
    let flag = ("--flows-capacity or NETPATH_FLOWS_CAPACITY", source.flags.flows_capacity.as_ref());
    let given = source.given("flows.capacity", flag, source.file.flows.capacity.as_ref());
    let entries = within(given, &ENTRIES, "such as 262144")?;
    Ok(entries.unwrap_or(DEFAULT_FLOW_ENTRIES))
}

pub(super) fn per_pod(source: &Source<'_>) -> Result<Option<u32>, ConfigError> {
    let flag = ("--flows-per-pod or NETPATH_FLOWS_PER_POD", source.flags.flows_per_pod.as_ref());
    let given = source.given("flows.per_pod", flag, source.file.flows.per_pod.as_ref());
    within(given, &PER_POD, "such as 32768, or nothing for a quarter of what the table holds")
}

pub(super) fn timeouts(source: &Source<'_>) -> Result<Timeouts, ConfigError> {
    let (file, usual) = (&source.file.flows.timeouts, Timeouts::DEFAULT);
    let one = |key, given, usual| timeout(source, key, given, usual);
    Ok(Timeouts {
        tcp_unreplied: one("flows.timeouts.tcp_unreplied", &file.tcp_unreplied, usual.tcp_unreplied)?,
        tcp_established: one("flows.timeouts.tcp_established", &file.tcp_established, usual.tcp_established)?,
        tcp_closing: one("flows.timeouts.tcp_closing", &file.tcp_closing, usual.tcp_closing)?,
        tcp_reset: one("flows.timeouts.tcp_reset", &file.tcp_reset, usual.tcp_reset)?,
        udp_unreplied: one("flows.timeouts.udp_unreplied", &file.udp_unreplied, usual.udp_unreplied)?,
        udp_replied: one("flows.timeouts.udp_replied", &file.udp_replied, usual.udp_replied)?,
        icmp: one("flows.timeouts.icmp", &file.icmp, usual.icmp)?,
        other: one("flows.timeouts.other", &file.other, usual.other)?,
    })
}

/// A time as people write it, in ns.
fn timeout(
    source: &Source<'_>,
    key: &'static str,
    given: &Option<Spanned<String>>,
    usual: u64,
) -> Result<u64, ConfigError> {
    let Some(given) = given.as_ref().map(|text| source.in_file(key, text)) else { return Ok(usual) };
    let instead = || {
        let usual = humantime::format_duration(Duration::from_nanos(usual));
        format!("write 2s to 30days, such as {key} = \"{usual}\", its default")
    };
    match humantime::parse_duration(&given.value) {
        Ok(time) if (SHORTEST..=LONGEST).contains(&time) => Ok(time.as_nanos() as u64),
        Ok(_) => Err(given.error(format!("is '{}'", given.value), instead())),
        Err(error) => {
            Err(given.error(format!("is '{}', which is no time ({error})", given.value), instead()))
        }
    }
}
