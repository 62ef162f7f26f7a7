//! `jindou cluster …`: what an operator asks of a running cluster, over the HTTP API of any of its nodes. Tables on standard output, what is waited for
//! on standard error, and an exit code that scripts can read. It decides nothing: the cluster refuses what cannot be.
//!
//! ```text
//!  status ─► shown
//!  a wish ─► POST ──200──► done ──--wait──► asks for the status every second until what was wished for stands and nothing moves: 0
//!               ├──4xx──► refused: 1                                   ├──taken back, for good reason: 1
//!               │                                                      └──--within is over: 4
//!               └──503, nobody there──► 3
//! ```

#![allow(clippy::disallowed_methods, clippy::disallowed_types)] // Not pure: see .ci/clippy.toml.

use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use call::Door;

mod call;
pub(crate) mod picture;
#[cfg(test)]
mod tests;

/// What ends a status that is not the whole picture.
const NOBODY_LEADS: &str =
    "nobody leads the cluster's metadata: this is what the asked node knows, and who is heard is what gossip says";

/// Between two looks while something is waited for.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Between two pictures of `status --watch`.
const WATCH_EVERY: Duration = Duration::from_secs(2);

/// The cluster is at rest when it looks so as often in a row: what a wish leads to is planned a moment after it was agreed on.
const LOOKS_AT_REST: u32 = 3;

/// Rows of the slot table in one answer.
const PAGE_ROWS: u32 = 1024;

/// Pages of the slot table at most: a cluster has no more rows.
const PAGES_MAX: usize = 16;

/// What an operator wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Order {
    /// How everything stands.
    Status {
        /// Again and again.
        watch: bool,
        /// As JSON.
        json: bool,
        /// With the slot table.
        slots: bool,
    },
    /// How a node joins, or until this one has.
    Join {
        /// Whom to wait for.
        node: Option<u16>,
    },
    /// This node shall hold nothing.
    Drain {
        /// Whom.
        node: u16,
    },
    /// It shall hold its share.
    Serve {
        /// Whom.
        node: u16,
    },
    /// It shall be forgotten.
    Remove {
        /// Whom.
        node: u16,
    },
    /// Another one takes its share.
    Replace {
        /// Who goes.
        node: u16,
        /// Who stays.
        by: u16,
    },
    /// Plan anew.
    Rebalance,
    /// So many replicas a slot.
    Replicas {
        /// At least 1.
        replicas: u8,
    },
    /// Slots become two.
    Split {
        /// `None`: all.
        slot: Option<u16>,
        /// Bits that name them afterwards; `None`: one more than now.
        depth: Option<u8>,
    },
    /// Slots become one with their siblings.
    Merge {
        /// `None`: all.
        slot: Option<u16>,
        /// Bits that name them afterwards; `None`: one less than now.
        depth: Option<u8>,
    },
    /// Another node leads a slot.
    Transfer {
        /// Which.
        slot: u16,
        /// Who.
        node: u16,
    },
}

/// What the command line says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OperatorOptions {
    /// `http://HOST:PORT` of any node.
    pub api: String,
    /// What `http.token` says there; empty when nothing.
    pub token: String,
    /// Wait until it is done, at most so long.
    pub wait: Option<Duration>,
    /// What.
    pub order: Order,
}

/// Why it did not end well.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OperatorError {
    /// The cluster says no.
    Refused(String),
    /// The command line is wrong.
    Usage(String),
    /// No answer, or nobody leads.
    Unreachable(String),
    /// Not at rest when the time was over.
    NotYet(String),
    /// Standard output is gone.
    Output(String),
}

impl OperatorError {
    /// For scripts.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            OperatorError::Refused(_) | OperatorError::Output(_) => 1,
            OperatorError::Usage(_) => 2,
            OperatorError::Unreachable(_) => 3,
            OperatorError::NotYet(_) => 4,
        }
    }

    pub(crate) fn of_output(error: io::Error) -> OperatorError {
        OperatorError::Output(format!("cannot write: {error}"))
    }
}

impl std::fmt::Display for OperatorError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            OperatorError::Refused(line)
            | OperatorError::Usage(line)
            | OperatorError::Unreachable(line)
            | OperatorError::NotYet(line)
            | OperatorError::Output(line) => f.write_str(line),
        }
    }
}

