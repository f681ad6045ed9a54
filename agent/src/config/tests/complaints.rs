//! What is said about a mistake: every kind of it, at every level, with its place.
//!
//! The tables alternate between what is written, `\n` for a line break, and what is said.

use super::*;

#[test]
fn unknown_keys_are_named_with_the_nearest_known_one() {
    for (text, complaint) in rows(UNKNOWN) {
        let error = parse(&text).unwrap_err();
        assert!(
            matches!(&error, ConfigError::UnknownKey { .. }),
            "{text}: {error:?}"
        );
        assert_eq!(said(&error), complaint, "{text}");
    }
}

#[test]
fn wrong_types_are_refused() {
    for (text, complaint) in rows(MISTYPED) {
        let error = parse(&text).unwrap_err();
        assert!(
            matches!(&error, ConfigError::WrongType { .. }),
            "{text}: {error:?}"
        );
        assert_eq!(said(&error), complaint, "{text}");
    }
}

#[test]
fn missing_keys_are_named() {
    for (text, complaint) in rows(INCOMPLETE) {
        let error = parse(&text).unwrap_err();
        assert!(
            matches!(&error, ConfigError::Missing { .. }),
            "{text}: {error:?}"
        );
        assert_eq!(said(&error), complaint, "{text}");
    }
}

#[test]
fn illegal_values_are_refused() {
    for (text, complaint) in rows(ILLEGAL) {
        let error = parse(&text).unwrap_err();
        assert!(
            matches!(&error, ConfigError::Value { .. }),
            "{text}: {error:?}"
        );
        assert_eq!(said(&error), complaint, "{text}");
    }
}

#[test]
fn illegal_parameters_of_the_kernel_are_refused() {
    for (line, complaint) in rows(PARAMETERS) {
        let error = Config::parse("", &booted_with(&line)).unwrap_err();
        assert!(
            matches!(&error, ConfigError::Value { .. }),
            "{line}: {error:?}"
        );
        assert_eq!(
            said(&error),
            format!("kernel command line: {complaint}"),
            "{line}"
        );
    }
}

#[test]
fn malformed_kbc_parameters_are_refused_in_the_environment_too() {
    let parameters = rows(PARAMETERS)
        .into_iter()
        .filter_map(|(line, complaint)| {
            let parameters = line.strip_prefix("agent.aa_kbc_params=")?.to_owned();
            Some((parameters, complaint.strip_prefix("agent.aa_kbc_params: ")?))
        });
    let mut count = 0;
    for (parameters, complaint) in parameters {
        let environment = Environment {
            aa_kbc_params: Some(parameters),
            ..booted_with("")
        };
        let error = Config::parse("", &environment).unwrap_err();
        assert_eq!(
            said(&error),
            format!("environment variable AA_KBC_PARAMS: {complaint}")
        );
        count += 1;
    }
    assert_eq!(count, 5);
}

/// The pairs of a table.
fn rows(table: &str) -> Vec<(String, &str)> {
    let lines: Vec<&str> = table
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .collect();
    lines
        .chunks(2)
        .map(|pair| {
            let [written, said] = pair else {
                panic!("{pair:?}")
            };
            (written.replace("\\n", "\n"), *said)
        })
        .collect()
}

/// Keys that nobody reads, with the nearest known one of the same table.
const UNKNOWN: &str = r#"
sockt = ""
    line 1, column 1: unknown key "sockt", did you mean "socket"?
sockets = ""
    line 1, column 1: unknown key "sockets", did you mean "socket"?
\n\n  [imaeg]
    line 3, column 4: unknown key "imaeg", did you mean "image"?
telemetry = true
    line 1, column 1: unknown key "telemetry"
zebra = 1\nape = 2
    line 1, column 1: unknown key "zebra"
[kbs]\nname = "cc_kbc"
    line 1, column 2: unknown key "kbs", did you mean "kbc"?
[aa]\nsocket = ""
    line 2, column 1: unknown key "aa.socket"
aa.aa_sock = ""
    line 1, column 4: unknown key "aa.aa_sock", did you mean "aa_socket"?
kbc = { name = "offline_fs_kbc", kbs-cert = "" }
    line 1, column 34: unknown key "kbc.kbs-cert", did you mean "kbs_cert"?
