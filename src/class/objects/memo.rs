//! Lists that were parsed lately, by their text.
//!
//! All pods of a deployment send the same `objects`, and each republish sends them again, while reading
//! YAML costs more than the rest of a mount whose values are held. What a text comes to depends on
//! nothing but the text, the default mode and the rules for paths: so all three together are the key, and
//! what is found is what parsing would give. Errors are not kept: whoever corrects a class sends
//! another text.
//!
//! The texts are hostile: what is kept is bounded by number and by bytes, and a list that is large is
//! parsed each time. The text itself is compared, so nobody can be given another's list.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use crate::class::ObjectSpec;
use crate::class::paths::Rules;
use crate::error::Result;

use super::List;

/// Most lists kept, the least recently used goes first. A node has some hundred pods, of fewer classes.
const MAX_LISTS: usize = 256;
/// Most bytes of all that is kept: texts, and what they came to.
const MAX_BYTES: usize = 1024 * 1024;
/// Most bytes of one list, so that one class cannot push out all others: some 200 objects.
const MAX_ONE: usize = 64 * 1024;

/// The lists; none at first.
#[derive(Default)]
pub struct Memo(Mutex<Kept>);

#[derive(Default)]
struct Kept {
    /// The most recently used last. The bytes are so few that to compare all of them costs less than
    /// to parse the shortest text.
    entries: VecDeque<Entry>,
    bytes: usize,
}

struct Entry {
    text: String,
    mode: u32,
    rules: Rules,
    list: Arc<List>,
    bytes: usize,
}

impl Memo {
    /// What [`super::parse`] gives.
    ///
    /// # Errors
    /// As [`super::parse`].
    pub(in crate::class) fn parse(&self, text: &str, mode: u32, rules: Rules) -> Result<Arc<List>> {
        if let Some(list) = self.find(text, mode, rules) {
            return Ok(list);
        }
        // Not under the lock: two that come at the same time both parse, and no one waits for another's
        // text.
        let list = Arc::new(super::parse(text, mode, rules)?);
        self.keep(text, mode, rules, &list);
        Ok(list)
    }

    fn find(&self, text: &str, mode: u32, rules: Rules) -> Option<Arc<List>> {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // From the back: what is used often is found at once.
        let position = kept.entries.iter().rposition(|entry| entry.is_of(text, mode, rules))?;
        let entry = kept.entries.remove(position)?;
        let list = entry.list.clone();
        kept.entries.push_back(entry);
        Some(list)
    }

    fn keep(&self, text: &str, mode: u32, rules: Rules, list: &Arc<List>) {
        let bytes = size_of::<Entry>() + text.len() + size(list);
        if bytes > MAX_ONE {
            return;
        }
        let entry = Entry { text: text.to_owned(), mode, rules, list: list.clone(), bytes };
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.entries.iter().any(|entry| entry.is_of(text, mode, rules)) {
            return;
        }
        kept.entries.push_back(entry);
        kept.bytes += bytes;
        while kept.entries.len() > MAX_LISTS || kept.bytes > MAX_BYTES {
            let Some(oldest) = kept.entries.pop_front() else { return };
            kept.bytes -= oldest.bytes;
        }
    }
}

impl Entry {
    fn is_of(&self, text: &str, mode: u32, rules: Rules) -> bool {
        self.mode == mode && self.rules == rules && self.text == text
    }
}

