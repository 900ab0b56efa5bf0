//! Honest registries with one fault, and what must be left of a pull that fails: nothing.

use std::path::Path;

use mezzo_images::{Digest, PullError, PullPolicy};

use super::{Answer, Archive, Fake, Packed, TestImage, answers, image, not_found, open};

pub(crate) fn simple() -> TestImage {
    image(
        "x",
        &[(
            Archive::new().file("file", &vec![b'x'; 200_000]).done(),
            Packed::Plain,
        )],
    )
}

pub(crate) fn nothing_left(store: &Path) {
    for place in ["layers", "tmp", "references", "blobs/sha256"] {
        let left = std::fs::read_dir(store.join(place)).unwrap().count();
        assert_eq!(left, 0, "something is left in {place}");
    }
}

/// Pulls `x` from a registry that answers so; nothing may be left of a failure.
pub(crate) async fn fail(fake: &Fake) -> PullError {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("store");
    let store = open(&root).await;
    let error = store
        .pull(&fake.reference("x"), PullPolicy::Always, None)
        .await
        .expect_err("was accepted");
    println!("{error}");
    assert_eq!(store.list().await.unwrap(), []);
    nothing_left(&root);
    error
}

/// An honest registry for one image but for the paths that contain `part`.
pub(crate) fn but(
    image: &TestImage,
    part: String,
    change: impl Fn(Answer) -> Answer + Send + Sync + 'static,
) -> Fake {
    let answers = answers(&[image]);
    Fake::start(move |request| {
        let honest = answers
            .get(&request.path)
            .cloned()
            .unwrap_or_else(not_found);
        if request.path.contains(&part) {
            change(honest)
        } else {
            honest
        }
    })
}

pub(crate) fn body(answer: &Answer) -> Vec<u8> {
    let Answer::Full(_, _, body) = answer else {
        panic!("not an honest answer")
    };
    body.clone()
}

pub(crate) fn full(bytes: Vec<u8>) -> Answer {
    Answer::Full(200, "application/octet-stream".into(), bytes)
}

pub(crate) fn layer_path(image: &TestImage) -> String {
    format!("/blobs/{}", Digest::of(&image.blobs[0]))
}
