//! The rules of the house as functions from a tree of sources to a list of violations. Each message says the cure.
//! They read the tables in `tests/architecture.rs` and nothing else, so the same functions run over the repository and over
//! small made-up trees in which one rule is broken on purpose.

use std::collections::{BTreeMap, BTreeSet};

use crate::source::{Source, paths_under, word_positions};
use crate::tables;

/// What the rules look at.
#[derive(Clone, Debug, Default)]
pub struct Tree {
    /// Every Rust file.
    pub files: Vec<Source>,
    /// Every `Cargo.toml`: path and text.
    pub manifests: Vec<(String, String)>,
    /// `.ci/dependencies.txt`.
    pub dependencies: String,
    /// `README.md`.
    pub readme: String,
    /// Every file's path, Rust or not.
    pub paths: BTreeSet<String>,
}

impl Tree {
    /// Recognises files that are included only by tests: they are judged as tests. Call it when all files are there.
    pub fn tell_tests_apart(&mut self) {
        let tests: BTreeSet<String> = self.files.iter().flat_map(Source::test_files).collect();
        let files = std::mem::take(&mut self.files).into_iter();
        self.files = files.map(|file| if tests.contains(&file.path) { file.into_test() } else { file }).collect();
    }
}

/// One broken rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Which rule.
    pub rule: &'static str,
    /// File, with a line where there is one, and what to do.
    pub text: String,
}

/// A rule: its name and its check.
pub type Rule = (&'static str, fn(&Tree) -> Vec<String>);

/// All of them.
pub const RULES: &[Rule] = &[
    ("arrows", arrows),
    ("machines", machines),
    ("shard makers", shard_makers),
    ("crates per folder", crates_per_folder),
    ("pure std", pure_std),
    ("file length", file_length),
    ("function length", function_length),
    ("folder depth", folder_depth),
    ("thin shell", thin_shell),
    ("file names", file_names),
    ("function names", function_names),
    ("opening comment", opening_comment),
    ("unwrap", unwrap),
    ("expect", expect),
    ("unsafe", unsafe_code),
    ("unfinished", unfinished),
    ("asserts", asserts),
    ("dependencies", dependencies),
    ("readme paths", readme_paths),
];

/// Runs every rule.
pub fn check(tree: &Tree) -> Vec<Violation> {
    let mut found = Vec::new();
    for (rule, run) in RULES {
        found.extend(run(tree).into_iter().map(|text| Violation { rule, text }));
    }
    found
}

fn is_library(file: &Source) -> bool {
    file.path.starts_with("src/") && file.path != "src/main.rs"
}

fn is_pure(file: &Source) -> bool {
    is_library(file) && tables::PURE.contains(&file.unit())
}

/// Modules of the library that a file names, as segments below its root.
fn names_of_library(file: &Source) -> BTreeSet<Vec<String>> {
    if is_library(file) {
        return file.inner_paths("jindou");
    }
    let code = if file.path.starts_with("tests/") { &file.code } else { &file.production };
    paths_under(code, "jindou").into_iter().map(|(_, path)| path).filter(|path| !path.is_empty()).collect()
}

fn arrows(tree: &Tree) -> Vec<String> {
    let mut found = Vec::new();
    for file in &tree.files {
        let from = file.unit();
        if tables::SEES_EVERYTHING.contains(&from) {
            continue;
        }
        let Some((_, allowed)) = tables::ARROWS.iter().find(|(unit, _)| *unit == from) else {
            found.push(format!(
                "{}: nothing is said about `{from}`. Give it a row in ARROWS (tests/architecture.rs) that names what it may use.",
                file.path
            ));
            continue;
        };
        let to: BTreeSet<String> =
            names_of_library(file).into_iter().filter_map(|path| path.into_iter().next()).collect();
        for to in to {
            let known = tables::ARROWS.iter().any(|(unit, _)| *unit == to);
            if to != from && known && !allowed.contains(&to.as_str()) {
                found.push(format!(
                    "{}: `{from}` uses `{to}`, and no such arrow is drawn. Move the code to the side that may see both, pass the \
                     value in as an argument, or, if the arrow is right, add it to ARROWS and to src/ARCHITECTURE.md.",
                    file.path
                ));
            }
        }
    }
    found
}

fn machines(tree: &Tree) -> Vec<String> {
    let mut found = Vec::new();
    for file in tree.files.iter().filter(|file| is_library(file)) {
        let module = file.module();
        let Some((own, parts)) = module.get(1).filter(|_| module[0] == "engine").and_then(|name| machine(name)) else {
            continue;
        };
        for path in file.inner_paths("jindou").into_iter().filter(|path| path.len() >= 2 && path[0] == "engine") {
            let Some((other, _)) = machine(&path[1]) else { continue };
            if other != own && !parts.contains(other) {
                found.push(format!(
                    "{}: the machine `{own}` imports the machine `{other}`, which is no part of it. Let them meet in slot.rs or \
                     shard.rs, or hand over a value that belongs to neither.",
                    file.path
                ));
            }
        }
    }
    found
}

/// The row of a machine in the table.
fn machine(name: &str) -> Option<&'static (&'static str, &'static [&'static str])> {
    tables::MACHINES.iter().find(|(machine, _)| *machine == name)
}

