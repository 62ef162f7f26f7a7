//! Planted violations: a small clean tree, and for each rule one change that breaks it. The rule must report, and no other
//! rule may. This is what keeps a checker from rotting into one that passes everything.

use crate::rules::{RULES, Tree, check};
use crate::source::{Function, Source, paths_under};
use crate::tables;

const OPENING: &str = "//! A made-up file that says what it is for.\n";

fn put(tree: &mut Tree, path: &str, body: &str) {
    put_raw(tree, path, &format!("{OPENING}{body}"));
}

fn put_raw(tree: &mut Tree, path: &str, text: &str) {
    tree.files.retain(|file| file.path != path);
    tree.files.push(Source::new(path, text));
    tree.paths.insert(path.to_owned());
}

/// A tree that breaks nothing.
fn clean() -> Tree {
    let mut tree = Tree {
        manifests: vec![(
            "Cargo.toml".to_owned(),
            "[dependencies]\nraft = \"1\"\nmd-5 = \"1\"\n[dev-dependencies]\ncriterion = \"1\"\n".to_owned(),
        )],
        dependencies: "# why\nraft: consensus inside each slot.\nmd-5: the client protocol's own digest.\n\
                       criterion: benches with a baseline.\n"
            .to_owned(),
        readme: "See `src/engine/home.rs` and `tests/simulator`.\n".to_owned(),
        ..Tree::default()
    };
    let asserted = "fn take(a: u8) { assert!(a > 0); assert!(a < 9, \"a sentence\"); }\n".repeat(40);
    put(&mut tree, "src/engine/home.rs", &format!("use crate::ids::Uid;\nuse raft::RawNode;\n{asserted}"));
    put(
        &mut tree,
        "src/engine/session.rs",
        "use super::effect::Effects;\nuse crate::format::{frame::Frame, packet};\n",
    );
    put(&mut tree, "src/format/packet_cipher.rs", "use md5::Md5;\nuse std::fmt;\n");
    put(
        &mut tree,
        "src/shell/clock.rs",
        "// SAFETY: made up.\nunsafe { now() }\nuse crate::engine::shard::Recovery;\n",
    );
    put(&mut tree, "tests/simulator/main.rs", "use jindou::engine::shard::Recovery;\nuse std::fs;\n");
    put(&mut tree, "loadgen/src/main.rs", "use jindou::format::packet::Packet;\n");
    tree
}

#[test]
fn a_clean_tree_passes() {
    assert_eq!(check(&clean()), Vec::new());
}

