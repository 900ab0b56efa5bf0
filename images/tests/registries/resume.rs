//! Downloads that break, and registries that are busy or limit how often they may be asked.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::common::faulty::{body, layer_path, simple};
use crate::common::{Answer, Fake, answers, not_found, open, skip_unless_root};
use mezzo_images::{PullError, PullPolicy, PullProgress, RegistryError};
use tokio::sync::watch;

/// The rest of a blob, as an honest registry sends it.
fn part(bytes: &[u8], from: usize) -> Answer {
    let range = format!("bytes {from}-{}/{}", bytes.len() - 1, bytes.len());
    Answer::Part(Some(range), bytes[from..].to_vec())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_download_goes_on_where_it_broke() {
    if skip_unless_root() {
        return;
    }
    let image = simple();
    let path = layer_path(&image);
    let answers = answers(&[&image]);
    let ranges = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
    let seen = std::sync::Arc::clone(&ranges);
    let fake = Fake::start(move |request| {
        let honest = answers
            .get(&request.path)
            .cloned()
            .unwrap_or_else(not_found);
        if !request.path.contains(&path) {
            return honest;
        }
        let bytes = body(&honest);
        seen.lock()
            .unwrap()
            .push(request.headers.get("range").cloned());
        let from = request.headers.get("range").and_then(|range| {
            range
                .strip_prefix("bytes=")?
                .strip_suffix('-')?
                .parse()
                .ok()
        });
        match (request.before, from) {
            (0, _) => Answer::Truncated(bytes[..50_000].to_vec(), bytes.len()),
            // Some servers ignore the range and send all.
            (1, _) => Answer::Truncated(bytes[..80_000].to_vec(), bytes.len()),
            (_, Some(from)) => part(&bytes, from),
            (_, None) => honest,
        }
    });
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path()).await;
    let image = store
        .pull(&fake.reference("x"), PullPolicy::Always, None)
        .await
        .unwrap();
    let lowers = store.snapshot(&image, "c").unwrap().lowers;
    assert_eq!(
        std::fs::read(lowers[0].join("file")).unwrap(),
        vec![b'x'; 200_000]
    );
    let ranges = ranges.lock().unwrap();
    assert_eq!(ranges.len(), 3);
    assert!(
        ranges[0].is_none() && ranges[1].is_some() && ranges[2].is_some(),
        "{ranges:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_recovers_is_tried_again() {
    if skip_unless_root() {
        return;
    }
    let image = simple();
    let answers = answers(&[&image]);
    let fake = Fake::start(move |request| match request.before {
        0 => Answer::Full(503, "text/plain".into(), b"busy".to_vec()),
        1 => Answer::Headers(429, "Retry-After: 0\r\n".into()),
        _ => answers
            .get(&request.path)
            .cloned()
            .unwrap_or_else(not_found),
    });
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path()).await;
    store
        .pull(&fake.reference("x"), PullPolicy::Always, None)
        .await
        .unwrap();
    assert_eq!(fake.count("/manifests/"), 3);
}

