//! Programs and tables: load, attach, pin, read and write. Knows the records of `netpath-common`, nothing of pods.
//!
//! Every method is a few system calls and blocks for microseconds. Walking the flows takes longer: [`FlowTable`] has a
//! handle of its own for that.

mod attach;
mod attached;
mod bpf;
mod clsact;
mod deny;
mod dry_run;
mod endpoints;
mod error;
mod events;
mod flows;
mod host_sock;
mod limits;
mod load;
mod moving;
mod pins;
pub mod probe;
mod protect;
mod published;
mod readings;
mod settle;
mod tables;
mod xdp;

use std::{net::IpAddr, path::PathBuf, sync::Arc};

use aya::{
    Ebpf,
    maps::{IterableMap as _, RingBuf},
    programs::SchedClassifier,
};
use ipnet::IpNet;
use netpath_common::abi::{Endpoint, Link, Node, Program, Route};

#[cfg(test)]
pub(crate) use self::flows::tests as flow_tests;
pub use self::{
    attach::{Attach, AttachKind},
    attached::Attachment,
    bpf::netns_cookie,
    dry_run::{At, DryRun, MAX_FRAME, Ran},
    error::DatapathError,
    events::Events,
    flows::{CROWDED, FlowPair, FlowTable, Rules, Swept, WELL, Walk, is_crowded, monotonic_ns},
    host_sock::{SOCKET_HOOKS, cgroup2},
    load::{ELF, PROGRAMS, TABLES, Table},
    pins::{is_bpffs, mount_bpffs, remove_programs},
    readings::Readings,
    settle::Settler,
    tables::{Told, told},
};
use self::{
    deny::Deny, limits::Limits, pins::Pins, protect::ProtectedTable, published::PublishedTable,
    tables::Tables,
};
pub use netpath_common::logic::flow_state::Timeouts;

/// Slots of POD_COUNTERS, hence pods a node can have.
pub const POD_SLOTS: u32 = 4096;

/// How the datapath is set up.
#[derive(Clone, Debug)]
pub struct Options {
    /// Directory on bpffs that holds this instance's pins.
    pub pin_dir: PathBuf,
    /// MAC of all host ends; the programs answer ARP with it.
    pub gateway_mac: [u8; 6],
    /// Entries of FLOWS; a flow takes two. Flows of a table with another size are moved.
    pub flow_entries: u32,
    /// How programs are attached.
    pub attach: Attach,
    /// Whether to go on without the flows of an agent whose layout this build does not know.
    pub forget_flows: bool,
}

/// The loaded programs and their tables. Dropping it detaches nothing: links and tables are pinned.
pub struct Datapath {
    ebpf: Ebpf,
    tables: Tables,
    limits: Limits,
    deny: Deny,
    published: PublishedTable,
    protected: ProtectedTable,
    pins: Pins,
    gateway_mac: [u8; 6],
    attach: Attach,
    moving: bool,
    /// Whether some of what is attached is of the other kind.
    changing: bool,
    events: Option<RingBuf<aya::maps::MapData>>,
    readings: Arc<Readings>,
}

impl Datapath {
    /// Loads the programs, reusing the pinned tables of an earlier agent with the same layout. Attached programs keep
    /// running the old version until `attach_*` replaces them atomically.
    ///
    /// # Errors
    /// The verifier's or the kernel's reason, or the kernel is too old for `options.attach`; nothing is attached then.
    pub fn load(options: &Options) -> Result<Self, DatapathError> {
        options.attach.check()?;
        let pins = Pins::create(&options.pin_dir)?;
        let plan = moving::plan(&pins, options.flow_entries, options.forget_flows)?;
        let changing = attached::all(&pins)?.iter().any(|one| options.attach.is_other(one));
        let mut ebpf = load::load(options, &pins, &plan, changing)?;
        let tables = Tables::take(&mut ebpf)?;
        let limits = Limits::take(&mut ebpf)?;
        let deny = Deny::take(&mut ebpf)?;
        let published = PublishedTable::take(&mut ebpf)?;
        let protected = ProtectedTable::take(&mut ebpf)?;
        let events = ebpf.take_map("EVENTS").and_then(|map| map.try_into().ok());
        let gateway_mac = options.gateway_mac;
        let shared = (tables.pod_counters.map(), deny.counters.map());
        let readings = Readings::take(&mut ebpf, shared, pins.maps.join("FLOWS"))?;
        Ok(Self {
            ebpf,
            tables,
            limits,
            deny,
            published,
            protected,
            pins,
            gateway_mac,
            attach: options.attach,
            moving: plan.before != 0,
            changing,
            events,
            readings: Arc::new(readings),
        })
    }

