//! House rules that a compiler does not know. Each says what to do instead.

use std::fs;
use std::path::{Path, PathBuf};

/// Lines of code a file may have before its test module; longer wants splitting.
const CODE_LINES_MAX: usize = 500;
/// Words that the vocabulary has other words for, or that say nothing.
const FORBIDDEN_WORDS: [&str; 6] = ["Manager", "Handler", "utils", "fn get_", "upstream", "backend"];

fn files(below: &str, ending: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join(below)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("the folder is part of the checkout") {
            let path = entry.expect("readable").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.to_string_lossy().ends_with(ending) {
                found.push(path);
            }
        }
    }
    assert!(!found.is_empty(), "no {ending} files below {below}");
    found.sort();
    found
}

/// A source file's text before its test module.
fn code(path: &Path) -> String {
    let text = fs::read_to_string(path).expect("readable");
    text.split("#[cfg(test)]").next().unwrap_or_default().to_owned()
}

/// Reports all places where a rule is broken, not only the first.
fn expect_none(rule: &str, broken: Vec<String>) {
    assert!(broken.is_empty(), "{rule}:\n  {}", broken.join("\n  "));
}

fn lines_with(paths: &[PathBuf], wrong: impl Fn(&str) -> bool) -> Vec<String> {
    let mut found = Vec::new();
    for path in paths {
        for (index, line) in code(path).lines().enumerate() {
            if wrong(line) {
                found.push(format!("{}:{}: {}", path.display(), index + 1, line.trim()));
            }
        }
    }
    found
}

fn is_comment(line: &str) -> bool {
    line.trim_start().starts_with("//")
}

#[test]
fn files_are_short() {
    let long = files("src", ".rs").into_iter().filter_map(|path| {
        let lines = code(&path).lines().count();
        (lines > CODE_LINES_MAX).then(|| format!("{}: {lines} lines", path.display()))
    });
    expect_none("split files of more than 500 lines of code", long.collect());
}

#[test]
fn lines_fit() {
    let long = lines_with(&files("src", ".rs"), |line| line.chars().count() > 120);
    expect_none("break lines after 120 characters", long);
}

#[test]
fn there_is_no_panic_on_purpose_and_no_unsafe_beside_its_module() {
    let words = ["todo!(", "unimplemented!(", "panic!(", "unreachable!(", ".unwrap()", ".expect("];
    let found = lines_with(&files("src", ".rs"), |line| {
        !is_comment(line) && !line.contains("// invariant:") && words.iter().any(|word| line.contains(word))
    });
    expect_none("network bytes become a CloseReason, never a panic", found);
    // One small module per call that no crate offers.
    let found = lines_with(&files("src", ".rs"), |line| !is_comment(line) && line.contains("unsafe "));
    let modules =
        ["trim.rs", "ports.rs", "tcp_info.rs", "inherited.rs"].map(|name| format!("reactor/world/{name}"));
    let found =
        found.into_iter().filter(|place| !modules.iter().any(|module| place.contains(module.as_str())));
    expect_none("no unsafe but in its own small module", found.collect());
}

#[test]
fn the_clock_is_read_in_one_place() {
    let found = lines_with(&files("src", ".rs"), |line| !is_comment(line) && line.contains("Instant::now()"));
    let allowed = ["world/mio_network.rs", "app/run.rs", "app/demo", "app/status/desk.rs", "app/cli/status"];
    let found = found.into_iter().filter(|place| !allowed.iter().any(|name| place.contains(name)));
    expect_none("time is an argument", found.collect());
}

#[test]
fn the_machines_do_no_input_or_output() {
    let pure: Vec<PathBuf> = files("src", ".rs")
        .into_iter()
        .filter(|path| {
            let path = path.to_string_lossy();
            ["src/server/", "src/client/", "src/wire/", "src/session.rs", "src/base/", "src/machine/"]
                .iter()
                .any(|part| path.contains(part))
        })
        .collect();
    let words = ["mio::", "socket2", "std::fs", "TcpStream", "std::thread", "crate::reactor"];
    let found = lines_with(&pure, |line| !is_comment(line) && words.iter().any(|word| line.contains(word)));
    expect_none("machines never touch a socket, a file or a thread", found);
}

/// From the top: a layer imports from those below it only.
const LAYERS: [&[&str]; 8] = [
    &["app"],
    &["reactor"],
    &["server", "client"],
    &["machine"],
    &["config"],
    &["session"],
    &["wire"],
    &["base"],
];

#[test]
fn imports_point_downwards() {
    let level = |module: &str| LAYERS.iter().position(|layer| layer.contains(&module));
    let mut broken = Vec::new();
    for path in files("src", ".rs") {
        let below = path.to_string_lossy().into_owned();
        let Some((_, inside)) = below.rsplit_once("/src/") else { continue };
        let own = inside.split(['/', '.']).next().unwrap_or_default();
        if ["lib", "main"].contains(&own) {
            continue;
        }
        let own_level = level(own).unwrap_or_else(|| panic!("{inside} belongs to no layer"));
        for (index, line) in code(&path).lines().enumerate().filter(|(_, line)| !is_comment(line)) {
            for part in line.split("crate::").skip(1) {
                let used = part.split(|letter: char| !letter.is_alphanumeric()).next().unwrap_or_default();
                if used != own && level(used).is_none_or(|found| found <= own_level) {
                    broken.push(format!("{inside}:{}: {}", index + 1, line.trim()));
                }
            }
        }
    }
    expect_none("import from lower layers only", broken);
}