fn shard_makers(tree: &Tree) -> Vec<String> {
    let mut found = Vec::new();
    for file in &tree.files {
        if tables::SHARD_MAKERS.iter().any(|folder| file.path.starts_with(folder)) {
            continue;
        }
        for line in file.lines_with_word(&file.production, "Recovery") {
            found.push(format!(
                "{}:{line}: only {} bring a Shard to life. Ask one of them for what you need.",
                file.path,
                tables::SHARD_MAKERS.join(", ")
            ));
        }
    }
    found
}

/// Names under which the crates of a manifest are used in code.
fn crates_of(manifests: &[(String, String)]) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for (path, text) in manifests {
        for name in dependency_names(path, text) {
            names.insert(if name == "md-5" { "md5".to_owned() } else { name.replace('-', "_") });
        }
    }
    names.remove("jindou");
    names
}

fn crates_per_folder(tree: &Tree) -> Vec<String> {
    let mut found = Vec::new();
    let crates = crates_of(&tree.manifests);
    for file in &tree.files {
        let unit = file.unit();
        if tables::SEES_EVERYTHING.contains(&unit) {
            continue;
        }
        let allowed = tables::CRATES.iter().find(|(of, _)| *of == unit).map_or(&[][..], |(_, list)| *list);
        for name in crates.iter().filter(|name| !allowed.contains(&name.as_str())) {
            for line in file.uses_of_crate(name) {
                found.push(format!(
                    "{}:{line}: `{unit}` uses the crate `{name}`, which is not in its row of CRATES (tests/architecture.rs). Use it \
                     where it belongs and pass the result in, or add it to the row and say why in the commit.",
                    file.path
                ));
            }
        }
    }
    found
}

fn pure_std(tree: &Tree) -> Vec<String> {
    let mut found = Vec::new();
    for file in tree.files.iter().filter(|file| is_pure(file)) {
        for (at, path) in paths_under(&file.production, "std") {
            let whole = path.join("::");
            let allowed = tables::PURE_STD.iter().any(|prefix| within(&whole, prefix));
            let refused = tables::PURE_STD_REFUSED.iter().any(|prefix| within(&whole, prefix));
            if !allowed || refused {
                found.push(format!(
                    "{}:{}: `std::{whole}` in `{}`, which is pure: no files, sockets, threads, clocks, locks or random hashing. Take \
                     time, chance and bytes as arguments; for maps use BTreeMap or hashbrown with a hasher seeded from `chance`.",
                    file.path,
                    file.line_of(at),
                    file.unit()
                ));
            }
        }
        for word in ["async", "await", "println", "eprintln", "print", "eprint", "thread_local"] {
            for line in file.lines_with_word(&file.production, word) {
                found.push(format!(
                    "{}:{line}: `{word}` in `{}`, which is pure. Return what is to be done and let the shell do it.",
                    file.path,
                    file.unit()
                ));
            }
        }
    }
    found
}

fn within(path: &str, prefix: &str) -> bool {
    path == prefix || path.strip_prefix(prefix).is_some_and(|rest| rest.starts_with("::"))
}

fn file_length(tree: &Tree) -> Vec<String> {
    let over = tree.files.iter().filter(|file| file.line_count() > tables::FILE_LINES_MAX);
    over.map(|file| {
        format!(
            "{}: {} lines, at most {} are allowed. Find the second subject in it and give it its own file.",
            file.path,
            file.line_count(),
            tables::FILE_LINES_MAX
        )
    })
    .collect()
}

fn function_length(tree: &Tree) -> Vec<String> {
    let mut found = Vec::new();
    for file in &tree.files {
        for function in file.functions(&file.code) {
            if function.lines > tables::FUNCTION_LINES_MAX {
                found.push(format!(
                    "{}:{}: `{}` has {} lines, at most {} are allowed. Leave the decisions in it and move one step out under a \
                     name that says what it does.",
                    file.path,
                    function.line,
                    function.name,
                    function.lines,
                    tables::FUNCTION_LINES_MAX
                ));
            }
        }
    }
    found
}

