//! A bad line: a proxy in front of a real registry that breaks what passes through it.
//!
//! It reads just enough of HTTP to know what is asked for and where an answer's body begins, so
//! that a fault can be armed for one blob and counted in bytes of that blob.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::{JoinHandle, JoinSet};

/// What goes wrong with one answer.
#[derive(Debug, Clone)]
pub enum Trouble {
    /// The connection ends after so many bytes of the body.
    DropAfter(u64),
    /// The same by a reset.
    ResetAfter(u64),
    /// Silence after so many bytes of the body, on an open connection.
    StallAfter(u64),
    /// The sending half ends after so many bytes of the body; the other stays open.
    HalfCloseAfter(u64),
    /// The byte at this offset of the document is another one.
    Corrupt(u64),
    /// So many bytes per second.
    Slow(u64),
    /// This status, and with it a `Retry-After` of so many seconds.
    Status(u16, Option<u32>),
    /// The length in the header is that many bytes larger than the body.
    WrongLength(u64),
    /// 307 to the same place.
    RedirectLoop,
    /// The whole document, whatever part of it is asked for.
    IgnoreRange,
    /// The part that is asked for, under the wrong name.
    WrongRange,
}

/// A request as a rule sees it.
#[derive(Debug)]
pub struct Asked<'a> {
    /// The path, and the query if there is one.
    pub target: &'a str,
    /// The first byte that is asked for.
    pub from: u64,
}

type Rule = Box<dyn FnMut(&Asked<'_>) -> Option<Trouble> + Send>;

/// The proxy; dropped, it and its connections end.
pub struct Line {
    address: SocketAddr,
    shared: Arc<Shared>,
    server: JoinHandle<()>,
}

struct Shared {
    target: String,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    rules: Vec<Rule>,
    requests: Vec<String>,
    blob_bytes: u64,
    /// Blobs that pass now, and how many there were at most.
    blobs: (u32, u32),
    wants_token: bool,
}

impl std::fmt::Debug for Line {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Line").finish_non_exhaustive()
    }
}

impl Line {
    /// Starts one to `target`, `host:port`, on a free port.
    ///
    /// # Panics
    /// Outside of a runtime.
    pub fn to(target: &str) -> Self {
        let socket = TcpSocket::new_v4().expect("a socket");
        // Small, so that what counts as passed has about been passed. Connections inherit it.
        socket.set_send_buffer_size(64 << 10).expect("a buffer");
        let any = "127.0.0.1:0".parse().expect("an address");
        socket.bind(any).expect("bind a port");
        let listener = socket.listen(64).expect("listen");
        let address = listener.local_addr().expect("the port");
        let shared = Arc::new(Shared {
            target: target.to_owned(),
            state: Mutex::default(),
        });
        let server = tokio::spawn(accept(listener, Arc::clone(&shared)));
        Self {
            address,
            shared,
            server,
        }
    }

    /// `127.0.0.1:<port>`.
    pub fn host(&self) -> String {
        self.address.to_string()
    }

    /// Breaks every answer for a path or query that has `part` in it.
    pub fn arm(&self, part: &str, trouble: Trouble) {
        self.arm_times(part, trouble, u32::MAX);
    }

    /// The same for the first `times` requests only.
    pub fn arm_times(&self, part: &str, trouble: Trouble, times: u32) {
        let (part, mut left) = (part.to_owned(), times);
        self.arm_by(move |asked| {
            if left == 0 || !asked.target.contains(&part) {
                return None;
            }
            left -= 1;
            Some(trouble.clone())
        });
    }

    /// Breaks answers as `rule` says, which sees every request.
    pub fn arm_by(&self, rule: impl FnMut(&Asked<'_>) -> Option<Trouble> + Send + 'static) {
        self.shared.lock().rules.push(Box::new(rule));
    }

    /// Demands a bearer token from now on, and gives one to whoever asks for `/token`.
    pub fn demand_token(&self) {
        self.shared.lock().wants_token = true;
    }

    /// Behaves again, and forgets what it has seen.
    pub fn disarm(&self) {
        let mut state = self.shared.lock();
        let blobs = (state.blobs.0, 0);
        *state = State {
            blobs,
            ..State::default()
        };
    }

    /// The requests seen, as `target` or `target from N`.
    pub fn requests(&self) -> Vec<String> {
        self.shared.lock().requests.clone()
    }

    /// How many blobs have passed at a time, at most.
    pub fn most_blobs_at_once(&self) -> u32 {
        self.shared.lock().blobs.1
    }

    /// How many bytes of blobs have passed.
    pub fn blob_bytes(&self) -> u64 {
        self.shared.lock().blob_bytes
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wants_token_for(&self, head: &Head) -> bool {
        let is_known = head.path() == "/token" || head.header("authorization").is_some();
        !is_known && self.lock().wants_token
    }

    fn note(&self, head: &Head) -> Option<Trouble> {
        let (target, from) = (head.target(), head.range_start());
        let mut state = self.lock();
        state.requests.push(match from {
            0 => target.to_owned(),
            from => format!("{target} from {from}"),
        });
        let asked = Asked { target, from };
        state.rules.iter_mut().find_map(|rule| rule(&asked))
    }

    fn count(&self, bytes: usize) {
        self.lock().blob_bytes += u64::try_from(bytes).unwrap_or(0);
    }
}

/// A blob that passes, for as long as this value lives.
struct Passing<'a>(&'a Shared);

impl<'a> Passing<'a> {
    fn begin(shared: &'a Shared) -> Self {
        let (now, most) = &mut shared.lock().blobs;
        *now += 1;
        *most = (*most).max(*now);
        Self(shared)
    }
}

impl Drop for Passing<'_> {
    fn drop(&mut self) {
        let (now, _) = &mut self.0.lock().blobs;
        *now = now.saturating_sub(1);
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            continue;
        };
        let shared = Arc::clone(&shared);
        // A connection that breaks, as most here do, is no concern of the others.
        connections.spawn(async move { serve(stream, &shared).await });
        while connections.try_join_next().is_some() {}
    }
}

