//! The architecture as a test: which folder may use which, which crates each may know, how long things may grow. The
//! tables below are the whole truth; a new arrow or crate is a one-line diff that a reviewer sees. Limits are ratchets: they
//! may only become stricter. It judges text, not meaning: what the compiler can check is left to the compiler.

#![allow(clippy::disallowed_methods, clippy::disallowed_types)] // Not pure: see .ci/clippy.toml.

#[path = "architecture/planted.rs"]
mod planted;
#[path = "architecture/rules.rs"]
mod rules;
#[path = "architecture/source.rs"]
mod source;

use std::path::Path;

use rules::Tree;
use source::Source;

/// What is allowed.
pub mod tables {
    /// From → to, between the units of the library, its programs and `loadgen`.
    pub const ARROWS: &[(&str, &[&str])] = &[
        ("lib", &[]),
        ("limits", &[]),
        ("time", &[]),
        ("ids", &["limits"]),
        ("format", &["ids", "limits", "time"]),
        ("engine", &["format", "ids", "limits", "time"]),
        ("config", &["engine", "ids", "limits", "time"]),
        ("shell", &["config", "engine", "format", "ids", "limits", "time"]),
        ("chat", &["format", "ids", "limits"]),
        ("operator", &[]),
        ("profile", &["operator"]),
        ("command_line", &["chat", "operator", "profile"]),
        ("main", &["chat", "config", "operator", "profile", "shell"]),
        ("loadgen", &["format", "ids", "limits"]),
    ];

    /// Tests and benches may look at everything; nothing can import them.
    pub const SEES_EVERYTHING: &[&str] = &["tests", "benches"];

    /// External crates per unit. A unit that is not listed uses none.
    pub const CRATES: &[(&str, &[&str])] = &[
        ("ids", &["crc32fast", "xxhash_rust"]),
        (
            "format",
            &["aes", "base64", "bytes", "cbc", "crc32fast", "hmac", "md5", "rkyv", "sha1", "sha2", "x25519_dalek"],
        ),
        (
            "engine",
            &[
                "bytes",
                "crc32fast",
                "foca",
                "hashbrown",
                "hmac",
                "protobuf",
                "raft",
                "rand_chacha",
                "rand_core",
                "rkyv",
                "sha2",
                "slab",
                "slog",
                "xxhash_rust",
            ],
        ),
        ("config", &["toml"]),
        (
            "shell",
            &[
                "axum",
                "base64",
                "bytes",
                "core_affinity",
                "flume",
                "futures_lite",
                "glommio",
                "hdrhistogram",
                "io_uring",
                "libc",
                "rand_chacha",
                "rand_core",
                "serde",
                "serde_json",
                "signal_hook",
                "slab",
                "socket2",
                "tokio",
                "toml",
                "tracing",
            ],
        ),
        ("chat", &["serde_json"]),
        ("operator", &["serde_json"]),
        ("profile", &["serde", "serde_json"]),
        ("command_line", &["clap"]),
        ("main", &["clap", "mimalloc", "tracing", "tracing_subscriber"]),
        (
            "loadgen",
            &[
                "clap",
                "core_affinity",
                "hdrhistogram",
                "mio",
                "mqttrs",
                "rlimit",
                "serde",
                "serde_json",
                "socket2",
                "toml",
                "xxhash_rust",
            ],
        ),
    ];

    /// Units without I/O, clocks, threads and chance of their own.
    pub const PURE: &[&str] = &["engine", "format", "ids", "limits", "time"];

    /// What of `std` they may use.
    pub const PURE_STD: &[&str] = &[
        "array",
        "borrow",
        "char",
        "cmp",
        "collections",
        "convert",
        "error",
        "fmt",
        "hash",
        "iter",
        "marker",
        "mem",
        "num",
        "ops",
        "net::SocketAddr",
        "str",
        "string",
        "sync::Arc",
        "time::Duration",
        "vec",
    ];

    /// Exceptions to that.
    pub const PURE_STD_REFUSED: &[&str] = &[
        "collections::HashMap",
        "collections::HashSet",
        "collections::hash_map",
        "collections::hash_set",
        "hash::RandomState",
        "hash::DefaultHasher",
    ];

    /// State machines of the engine, each with the machines that it is made of and owns. Others they do not import: they meet
    /// in `slot.rs` and `shard.rs`.
    pub const MACHINES: &[(&str, &[&str])] = &[
        ("session", &["delivery"]),
        ("delivery", &[]),
        ("home", &["devices"]),
        ("devices", &[]),
        ("channel", &[]),
        ("route_cache", &[]),
    ];

    /// Who may bring a `Shard` to life: the shell, the simulator, and the benches that time its step (one of which the test of
    /// allocations borrows).
    pub const SHARD_MAKERS: &[&str] =
        &["src/engine/", "src/shell/", "tests/simulator/", "benches/one_shard.rs", "benches/three_nodes.rs"];