kbc.nmae = "cc_kbc"
    line 1, column 5: unknown key "kbc.nmae", did you mean "name"?
kbc = { name = "cc_kbc", urI = "http://127.0.0.1" }
    line 1, column 26: unknown key "kbc.urI", did you mean "url"?
log.levle = "info"
    line 1, column 5: unknown key "log.levle", did you mean "level"?
image.image_secuirty_policy_uri = "kbs:///a/b/c"
    line 1, column 7: unknown key "image.image_secuirty_policy_uri", did you mean "image_security_policy_uri"?
image.image_security_policy_url = "kbs:///a/b/c"
    line 1, column 7: unknown key "image.image_security_policy_url", did you mean "image_security_policy_uri"?
image.work_dri = "/"
    line 1, column 7: unknown key "image.work_dri", did you mean "work_dir"?
image.image_pull_proxy.http-proxy = ""
    line 1, column 24: unknown key "image.image_pull_proxy.http-proxy", did you mean "http_proxy"?
[[credentials]]\nresource_url = "kbs:///a/b/c"
    line 2, column 1: unknown key "credentials[0].resource_url", did you mean "resource_uri"?
image.registry_config.registry = [{ location = "a.example", blocekd = true }]
    line 1, column 61: unknown key "image.registry_config.registry[0].blocekd", did you mean "blocked"?
image.registry_config.registry = [{ location = "a.example", mirror = [{ unsecure = true }] }]
    line 1, column 73: unknown key "image.registry_config.registry[0].mirror[0].unsecure", did you mean "insecure"?
image_agent.require_authenticated_kbc = true
    line 1, column 13: unknown key "image_agent.require_authenticated_kbc", did you mean "require_authenticated_kbs"?
image_agent.limits.entry = 1
    line 1, column 20: unknown key "image_agent.limits.entry"
image_agent.limits.unpacked_byte = 1
    line 1, column 20: unknown key "image_agent.limits.unpacked_byte", did you mean "unpacked_bytes"?
image_agent.timeouts.totals = 1
    line 1, column 22: unknown key "image_agent.timeouts.totals", did you mean "total"?
"#;

/// Values of another type.
const MISTYPED: &str = r#"
socket = 1
    line 1, column 10: socket: expected a string, found an integer
services_dir = []
    line 1, column 16: services_dir: expected a string, found a list
skip_sealed_secret_verification = ""
    line 1, column 35: skip_sealed_secret_verification: expected true or false, found a string
aa = 1
    line 1, column 6: aa: expected a table, found an integer
aa.aa_socket = true
    line 1, column 16: aa.aa_socket: expected a string, found a boolean
kbc = []
    line 1, column 7: kbc: expected a table, found a list
kbc.name = 1.5
    line 1, column 12: kbc.name: expected a string, found a floating-point number
kbc.url = 1
    line 1, column 11: kbc.url: expected a string, found an integer
kbc.kbs_cert = 1
    line 1, column 16: kbc.kbs_cert: expected a string, found an integer
credentials = {}
    line 1, column 15: credentials: expected a list of tables, found a table
credentials = [1]
    line 1, column 16: credentials: expected a table, found an integer
credentials = [{ path = 1 }]
    line 1, column 25: credentials[0].path: expected a string, found an integer
log = "info"
    line 1, column 7: log: expected a table, found a string
log.level = 2026-01-01
    line 1, column 13: log.level: expected a string, found a date or time
image = true
    line 1, column 9: image: expected a table, found a boolean
image.work_dir = 1
    line 1, column 18: image.work_dir: expected a string, found an integer
image.image_security_policy_uri = {}
    line 1, column 35: image.image_security_policy_uri: expected a string, found a table
image.image_security_policy = {}
    line 1, column 31: image.image_security_policy: expected a string, found a table
image.sigstore_config_uri = 1
    line 1, column 29: image.sigstore_config_uri: expected a string, found an integer
image.sigstore_config = 1
    line 1, column 25: image.sigstore_config: expected a string, found an integer
image.authenticated_registry_credentials_uri = 1
    line 1, column 48: image.authenticated_registry_credentials_uri: expected a string, found an integer
image.anonymous_fallback_on_unauthorized = 1
    line 1, column 44: image.anonymous_fallback_on_unauthorized: expected true or false, found an integer
