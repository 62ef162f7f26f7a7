//! Tells whoever started this process how far it is, the way systemd asks for (`Type=notify`): a datagram to the socket that
//! `NOTIFY_SOCKET` names, when clients may come and when the node begins to stop, and in between that it lives, if whoever started it
//! wants to hear that (`WatchdogSec=`, told to the process as `WATCHDOG_USEC`; `man sd_watchdog_enabled`). Without those variables
//! nothing is told. It never stands in the node's way: who does not listen is not waited for.
//!
//! Deliberately not here: whether the node lives. The node's main thread asks the metronome.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

/// Who wants to be told, if anybody.
#[derive(Debug, Default)]
pub struct Readiness {
    listener: Option<(UnixDatagram, SocketAddr)>,
    /// The process is ended when it has said nothing for so long.
    patience: Option<Duration>,
}

impl Readiness {
    /// Whom the environment names.
    #[must_use]
    pub fn from_environment() -> Readiness {
        let patience = patience(std::env::var_os("WATCHDOG_USEC"), std::env::var_os("WATCHDOG_PID"));
        Readiness { patience, ..Readiness::to(std::env::var_os("NOTIFY_SOCKET")) }
    }

    fn to(name: Option<OsString>) -> Readiness {
        let Some(name) = name.filter(|name| !name.is_empty()) else {
            return Readiness::default();
        };
        match open(&name) {
            Ok(listener) => Readiness { listener: Some(listener), patience: None },
            Err(error) => {
                tracing::warn!(%error, socket = %name.display(), "NOTIFY_SOCKET cannot be used");
                Readiness::default()
            }
        }
    }

    /// Clients may come; `status` is a line for people.
    pub fn ready(&self, status: &str) {
        self.tell(&format!("READY=1\nSTATUS={}", status.lines().next().unwrap_or_default()));
    }

    /// After how long without [`Readiness::alive`] this process is ended, if somebody would do that.
    #[must_use]
    pub fn patience(&self) -> Option<Duration> {
        self.patience.filter(|_| self.listener.is_some())
    }

    /// The node lives.
    pub fn alive(&self) {
        self.tell("WATCHDOG=1");
    }

    /// The node stops.
    pub fn stopping(&self) {
        self.tell("STOPPING=1\nSTATUS=stopping");
    }

    fn tell(&self, words: &str) {
        let Some((socket, address)) = &self.listener else { return };
        if let Err(error) = socket.send_to_addr(words.as_bytes(), address) {
            tracing::warn!(%error, "whoever started this process does not listen");
        }
    }
}

/// What the environment says of the watchdog: microseconds, and whom they are meant for, which may be a process before this one.
fn patience(microseconds: Option<OsString>, process: Option<OsString>) -> Option<Duration> {
    let number = |text: OsString| text.to_str()?.parse::<u64>().ok();
    let meant = process.is_none_or(|process| number(process) == Some(u64::from(std::process::id())));
    number(microseconds?).filter(|micros| meant && *micros > 0).map(Duration::from_micros)
}

/// A path, or with `@` in front a name that is not in the file system.
fn open(name: &OsStr) -> io::Result<(UnixDatagram, SocketAddr)> {
    let address = match name.as_bytes() {
        [b'@', abstract_name @ ..] => SocketAddr::from_abstract_name(abstract_name)?,
        _ => SocketAddr::from_pathname(name)?,
    };
    let socket = UnixDatagram::unbound()?;
    socket.set_nonblocking(true)?;
    Ok((socket, address))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(listener: &UnixDatagram) -> String {
        listener.set_read_timeout(Some(std::time::Duration::from_secs(5))).unwrap();
        let mut buffer = [0u8; 256];
        let length = listener.recv(&mut buffer).unwrap();
        String::from_utf8_lossy(&buffer[..length]).into_owned()
    }

    #[test]
    fn names_in_the_file_system_and_beside_it_are_told() {
        let path = std::env::temp_dir().join(format!("jindou-readiness-{}", std::process::id()));
        let beside = format!("jindou-readiness-{}", std::process::id());
        let listeners = [
            (UnixDatagram::bind(&path).unwrap(), path.clone().into_os_string()),
            (
                UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&beside).unwrap()).unwrap(),
                OsString::from(format!("@{beside}")),
            ),
        ];
        for (listener, name) in listeners {
            let readiness = Readiness::to(Some(name));
            readiness.ready("ready in 0.1 s\nand more");
            assert_eq!(told(&listener), "READY=1\nSTATUS=ready in 0.1 s");
            readiness.alive();
            assert_eq!(told(&listener), "WATCHDOG=1");
            readiness.stopping();
            assert!(told(&listener).starts_with("STOPPING=1\n"));
        }
        std::fs::remove_file(path).unwrap();
    }

    #[test]
    fn only_a_watchdog_of_this_process_is_served() {
        let text = |text: &str| Some(OsString::from(text));
        let me = std::process::id();
        assert_eq!(patience(text("30000000"), None), Some(Duration::from_secs(30)));
        assert_eq!(patience(text("30000000"), text(&me.to_string())), Some(Duration::from_secs(30)));
        assert_eq!(patience(text("30000000"), text(&(me + 1).to_string())), None);
        assert_eq!(patience(text("30000000"), text("x")), None);
        assert_eq!((patience(None, None), patience(text("0"), None), patience(text("-1"), None)), (None, None, None));
        let unheard = Readiness { listener: None, patience: Some(Duration::from_secs(1)) };
        assert_eq!(unheard.patience(), None, "there is nobody to tell");
    }

    #[test]
    fn nobody_and_the_unreachable_are_no_hindrance() {
        let far = "/nonexistent/".repeat(20);
        for name in [None, Some(""), Some("/nonexistent/socket"), Some(far.as_str())] {
            Readiness::to(name.map(OsString::from)).ready("x");
        }
        assert!(Readiness::to(Some(OsString::from(far))).listener.is_none(), "no address is that long");
    }
}
