//! The kinds of values that a setting can have: how each is read from text and written as TOML writes it. Whether a
//! value of the right kind is also a sensible one is the table's word (`config::SETTINGS`).

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::engine::shard::{Durability, OfflineMode};

/// A kind of value.
pub(super) trait Value: Sized {
    /// From the text of the file, the environment or a flag; `None` when it is not of this kind.
    fn parse(text: &str) -> Option<Self>;
    /// As TOML writes it.
    fn show(&self) -> String;
}

/// Asks the table's check about a value; the present one only tells the compiler the type.
pub(super) fn checked<T>(value: &T, _present: &T, check: impl Fn(&T) -> bool) -> bool {
    check(value)
}

/// Whether a span lies between so many seconds.
pub(super) fn between(span: &Span, from_s: u64, to_s: u64) -> bool {
    (Duration::from_secs(from_s)..=Duration::from_secs(to_s)).contains(&span.0)
}

const LOG_LEVELS: [&str; 6] = ["error", "warn", "info", "debug", "trace", "off"];

/// Whether this is a level, or a list of `MODULE=LEVEL` and levels. RUST_LOG itself takes more, among it `inof` for the name
/// of a module: here a mistyped level is a mistake.
pub(super) fn is_log_filter(text: &str) -> bool {
    text.split(',').all(|part| {
        let (module, level) = part.split_once('=').unwrap_or(("jindou", part));
        let named = !module.is_empty() && module.chars().all(|c| c.is_ascii_alphanumeric() || "_:-".contains(c));
        named && LOG_LEVELS.contains(&level)
    })
}

fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

macro_rules! plain_values {
    ($($kind:ty),+) => {
        $(impl Value for $kind {
            fn parse(text: &str) -> Option<Self> {
                text.parse().ok()
            }
            fn show(&self) -> String {
                self.to_string()
            }
        })+
    };
}

plain_values!(u8, u16, u32, usize, bool);

/// Bytes of a cluster's secret.
const SECRET_BYTES: std::ops::RangeInclusive<usize> = 16..=256;

/// Whether this can be a cluster's secret.
#[must_use]
pub fn is_secret(text: &str) -> bool {
    SECRET_BYTES.contains(&text.len())
}

/// Empty is none.
impl Value for Option<SocketAddr> {
    fn parse(text: &str) -> Option<Self> {
        if text.is_empty() { Some(None) } else { text.parse().ok().map(Some) }
    }
    fn show(&self) -> String {
        quoted(&self.map(|address| address.to_string()).unwrap_or_default())
    }
}

/// Separated by commas; a file may also write a list.
impl Value for Vec<SocketAddr> {
    fn parse(text: &str) -> Option<Self> {
        let list = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
        let parts = list.split(',').map(|part| part.trim().trim_matches('"')).filter(|part| !part.is_empty());
        parts.map(|part| part.parse().ok()).collect()
    }
    fn show(&self) -> String {
        let parts: Vec<String> = self.iter().map(|address| quoted(&address.to_string())).collect();
        format!("[{}]", parts.join(", "))
    }
}

impl Value for SocketAddr {
    fn parse(text: &str) -> Option<Self> {
        text.parse().ok()
    }
    fn show(&self) -> String {
        quoted(&self.to_string())
    }
}

impl Value for String {
    fn parse(text: &str) -> Option<Self> {
        (!text.contains(char::is_control)).then(|| text.to_owned())
    }
    fn show(&self) -> String {
        quoted(self)
    }
}

impl Value for PathBuf {
    fn parse(text: &str) -> Option<Self> {
        Some(PathBuf::from(text))
    }
    fn show(&self) -> String {
        quoted(&self.display().to_string())
    }
}

/// A number of bytes, written `64MiB`, `4KiB` or `512`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ByteSize(pub u64);

const BYTE_UNITS: [(&str, u32); 4] = [("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)];

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (unit, shift) in BYTE_UNITS {
            if self.0 != 0 && self.0.trailing_zeros() >= shift {
                return write!(f, "{}{unit}", self.0 >> shift);
            }
        }
        write!(f, "{}", self.0)
    }
}

impl Value for ByteSize {
    fn parse(text: &str) -> Option<Self> {
        for (unit, shift) in BYTE_UNITS {
            if let Some(number) = text.strip_suffix(unit) {
                let number: u64 = number.trim_end().parse().ok()?;
                return number.checked_mul(1 << shift).map(ByteSize);
            }
        }
        text.parse().ok().map(ByteSize)
    }
    fn show(&self) -> String {
        if BYTE_UNITS.iter().any(|(unit, _)| self.to_string().ends_with(unit)) {
            quoted(&self.to_string())
        } else {
            self.to_string()
        }
    }
}

/// A span of time, written `500ms`, `8s`, `10m`, `36h`, `7d`; a bare number is seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span(pub Duration);