    /// Attaches `from_pod` (ingress) and `to_pod` (egress) to a pod's host end, or replaces what is there. Idempotent.
    ///
    /// # Errors
    /// The kernel's reason.
    pub fn attach_pod(&mut self, ifname: &str, ifindex: u32) -> Result<(), DatapathError> {
        self.attach(&[Program::ToPod, Program::FromPod], ifname, ifindex)
    }

    /// Attaches `from_uplink` (ingress) and `to_uplink` (egress), the guard of what leaves first. Idempotent.
    ///
    /// # Errors
    /// The kernel's reason.
    pub fn attach_uplink(&mut self, ifname: &str, ifindex: u32) -> Result<(), DatapathError> {
        self.attach(&[Program::ToUplink, Program::FromUplink], ifname, ifindex)
    }

    /// Attaches `to_overlay` (egress) and `from_overlay` (ingress) to the tunnels' device. Idempotent.
    ///
    /// # Errors
    /// The kernel's reason.
    pub fn attach_overlay(&mut self, ifname: &str, ifindex: u32) -> Result<(), DatapathError> {
        self.attach(&[Program::ToOverlay, Program::FromOverlay], ifname, ifindex)
    }

    /// Whether what is attached changes from one kind to the other: [`take_over`](Self::take_over), attach everything,
    /// [`drop_others`](Self::drop_others), and then load again. Until then these programs look for notes.
    pub fn is_changing(&self) -> bool {
        self.changing
    }

    fn attach(&mut self, programs: &[Program], ifname: &str, ifindex: u32) -> Result<(), DatapathError> {
        for &program in programs {
            let classifier = load::classifier(&mut self.ebpf, program)?;
            // What has settled stays.
            let linked = self.attach.settles && self.pins.link(ifindex, program.name()).exists();
            let kind = if linked { AttachKind::Tcx } else { self.attach.of(program) };
            attach::attach(classifier, program, &self.pins, kind, (ifname, ifindex))?;
        }
        Ok(())
    }

    /// A loaded tc program, for test runs.
    ///
    /// # Errors
    /// If it is none.
    pub fn program(&self, program: Program) -> Result<&SchedClassifier, DatapathError> {
        load::loaded(&self.ebpf, program)
    }

    /// The programs once more, to run by hand on the tables as they are.
    pub fn dry_run(&self) -> DryRun {
        DryRun::new(self.gateway_mac, self.pins.maps.clone())
    }

    /// Writes one endpoint.
    ///
    /// # Errors
    /// The kernel's reason, as in all methods below.
    pub fn set_endpoint(&mut self, address: IpAddr, endpoint: Endpoint) -> Result<(), DatapathError> {
        self.tables.endpoints.set(address, endpoint)
    }

    /// Removes one endpoint; no error if it is not there.
    ///
    /// # Errors
    /// The kernel's reason.
    pub fn remove_endpoint(&mut self, address: IpAddr) -> Result<(), DatapathError> {
        self.tables.endpoints.remove(address)
    }

    /// Says whose an interface is.
    ///
    /// # Errors
    /// The kernel's reason.
    pub fn set_link(&mut self, ifindex: u32, link: Link) -> Result<(), DatapathError> {
        self.tables.set_link(ifindex, link)
    }

