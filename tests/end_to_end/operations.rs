//! What an operator does and sees: start, stop, wrong configuration, two processes on one directory, a busy port, the chat
//! client, and a README that agrees with the code. Every refusal is one clear line and a non-zero exit.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr as UnixAddress, UnixDatagram};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use jindou::format::packet::HeaderFlags;

use crate::client::{Client, Login, SOON};
use crate::node::{Node, binary};

/// Runs a command that must end by itself; kills it when it does not.
fn ends(command: &mut Command, within: Duration) -> Output {
    let mut child =
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts");
    let deadline = Instant::now() + within;
    while child.try_wait().expect("our own child can be asked").is_none() {
        if Instant::now() > deadline {
            child.kill().ok();
            let output = child.wait_with_output().expect("a killed child can be read");
            panic!("still running after {within:?}: {}", String::from_utf8_lossy(&output.stderr));
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    child.wait_with_output().expect("an ended child can be read")
}

/// Exit codes, as the README and `--help` say.
const CANNOT_START: i32 = 1;
const WRONG_CONFIGURATION: i32 = 2;

/// Demands a refusal with this exit code whose message has one line with all of `words`.
fn is_refused(command: &mut Command, code: i32, words: &[&str]) {
    let output = ends(command, SOON);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "it should have failed: {said}");
    let told = said.lines().any(|line| words.iter().all(|word| line.contains(word)));
    assert!(told, "no line with {words:?} in:\n{said}");
    assert!(!said.contains("panicked"), "a refusal is not a panic:\n{said}");
    assert!(said.lines().count() <= 3, "one clear line is enough:\n{said}");
}

#[test]
fn bad_configuration_is_one_clear_line() {
    let node = Node::prepare("config", &[]);
    let file = node.folder().join("jindou.toml");
    for (text, words) in [
        ("[listen]\ntpc = \"127.0.0.1:1\"\n", ["listen.tpc", "unknown"]),
        ("[nodes]\nid = 1\n", ["nodes", "unknown"]),
        ("[node]\nslots = 3\n", ["node.slots", "3"]),
        ("[node\n", ["line 1", "jindou.toml"]),
    ] {
        std::fs::write(&file, text).expect("the folder can be written");
        is_refused(binary().arg("--config").arg(&file), WRONG_CONFIGURATION, &words);
        is_refused(binary().arg("--check-config").arg("--config").arg(&file), WRONG_CONFIGURATION, &words);
    }
    is_refused(binary().env("JINDOU_NODE_ID", "zero"), WRONG_CONFIGURATION, &["JINDOU_NODE_ID", "node.id"]);
    is_refused(
        binary().args(["--set", "journal.durability=maybe"]),
        WRONG_CONFIGURATION,
        &["journal.durability", "maybe"],
    );
    std::fs::write(&file, "[node]\nid = 7\n").expect("the folder can be written");
    let good = ends(binary().arg("--check-config").arg("--config").arg(&file), SOON);
    assert!(good.status.success(), "{}", String::from_utf8_lossy(&good.stderr));
}

#[test]
fn a_second_process_on_the_same_data_is_refused_and_the_first_unhurt() {
    let node = Node::start("second", &[]);
    let mut ana = Client::connect(&node, &Login::tcp("ana"));
    let other = Node::prepare("second_other", &[]);
    let data = format!("node.data_dir={}", node.folder().join("data").display());
    is_refused(other.command().arg("--set").arg(data), CANNOT_START, &["data"]);
    ana.lives();
}

#[test]
fn a_busy_port_and_a_foreign_directory_are_refused() {
    let node = Node::prepare("busy", &[]);
    let taken = TcpListener::bind(node.tcp()).expect("the address is ours");
    let port = node.tcp().to_string();
    is_refused(&mut node.command(), CANNOT_START, &[&port]);
    drop(taken);
    let taken = TcpListener::bind(node.http()).expect("the address is ours");
    let port = node.http().to_string();
    is_refused(&mut node.command(), CANNOT_START, &[&port]);
    drop(taken);

    let foreign = node.folder().join("foreign");
    std::fs::create_dir_all(&foreign).expect("the folder can be written");
    std::fs::write(foreign.join("holiday.jpg"), b"not ours").expect("the folder can be written");
    let setting = format!("node.data_dir={}", foreign.display());
    is_refused(node.command().arg("--set").arg(setting), CANNOT_START, &["foreign"]);
    let file = node.folder().join("a-file");
    std::fs::write(&file, b"").expect("the folder can be written");
    is_refused(
        node.command().arg("--set").arg(format!("node.data_dir={}/data", file.display())),
        CANNOT_START,
        &["a-file"],
    );
}

#[test]
fn sigterm_flushes_and_ends_with_zero() {
    let mut node = Node::start("sigterm", &["node.shards=2"]);
    let mut ana = Client::connect(&node, &Login::tcp("ana"));
    let mut bo = Client::connect(&node, &Login::ws("bo"));
    ana.send("bo", "n", b"hello", HeaderFlags::RED_DOT).expect("the connection lives");
    assert_eq!(ana.ack().reason, 1);
    bo.received();
    let mut cy = Client::connect(&node, &Login::tcp("cy"));
    drop(bo);
    ana.send("bo", "while away", b"hello", HeaderFlags::RED_DOT).expect("the connection lives");
    assert_eq!(ana.ack().reason, 1);
    let status = node.terminate(Duration::from_secs(8)).expect("it ends in bounded time");
    assert!(status.success(), "{status}\n{}", node.log());
    assert!(!node.accepts(), "nobody listens any more");
    ana.is_closed_within(SOON);
    cy.is_closed_within(SOON);
    node.launch();
    node.wait_ready();
    let mut bo = Client::connect(&node, &Login::tcp("bo"));
    assert_eq!(bo.received().number, "while away", "what was acknowledged is there after a clean stop");
    bo.receives_nothing_for(Duration::from_millis(200));
}

#[test]
fn the_probe_says_what_the_machine_gives() {
    let node = Node::prepare("probe", &[]);
    let output = ends(binary().args(["probe", "--milliseconds", "20", "--data"]).arg(node.folder()), SOON);
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success() && said.starts_with("io_uring ok\n"), "{said}");
    assert!(said.contains("\nfdatasync ok writes="), "{said}");
}

