//! The gateway on loopback, with a test in the engine's place. Every wait has an end.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, FromRawFd};
use std::time::{Duration, Instant};

use super::*;
use crate::format::packet::{Disconnect, Packet, Reason};
use crate::shell::test_client::{Dial, Heard, PATIENCE, TestClient};

const SUCCESS: u8 = Reason::Success as u8;

struct Rig {
    gateway: Gateway,
    clock: Clock,
    stages: Stages,
    events: Vec<Event>,
    tcp: SocketAddr,
    websocket: SocketAddr,
    _bell: OwnedFd,
}

fn limits() -> GatewayLimits {
    GatewayLimits { sessions_max: 100, sessions_per_address_max: 0, events_max: 1000, shard_count: 2 }
}

impl Rig {
    fn new(limits: GatewayLimits) -> Rig {
        // SAFETY: no pointers; checked before it is owned.
        let raw = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC) };
        assert!(raw >= 0);
        // SAFETY: just made, known to nobody else.
        let bell = unsafe { OwnedFd::from_raw_fd(raw) };
        let began = Instant::now();
        // Locked memory of rings that have ended comes back a moment later.
        let mut gateway = loop {
            match Gateway::new(limits, RingConfig::PRODUCTION, bell.as_raw_fd()) {
                Ok(gateway) => break gateway,
                Err(why) => assert!(began.elapsed() < PATIENCE, "{why}"),
            }
            std::thread::sleep(Duration::from_millis(20));
        };
        let mut listen = |transport| {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let address = listener.local_addr().unwrap();
            gateway.listen(Listener { socket: listener.into(), transport, plain: true }).unwrap();
            address
        };
        let (tcp, websocket) = (listen(Transport::Tcp), listen(Transport::WebSocket));
        let (clock, stages) = (Clock::start(), Stages::new(true));
        Rig { gateway, clock, stages, events: Vec::new(), tcp, websocket, _bell: bell }
    }

    fn dial(&self, transport: Transport) -> Dial {
        let address = if transport == Transport::Tcp { self.tcp } else { self.websocket };
        Dial { address, transport, plain: true }
    }

    /// One turn without an engine; what happened is in `events`.
    fn turn(&mut self) {
        self.gateway.gather(&mut self.events, self.clock, &mut self.stages);
        self.gateway.settle();
    }

    /// Turns until an event is what `found` looks for; takes all events up to it.
    fn until<T>(&mut self, what: &str, mut found: impl FnMut(&mut Gateway, Event) -> Option<T>) -> T {
        let began = Instant::now();
        loop {
            self.gateway.gather(&mut self.events, self.clock, &mut self.stages);
            while !self.events.is_empty() {
                let event = self.events.remove(0);
                if let Some(value) = found(&mut self.gateway, event) {
                    self.gateway.settle();
                    return value;
                }
            }
            self.gateway.settle();
            assert!(began.elapsed() < PATIENCE, "waited in vain for {what}");
            std::thread::sleep(Duration::from_micros(200));
        }
    }

    fn send(&mut self, session: SessionId, packet: &ServerPacket) {
        let now = self.clock.nanos();
        self.gateway.send(session, packet, now, &mut self.stages);
    }

    /// A session that has connected and was accepted.
    fn live(&mut self, transport: Transport) -> (TestClient, SessionId) {
        let mut client = TestClient::open(self.dial(transport), "ana");
        let session = self.connect_of(&mut client, |_, _| ());
        self.send(session, &ServerPacket::Connack { reason: SUCCESS, time_diff_ms: 0, node_id: 1 });
        self.turn();
        assert_eq!(client.hear("CONNACK"), Heard::Connack { reason: SUCCESS });
        (client, session)
    }

    /// Turns until CONNECT comes through; `decide` is called with it, in the engine's place.
    fn connect_of(&mut self, client: &mut TestClient, mut decide: impl FnMut(&mut Gateway, SessionId)) -> SessionId {
        let began = Instant::now();
        loop {
            assert!(began.elapsed() < PATIENCE, "no CONNECT came through");
            // A WebSocket client must answer the upgrade before it can say CONNECT.
            client.poll();
            self.gateway.gather(&mut self.events, self.clock, &mut self.stages);
            let connected = self.events.drain(..).find_map(|event| match event {
                Event::Packet { session, packet: ClientPacket::Connect(connect) } if &*connect.uid == "ana" => {
                    Some(session)
                }
                _ => None,
            });
            if let Some(session) = connected {
                decide(&mut self.gateway, session);
            }
            self.gateway.settle();
            if let Some(session) = connected {
                return session;
            }
        }
    }

    fn counters(&self) -> ShellCounters {
        let mut counters = ShellCounters::default();
        self.gateway.count_into(&mut counters);
        counters
    }
}

fn closed_without_a_word(mut client: TcpStream) -> bool {
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    !matches!(client.read(&mut [0; 8]), Ok(1..))
}

