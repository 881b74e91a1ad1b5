//! Access lists in Windows' own text form (SDDL).
//!
//! `D:P(A;OICI;FA;;;SY)` reads: a DACL that inherits nothing (`P`), with one entry that allows (`A`) all of a
//! file's rights (`FA`) to SYSTEM (`SY`), passed on to files (`OI`) and folders (`CI`) made below. Windows
//! writes rights as such pairs of letters or as a number, and accounts it has no letters for as `S-1-...`.

/// SYSTEM, Administrators, and whoever owns the object (`OW` by its number, which more systems read).
const PRIVATE: [&str; 3] = ["SY", "BA", "S-1-3-4"];
/// Accounts that can do everything on the machine anyway. They may own and change what holds secrets.
const TRUSTED: [&str; 5] = [
    "S-1-5-18",
    "S-1-5-32-544",
    // The built-in Administrator.
    "LA",
    // ContainerAdministrator
    "S-1-5-93-2-1",
    // TrustedInstaller, which owns the root of C:.
    "S-1-5-80-956008885-3418522649-1831038044-1853292631-2271478464",
];
/// Stand for whoever owns the object, or will own what is made in it: the owner is judged by itself.
const OWNERS: [&str; 4] = ["OW", "S-1-3-4", "CO", "S-1-3-0"];

/// Nobody but [`PRIVATE`], whatever the folder above says.
pub(crate) fn private_file() -> String {
    private("")
}

/// The same for a folder and all that will be made in it.
pub(crate) fn private_folder() -> String {
    private("OICI")
}

fn private(inherited_by: &str) -> String {
    let entries = PRIVATE.map(|account| format!("(A;{inherited_by};FA;;;{account})"));
    format!("D:P{}", entries.concat())
}

/// What an access list says about writing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Judgement {
    /// It takes nothing from the folder above: somebody has set it on purpose.
    pub(crate) protected: bool,
    /// The first account beside the trusted ones that may change the object or what is in it. The owner
    /// comes first: it may rewrite the list, whatever that says.
    pub(crate) writer: Option<String>,
}

/// Judges the security descriptor (`O:...D:...`) of a folder that holds secrets. `ours` (a SID) may write. What
/// cannot be understood counts as somebody who may.
pub(crate) fn judge(descriptor: &str, ours: Option<&str>) -> Judgement {
    look(descriptor, ours, CHANGING)
}

/// The first account, beside the trusted ones, that may put another folder where one below this folder is,
/// or this folder itself unless it is a volume's root. To make folders beside it is no harm.
#[cfg_attr(not(any(windows, test)), expect(dead_code, reason = "Windows has no other modes"))]
pub(crate) fn replacer(descriptor: &str, ours: Option<&str>, is_root: bool) -> Option<String> {
    let rights = if is_root { REPLACING_BELOW } else { REPLACING_BELOW | DELETE };
    look(descriptor, ours, rights).writer
}

/// Who beside the trusted ones owns the object or has one of these rights.
fn look(descriptor: &str, ours: Option<&str>, wanted: u32) -> Judgement {
    let unknown = |what: &str| Judgement { protected: false, writer: Some(what.to_owned()) };
    let is_trusted = |account: &str| {
        let account = sid(account);
        TRUSTED.contains(&account) || ours.is_some_and(|ours| sid(ours) == account)
    };
    let owner = descriptor.strip_prefix("O:").map(|rest| {
        // Sections begin with a letter and a colon; an account has no colon.
        let end = ["G:", "D:", "S:"].iter().filter_map(|mark| rest.find(mark)).min();
        rest.get(..end.unwrap_or(rest.len())).unwrap_or_default()
    });
    let Some(owner) = owner.filter(|owner| !owner.is_empty()) else {
        return unknown("an owner that is not known");
    };
    let Some(start) = descriptor.find("D:") else { return unknown("everybody") };
    let list = descriptor.get(start + 2..).unwrap_or_default();
    let flags = list.split('(').next().unwrap_or_default();
    if flags.contains("NO_ACCESS_CONTROL") {
        return unknown("everybody");
    }
    let mut writer = (!is_trusted(owner)).then(|| owner.to_owned());
    for entry in list.split('(').skip(1) {
        if writer.is_some() {
            break;
        }
        let fields: Vec<&str> = entry.split(')').next().unwrap_or_default().split(';').collect();
        let [kind, flags, rights, _, _, account, ..] = fields.as_slice() else {
            return unknown("an entry that is not understood");
        };
        // Those that deny or audit give nobody anything. `IO` is only for what is made below.
        let gives = !["D", "OD", "XD", "AU", "OU", "XU", "AL", "OL"].contains(kind);
        let here = !pairs(flags).any(|flag| flag == "IO");
        let harmless = OWNERS.contains(account) || is_trusted(account);
        if gives && here && !harmless && mask(rights).is_none_or(|rights| rights & wanted != 0) {
            writer = Some((*account).to_owned());
        }
    }
    Judgement { protected: flags.contains('P'), writer }
}

