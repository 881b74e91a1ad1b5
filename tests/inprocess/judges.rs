//! OpenSSL as the judge of what applications get.

use std::process::Command;

use akvfs::csi::proto::MountResponse;

/// The files of a response in a directory, for programs.
pub struct Judge(tempfile::TempDir);

impl Judge {
    pub fn of(response: &MountResponse) -> Self {
        let dir = tempfile::tempdir().unwrap();
        for file in &response.files {
            std::fs::write(dir.path().join(&file.path), &file.contents).unwrap();
        }
        Self(dir)
    }

    pub fn openssl(&self, args: &[&str]) -> Vec<u8> {
        self.run("openssl", args)
    }

    fn run(&self, program: &str, args: &[&str]) -> Vec<u8> {
        let output = Command::new(program)
            .args(args)
            .current_dir(self.0.path())
            .output()
            .unwrap_or_else(|error| panic!("the tests need the {program} program: {error}"));
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{program} {args:?}: {said}");
        output.stdout
    }
}
