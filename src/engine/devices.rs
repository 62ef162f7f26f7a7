//! Who may be a device of a user, and whom a new connection ends. Pure rules over what the home knows (WKProto sheet,
//! sections 4.2 and 4.3); sending the kick is the shard's work.
//!
//! | new connection | existing one of the same flag | outcome for the existing one |
//! | --- | --- | --- |
//! | master | other device id | DISCONNECT, then closed |
//! | master or slave | same device id | closed silently |
//! | slave | other device id | stays |
//!
//! A connection may turn up behind those that came after it: its gateway was cut off, and a new leader had not heard of it. A master that came
//! meanwhile ends it all the same, gone again or not, as long as the leader that knew the master leads.

use crate::ids::{DeviceFlag, DeviceLevel, SessionAddress};

/// Masters of one flag that are remembered when they have gone: the two latest with different device ids. Whoever is older than any other
/// device's master is older than one of these. At it: the earliest is forgotten.
const PAST_MASTERS_MAX: usize = 2;

/// A device row: what `/user/token` stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// Device family.
    pub flag: DeviceFlag,
    /// What a connection of it becomes.
    pub level: DeviceLevel,
    /// Empty never logs in.
    pub token: Box<str>,
}

/// What becomes of an existing connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Conflict {
    /// Both live.
    None,
    /// Closed without a word: the same device has come back.
    Replaced,
    /// Told that it was kicked, then closed.
    Kicked,
}

/// Decides between a new connection and an existing one of the same user.
#[must_use]
pub fn conflict(new: (DeviceFlag, DeviceLevel, &str), existing: (DeviceFlag, &str)) -> Conflict {
    let (flag, level, device_id) = new;
    if flag != existing.0 {
        return Conflict::None;
    }
    if device_id == existing.1 {
        return Conflict::Replaced;
    }
    match level {
        DeviceLevel::Master => Conflict::Kicked,
        DeviceLevel::Slave => Conflict::None,
    }
}

/// Checks a CONNECT against the device rows. With `token_auth` off everybody may in, as a slave.
///
/// # Errors
/// The token is wrong, empty or unknown: the client's fault.
pub fn admit(devices: &[Device], flag: DeviceFlag, token: &str, token_auth: bool) -> Result<DeviceLevel, WrongToken> {
    let device = devices.iter().find(|device| device.flag == flag);
    if !token_auth {
        return Ok(match device {
            Some(device) if !token.is_empty() && *device.token == *token => device.level,
            _ => DeviceLevel::Slave,
        });
    }
    match device {
        Some(device) if !device.token.is_empty() && same(device.token.as_bytes(), token.as_bytes()) => Ok(device.level),
        _ => Err(WrongToken),
    }
}

/// A master that was online.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct PastMaster {
    /// It may be online all the same, when all that was known of its gateway was forgotten.
    address: SessionAddress,
    flag: DeviceFlag,
    /// Names its device id.
    device: u64,
    order: u64,
}

/// Masters of a user that are not known to be online any more.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PastMasters {
    known: Vec<PastMaster>,
}

impl PastMasters {
    /// A master is not online any more. `order` says which of two connections is the later one.
    pub fn remember(&mut self, address: SessionAddress, (flag, device_id): (DeviceFlag, &str), order: u64) {
        let gone = PastMaster { address, flag, device: name(device_id), order };
        let same = self.known.iter_mut().find(|known| known.flag == flag && known.device == gone.device);
        match same {
            Some(known) if known.order < order => *known = gone,
            Some(_) => {}
            None => {
                // Nearly always there is no other.
                self.known.reserve_exact(1);
                self.known.push(gone);
            }
        }
        let of_flag = self.known.iter().filter(|known| known.flag == flag);
        if of_flag.clone().count() > PAST_MASTERS_MAX {
            let earliest = of_flag.map(|known| known.order).min();
            self.known.retain(|known| known.flag != flag || Some(known.order) != earliest);
        }
    }

    /// Those that another leader of the user's home has known.
    pub fn take_in(&mut self, others: &PastMasters) {
        for other in &others.known {
            if !self.known.contains(other) {
                self.known.push(*other);
            }
        }
        let mut known = std::mem::take(&mut self.known);
        known.sort_unstable_by_key(|master| std::cmp::Reverse(master.order));
        for master in known {
            let of_flag = |kept: &&PastMaster| kept.flag == master.flag;
            let kept = self.known.iter().filter(of_flag).count();
            let earlier = self.known.iter().filter(of_flag).all(|kept| kept.device != master.device);
            if earlier && kept < PAST_MASTERS_MAX {
                self.known.push(master);
            }
        }
    }

