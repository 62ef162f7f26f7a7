//! Rust text as the rules see it: comments, strings and test code blanked out, functions and paths picked out by a
//! small scanner. It does not parse Rust: it knows just enough of the lexical grammar (nested comments, raw strings,
//! character literals against lifetimes, balanced brackets) that a word found is really code. Line numbers are kept,
//! because whatever is blanked becomes spaces.

use std::collections::BTreeSet;

/// One file, in three views.
#[derive(Clone, Debug)]
pub struct Source {
    /// Path from the repository's root, with `/`.
    pub path: String,
    /// As it is on disk.
    pub raw: String,
    /// Comments, strings and character literals blanked.
    pub code: String,
    /// As `code`, with everything under `#[cfg(test)]` blanked too.
    pub production: String,
}

/// A function with a body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Function {
    /// Its name.
    pub name: String,
    /// Line of the word `fn`, from 1.
    pub line: usize,
    /// Lines from there to the closing brace, both counted.
    pub lines: usize,
}

impl Source {
    /// Takes a file apart.
    pub fn new(path: &str, raw: &str) -> Source {
        let code = blank_comments_and_literals(raw);
        let production = blank_test_items(&code);
        Source { path: path.to_owned(), raw: raw.to_owned(), code, production }
    }

    /// Paths of the files that this one includes only under `#[cfg(test)]`: `mod tests;`, with or without `#[path]`.
    pub fn test_files(&self) -> Vec<String> {
        let folder = self.path.rsplit_once('/').map_or("", |(folder, _)| folder);
        let own = self.stem();
        let children =
            if matches!(own, "mod" | "lib" | "main") { folder.to_owned() } else { format!("{folder}/{own}") };
        let mut found = Vec::new();
        for (at, mark) in self.code.match_indices("#[cfg(test)]") {
            let from = at + mark.len();
            let to = self.code[from..].find([';', '{']).map_or(self.code.len(), |end| from + end);
            let words: Vec<&str> = self.code[from..to].split_whitespace().collect();
            let (Some(name), Some(&"mod")) = (words.last(), words.iter().rev().nth(1)) else {
                continue;
            };
            let named = self.raw[from..to].split_once("#[path = \"").and_then(|(_, rest)| rest.split('"').next());
            found.push(match named {
                Some(file) => format!("{folder}/{file}"),
                None => format!("{children}/{name}.rs"),
            });
        }
        found
    }

    /// The same file, all of it test code.
    pub fn into_test(mut self) -> Source {
        let length = self.production.len();
        let mut blanked = std::mem::take(&mut self.production).into_bytes();
        blank(&mut blanked, 0, length);
        self.production = String::from_utf8(blanked).expect("only blanks and line ends are left");
        self
    }

    /// Lines on disk.
    pub fn line_count(&self) -> usize {
        self.raw.lines().count()
    }

    /// Lines of production code that are neither empty nor comment.
    pub fn code_line_count(&self) -> usize {
        self.production.lines().filter(|line| !line.trim().is_empty()).count()
    }

    /// The unit that arrows are drawn between: the folder under `src`, or the file's name for `src/ids.rs` and its
    /// like; the first folder for everything outside `src`.
    pub fn unit(&self) -> &str {
        let inside = self.path.strip_prefix("src/").unwrap_or(&self.path);
        let first = inside.split('/').next().unwrap_or(inside);
        first.strip_suffix(".rs").unwrap_or(first)
    }

    /// File name without folder and ending.
    pub fn stem(&self) -> &str {
        let name = self.path.rsplit('/').next().unwrap_or(&self.path);
        name.strip_suffix(".rs").unwrap_or(name)
    }

