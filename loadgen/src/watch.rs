//! What the server uses: from /proc of its processes, or from jindou's `/metrics` when it is on another machine. It reads, and judges
//! nothing.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use crate::drivers::mqtt_version;
use crate::options::Watch;
use crate::process::{Cpu, Memory};
use crate::target::{Protocol, Target};

const ANSWER_WITHIN: Duration = Duration::from_secs(2);

/// What the server has used until now, and what it holds.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Reading {
    /// Seconds in programs; where only the sum is told, all of it.
    pub user: f64,
    /// Seconds in the kernel.
    pub system: f64,
    /// Bytes.
    pub resident: f64,
    /// Bytes; 0 where it is not told.
    pub anonymous: f64,
}

impl Watch {
    /// Reads; `None` when nothing is watched, or what is watched is not there.
    pub fn read(&self) -> Option<Reading> {
        if let Some(address) = self.metrics.filter(|_| self.pids.is_empty()) {
            return from_metrics(&page(address)?);
        }
        let (cpu, memory) = (Cpu::of_all(&self.pids)?, Memory::of_all(&self.pids)?);
        Some(Reading {
            user: cpu.user,
            system: cpu.system,
            resident: memory.resident as f64,
            anonymous: memory.anonymous as f64,
        })
    }

    /// Complains about what is not there, before anything is measured.
    ///
    /// # Errors
    /// One sentence.
    pub fn check(&self) -> Result<(), String> {
        if let Some(pid) = self.pids.iter().find(|pid| Cpu::of(&pid.to_string()).is_none()) {
            return Err(format!("--pids {pid}: there is no such process"));
        }
        match self.metrics.filter(|_| self.pids.is_empty() && self.read().is_none()) {
            Some(address) => Err(format!("--metrics {address}: no page with jindou's CPU time and memory there")),
            None => Ok(()),
        }
    }
}

/// The server's own word on its version, where its protocol or its metrics tell; else nothing.
pub fn version(target: &Target, watch: &Watch) -> String {
    let told = match target.protocol {
        Protocol::Nats | Protocol::JetStream => {
            greeting(target.addresses[0]).and_then(|text| quoted_after(&text, "\"version\":\""))
        }
        Protocol::Wk { .. } => {
            watch.metrics.and_then(page).and_then(|text| quoted_after(&text, "jindou_info{version=\""))
        }
        Protocol::Mqtt { .. } => mqtt_version(target.addresses[0], ANSWER_WITHIN),
    };
    told.unwrap_or_default()
}

/// What a server says first.
fn greeting(address: SocketAddr) -> Option<String> {
    let mut stream = TcpStream::connect_timeout(&address, ANSWER_WITHIN).ok()?;
    stream.set_read_timeout(Some(ANSWER_WITHIN)).ok()?;
    let mut said = [0; 4096];
    let bytes = stream.read(&mut said).ok()?;
    Some(String::from_utf8_lossy(&said[..bytes]).into_owned())
}

fn quoted_after(text: &str, before: &str) -> Option<String> {
    let (_, rest) = text.split_once(before)?;
    rest.split_once('"').map(|(version, _)| version.to_owned())
}

fn page(address: SocketAddr) -> Option<String> {
    let mut stream = TcpStream::connect_timeout(&address, ANSWER_WITHIN).ok()?;
    stream.set_read_timeout(Some(ANSWER_WITHIN)).ok()?;
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: loadgen\r\nConnection: close\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    answer.starts_with("HTTP/1.1 200").then_some(answer)
}

fn from_metrics(page: &str) -> Option<Reading> {
    let value = |name: &str| {
        let line = page.lines().find(|line| line.split([' ', '{']).next() == Some(name))?;
        line.rsplit(' ').next()?.parse::<f64>().ok()
    };
    Some(Reading {
        user: value("jindou_process_cpu_seconds_total")?,
        system: 0.0,
        resident: value("jindou_process_resident_bytes")?,
        anonymous: 0.0,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_of_metrics_is_read() {
        let page = "HTTP/1.1 200 OK\r\n\r\n# HELP jindou_process_cpu_seconds_total x\njindou_process_cpu_seconds_total 1.5\n\
                    jindou_process_resident_bytes 2048\n";
        let expected = Reading { user: 1.5, system: 0.0, resident: 2048.0, anonymous: 0.0 };
        assert_eq!(from_metrics(page), Some(expected));
        assert_eq!(from_metrics("jindou_process_cpu_seconds_total 1\n"), None);
    }

    #[test]
    fn a_version_is_found_in_what_servers_say() {
        let info = "INFO {\"server_id\":\"x\",\"version\":\"2.9.10\",\"proto\":1}\r\n";
        assert_eq!(quoted_after(info, "\"version\":\"").as_deref(), Some("2.9.10"));
        assert_eq!(
            quoted_after("jindou_info{version=\"0.1.0\"} 1", "jindou_info{version=\"").as_deref(),
            Some("0.1.0")
        );
        assert_eq!(quoted_after("INFO {}", "\"version\":\""), None);
        let nobody = Target::parse("nats://127.0.0.1:1", false, 1).expect("it is right");
        assert_eq!(version(&nobody, &Watch::default()), "");
    }

    #[test]
    fn what_is_not_there_is_said() {
        let watch = Watch { pids: vec![u32::MAX], metrics: None };
        assert!(watch.check().expect_err("no such process").contains("no such process"));
        let nobody = SocketAddr::from(([127, 0, 0, 1], 1));
        let watch = Watch { pids: Vec::new(), metrics: Some(nobody) };
        assert!(watch.check().expect_err("nobody is there").contains("--metrics 127.0.0.1:1"));
        assert_eq!(Watch::default().check(), Ok(()));
    }
}
