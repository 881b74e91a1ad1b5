//! What programs see that watch a directory, or have a file of it open.

use std::fs;
use std::io::Read;
use std::mem::MaybeUninit;
use std::path::Path;

use akvfs::delivery::files::{File, Layout, Writer};
use rustix::fs::inotify::{self, CreateFlags, ReadFlags, Reader, WatchFlags};
use rustix::io::Errno;

use super::{LAYOUTS, in_memory, options};

/// Everything but opening, reading and closing what was only read.
const CHANGES: WatchFlags = WatchFlags::CREATE
    .union(WatchFlags::DELETE)
    .union(WatchFlags::MOVE)
    .union(WatchFlags::ATTRIB)
    .union(WatchFlags::MODIFY)
    .union(WatchFlags::CLOSE_WRITE)
    .union(WatchFlags::DELETE_SELF)
    .union(WatchFlags::MOVE_SELF);

pub struct Watch(rustix::fd::OwnedFd);

impl Watch {
    pub fn new(path: &Path) -> Self {
        let fd = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC).unwrap();
        inotify::add_watch(&fd, path, CHANGES).unwrap();
        Self(fd)
    }

    /// What has happened since the last call: all of it is queued already when a write returns.
    pub fn events(&self) -> Vec<String> {
        let mut buffer = [MaybeUninit::<u8>::uninit(); 16 * 1024];
        let mut reader = Reader::new(&self.0, &mut buffer);
        let mut events = Vec::new();
        loop {
            let event = match reader.next() {
                Err(Errno::AGAIN) => return events,
                event => event.unwrap(),
            };
            let name = event.file_name().map(|name| name.to_str().unwrap().to_owned());
            let name = name.map(|name| match name.strip_prefix("..2") {
                // The time and the random number of a generation.
                Some(_) => "..GENERATION".to_owned(),
                None => name,
            });
            let flags = event.events();
            let kinds = [
                (ReadFlags::CREATE, "create"),
                (ReadFlags::DELETE, "delete"),
                (ReadFlags::MOVED_FROM, "from"),
                (ReadFlags::MOVED_TO, "to"),
                (ReadFlags::ATTRIB, "attributes"),
                (ReadFlags::MODIFY, "modify"),
                (ReadFlags::CLOSE_WRITE, "close"),
                (ReadFlags::DELETE_SELF, "delete itself"),
                (ReadFlags::MOVE_SELF, "move itself"),
                (ReadFlags::IGNORED, "end"),
            ];
            let (_, kind) = kinds.into_iter().find(|(flag, _)| flags.contains(*flag)).unwrap();
            let directory = if flags.contains(ReadFlags::ISDIR) { "/" } else { "" };
            events
                .push(format!("{kind} {}{directory}", name.unwrap_or_default()).trim().to_owned());
        }
    }
}

fn file<'a>(path: &'a str, text: &'a str) -> File<'a> {
    File { path, mode: 0o444, contents: text.as_bytes() }
}

root_test! {
    fn watchers_of_an_atomic_directory_see_what_kubelet_shows_them() {
        let dir = in_memory();
        let mut writer = Writer::open(dir.path(), options(Layout::Atomic)).unwrap();
        let watch = Watch::new(dir.path());
        writer.write(&[file("kept", "1"), file("same", "1"), file("gone", "1")]).unwrap();
        let first = watch.events();
        let shown = ["create ..GENERATION/", "attributes ..GENERATION/", "create ..data_tmp",
            "from ..data_tmp", "to ..data"];
        assert_eq!(first[..5], shown);
        assert_eq!(first[5..], ["create gone", "create kept", "create same"]);

        // A watch on a file is one on the file of this generation, changed or not.
        let same = Watch::new(&dir.path().join("same"));
        writer.write(&[file("kept", "2"), file("same", "1"), file("new/file", "1")]).unwrap();
        let events = watch.events();
        assert_eq!(events[..5], shown);
        assert_eq!(events[5..], ["create new", "delete gone", "delete ..GENERATION/"]);
        assert_eq!(same.events(), ["attributes", "delete itself", "end"]);

        // Nothing changed: nothing is seen, by a new writer neither.
        writer.write(&[file("kept", "2"), file("same", "1"), file("new/file", "1")]).unwrap();
        drop(writer);
        let mut writer = Writer::open(dir.path(), options(Layout::Atomic)).unwrap();
        writer.write(&[file("kept", "2"), file("same", "1"), file("new/file", "1")]).unwrap();
        assert_eq!(watch.events(), [""; 0]);

        // A mode alone is a change, unlike kubelet's.
        let kept = File { mode: 0o400, ..file("kept", "2") };
        writer.write(&[kept, file("same", "1"), file("new/file", "1")]).unwrap();
        assert_eq!(watch.events()[..5], shown);
    }
}

root_test! {
    fn watchers_of_a_flat_directory_see_one_move_for_each_file() {
        let dir = in_memory();
        let mut writer = Writer::open(dir.path(), options(Layout::Flat)).unwrap();
        let watch = Watch::new(dir.path());
        writer.write(&[file("a", "1"), file("b", "1"), file("c/d", "1")]).unwrap();
        let events = ["create c/", "attributes c/", "to a", "to b"];
        assert_eq!(watch.events(), events);
        let inner = Watch::new(&dir.path().join("c"));
        writer.write(&[file("a", "2"), file("c/d", "2")]).unwrap();
        assert_eq!(watch.events(), ["to a", "delete b"]);
        assert_eq!(inner.events(), ["to d"]);
        writer.write(&[file("a", "2"), file("c/d", "2")]).unwrap();
        assert_eq!(watch.events(), [""; 0]);
    }
}

root_test! {
    fn a_file_that_is_open_keeps_its_bytes() {
        for layout in LAYOUTS {
            let dir = in_memory();
            let mut writer = Writer::open(dir.path(), options(layout)).unwrap();
            writer.write(&[file("a", "old"), file("b/c", "old")]).unwrap();
            let mut opened = ["a", "b/c"].map(|name| fs::File::open(dir.path().join(name)).unwrap());
            writer.write(&[file("a", "new value")]).unwrap();
            for file in &mut opened {
                let mut text = String::new();
                file.read_to_string(&mut text).unwrap();
                assert_eq!(text, "old");
            }
            assert_eq!(fs::read(dir.path().join("a")).unwrap(), b"new value");
        }
    }
}
