//! The real registry of the distribution, on loopback, with storage of its own.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use http::header::{CONTENT_TYPE, LOCATION};
use reqwest::{Client, StatusCode};
use tempfile::TempDir;

use crate::authority::Authority;
use crate::image::Image;
use crate::programs::{require, run};

/// A running `docker-registry`; dropped, it ends and its storage is erased.
#[derive(Debug)]
pub struct Registry {
    child: Child,
    directory: TempDir,
    storage: PathBuf,
    host: String,
    authority: Option<Authority>,
    client: Client,
}

impl Registry {
    /// Starts one that speaks plain http.
    pub async fn start() -> Self {
        Self::launch(None, "127.0.0.1:0", None).await
    }

    /// Starts one that speaks https under a certificate of its own authority.
    pub async fn start_https() -> Self {
        Self::launch(Some(Authority::mint("registry")), "127.0.0.1:0", None).await
    }

    /// Starts one that speaks https where the world expects it: on port 443, as each of `hosts`.
    ///
    /// That is for a network namespace of its own, where these names lead to loopback.
    pub async fn start_as(hosts: &[&str]) -> Self {
        Self::launch(
            Some(Authority::mint_for("registry", hosts)),
            "127.0.0.1:443",
            None,
        )
        .await
    }

    /// Starts one that serves what this one stores, over https and to those alone who satisfy
    /// `auth`, the section of that name of its configuration.
    pub async fn guarded(&self, auth: &str) -> Self {
        let authority = Some(Authority::mint("guarded registry"));
        let storage = self.storage.clone();
        Self::launch(authority, "127.0.0.1:0", Some((storage, auth))).await
    }

    /// `127.0.0.1:<port>`.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// PEM of the authority that signed the certificate of an https registry.
    pub fn authority(&self) -> &str {
        self.authority
            .as_ref()
            .expect("the registry speaks https")
            .certificate()
    }

    /// Process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Pushes an image by plain requests, exactly as it is; returns the reference by tag.
    ///
    /// `name` is `repository:tag`.
    pub async fn push(&self, name: &str, image: &Image) -> String {
        let (repository, tag) = name.rsplit_once(':').expect("repository:tag");
        let mut uploads = Vec::new();
        image.visit(&mut |digest, bytes, media_type| {
            uploads.push((
                digest.to_owned(),
                bytes.clone(),
                media_type.map(ToOwned::to_owned),
            ));
        });
        for (digest, bytes, media_type) in uploads {
            match media_type {
                None => self.put_blob(repository, &digest, bytes).await,
                Some(kind) => self.put_manifest(repository, &digest, &kind, bytes).await,
            }
        }
        self.put_manifest(repository, tag, &image.media_type, image.manifest.clone())
            .await;
        format!("{}/{name}", self.host)
    }

    /// Pushes an image that no tag names, only its digest.
    pub async fn push_untagged(&self, repository: &str, image: &Image) {
        let digest = image.digest();
        for (digest, bytes) in &image.blobs {
            self.put_blob(repository, digest, bytes.clone()).await;
        }
        self.put_manifest(
            repository,
            &digest,
            &image.media_type,
            image.manifest.clone(),
        )
        .await;
    }

    /// Pushes an image as its author would, with `skopeo copy`; returns the reference by tag.
    pub fn push_with_skopeo(&self, name: &str, image: &Image, arguments: &[&str]) -> String {
        let layout = tempfile::tempdir().expect("make a directory");
        image.write_layout(layout.path(), "image");
        self.push_layout(name, layout.path(), "image", arguments)
    }

    /// Pushes a tag of an OCI layout with `skopeo copy`; returns the reference by tag.
    pub fn push_layout(&self, name: &str, layout: &Path, tag: &str, arguments: &[&str]) -> String {
        let reference = format!("{}/{name}", self.host);
        run(Command::new(require("skopeo", "skopeo"))
            .args([
                "--insecure-policy",
                "copy",
                "--dest-tls-verify=false",
                "--quiet",
            ])
            .args(arguments)
            .arg(format!("oci:{}:{tag}", layout.display()))
            .arg(format!("docker://{reference}")));
        reference
    }

    /// Digest of what `name` (`repository:tag`) stands for now.
    pub async fn digest(&self, name: &str) -> String {
        let (repository, tag) = name.rsplit_once(':').expect("repository:tag");
        let answer = self
            .client
            .get(self.url(repository, &format!("manifests/{tag}")))
            .header(http::header::ACCEPT, crate::image::media_type::OCI_MANIFEST)
            .header(http::header::ACCEPT, crate::image::media_type::OCI_INDEX)
            .header(
                http::header::ACCEPT,
                crate::image::media_type::DOCKER_MANIFEST,
            )
            .header(http::header::ACCEPT, crate::image::media_type::DOCKER_LIST)
            .send()
            .await
            .expect("the registry answers");
        assert_eq!(answer.status(), StatusCode::OK, "{name}");
        crate::image::sha256(
            &answer
                .bytes()
                .await
                .expect("the registry sends the manifest"),
        )
    }