    /// Longest file.
    pub const FILE_LINES_MAX: usize = 800;
    /// Longest function.
    pub const FUNCTION_LINES_MAX: usize = 70;
    /// Folders above a file, `src` counted.
    pub const FOLDER_DEPTH_MAX: usize = 3;
    /// Code lines of the shell per hundred of the engine. The design's aim is 35; the socket ring and the HTTP API, which it did
    /// not count on, are what is above.
    pub const SHELL_PERCENT_OF_ENGINE_MAX: usize = 96;
    /// `expect` per thousand code lines of the pure units. The aim is 2.
    pub const EXPECTS_PER_KLOC_MAX: usize = 4;
    /// Asserts per hundred functions of the engine; this one may only go up. The design's aim is 200 in its machines.
    pub const ASSERTS_PER_HUNDRED_FUNCTIONS_MIN: usize = 16;
    /// Where `unsafe` may stand: the shell, and the counting allocator of one test.
    pub const UNSAFE_ALLOWED: &[&str] = &["src/shell/", "tests/at_rest.rs"];
    /// A `// SAFETY:` must begin within so many lines above its `unsafe`.
    pub const SAFETY_LINES_MAX: usize = 8;
    /// Names that hide what is inside.
    pub const FILE_NAMES_BANNED: &[&str] =
        &["base", "common", "helper", "helpers", "impls", "manager", "misc", "shared", "types", "util", "utils"];
    /// Beginnings of quoted words in the README that are paths of this repository.
    pub const README_FOLDERS: &[&str] = &["src/", "tests/", "benches/", "loadgen/", ".ci/", "tuning/"];
}

/// Everything that is in the repository and not made by a build.
fn repository() -> Tree {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut tree = Tree::default();
    walk(root, root, &mut tree);
    tree.files.sort_by(|a, b| a.path.cmp(&b.path));
    tree.tell_tests_apart();
    tree
}

fn walk(root: &Path, folder: &Path, tree: &mut Tree) {
    let entries = std::fs::read_dir(folder).unwrap_or_else(|fault| panic!("{}: {fault}", folder.display()));
    for entry in entries {
        let path = entry.expect("a directory that can be opened can be read").path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if path.is_dir() {
            if !matches!(name.as_str(), "target" | ".git" | "node_modules" | "data") {
                walk(root, &path, tree);
            }
            continue;
        }
        let inside = path.strip_prefix(root).expect("the walk began at the root").to_string_lossy().into_owned();
        let text = || std::fs::read_to_string(&path).unwrap_or_else(|fault| panic!("{inside}: {fault}"));
        match inside.as_str() {
            ".ci/dependencies.txt" => tree.dependencies = text(),
            "README.md" => tree.readme = text(),
            rust if rust.ends_with(".rs") => tree.files.push(Source::new(rust, &text())),
            manifest if name == "Cargo.toml" => tree.manifests.push((manifest.to_owned(), text())),
            _ => {}
        }
        tree.paths.insert(inside);
    }
}

#[test]
fn the_repository_keeps_every_rule() {
    let tree = repository();
    assert!(tree.files.len() > 30, "only {} Rust files found: is the walk broken?", tree.files.len());
    let engine = rules::code_lines(&tree, "engine");
    println!(
        "code lines: engine {engine}, format {}, shell {} ({} % of engine); asserts per 100 engine functions: {}; expects per kloc: {}",
        rules::code_lines(&tree, "format"),
        rules::code_lines(&tree, "shell"),
        rules::code_lines(&tree, "shell") * 100 / engine.max(1),
        rules::asserts_per_hundred_functions(&tree),
        rules::expects_per_kloc(&tree),
    );
    let found = rules::check(&tree);
    let listed: Vec<String> =
        found.iter().map(|violation| format!("[{}] {}", violation.rule, violation.text)).collect();
    assert!(found.is_empty(), "{} rules broken:\n{}", found.len(), listed.join("\n"));
}

#[test]
fn every_unit_of_the_tables_exists() {
    let tree = repository();
    let units: Vec<&str> = tree.files.iter().map(Source::unit).collect();
    let named = tables::ARROWS.iter().map(|(unit, _)| *unit).chain(tables::CRATES.iter().map(|(unit, _)| *unit));
    for unit in named {
        assert!(units.contains(&unit), "the tables speak of `{unit}`, which is gone: remove its rows");
    }
    let has_file = |name: &str| tree.paths.iter().any(|path| path.starts_with(&format!("src/engine/{name}")));
    for (machine, _) in tables::MACHINES {
        assert!(has_file(machine), "MACHINES names `{machine}`, which src/engine does not hold: remove it");
    }
}