    /// Module path below the crate: `src/engine/home.rs` is `["engine", "home"]`.
    pub fn module(&self) -> Vec<String> {
        let inside = self.path.strip_prefix("src/").unwrap_or(&self.path);
        let mut parts: Vec<String> =
            inside.strip_suffix(".rs").unwrap_or(inside).split('/').map(str::to_owned).collect();
        if matches!(parts.last().map(String::as_str), Some("mod" | "lib" | "main")) {
            parts.pop();
        }
        parts
    }

    /// Every path into the crate's own modules that production code names, as segments below the crate's root:
    /// `crate::…`, `super::…` resolved, and `own_name::…` for code outside the library.
    pub fn inner_paths(&self, own_name: &str) -> BTreeSet<Vec<String>> {
        let mut found = BTreeSet::new();
        for (_, path) in paths_under(&self.production, "crate") {
            found.insert(path);
        }
        for (_, path) in paths_under(&self.production, own_name) {
            found.insert(path);
        }
        let module = self.module();
        for (_, path) in paths_under(&self.production, "super") {
            let ups = 1 + path.iter().take_while(|part| *part == "super").count();
            let mut whole = module[..module.len().saturating_sub(ups)].to_vec();
            whole.extend(path.iter().skip(ups - 1).cloned());
            found.insert(whole);
        }
        found.remove(&Vec::new());
        found
    }

    /// Lines (from 1) where `crate_name` is used as the head of a path in production code.
    pub fn uses_of_crate(&self, crate_name: &str) -> Vec<usize> {
        paths_under(&self.production, crate_name).into_iter().map(|(at, _)| self.line_of(at)).collect()
    }

    /// Lines (from 1) where `word` stands alone in the given view.
    pub fn lines_with_word(&self, view: &str, word: &str) -> Vec<usize> {
        word_positions(view, word).into_iter().map(|at| self.line_of(at)).collect()
    }

    /// Line (from 1) of a byte position; the same in every view.
    pub fn line_of(&self, at: usize) -> usize {
        self.raw.as_bytes()[..at.min(self.raw.len())].iter().filter(|byte| **byte == b'\n').count() + 1
    }

    /// Functions with bodies in the given view.
    pub fn functions(&self, view: &str) -> Vec<Function> {
        let bytes = view.as_bytes();
        let mut list = Vec::new();
        for at in word_positions(view, "fn") {
            let name_from = skip_blank(bytes, at + 2);
            let name_to = end_of_word(bytes, name_from);
            if name_from == name_to {
                continue; // A function pointer type.
            }
            let Some(open) = body_of(bytes, name_to) else {
                continue;
            };
            let close = matching(bytes, open);
            let line = self.line_of(at);
            list.push(Function {
                name: view[name_from..name_to].to_owned(),
                line,
                lines: self.line_of(close) - line + 1,
            });
        }
        list
    }
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte >= 0x80
}

fn skip_blank(bytes: &[u8], mut at: usize) -> usize {
    while at < bytes.len() && bytes[at].is_ascii_whitespace() {
        at += 1;
    }
    at
}

fn end_of_word(bytes: &[u8], mut at: usize) -> usize {
    while at < bytes.len() && is_word(bytes[at]) {
        at += 1;
    }
    at
}

/// Where `word` begins as a whole word.
pub fn word_positions(text: &str, word: &str) -> Vec<usize> {
    let bytes = text.as_bytes();
    text.match_indices(word)
        .map(|(at, _)| at)
        .filter(|at| *at == 0 || !is_word(bytes[at - 1]))
        .filter(|at| bytes.get(at + word.len()).is_none_or(|byte| !is_word(*byte)))
        .collect()
}

/// The opening brace of the body of the item whose header begins at `at`; `None` when it ends in `;`.
fn body_of(bytes: &[u8], mut at: usize) -> Option<usize> {
    let mut depth = 0usize;
    while at < bytes.len() {
        match bytes[at] {
            b'(' | b'[' => depth += 1,
            b')' | b']' => depth = depth.saturating_sub(1),
            b'{' if depth == 0 => return Some(at),
            b';' if depth == 0 => return None,
            _ => {}
        }
        at += 1;
    }
    None
}