#[test]
fn whoever_starts_it_hears_when_it_is_ready_that_it_lives_and_when_it_stops() {
    let node = Node::prepare("notify", &[]);
    let name = format!("jindou-notify-{}", std::process::id());
    let address = UnixAddress::from_abstract_name(&name).expect("the name is short");
    let listener = UnixDatagram::bind_addr(&address).expect("nobody else has that name");
    listener.set_read_timeout(Some(Duration::from_secs(30))).expect("a time above nothing");
    let told = || {
        let mut buffer = [0u8; 256];
        let length = listener.recv(&mut buffer).expect("it is told in time");
        String::from_utf8_lossy(&buffer[..length]).into_owned()
    };
    let mut child = node
        .command()
        .env("NOTIFY_SOCKET", format!("@{name}"))
        .env("WATCHDOG_USEC", "2000000")
        .stdout(Stdio::null())
        .spawn()
        .expect("it starts");
    let ready = told();
    assert!(ready.starts_with("READY=1\nSTATUS=jindou ") && ready.contains("ready in"), "{ready}");
    assert!(node.accepts(), "what is ready takes connections");
    (0..2).for_each(|_| assert_eq!(told(), "WATCHDOG=1"));
    let stopped = Command::new("kill").arg(child.id().to_string()).status();
    assert!(stopped.is_ok_and(|status| status.success()), "our own child can be signalled");
    let last = (0..50).map(|_| told()).find(|words| words != "WATCHDOG=1");
    assert!(last.is_some_and(|words| words.starts_with("STOPPING=1")));
    assert!(child.wait().expect("our own child can be waited for").success());
}

#[test]
fn the_banner_says_where_things_are() {
    let node = Node::start("banner", &[]);
    let address = |address: std::net::SocketAddr| address.to_string();
    let words = [address(node.tcp()), address(node.ws()), address(node.http()), "fsync".to_owned()];
    let deadline = Instant::now() + SOON;
    while let Some(word) = words.iter().find(|word| !node.log().contains(word.as_str())) {
        assert!(Instant::now() < deadline, "the banner does not name {word}\n{}", node.log());
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn the_chat_client_talks() {
    let node = Node::start("chat", &[]);
    let mut bo = Client::connect(&node, &Login::tcp("bo"));
    let mut chat = binary()
        .args(["chat", "--as", "alice", "--to", "bo", "--server", &node.tcp().to_string()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it starts");
    let mut input = chat.stdin.take().expect("it was piped");
    input.write_all("good morning\n".as_bytes()).expect("it reads");
    let got = bo.received();
    assert_eq!(got.from, "alice");
    assert!(String::from_utf8_lossy(&got.payload).contains("good morning"));
    bo.send("alice", "n", br#"{"type":1,"content":"good evening"}"#, HeaderFlags::RED_DOT)
        .expect("the connection lives");
    assert_eq!(bo.ack().reason, 1);
    std::thread::sleep(Duration::from_millis(300));
    drop(input);
    let deadline = Instant::now() + SOON;
    while chat.try_wait().expect("our own child can be asked").is_none() && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(10));
    }
    chat.kill().ok();
    let mut said = String::new();
    chat.stdout.take().expect("it was piped").read_to_string(&mut said).expect("it wrote text");
    chat.wait().expect("our own child can be waited for");
    assert!(said.contains("good evening"), "the chat printed {said:?}");
}

#[test]
fn the_readme_and_the_help_say_how_a_node_ends() {
    let output = ends(binary().arg("--help"), SOON);
    let help = String::from_utf8(output.stdout).expect("it prints text");
    let words = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    let said = words(&help);
    let codes = said.find("Exit codes of a node:").map(|at| &said[at..]).expect("the help names the exit codes");
    for code in [0, CANNOT_START, WRONG_CONFIGURATION, 101, 130] {
        assert!(codes.contains(&format!(" {code} ")), "{code} is not in {codes}");
    }
    let readme = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/README.md")).expect("there is a README");
    assert!(words(&readme).contains(codes), "the README does not say: {codes}");
}

#[test]
fn the_readmes_table_is_the_codes() {
    let output = ends(binary().arg("--print-config-table"), SOON);
    let table = String::from_utf8(output.stdout).expect("it prints text");
    assert!(table.lines().count() > 10, "{table}");
    let readme = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/README.md")).expect("there is a README");
    assert!(
        readme.contains(table.trim()),
        "the README's table of settings is not what the code says; paste the output of `jindou --print-config-table`:\n{table}"
    );
}
