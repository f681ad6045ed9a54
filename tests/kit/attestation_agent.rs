//! The attestation agent of a guest, over real ttrpc: what it is told to be, with its failures on
//! demand. Its evidence is of the sample kind.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use protobuf::{CodedInputStream, CodedOutputStream};
use serde_json::json;
use tempfile::TempDir;
use tokio::sync::oneshot;
use ttrpc::asynchronous::{MethodHandler, Server, Service, TtrpcContext};

/// What the agent answers with.
#[derive(Debug, Clone, Default)]
pub struct AgentAnswers {
    /// To `GetTeeType`.
    pub tee: String,
    /// To `GetAdditionalEvidence`; the method is unknown when absent.
    pub additional: Option<String>,
    /// To `GetToken`: the token and its key, in JSON; it fails when absent.
    pub token: Option<String>,
    /// How long each answer takes.
    pub delay: Duration,
}

/// A running agent. Dropped, it ends.
#[derive(Debug)]
pub struct AttestationAgentStandIn {
    folder: TempDir,
    shared: Arc<Shared>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    answers: Mutex<AgentAnswers>,
    calls: Mutex<Vec<(&'static str, Vec<u8>)>>,
}

const SERVICE: &str = "attestation_agent.AttestationAgentService";
const METHODS: [&str; 4] = [
    "GetTeeType",
    "GetEvidence",
    "GetAdditionalEvidence",
    "GetToken",
];

impl AttestationAgentStandIn {
    /// Starts one.
    ///
    /// # Panics
    /// When there is no thread or no socket to be had.
    pub fn start(answers: AgentAnswers) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let shared = Arc::new(Shared {
            answers: Mutex::new(answers),
            calls: Mutex::default(),
        });
        let (stop, stopped) = oneshot::channel();
        let (ready, is_ready) = std::sync::mpsc::channel();
        let address = format!("unix://{}", socket(folder.path()).display());
        let serving = Arc::clone(&shared);
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .expect("a runtime");
            runtime.block_on(async {
                let mut server = Server::new()
                    .bind(&address)
                    .expect("a free path")
                    .register_service(services(&serving));
                server.start().await.expect("a server");
                ready.send(()).expect("somebody waits");
                // Dropping the sender is a stop as well.
                let _ = stopped.await;
                server.shutdown().await.expect("a running server");
            });
        });
        is_ready.recv().expect("the agent starts");
        Self {
            folder,
            shared,
            stop: Some(stop),
            thread: Some(thread),
        }
    }

    /// Where it listens.
    pub fn socket(&self) -> PathBuf {
        socket(self.folder.path())
    }

    /// Changes what it answers with.
    pub fn set(&self, change: impl FnOnce(&mut AgentAnswers)) {
        change(&mut lock(&self.shared.answers));
    }

    /// What was asked for so far, with the field of each request.
    pub fn calls(&self) -> Vec<(&'static str, Vec<u8>)> {
        lock(&self.shared.calls).clone()
    }
}

impl Drop for AttestationAgentStandIn {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let ended = thread.join();
            assert!(
                std::thread::panicking() || ended.is_ok(),
                "the agent panicked"
            );
        }
    }
}

fn socket(folder: &Path) -> PathBuf {
    folder.join("attestation-agent.sock")
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("no call panicked")
}

fn services(shared: &Arc<Shared>) -> HashMap<String, Service> {
    let methods = METHODS.iter().map(|name| {
        let method = Method {
            name,
            shared: Arc::clone(shared),
        };
        let handler: Box<dyn MethodHandler + Send + Sync> = Box::new(method);
        ((*name).to_owned(), handler)
    });
    let service = Service {
        methods: methods.collect(),
        streams: HashMap::new(),
    };
    HashMap::from([(SERVICE.to_owned(), service)])
}

struct Method {
    name: &'static str,
    shared: Arc<Shared>,
}

#[async_trait]
impl MethodHandler for Method {
    async fn handler(
        &self,
        _: TtrpcContext,
        request: ttrpc::Request,
    ) -> ttrpc::Result<ttrpc::Response> {
        let argument = first_field(&request.payload).expect("a legal message");
        lock(&self.shared.calls).push((self.name, argument.clone()));
        let answers = lock(&self.shared.answers).clone();
        tokio::time::sleep(answers.delay).await;
        let refused = |code, text: &str| Ok(response(code, text, Vec::new()));
        let answer = match self.name {
            "GetTeeType" => answers.tee.into_bytes(),
            "GetEvidence" => {
                let report_data = STANDARD.encode(&argument);
                let evidence = json!({ "svn": "1", "report_data": report_data });
                evidence.to_string().into_bytes()
            }
            "GetAdditionalEvidence" => match answers.additional {
                Some(evidence) => evidence.into_bytes(),
                None => return refused(ttrpc::Code::UNIMPLEMENTED, "NoSuch method"),
            },
            _ => match answers.token {
                Some(token) if argument == b"kbs" => token.into_bytes(),
                _ => {
                    let text = "[ERROR:attestation-agent] AA-KBC get token failed";
                    return refused(ttrpc::Code::INTERNAL, text);
                }
            },
        };
        Ok(response(ttrpc::Code::OK, "", message(&answer)))
    }
}

fn response(code: ttrpc::Code, text: &str, payload: Vec<u8>) -> ttrpc::Response {
    let mut response = ttrpc::Response::new();
    response.set_status(ttrpc::get_status(code, text.to_owned()));
    response.payload = payload;
    response
}

/// `{ 1: bytes }`, empty bytes being left out.
fn message(bytes: &[u8]) -> Vec<u8> {
    let mut message = Vec::new();
    if !bytes.is_empty() {
        let mut output = CodedOutputStream::vec(&mut message);
        output.write_bytes(1, bytes).expect("memory");
        output.flush().expect("memory");
        drop(output);
    }
    message
}

fn first_field(message: &[u8]) -> protobuf::Result<Vec<u8>> {
    let mut input = CodedInputStream::from_bytes(message);
    match input.read_raw_tag_or_eof()? {
        None => Ok(Vec::new()),
        Some(tag) => {
            assert_eq!(tag, 10, "field 1, of bytes");
            input.read_bytes()
        }
    }
}
