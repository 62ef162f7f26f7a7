//! A node under test: the real binary as a child process on a loopback address of its own, so that ports never clash and are
//! the same after a restart. Its standard error goes into a file and is shown when a test fails. Nothing here knows what a
//! message is.

use std::fs::{self, File};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use crate::http;

/// From start to ready. Generous: several nodes of several tests start at once on two cores.
const READY_WITHIN: Duration = Duration::from_secs(30);

static NEXT: AtomicU32 = AtomicU32::new(1);

/// The binary as an operator would call it.
pub fn binary() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_jindou"));
    command.env_remove("RUST_LOG");
    command
}

/// An address of 127/8 that no other test of this or of a parallel run uses.
fn own_address() -> String {
    let process = std::process::id();
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    assert!(number < 250, "one address per node");
    format!("127.{}.{}.{number}", 100 + process % 100, process / 100 % 250)
}

/// A child process and everything it owns.
pub struct Node {
    child: Option<Child>,
    folder: PathBuf,
    address: String,
    settings: Vec<String>,
    /// What the command begins with, when it is not the binary itself.
    wrapper: Vec<String>,
}

impl Node {
    /// Starts a node and waits until it is ready. Settings are `section.key=value`, over small defaults.
    pub fn start(test: &str, settings: &[&str]) -> Node {
        let mut node = Node::prepare(test, settings);
        node.launch();
        node.wait_ready();
        node
    }

    /// Everything but the process.
    pub fn prepare(test: &str, settings: &[&str]) -> Node {
        Node::prepare_at(test, own_address(), Vec::new(), settings)
    }

    /// The same with a given address, and words in front of the command.
    pub fn prepare_at(test: &str, address: String, wrapper: Vec<String>, settings: &[&str]) -> Node {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{test}-{}-{address}", std::process::id()));
        fs::create_dir_all(&folder).expect("the target's temporary folder can be written");
        let mut all = vec![
            format!("node.data_dir={}", folder.join("data").display()),
            "node.shards=1".to_owned(),
            "node.slots=16".to_owned(),
            "journal.segment_bytes=4MiB".to_owned(),
            format!("listen.tcp={address}:5100"),
            format!("listen.ws={address}:5200"),
            format!("listen.http={address}:5001"),
        ];
        all.extend(settings.iter().map(|setting| (*setting).to_owned()));
        Node { child: None, folder, address, settings: all, wrapper }
    }

    /// The command that runs this node, for tests that want to see it fail.
    pub fn command(&self) -> Command {
        let mut command = binary();
        if let [program, words @ ..] = &self.wrapper[..] {
            let own = std::mem::replace(&mut command, Command::new(program));
            command.args(words).arg(own.get_program()).env_remove("RUST_LOG");
        }
        for setting in &self.settings {
            command.arg("--set").arg(setting);
        }
        command
    }

    /// Starts the process.
    pub fn launch(&mut self) {
        let log = File::options().create(true).append(true).open(self.log_path()).expect("the folder can be written");
        let again = log.try_clone().expect("a file can be shared");
        let child = self.command().stdin(Stdio::null()).stdout(again).stderr(log).spawn();
        self.child = Some(child.expect("the binary was built and can be started"));
    }

    /// Waits until `/readyz` says so.
    pub fn wait_ready(&mut self) {
        let deadline = Instant::now() + READY_WITHIN;
        while !http::get(self.http(), "/readyz").is_ok_and(|answer| answer.status == 200) {
            self.still_runs();
            assert!(Instant::now() < deadline, "not ready within {READY_WITHIN:?}\n{}", self.log());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Demands that the process has not ended by itself.
    pub fn still_runs(&mut self) {
        if let Some(status) = self.child.as_mut().and_then(|child| child.try_wait().ok().flatten()) {
            panic!("the node ended by itself with {status}\n{}", self.log());
        }
    }

    /// Replaces a setting, or adds one; it counts from the next start.
    pub fn set(&mut self, key: &str, value: &str) {
        let begins = format!("{key}=");
        self.settings.retain(|setting| !setting.starts_with(&begins));
        self.settings.push(format!("{key}={value}"));
    }

    /// Its process, while there is one.
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// Sends a signal by its name.
    pub fn signal(&self, name: &str) {
        let pid = self.pid().expect("the node runs").to_string();
        let sent = Command::new("kill").arg(format!("-{name}")).arg(pid).status();
        assert!(sent.is_ok_and(|status| status.success()), "{name} can be sent to our own child");
    }

    /// Pulls the plug: SIGKILL, and waits until the process is gone.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().expect("our own child can be killed");
            child.wait().expect("our own child can be waited for");
        }
    }

    /// SIGTERM; the exit status, if it came within the bound.
    pub fn terminate(&mut self, within: Duration) -> Option<ExitStatus> {
        self.signal("TERM");
        let mut child = self.child.take()?;
        let deadline = Instant::now() + within;
        while Instant::now() < deadline {
            if let Ok(Some(status)) = child.try_wait() {
                return Some(status);
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        self.child = Some(child);
        None
    }

    /// Where clients connect over TCP.
    pub fn tcp(&self) -> SocketAddr {
        self.at(5100)
    }

    /// Where clients connect over WebSocket.
    pub fn ws(&self) -> SocketAddr {
        self.at(5200)
    }

    /// Where the HTTP API listens.
    pub fn http(&self) -> SocketAddr {
        self.at(5001)
    }

    /// Where other nodes find it, when it is to have others.
    pub fn cluster(&self) -> SocketAddr {
        self.at(5300)
    }

    fn at(&self, port: u16) -> SocketAddr {
        format!("{}:{port}", self.address).parse().expect("made of an address and a port")
    }

    /// One number of the metrics page, over all shards; `None` when the page does not come or has no such number.
    pub fn metric(&self, name: &str) -> Option<u64> {
        let page = http::get(self.http(), "/metrics").ok()?;
        let of_line = |line: &str| {
            let rest = line.strip_prefix(name)?;
            rest.starts_with(['{', ' ']).then(|| rest.rsplit(' ').next()?.parse::<u64>().ok())?
        };
        let values: Vec<u64> = page.body.lines().filter_map(of_line).collect();
        (!values.is_empty()).then(|| values.iter().sum())
    }

    /// Where its data is.
    pub fn data(&self) -> PathBuf {
        self.folder.join("data")
    }

    /// A folder for the test's own files.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    fn log_path(&self) -> PathBuf {
        self.folder.join("log")
    }

    /// What the node has said so far; the last 200 lines.
    pub fn log(&self) -> String {
        let text = fs::read(self.log_path()).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().collect();
        format!("--- what the node said ---\n{}", lines[lines.len().saturating_sub(200)..].join("\n"))
    }

    /// True when something accepts connections on the TCP port.
    pub fn accepts(&self) -> bool {
        TcpStream::connect_timeout(&self.tcp(), Duration::from_millis(500)).is_ok()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            eprintln!("{}", self.log());
        } else {
            fs::remove_dir_all(&self.folder).ok();
        }
    }
}
