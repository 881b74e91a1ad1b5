//! docs/SEMANTICS.md: every row of its tables names the test that holds it, and that test exists.

use std::collections::BTreeSet;
use std::path::Path;

/// The names of all test functions below a directory.
fn tests_below(directory: &Path, found: &mut BTreeSet<String>) {
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            tests_below(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = std::fs::read_to_string(&path).unwrap();
            found.extend(tests_of(&text));
        }
    }
}

/// Functions that stand just after a test's attribute, or in the macro of tests with namespaces.
fn tests_of(text: &str) -> Vec<String> {
    let mut is_test = false;
    let mut names = Vec::new();
    for line in text.lines().map(str::trim) {
        if line.starts_with("#[test]")
            || line.starts_with("#[tokio::test")
            || line.starts_with("root_test! {")
            || line.starts_with("mount_test! {")
            || line.starts_with("network_test! {")
        {
            is_test = true;
        } else if let Some(function) =
            line.strip_prefix("async fn ").or(line.strip_prefix("fn ")).filter(|_| is_test)
        {
            names.push(function.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect());
            is_test = false;
        } else if !line.starts_with("#[") && !line.starts_with("//") {
            is_test = false;
        }
    }
    names
}

/// The last cell of each row of a table whose last heading is "Test".
fn rows(page: &str) -> Vec<(String, String)> {
    let mut of_tests = false;
    let mut rows = Vec::new();
    for line in page.lines() {
        let cells: Vec<_> = line.trim_matches('|').split('|').map(str::trim).collect();
        if !line.starts_with('|') {
            of_tests = false;
        } else if cells.last() == Some(&"Test") {
            of_tests = true;
        } else if of_tests && !line.starts_with("|-") {
            rows.push((cells[0].to_owned(), cells[cells.len() - 1].to_owned()));
        }
    }
    rows
}

#[test]
fn every_promise_names_tests_that_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut tests = BTreeSet::new();
    tests_below(&root.join("src"), &mut tests);
    tests_below(&root.join("tests"), &mut tests);
    let page = std::fs::read_to_string(root.join("docs/SEMANTICS.md")).unwrap();
    let rows = rows(&page);
    assert!(rows.len() > 30, "the page's tables are not read any more: {} rows", rows.len());
    let mut of_row_before = false;
    for (promise, cell) in rows {
        let named: Vec<_> = cell.split('`').skip(1).step_by(2).collect();
        // "the same", "all of them" and the like speak of rows that name tests.
        assert!(!named.is_empty() || of_row_before, "no test: {promise}");
        for name in &named {
            assert!(tests.contains(*name), "{name} does not exist: {promise}");
        }
        of_row_before = true;
    }
}

#[test]
fn tests_are_told_from_other_functions() {
    let text = "#[test]\n#[cfg(unix)]\nfn one() {}\nfn helper() {}\nroot_test! {\n    fn two() {\n#[tokio::test]\nasync fn three() {";
    assert_eq!(tests_of(text), ["one", "two", "three"]);
}
