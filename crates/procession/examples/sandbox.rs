//! A host for plugins that nobody trusts: each runs in a process of its own that gives up, before it
//! sees its input, whatever a plugin has no business with. Files outside of one folder are closed to
//! it by landlock, new programs and the network by seccomp, memory and time by limits.

#![allow(clippy::print_stdout, reason = "it speaks to a person")]

use std::collections::BTreeMap;
use std::error::Error;
use std::path::{Path, PathBuf};
use std::time::Duration;

use landlock::{
    ABI, Access, AccessFs, Ruleset, RulesetAttr, RulesetCreatedAttr, RulesetStatus,
    path_beneath_rules,
};
use procession::{JoinErrorKind, Process, Stdio};
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter};
use serde::{Deserialize, Serialize};

/// Runs first in the process of each plugin. What it forbids can't be had back.
fn lock_in(folder: PathBuf) -> Result<(), Box<dyn Error>> {
    let version = ABI::V1; // Linux 5.13
    let files = Ruleset::default()
        .handle_access(AccessFs::from_all(version))?
        .create()?
        .add_rules(path_beneath_rules([folder], AccessFs::from_read(version)))?
        .restrict_self()?;
    if files.ruleset == RulesetStatus::NotEnforced {
        return Err("this kernel has no landlock".into());
    }

    let forbidden = [
        libc::SYS_execve,
        libc::SYS_execveat,
        libc::SYS_socket,
        libc::SYS_ptrace,
        libc::SYS_process_vm_writev,
        libc::SYS_kill,
        libc::SYS_tkill,
        libc::SYS_pidfd_send_signal,
    ];
    let filter = SeccompFilter::new(
        BTreeMap::from(forbidden.map(|call| (call, Vec::new()))),
        SeccompAction::Allow,
        SeccompAction::Errno(libc::EPERM as u32),
        std::env::consts::ARCH.try_into()?,
    )?;
    seccompiler::apply_filter(&BpfProgram::try_from(filter)?)?;
    Ok(())
}

/// What there is to run. A real host would load a library here, behind the hook.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
enum Plugin {
    CountWords,
    Spy,
    Vandal,
    Caller,
    Shell,
    Assassin,
    Hog,
    Sleeper,
    Bug,
}

fn run(plugin: Plugin, folder: PathBuf) -> Result<String, String> {
    let text = |error: std::io::Error| error.to_string();
    match plugin {
        Plugin::CountWords => {
            let file = std::fs::read_to_string(folder.join("poem.txt")).map_err(text)?;
            Ok(format!("{} words", file.split_whitespace().count()))
        }
        Plugin::Spy => std::fs::read_to_string("/etc/passwd").map_err(text),
        Plugin::Vandal => {
            std::fs::write(folder.join("poem.txt"), "gone").map_err(text)?;
            Ok("overwritten".to_owned())
        }
        Plugin::Caller => {
            let home = std::net::TcpStream::connect("127.0.0.1:9").map_err(text)?;
            Ok(format!("{home:?}"))
        }
        Plugin::Shell => {
            let shell = std::process::Command::new("/bin/sh")
                .spawn()
                .map_err(text)?;
            Ok(format!("{shell:?}"))
        }
        Plugin::Assassin => {
            let host = procession::parent_process().ok_or("no host")?.pid();
            let host = rustix::process::Pid::from_raw(host as i32).ok_or("no host")?;
            rustix::process::kill_process(host, rustix::process::Signal::KILL)
                .map_err(|error| error.to_string())?;
            Ok("killed the host".to_owned())
        }
        Plugin::Hog => Ok(format!("{} bytes", vec![1_u8; 10 << 30].len())),
        Plugin::Sleeper => loop {
            std::thread::sleep(Duration::from_secs(1));
        },
        Plugin::Bug => Err([0_u8; 4][std::hint::black_box(4)].to_string()),
    }
}

fn start(plugin: Plugin, folder: &Path) -> procession::Result<Process<Result<String, String>>> {
    Process::builder()
        .name(format!("{plugin:?}"))
        .env_clear()
        .current_dir(folder)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .memory_limit(256 << 20)
        .cpu_limit(Duration::from_secs(10))
        .timeout(Duration::from_secs(3))
        .daemon(true)
        .kill_on_drop(true)
        .setup(lock_in, folder.to_owned())
        .spawn(run, (plugin, folder.to_owned()))
}

#[procession::main]
fn main() -> Result<(), Box<dyn Error>> {
    let folder = std::env::temp_dir().join(format!("plugins-{}", std::process::id()));
    std::fs::create_dir_all(&folder)?;
    std::fs::write(folder.join("poem.txt"), "so much depends upon")?;
    let result = host(&folder);
    std::fs::remove_dir_all(&folder)?;
    result
}

fn host(folder: &Path) -> Result<(), Box<dyn Error>> {
    use Plugin::*;
    let plugins = [
        CountWords, Spy, Vandal, Caller, Shell, Assassin, Hog, Sleeper, Bug,
    ];
    let mut running = Vec::new();
    for plugin in plugins {
        running.push((plugin, start(plugin, folder)?));
    }
    let mut honest = 0;
    for (plugin, process) in running {
        match process.join() {
            Ok(Ok(answer)) => {
                honest += 1;
                println!("{plugin:?}: {answer}");
            }
            Ok(Err(error)) => println!("{plugin:?} was refused something: {error}"),
            // The sandbox itself: better no plugin than one outside of it.
            Err(error) if error.kind() == JoinErrorKind::Setup => return Err(error.into()),
            Err(error) => println!("{error}"),
        }
    }
    let poem = std::fs::read_to_string(folder.join("poem.txt"))?;
    assert_eq!((honest, poem.as_str()), (1, "so much depends upon"));
    println!(
        "one plugin of {} did its work, and nothing else happened",
        plugins.len()
    );
    Ok(())
}