fn folder_depth(tree: &Tree) -> Vec<String> {
    let inside = tree.files.iter().filter(|file| file.path.starts_with("src/"));
    inside
        .filter(|file| file.path.matches('/').count() > tables::FOLDER_DEPTH_MAX)
        .map(|file| {
            format!(
                "{}: more than {} folders deep, `src` counted. Put it beside its neighbours; a folder is for one noun.",
                file.path,
                tables::FOLDER_DEPTH_MAX
            )
        })
        .collect()
}

/// Lines of production code of a unit of the library.
pub fn code_lines(tree: &Tree, unit: &str) -> usize {
    let files = tree.files.iter().filter(|file| is_library(file) && file.unit() == unit);
    files.map(Source::code_line_count).sum()
}

fn thin_shell(tree: &Tree) -> Vec<String> {
    let (shell, engine) = (code_lines(tree, "shell"), code_lines(tree, "engine"));
    if shell * 100 <= engine * tables::SHELL_PERCENT_OF_ENGINE_MAX {
        return Vec::new();
    }
    vec![format!(
        "src/shell has {shell} code lines and src/engine {engine}: over {} %. What decides belongs into the engine, what encodes \
         into format; the shell only carries out.",
        tables::SHELL_PERCENT_OF_ENGINE_MAX
    )]
}

fn file_names(tree: &Tree) -> Vec<String> {
    let mut found = Vec::new();
    for file in &tree.files {
        for part in file.path.split('/') {
            let part = part.strip_suffix(".rs").unwrap_or(part);
            if tables::FILE_NAMES_BANNED.contains(&part) {
                found.push(format!(
                    "{}: `{part}` says nothing about its contents. Name it by the noun of the domain that it holds.",
                    file.path
                ));
            }
        }
    }
    found
}

fn function_names(tree: &Tree) -> Vec<String> {
    let mut found = Vec::new();
    for file in &tree.files {
        for function in file.functions(&file.production) {
            if function.name.starts_with("get_") {
                found.push(format!(
                    "{}:{}: `{}`. A getter is a bare noun: drop `get_`.",
                    file.path, function.line, function.name
                ));
            }
        }
    }
    found
}

fn opening_comment(tree: &Tree) -> Vec<String> {
    let mut found = Vec::new();
    for file in &tree.files {
        let first = file.raw.lines().next().unwrap_or("");
        let said = first.strip_prefix("//!").unwrap_or("").trim();
        if said.len() < 20 {
            found.push(format!(
                "{}: does not open with `//!`. Say in a full sentence what it is for and what it deliberately does not do.",
                file.path
            ));
        }
    }
    found
}

fn unwrap(tree: &Tree) -> Vec<String> {
    let mut found = Vec::new();
    for file in tree.files.iter().filter(|file| is_pure(file)) {
        for line in file.lines_with_word(&file.production, "unwrap") {
            found.push(format!(
                "{}:{line}: `unwrap` in `{}`. Bad input from outside is an error value that names whose fault it is; an invariant of \
                 ours is an `expect` with its reason.",
                file.path,
                file.unit()
            ));
        }
    }
    found
}

/// `expect` per thousand code lines of the pure folders.
pub fn expects_per_kloc(tree: &Tree) -> usize {
    let files = || tree.files.iter().filter(|file| is_pure(file));
    let count: usize = files().map(|file| file.production.matches(".expect(").count()).sum();
    let lines: usize = files().map(Source::code_line_count).sum();
    (count * 1000).checked_div(lines).unwrap_or(0)
}

fn expect(tree: &Tree) -> Vec<String> {
    let measured = expects_per_kloc(tree);
    if measured <= tables::EXPECTS_PER_KLOC_MAX {
        return Vec::new();
    }
    vec![format!(
        "the pure folders hold {measured} `expect` per thousand lines, at most {} are allowed. Let the type carry the promise \
         (parse once, keep the parsed value) instead of asserting it at each use.",
        tables::EXPECTS_PER_KLOC_MAX
    )]
}

fn unsafe_code(tree: &Tree) -> Vec<String> {
    let mut found = Vec::new();
    for file in &tree.files {
        let lines: Vec<&str> = file.raw.lines().collect();
        for line in file.lines_with_word(&file.code, "unsafe") {
            if !tables::UNSAFE_ALLOWED.iter().any(|folder| file.path.starts_with(folder)) {
                found.push(format!(
                    "{}:{line}: `unsafe` outside {}. Let the shell do it behind a safe function.",
                    file.path,
                    tables::UNSAFE_ALLOWED.join(", ")
                ));
                continue;
            }
            let from = line.saturating_sub(tables::SAFETY_LINES_MAX);
            let said = lines[from..line].iter().any(|text| text.contains("SAFETY:") || text.contains("# Safety"));
            if !said {
                found.push(format!(
                    "{}:{line}: `unsafe` without its reason. Put `// SAFETY:` and the proof right above it.",
                    file.path
                ));
            }
        }
    }
    found
}

