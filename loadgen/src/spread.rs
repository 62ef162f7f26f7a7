//! Who connects where: users in pairs over one or several nodes. Without more, pairs are dealt out in turn. When the nodes' HTTP
//! API is known, users get names whose homes, and whose conversation, are led where the users connect: then a pair on one node
//! needs no other node but for the copies, and a pair on two nodes crosses once for every message. It opens no connection of
//! a client.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use jindou::ids::{ChannelKey, Uid};

/// Names asked for each slot, so that almost surely every slot is met.
const ASKED_PER_SLOT: usize = 12;

/// Names in one question.
const ASKED_AT_ONCE: usize = 500;

/// Names tried for one pair before it is given up. With three nodes one of 27 fits.
const TRIES_MAX: u32 = 100_000;

const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// One user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placed {
    /// Its uid.
    pub name: String,
    /// The node that it connects to.
    pub address: SocketAddr,
}

/// What is known of the nodes.
#[derive(Clone, Debug)]
pub struct Nodes {
    /// Client addresses.
    pub targets: Vec<SocketAddr>,
    /// HTTP API of any of them.
    pub http: Option<SocketAddr>,
    /// Slots of the cluster, a power of two.
    pub slots: u32,
}

impl Nodes {
    /// Users that need no partner, dealt out in turn.
    pub fn deal(&self, prefix: &str, users: usize) -> Vec<Placed> {
        let placed = |number: usize| Placed {
            name: format!("{prefix}-{number}"),
            address: self.targets[number % self.targets.len()],
        };
        (0..users).map(placed).collect()
    }

    /// Pairs, users `2k` and `2k + 1`; a share of `cross` of them on two nodes.
    ///
    /// # Errors
    /// The HTTP API does not say who leads what.
    pub fn pairs(&self, prefix: &str, users: usize, cross: f64) -> io::Result<Vec<Placed>> {
        let leaders = self.http.map(|http| self.leaders(http, prefix)).transpose()?;
        let mut placed = Vec::with_capacity(users);
        for pair in 0..users / 2 {
            let (from, to) = self.ends(pair, cross);
            let named = |try_number: u32| {
                [2 * pair, 2 * pair + 1].map(|number| match try_number {
                    0 => format!("{prefix}-{number}"),
                    again => format!("{prefix}-{number}-{again}"),
                })
            };
            let names = match &leaders {
                None => named(0),
                Some(leaders) => {
                    (0..TRIES_MAX).map(named).find(|[one, other]| self.fits(leaders, one, other, from, to)).ok_or_else(
                        || io::Error::other(format!("no names fit for pair {pair}: does {from} lead any slot?")),
                    )?
                }
            };
            placed.extend(names.into_iter().zip([from, to]).map(|(name, address)| Placed { name, address }));
        }
        Ok(placed)
    }

    /// The nodes of a pair; the pairs on two nodes are spread evenly among the others.
    fn ends(&self, pair: usize, cross: f64) -> (SocketAddr, SocketAddr) {
        let count = self.targets.len();
        let crosses = ((pair + 1) as f64 * cross).floor() > (pair as f64 * cross).floor();
        (self.targets[pair % count], self.targets[(pair + usize::from(crosses)) % count])
    }

    fn fits(
        &self,
        leaders: &BTreeMap<u16, SocketAddr>,
        one: &str,
        other: &str,
        from: SocketAddr,
        to: SocketAddr,
    ) -> bool {
        let depth = self.slots.trailing_zeros() as u8;
        let (Ok(one), Ok(other)) = (Uid::parse(one), Uid::parse(other)) else { return false };
        let talk = ChannelKey::pair(&one, &other).key_hash().slot(depth);
        let led_by = |slot: jindou::ids::SlotId| leaders.get(&slot.0).copied();
        led_by(one.key_hash().slot(depth)) == Some(from)
            && led_by(other.key_hash().slot(depth)) == Some(to)
            && led_by(talk) == Some(from)
    }

