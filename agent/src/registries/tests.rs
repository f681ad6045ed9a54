//! Where images are, by tables of names.

use super::*;
use crate::config::{Fault, Position};

fn registries(text: &str) -> Registries {
    Registries::parse(text)
        .unwrap_or_else(|error| panic!("{text}\n{error:?}"))
        .0
}

fn fault(text: &str) -> Fault {
    match Registries::parse(text) {
        Err(ConfigError::Value { source, .. }) => *source,
        other => panic!("{text}: {other:?}"),
    }
}

fn image(name: &str) -> ImageRef {
    ImageRef::parse_edge(name).unwrap()
}

/// `host repository`, with `http` and `blocked` after it where they hold.
fn show(endpoint: &Endpoint) -> String {
    let transport = match endpoint.transport {
        Transport::Https => "",
        Transport::PlainHttp => " http",
    };
    let blocked = if endpoint.blocked { " blocked" } else { "" };
    format!(
        "{} {}{transport}{blocked}",
        endpoint.host, endpoint.repository
    )
}

const FILE: &str = r#"
    [[registry]]
    location = "plain.example:5000"
    insecure = true
    [[registry]]
    prefix = "a.example"
    location = "b.example/mirrored"
    [[registry]]
    prefix = "a.example/ns/app"
    location = "c.example:443/x/y"
    insecure = true
    [[registry]]
    prefix = "a.example/blocked"
    blocked = true
    [[registry]]
    prefix = "alias.example"
    location = "a.example/blocked"
    [[registry]]
    prefix = "*.wild.example"
    location = "w.example"
    [[registry]]
    prefix = "*.deep.wild.example"
    [[registry]]
    prefix = "docker.io/library"
    location = "hub.example/official/"
"#;

#[test]
fn longest_prefix_decides_where_an_image_is() {
    let rows = [
        ("other.example/app:1", "other.example app"),
        ("busybox", "hub.example official/busybox"),
        ("me/app", "docker.io me/app"),
        ("plain.example:5000/app", "plain.example:5000 app http"),
        ("plain.example/app", "plain.example app"),
        ("plain.example:50000/app", "plain.example:50000 app"),
        ("a.example/app:1", "b.example mirrored/app"),
        ("a.example/ns/app:1", "c.example:443 x/y http"),
        ("a.example/ns/app/deeper", "c.example:443 x/y/deeper http"),
        ("a.example/ns/apple", "b.example mirrored/ns/apple"),
        ("a.example/blocked/app", "a.example blocked/app blocked"),
        ("a.example/blockedx/app", "b.example mirrored/blockedx/app"),
        ("alias.example/app", "a.example blocked/app blocked"),
        ("x.wild.example/app", "w.example app"),
        ("x.y.wild.example/app", "w.example app"),
        ("x.wild.example:5000/app", "w.example:5000 app"),
        ("wild.example/app", "wild.example app"),
        ("xwild.example/app", "xwild.example app"),
        ("x.wild.example.org/app", "x.wild.example.org app"),
        (
            "other.example/x.wild.example/app",
            "other.example x.wild.example/app",
        ),
        ("x.deep.wild.example/app", "x.deep.wild.example app"),
    ];
    let registries = registries(FILE);
    for (name, expected) in rows {
        assert_eq!(
            show(&registries.lookup(&image(name)).unwrap()),
            expected,
            "{name}"
        );
    }
    let none = Registries::default();
    assert_eq!(
        show(&none.lookup(&image("busybox")).unwrap()),
        "docker.io library/busybox"
    );
}

#[test]
fn mirrors_come_first_and_serve_what_they_are_for() {
    let digest = format!("sha256:{}", "a".repeat(64));
    let text = r#"
        [[registry]]
        location = "a.example"
        [[registry.mirror]]
        location = "all.example/a"
        insecure = true
        [[registry.mirror]]
        location = "digest.example"
        pull-from-mirror = "digest-only"
        [[registry.mirror]]
        location = "tag.example"
        pull-from-mirror = "tag-only"
        [[registry]]
        location = "b.example"
        mirror-by-digest-only = true
        [[registry.mirror]]
        location = "b-mirror.example"
        pull-from-mirror = ""
        [[registry]]
        location = "digest.example"
        blocked = true
    "#;
    let rows = [
        (
            "a.example/x:1".to_owned(),
            "all.example a/x http, tag.example x, a.example x",
        ),
        (
            format!("a.example/x@{digest}"),
            "all.example a/x http, digest.example x blocked, a.example x",
        ),
        ("b.example/x:1".to_owned(), "b.example x"),
        (
            format!("b.example/x:1@{digest}"),
            "b-mirror.example x, b.example x",
        ),
        ("c.example/x".to_owned(), "c.example x"),
    ];
    let registries = registries(text);
    for (name, expected) in rows {
        let endpoints = registries.endpoints(&image(&name)).unwrap();
        let shown: Vec<String> = endpoints.iter().map(show).collect();
        assert_eq!(shown.join(", "), expected, "{name}");
        let primary = registries.lookup(&image(&name)).unwrap();
        assert_eq!(endpoints.last(), Some(&primary), "{name}");
    }
}

