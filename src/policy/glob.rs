//! Patterns with `*` (any run of characters, also none) and `?` (exactly one).

/// A pattern for one name. Its time is bounded by the product of both lengths, whatever it says.
#[derive(Debug)]
pub(super) struct Glob {
    pattern: Vec<u8>,
    case: Case,
}

/// Whether letters of either case are the same: in DNS they are, in Kubernetes they are not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Case {
    Matters,
    Ignored,
}

impl Glob {
    pub(super) fn new(pattern: &str, case: Case) -> Self {
        Self { pattern: folded(pattern, case), case }
    }

    /// Whether the whole text fits.
    pub(super) fn matches(&self, text: &str) -> bool {
        let text = folded(text, self.case);
        let (mut at, mut pattern_at) = (0, 0);
        // Where to go back to: the latest `*`, and how far it reaches. An earlier one never has to
        // reach further once a later one was met, so there is nothing else to remember.
        let mut star: Option<(usize, usize)> = None;
        while let Some(byte) = text.get(at) {
            match self.pattern.get(pattern_at) {
                Some(b'*') => {
                    star = Some((pattern_at, at));
                    pattern_at += 1;
                }
                Some(expected) if *expected == b'?' || expected == byte => {
                    pattern_at += 1;
                    at += 1;
                }
                _ => match star {
                    Some((star_at, reach)) => {
                        star = Some((star_at, reach + 1));
                        pattern_at = star_at + 1;
                        at = reach + 1;
                    }
                    None => return false,
                },
            }
        }
        self.pattern.iter().skip(pattern_at).all(|byte| *byte == b'*')
    }
}

fn folded(text: &str, case: Case) -> Vec<u8> {
    match case {
        Case::Matters => text.as_bytes().to_vec(),
        Case::Ignored => text.to_ascii_lowercase().into_bytes(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn matches(pattern: &str, text: &str) -> bool {
        Glob::new(pattern, Case::Matters).matches(text)
    }

    #[test]
    fn stars_and_question_marks() {
        for (pattern, yes, no) in [
            ("team-a", &["team-a"][..], &["team-b", "team-", "team-aa", "xteam-a", ""][..]),
            ("team-*", &["team-", "team-a", "team-a-b"], &["team", "a-team-a"]),
            ("*-prod", &["-prod", "a-prod", "a-prod-prod"], &["a-prod-x", "prod"]),
            ("kv-?", &["kv-1"], &["kv-", "kv-12"]),
            ("a*b*c", &["abc", "axxbyyc", "abbcbc"], &["ab", "acb", "abcx"]),
            ("*", &["", "x", "a-b.c"], &[]),
            ("**", &["", "x"], &[]),
            ("", &[""], &["x"]),
            ("?*", &["x", "xy"], &[""]),
        ] {
            yes.iter().for_each(|text| assert!(matches(pattern, text), "{pattern} {text}"));
            no.iter().for_each(|text| assert!(!matches(pattern, text), "{pattern} {text}"));
        }
    }

    #[test]
    fn case_matters_only_where_it_does() {
        assert!(!matches("Team", "team"));
        let ignored = Glob::new("KV-*", Case::Ignored);
        assert!(ignored.matches("kv-prod") && ignored.matches("Kv-Prod"));
    }

    /// Each of these takes for ever in a matcher that tries every division of the text.
    #[test]
    fn pathological_patterns_end() {
        let text = "a".repeat(253);
        assert!(!matches(&format!("{}b", "a*".repeat(120)), &text));
        assert!(!matches(&format!("{}b", "*".repeat(250)), &text));
        assert!(!matches(&format!("{}b", "*?".repeat(120)), &text));
        assert!(matches(&"*a".repeat(120), &text));
    }

    /// The definition, which may take for ever.
    fn by_definition(pattern: &[u8], text: &[u8]) -> bool {
        match pattern.split_first() {
            None => text.is_empty(),
            Some((b'*', rest)) => (0..=text.len()).any(|skip| by_definition(rest, &text[skip..])),
            Some((wanted, rest)) => text.split_first().is_some_and(|(byte, text)| {
                (*wanted == b'?' || wanted == byte) && by_definition(rest, text)
            }),
        }
    }

    proptest! {
        #[test]
        fn it_agrees_with_the_definition(pattern in "[ab*?]{0,8}", text in "[ab]{0,10}") {
            let expected = by_definition(pattern.as_bytes(), text.as_bytes());
            prop_assert_eq!(matches(&pattern, &text), expected);
        }
    }
}
