//! What a process holds, as the kernel sees it.

use std::fmt;
use std::io::Write;

/// Memory in KiB.
#[derive(Clone, Copy, Debug)]
pub struct Figures {
    /// Resident, with the pages of the program itself.
    pub rss: usize,
    /// The same, where shared pages count in parts.
    pub pss: usize,
    /// Resident and not of a file: heap and stacks, which is where a leak would be.
    pub anonymous: usize,
    /// The most that was ever resident.
    pub peak: usize,
    pub descriptors: usize,
    pub threads: usize,
}

impl Figures {
    pub fn of(pid: u32) -> Self {
        let read = |file: &str| std::fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap();
        let count =
            |folder: &str| std::fs::read_dir(format!("/proc/{pid}/{folder}")).unwrap().count();
        let (status, map) = (read("status"), read("smaps_rollup"));
        Self {
            rss: kib(&status, "VmRSS:"),
            pss: kib(&map, "Pss:"),
            anonymous: kib(&map, "Anonymous:"),
            peak: kib(&status, "VmHWM:"),
            descriptors: count("fd"),
            threads: count("task"),
        }
    }
}

fn kib(text: &str, field: &str) -> usize {
    let line = text.lines().find_map(|line| line.strip_prefix(field)).unwrap();
    line.trim().strip_suffix(" kB").unwrap().parse().unwrap()
}

/// One line of the table.
pub struct Row<'a> {
    pub round: &'a str,
    pub mounts: usize,
    pub seconds: f64,
    pub before: Figures,
    pub after: Figures,
}

impl Row<'_> {
    /// Appends it to the file that `AKVFS_SOAK_FIGURES` names, and prints it.
    pub fn tell(&self) {
        println!("{self}");
        if let Some(path) = std::env::var_os("AKVFS_SOAK_FIGURES") {
            let file = std::fs::OpenOptions::new().create(true).append(true).open(path);
            file.unwrap().write_all(format!("{self}\n").as_bytes()).unwrap();
        }
    }
}

/// Columns as the head of the table in scripts/soak has them, with tabs between.
impl fmt::Display for Row<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { round, mounts, seconds, before: b, after: a } = self;
        write!(f, "{round}\t{mounts}\t{seconds:.1}\t{}\t{}\t{}", a.peak, b.rss, a.rss)?;
        write!(f, "\t{}\t{}\t{}\t{}", b.pss, a.pss, b.anonymous, a.anonymous)?;
        write!(f, "\t{}\t{}\t{}\t{}", b.descriptors, a.descriptors, b.threads, a.threads)
    }
}
