//! Who we are to registries, and who vouches for them: passwords, tokens, certificates, proxies.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use kit::authority::Authority;
use kit::client::Code;
use kit::guest::Guest;
use kit::hostile::{Fault, Hostile};
use kit::image::Image;
use kit::registry::Registry;
use kit::scene::Scene;
use kit::token_server::{TokenServer, htpasswd};
use kit::ways::Way;
use serde_json::json;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use toml::{Table, Value};

use super::{FAILED, assert_says, trusting_guest};

/// A guest that trusts these authorities for registries.
fn guest_trusting(authorities: &[&str]) -> Guest {
    let mut guest = trusting_guest("unused.example");
    let authorities: Vec<Value> = authorities.iter().map(|pem| (*pem).into()).collect();
    guest.settings = guest
        .settings
        .clone()
        .with("image.extra_root_certificates", authorities)
        .with("image_agent.verbose_errors", true);
    guest
}

/// Gives the guest an `auth.json` with these members of `auths`.
fn log_in(guest: &mut Guest, auths: &serde_json::Value) {
    let file = guest.path().join("auth.json");
    std::fs::write(&file, json!({ "auths": auths }).to_string()).unwrap();
    let location = format!("file://{}", file.display());
    let key = "image.authenticated_registry_credentials_uri";
    guest.settings = guest.settings.clone().with(key, location);
}