/// A registry that breaks the first download of the layer off and answers the next request as `then` does, honest
/// afterwards; what the pull ends with, and with how many requests for the layer.
async fn resumed(
    then: impl Fn(&[u8], usize) -> Answer + Send + Sync + 'static,
) -> (Result<(), PullError>, usize) {
    let image = simple();
    let (all, layer) = (answers(&[&image]), layer_path(&image));
    let asked = layer.clone();
    let fake = Fake::start(move |request| {
        let Some(honest) = all.get(&request.path) else {
            return not_found();
        };
        if !request.path.contains(&layer) {
            return honest.clone();
        }
        let bytes = body(honest);
        let range = request.headers.get("range");
        let from = range
            .and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-'))
            .map(|from| from.parse::<usize>().unwrap());
        match (request.before, from) {
            (0, None) => Answer::Truncated(bytes[..50_000].to_vec(), bytes.len()),
            (1, Some(from)) => then(&bytes, from),
            (_, Some(from)) => part(&bytes, from),
            (_, None) => honest.clone(),
        }
    });
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path()).await;
    let pulled = store
        .pull(&fake.reference("x"), PullPolicy::Always, None)
        .await;
    let right = pulled.map(|image| {
        let lowers = store.snapshot(&image, "c").unwrap().lowers;
        let file = std::fs::read(lowers[0].join("file")).unwrap();
        assert_eq!(file, vec![b'x'; 200_000]);
    });
    (right, fake.count(&asked))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_rest_is_taken_only_if_it_says_that_it_is_the_rest() {
    if skip_unless_root() {
        return;
    }
    let (end, asked) = resumed(part).await;
    end.unwrap();
    assert_eq!(asked, 2);
    // Another part than asked for, one without a word, or none at all: the whole is fetched and what is here skipped.
    let other = |bytes: &[u8], _: usize| part(bytes, 0);
    let silent = |bytes: &[u8], from: usize| Answer::Part(None, bytes[from..].to_vec());
    let none = |_: &[u8], _: usize| Answer::Headers(416, String::new());
    let (end, asked) = resumed(other).await;
    end.unwrap();
    assert_eq!(asked, 3);
    let (end, asked) = resumed(silent).await;
    end.unwrap();
    assert_eq!(asked, 3);
    let (end, asked) = resumed(none).await;
    end.unwrap();
    assert_eq!(asked, 3);
    // The blob has another size now: it is another blob.
    let changed = |bytes: &[u8], from: usize| {
        let range = format!("bytes {from}-{}/{}", bytes.len(), bytes.len() + 1);
        Answer::Part(Some(range), [&bytes[from..], b"!"].concat())
    };
    let (end, asked) = resumed(changed).await;
    let error = end.unwrap_err();
    assert!(error.to_string().contains("another size"), "{error}");
    assert_eq!(asked, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rate_limit_is_told_and_kept_by_all_requests() {
    if skip_unless_root() {
        return;
    }
    let image = simple();
    let all = answers(&[&image]);
    let arrivals = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&arrivals);
    let fake = Fake::start(move |request| {
        seen.lock().unwrap().push(Instant::now());
        if request.before == 0 && request.path.contains("/manifests/") {
            return Answer::Headers(429, "Retry-After: 2\r\n".into());
        }
        all.get(&request.path).cloned().unwrap_or_else(not_found)
    });
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path()).await;
    let (told, mut news) = watch::channel(PullProgress::default());
    let reference = fake.reference("x");
    let pull = store.pull(&reference, PullPolicy::Always, Some(told));
    let waited = async {
        let waiting = news.wait_for(|progress| progress.waiting.is_some());
        let waiting = waiting.await.unwrap().waiting;
        // Another image of the same registry waits as well.
        let other = store
            .pull(&fake.reference("y"), PullPolicy::Always, None)
            .await;
        (waiting, other.unwrap_err())
    };
    let (pulled, (waiting, other)) = tokio::join!(pull, waited);
    pulled.unwrap();
    assert!(waiting >= Some(Duration::from_secs(2)), "{waiting:?}");
    assert_eq!(
        news.borrow().waiting,
        None,
        "the end of the wait is not told"
    );
    assert!(matches!(
        other,
        PullError::Registry(RegistryError::NotFound { .. })
    ));
    let arrivals = arrivals.lock().unwrap();
    let early = arrivals[1..]
        .iter()
        .filter(|at| at.duration_since(arrivals[0]) < Duration::from_millis(1900))
        .count();
    assert_eq!(early, 0, "somebody asked before the registry wanted it");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_wants_peace_for_long_is_left_in_peace() {
    for wish in ["3600", "Wed, 21 Oct 2099 07:28:00 GMT"] {
        let fake = Fake::start(move |_| Answer::Headers(429, format!("Retry-After: {wish}\r\n")));
        let folder = tempfile::tempdir().unwrap();
        let store = open(folder.path()).await;
        for _ in 0..2 {
            let error = store
                .pull(&fake.reference("x"), PullPolicy::Always, None)
                .await
                .unwrap_err();
            assert!(
                matches!(
                    error,
                    PullError::Registry(RegistryError::RateLimited { .. })
                ),
                "{error}"
            );
            assert!(error.is_transient());
        }
        assert_eq!(
            fake.count(""),
            1,
            "it was asked again before it wanted to be"
        );
    }
}
