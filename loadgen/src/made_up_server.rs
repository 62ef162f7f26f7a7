//! Whole runs against a NATS server made up for the tests, which does wrong when asked to: each wrong must be seen, and a stall must be in the
//! latencies.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::options::{RunOptions, Watch};
use crate::progress::Progress;
use crate::record::RunRecord;
use crate::run::run;
use crate::verdict::Kind;

/// What it does to one message.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Wrong {
    Nothing,
    Drop,
    Double,
    Swap,
    Corrupt,
    /// It answers nobody for a while, once.
    Stall(Duration),
    /// It ends the connection.
    Close,
}

/// Which message of all: one in the measured time.
const WHICH: u64 = 60;

type Subscribers = Arc<Mutex<BTreeMap<String, TcpStream>>>;

struct Server {
    wrong: Wrong,
    messages: AtomicU64,
    subscribers: Subscribers,
    stalled_until: Mutex<Option<Instant>>,
    held: Mutex<Option<(String, Vec<u8>)>>,
}

fn start(wrong: Wrong) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let target = format!("nats://{}", listener.local_addr().expect("it is bound"));
    let server = Arc::new(Server {
        wrong,
        messages: AtomicU64::new(0),
        subscribers: Subscribers::default(),
        stalled_until: Mutex::new(None),
        held: Mutex::new(None),
    });
    // The thread ends with the process of the test; each connection's ends with its client.
    std::thread::spawn(move || {
        for socket in listener.incoming().flatten() {
            let server = server.clone();
            std::thread::spawn(move || server.serve(socket));
        }
    });
    target
}

impl Server {
    fn serve(&self, mut socket: TcpStream) {
        socket.set_nodelay(true).expect("it is a socket");
        let _ = socket.write_all(b"INFO {}\r\n");
        let (mut inbox, mut chunk) = (Vec::new(), [0; 4096]);
        while let Ok(bytes) = socket.read(&mut chunk) {
            if bytes == 0 {
                return;
            }
            let stalled = *self.stalled_until.lock().expect("nobody panics");
            std::thread::sleep(stalled.map_or(Duration::ZERO, |until| until.saturating_duration_since(Instant::now())));
            inbox.extend_from_slice(&chunk[..bytes]);
            while let Some(end) = inbox.iter().position(|byte| *byte == b'\n') {
                let line = String::from_utf8_lossy(&inbox[..end]).trim().to_owned();
                let words: Vec<&str> = line.split(' ').collect();
                let mut taken = end + 1;
                match words[0] {
                    "SUB" => {
                        let own = socket.try_clone().expect("it is open");
                        self.subscribers.lock().expect("nobody panics").insert(words[1].to_owned(), own);
                    }
                    "PING" => drop(socket.write_all(b"PONG\r\n")),
                    "PUB" => {
                        let length: usize = words[words.len() - 1].parse().expect("a length");
                        if inbox.len() < taken + length + 2 {
                            break;
                        }
                        let payload = inbox[taken..taken + length].to_vec();
                        taken += length + 2;
                        if !self.publish(words[1], payload) {
                            let _ = socket.shutdown(Shutdown::Both);
                            return;
                        }
                    }
                    _ => {}
                }
                inbox.drain(..taken);
            }
        }
    }

    /// False ends the connection.
    fn publish(&self, subject: &str, mut payload: Vec<u8>) -> bool {
        let number = self.messages.fetch_add(1, Ordering::Relaxed) + 1;
        let held = self.held.lock().expect("nobody panics").take_if(|held| held.0 == subject);
        if let Some((_, earlier)) = held {
            self.deliver(subject, &payload);
            self.deliver(subject, &earlier);
            return true;
        }
        match self.wrong {
            _ if number != WHICH => {}
            Wrong::Nothing => {}
            Wrong::Drop => return true,
            Wrong::Double => self.deliver(subject, &payload),
            Wrong::Swap => {
                *self.held.lock().expect("nobody panics") = Some((subject.to_owned(), payload));
                return true;
            }
            Wrong::Corrupt => payload[30] ^= 4,
            Wrong::Stall(length) => {
                *self.stalled_until.lock().expect("nobody panics") = Some(Instant::now() + length);
                std::thread::sleep(length);
            }
            Wrong::Close => return false,
        }
        self.deliver(subject, &payload);
        true
    }

