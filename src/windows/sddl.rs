//! Access lists in Windows' own text form (SDDL).
//!
//! `D:P(A;OICI;FA;;;SY)` reads: a DACL that inherits nothing (`P`), with one entry that allows (`A`) all of a
//! file's rights (`FA`) to SYSTEM (`SY`), passed on to files (`OI`) and folders (`CI`) made below. Windows
//! writes rights as such pairs of letters or as a number, and accounts it has no letters for as `S-1-...`.

/// SYSTEM, Administrators, and whoever owns the object (`OW` by its number, which more systems read).
const TRUSTED: [&str; 3] = ["SY", "BA", "S-1-3-4"];
/// Others that may change a file without being a danger: whoever makes a file in a folder owns it, and
/// Windows' own installer.
const HARMLESS: [&str; 8] = [
    "OW",
    "CO",
    "S-1-3-0",
    "LA",
    "S-1-5-18",
    "S-1-5-32-544",
    // ContainerAdministrator
    "S-1-5-93-2-1",
    // TrustedInstaller
    "S-1-5-80-956008885-3418522649-1831038044-1853292631-2271478464",
];

/// Nobody but [`TRUSTED`], whatever the folder above says.
pub(crate) fn private_file() -> String {
    private("")
}

/// The same for a folder and all that will be made in it.
pub(crate) fn private_folder() -> String {
    private("OICI")
}

fn private(inherited_by: &str) -> String {
    let entries = TRUSTED.map(|account| format!("(A;{inherited_by};FA;;;{account})"));
    format!("D:P{}", entries.concat())
}

/// What an access list says about writing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Judgement {
    /// It takes nothing from the folder above: somebody has set it on purpose.
    pub(crate) protected: bool,
    /// The first account beside the trusted ones that may change the object or what is in it.
    pub(crate) writer: Option<String>,
}

/// Judges a security descriptor (`O:...D:...`). The owner, and `ours` (a SID), may write. What cannot be
/// understood counts as somebody who may.
pub(crate) fn judge(descriptor: &str, ours: Option<&str>) -> Judgement {
    let unknown = |what: &str| Judgement { protected: false, writer: Some(what.to_owned()) };
    let owner = descriptor.strip_prefix("O:").map(|rest| {
        // Sections begin with a letter and a colon; an account has no colon.
        let end = ["G:", "D:", "S:"].iter().filter_map(|mark| rest.find(mark)).min();
        rest.get(..end.unwrap_or(rest.len())).unwrap_or_default()
    });
    let Some(start) = descriptor.find("D:") else { return unknown("everybody") };
    let list = descriptor.get(start + 2..).unwrap_or_default();
    let flags = list.split('(').next().unwrap_or_default();
    if flags.contains("NO_ACCESS_CONTROL") {
        return unknown("everybody");
    }
    let mut writer = None;
    for entry in list.split('(').skip(1) {
        let fields: Vec<&str> = entry.split(')').next().unwrap_or_default().split(';').collect();
        let [kind, flags, rights, _, _, account, ..] = fields.as_slice() else {
            return unknown("an entry that is not understood");
        };
        // Those that deny or audit give nobody anything. `IO` is only for what is made below.
        let gives = !["D", "OD", "XD", "AU", "OU", "XU", "AL", "OL"].contains(kind);
        let here = !pairs(flags).any(|flag| flag == "IO");
        let trusted = TRUSTED.contains(account)
            || HARMLESS.contains(account)
            || Some(*account) == owner
            || Some(*account) == ours;
        if gives && here && !trusted && may_write(rights) {
            writer = Some((*account).to_owned());
            break;
        }
    }
    Judgement { protected: flags.contains('P'), writer }
}

fn pairs(text: &str) -> impl Iterator<Item = &str> {
    (0..text.len()).step_by(2).map(|at| text.get(at..at + 2).unwrap_or("?"))
}

/// Add a file or folder, write, delete, delete below, change the list or the owner; all of it.
const WRITING: u32 = 0x2 | 0x4 | 0x40 | 0x1_0000 | 0x4_0000 | 0x8_0000 | 0x4000_0000 | 0x1000_0000;

