//! What `--target` means: which protocol, which addresses. It resolves names; it opens no connection.
//!
//! ```text
//! wk://HOST:PORT[,HOST:PORT…]        WKProto with its cipher       wk+plain://…   without
//! mqtt://…   MQTT 3.1.1     nats://…   NATS core     nats+js://…   NATS JetStream
//! ```

use std::net::{SocketAddr, ToSocketAddrs};

/// What is spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// WKProto, jindou's own.
    Wk {
        /// Without the cipher.
        plain: bool,
    },
    /// MQTT 3.1.1.
    Mqtt {
        /// 0 or 1.
        qos: u8,
    },
    /// NATS without storage.
    Nats,
    /// NATS with its streams.
    JetStream,
}

impl Protocol {
    /// What a message means to this server, in words for reports.
    pub fn describe(self) -> &'static str {
        match self {
            Protocol::Wk { plain: false } => "WKProto, cipher",
            Protocol::Wk { plain: true } => "WKProto, plain",
            Protocol::Mqtt { qos: 0 } => "MQTT 3.1.1, QoS 0",
            Protocol::Mqtt { .. } => "MQTT 3.1.1, QoS 1",
            Protocol::Nats => "NATS core",
            Protocol::JetStream => "NATS JetStream",
        }
    }

    /// True when what is sent to a user who is away waits for it.
    pub fn keeps_for_the_absent(self) -> bool {
        !matches!(self, Protocol::Mqtt { qos: 0 } | Protocol::Nats)
    }

    /// True when the sender's other devices get a copy of what it sends.
    pub fn copies_to_own_devices(self) -> bool {
        matches!(self, Protocol::Wk { .. })
    }

    /// True when the server says of each message that it has it. Otherwise an answered ping behind it has to do.
    pub fn answers_each_send(self) -> bool {
        self.keeps_for_the_absent()
    }

    fn port(self) -> u16 {
        match self {
            Protocol::Wk { .. } => 5100,
            Protocol::Mqtt { .. } => 1883,
            Protocol::Nats | Protocol::JetStream => 4222,
        }
    }
}

/// A server under test.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// What it speaks.
    pub protocol: Protocol,
    /// Where; users are spread over them.
    pub addresses: Vec<SocketAddr>,
    /// As it was written.
    pub text: String,
}

impl Target {
    /// Reads a URL; a list of addresses without scheme is WKProto. `plain` and `qos` are what the options say.
    ///
    /// # Errors
    /// One sentence that says what is wrong and what would be right.
    pub fn parse(text: &str, plain: bool, qos: u8) -> Result<Target, String> {
        let (scheme, rest) = text.split_once("://").unwrap_or(("wk", text));
        let protocol = match scheme {
            "wk" => Protocol::Wk { plain },
            "wk+plain" => Protocol::Wk { plain: true },
            "mqtt" => Protocol::Mqtt { qos },
            "nats" => Protocol::Nats,
            "nats+js" => Protocol::JetStream,
            _ => {
                return Err(format!(
                    "--target {text}: {scheme}:// is not known; there are wk, wk+plain, mqtt, nats and nats+js"
                ));
            }
        };
        if plain && !matches!(protocol, Protocol::Wk { .. }) {
            return Err(format!("--plain is about WKProto's cipher; {scheme}:// has none"));
        }
        if qos > 1 {
            return Err(format!("--qos {qos}: 0 and 1 are supported"));
        }
        let addresses = rest
            .trim_end_matches('/')
            .split(',')
            .map(|one| resolve(one, protocol.port()).map_err(|why| format!("--target {text}: {why}")))
            .collect::<Result<Vec<_>, _>>()?;
        Ok(Target { protocol, addresses, text: text.to_owned() })
    }
}

fn resolve(text: &str, port: u16) -> Result<SocketAddr, String> {
    if text.is_empty() {
        return Err("an address is missing; write HOST:PORT".to_owned());
    }
    let bare_v6 = text.ends_with(']');
    let whole = if !bare_v6 && text.contains(':') { text.to_owned() } else { format!("{text}:{port}") };
    let mut found =
        whole.to_socket_addrs().map_err(|fault| format!("{text} is no HOST:PORT that is known here: {fault}"))?;
    found.next().ok_or_else(|| format!("{text} has no address"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_say_protocol_and_addresses() {
        let parse = |text| Target::parse(text, false, 1).expect("it is right");
        assert_eq!(parse("127.0.0.1:5100").protocol, Protocol::Wk { plain: false });
        assert_eq!(parse("wk+plain://127.0.0.1:5100").protocol, Protocol::Wk { plain: true });
        assert_eq!(parse("nats+js://127.0.0.1").addresses[0].port(), 4222);
        let several = parse("mqtt://127.0.0.1:1,127.0.0.2/");
        assert_eq!(several.protocol, Protocol::Mqtt { qos: 1 });
        assert_eq!(several.addresses.iter().map(SocketAddr::port).collect::<Vec<_>>(), [1, 1883]);
        assert_eq!(parse("wk://[::1]").addresses[0].port(), 5100);
    }

    #[test]
    fn what_is_wrong_is_said_in_one_sentence() {
        let fault = |text, plain, qos| Target::parse(text, plain, qos).expect_err("it is wrong");
        assert!(fault("http://a:1", false, 1).contains("http:// is not known"));
        assert!(fault("wk://127.0.0.1:1,", false, 1).contains("an address is missing"));
        assert!(fault("wk://127.0.0.1:99999", false, 1).contains("no HOST:PORT"));
        assert!(fault("nats://127.0.0.1:1", true, 1).contains("--plain"));
        assert!(fault("mqtt://127.0.0.1:1", false, 2).contains("--qos 2"));
    }
}