/// Does it.
///
/// # Errors
/// What to say, and with which code to end.
pub fn run(options: &OperatorOptions, out: &mut impl Write) -> Result<(), OperatorError> {
    let desk = Desk::open(&options.api, &options.token)?;
    match &options.order {
        Order::Status { watch: true, json, slots } => desk.watch(*json, *slots, out),
        Order::Status { json, slots, .. } => {
            if let Some(within) = options.wait {
                desk.wait(&options.order, None, within)?;
            }
            let (text, complete) = desk.shown(*json, *slots)?;
            write!(out, "{text}").map_err(OperatorError::of_output)?;
            if complete { Ok(()) } else { Err(OperatorError::Unreachable(NOBODY_LEADS.to_owned())) }
        }
        Order::Join { node: None } => {
            write!(out, "{}", how_to_join(&desk.status()?)?).map_err(OperatorError::of_output)
        }
        Order::Join { .. } => {
            desk.wait(&options.order, None, options.wait.unwrap_or(Duration::MAX))?;
            say(out, "it serves, and everything that was to move has moved")
        }
        order => desk.carry_out(order, options.wait, out),
    }
}

fn say(out: &mut impl Write, line: &str) -> Result<(), OperatorError> {
    writeln!(out, "{line}").map_err(OperatorError::of_output)
}