async fn serve(stream: TcpStream, shared: &Shared) -> io::Result<()> {
    let own = stream.local_addr()?;
    let mut client = BufReader::new(stream);
    while let Some(request) = Head::read(&mut client).await? {
        if shared.wants_token_for(&request) {
            let realm = format!("Bearer realm=\"http://{own}/token\",service=\"line\"");
            let header = format!("www-authenticate: {realm}\r\n");
            client.write_all(&canned(401, &header, "{}", 0)).await?;
            continue;
        }
        let trouble = shared.note(&request);
        let is_open = match (&trouble, request.path()) {
            (Some(Trouble::Status(status, wait)), _) => {
                client.write_all(&refusal(*status, *wait)).await?;
                true
            }
            (Some(Trouble::RedirectLoop), _) => {
                let location = format!("location: {}\r\n", request.target());
                client.write_all(&canned(307, &location, "", 0)).await?;
                true
            }
            (trouble, "/token") => give_token(&mut client, trouble.as_ref()).await?,
            _ => relay(&request, &mut client, trouble.as_ref(), shared).await?,
        };
        if !is_open {
            break;
        }
    }
    Ok(())
}

async fn give_token(
    client: &mut BufReader<TcpStream>,
    trouble: Option<&Trouble>,
) -> io::Result<bool> {
    let token = r#"{"token":"t0ken"}"#;
    let more = match trouble {
        Some(Trouble::WrongLength(more)) => *more,
        _ => 0,
    };
    let answer = canned(200, "", token, more);
    let (head, mut body) = answer.split_at(answer.len() - token.len());
    client.write_all(head).await?;
    let is_whole = pass(&mut body, client, trouble, 0, |_| ()).await?;
    Ok(is_whole && more == 0)
}

/// Passes one request on and its answer back; whether the connection can serve another one.
async fn relay(
    request: &Head,
    client: &mut BufReader<TcpStream>,
    trouble: Option<&Trouble>,
    shared: &Shared,
) -> io::Result<bool> {
    let mut dropped = vec!["connection", "authorization"];
    if matches!(trouble, Some(Trouble::IgnoreRange)) {
        dropped.push("range");
    }
    let _passing = request.is_for_blob().then(|| Passing::begin(shared));
    let mut server = BufReader::new(TcpStream::connect(&shared.target).await?);
    let asking = request.without(&dropped, "connection: close\r\n");
    server.write_all(asking.as_bytes()).await?;
    let Some(answer) = Head::read(&mut server).await? else {
        return Ok(false);
    };
    let length: Option<u64> = answer
        .header("content-length")
        .and_then(|value| value.parse().ok());
    let start = match answer.header("content-range") {
        Some(range) => first_number(range),
        None => 0,
    };
    let (mut dropped, mut added) = (vec!["connection"], String::new());
    let mut replace = |name, value: String| {
        dropped.push(name);
        added = format!("{name}: {value}\r\n");
    };
    match (trouble, length) {
        (Some(Trouble::WrongLength(more)), Some(length)) => {
            replace("content-length", (length + more).to_string());
        }
        (Some(Trouble::WrongRange), _) => replace("content-range", "bytes 0-1/2".to_owned()),
        (_, None) => replace("connection", "close".to_owned()),
        _ => {}
    }
    let head = answer.without(&dropped, &added);
    client.write_all(head.as_bytes()).await?;
    let counted = |bytes| {
        if request.is_for_blob() {
            shared.count(bytes);
        }
    };
    let is_whole = pass(&mut server, client, trouble, start, counted).await?;
    Ok(is_whole && length.is_some() && !matches!(trouble, Some(Trouble::WrongLength(_))))
}

