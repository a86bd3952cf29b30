//! Ethernet addresses of pods.

use std::{fmt, net::IpAddr, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// MAC of every pod's host end: one constant, so that a pod's neighbour entry never goes stale.
pub const GATEWAY_MAC: Mac = Mac([0x02, 0x6e, 0x70, 0, 0, 1]);

/// An Ethernet address; in text and JSON `aa:bb:cc:dd:ee:ff`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Mac(pub [u8; 6]);

/// Why a text is not a MAC a pod can have.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("MAC '{text}' {reason}")]
pub struct MacError {
    /// What was given.
    pub text: String,
    /// What is wrong with it, and what to write instead.
    pub reason: &'static str,
}

impl Mac {
    /// The MAC of a pod's interface, so that it is the same after every restart: a locally administered prefix, then an
    /// IPv4 address itself, unique where the address is, or a hash of an IPv6 address. Pods share no link, so that two
    /// with one MAC would disturb nobody.
    pub fn of_address(address: IpAddr) -> Self {
        let [a, b, c, d] = match address {
            IpAddr::V4(v4) => v4.octets(),
            IpAddr::V6(v6) => return Self::of_hash(&v6.octets()),
        };
        let mac = Self([0x02, 0x6e, a, b, c, d]);
        // 112.0.0.1 would yield the gateway's own MAC.
        if mac == GATEWAY_MAC { Self([0x06, 0x6e, a, b, c, d]) } else { mac }
    }

    /// FNV-1a: an own hash and not the standard library's, whose values may change between its versions.
    fn of_hash(bytes: &[u8]) -> Self {
        let step = |hash: u32, byte: &u8| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193);
        let [a, b, c, d] = bytes.iter().fold(0x811c_9dc5, step).to_be_bytes();
        Self([0x0a, 0x6e, a, b, c, d])
    }

    /// A MAC that somebody wants for a pod.
    ///
    /// # Errors
    /// Not six hexadecimal bytes, a group address, zero, or the gateway's own.
    pub fn for_pod(text: &str) -> Result<Self, MacError> {
        let mac: Self = text.parse()?;
        let reason = if mac.0[0] & 1 == 1 {
            "is a group address: make the first byte even, such as 02:00:00:00:00:01"
        } else if mac.0 == [0; 6] {
            "is zero: give another, or none to derive it from the address"
        } else if mac == GATEWAY_MAC {
            "is the gateway's: give another, or none to derive it from the address"
        } else {
            return Ok(mac);
        };
        Err(MacError { text: text.to_owned(), reason })
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl FromStr for Mac {
    type Err = MacError;

    fn from_str(text: &str) -> Result<Self, MacError> {
        let error = || MacError {
            text: text.to_owned(),
            reason: "is not six hexadecimal bytes like 02:6e:0a:3d:00:05",
        };
        let mut bytes = [0; 6];
        let mut parts = text.split(':');
        for byte in &mut bytes {
            let part =
                parts.next().filter(|part| part.len() == 2 && part.bytes().all(|b| b.is_ascii_hexdigit()));
            *byte = part.and_then(|part| u8::from_str_radix(part, 16).ok()).ok_or_else(error)?;
        }
        if parts.next().is_some() { Err(error()) } else { Ok(Self(bytes)) }
    }
}

impl Serialize for Mac {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Mac {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn derived_from_the_address() {
        let of = |text: &str| Mac::of_address(text.parse().unwrap());
        assert_eq!(of("10.61.0.5").to_string(), "02:6e:0a:3d:00:05");
        assert_ne!(of("112.0.0.1"), GATEWAY_MAC);
        // Changing this changes the MAC of running pods.
        assert_eq!(of("fd00:61::5").to_string(), "0a:6e:25:5c:0f:f4");
        assert_ne!(of("fd00:61::5"), of("fd00:61::6"));
    }

    #[test]
    fn a_pod_cannot_have_every_mac() {
        for text in ["01:00:5e:00:00:01", "ff:ff:ff:ff:ff:ff", "00:00:00:00:00:00", "02:6e:70:00:00:01"] {
            assert!(Mac::for_pod(text).is_err(), "{text}");
        }
        for text in
            ["", "02", "02:6e:0a:3d:00", "02:6e:0a:3d:00:05:06", "2:6e:a:3d:0:5", "+2:6e:0a:3d:00:05", "zz"]
        {
            assert!(Mac::for_pod(text).is_err(), "{text}");
        }
        assert!(Mac::for_pod("0A:00:00:00:00:01").is_ok());
    }

    proptest! {
        #[test]
        fn text_round_trip(bytes: [u8; 6]) {
            prop_assert_eq!(Mac(bytes).to_string().parse::<Mac>().unwrap(), Mac(bytes));
        }

        #[test]
        fn every_ipv4_address_has_its_own_mac(a: u32, b: u32) {
            let v4 = |bits: u32| IpAddr::V4(bits.into());
            prop_assert_eq!(a == b, Mac::of_address(v4(a)) == Mac::of_address(v4(b)));
        }
    }
}
