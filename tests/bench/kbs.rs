//! What the owner's KBS is asked for, counted, and what asking costs beside a bare request.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::try_join_all;
use kbs_client::{KbsClient, KbsConfig, ResourceUri, SampleAttester, SessionProof};
use kit::image::Image;
use kit::kbs::{DevKbs, Requests};
use kit::scene::{POLICY, Scene};
use reqwest::{Certificate, Client};
use rustix::time::{ClockId, clock_gettime};
use serde::Serialize;
use serde_json::json;

use crate::fault::{During, Fault};
use crate::report::{Verdict, table};

/// Everything that this part of the bench found out.
#[derive(Debug, Serialize)]
pub(crate) struct KbsReport {
    counts: Vec<Count>,
    /// Of a fetch on a session that lives.
    ours: Cost,
    /// Of a `GET` of the same URL with the same token, whose answer stays sealed.
    bare: Cost,
    /// The median of what the one costs more than the other right after it.
    more: Duration,
    /// Requests and connections of as many fetches.
    fetches: usize,
    requests: usize,
    connections: usize,
}

/// What something cost the KBS, and what it may cost.
#[derive(Debug, Serialize)]
struct Count {
    what: &'static str,
    /// Handshakes, resources.
    found: (usize, usize),
    expected: (usize, usize),
}

/// The median of one fetch.
#[derive(Debug, Serialize)]
struct Cost {
    cpu: Duration,
    wall: Duration,
}

impl KbsReport {
    pub(crate) fn measure() -> Result<KbsReport, Fault> {
        let during = || "starting the runtime".to_owned();
        // A pull's KBS and registry go on while it is waited for.
        let serving = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .during(during)?;
        let mut counts = serving.block_on(pulls());
        drop(serving);
        // The client and its connection are on this thread, whose CPU time is theirs alone.
        let own = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .during(during)?;
        own.block_on(async {
            counts.extend(fetches().await?);
            warm(counts).await
        })
    }

    pub(crate) fn verdicts(&self) -> Vec<Verdict> {
        let counts = self.counts.iter().map(|count| Verdict {
            text: format!("KBS, {}: {}", count.what, told(count.found)),
            holds: count.found == count.expected,
        });
        let warm = [
            Verdict {
                text: format!(
                    "KBS, {} warm fetches: {} requests on {} connection",
                    self.fetches, self.requests, self.connections
                ),
                holds: self.requests == self.fetches && self.connections == 1,
            },
            Verdict {
                text: format!(
                    "KBS, a warm fetch costs at most 1 ms of CPU more than a bare GET: {}",
                    microseconds(self.more)
                ),
                holds: self.more <= MOST,
            },
        ];
        counts.chain(warm).collect()
    }

    pub(crate) fn markdown(&self) -> String {
        let columns = ["what", "handshakes", "resources asked for"];
        let row = |count: &Count| {
            let (handshakes, resources) = count.found;
            vec![
                count.what.to_owned(),
                handshakes.to_string(),
                resources.to_string(),
            ]
        };
        let counts = table(&columns, &self.counts.iter().map(row).collect::<Vec<_>>());
        let columns = ["one fetch on a kept connection", "CPU", "wall"];
        let row = |what: &str, cost: &Cost| {
            let (cpu, wall) = (microseconds(cost.cpu), microseconds(cost.wall));
            vec![what.to_owned(), cpu, wall]
        };
        let rows = [
            row("`KbsClient::resource`", &self.ours),
            row("a bare `GET`, left sealed", &self.bare),
        ];
        let costs = table(&columns, &rows);
        let (fetches, requests, connections) = (self.fetches, self.requests, self.connections);
        let more = microseconds(self.more);
        format!(
            "{counts}\n{costs}\nThe difference, run by run: {more} of CPU. {fetches} fetches took \
             {requests} requests on {connections} connection.\n"
        )
    }
}

const MOST: Duration = Duration::from_millis(1);
/// Fetches in one run, and runs.
const RUN: usize = 100;
const RUNS: usize = 21;
const RESOURCE: &str = "default/bench/key";
const CREDENTIALS: &str = "default/credentials/bench";

/// An image whose policy, three keys and credentials are in the KBS.
async fn pulls() -> Vec<Count> {
    let scene = Scene::start().await;
    let keys = ["default/key/1", "default/key/2", "default/key/3"];
    for key in keys {
        scene.kbs.put(key, scene.key.public_pem());
    }
    let paths = keys.map(|key| format!("kbs:///{key}"));
    let signed = json!([{ "type": "sigstoreSigned", "keyPaths": paths }]);
    scene.set_policy(&json!({ "default": signed }));
    let nobody = json!({ "auths": {} }).to_string();
    scene.kbs.put(CREDENTIALS, nobody);
    let image = scene.push_signed("bench:1", &Image::small("bench")).await;
    let mut guest = scene.guest();
    guest.settings = guest.settings.clone().with(
        "image.authenticated_registry_credentials_uri",
        format!("kbs:///{CREDENTIALS}"),
    );
    let daemon = guest.start().await;
    let mut counts = Vec::new();
    for (bundle, what, handshakes) in [
        ("first", "a pull: policy, 3 keys and credentials", 1),
        ("second", "the next pull", 0),
    ] {
        let before = scene.kbs.requests();
        daemon.delivers(&image, &guest.bundle(bundle)).await;
        counts.push(count(what, &scene.kbs, before, (handshakes, 5)));
    }
    scene.kbs.deny(POLICY);
    let guest = scene.guest();
    let before = scene.kbs.requests();
    guest
        .start()
        .await
        .refuses(&image, &guest.bundle("denied"))
        .await;
    counts.push(count(
        "a first pull whose policy is denied",
        &scene.kbs,
        before,
        (1, 1),
    ));
    counts
}

