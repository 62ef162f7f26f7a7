//! What a node's shards are told of the cluster, put together from the configuration, the data directory and the addresses
//! that were bound; and what others, nodes and clients, are told of this node. It decides nothing about the cluster.

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use super::data_directory::{DataDirectory, StartError};
use super::http::PublicAddresses;
use super::listen::BoundAddress;
use crate::config::{Config, is_secret};
use crate::engine::shard::ClusterSettings;
use crate::engine::steward::StewardLimits;
use crate::format::frame::Addresses;

/// An address as others can dial it: in place of a wildcard that of the cluster, or this machine's own.
#[must_use]
pub fn dialable(address: SocketAddr, config: &Config) -> SocketAddr {
    if !address.ip().is_unspecified() {
        return address;
    }
    let own = config.cluster_address().map_or(IpAddr::V4(Ipv4Addr::LOCALHOST), |advertised| advertised.ip());
    SocketAddr::new(own, address.port())
}

/// What `/route` says: what is configured, or else where the node listens.
#[must_use]
pub fn public_addresses(config: &Config, tcp: &BoundAddress, ws: &BoundAddress) -> PublicAddresses {
    let or = |given: &String, own: String| if given.is_empty() { own } else { given.clone() };
    PublicAddresses {
        tcp: or(&config.external.tcp_addr, dialable(tcp.address, config).to_string()),
        ws: or(&config.external.ws_addr, format!("ws://{}", dialable(ws.address, config))),
        wss: config.external.wss_addr.clone(),
    }
}

/// For every shard of the node.
///
/// # Errors
/// One line: the file of the secret cannot be read or holds none, or the shards are too many for the ports.
pub fn cluster_settings(
    config: &Config,
    directory: &DataDirectory,
    clients: &PublicAddresses,
    http: SocketAddr,
) -> Result<ClusterSettings, StartError> {
    let alone = ClusterSettings::alone(directory.identity());
    let address = config.cluster_address();
    let addresses = Addresses {
        cluster: address.unwrap_or(alone.addresses.cluster),
        tcp: clients.tcp.as_str().into(),
        ws: clients.ws.as_str().into(),
        wss: clients.wss.as_str().into(),
        http: dialable(http, config).to_string().into(),
    };
    let cluster = &config.cluster;
    let common = ClusterSettings {
        name: cluster.name.as_str().into(),
        replicas: cluster.replicas,
        steward: StewardLimits { replace_after: cluster.replace_after.0, ..StewardLimits::PRODUCTION },
        addresses,
        ..alone
    };
    let (Some(address), Some(listen)) = (address, cluster.listen) else { return Ok(common) };
    for (key, address) in [("cluster.listen", listen), ("cluster.advertise", address)] {
        Config::check_cluster_ports(key, address, directory.shards()).map_err(|bad| StartError(bad.to_string()))?;
    }
    let seeds = cluster.seeds.iter().copied().filter(|seed| *seed != address && *seed != listen).collect();
    Ok(ClusterSettings { address: Some(address), seeds, secret: secret(config)?, ..common })
}