/// A call's path and body.
type Wish = (&'static str, Value);

/// Asks one node.
pub(crate) struct Desk {
    door: Door,
}

impl Desk {
    /// At this API; nothing is dialed yet.
    pub(crate) fn open(api: &str, token: &str) -> Result<Desk, OperatorError> {
        Ok(Desk { door: Door::parse(api, token).map_err(OperatorError::Usage)? })
    }

    /// One question; without a body it is a GET.
    pub(crate) fn ask(&self, path: &str, body: Option<&str>) -> Result<Value, OperatorError> {
        let door = &self.door;
        let (status, text) = door
            .call(path, body)
            .map_err(|error| OperatorError::Unreachable(format!("cannot reach {door}: {error}")))?;
        let answer: Value = serde_json::from_str(&text).unwrap_or(Value::Null);
        let why = answer["msg"].as_str().unwrap_or("it does not say why");
        match status {
            200 => Ok(answer),
            503 => Err(OperatorError::Unreachable(format!("{door} cannot answer now: {why}"))),
            404 => Err(OperatorError::Refused(format!(
                "{door} does not know {path}: it is another program, or an older one"
            ))),
            _ => Err(OperatorError::Refused(format!("refused: {why}"))),
        }
    }

    fn status(&self) -> Result<Value, OperatorError> {
        Ok(self.ask("/cluster/status", None)?["data"].take())
    }

    /// The status with the whole slot table, page by page; that of the last page, if it changed in between.
    fn status_with_slots(&self) -> Result<Value, OperatorError> {
        let mut rows = Vec::new();
        let mut from = 0;
        for _ in 0..PAGES_MAX {
            let mut data = self.ask(&format!("/cluster/status?from={from}&max={PAGE_ROWS}"), None)?["data"].take();
            if let Some(page) = data["rows"].as_array_mut() {
                rows.append(page);
            }
            match data["next"].as_u64() {
                Some(next) if next > from => from = next,
                _ => {
                    data["rows"] = Value::Array(rows);
                    return Ok(data);
                }
            }
        }
        Err(OperatorError::Refused(format!("{} names more slots than there can be", self.door)))
    }

    /// The picture, and whether it is that of who leads the metadata.
    fn shown(&self, json: bool, slots: bool) -> Result<(String, bool), OperatorError> {
        let data = if slots { self.status_with_slots()? } else { self.status()? };
        let text = if json { format!("{data:#}\n") } else { picture::whole(&data) };
        Ok((text, data["complete"] == true))
    }

    /// Until it is interrupted, or standard output is gone.
    fn watch(&self, json: bool, slots: bool, out: &mut impl Write) -> Result<(), OperatorError> {
        // A terminal is wiped first; elsewhere one picture follows the other.
        let wipe = if io::stdout().is_terminal() && !json { "\x1b[H\x1b[2J" } else { "" };
        loop {
            let text = match self.shown(json, slots) {
                Ok((text, _)) => text,
                Err(OperatorError::Unreachable(why)) => format!("{why}\n"),
                Err(other) => return Err(other),
            };
            writeln!(out, "{wipe}{text}").and_then(|()| out.flush()).map_err(OperatorError::of_output)?;
            std::thread::sleep(WATCH_EVERY);
        }
    }

    fn carry_out(&self, order: &Order, wait: Option<Duration>, out: &mut impl Write) -> Result<(), OperatorError> {
        let deadline = wait.map(|within| (Instant::now(), within));
        if let (Order::Replace { by, .. }, Some((_, within))) = (order, deadline) {
            self.wait_until_serving(*by, within)?;
        }
        let wish = self.wish(order)?;
        self.ask(wish.0, Some(&wish.1.to_string()))?;
        let Some((began, within)) = deadline else {
            return say(out, &done(order));
        };
        self.wait(order, Some(&wish), within.saturating_sub(began.elapsed()))?;
        say(out, &format!("{}; everything is at rest", done(order)))
    }

    /// The call that an order is.
    fn wish(&self, order: &Order) -> Result<Wish, OperatorError> {
        Ok(match order {
            Order::Drain { node } => ("/cluster/drain", json!({"node": node})),
            Order::Serve { node } => ("/cluster/serve", json!({"node": node})),
            Order::Remove { node } => ("/cluster/remove", json!({"node": node})),
            Order::Replace { node, by } => ("/cluster/replace", json!({"node": node, "by": by})),
            Order::Rebalance => ("/cluster/rebalance", json!({})),
            Order::Replicas { replicas } => ("/cluster/replicas", json!({"replicas": replicas})),
            Order::Transfer { slot, node } => ("/cluster/transfer", json!({"slot": slot, "node": node})),
            Order::Split { slot, depth } => {
                let depth = match depth {
                    Some(depth) => u64::from(*depth),
                    None => bits(&self.status_with_slots()?, *slot, u64::min)? + 1,
                };
                ("/cluster/split", json!({"slots": slot.iter().collect::<Vec<_>>(), "depth": depth}))
            }
            Order::Merge { slot, depth } => {
                let depth = match depth {
                    Some(depth) => u64::from(*depth),
                    None => bits(&self.status_with_slots()?, *slot, u64::max)?.saturating_sub(1),
                };
                ("/cluster/merge", json!({"slots": slot.iter().collect::<Vec<_>>(), "depth": depth}))
            }
            Order::Status { .. } | Order::Join { .. } => ("/cluster/status", Value::Null),
        })
    }

    /// Until what was wished for stands and nothing moves. A split or merge that met a slot at work is wished for again.
    fn wait(&self, order: &Order, wish: Option<&Wish>, within: Duration) -> Result<(), OperatorError> {
        let reshapes = matches!(order, Order::Split { .. } | Order::Merge { .. });
        let (mut looks, mut looks_undone) = (0, 0);
        self.look(
            within,
            |data| {
                let rests = data["at_rest"] == true;
                let standing = standing(order, wish, data);
                if rests
                    && standing != Standing::So
                    && reshapes
                    && let Some((path, body)) = wish
                {
                    match self.ask(path, Some(&body.to_string())) {
                        Ok(_) | Err(OperatorError::Unreachable(_)) => {}
                        Err(other) => return Err(other),
                    }
                }
                looks = if rests && standing == Standing::So { looks + 1 } else { 0 };
                looks_undone = if matches!(standing, Standing::Undone(_)) { looks_undone + 1 } else { 0 };
                match standing {
                    Standing::So if looks >= LOOKS_AT_REST => Ok(None),
                    Standing::Undone(why) if looks_undone >= LOOKS_AT_REST => Err(OperatorError::Refused(why)),
                    Standing::So => Ok(Some(String::new())),
                    Standing::NotYet(why) | Standing::Undone(why) => Ok(Some(why)),
                }
            },
            reshapes || matches!(order, Order::Transfer { .. }),
        )
    }

    fn wait_until_serving(&self, node: u16, within: Duration) -> Result<(), OperatorError> {
        let missing = || Some(format!("n{node} does not serve yet"));
        // Without a leader of the metadata there are only hints of who is alive.
        let stands = |data: &Value| data["complete"] == true && serves(data, node);
        self.look(within, |data| Ok(if stands(data) { None } else { missing() }), false)
    }

    /// Looks every second, and says what has changed, until nothing is `missing`. A node that does not answer may be the next one to.
    fn look(
        &self,
        within: Duration,
        mut missing: impl FnMut(&Value) -> Result<Option<String>, OperatorError>,
        with_slots: bool,
    ) -> Result<(), OperatorError> {
        let began = Instant::now();
        let mut said = String::new();
        loop {
            let data = if with_slots { self.status_with_slots() } else { self.status() };
            let line = match data {
                Ok(data) => match missing(&data)? {
                    None => return Ok(()),
                    Some(what) if what.is_empty() => picture::progress(&data),
                    Some(what) => format!("{what}; {}", picture::progress(&data)),
                },
                Err(OperatorError::Unreachable(why)) => why,
                Err(other) => return Err(other),
            };
            if line != said {
                eprintln!("{line}");
                said = line;
            }
            if began.elapsed() + LOOK_EVERY > within {
                let seconds = within.as_secs_f64().ceil();
                return Err(OperatorError::NotYet(format!("not done after {seconds} s: {said}")));
            }
            std::thread::sleep(LOOK_EVERY);
        }
    }
}

/// Bits that name a slot, or those of the slot that has fewest or most.
fn bits(data: &Value, slot: Option<u16>, choose: fn(u64, u64) -> u64) -> Result<u64, OperatorError> {
    let rows = data["rows"].as_array().map_or(&[][..], Vec::as_slice);
    let named = rows.iter().filter(|row| slot.is_none_or(|slot| row["slot"] == slot));
    let depths = named.filter_map(|row| row["depth"].as_u64());
    let missing = || OperatorError::Refused(format!("refused: there is no slot {}", slot.unwrap_or(0)));
    depths.reduce(choose).ok_or_else(missing)
}

fn member(data: &Value, node: u16) -> Option<&Value> {
    data["members"].as_array()?.iter().find(|member| member["node"] == node)
}

fn serves(data: &Value, node: u16) -> bool {
    member(data, node).is_some_and(|member| member["state"] == "serving" && member["alive"] == true)
}

/// How an order stands.
#[derive(Debug, PartialEq, Eq)]
enum Standing {
    /// As it was ordered, moves aside.
    So,
    /// Not yet; what is missing, if there are words for it.
    NotYet(String),
    /// Agreed on, and taken back since: it will not come by waiting.
    Undone(String),
}

fn standing(order: &Order, wish: Option<&Wish>, data: &Value) -> Standing {
    let rows = data["rows"].as_array().map_or(&[][..], Vec::as_slice);
    let depth = wish.and_then(|(_, body)| body["depth"].as_u64()).unwrap_or(0);
    let of = |row: &&Value, slot: &Option<u16>| slot.is_none_or(|slot| row["slot"] == slot);
    let is_so = match order {
        Order::Transfer { slot, node } => return transferred(*slot, *node, data),
        Order::Drain { node } => return emptied(*node, data),
        Order::Replace { node, by } if serves(data, *by) => return emptied(*node, data),
        Order::Replace { .. } => false,
        Order::Join { node: Some(node) } | Order::Serve { node } => serves(data, *node),
        Order::Remove { node } => member(data, *node).is_none(),
        Order::Replicas { replicas } => data["replicas_wanted"] == *replicas,
        Order::Split { slot, .. } => {
            rows.iter().filter(|row| of(row, slot)).all(|row| row["depth"].as_u64() >= Some(depth))
        }
        Order::Merge { slot, .. } => {
            rows.iter().filter(|row| of(row, slot)).all(|row| row["depth"].as_u64() <= Some(depth))
        }
        Order::Status { .. } | Order::Join { node: None } | Order::Rebalance => true,
    };
    if is_so { Standing::So } else { Standing::NotYet(String::new()) }
}

/// Whether a node can be stopped and nobody notices: it has no slots, no vote and no sessions.
fn emptied(node: u16, data: &Value) -> Standing {
    let Some(member) = member(data, node) else { return Standing::So };
    let count = |key: &str| member[key].as_u64().unwrap_or(0);
    let (slots, leads) = (count("slots"), count("leads"));
    if slots + leads > 0 {
        return Standing::NotYet(format!("n{node} holds {slots} slots and leads {leads}"));
    }
    if data["metadata"]["voters"].as_array().is_some_and(|voters| voters.iter().any(|voter| *voter == node)) {
        return Standing::NotYet(format!("n{node} still votes on the metadata"));
    }
    // A node that is not heard serves nobody.
    match (member["alive"] == true, member["sessions"].as_u64()) {
        (false, _) | (true, Some(0)) => Standing::So,
        (true, Some(sessions)) => Standing::NotYet(format!("n{node} has {sessions} sessions left")),
        (true, None) => Standing::NotYet(format!("n{node} has not said how many sessions it has")),
    }
}

/// Whether a slot is led by whom it was given to. Leaders are evened out after every change, and that may take it back.
fn transferred(slot: u16, node: u16, data: &Value) -> Standing {
    let row = data["rows"].as_array().and_then(|rows| rows.iter().find(|row| row["slot"] == slot));
    let Some(row) = row else {
        return Standing::Undone(format!("slot {slot} is no more: it was merged with its sibling"));
    };
    let is_on = |place: &Value| {
        let place = place.as_str().and_then(|place| place.split_once('/'));
        place.is_some_and(|(of, _)| of == format!("n{node}"))
    };
    let named = |place: &Value| place.as_str().unwrap_or("nobody").to_owned();
    if !is_on(&row["preferred"]) {
        let preferred = named(&row["preferred"]);
        let why = format!("slot {slot} is to be led by {preferred}, not by n{node}: leaders are kept evenly spread");
        // Who does not lead the metadata group may have an older table.
        return if data["complete"] == true { Standing::Undone(why) } else { Standing::NotYet(why) };
    }
    if is_on(&row["leader"]) {
        return Standing::So;
    }
    Standing::NotYet(format!("slot {slot} is still led by {}", named(&row["leader"])))
}

/// What has been agreed on, for people.
fn done(order: &Order) -> String {
    match order {
        Order::Drain { node } => {
            format!("n{node} is to hold nothing; `jindou cluster remove {node}` forgets it once it does")
        }
        Order::Serve { node } => format!("n{node} is to hold its share"),
        Order::Remove { node } => format!("n{node} is no member any more"),
        Order::Replace { node, by } => {
            format!(
                "n{by} takes the share of n{node}; `jindou cluster remove {node}` forgets n{node} once it holds nothing"
            )
        }
        Order::Rebalance => "everything is planned anew".to_owned(),
        Order::Replicas { replicas } => format!("each slot is to have {replicas} replicas"),
        Order::Split { .. } => "the splits are planned".to_owned(),
        Order::Merge { .. } => "the merges are planned".to_owned(),
        Order::Transfer { slot, node } => format!("n{node} is to lead slot {slot}"),
        Order::Status { .. } | Order::Join { .. } => String::new(),
    }
}

/// A node joins when it is started with seeds: what to write for one.
fn how_to_join(data: &Value) -> Result<String, OperatorError> {
    let members = data["members"].as_array().map_or(&[][..], Vec::as_slice);
    let alive = members.iter().filter(|member| member["alive"] != false);
    // Whoever runs without others has no address for them.
    let dialable = |address: &&Value| address.as_str().is_some_and(|address| !address.ends_with(":0"));
    let seeds = alive.map(|member| &member["cluster_addr"]).filter(dialable);
    let seeds: Vec<String> = seeds.take(3).map(Value::to_string).collect();
    if seeds.is_empty() {
        return Err(OperatorError::Refused(
            "nobody can join yet: no member has an address for others. Give one of them cluster.listen and a secret, with \
             cluster.seeds = [], start it again, and ask once more"
                .to_owned(),
        ));
    }
    let free = members.iter().filter_map(|member| member["node"].as_u64()).max().unwrap_or(0) + 1;
    let name = &data["name"];
    Ok(format!(
        "A node joins by itself when it is started with a seed. On the new machine, with a number that no member has:

  # jindou.toml
  [node]
  id = {free}

  [cluster]
  name = {name}
  listen = \"ITS-ADDRESS:5300\"
  seeds = [{}]
  secret_file = \"/etc/jindou/secret\"    # the same as on the others

  jindou --config jindou.toml

`jindou cluster join --wait {free}` waits until it serves and everything that is to move has moved.
",
        seeds.join(", ")
    ))
}