const SPAN_UNITS: [(&str, u64); 5] = [("ms", 1), ("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000)];

impl Value for Span {
    fn parse(text: &str) -> Option<Self> {
        for (unit, unit_ms) in SPAN_UNITS {
            if let Some(number) = text.strip_suffix(unit) {
                let number: u64 = number.trim_end().parse().ok()?;
                return number.checked_mul(unit_ms).map(|ms| Span(Duration::from_millis(ms)));
            }
        }
        let seconds: u64 = text.parse().ok()?;
        seconds.checked_mul(1000).map(|ms| Span(Duration::from_millis(ms)))
    }
    fn show(&self) -> String {
        let ms = self.0.as_millis();
        if ms == 0 {
            "0".to_owned()
        } else if ms.is_multiple_of(1000) {
            quoted(&format!("{}s", ms / 1000))
        } else {
            quoted(&format!("{ms}ms"))
        }
    }
}

/// How many shards a node has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ShardCount {
    /// One per core that this process may use.
    Auto,
    /// So many.
    Exactly(u16),
}

/// The most shards that a node can be told to have.
const SHARD_COUNT_MAX: u16 = 256;

impl Value for ShardCount {
    fn parse(text: &str) -> Option<Self> {
        if text == "auto" {
            return Some(ShardCount::Auto);
        }
        let count: u16 = text.parse().ok()?;
        (1..=SHARD_COUNT_MAX).contains(&count).then_some(ShardCount::Exactly(count))
    }
    fn show(&self) -> String {
        match self {
            ShardCount::Auto => quoted("auto"),
            ShardCount::Exactly(count) => count.to_string(),
        }
    }
}

/// What a listener speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListenMode {
    /// Key agreement, msgKey and cipher, as every SDK needs them.
    Cipher,
    /// Payloads as they are, no msgKey.
    Plain,
}

/// How the log looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// Coloured on a terminal.
    Auto,
    /// Never coloured.
    Plain,
    /// Always coloured.
    Colour,
}

macro_rules! word_values {
    ($($kind:ident { $($variant:ident = $word:literal),+ })+) => {
        $(impl Value for $kind {
            fn parse(text: &str) -> Option<Self> {
                match text {
                    $($word => Some($kind::$variant),)+
                    _ => None,
                }
            }
            fn show(&self) -> String {
                quoted(match self { $($kind::$variant => $word),+ })
            }
        })+
    };
}

word_values! {
    ListenMode { Cipher = "cipher", Plain = "plain" }
    LogFormat { Auto = "auto", Plain = "plain", Colour = "colour" }
    OfflineMode { Push = "push", Sync = "sync" }
    Durability { Fsync = "fsync", Memory = "memory" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn log_filters_are_levels_by_module() {
        for text in ["info", "off", "warn,jindou::shell=debug", "jindou=trace"] {
            assert!(is_log_filter(text), "{text}");
        }
        for text in ["", "inof", "info,", "jindou=loud", "=info", "a b=info"] {
            assert!(!is_log_filter(text), "{text}");
        }
    }

    #[test]
    fn addresses_are_read_and_written() {
        let list = |text: &str| Vec::<SocketAddr>::parse(text);
        let (four, six): (SocketAddr, SocketAddr) = ("10.0.0.1:1".parse().unwrap(), "[::1]:2".parse().unwrap());
        for text in ["10.0.0.1:1,[::1]:2", "[\"10.0.0.1:1\", \"[::1]:2\"]", " 10.0.0.1:1 , [::1]:2,"] {
            assert_eq!(list(text), Some(vec![four, six]), "{text}");
        }
        assert_eq!(list("[::1]:2"), Some(vec![six]));
        assert_eq!((list(""), list("[]")), (Some(vec![]), Some(vec![])));
        assert_eq!((list("[1]"), list("db1:5300"), list("10.0.0.1")), (None, None, None));
        assert_eq!(vec![four, six].show(), "[\"10.0.0.1:1\", \"[::1]:2\"]");
        assert_eq!((Option::<SocketAddr>::parse(""), Option::<SocketAddr>::parse("x")), (Some(None), None));
    }

    #[test]
    fn sizes_and_spans_are_read_and_written() {
        for (text, bytes) in [("0", 0), ("512", 512), ("4KiB", 4096), ("64MiB", 64 << 20), ("1 TiB", 1 << 40)] {
            assert_eq!(ByteSize::parse(text), Some(ByteSize(bytes)));
        }
        for text in ["", "MiB", "-1", "1MB", "99999999TiB", "1.5GiB"] {
            assert_eq!(ByteSize::parse(text), None, "{text}");
        }
        assert_eq!(ByteSize(64 << 20).show(), "\"64MiB\"");
        assert_eq!(ByteSize(1000).show(), "1000");
        for (text, ms) in [("8", 8000), ("500ms", 500), ("3m", 180_000), ("7d", 604_800_000)] {
            assert_eq!(Span::parse(text), Some(Span(Duration::from_millis(ms))));
        }
        assert_eq!(Span::parse("soon"), None);
        assert_eq!(Span(Duration::from_secs(180)).show(), "\"180s\"");
    }
}