#[test]
fn connections_over_a_limit_are_closed_at_once() {
    let mut rig = Rig::new(GatewayLimits { sessions_max: 2, ..limits() });
    let clients: Vec<_> = (0..3).map(|_| TcpStream::connect(rig.tcp).unwrap()).collect();
    let began = Instant::now();
    while rig.counters().refused_by_total == 0 {
        assert!(began.elapsed() < PATIENCE);
        rig.turn();
    }
    assert_eq!(rig.events.iter().filter(|event| matches!(event, Event::Opened(_))).count(), 2);
    assert!(closed_without_a_word(clients.into_iter().nth(2).unwrap()));

    let mut rig = Rig::new(GatewayLimits { sessions_per_address_max: 1, ..limits() });
    let first = TcpStream::connect(rig.tcp).unwrap();
    let second = TcpStream::connect(rig.tcp).unwrap();
    while rig.counters().refused_by_address == 0 {
        assert!(began.elapsed() < PATIENCE);
        rig.turn();
    }
    assert!(closed_without_a_word(second));
    // When the first has gone, its address has room again.
    drop(first);
    rig.until("the first to close", |_, event| matches!(event, Event::Closed { .. }).then_some(()));
    let _third = TcpStream::connect(rig.tcp).unwrap();
    rig.until("the third", |_, event| matches!(event, Event::Opened(_)).then_some(()));
    assert_eq!(rig.counters().refused_by_address, 1);
}

#[test]
fn everything_of_one_turn_leaves_in_one_send() {
    for transport in [Transport::Tcp, Transport::WebSocket] {
        let mut rig = Rig::new(limits());
        let (mut client, session) = rig.live(transport);
        let before = rig.counters().writes;
        for _ in 0..20 {
            rig.send(session, &ServerPacket::Pong);
        }
        rig.send(session, &ServerPacket::Disconnect { reason: 12, text: "enough".into() });
        rig.turn();
        rig.turn();
        assert_eq!(rig.counters().writes, before + 1);
        for _ in 0..20 {
            assert_eq!(client.hear("PONG"), Heard::Pong);
        }
        assert_eq!(client.hear("DISCONNECT"), Heard::Disconnect { reason: 12 });
    }
}

#[test]
fn a_close_comes_after_the_last_word_and_is_reported() {
    let mut rig = Rig::new(limits());
    let (mut client, session) = rig.live(Transport::Tcp);
    rig.send(session, &ServerPacket::Disconnect { reason: 12, text: "kicked".into() });
    rig.gateway.close(session);
    // Said after the close: never written.
    rig.send(session, &ServerPacket::Pong);
    let began = Instant::now();
    while !client.ended {
        assert!(began.elapsed() < PATIENCE, "the server did not close");
        rig.turn();
        client.poll();
    }
    assert_eq!(client.hear("DISCONNECT"), Heard::Disconnect { reason: 12 });
    assert_eq!(client.try_hear(), None);
    drop(client);
    let reported = rig.until("the report", |_, event| match event {
        Event::Closed { session: closed } => Some(closed),
        _ => None,
    });
    assert_eq!((reported, rig.gateway.sockets()), (session, 0));
}

#[test]
fn garbage_is_reported_once_and_the_rest_is_not_heard() {
    let mut rig = Rig::new(limits());
    let (mut client, session) = rig.live(Transport::Tcp);
    client.say(&Packet::Ping);
    client.say_raw(&[0xff; 100]);
    let mut pings = 0;
    rig.until("the report", |_, event| match event {
        Event::Packet { packet: ClientPacket::Ping, .. } => {
            pings += 1;
            None
        }
        Event::Malformed { session: guilty, what } => {
            assert!(guilty == session && !what.is_empty());
            Some(())
        }
        other => panic!("{other:?}"),
    });
    assert_eq!(pings, 1, "what came before the garbage was not heard");
    client.say(&Packet::Ping);
    client.say_raw(&[0xff; 100]);
    std::thread::sleep(Duration::from_millis(20));
    for _ in 0..10 {
        rig.turn();
    }
    assert!(rig.events.is_empty(), "{:?}", rig.events);
    rig.gateway.close(session);
    let began = Instant::now();
    while !client.ended {
        assert!(began.elapsed() < PATIENCE, "the server did not close");
        rig.turn();
        client.poll();
    }
}

#[test]
fn a_websocket_closed_in_order_is_answered_and_ends() {
    let mut rig = Rig::new(limits());
    let (mut client, session) = rig.live(Transport::WebSocket);
    // A masked close frame with status 1000.
    client.say_raw(&[0x88, 0x82, 0, 0, 0, 0, 0x03, 0xe8]);
    // The client's own side of the close is its pipeline's fault or end, and the socket's.
    let began = Instant::now();
    while !client.ended {
        assert!(began.elapsed() < PATIENCE);
        rig.turn();
        client.poll();
    }
    drop(client);
    let ended = rig.until("the end", |_, event| match event {
        Event::Closed { session: closed } => Some(closed),
        Event::Malformed { what, .. } => panic!("a fault: {what}"),
        _ => None,
    });
    assert_eq!(ended, session);
}

