//! Programs that others wrote, on files that nobody has opened before: they must do exactly what they do
//! with plain files of the same bytes. Two rows differ, and SEMANTICS says so: `stat` and `ls -l` before
//! the first open print a size of 4096.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;

use akvfs::view::Layout;

use super::support::{Fake, Tree, run};

/// Every file of the tree.
const FILES: [&str; 6] = ["cert", "key", "store-jks", "store-p12", "short", "large"];
const PASSWORD: &str = "changeit";

/// Shell lines over `$D`, the directory of the files, with tools in `$TOOLS` and an empty directory to
/// work in. What they print, and how they end, is compared with plain files.
const PROGRAMS: [&str; 27] = [
    "cat $D/large",
    "cp $D/short copy && cat copy",
    "cp $D/large copy && cat copy",
    "wc -c < $D/short",
    "wc -c < $D/large",
    "tail -c 7 $D/short",
    "tail -c 7 $D/large",
    "dd if=$D/large bs=1000 status=none",
    "python3 -c 'import sys; sys.stdout.write(open(sys.argv[1]).read())' $D/short",
    "python3 -c 'import sys; sys.stdout.write(open(sys.argv[1]).read())' $D/large",
    "python3 -c 'import mmap, sys; f = open(sys.argv[1]); sys.stdout.buffer.write(mmap.mmap(f.fileno(), 0, mmap.MAP_SHARED, mmap.PROT_READ))' $D/large",
    "python3 -c 'import mmap, sys; f = open(sys.argv[1]); sys.stdout.buffer.write(mmap.mmap(f.fileno(), 0, mmap.MAP_PRIVATE, mmap.PROT_READ))' $D/large",
    "openssl x509 -in $D/cert -noout -subject -fingerprint",
    "openssl pkey -in $D/key -noout -text | sha256sum",
    "openssl pkcs12 -in $D/store-p12 -passin pass:changeit -nokeys -nodes | openssl x509 -noout -subject",
    "nginx -t -q -p . -c nginx.conf",
    "java -cp $TOOLS Read keystore JKS $D/store-jks changeit",
    "java -cp $TOOLS Read keystore PKCS12 $D/store-p12 changeit",
    "java -cp $TOOLS Read bytes $D/large",
    "$TOOLS/read bytes $D/short",
    "$TOOLS/read bytes $D/large",
    "rsync -a $D/ copies/ && cat copies/large copies/cert && ls copies",
    "tar -cf all.tar -C $D . && tar -xf all.tar && cat large short cert",
    "tar -cf one.tar -C $D large && tar -xOf one.tar",
    "grep -c m $D/large && grep -l END $D/cert > /dev/null",
    "echo \"$(<$D/short)\"",
    "test -s $D/short && test -s $D/large && find $D/ -type f -size +0 | wc -l",
];

/// The programs, and files for them. Made by root in a file system of this test's namespace, where the same
/// test finds them as a plain user.
struct Workshop {
    plain: PathBuf,
    vault: Arc<Fake>,
}

const PLACE: &str = "/mnt";

impl Workshop {
    fn furnish(plain: &Path) {
        run("mount", &["-t", "tmpfs", "-o", "mode=755", "tmpfs", PLACE]);
        let tools = Self::tools();
        std::fs::create_dir(plain).unwrap();
        std::fs::create_dir(&tools).unwrap();
        let file = |name: &str| plain.join(name).to_str().unwrap().to_owned();
        run(
            "openssl",
            &[
                "req",
                "-x509",
                "-newkey",
                "ec",
                "-pkeyopt",
                "ec_paramgen_curve:prime256v1",
                "-nodes",
                "-subj",
                "/CN=foreign.test",
                "-days",
                "2",
                "-keyout",
                &file("key"),
                "-out",
                &file("cert"),
            ],
        );
        let password = format!("pass:{PASSWORD}");
        run(
            "openssl",
            &[
                "pkcs12",
                "-export",
                "-inkey",
                &file("key"),
                "-in",
                &file("cert"),
                "-name",
                "entry",
                "-passout",
                &password,
                "-out",
                &file("store-p12"),
            ],
        );
        run(
            "keytool",
            &[
                "-importcert",
                "-noprompt",
                "-storetype",
                "JKS",
                "-alias",
                "entry",
                "-storepass",
                PASSWORD,
                "-file",
                &file("cert"),
                "-keystore",
                &file("store-jks"),
            ],
        );
        std::fs::write(plain.join("short"), "twenty bytes of text").unwrap();
        let large: String = (0..24_000).map(|at| if at % 61 == 60 { '\n' } else { 'm' }).collect();
        std::fs::write(plain.join("large"), large).unwrap();
        let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/root/foreign");
        let tools_arg = tools.to_str().unwrap();
        run("javac", &["-d", tools_arg, sources.join("Read.java").to_str().unwrap()]);
        let program = tools.join("read");
        let source = sources.join("read.go");
        run("go", &["build", "-o", program.to_str().unwrap(), source.to_str().unwrap()]);
        // Keys are for their owner alone, where they are made.
        run("chmod", &["-R", "a+rX", PLACE]);
    }

