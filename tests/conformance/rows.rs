//! Every row by name. A row that passes, or differs, has a test of its name in this binary.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

/// How akvfs stands to a row.
enum Status {
    /// The same, says this test.
    Passes(&'static str),
    /// Different on purpose, says this test; the reason stands in docs/MIGRATION.md too.
    Differs(&'static str, &'static str),
    /// Cannot be seen without a Kubernetes cluster.
    NeedsCluster(&'static str),
}
use Status::{Differs, NeedsCluster, Passes};

#[rustfmt::skip]
const ROWS: &[(&str, Status)] = &[
    ("U1", Passes("mount::u1_attributes_that_are_no_json")),
    ("U2", Passes("mount::u2_secrets_that_are_no_json")),
    ("U3", Passes("mount::u3_a_permission_that_is_no_number")),
    ("U4", Passes("mount::u4_two_files_and_their_versions")),
    ("U5", Passes("mount::u5_version")),
    ("U6", Passes("mount::u6_no_pod_name")),
    ("U7", Passes("mount::u7_no_namespace")),
    ("U8", Passes("mount::u8_no_vault_name")),
    ("U9", Passes("mount::u9_no_tenant")),
    ("U10", Passes("mount::u10_a_misspelt_pod_identity_flag")),
    ("U11", Passes("mount::u11_a_misspelt_managed_identity_flag")),
    ("U12", Passes("mount::u12_a_wrong_token_proxy_flag")),
    ("U13", Passes("mount::u13_an_unknown_cloud")),
    ("U14", Passes("mount::u14_a_custom_cloud_without_its_file")),
    ("U15", Passes("mount::u15_no_objects")),
    ("U16", Passes("mount::u16_objects_without_the_key_array")),
    ("U17", Passes("mount::u17_an_empty_list")),
    ("U18", Passes("mount::u18_an_unknown_format")),
    ("U19", Passes("mount::u19_an_unknown_encoding")),
    ("U20", Passes("mount::u20_a_vault_that_cannot_be_reached")),
    ("U21", Passes("mount::u21_identity_binding_without_a_client_id")),
    ("U22", Passes("mount::u22_identity_binding_without_tokens")),
    ("U23", Passes("mount::u23_two_identity_modes")),
    ("U24", Passes("clouds::u24_vault_names_that_cannot_be")),
    ("U25", Passes("clouds::u25_vault_urls_of_the_clouds")),
    ("U26", Passes("clouds::u26_a_cloud_that_is_none")),
    ("U27", Differs("clouds::u27_the_custom_cloud_of_the_operators_file",
        "a file without addresses is an error that names the missing key")),
    ("U28", Passes("content::u28_a_self_signed_rsa_certificate_without_key_identifiers")),
    ("U29", Passes("content::u29_an_ec_key_with_its_chain")),
    ("U30", Passes("content::u30_every_order_of_three")),
    ("U31", Passes("content::u31_every_order_of_four_though_the_server_has_no_key_identifier")),
    ("U32", Passes("content::u32_an_incomplete_chain_stays_as_it_is")),
    ("U33", Passes("content::u33_encodings")),
    ("U34", Passes("content::u34_an_encoding_that_is_none")),
    ("U35", Passes("content::u35_the_text_of_keys_and_certificates_is_not_decoded")),
    ("U36", Passes("history::u36_five_of_five")),
    ("U37", Passes("history::u37_listed_in_any_order")),
    ("U38", Passes("history::u38_without_a_version")),
    ("U39", Differs("history::u39_more_than_there_are", "a history above 100 is refused")),
    ("U40", Passes("history::u40_from_a_version_on")),
    ("U41", Passes("class::u41_blanks_around_an_entrys_values")),
    ("U42", Passes("content::u42_curves")),
    ("U43", Passes("content::u43_forms_of_private_keys")),
    ("U44", Passes("content::u44_certificates_in_order_and_the_key_apart")),
    ("U45", Passes("content::u45_a_plain_secret")),
    ("U46", Passes("content::u46_a_pem_certificate_is_unchanged")),
    ("U47", Passes("content::u47_a_pfx_stays_base64")),
    ("U48", Passes("content::u48_a_pfx_becomes_pem")),
    ("U49", Passes("content::u49_certificate_key_and_both_in_three_files")),
    ("U50", Passes("content::u50_secrets_that_are_no_good")),
    ("U51", Passes("content::u51_the_bytes_of_a_certificate")),
    ("U52", Passes("content::u52_certificates_that_are_no_good")),
    ("U53", Passes("class::u53_formats")),
    ("U54", Passes("class::u54_encodings")),
    ("U55", Passes("class::u55_file_names")),
    ("U56", Passes("history::u56_a_history_of_one_is_none")),
    ("U57", Passes("history::u57_ids_of_object_versions")),
    ("U58", Passes("class::u58_the_alias_or_the_name_or_nothing")),
    ("U59", Differs("class::u59_permissions", "a mode that is none is refused, not made 0")),
    ("U60", Passes("class::u60_booleans")),
    ("U61", Passes("class::u61_blanks_around_parameters")),
    ("U62", Passes("class::u62_both_spellings_of_the_tenant")),
    ("U63", Passes("class::u63_the_outer_yaml")),
    ("U64", Passes("identity::u64_workload_tokens_that_are_none")),
    ("U65", Passes("identity::u65_the_right_one_of_two_tokens")),
    ("U66", Passes("identity::u66_a_workload_token_is_none_for_identity_binding")),
    ("U67", Passes("identity::u67_a_service_principals_secret")),
    ("U68", Passes("identity::u68_identity_binding_without_what_it_needs")),
    ("U69", Passes("process::u69_endpoints")),
    ("U70", Passes("process::u70_health_with_and_without_a_server")),
    ("U71", Passes("process::u71_health_of_a_socket_with_a_drive_letter")),
    ("U72", Passes("process::u72_requests_and_responses_are_logged_with_their_codes")),
    ("U73", Differs("process::u73_ids_and_tokens_are_not_logged_at_all",
        "tokens and client ids are not logged, so nothing is shortened")),
    ("U74", Passes("process::u74_the_version")),
    ("U75", Passes("process::u75_the_user_agent")),
    ("U76", Passes("process::u76_json_logs_are_json_lines")),
    ("U77", Passes("identity::u77_the_tls_name_of_a_clusters_token_proxy")),
    ("E1", Passes("end_to_end::e1_a_secret_and_its_alias")),
    ("E2", Passes("end_to_end::e2_what_a_synced_tls_secret_is_made_of")),
    ("E3", Passes("end_to_end::e3_public_keys")),
    ("E4", Passes("end_to_end::e4_a_certificate_as_certificate_key_and_secret")),
    ("E5", Passes("end_to_end::e5_pfx_as_base64_text")),
    ("E6", Passes("end_to_end::e6_certificate_and_key_in_files_of_their_own")),
    ("E7", Passes("end_to_end::e7_a_mode_of_0755")),
    ("E8", Passes("history::e8_histories_of_a_secret_its_alias_and_a_certificate")),
    ("E9", Passes("end_to_end::e9_rotation")),
    ("E10", Passes("clouds::e10_a_custom_cloud_that_names_the_same_endpoints")),
    ("E11", Passes("identity::e11_workload_identity_and_identity_binding_of_one_pod")),
    ("E12", NeedsCluster("the whole suite with driver and kubelet, then a soak")),
    ("E13", NeedsCluster("Azure Arc's extension manager reverts edits")),
    ("P1", Differs("probes::p1_one_secret_twice", "no request without a token, none twice")),
    ("P2", Differs("history::p2_n_versions_are_n", "N gives N, not N + 1")),
    ("P3", Passes("history::p3_disabled_versions_are_skipped_and_the_alias_is_a_folder")),
    ("P4", Differs("history::p4_a_start_that_is_not_there_is_an_error", "an error instead of no files")),
    ("P5", Differs("probes::p5_latest_is_a_version_without_a_history_too", "latest is accepted")),
    ("P6", Differs("probes::p6_a_mode_that_is_none_is_refused", "an error instead of mode 0")),
    ("P7", Passes("probes::p7_modes_are_octal")),
    ("P8", Passes("probes::p8_types_are_lower_case")),
    ("P9", Passes("probes::p9_one_missing_object_fails_the_mount")),
    ("P10", Passes("probes::p10_one_wrong_entry_is_found_before_any_request")),
    ("P11", Passes("probes::p11_throttling_is_waited_for_three_times")),
    ("P12", Differs("probes::p12_refusals_of_the_vault_are_asked_once", "codes instead of Unknown")),
    ("P13", Differs("probes::p13_undecodable_content_names_its_object", "the object is named")),
    ("P14", Differs("probes::p14_old_and_modern_pfx", "modern PFX files work too")),
    ("P15", Differs("probes::p15_a_binary_pfx_stays_one_file", "no empty files beside a PFX")),
    ("P16", Differs("probes::p16_a_certificates_secret_without_a_content_type_is_plain_text",
        "plain text instead of a crash")),
    ("P17", Differs("identity::p17_a_client_id_beside_pod_identity_means_nothing",
        "clientID is ignored in this mode")),
    ("P18", Passes("probes::p18_keys_of_the_secret_in_any_case")),
    ("P19", Passes("clouds::p19_the_public_clouds_alias")),
    ("P20", Passes("probes::p20_a_blank_tenant_gives_way_to_the_old_spelling")),
    ("P21", Passes("probes::p21_without_objects_the_vaults_name_is_not_checked")),
    ("P22", Differs("identity::p22_three_types_by_pod_identity", "one token for all types, none is asked twice")),
    ("P23", Passes("probes::p23_a_managed_identitys_token_outlives_the_mount")),
    ("P24", Differs("identity::p24_an_ad_fs_is_asked_once_for_two_mounts", "a proven token is used again")),
    ("P25", Differs("clouds::p25_a_custom_cloud_needs_no_public_entra", "no public host is asked")),
    ("P26", Differs("clouds::p26_a_class_does_not_inherit_another_ones_cloud_file",
        "a class's file counts for its own mounts only")),
    ("P27", Differs("identity::p27_the_tenant_of_an_ad_fs_in_upper_case", "accepted in any case")),
    ("P28", Differs("probes::p28_a_name_with_a_slash_is_refused_before_any_request",
        "no object has such a name: refused before any request")),
];

/// Letter, and how many rows it has.
const COUNTS: [(char, usize); 3] = [('U', 77), ('E', 13), ('P', 28)];

/// The names of this binary's tests.
fn tests() -> BTreeSet<String> {
    let this = std::env::current_exe().unwrap();
    let output = Command::new(this).args(["--list", "--format=terse"]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().filter_map(|line| line.strip_suffix(": test")).map(str::to_owned).collect()
}

/// The row that a test is named for: `mount::u1_...` is U1.
fn row_of(test: &str) -> Option<String> {
    let name = test.rsplit("::").next()?;
    let row = name.split('_').next()?.to_ascii_uppercase();
    let letter = COUNTS.iter().any(|(letter, _)| row.starts_with(*letter));
    (letter && row.len() > 1 && row[1..].bytes().all(|b| b.is_ascii_digit())).then_some(row)
}

#[test]
fn every_row_is_named_once_and_has_its_test() {
    let tests = tests();
    let mut expected: BTreeSet<String> = COUNTS
        .iter()
        .flat_map(|(letter, count)| (1..=*count).map(move |number| format!("{letter}{number}")))
        .collect();
    let mut named = BTreeSet::new();
    for (row, status) in ROWS {
        assert!(expected.remove(*row), "{row} is no row, or is there twice");
        let (Passes(test) | Differs(test, _)) = status else { continue };
        // What the process does is tested where its binary runs.
        if cfg!(target_os = "linux") || !test.starts_with("process::") {
            assert!(tests.contains(*test), "{row} has no test {test}");
        }
        assert_eq!(row_of(test).as_deref(), Some(*row), "{test}");
        named.insert((*test).to_owned());
    }
    assert!(expected.is_empty(), "not in the table: {expected:?}");
    let lost = tests.iter().find(|test| row_of(test).is_some() && !named.contains(*test));
    assert_eq!(lost, None, "a test of a row that the table does not know");
}

#[test]
fn every_difference_is_explained_to_whoever_migrates() {
    let page = include_str!("../../docs/MIGRATION.md");
    for (row, status) in ROWS {
        if matches!(status, Differs(..)) {
            let mut lines = page.lines().filter(|line| line.starts_with("| "));
            let listed = lines.any(|line| line.split(&['|', ',', ' ']).any(|word| word == *row));
            assert!(listed, "{row} is in no table of docs/MIGRATION.md");
        }
    }
}

/// Shown by `cargo test --test conformance -- --nocapture count`.
#[test]
fn the_count_by_letter() {
    let mut counts: BTreeMap<(char, &str), usize> = BTreeMap::new();
    for (row, status) in ROWS {
        let (what, why) = match status {
            Passes(_) => ("pass", None),
            Differs(_, why) => ("differ", Some(why)),
            NeedsCluster(why) => ("need a cluster", Some(why)),
        };
        if let Some(why) = why {
            println!("{row:>4} {what}: {why}");
        }
        *counts.entry((row.chars().next().unwrap(), what)).or_default() += 1;
    }
    for (letter, count) in COUNTS {
        let parts: Vec<_> = counts
            .iter()
            .filter(|((of, _), _)| *of == letter)
            .map(|((_, what), number)| format!("{number} {what}"))
            .collect();
        println!("{letter}: {count} rows, {}", parts.join(", "));
        let sum: usize = counts.iter().filter(|((of, _), _)| *of == letter).map(|(_, n)| n).sum();
        assert_eq!(sum, count, "{letter}");
    }
}
