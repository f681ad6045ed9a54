//! The effective configuration as TOML, for people.

use std::fmt::Display;

use policy::Digest;
use toml::Value;

use super::{
    AttesterName, CREDENTIALS_FOLDER, Config, EvidencePlaces, Image, Kbc, Own, PolicySource, Proxy,
    RegistrySettings, Source, masked, value,
};
use crate::registries::Registries;

/// The whole of `config`. Passwords are masked; certificates have their fingerprint beside them.
pub(super) fn print(config: &Config) -> String {
    let mut page = Page::default();
    page.text("socket", &format!("unix://{}", config.socket.display()));
    kbc(&mut page, &config.kbc);
    page.table("[aa]");
    page.text(
        "aa_socket",
        &format!("unix://{}", config.aa_socket.display()),
    );
    for credential in &config.credentials {
        page.table("[[credentials]]");
        page.text("resource_uri", credential.resource_uri());
        page.text(
            "path",
            &format!("{CREDENTIALS_FOLDER}/{}", credential.path().display()),
        );
    }
    image(&mut page, &config.image);
    page.table("[log]");
    page.text("level", &config.log_level);
    own(&mut page, &config.image_agent);
    page.finish()
}

fn kbc(page: &mut Page, kbc: &Kbc) {
    page.table("[kbc]");
    match kbc {
        Kbc::Kbs { url, certificates } => {
            page.text("name", "cc_kbc");
            page.text("url", url.as_str());
            match certificates {
                Some(pem) => {
                    page.fingerprints("kbs_cert", pem);
                    page.text("kbs_cert", pem);
                }
                None if url.scheme() == "https" => page.note("kbs_cert: the system's certificates"),
                None => {}
            }
        }
        Kbc::OfflineFs { extra_files } => {
            page.text("name", "offline_fs_kbc");
            for file in extra_files {
                page.note(&format!(
                    "OFFLINE_FS_KBC_EXTRA_FILE_PATH: {}",
                    file.display()
                ));
            }
        }
    }
}

fn image(page: &mut Page, image: &Image) {
    page.table("[image]");
    page.text("work_dir", &image.work_dir.display().to_string());
    match &image.policy {
        PolicySource::Uri(uri) => page.text("image_security_policy_uri", uri),
        PolicySource::Inline(text) => page.text("image_security_policy", text),
        PolicySource::NotConfigured { .. } => page.note("no policy: every image is refused"),
    }
    match &image.sigstore_config {
        Some(Source::Uri(uri)) => page.text("sigstore_config_uri", uri),
        Some(Source::Inline(text)) => page.text("sigstore_config", text),
        None => {}
    }
    if let Some(uri) = &image.registry_credentials {
        page.text("authenticated_registry_credentials_uri", uri);
    }
    page.entry(
        "anonymous_fallback_on_unauthorized",
        image.anonymous_fallback,
    );
    if let Some(uri) = &image.registry_configuration {
        page.text("registry_configuration_uri", uri);
    }
    match image.max_concurrent_layer_downloads {
        Some(most) => page.entry("max_concurrent_layer_downloads_per_image", most),
        None => page.note("max_concurrent_layer_downloads_per_image: up to 16, by size"),
    }
    let roots = &image.extra_root_certificates;
    for pem in roots {
        page.fingerprints("extra_root_certificates", pem);
    }
    if !roots.is_empty() {
        page.entry("extra_root_certificates", Value::from(roots.clone()));
    }
    proxy(page, &image.proxy);
    registries(page, &image.registries);
}

fn proxy(page: &mut Page, proxy: &Proxy) {
    if *proxy == Proxy::default() {
        return;
    }
    page.table("[image.image_pull_proxy]");
    if let Some(url) = &proxy.https {
        page.text("https_proxy", &masked(url));
    }
    if let Some(url) = &proxy.http {
        page.text("http_proxy", &masked(url));
    }
    if let Some(list) = &proxy.exceptions {
        page.text("no_proxy", list);
    }
}

fn registries(page: &mut Page, registries: &Registries) {
    if !registries.helpers().is_empty() {
        page.table("[image.registry_config]");
        page.entry(
            "credential-helpers",
            Value::from(registries.helpers().to_vec()),
        );
    }
    if !registries.aliases().is_empty() {
        page.table("[image.registry_config.aliases]");
    }
    for (short, full) in registries.aliases() {
        page.entry(
            &Value::from(short.as_str()).to_string(),
            Value::from(full.as_str()),
        );
    }
    for entry in registries.entries() {
        page.table("[[image.registry_config.registry]]");
        page.text("prefix", &entry.prefix.to_string());
        if let Some(location) = &entry.location {
            page.text("location", location);
        }
        page.entry("insecure", entry.insecure);
        page.entry("blocked", entry.blocked);
        for mirror in &entry.mirrors {
            page.table("[[image.registry_config.registry.mirror]]");
            page.text("location", &mirror.location);
            page.entry("insecure", mirror.insecure);
            page.text("pull-from-mirror", mirror.pull.name());
            page.entry("ns", mirror.namespace);
        }
    }
}

