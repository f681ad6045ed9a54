//! Debian's docker-registry on loopback, with the cached images as its storage.

use std::fs;
use std::io::Read;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde::Deserialize;
use serde_json::{Value, json};

use crate::fault::{During, Fault};
use crate::http::{Answer, Endpoint, Request};
use crate::layer::sha256;
use crate::measure::cpu_of_process;

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

/// A running registry; dropping it ends the process.
#[derive(Debug)]
pub(crate) struct Registry {
    process: Child,
    endpoint: Endpoint,
}

/// What the bench needs of a manifest.
#[derive(Debug, Deserialize)]
pub(crate) struct Manifest {
    /// Bottom first.
    layers: Vec<RemoteLayer>,
}

/// A layer as the manifest in the registry names it.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct RemoteLayer {
    pub(crate) digest: String,
    pub(crate) media_type: String,
}

impl Registry {
    const START_SECONDS: u64 = 20;

    /// Starts it over `storage`, on a port that was free a moment ago.
    pub(crate) fn start(storage: &Path) -> Result<Registry, Fault> {
        fs::create_dir_all(storage).during(|| format!("creating {}", storage.display()))?;
        let socket = TcpListener::bind("127.0.0.1:0").during(|| "binding a port".to_owned())?;
        let port = socket
            .local_addr()
            .during(|| "binding a port".to_owned())?
            .port();
        drop(socket);
        let config = storage.with_extension("yml");
        fs::write(&config, configuration(storage, port).to_string())
            .during(|| format!("writing {}", config.display()))?;
        // The parent-death signal ends the registry even when the bench is killed.
        let process = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "docker-registry", "serve"])
            .arg(&config)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .during(|| "starting docker-registry".to_owned())?;
        let registry = Registry {
            process,
            endpoint: Endpoint { port },
        };
        registry.wait_until_up()?;
        Ok(registry)
    }

    fn wait_until_up(&self) -> Result<(), Fault> {
        let deadline = Instant::now() + Duration::from_secs(Self::START_SECONDS);
        while Instant::now() < deadline {
            if self.endpoint.get("/v2/".to_owned(), "*/*").is_ok() {
                return Ok(());
            }
            thread::sleep(Duration::from_millis(50));
        }
        Err(Fault::RegistryDown {
            port: self.endpoint.port,
            seconds: Self::START_SECONDS,
        })
    }

    /// `127.0.0.1:PORT`
    pub(crate) fn host(&self) -> String {
        format!("127.0.0.1:{}", self.endpoint.port)
    }

    /// The image's full name.
    pub(crate) fn reference(&self, image: &str) -> String {
        format!("{}/bench/{image}:latest", self.host())
    }

    /// CPU time that the registry has used so far.
    pub(crate) fn cpu(&self) -> Result<Duration, Fault> {
        cpu_of_process(self.process.id())
    }

    /// Digest and body of the image's manifest.
    pub(crate) fn manifest(&self, image: &str) -> Result<(String, Manifest), Fault> {
        let path = format!("/v2/bench/{image}/manifests/latest");
        let mut body = Vec::new();
        let mut answer = self.endpoint.get(path, MANIFEST)?;
        answer
            .body
            .read_to_end(&mut body)
            .during(|| format!("the manifest of {image}"))?;
        let manifest = serde_json::from_slice(&body).map_err(|source| Fault::Json {
            what: format!("the manifest of {image}"),
            source,
        })?;
        Ok((sha256(&body), manifest))
    }

    /// The image's layers, bottom first.
    pub(crate) fn layers(&self, image: &str) -> Result<Vec<RemoteLayer>, Fault> {
        self.manifest(image).map(|(_, manifest)| manifest.layers)
    }

    /// A blob of the image, as a stream.
    pub(crate) fn blob(&self, image: &str, digest: &str) -> Result<Answer, Fault> {
        self.endpoint
            .get(format!("/v2/bench/{image}/blobs/{digest}"), "*/*")
    }

    /// Reads every layer once, so that no run waits for the disk.
    pub(crate) fn warm(&self, image: &str) -> Result<(), Fault> {
        let mut buffer = vec![0; 256 * 1024];
        for layer in self.layers(image)? {
            let mut body = self.blob(image, &layer.digest)?.body;
            let during = || format!("reading {}", layer.digest);
            while body.read(&mut buffer).during(during)? > 0 {}
        }
        Ok(())
    }

    /// Uploads a blob in one piece.
    pub(crate) fn put_blob(&self, image: &str, bytes: &[u8]) -> Result<(), Fault> {
        let path = format!("/v2/bench/{image}/blobs/uploads/");
        let start = Request {
            method: "POST",
            path: path.clone(),
            headers: &[],
            body: &[],
        };
        let answer = self.endpoint.send(&start, 202)?;
        let location = answer.header("location").unwrap_or_default();
        let relative = location
            .find("/v2/")
            .and_then(|start| location.get(start..));
        let Some(relative) = relative else {
            return Err(Fault::Header {
                method: "POST",
                path,
                header: "location",
            });
        };
        let joint = if relative.contains('?') { '&' } else { '?' };
        let path = format!("{relative}{joint}digest={}", sha256(bytes));
        let headers = [("Content-Type", "application/octet-stream")];
        let upload = Request {
            method: "PUT",
            path,
            headers: &headers,
            body: bytes,
        };
        self.endpoint.send(&upload, 201).map(drop)
    }

    /// Stores an OCI manifest under a tag.
    pub(crate) fn put_manifest(&self, image: &str, tag: &str, body: &[u8]) -> Result<(), Fault> {
        let path = format!("/v2/bench/{image}/manifests/{tag}");
        let headers = [("Content-Type", MANIFEST)];
        let upload = Request {
            method: "PUT",
            path,
            headers: &headers,
            body,
        };
        self.endpoint.send(&upload, 201).map(drop)
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        // Neither can fail in a way that matters: the process is ours and not yet waited for.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The configuration file; JSON is YAML.
fn configuration(storage: &Path, port: u16) -> Value {
    let storage: PathBuf = storage.to_owned();
    json!({
        "version": 0.1,
        "log": { "level": "error", "accesslog": { "disabled": true } },
        "storage": {
            "cache": { "blobdescriptor": "inmemory" },
            "filesystem": { "rootdirectory": storage },
            "maintenance": { "uploadpurging": { "enabled": false } },
        },
        "http": { "addr": format!("127.0.0.1:{port}") },
    })
}
