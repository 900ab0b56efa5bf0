//! One file over HTTP or HTTPS into a file of this machine: bounded, with a deadline, tried again where that may help.
//!
//! The same certificates, proxies, redirects and back-off as for registries, and nothing else of them: no credentials but
//! those in the address itself. What came is whole when this says so, and worthless otherwise.

use std::io::Seek as _;
use std::time::{Duration, SystemTime};

use reqwest::header::RETRY_AFTER;
use reqwest::{StatusCode, Url};
use tokio::io::AsyncWriteExt as _;
use tokio::sync::watch;

use crate::registry::client::{Transport, install_crypto};
use crate::registry::exchange::chain;
use crate::registry::{pause, retry};

/// The longest silence of a server.
const STALL: Duration = Duration::from_secs(60);
/// Attempts for one file, the first included.
const ATTEMPTS: u32 = 4;

/// What a download may cost.
#[derive(Debug, Clone, Copy)]
pub struct DownloadBounds {
    /// Of the file.
    pub max_bytes: u64,
    /// Of all attempts and the pauses between them.
    pub deadline: Duration,
}

/// Why a file is not here.
#[derive(Debug, thiserror::Error)]
pub enum DownloadError {
    /// The address is none.
    #[error("the address cannot be used: {0}")]
    Address(String),
    /// The server's answer is no file.
    #[error("the server answered {0}")]
    Status(StatusCode),
    /// It is larger than allowed.
    #[error("it is larger than {0} bytes")]
    TooLarge(u64),
    /// It took too long.
    #[error("it did not come within {0} s")]
    Deadline(u64),
    /// No answer, or one that broke off.
    #[error("{0}")]
    Broken(String),
    /// It could not be written here.
    #[error("it could not be written")]
    Write(#[source] std::io::Error),
}

/// Downloads files. Makes its connections when they are first needed.
#[derive(Debug)]
pub struct Downloader {
    transport: Transport,
}

impl Downloader {
    /// One for all downloads of a process.
    ///
    /// # Errors
    ///
    /// When there is no TLS to be had here.
    pub fn new() -> Result<Self, DownloadError> {
        install_crypto();
        let transport = Transport::new(STALL, Vec::new()).map_err(DownloadError::Broken)?;
        Ok(Self { transport })
    }

    /// Fetches `address` into `file`, from its beginning, and gives the length. `progress`: bytes here, and in all if that is
    /// known.
    ///
    /// # Errors
    ///
    /// When it cannot be had, after as many attempts as make sense.
    pub async fn download(
        &self,
        address: &str,
        file: &mut std::fs::File,
        bounds: DownloadBounds,
        progress: &watch::Sender<(u64, Option<u64>)>,
    ) -> Result<u64, DownloadError> {
        let url = Url::parse(address).map_err(|e| DownloadError::Address(e.to_string()))?;
        let mut last = None;
        let trying = self.attempts(&url, file, bounds.max_bytes, progress, &mut last);
        let done = tokio::time::timeout(bounds.deadline, trying).await;
        // What the server said last tells more than the clock.
        done.unwrap_or_else(|_| {
            Err(last.unwrap_or(DownloadError::Deadline(bounds.deadline.as_secs())))
        })
    }

    async fn attempts(
        &self,
        url: &Url,
        file: &mut std::fs::File,
        max_bytes: u64,
        progress: &watch::Sender<(u64, Option<u64>)>,
        last: &mut Option<DownloadError>,
    ) -> Result<u64, DownloadError> {
        let mut failures = 0;
        loop {
            let failed = match self.attempt(url, file, max_bytes, progress).await {
                Ok(length) => return Ok(length),
                Err(failed) => failed,
            };
            failures += 1;
            let delay = failed
                .is_transient
                .then(|| retry::delay(failures, ATTEMPTS, rand::random(), failed.wish))
                .flatten();
            let Some(delay) = delay else {
                return Err(failed.error);
            };
            tracing::debug!(host = url.host_str(), failures, error = %failed.error, "a download is tried again");
            *last = Some(failed.error);
            tokio::time::sleep(delay).await;
        }
    }

