//! Which of the images in an archive is meant, and what it shall be called (pure).

use super::ImportError;
use crate::reference::Reference;

/// One image of an archive, as far as its name goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Candidate {
    /// As the archive says them, best first.
    pub(crate) names: Vec<String>,
    /// Its digest, for those without a name.
    pub(crate) digest: String,
}

impl Candidate {
    fn shown(&self) -> String {
        let name = self.names.first().unwrap_or(&self.digest);
        name.chars().filter(|c| !c.is_control()).take(300).collect()
    }

    fn is(&self, wanted: &str) -> bool {
        let parsed = wanted.parse::<Reference>().ok();
        self.digest == wanted
            || self
                .names
                .iter()
                .any(|name| name == wanted || (full(name).is_some_and(|name| Some(name) == parsed)))
    }
}

/// A name that says more than a tag: `skopeo` notes `latest` where others note `docker.io/library/x:latest`.
fn full(name: &str) -> Option<Reference> {
    name.contains(['/', ':'])
        .then(|| name.parse().ok())
        .flatten()
}

/// The position of the image that is meant, and its name here. `image` is a name or digest in the archive, `tag` what it
/// shall be called.
pub(crate) fn choose(
    origin: &str,
    candidates: &[Candidate],
    image: Option<&str>,
    tag: Option<&Reference>,
) -> Result<(usize, Reference), ImportError> {
    let found = || {
        let mut all: Vec<String> = candidates.iter().take(50).map(Candidate::shown).collect();
        if candidates.len() > all.len() {
            all.push(format!("{} more", candidates.len() - all.len()));
        }
        all
    };
    let matching = |wanted: &str| -> Vec<usize> {
        let all = candidates.iter().enumerate();
        all.filter(|(_, candidate)| candidate.is(wanted))
            .map(|(at, _)| at)
            .collect()
    };
    let several = || ImportError::Several {
        origin: origin.into(),
        found: found(),
    };
    let at = match (image, candidates) {
        (_, []) => {
            return Err(ImportError::NotAnImage {
                origin: origin.into(),
                problem: "it lists no images".into(),
            });
        }
        (Some(wanted), _) => match matching(wanted).as_slice() {
            [] => {
                return Err(ImportError::NoSuchImage {
                    origin: origin.into(),
                    wanted: wanted.into(),
                    found: found(),
                });
            }
            [at] => *at,
            _ => return Err(several()),
        },
        (None, [_]) => 0,
        (None, _) => match tag.map(|tag| matching(&tag.to_string())).as_deref() {
            Some([at]) => *at,
            Some(_) | None => return Err(several()),
        },
    };
    let name = tag
        .cloned()
        .or_else(|| candidates[at].names.iter().find_map(|name| full(name)));
    match name {
        Some(name) => Ok((at, name)),
        None => Err(ImportError::NoName {
            origin: origin.into(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidates(names: &[&[&str]]) -> Vec<Candidate> {
        names
            .iter()
            .enumerate()
            .map(|(n, names)| Candidate {
                names: names.iter().map(ToString::to_string).collect(),
                digest: format!("sha256:{n}"),
            })
            .collect()
    }

    fn chosen(
        names: &[&[&str]],
        image: Option<&str>,
        tag: Option<&str>,
    ) -> Result<(usize, String), String> {
        let tag = tag.map(|tag| tag.parse().unwrap());
        choose("x.tar", &candidates(names), image, tag.as_ref())
            .map(|(at, name)| (at, name.to_string()))
            .map_err(|error| error.to_string())
    }

    #[test]
    fn one_image_needs_no_choice_and_a_tag_renames_it() {
        let name = "docker.io/library/app:1";
        assert_eq!(chosen(&[&["app:1"]], None, None), Ok((0, name.into())));
        let renamed = chosen(&[&["app:1"]], None, Some("b.io/c:2"));
        assert_eq!(renamed, Ok((0, "b.io/c:2".into())));
    }

    #[test]
    fn a_bare_tag_is_no_name() {
        let error = chosen(&[&["latest"]], None, None).unwrap_err();
        assert!(error.contains("-t"), "{error}");
        assert!(chosen(&[&[]], None, None).is_err());
        assert!(chosen(&[&["latest"]], Some("latest"), Some("a:1")).is_ok());
    }

    #[test]
    fn of_several_one_is_chosen_by_image_or_by_tag_else_all_are_listed() {
        let names: &[&[&str]] = &[&["app:1"], &["docker.io/library/app:2", "other:3"], &[]];
        assert_eq!(
            chosen(names, None, Some("app:2")).map(|found| found.0),
            Ok(1)
        );
        assert_eq!(
            chosen(names, Some("other:3"), None),
            Ok((1, "docker.io/library/app:2".into()))
        );
        assert_eq!(
            chosen(names, Some("sha256:2"), Some("new:1")).map(|found| found.0),
            Ok(2)
        );
        let error = chosen(names, None, None).unwrap_err();
        for part in [
            "3 images",
            "app:1",
            "docker.io/library/app:2",
            "sha256:2",
            "--image",
        ] {
            assert!(error.contains(part), "{error}");
        }
        assert!(chosen(names, None, Some("new:1")).is_err());
        assert!(
            chosen(names, Some("nothing"), None)
                .unwrap_err()
                .contains("app:1")
        );
        assert!(chosen(&[], None, None).is_err());
    }
}