fn may_write(rights: &str) -> bool {
    if let Some(hex) = rights.strip_prefix("0x") {
        return u32::from_str_radix(hex, 16).map_or(true, |rights| rights & WRITING != 0);
    }
    // Reading, attributes, listing, traversing, reading the list. Anything else counts as writing.
    const READING: [&str; 9] = ["GR", "GX", "FR", "FX", "CC", "SW", "WP", "LO", "RC"];
    pairs(rights).any(|right| !READING.contains(&right))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_written_as_windows_reads_them() {
        assert_eq!(private_file(), "D:P(A;;FA;;;SY)(A;;FA;;;BA)(A;;FA;;;S-1-3-4)");
        assert_eq!(private_folder(), "D:P(A;OICI;FA;;;SY)(A;OICI;FA;;;BA)(A;OICI;FA;;;S-1-3-4)");
    }

    #[test]
    fn our_own_lists_let_nobody_else_write_and_take_nothing_from_above() {
        for list in [private_file(), private_folder()] {
            let owned = format!("O:BAG:SY{list}");
            for text in [&list, &owned] {
                assert_eq!(
                    judge(text, None),
                    Judgement { protected: true, writer: None },
                    "{text}"
                );
            }
        }
    }

    #[test]
    fn who_may_write_is_found() {
        let me = "S-1-5-21-1-2-3-1001";
        for (list, writer) in [
            // A folder made in the root of a server's C:, and one of a user's profile.
            (
                "O:BAG:DUD:AI(A;OICIID;FA;;;SY)(A;OICIID;FA;;;BA)(A;OICIID;0x1200a9;;;BU)\
                 (A;CIID;LC;;;BU)(A;CIIOID;DC;;;BU)(A;OICIIOID;GA;;;CO)",
                Some("BU"),
            ),
            (
                "O:S-1-5-21-1-2-3-1001G:DUD:(A;OICIID;FA;;;SY)(A;OICIID;FA;;;S-1-5-21-1-2-3-1001)",
                None,
            ),
            ("O:BAG:DUD:(A;OICIID;FA;;;SY)(A;OICIID;FA;;;S-1-5-21-1-2-3-1001)", None),
            (
                "O:BAG:DUD:(A;OICIID;FA;;;SY)(A;OICIID;FA;;;S-1-5-21-1-2-3-1002)",
                Some("S-1-5-21-1-2-3-1002"),
            ),
            // Readers that an operator named.
            ("O:BAD:PAI(A;OICI;FA;;;SY)(A;OICI;FA;;;BA)(A;OICI;0x1200a9;;;BU)", None),
            ("O:BAD:P(A;;FR;;;WD)(A;;FRFX;;;AU)(A;;GRGX;;;AN)(A;;CCSWWPLORC;;;BU)", None),
            ("O:BAD:P(D;;FA;;;WD)(A;;FA;;;BA)", None),
            ("O:BAD:P(A;;FRFW;;;WD)", Some("WD")),
            ("O:BAD:P(A;;0x1301bf;;;AU)", Some("AU")),
            ("O:BAD:P(A;;GA;;;WD)", Some("WD")),
            ("O:BAD:P(A;;SD;;;WD)", Some("WD")),
            ("O:BAD:P(A;;DT;;;WD)", Some("WD")),
            ("O:BAD:P(A;;zz;;;WD)", Some("WD")),
            ("O:BAD:P(A;;0xzz;;;WD)", Some("WD")),
            ("O:BAD:P(XA;;FA;;;WD;(x == 1))", Some("WD")),
            ("O:BAD:P(A;;FA)", Some("an entry that is not understood")),
            ("O:BAD:NO_ACCESS_CONTROL", Some("everybody")),
            ("O:BAG:DU", Some("everybody")),
            ("", Some("everybody")),
            ("O:BAD:P(A;;FA;;;BA)S:AI(AU;SAFA;FA;;;WD)", None),
        ] {
            assert_eq!(judge(list, Some(me)).writer.as_deref(), writer, "{list}");
        }
        assert!(judge("O:BAD:PAI(A;OICI;FA;;;SY)", None).protected);
        assert!(!judge("O:BAD:AI(A;OICIID;FA;;;SY)", None).protected);
    }
}
