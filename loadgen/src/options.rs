//! The options of a run: from the command line, from a TOML profile, from their defaults, in this order. [`RunOptions::setup`] makes of
//! them what a run needs, or says in one sentence what is wrong.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::Args;
use serde::{Deserialize, Serialize};

use crate::conversations::{Conversations, Pattern};
use crate::figures::Intervals;
use crate::schedule::{Mode, Schedule, Spacing, WINDOW_MAX};
use crate::setup::{Churn, Setup, Storm};
use crate::sizes::Sizes;
use crate::spread::Nodes;
use crate::target::Target;

/// Options of a run; the same names, with `_` for `-`, are the keys of a profile.
#[derive(Args, Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RunOptions {
    /// The server: wk://HOST:PORT[,HOST:PORT…], wk+plain://…, mqtt://…, nats://… or nats+js://…. Users are spread over several addresses
    /// (default: wk://127.0.0.1:5100)
    #[arg(long, value_name = "URL")]
    pub target: Option<String>,
    /// WKProto without its cipher; the listener must be in plain mode
    #[arg(long, num_args = 0..=1, default_missing_value = "true", value_name = "BOOL")]
    pub plain: Option<bool>,
    /// MQTT's quality of service, 0 or 1 (default: 1)
    #[arg(long)]
    pub qos: Option<u8>,
    /// Users (default: 64)
    #[arg(long)]
    pub users: Option<usize>,
    /// Sessions of each user, all of which get everything (default: 1)
    #[arg(long)]
    pub devices: Option<usize>,
    /// Who talks to whom: pairs, random or zipf (default: pairs)
    #[arg(long)]
    pub pattern: Option<String>,
    /// Partners of each user; not for pairs (default: 8)
    #[arg(long)]
    pub peers: Option<usize>,
    /// Zipf: rank r is a partner with the weight 1/r^SKEW (default: 1)
    #[arg(long)]
    pub skew: Option<f64>,
    /// Payload bytes, or a mix by weight such as 64:70,512:25,4096:5 (default: 128)
    #[arg(long, value_name = "BYTES")]
    pub size: Option<String>,
    /// closed:WINDOW keeps so many sends of each user unanswered; open:RATE sends so many messages per second of all users, whatever the server
    /// does, and counts latency from the intended time; open:R1,R2,… are steps, open:FROM..TO is a ramp (default: closed:32)
    #[arg(long, value_name = "MODE")]
    pub mode: Option<String>,
    /// Open loop: most unanswered sends of a user. What is due beyond it waits, and the wait counts (default: 128)
    #[arg(long)]
    pub window: Option<usize>,
    /// Open loop: constant or poisson (default: constant)
    #[arg(long)]
    pub spacing: Option<String>,
    /// Measured time of each step (default: 10)
    #[arg(long)]
    pub seconds: Option<f64>,
    /// Time before it that does not count (default: 1)
    #[arg(long)]
    pub warm_up: Option<f64>,
    /// Several addresses: share of the conversations whose two users are at different ones (default: 0.5 for pairs, else as it comes)
    #[arg(long, value_name = "SHARE")]
    pub cross: Option<f64>,
    /// HTTP API of one of jindou's nodes: users in pairs get names so that the node they connect to leads their conversation
    #[arg(long)]
    pub http: Option<SocketAddr>,
    /// Slots of the cluster; with --http (default: 256)
    #[arg(long)]
    pub slots: Option<u32>,
    /// Threads; users are spread over them (default: 1)
    #[arg(long)]
    pub threads: Option<usize>,
    /// Pin the threads to these cores, in turn
    #[arg(long, alias = "core", value_delimiter = ',')]
    pub cores: Option<Vec<usize>>,
    /// New connections per second at the beginning (default: as fast as they are answered, 256 at a time)
    #[arg(long, value_name = "PER_SECOND")]
    pub connect_rate: Option<f64>,
    /// So many sessions per second wait for their answers, close, and connect again at once
    #[arg(long, value_name = "PER_SECOND")]
    pub churn: Option<f64>,
    /// SHARE:SECONDS, such as 0.2:5: so large a share of the sessions is away at any time, for so long each; what is sent to them waits
    #[arg(long, value_name = "SHARE:SECONDS")]
    pub offline: Option<String>,
    /// SESSIONS@SECOND: at that time so many sessions close and connect again all at once; several with commas between
    #[arg(long, value_name = "SESSIONS@SECOND")]
    pub storm: Option<String>,
    /// The server's process ids, for CPU and memory
    #[arg(long, alias = "pid", value_delimiter = ',')]
    pub pids: Option<Vec<u32>>,
    /// HTTP address of jindou's /metrics, for CPU and memory where the server is on another machine
    #[arg(long, value_name = "HOST:PORT")]
    pub metrics: Option<SocketAddr>,
    /// Beginning of all user names (default: one that no earlier run has used)
    #[arg(long)]
    pub prefix: Option<String>,
    /// Of all chance (default: 1)
    #[arg(long)]
    pub seed: Option<u64>,
    /// Broken connections are what is measured: when it began, when the rate was back, the longest silence. Sends without answer count as unknown
    #[arg(long, num_args = 0..=1, default_missing_value = "true", value_name = "BOOL")]
    pub watch_outage: Option<bool>,
}

