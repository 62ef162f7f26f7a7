//! Links' sockets against each other and against plain ones, over loopback. Every wait has an end.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsRawFd, FromRawFd};
use std::time::Instant;

use super::*;
use crate::shell::gossip_socket::DATAGRAM_BYTES_MAX;
use crate::shell::socket_ring::RingConfig;

const PATIENCE: Duration = Duration::from_secs(20);

/// One end and what it was told.
struct End {
    sockets: LinkSockets,
    address: SocketAddr,
    events: Vec<Event>,
    _bell: OwnedFd,
}

impl End {
    fn new(last: u8) -> End {
        let listener = TcpListener::bind((std::net::Ipv4Addr::new(127, 0, 0, last), 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let gossip = Some(UdpSocket::bind(address).unwrap());
        // SAFETY: no pointers; the result is checked below before it is owned.
        let raw = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC) };
        assert!(raw >= 0);
        // SAFETY: just made, known to nobody else.
        let bell = unsafe { OwnedFd::from_raw_fd(raw) };
        let began = Instant::now();
        // A ring's locked memory is given back some time after its end, and tests run side by side.
        let ring = loop {
            match SocketRing::new(RingConfig::LINKS, bell.as_raw_fd()) {
                Ok(ring) => break ring,
                Err(why) => assert!(began.elapsed() < PATIENCE, "{why}"),
            }
            std::thread::sleep(Duration::from_millis(20));
        };
        let sockets = LinkSockets::new(ring, ClusterSockets { listener: listener.into(), gossip }).unwrap();
        End { sockets, address, events: Vec::new(), _bell: bell }
    }

    fn counters(&self) -> ShellCounters {
        let mut counters = ShellCounters::default();
        self.sockets.count_into(&mut counters);
        counters
    }

    fn accepted(&mut self) -> LinkConn {
        until(&mut [self], "a connection", |ends| {
            ends[0].events.drain(..).find_map(|event| match event {
                Event::LinkAccepted { conn, from } => {
                    assert!(from.is_some_and(|from| from.ip().is_loopback()), "who connects is seen");
                    Some(conn)
                }
                _ => None,
            })
        })
    }

    /// What happened to a dial.
    fn dialed(&mut self, dialed: LinkConn) -> bool {
        until(&mut [self], "the dial's end", |ends| {
            ends[0].events.drain(..).find_map(|event| match event {
                Event::LinkDialed { conn, made } if conn == dialed => Some(made),
                _ => None,
            })
        })
    }

    /// Adds what has come over a connection to `bytes`; true when it is closed.
    fn take(&mut self, from: LinkConn, bytes: &mut Vec<u8>) -> bool {
        let mut closed = false;
        for event in self.events.drain(..) {
            match event {
                Event::LinkBytes { conn, bytes: come } if conn == from => {
                    assert!(!closed, "bytes after the end");
                    assert!(!come.is_empty() && (come.as_ptr() as usize).is_multiple_of(8));
                    bytes.extend_from_slice(&come);
                }
                Event::LinkClosed { conn } if conn == from => closed = true,
                other => panic!("unexpected: {other:?}"),
            }
        }
        closed
    }
}

/// Turns all of them until something is found.
fn until<T>(ends: &mut [&mut End], what: &str, mut found: impl FnMut(&mut [&mut End]) -> Option<T>) -> T {
    let began = Instant::now();
    loop {
        if let Some(value) = found(ends) {
            return value;
        }
        assert!(began.elapsed() < PATIENCE, "waited in vain for {what}");
        for end in &mut *ends {
            end.sockets.gather(&mut end.events);
        }
        if ends.iter().all(|end| end.events.is_empty()) {
            std::thread::sleep(Duration::from_micros(200));
        }
    }
}

/// Two ends with a connection: the dialing one, its number, the accepting one, its number.
fn pair() -> (End, LinkConn, End, LinkConn) {
    let (mut a, mut b) = (End::new(2), End::new(3));
    let conn = LinkConn::dialed(1);
    a.sockets.dial(conn, b.address);
    assert!(a.dialed(conn));
    let accepted = b.accepted();
    assert!(accepted.is_accepted() && !conn.is_accepted());
    (a, conn, b, accepted)
}

fn pattern(seed: u32, length: usize) -> Vec<u8> {
    (0..length as u32).map(|n| (n.wrapping_mul(2_654_435_761).wrapping_add(seed) >> 13) as u8).collect()
}