/// What a client of its own asks for.
async fn fetches() -> Result<Vec<Count>, Fault> {
    let kbs = kbs();
    let (client, uri) = (client(&kbs)?, uri(RESOURCE)?);
    let before = kbs.requests();
    try_join_all((0..RUN).map(|_| client.resource(&uri))).await?;
    let together = count("100 fetches at once", &kbs, before, (1, RUN));
    kbs.deny(RESOURCE);
    let before = kbs.requests();
    let answer = client.resource(&uri).await;
    let refused = matches!(answer, Err(kbs_client::Error::PolicyDenied { .. }));
    let expected = (0, usize::from(refused));
    let denied = count("a denied resource", &kbs, before, expected);
    Ok(vec![together, denied])
}

/// Fetches and bare requests by turns, so that whatever else the machine does hits both alike.
async fn warm(counts: Vec<Count>) -> Result<KbsReport, Fault> {
    let kbs = kbs();
    let (client, uri) = (client(&kbs)?, uri(RESOURCE)?);
    client.resource(&uri).await?;
    let bare = Bare::new(&kbs).await?;
    let (before, connections) = (kbs.requests(), kbs.connections());
    let mut runs = Vec::new();
    for _ in 0..RUNS {
        let ours = async || client.resource(&uri).await.map(drop).map_err(Fault::from);
        let ours = cost(ours).await?;
        runs.push((ours, cost(async || bare.get().await).await?));
    }
    let fetches = RUN * RUNS;
    let requests = (kbs.requests().get - before.get).saturating_sub(fetches);
    let each = |pick: fn(&(Cost, Cost)) -> Duration| median(runs.iter().map(pick).collect());
    Ok(KbsReport {
        counts,
        more: each(|(ours, bare)| ours.cpu.saturating_sub(bare.cpu)),
        ours: Cost {
            cpu: each(|(ours, _)| ours.cpu),
            wall: each(|(ours, _)| ours.wall),
        },
        bare: Cost {
            cpu: each(|(_, bare)| bare.cpu),
            wall: each(|(_, bare)| bare.wall),
        },
        fetches,
        requests,
        // The bare requests have one, too.
        connections: 1 + kbs.connections() - connections,
    })
}

/// The same request without a client for the KBS.
struct Bare {
    http: Client,
    url: String,
    token: String,
}

impl Bare {
    async fn new(kbs: &DevKbs) -> Result<Self, Fault> {
        // Any point of the curve, such as its base point, can be sealed to.
        let key = json!({
            "kty": "EC", "crv": "P-256", "alg": "ECDH-ES+A256KW",
            "x": "axfR8uEsQkf4vOblY6RA8ncDfYEt6zOg9KE5RdiYwpY",
            "y": "T-NC4v4af5uO5-tKfA-eFivOM1drMV7Oy7ZAaDe_UfU",
        });
        let root = Certificate::from_pem(kbs.certificate().as_bytes())?;
        let bare = Self {
            http: Client::builder()
                .no_proxy()
                .tls_certs_only([root])
                .build()?,
            url: format!("{}/kbs/v0/resource/{RESOURCE}", kbs.url()),
            token: kbs.token_for(&key),
        };
        bare.get().await?;
        Ok(bare)
    }

    async fn get(&self) -> Result<(), Fault> {
        let request = self.http.get(&self.url).bearer_auth(&self.token);
        let answer = request.send().await?.error_for_status()?;
        answer.bytes().await?;
        Ok(())
    }
}

/// What one of a run of fetches costs this thread.
async fn cost(fetch: impl AsyncFn() -> Result<(), Fault>) -> Result<Cost, Fault> {
    let (cpu, start) = (thread_cpu(), Instant::now());
    for _ in 0..RUN {
        fetch().await?;
    }
    let each = u32::try_from(RUN).unwrap_or(u32::MAX);
    Ok(Cost {
        cpu: thread_cpu().saturating_sub(cpu) / each,
        wall: start.elapsed() / each,
    })
}

fn thread_cpu() -> Duration {
    Duration::try_from(clock_gettime(ClockId::ThreadCPUTime)).unwrap_or_default()
}

fn kbs() -> DevKbs {
    let kbs = DevKbs::https();
    kbs.put(RESOURCE, "-----BEGIN PUBLIC KEY-----\n".repeat(8));
    kbs
}

/// With its token, as the bare request: the cookie is shorter.
fn client(kbs: &DevKbs) -> Result<KbsClient, Fault> {
    let url = kbs.url();
    let mut config = KbsConfig::new(url.parse().map_err(|_| Fault::Unknown {
        kind: "URL",
        name: url,
        expected: "that of the development KBS".to_owned(),
    })?);
    config.root_certificates = vec![kbs.certificate().into()];
    config.proof = SessionProof::Bearer;
    let client = KbsClient::new(config, Arc::new(SampleAttester));
    client.map_err(|source| Fault::KbsClient(Box::new(source)))
}

fn uri(path: &str) -> Result<ResourceUri, Fault> {
    let name = format!("kbs:///{path}");
    name.parse().map_err(|_| Fault::Unknown {
        kind: "resource",
        name,
        expected: "kbs:///repository/type/tag".to_owned(),
    })
}

fn count(what: &'static str, kbs: &DevKbs, before: Requests, expected: (usize, usize)) -> Count {
    let now = kbs.requests();
    Count {
        what,
        found: (now.attest - before.attest, now.get - before.get),
        expected,
    }
}

fn told((handshakes, resources): (usize, usize)) -> String {
    format!("{handshakes} handshakes, {resources} resources asked for")
}

fn microseconds(time: Duration) -> String {
    format!("{} µs", time.as_micros())
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times.get(times.len() / 2).copied().unwrap_or_default()
}