/// The brace that closes the one at `open`, or the end of the text.
fn matching(bytes: &[u8], open: usize) -> usize {
    let mut depth = 0usize;
    for (at, byte) in bytes.iter().enumerate().skip(open) {
        match byte {
            b'{' => depth += 1,
            b'}' => {
                depth -= 1;
                if depth == 0 {
                    return at;
                }
            }
            _ => {}
        }
    }
    bytes.len().saturating_sub(1)
}

/// Every path that begins with `head`, with use trees unfolded: position of the head, then the segments after it.
/// A head that is itself inside a path (`a::head::b`) does not count. `use head;` counts as an empty path.
pub fn paths_under(text: &str, head: &str) -> Vec<(usize, Vec<String>)> {
    let bytes = text.as_bytes();
    let mut found = Vec::new();
    for at in word_positions(text, head) {
        let before = text[..at].trim_end();
        let rooted = before.ends_with("::") && !before.trim_end_matches(':').ends_with(is_path_end);
        if (before.ends_with("::") && !rooted) || before.ends_with('.') {
            continue;
        }
        let after = skip_blank(bytes, at + head.len());
        if text[after..].starts_with("::") {
            let mut paths = Vec::new();
            use_tree(text, after + 2, &mut Vec::new(), &mut paths);
            found.extend(paths.into_iter().map(|path| (at, path)));
        } else if before.ends_with("use") && !before.ends_with("_use") {
            found.push((at, Vec::new()));
        }
    }
    found
}

fn is_path_end(last: char) -> bool {
    last.is_alphanumeric() || last == '_' || last == '>'
}

/// Reads one use tree (or plain path) at `at`; returns where it ended.
fn use_tree(text: &str, at: usize, prefix: &mut Vec<String>, out: &mut Vec<Vec<String>>) -> usize {
    let bytes = text.as_bytes();
    let at = skip_blank(bytes, at);
    if bytes.get(at) == Some(&b'{') {
        let mut next = at + 1;
        loop {
            next = skip_blank(bytes, next);
            match bytes.get(next) {
                None => return next,
                Some(b'}') => return next + 1,
                Some(b',') => next += 1,
                Some(_) => {
                    let ended = use_tree(text, next, &mut prefix.clone(), out);
                    next = skip_renaming(text, ended.max(next + 1));
                }
            }
        }
    }
    let end = end_of_word(bytes, at);
    if end == at {
        out.push(prefix.clone()); // A glob, or a type argument such as `::<`.
        return at;
    }
    prefix.push(text[at..end].to_owned());
    let next = skip_blank(bytes, end);
    if text[next..].starts_with("::") {
        return use_tree(text, next + 2, prefix, out);
    }
    out.push(prefix.clone());
    end
}

/// Behind a leaf of a use tree: ` as name` or `*`.
fn skip_renaming(text: &str, at: usize) -> usize {
    let stop = text[at..].find([',', '}']).map_or(text.len(), |found| at + found);
    stop.max(at)
}

/// Blanks every item under `#[cfg(test)]`: a module, function, import or field.
fn blank_test_items(code: &str) -> String {
    let mut out = code.as_bytes().to_vec();
    let mut from = 0;
    while let Some(found) = code[from..].find("#[cfg(test)]") {
        let start = from + found;
        let mut at = start + "#[cfg(test)]".len();
        loop {
            at = skip_blank(code.as_bytes(), at);
            if !code[at..].starts_with("#[") {
                break;
            }
            at = code[at..].find(']').map_or(code.len(), |end| at + end + 1);
        }
        let end = match body_of(code.as_bytes(), at) {
            Some(open) => matching(code.as_bytes(), open),
            None => code[at..].find(';').map_or(code.len() - 1, |end| at + end),
        };
        blank(&mut out, start, end + 1);
        from = end + 1;
    }
    String::from_utf8(out).expect("only whole characters are blanked")
}

