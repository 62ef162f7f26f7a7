//! The ring against real loopback sockets. Every wait has an end.

use std::collections::{HashMap, VecDeque};
use std::fs::File;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::rc::Rc;
use std::time::{Duration, Instant};

use super::*;

const PATIENCE: Duration = Duration::from_secs(20);

/// What a test saw, owned.
#[derive(Debug)]
enum Seen {
    Accepted(OwnedFd),
    Connected,
    Readable,
    FileWritten(FileWritten),
    Received(Token, Vec<u8>),
    Sent,
    Backlogged(bool),
    Detached(Token, OwnedFd),
    Ended(Token, EndReason),
}

struct Rig {
    ring: SocketRing,
    bell: OwnedFd,
    address: SocketAddr,
    /// Seen and not looked at yet.
    seen: VecDeque<Seen>,
}

fn eventfd() -> OwnedFd {
    // SAFETY: no pointers; the result is checked below before it is owned.
    let raw = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC) };
    assert!(raw >= 0);
    // SAFETY: just made, known to nobody else.
    unsafe { OwnedFd::from_raw_fd(raw) }
}

/// A ring's locked memory is given back some time after its end, and tests run side by side.
fn patient_ring(config: RingConfig, bell: RawFd) -> SocketRing {
    let began = Instant::now();
    loop {
        match SocketRing::new(config, bell) {
            Ok(ring) => return ring,
            Err(why) => assert!(began.elapsed() < PATIENCE, "{why}"),
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

impl Rig {
    fn new(config: RingConfig) -> Rig {
        let bell = eventfd();
        let mut ring = patient_ring(config, bell.as_raw_fd());
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        assert_eq!(ring.listen(listener.into()).unwrap(), 0);
        Rig { ring, bell, address, seen: VecDeque::new() }
    }

    fn turn(&mut self) -> Vec<Seen> {
        let mut seen = Vec::new();
        self.ring.turn(&mut |event| {
            seen.push(match event {
                RingEvent::Accepted { fd, peer, .. } => {
                    assert!(peer.is_loopback());
                    Seen::Accepted(fd)
                }
                RingEvent::Connected { .. } => Seen::Connected,
                RingEvent::Readable { .. } => Seen::Readable,
                RingEvent::FileWritten(written) => Seen::FileWritten(written),
                RingEvent::Received { token, bytes } => Seen::Received(token, bytes.to_vec()),
                RingEvent::Sent { .. } => Seen::Sent,
                RingEvent::Backlogged { full, .. } => Seen::Backlogged(full),
                RingEvent::Detached { token, fd } => Seen::Detached(token, fd),
                RingEvent::Ended { token, why } => Seen::Ended(token, why),
            });
            true
        });
        if seen.is_empty() {
            std::thread::sleep(Duration::from_micros(200));
        }
        seen
    }

    /// Turns until `found` says so of something seen, or panics.
    fn until<T>(&mut self, what: &str, mut found: impl FnMut(Seen) -> Option<T>) -> T {
        let began = Instant::now();
        loop {
            while let Some(seen) = self.seen.pop_front() {
                if let Some(value) = found(seen) {
                    return value;
                }
            }
            assert!(began.elapsed() < PATIENCE, "waited in vain for {what}");
            let seen = self.turn();
            self.seen.extend(seen);
        }
    }

    fn connected(&mut self) -> (TcpStream, Token) {
        let client = TcpStream::connect(self.address).unwrap();
        client.set_read_timeout(Some(PATIENCE)).unwrap();
        let fd = self.until("a connection", |seen| match seen {
            Seen::Accepted(fd) => Some(fd),
            _ => None,
        });
        (client, self.ring.adopt(fd))
    }

    fn end(&mut self, token: Token) -> EndReason {
        self.until("the end", |seen| match seen {
            Seen::Ended(ended, why) if ended == token => Some(why),
            _ => None,
        })
    }
}

fn pattern(seed: u32, length: usize) -> Vec<u8> {
    (0..length as u32).map(|n| (n.wrapping_mul(2_654_435_761).wrapping_add(seed) >> 13) as u8).collect()
}

fn small_marks() -> RingConfig {
    RingConfig { outbound_bytes_max: 8 << 20, ..RingConfig::PRODUCTION }
}

/// Echoes what `clients` send until all of it is back; each client reads and writes in a thread.
fn echo(config: RingConfig, clients: u32, length: usize) -> RingCounters {
    let mut rig = Rig::new(config);
    let address = rig.address;
    let threads: Vec<_> = (0..clients)
        .map(|seed| {
            std::thread::spawn(move || {
                let mut out = TcpStream::connect(address).unwrap();
                let mut back = out.try_clone().unwrap();
                back.set_read_timeout(Some(PATIENCE)).unwrap();
                let sent = pattern(seed, length);
                let copy = sent.clone();
                let writer = std::thread::spawn(move || {
                    for chunk in copy.chunks(7_001) {
                        out.write_all(chunk).unwrap();
                    }
                    out
                });
                let mut got = vec![0; length];
                back.read_exact(&mut got).unwrap();
                assert!(got == sent, "the echo differs");
                drop(writer.join().unwrap());
            })
        })
        .collect();
    let began = Instant::now();
    let mut ended = 0;
    while ended < clients {
        assert!(began.elapsed() < PATIENCE, "{ended} of {clients} ended");
        for seen in rig.turn() {
            match seen {
                Seen::Accepted(fd) => {
                    let token = rig.ring.adopt(fd);
                    rig.ring.read_on(token);
                }
                Seen::Received(token, bytes) => {
                    if let Some(out) = rig.ring.outbound(token) {
                        out.extend_from_slice(&bytes);
                    }
                }
                Seen::Ended(..) => ended += 1,
                Seen::Sent | Seen::Backlogged(..) => {}
                Seen::Detached(..) | Seen::Connected | Seen::Readable | Seen::FileWritten(_) => {
                    panic!("nobody asks for that here")
                }
            }
        }
    }
    for thread in threads {
        thread.join().unwrap();
    }
    assert!(rig.ring.is_empty());
    rig.ring.counters()
}

#[test]
fn bytes_come_back_in_order() {
    let counters = echo(small_marks(), 8, 300_000);
    assert_eq!((counters.bytes_read, counters.bytes_written), (2_400_000, 2_400_000));
}

#[test]
fn two_tiny_read_buffers_are_enough() {
    let config = RingConfig { read_buffers: 2, read_buffer_bytes: 64, entries: 4, ..small_marks() };
    let counters = echo(config, 6, 20_000);
    assert_eq!(counters.bytes_read, 120_000);
    assert!(counters.read_buffers_exhausted > 0, "the buffers never ran out: nothing was tested");
}

#[test]
fn a_slow_reader_gets_everything_and_is_reported() {
    let mut rig = Rig::new(small_marks());
    let (mut client, token) = rig.connected();
    let sent = pattern(1, 7 << 20);
    let reader = std::thread::spawn({
        let length = sent.len();
        move || {
            std::thread::sleep(Duration::from_millis(100));
            let mut got = Vec::new();
            let mut chunk = vec![0; 100_000];
            while got.len() < length {
                let count = client.read(&mut chunk).unwrap();
                assert!(count > 0, "closed after {} of {length} bytes", got.len());
                got.extend_from_slice(&chunk[..count]);
                std::thread::sleep(Duration::from_micros(300));
            }
            got
        }
    });
    for part in sent.chunks(1 << 20) {
        rig.ring.outbound(token).unwrap().extend_from_slice(part);
    }
    let full = |wanted: bool| {
        move |seen| match seen {
            Seen::Backlogged(full) if full == wanted => Some(()),
            Seen::Ended(_, why) => panic!("ended: {why:?}"),
            _ => None,
        }
    };
    rig.until("the high mark", full(true));
    assert!(rig.ring.outbound_bytes() > 0);
    rig.until("the low mark", full(false));
    let began = Instant::now();
    while rig.ring.outbound_bytes() > 0 {
        assert!(began.elapsed() < PATIENCE);
        rig.turn();
    }
    assert!(reader.join().unwrap() == sent);
}

#[test]
fn a_reader_that_never_reads_is_closed_at_the_bound() {
    let mut rig = Rig::new(RingConfig::PRODUCTION);
    let (client, token) = rig.connected();
    let part = vec![7; 300_000];
    let began = Instant::now();
    loop {
        assert!(began.elapsed() < PATIENCE);
        match rig.ring.outbound(token) {
            Some(out) => out.extend_from_slice(&part),
            None => break,
        }
        assert!(rig.ring.outbound_bytes() <= RingConfig::PRODUCTION.outbound_bytes_max + part.len());
        let ended = rig.turn().into_iter().any(|seen| matches!(seen, Seen::Ended(_, EndReason::TooSlow)));
        if ended {
            break;
        }
    }
    if !rig.ring.is_empty() {
        assert_eq!(rig.end(token), EndReason::TooSlow);
    }
    assert_eq!(rig.ring.counters().closed_slow, 1);
    drop(client);
}

#[test]
fn closing_lets_the_peer_read_to_the_last_byte() {
    let mut rig = Rig::new(RingConfig::PRODUCTION);
    let (mut client, token) = rig.connected();
    // Unread bytes at the moment of the close would make the kernel reset the connection.
    client.write_all(&[1; 5000]).unwrap();
    let sent = pattern(9, 800_000);
    rig.ring.outbound(token).unwrap().extend_from_slice(&sent);
    rig.ring.close(token);
    assert!(rig.ring.outbound(token).is_none(), "a closing socket takes nothing more");
    let reader = std::thread::spawn(move || {
        let mut got = Vec::new();
        client.read_to_end(&mut got).unwrap();
        client.shutdown(Shutdown::Both).unwrap();
        got
    });
    assert_eq!(rig.end(token), EndReason::Closed);
    assert!(reader.join().unwrap() == sent);
    assert!(rig.ring.is_empty());
}

#[test]
fn a_close_does_not_wait_for_a_peer_that_does_not_read() {
    let mut rig = Rig::new(small_marks());
    let (client, token) = rig.connected();
    rig.ring.outbound(token).unwrap().extend_from_slice(&vec![3; 7 << 20]);
    rig.turn();
    rig.ring.close(token);
    for _ in 0..LINGER_SWEEPS {
        assert!(!rig.ring.is_empty());
        rig.turn();
        rig.ring.sweep();
    }
    assert_eq!(rig.end(token), EndReason::Closed);
    drop(client);
}

/// Nobody else would end it: whoever gave it up has forgotten it.
#[test]
fn a_socket_that_leaves_does_not_wait_for_a_peer_that_does_not_read() {
    for closes_meanwhile in [false, true] {
        let mut rig = Rig::new(small_marks());
        let (client, token) = rig.connected();
        rig.ring.outbound(token).unwrap().extend_from_slice(&vec![3; 7 << 20]);
        rig.turn();
        rig.ring.detach(token);
        if closes_meanwhile {
            rig.turn();
            rig.ring.sweep();
            rig.ring.close(token);
        }
        for _ in 0..LINGER_SWEEPS {
            assert!(!rig.ring.is_empty(), "its time is not over");
            rig.turn();
            rig.ring.sweep();
        }
        assert_eq!(rig.end(token), EndReason::Closed);
        assert!(rig.ring.is_empty());
        drop(client);
    }
}

#[test]
fn a_peer_that_leaves_and_one_that_is_aborted_end() {
    let mut rig = Rig::new(RingConfig::PRODUCTION);
    let (client, token) = rig.connected();
    rig.ring.read_on(token);
    drop(client);
    assert_eq!(rig.end(token), EndReason::PeerClosed);
    let (mut client, token) = rig.connected();
    rig.ring.read_on(token);
    rig.turn();
    rig.ring.abort(token);
    assert_eq!(rig.end(token), EndReason::Closed);
    assert_eq!(client.read(&mut [0; 8]).unwrap_or(0), 0);
}

#[test]
fn an_index_is_used_again_under_another_name() {
    let mut rig = Rig::new(RingConfig::PRODUCTION);
    let mut last: Option<Token> = None;
    for round in 0..50u8 {
        let (mut client, token) = rig.connected();
        if let Some(last) = last {
            assert_eq!(token.index, last.index);
            assert_ne!(token.generation, last.generation);
            // Everything under the old name is void and disturbs nobody.
            rig.ring.close(last);
            rig.ring.pause(last);
            rig.ring.abort(last);
            rig.ring.detach(last);
            assert!(rig.ring.outbound(last).is_none());
        }
        rig.ring.read_on(token);
        client.write_all(&[round; 100]).unwrap();
        let mut got = Vec::new();
        rig.until("this round's bytes", |seen| match seen {
            Seen::Received(from, bytes) => {
                assert_eq!(from, token);
                got.extend(bytes);
                (got.len() == 100).then_some(())
            }
            Seen::Ended(..) => panic!("ended too early"),
            _ => None,
        });
        assert_eq!(got, vec![round; 100]);
        // With a send in flight and more bytes under way.
        rig.ring.outbound(token).unwrap().extend_from_slice(&[round; 10]);
        client.write_all(&[round; 3000]).unwrap();
        drop(client);
        rig.end(token);
        last = Some(token);
    }
}

/// Moves a socket between two rings while its client keeps sending numbers; none is lost, doubled or out of order.
fn hand_over(armed_for_good: bool) {
    let mut first = Rig::new(RingConfig::PRODUCTION);
    let mut second = Rig::new(RingConfig::PRODUCTION);
    let (client, token) = first.connected();
    let sent = pattern(4, 400_000);
    let writer = std::thread::spawn({
        let (sent, mut client) = (sent.clone(), client);
        move || {
            for chunk in sent.chunks(3_000) {
                client.write_all(chunk).unwrap();
                std::thread::sleep(Duration::from_micros(100));
            }
            let mut back = Vec::new();
            client.read_to_end(&mut back).unwrap();
            back
        }
    });
    if armed_for_good {
        first.ring.read_on(token);
    } else {
        first.ring.read_once(token);
    }
    let mut got = Vec::new();
    first.until("the first bytes", |seen| match seen {
        Seen::Received(_, bytes) => {
            got.extend(bytes);
            Some(())
        }
        _ => None,
    });
    first.ring.outbound(token).unwrap().extend_from_slice(b"from the first, ");
    first.ring.detach(token);
    let fd = first.until("the socket", |seen| match seen {
        Seen::Received(_, bytes) => {
            got.extend(bytes);
            None
        }
        Seen::Detached(detached, fd) => {
            assert_eq!(detached, token);
            Some(fd)
        }
        Seen::Ended(_, why) => panic!("ended: {why:?}"),
        _ => None,
    });
    assert!(first.ring.is_empty());
    let token = second.ring.adopt(fd);
    second.ring.outbound(token).unwrap().extend_from_slice(b"from the second");
    second.ring.read_on(token);
    let wanted = sent.len();
    second.until("the rest", |seen| match seen {
        Seen::Received(_, bytes) => {
            got.extend(bytes);
            (got.len() == wanted).then_some(())
        }
        Seen::Ended(_, why) => panic!("ended: {why:?}"),
        _ => None,
    });
    assert!(got == sent, "bytes were lost, doubled or swapped");
    second.ring.close(token);
    second.end(token);
    assert_eq!(writer.join().unwrap(), b"from the first, from the second");
}

#[test]
fn a_fresh_socket_moves_to_another_ring() {
    hand_over(false);
}

#[test]
fn a_socket_that_is_being_read_moves_to_another_ring() {
    hand_over(true);
}

#[test]
fn a_paused_socket_is_not_read_until_it_is_resumed() {
    let mut rig = Rig::new(RingConfig::PRODUCTION);
    let (mut client, token) = rig.connected();
    for round in 0..20u8 {
        rig.ring.read_on(token);
        rig.turn();
        rig.ring.pause(token);
        rig.turn();
        for _ in 0..5 {
            assert!(rig.turn().is_empty());
        }
        client.write_all(&[round; 1000]).unwrap();
        for _ in 0..10 {
            let seen = rig.turn();
            assert!(seen.is_empty(), "read while paused: {seen:?}");
        }
        rig.ring.read_on(token);
        if round % 2 == 0 {
            // Paused and resumed before the kernel has answered either.
            rig.ring.pause(token);
            rig.ring.read_on(token);
        }
        let mut got = Vec::new();
        rig.until("the bytes after the pause", |seen| match seen {
            Seen::Received(_, bytes) => {
                got.extend(bytes);
                (got.len() == 1000).then_some(())
            }
            _ => None,
        });
        assert_eq!(got, vec![round; 1000]);
    }
}

fn bell_rings(bell: &OwnedFd, within_ms: i32) -> bool {
    let mut poll = libc::pollfd { fd: bell.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    // SAFETY: one valid pollfd is given with the count 1.
    if unsafe { libc::poll(&mut poll, 1, within_ms) } == 0 {
        return false;
    }
    let mut counter = [0u8; 8];
    // SAFETY: eight writable bytes with their length; poll has said that the read will not wait.
    unsafe { libc::read(bell.as_raw_fd(), counter.as_mut_ptr().cast(), 8) };
    true
}

#[test]
fn the_bell_rings_for_a_sleeper_and_for_nobody_else() {
    let mut rig = Rig::new(RingConfig::PRODUCTION);
    let (mut client, token) = rig.connected();
    rig.ring.read_on(token);
    for round in 0..200 {
        let began = Instant::now();
        while !rig.ring.prepare_sleep() {
            assert!(began.elapsed() < PATIENCE);
            rig.turn();
        }
        client.write_all(&[1; 50]).unwrap();
        assert!(bell_rings(&rig.bell, 5_000), "round {round}: bytes arrived and the bell was silent");
        rig.ring.awake();
        rig.until("the bytes", |seen| matches!(seen, Seen::Received(..)).then_some(()));
        while bell_rings(&rig.bell, 0) {}
        client.write_all(&[1; 50]).unwrap();
        rig.until("the bytes", |seen| matches!(seen, Seen::Received(..)).then_some(()));
        assert!(!bell_rings(&rig.bell, 0), "round {round}: the bell rang although nobody sleeps");
    }
}

#[test]
fn a_deadline_wakes_and_an_earlier_one_comes_first() {
    let mut rig = Rig::new(RingConfig::PRODUCTION);
    rig.turn();
    let began = Instant::now();
    rig.ring.wake_within(1_000, Duration::from_secs(30));
    rig.ring.wake_within(1_000, Duration::from_millis(30));
    rig.ring.wake_within(1_000, Duration::from_secs(40));
    // The removed one is answered at once.
    while !rig.ring.prepare_sleep() {
        rig.turn();
    }
    assert!(bell_rings(&rig.bell, 10_000));
    let waited = began.elapsed();
    assert!(waited >= Duration::from_millis(25) && waited < Duration::from_secs(10), "{waited:?}");
}

#[test]
fn a_sink_that_has_enough_gets_the_rest_next_time() {
    let mut rig = Rig::new(RingConfig::PRODUCTION);
    let mut clients = HashMap::new();
    for _ in 0..10 {
        let (client, token) = rig.connected();
        rig.ring.read_on(token);
        clients.insert(token, client);
    }
    rig.turn();
    for client in clients.values_mut() {
        client.write_all(b"x").unwrap();
    }
    std::thread::sleep(Duration::from_millis(50));
    let mut received = 0;
    let mut turns = 0;
    let began = Instant::now();
    while received < 10 {
        assert!(began.elapsed() < PATIENCE);
        let before = received;
        rig.ring.turn(&mut |event| {
            received += usize::from(matches!(event, RingEvent::Received { .. }));
            false
        });
        assert!(received <= before + 1);
        turns += 1;
    }
    assert!(turns >= 10);
}

#[test]
fn a_ring_can_be_dropped_in_the_middle_of_everything() {
    let mut rig = Rig::new(small_marks());
    let (mut client, token) = rig.connected();
    let (_other, waiting) = rig.connected();
    rig.ring.read_on(waiting);
    rig.ring.read_on(token);
    rig.ring.outbound(token).unwrap().extend_from_slice(&vec![3; 7 << 20]);
    rig.ring.wake_within(1, Duration::from_secs(100));
    rig.turn();
    let address = rig.address;
    let began = Instant::now();
    drop(rig);
    assert!(began.elapsed() < Duration::from_secs(5));
    let mut got = Vec::new();
    // Cut short, and then an end or a reset, but not silence.
    let _ = client.read_to_end(&mut got);
    assert!(got.iter().all(|&byte| byte == 3) && got.len() < 7 << 20);
    assert!(TcpStream::connect(address).is_err(), "the listener is still there");
}

/// Turns until the file write is answered.
fn file_written(rig: &mut Rig) -> FileWritten {
    let began = Instant::now();
    loop {
        assert!(began.elapsed() < PATIENCE, "the kernel does not answer");
        for seen in rig.turn() {
            match seen {
                Seen::FileWritten(written) => return written,
                other => rig.seen.push_back(other),
            }
        }
    }
}

#[test]
fn a_file_write_lands_where_it_shall_and_its_memory_comes_back() {
    let path = std::env::temp_dir().join(format!("jindou-file-write-{}", std::process::id()));
    std::fs::write(&path, [1; 16_384]).unwrap();
    let mut rig = Rig::new(RingConfig::PRODUCTION);
    let file = Rc::new(File::options().write(true).open(&path).unwrap());
    let mut bytes = AlignedBytes::default();
    for (at, fill, length) in [(4096, 7, 8192), (0, 8, 100), (12_288, 9, 4096)] {
        bytes.fill(&vec![fill; length]);
        rig.ring.write_file(FileWrite { file: Rc::clone(&file), at, bytes });
        assert!(rig.ring.has_work(), "it goes to the kernel with the next turn");
        let written = file_written(&mut rig);
        assert_eq!(written.result.unwrap(), length);
        bytes = written.bytes;
    }
    let expected = [vec![8; 100], vec![1; 3996], vec![7; 8192], vec![9; 4096]].concat();
    assert!(std::fs::read(&path).unwrap() == expected, "not what was written");
    // A file that cannot be written to says so.
    let file = Rc::new(File::open(&path).unwrap());
    rig.ring.write_file(FileWrite { file, at: 0, bytes });
    let refused = file_written(&mut rig).result.unwrap_err();
    assert_eq!(refused.raw_os_error(), Some(libc::EBADF));
    std::fs::remove_file(path).unwrap();
}

/// Waits in the ring, and says how long. Nothing may have come before.
fn waited(rig: &mut Rig) -> Duration {
    let began = Instant::now();
    while !rig.ring.prepare_wait(&mut |event| panic!("{event:?}")) {
        assert!(began.elapsed() < PATIENCE, "it never comes to rest");
        let seen = rig.turn();
        assert!(seen.is_empty(), "{seen:?}");
    }
    rig.ring.wait();
    began.elapsed()
}

fn ring_doorbell(doorbell: &OwnedFd) {
    let one = 1u64.to_ne_bytes();
    // SAFETY: eight readable bytes are given with their length.
    assert_eq!(unsafe { libc::write(doorbell.as_raw_fd(), one.as_ptr().cast(), one.len()) }, 8);
}

#[test]
fn a_waiting_ring_is_woken_by_bytes_by_its_deadline_and_by_its_doorbell() {
    let mut rig = Rig::new(RingConfig::PRODUCTION);
    let doorbell = eventfd();
    // SAFETY: numbers only; the descriptor is ours.
    unsafe { libc::fcntl(doorbell.as_raw_fd(), libc::F_SETFL, libc::O_NONBLOCK) };
    rig.ring.listen_to(doorbell.try_clone().unwrap());
    let (mut client, token) = rig.connected();
    rig.ring.read_on(token);
    for round in 1..=50u64 {
        rig.ring.wake_within(round * 1_000_000_000_000, Duration::from_millis(20));
        let by_deadline = waited(&mut rig);
        assert!((Duration::from_millis(19)..PATIENCE).contains(&by_deadline), "round {round}: {by_deadline:?}");
        let bell = doorbell.try_clone().unwrap();
        let mut sender = client.try_clone().unwrap();
        let others = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(2));
            ring_doorbell(&bell);
            ring_doorbell(&bell);
            std::thread::sleep(Duration::from_millis(2));
            sender.write_all(&[3; 10]).unwrap();
        });
        let by_doorbell = waited(&mut rig);
        assert!(by_doorbell < PATIENCE, "round {round}: the doorbell was not heard");
        others.join().unwrap();
        rig.until("the bytes", |seen| matches!(seen, Seen::Received(..)).then_some(()));
    }
    client.write_all(&[3; 10]).unwrap();
    rig.until("the bytes", |seen| matches!(seen, Seen::Received(..)).then_some(()));
}

#[test]
fn another_ring_on_the_same_thread_wakes_it_through_the_doorbell_again_and_again() {
    let mut rig = Rig::new(RingConfig::PRODUCTION);
    let doorbell = eventfd();
    // SAFETY: numbers only; the descriptor is ours.
    unsafe { libc::fcntl(doorbell.as_raw_fd(), libc::F_SETFL, libc::O_NONBLOCK) };
    rig.ring.listen_to(doorbell.try_clone().unwrap());
    let other = patient_ring(RingConfig::LINKS, doorbell.as_raw_fd());
    let mut other = Rig { ring: other, bell: doorbell, ..Rig::new(RingConfig::LINKS) };
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    other.address = listener.local_addr().unwrap();
    assert_eq!(other.ring.listen(listener.into()).unwrap(), 0);
    let (client, token) = other.connected();
    other.ring.read_on(token);
    for round in 0..50 {
        let began = Instant::now();
        while !other.ring.prepare_sleep() {
            assert!(began.elapsed() < PATIENCE);
            other.turn();
        }
        let mut sender = client.try_clone().unwrap();
        let sending = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(2));
            sender.write_all(&[4; 10]).unwrap();
        });
        // Should the wake be lost, the deadline ends the wait.
        rig.ring.wake_within((round + 1) * 1_000_000_000_000, Duration::from_secs(3));
        let by_other = waited(&mut rig);
        assert!(by_other < Duration::from_secs(2), "round {round}: the other ring was not heard");
        sending.join().unwrap();
        other.ring.awake();
        other.until("the bytes", |seen| matches!(seen, Seen::Received(..)).then_some(()));
    }
}

