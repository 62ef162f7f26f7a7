//! What a node can be told. One table names every setting with its meaning, what is allowed and how it is read; the file
//! (TOML), the environment (`JINDOU_SECTION_KEY`) and the flags all go through it, in this order, the later one wins. So a
//! mistake reads the same wherever it was made, and the README's table is the code's.
//!
//! It does not look at the machine (cores, ports, files): `shell::node` does, when it begins.

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::engine::shard::{Durability, OfflineMode, Retention};
use crate::ids::SLOT_COUNT_MAX;
use crate::limits::{Limits, SEGMENT_BYTES_MIN};

pub use value::{ByteSize, ListenMode, LogFormat, ShardCount, Span, is_secret};

mod value;

/// Everything that can be set.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // each field is a key of `SETTINGS`, which says what it means
pub struct Config {
    pub node: Node,
    pub cluster: Cluster,
    pub listen: Listen,
    pub external: External,
    pub http: Http,
    pub auth: Auth,
    pub delivery: Delivery,
    pub journal: Journal,
    pub limits: LimitSettings,
    pub log: Log,
}

/// Section `[node]`.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Node {
    pub id: u16,
    pub data_dir: PathBuf,
    pub shards: ShardCount,
    pub slots: u32,
}

/// Section `[cluster]`.
#[derive(Clone, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Cluster {
    pub name: String,
    pub listen: Option<SocketAddr>,
    pub advertise: Option<SocketAddr>,
    pub seeds: Vec<SocketAddr>,
    pub secret: String,
    pub secret_file: PathBuf,
    pub replicas: u8,
    pub replace_after: Span,
}

/// Section `[listen]`.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Listen {
    pub tcp: SocketAddr,
    pub ws: SocketAddr,
    pub http: SocketAddr,
    pub tcp_mode: ListenMode,
    pub ws_mode: ListenMode,
}

/// Section `[external]`: what `/route` tells clients.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct External {
    pub tcp_addr: String,
    pub ws_addr: String,
    pub wss_addr: String,
}

/// Section `[http]`.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Http {
    pub token: String,
}

/// Section `[auth]`.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Auth {
    pub token: bool,
}

/// Section `[delivery]`.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Delivery {
    pub offline: OfflineMode,
}

/// Section `[journal]`.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Journal {
    pub durability: Durability,
    pub segment_bytes: ByteSize,
    pub retention_bytes: ByteSize,
    pub retention_age: Span,
}

/// Section `[limits]`: those of [`Limits`] that an operator may want to move.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct LimitSettings {
    pub sessions_per_shard: usize,
    pub connections_per_address: u32,
    pub sessions_per_user: usize,
    pub send_window: u32,
    pub recv_window: u32,
    pub recv_window_bytes: ByteSize,
    pub sends_per_second: u32,
    pub connect_timeout: Span,
    pub idle_timeout: Span,
    pub redeliver_after: Span,
    pub recent_bytes: ByteSize,
    pub replay_bytes: ByteSize,
    pub cached_routes: usize,
    pub api_requests: usize,
    pub profile_one_in: u32,
}

/// Section `[log]`.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Log {
    pub level: String,
    pub format: LogFormat,
}

impl Default for Config {
    fn default() -> Config {
        let any = |port| SocketAddr::from(([0, 0, 0, 0], port));
        let limits = Limits::PRODUCTION;
        Config {
            node: Node { id: 1, data_dir: PathBuf::from("./data"), shards: ShardCount::Auto, slots: 256 },
            cluster: Cluster {
                name: "jindou".to_owned(),
                listen: None,
                advertise: None,
                seeds: Vec::new(),
                secret: String::new(),
                secret_file: PathBuf::new(),
                replicas: 3,
                replace_after: Span(Duration::from_secs(300)),
            },
            listen: Listen {
                tcp: any(5100),
                ws: any(5200),
                http: any(5001),
                tcp_mode: ListenMode::Cipher,
                ws_mode: ListenMode::Cipher,
            },
            external: External { tcp_addr: String::new(), ws_addr: String::new(), wss_addr: String::new() },
            http: Http { token: String::new() },
            auth: Auth { token: false },
            delivery: Delivery { offline: OfflineMode::Push },
            journal: Journal {
                durability: Durability::Fsync,
                segment_bytes: ByteSize(64 << 20),
                retention_bytes: ByteSize(0),
                retention_age: Span(Duration::ZERO),
            },
            limits: LimitSettings {
                sessions_per_shard: limits.sessions_max,
                connections_per_address: 10_000,
                sessions_per_user: limits.sessions_per_user_max,
                send_window: limits.send_window,
                recv_window: limits.recv_window,
                recv_window_bytes: ByteSize(u64::from(limits.recv_window_bytes)),
                sends_per_second: limits.sends_per_second,
                connect_timeout: Span(limits.connect_timeout),
                idle_timeout: Span(limits.idle_timeout),
                redeliver_after: Span(limits.redeliver_after),
                recent_bytes: ByteSize(limits.recent_bytes_max as u64),
                replay_bytes: ByteSize(limits.replay_bytes_max),
                cached_routes: limits.cached_routes_max,
                api_requests: limits.api_requests_max,
                profile_one_in: limits.marked_one_in,
            },
            log: Log { level: "info".to_owned(), format: LogFormat::Auto },
        }
    }
}

