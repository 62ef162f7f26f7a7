//! What can be said on the command line, and what of the library's each of it becomes. Does nothing itself.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use jindou::chat::ChatOptions;
use jindou::operator::{OperatorOptions, Order};
use jindou::profile::{ProfileOptions, Question};

/// How a node ends, for whoever watches its process.
const EXIT_CODES: &str = "Exit codes of a node: 0 it was told to stop and has stopped; 1 it cannot start, or it broke, or it did not stop within 10 s; \
     2 the command line or the configuration is wrong; 101 it has found a fault in itself and ended at once; 130 a second signal ended it at once.";

/// A clustered instant-messaging router. Without arguments it runs a node that keeps its data in ./data and listens on
/// TCP 5100, WebSocket 5200 and HTTP 5001.
///
/// Try it: start `jindou`, then in two other terminals `jindou chat --as alice --to bob` and `jindou chat --as bob --to
/// alice`.
#[derive(Parser)]
#[command(name = "jindou", version, args_conflicts_with_subcommands = true, after_help = EXIT_CODES)]
pub struct Arguments {
    #[command(subcommand)]
    pub command: Option<Command>,
    /// Configuration file (TOML); see tuning/jindou.toml for every key.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Directory of the data [default: ./data].
    #[arg(long, value_name = "DIR")]
    pub data: Option<String>,
    /// Address for clients over TCP [default: 0.0.0.0:5100].
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub listen_tcp: Option<String>,
    /// Address for clients over WebSocket [default: 0.0.0.0:5200].
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub listen_ws: Option<String>,
    /// Address of the HTTP API [default: 0.0.0.0:5001].
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub listen_http: Option<String>,
    /// Number of shards, one pinned thread each [default: auto, one per core].
    #[arg(long, value_name = "N")]
    pub shards: Option<String>,
    /// What a SENDACK promises: fsync (on disk) or memory [default: fsync].
    #[arg(long, value_name = "WHAT")]
    pub durability: Option<String>,
    /// Sets any key of the configuration; may be repeated. Wins over the file and the environment (JINDOU_SECTION_KEY).
    #[arg(long = "set", value_name = "SECTION.KEY=VALUE")]
    pub sets: Vec<String>,
    /// Checks the configuration and ends: exit 0 when it is right, 2 with one line when it is not.
    #[arg(long)]
    pub check_config: bool,
    /// Prints the table of settings for the README.
    #[arg(long, hide = true)]
    pub print_config_table: bool,
    /// Prints tuning/jindou.toml.
    #[arg(long, hide = true)]
    pub print_config_file: bool,
}

#[derive(Subcommand)]
pub enum Command {
    /// A small terminal client: lines typed are sent, messages that arrive are printed.
    Chat(ChatArguments),
    /// Shows a running cluster and says what it is to become: nodes, replicas, slots.
    ///
    /// Exit codes: 0 done, 1 refused, 2 wrong arguments, 3 no answer or nobody leads, 4 not done when --within was over.
    Cluster(ClusterArguments),
    /// Shows where the time goes in nodes that run: the parts of each shard's turns, of messages' ways, who owns the tail.
    #[command(after_help = "Example: jindou profile --seconds 10 --api http://10.0.0.1:5001")]
    Profile {
        #[command(flatten)]
        nodes: NodesArguments,
        /// Looks so long.
        #[arg(long, value_name = "SECONDS", default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=3600))]
        seconds: u64,
        /// Again and again.
        #[arg(long)]
        watch: bool,
    },
    /// Follows the next messages of one user through shards and nodes, point by point.
    #[command(
        after_help = "Example: jindou trace --uid alice --next 5\n\nExit codes: as of `jindou cluster`; 4 when fewer came."
    )]
    Trace {
        #[command(flatten)]
        nodes: NodesArguments,
        /// Whose messages, sent or received.
        #[arg(long)]
        uid: String,
        /// How many.
        #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=100))]
        next: u16,
        /// At most so long.
        #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=3600))]
        within: u64,
    },
    /// Shows what every shard does now: messages, sessions, CPU, slots led, journal, links.
    #[command(after_help = "Example: jindou top --every 2")]
    Top {
        #[command(flatten)]
        nodes: NodesArguments,
        /// Between two pictures.
        #[arg(long, value_name = "SECONDS", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=60))]
        every: u64,
        /// One picture.
        #[arg(long)]
        once: bool,
    },
    /// Tries out what this machine gives a node: a socket ring, and the journal's writes in a directory. Changes nothing.
    #[command(after_help = "Example: jindou probe --data /var/lib/jindou --milliseconds 1000")]
    Probe(ProbeArguments),
}

