//! A CPU limit for the provider alone, as the chart's: 50 millicores.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::Outcome;

const PERIOD_US: u32 = 100_000;
const QUOTA_US: u32 = 5_000;

/// A control group with that limit, or why there is none.
pub struct Quota(Result<Group, String>);

struct Group {
    dir: PathBuf,
    version: u8,
}

impl Quota {
    pub fn new() -> Self {
        Self(Group::new())
    }

    pub fn describe(&self) -> String {
        match &self.0 {
            Ok(group) => format!("a control group (cgroup v{}) of its own", group.version),
            Err(why) => format!("not available here: {why}"),
        }
    }

    /// The command that runs `program` under the limit from its first instruction.
    pub fn command(&self, program: &Path) -> Outcome<Command> {
        let group = self.0.as_ref().map_err(|why| format!("no CPU limit here: {why}"))?;
        let mut command = Command::new("sh");
        command.args(["-c", "echo $$ > \"$0/cgroup.procs\" && exec \"$@\""]);
        command.arg(&group.dir).arg(program);
        Ok(command)
    }
}

impl Group {
    fn new() -> Result<Self, String> {
        let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let mut why = "no cgroup file system with a cpu controller is mounted".to_owned();
        for line in table.lines() {
            let Some((left, right)) = line.split_once(" - ") else { continue };
            let Some(place) = left.split(' ').nth(4).map(PathBuf::from) else { continue };
            let mut right = right.split(' ');
            let (kind, options) =
                (right.next().unwrap_or_default(), right.nth(1).unwrap_or_default());
            let made = match kind {
                "cgroup2" => Self::second(&place),
                "cgroup" if options.split(',').any(|option| option == "cpu") => Self::first(&place),
                _ => continue,
            };
            match made {
                Ok(group) => return Ok(group),
                Err(error) => why = format!("{}: {error}", place.display()),
            }
        }
        Err(why)
    }

    fn named(place: &Path, version: u8) -> std::io::Result<Self> {
        let dir = place.join(format!("akvfs-bench-{}", std::process::id()));
        std::fs::create_dir(&dir)?;
        Ok(Self { dir, version })
    }

    fn first(place: &Path) -> std::io::Result<Self> {
        let group = Self::named(place, 1)?;
        std::fs::write(group.dir.join("cpu.cfs_period_us"), PERIOD_US.to_string())?;
        std::fs::write(group.dir.join("cpu.cfs_quota_us"), QUOTA_US.to_string())?;
        Ok(group)
    }

    fn second(place: &Path) -> std::io::Result<Self> {
        let has = std::fs::read_to_string(place.join("cgroup.controllers"))?;
        if !has.split_whitespace().any(|controller| controller == "cpu") {
            return Err(std::io::Error::other("it has no cpu controller"));
        }
        std::fs::write(place.join("cgroup.subtree_control"), "+cpu")?;
        let group = Self::named(place, 2)?;
        std::fs::write(group.dir.join("cpu.max"), format!("{QUOTA_US} {PERIOD_US}"))?;
        Ok(group)
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // Empty: every provider has ended.
        let _ = std::fs::remove_dir(&self.dir);
    }
}