/// One setting: its name, what may stand there, what it does, and how it is put and shown.
pub struct Setting {
    /// `section.key`.
    pub key: &'static str,
    /// What may stand there, in words.
    pub allowed: &'static str,
    /// What it does, one sentence or two.
    pub meaning: &'static str,
    put: fn(&mut Config, &str) -> bool,
    show: fn(&Config) -> String,
}

impl Setting {
    /// The variable that sets it.
    #[must_use]
    pub fn environment_name(&self) -> String {
        format!("JINDOU_{}", self.key.replace('.', "_").to_uppercase())
    }

    /// The value in a configuration, as TOML writes it.
    #[must_use]
    pub fn show(&self, config: &Config) -> String {
        (self.show)(config)
    }
}

/// One row of [`SETTINGS`]: the field's path is its key; the last part says which values of its type are allowed.
macro_rules! settings {
    ($($section:ident.$key:ident, $allowed:literal, $meaning:literal, $check:expr;)+) => {
        /// Every setting, in the order in which the documentation lists them.
        pub const SETTINGS: &[Setting] = &[$(Setting {
            key: concat!(stringify!($section), ".", stringify!($key)),
            allowed: $allowed,
            meaning: $meaning,
            put: |config, text| {
                let Some(value) = value::Value::parse(text) else { return false };
                let allowed = value::checked(&value, &config.$section.$key, $check);
                if allowed {
                    config.$section.$key = value;
                }
                allowed
            },
            show: |config| value::Value::show(&config.$section.$key),
        }),+];
    };
}

