//! `mountMode: write`: the provider puts a pod's files at the target by itself.
//!
//! The response then holds no bytes, so the limit of a message does not bound a class, and values do not
//! pass through the driver. It needs the kubelet's pods directory in the provider's container, and there
//! only what the driver has mounted for this very pod is written: on Linux its tmpfs, empty or with what
//! was written before; on Windows its folder. Whatever else stands at the target is refused. A volume that
//! began with files of the driver's stays with those until its pod is replaced. What was written is removed
//! by the driver, at unpublish.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::class::Pod;
use crate::class::paths::Rules;
use crate::delivery::files::ledger::OWN;
use crate::delivery::files::{File, Layout, Options, Place, Writer};
use crate::delivery::response::Delivered;
use crate::error::{Code, Error, Result, printable};

/// Most of a target path that an error quotes.
const QUOTED: usize = 512;
/// A tmpfs takes the largest class in a small part of this, also with little CPU.
const LEAST: Duration = Duration::from_secs(2);
/// What kubelet calls the volumes of CSI drivers.
const CSI_VOLUMES: &str = "kubernetes.io~csi";

/// A target that we write.
pub(super) struct Target {
    path: PathBuf,
    /// Nothing of ours is there: the pod has seen no file of this volume.
    pub(super) is_new: bool,
}

/// Who writes a target.
pub(super) enum Writes {
    Provider(Target),
    /// The driver has written it before.
    Driver,
    /// The pods directory is not shown to us.
    Unseen(Error),
}

/// Looks who may write the target, by `deadline`. Nothing of it is held open afterwards: a Mount that fails
/// later is followed by the driver's only try to unmount it.
///
/// # Errors
/// PlaceRefused when it is not this pod's, or not the driver's empty mount.
pub(super) async fn examine(target: &str, pod: Option<&Pod>, deadline: Instant) -> Result<Writes> {
    let uid = pod.map_or("", |pod| pod.uid.as_str());
    if !is_of_pod(target, uid, Rules::native()) {
        let what =
            format!("{} is not the target of a volume of this pod", printable(target, QUOTED));
        return Err(refused(what).fix(
            "mountMode: write takes <kubelet root>/pods/<pod uid>/volumes/kubernetes.io~csi/<volume>/mount",
        ));
    }
    let path = PathBuf::from(target);
    let look = tokio::task::spawn_blocking(move || {
        if !path.exists() {
            let what = format!("{} cannot be seen", printable(&path.to_string_lossy(), QUOTED));
            return Ok(Writes::Unseen(refused(what).fix(
                "show the provider the kubelet's pods directory at the same path, with \
                 mountPropagation: HostToContainer (chart value writeMode)",
            )));
        }
        if Writer::is_anothers(&path) {
            return Ok(Writes::Driver);
        }
        let is_new = !Writer::examine(&path, Place::CsiTarget)?;
        Ok(Writes::Provider(Target { path, is_new }))
    });
    match tokio::time::timeout_at(deadline.into(), look).await {
        Ok(looked) => looked.unwrap_or_else(|_| Err(Error::task_failed())),
        Err(_) => Err(late()),
    }
}

/// Makes the target hold exactly what was delivered. Not begun when little time is left, and awaited to its
/// end otherwise: who is told that it failed must find nothing that still works on it.
///
/// # Errors
/// Of the writer; TimedOut when there is no time for it.
pub(super) async fn write(
    target: Target,
    delivered: Vec<Delivered>,
    deadline: Instant,
) -> Result<()> {
    if Instant::now() + LEAST > deadline {
        return Err(late());
    }
    let work = tokio::task::spawn_blocking(move || {
        let options = Options { layout: Layout::of_class(), place: Place::CsiTarget, owner: None };
        let mut writer = Writer::open(&target.path, options)?;
        let files = delivered.iter().flat_map(|one| one.files.iter().map(move |file| (one, file)));
        let files: Vec<File<'_>> = files
            .map(|(one, file)| File {
                path: file.path.as_str(),
                mode: one.object.mode,
                contents: file.contents.expose(),
            })
            .collect();
        let written = writer.write(&files);
        if cfg!(windows) && target.is_new && written.is_err() {
            // There the driver takes a folder that is not empty for one that has its files.
            let _ = writer.write(&[]);
            drop(writer);
            let _ = std::fs::remove_dir_all(target.path.join(OWN));
        }
        let written = written?;
        tracing::debug!(
            added = written.added.len(),
            changed = written.changed.len(),
            removed = written.removed.len(),
            "wrote the target"
        );
        Ok(())
    });
    work.await.unwrap_or_else(|_| Err(Error::task_failed()))
}