#[derive(Args)]
pub struct NodesArguments {
    /// The HTTP API of a node.
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:5001")]
    pub api: String,
    /// What `http.token` says there.
    #[arg(long, default_value = "", hide_default_value = true)]
    pub token: String,
    /// This node only, not the others of its cluster.
    #[arg(long)]
    pub alone: bool,
}

impl NodesArguments {
    pub fn ask(self, question: Question) -> ProfileOptions {
        ProfileOptions { api: self.api, token: self.token, all: !self.alone, question }
    }
}

#[derive(Args)]
pub struct ProbeArguments {
    /// Where a file of 16 MiB is written over, and removed.
    #[arg(long, value_name = "DIR", default_value = ".")]
    pub data: PathBuf,
    /// For so long.
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u64).range(10..=60_000))]
    pub milliseconds: u64,
}

#[derive(Args)]
pub struct ClusterArguments {
    /// The HTTP API of any node of the cluster.
    #[arg(long, global = true, value_name = "URL", default_value = "http://127.0.0.1:5001")]
    pub api: String,
    /// What `http.token` says there.
    #[arg(long, global = true, default_value = "", hide_default_value = true)]
    pub token: String,
    #[command(subcommand)]
    pub order: ClusterOrder,
}

#[derive(Subcommand)]
pub enum ClusterOrder {
    /// Members, slots, and everything that moves or waits.
    #[command(after_help = "Example: jindou cluster status --watch --api http://10.0.0.1:5001")]
    Status {
        /// Shows it again every two seconds.
        #[arg(long)]
        watch: bool,
        /// As JSON.
        #[arg(long)]
        json: bool,
        /// With the slot table.
        #[arg(long)]
        slots: bool,
        #[command(flatten)]
        wait: WaitArguments,
    },
    /// Prints how a node joins; with --wait, waits until one has.
    #[command(after_help = "Example: jindou cluster join --wait 4")]
    Join {
        /// Waits until this node serves and everything that is to move has moved.
        #[arg(long, value_name = "NODE", value_parser = clap::value_parser!(u16).range(1..))]
        wait: Option<u16>,
        /// At most so long.
        #[arg(long, value_name = "SECONDS", default_value_t = WITHIN_DEFAULT)]
        within: u64,
    },
    /// Moves everything away from a node, its sessions last; with --wait, until it has none.
    #[command(after_help = "Example: jindou cluster drain 3 --wait && jindou cluster remove 3")]
    Drain {
        #[command(flatten)]
        node: NodeArgument,
        #[command(flatten)]
        wait: WaitArguments,
    },
    /// Lets a node hold its share again: the opposite of drain.
    #[command(after_help = "Example: jindou cluster serve 3")]
    Serve {
        #[command(flatten)]
        node: NodeArgument,
        #[command(flatten)]
        wait: WaitArguments,
    },
    /// Forgets a node that holds nothing.
    #[command(after_help = "Example: jindou cluster remove 3")]
    Remove {
        #[command(flatten)]
        node: NodeArgument,
        #[command(flatten)]
        wait: WaitArguments,
    },
    /// Drains a node whose share another one takes; with --wait, waits for that one to join first.
    #[command(after_help = "Example: jindou cluster replace 3 --by 4 --wait")]
    Replace {
        #[command(flatten)]
        node: NodeArgument,
        /// Who takes its share.
        #[arg(long, value_name = "NODE", value_parser = clap::value_parser!(u16).range(1..))]
        by: u16,
        #[command(flatten)]
        wait: WaitArguments,
    },
    /// Plans anew where everything should be, and who should lead.
    #[command(after_help = "Example: jindou cluster rebalance --wait")]
    Rebalance {
        #[command(flatten)]
        wait: WaitArguments,
    },
    /// Says how many replicas each slot is to have.
    #[command(after_help = "Example: jindou cluster replicas 5 --wait")]
    Replicas {
        /// When there are as many nodes.
        #[arg(value_name = "N", value_parser = clap::value_parser!(u8).range(1..=7))]
        replicas: u8,
        #[command(flatten)]
        wait: WaitArguments,
    },
    /// Makes two slots of one, or of each.
    #[command(after_help = "Example: jindou cluster split --all --wait")]
    Split {
        #[command(flatten)]
        which: WhichSlots,
        #[command(flatten)]
        wait: WaitArguments,
    },
    /// Makes one slot of two siblings, or of all siblings.
    #[command(after_help = "Example: jindou cluster merge --slot 5 --wait")]
    Merge {
        #[command(flatten)]
        which: WhichSlots,
        #[command(flatten)]
        wait: WaitArguments,
    },
    /// Lets another replica of a slot lead, as long as leaders stay evenly spread; with --wait, says whether it does.
    #[command(after_help = "Example: jindou cluster transfer --slot 5 --to 2")]
    Transfer {
        /// Which.
        #[arg(long)]
        slot: u16,
        /// The node that is to lead it.
        #[arg(long, value_name = "NODE", value_parser = clap::value_parser!(u16).range(1..))]
        to: u16,
        #[command(flatten)]
        wait: WaitArguments,
    },
}