settings! {
    node.id, "1 to 65535", "Number of this node; it stays with the data directory, and no other node of the cluster may have it. `cluster.node_id` is another name for it.", |v| *v >= 1;
    node.data_dir, "a directory; made when missing", "Where everything is kept. One process per directory.", |v: &PathBuf| !v.as_os_str().is_empty();
    node.shards, "\"auto\" or 1 to 256", "Shards, one pinned thread each. `auto` is one per core.", |_| true;
    node.slots, "a power of two from 1 to 16384", "Slots of the key space at the first start; `jindou cluster split` and `merge` change their number later.", |v| v.is_power_of_two() && *v as usize <= SLOT_COUNT_MAX;
    cluster.name, "1 to 64 bytes", "Name of the cluster. Nodes of one with another name are not let in. It may be changed, on all nodes together.", |v: &String| (1..=64).contains(&v.len());
    cluster.listen, "ADDRESS:PORT or \"\"", "Where other nodes reach this one over TCP and UDP; shard n listens at PORT + n. Empty: this node is alone.", |v| v.is_none_or(|v: SocketAddr| v.port() != 0);
    cluster.advertise, "ADDRESS:PORT or \"\"", "Where other nodes dial that address. Empty: `cluster.listen`, which then must not be a wildcard.", |v| v.is_none_or(|v: SocketAddr| v.port() != 0 && !v.ip().is_unspecified());
    cluster.seeds, "a list of ADDRESS:PORT", "Members to ask to be let in, as they advertise themselves; this node's own address among them is left out. None: this node founds the cluster at its first start.", |v: &Vec<SocketAddr>| v.iter().all(|v| v.port() != 0 && !v.ip().is_unspecified());
    cluster.secret, "16 to 256 bytes, or \"\"", "What nodes prove to each other that they know; the same on all. Needed with `cluster.listen`.", |v: &String| v.is_empty() || value::is_secret(v);
    cluster.secret_file, "a file or \"\"", "Where the secret is read from instead; white space around it is left out.", |_| true;
    cluster.replicas, "1 to 7", "Nodes that keep each slot, when there are as many. It counts when the cluster is founded; later `jindou cluster replicas` changes it.", |v| (1..=7).contains(v);
    cluster.replace_after, "10s to 7d", "A node that is gone for so long is given up: its share is rebuilt on others, if there are enough.", |v| value::between(v, 10, 7 * 86_400);
    listen.tcp, "ADDRESS:PORT", "Where clients connect over TCP. Port 0 takes a free one.", |_| true;
    listen.ws, "ADDRESS:PORT", "Where clients connect over WebSocket. Port 0 takes a free one.", |_| true;
    listen.http, "ADDRESS:PORT", "Where backends call the HTTP API. It has no users and no roles: keep it inside.", |_| true;
    listen.tcp_mode, "\"cipher\" or \"plain\"", "`plain` leaves out WKProto's key agreement and cipher: for trusted networks and measuring.", |_| true;
    listen.ws_mode, "\"cipher\" or \"plain\"", "The same for WebSocket.", |_| true;
    external.tcp_addr, "\"HOST:PORT\" or \"\"", "TCP address that `/route` gives to clients. Empty: that of `listen.tcp`; in place of a wildcard that of `cluster.advertise`, or 127.0.0.1.", |_| true;
    external.ws_addr, "\"ws://HOST:PORT\" or \"\"", "The same for WebSocket.", |v| v.is_empty() || v.starts_with("ws://");
    external.wss_addr, "\"wss://HOST:PORT\" or \"\"", "The same for WebSocket over TLS, which a proxy in front ends. Empty: none.", |v| v.is_empty() || v.starts_with("wss://");
    http.token, "text", "When not empty, every API call must carry it in the header `token`; probes and metrics need none.", |_| true;
    auth.token, "true or false", "Whether CONNECT needs the token that `/user/token` has stored.", |_| true;
    delivery.offline, "\"push\" or \"sync\"", "What came while a device was away: pushed at CONNECT, or passed over, to be read with `/channel/messagesync` (commands then are missed).", |_| true;
    journal.durability, "\"fsync\" or \"memory\"", "What a SENDACK promises. `memory` acknowledges before the disk has it: a power cut, or the end of the process, loses the last moments (5 ms and what the disk is at).", |_| true;
    journal.segment_bytes, "a multiple of 4 KiB from 4MiB to 1GiB", "Size of a journal file. History is dropped by whole files.", |v| v.0 % 4096 == 0 && (SEGMENT_BYTES_MIN..=1 << 30).contains(&v.0);
    journal.retention_bytes, "a size; 0 is no bound", "Journal bytes of this node beyond which the oldest history is dropped.", |_| true;
    journal.retention_age, "a time; 0 is no bound", "Age beyond which history is dropped.", |_| true;
    limits.sessions_per_shard, "1 to 1000000", "Connections of one shard. Beyond it new ones are closed at once.", |v| (1..=1_000_000).contains(v);
    limits.connections_per_address, "0 to 1000000; 0 is no bound", "Connections from one IP address to one shard. Beyond it new ones are closed at once.", |v| *v <= 1_000_000;
    limits.sessions_per_user, "1 to 10000", "Connections of one user. Beyond it the oldest slave device is closed.", |v| (1..=10_000).contains(v);
    limits.send_window, "2 to 4096", "Unanswered SENDs of a session. Beyond it its socket is not read.", |v| (2..=4096).contains(v);
    limits.recv_window, "1 to 65536", "RECVs of a session without RECVACK. Beyond it messages wait in the log.", |v| (1..=65_536).contains(v);
    limits.recv_window_bytes, "4KiB to 64MiB", "Bytes of those RECVs.", |v| (4 << 10..=64 << 20).contains(&v.0);
    limits.sends_per_second, "1 to 10000000", "SENDs of a session per second. Beyond it they get reason 22.", |v| (1..=10_000_000).contains(v);
    limits.connect_timeout, "1s to 10m", "From accept to CONNECT.", |v| value::between(v, 1, 600);
    limits.idle_timeout, "1s to 7d", "Without a byte from a client. Beyond it the session is closed.", |v| value::between(v, 1, 7 * 86_400);
    limits.redeliver_after, "1s to 1h", "How long a RECV waits for its RECVACK before it is sent again.", |v| value::between(v, 1, 3600);
    limits.recent_bytes, "1MiB to 1TiB", "Memory of one shard for recent message bodies; older ones are read from disk.", |v| (1 << 20..=1 << 40).contains(&v.0);
    limits.replay_bytes, "16MiB to 1TiB", "Journal bytes of one shard that a start may have to replay: what a checkpoint is made for.", |v| (16 << 20..=1 << 40).contains(&v.0);
    limits.cached_routes, "0 to 1000000", "Members of one slot's channels of whom its leader remembers on which nodes their sessions are, to send there straight. 0: everything goes by their homes.", |v| *v <= 1_000_000;
    limits.api_requests, "1 to 1000000", "API requests under way on one shard. Beyond it HTTP answers 503.", |v| (1..=1_000_000).contains(v);
    limits.profile_one_in, "0 to 1000000; 0 is none", "Of so many messages one is followed through its stages for `jindou profile`. With 0 nothing is timed at all.", |v| *v <= 1_000_000;
    log.level, "off, error, warn, info, debug, trace; by module: warn,jindou::shell=debug", "What is logged to standard error. RUST_LOG wins over it.", |v| value::is_log_filter(v);
    log.format, "\"auto\", \"plain\" or \"colour\"", "`auto` colours the log when it goes to a terminal.", |_| true;
}