#[test]
fn ten_megabytes_each_way_arrive_in_order() {
    let (mut a, conn, mut b, accepted) = pair();
    let (there, back) = (pattern(1, 10_000_000), pattern(2, 10_000_000));
    let writes = 2 * there.len().div_ceil(9_999);
    let (mut got_there, mut got_back) = (Vec::new(), Vec::new());
    let mut parts = there.chunks(9_999).zip(back.chunks(9_999));
    until(&mut [&mut a, &mut b], "all bytes", |ends| {
        for (there, back) in parts.by_ref().take(7) {
            ends[0].sockets.write(conn, there.to_vec());
            ends[1].sockets.write(accepted, back.to_vec());
        }
        assert!(!ends[1].take(accepted, &mut got_there) && !ends[0].take(conn, &mut got_back));
        (got_there.len() == there.len() && got_back.len() == back.len()).then_some(())
    });
    assert!(got_there == there && got_back == back);
    let sends = a.counters().link_writes + b.counters().link_writes;
    assert!(
        sends * 3 < writes as u64,
        "{sends} sends for {writes} writes: what is written in one turn leaves together"
    );
    assert_eq!(a.counters().link_bytes_read, 10_000_000);
}

#[test]
fn a_dial_where_nobody_listens_fails_at_once() {
    let mut end = End::new(2);
    let closed = TcpListener::bind("127.0.0.4:0").unwrap().local_addr().unwrap();
    let began = Instant::now();
    end.sockets.dial(LinkConn::dialed(1), closed);
    assert!(!end.dialed(LinkConn::dialed(1)));
    assert!(began.elapsed() < Duration::from_secs(1));
    assert_eq!(end.sockets.sockets(), 0);
    // The number is void, and the next one is not disturbed.
    end.sockets.write(LinkConn::dialed(1), vec![1]);
    end.sockets.hang_up(LinkConn::dialed(1));
    let other = End::new(3);
    end.sockets.dial(LinkConn::dialed(2), other.address);
    assert!(end.dialed(LinkConn::dialed(2)));
}

/// A listener whose queue is full lets a connect wait for ever. Gives what keeps it full.
fn deaf_listener() -> (SocketAddr, Socket, Vec<Socket>) {
    let listener = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    listener.bind(&SocketAddr::from(([127, 0, 0, 5], 0)).into()).unwrap();
    listener.listen(0).unwrap();
    let address = listener.local_addr().unwrap();
    let fill = || {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.set_nonblocking(true).unwrap();
        let _ = socket.connect(&address);
        socket
    };
    let fillers = (0..4).map(|_| fill()).collect();
    (address.as_socket().unwrap(), listener, fillers)
}

#[test]
fn a_dial_that_nobody_answers_ends_in_time() {
    let mut end = End::new(2);
    let (address, _listener, _fillers) = deaf_listener();
    end.sockets.dial(LinkConn::dialed(1), address);
    for _ in 0..59 {
        end.sockets.gather(&mut end.events);
        end.sockets.sweep();
    }
    std::thread::sleep(Duration::from_millis(50));
    end.sockets.gather(&mut end.events);
    assert!(end.events.is_empty(), "too soon: {:?}", end.events);
    end.sockets.sweep();
    assert!(!end.dialed(LinkConn::dialed(1)));
    assert_eq!(end.sockets.sockets(), 0);
}

#[test]
fn a_dial_can_be_given_up() {
    let mut end = End::new(2);
    let (address, _listener, _fillers) = deaf_listener();
    end.sockets.dial(LinkConn::dialed(1), address);
    end.sockets.gather(&mut end.events);
    end.sockets.write(LinkConn::dialed(1), vec![1; 1000]);
    end.sockets.hang_up(LinkConn::dialed(1));
    assert!(!end.dialed(LinkConn::dialed(1)));
    assert_eq!(end.sockets.sockets(), 0);
}

#[test]
fn the_other_ends_close_comes_behind_its_bytes() {
    let mut end = End::new(2);
    let mut plain = TcpStream::connect(end.address).unwrap();
    let conn = end.accepted();
    plain.write_all(&pattern(3, 100_000)).unwrap();
    drop(plain);
    let mut got = Vec::new();
    until(&mut [&mut end], "the end", |ends| ends[0].take(conn, &mut got).then_some(()));
    assert!(got == pattern(3, 100_000));
    assert_eq!(end.sockets.sockets(), 0);
    end.sockets.write(conn, vec![1]);
}

#[test]
fn hanging_up_writes_what_is_queued() {
    let (mut a, conn, mut b, accepted) = pair();
    let sent = pattern(4, 9_000_000);
    for part in sent.chunks(1_000_000) {
        a.sockets.write(conn, part.to_vec());
    }
    a.sockets.hang_up(conn);
    a.sockets.write(conn, vec![9; 10]);
    let (mut got, mut nothing) = (Vec::new(), Vec::new());
    let (mut closed_here, mut closed_there) = (false, false);
    until(&mut [&mut a, &mut b], "both ends", |ends| {
        closed_here |= ends[0].take(conn, &mut nothing);
        closed_there |= ends[1].take(accepted, &mut got);
        (closed_here && closed_there).then_some(())
    });
    assert!(got == sent && nothing.is_empty());
    assert_eq!((a.sockets.sockets(), b.sockets.sockets()), (0, 0));
}

