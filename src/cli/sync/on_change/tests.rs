use std::time::Instant;

use super::*;

const SHELL: &str = "/bin/sh";

fn shell(script: &str, limit: Duration) -> Program {
    Program::new(Path::new(SHELL), &["-c".into(), script.into()], limit).unwrap()
}

async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(30);
    while !holds() {
        assert!(Instant::now() < end, "never happened: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[test]
fn only_an_absolute_path_to_a_file_is_a_program() {
    let limit = Duration::from_secs(1);
    for bad in ["true", "./true", "/", "/no/such/program"] {
        let error = Program::new(Path::new(bad), &[], limit).err().unwrap();
        assert_eq!(error.code(), Code::ClassInvalid, "{bad}");
    }
}

#[tokio::test]
async fn it_is_told_where_and_what_and_its_failure_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let script = r#"printf '%s\n' "$AKVFS_DIRECTORY" "$AKVFS_CHANGED_FILES" > "$AKVFS_DIRECTORY/said"; exit 3"#;
    let program = shell(script, Duration::from_secs(30));
    let changed = ["a b".to_owned(), "c/$(d)".to_owned()];
    let error = program.run(dir.path(), &changed).await.unwrap_err();
    assert!(error.message().contains("failed with exit status: 3"), "{error}");
    let said = std::fs::read_to_string(dir.path().join("said")).unwrap();
    assert_eq!(said, format!("{}\na b\nc/$(d)\n", dir.path().display()));
    // Too many to be told one by one.
    let many = vec!["x".repeat(1000); 66];
    let program = shell(r#"test "${AKVFS_CHANGED_FILES-none}" = none"#, Duration::from_secs(30));
    program.run(dir.path(), &many).await.unwrap();
}

/// Starts a child and waits for it.
const PARENT: &str = r#"sleep 600 & echo $! > "$AKVFS_DIRECTORY/child.new"; mv "$AKVFS_DIRECTORY/child.new" "$AKVFS_DIRECTORY/child"; wait"#;

async fn its_child_ends(dir: &Path) {
    let child = std::fs::read_to_string(dir.join("child")).unwrap();
    let stat = format!("/proc/{}/stat", child.trim());
    eventually("the child's end", || {
        // Gone, or a zombie until its new parent looks.
        std::fs::read_to_string(&stat).map_or(true, |stat| stat.contains(") Z "))
    })
    .await;
}

#[tokio::test]
async fn one_that_runs_too_long_is_killed_with_its_children() {
    let dir = tempfile::tempdir().unwrap();
    let program = shell(PARENT, Duration::from_secs(1));
    let error = program.run(dir.path(), &[]).await.unwrap_err();
    assert!(error.message().contains("and was killed"), "{error}");
    its_child_ends(dir.path()).await;
}

#[tokio::test]
async fn one_that_still_runs_when_the_watch_ends_is_killed_with_its_children() {
    let dir = tempfile::tempdir().unwrap();
    let program = shell(PARENT, Duration::from_secs(600));
    let on_change = OnChange::start(program, dir.path().to_owned());
    on_change.changed(Vec::new());
    eventually("the child", || dir.path().join("child").exists()).await;
    on_change.end().await;
    its_child_ends(dir.path()).await;
}

#[tokio::test]
async fn what_changes_during_a_run_is_one_more_run() {
    let dir = tempfile::tempdir().unwrap();
    let script = r#"cd "$AKVFS_DIRECTORY"; echo $AKVFS_CHANGED_FILES >> runs; while ! test -e go; do sleep 0.01; done"#;
    let on_change = OnChange::start(shell(script, Duration::from_secs(60)), dir.path().to_owned());
    let runs = || std::fs::read_to_string(dir.path().join("runs")).unwrap_or_default();
    on_change.changed(vec!["one".to_owned()]);
    eventually("the first run", || runs() == "one\n").await;
    for name in ["three", "two", "three"] {
        on_change.changed(vec![name.to_owned()]);
    }
    std::fs::write(dir.path().join("go"), "").unwrap();
    // The end waits for what is left to do.
    on_change.end().await;
    assert_eq!(runs(), "one\nthree two\n");
}
