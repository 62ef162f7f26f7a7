//! A network of its own for each node: namespaces joined by a bridge, so that cables can be cut, one way or both. Needs root and
//! iproute2; whoever cannot have it is told why. Packets are dropped by nft where there is one, and by blackhole routes where
//! not. Everything is taken away again at the end.

use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

static NEXT: AtomicU32 = AtomicU32::new(0);

/// The namespaces of one cluster.
pub struct Separate {
    /// Names everything, and is the third number of the addresses.
    mark: String,
    subnet: String,
    nodes: usize,
    nft: bool,
}

fn run(command: &str) -> Result<(), String> {
    let mut words = command.split(' ');
    let program = words.next().unwrap_or_default();
    let output = Command::new(program).args(words).stdin(Stdio::null()).output();
    match output {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => Err(format!("{command}: {}", String::from_utf8_lossy(&output.stderr).trim())),
        Err(fault) => Err(format!("{command}: {fault}")),
    }
}

fn exists(program: &str) -> bool {
    let folders = std::env::var("PATH").unwrap_or_default() + ":/usr/sbin:/sbin";
    folders.split(':').any(|folder| Path::new(folder).join(program).is_file())
}

impl Separate {
    /// Namespaces for `nodes` nodes.
    ///
    /// # Errors
    /// Why this machine does not give them.
    pub fn make(nodes: usize) -> Result<Separate, String> {
        if !exists("ip") {
            return Err("no iproute2 on this machine".to_owned());
        }
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let mark = format!("jd{}x{number}", std::process::id() % 100_000);
        let third = (std::process::id() + number) % 250;
        let made = Separate { mark, subnet: format!("10.213.{third}"), nodes, nft: exists("nft") };
        made.build().map_err(|why| format!("namespaces cannot be made here ({why})"))?;
        Ok(made)
    }

    fn build(&self) -> Result<(), String> {
        let Separate { mark, subnet, .. } = self;
        run(&format!("ip link add {mark}b type bridge"))?;
        run(&format!("ip addr add {subnet}.254/24 dev {mark}b"))?;
        run(&format!("ip link set {mark}b up"))?;
        for id in 1..=self.nodes {
            run(&format!("ip netns add {mark}n{id}"))?;
            run(&format!("ip link add {mark}v{id} type veth peer name eth0 netns {mark}n{id}"))?;
            run(&format!("ip link set {mark}v{id} master {mark}b up"))?;
            run(&format!("ip -n {mark}n{id} addr add {}/24 dev eth0", self.address(id)))?;
            run(&format!("ip -n {mark}n{id} link set eth0 up"))?;
            run(&format!("ip -n {mark}n{id} link set lo up"))?;
        }
        Ok(())
    }

    /// Where a node lives.
    pub fn address(&self, id: usize) -> String {
        format!("{}.{id}", self.subnet)
    }

    /// What a command for a node begins with.
    pub fn wrapper(&self, id: usize) -> Vec<String> {
        ["ip", "netns", "exec", &format!("{}n{id}", self.mark)].map(str::to_owned).to_vec()
    }

    /// From now on nothing that this node says reaches another node, and, both ways, nothing of theirs reaches it. Clients are
    /// not concerned.
    pub fn cut(&self, id: usize, both: bool) {
        for other in (1..=self.nodes).filter(|other| *other != id) {
            self.block(id, other);
            if both {
                self.block(other, id);
            }
        }
    }

    /// What `from` sends to `to` is lost in `from`'s namespace.
    fn block(&self, from: usize, to: usize) {
        let (name, peer) = (format!("{}n{from}", self.mark), self.address(to));
        let outcome = if self.nft {
            let exec = format!("ip netns exec {name} nft");
            run(&format!("{exec} add table ip cut"))
                .and_then(|()| run(&format!("{exec} add chain ip cut out {{ type filter hook output priority 0 ; }}")))
                .and_then(|()| run(&format!("{exec} add rule ip cut out ip daddr {peer} drop")))
        } else {
            run(&format!("ip -n {name} route replace blackhole {peer}/32"))
        };
        outcome.expect("a namespace of our own can be cut off");
    }

    /// Everything passes again.
    pub fn heal(&self, id: usize) {
        for other in (1..=self.nodes).filter(|other| *other != id) {
            for (from, to) in [(id, other), (other, id)] {
                let name = format!("{}n{from}", self.mark);
                // What is not cut has nothing to be taken away.
                let _ = if self.nft {
                    run(&format!("ip netns exec {name} nft delete table ip cut"))
                } else {
                    run(&format!("ip -n {name} route del blackhole {}/32", self.address(to)))
                };
            }
        }
    }
}

impl Drop for Separate {
    fn drop(&mut self) {
        for id in 1..=self.nodes {
            let _ = run(&format!("ip link del {}v{id}", self.mark));
            let _ = run(&format!("ip netns del {}n{id}", self.mark));
        }
        let _ = run(&format!("ip link del {}b", self.mark));
    }
}