fn late() -> Error {
    Error::new(Code::TimedOut, "the target cannot be written in time")
        .fix("check the node's disks and memory")
}

fn refused(what: String) -> Error {
    Error::new(Code::PlaceRefused, what)
}

/// `<kubelet root>/pods/<uid>/volumes/kubernetes.io~csi/<volume>/mount`, a clean absolute path.
fn is_of_pod(target: &str, uid: &str, rules: Rules) -> bool {
    let separators: &[char] = match rules {
        Rules::Unix => &['/'],
        Rules::Windows => &['/', '\\'],
    };
    let parts: Vec<&str> = target.split(separators).collect();
    let absolute = match rules {
        Rules::Unix => target.starts_with('/'),
        Rules::Windows => parts.first().is_some_and(
            |drive| matches!(drive.as_bytes(), [letter, b':'] if letter.is_ascii_alphabetic()),
        ),
    };
    let clean = |part: &&str| !part.is_empty() && *part != "." && *part != "..";
    if uid.is_empty() || !absolute || !parts.iter().skip(1).all(clean) {
        return false;
    }
    matches!(
        parts.as_slice(),
        [_, .., "pods", pod, "volumes", CSI_VOLUMES, _, "mount"] if *pod == uid
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_a_volume_of_this_very_pod() {
        let good = "/var/lib/kubelet/pods/u-1/volumes/kubernetes.io~csi/secrets/mount";
        assert!(is_of_pod(good, "u-1", Rules::Unix));
        assert!(is_of_pod("/pods/u-1/volumes/kubernetes.io~csi/v/mount", "u-1", Rules::Unix));
        for (target, uid) in [
            (good, "u-2"),
            (good, ""),
            ("var/lib/kubelet/pods/u-1/volumes/kubernetes.io~csi/secrets/mount", "u-1"),
            ("/var/lib/kubelet/pods/u-1/volumes/kubernetes.io~csi/../mount", "u-1"),
            ("/var/lib/../pods/u-1/volumes/kubernetes.io~csi/v/mount", "u-1"),
            ("/var/lib//pods/u-1/volumes/kubernetes.io~csi/v/mount", "u-1"),
            ("/var/lib/kubelet/pods/u-1/volumes/kubernetes.io~empty-dir/v/mount", "u-1"),
            ("/var/lib/kubelet/pods/u-1/volumes/kubernetes.io~csi/v/mount/", "u-1"),
            ("/var/lib/kubelet/pods/u-1/volumes/kubernetes.io~csi/v/mount/x", "u-1"),
            ("/etc", "u-1"),
            ("/", "u-1"),
            ("", "u-1"),
            (r"c:\pods\u-1\volumes\kubernetes.io~csi\v\mount", "u-1"),
        ] {
            assert!(!is_of_pod(target, uid, Rules::Unix), "{target}");
        }
        for target in [
            r"c:\var\lib\kubelet\pods\u-1\volumes\kubernetes.io~csi\v\mount",
            r"C:/var/lib/kubelet/pods/u-1/volumes/kubernetes.io~csi/v\mount",
        ] {
            assert!(is_of_pod(target, "u-1", Rules::Windows), "{target}");
        }
        for target in [
            r"\\server\share\pods\u-1\volumes\kubernetes.io~csi\v\mount",
            r"\\?\c:\pods\u-1\volumes\kubernetes.io~csi\v\mount",
            r"c:pods\u-1\volumes\kubernetes.io~csi\v\mount",
            "/pods/u-1/volumes/kubernetes.io~csi/v/mount",
        ] {
            assert!(!is_of_pod(target, "u-1", Rules::Windows), "{target}");
        }
    }
}