#[test]
fn a_file_write_wakes_a_sleeping_shard_and_a_ring_may_end_with_one_under_way() {
    let (mut reader, mut writer) = std::io::pipe().unwrap();
    // As much as a pipe takes: what follows waits for the reader.
    writer.write_all(&[0; 65_536]).unwrap();
    let writer = Rc::new(File::from(OwnedFd::from(writer)));
    let mut rig = Rig::new(RingConfig::PRODUCTION);
    let mut bytes = AlignedBytes::default();
    bytes.fill(&[5; 4096]);
    rig.ring.write_file(FileWrite { file: Rc::clone(&writer), at: u64::MAX, bytes });
    let began = Instant::now();
    while !rig.ring.prepare_sleep() {
        assert!(began.elapsed() < PATIENCE, "it never comes to rest");
        assert!(rig.turn().is_empty(), "nobody has read anything");
    }
    reader.read_exact(&mut [0; 65_536]).unwrap();
    assert!(bell_rings(&rig.bell, 10_000), "the write has ended and the bell was silent");
    rig.ring.awake();
    let FileWritten { bytes, result } = file_written(&mut rig);
    assert_eq!(result.unwrap(), 4096);
    let mut filler = writer.try_clone().unwrap();
    filler.write_all(&[0; 61_440]).unwrap();
    rig.ring.write_file(FileWrite { file: writer, at: u64::MAX, bytes });
    rig.turn();
    let dropping = Instant::now();
    drop(rig);
    assert!(dropping.elapsed() < Duration::from_secs(5), "the end of the ring waits for the reader");
}