/// Other names for settings, each with the one in the table.
const ALIASES: &[(&str, &str)] = &[("cluster.node_id", "node.id")];

/// Without the secret: a configuration may be shown.
impl fmt::Debug for Cluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cluster")
            .field("name", &self.name)
            .field("listen", &self.listen)
            .field("advertise", &self.advertise)
            .field("seeds", &self.seeds)
            .field("replicas", &self.replicas)
            .field("replace_after", &self.replace_after)
            .finish_non_exhaustive()
    }
}

/// What is wrong with a configuration, in one line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadConfig(String);

impl fmt::Display for BadConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for BadConfig {}

impl Config {
    /// Defaults, then the file, then the environment, then the flags, then how they fit together.
    ///
    /// # Errors
    /// The first mistake, naming the key, the value, where it stands and what is allowed.
    pub fn load(
        file: Option<&Path>,
        environment: impl IntoIterator<Item = (String, String)>,
        flags: &[(String, String)],
    ) -> Result<Config, BadConfig> {
        let mut config = Config::default();
        if let Some(path) = file {
            let text = std::fs::read_to_string(path)
                .map_err(|error| BadConfig(format!("cannot read {}: {error}", path.display())))?;
            config.apply_file(&text, &path.display().to_string())?;
        }
        config.apply_environment(environment)?;
        for (key, value) in flags {
            config.put(key, value, "the command line")?;
        }
        config.hold_together()?;
        Ok(config)
    }

    /// Sets one key from text.
    fn put(&mut self, key: &str, text: &str, place: &str) -> Result<(), BadConfig> {
        let named = ALIASES.iter().find(|(alias, _)| *alias == key).map_or(key, |(_, named)| named);
        let setting = SETTINGS.iter().find(|s| s.key == named).ok_or_else(|| unknown_key(key, place))?;
        if (setting.put)(self, text) {
            Ok(())
        } else {
            let shown = if named == "cluster.secret" { "…" } else { text };
            Err(BadConfig(format!("{place}: {key} = {shown:?} is not allowed; allowed: {}", setting.allowed)))
        }
    }

    /// Takes a TOML text; `place` names it in errors.
    fn apply_file(&mut self, text: &str, place: &str) -> Result<(), BadConfig> {
        let table: toml::Table = text.parse().map_err(|error: toml::de::Error| {
            let line = error.span().map_or(0, |span| text[..span.start].lines().count().max(1));
            BadConfig(format!("{place}: line {line}: {}", error.message().replace('\n', " ")))
        })?;
        for (section, content) in &table {
            let toml::Value::Table(keys) = content else {
                return Err(unknown_key(section, place));
            };
            for (key, value) in keys {
                let text = match value {
                    toml::Value::String(text) => text.clone(),
                    toml::Value::Integer(number) => number.to_string(),
                    toml::Value::Boolean(yes) => yes.to_string(),
                    other => other.to_string().replace('\n', " "),
                };
                self.put(&format!("{section}.{key}"), &text, place)?;
            }
            if keys.is_empty() && !SETTINGS.iter().any(|s| section_of(s.key) == section) {
                return Err(unknown_key(&format!("{section}."), place));
            }
        }
        Ok(())
    }