#[test]
fn a_location_that_makes_no_name_is_refused() {
    let rows = [
        (
            "example.com",
            "example.com:5000",
            "example.com:5000/image",
            "example.com:5000:5000/image",
        ),
        (
            "example.com/ns",
            "example.org",
            "example.com/ns",
            "example.org",
        ),
        (
            "example.com/ns",
            "notlocalhost",
            "example.com/ns/app",
            "notlocalhost/app",
        ),
        (
            "example.com",
            "docker.io",
            "example.com/app",
            "docker.io/app",
        ),
    ];
    for (prefix, location, name, expected) in rows {
        let text = format!("[[registry]]\nprefix = \"{prefix}\"\nlocation = \"{location}\"");
        let error = registries(&text).lookup(&image(name)).unwrap_err();
        assert_eq!(
            (error.prefix.as_str(), error.name.as_str()),
            (prefix, expected)
        );
    }
}

#[test]
fn what_is_no_name_is_refused() {
    let rows = [
        (
            "registry = [{ location = 'https://a.example' }]",
            "https://a.example",
        ),
        ("registry = [{ location = 'a b' }]", "a b"),
        ("registry = [{ location = '/' }]", "/"),
        (
            "registry = [{ prefix = '*.a.example/ns' }]",
            "*.a.example/ns",
        ),
        (
            "registry = [{ prefix = '*.a.example:5000' }]",
            "*.a.example:5000",
        ),
        ("registry = [{ prefix = '*a.example' }]", "*a.example"),
        ("registry = [{ prefix = '*' }]", "*"),
        (
            "registry = [{ location = 'a', mirror = [{ location = '' }] }]",
            "",
        ),
        ("aliases = { x = 'a/b' }", "a/b"),
        ("aliases = { x = 'a.example/b:1' }", "a.example/b:1"),
        ("aliases = { 'x:1' = 'a.example/b' }", "x:1"),
        ("aliases = { 'a.example/x' = 'a.example/b' }", "a.example/x"),
        (
            "unqualified-search-registries = ['a.example/b']",
            "a.example/b",
        ),
    ];
    for (text, expected) in rows {
        let fault = fault(text);
        assert!(
            matches!(&fault, Fault::RegistryName { found, .. } if found == expected),
            "{text}: {fault:?}"
        );
    }
}

#[test]
fn settings_that_do_not_go_together_are_refused() {
    let rows = [
        (
            "{ location = 'a', pull-from-mirror = 'all' }",
            "a registry, only with a mirror",
        ),
        (
            "{ location = 'a', mirror-by-digest-only = true, \
               mirror = [{ location = 'b', pull-from-mirror = 'all' }] }",
            "mirror-by-digest-only = true",
        ),
        (
            "{ location = 'a' }, { prefix = 'b', location = 'a', blocked = true }",
            "another value of blocked for this location",
        ),
        (
            "{ location = 'a' }, { prefix = 'b', location = 'a', insecure = true }",
            "another value of insecure for this location",
        ),
    ];
    for (text, expected) in rows {
        let fault = fault(&format!("registry = [{text}]"));
        assert!(
            matches!(&fault, Fault::Incompatible { other } if *other == expected),
            "{text}: {fault:?}"
        );
    }
    let fault = fault(
        "registry = [{ location = 'a', mirror = [{ location = 'b', pull-from-mirror = 'tag' }] }]",
    );
    assert!(
        matches!(&fault, Fault::Word { found, .. } if found == "tag"),
        "{fault:?}"
    );
}

#[test]
fn incomplete_entries_are_refused() {
    let rows = [
        ("[[registry]]", "registry[0].location"),
        (
            "[[registry]]\nprefix = \"a.example\"",
            "registry[0].location",
        ),
        ("[[registry]]\nlocation = \"\"", "registry[0].location"),
        (
            "[[registry]]\nlocation = \"a.example\"\n[[registry.mirror]]",
            "registry[0].mirror[0].location",
        ),
    ];
    for (text, expected) in rows {
        let error = Registries::parse(text).unwrap_err();
        assert!(
            matches!(&error, ConfigError::Missing { key, .. } if key == expected),
            "{text}: {error:?}"
        );
    }
}

#[test]
fn misspelled_block_is_refused_not_ignored() {
    let error =
        Registries::parse("[[registry]]\nlocation = \"a.example\"\nbloked = true").unwrap_err();
    let ConfigError::UnknownKey { key, at, nearest } = error else {
        panic!("{error:?}")
    };
    assert_eq!(key, "registry[0].bloked");
    assert_eq!(at, Position { line: 3, column: 1 });
    assert_eq!(nearest.as_deref(), Some("blocked"));
}

