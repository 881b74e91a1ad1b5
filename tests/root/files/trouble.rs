//! Modes and owners, full, read-only and foreign file systems, the CSI driver's directory, and sizes.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

use akvfs::Code;
use akvfs::delivery::files::{File, Layout, Options, Owner, Place, Writer};

use super::ptrace::{self, End, run_until};
use super::{LAYOUTS, given, in_memory, is_tidy, options, readable};
use crate::support::run;

fn file<'a>(path: &'a str, contents: &'a [u8]) -> File<'a> {
    File { path, mode: 0o440, contents }
}

/// A file system of its own below a directory.
fn tmpfs(dir: &Path, settings: &str) -> PathBuf {
    let at = dir.join("mounted");
    fs::create_dir_all(&at).unwrap();
    run("mount", &["-t", "tmpfs", "-o", settings, "none", at.to_str().unwrap()]);
    at
}

root_test! {
    fn modes_and_owners_are_final_whatever_the_umask() {
        for (umask, layout) in [(0, LAYOUTS[0]), (0o077, LAYOUTS[0]), (0, LAYOUTS[1]), (0o077, LAYOUTS[1])] {
            rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
            let dir = in_memory();
            rustix::process::umask(rustix::fs::Mode::from_raw_mode(umask));
            let target = dir.path().join("target");
            let owner = Some(Owner { uid: 1234, gid: 5678 });
            let mut writer = Writer::open(&target, Options { owner, ..options(layout) }).unwrap();
            let files = [(0o400, "a"), (0o666, "b/c"), (0o000, "d"), (0o755, "e")]
                .map(|(mode, path)| File { path, mode, contents: b"value" });
            writer.write(&files).unwrap();
            for file in files {
                let data = fs::metadata(target.join(file.path)).unwrap();
                assert_eq!((data.uid(), data.gid()), (1234, 5678), "{file:?}");
                assert_eq!(data.mode() & 0o7777, file.mode, "{file:?}");
            }
            // Folders stay ours, for everybody to pass: the files' own modes guard them.
            for folder in [target.clone(), target.join("b")] {
                let data = fs::metadata(folder).unwrap();
                assert_eq!((data.uid(), data.mode() & 0o7777), (0, 0o755));
            }
            assert!(writer.write(&files).unwrap().is_empty());
            // Another owner is a change.
            drop(writer);
            let mut writer =
                Writer::open(&target, Options { owner: Some(Owner { uid: 1, gid: 1 }), ..options(layout) })
                    .unwrap();
            assert_eq!(writer.write(&files).unwrap().changed, ["a", "b/c", "d", "e"]);
        }
    }
}

root_test! {
    fn a_full_file_system_keeps_the_old_files_and_nothing_of_the_new_ones() {
        for (layout, limit) in LAYOUTS.into_iter().flat_map(|l| (4..34).map(move |n| (l, n))) {
            let dir = in_memory();
            let at = tmpfs(dir.path(), "size=1m,nr_inodes=40,mode=755");
            let mut writer = Writer::open(&at, options(layout)).unwrap();
            let old = [file("a", b"old"), file("b/c", b"old"), file("gone/x", b"old")];
            writer.write(&old).unwrap();
            let before = readable(&at);
            // In turn all that a write makes is what finds no room any more.
            let remount = |settings: &str| {
                let settings = format!("remount,{settings}");
                run("mount", &["-o", &settings, at.to_str().unwrap()]);
            };
            let used = 40 - usize::try_from(rustix::fs::statfs(&at).unwrap().f_ffree).unwrap();
            remount(&format!("nr_inodes={}", used + limit - 4));
            let names: Vec<_> = (0..6).map(|n| format!("b/n{n}/file")).collect();
            let mut new: Vec<_> = names.iter().map(|name| file(name, b"new")).collect();
            new.push(file("a", b"new"));
            let outcome = writer.write(&new);
            remount("nr_inodes=200");
            if let Err(error) = outcome {
                assert!(error.message().ends_with("no storage space"), "{error}");
                assert!(error.likely_fix().unwrap().contains("make room"), "{error}");
                if layout == Layout::Atomic {
                    assert_eq!(readable(&at), before);
                } else {
                    // Folders come after the files are staged.
                    assert!(readable(&at).values().all(|file| file.1 == b"old"));
                }
                is_tidy(&at, layout);
            } else {
                assert!(limit > 10, "nothing was full with {limit}");
            }
            writer.write(&new).unwrap();
            assert_eq!(readable(&at).len(), 7);
            is_tidy(&at, layout);
            // The same with bytes instead of names.
            let large = vec![b'x'; 2 << 20];
            let error = writer.write(&[file("a", &large)]).unwrap_err();
            assert!(error.message().ends_with("no storage space"), "{error}");
            assert_eq!(readable(&at).len(), 7);
            is_tidy(&at, layout);
            drop(writer);
            run("umount", &[at.to_str().unwrap()]);
        }
    }
}