/// Windows writes some accounts by letters. Those are told here that akvfs may run as.
fn sid(account: &str) -> &str {
    match account {
        "SY" => "S-1-5-18",
        "LS" => "S-1-5-19",
        "NS" => "S-1-5-20",
        "BA" => "S-1-5-32-544",
        other => other,
    }
}

fn pairs(text: &str) -> impl Iterator<Item = &str> {
    (0..text.len()).step_by(2).map(|at| text.get(at..at + 2).unwrap_or("?"))
}

const DELETE: u32 = 0x1_0000;
const GENERIC_ALL: u32 = 0x1000_0000;
/// Delete what is in the folder, change its list or its owner; all of it.
const REPLACING_BELOW: u32 = 0x40 | 0x4_0000 | 0x8_0000 | GENERIC_ALL;
/// And add a file or folder, write (attributes too: they make an empty folder a junction), delete.
const CHANGING: u32 = REPLACING_BELOW | 0x2 | 0x4 | 0x10 | 0x100 | DELETE | 0x4000_0000;

/// Rights as a number; `None` when they are not understood.
fn mask(rights: &str) -> Option<u32> {
    if let Some(hex) = rights.strip_prefix("0x") {
        return u32::from_str_radix(hex, 16).ok();
    }
    pairs(rights).try_fold(0, |all, pair| {
        let right = match pair {
            "GA" => GENERIC_ALL,
            "GX" => 0x2000_0000,
            "GW" => 0x4000_0000,
            "GR" => 0x8000_0000,
            "FA" => 0x1f_01ff,
            "FR" => 0x12_0089,
            "FW" => 0x12_0116,
            "FX" => 0x12_00a0,
            "SD" => DELETE,
            "RC" => 0x2_0000,
            "WD" => 0x4_0000,
            "WO" => 0x8_0000,
            // Letters made for directories of accounts: of files, these are to read (list), write (add a
            // file), append (add a folder), read and write attributes of two kinds, execute (pass through),
            // and delete below.
            "CC" => 0x1,
            "DC" => 0x2,
            "LC" => 0x4,
            "SW" => 0x8,
            "RP" => 0x10,
            "WP" => 0x20,
            "DT" => 0x40,
            "LO" => 0x80,
            "CR" => 0x100,
            _ => return None,
        };
        Some(all | right)
    })
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
            assert_eq!(judge(&owned, None), Judgement { protected: true, writer: None }, "{owned}");
            assert!(judge(&list, None).writer.is_some(), "no owner is told: {list}");
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
            ("", Some("an owner that is not known")),
            ("D:P(A;;FA;;;BA)", Some("an owner that is not known")),
            ("O:D:P(A;;FA;;;BA)", Some("an owner that is not known")),
            ("O:BAD:P(A;;FA;;;BA)S:AI(AU;SAFA;FA;;;WD)", None),
        ] {
            assert_eq!(judge(list, Some(me)).writer.as_deref(), writer, "{list}");
        }
        assert!(judge("O:BAD:PAI(A;OICI;FA;;;SY)", None).protected);
        assert!(!judge("O:BAD:AI(A;OICIID;FA;;;SY)", None).protected);
    }

    /// An owner may rewrite the list, so what the list says does not matter.
    #[test]
    fn another_owner_is_a_writer_whatever_the_list_says() {
        let (me, other) = ("S-1-5-21-1-2-3-1001", "S-1-5-21-1-2-3-1002");
        let lists = [
            format!("D:P(A;OICI;FA;;;SY)(A;OICI;FA;;;BA)(A;OICI;FA;;;{other})"),
            "D:P(A;OICI;FA;;;SY)".to_owned(),
            private_folder(),
        ];
        for list in lists {
            let judged = judge(&format!("O:{other}G:DU{list}"), Some(me));
            assert_eq!(judged.writer.as_deref(), Some(other), "{list}");
            for unknown_to_us in ["BU", "WD", "LS", "S-1-5-80-1-2-3-4-5"] {
                let judged = judge(&format!("O:{unknown_to_us}{list}"), Some(me));
                assert_eq!(judged.writer.as_deref(), Some(unknown_to_us), "{list}");
            }
        }
        let installer = TRUSTED[4];
        for owner in ["SY", "BA", "LA", me, installer, "S-1-5-93-2-1", "S-1-5-18"] {
            let list = format!("O:{owner}D:P(A;OICI;FA;;;SY)(A;OICI;FA;;;{me})");
            assert_eq!(judge(&list, Some(me)).writer, None, "{list}");
        }
        // A service's own account, which Windows writes by letters and tells as a number.
        assert_eq!(judge(&format!("O:LS{}", private_folder()), Some("S-1-5-19")).writer, None);
        assert_eq!(judge("O:NSD:P(A;;FA;;;NS)", Some("S-1-5-20")).writer, None);
    }

    #[test]
    fn folders_above_may_be_added_to_but_not_replaced() {
        let me = "S-1-5-21-1-2-3-1001";
        let installer = TRUSTED[4];
        let root_of_a_client = format!(
            "O:{installer}G:{installer}D:PAI(A;OICI;FA;;;SY)(A;OICI;FA;;;BA)(A;OICI;0x1200a9;;;BU)\
             (A;OICIIO;SDGXGWGR;;;AU)(A;;LC;;;AU)"
        );
        let root_of_a_server = format!(
            "O:{installer}G:{installer}D:PAI(A;OICI;FA;;;SY)(A;OICI;FA;;;BA)(A;OICI;0x1200a9;;;BU)\
             (A;CI;LC;;;BU)(A;CIIO;DC;;;BU)(A;OICIIO;GA;;;CO)"
        );
        let program_data = "O:SYG:SYD:PAI(A;OICI;FA;;;SY)(A;OICI;FA;;;BA)(A;OICIIO;GA;;;CO)\
                            (A;OICI;0x1200a9;;;BU)(A;CI;DCLCRPCR;;;BU)";
        let users = "O:SYG:SYD:PAI(A;OICI;FA;;;SY)(A;OICI;FA;;;BA)(A;OICI;0x1200a9;;;BU)\
                     (A;OICI;0x1200a9;;;WD)";
        let profile =
            "O:SYG:SYD:P(A;OICI;FA;;;SY)(A;OICI;FA;;;BA)(A;OICI;FA;;;S-1-5-21-1-2-3-1001)";
        let made_on_a_server = "O:BAG:DUD:AI(A;OICIID;FA;;;SY)(A;OICIID;FA;;;BA)(A;OICIID;0x1200a9;;;BU)\
                                (A;CIID;LC;;;BU)(A;CIID;DC;;;BU)(A;OICIIOID;GA;;;CO)";
        for (list, is_root) in [
            (root_of_a_client.as_str(), true),
            (&root_of_a_server, true),
            // A data volume of a client: Modify on the root itself, which cannot be deleted.
            ("O:BAD:(A;OICI;FA;;;BA)(A;;0x1301bf;;;AU)(A;OICIIO;SDGXGWGR;;;AU)", true),
            (program_data, false),
            (users, false),
            (profile, false),
            (made_on_a_server, false),
        ] {
            assert_eq!(replacer(list, Some(me), is_root), None, "{list}");
        }
        // Another user's profile, or folder; one with Modify, as a client's C: gives to what is made in it.
        let other = Some("S-1-5-80-1-2-3-4-5");
        assert_eq!(replacer(profile, other, false).as_deref(), Some(me));
        for (list, who) in [
            ("O:BAD:AI(A;OICIID;FA;;;SY)(A;OICIID;0x1301bf;;;AU)", "AU"),
            ("O:BUD:P(A;;FA;;;SY)", "BU"),
            ("O:BAD:P(A;;DT;;;BU)", "BU"),
            ("O:BAD:P(A;;SD;;;BU)", "BU"),
            ("O:BAD:P(A;;WD;;;BU)", "BU"),
            ("O:BAD:P(A;;WO;;;BU)", "BU"),
            ("O:BAD:P(A;;GA;;;BU)", "BU"),
            ("O:BAD:P(A;;FA;;;BU)", "BU"),
            ("O:BAD:P(A;;zz;;;BU)", "BU"),
            ("O:BAD:NO_ACCESS_CONTROL", "everybody"),
        ] {
            assert_eq!(replacer(list, Some(me), false).as_deref(), Some(who), "{list}");
        }
    }
}