/// What a run's processes are watched through.
#[derive(Clone, Debug, Default)]
pub struct Watch {
    /// Process ids.
    pub pids: Vec<u32>,
    /// jindou's /metrics.
    pub metrics: Option<SocketAddr>,
}

macro_rules! first_of {
    ($own:expr, $other:expr, $($field:ident),+) => { RunOptions { $($field: $own.$field.or($other.$field)),+ } };
}

impl RunOptions {
    /// These, and where they say nothing, those.
    pub fn or(self, other: RunOptions) -> RunOptions {
        first_of!(
            self,
            other,
            target,
            plain,
            qos,
            users,
            devices,
            pattern,
            peers,
            skew,
            size,
            mode,
            window,
            spacing,
            seconds,
            warm_up,
            cross,
            http,
            slots,
            threads,
            cores,
            connect_rate,
            churn,
            offline,
            storm,
            pids,
            metrics,
            prefix,
            seed,
            watch_outage
        )
    }

    /// Reads a profile; these options win over it.
    ///
    /// # Errors
    /// One sentence.
    pub fn with_profile(self, path: Option<&PathBuf>) -> Result<RunOptions, String> {
        let Some(path) = path else { return Ok(self) };
        Ok(self.or(read_toml(path)?))
    }

    /// For the record: what was said, and the defaults that matter.
    pub fn as_map(&self, setup: &Setup) -> BTreeMap<String, serde_json::Value> {
        let mut map = match serde_json::to_value(self) {
            Ok(serde_json::Value::Object(map)) => map.into_iter().filter(|(_, value)| !value.is_null()).collect(),
            _ => BTreeMap::new(),
        };
        map.insert("mode".to_owned(), self.mode.clone().unwrap_or_else(|| "closed:32".to_owned()).into());
        map.insert("size".to_owned(), self.size.clone().unwrap_or_else(|| "128".to_owned()).into());
        map.insert("users".to_owned(), setup.present.into());
        map.insert("window".to_owned(), setup.window.into());
        map.insert("threads".to_owned(), setup.threads.into());
        map.insert("seed".to_owned(), setup.seed.into());
        map
    }

    /// The same for a run that follows others: servers remember users, so a name that was asked for gets a number.
    pub fn numbered(&self, number: usize) -> RunOptions {
        let prefix =
            self.prefix.as_ref().map(|prefix| if number > 1 { format!("{prefix}-{number}") } else { prefix.clone() });
        RunOptions { prefix, ..self.clone() }
    }

    /// What is watched.
    pub fn watch(&self) -> Watch {
        Watch { pids: self.pids.clone().unwrap_or_default(), metrics: self.metrics }
    }

    /// The run that these options describe.
    ///
    /// # Errors
    /// One sentence that names the option.
    pub fn setup(&self) -> Result<Setup, String> {
        let users = self.users.unwrap_or(64);
        let pattern = self.pattern()?;
        if users < 2 || pattern == Pattern::Pairs && users % 2 == 1 {
            return Err(format!(
                "--users {users}: users talk to each other, and in pairs there is an even number of them"
            ));
        }
        let mut setup = self.frame(users)?;
        let crossing = share("cross", self.cross)?;
        let nodes = self.nodes(&setup.target)?;
        setup.users = match pattern {
            Pattern::Pairs => {
                nodes.pairs(&setup.prefix, users, crossing.unwrap_or(0.5)).map_err(|fault| fault.to_string())?
            }
            _ if self.http.is_some() => return Err("--http names users for --pattern pairs only".to_owned()),
            _ => nodes.deal(&setup.prefix, users),
        };
        let peers = self.peers.unwrap_or(8);
        let crossing = crossing.filter(|_| setup.target.addresses.len() > 1);
        setup.conversations = Conversations::draw(pattern, &setup.users, peers, crossing, setup.seed);
        if setup.conversations.streams.is_empty() {
            return Err(format!("--peers {peers}: nobody would talk to anybody"));
        }
        Ok(setup)
    }