root_test! {
    fn what_is_shown_by_a_write_that_fails_afterwards_is_told_by_the_next_one() {
        let dir = in_memory();
        let at = tmpfs(dir.path(), "size=1m,nr_inodes=40,mode=755");
        let mut writer = Writer::open(&at, options(Layout::Atomic)).unwrap();
        writer.write(&[file("a", b"0")]).unwrap();
        let mut late = 0;
        for limit in 1..20 {
            let text = limit.to_string();
            let names = ["x", "y", "z"].map(|name| format!("{name}{limit}"));
            let mut new = vec![file("a", text.as_bytes())];
            new.extend(names.iter().map(|name| file(name, b"new")));
            let used = 40 - usize::try_from(rustix::fs::statfs(&at).unwrap().f_ffree).unwrap();
            let remount = |names: usize| {
                let settings = format!("remount,nr_inodes={names}");
                run("mount", &["-o", &settings, at.to_str().unwrap()]);
            };
            remount(used + limit);
            let outcome = writer.write(&new);
            remount(40);
            if outcome.is_ok() {
                break;
            }
            // The links come after the one rename.
            let shown = fs::read(at.join("a")).unwrap() == text.as_bytes();
            late += usize::from(shown);
            let mut told = writer.write(&new).unwrap();
            told.added.sort();
            assert_eq!((told.changed, told.added), (vec!["a".to_owned()], names.to_vec()), "{shown}");
        }
        assert!(late > 0, "no write has failed after its rename");
        is_tidy(&at, Layout::Atomic);
    }
}

root_test! {
    fn a_file_that_somebody_changes_as_soon_as_it_is_there_is_put_back() {
        for layout in LAYOUTS {
            let dir = in_memory();
            let work = || {
                let mut writer = Writer::open(dir.path(), options(layout)).unwrap();
                writer.write(&[file("a", b"1"), file("b", b"1")]).is_ok()
            };
            let mut changed = false;
            ptrace::run(work, |_| {
                if !changed && dir.path().join("a").exists() {
                    fs::write(dir.path().join("a"), "changed").unwrap();
                    changed = true;
                }
                false
            });
            assert!(changed);
            let mut writer = Writer::open(dir.path(), options(layout)).unwrap();
            let written = writer.write(&[file("a", b"1"), file("b", b"1")]).unwrap();
            assert_eq!(written.changed, ["a"]);
            is_tidy(dir.path(), layout);
        }
    }
}

root_test! {
    fn a_read_only_directory_is_an_error_only_when_something_has_to_be_written() {
        for layout in LAYOUTS {
            let dir = in_memory();
            let at = tmpfs(dir.path(), "mode=755");
            let new = Writer::open(&at, options(layout)).and_then(|mut w| w.write(&[file("a", b"1")]));
            new.unwrap();
            run("mount", &["-o", "remount,ro", at.to_str().unwrap()]);
            let mut writer = Writer::open(&at, options(layout)).unwrap();
            assert!(writer.write(&[file("a", b"1")]).unwrap().is_empty());
            let error = writer.write(&[file("a", b"2")]).unwrap_err();
            assert!(error.to_string().contains("mount the file system read-write"), "{error}");
            assert_eq!(fs::read(at.join("a")).unwrap(), b"1");
            run("umount", &["-l", at.to_str().unwrap()]);
            let at = tmpfs(dir.path(), "mode=755,ro");
            let error = Writer::open(&at, options(layout)).unwrap_err();
            assert!(error.to_string().contains("mount the file system read-write"), "{error}");
        }
    }
}