image.registry_configuration_uri = 1
    line 1, column 36: image.registry_configuration_uri: expected a string, found an integer
image.registry_config = ""
    line 1, column 25: image.registry_config: expected a table, found a string
image.registry_config.registry = {}
    line 1, column 34: image.registry_config.registry: expected a list of tables, found a table
image.registry_config.registry = [{ location = 1 }]
    line 1, column 48: image.registry_config.registry[0].location: expected a string, found an integer
image.max_concurrent_layer_downloads_per_image = "3"
    line 1, column 50: image.max_concurrent_layer_downloads_per_image: expected an integer, found a string
image.image_pull_proxy = ""
    line 1, column 26: image.image_pull_proxy: expected a table, found a string
image.extra_root_certificates = ""
    line 1, column 33: image.extra_root_certificates: expected a list of strings, found a string
image.extra_root_certificates = [1]
    line 1, column 34: image.extra_root_certificates: expected a string, found an integer
image_agent = 1
    line 1, column 15: image_agent: expected a table, found an integer
image_agent.attester = true
    line 1, column 24: image_agent.attester: expected a string, found a boolean
image_agent.verbose_errors = 1
    line 1, column 30: image_agent.verbose_errors: expected true or false, found an integer
image_agent.require_authenticated_kbs = "no"
    line 1, column 41: image_agent.require_authenticated_kbs: expected true or false, found a string
image_agent.limits.entries = 1.0
    line 1, column 30: image_agent.limits.entries: expected an integer, found a floating-point number
image_agent.timeouts = 5
    line 1, column 24: image_agent.timeouts: expected a table, found an integer
"#;

/// Tables without a key that they must have.
const INCOMPLETE: &str = r#"
[kbc]
    line 1, column 1: kbc.name is missing
kbc.url = "http://127.0.0.1"
    line 1, column 1: kbc.name is missing
kbc.name = "cc_kbc"
    line 1, column 1: kbc.url is missing
kbc = { name = "cc_kbc", url = "" }
    line 1, column 7: kbc.url is missing
[[credentials]]
    line 1, column 1: credentials[0].path is missing
credentials = [{ resource_uri = "kbs:///a/b/c" }]
    line 1, column 16: credentials[0].path is missing
credentials = [{ path = "/run/confidential-containers/cdh/kbs/x" }]
    line 1, column 16: credentials[0].resource_uri is missing
[image]\n[[image.registry_config.registry]]
    line 2, column 1: image.registry_config.registry[0].location is missing
image.registry_config.registry = [{ prefix = "a.example" }]
    line 1, column 35: image.registry_config.registry[0].location is missing
image.registry_config.registry = [{ location = "a.example", mirror = [{}] }]
    line 1, column 71: image.registry_config.registry[0].mirror[0].location is missing
"#;

/// Values of the right type that are not legal.
const ILLEGAL: &str = r#"
socket = "127.0.0.1:50000"
    line 1, column 10: socket: expected unix:// and an absolute path, found "127.0.0.1:50000"
socket = "unix://cdh.sock"
    line 1, column 10: socket: expected unix:// and an absolute path, found "unix://cdh.sock"
socket = "unix:///"
    line 1, column 10: socket: expected unix:// and an absolute path, found "unix:///"
aa.aa_socket = "/run/aa.sock"
    line 1, column 16: aa.aa_socket: expected unix:// and an absolute path, found "/run/aa.sock"
log.level = "inof"
    line 1, column 13: log.level: expected one of off, error, warn, info, debug, trace, found "inof"
log.level = "a=b=c"
    line 1, column 13: log.level: expected one of off, error, warn, info, debug, trace, found "a=b=c"
kbc.name = "cc-kbc"
    line 1, column 12: kbc.name: expected one of cc_kbc, offline_fs_kbc, found "cc-kbc", did you mean "cc_kbc"?
kbc.name = "sample_kbc"
    line 1, column 12: kbc.name: expected one of cc_kbc, offline_fs_kbc, found "sample_kbc"
kbc = { name = "cc_kbc", url = "kbs:8080" }
    line 1, column 32: kbc.url: expected a URL with one of the schemes http, https, found "kbs"
