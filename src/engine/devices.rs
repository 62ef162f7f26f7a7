//! Who may be a device of a user, and whom a new connection ends. Pure rules over what the home knows (WKProto sheet,
//! sections 4.2 and 4.3); sending the kick is the shard's work.
//!
//! | new connection | existing one of the same flag | outcome for the existing one |
//! | --- | --- | --- |
//! | master | other device id | DISCONNECT, then closed |
//! | master or slave | same device id | closed silently |
//! | slave | other device id | stays |

use crate::ids::{DeviceFlag, DeviceLevel};

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
}
