//! What a request that was handed on says of its way: who handed it on, for whom, and how it was asked at first.
//!
//! Pure. Each follower appends itself to `X-Marathon-Via` and the address of whom it has the request from to
//! `X-Forwarded-For`; `X-Forwarded-Proto` and `-Host` are of the first request, and stay if something before us set them.
//! The leader counts back as many addresses as there are followers in `Via`. Whoever speaks to it directly can write all of
//! that, too: it is told in events, and nothing is allowed or refused by it.

use std::net::IpAddr;

use axum::http::header::HOST;
use axum::http::{HeaderMap, HeaderName, HeaderValue};

/// Who handed it on, each as `1.1 host:port`.
pub(crate) const VIA: HeaderName = HeaderName::from_static("x-marathon-via");
/// For whom, the client first.
const FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
/// By which protocol the client asked.
const PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
/// Whom it asked.
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");

/// A request is handed on so often at most. One follower does it once; two where the leader changes meanwhile.
const MAX_HOPS: usize = 4;

/// Why a request goes no further.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Astray {
    /// It was here before.
    #[error("the request went in a circle")]
    Circle,
    /// It was handed on too often.
    #[error("the request was handed on {0} times")]
    TooFar(usize),
}

/// The parts of a header that is a list, in one line or in several.
fn list<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Vec<&'h str> {
    let lines = headers.get_all(name).iter();
    lines
        .filter_map(|line| line.to_str().ok())
        .flat_map(|line| line.split(','))
        .map(str::trim)
        .filter(|part| !part.is_empty())
        .collect()
}

/// Notes in a request's headers that `me` hands it on for `client`, before what is of one connection is taken out.
pub(crate) fn note(
    headers: &mut HeaderMap,
    me: &str,
    client: Option<IpAddr>,
) -> Result<(), Astray> {
    let mine = format!("1.1 {me}");
    let via = list(headers, &VIA);
    if via.contains(&mine.as_str()) {
        return Err(Astray::Circle);
    }
    if via.len() >= MAX_HOPS {
        return Err(Astray::TooFar(via.len()));
    }
    let client = client.map(|client| client.to_string());
    let known = list(headers, &FOR).into_iter().map(str::to_owned);
    let all: Vec<String> = known.chain(client).collect();
    let host = headers.get(HOST).cloned();
    if let Some(host) = host.filter(|_| !headers.contains_key(&FORWARDED_HOST)) {
        headers.insert(FORWARDED_HOST, host);
    }
    headers
        .entry(PROTO)
        .or_insert(HeaderValue::from_static("http"));
    if let Ok(all) = HeaderValue::try_from(all.join(", ")) {
        headers.insert(FOR, all);
    }
    if let Ok(mine) = HeaderValue::try_from(mine) {
        headers.append(VIA, mine);
    }
    Ok(())
}

/// Whom a request is from that came over a connection from `peer`: of one that was handed on, the client of the first that
/// did.
pub(crate) fn client(headers: &HeaderMap, peer: IpAddr) -> IpAddr {
    let hops = list(headers, &VIA).len();
    let told = list(headers, &FOR);
    let at = told.len().checked_sub(hops).filter(|_| hops > 0);
    let told = at.and_then(|at| told.get(at)?.parse().ok());
    told.unwrap_or(peer)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    fn one(headers: &HeaderMap, name: &str) -> String {
        let value = headers[name].to_str().expect("text");
        value.to_owned()
    }

    #[test]
    fn the_client_is_known_at_the_end_of_the_way_however_many_handed_it_on() {
        let peer = ip("10.0.0.9");
        let mut headers = HeaderMap::new();
        assert_eq!(client(&headers, peer), peer, "asked directly");
        headers.insert(HOST, HeaderValue::from_static("apps.example"));
        // A proxy before us says for whom it asks; for us that proxy is the client, as it is for a leader asked directly.
        headers.insert(FOR, HeaderValue::from_static("192.0.2.7"));
        assert_eq!(client(&headers, peer), peer);
        note(&mut headers, "a:1", Some(ip("10.0.0.1"))).expect("the first");
        assert_eq!(client(&headers, peer), ip("10.0.0.1"));
        headers.insert(HOST, HeaderValue::from_static("b:1"));
        note(&mut headers, "b:1", Some(ip("2001:db8::2"))).expect("the second");
        assert_eq!(client(&headers, peer), ip("10.0.0.1"));
        let all = one(&headers, "x-forwarded-for");
        assert_eq!(all, "192.0.2.7, 10.0.0.1, 2001:db8::2");
        assert_eq!(one(&headers, "x-forwarded-proto"), "http");
        assert_eq!(one(&headers, "x-forwarded-host"), "apps.example");
    }

    #[test]
    fn what_was_said_before_of_protocol_and_host_stays() {
        let mut headers = HeaderMap::new();
        headers.insert(HOST, HeaderValue::from_static("follower:8080"));
        headers.insert(PROTO, HeaderValue::from_static("https"));
        headers.insert(FORWARDED_HOST, HeaderValue::from_static("apps.example"));
        note(&mut headers, "a:1", None).expect("the first");
        assert_eq!(one(&headers, "x-forwarded-proto"), "https");
        assert_eq!(one(&headers, "x-forwarded-host"), "apps.example");
    }

    #[test]
    fn a_request_that_comes_back_or_goes_too_far_goes_no_further() {
        let mut headers = HeaderMap::new();
        for me in ["a:1", "b:1"] {
            note(&mut headers, me, None).expect("not yet");
        }
        assert_eq!(note(&mut headers, "a:1", None), Err(Astray::Circle));
        // One that writes them as one line.
        headers.insert(VIA, HeaderValue::from_static("1.1 a:1, 1.1 b:1"));
        assert_eq!(note(&mut headers, "b:1", None), Err(Astray::Circle));
        for me in ["c:1", "d:1"] {
            note(&mut headers, me, None).expect("not yet");
        }
        assert_eq!(note(&mut headers, "e:1", None), Err(Astray::TooFar(4)));
    }

    #[test]
    fn nonsense_in_the_headers_leaves_the_peer() {
        let peer = ip("10.0.0.9");
        let mut headers = HeaderMap::new();
        headers.insert(VIA, HeaderValue::from_static("1.1 a:1"));
        assert_eq!(client(&headers, peer), peer, "nobody told");
        headers.insert(FOR, HeaderValue::from_static("somebody"));
        assert_eq!(client(&headers, peer), peer, "no address");
        headers.insert(VIA, HeaderValue::from_static("1.1 a:1, 1.1 b:1, 1.1 c:1"));
        assert_eq!(client(&headers, peer), peer, "fewer addresses than hops");
    }
}