#[test]
fn machines_and_reactor_say_facts_and_write_no_line() {
    let told = files("src", ".rs")
        .into_iter()
        .filter(|path| !path.to_string_lossy().contains("/src/app/") && !path.ends_with("config/keys.rs"));
    let told: Vec<PathBuf> = told.collect();
    let words = ["log::", "info!(", "warn!(", "error!(", "debug!(", "println!("];
    let found = lines_with(&told, |line| {
        !is_comment(line) && !line.contains("use log::Level;") && words.iter().any(|word| line.contains(word))
    });
    expect_none("say a Fact; src/app writes the line", found);
}

#[test]
fn random_bytes_are_handed_in() {
    let found = lines_with(&files("src", ".rs"), |line| !is_comment(line) && line.contains("getrandom::"));
    let allowed = ["world/mio_network.rs", "app/run.rs", "config/keys.rs"];
    let found = found.into_iter().filter(|place| !allowed.iter().any(|name| place.contains(name)));
    expect_none("take random bytes as an argument", found.collect());
}

#[test]
fn everything_is_named_that_is_imported() {
    let found = lines_with(&files("src", ".rs"), |line| !is_comment(line) && line.contains("use super::*"));
    expect_none("import names; `use super::*` is for tests", found);
}

/// The names after a keyword at the beginning of a line.
fn names_after(text: &str, keywords: &[&str]) -> Vec<String> {
    let mut names = Vec::new();
    for line in text.lines().filter(|line| !line.starts_with(' ')) {
        let line =
            ["pub(super) ", "pub(crate) ", "pub(in crate::reactor) ", "pub(in crate::server) ", "pub "]
                .iter()
                .fold(line, |line, prefix| line.strip_prefix(prefix).unwrap_or(line));
        for keyword in keywords {
            if let Some(rest) = line.strip_prefix(keyword) {
                let name = rest.split(|letter: char| !letter.is_alphanumeric() && letter != '_').next();
                names.extend(name.map(str::to_owned));
            }
        }
    }
    names
}

#[test]
fn a_file_is_a_thing_and_not_a_chapter_of_another_files_type() {
    let chapters = files("src", ".rs").into_iter().filter(|path| {
        let text = code(path);
        let own = names_after(&text, &["struct ", "enum ", "trait ", "fn ", "const ", "static ", "mod "]);
        let foreign = text.lines().any(|line| line.starts_with("impl"));
        foreign && own.is_empty()
    });
    expect_none("give the file a type of its own", chapters.map(|path| path.display().to_string()).collect());
}

#[test]
fn no_shift_needs_64_bits_of_usize() {
    let found = lines_with(&files("src", ".rs"), |line| {
        !is_comment(line) && line.contains("as usize") && line.contains("<< 32")
    });
    expect_none("an index has 32 bits on some machines", found);
}

#[test]
fn words_are_those_of_the_design() {
    let found = lines_with(&files("src", ".rs"), |line| {
        !line.contains("fn get_mut") && FORBIDDEN_WORDS.iter().any(|word| line.contains(word))
    });
    expect_none("use the design's vocabulary", found);
}

#[test]
fn tests_wait_for_events_and_not_for_time() {
    let found =
        files("tests", ".rs").into_iter().filter(|path| !path.ends_with("tidy.rs")).flat_map(|path| {
            let text = fs::read_to_string(&path).expect("readable");
            let sleeps: Vec<String> = text
                .lines()
                .enumerate()
                .filter(|(_, line)| line.contains("thread::sleep") && !line.contains("// paces:"))
                .map(|(index, _)| format!("{}:{}", path.display(), index + 1))
                .collect();
            sleeps
        });
    expect_none("wait with a deadline, or say '// paces:' why time itself is tested", found.collect());
}

#[test]
fn every_dependency_has_its_reason() {
    let manifest =
        fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml")).expect("readable");
    let mut reasoned = false;
    let mut in_dependencies = false;
    let mut missing = Vec::new();
    for line in manifest.lines() {
        if line.starts_with('[') {
            in_dependencies = line.contains("dependencies");
            reasoned = false;
        } else if line.starts_with('#') {
            reasoned = true;
        } else if line.trim().is_empty() {
            reasoned = false;
        } else if in_dependencies && !reasoned {
            missing.push(line.to_owned());
        }
    }
    expect_none("write the reason in the line above", missing);
}

#[test]
fn the_top_level_holds_no_more_than_it_should() {
    let allowed = [
        "Cargo.toml",
        "Cargo.lock",
        "src",
        "tests",
        "benches",
        "README.md",
        "rustfmt.toml",
        "LICENSE",
        ".cargo",
        ".ci",
        ".github",
        ".gitignore",
        ".git",
        "target",
    ];
    let top = fs::read_dir(env!("CARGO_MANIFEST_DIR")).expect("readable");
    let names = top.map(|entry| entry.expect("readable").file_name().to_string_lossy().into_owned());
    expect_none("the top level is fixed", names.filter(|name| !allowed.contains(&name.as_str())).collect());
}
