//! Flags as the Go provider takes them.

use super::*;

fn rewrite(args: &[&str]) -> Vec<String> {
    go_flags(args.iter().map(OsString::from))
        .into_iter()
        .map(|arg| arg.into_string().unwrap())
        .collect()
}

#[test]
fn both_dash_forms_and_both_value_forms_become_one() {
    assert_eq!(
        rewrite(&["-endpoint", "unix:///a", "--healthz-port=1", "-v=5", "-v", "2"]),
        ["--endpoint=unix:///a", "--healthz-port=1", "--v=5", "--v=2"]
    );
    assert_eq!(
        rewrite(&["-log-format-json", "--construct-pem-chain=false", "-skip_headers", "--help"]),
        ["--log-format-json=true", "--construct-pem-chain=false", "--skip_headers=true", "--help"]
    );
    assert_eq!(rewrite(&["word", "-endpoint"]), ["word", "--endpoint"]);
}

#[test]
fn durations_follow_go() {
    assert_eq!(duration("5s"), Ok(Duration::from_secs(5)));
    assert_eq!(duration("1m30s"), Ok(Duration::from_secs(90)));
    assert_eq!(duration("0.5s"), Ok(Duration::from_millis(500)));
    assert_eq!(duration("250ms"), Ok(Duration::from_millis(250)));
    for bad in ["", "5", "s", "5x", "-5s", "1e999s", "..s"] {
        assert!(duration(bad).is_err(), "{bad}");
    }
}

#[derive(clap::Parser)]
#[command(args_override_self = true)]
struct Line {
    #[command(flatten)]
    args: ProviderArgs,
}

fn parse(args: &[&str]) -> Result<ProviderArgs, clap::Error> {
    use clap::Parser;
    let args = go_flags(args.iter().map(OsString::from));
    Line::try_parse_from(std::iter::once("akvfs".into()).chain(args)).map(|line| line.args)
}

/// A flag of the Go provider: its name, a value that is not the default, and how either shows.
type Row = (&'static str, &'static str, fn(&ProviderArgs) -> String, &'static str);

/// Every flag of the Go provider that means something here.
const ROWS: &[Row] = &[
    ("endpoint", "unix:///x.sock", |a| a.endpoint.clone(), "unix:///tmp/azure.sock"),
    ("version", "true", |a| a.version.to_string(), "false"),
    ("log-format-json", "true", |a| a.log_format_json.to_string(), "false"),
    ("v", "5", |a| a.v.to_string(), "0"),
    ("skip_headers", "true", |a| a.klog.skip_headers.to_string(), "false"),
    ("enable-pprof", "true", |a| a.enable_pprof.to_string(), "false"),
    ("pprof-port", "1", |a| a.pprof_port.to_string(), "6060"),
    ("healthz-port", "1", |a| a.healthz_port.to_string(), "8989"),
    ("healthz-path", "/x", |a| a.healthz_path.clone(), "/healthz"),
    ("healthz-timeout", "1s", |a| format!("{:?}", a.healthz_timeout), "5s"),
    ("metrics-backend", "PROMETHEUS", |a| a.metrics_backend.clone(), "Prometheus"),
    ("prometheus-port", "1", |a| a.prometheus_port.to_string(), "8898"),
    ("construct-pem-chain", "false", |a| a.construct_pem_chain.to_string(), "true"),
    (
        "write-cert-and-key-in-separate-files",
        "true",
        |a| a.write_cert_and_key_in_separate_files.to_string(),
        "false",
    ),
    ("cloud-name", "AzureChinaCloud", |a| a.cloud_name.clone(), "AzurePublicCloud"),
    ("token-proxy-url", "https://x", |a| a.token_proxy_url.clone(), ""),
    ("sni-name", "x", |a| a.sni_name.clone(), ""),
    ("custom-user-agent", "managedBy:aks", |a| a.custom_user_agent.clone(), ""),
];

#[test]
fn every_flag_of_the_go_provider_has_its_default_and_both_dash_forms() {
    for (name, value, show, default) in ROWS {
        assert_eq!(show(&parse(&[]).unwrap()), *default, "{name}");
        for dashes in ["-", "--"] {
            let (flag, joined) = (format!("{dashes}{name}"), format!("{dashes}{name}={value}"));
            assert_eq!(show(&parse(&[&joined]).unwrap()), *value, "{joined}");
            // A boolean takes its value by = only, and is true without one.
            let apart = if BOOLEANS.contains(name) { vec![&*flag] } else { vec![&*flag, *value] };
            let shown = if BOOLEANS.contains(name) { "true" } else { *value };
            assert_eq!(show(&parse(&apart).unwrap()), shown, "{apart:?}");
        }
    }
}

#[test]
fn flags_of_klog_are_accepted_and_those_without_effect_are_noticed() {
    for (name, value, noticed) in [
        ("vmodule", "x=1", true),
        ("logtostderr", "true", false),
        ("logtostderr", "false", true),
        ("alsologtostderr", "true", false),
        ("stderrthreshold", "2", false),
        ("log_dir", "/tmp", true),
        ("log_file", "/tmp/x", true),
        ("log_file_max_size", "1800", false),
        ("skip_headers", "true", false),
        ("skip_log_headers", "true", false),
        ("add_dir_header", "true", true),
        ("one_output", "true", false),
        ("log_backtrace_at", "x:1", true),
        ("enable-pprof", "true", true),
        ("pprof-port", "6061", true),
    ] {
        for dashes in ["-", "--"] {
            let args = parse(&[&format!("{dashes}{name}={value}")]).unwrap();
            assert_eq!(!args.without_effect().is_empty(), noticed, "{name}={value}");
        }
    }
    assert!(parse(&["--nonsense=1"]).is_err());
}

#[test]
fn memory_for_next_to_no_values_is_refused() {
    assert_eq!(parse(&["--max-held-bytes=1048576"]).unwrap().max_held_bytes, 1 << 20);
    for bad in ["0", "1048575", "64Mi", "-1"] {
        assert!(parse(&[&format!("--max-held-bytes={bad}")]).is_err(), "{bad}");
    }
}

/// Flags that are not the Go provider's: each has its row, its variable and its default in the page.
#[test]
fn the_page_of_options_has_each_flag_of_our_own() {
    let page = include_str!("../../docs/CONFIGURATION.md");
    let command = <Line as clap::CommandFactory>::command();
    let ours = command.get_arguments().filter(|arg| {
        let name = arg.get_long().unwrap_or_default();
        let go = ROWS.iter().any(|(known, ..)| *known == name);
        !go && !arg.is_hide_set() && name != "help" && name != "v"
    });
    let mut count = 0;
    for arg in ours {
        let name = arg.get_long().unwrap();
        let row =
            page.lines().find(|line| line.starts_with('|') && line.contains(&format!("`--{name}")));
        let row = row.unwrap_or_else(|| panic!("--{name} is not in docs/CONFIGURATION.md"));
        let variable = arg.get_env().unwrap().to_str().unwrap();
        assert!(row.contains(&format!("`{variable}`")), "--{name}: {row}");
        if let [default] = arg.get_default_values() {
            let default = default.to_str().unwrap();
            let shown =
                if default == "false" { "| off |".to_owned() } else { format!("| `{default}` |") };
            assert!(row.contains(&shown), "--{name}, {default}: {row}");
        }
        count += 1;
    }
    assert!(count > 8, "{count}");
}