    /// Nobody is remembered.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.known.is_empty()
    }

    /// What becomes of a connection of which its home hears late: one of these may have come after it.
    #[must_use]
    pub fn conflict(&self, address: SessionAddress, (flag, device_id): (DeviceFlag, &str), order: u64) -> Conflict {
        // It may be one of them, under a number that it has not heard of: it is not its own rival.
        let later =
            self.known.iter().filter(|known| known.flag == flag && known.order > order && known.address != address);
        let device = name(device_id);
        let mut outcome = Conflict::None;
        for known in later {
            // Who lost to another device is told so, even when its own device has come back too.
            if known.device != device {
                return Conflict::Kicked;
            }
            outcome = Conflict::Replaced;
        }
        outcome
    }
}

/// Names a device id among those of one user and flag.
fn name(device_id: &str) -> u64 {
    xxhash_rust::xxh3::xxh3_64(device_id.as_bytes())
}

/// The token does not match what was stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WrongToken;

/// Compares in a time that does not tell how much was right.
fn same(stored: &[u8], given: &[u8]) -> bool {
    stored.len() == given.len() && stored.iter().zip(given).fold(0, |differing, (a, b)| differing | (a ^ b)) == 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{NodeId, Place, SessionId, ShardId};

    const APP: DeviceFlag = DeviceFlag(0);
    const WEB: DeviceFlag = DeviceFlag(1);

    #[test]
    fn the_conflict_table_holds() {
        use DeviceLevel::{Master, Slave};
        assert_eq!(conflict((APP, Master, "a"), (APP, "b")), Conflict::Kicked);
        assert_eq!(conflict((APP, Master, "a"), (APP, "a")), Conflict::Replaced);
        assert_eq!(conflict((APP, Slave, "a"), (APP, "b")), Conflict::None);
        assert_eq!(conflict((APP, Slave, "a"), (APP, "a")), Conflict::Replaced);
        assert_eq!(conflict((APP, Master, "a"), (WEB, "b")), Conflict::None);
    }

    #[test]
    fn only_the_stored_token_gets_in() {
        let device = |token: &str| vec![Device { flag: APP, level: DeviceLevel::Master, token: token.into() }];
        assert_eq!(admit(&device("t"), APP, "t", true), Ok(DeviceLevel::Master));
        assert_eq!(admit(&device("t"), APP, "x", true), Err(WrongToken));
        assert_eq!(admit(&device("t"), WEB, "t", true), Err(WrongToken));
        assert_eq!(admit(&device(""), APP, "", true), Err(WrongToken), "a blank token never logs in");
        assert_eq!(admit(&[], APP, "", false), Ok(DeviceLevel::Slave));
    }

    fn address(index: u32) -> SessionAddress {
        let place = Place { node: NodeId(1), shard: ShardId(0) };
        SessionAddress { place, session: SessionId { index, generation: 1 } }
    }

    #[test]
    fn a_master_that_has_gone_ends_whoever_came_before_it() {
        let mut past = PastMasters::default();
        let conflict = |past: &PastMasters, device_id: &str, order| past.conflict(address(9), (APP, device_id), order);
        past.remember(address(0), (APP, "a"), 10);
        assert_eq!(conflict(&past, "b", 9), Conflict::Kicked);
        assert_eq!(conflict(&past, "a", 9), Conflict::Replaced);
        assert_eq!(conflict(&past, "b", 11), Conflict::None, "it came later");
        assert_eq!(past.conflict(address(9), (WEB, "b"), 9), Conflict::None, "another family");
        assert_eq!(past.conflict(address(0), (APP, "a"), 9), Conflict::None, "it has asked twice");
        past.remember(address(1), (APP, "a"), 5);
        assert_eq!(conflict(&past, "b", 9), Conflict::Kicked, "the latest of a device counts");
    }

    #[test]
    fn the_two_latest_devices_say_as_much_as_all() {
        let history = [("a", 10), ("b", 20), ("a", 30), ("c", 40), ("c", 50), ("b", 60)];
        let (mut past, mut halves) = (PastMasters::default(), [PastMasters::default(), PastMasters::default()]);
        for (n, (device_id, order)) in history.into_iter().enumerate() {
            past.remember(address(n as u32), (APP, device_id), order);
            halves[n % 2].remember(address(n as u32), (APP, device_id), order);
            let [one, mut whole] = halves.clone();
            whole.take_in(&one);
            for named in ["a", "b", "c", "d"] {
                for at in (5..70).step_by(10) {
                    let later = || history[..=n].iter().filter(|(_, order)| *order > at);
                    let other = later().any(|(device_id, _)| *device_id != named);
                    let own = if later().next().is_some() { Conflict::Replaced } else { Conflict::None };
                    let expected = if other { Conflict::Kicked } else { own };
                    for known in [&past, &whole] {
                        assert_eq!(known.conflict(address(9), (APP, named), at), expected, "{named} of {at} after {n}");
                        assert!(known.known.len() <= PAST_MASTERS_MAX);
                    }
                }
            }
        }
    }
}