    fn deliver(&self, subject: &str, payload: &[u8]) {
        let mut subscribers = self.subscribers.lock().expect("nobody panics");
        if let Some(socket) = subscribers.get_mut(subject) {
            let mut bytes = format!("MSG {subject} 1 {}\r\n", payload.len()).into_bytes();
            bytes.extend_from_slice(payload);
            bytes.extend_from_slice(b"\r\n");
            let _ = socket.write_all(&bytes);
        }
    }
}

fn outcome(wrong: Wrong, options: &str) -> RunRecord {
    let base: RunOptions =
        toml::from_str("users = 4\nwarm_up = 0.0\nseconds = 1.0\nmode = \"open:200\"").expect("it is TOML");
    let options: RunOptions = toml::from_str(options).expect("it is TOML");
    let options = RunOptions { target: Some(start(wrong)), ..options.or(base) };
    run(options.setup().expect("it is right"), &Watch::default(), Progress::new("", false))
        .expect("the server is there")
}

#[test]
fn a_good_server_passes_and_everything_is_counted() {
    let run = outcome(Wrong::Nothing, "");
    assert!(run.faults.is_none(), "{:?}", run.faults);
    assert_eq!((run.sent, run.delivery.count, run.ack.count), (200, 200, 200));
    assert_ne!(run.verdict.kind, Kind::Faulty);
    assert!(run.time_line.len() >= 2 && run.connect.count == 4);
    let closed =
        outcome(Wrong::Nothing, "mode = \"closed:4\"\nthreads = 2\npattern = \"random\"\npeers = 3\ndevices = 1");
    assert!(closed.faults.is_none() && closed.delivered > 100 && closed.streams == 12, "{:?}", closed.faults);
}

#[test]
fn each_wrong_is_seen_and_fails_the_run() {
    for wrong in [Wrong::Drop, Wrong::Double, Wrong::Swap, Wrong::Corrupt] {
        let run = outcome(wrong, "");
        let faults = run.faults;
        let seen = match wrong {
            Wrong::Drop => faults.lost == 1,
            Wrong::Double => faults.doubled == 1,
            Wrong::Swap => faults.reordered == 1,
            // What is damaged does not count as delivered.
            _ => faults.damaged == 1 && faults.lost == 1,
        };
        assert!(seen && run.verdict.kind == Kind::Faulty, "{wrong:?}: {faults:?}");
    }
}

#[test]
fn what_a_stall_holds_up_is_in_the_latencies() {
    let run = outcome(Wrong::Stall(Duration::from_millis(500)), "");
    assert!(run.faults.is_none(), "{:?}", run.faults);
    // 200 a second: 100 fall due in half a second, and 80 of them wait for more than 100 ms. A generator that waits with the server
    // would have seen four, one for each user.
    assert_eq!(run.delivery.count, 200);
    assert!(run.delivery.p90 > 100_000.0 && run.delivery.max >= 480_000.0, "{:?}", run.delivery);
}

#[test]
fn a_connection_that_breaks_is_a_fault_unless_outages_are_watched() {
    let run = outcome(Wrong::Close, "");
    assert!(run.faults.disconnected == 1 && run.verdict.kind == Kind::Faulty, "{:?}", run.faults);
    let watched = outcome(Wrong::Close, "watch_outage = true");
    assert_eq!(watched.faults.disconnected, 0);
    let outage = watched.outage.expect("it was watched");
    assert!(outage.connections_broken == 1 && outage.first_failure_ms.is_some(), "{outage:?}");
    assert!(watched.trouble.is_some());
}

#[test]
fn a_server_that_is_not_there_is_said_in_one_sentence() {
    let options: RunOptions = toml::from_str("target = \"nats://127.0.0.1:1\"").expect("it is TOML");
    let fault = run(options.setup().expect("it is right"), &Watch::default(), Progress::new("", false))
        .expect_err("nobody is there");
    assert!(fault.contains("127.0.0.1:1") && fault.contains("refused") && !fault.contains('\n'), "{fault}");
}