#[test]
fn a_paused_session_is_not_heard_until_it_may_speak_again() {
    let mut rig = Rig::new(limits());
    let (mut client, session) = rig.live(Transport::Tcp);
    rig.gateway.reading(session, true);
    rig.turn();
    rig.turn();
    client.say(&Packet::Ping);
    std::thread::sleep(Duration::from_millis(20));
    for _ in 0..10 {
        rig.turn();
    }
    assert!(rig.events.is_empty(), "{:?}", rig.events);
    rig.gateway.reading(session, false);
    rig.until("the ping", |_, event| match event {
        Event::Packet { packet: ClientPacket::Ping, .. } => Some(()),
        other => panic!("{other:?}"),
    });
}

#[test]
fn what_is_said_behind_connect_travels_with_the_connection() {
    for transport in [Transport::Tcp, Transport::WebSocket] {
        let mut first = Rig::new(limits());
        let mut second = Rig::new(limits());
        let mut client = TestClient::open(first.dial(transport), "ana");
        if transport == Transport::Tcp {
            // In the same segment as CONNECT or right behind it.
            client.say(&Packet::Ping);
        }
        first.connect_of(&mut client, |gateway, session| gateway.hand_over(session, ShardId(1)));
        client.say(&Packet::Disconnect(Disconnect { reason: 0, text: "" }));
        let began = Instant::now();
        let parcel = loop {
            first.turn();
            assert!(first.events.is_empty(), "the engine has forgotten it: {:?}", first.events);
            if let Some((to, parcel)) = first.gateway.departures().pop() {
                assert_eq!(to, ShardId(1));
                break parcel;
            }
            assert!(began.elapsed() < PATIENCE);
        };
        assert_eq!(first.gateway.sockets(), 0);
        assert!(first.desk_is_empty());
        second.gateway.arrive(*parcel, &mut second.events, 0);
        let mut heard = Vec::new();
        let arrived = second.until("the farewell", |_, event| match event {
            Event::Opened(opened) => {
                assert!(opened.handed_over && heard.is_empty());
                heard.push("opened");
                None
            }
            Event::Packet { packet: ClientPacket::Connect(_), .. } => {
                heard.push("connect");
                None
            }
            Event::Packet { packet: ClientPacket::Ping, .. } => {
                heard.push("ping");
                None
            }
            Event::Packet { session, packet: ClientPacket::Disconnect } => Some(session),
            other => panic!("{other:?}"),
        });
        let expected: &[_] =
            if transport == Transport::Tcp { &["opened", "connect", "ping"] } else { &["opened", "connect"] };
        assert_eq!(heard, expected);
        second.send(arrived, &ServerPacket::Connack { reason: SUCCESS, time_diff_ms: 0, node_id: 1 });
        second.turn();
        assert_eq!(client.hear("CONNACK"), Heard::Connack { reason: SUCCESS });
    }
}

impl Rig {
    fn desk_is_empty(&self) -> bool {
        self.gateway.desk.connections.iter().all(Option::is_none) && self.gateway.desk.addresses.is_empty()
    }
}

#[test]
fn too_many_events_wait_for_the_next_turn() {
    let mut rig = Rig::new(GatewayLimits { events_max: 4, ..limits() });
    let mut clients = Vec::new();
    for _ in 0..12 {
        clients.push(rig.live(Transport::Tcp));
    }
    for (client, _) in &mut clients {
        client.say(&Packet::Ping);
    }
    std::thread::sleep(Duration::from_millis(30));
    let (mut heard, mut turns) = (0, 0);
    let began = Instant::now();
    while heard < 12 {
        assert!(began.elapsed() < PATIENCE);
        rig.turn();
        assert!(rig.events.len() <= 4);
        heard += rig.events.drain(..).count();
        turns += 1;
    }
    assert!(turns >= 3);
}

#[test]
fn a_port_scanner_costs_nothing_that_stays() {
    let mut rig = Rig::new(limits());
    for n in 0..30 {
        let mut stream = TcpStream::connect(if n % 2 == 0 { rig.tcp } else { rig.websocket }).unwrap();
        if n % 3 == 0 {
            stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
        }
        drop(stream);
    }
    let mut closed = 0;
    rig.until("all to close", |gateway, event| {
        match event {
            Event::Malformed { session, .. } => gateway.close(session),
            Event::Closed { .. } => closed += 1,
            _ => {}
        }
        (closed == 30).then_some(())
    });
    assert!(rig.desk_is_empty());
    assert_eq!(rig.gateway.sockets(), 0);
}