fn blank(out: &mut [u8], from: usize, to: usize) {
    for byte in &mut out[from..to] {
        if *byte != b'\n' {
            *byte = b' ';
        }
    }
}

/// Blanks comments and the insides of strings and character literals.
fn blank_comments_and_literals(raw: &str) -> String {
    let bytes = raw.as_bytes();
    let mut out = bytes.to_vec();
    let mut at = 0;
    while at < bytes.len() {
        let end = match bytes[at] {
            b'/' if bytes.get(at + 1) == Some(&b'/') => line_end(bytes, at),
            b'/' if bytes.get(at + 1) == Some(&b'*') => block_comment_end(bytes, at),
            b'"' => string_end(bytes, at),
            b'r' | b'b' | b'c' if at == 0 || !is_word(bytes[at - 1]) => prefixed_literal_end(bytes, at),
            b'\'' => character_end(bytes, at),
            _ => at,
        };
        if end > at {
            blank(&mut out, at, end);
            at = end;
        } else {
            at += 1;
        }
    }
    String::from_utf8(out).expect("only whole characters are blanked")
}

fn line_end(bytes: &[u8], at: usize) -> usize {
    bytes[at..].iter().position(|byte| *byte == b'\n').map_or(bytes.len(), |end| at + end)
}

fn block_comment_end(bytes: &[u8], at: usize) -> usize {
    let mut depth = 0usize;
    let mut next = at;
    while next < bytes.len() {
        if bytes[next..].starts_with(b"/*") {
            depth += 1;
            next += 2;
        } else if bytes[next..].starts_with(b"*/") {
            depth -= 1;
            next += 2;
            if depth == 0 {
                return next;
            }
        } else {
            next += 1;
        }
    }
    bytes.len()
}

fn string_end(bytes: &[u8], at: usize) -> usize {
    let mut next = at + 1;
    while next < bytes.len() {
        match bytes[next] {
            b'\\' => next += 2,
            b'"' => return next + 1,
            _ => next += 1,
        }
    }
    bytes.len()
}

/// `r"…"`, `r#"…"#`, `b"…"`, `br#"…"#`, `b'…'`, `c"…"`; `at` itself when it is just a word.
fn prefixed_literal_end(bytes: &[u8], at: usize) -> usize {
    let letters = bytes[at..].iter().take(2).take_while(|byte| matches!(byte, b'r' | b'b' | b'c')).count();
    let hashes = bytes[at + letters..].iter().take_while(|byte| **byte == b'#').count();
    let quote = at + letters + hashes;
    let raw = bytes[at..at + letters].contains(&b'r');
    match bytes.get(quote) {
        Some(b'"') if raw => {
            let mut closing = vec![b'"'];
            closing.resize(1 + hashes, b'#');
            let rest = &bytes[quote + 1..];
            let found = rest.windows(closing.len()).position(|window| window == closing.as_slice());
            found.map_or(bytes.len(), |end| quote + 1 + end + closing.len())
        }
        Some(b'"') if hashes == 0 => string_end(bytes, quote),
        Some(b'\'') if hashes == 0 && letters == 1 && bytes[at] == b'b' => character_end(bytes, quote),
        _ => at,
    }
}

/// The end of a character literal, or `at` for a lifetime.
fn character_end(bytes: &[u8], at: usize) -> usize {
    let text = &bytes[at + 1..];
    if text.first() == Some(&b'\\') {
        let mut next = 2;
        while next < text.len() && text[next] != b'\'' {
            next += 1;
        }
        return at + 1 + next + 1;
    }
    let width = match text.first() {
        Some(0x00..=0x7f) => 1,
        Some(0xc0..=0xdf) => 2,
        Some(0xe0..=0xef) => 3,
        _ => 4,
    };
    if text.get(width) == Some(&b'\'') { at + width + 2 } else { at }
}