    async fn attempt(
        &self,
        url: &Url,
        file: &mut std::fs::File,
        max_bytes: u64,
        progress: &watch::Sender<(u64, Option<u64>)>,
    ) -> Result<u64, Failed> {
        let written = |source| Failed::for_good(DownloadError::Write(source));
        file.rewind().map_err(written)?;
        file.set_len(0).map_err(written)?;
        let answer = self.transport.http(url).get(url.clone()).send().await;
        let mut response = answer.map_err(Failed::on_the_way)?;
        let status = response.status();
        if !status.is_success() {
            let wish = response
                .headers()
                .get(RETRY_AFTER)
                .and_then(|value| value.to_str().ok())
                .and_then(|text| pause::retry_after(text, SystemTime::now()));
            let may_pass = status.is_server_error()
                || status == StatusCode::TOO_MANY_REQUESTS
                || status == StatusCode::REQUEST_TIMEOUT;
            return Err(Failed {
                error: DownloadError::Status(status),
                is_transient: may_pass,
                wish,
            });
        }
        let too_large = || Failed::for_good(DownloadError::TooLarge(max_bytes));
        let total = response.content_length();
        if total.is_some_and(|total| total > max_bytes) {
            return Err(too_large());
        }
        let mut length = 0u64;
        progress.send_replace((0, total));
        // Written by other threads: a disk that is busy must not hold up whoever else runs here.
        let mut out = tokio::fs::File::from_std(file.try_clone().map_err(written)?);
        let copied = loop {
            match response.chunk().await {
                Ok(Some(piece)) => {
                    length += piece.len() as u64;
                    if length > max_bytes {
                        break Err(too_large());
                    }
                    if let Err(source) = out.write_all(&piece).await {
                        break Err(written(source));
                    }
                    progress.send_replace((length, total));
                }
                Ok(None) => break Ok(length),
                Err(error) => break Err(Failed::on_the_way(error)),
            }
        };
        // Also after a failure: nothing of this attempt may be written into the next.
        let flushed = out.flush().await.map_err(written);
        copied.and_then(|length| flushed.map(|()| length))
    }
}

struct Failed {
    error: DownloadError,
    is_transient: bool,
    wish: Option<Duration>,
}

impl Failed {
    fn for_good(error: DownloadError) -> Self {
        Self {
            error,
            is_transient: false,
            wish: None,
        }
    }

    /// Redirects that are not followed are so for good.
    fn on_the_way(error: reqwest::Error) -> Self {
        let is_transient = !error.is_redirect() && !error.is_builder();
        // The address is told by whoever names it, without what is secret in it.
        Self {
            is_transient,
            error: DownloadError::Broken(chain(&error.without_url())),
            wish: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    use tokio::io::AsyncReadExt as _;
    use tokio::net::TcpListener;

    use super::*;

    /// A server that gives these answers one after the other, the last one for ever; and how often it was asked.
    async fn server(answers: Vec<&'static str>) -> (String, Arc<AtomicU32>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}/file", listener.local_addr().unwrap());
        let asked = Arc::new(AtomicU32::new(0));
        let count = Arc::clone(&asked);
        tokio::spawn(async move {
            loop {
                let (mut line, _) = listener.accept().await.unwrap();
                let mut request = [0; 4096];
                let _ = line.read(&mut request).await;
                let turn = count.fetch_add(1, Ordering::SeqCst) as usize;
                let answer = answers[turn.min(answers.len() - 1)];
                let _ = line.write_all(answer.as_bytes()).await;
                let _ = line.shutdown().await;
            }
        });
        (address, asked)
    }

    async fn fetch(address: &str, max_bytes: u64) -> Result<String, DownloadError> {
        let mut file = tempfile::tempfile().unwrap();
        let bounds = DownloadBounds {
            max_bytes,
            deadline: Duration::from_secs(30),
        };
        let (progress, seen) = watch::channel((0, None));
        let downloader = Downloader::new().unwrap();
        let length = downloader
            .download(address, &mut file, bounds, &progress)
            .await?;
        assert_eq!(seen.borrow().0, length);
        file.rewind().unwrap();
        Ok(std::io::read_to_string(file).unwrap())
    }

    const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 5\r\nconnection: close\r\n\r\nwords";

    #[tokio::test]
    async fn what_may_pass_is_tried_again_and_what_will_not_is_told_at_once() {
        let cut = "HTTP/1.1 200 OK\r\ncontent-length: 9\r\nconnection: close\r\n\r\nword";
        let busy = "HTTP/1.1 503 Busy\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
        let (address, asked) = server(vec![busy, cut, OK]).await;
        assert_eq!(fetch(&address, 100).await.unwrap(), "words");
        assert_eq!(asked.load(Ordering::SeqCst), 3);
        let gone = "HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
        let (address, asked) = server(vec![gone]).await;
        let error = fetch(&address, 100).await.unwrap_err();
        assert_eq!(error.to_string(), "the server answered 404 Not Found");
        assert_eq!(asked.load(Ordering::SeqCst), 1);
        let (address, asked) = server(vec![busy]).await;
        let error = fetch(&address, 100).await.unwrap_err();
        assert!(matches!(error, DownloadError::Status(_)), "{error}");
        assert_eq!(asked.load(Ordering::SeqCst), ATTEMPTS);
    }

    #[tokio::test]
    async fn no_more_comes_than_is_allowed_whether_it_is_announced_or_not() {
        let (address, asked) = server(vec![OK]).await;
        let error = fetch(&address, 4).await.unwrap_err();
        assert!(matches!(error, DownloadError::TooLarge(4)), "{error}");
        assert_eq!(asked.load(Ordering::SeqCst), 1);
        let (address, _) = server(vec!["HTTP/1.1 200 OK\r\nconnection: close\r\n\r\nwords"]).await;
        let error = fetch(&address, 4).await.unwrap_err();
        assert!(matches!(error, DownloadError::TooLarge(4)), "{error}");
    }
}