    fn new() -> Self {
        let plain = Path::new(PLACE).join("plain");
        if !plain.exists() {
            Self::furnish(&plain);
        }
        let values = FILES.map(|name| (name, std::fs::read(plain.join(name)).unwrap()));
        let values = values.each_ref().map(|(name, value)| (*name, value.as_slice()));
        Self { plain, vault: Fake::new(&values) }
    }

    /// A tree of them that nobody has read anything of.
    fn tree(&self, layout: Layout) -> Tree {
        Tree::new(&self.vault, layout, &FILES)
    }

    fn tools() -> PathBuf {
        Path::new(PLACE).join("tools")
    }

    /// Runs a shell line over the files in this directory.
    fn run(&self, line: &str, files: &Path) -> Output {
        let scratch = tempfile::tempdir().unwrap();
        let nginx = format!(
            "pid nginx.pid; error_log stderr; events {{}}\n\
             http {{ access_log off; client_body_temp_path t1; proxy_temp_path t2; fastcgi_temp_path t3; \
             uwsgi_temp_path t4; scgi_temp_path t5; server {{ listen 127.0.0.1:8443 ssl; \
             ssl_certificate {0}/cert; ssl_certificate_key {0}/key; }} }}\n",
            files.display()
        );
        std::fs::write(scratch.path().join("nginx.conf"), nginx).unwrap();
        Command::new("bash")
            .args(["-euo", "pipefail", "-c", line])
            .env("D", files)
            .env("TOOLS", Self::tools())
            .env("PATH", format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap()))
            .current_dir(scratch.path())
            .output()
            .unwrap()
    }
}

mount_test! {
    fn programs_of_others_read_cold_files_as_they_read_plain_ones() {
        let workshop = Workshop::new();
        for line in PROGRAMS {
            let plain = workshop.run(line, &workshop.plain);
            let said = String::from_utf8_lossy(&plain.stderr);
            assert!(plain.status.success(), "on plain files: {line}: {said}");
            for layout in [Layout::Flat, Layout::Atomic] {
                // A copy of links is one of links: not what is asked here.
                if layout == Layout::Atomic && (line.contains("rsync") || line.contains("tar ") || line.contains("find")) {
                    continue;
                }
                let tree = workshop.tree(layout);
                let before = workshop.vault.requests().len();
                let ours = workshop.run(line, tree.dir());
                let said = String::from_utf8_lossy(&ours.stderr);
                assert!(ours.status.success(), "{layout:?}: {line}: {said}");
                // Some of it is a private key, which is worth no line of a log.
                assert!(ours.stdout == plain.stdout, "{layout:?}: {line} prints something else");
                let asked = workshop.vault.requests().split_off(before);
                let mut once = asked.clone();
                once.sort();
                once.dedup();
                assert_eq!(once.len(), asked.len(), "asked more than once: {asked:?}: {line}");
            }
        }
    }
}

mount_test! {
    fn only_sizes_that_are_printed_before_any_open_differ() {
        let workshop = Workshop::new();
        for line in ["stat -c %s $D/large", "ls -l $D/large | cut -d' ' -f5"] {
            let tree = workshop.tree(Layout::Flat);
            assert_eq!(workshop.run(line, tree.dir()).stdout, b"4096\n", "{line}");
            tree.read("large");
            assert_eq!(workshop.run(line, tree.dir()).stdout, b"24000\n", "{line}");
        }
    }
}

mount_test! {
    fn gos_own_judge_of_file_systems_finds_nothing() {
        let workshop = Workshop::new();
        for layout in [Layout::Flat, Layout::Atomic] {
            let tree = workshop.tree(layout);
            let names = FILES.join(" ");
            let judged = workshop.run(&format!("$TOOLS/read fstest $D {names}"), tree.dir());
            let said = String::from_utf8_lossy(&judged.stderr);
            assert!(judged.status.success(), "{layout:?}: {said}");
        }
    }
}
