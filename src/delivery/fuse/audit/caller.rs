//! Who opens a file, as `/proc` tells: hints for people, no proof. Whoever opens may be any program that
//! has another's name, and is read only because it waits in the kernel for our answer.

use std::fs::File;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Of one file in /proc.
const MAX_READ: u64 = 8192;

/// What is known of a process.
#[derive(Debug, Default)]
pub(super) struct Caller {
    /// Of its first thread: the kernel tells the thread that opens.
    pub(super) pid: Option<u32>,
    /// With which it uses files.
    pub(super) ids: Option<(u32, u32)>,
    pub(super) exe: Option<String>,
    pub(super) cgroup: Option<String>,
}

/// Whether /proc has the processes that the kernel names to this one. In a container it can be another's.
pub(super) fn readable() -> bool {
    let own = std::process::id().to_string();
    std::fs::read_link("/proc/self").is_ok_and(|shown| shown == Path::new(&own))
}

/// Reads what there is.
pub(super) fn read(thread: u32) -> Caller {
    let place = format!("/proc/{thread}");
    let status = text(&format!("{place}/status"));
    let field = |name: &str, column: usize| -> Option<u32> {
        let line = status.as_deref()?.lines().find_map(|line| line.strip_prefix(name))?;
        line.split_whitespace().nth(column)?.parse().ok()
    };
    let exe = std::fs::read_link(format!("{place}/exe")).ok();
    Caller {
        pid: field("Tgid:", 0),
        // Real, effective, saved, of the file system.
        ids: field("Uid:", 3).zip(field("Gid:", 3)),
        exe: exe.map(|exe| String::from_utf8_lossy(exe.as_os_str().as_bytes()).into_owned()),
        cgroup: text(&format!("{place}/cgroup")).and_then(|text| cgroup(&text)),
    }
}

fn text(path: &str) -> Option<String> {
    let mut bytes = Vec::new();
    File::open(path).ok()?.take(MAX_READ).read_to_end(&mut bytes).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

/// The path that tells most: of version 2, or of a version 1 hierarchy that has containers or services.
fn cgroup(text: &str) -> Option<String> {
    let paths: Vec<(&str, &str)> = text
        .lines()
        .filter_map(|line| line.split_once(':')?.1.split_once(':'))
        .filter(|(_, path)| path.starts_with('/'))
        .collect();
    let told = |path: &&(&str, &str)| path.1 != "/";
    paths
        .iter()
        .find(|path| path.0.is_empty() && told(path))
        .or_else(|| paths.iter().find(|path| path.0 == "name=systemd" && told(path)))
        .or_else(|| paths.iter().find(told))
        .or_else(|| paths.first())
        .map(|(_, path)| (*path).to_owned())
}

/// The uid of a pod, from the names that kubelet gives its cgroups (either driver).
pub(super) fn pod_uid(cgroup: &str) -> Option<String> {
    cgroup.split('/').rev().find_map(|part| {
        let part = part.strip_suffix(".slice").unwrap_or(part);
        let (before, uid) = part.rsplit_once("pod")?;
        let uid = uid.replace('_', "-");
        // Of a static pod it is a hash.
        let ours = before.is_empty() || before.ends_with('-');
        let hex = |uid: &str| uid.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-');
        (ours && matches!(uid.len(), 32 | 36) && hex(&uid)).then_some(uid)
    })
}

/// The id of a container, from the names that container runtimes give their cgroups.
pub(super) fn container_id(cgroup: &str) -> Option<String> {
    cgroup.split('/').rev().find_map(|part| {
        let part = part.strip_suffix(".scope").unwrap_or(part);
        let id = part.rsplit(['-', ':']).next()?;
        (id.len() == 64 && id.bytes().all(|byte| byte.is_ascii_hexdigit())).then(|| id.to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pods_and_containers_are_recognised() {
        let uid = "0a1b2c3d-0000-4000-8000-123456789abc";
        let id = "ab".repeat(32);
        let under = uid.replace('-', "_");
        for (path, pod, container) in [
            (format!("/kubepods/burstable/pod{uid}/{id}"), Some(uid), true),
            (
                format!(
                    "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{under}.slice/\
                     cri-containerd-{id}.scope"
                ),
                Some(uid),
                true,
            ),
            (
                format!("/kubepods/pod{}/{id}", "ab".repeat(16)),
                Some("abababababababababababababababab"),
                true,
            ),
            (format!("/system.slice/docker-{id}.scope"), None, true),
            (format!("/../cri-containerd:{id}"), None, true),
            ("/user.slice/user-1000.slice/session-3.scope".to_owned(), None, false),
            (format!("/system.slice/tripod{uid}.service"), None, false),
            ("/".to_owned(), None, false),
        ] {
            assert_eq!(pod_uid(&path).as_deref(), pod, "{path}");
            assert_eq!(container_id(&path), container.then(|| id.clone()), "{path}");
        }
    }

    #[test]
    fn the_cgroup_that_tells_most_is_taken() {
        for (text, path) in [
            ("0::/system.slice/app.service\n", Some("/system.slice/app.service")),
            ("5:memory:/docker/1\n1:name=systemd:/a.slice\n0::/\n", Some("/a.slice")),
            ("5:memory:/docker/1\n0::/\n", Some("/docker/1")),
            ("0::/\n", Some("/")),
            ("", None),
            ("nonsense\n0::relative\n", None),
        ] {
            assert_eq!(cgroup(text).as_deref(), path, "{text}");
        }
    }

    #[test]
    fn this_process_is_found_and_none_is_not() {
        assert!(readable());
        let own = read(std::process::id());
        assert_eq!(own.pid, Some(std::process::id()));
        assert_eq!(own.exe, Some(std::env::current_exe().unwrap().display().to_string()));
        assert_eq!(own.ids.unwrap().0, rustix::process::geteuid().as_raw());
        let thread = std::thread::spawn(|| {
            read(rustix::thread::gettid().as_raw_nonzero().get().cast_unsigned())
        });
        assert_eq!(thread.join().unwrap().pid, Some(std::process::id()));
        let none = read(0);
        assert!(none.pid.is_none() && none.exe.is_none() && none.cgroup.is_none());
    }
}