/// The rule that must catch it, and how it is planted.
type Plant = (&'static str, fn(&mut Tree));

/// What each rule must catch.
const PLANTS: &[Plant] = &[
    ("arrows", |tree| put(tree, "src/engine/slot.rs", "use crate::shell::clock;\n")),
    ("arrows", |tree| put(tree, "src/format/frame.rs", "use super::super::engine::shard::Shard;\n")),
    ("arrows", |tree| put(tree, "src/format/frame.rs", "use crate::{ids::Uid, engine::{slot::Slot as S, shard}};\n")),
    ("arrows", |tree| put(tree, "src/format/frame.rs", "fn f() { let a = crate::engine::shard::shard_of(); }\n")),
    ("arrows", |tree| put(tree, "loadgen/src/main.rs", "use jindou::shell::node;\n")),
    ("arrows", |tree| put(tree, "src/telepathy.rs", "")),
    ("machines", |tree| put(tree, "src/engine/session.rs", "use super::home::Home;\nuse super::delivery::Delivery;\n")),
    ("machines", |tree| put(tree, "src/engine/channel.rs", "fn f(a: &crate::engine::delivery::Delivery) {}\n")),
    ("shard makers", |tree| put(tree, "tests/end_to_end.rs", "use jindou::engine::shard::Recovery;\n")),
    ("crates per folder", |tree| put(tree, "src/format/frame.rs", "use raft::Config;\n")),
    ("crates per folder", |tree| put(tree, "src/engine/slot.rs", "fn f() { let a = ::md5::Md5::new(); }\n")),
    ("crates per folder", |tree| put(tree, "src/engine/slot.rs", "use criterion as c;\n")),
    ("pure std", |tree| put(tree, "src/engine/slot.rs", "use std::collections::HashMap;\n")),
    ("pure std", |tree| put(tree, "src/engine/slot.rs", "use std::{fmt, time::{Duration, Instant}};\n")),
    ("pure std", |tree| put(tree, "src/format/frame.rs", "fn f() { std::thread::yield_now(); }\n")),
    ("pure std", |tree| put(tree, "src/engine/slot.rs", "async fn f() {}\n")),
    ("file length", |tree| put(tree, "src/shell/mesh.rs", &"\n".repeat(tables::FILE_LINES_MAX))),
    ("function length", |tree| {
        put(tree, "src/shell/mesh.rs", &format!("fn f() {{{}}}\n", "\n".repeat(tables::FUNCTION_LINES_MAX)));
    }),
    ("folder depth", |tree| put(tree, "src/shell/gateway/tcp/accept.rs", "")),
    ("thin shell", |tree| put(tree, "src/shell/mesh.rs", &"const A: u8 = 0;\n".repeat(500))),
    ("file names", |tree| put(tree, "src/shell/utils.rs", "")),
    ("file names", |tree| put(tree, "tests/common/mod.rs", "")),
    ("function names", |tree| put(tree, "src/shell/mesh.rs", "fn get_queue() {}\n")),
    ("opening comment", |tree| put_raw(tree, "src/shell/mesh.rs", "use std::fmt;\n")),
    ("opening comment", |tree| put_raw(tree, "src/shell/mesh.rs", "//! x\n")),
    ("unwrap", |tree| put(tree, "src/engine/slot.rs", "fn f(a: Option<u8>) { assert!(true); a.unwrap(); }\n")),
    ("expect", |tree| put(tree, "src/format/frame.rs", &"const A: u8 = B.expect(\"reason\");\n".repeat(9))),
    ("unsafe", |tree| put(tree, "src/format/frame.rs", "fn f() { unsafe { g() } }\n")),
    ("unsafe", |tree| put(tree, "src/shell/mesh.rs", "fn f() { unsafe { g() } }\n")),
    ("unfinished", |tree| put(tree, "src/shell/mesh.rs", concat!("// TO", "DO: later\n"))),
    ("unfinished", |tree| put(tree, "src/shell/mesh.rs", "fn f() { unimplemented!() }\n")),
    ("asserts", |tree| put(tree, "src/engine/slot.rs", &"fn f() {} ".repeat(5000))),
    ("dependencies", |tree| tree.dependencies.push_str("gone: it has left the manifest.\n")),
    ("dependencies", |tree| tree.dependencies = tree.dependencies.replace("consensus inside each slot.", "")),
    ("dependencies", |tree| tree.manifests[0].1.push_str("proptest = \"1\"\n")),
    ("readme paths", |tree| tree.readme.push_str("and `src/engine/telepathy.rs`\n")),
];

#[test]
fn every_planted_violation_is_caught_by_its_rule() {
    for (number, &(rule, plant)) in PLANTS.iter().enumerate() {
        let mut tree = clean();
        plant(&mut tree);
        let found = check(&tree);
        assert!(found.iter().any(|violation| violation.rule == rule), "plant {number} went past the rule `{rule}`");
        let strangers: Vec<_> = found.iter().filter(|violation| violation.rule != rule).collect();
        assert!(strangers.is_empty(), "plant {number} for `{rule}` also set off {strangers:?}");
    }
}

#[test]
fn every_rule_has_a_plant() {
    for (rule, _) in RULES {
        assert!(PLANTS.iter().any(|(planted, _)| planted == rule), "no planted violation for the rule `{rule}`");
    }
}

#[test]
fn what_is_not_code_is_not_judged() {
    let mut tree = clean();
    let body = "/* unsafe /* nested */ use crate::shell::x; */\n// use crate::shell::y; unwrap()\n\
                const A: &str = \"unsafe { crate::shell::z } \\\" unwrap()\";\nconst B: &str = r#\"crate::shell::w \" unsafe\"#;\n\
                const C: [char; 3] = ['\"', '\\'', 'u'];\nfn f<'a>(a: &'a str) { assert!(a.len() > 1); assert!(true); }\n\
                #[cfg(test)]\n#[allow(dead_code)]\nmod tests {\n    use std::collections::HashMap;\n    fn g() { x.unwrap(); }\n}\n";
    put(&mut tree, "src/engine/slot.rs", body);
    assert_eq!(check(&tree), Vec::new());
}

#[test]
fn functions_are_measured_from_name_to_closing_brace() {
    let text = "fn one() -> [u8; 2] {\n    two(\"}\")\n}\ntrait T {\n    fn none(&self);\n    fn three<F>(f: F) where F: Fn(fn(u8) -> u8) { }\n}\n";
    let source = Source::new("src/engine/slot.rs", text);
    let expected = vec![
        Function { name: "one".to_owned(), line: 1, lines: 3 },
        Function { name: "three".to_owned(), line: 6, lines: 1 },
    ];
    assert_eq!(source.functions(&source.code), expected);
}

#[test]
fn use_trees_are_unfolded() {
    let text = "use crate::{a::{self, B as C}, d::*, e};\nlet x = crate::f::g::<u8>();";
    let paths: Vec<String> = paths_under(text, "crate").into_iter().map(|(_, path)| path.join("::")).collect();
    assert_eq!(paths, ["a::self", "a::B", "d", "e", "f::g"]);
}

#[test]
fn files_that_only_tests_include_are_judged_as_tests() {
    let mut tree = clean();
    let needs = "use std::collections::HashMap;\nfn f() { g().unwrap(); }\n";
    put(
        &mut tree,
        "src/engine/slot.rs",
        "#[cfg(test)]\n#[path = \"slot_tests.rs\"]\nmod tests;\n#[cfg(test)]\nmod fake;\n",
    );
    put(&mut tree, "src/engine/slot_tests.rs", needs);
    put(&mut tree, "src/engine/slot/fake.rs", needs);
    assert!(!check(&tree).is_empty(), "before they are told apart they are production");
    tree.tell_tests_apart();
    assert_eq!(check(&tree), Vec::new());
}
