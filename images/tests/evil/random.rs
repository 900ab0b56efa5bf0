//! Whole pulls of archives made by dice, and what they leave in the store. The fuzzers do the same below the store,
//! faster and for longer.

use crate::Mill;
use crate::common::{Archive, Packed, skip_unless_root};

/// A small generator: the tests need the same sequence each time, not a good one.
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % bound as u64).unwrap()
    }
}

/// Many layers of random entries over few names, so that links, directories, files and deletions meet in every
/// order: whatever becomes of them, the world outside stays as it is.
#[tokio::test(flavor = "multi_thread")]
async fn random_orders_of_links_and_files_never_reach_outside() {
    if skip_unless_root() {
        return;
    }
    let mill = Mill::new().await;
    let out = mill.canary.path().to_string();
    let mut dice = Dice(0x2545_f491_4f6c_dd1d);
    let mut accepted = 0;
    for round in 0..150 {
        let mut archive = Archive::new();
        for _ in 0..dice.below(12) + 1 {
            let part =
                |dice: &mut Dice| ["a", "b", "c", ".wh.a", ".", "secret", "folder"][dice.below(7)];
            let path = (0..dice.below(3) + 1)
                .map(|_| part(&mut dice))
                .collect::<Vec<_>>()
                .join("/");
            let deep = &format!("{out}/{}", part(&mut dice));
            let target = [
                out.as_str(),
                "..",
                "../../..",
                "a",
                "/",
                "b/c",
                deep.as_str(),
            ][dice.below(7)];
            archive = match dice.below(6) {
                0 => archive.mode(0o777).owner(9, 9).dir(&path),
                1 => archive.symlink(&path, target),
                2 => archive.hard_link(&path, target),
                3 => archive.file(&format!("{path}/.wh..wh..opq"), b""),
                _ => archive.mode(0o4777).file(&path, b"evil"),
            };
        }
        accepted += usize::from(
            mill.grind(
                &format!("round {round}"),
                archive.done(),
                Packed::Plain,
                |_| {},
            )
            .await,
        );
    }
    assert!(
        (10..140).contains(&accepted),
        "the dice are loaded: {accepted} of 150 were accepted"
    );
}

/// Archives with random bytes flipped, cut or doubled: an error or an image, never a panic and never a hang.
#[tokio::test(flavor = "multi_thread")]
async fn damaged_archives_are_survived() {
    if skip_unless_root() {
        return;
    }
    let mill = Mill::new().await;
    let sane = Archive::new()
        .dir("d")
        .pax("mtime", b"1.5")
        .pax("SCHILY.xattr.user.x", b"y")
        .file("d/file", &[b'x'; 1500])
        .symlink("d/link", "file")
        .hard_link("hard", "d/file")
        .file(&"long/".repeat(40), b"z")
        .file(".wh.gone", b"")
        .done();
    let mut dice = Dice(0x9e37_79b9_7f4a_7c15);
    for round in 0..150 {
        let mut archive = sane.clone();
        for _ in 0..dice.below(4) + 1 {
            let at = dice.below(archive.len());
            match dice.below(4) {
                0 => archive.truncate(at.max(1)),
                1 => {
                    let block = archive[at / 512 * 512..]
                        .iter()
                        .take(512)
                        .copied()
                        .collect::<Vec<_>>();
                    archive.splice(at / 512 * 512..at / 512 * 512, block);
                }
                _ => archive[at] ^= 1 << dice.below(8),
            }
        }
        let packed = if round % 2 == 0 {
            Packed::Plain
        } else {
            Packed::Zstd
        };
        mill.grind(&format!("round {round}"), archive, packed, |_| {})
            .await;
    }
}