    /// Takes what is named `JINDOU_SECTION_KEY`. Names of other sections are left alone: orchestrators put addresses of
    /// services into variables such as `JINDOU_PORT`.
    fn apply_environment(&mut self, environment: impl IntoIterator<Item = (String, String)>) -> Result<(), BadConfig> {
        let mut ours: Vec<_> = environment.into_iter().filter(|(name, _)| name.starts_with("JINDOU_")).collect();
        ours.sort();
        for (name, value) in ours {
            let place = format!("environment variable {name}");
            if let Some(setting) = SETTINGS.iter().find(|s| s.environment_name() == name) {
                self.put(setting.key, &value, &place)?;
                continue;
            }
            let lower = name["JINDOU_".len()..].to_lowercase();
            if let Some((alias, _)) = ALIASES.iter().find(|(alias, _)| alias.replace('.', "_") == lower) {
                self.put(alias, &value, &place)?;
                continue;
            }
            if let Some((section, key)) = lower.split_once('_')
                && SETTINGS.iter().any(|s| section_of(s.key) == section)
            {
                return Err(unknown_key(&format!("{section}.{key}"), &place));
            }
        }
        Ok(())
    }

    /// What no single key can know.
    fn hold_together(&self) -> Result<(), BadConfig> {
        if let ShardCount::Exactly(shards) = self.node.shards
            && u32::from(shards) > self.node.slots
        {
            return Err(BadConfig(format!(
                "node.shards = {shards} is not allowed; allowed: at most node.slots, which is {}",
                self.node.slots
            )));
        }
        let (kept, least) = (self.journal.retention_bytes.0, self.journal.segment_bytes.0 * 4);
        if kept != 0 && kept < least {
            return Err(BadConfig(format!(
                "journal.retention_bytes = {} is not allowed; allowed: 0 or at least four segments, {}",
                self.journal.retention_bytes,
                ByteSize(least)
            )));
        }
        // Counted by who has none: a device that is away without a word would be taken for one that has everything.
        let tries = u32::from(Limits::PRODUCTION.redeliver_tries) + 1;
        let counts_as_taken = self.limits.redeliver_after.0 * tries;
        if self.limits.idle_timeout.0 >= counts_as_taken {
            return Err(BadConfig(format!(
                "limits.idle_timeout = {} is not allowed; allowed: less than {tries} times limits.redeliver_after, {}, after which a message counts as \
                 received",
                value::Value::show(&self.limits.idle_timeout),
                value::Value::show(&Span(counts_as_taken))
            )));
        }
        self.cluster_holds_together()
    }

    fn cluster_holds_together(&self) -> Result<(), BadConfig> {
        let cluster = &self.cluster;
        let Some(listen) = cluster.listen else {
            if !cluster.seeds.is_empty() {
                return Err(BadConfig(
                    "cluster.seeds is set and cluster.listen is not; set the address where other nodes reach this one"
                        .to_owned(),
                ));
            }
            return Ok(());
        };
        match (cluster.secret.is_empty(), cluster.secret_file.as_os_str().is_empty()) {
            (true, true) => {
                return Err(BadConfig(
                    "cluster.listen is set and no secret is; set cluster.secret or cluster.secret_file, the same on all \
                     nodes"
                        .to_owned(),
                ));
            }
            (false, false) => {
                return Err(BadConfig("cluster.secret and cluster.secret_file are both set; set one".to_owned()));
            }
            _ => {}
        }
        let Some(advertise) = self.cluster_address() else {
            return Err(BadConfig(format!(
                "cluster.advertise is not set, and cluster.listen = {listen} is no address that other nodes can dial; \
                 set cluster.advertise to one"
            )));
        };
        if let ShardCount::Exactly(shards) = self.node.shards {
            Config::check_cluster_ports("cluster.listen", listen, shards)?;
            Config::check_cluster_ports("cluster.advertise", advertise, shards)?;
        }
        Ok(())
    }