    /// Sessions that say nothing.
    ///
    /// # Errors
    /// One sentence that names the option.
    pub fn silent_setup(&self, sessions: usize) -> Result<Setup, String> {
        let mut setup = self.frame(sessions)?;
        setup.users = self.nodes(&setup.target)?.deal(&setup.prefix, sessions);
        setup.conversations = Conversations::silence(sessions);
        Ok(setup)
    }

    /// So many messages to users that are never there.
    ///
    /// # Errors
    /// One sentence that names the option.
    pub fn one_way_setup(&self, messages: u64) -> Result<Setup, String> {
        let users = self.users.unwrap_or(256);
        let mut setup = self.frame(users)?;
        if !setup.target.protocol.keeps_for_the_absent() {
            return Err(format!("{} keeps nothing for users that are away", setup.target.protocol.describe()));
        }
        setup.users = self.nodes(&setup.target)?.deal(&setup.prefix, 2 * users);
        setup.conversations = Conversations::one_way(users);
        setup.messages = Some(messages);
        Ok(setup)
    }

    fn nodes(&self, target: &Target) -> Result<Nodes, String> {
        let slots = self.slots.unwrap_or(256);
        if !slots.is_power_of_two() {
            return Err(format!("--slots {slots}: it is a power of two"));
        }
        Ok(Nodes { targets: target.addresses.clone(), http: self.http, slots })
    }

    fn pattern(&self) -> Result<Pattern, String> {
        let skew = self.skew.unwrap_or(1.0);
        if !(0.0..=10.0).contains(&skew) {
            return Err(format!("--skew {skew}: it is from 0 to 10"));
        }
        match self.pattern.as_deref().unwrap_or("pairs") {
            "pairs" => Ok(Pattern::Pairs),
            "random" => Ok(Pattern::Random),
            "zipf" => Ok(Pattern::Zipf { skew }),
            other => Err(format!("--pattern {other}: there are pairs, random and zipf")),
        }
    }

    /// Everything but users and conversations.
    fn frame(&self, users: usize) -> Result<Setup, String> {
        let target = self.target.as_deref().unwrap_or("wk://127.0.0.1:5100");
        let target = Target::parse(target, self.plain.unwrap_or(false), self.qos.unwrap_or(1))?;
        let mode: Mode = self.mode.as_deref().unwrap_or("closed:32").parse()?;
        let window = match mode {
            Mode::Closed { window } => window,
            Mode::Open { .. } => self.window.unwrap_or(128),
        };
        if !(1..=WINDOW_MAX).contains(&window) {
            return Err(format!("--window {window}: allowed are 1 to {WINDOW_MAX}"));
        }
        let (warm_up, seconds) = (self.warm_up.unwrap_or(1.0), self.seconds.unwrap_or(10.0));
        if !(0.0..=86_400.0).contains(&warm_up) || !(0.1..=86_400.0).contains(&seconds) {
            return Err("--seconds is 0.1 to 86400, --warm-up 0 to 86400".to_owned());
        }
        let devices = self.devices.unwrap_or(1);
        if !(1..=DEVICES_MAX).contains(&devices) {
            return Err(format!("--devices {devices}: allowed are 1 to {DEVICES_MAX}"));
        }
        let threads = self.threads.unwrap_or(1);
        if !(1..=THREADS_MAX).contains(&threads) {
            return Err(format!("--threads {threads}: allowed are 1 to {THREADS_MAX}"));
        }
        let steps = match &mode {
            Mode::Open { steps } => steps.clone(),
            Mode::Closed { .. } => Vec::new(),
        };
        let churn = self.coming_and_going(users * devices)?;
        let storms = self.storms()?;
        if (churn.is_some() || !storms.is_empty()) && !target.protocol.keeps_for_the_absent() {
            return Err(format!(
                "{} keeps nothing for sessions that are away: no --churn, --offline, --storm",
                target.protocol.describe()
            ));
        }
        Ok(Setup {
            users: Vec::new(),
            present: users,
            devices,
            conversations: Conversations::default(),
            sizes: self.size.as_deref().unwrap_or("128").parse::<Sizes>()?,
            window,
            schedule: Arc::new(Schedule::new(&steps, warm_up, seconds)),
            spacing: self.spacing()?,
            seed: self.seed.unwrap_or(1),
            prefix: self.prefix()?,
            intervals: Intervals::new(warm_up, mode.steps(), seconds),
            mode,
            threads,
            cores: self.cores()?,
            connect_rate: positive("connect-rate", self.connect_rate)?,
            churn,
            storms,
            watch_outage: self.watch_outage.unwrap_or(false),
            messages: None,
            target,
        })
    }

