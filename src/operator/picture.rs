//! A cluster's status as tables for people, at most a hundred columns wide. It reads the API's JSON and shows `?` for what is missing.

use std::fmt::Write;

use serde_json::Value;

/// Columns of a terminal that is not narrow.
const COLUMNS: usize = 100;

/// Everything, the slot table too when its rows are there.
pub(super) fn whole(data: &Value) -> String {
    let mut text = head(data);
    text.push('\n');
    text.push_str(&members(data));
    let moves = list(&data["moves"]["list"]);
    if !moves.is_empty() {
        text.push('\n');
        text.push_str(&moves_table(moves, number(&data["moves"]["under_way"])));
    }
    let waits = list(&data["waits"]);
    if !waits.is_empty() {
        text.push_str("\nWAITS\n");
        for wait in waits {
            let about = match (wait["slot"].as_u64(), wait["node"].as_u64()) {
                (Some(slot), _) => format!("slot {slot}: "),
                // Words about a member name it.
                (None, _) => String::new(),
            };
            line(&mut text, &format!("{about}{}", word(&wait["why"])));
        }
        let omitted = number(&data["waits_omitted"]);
        if omitted > 0 {
            line(&mut text, &format!("and {omitted} more"));
        }
    }
    let rows = list(&data["rows"]);
    if !rows.is_empty() {
        text.push('\n');
        text.push_str(&slots_table(rows));
    }
    text
}

/// One line: what is still to happen.
pub(super) fn progress(data: &Value) -> String {
    let moves = &data["moves"];
    let slots = &data["slots"];
    let mut parts = Vec::new();
    for (count, words) in [
        (number(&moves["under_way"]), "moves under way"),
        (number(&moves["waiting"]), "waiting"),
        (number(&slots["reshaping"]), "splits and merges under way"),
        (number(&slots["leaderless"]), "slots without a leader"),
        (number(&slots["led_elsewhere"]), "slots led elsewhere than preferred"),
    ] {
        if count > 0 {
            parts.push(format!("{count} {words}"));
        }
    }
    if parts.is_empty() {
        parts.push(if data["at_rest"] == true { "at rest" } else { "not at rest" }.to_owned());
    }
    if let Some(left) = moves["remaining_ms"].as_u64().filter(|left| *left > 0) {
        parts.push(format!("about {} left", span(left)));
    }
    if let Some(wait) = list(&data["waits"]).first() {
        parts.push(word(&wait["why"]));
    }
    clipped(&parts.join(", "))
}

fn head(data: &Value) -> String {
    let mut text = String::new();
    let state = match (data["complete"] == true, data["at_rest"] == true) {
        (false, _) => "nobody leads its metadata as far as this node knows",
        (true, true) => "at rest",
        (true, false) => "at work",
    };
    let (name, version, told_by) = (word(&data["name"]), number(&data["version"]), word(&data["told_by"]));
    line(&mut text, &format!("cluster {name}, version {version}: {state} (told by {told_by})"));
    let metadata = &data["metadata"];
    let voters: Vec<String> = list(&metadata["voters"]).iter().map(|node| format!("n{}", number(node))).collect();
    let leader = metadata["leader"].as_u64().map_or("nobody".to_owned(), |node| format!("n{node}"));
    let term = number(&metadata["term"]);
    line(&mut text, &format!("metadata: led by {leader} in term {term}, voters {}", voters.join(" ")));
    let slots = &data["slots"];
    let mut words = format!("slots: {}, {} replicas each", number(&slots["total"]), number(&data["replicas_wanted"]));
    for (key, what) in [
        ("short_of_replicas", "short of replicas"),
        ("leaderless", "without a leader"),
        ("led_elsewhere", "led elsewhere than preferred"),
        ("reshaping", "splitting or merging"),
    ] {
        let count = number(&slots[key]);
        if count > 0 {
            let _ = write!(words, "; {count} {what}");
        }
    }
    line(&mut text, &words);
    let lost: Vec<String> = list(&slots["lost"]).iter().map(|slot| number(slot).to_string()).collect();
    if !lost.is_empty() {
        line(&mut text, &format!("LOST, every disk that had them is gone: slots {}", lost.join(" ")));
    }
    line(&mut text, &format!("now: {}", progress(data)));
    text
}