/// Passes a body that begins at the byte `start` of its document; whether all of it has passed on
/// a connection that is still of use.
async fn pass(
    body: &mut (impl tokio::io::AsyncRead + Unpin),
    client: &mut BufReader<TcpStream>,
    trouble: Option<&Trouble>,
    start: u64,
    counted: impl Fn(usize),
) -> io::Result<bool> {
    let stop = match trouble {
        Some(
            Trouble::DropAfter(bytes)
            | Trouble::ResetAfter(bytes)
            | Trouble::StallAfter(bytes)
            | Trouble::HalfCloseAfter(bytes),
        ) => *bytes,
        _ => u64::MAX,
    };
    let piece = match trouble {
        Some(Trouble::Slow(rate)) => usize::try_from(rate / SLICES).unwrap_or(1).max(1),
        _ => 16 << 10,
    };
    let (mut buffer, mut passed) = (vec![0; piece], 0_u64);
    loop {
        let room = usize::try_from(stop - passed).map_or(piece, |room| room.min(piece));
        if room == 0 {
            return end(client, trouble).await;
        }
        let count = body.read(&mut buffer[..room]).await?;
        if count == 0 {
            return Ok(true);
        }
        let bytes = &mut buffer[..count];
        if let Some(Trouble::Corrupt(at)) = trouble {
            let inside = at.checked_sub(start + passed).map(usize::try_from);
            if let Some(byte) = inside.and_then(|at| bytes.get_mut(at.unwrap_or(usize::MAX))) {
                *byte ^= 1;
            }
        }
        client.write_all(bytes).await?;
        counted(count);
        passed += u64::try_from(count).unwrap_or(0);
        if matches!(trouble, Some(Trouble::Slow(_))) {
            tokio::time::sleep(Duration::from_secs(1) / u32::try_from(SLICES).unwrap_or(1)).await;
        }
    }
}

/// Ends the answer in the middle.
async fn end(client: &mut BufReader<TcpStream>, trouble: Option<&Trouble>) -> io::Result<bool> {
    match trouble {
        Some(Trouble::ResetAfter(_)) => {
            // So that what was sent before has arrived.
            tokio::time::sleep(Duration::from_millis(20)).await;
            client.get_ref().set_zero_linger()?;
        }
        Some(Trouble::StallAfter(_)) => std::future::pending().await,
        Some(Trouble::HalfCloseAfter(_)) => {
            client.shutdown().await?;
            let mut nothing = Vec::new();
            client.read_to_end(&mut nothing).await?;
        }
        _ => {}
    }
    Ok(false)
}

/// The first line and the headers of a request or an answer.
struct Head {
    lines: Vec<String>,
}

impl Head {
    async fn read(from: &mut BufReader<TcpStream>) -> io::Result<Option<Self>> {
        let mut lines = Vec::new();
        loop {
            let mut line = String::new();
            if from.read_line(&mut line).await? == 0 {
                return Ok(None);
            }
            let line = line.trim_end();
            if line.is_empty() {
                return Ok(Some(Self { lines }));
            }
            lines.push(line.to_owned());
        }
    }

    fn target(&self) -> &str {
        self.lines[0].split(' ').nth(1).unwrap_or_default()
    }

    fn path(&self) -> &str {
        let path = self.target().split('?').next();
        path.unwrap_or_default()
    }

    fn is_for_blob(&self) -> bool {
        self.path().contains("/blobs/")
    }

    fn header(&self, wanted: &str) -> Option<&str> {
        self.lines.iter().skip(1).find_map(|line| {
            let (name, value) = line.split_once(':')?;
            name.eq_ignore_ascii_case(wanted).then(|| value.trim())
        })
    }

    fn range_start(&self) -> u64 {
        self.header("range").map_or(0, first_number)
    }

    fn without(&self, dropped: &[&str], added: &str) -> String {
        let is_kept = |line: &&String| {
            let name = line.split(':').next().unwrap_or_default();
            !dropped.iter().any(|drop| drop.eq_ignore_ascii_case(name))
        };
        let kept: Vec<_> = self.lines.iter().filter(is_kept).cloned().collect();
        format!("{}\r\n{added}\r\n", kept.join("\r\n"))
    }
}

fn first_number(text: &str) -> u64 {
    let digits: String = text
        .chars()
        .skip_while(|c| !c.is_ascii_digit())
        .take_while(char::is_ascii_digit)
        .collect();
    digits.parse().unwrap_or(0)
}

fn refusal(status: u16, wait: Option<u32>) -> Vec<u8> {
    let body = r#"{"errors":[{"code":"UNKNOWN","message":"the words of the registry"}]}"#;
    let header = wait.map_or_else(String::new, |wait| format!("retry-after: {wait}\r\n"));
    canned(status, &header, body, 0)
}

/// An answer of our own, whose length is `more` than that of its body.
fn canned(status: u16, headers: &str, body: &str, more: u64) -> Vec<u8> {
    let length = u64::try_from(body.len()).unwrap_or(0) + more;
    format!("HTTP/1.1 {status} canned\r\ncontent-length: {length}\r\n{headers}\r\n{body}").into()
}

/// In how many pieces a second's worth of a slow body comes.
const SLICES: u64 = 20;