    fn spacing(&self) -> Result<Spacing, String> {
        match self.spacing.as_deref().unwrap_or("constant") {
            "constant" => Ok(Spacing::Constant),
            "poisson" => Ok(Spacing::Poisson),
            other => Err(format!("--spacing {other}: there are constant and poisson")),
        }
    }

    fn prefix(&self) -> Result<String, String> {
        let millis = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
        let prefix = self.prefix.clone().unwrap_or_else(|| format!("u{millis:x}"));
        let allowed = |one: char| one.is_ascii_alphanumeric() || one == '-' || one == '_';
        if prefix.is_empty() || prefix.len() > 64 || !prefix.chars().all(allowed) {
            return Err(format!("--prefix {prefix}: 1 to 64 letters, digits, - and _"));
        }
        Ok(prefix)
    }

    fn cores(&self) -> Result<Vec<usize>, String> {
        let cores = self.cores.clone().unwrap_or_default();
        let known = core_affinity::get_core_ids().unwrap_or_default();
        match cores.iter().find(|core| !known.iter().any(|known| known.id == **core)) {
            Some(core) => Err(format!("--cores {core}: this process may use {} cores, and not that one", known.len())),
            None => Ok(cores),
        }
    }

    fn coming_and_going(&self, sessions: usize) -> Result<Option<Churn>, String> {
        let churn = positive("churn", self.churn)?;
        let Some(text) = &self.offline else {
            return Ok(churn.map(|per_second| Churn { per_second, away: Duration::ZERO }));
        };
        let number = |text: &str| text.trim().parse::<f64>().ok();
        let parsed = text.split_once(':').and_then(|(part, seconds)| Some((number(part)?, number(seconds)?)));
        match parsed {
            _ if churn.is_some() => Err("--churn and --offline exclude each other".to_owned()),
            Some((part, seconds)) if part > 0.0 && part <= 0.9 && (0.01..=3600.0).contains(&seconds) => {
                Ok(Some(Churn { per_second: part * sessions as f64 / seconds, away: Duration::from_secs_f64(seconds) }))
            }
            _ => Err(format!("--offline {text}: write SHARE:SECONDS, such as 0.2:5; the share is at most 0.9")),
        }
    }

    fn storms(&self) -> Result<Vec<Storm>, String> {
        let Some(text) = &self.storm else { return Ok(Vec::new()) };
        let storm = |one: &str| {
            let (sessions, at) = one.split_once('@')?;
            let at = at.parse().ok().filter(|at| (0.0..=86_400.0).contains(at))?;
            Some(Storm { at: Duration::from_secs_f64(at), sessions: sessions.parse().ok()? })
        };
        let storms = text.split(',').map(storm).collect::<Option<Vec<_>>>();
        storms.ok_or_else(|| format!("--storm {text}: write SESSIONS@SECOND, such as 500@5"))
    }
}

/// WKProto's device flags that a client may have: app, web, PC.
const DEVICES_MAX: usize = 3;

/// More threads than any machine's cores are a mistake.
const THREADS_MAX: usize = 1024;

fn positive(name: &str, value: Option<f64>) -> Result<Option<f64>, String> {
    match value {
        Some(value) if !(value > 0.0 && value.is_finite()) => Err(format!("--{name} {value}: it is more than 0")),
        value => Ok(value),
    }
}

fn share(name: &str, value: Option<f64>) -> Result<Option<f64>, String> {
    match value {
        Some(value) if !(0.0..=1.0).contains(&value) => Err(format!("--{name} {value}: it is a share from 0 to 1")),
        value => Ok(value),
    }
}

