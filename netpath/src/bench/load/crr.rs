//! Connect, request, response, close: one connection after the other, client and server on one core.

use std::{
    io::{self, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::atomic::{AtomicBool, Ordering},
};

use hdrhistogram::Histogram;
use socket2::{Domain, Protocol, SockRef, Socket, Type};

use super::{Cores, Slice, pin, record, with_server};
use crate::bench::{Pair, series::Turn, sockets, stats};

/// One byte each way on each connection. Connections a second: over the whole slice, and of each alone.
///
/// # Errors
/// What the kernel says, on either side.
pub(in crate::bench) fn tcp(pair: &Pair<'_>, slice: Slice, cores: Cores) -> io::Result<Turn> {
    // A port of its own for each turn: what earlier ones left in TIME-WAIT is not met again.
    let listener = sockets::tcp_listen(pair.server, pair.address)?;
    // Accepted sockets inherit it, which saves a system call for each.
    SockRef::from(&listener).set_read_timeout(Some(sockets::PATIENCE))?;
    let to = listener.local_addr()?;
    let client = || {
        let times = record(slice, || {
            let mut stream = connect(to)?;
            stream.write_all(&[1])?;
            stream.read_exact(&mut [0])
        });
        // A connection without a request ends the server at once.
        drop(connect(to));
        times
    };
    let times = with_server(
        cores.one,
        |done| serve(&listener, done),
        // The thread stays inside: entering for each socket would cost as much as the connection.
        || pair.client.enter(|| pin(cores.one).and_then(|()| client())).map_err(io::Error::other)?,
    )?;
    turn(&times)
}

/// A connection from the calling thread's namespace.
fn connect(to: SocketAddr) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, Some(Protocol::TCP))?;
    // Connecting takes at most as long as writing may.
    socket.set_write_timeout(Some(sockets::PATIENCE))?;
    socket.set_read_timeout(Some(sockets::PATIENCE))?;
    socket.connect(&to.into())?;
    Ok(socket.into())
}

fn serve(listener: &TcpListener, done: &AtomicBool) -> io::Result<()> {
    let mut byte = [0];
    while !done.load(Ordering::Relaxed) {
        let Some((mut stream, _)) = sockets::ticked(listener.accept())? else { continue };
        if stream.read(&mut byte)? == 0 {
            return Ok(());
        }
        stream.write_all(&byte)?;
    }
    Ok(())
}

/// Rates from times in nanoseconds.
fn turn(times: &Histogram<u64>) -> io::Result<Turn> {
    let mut samples = stats::histogram()?;
    for time in times.iter_recorded() {
        let rate = 1_000_000_000 / time.value_iterated_to().max(1);
        samples.record_n(rate, time.count_at_value()).map_err(io::Error::other)?;
    }
    Ok(Turn { value: 1e9 / times.mean(), samples })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_come_from_the_mean_time_and_the_worst_is_the_longest() {
        let mut times = stats::histogram().unwrap();
        times.record_n(100_000, 99).unwrap();
        times.record(1_000_000).unwrap();
        let turn = turn(&times).unwrap();
        assert!((turn.value - 1e9 / 109_000.0).abs() < 10.0, "{}", turn.value);
        assert!((990..=1010).contains(&turn.samples.min()) && turn.samples.len() == 100);
    }
}
