//! Attributes of files: what they tell of the object, and what they cost.

use std::path::Path;
use std::process::Command;

use akvfs::delivery::fuse;
use akvfs::view::{Layout, Limits};
use rustix::fs::{lgetxattr, llistxattr};
use rustix::io::Errno;

use super::requests::Counted;
use super::support::{Fake, Tree, is_root, plan, run};

fn attribute(path: &Path, name: &str) -> Result<String, Errno> {
    let mut bytes = [0; 256];
    let length = lgetxattr(path, name, &mut bytes)?;
    Ok(String::from_utf8(bytes[..length].to_vec()).unwrap())
}

fn names(path: &Path) -> Vec<String> {
    let mut bytes = vec![0; 1024];
    let length = llistxattr(path, &mut bytes).unwrap();
    let names = bytes[..length].split(|byte| *byte == 0).filter(|name| !name.is_empty());
    names.map(|name| String::from_utf8(name.to_vec()).unwrap()).collect()
}

mount_test! {
    fn attributes_of_a_version_are_xattrs_where_asked_for() {
        let vault = Fake::new(&[("one", b"first")]);
        let options = fuse::Options { xattr: true, ..fuse::Options::default() };
        let tree = Tree::with(&vault, plan(Layout::Atomic, &["one=dir/one"]), options, Limits::default());
        let file = tree.path("..data/dir/one");
        let has = |name: &str| attribute(&file, &format!("user.akvfs.{name}"));
        assert_eq!((has("type"), has("name")), (Ok("secret".to_owned()), Ok("one".to_owned())));
        assert_eq!(has("version"), Err(Errno::NODATA));
        assert_eq!(names(&file), ["user.akvfs.type", "user.akvfs.name"]);
        // What it says needs no request.
        assert_eq!(vault.requests(), [""; 0]);

        assert_eq!(tree.read("dir/one"), b"first");
        assert_eq!(has("version").unwrap(), format!("{:032x}", 1));
        assert_eq!(has("created").unwrap(), "2023-11-14T22:13:21Z");
        has("checked").unwrap().parse::<jiff::Timestamp>().unwrap();
        assert_eq!(has("expires"), Err(Errno::NODATA));
        let all = ["type", "name", "version", "created", "checked"];
        assert_eq!(names(&file), all.map(|name| format!("user.akvfs.{name}")));
        assert_eq!(lgetxattr(&file, "user.akvfs.type", &mut [0; 5]), Err(Errno::RANGE));
        assert_eq!(llistxattr(&file, &mut [0; 5]), Err(Errno::RANGE));
        let shown = run("getfattr", &["-d", "--absolute-names", file.to_str().unwrap()]);
        let shown = String::from_utf8(shown).unwrap();
        assert!(shown.contains("user.akvfs.name=\"one\"\n"), "{shown}");

        // The old file is of the old version still.
        let old = std::fs::canonicalize(&file).unwrap();
        vault.rotate("one", b"second");
        assert_eq!(tree.refresh().changed, ["dir/one"]);
        assert_eq!(has("version").unwrap(), format!("{:032x}", 2));
        assert_eq!(attribute(&old, "user.akvfs.version").unwrap(), format!("{:032x}", 1));

        for place in [tree.dir().to_owned(), tree.path("..data"), tree.path("dir"), file.clone()] {
            let asked = attribute(&place, "security.capability");
            assert_eq!(asked, Err(Errno::OPNOTSUPP), "{}", place.display());
            // Others than root are told by the kernel that there is none.
            let refused = if is_root() { Errno::OPNOTSUPP } else { Errno::NODATA };
            assert_eq!(attribute(&place, "trusted.akvfs.type"), Err(refused), "{}", place.display());
            assert_eq!(attribute(&place, "user.other"), Err(Errno::NODATA), "{}", place.display());
        }
        assert_eq!(names(tree.dir()), [""; 0]);
        let set = Command::new("setfattr").args(["-n", "user.akvfs.type", "-v", "x"]).arg(&file).status();
        assert!(!set.unwrap().success());
    }
}

mount_test! {
    fn without_the_option_attributes_are_asked_for_once() {
        let tree = Counted::with(100, fuse::Options::default());
        let file = tree.file(0);
        let asked = tree.requests(|| {
            for _ in 0..3 {
                assert_eq!(attribute(file.as_ref(), "user.akvfs.type"), Err(Errno::OPNOTSUPP));
                run("ls", &["-l", &tree.folder()]);
            }
        });
        assert_eq!(asked.get("GETXATTR"), Some(&1), "{asked:?}");
        assert!(asked.get("LISTXATTR").is_none_or(|count| *count <= 1), "{asked:?}");
    }
}

mount_test! {
    fn with_the_option_a_listing_asks_for_each_file_at_most_twice() {
        let tree = Counted::with(100, fuse::Options { xattr: true, ..fuse::Options::default() });
        let listed = tree.requests(|| drop(run("ls", &["-l", &tree.folder()])));
        let of = |name: &str| listed.get(name).copied().unwrap_or(0);
        assert!(of("GETXATTR") + of("LISTXATTR") <= 202, "{listed:?}");
        let scratch = tempfile::tempdir().unwrap();
        let to = scratch.path().join("copy");
        run("cp", &["-a", &tree.file(0), to.to_str().unwrap()]);
        assert_eq!(std::fs::read(to).unwrap(), b"value");
        let stats = tree.requests(|| {
            for _ in 0..100 {
                std::fs::metadata(tree.file(0)).unwrap();
            }
        });
        assert_eq!((stats.get("GETXATTR"), stats.get("LISTXATTR")), (None, None));
    }
}
