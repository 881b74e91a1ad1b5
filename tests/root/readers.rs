//! Readers through rotations: descriptors, maps, links.

use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use akvfs::class::FuseCache;
use akvfs::delivery::fuse;
use akvfs::view::{Layout, Limits};

use super::requests::Counted;
use super::support::{Fake, Tree, plan, scale};

/// Larger than one request of the kernel's for pages.
const SIZE: usize = 200_000;
const READERS: usize = 8;

fn value(letter: u8) -> Vec<u8> {
    vec![letter; SIZE]
}

/// Checks that the bytes are one version, and says which.
fn one_version(bytes: &[u8], from: &str) -> u8 {
    assert_eq!(bytes.len(), SIZE, "{from}: a part of a version");
    let letter = bytes[0];
    assert!(bytes.iter().all(|byte| *byte == letter), "{from}: a torn version");
    letter
}

/// Reads a file in pieces through one descriptor.
fn in_pieces(path: &Path) -> Vec<u8> {
    let file = File::open(path).unwrap();
    let mut bytes = vec![0; usize::try_from(file.metadata().unwrap().len()).unwrap()];
    for (piece, at) in bytes.chunks_mut(7001).zip((0..).step_by(7001)) {
        file.read_exact_at(piece, at).unwrap();
    }
    bytes
}

mount_test! {
    fn eight_readers_see_wholly_old_or_wholly_new_values() {
        for layout in [Layout::Atomic, Layout::Flat] {
            let vault = Fake::new(&[("one", &value(b'a')), ("two", &value(b'a'))]);
            let tree = Tree::new(&vault, layout, &["one", "two"]);
            tree.read("one");
            tree.read("two");
            let (stop, reads) = (AtomicBool::new(false), AtomicUsize::new(0));
            std::thread::scope(|scope| {
                for reader in 0..READERS {
                    let (tree, stop, reads) = (&tree, &stop, &reads);
                    scope.spawn(move || {
                        let mut newest = b'a';
                        while !stop.load(Ordering::Relaxed) {
                            let name = if reader % 2 == 0 { "one" } else { "two" };
                            let seen = match reader % 4 {
                                0 | 1 => one_version(&tree.read(name), "a read"),
                                _ => one_version(&in_pieces(&tree.path(name)), "pieces"),
                            };
                            assert!(seen >= newest, "an older version came back");
                            newest = seen;
                            if layout == Layout::Atomic && reader % 4 == 3 {
                                // Whoever walks into a generation finds files that belong together.
                                let directory = fs::canonicalize(tree.path("..data")).unwrap();
                                let pair = ["one", "two"].map(|name| fs::read(directory.join(name)).unwrap());
                                let pair = pair.map(|bytes| one_version(&bytes, "a pair"));
                                assert_eq!(pair[0], pair[1], "one generation, two versions");
                            }
                            reads.fetch_add(1, Ordering::Relaxed);
                        }
                    });
                }
                // Also when something fails here, the readers end.
                let _stop = Stop(&stop);
                for round in 0..12 * scale() {
                    let letter = b'b' + u8::try_from(round.min(100)).unwrap();
                    vault.rotate("one", &value(letter));
                    vault.rotate("two", &value(letter));
                    assert_eq!(tree.refresh().changed.len(), 2);
                    let so_far = reads.load(Ordering::Relaxed);
                    // Each rotation meets readers.
                    super::support::eventually("reads", || reads.load(Ordering::Relaxed) >= so_far + READERS);
                }
            });
        }
    }
}

struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// A map of a file, read-only.
struct Map(*mut libc::c_void);

impl Map {
    fn new(file: &File, flags: i32) -> std::io::Result<Self> {
        // SAFETY: a new mapping of a descriptor that is open.
        let at = unsafe {
            libc::mmap(std::ptr::null_mut(), SIZE, libc::PROT_READ, flags, file.as_raw_fd(), 0)
        };
        if at == libc::MAP_FAILED { Err(std::io::Error::last_os_error()) } else { Ok(Self(at)) }
    }

    /// Pages of the file that the kernel has, whoever asked for them.
    fn resident(&self) -> usize {
        let mut pages = vec![0_u8; SIZE.div_ceil(4096)];
        // SAFETY: the mapping is whole, and there is room for each of its pages, which are no smaller.
        let done = unsafe { libc::mincore(self.0, SIZE, pages.as_mut_ptr()) };
        assert_eq!(done, 0);
        pages.iter().filter(|page| **page & 1 == 1).count()
    }

    fn bytes(&self) -> &[u8] {
        // SAFETY: the whole mapping lies within the file, and lives as long as this.
        unsafe { std::slice::from_raw_parts(self.0.cast(), SIZE) }
    }
}

