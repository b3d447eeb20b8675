//! What the kernel says about memory: whom it has killed for want of it, and how much this process has.

use std::fs;
use std::path::{Path, PathBuf};

/// The kernel's count of processes that it has killed for want of memory.
#[derive(Debug)]
pub(crate) struct OutOfMemory {
    /// The file of this process's control group, if it has one, else that of the whole machine; and
    /// the word in front of the count.
    source: Option<(PathBuf, &'static str)>,
    seen: u64,
}

impl OutOfMemory {
    /// From now on.
    pub(crate) fn watch() -> OutOfMemory {
        OutOfMemory::among(Path::new("/proc"), Path::new("/sys/fs/cgroup"))
    }

    fn among(proc: &Path, groups: &Path) -> OutOfMemory {
        let group = fs::read_to_string(proc.join("self/cgroup")).unwrap_or_default();
        let machine = (proc.join("vmstat"), "oom_kill");
        let mut sources = records_of(&group, groups);
        sources.push(machine);
        let source = sources
            .into_iter()
            .find_map(|(path, word)| Some((count(&path, word)?, path, word)));
        match source {
            Some((seen, path, word)) => OutOfMemory {
                source: Some((path, word)),
                seen,
            },
            None => OutOfMemory {
                source: None,
                seen: 0,
            },
        }
    }

    /// Whether it has killed another one since the last time.
    pub(crate) fn has_struck(&mut self) -> bool {
        let now = self
            .source
            .as_ref()
            .and_then(|(path, word)| count(path, word));
        let Some(now) = now else { return false };
        let struck = now > self.seen;
        self.seen = now;
        struck
    }
}

/// The files that may have the count of a control group, by the lines of `/proc/self/cgroup`: those of
/// version 2 (`0::/path`) and of version 1 (`4:memory:/path`).
fn records_of(lines: &str, groups: &Path) -> Vec<(PathBuf, &'static str)> {
    let records = lines.lines().filter_map(|line| {
        let mut parts = line.splitn(3, ':');
        let (_, controllers, path) = (parts.next()?, parts.next()?, parts.next()?);
        let path = path.trim_start_matches('/');
        if controllers.is_empty() {
            Some((groups.join(path).join("memory.events"), "oom_kill"))
        } else if controllers.split(',').any(|name| name == "memory") {
            let file = groups.join("memory").join(path).join("memory.oom_control");
            Some((file, "oom_kill"))
        } else {
            None
        }
    });
    records.collect()
}

/// The number behind a word at the start of a line.
fn count(file: &Path, word: &str) -> Option<u64> {
    let text = fs::read_to_string(file).ok()?;
    text.lines().find_map(|line| {
        let (name, number) = line.split_once(' ')?;
        (name == word).then(|| number.trim().parse().ok())?
    })
}

/// Bytes of this process's own that are in memory: not those that it shares with others, such as the
/// family's arena. 0 if the kernel doesn't say.
pub(crate) fn own() -> u64 {
    let text = fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let mut pages = text
        .split_ascii_whitespace()
        .map(|number| number.parse::<u64>().unwrap_or(0));
    let (Some(_), Some(resident), Some(shared)) = (pages.next(), pages.next(), pages.next()) else {
        return 0;
    };
    resident.saturating_sub(shared) * procession_sys::memory::page_size() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A folder of made-up files.
    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Folder {
            let path = std::env::temp_dir().join(format!("{name}-{}", std::process::id()));
            fs::create_dir_all(&path).expect("is writable");
            Folder(path)
        }

        fn write(&self, path: &str, text: &str) {
            let path = self.0.join(path);
            fs::create_dir_all(path.parent().expect("has one")).expect("is writable");
            fs::write(path, text).expect("is writable");
        }

        fn watch(&self) -> OutOfMemory {
            OutOfMemory::among(&self.0.join("proc"), &self.0.join("groups"))
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn the_record_of_the_machine_counts_where_there_is_no_group() {
        let folder = Folder::new("oom-machine");
        folder.write("proc/vmstat", "pgfault 12\noom_kill 3\nother 1\n");
        let mut watch = folder.watch();
        assert!(!watch.has_struck());
        folder.write("proc/vmstat", "pgfault 90\noom_kill 4\nother 1\n");
        assert!(watch.has_struck() && !watch.has_struck());
    }

    #[test]
    fn the_record_of_the_group_counts_before_that_of_the_machine() {
        for (line, record) in [
            ("0::/a/b\n", "groups/a/b/memory.events"),
            (
                "3:cpu:/x\n4:hugetlb,memory:/a\n0::/\n",
                "groups/memory/a/memory.oom_control",
            ),
        ] {
            let folder = Folder::new("oom-group");
            folder.write("proc/self/cgroup", line);
            folder.write("proc/vmstat", "oom_kill 3\n");
            folder.write(record, "oom 7\noom_kill 0\noom_group_kill 0\n");
            let mut watch = folder.watch();
            folder.write("proc/vmstat", "oom_kill 4\n");
            assert!(!watch.has_struck(), "somebody else was killed");
            folder.write(record, "oom 9\noom_kill 2\noom_group_kill 0\n");
            assert!(watch.has_struck() && !watch.has_struck());
        }
    }

    #[test]
    fn without_a_record_nothing_is_said() {
        let folder = Folder::new("oom-nothing");
        assert!(!folder.watch().has_struck());
        folder.write("proc/vmstat", "oom_kill many\n");
        assert!(!folder.watch().has_struck());
    }

    #[test]
    fn memory_of_ones_own_grows_with_what_is_written() {
        let before = own();
        assert!(before > 0);
        let block = vec![1_u8; 32 << 20];
        let after = own();
        assert!(
            after >= before + (block.len() as u64) / 2,
            "{before} {after}"
        );
    }
}