    /// Where other nodes dial this node's first shard, when it is not alone.
    #[must_use]
    pub fn cluster_address(&self) -> Option<SocketAddr> {
        let listen = self.cluster.listen?;
        self.cluster.advertise.or_else(|| (!listen.ip().is_unspecified()).then_some(listen))
    }

    /// Each shard needs a port of its own, from this one on.
    ///
    /// # Errors
    /// When there are not so many.
    pub fn check_cluster_ports(key: &str, address: SocketAddr, shards: u16) -> Result<(), BadConfig> {
        let highest = u16::MAX - (shards.max(1) - 1);
        if address.port() <= highest {
            return Ok(());
        }
        Err(BadConfig(format!(
            "{key} = {address} is not allowed: {shards} shards need a port each from there on; allowed: a port of at most \
             {highest}"
        )))
    }

    /// The engine's limits.
    #[must_use]
    pub fn engine_limits(&self) -> Limits {
        let set = &self.limits;
        Limits {
            sessions_max: set.sessions_per_shard,
            sessions_per_user_max: set.sessions_per_user,
            send_window: set.send_window,
            recv_window: set.recv_window,
            recv_window_bytes: u32::try_from(set.recv_window_bytes.0).unwrap_or(u32::MAX),
            sends_per_second: set.sends_per_second,
            connect_timeout: set.connect_timeout.0,
            idle_timeout: set.idle_timeout.0,
            redeliver_after: set.redeliver_after.0,
            recent_bytes_max: usize::try_from(set.recent_bytes.0).unwrap_or(usize::MAX),
            replay_bytes_max: set.replay_bytes.0,
            cached_routes_max: set.cached_routes,
            api_requests_max: set.api_requests,
            marked_one_in: set.profile_one_in,
            ..Limits::PRODUCTION
        }
    }

    /// Size of a journal file.
    #[must_use]
    pub fn segment_bytes(&self) -> u32 {
        u32::try_from(self.journal.segment_bytes.0).expect("at most 1 GiB")
    }

    /// log2 of the slots.
    #[must_use]
    pub fn slot_depth(&self) -> u8 {
        u8::try_from(self.node.slots.ilog2()).expect("a u32 has 32 bits")
    }

    /// How much one of so many shards keeps.
    #[must_use]
    pub fn retention(&self, shard_count: u16) -> Retention {
        let age_ms = u64::try_from(self.journal.retention_age.0.as_millis()).unwrap_or(u64::MAX);
        Retention { bytes: self.journal.retention_bytes.0 / u64::from(shard_count.max(1)), age_ms }
    }
}

fn section_of(key: &str) -> &str {
    key.split('.').next().unwrap_or(key)
}

fn unknown_key(key: &str, place: &str) -> BadConfig {
    let section = section_of(key);
    let known: Vec<&str> =
        SETTINGS.iter().filter(|s| section_of(s.key) == section).map(|s| &s.key[section.len() + 1..]).collect();
    if known.is_empty() {
        let mut sections: Vec<&str> = SETTINGS.iter().map(|s| section_of(s.key)).collect();
        sections.dedup();
        return BadConfig(format!("{place}: unknown section [{section}]; known: {}", sections.join(", ")));
    }
    let name = key.strip_suffix('.').unwrap_or(key);
    if key.contains('.') {
        BadConfig(format!("{place}: unknown key {name}; [{section}] knows {}", known.join(", ")))
    } else {
        BadConfig(format!("{place}: {section} must be a section: write [{section}] and its keys below"))
    }
}

/// Every setting as a table for people: what README shows.
#[must_use]
pub fn config_table_markdown() -> String {
    let defaults = Config::default();
    let mut out = String::from("| key | default | allowed | meaning |\n| --- | --- | --- | --- |\n");
    for setting in SETTINGS {
        let row = format!(
            "| `{}` | `{}` | {} | {} |\n",
            setting.key,
            setting.show(&defaults),
            setting.allowed.replace('|', "\\|"),
            setting.meaning.replace('|', "\\|"),
        );
        out.push_str(&row);
    }
    out
}