impl Drop for Map {
    fn drop(&mut self) {
        // SAFETY: made by `new`, unmapped once.
        unsafe { libc::munmap(self.0, SIZE) };
    }
}

mount_test! {
    fn a_map_keeps_the_bytes_of_its_version() {
        for layout in [Layout::Atomic, Layout::Flat] {
            let vault = Fake::new(&[("one", &value(b'a'))]);
            let tree = Tree::new(&vault, layout, &["one"]);
            let file = File::open(tree.path("one")).unwrap();
            let shared = Map::new(&file, libc::MAP_SHARED).unwrap();
            let private = Map::new(&file, libc::MAP_PRIVATE).unwrap();
            // No page of the second half was read yet.
            assert_eq!(shared.bytes()[0], b'a');
            drop(file);
            vault.rotate("one", &value(b'b'));
            tree.refresh();
            assert_eq!(one_version(&tree.read("one"), "a read"), b'b');
            assert_eq!(one_version(shared.bytes(), "a shared map"), b'a');
            assert_eq!(one_version(private.bytes(), "a private map"), b'a');
        }
    }
}

mount_test! {
    fn links_lead_to_the_current_generation() {
        let vault = Fake::new(&[("one", b"first"), ("two", b"second")]);
        let tree = Tree::new(&vault, Layout::Atomic, &["one", "two=folder/two"]);
        assert_eq!(fs::read_link(tree.path("one")).unwrap(), Path::new("..data/one"));
        assert_eq!(fs::read_link(tree.path("folder")).unwrap(), Path::new("..data/folder"));
        let before = fs::read_link(tree.path("..data")).unwrap();
        assert!(before.to_str().unwrap().starts_with(".."), "{before:?}");
        tree.read("one");
        vault.rotate("one", b"changed");
        tree.refresh();
        let after = fs::read_link(tree.path("..data")).unwrap();
        assert_ne!(after, before);
        // The links at the top are the same; where they lead to is not.
        assert_eq!(fs::read_link(tree.path("one")).unwrap(), Path::new("..data/one"));
        assert_eq!(tree.read("one"), b"changed");
        // Who holds the old directory's name reads the old bytes still.
        assert_eq!(fs::read(tree.dir().join(&before).join("one")).unwrap(), b"first");
        assert_eq!(fs::read(tree.dir().join(&after).join("one")).unwrap(), b"changed");
        // Neither a link nor a directory can be read as a file.
        let not_followed = File::options()
            .read(true)
            .custom_flags(libc::O_NOFOLLOW)
            .open(tree.path("one"));
        assert_eq!(not_followed.unwrap_err().raw_os_error(), Some(libc::ELOOP));
        assert_eq!(fs::read(tree.path("folder")).unwrap_err().raw_os_error(), Some(libc::EISDIR));
    }
}

mount_test! {
    fn without_the_kernels_cache_each_read_asks() {
        for cache in [FuseCache::None, FuseCache::Keep] {
            let uncached = cache == FuseCache::None;
            let vault = Fake::new(&[("one", &value(b'a'))]);
            let options = fuse::Options { cache, ..fuse::Options::default() };
            let plan = plan(Layout::Atomic, &["one"]);
            let tree = Tree::with(&vault, plan, options, Limits::default());
            let file = File::open(tree.path("one")).unwrap();
            assert_eq!(file.metadata().unwrap().len(), SIZE as u64);
            for _ in 0..2 {
                assert_eq!(one_version(&fs::read(tree.path("one")).unwrap(), "a read"), b'a');
                assert_eq!(one_version(&in_pieces(&tree.path("one")), "pieces"), b'a');
            }
            let map = Map::new(&file, libc::MAP_PRIVATE).unwrap();
            let resident = map.resident();
            assert_eq!(resident == 0, uncached, "{resident} pages stay with the kernel");
            assert_eq!(one_version(map.bytes(), "a private map"), b'a');
            match Map::new(&file, libc::MAP_SHARED) {
                Ok(map) => assert!(!uncached && one_version(map.bytes(), "a shared map") == b'a'),
                Err(error) => assert!(uncached && error.raw_os_error() == Some(libc::ENODEV)),
            }
            assert_eq!(vault.requests(), ["one"]);
        }
    }
}

mount_test! {
    fn a_read_without_the_kernels_cache_is_one_request() {
        let options = fuse::Options { cache: FuseCache::None, ..fuse::Options::default() };
        let tree = Counted::with(1, options);
        let file = File::open(tree.file(0)).unwrap();
        let reads = tree.requests(|| {
            for _ in 0..3 {
                let mut bytes = [0; 5];
                file.read_exact_at(&mut bytes, 0).unwrap();
                assert_eq!(&bytes, b"value");
            }
        });
        assert_eq!(reads.get("READ"), Some(&3), "{reads:?}");
    }
}
