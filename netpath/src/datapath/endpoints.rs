//! ENDPOINTS, and ENDPOINT_CACHE in front of it.

use std::{collections::BTreeMap, net::IpAddr};

use aya::{
    Ebpf,
    maps::{Array, HashMap, IterableMap as _},
    util::nr_cpus,
};
use netpath_common::{
    abi::{Addr, CACHE_SEATS, CACHE_SPARES, CachedEndpoint, Endpoint},
    logic::seat,
};

use super::{
    bpf::Table,
    error::{DatapathError, kernel},
    tables::take,
};

/// Both tables. Each change is one to ENDPOINTS and one to the cache, in the order in which programs never find what is not so.
pub(super) struct Endpoints {
    table: Table<Addr, Endpoint>,
    cache: Table<u32, CachedEndpoint>,
}

/// Name of the cache in the ELF.
pub(super) const CACHE: &str = "ENDPOINT_CACHE";

/// Seats of the cache, the spare ones of each CPU included.
pub(super) fn seats() -> Result<u32, DatapathError> {
    let cpus = nr_cpus().map_err(|(_, error)| kernel("counting the CPUs")(error))?;
    Ok(CACHE_SEATS + cpus as u32 * CACHE_SPARES)
}

impl Endpoints {
    /// Opens them.
    pub(super) fn take(ebpf: &mut Ebpf) -> Result<Self, DatapathError> {
        let table: HashMap<_, Addr, Endpoint> = take!(ebpf, "ENDPOINTS");
        let cache: Array<_, CachedEndpoint> = take!(ebpf, "ENDPOINT_CACHE");
        Ok(Self {
            table: Table::new(table.map()).map_err(kernel("opening the table ENDPOINTS"))?,
            cache: Table::new(cache.map()).map_err(kernel("opening the table ENDPOINT_CACHE"))?,
        })
    }

    pub(super) fn set(&self, address: IpAddr, endpoint: Endpoint) -> Result<(), DatapathError> {
        let (addr, doing) = (Addr::from(address), format!("writing the endpoint {address}"));
        let known = self.table.get(&addr).map_err(kernel(&doing))?.is_some();
        self.table.insert(&addr, &endpoint, 0).map_err(kernel(&doing))?;
        self.change_seat(&addr, |seat| with(seat, addr, endpoint, known)).map_err(kernel(doing))
    }

    pub(super) fn remove(&self, address: IpAddr) -> Result<(), DatapathError> {
        let (addr, doing) = (Addr::from(address), format!("removing the endpoint {address}"));
        let known = self.table.get(&addr).map_err(kernel(&doing))?.is_some();
        self.change_seat(&addr, |seat| without(seat, addr, known)).map_err(kernel(&doing))?;
        self.table.remove(&addr).map(drop).map_err(kernel(doing))
    }

    pub(super) fn all(&self) -> Result<Vec<(Addr, Endpoint)>, DatapathError> {
        self.table.all().map_err(kernel("reading the endpoints"))
    }

    /// Makes the cache say what ENDPOINTS does. Returns how many seats did not.
    pub(super) fn check_cache(&self) -> Result<usize, DatapathError> {
        let seats = self.cache.all().map_err(kernel("reading the cache of endpoints"))?;
        let wrong = wrong(&seats, &self.all()?);
        for (at, was, wanted) in &wrong {
            let doing = || kernel(format!("writing seat {at} of the cache of endpoints"));
            if is_taken(was) && was.addr != wanted.addr {
                // Never half of one and half of the other: for a moment everybody is looked for in ENDPOINTS.
                let nobody = CachedEndpoint { others: 1, ..CachedEndpoint::default() };
                self.cache.insert(at, &nobody, 0).map_err(doing())?;
            }
            self.cache.insert(at, wanted, 0).map_err(doing())?;
        }
        Ok(wrong.len())
    }

    fn change_seat(
        &self,
        addr: &Addr,
        change: impl FnOnce(CachedEndpoint) -> CachedEndpoint,
    ) -> std::io::Result<()> {
        let at = seat::of(addr);
        let seat = self.cache.get(&at)?.unwrap_or_default();
        let changed = change(seat);
        if changed == seat { Ok(()) } else { self.cache.insert(&at, &changed, 0) }
    }
}

fn is_taken(seat: &CachedEndpoint) -> bool {
    seat.endpoint.pod != 0
}

/// A seat after an address of it was written to ENDPOINTS; `known` if it was there before. Who sits stays, and so does who is one
/// of the others, as programs may read a seat that is just being taken half: nobody sends to a new address yet.
fn with(seat: CachedEndpoint, addr: Addr, endpoint: Endpoint, known: bool) -> CachedEndpoint {
    let others = seat.others;
    match (is_taken(&seat), known) {
        (true, _) if seat.addr == addr => CachedEndpoint { endpoint, ..seat },
        (true, false) => CachedEndpoint { others: others + 1, ..seat },
        (false, true) if others > 0 => seat,
        (true, true) => seat,
        (false, _) => CachedEndpoint { addr, endpoint, others, turn: 0 },
    }
}

/// A seat before an address of it goes from ENDPOINTS, if it is there (`known`).
fn without(seat: CachedEndpoint, addr: Addr, known: bool) -> CachedEndpoint {
    if is_taken(&seat) && seat.addr == addr {
        return CachedEndpoint { others: seat.others, ..CachedEndpoint::default() };
    }
    CachedEndpoint { others: seat.others.saturating_sub(known.into()), ..seat }
}