kbc = { name = "cc_kbc", url = "kbs.example" }
    line 1, column 32: kbc.url: not a URL: relative URL without a base
kbc = { name = "cc_kbc", url = "ftp://kbs" }
    line 1, column 32: kbc.url: expected a URL with one of the schemes http, https, found "ftp"
kbc = { name = "cc_kbc", url = "https://u:p@kbs" }
    line 1, column 32: kbc.url: a user name or password has no meaning in this URL
kbc = { name = "cc_kbc", url = "https://kbs/?x" }
    line 1, column 32: kbc.url: a query has no meaning in this URL
kbc = { name = "cc_kbc", url = "https://kbs/#x" }
    line 1, column 32: kbc.url: a fragment has no meaning in this URL
kbc.kbs_cert = "/etc/ca"
    line 1, column 16: kbc.kbs_cert: expected certificates in PEM: no BEGIN CERTIFICATE
kbc.kbs_cert = "-----BEGIN CERTIFICATE-----"
    line 1, column 16: kbc.kbs_cert: expected certificates in PEM: one has no END line
kbc.kbs_cert = "-----BEGIN CERTIFICATE-----x-----END CERTIFICATE-----"
    line 1, column 16: kbc.kbs_cert: expected certificates in PEM: one is not base64 of DER
image.extra_root_certificates = ["cert1"]
    line 1, column 34: image.extra_root_certificates: expected certificates in PEM: no BEGIN CERTIFICATE
image.image_security_policy_uri = ""
    line 1, column 35: image.image_security_policy_uri: expected kbs:///repository/type/tag, file:///path or an absolute path, found ""
image.image_security_policy_uri = "policy.json"
    line 1, column 35: image.image_security_policy_uri: expected kbs:///repository/type/tag, file:///path or an absolute path, found "policy.json"
image.image_security_policy_uri = "https://example.com/p"
    line 1, column 35: image.image_security_policy_uri: expected kbs:///repository/type/tag, file:///path or an absolute path, found "https://example.com/p"
image.image_security_policy_uri = "file://policy.json"
    line 1, column 35: image.image_security_policy_uri: expected kbs:///repository/type/tag, file:///path or an absolute path, found "file://policy.json"
image.image_security_policy_uri = "kbs://default/policy/test"
    line 1, column 35: image.image_security_policy_uri: "kbs://default/policy/test": expected three segments, as in kbs:///repository/type/tag, found 2 (what follows the second slash is a host, which is ignored)
image.image_security_policy_uri = "kbs:///a/../b"
    line 1, column 35: image.image_security_policy_uri: "kbs:///a/../b": segment 2 is . or .. , which is not a name
image.image_security_policy = "{}"
    line 1, column 31: image.image_security_policy: not an image policy: line 1 column 1: the key "default" is missing
image.image_security_policy = ""
    line 1, column 31: image.image_security_policy: not an image policy: line 1 column 1: expected a value, found the end
image.sigstore_config_uri = "x"
    line 1, column 29: image.sigstore_config_uri: expected kbs:///repository/type/tag, file:///path or an absolute path, found "x"
image.authenticated_registry_credentials_uri = "x"
    line 1, column 48: image.authenticated_registry_credentials_uri: expected kbs:///repository/type/tag, file:///path or an absolute path, found "x"
image.registry_configuration_uri = "x"
    line 1, column 36: image.registry_configuration_uri: expected kbs:///repository/type/tag, file:///path or an absolute path, found "x"
image.work_dir = "image"
    line 1, column 18: image.work_dir: expected an absolute path without .., found "image"
image.work_dir = "/run/../etc"
    line 1, column 18: image.work_dir: expected an absolute path without .., found "/run/../etc"
image.max_concurrent_layer_downloads_per_image = 0
    line 1, column 50: image.max_concurrent_layer_downloads_per_image: expected a number from 1 to 500, found 0
image.max_concurrent_layer_downloads_per_image = -1
    line 1, column 50: image.max_concurrent_layer_downloads_per_image: expected a number from 1 to 500, found -1
image.image_pull_proxy.https_proxy = "ftp://user:s3cret@proxy"
    line 1, column 38: image.image_pull_proxy.https_proxy: expected a URL with one of the schemes http, https, socks5, socks5h, found "ftp"
