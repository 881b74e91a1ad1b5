use super::*;

#[test]
fn a_failed_look_up_answers_for_a_while_and_a_found_name_for_ever() {
    let now = Instant::now();
    let mut name = Name::default();
    assert!(name.known(now).is_none());
    name.failed = Some((now, Error::new(Code::IdentityUnavailable, "no DNS")));
    assert!(name.known(now + REMEMBERED / 2).unwrap().is_err());
    assert!(name.known(now + REMEMBERED).is_none(), "it is tried again");
    name.found = Some("a.ests.aks".to_owned());
    assert_eq!(name.known(now + REMEMBERED * 1000).unwrap().unwrap(), "a.ests.aks");
}

#[test]
fn a_request_keeps_its_path_and_query_behind_the_proxys_path() {
    let client = Client::new;
    let _ = rustls::crypto::ring::default_provider().install_default();
    let entra =
        Url::parse("https://login.microsoftonline.com/t/oauth2/v2.0/token?a=b%20c").unwrap();
    for (proxy, url, host) in [
        ("https://api:6443", "https://n.ests.aks:6443/t/oauth2/v2.0/token?a=b%20c", "api:6443"),
        ("https://api/p/q/", "https://n.ests.aks/p/q/t/oauth2/v2.0/token?a=b%20c", "api"),
    ] {
        let proxy = Url::parse(proxy).unwrap();
        let route = TokenRoute::new(client(), &proxy, "n.ests.aks").unwrap();
        let (request, shown) = route.post(&entra);
        let request = request.build().unwrap();
        assert_eq!(request.url().as_str(), url);
        assert_eq!(request.headers()[HOST], host);
        assert!(shown.starts_with(&format!("https://{host}/")) && !shown.contains('?'), "{shown}");
    }
}
