//! pcapng: one interface block for each point, the direction with each packet.

use std::{
    io::{self, BufWriter, Write},
    path::Path,
};

use pcap_file::{
    DataLink, PcapError,
    pcapng::{
        PcapNgBlock as _, PcapNgWriter,
        blocks::{
            enhanced_packet::{EnhancedPacketBlock, EnhancedPacketOption},
            interface_description::{InterfaceDescriptionBlock, InterfaceDescriptionOption},
        },
    },
};

use super::{CaptureError, Captured, Point, Sink};

/// Time stamps count nanoseconds: 10^-9 s.
const NANOSECONDS: u8 = 9;
/// Direction in a packet's flags.
const INBOUND: u32 = 1;
const OUTBOUND: u32 = 2;

/// A capture's file, or the standard output.
pub struct Pcapng {
    writer: PcapNgWriter<Box<dyn Write>>,
    name: String,
}

impl Pcapng {
    /// Makes the file, or takes the standard output for `-`.
    ///
    /// # Errors
    /// If it cannot be made.
    pub fn create(path: &Path, points: &[Point], snaplen: u32) -> Result<Self, CaptureError> {
        let name = path.display().to_string();
        let failed = |error: &dyn std::fmt::Display| CaptureError::new(format!("writing {name}"), error);
        let out: Box<dyn Write> = if name == "-" {
            Box::new(io::stdout())
        } else {
            Box::new(BufWriter::new(std::fs::File::create(path).map_err(|error| failed(&error))?))
        };
        let writer = PcapNgWriter::new(out).map_err(|error| failed(&error))?;
        let mut file = Self { writer, name };
        for point in points {
            let description =
                if point.is_uplink { "uplink: after translation" } else { "in the pod: before translation" };
            let options = vec![
                InterfaceDescriptionOption::IfName(point.name.as_str().into()),
                InterfaceDescriptionOption::IfDescription(description.into()),
                InterfaceDescriptionOption::IfTsResol(NANOSECONDS),
            ];
            let block = InterfaceDescriptionBlock { linktype: DataLink::ETHERNET, snaplen, options };
            let written = file.writer.write_block(&block.into_block());
            file.outcome(written.map(drop))?;
        }
        Ok(file)
    }

    /// Writes out what is still in memory.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn finish(mut self) -> Result<(), CaptureError> {
        self.flush()
    }

    fn flush(&mut self) -> Result<(), CaptureError> {
        let flushed = self.writer.get_mut().flush().map_err(PcapError::IoError);
        self.outcome(flushed)
    }

    fn outcome(&self, outcome: Result<(), PcapError>) -> Result<(), CaptureError> {
        match outcome {
            Err(PcapError::IoError(error))
                if error.kind() == io::ErrorKind::BrokenPipe && self.name == "-" =>
            {
                Err(CaptureError::Closed)
            }
            outcome => outcome.map_err(|error| CaptureError::new(format!("writing {}", self.name), error)),
        }
    }
}

impl Sink for Pcapng {
    fn take(&mut self, _: &[Point], packet: &Captured) -> Result<(), CaptureError> {
        let direction = if packet.outgoing { OUTBOUND } else { INBOUND };
        let mut options = vec![EnhancedPacketOption::Flags(direction)];
        if let Some(in_pod) = packet.in_pod {
            options.push(EnhancedPacketOption::Comment(format!("in the pod: {in_pod}").into()));
        }
        let block = EnhancedPacketBlock {
            interface_id: packet.point as u32,
            timestamp: packet.time,
            original_len: packet.length,
            data: packet.frame.as_slice().into(),
            options,
        };
        let written = self.writer.write_block(&block.into_block()).map(drop);
        self.outcome(written)?;
        // Whoever reads along wants each packet as it comes.
        if self.name == "-" { self.flush() } else { Ok(()) }
    }
}
