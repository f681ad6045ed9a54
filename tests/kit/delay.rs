//! A long line: a relay on loopback behind which everything seems to be far away.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::Instant;

/// The relay; dropped, it and its connections end.
#[derive(Debug)]
pub struct Delay {
    address: SocketAddr,
    server: JoinHandle<()>,
}

impl Delay {
    /// Starts one to `target`, `host:port`. A connection is there after a round trip, and every
    /// byte takes half of one, each way.
    pub async fn to(target: &str, round_trip: Duration) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind a port");
        let address = listener.local_addr().expect("the port");
        let server = tokio::spawn(accept(listener, target.to_owned(), round_trip));
        Self { address, server }
    }

    /// `127.0.0.1:<port>`.
    pub fn host(&self) -> String {
        self.address.to_string()
    }
}

impl Drop for Delay {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn accept(listener: TcpListener, target: String, round_trip: Duration) {
    let mut connections = JoinSet::new();
    loop {
        let Ok((client, _)) = listener.accept().await else {
            continue;
        };
        let target = target.clone();
        // Whatever ends a connection at one side ends it at the other.
        connections.spawn(async move { relay(client, &target, round_trip).await });
        while connections.try_join_next().is_some() {}
    }
}

async fn relay(client: TcpStream, target: &str, round_trip: Duration) -> io::Result<()> {
    tokio::time::sleep(round_trip).await;
    let server = TcpStream::connect(target).await?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    let (up, down) = (channel(UNDER_WAY), channel(UNDER_WAY));
    let one_way = round_trip / 2;
    tokio::try_join!(
        take(from_client, up.0, one_way),
        give(up.1, to_server),
        take(from_server, down.0, one_way),
        give(down.1, to_client),
    )?;
    Ok(())
}

/// Bytes, and when they arrive.
type Piece = (Instant, Bytes);

async fn take(
    mut from: impl AsyncRead + Unpin,
    pieces: Sender<Piece>,
    one_way: Duration,
) -> io::Result<()> {
    let mut buffer = vec![0; 64 << 10];
    loop {
        let count = from.read(&mut buffer).await?;
        if count == 0 {
            return Ok(());
        }
        let piece = (
            Instant::now() + one_way,
            Bytes::copy_from_slice(&buffer[..count]),
        );
        if pieces.send(piece).await.is_err() {
            return Ok(());
        }
    }
}

async fn give(mut pieces: Receiver<Piece>, mut to: impl AsyncWrite + Unpin) -> io::Result<()> {
    while let Some((arrival, bytes)) = pieces.recv().await {
        tokio::time::sleep_until(arrival).await;
        to.write_all(&bytes).await?;
    }
    to.shutdown().await
}

/// Pieces on the way, so many that the line is long and not narrow.
const UNDER_WAY: usize = 256;