/// Reads a TOML file.
///
/// # Errors
/// One sentence, with the line where it is wrong.
pub fn read_toml<T: serde::de::DeserializeOwned>(path: &Path) -> Result<T, String> {
    let text = std::fs::read_to_string(path).map_err(|fault| format!("{}: {fault}", path.display()))?;
    toml::from_str(&text).map_err(|fault| {
        let line = fault.span().map_or(0, |span| text[..span.start].matches('\n').count() + 1);
        format!("{}, line {line}: {}", path.display(), fault.message().replace('\n', " "))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(text: &str) -> RunOptions {
        toml::from_str(text).expect("it is TOML with known keys")
    }

    fn fault(text: &str) -> String {
        options(text).setup().expect_err("it is wrong")
    }

    #[test]
    fn the_command_line_wins_over_the_profile() {
        let both = options("users = 8\nseed = 3").or(options("users = 16\nmode = \"open:100\""));
        let setup = both.setup().expect("it is right");
        assert_eq!((setup.present, setup.seed), (8, 3));
        assert_eq!(setup.mode, Mode::Open { steps: vec![(100.0, 100.0)] });
        assert_eq!(both.as_map(&setup)["mode"], "open:100");
        assert!(toml::from_str::<RunOptions>("user = 8").is_err(), "a key that is not known is refused");
    }

    #[test]
    fn what_cannot_be_is_said_with_the_option() {
        for (text, word) in [
            ("users = 3", "--users 3"),
            ("pattern = \"ring\"", "--pattern ring"),
            ("seconds = 0", "--seconds"),
            ("devices = 9", "--devices 9"),
            ("threads = 0", "--threads 0"),
            ("cores = [9999]", "--cores 9999"),
            ("cross = 2.0", "--cross 2"),
            ("churn = 0.0", "--churn 0"),
            ("offline = \"1.5:2\"", "--offline"),
            ("offline = \"0.1:2\"\nchurn = 1.0", "exclude"),
            ("storm = \"5\"", "--storm 5"),
            ("prefix = \"a b\"", "--prefix"),
            ("pattern = \"random\"\npeers = 0", "--peers 0"),
            ("target = \"nats://127.0.0.1\"\nchurn = 1.0", "keeps nothing"),
            ("mode = \"open:1\"\nwindow = 0", "--window 0"),
        ] {
            assert!(fault(text).contains(word), "{text}: {}", fault(text));
        }
        assert!(
            options("target = \"nats://127.0.0.1\"")
                .one_way_setup(5)
                .expect_err("it is wrong")
                .contains("keeps nothing")
        );
    }

    #[test]
    fn runs_that_follow_have_users_of_their_own() {
        let named = options("prefix = \"a\"");
        assert_eq!([1, 2].map(|number| named.numbered(number).setup().expect("it is right").prefix), ["a", "a-2"]);
        assert_eq!(options("").numbered(2).prefix, None, "a prefix of its own is new anyway");
    }

    #[test]
    fn the_profiles_that_are_shipped_are_right() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("profiles");
        let mut seen = 0;
        for entry in std::fs::read_dir(folder).expect("it is there") {
            let path = entry.expect("it can be read").path();
            if path.ends_with("versus.toml") {
                continue; // Its own module reads it.
            }
            let options: RunOptions = read_toml(&path).unwrap_or_else(|why| panic!("{why}"));
            options.setup().unwrap_or_else(|why| panic!("{}: {why}", path.display()));
            seen += 1;
        }
        assert!(seen >= 4, "{seen} profiles");
    }

    #[test]
    fn a_wrong_profile_is_said_with_file_and_line() {
        let path = std::env::temp_dir().join(format!("loadgen-profile-{}.toml", std::process::id()));
        std::fs::write(&path, "users = 8\nsecond = 3\n").expect("the temporary folder can be written");
        let fault = RunOptions::default().with_profile(Some(&path)).expect_err("there is no such key");
        std::fs::remove_file(&path).expect("it is there");
        assert!(fault.contains("line 2") && fault.contains("second") && !fault.contains('\n'), "{fault}");
    }

    #[test]
    fn going_away_is_as_often_as_the_share_says() {
        let setup = options("users = 100\noffline = \"0.2:5\"").setup().expect("it is right");
        assert_eq!(setup.churn, Some(Churn { per_second: 4.0, away: Duration::from_secs(5) }));
    }
}