fn own(page: &mut Page, own: &Own) {
    page.table("[image_agent]");
    let mut named = AttesterName::named();
    match named.find(|(_, attester)| Some(*attester) == own.attester) {
        Some((name, _)) => page.text("attester", name),
        None => page.note("attester: the attestation agent, else configfs-tsm"),
    }
    page.entry("require_authenticated_kbs", own.require_authenticated_kbs);
    page.entry("verbose_errors", own.verbose_errors);
    page.entry("strict_identity", own.strict_identity);
    page.entry("danger_host_writable_store", own.danger_host_writable_store);
    match &own.platform {
        Some(platform) => page.text("platform", &platform.to_string()),
        None => page.note("platform: the one of this program"),
    }
    let folders = own
        .certs_d
        .iter()
        .map(|folder| folder.display().to_string());
    page.entry("certs_d", Value::from(folders.collect::<Vec<_>>()));
    page.entry(
        "credential_helpers",
        Value::from(own.credential_helpers.clone()),
    );
    own_registries(page, &own.registries);
    page.table("[image_agent.kbs]");
    for (key, value) in own.kbs.statements() {
        page.entry(key, value);
    }
    limits(page, &own.limits);
    page.table("[image_agent.timeouts]");
    page.entry("connect", own.timeouts.connect.as_secs());
    page.entry("idle", own.timeouts.idle.as_secs());
    page.entry("total", own.timeouts.total.as_secs());
    page.table("[image_agent.downloads]");
    page.entry("attempts", own.downloads.attempts);
    match own.downloads.bytes_per_second {
        Some(rate) => page.entry("bytes_per_second", rate),
        None => page.note("bytes_per_second: no limit"),
    }
    match own.downloads.memory_bytes {
        Some(bytes) => page.entry("memory_bytes", bytes),
        None => page.note("memory_bytes: by what is fetched at a time"),
    }
    page.table("[image_agent.store]");
    page.entry("linger", own.store.linger.as_secs());
    page.entry("sync", own.store.sync);
    page.entry("volatile", own.store.volatile);
    page.entry("copy_without_overlay", own.store.copy_without_overlay);
    evidence(page, &own.evidence);
}

fn limits(page: &mut Page, limits: &rootfs::Limits) {
    page.table("[image_agent.limits]");
    page.entry("unpacked_bytes", limits.unpacked_bytes);
    page.entry("image_bytes", limits.image_bytes);
    page.entry("ratio", limits.ratio);
    page.entry("ratio_free_bytes", limits.ratio_free_bytes);
    page.entry("entries", limits.entries);
    page.entry("path_bytes", limits.path_bytes);
    page.entry("path_depth", limits.path_depth);
    page.entry("header_bytes", limits.header_bytes);
    page.entry("xattr_bytes", limits.xattr_bytes);
    page.entry("kept_bytes", limits.kept_bytes);
    page.entry("zstd_window_log", limits.zstd_window_log);
}

fn evidence(page: &mut Page, places: &EvidencePlaces) {
    page.table("[image_agent.evidence]");
    let limits = &places.limits;
    page.entry("candidates", limits.candidates);
    page.entry("candidate_bytes", limits.candidate_bytes);
    page.entry("total_bytes", limits.total_bytes);
    page.entry("deadline", limits.deadline.as_secs());
    if let Some(layout) = &places.layout {
        page.text("layout", &layout.display().to_string());
    }
    if let Some(folder) = &places.delivered {
        page.text("delivered", folder);
    }
}

/// Keys that stand here in full do not print.
fn own_registries(page: &mut Page, registries: &[RegistrySettings]) {
    for registry in registries {
        page.table("[[image_agent.registry]]");
        page.text("host", &registry.host);
        if let Some(ca) = &registry.ca {
            pem(page, "ca", ca);
        }
        if let Some((certificate, key)) = &registry.client {
            pem(page, "client_certificate", certificate);
            match key {
                Source::Uri(location) => page.text("client_key", location),
                Source::Inline(_) => page.text("client_key", "masked"),
            }
        }
    }
}

fn pem(page: &mut Page, key: &str, source: &Source) {
    match source {
        Source::Uri(location) => page.text(key, location),
        Source::Inline(text) => {
            page.fingerprints(key, text);
            page.text(key, text);
        }
    }
}

/// Lines of TOML.
#[derive(Default)]
struct Page(Vec<String>);

impl Page {
    fn table(&mut self, header: &str) {
        self.0.push(String::new());
        self.0.push(header.to_owned());
    }

    fn entry(&mut self, key: &str, value: impl Display) {
        self.0.push(format!("{key} = {value}"));
    }

    fn text(&mut self, key: &str, text: &str) {
        self.entry(key, Value::from(text));
    }

    fn note(&mut self, text: &str) {
        self.0.push(format!("# {text}"));
    }

    fn fingerprints(&mut self, key: &str, pem: &str) {
        for der in value::pem_certificates(pem).unwrap_or_default() {
            self.note(&format!("{key}: certificate {}", Digest::sha256_of(&der)));
        }
    }

    fn finish(mut self) -> String {
        self.0.push(String::new());
        self.0.join("\n")
    }
}