fn secret(config: &Config) -> Result<Box<str>, StartError> {
    let cluster = &config.cluster;
    if !cluster.secret.is_empty() {
        return Ok(cluster.secret.as_str().into());
    }
    let shown = cluster.secret_file.display();
    let unreadable = |error: io::Error| StartError(format!("cannot read {shown} (cluster.secret_file): {error}"));
    let text = fs::read_to_string(&cluster.secret_file).map_err(unreadable)?;
    let text = text.trim();
    if !is_secret(text) {
        return Err(StartError(format!(
            "{shown} (cluster.secret_file) holds {} bytes; a secret has 16 to 256",
            text.len()
        )));
    }
    Ok(text.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shell::data_directory::Wanted;

    fn bound(address: &str) -> BoundAddress {
        BoundAddress { address: address.parse().unwrap(), sockets: Vec::new() }
    }

    #[test]
    fn route_names_what_is_configured_or_else_where_the_node_listens() {
        let mut config = Config::default();
        let (tcp, ws) = (bound("0.0.0.0:5100"), bound("192.0.2.7:5200"));
        let own = public_addresses(&config, &tcp, &ws);
        assert_eq!((own.tcp.as_str(), own.ws.as_str()), ("127.0.0.1:5100", "ws://192.0.2.7:5200"));
        assert_eq!(own.wss, "");
        config.cluster.listen = Some("192.0.2.9:5300".parse().unwrap());
        assert_eq!(public_addresses(&config, &tcp, &ws).tcp, "192.0.2.9:5100");
        config.external.tcp_addr = "im.example:5100".to_owned();
        config.external.wss_addr = "wss://im.example".to_owned();
        let told = public_addresses(&config, &tcp, &ws);
        assert_eq!((told.tcp.as_str(), told.wss.as_str()), ("im.example:5100", "wss://im.example"));
        assert_eq!(told.ws, "ws://192.0.2.7:5200");
    }

    #[test]
    fn wildcards_are_dialled_on_this_machine() {
        let config = Config::default();
        let shown = |address: &str| dialable(address.parse().unwrap(), &config).to_string();
        assert_eq!(shown("0.0.0.0:5100"), "127.0.0.1:5100");
        assert_eq!(shown("[::]:5100"), "127.0.0.1:5100");
        assert_eq!(shown("[::1]:1"), "[::1]:1");
    }

    #[test]
    fn shards_are_told_of_the_cluster_and_a_bad_secret_file_is_one_line() {
        let path = std::env::temp_dir().join(format!("jindou-cluster-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        let wanted =
            Wanted { node_id: 1, shards: Some(2), shards_default: 1, slot_depth: 4, chance: [9; 32], unix_us: 1 };
        let directory = DataDirectory::open(&path, &wanted).unwrap();
        let mut config = Config::default();
        let clients = public_addresses(&config, &bound("0.0.0.0:5100"), &bound("0.0.0.0:5200"));
        let http = "0.0.0.0:5001".parse().unwrap();
        let settle = |config: &Config| cluster_settings(config, &directory, &clients, http);
        let alone = settle(&config).unwrap();
        assert_eq!((alone.address, alone.identity, &*alone.secret), (None, directory.identity(), ""));
        let (own, other): (SocketAddr, SocketAddr) =
            ("192.0.2.9:5300".parse().unwrap(), "192.0.2.8:5300".parse().unwrap());
        config.cluster.listen = Some("0.0.0.0:5300".parse().unwrap());
        config.cluster.advertise = Some(own);
        config.cluster.seeds = vec![own, other];
        config.cluster.secret_file = path.join("secret");
        let refused = |config: &Config| settle(config).unwrap_err().to_string();
        assert!(refused(&config).contains("cannot read"), "{}", refused(&config));
        fs::write(path.join("secret"), "short\n").unwrap();
        assert!(refused(&config).ends_with("holds 5 bytes; a secret has 16 to 256"), "{}", refused(&config));
        fs::write(path.join("secret"), "  sixteen bytes or more\n").unwrap();
        let told = settle(&config).unwrap();
        assert_eq!((told.address, told.seeds.as_slice()), (Some(own), &[other][..]));
        assert_eq!((&*told.secret, told.addresses.cluster), ("sixteen bytes or more", own));
        assert_eq!(&*told.addresses.http, "192.0.2.9:5001");
        assert!(!format!("{told:?}").contains("sixteen bytes"), "the secret is not shown");
        config.cluster.advertise = Some("192.0.2.9:65535".parse().unwrap());
        assert!(refused(&config).contains("cluster.advertise = 192.0.2.9:65535 is not allowed: 2 shards need"));
        drop(directory);
        fs::remove_dir_all(&path).unwrap();
    }
}