/// What a list takes in memory.
fn size(list: &List) -> usize {
    let of_object = |object: &ObjectSpec| {
        let texts = [object.name.as_str(), object.version.as_str(), object.path.as_str()];
        size_of::<ObjectSpec>() + texts.iter().map(|text| text.len()).sum::<usize>()
    };
    let of_notice = |notice: &String| size_of::<String>() + notice.len();
    size_of::<List>()
        + list.objects.iter().map(of_object).sum::<usize>()
        + list.notices.iter().map(of_notice).sum::<usize>()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn class(name: &str, filler: usize) -> String {
        let entry = format!("  - |\n    objectName: {name}\n    objectType: key\n");
        format!("# {}\narray:\n{entry}", "x".repeat(filler))
    }

    fn names(list: &List) -> Vec<&str> {
        list.objects.iter().map(|object| object.name.as_str()).collect()
    }

    /// Number and bytes, which must be those of the entries.
    fn held(memo: &Memo) -> (usize, usize) {
        let kept = memo.0.lock().unwrap();
        assert_eq!(kept.bytes, kept.entries.iter().map(|entry| entry.bytes).sum::<usize>());
        (kept.entries.len(), kept.bytes)
    }

    #[test]
    fn the_same_text_is_parsed_once_and_another_is_another() {
        let memo = Memo::default();
        let parse = |text: &str| memo.parse(text, 0o644, Rules::Unix).unwrap();
        let first = parse(&class("a", 0));
        assert!(Arc::ptr_eq(&first, &parse(&class("a", 0))));
        assert_eq!((names(&first), names(&parse(&class("b", 0)))), (vec!["a"], vec!["b"]));
        assert_eq!(names(&parse(&class("a", 1))), ["a"]);
        assert_eq!(held(&memo).0, 3);
    }

    #[test]
    fn mode_and_rules_are_parts_of_the_key() {
        let memo = Memo::default();
        let text = class("con", 0);
        let mode = |mode| memo.parse(&text, mode, Rules::Unix).unwrap().objects[0].mode;
        assert_eq!((mode(0o644), mode(0o400), mode(0o644)), (0o644, 0o400, 0o644));
        assert!(memo.parse(&text, 0o644, Rules::Windows).is_err(), "a device there");
        assert!(memo.parse(&text, 0o644, Rules::Unix).is_ok());
    }

    #[test]
    fn errors_are_not_kept() {
        let memo = Memo::default();
        for _ in 0..2 {
            let error = memo.parse("array: [{}]", 0o644, Rules::Unix).unwrap_err();
            assert!(error.message().contains("array[0]"), "{error}");
        }
        assert_eq!(held(&memo), (0, 0));
    }

    #[test]
    fn what_is_kept_is_bounded_and_the_least_recently_used_goes_first() {
        let memo = Memo::default();
        let parse = |text: &str| memo.parse(text, 0o644, Rules::Unix).unwrap();
        let (used, unused) = (parse(&class("used", 0)), parse(&class("unused", 0)));
        for number in 0..2 * MAX_LISTS {
            parse(&class(&number.to_string(), 0));
            assert!(Arc::ptr_eq(&used, &parse(&class("used", 0))));
        }
        assert_eq!(held(&memo).0, MAX_LISTS);
        assert!(!Arc::ptr_eq(&unused, &parse(&class("unused", 0))));

        // Larger ones: the bytes are what counts.
        for number in 0..MAX_LISTS {
            parse(&class(&number.to_string(), MAX_ONE / 2));
            assert!(held(&memo).1 <= MAX_BYTES);
        }
        assert!((16..MAX_LISTS).contains(&held(&memo).0));

        let before = held(&memo);
        let large = class("large", MAX_ONE);
        assert!(!Arc::ptr_eq(&parse(&large), &parse(&large)));
        assert_eq!(held(&memo), before, "one that is too large pushes out nothing");
    }

    /// Many objects for little text count as what they take, too.
    #[test]
    fn what_a_text_comes_to_counts() {
        let memo = Memo::default();
        let entries: String =
            (0..600).map(|n| format!("- 'objectName: {n}\n\n  objectType: key'\n")).collect();
        let text = format!("array:\n{entries}");
        assert!(text.len() < MAX_ONE);
        assert_eq!(memo.parse(&text, 0o644, Rules::Unix).unwrap().objects.len(), 600);
        assert_eq!(held(&memo), (0, 0));
    }
}