#[test]
fn hanging_up_on_one_who_never_reads_is_bounded() {
    let mut end = End::new(2);
    let _plain = TcpStream::connect(end.address).unwrap();
    let conn = end.accepted();
    end.sockets.write(conn, vec![7; 20 << 20]);
    end.sockets.hang_up(conn);
    let mut nothing = Vec::new();
    until(&mut [&mut end], "the end", |ends| {
        // Each sweep stands for 50 ms.
        ends[0].sockets.sweep();
        ends[0].take(conn, &mut nothing).then_some(())
    });
    assert_eq!(end.sockets.sockets(), 0);
}

#[test]
fn a_slow_reader_loses_nothing_and_one_who_never_reads_is_closed() {
    let mut end = End::new(2);
    let mut slow = TcpStream::connect(end.address).unwrap();
    let conn = end.accepted();
    let sent = pattern(5, 30_000_000);
    let reader = std::thread::spawn(move || {
        let (mut got, mut part) = (Vec::new(), vec![0; 200_000]);
        while got.len() < 30_000_000 {
            std::thread::sleep(Duration::from_millis(2));
            let count = slow.read(&mut part).unwrap();
            assert!(count > 0, "closed after {} bytes", got.len());
            got.extend_from_slice(&part[..count]);
        }
        got
    });
    for part in sent.chunks(3_000_000) {
        end.sockets.write(conn, part.to_vec());
        end.sockets.gather(&mut end.events);
    }
    assert!(end.counters().link_outbound_bytes > 10 << 20, "the reader was not slow: nothing was tested");
    until(&mut [&mut end], "all bytes on their way", |ends| {
        (ends[0].counters().link_outbound_bytes == 0).then_some(())
    });
    assert!(reader.join().unwrap() == sent);
    let mut nothing = Vec::new();
    until(&mut [&mut end], "its end", |ends| ends[0].take(conn, &mut nothing).then_some(()));

    let _deaf = TcpStream::connect(end.address).unwrap();
    let conn = end.accepted();
    until(&mut [&mut end], "the bound", |ends| {
        ends[0].sockets.write(conn, vec![7; 1 << 20]);
        ends[0].take(conn, &mut nothing).then_some(())
    });
    assert_eq!((end.counters().links_closed_slow, end.sockets.sockets()), (1, 0));
}

#[test]
fn the_end_closes_everything() {
    let (mut a, conn, mut b, accepted) = pair();
    a.sockets.write(conn, vec![5; 100]);
    a.sockets.close_all();
    let (mut got, mut nothing) = (Vec::new(), Vec::new());
    let (mut closed_here, mut closed_there) = (false, false);
    until(&mut [&mut a, &mut b], "both ends", |ends| {
        closed_here |= ends[0].take(conn, &mut nothing);
        closed_there |= ends[1].take(accepted, &mut got);
        (closed_here && closed_there).then_some(())
    });
    assert_eq!(got, [5; 100]);
    a.sockets.gather(&mut a.events);
    assert!(TcpStream::connect(a.address).is_err(), "nobody listens any more");
}

#[test]
fn datagrams_come_and_go_and_long_ones_are_dropped() {
    let (mut a, mut b) = (End::new(2), End::new(3));
    let heard = |a: &mut End, b: &mut End| {
        until(&mut [a, b], "a datagram", |ends| {
            ends.iter_mut().find_map(|end| match end.events.pop() {
                Some(Event::Datagram { from, bytes }) => Some((from, bytes)),
                _ => None,
            })
        })
    };
    for n in 0..3u8 {
        a.sockets.send_datagram(b.address, &[n; DATAGRAM_BYTES_MAX]);
        assert_eq!(heard(&mut a, &mut b), (a.address, vec![n; DATAGRAM_BYTES_MAX]));
        b.sockets.send_datagram(a.address, &[n]);
        assert_eq!(heard(&mut a, &mut b), (b.address, vec![n]));
    }
    a.sockets.send_datagram(b.address, &[1; DATAGRAM_BYTES_MAX + 1]);
    assert_eq!((a.counters().datagrams_sent, a.counters().datagrams_dropped), (3, 1));
    let stranger = UdpSocket::bind("127.0.0.6:0").unwrap();
    stranger.send_to(&[2; DATAGRAM_BYTES_MAX + 100], b.address).unwrap();
    stranger.send_to(&[3], b.address).unwrap();
    assert_eq!(heard(&mut a, &mut b), (stranger.local_addr().unwrap(), vec![3]));
    assert_eq!((b.counters().datagrams_received, b.counters().datagrams_dropped), (4, 1));
    // A burst of more than one turn's is taken by several.
    for n in 0..150u8 {
        stranger.send_to(&[n], b.address).unwrap();
    }
    let mut burst = Vec::new();
    until(&mut [&mut b], "the burst", |ends| {
        burst.extend(ends[0].events.drain(..).filter_map(|event| match event {
            Event::Datagram { bytes, .. } => bytes.first().copied(),
            _ => None,
        }));
        (burst.len() == 150).then_some(())
    });
    assert_eq!(burst, (0..150).collect::<Vec<u8>>());
}