fn auth(user: &str, password: &str) -> String {
    // As `echo user:password | base64` makes it, with the end of the line.
    STANDARD.encode(format!("{user}:{password}\n"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_password_is_for_its_namespace_and_its_host_alone() {
    let store = Registry::start().await;
    let image = Image::small("private");
    store.push("team/app:1", &image).await;
    let folder = tempfile::tempdir().unwrap();
    let registry = store
        .guarded(&htpasswd(folder.path(), "user", "s3cret"))
        .await;
    let reference = format!("{}/team/app:1", registry.host());

    let mut guest = guest_trusting(&[registry.authority()]);
    let daemon = guest.start().await;
    let refusal = daemon.refuses(&reference, &guest.bundle("c0")).await;
    assert_eq!(refusal.code, Code::UNAUTHENTICATED, "{refusal:?}");
    assert_says(
        "anonymous",
        &refusal.message,
        &[FAILED, "registry refuses access"],
    );
    drop(daemon);

    let host = registry.host();
    log_in(
        &mut guest,
        &json!({
            host: {"auth": auth("user", "wr0ng")},
            format!("{host}/team"): {"auth": auth("user", "s3cret")},
            format!("{host}/team/app"): {"auth": "%%%"},
        }),
    );
    let daemon = guest.start().await;
    let digest = daemon.delivers(&reference, &guest.bundle("c1")).await;
    assert_eq!(digest, image.digest());
    assert!(!daemon.log().contains("s3cret"));

    let other = format!("{host}/other:1");
    let refusal = daemon.refuses(&other, &guest.bundle("c2")).await;
    assert_eq!(refusal.code, Code::UNAUTHENTICATED, "{refusal:?}");
    let key = format!("access refused with the credentials for \"{host}\" in file://");
    assert_says("wrong", &refusal.message, &[&key, "HTTP status 401"]);
    assert!(!refusal.message.contains("wr0ng"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_environment_names_the_credentials_and_user_and_password_may_stand_apart() {
    let store = Registry::start().await;
    let image = Image::small("by environment");
    store.push("app:1", &image).await;
    let folder = tempfile::tempdir().unwrap();
    let registry = store
        .guarded(&htpasswd(folder.path(), "user", "s3cret"))
        .await;
    let mut guest = guest_trusting(&[registry.authority()]);
    let file = guest.path().join("auth.json");
    let auths = json!({"auths": {registry.host(): {"username": "user", "password": "s3cret"}}});
    std::fs::write(&file, auths.to_string()).unwrap();
    guest.environment.push((
        "CDH_DEFAULT_IMAGE_AUTHENTICATED_REGISTRY_CREDENTIALS",
        format!("file://{}", file.display()),
    ));
    let daemon = guest.start().await;
    let reference = format!("{}/app:1", registry.host());
    assert_eq!(
        daemon.delivers(&reference, &guest.bundle("c1")).await,
        image.digest()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_are_fetched_with_a_password_or_with_an_identity_token() {
    let store = Registry::start().await;
    let image = Image::small("by token");
    store.push("team/app:1", &image).await;
    let tokens = TokenServer::start("user", "s3cret", "1dentity").await;
    let registry = store.guarded(&tokens.auth()).await;
    let reference = format!("{}/team/app:1", registry.host());
    for (case, entry, expected) in [
        (
            "password",
            json!({"auth": auth("user", "s3cret")}),
            "GET basic repository:team/app:pull",
        ),
        (
            "identity token",
            json!({"auth": auth("00000000-0000-0000-0000-000000000000", ""), "identitytoken": "1dentity"}),
            "POST refresh_token repository:team/app:pull",
        ),
    ] {
        let mut guest = guest_trusting(&[registry.authority(), tokens.authority()]);
        log_in(&mut guest, &json!({registry.host(): entry}));
        let daemon = guest.start().await;
        let digest = daemon.delivers(&reference, &guest.bundle("c1")).await;
        assert_eq!(digest, image.digest(), "{case}");
        let asked = tokens.requests();
        assert_eq!(asked.last().map(String::as_str), Some(expected), "{case}");
        for secret in ["s3cret", "1dentity"] {
            assert!(!daemon.log().contains(secret), "{case}");
        }
    }
    let guest = guest_trusting(&[registry.authority(), tokens.authority()]);
    let daemon = guest.start().await;
    let refusal = daemon.refuses(&reference, &guest.bundle("c1")).await;
    assert_eq!(refusal.code, Code::UNAUTHENTICATED, "{refusal:?}");
    assert_says(
        "anonymous",
        &refusal.message,
        &["a pull token for team/app", "HTTP status 401"],
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_has_run_out_in_the_middle_is_fetched_anew() {
    let tokens = TokenServer::start("user", "s3cret", "").await;
    let registry = Hostile::start_https().await;
    let image = Image::small("in the middle");
    let reference = registry.push("app:1", &image);
    let mut guest = guest_trusting(&[registry.authority(), tokens.authority()]);
    let host = registry.host();
    log_in(&mut guest, &json!({host: {"auth": auth("user", "s3cret")}}));
    let challenge = format!(
        "Bearer realm=\"{}\",service=\"registry.test\"",
        tokens.realm()
    );
    // The registry takes no notice of tokens, but for asking for one twice.
    for path in [
        "/v2/app/manifests/1".to_owned(),
        format!("/v2/app/blobs/{}", image.blobs[1].0),
    ] {
        registry.arm_times(&path, Fault::Challenge(challenge.clone()), 1);
    }
    let daemon = guest.start().await;
    let digest = daemon.delivers(&reference, &guest.bundle("c1")).await;
    assert_eq!(digest, image.digest());
    let asked = "GET basic repository:app:pull";
    assert_eq!(tokens.requests(), [asked, asked]);
}

#[tokio::test(flavor = "multi_thread")]
async fn credentials_that_were_kept_are_fetched_again_from_the_kbs_when_they_are_refused() {
    let scene = Scene::start().await;
    let image = Image::small("rotated");
    let store = Registry::start().await;
    store.push("app:1", &image).await;
    let tokens = TokenServer::start("user", "first", "").await;
    let registry = store.guarded(&tokens.auth()).await;
    let resource = "default/credentials/1";
    let put = |password: &str| {
        let auths = json!({"auths": {registry.host(): {"auth": auth("user", password)}}});
        scene.kbs.put(resource, auths.to_string());
    };
    put("first");
    scene.set_policy(&json!({"default": [{"type": "insecureAcceptAnything"}]}));
    let mut guest = scene.guest();
    let authorities = vec![registry.authority(), tokens.authority()];
    let location = format!("kbs:///{resource}");
    guest.settings = guest
        .settings
        .clone()
        .with("image.extra_root_certificates", authorities)
        .with("image.authenticated_registry_credentials_uri", location)
        .with("image_agent.kbs.ttl", 600);
    let daemon = guest.start().await;
    let reference = format!("{}/app:1", registry.host());
    daemon.delivers(&reference, &guest.bundle("c1")).await;
    tokens.set_password("user", "second");
    put("second");
    let digest = daemon.delivers(&reference, &guest.bundle("c2")).await;
    assert_eq!(digest, image.digest());
    let kinds = tokens.requests().len();
    assert_eq!(kinds, 3, "taken, refused, taken: {:?}", tokens.requests());
}

#[tokio::test(flavor = "multi_thread")]
async fn credentials_that_run_out_in_the_middle_are_fetched_again_from_the_kbs() {
    let scene = Scene::start().await;
    let tokens = TokenServer::start("user", "second", "").await;
    let registry = Hostile::start_https().await;
    let (early, late) = (Image::small("early"), Image::small("late"));
    let resource = "default/credentials/1";
    let put = |password: &str| {
        let auths = json!({"auths": {registry.host(): {"auth": auth("user", password)}}});
        scene.kbs.put(resource, auths.to_string());
    };
    put("first");
    scene.set_policy(&json!({"default": [{"type": "insecureAcceptAnything"}]}));
    let mut guest = scene.guest();
    let authorities = vec![registry.authority(), tokens.authority()];
    guest.settings = guest
        .settings
        .clone()
        .with("image.extra_root_certificates", authorities)
        .with(
            "image.authenticated_registry_credentials_uri",
            format!("kbs:///{resource}"),
        )
        .with("image_agent.kbs.ttl", 600);
    let daemon = guest.start().await;
    let reference = registry.push("early:1", &early);
    daemon.delivers(&reference, &guest.bundle("c1")).await;
    // What is kept has run out, and only the layers are behind a door.
    put("second");
    let reference = registry.push("late:1", &late);
    let (realm, layer) = (tokens.realm(), late.blobs[1].0.clone());
    let challenge = format!("Bearer realm=\"{realm}\",service=\"registry.test\"");
    registry.arm_times(&layer, Fault::Challenge(challenge.clone()), 2);
    let digest = daemon.delivers(&reference, &guest.bundle("c2")).await;
    assert_eq!(digest, late.digest());
    let asked = "GET basic repository:late:pull";
    assert_eq!(tokens.requests(), [asked, asked], "refused, taken");
    assert_eq!(scene.kbs.requests().get, 3, "the policy is kept on");

    // Once: what stays wrong is told.
    tokens.set_password("user", "third");
    let worse = Image::small("worse");
    let reference = registry.push("worse:1", &worse);
    registry.arm(&worse.blobs[1].0, Fault::Challenge(challenge));
    let refusal = daemon.refuses(&reference, &guest.bundle("c3")).await;
    assert_eq!(refusal.code, Code::UNAUTHENTICATED, "{refusal:?}");
    assert_eq!(tokens.requests().len(), 4, "{:?}", tokens.requests());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_refuses_credentials_is_asked_without_only_if_the_owner_says_so() {
    let store = Registry::start().await;
    let image = Image::small("public");
    store.push("app:1", &image).await;
    let tokens = TokenServer::start("user", "s3cret", "").await;
    let registry = store.guarded(&tokens.auth()).await;
    let reference = format!("{}/app:1", registry.host());
    let mut guest = guest_trusting(&[registry.authority(), tokens.authority()]);
    let host = registry.host();
    log_in(
        &mut guest,
        &json!({host: {"auth": auth("user", "expired")}}),
    );
    let daemon = guest.start().await;
    let refusal = daemon.refuses(&reference, &guest.bundle("c1")).await;
    let named = format!("access refused with the credentials for \"{host}\"");
    assert_says("by default", &refusal.message, &[&named]);
    drop(daemon);

    let key = "image.anonymous_fallback_on_unauthorized";
    guest.settings = guest.settings.clone().with(key, true);
    let daemon = guest.start().await;
    let refusal = daemon.refuses(&reference, &guest.bundle("c1")).await;
    assert_says("private", &refusal.message, &[&named]);
    tokens.admit_anonymous();
    let digest = daemon.delivers(&reference, &guest.bundle("c1")).await;
    assert_eq!(digest, image.digest());
    let kinds = tokens.requests();
    let kinds: Vec<&str> = kinds
        .iter()
        .filter_map(|line| line.split(' ').nth(1))
        .collect();
    let expected = ["basic", "basic", "anonymous", "basic", "anonymous"];
    assert_eq!(kinds, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gate_of_nginx_opens_to_the_certificate_of_its_host() {
    let registry = Registry::start().await;
    let image = Image::small("behind a gate");
    registry.push("app:1", &image).await;
    let (server, clients) = (Authority::mint("gate"), Authority::mint("clients"));
    let gate = Way::nginx(registry.host(), &server, Some(&clients));
    let reference = format!("{}/app:1", gate.host());
    let (certificate, key) = clients.issue_client("guest");

    // Without a certificate nginx says so.
    let guest = guest_trusting(&[server.certificate()]);
    let daemon = guest.start().await;
    let refusal = daemon.refuses(&reference, &guest.bundle("c1")).await;
    assert_says("none", &refusal.message, &["HTTP status 400"]);
    drop(daemon);

    // From the configuration, the key from a file.
    let mut guest = guest_trusting(&[]);
    let file = guest.path().join("client.pem");
    std::fs::write(&file, &key).unwrap();
    let mut own = Table::new();
    own.insert("host".to_owned(), gate.host().into());
    own.insert("ca".to_owned(), server.certificate().into());
    own.insert("client_certificate".to_owned(), certificate.clone().into());
    own.insert("client_key".to_owned(), file.display().to_string().into());
    guest.settings = guest
        .settings
        .clone()
        .with("image_agent.registry", vec![Value::Table(own)]);
    let daemon = guest.start().await;
    assert_eq!(
        daemon.delivers(&reference, &guest.bundle("c1")).await,
        image.digest()
    );
    drop(daemon);

    // From a folder of the guest.
    let mut guest = guest_trusting(&[]);
    let folder = guest.path().join("certs.d").join(gate.host());
    std::fs::create_dir_all(&folder).unwrap();
    for (name, text) in [
        ("ca.crt", server.certificate()),
        ("client.cert", &certificate),
        ("client.key", &key),
    ] {
        std::fs::write(folder.join(name), text).unwrap();
    }
    let folders = vec![guest.path().join("certs.d").display().to_string()];
    guest.settings = guest.settings.clone().with("image_agent.certs_d", folders);
    let daemon = guest.start().await;
    assert_eq!(
        daemon.delivers(&reference, &guest.bundle("c1")).await,
        image.digest()
    );
    drop(daemon);

    // Half a pair is an error that names the other half.
    std::fs::remove_file(folder.join("client.key")).unwrap();
    let daemon = guest.start().await;
    let refusal = daemon.refuses(&reference, &guest.bundle("c2")).await;
    assert_eq!(refusal.code, Code::FAILED_PRECONDITION, "{refusal:?}");
    assert_says(
        "half",
        &refusal.message,
        &["expected client.key beside client.cert"],
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn proxies_are_used_but_for_the_exceptions() {
    let registry = Registry::start_https().await;
    let image = Image::small("through a proxy");
    let reference = registry.push("app:1", &image).await;
    let (plain, guarded) = (Way::tinyproxy(false), Way::tinyproxy(true));
    let socks = Way::microsocks();
    let rows = [
        ("http", format!("http://{}", plain.host()), &plain),
        (
            "password",
            format!("http://user:password@{}", guarded.host()),
            &guarded,
        ),
        ("socks", format!("socks5://{}", socks.host()), &socks),
        ("socks names", format!("socks5h://{}", socks.host()), &socks),
    ];
    for (case, address, proxy) in rows {
        let mut guest = guest_trusting(&[registry.authority()]);
        let key = "image.image_pull_proxy.https_proxy";
        guest.settings = guest.settings.clone().with(key, address);
        let before = proxy.log().len();
        let daemon = guest.start().await;
        let digest = daemon.delivers(&reference, &guest.bundle("c1")).await;
        assert_eq!(digest, image.digest(), "{case}");
        assert!(proxy.log().len() > before, "{case}: {}", proxy.log());
        let missing = format!("{}/none:1", registry.host());
        let refusal = daemon.refuses(&missing, &guest.bundle("c2")).await;
        let through = format!("from {} through the proxy ", registry.host());
        assert_says(
            case,
            &refusal.message,
            &[&through, &proxy.host(), "not found"],
        );
        assert!(!refusal.message.contains("password"), "{case}");
    }
    for exception in ["127.0.0.1", "127.0.0.0/8", "*", "example.com, 127.0.0.1"] {
        let mut guest = guest_trusting(&[registry.authority()]);
        guest.settings = guest
            .settings
            .clone()
            .with("image.image_pull_proxy.https_proxy", "http://127.0.0.1:9")
            .with("image.image_pull_proxy.no_proxy", exception);
        let daemon = guest.start().await;
        let digest = daemon.delivers(&reference, &guest.bundle("c1")).await;
        assert_eq!(digest, image.digest(), "{exception}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn neither_redirect_nor_token_realm_leads_into_the_guest() {
    let registry = Hostile::start_https().await;
    let inside = Hostile::start_https().await;
    let image = Image::small("led astray");
    let reference = registry.push("app:1", &image);
    inside.push("app:1", &image);
    let authorities = [registry.authority(), inside.authority()];
    let guest = guest_trusting(&authorities);
    let daemon = guest.start().await;
    let port = inside.host().rsplit_once(':').unwrap().1.to_owned();
    let path = "/v2/app/manifests/1";
    // What the host asks for is no configuration.
    for made_up in ["127.0.0.2:9", "localhost:9"] {
        let reference = format!("{made_up}/app:1");
        let refusal = daemon.refuses(&reference, &guest.bundle("c1")).await;
        assert_eq!(refusal.code, Code::UNAVAILABLE, "{refusal:?}");
    }
    for (host, word) in [
        ("127.0.0.2", "an address of the guest itself"),
        ("[::1]", "an address of the guest itself"),
        ("169.254.169.254", "an address of the guest itself"),
        ("localhost", "which is the guest's own"),
    ] {
        let target = format!("https://{host}:{port}{path}");
        registry.arm(path, Fault::Redirect(target.clone()));
        let refusal = daemon.refuses(&reference, &guest.bundle("c1")).await;
        assert_eq!(refusal.code, Code::UNAVAILABLE, "{host}: {refusal:?}");
        assert_says(host, &refusal.message, &[word]);
        registry.disarm();
        let challenge = format!("Bearer realm=\"{target}\",service=\"x\"");
        registry.arm(path, Fault::Challenge(challenge));
        let refusal = daemon.refuses(&reference, &guest.bundle("c1")).await;
        assert_says(host, &refusal.message, &[word]);
        registry.disarm();
    }
    assert_eq!(inside.requests(), Vec::<String>::new());
    assert_eq!(
        daemon.delivers(&reference, &guest.bundle("c2")).await,
        image.digest()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn who_a_redirect_leads_to_is_not_told_who_we_are() {
    let registry = Hostile::start_https().await;
    let elsewhere = Hostile::start_https().await;
    let thief = Hostile::start_https().await;
    let image = Image::small("asked for a password");
    let reference = registry.push("app:1", &image);
    let authorities = [
        registry.authority(),
        elsewhere.authority(),
        thief.authority(),
    ];
    let mut guest = guest_trusting(&authorities);
    let login = json!({registry.host(): {"auth": auth("user", "s3cret")}});
    log_in(&mut guest, &login);
    let daemon = guest.start().await;
    let bearer = format!("Bearer realm=\"https://{}/token\"", thief.host());
    let blob = format!("/v2/app/blobs/{}", image.blobs[1].0);
    for challenge in [bearer.as_str(), "Basic realm=\"x\""] {
        for path in ["/v2/app/manifests/1", &blob] {
            registry.arm(
                path,
                Fault::Redirect(format!("https://{}{path}", elsewhere.host())),
            );
            elsewhere.arm(path, Fault::Challenge(challenge.to_owned()));
            let refusal = daemon.refuses(&reference, &guest.bundle("c1")).await;
            assert_eq!(refusal.code, Code::UNAUTHENTICATED, "{path}: {refusal:?}");
            registry.disarm();
        }
    }
    assert_eq!(thief.requests(), Vec::<String>::new());
    daemon.delivers(&reference, &guest.bundle("c2")).await;
}

/// One port for both: what begins as TLS goes to `secure`, the rest to `plain`.
async fn both_at_one_port(secure: &Hostile, plain: &Hostile) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let host = listener.local_addr().unwrap().to_string();
    let (secure, plain) = (secure.host(), plain.host());
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let (secure, plain) = (secure.clone(), plain.clone());
            tokio::spawn(async move {
                let mut first = [0];
                client.peek(&mut first).await?;
                let server = if first == [0x16] { secure } else { plain };
                let mut server = TcpStream::connect(server).await?;
                copy_bidirectional(&mut client, &mut server).await
            });
        }
    });
    host
}

#[tokio::test(flavor = "multi_thread")]
async fn no_password_goes_in_the_clear_where_tls_is_spoken() {
    let (secure, plain) = (Hostile::start_https().await, Hostile::start().await);
    let host = both_at_one_port(&secure, &plain).await;
    let image = Image::small("both");
    secure.push("app:1", &image);
    plain.push("app:1", &image);
    let basic = || Fault::Challenge("Basic realm=\"x\"".to_owned());
    plain.arm("/v2/app/manifests/1", basic());
    secure.arm_times("/v2/app/manifests/1", basic(), 1);
    let mut guest = trusting_guest(&host);
    log_in(
        &mut guest,
        &json!({ &host: {"auth": auth("user", "s3cret")} }),
    );
    let daemon = guest.start().await;
    let reference = format!("{host}/app:1");
    let digest = daemon.delivers(&reference, &guest.bundle("c1")).await;
    assert_eq!(digest, image.digest());
    assert_eq!(plain.requests(), Vec::<String>::new());
}