fn members(data: &Value) -> String {
    let mut rows = vec![
        ["NODE", "STATE", "HEARD", "SLOTS", "LEADS", "SHOULD", "SESSIONS", "TABLE", "HTTP", "CLUSTER"]
            .map(str::to_owned),
    ];
    for member in list(&data["members"]) {
        let heard = match member["alive"].as_bool() {
            None => "?".to_owned(),
            Some(true) => "yes".to_owned(),
            Some(false) => format!("no, {}", span(number(&member["silent_ms"]))),
        };
        let count = |key: &str| number(&member[key]).to_string();
        rows.push([
            format!("n{}", number(&member["node"])),
            word(&member["state"]),
            heard,
            count("slots"),
            count("leads"),
            count("preferred"),
            member["sessions"].as_u64().map_or("?".to_owned(), |sessions| sessions.to_string()),
            count("table_version"),
            word(&member["http_addr"]),
            word(&member["cluster_addr"]),
        ]);
    }
    table(&rows, &[3, 4, 5, 6, 7])
}

fn moves_table(moves: &[Value], total: u64) -> String {
    let mut rows = vec![["SLOT", "FROM", "TO", "READ", "FOR", "LEFT", "STAGE"].map(str::to_owned)];
    for one in moves {
        rows.push([
            number(&one["slot"]).to_string(),
            words(&one["from"]),
            words(&one["to"]),
            one["percent"].as_u64().map_or("?".to_owned(), |percent| format!("{percent}%")),
            span(number(&one["under_way_ms"])),
            one["remaining_ms"].as_u64().map_or("?".to_owned(), span),
            word(&one["stage"]),
        ]);
    }
    let mut text = table(&rows, &[0, 3, 4, 5]);
    if total > moves.len() as u64 {
        line(&mut text, &format!("and {} more", total - moves.len() as u64));
    }
    text
}

fn slots_table(slots: &[Value]) -> String {
    let mut rows = vec![["SLOT", "BITS", "EPOCH", "LEADER", "PREFERRED", "REPLICAS", "STAGE"].map(str::to_owned)];
    for row in slots {
        let mut stage = word(&row["stage"]);
        if !list(&row["target"]).is_empty() {
            stage = format!("to {}: {stage}", words(&row["target"]));
        }
        rows.push([
            number(&row["slot"]).to_string(),
            number(&row["depth"]).to_string(),
            number(&row["epoch"]).to_string(),
            row["leader"].as_str().unwrap_or("-").to_owned(),
            word(&row["preferred"]),
            words(&row["replicas"]),
            stage,
        ]);
    }
    table(&rows, &[0, 1, 2])
}

/// Columns as wide as their widest cell, two spaces between; numbers to the right.
pub(crate) fn table<const N: usize>(rows: &[[String; N]], right: &[usize]) -> String {
    let mut widths = [0; N];
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut text = String::new();
    for row in rows {
        let mut columns = String::new();
        for (at, cell) in row.iter().enumerate() {
            let width = widths[at];
            let gap = if at == 0 { "" } else { "  " };
            // Writing into a string cannot fail.
            let _ = if right.contains(&at) {
                write!(columns, "{gap}{cell:>width$}")
            } else {
                write!(columns, "{gap}{cell:<width$}")
            };
        }
        line(&mut text, &columns);
    }
    text
}

/// A line of a page.
pub(crate) fn line(text: &mut String, words: &str) {
    text.push_str(&clipped(words.trim_end()));
    text.push('\n');
}

/// Without control characters, and no wider than the page: what other nodes say must not steer this terminal.
fn clipped(words: &str) -> String {
    let clean = words.chars().map(|c| if c.is_control() { ' ' } else { c });
    if words.chars().count() <= COLUMNS {
        return clean.collect();
    }
    clean.take(COLUMNS - 1).chain(['…']).collect()
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or(0)
}

fn word(value: &Value) -> String {
    value.as_str().unwrap_or("?").to_owned()
}

fn words(value: &Value) -> String {
    list(value).iter().map(word).collect::<Vec<_>>().join(" ")
}

/// A time as people say it.
pub(super) fn span(milliseconds: u64) -> String {
    match milliseconds {
        0..10_000 => format!("{}.{} s", milliseconds / 1000, milliseconds % 1000 / 100),
        10_000..120_000 => format!("{} s", milliseconds / 1000),
        120_000..7_200_000 => format!("{} min", milliseconds / 60_000),
        _ => format!("{} h", milliseconds / 3_600_000),
    }
}