    /// Asks for the homes of many made-up users: that tells which node leads which slot.
    fn leaders(&self, http: SocketAddr, prefix: &str) -> io::Result<BTreeMap<u16, SocketAddr>> {
        let depth = self.slots.trailing_zeros() as u8;
        let mut leaders = BTreeMap::new();
        let names: Vec<String> =
            (0..self.slots as usize * ASKED_PER_SLOT).map(|number| format!("{prefix}-probe-{number}")).collect();
        for some in names.chunks(ASKED_AT_ONCE) {
            for (uid, address) in routes(&post_route_batch(http, some)?) {
                if let (Ok(uid), Ok(address)) = (Uid::parse(uid), address.parse()) {
                    leaders.insert(uid.key_hash().slot(depth).0, address);
                }
            }
        }
        let led = |target: &SocketAddr| leaders.values().filter(|leader| *leader == target).count();
        match self.targets.iter().find(|target| led(target) == 0) {
            Some(target) => Err(io::Error::other(format!("the cluster at {http} says that {target} leads no slot"))),
            None => Ok(leaders),
        }
    }
}

fn post_route_batch(http: SocketAddr, uids: &[String]) -> io::Result<String> {
    let body = format!("[\"{}\"]", uids.join("\",\""));
    let mut stream = TcpStream::connect_timeout(&http, ANSWER_WITHIN)?;
    stream.set_read_timeout(Some(ANSWER_WITHIN))?;
    let head = "POST /route/batch HTTP/1.1\r\nHost: loadgen\r\nConnection: close\r\nContent-Type: application/json\r\n";
    stream.write_all(format!("{head}Content-Length: {}\r\n\r\n{body}", body.len()).as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    if answer.starts_with("HTTP/1.1 200") { Ok(answer) } else { Err(io::Error::other(format!("{http}: {answer}"))) }
}

/// The uids of an answer, each with the TCP address it is to dial. The names are ours and need no unescaping.
fn routes(answer: &str) -> impl Iterator<Item = (&str, &str)> {
    answer.split("{\"uids\":[").skip(1).flat_map(|group| {
        let (uids, rest) = group.split_once(']').unwrap_or_default();
        let address =
            rest.split_once("\"tcp_addr\":\"").and_then(|(_, rest)| rest.split('"').next()).unwrap_or_default();
        uids.split(',').map(move |uid| (uid.trim_matches('"'), address))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nodes(count: u8) -> Nodes {
        let targets = (1..=count).map(|node| SocketAddr::from(([127, 0, 0, node], 5100))).collect();
        Nodes { targets, http: None, slots: 16 }
    }

    #[test]
    fn the_share_of_pairs_on_two_nodes_is_what_was_asked() {
        for (cross, expected) in [(0.0, 0), (0.25, 3), (0.5, 6), (1.0, 12)] {
            let placed = nodes(3).pairs("u", 24, cross).expect("nothing is asked");
            let crossing = placed.chunks(2).filter(|pair| pair[0].address != pair[1].address).count();
            assert_eq!((placed.len(), crossing), (24, expected));
        }
        let placed = nodes(1).pairs("u", 4, 1.0).expect("nothing is asked");
        assert!(placed.iter().all(|user| user.address == placed[0].address), "there is only one node");
    }

    #[test]
    fn names_are_found_whose_slots_are_led_where_their_users_are() {
        let nodes = nodes(3);
        let leaders: BTreeMap<u16, SocketAddr> =
            (0..16).map(|slot| (slot, nodes.targets[usize::from(slot) % 3])).collect();
        let (from, to) = (nodes.targets[0], nodes.targets[1]);
        let fits = |number: u32| nodes.fits(&leaders, &format!("a{number}"), &format!("b{number}"), from, to);
        let found = (0..10_000).filter(|number| fits(*number)).count();
        assert!((200..600).contains(&found), "about one of 27: {found}");
    }

    #[test]
    fn an_answer_is_read() {
        let answer = r#"HTTP/1.1 200 OK

[{"uids":["a","b"],"tcp_addr":"127.0.0.1:5100","ws_addr":"","wss_addr":""},{"uids":["c"],"tcp_addr":"127.0.0.2:5100"}]"#;
        let read: Vec<_> = routes(answer).collect();
        assert_eq!(read, [("a", "127.0.0.1:5100"), ("b", "127.0.0.1:5100"), ("c", "127.0.0.2:5100")]);
    }
}