/// The commented file that ships as `tuning/jindou.toml`: every key at its default.
#[must_use]
pub fn config_file_text() -> String {
    let defaults = Config::default();
    let mut out = String::from(
        "# jindou's configuration: every key at its default. Copy what you change; `jindou --check-config --config FILE`\n\
         # says whether it is right. Each key can also be given as JINDOU_SECTION_KEY in the environment (it wins over the\n\
         # file) or as --set section.key=value (it wins over both). Sizes: 4096, 64KiB, 1MiB. Times: 8s, 10m, 36h, 7d.\n",
    );
    let mut section = "";
    for setting in SETTINGS {
        if section_of(setting.key) != section {
            section = section_of(setting.key);
            out.push_str(&format!("\n[{section}]\n"));
        }
        out.push_str(&format!("# {}\n# Allowed: {}.\n", setting.meaning, setting.allowed));
        out.push_str(&format!("{} = {}\n", &setting.key[section.len() + 1..], setting.show(&defaults)));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error_of(file: &str) -> String {
        let mut config = Config::default();
        let result = config.apply_file(file, "f.toml").and_then(|()| config.hold_together());
        result.expect_err("a mistake is refused").to_string()
    }

    #[test]
    fn the_shipped_file_is_the_defaults_in_words() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tuning/jindou.toml");
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(text, config_file_text(), "write it anew: jindou --print-config-file");
        assert_eq!(Config::load(Some(&path), [], &[]).unwrap(), Config::default());
        for setting in SETTINGS {
            let key = setting.key.split_once('.').unwrap().1;
            assert!(text.contains(&format!("\n{key} = ")), "{} is missing", setting.key);
        }
    }

    #[test]
    fn defaults_are_those_of_the_limits_and_every_default_is_allowed() {
        assert_eq!(Config::default().engine_limits(), Limits::PRODUCTION);
        for setting in SETTINGS {
            let shown = setting.show(&Config::default());
            let mut config = Config::default();
            config.put(setting.key, shown.trim_matches('"'), "test").unwrap();
            assert_eq!(config, Config::default(), "{}", setting.key);
        }
    }

    #[test]
    fn a_mistake_is_one_line_that_names_key_value_and_what_is_allowed() {
        for (file, wanted) in [
            ("[node]\nid = 0", "f.toml: node.id = \"0\" is not allowed; allowed: 1 to 65535"),
            (
                "[node]\nslots = 300",
                "f.toml: node.slots = \"300\" is not allowed; allowed: a power of two from 1 to 16384",
            ),
            ("[listen]\ntcp = 5100", "f.toml: listen.tcp = \"5100\" is not allowed; allowed: ADDRESS:PORT"),
            (
                "[listen]\ntpc = \"x\"",
                "f.toml: unknown key listen.tpc; [listen] knows tcp, ws, http, tcp_mode, ws_mode",
            ),
            ("node = 3", "f.toml: node must be a section: write [node] and its keys below"),
            (
                "[delivery]\noffline = [1]",
                "f.toml: delivery.offline = \"[1]\" is not allowed; allowed: \"push\" or \"sync\"",
            ),
            (
                "[node]\nshards = 8\nslots = 4",
                "node.shards = 8 is not allowed; allowed: at most node.slots, which is 4",
            ),
        ] {
            assert_eq!(error_of(file), wanted);
        }
        assert!(error_of("[nodes]\nid = 1").contains("unknown section [nodes]; known: node, cluster, listen"));
        assert!(error_of("[nodes]").contains("unknown section [nodes]"));
        assert!(error_of("[node]\nid = ").starts_with("f.toml: line 2: "));
        assert!(error_of("[journal]\nretention_bytes = \"1MiB\"").contains("at least four segments, 256MiB"));
        for (key, value) in [("idle_timeout", "10m"), ("redeliver_after", "20s")] {
            let refused = error_of(&format!("[limits]\n{key} = \"{value}\""));
            assert!(refused.contains("after which a message counts as received"), "{refused}");
        }
        for file in ["[node]\nid = ", "x", "[node]\nid = 1979-05-27"] {
            assert_eq!(error_of(file).lines().count(), 1);
        }
    }

    #[test]
    fn the_environment_wins_over_the_file_and_flags_over_both() {
        let mut config = Config::default();
        config.apply_file("[node]\nid = 2\nslots = 16\n[log]\nlevel = \"warn\"", "f").unwrap();
        let variable = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        config
            .apply_environment([variable("JINDOU_NODE_ID", "3"), variable("JINDOU_PORT_5100_TCP", "tcp://x")])
            .unwrap();
        assert_eq!((config.node.id, config.node.slots), (3, 16));
        let error = config.apply_environment([variable("JINDOU_NODE_IDD", "3")]).unwrap_err();
        assert!(error.to_string().starts_with("environment variable JINDOU_NODE_IDD: unknown key node.idd;"));
        let environment = [variable("JINDOU_NODE_ID", "3")];
        let flags = [variable("node.id", "4")];
        assert_eq!(Config::load(None, environment, &flags).unwrap().node.id, 4);
    }

    const SECRET: &str = "secret = \"0123456789abcdef\"";

    #[test]
    fn a_cluster_is_told_whole() {
        let mut config = Config::default();
        let file = format!(
            "[cluster]\nnode_id = 7\nlisten = \"10.0.0.7:5300\"\nseeds = [\"10.0.0.8:5300\", \"[::1]:5300\"]\n\
             replace_after = \"1m\"\n{SECRET}"
        );
        config.apply_file(&file, "f").and_then(|()| config.hold_together()).unwrap();
        assert_eq!((config.node.id, config.cluster.seeds.len()), (7, 2));
        assert_eq!(config.cluster_address(), Some("10.0.0.7:5300".parse().unwrap()));
        assert!(!format!("{config:?}").contains("0123456789abcdef"), "the secret is not shown");
        let variable = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let environment = [
            variable("JINDOU_CLUSTER_NODE_ID", "9"),
            variable("JINDOU_CLUSTER_SECRET", "another secret of enough bytes"),
            variable("JINDOU_CLUSTER_SEEDS", "10.0.0.9:5300, 10.0.0.8:5300"),
            variable("JINDOU_CLUSTER_LISTEN", "0.0.0.0:5300"),
            variable("JINDOU_CLUSTER_ADVERTISE", "10.0.0.7:5400"),
        ];
        config.apply_environment(environment).and_then(|()| config.hold_together()).unwrap();
        assert_eq!(config.node.id, 9);
        assert_eq!(config.cluster.seeds[0], SocketAddr::from(([10, 0, 0, 9], 5300)));
        assert_eq!(config.cluster_address(), Some("10.0.0.7:5400".parse().unwrap()));
    }

    #[test]
    fn half_a_cluster_is_refused_with_what_is_missing() {
        for (file, wanted) in [
            ("seeds = [\"10.0.0.8:5300\"]".to_owned(), "cluster.seeds is set and cluster.listen is not"),
            ("seeds = [1]".to_owned(), "is not allowed; allowed: a list of ADDRESS:PORT"),
            ("seeds = [\"db1:5300\"]".to_owned(), "is not allowed; allowed: a list of ADDRESS:PORT"),
            ("listen = \"10.0.0.7:5300\"".to_owned(), "no secret is; set cluster.secret or cluster.secret_file"),
            ("secret = \"too short\"".to_owned(), "is not allowed; allowed: 16 to 256 bytes"),
            ("listen = \"10.0.0.7:0\"".to_owned(), "is not allowed; allowed: ADDRESS:PORT"),
            ("advertise = \"0.0.0.0:5300\"".to_owned(), "is not allowed; allowed: ADDRESS:PORT"),
            ("replicas = 0".to_owned(), "is not allowed; allowed: 1 to 7"),
            (
                format!("listen = \"0.0.0.0:5300\"\n{SECRET}"),
                "cluster.advertise is not set, and cluster.listen = 0.0.0.0:5300 is no address that other nodes can dial",
            ),
            (
                format!("listen = \"10.0.0.7:5300\"\nsecret_file = \"s\"\n{SECRET}"),
                "cluster.secret and cluster.secret_file are both set",
            ),
            (
                format!("listen = \"10.0.0.7:65500\"\n{SECRET}\n[node]\nshards = 64"),
                "64 shards need a port each from there on; allowed: a port of at most 65472",
            ),
        ] {
            let line = error_of(&format!("[cluster]\n{file}"));
            assert!(line.contains(wanted) && line.lines().count() == 1, "{line}");
            assert!(!line.contains("too short"), "a secret is not shown: {line}");
        }
    }

    #[test]
    fn the_table_has_a_row_for_every_setting() {
        let table = config_table_markdown();
        assert_eq!(table.lines().count(), SETTINGS.len() + 2);
        assert!(table.contains("| `node.slots` | `256` |"));
    }
}
