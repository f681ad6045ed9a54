//! The least of HTTP that the bench needs: one request per connection, bodies with a length.
//!
//! Written out so that the floor's receive stage is nothing but `read(2)` on a socket.

use std::io::{BufRead, BufReader, Read, Take, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::time::Duration;

use crate::fault::{During, Fault};

/// Where a registry listens on loopback.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Endpoint {
    pub(crate) port: u16,
}

/// A request without its connection.
#[derive(Debug)]
pub(crate) struct Request<'a> {
    pub(crate) method: &'static str,
    pub(crate) path: String,
    pub(crate) headers: &'a [(&'a str, &'a str)],
    pub(crate) body: &'a [u8],
}

/// An answer whose body is still to be read.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    headers: Vec<(String, String)>,
    pub(crate) body: Take<BufReader<TcpStream>>,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let found = self
            .headers
            .iter()
            .find(|(key, _)| key.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.as_str())
    }
}

impl Endpoint {
    /// Sends the request and expects one status.
    pub(crate) fn send(self, request: &Request<'_>, expected: u16) -> Result<Answer, Fault> {
        let answer = self.exchange(request)?;
        if answer.status == expected {
            return Ok(answer);
        }
        Err(Fault::Status {
            method: request.method,
            path: request.path.clone(),
            expected,
            found: answer.status,
        })
    }

    /// The body of `path`, as a stream.
    pub(crate) fn get(self, path: String, accept: &str) -> Result<Answer, Fault> {
        let headers = [("Accept", accept)];
        self.send(
            &Request {
                method: "GET",
                path,
                headers: &headers,
                body: &[],
            },
            200,
        )
    }

    fn exchange(self, request: &Request<'_>) -> Result<Answer, Fault> {
        let during = || format!("{} {}", request.method, request.path);
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).during(during)?;
        stream
            .set_read_timeout(Some(Duration::from_mins(1)))
            .during(during)?;
        let header = |(name, value): &(&str, &str)| format!("{name}: {value}\r\n");
        let head = format!(
            "{} {} HTTP/1.1\r\nHost: 127.0.0.1:{}\r\nConnection: close\r\n\
             Content-Length: {}\r\n{}\r\n",
            request.method,
            request.path,
            self.port,
            request.body.len(),
            request
                .headers
                .iter()
                .map(header)
                .collect::<Vec<_>>()
                .concat(),
        );
        stream.write_all(head.as_bytes()).during(during)?;
        stream.write_all(request.body).during(during)?;
        answer(request, BufReader::with_capacity(16 * 1024, stream))
    }
}

fn answer(request: &Request<'_>, mut stream: BufReader<TcpStream>) -> Result<Answer, Fault> {
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        let during = || format!("the answer to {} {}", request.method, request.path);
        stream.read_line(&mut line).during(during)?;
        let line = line.trim_end();
        if line.is_empty() {
            break;
        }
        lines.push(line.to_owned());
    }
    let lacks = |header| Fault::Header {
        method: request.method,
        path: request.path.clone(),
        header,
    };
    let status = lines
        .first()
        .and_then(|line| line.split(' ').nth(1)?.parse().ok());
    let pair = |line: &String| {
        line.split_once(':')
            .map(|(name, value)| (name.to_owned(), value.trim().to_owned()))
    };
    let headers: Vec<_> = lines.iter().skip(1).filter_map(pair).collect();
    let mut answer = Answer {
        status: status.ok_or_else(|| lacks("status line"))?,
        headers,
        body: stream.take(0),
    };
    let length = answer
        .header("content-length")
        .and_then(|length| length.parse().ok());
    answer
        .body
        .set_limit(length.ok_or_else(|| lacks("content-length"))?);
    Ok(answer)
}