    /// What the registry has at `manifests/<reference>` or `blobs/<digest>` of a repository.
    pub async fn get(&self, repository: &str, rest: &str) -> bytes::Bytes {
        let answer = self
            .client
            .get(self.url(repository, rest))
            .header(http::header::ACCEPT, crate::image::media_type::OCI_MANIFEST)
            .header(http::header::ACCEPT, crate::image::media_type::OCI_INDEX)
            .send()
            .await
            .expect("the registry answers");
        assert_eq!(answer.status(), StatusCode::OK, "{repository} {rest}");
        answer.bytes().await.expect("the registry sends it")
    }

    async fn launch(
        authority: Option<Authority>,
        listen: &str,
        guarded: Option<(PathBuf, &str)>,
    ) -> Self {
        let program = require("docker-registry", "docker-registry");
        let directory = tempfile::tempdir().expect("make a directory");
        let tls = authority.as_ref().map_or_else(String::new, |authority| {
            authority.write(directory.path());
            let path = directory.path().display();
            format!("  tls:\n    certificate: {path}/server.pem\n    key: {path}/server.key\n")
        });
        let (storage, auth) = guarded.unwrap_or_else(|| (directory.path().join("storage"), ""));
        let config = format!(
            "version: 0.1\nlog:\n  level: info\nstorage:\n  filesystem:\n    rootdirectory: {}\n\
             http:\n  addr: {listen}\n{tls}{auth}",
            storage.display()
        );
        std::fs::write(directory.path().join("config.yml"), config).expect("write config.yml");
        let log = std::fs::File::create(directory.path().join("log")).expect("make the log");
        let child = Command::new(program)
            .arg("serve")
            .arg(directory.path().join("config.yml"))
            .env("OTEL_TRACES_EXPORTER", "none")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("docker-registry starts");
        let client = authority
            .iter()
            .fold(Client::builder().no_proxy(), |builder, authority| {
                builder.tls_certs_only([authority.root()])
            });
        let mut registry = Self {
            child,
            directory,
            storage,
            host: String::new(),
            authority,
            client: client.build().expect("an HTTP client"),
        };
        registry.host = registry.address().await;
        registry
    }

    /// Waits for the address that the registry chose, as its log tells it.
    async fn address(&mut self) -> String {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let log = std::fs::read_to_string(self.directory.path().join("log"))
                .expect("read the registry's log");
            let found = log.split("listening on ").nth(1).and_then(|rest| {
                let end = rest.find(|c: char| c != '.' && c != ':' && !c.is_ascii_digit())?;
                Some(rest[..end].to_owned())
            });
            if let Some(address) = found {
                return address;
            }
            let ended = self.child.try_wait().expect("wait for the registry");
            assert!(
                ended.is_none() && Instant::now() < deadline,
                "docker-registry does not listen:\n{log}"
            );
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    fn url(&self, repository: &str, rest: &str) -> String {
        let scheme = if self.authority.is_some() {
            "https"
        } else {
            "http"
        };
        format!("{scheme}://{}/v2/{repository}/{rest}", self.host)
    }

    async fn put_blob(&self, repository: &str, digest: &str, bytes: bytes::Bytes) {
        let begun = self
            .client
            .post(self.url(repository, "blobs/uploads/"))
            .send()
            .await
            .expect("the registry answers");
        assert_eq!(
            begun.status(),
            StatusCode::ACCEPTED,
            "{repository} {digest}"
        );
        let location = begun.headers()[LOCATION]
            .to_str()
            .expect("a URL")
            .to_owned();
        let location = format!("{location}&digest={digest}");
        let answer = self
            .client
            .put(location)
            .body(bytes)
            .send()
            .await
            .expect("the registry answers");
        assert_eq!(
            answer.status(),
            StatusCode::CREATED,
            "{repository} {digest}"
        );
    }

    async fn put_manifest(
        &self,
        repository: &str,
        reference: &str,
        media_type: &str,
        bytes: bytes::Bytes,
    ) {
        let answer = self
            .client
            .put(self.url(repository, &format!("manifests/{reference}")))
            .header(CONTENT_TYPE, media_type)
            .body(bytes)
            .send()
            .await
            .expect("the registry answers");
        let status = answer.status();
        let text = answer.text().await.unwrap_or_default();
        assert_eq!(
            status,
            StatusCode::CREATED,
            "{repository}:{reference}: {text}"
        );
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        // A registry that has ended already needs neither.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