/// The seats that do not say what these endpoints are: which, what they say, and what they should. Who sits stays if it may.
fn wrong(
    seats: &[(u32, CachedEndpoint)],
    endpoints: &[(Addr, Endpoint)],
) -> Vec<(u32, CachedEndpoint, CachedEndpoint)> {
    let mut by_seat: BTreeMap<u32, Vec<&(Addr, Endpoint)>> = BTreeMap::new();
    for endpoint in endpoints {
        by_seat.entry(seat::of(&endpoint.0)).or_default().push(endpoint);
    }
    let wanted = |at: &u32, is: &CachedEndpoint| {
        let Some(all) = by_seat.get(at) else { return CachedEndpoint::default() };
        // Who sat there has gone, and the others stay so: see `with`.
        if !is_taken(is) && is.others as usize == all.len() {
            return CachedEndpoint { others: is.others, ..CachedEndpoint::default() };
        }
        let (addr, endpoint) = all.iter().find(|(addr, _)| *addr == is.addr).unwrap_or(&all[0]);
        CachedEndpoint { addr: *addr, endpoint: *endpoint, others: all.len() as u32 - 1, turn: 0 }
    };
    let own = seats.iter().filter(|(at, _)| *at < CACHE_SEATS);
    let judged = own.map(|(at, is)| (*at, *is, wanted(at, is)));
    judged.filter(|(_, is, wanted)| is != wanted).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Addresses of which many share a seat: the first two words cancel each other out.
    fn addr(low: u32, twin: u32) -> Addr {
        Addr([twin.to_be(), twin.to_be(), 0, low.to_be()])
    }

    fn endpoint(pod: u32) -> Endpoint {
        Endpoint { pod, ifindex: pod, ..Endpoint::default() }
    }

    /// What a program finds: the cache's answer, ENDPOINTS where it has to be asked.
    fn find(
        cache: &BTreeMap<u32, CachedEndpoint>,
        table: &BTreeMap<Addr, Endpoint>,
        of: Addr,
    ) -> Option<Endpoint> {
        let seat = cache.get(&seat::of(&of)).copied().unwrap_or_default();
        if seat.addr == of && is_taken(&seat) {
            return Some(seat.endpoint);
        }
        if seat.others == 0 { None } else { table.get(&of).copied() }
    }

    proptest! {
        /// Whatever is written and removed, in whatever order: programs find what ENDPOINTS says, and nothing is wrong.
        #[test]
        fn the_cache_says_what_endpoints_says(
            steps in prop::collection::vec((0_u32..4, 0_u32..4, 1_u32..100, any::<bool>()), 1..200),
        ) {
            let (mut cache, mut table) = (BTreeMap::new(), BTreeMap::new());
            for (low, twin, pod, set) in steps {
                let of = addr(low, twin);
                let seat: &mut CachedEndpoint = cache.entry(seat::of(&of)).or_default();
                let known = table.contains_key(&of);
                if set {
                    table.insert(of, endpoint(pod));
                    *seat = with(*seat, of, endpoint(pod), known);
                } else {
                    *seat = without(*seat, of, known);
                    table.remove(&of);
                }
                for (low, twin) in (0..4).flat_map(|low| (0..4).map(move |twin| (low, twin))) {
                    let asked = addr(low, twin);
                    prop_assert_eq!(find(&cache, &table, asked), table.get(&asked).copied());
                }
                prop_assert_eq!(find(&cache, &table, Addr::UNSPECIFIED), table.get(&Addr::UNSPECIFIED).copied());
                let (seats, all): (Vec<_>, Vec<_>) = (cache.clone().into_iter().collect(), table.clone().into_iter().collect());
                prop_assert!(wrong(&seats, &all).is_empty(), "nobody has changed it");
            }
        }

        /// Whatever the cache says, what it should say is found, and then nothing is wrong.
        #[test]
        fn a_wrong_cache_is_put_right(
            is in prop::collection::vec((0_u32..4, 0_u32..3, 0_u32..5, 0_u32..3), 0..12),
            wanted in prop::collection::btree_map((0_u32..4, 0_u32..3), 1_u32..5, 0..12),
        ) {
            let table: BTreeMap<Addr, Endpoint> =
                wanted.into_iter().map(|((low, twin), pod)| (addr(low, twin), endpoint(pod))).collect();
            let all: Vec<_> = table.clone().into_iter().collect();
            let mut cache: BTreeMap<u32, CachedEndpoint> =
                (0..4).map(|low| (seat::of(&addr(low, 0)), CachedEndpoint::default())).collect();
            for (low, twin, pod, others) in is {
                let addr = addr(low, twin);
                cache.insert(seat::of(&addr), CachedEndpoint { addr, endpoint: endpoint(pod), others, turn: 0 });
            }
            let seats: Vec<_> = cache.clone().into_iter().collect();
            for (at, _, should) in wrong(&seats, &all) {
                cache.insert(at, should);
            }
            for (low, twin) in (0..4).flat_map(|low| (0..3).map(move |twin| (low, twin))) {
                let asked = addr(low, twin);
                prop_assert_eq!(find(&cache, &table, asked), table.get(&asked).copied());
            }
            let seats: Vec<_> = cache.into_iter().collect();
            prop_assert!(wrong(&seats, &all).is_empty());
        }
    }
}