#[test]
fn what_has_no_effect_is_said() {
    let text = r#"
        unqualified-search-registries = ["docker.io", "localhost:5000"]
        short-name-mode = "enforcing"
        additional-layer-store-auth-helper = "x"
        [aliases]
        fedora = "registry.fedoraproject.org/fedora"
        [[registry]]
        location = "a.example"
        insecure = true
        [[registry.mirror]]
        location = "b.example"
        [[registry]]
        location = "a.example"
        insecure = true
    "#;
    let (registries, warnings) = Registries::parse(text).unwrap();
    assert_eq!(registries.entries().len(), 1);
    let shown: Vec<String> = warnings.iter().map(ToString::to_string).collect();
    let starts = [
        "unqualified-search-registries has",
        "short-name-mode has",
        "additional-layer-store-auth-helper has",
        "registry[1].prefix has no effect: an earlier entry for a.example wins",
    ];
    assert_eq!(shown.len(), starts.len(), "{shown:#?}");
    for (line, start) in shown.iter().zip(starts) {
        assert!(line.starts_with(start), "{line}");
    }
}

#[test]
fn address_of_ipv6_is_no_name_for_an_image_and_a_name_that_leads_there_is() {
    let error = registries("").reference("[::1]:5000/app:1").unwrap_err();
    let form = "the reference does not have the form [host[:port]/]path[:tag][@digest]";
    assert_eq!(error.to_string(), form);
    let entry = "[[registry]]\nprefix = \"a.example\"\nlocation = \"[::1]:5000\"";
    let error = registries(entry)
        .endpoints(&image("a.example/app:1"))
        .unwrap_err();
    assert_eq!(error.name, "[::1]:5000/app");
    let named = registries(&entry.replace("[::1]", "ip6-localhost"));
    let endpoints = named.endpoints(&image("a.example/app:1")).unwrap();
    assert_eq!(show(&endpoints[0]), "ip6-localhost:5000 app");
}

#[test]
fn credentials_are_asked_for_in_the_order_of_the_last_list() {
    assert_eq!(registries("").credential_sources(), [CREDENTIALS_FILE]);
    let list = r#"credential-helpers = ["ecr-login", "containers-auth.json"]"#;
    let sources = ["ecr-login", CREDENTIALS_FILE];
    assert_eq!(registries(list).credential_sources(), sources);
    let later = r#"credential-helpers = ["pass"]"#;
    let (both, _) = Registries::parse_all([list, later, ""]).unwrap();
    assert_eq!(both.credential_sources(), ["pass"]);
    let path = fault(r#"credential-helpers = ["../bin/sh"]"#);
    assert!(
        matches!(&path, Fault::HelperName { found } if found == "../bin/sh"),
        "{path:?}"
    );
}

#[test]
fn short_name_means_its_alias_or_docker_io_and_is_never_searched() {
    let text = r#"
        unqualified-search-registries = ["quay.io"]
        [aliases]
        app = "a.example/team/app"
        "team/app" = "b.example/app"
        gone = ""
    "#;
    let registries = registries(text);
    let digest = policy::Digest::sha256_of(b"");
    let rows = [
        ("app".to_owned(), "a.example/team/app:latest".to_owned()),
        ("app:1".to_owned(), "a.example/team/app:1".to_owned()),
        (
            format!("app@{digest}"),
            format!("a.example/team/app@{digest}"),
        ),
        ("team/app:2".to_owned(), "b.example/app:2".to_owned()),
        ("gone:1".to_owned(), "docker.io/library/gone:1".to_owned()),
        (
            "other".to_owned(),
            "docker.io/library/other:latest".to_owned(),
        ),
        (
            "docker.io/library/app:1".to_owned(),
            "docker.io/library/app:1".to_owned(),
        ),
        ("c.example/app:1".to_owned(), "c.example/app:1".to_owned()),
        ("app:5000/x".to_owned(), "app:5000/x:latest".to_owned()),
    ];
    for (asked, expected) in rows {
        let reference = registries.reference(&asked).unwrap();
        assert_eq!(reference.to_string(), expected, "{asked}");
    }
    assert!(registries.reference("App").is_err());
}

#[test]
fn drop_ins_replace_entries_of_the_same_prefix_and_take_back_aliases() {
    let files = [
        "[[registry]]\nlocation = 'a.example'\ninsecure = true\n[[registry]]\nlocation = 'b.example'\n\
         [aliases]\nx = 'a.example/x'\ny = 'a.example/y'",
        "[[registry]]\nlocation = 'a.example'\nblocked = true\n[aliases]\nx = ''",
    ];
    let (registries, _) = Registries::parse_all(files).unwrap();
    let shown = |name: &str| show(&registries.lookup(&image(name)).unwrap());
    assert_eq!(shown("a.example/x"), "a.example x blocked");
    assert_eq!(shown("b.example/x"), "b.example x");
    assert_eq!(registries.alias("x"), None);
    assert_eq!(registries.alias("y"), Some("a.example/y"));
}

#[test]
fn mirror_with_ns_is_told_which_registry_was_asked_for() {
    let text = "[[registry]]\nlocation = 'docker.io'\n[[registry.mirror]]\nlocation = 'm.example'\nns = true\n\
                [[registry.mirror]]\nlocation = 'n.example'";
    let endpoints = registries(text).endpoints(&image("app:1")).unwrap();
    let told: Vec<Option<&str>> = endpoints
        .iter()
        .map(|endpoint| endpoint.namespace.as_deref())
        .collect();
    assert_eq!(told, [Some("docker.io"), None, None]);
}
