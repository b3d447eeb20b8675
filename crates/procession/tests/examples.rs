//! Every program in `examples/` runs to a good end.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// What some of them must say.
const SAID: [(&str, &[&str]); 6] = [
    (
        "crash_proof",
        &[
            "offset.old (process",
            "SIGSEGV",
            "has overflowed its stack",
            "endless.old (process",
            "had not ended within its 5s",
            "memory allocation of 107374182400 bytes failed",
            "a case that cannot happen",
            "exit code 3",
            "bomb.png (process",
            "memory allocation of 7500000000 bytes failed",
            "3 converted, 2 refused, 7 lost",
        ],
    ),
    (
        "sandbox",
        &[
            "CountWords: 4 words",
            "Spy was refused something",
            "Shell was refused something: Operation not permitted",
            "one plugin of 9 did its work",
        ],
    ),
    ("pipeline", &["2000 lines were written, 2000 understood"]),
    ("progress", &["the longest has 181 steps; 1 was lost"]),
    ("shared_array", &["########"]),
    (
        "tokio_service",
        &["13: sorry, ", "60 = [2, 2, 3, 5]", "97 = [97]"],
    ),
];

/// Those that need a feature.
const ON_REQUEST: [(&str, bool); 2] = [
    ("shared_array", cfg!(feature = "ndarray")),
    ("tokio_service", cfg!(feature = "tokio")),
];

/// By the names of their files, without those whose feature is off.
fn examples() -> BTreeSet<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let files = std::fs::read_dir(root.join("examples")).expect("there are some");
    files
        .filter_map(|file| {
            let path = file.ok()?.path();
            let is_program = path.extension()? == "rs";
            let name = path.file_stem()?.to_str()?.to_owned();
            (is_program && !ON_REQUEST.contains(&(name.as_str(), false))).then_some(name)
        })
        .collect()
}

/// Where cargo puts them when it builds the tests.
fn folder() -> PathBuf {
    let program = std::env::current_exe().expect("is known");
    let built = program.parent().and_then(Path::parent);
    built.expect("is two folders down").join("examples")
}

/// What it prints; `None` if it needs what this kernel does not have.
fn run(name: &str) -> Option<String> {
    let program = folder().join(name);
    assert!(
        program.exists(),
        "{} is not there: build the examples with the tests, by `cargo test` or `cargo build --examples`",
        program.display()
    );
    let mut child = Command::new(&program)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("starts");
    let deadline = Instant::now() + Duration::from_secs(60);
    let status = loop {
        match child.try_wait().expect("is ours") {
            Some(status) => break status,
            None if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(10)),
            None => {
                child.kill().expect("is ours");
                break child.wait().expect("is ours");
            }
        }
    };
    let output = child.wait_with_output().expect("can be read");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let complained = String::from_utf8_lossy(&output.stderr);
    if name == "sandbox" && complained.contains("this kernel has no landlock") {
        return None;
    }
    assert!(status.success(), "{name}: {status}\n{said}\n{complained}");
    Some(said)
}

#[test]
fn every_example_ends_well() {
    let examples = examples();
    assert!(examples.len() >= 10, "{examples:?}");
    for (name, _) in SAID {
        let built = !ON_REQUEST.contains(&(name, false));
        assert!(!built || examples.contains(name), "{name} is gone");
    }
    // What any of them prints fits into a pipe.
    std::thread::scope(|scope| {
        for name in &examples {
            scope.spawn(move || {
                let Some(said) = run(name) else { return };
                let wanted = SAID.iter().find(|(known, _)| known == name);
                for &wanted in wanted.map_or(&[][..], |&(_, wanted)| wanted) {
                    assert!(
                        said.contains(wanted),
                        "{name} does not say {wanted:?}:\n{said}"
                    );
                }
            });
        }
    });
}
