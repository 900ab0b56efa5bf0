//! Answers any HTTP request with the version, a thread for each connection.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use nix::errno::Errno;

/// Of one connection, for each read and write.
const PATIENCE: Duration = Duration::from_secs(5);
/// The longest request that is read.
const LONGEST: usize = 8192;

/// Listens on the first port that the app has, `$PORT0`, and returns it.
pub(crate) fn start(version: &str) -> Result<u16, Errno> {
    let port = std::env::var("PORT0").ok();
    let port: u16 = port
        .and_then(|port| port.parse().ok())
        .ok_or(Errno::EDESTADDRREQ)?;
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, port))
        .map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or(0)))?;
    let body = format!("{version}\n");
    let answer = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    );
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let answer = answer.clone();
            // Who breaks off gets no answer.
            thread::spawn(move || converse(stream, &answer));
        }
    });
    Ok(port)
}

fn converse(mut stream: TcpStream, answer: &str) -> std::io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut request = Vec::new();
    let mut part = [0; 1024];
    while !request.windows(4).any(|end| end == b"\r\n\r\n") {
        let length = stream.read(&mut part)?;
        if length == 0 || request.len() > LONGEST {
            return Ok(());
        }
        request.extend_from_slice(&part[..length]);
    }
    stream.write_all(answer.as_bytes())
}