/// Seconds that are waited for at most unless the command line says otherwise.
const WITHIN_DEFAULT: u64 = 600;

#[derive(Args)]
pub struct WaitArguments {
    /// Waits until it is done and nothing moves any more.
    #[arg(long)]
    pub wait: bool,
    /// At most so long.
    #[arg(long, value_name = "SECONDS", default_value_t = WITHIN_DEFAULT)]
    pub within: u64,
}

#[derive(Args)]
pub struct NodeArgument {
    /// The node's number.
    #[arg(value_name = "NODE", value_parser = clap::value_parser!(u16).range(1..))]
    pub node: u16,
}

#[derive(Args)]
#[group(skip)]
pub struct WhichSlots {
    /// Every slot.
    #[arg(long, conflicts_with = "slot", required_unless_present = "slot")]
    pub all: bool,
    /// This one.
    #[arg(long)]
    pub slot: Option<u16>,
    /// Bits that name them afterwards: with this, asking twice does it once [default: one more, or one less, than now].
    #[arg(long, value_name = "BITS", value_parser = clap::value_parser!(u8).range(0..=14))]
    pub depth: Option<u8>,
}

impl From<ClusterArguments> for OperatorOptions {
    fn from(given: ClusterArguments) -> OperatorOptions {
        let waits = |wait: &WaitArguments| wait.wait.then(|| Duration::from_secs(wait.within));
        let (order, wait) = match given.order {
            ClusterOrder::Status { watch, json, slots, wait } => (Order::Status { watch, json, slots }, waits(&wait)),
            ClusterOrder::Join { wait, within } => {
                (Order::Join { node: wait }, wait.map(|_| Duration::from_secs(within)))
            }
            ClusterOrder::Drain { node, wait } => (Order::Drain { node: node.node }, waits(&wait)),
            ClusterOrder::Serve { node, wait } => (Order::Serve { node: node.node }, waits(&wait)),
            ClusterOrder::Remove { node, wait } => (Order::Remove { node: node.node }, waits(&wait)),
            ClusterOrder::Replace { node, by, wait } => (Order::Replace { node: node.node, by }, waits(&wait)),
            ClusterOrder::Rebalance { wait } => (Order::Rebalance, waits(&wait)),
            ClusterOrder::Replicas { replicas, wait } => (Order::Replicas { replicas }, waits(&wait)),
            ClusterOrder::Split { which, wait } => {
                (Order::Split { slot: which.slot, depth: which.depth }, waits(&wait))
            }
            ClusterOrder::Merge { which, wait } => {
                (Order::Merge { slot: which.slot, depth: which.depth }, waits(&wait))
            }
            ClusterOrder::Transfer { slot, to, wait } => (Order::Transfer { slot, node: to }, waits(&wait)),
        };
        OperatorOptions { api: given.api, token: given.token, wait, order }
    }
}

#[derive(Args)]
pub struct ChatArguments {
    /// Who you are.
    #[arg(long = "as", value_name = "UID")]
    pub uid: String,
    /// Whom lines go to.
    #[arg(long, value_name = "UID")]
    pub to: String,
    /// The node [default: 127.0.0.1:5100, with --ws 127.0.0.1:5200].
    #[arg(long, value_name = "HOST:PORT")]
    pub server: Option<String>,
    /// The token that a backend has stored for you; needed where the node asks for it.
    #[arg(long, default_value = "", hide_default_value = true)]
    pub token: String,
    /// Over WebSocket.
    #[arg(long)]
    pub ws: bool,
    /// Without the cipher: the node's listener must be plain too.
    #[arg(long)]
    pub plain: bool,
    /// After the end of the input, goes on receiving for so long (at most a day).
    #[arg(long, value_name = "SECONDS", default_value_t = 0, value_parser = clap::value_parser!(u64).range(0..=86_400))]
    pub wait: u64,
}