image.image_pull_proxy.http_proxy = "http://"
    line 1, column 37: image.image_pull_proxy.http_proxy: not a URL: empty host
credentials = [{ resource_uri = "file:///x" }]
    line 1, column 33: credentials[0].resource_uri: "file:///x": expected the scheme kbs or kbs+<plugin>, found "file"
image.registry_config.registry = [{ location = "http://a.example" }]
    line 1, column 48: image.registry_config.registry[0].location: expected host[:port][/path], without http:// or https://, found "http://a.example"
image_agent.attester = "sgx"
    line 1, column 24: image_agent.attester: expected one of sample, tdx, snp, attestation-agent, attestation-agent-token, found "sgx"
image_agent.limits.entries = 0
    line 1, column 30: image_agent.limits.entries: expected a number from 1 to 9223372036854775807, found 0
image_agent.limits.path_bytes = 4097
    line 1, column 33: image_agent.limits.path_bytes: expected a number from 1 to 4096, found 4097
image_agent.limits.zstd_window_log = 28
    line 1, column 38: image_agent.limits.zstd_window_log: expected a number from 10 to 27, found 28
image_agent.limits.ratio = 99999999999999999999
    line 1, column 28: image_agent.limits.ratio: expected a number from 1 to 9223372036854775807, found 99999999999999999999
image_agent.timeouts.connect = 0
    line 1, column 32: image_agent.timeouts.connect: expected a number from 1 to 86400, found 0
image_agent.timeouts.total = 86401
    line 1, column 30: image_agent.timeouts.total: expected a number from 1 to 86400, found 86401
"#;

/// Parameters of the kernel, without an `[image]` table in the file.
const PARAMETERS: &str = r#"
agent.enable_signature_verification=
    agent.enable_signature_verification: expected true or false, found ""
agent.enable_signature_verification
    agent.enable_signature_verification: expected true or false, found ""
agent.enable_signature_verification=1
    agent.enable_signature_verification: expected true or false, found "1"
agent.enable_signature_verification=True
    agent.enable_signature_verification: expected true or false, found "True"
agent.image_policy_file=kbs:///a/b/c agent.enable_signature_verification=no
    agent.enable_signature_verification: expected true or false, found "no"
agent.image_policy_file=policy.json
    agent.image_policy_file: expected kbs:///repository/type/tag, file:///path or an absolute path, found "policy.json"
agent.image_policy_file=kbs:///a/b/c agent.image_policy_file=kbs:///a/b/d
    agent.image_policy_file: given twice, as "kbs:///a/b/c" and as "kbs:///a/b/d"
agent.image_registry_auth=auth.json
    agent.image_registry_auth: expected kbs:///repository/type/tag, file:///path or an absolute path, found "auth.json"
agent.https_proxy=ftp://p
    agent.https_proxy: expected a URL with one of the schemes http, https, socks5, socks5h, found "ftp"
agent.http_proxy=http://
    agent.http_proxy: not a URL: empty host
agent.aa_kbc_params=cc_kbc
    agent.aa_kbc_params: expected <kbc>::<url>, found "cc_kbc"
agent.aa_kbc_params=cc_kbc:https://kbs
    agent.aa_kbc_params: expected <kbc>::<url>, found "cc_kbc:https://kbs"
agent.aa_kbc_params=eaa_kbc::kbs:50000
    agent.aa_kbc_params: expected one of cc_kbc, offline_fs_kbc, found "eaa_kbc"
agent.aa_kbc_params=cc_kbc::
    agent.aa_kbc_params: not a URL: relative URL without a base
agent.aa_kbc_params=cc_kbc::null
    agent.aa_kbc_params: not a URL: relative URL without a base
cdh.kbs_resources=kbs:///a/b/c
    cdh.kbs_resources: expected <resource>::<path>, found "kbs:///a/b/c"
cdh.kbs_resources=file:///x::/run/confidential-containers/cdh/kbs/x
    cdh.kbs_resources: "file:///x": expected the scheme kbs or kbs+<plugin>, found "file"
cdh.kbs_resources=kbs:///a/b/c::/etc/passwd
    cdh.kbs_resources: expected a path beneath /run/confidential-containers/cdh/kbs without . or .., found "/etc/passwd"
"#;