root_test! {
    fn a_csi_target_is_the_drivers_tmpfs_and_nothing_else() {
        let options = Options { place: Place::CsiTarget, ..options(Layout::Atomic) };
        let dir = in_memory();
        let refused = |at: &Path| {
            let error = Writer::open(at, options).unwrap_err();
            assert_eq!(error.code(), Code::PlaceRefused, "{error}");
            assert_eq!(error.code().grpc(), tonic::Code::FailedPrecondition);
            error.message().to_owned()
        };
        // As the driver makes it: for everybody to write.
        let at = tmpfs(dir.path(), "mode=1777");
        let mut writer = Writer::open(&at, options).unwrap();
        assert_eq!(writer.warning(), None);
        writer.write(&[file("a", b"1")]).unwrap();
        drop(writer);
        // Our own earlier generation, with something else beside it by now.
        fs::write(at.join("other"), "").unwrap();
        Writer::open(&at, options).unwrap().write(&[file("a", b"2")]).unwrap();
        assert_eq!(fs::read(at.join("a")).unwrap(), b"2");
        fs::create_dir(at.join("inner")).unwrap();
        assert!(refused(&at.join("inner")).ends_with("is not the tmpfs that the CSI driver mounts"));
        let error = Writer::open(&at.join("absent"), options).unwrap_err();
        assert_eq!(error.code(), Code::Local);
        assert!(!at.join("absent").exists());
        run("umount", &[at.to_str().unwrap()]);

        let at = tmpfs(dir.path(), "mode=1777");
        fs::write(at.join("foreign"), "").unwrap();
        assert!(refused(&at).ends_with("holds foreign, which akvfs did not write"));
        assert_eq!(fs::read_dir(&at).unwrap().count(), 1);
        // A ledger that another user has made there is none.
        fs::remove_file(at.join("foreign")).unwrap();
        fs::create_dir(at.join("..akvfs")).unwrap();
        chown(at.join("..akvfs"), Some(1234), None).unwrap();
        assert!(refused(&at).contains("belongs to the user with number 1234"));
        run("umount", &[at.to_str().unwrap()]);

        let at = tmpfs(dir.path(), "mode=777");
        assert!(refused(&at).contains("may be written by its group or by others (mode 777)"));
        run("umount", &[at.to_str().unwrap()]);
        assert!(refused(&at).ends_with("is not the tmpfs that the CSI driver mounts"));
        // Mounted, but not in memory.
        run("mount", &["-t", "proc", "none", at.to_str().unwrap()]);
        assert!(refused(&at).ends_with("is not the tmpfs that the CSI driver mounts"));
    }
}

root_test! {
    fn directories_of_other_users_are_refused_and_ones_own_are_not() {
        let dir = in_memory();
        let target = dir.path().join("above/target");
        fs::create_dir_all(&target).unwrap();
        for changed in [target.clone(), dir.path().join("above")] {
            chown(&changed, Some(1234), Some(1234)).unwrap();
            let error = Writer::open(&target, options(Layout::Flat)).unwrap_err();
            assert!(error.message().ends_with("belongs to the user with number 1234"), "{error}");
            chown(&changed, Some(0), Some(0)).unwrap();
        }
        // Without privilege: in a directory of one's own, but for nobody else.
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        chown(&target, Some(1234), Some(1234)).unwrap();
        let (target, other) = (target.as_path(), Some(Owner { uid: 1, gid: 1 }));
        let work = || {
            // SAFETY: changes only this child, which has one thread.
            let (group, user) = unsafe { (libc::setgid(1234), libc::setuid(1234)) };
            assert_eq!((group, user), (0, 0));
            let mut writer = Writer::open(target, options(Layout::Atomic)).unwrap();
            writer.write(&[file("a", b"1")]).unwrap();
            assert!(writer.write(&[file("a", b"1")]).unwrap().is_empty());
            drop(writer);
            let mut writer =
                Writer::open(target, Options { owner: other, ..options(Layout::Atomic) }).unwrap();
            let error = writer.write(&[file("a", b"1")]).unwrap_err();
            assert!(error.to_string().contains("run akvfs as root"), "{error}");
            true
        };
        assert!(matches!(run_until(usize::MAX, work), End::Finished(_)));
        assert_eq!(fs::read(target.join("a")).unwrap(), b"1");
        is_tidy(target, Layout::Atomic);
    }
}

root_test! {
    fn a_directory_on_a_disk_is_warned_of() {
        for parent in ["/dev/shm", "/var/tmp", "/tmp"] {
            let dir = tempfile::tempdir_in(parent).unwrap();
            let memory = run("stat", &["-f", "-c", "%T", dir.path().to_str().unwrap()]) == b"tmpfs\n";
            for layout in LAYOUTS {
                let target = dir.path().join(format!("{layout:?}"));
                let mut writer = Writer::open(&target, options(layout)).unwrap();
                let warned = writer.warning().is_some_and(|text| text.contains("will be on a disk"));
                assert_eq!(warned, !memory, "{parent}");
                writer.write(&[file("a", b"1"), file("b/c", b"1")]).unwrap();
                writer.write(&[file("b/c", b"2")]).unwrap();
                assert_eq!(readable(&target).len(), 1);
                is_tidy(&target, layout);
            }
        }
    }
}

