//! A worker that the kernel kills for want of memory, in a control group made for this: nothing else is in
//! danger. Left out, with a reason, where none may be made. The only test of its program, since the whole
//! program goes into the group.

mod support;

use std::fs;
use std::path::{Path, PathBuf};

use procession::Pool;
use support::{METHODS, ms, until, watched};

const LIMIT: u64 = 200 << 20;

/// The group, and the one that this process was in before.
struct Group {
    folder: PathBuf,
    before: PathBuf,
}

impl Group {
    fn enter() -> Result<Group, String> {
        let lines = fs::read_to_string("/proc/self/cgroup").map_err(|error| error.to_string())?;
        let mut why = String::from("there are no control groups for memory");
        for line in lines.lines() {
            let mut parts = line.splitn(3, ':').skip(1);
            let (Some(controllers), Some(path)) = (parts.next(), parts.next()) else {
                continue;
            };
            let root = Path::new("/sys/fs/cgroup");
            let (root, limit, swap) = if controllers.split(',').any(|name| name == "memory") {
                let swap = ("memory.memsw.limit_in_bytes", LIMIT);
                (root.join("memory"), "memory.limit_in_bytes", swap)
            } else if controllers.is_empty() {
                (root.to_path_buf(), "memory.max", ("memory.swap.max", 0))
            } else {
                continue;
            };
            let before = root.join(path.trim_start_matches('/'));
            let parent = if before == root {
                before.as_path()
            } else {
                before.parent().expect("below the root")
            };
            let folder = parent.join(format!("procession-crate-test-{}", std::process::id()));
            match prepare(&folder, limit, swap) {
                Ok(()) => return Ok(Group { folder, before }),
                Err(error) => {
                    let _ = fs::remove_dir(&folder);
                    why = format!("{}: {error}", folder.display());
                }
            }
        }
        Err(why)
    }
}

fn prepare(folder: &Path, limit: &str, swap: (&str, u64)) -> std::io::Result<()> {
    fs::create_dir(folder)?;
    fs::write(folder.join(limit), LIMIT.to_string())?;
    if folder.join(swap.0).exists() {
        fs::write(folder.join(swap.0), swap.1.to_string())?;
    }
    fs::write(folder.join("cgroup.procs"), std::process::id().to_string())
}

impl Drop for Group {
    fn drop(&mut self) {
        let me = std::process::id().to_string();
        // What else could be in there: a fork server, which ends with this process.
        let inside = fs::read_to_string(self.folder.join("cgroup.procs")).unwrap_or_default();
        for pid in inside.lines().chain([me.as_str()]) {
            let _ = fs::write(self.before.join("cgroup.procs"), pid);
        }
        let removed = until(ms(20_000), || fs::remove_dir(&self.folder).ok());
        assert!(
            removed.is_ok() || std::thread::panicking(),
            "the group is left: {}",
            self.folder.display()
        );
    }
}

/// Takes memory until it is killed, or has four times the limit.
fn hog() -> usize {
    // The first that the kernel takes: not the program, nor another worker.
    fs::write("/proc/self/oom_score_adj", "1000").expect("may be raised");
    let mut held = Vec::new();
    while held.len() < 200 {
        held.push(vec![1_u8; 4 << 20]);
    }
    held.iter().map(Vec::len).sum()
}

fn double(x: u64) -> u64 {
    2 * x
}

fn crash() {
    std::process::abort()
}

#[procession::test]
fn a_worker_killed_for_want_of_memory_is_told_apart() {
    let _watched = watched();
    let group = match Group::enter() {
        Ok(group) => group,
        Err(why) => {
            // To be seen with --nocapture: it is not the tests' to fail here.
            println!("left out, for no control group can be made: {why}");
            return;
        }
    };
    for method in METHODS {
        let pool = Pool::builder()
            .workers(2)
            .start_method(method)
            .build()
            .unwrap();
        for _ in 0..2 {
            let Err(error) = pool.apply(hog, ()) else {
                println!(
                    "left out, for the limit of {} does not hold",
                    group.folder.display()
                );
                return;
            };
            assert!(error.is_worker_lost(), "{method:?}: {error}");
            assert!(error.is_probably_out_of_memory(), "{method:?}: {error}");
            let text = error.to_string();
            assert!(text.contains("probably out of memory"), "{text}");
            assert_eq!(error.exit_status().unwrap().signal(), Some(9));
            assert_eq!(pool.map(double, 0..4_u64).unwrap(), [0, 2, 4, 6]);
        }
        let error = pool.apply(crash, ()).unwrap_err();
        assert!(!error.is_probably_out_of_memory(), "{error}");
        pool.join().unwrap();
    }
    drop(group);
}