    /// Forgets whose an interface is; no error if it is not there.
    ///
    /// # Errors
    /// The kernel's reason.
    pub fn remove_link(&mut self, ifindex: u32) -> Result<(), DatapathError> {
        self.tables.remove_link(ifindex)
    }

    /// All interfaces of pods by index.
    ///
    /// # Errors
    /// The kernel's reason.
    pub fn links(&self) -> Result<Vec<(u32, Link)>, DatapathError> {
        self.tables.links()
    }

    /// All endpoints.
    ///
    /// # Errors
    /// The kernel's reason.
    pub fn endpoints(&self) -> Result<Vec<(IpAddr, Endpoint)>, DatapathError> {
        let all = self.tables.endpoints.all()?;
        Ok(all.into_iter().map(|(addr, endpoint)| (addr.to_ip(), endpoint)).collect())
    }

    /// Makes the cache of endpoints say what their table does. Returns how many seats of it did not.
    ///
    /// # Errors
    /// The kernel's reason.
    pub fn check_endpoint_cache(&mut self) -> Result<usize, DatapathError> {
        self.tables.endpoints.check_cache()
    }

    /// Makes ROUTES hold exactly these prefixes, each with the number of its network: writes what differs, then removes
    /// what is left over.
    ///
    /// # Errors
    /// The kernel's reason.
    pub fn set_routes(&mut self, routes: &[(u32, IpNet, Route)]) -> Result<(), DatapathError> {
        self.tables.set_routes(routes)
    }

    /// Writes the node's record.
    ///
    /// # Errors
    /// The kernel's reason.
    pub fn set_node(&mut self, node: &Node) -> Result<(), DatapathError> {
        self.tables.set_node(node)
    }

    /// The node's record as it was last written, by this agent or an earlier one; all zero if never.
    ///
    /// # Errors
    /// The kernel's reason.
    pub fn node(&self) -> Result<Node, DatapathError> {
        self.tables.node()
    }

    /// What the programs count, and the flow table. Whoever has it waits for nobody who works on this.
    pub fn readings(&self) -> Arc<Readings> {
        Arc::clone(&self.readings)
    }

    /// Sets a pod's counters to zero, before its slot is used again.
    ///
    /// # Errors
    /// The kernel's reason.
    pub fn clear_pod_counter(&mut self, slot: u32) -> Result<(), DatapathError> {
        self.tables.clear_pod_counter(slot)
    }

    /// What the programs log, sent on to this process's log until the task is dropped; once. Only in a build with the
    /// feature `debug-log`: a log line costs more than the packet.
    ///
    /// # Errors
    /// The kernel's reason if the ring cannot be polled.
    #[cfg(feature = "debug-log")]
    pub fn take_log(&mut self) -> Result<impl Future<Output = ()> + Send + use<>, DatapathError> {
        use std::os::fd::AsFd as _;
        let mut logger =
            aya_log::EbpfLogger::init(&mut self.ebpf).map_err(kernel("opening the programs' log"))?;
        let ring = logger.as_fd().try_clone_to_owned().map_err(kernel("opening the programs' log"))?;
        #[expect(
            deprecated,
            reason = "its successor is unsafe, against types that swap their descriptor; this one is owned"
        )]
        let ring = tokio::io::unix::AsyncFd::new(ring).map_err(kernel("polling the programs' log"))?;
        Ok(async move {
            while let Ok(mut ready) = ring.readable().await {
                logger.flush();
                ready.clear_ready();
            }
        })
    }

    /// The ring of events; once. Call it inside a tokio runtime.
    ///
    /// # Errors
    /// The kernel's reason if the ring cannot be polled.
    pub fn take_events(&mut self) -> Result<Option<Events>, DatapathError> {
        self.events.take().map(Events::new).transpose()
    }
}
