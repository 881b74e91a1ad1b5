//! What the options of a mount change: owner, modes, who may use it, what the kernel keeps.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::Command;

use akvfs::class::FuseCache;
use akvfs::delivery::fuse;
use akvfs::emulator::{Service, Trouble, Where};
use akvfs::view::{Layout, Limits};

use super::support::{Fake, Tree, plan, run, table};
use super::sync::Site;

fn shown(path: &Path) -> (u32, u32, u32) {
    let metadata = std::fs::symlink_metadata(path).unwrap();
    (metadata.uid(), metadata.gid(), metadata.permissions().mode() & 0o7777)
}

root_test! {
    fn owner_and_modes_are_as_the_options_say() {
        let vault = Fake::new(&[("one", b"first")]);
        let options = fuse::Options {
            source: "/etc/akvfs/app one.yaml".to_owned(),
            uid: 1000,
            gid: 2000,
            // More than files of ours can have.
            file_mode: Some(0o4777),
            dir_mode: 0o4772,
            ..fuse::Options::default()
        };
        let plan = plan(Layout::Flat, &["one=dir/one"]);
        let tree = Tree::with(&vault, plan, options, Limits::default());
        assert_eq!(shown(tree.dir()), (1000, 2000, 0o750));
        assert_eq!(shown(&tree.path("dir")), (1000, 2000, 0o750));
        assert_eq!(shown(&tree.path("dir/one")), (1000, 2000, 0o555));
        let line = table(tree.dir()).pop().unwrap();
        assert!(line.contains(" - fuse.akvfs /etc/akvfs/app\\040one.yaml "), "{line}");
    }
}

root_test! {
    fn a_source_of_any_length_can_be_mounted() {
        let vault = Fake::new(&[("one", b"first")]);
        let options = fuse::Options { source: "\u{e9}".repeat(3000), ..fuse::Options::default() };
        let tree = Tree::with(&vault, plan(Layout::Flat, &["one"]), options, Limits::default());
        assert_eq!(tree.read("one"), b"first");
    }
}

root_test! {
    fn what_may_be_held_still_is_the_free_space() {
        let vault = Fake::new(&[("one", &[7; 4096]), ("two", &[8; 8192])]);
        let limits = Limits { max_bytes: 65_536, ..Limits::default() };
        let plan = plan(Layout::Flat, &["one", "two"]);
        let tree = Tree::with(&vault, plan, fuse::Options::default(), limits);
        let space = || {
            let said = run("df", &["-B1", "--output=size,used,avail", tree.dir().to_str().unwrap()]);
            let said = String::from_utf8(said).unwrap();
            let numbers = said.lines().last().unwrap().split_whitespace();
            numbers.map(|number| number.parse::<u64>().unwrap()).collect::<Vec<_>>()
        };
        assert_eq!(space(), [65_536, 0, 65_536]);
        tree.read("one");
        tree.read("two");
        assert_eq!(space(), [65_536, 12_288, 53_248]);
    }
}

root_test! {
    fn without_the_kernels_cache_files_have_their_bytes_and_sizes() {
        let vault = Fake::new(&[("one", &[7; 20]), ("big", &[8; 300_000]), ("none", b"")]);
        let options = fuse::Options { cache: FuseCache::None, ..fuse::Options::default() };
        let names = ["one", "big", "none"];
        let tree = Tree::with(&vault, plan(Layout::Atomic, &names), options, Limits::default());
        for (name, bytes) in [("one", vec![7; 20]), ("big", vec![8; 300_000]), ("none", vec![])] {
            assert_eq!(run("cat", &[tree.path(name).to_str().unwrap()]), bytes, "{name}");
            assert_eq!(tree.read(name), bytes, "{name}");
            assert_eq!(std::fs::metadata(tree.path(name)).unwrap().len(), bytes.len() as u64);
        }
    }
}

root_test! {
    fn a_log_or_an_audit_below_the_tree_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("below")).unwrap();
        for option in ["--log-file", "--audit"] {
            for file in ["below/../file", "file", "below/file"] {
                // Named as it is, and from where the command runs.
                let whole = dir.path().join(file);
                for file in [whole.to_str().unwrap(), &format!("./{file}")] {
                    let mut command = Command::new(env!("CARGO_BIN_EXE_akvfs"));
                    command.args(["mount", option, file, "dev:"]).arg(dir.path());
                    let output = command.current_dir(dir.path()).output().unwrap();
                    let said = String::from_utf8(output.stderr).unwrap();
                    assert_eq!(output.status.code(), Some(1), "{option} {file}: {said}");
                    assert!(said.contains("is where the tree is to be"), "{option} {file}: {said}");
                    assert_eq!(table(dir.path()).len(), 0);
                }
            }
        }
    }
}

network_test! {
    fn an_eager_class_is_mounted_with_everything_or_not_at_all() {
        let site = Site::new();
        let tree = site.azure.path("tree");
        std::fs::create_dir(&tree).unwrap();
        let place = tree.to_str().unwrap();
        let source = site.source();
        let text = std::fs::read_to_string(&source).unwrap();
        std::fs::write(&source, text.replace("    objects:", "    fetch: eager\n    fuseCache: none\n    objects:")).unwrap();
        let mounted = site.akvfs(&["mount", &source, place]);
        assert!(mounted.status.success(), "{}", String::from_utf8_lossy(&mounted.stderr));
        // Nothing more is asked for what is opened.
        site.azure.emulator.control().always(Where::service(Service::Vault), Trouble::Status(503));
        assert_eq!(std::fs::read_to_string(tree.join("one")).unwrap(), site.one);
        assert_eq!(std::fs::read_to_string(tree.join("two")).unwrap(), site.two);
        assert!(site.akvfs(&["unmount", place]).status.success());
        let failed = site.akvfs(&["mount", &source, place]);
        let said = String::from_utf8(failed.stderr).unwrap();
        assert_eq!(failed.status.code(), Some(1), "{said}");
        assert!(said.contains("fetch=eager: ") && said.contains("objectName:"), "{said}");
        assert_eq!(table(&tree).len(), 0);
        // The command line has the last word.
        let mounted = site.akvfs(&["mount", "-o", "fetch=lazy,layout=flat", &source, place]);
        assert!(mounted.status.success(), "{}", String::from_utf8_lossy(&mounted.stderr));
        assert!(std::fs::symlink_metadata(tree.join("one")).unwrap().is_file());
        assert!(site.akvfs(&["unmount", place]).status.success());
    }
}
