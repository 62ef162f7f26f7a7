//! The addresses that a node listens on. Every shard gets a socket of its own on the clients' addresses (`SO_REUSEPORT`:
//! the kernel spreads connections over them), which would also let a second node slip in beside the first: so each
//! address is first taken without sharing, to see that it is free.
//!
//! They all listen when these functions return: who comes before the shards have their data back waits in the kernel.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, Socket, Type};

use super::data_directory::StartError;
use super::link_sockets::ClusterSockets;

/// A port in use is tried again for so long: the kernel takes back the ring of a process that was killed, and with it the
/// sockets that it listened on, a moment after the process is gone.
const PATIENCE: Duration = Duration::from_secs(2);

/// Between two tries.
const RETRY_EVERY: Duration = Duration::from_millis(20);

/// One address, a socket for each shard, all bound.
#[derive(Debug)]
pub struct BoundAddress {
    /// With the port that the kernel gave where 0 was asked.
    pub address: SocketAddr,
    /// In the order of the shards.
    pub sockets: Vec<Socket>,
}

/// Connections that may wait in the kernel for each socket. Beyond it the kernel lets them try again.
const BACKLOG: i32 = 4096;

/// Takes an address for so many shards. `key` is the setting that names it.
///
/// # Errors
/// One line that names the address and what is in the way.
pub fn bind_shared(key: &str, wanted: SocketAddr, shards: u16) -> Result<BoundAddress, StartError> {
    let taken = |error: io::Error| cannot_listen(key, wanted, &error);
    let alone = patiently(|| socket(wanted, false)).map_err(taken)?;
    let address = local_address(&alone).map_err(taken)?;
    drop(alone);
    // They listen from now on: who comes before the shards take clients waits in the kernel and is not turned away.
    let listening = |_| socket(address, true).and_then(|socket| socket.listen(BACKLOG).map(|()| socket));
    let sockets = (0..shards).map(listening).collect::<io::Result<Vec<_>>>().map_err(taken)?;
    Ok(BoundAddress { address, sockets })
}

/// Takes an address for one thread and listens on it.
///
/// # Errors
/// As [`bind_shared`].
pub fn listen_alone(key: &str, wanted: SocketAddr) -> Result<std::net::TcpListener, StartError> {
    let socket = patiently(|| socket(wanted, false).and_then(|socket| socket.listen(BACKLOG).map(|()| socket)));
    Ok(socket.map_err(|error| cannot_listen(key, wanted, &error))?.into())
}

/// Takes the cluster's address: the port for the first shard, over TCP and UDP, and one more port for each further shard.
///
/// # Errors
/// As [`bind_shared`].
pub fn bind_cluster(wanted: SocketAddr, shards: u16) -> Result<Vec<ClusterSockets>, StartError> {
    let key = "cluster.listen";
    let gossip = patiently(|| UdpSocket::bind(wanted)).map_err(|error| cannot_listen(key, wanted, &error))?;
    let mut gossip = Some(gossip);
    let bind = |shard| {
        let port = wanted.port().checked_add(shard).ok_or_else(|| {
            StartError(format!("cannot listen on {wanted} ({key}): there is no port for shard {shard}"))
        })?;
        let address = SocketAddr::new(wanted.ip(), port);
        // Shared with nobody: another node dials this very shard.
        let listener = patiently(|| socket(address, false).and_then(|socket| socket.listen(BACKLOG).map(|()| socket)))
            .map_err(|error| cannot_listen(key, address, &error))?;
        Ok(ClusterSockets { listener: listener.into(), gossip: gossip.take() })
    };
    (0..shards).map(bind).collect()
}

/// Again while the address is in use, for as long as [`PATIENCE`] lasts.
fn patiently<T>(mut take: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match take() {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && Instant::now() < deadline => {
                std::thread::sleep(RETRY_EVERY);
            }
            outcome => return outcome,
        }
    }
}

fn cannot_listen(key: &str, address: SocketAddr, error: &io::Error) -> StartError {
    let what = match error.kind() {
        io::ErrorKind::AddrInUse => {
            format!("port {} is in use by another process", address.port())
        }
        io::ErrorKind::PermissionDenied => {
            format!("port {} needs more rights than this process has", address.port())
        }
        io::ErrorKind::AddrNotAvailable => "this machine does not have that address".to_owned(),
        _ => error.to_string(),
    };
    StartError(format!("cannot listen on {address} ({key}): {what}"))
}

fn socket(address: SocketAddr, shared: bool) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    // A port whose last connections are still dying away is free; one that somebody listens on is not.
    socket.set_reuse_address(true)?;
    if shared {
        socket.set_reuse_port(true)?;
    }
    socket.bind(&address.into())?;
    Ok(socket)
}

fn local_address(socket: &Socket) -> io::Result<SocketAddr> {
    let address = socket.local_addr()?;
    address.as_socket().ok_or_else(|| io::Error::other("the socket has no IP address"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    fn loopback(port: u16) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, port))
    }

    #[test]
    fn shards_share_a_port_and_strangers_are_seen() {
        let ours = bind_shared("listen.tcp", loopback(0), 3).unwrap();
        assert_eq!(ours.sockets.len(), 3);
        assert_ne!(ours.address.port(), 0);
        for socket in &ours.sockets {
            assert_eq!(local_address(socket).unwrap(), ours.address);
            socket.listen(8).unwrap();
        }
        // The sockets above share their port with whoever asks to: without the first look this would succeed.
        let line = bind_shared("listen.tcp", ours.address, 1).unwrap_err().to_string();
        let port = ours.address.port();
        assert_eq!(
            line,
            format!("cannot listen on 127.0.0.1:{port} (listen.tcp): port {port} is in use by another process")
        );
        assert!(listen_alone("listen.http", ours.address).is_err());
    }

    #[test]
    fn an_address_of_another_machine_is_named() {
        let line = listen_alone("listen.http", "192.0.2.1:5001".parse().unwrap()).unwrap_err().to_string();
        assert!(line.ends_with("this machine does not have that address"), "{line}");
    }

    #[test]
    fn each_shard_has_a_port_of_the_cluster_and_strangers_are_seen() {
        let address = SocketAddr::from(([127, 0, 13, 1], 15_300));
        let ours = bind_cluster(address, 3).unwrap();
        let addresses: Vec<_> =
            ours.iter().map(|sockets| local_address_of(&sockets.listener)).map(|found| found.port()).collect();
        assert_eq!(addresses, [15_300, 15_301, 15_302]);
        assert_eq!(ours.iter().filter(|sockets| sockets.gossip.is_some()).count(), 1);
        assert_eq!(ours[0].gossip.as_ref().unwrap().local_addr().unwrap(), address);
        let next = SocketAddr::from(([127, 0, 13, 1], 15_302));
        let line = bind_cluster(next, 1).unwrap_err().to_string();
        assert_eq!(line, "cannot listen on 127.0.13.1:15302 (cluster.listen): port 15302 is in use by another process");
        let line = bind_cluster(SocketAddr::from(([127, 0, 13, 1], 65_535)), 2).unwrap_err().to_string();
        assert!(line.ends_with("there is no port for shard 1"), "{line}");
    }

    fn local_address_of(fd: &std::os::fd::OwnedFd) -> SocketAddr {
        socket2::SockRef::from(fd).local_addr().unwrap().as_socket().unwrap()
    }
}