fn unfinished(tree: &Tree) -> Vec<String> {
    let mut found = Vec::new();
    for file in &tree.files {
        for mark in [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("XX", "X")] {
            for at in word_positions(&file.raw, mark) {
                found.push(format!(
                    "{}:{}: `{mark}`. Do it, or write an issue and leave the file saying only what is true.",
                    file.path,
                    file.line_of(at)
                ));
            }
        }
        for word in ["todo", "unimplemented", "dbg"] {
            for at in word_positions(&file.code, word) {
                if file.code[at + word.len()..].starts_with('!') {
                    found.push(format!(
                        "{}:{}: `{word}!`. Nothing half done is committed.",
                        file.path,
                        file.line_of(at)
                    ));
                }
            }
        }
    }
    found
}

/// Asserts that stay on in release, per hundred functions of the engine.
pub fn asserts_per_hundred_functions(tree: &Tree) -> usize {
    let engine = || tree.files.iter().filter(|file| is_library(file) && file.unit() == "engine");
    let functions: usize = engine().map(|file| file.functions(&file.production).len()).sum();
    let asserts: usize = engine()
        .map(|file| {
            let count = |word| word_positions(&file.production, word).len();
            count("assert") + count("assert_eq") + count("assert_ne")
        })
        .sum();
    (asserts * 100).checked_div(functions).unwrap_or(usize::MAX)
}

fn asserts(tree: &Tree) -> Vec<String> {
    let measured = asserts_per_hundred_functions(tree);
    if measured >= tables::ASSERTS_PER_HUNDRED_FUNCTIONS_MIN {
        return Vec::new();
    }
    vec![format!(
        "src/engine has {measured} asserts per hundred functions, at least {} are wanted. Assert what must hold where it is relied \
         upon, with a sentence; bad input from outside stays an error.",
        tables::ASSERTS_PER_HUNDRED_FUNCTIONS_MIN
    )]
}

/// Names in the dependency sections of a manifest; dependencies by path are our own and left out.
fn dependency_names(path: &str, text: &str) -> Vec<String> {
    let manifest: toml::Table = text.parse().unwrap_or_else(|fault| panic!("{path} is not TOML: {fault}"));
    let mut names = Vec::new();
    for section in ["dependencies", "dev-dependencies", "build-dependencies"] {
        let Some(table) = manifest.get(section).and_then(toml::Value::as_table) else {
            continue;
        };
        let outside = table.iter().filter(|(_, value)| value.get("path").is_none());
        names.extend(outside.map(|(name, _)| name.clone()));
    }
    names
}

fn dependencies(tree: &Tree) -> Vec<String> {
    let mut found = Vec::new();
    let mut said: BTreeMap<&str, &str> = BTreeMap::new();
    for line in tree.dependencies.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let (name, sentence) = line.split_once(": ").unwrap_or((line, ""));
        if !sentence.ends_with('.') || sentence.len() < 20 {
            found.push(format!(".ci/dependencies.txt: `{name}` has no sentence. Write `name: why it is here.`"));
        }
        if said.insert(name, sentence).is_some() {
            found.push(format!(".ci/dependencies.txt: `{name}` is there twice. Keep one sentence."));
        }
    }
    let mut used = BTreeSet::new();
    for (path, text) in &tree.manifests {
        for name in dependency_names(path, text) {
            if !said.contains_key(name.as_str()) {
                found.push(format!(
                    "{path}: `{name}` has no sentence in .ci/dependencies.txt. Say what it does for us and who would miss it, or do \
                     without it."
                ));
            }
            used.insert(name);
        }
    }
    for name in said.keys().filter(|name| !used.contains(**name)) {
        found.push(format!(".ci/dependencies.txt: `{name}` is in no Cargo.toml. Remove the line."));
    }
    found
}

/// The README's paths, in backquotes, must exist.
fn readme_paths(tree: &Tree) -> Vec<String> {
    let mut found = Vec::new();
    for (index, line) in tree.readme.lines().enumerate() {
        for quoted in line.split('`').skip(1).step_by(2) {
            let ours = tables::README_FOLDERS.iter().any(|folder| quoted.starts_with(folder));
            if !ours || quoted.contains([' ', '*', '<']) {
                continue;
            }
            let folder = format!("{}/", quoted.trim_end_matches('/'));
            let exists = tree.paths.contains(quoted) || tree.paths.iter().any(|path| path.starts_with(&folder));
            if !exists {
                found.push(format!("README.md:{}: `{quoted}` does not exist. Name the file that does it.", index + 1));
            }
        }
    }
    found
}