root_test! {
    fn many_files_long_names_and_deep_folders() {
        for layout in LAYOUTS {
            let dir = in_memory();
            let mut files = super::Files::new();
            for n in 0..2000 {
                let path = match n % 4 {
                    0 => format!("name{n}"),
                    1 => format!("folder/name{n}"),
                    2 => format!("name{n}.folder/{}", "n".repeat(255)),
                    _ => format!("{}/{n}", "x/".repeat(n % 40) + "y"),
                };
                files.insert(path, (0o400, n.to_string().into_bytes()));
            }
            let mut writer = Writer::open(dir.path(), options(layout)).unwrap();
            assert_eq!(writer.write(&given(&files)).unwrap().added.len(), 2000);
            assert_eq!(readable(dir.path()), files);
            assert!(writer.write(&given(&files)).unwrap().is_empty());
            let few: super::Files = files.into_iter().step_by(7).collect();
            assert_eq!(writer.write(&given(&few)).unwrap().removed.len(), 2000 - few.len());
            assert_eq!(readable(dir.path()), few);
            is_tidy(dir.path(), layout);

            // As long and as deep as a path may be.
            let long = format!("{}{}", "l".repeat(255) + "/", "d/".repeat(1919) + "e");
            assert_eq!(long.len(), 4095);
            let deep = [file(&long, b"deep")];
            writer.write(&deep).unwrap();
            assert!(writer.write(&deep).unwrap().is_empty());
            writer.write(&[file("last", b"")]).unwrap();
            assert_eq!(readable(dir.path()).len(), 1);
            is_tidy(dir.path(), layout);
        }
    }
}

root_test! {
    fn on_a_disk_all_is_flushed_before_it_is_shown() {
        let dir = tempfile::tempdir_in("/var/tmp").unwrap();
        // A file system that is not in memory, whatever /var/tmp is.
        let (lower, at) = (dir.path().join("lower"), dir.path().join("at"));
        for folder in [&lower, &at, &dir.path().join("upper"), &dir.path().join("work")] {
            fs::create_dir(folder).unwrap();
        }
        let of = |name: &str| dir.path().join(name).display().to_string();
        let settings = format!("lowerdir={},upperdir={},workdir={}", of("lower"), of("upper"), of("work"));
        let mounted = std::process::Command::new("mount")
            .args(["-t", "overlay", "-o", &settings, "none", &of("at")])
            .status();
        let at = if mounted.unwrap().success() { at } else { lower };
        let target = at.join("target");
        if Writer::open(&target, options(Layout::Flat)).unwrap().warning().is_none() {
            eprintln!("SKIPPED: no file system here that is not in memory");
            return;
        }
        for layout in LAYOUTS {
            let target = at.join(format!("{layout:?}"));
            let many: Vec<_> = (0..100).map(|n| format!("c/{n}")).collect();
            for (text, more) in [(&b"1"[..], 0), (b"2", 0), (b"3", 100)] {
                let work = || {
                    let mut writer = Writer::open(&target, options(layout)).unwrap();
                    let mut files = vec![file("a", text), file("b/c", text)];
                    files.extend(many[..more].iter().map(|path| file(path, text)));
                    writer.write(&files).is_ok()
                };
                let mut unflushed = std::collections::BTreeSet::new();
                let (mut closed, mut folders_flushed, mut shown) = (0, 0, 0);
                let mut wrong = None;
                ptrace::run(work, |(number, arguments)| {
                    match *number {
                        libc::SYS_write if arguments[0] > 2 => drop(unflushed.insert(arguments[0])),
                        libc::SYS_fsync => {
                            folders_flushed += usize::from(!unflushed.remove(&arguments[0]));
                        }
                        libc::SYS_close => closed += usize::from(unflushed.remove(&arguments[0])),
                        libc::SYS_syncfs => closed = 0,libc::SYS_renameat | libc::SYS_renameat2 => {
                            shown += 1;
                            if closed > 0 || !unflushed.is_empty() {
                                wrong = Some("shown");
                            }
                        }
                        _ => {}
                    }
                    false
                });
                assert_eq!(wrong, None, "before it was flushed");
                // At least two files or links, and the folders they are in.
                assert!(shown >= 2 && folders_flushed >= 2, "{shown} {folders_flushed}");
            }
        }
        run("umount", &[at.to_str().unwrap()]);
    }
}

root_test! {
    fn an_old_value_that_cannot_be_removed_yet_keeps_no_new_one_away() {
        let dir = in_memory();
        fs::write(dir.path().join("over"), "over").unwrap();
        let target = dir.path().join("target");
        let mut writer = Writer::open(&target, options(Layout::Atomic)).unwrap();
        writer.write(&[file("a", b"0")]).unwrap();
        let generation = fs::canonicalize(target.join("a")).unwrap();
        let over = dir.path().join("over");
        run("mount", &["--bind", over.to_str().unwrap(), generation.to_str().unwrap()]);
        writer.write(&[file("a", b"1"), file("b", b"1")]).unwrap();
        drop(writer);
        let mut writer = Writer::open(&target, options(Layout::Atomic)).unwrap();
        writer.write(&[file("a", b"2")]).unwrap();
        assert_eq!(fs::read(target.join("a")).unwrap(), b"2");
        assert!(generation.exists());
        run("umount", &[generation.to_str().unwrap()]);
        writer.write(&[file("a", b"3")]).unwrap();
        is_tidy(&target, Layout::Atomic);
    }
}