impl From<ChatArguments> for ChatOptions {
    fn from(given: ChatArguments) -> ChatOptions {
        let usual = if given.ws { "127.0.0.1:5200" } else { "127.0.0.1:5100" };
        ChatOptions {
            uid: given.uid,
            to: given.to,
            server: given.server.unwrap_or_else(|| usual.to_owned()),
            token: given.token,
            ws: given.ws,
            plain: given.plain,
            wait: Duration::from_secs(given.wait),
        }
    }
}

impl Arguments {
    /// The flags that set keys, in the order in which they win.
    pub fn settings(&self) -> Result<Vec<(String, String)>, String> {
        let named = [
            ("node.data_dir", &self.data),
            ("listen.tcp", &self.listen_tcp),
            ("listen.ws", &self.listen_ws),
            ("listen.http", &self.listen_http),
            ("node.shards", &self.shards),
            ("journal.durability", &self.durability),
        ];
        let mut settings: Vec<(String, String)> =
            named.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value.clone()?))).collect();
        for set in &self.sets {
            let (key, value) = set
                .split_once('=')
                .ok_or_else(|| format!("the command line: --set {set:?} is not allowed; allowed: SECTION.KEY=VALUE"))?;
            settings.push((key.trim().to_owned(), value.trim().to_owned()));
        }
        Ok(settings)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(line: &str) -> Result<OperatorOptions, String> {
        let words = ["jindou", "cluster"].into_iter().chain(line.split_whitespace());
        match Arguments::try_parse_from(words).map_err(|error| error.to_string())?.command {
            Some(Command::Cluster(given)) => Ok(given.into()),
            _ => Err("another command".to_owned()),
        }
    }

    #[test]
    fn every_order_of_an_operator_is_understood() {
        for (line, order) in [
            ("status --slots --json", Order::Status { watch: false, json: true, slots: true }),
            ("join", Order::Join { node: None }),
            ("join --wait 4", Order::Join { node: Some(4) }),
            ("drain 3", Order::Drain { node: 3 }),
            ("serve 3", Order::Serve { node: 3 }),
            ("remove 3", Order::Remove { node: 3 }),
            ("replace 3 --by 4", Order::Replace { node: 3, by: 4 }),
            ("rebalance", Order::Rebalance),
            ("replicas 5", Order::Replicas { replicas: 5 }),
            ("split --all", Order::Split { slot: None, depth: None }),
            ("split --slot 7 --depth 9", Order::Split { slot: Some(7), depth: Some(9) }),
            ("merge --slot 0", Order::Merge { slot: Some(0), depth: None }),
            ("transfer --slot 5 --to 2", Order::Transfer { slot: 5, node: 2 }),
        ] {
            assert_eq!(options(line).map(|options| options.order), Ok(order), "{line}");
        }
        let asked = options("--api http://h:1 drain 3 --token t --wait --within 9").unwrap();
        assert_eq!((asked.api.as_str(), asked.token.as_str()), ("http://h:1", "t"));
        assert_eq!(asked.wait, Some(Duration::from_secs(9)));
        assert_eq!(options("drain 3").unwrap().wait, None);
        assert_eq!(options("join --wait 4").unwrap().wait, Some(Duration::from_secs(WITHIN_DEFAULT)));
    }

    #[test]
    fn what_makes_no_sense_is_said_before_anybody_is_asked() {
        for line in [
            "drain",
            "drain 0",
            "drain 70000",
            "replace 3",
            "split",
            "split --all --slot 1",
            "split --depth 9",
            "replicas 8",
            "transfer --slot 1",
            "nonsense",
        ] {
            assert!(options(line).is_err(), "{line}");
        }
    }

    #[test]
    fn every_order_has_an_example() {
        use clap::CommandFactory;
        let command = Arguments::command();
        let cluster = command.find_subcommand("cluster").expect("it is there");
        for order in cluster.get_subcommands() {
            let example = order.get_after_help().map(ToString::to_string).unwrap_or_default();
            let line = example.strip_prefix("Example: jindou cluster ").unwrap_or_default();
            let line = line.split(" && ").next().unwrap_or_default();
            assert!(options(line).is_ok(), "{}: {example:?}", order.get_name());
        }
    }
}
