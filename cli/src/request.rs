//! From words to checked values: durations, addresses, app ids, `NAME=VALUE`, prefixes of ids.
//!
//! Pure. Each error names the flag or the value, what is wrong with it and what would be right.

pub(crate) mod limits;
pub(crate) mod quota;

use std::time::Duration;

use serde_json::{Map, Value, json};

use crate::failure::Failure;

/// Where the servers are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Servers {
    /// host:port, of several masters host:port,host:port,...
    pub(crate) master: String,
    /// A URL without a slash at its end.
    pub(crate) scheduler: String,
}

impl Servers {
    /// Fills in the defaults and checks the rest.
    pub(crate) fn new(master: Option<&str>, scheduler: Option<&str>) -> Result<Self, Failure> {
        let master = master
            .filter(|text| !text.is_empty())
            .unwrap_or("127.0.0.1:5050");
        let scheduler = scheduler
            .filter(|text| !text.is_empty())
            .unwrap_or("http://127.0.0.1:8080");
        Ok(Self {
            master: masters(master)?,
            scheduler: url("--scheduler", scheduler)?,
        })
    }
}

/// A moment: `now`, a time from now on, or RFC 3339. Unix milliseconds.
pub(crate) fn moment(flag: &str, text: &str, now_ms: u64) -> Result<u64, Failure> {
    if text == "now" {
        return Ok(now_ms);
    }
    if let Ok(later) = duration(flag, text) {
        let later = u64::try_from(later.as_millis()).unwrap_or(u64::MAX);
        return Ok(now_ms.saturating_add(later));
    }
    let moment: Result<jiff::Timestamp, _> = text.parse();
    let moment = moment.ok().map(jiff::Timestamp::as_millisecond);
    moment.and_then(|at| u64::try_from(at).ok()).ok_or_else(|| {
        Failure::usage(format!(
            "{flag} `{text}` is no moment; give `now`, a time from now like 2h, or one like 2030-01-31T22:00:00Z"
        ))
    })
}

/// One master, or several with commas between them.
pub(crate) fn masters(text: &str) -> Result<String, Failure> {
    let one = |part: &str| {
        let part = part.trim();
        let part = part.strip_prefix("http://").unwrap_or(part);
        address("--master", part.trim_end_matches('/'))
    };
    let list = text
        .split(',')
        .map(one)
        .collect::<Result<Vec<_>, _>>()?
        .join(",");
    mezzo_api::masters::Masters::parse(&list)
        .map_err(|error| Failure::usage(format!("--master: {error}")))?;
    Ok(list)
}

/// `host:port`.
pub(crate) fn address(flag: &str, text: &str) -> Result<String, Failure> {
    let wrong = |why: &str| {
        Failure::usage(format!(
            "{flag} `{text}`: {why}; give host:port, like 127.0.0.1:5050"
        ))
    };
    let (host, port) = text
        .rsplit_once(':')
        .ok_or_else(|| wrong("the port is missing"))?;
    if host.is_empty() || host.contains(['/', ' ', '@']) {
        return Err(wrong("this is not a host name or address"));
    }
    if host.contains(':') && !(host.starts_with('[') && host.ends_with(']')) {
        return Err(wrong("an IPv6 address stands in brackets"));
    }
    port.parse::<u16>()
        .map_err(|_| wrong("the port is not a number from 0 to 65535"))?;
    Ok(text.to_owned())
}

/// A registry: `host` or `host:port`.
pub(crate) fn registry(text: &str) -> Result<String, Failure> {
    let flag = "--insecure-registry";
    if text.contains(':') {
        return address(flag, text);
    }
    let is_host = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.');
    if text.is_empty() || !text.chars().all(is_host) {
        return Err(Failure::usage(format!(
            "{flag} `{text}`: give host or host:port, like 127.0.0.1:5000"
        )));
    }
    Ok(text.to_owned())
}

/// A capability of Linux, by its name without `CAP_`.
pub(crate) fn capability(flag: &str, text: &str) -> Result<String, Failure> {
    let known = text.parse::<mezzo_api::model::LinuxCapability>();
    known
        .map(|known| known.to_string())
        .map_err(|error| Failure::usage(format!("{flag}: {error}")))
}

fn url(flag: &str, text: &str) -> Result<String, Failure> {
    let with_scheme = if text.contains("://") {
        text.to_owned()
    } else {
        format!("http://{text}")
    };
    let parsed = reqwest::Url::parse(&with_scheme).map_err(|error| {
        Failure::usage(format!(
            "{flag} `{text}`: {error}; give a URL like http://127.0.0.1:8080"
        ))
    })?;
    if !matches!(parsed.scheme(), "http" | "https") || parsed.host_str().is_none() {
        return Err(Failure::usage(format!(
            "{flag} `{text}`: give a URL like http://127.0.0.1:8080"
        )));
    }
    Ok(with_scheme.trim_end_matches('/').to_owned())
}

/// `500ms`, `3s`, `10m`, `2h`; a bare number is seconds.
pub(crate) fn duration(flag: &str, text: &str) -> Result<Duration, Failure> {
    let wrong = || {
        Failure::usage(format!(
            "{flag} `{text}` is not a duration; give one like 500ms, 3s, 10m or 2h"
        ))
    };
    let split = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let number: f64 = number.parse().map_err(|_| wrong())?;
    let seconds = match unit {
        "ms" => number / 1000.0,
        "" | "s" => number,
        "m" | "min" => number * 60.0,
        "h" => number * 3600.0,
        _ => return Err(wrong()),
    };
    if seconds > 31_536_000.0 {
        return Err(Failure::usage(format!(
            "{flag} `{text}` is more than a year"
        )));
    }
    Duration::try_from_secs_f64(seconds).map_err(|_| wrong())
}

/// `NAME=VALUE`, the name not empty.
pub(crate) fn pair(flag: &str, text: &str) -> Result<(String, String), Failure> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        Some(_) | None => Err(Failure::usage(format!("{flag} `{text}`: give NAME=VALUE"))),
    }
}

/// Several of [`pair`].
pub(crate) fn pairs(flag: &str, texts: &[String]) -> Result<Vec<(String, String)>, Failure> {
    texts.iter().map(|text| pair(flag, text)).collect()
}

/// Gives an app or a pod that names no role this one.
pub(crate) fn default_role(body: &mut Value, role: Option<&str>) {
    if let Some(role) = role
        && let Some(fields) = body.as_object_mut()
        && fields.get("role").is_none_or(Value::is_null)
    {
        fields.insert("role".to_owned(), role.into());
    }
}

/// Gives a job another role. What it accepts stays the same in the words of that role: all of it, what is open to all, or
/// what is reserved for the role.
pub(crate) fn new_job_role(job: &mut Value, role: &str) {
    let before = job["role"].as_str().unwrap_or("*").to_owned();
    if let Some(accepted) = job["acceptedResourceRoles"].as_array() {
        let names: Vec<&str> = accepted.iter().filter_map(Value::as_str).collect();
        let accepted = match (names.contains(&"*"), names.contains(&before.as_str())) {
            (true, false) => json!(["*"]),
            (false, true) => json!([role]),
            // All of it: the default.
            (true, true) | (false, false) => Value::Null,
        };
        job["acceptedResourceRoles"] = accepted;
    }
    job["role"] = json!(role);
}

/// An app's id with its slash: `sleep` and `/sleep` are the same.
pub(crate) fn app_id(text: &str) -> Result<String, Failure> {
    let wrong = |why: &str| {
        Failure::usage(format!(
            "app id `{}`: {why}; an id is like `sleep` or `/shop/cart`: lower-case letters, digits, `-` and `.`",
            text.escape_default()
        ))
    };
    let path = text.strip_prefix('/').unwrap_or(text);
    if path.is_empty() {
        return Err(wrong("it is empty"));
    }
    for segment in path.split('/') {
        if segment.is_empty() {
            return Err(wrong("it has an empty part"));
        }
        if matches!(segment, "." | "..") {
            return Err(wrong("`.` and `..` are not allowed here"));
        }
        if !segment
            .chars()
            .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '.'))
        {
            return Err(wrong("it has a character that is not allowed"));
        }
    }
    Ok(format!("/{path}"))
}

/// How task ids of an app begin: `/shop/cart` → `shop_cart.`
pub(crate) fn task_prefix(app_id: &str) -> String {
    format!("{}.", app_id.trim_start_matches('/').replace('/', "_"))
}

/// A weight in thousandths.
pub(crate) fn weight(text: &str) -> Result<u64, Failure> {
    let wrong = || {
        Failure::usage(format!(
            "weight `{text}`: give a number from 0.001 to 1000000, like 2 or 0.5"
        ))
    };
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    if fraction.len() > 3
        || !fraction.chars().all(|c| c.is_ascii_digit())
        || (whole.is_empty() && fraction.is_empty())
    {
        return Err(wrong());
    }
    let whole: u64 = if whole.is_empty() {
        0
    } else {
        whole.parse().map_err(|_| wrong())?
    };
    let fraction: u64 = format!("{fraction:0<3}").parse().map_err(|_| wrong())?;
    let millis = whole
        .checked_mul(1000)
        .and_then(|millis| millis.checked_add(fraction))
        .ok_or_else(wrong)?;
    if (1..=1_000_000_000).contains(&millis) {
        Ok(millis)
    } else {
        Err(wrong())
    }
}

/// The one of `ids` that `text` names: itself, or the only one that begins with it.
pub(crate) fn resolve<'a>(
    kind: &str,
    text: &str,
    ids: impl Iterator<Item = &'a str>,
) -> Result<&'a str, Failure> {
    let mut found = Vec::new();
    for id in ids {
        if id == text {
            return Ok(id);
        }
        if !text.is_empty() && id.starts_with(text) {
            found.push(id);
        }
    }
    match found.as_slice() {
        [] => Err(Failure::NotFound(format!(
            "no {kind} `{text}`; `mezzo {kind} list` shows which there are"
        ))),
        [one] => Ok(one),
        [first, second, rest @ ..] => {
            let more = if rest.is_empty() {
                String::new()
            } else {
                format!(" and {} more", rest.len())
            };
            Err(Failure::usage(format!(
                "`{text}` is the beginning of {} {kind}s: {first}, {second}{more}; give more of the one you mean",
                found.len()
            )))
        }
    }
}

/// `field=value`, the value JSON if it reads as such, else a string.
pub(crate) fn field(text: &str) -> Result<(String, Value), Failure> {
    let (name, value) = pair("--set", text)?;
    if name == "id" {
        return Err(Failure::usage(
            "--set id=…: an app's id cannot be changed; add a new app and remove the old one",
        ));
    }
    let value = serde_json::from_str(&value).unwrap_or(Value::String(value));
    Ok((name, value))
}

/// What `app update ID --image … --env … --set …` changes, given the app as it is.
pub(crate) fn changes(
    app: &Value,
    image: Option<&str>,
    env: &[(String, String)],
    set: &[(String, Value)],
) -> Map<String, Value> {
    let mut changes = Map::new();
    if let Some(image) = image {
        let mut container = app
            .get("container")
            .cloned()
            .unwrap_or_else(|| serde_json::json!({"type": "MESOS"}));
        if !container.get("docker").is_some_and(Value::is_object) {
            container["docker"] = serde_json::json!({});
        }
        container["docker"]["image"] = Value::String(image.to_owned());
        changes.insert("container".to_owned(), container);
    }
    if !env.is_empty() {
        let mut all = app
            .get("env")
            .and_then(Value::as_object)
            .cloned()
            .unwrap_or_default();
        all.extend(
            env.iter()
                .map(|(name, value)| (name.clone(), Value::String(value.clone()))),
        );
        changes.insert("env".to_owned(), Value::Object(all));
    }
    changes.extend(set.iter().cloned());
    changes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused<T: std::fmt::Debug>(result: Result<T, Failure>) -> String {
        result.expect_err("must be refused").to_string()
    }

    #[test]
    fn a_role_is_given_to_those_that_name_none() {
        let given = |mut body: Value, role| {
            default_role(&mut body, role);
            body
        };
        let named = json!({"role": "ops"});
        assert_eq!(given(named.clone(), Some("dev")), named);
        assert_eq!(given(json!({}), Some("dev")), json!({"role": "dev"}));
        assert_eq!(
            given(json!({"role": null}), Some("dev")),
            json!({"role": "dev"})
        );
        assert_eq!(given(json!({}), None), json!({}));
        assert_eq!(given(json!([1]), Some("dev")), json!([1]));
    }

    #[test]
    fn a_job_that_gets_another_role_accepts_what_it_did() {
        for (accepted, expected) in [
            (json!(["*", "dev"]), Value::Null),
            (json!(["*"]), json!(["*"])),
            (json!(["dev"]), json!(["ops"])),
        ] {
            let mut job = json!({"role": "dev", "acceptedResourceRoles": accepted});
            new_job_role(&mut job, "ops");
            let wanted = json!({"role": "ops", "acceptedResourceRoles": expected});
            assert_eq!(job, wanted, "{accepted}");
        }
        let mut old = json!({});
        new_job_role(&mut old, "ops");
        assert_eq!(old, json!({"role": "ops"}));
    }

    #[test]
    fn a_capability_is_one_that_there_is() {
        assert_eq!(capability("--x", "cap_net_raw").unwrap(), "NET_RAW");
        let told = refused(capability("--x", "NET_ROW"));
        assert!(told.contains("--x: \"NET_ROW\" is no capability"), "{told}");
    }

    #[test]
    fn durations_have_units_and_bare_numbers_are_seconds() {
        for (text, millis) in [
            ("500ms", 500),
            ("3s", 3000),
            ("3", 3000),
            ("1.5s", 1500),
            ("10m", 600_000),
            ("2h", 7_200_000),
        ] {
            assert_eq!(
                duration("--timeout", text).unwrap(),
                Duration::from_millis(millis),
                "{text}"
            );
        }
        for text in ["", "s", "-3s", "3 s", "3d", "1.2.3s", "99999999h"] {
            assert!(
                refused(duration("--timeout", text)).starts_with(&format!("--timeout `{text}`")),
                "{text}"
            );
        }
    }

    #[test]
    fn servers_have_defaults_and_forgive_schemes_and_slashes() {
        let servers = Servers::new(None, None).unwrap();
        assert_eq!(
            (servers.master.as_str(), servers.scheduler.as_str()),
            ("127.0.0.1:5050", "http://127.0.0.1:8080")
        );
        let servers = Servers::new(Some("http://m:1/"), Some("s:2/")).unwrap();
        assert_eq!(
            (servers.master.as_str(), servers.scheduler.as_str()),
            ("m:1", "http://s:2")
        );
        for master in ["m", "m:x", "m:99999", ":1", "a b:1", "::1:5"] {
            assert!(
                refused(Servers::new(Some(master), None))
                    .starts_with(&format!("--master `{master}`")),
                "{master}"
            );
        }
        assert!(refused(Servers::new(None, Some("ftp://x"))).contains("--scheduler"));
    }

    #[test]
    fn registries_may_have_a_port_but_no_path() {
        for text in [
            "127.0.0.1:5000",
            "registry",
            "registry.example:80",
            "[::1]:5000",
        ] {
            assert_eq!(registry(text).unwrap(), text);
        }
        for text in ["", "http://r:1", "r/x", "r:x", "a b"] {
            assert!(
                refused(registry(text)).contains("--insecure-registry"),
                "{text}"
            );
        }
    }

    #[test]
    fn app_ids_get_their_slash_and_cannot_climb() {
        assert_eq!(app_id("sleep").unwrap(), "/sleep");
        assert_eq!(app_id("/shop/cart").unwrap(), "/shop/cart");
        for id in [
            "",
            "/",
            "../x",
            "a/../b",
            "a//b",
            "A",
            "a b",
            "a%2fb",
            "a\u{1b}[2J",
        ] {
            assert!(matches!(app_id(id), Err(Failure::Usage(_))), "{id}");
        }
        assert!(
            !refused(app_id("a\u{1b}[2J")).contains('\u{1b}'),
            "control characters are not printed"
        );
    }

    #[test]
    fn a_unique_beginning_names_the_whole() {
        let ids = ["sleep.a1", "sleep.a2", "web.b1", "web.b1x"];
        let find = |text| resolve("task", text, ids.iter().copied());
        assert_eq!(find("sleep.a1").unwrap(), "sleep.a1");
        assert_eq!(
            find("web.b1").unwrap(),
            "web.b1",
            "a whole id wins over longer ones"
        );
        assert_eq!(find("web.b1x").unwrap(), "web.b1x");
        assert!(matches!(find("x"), Err(Failure::NotFound(_))));
        assert!(matches!(find(""), Err(Failure::NotFound(_))));
        assert_eq!(
            refused(find("sleep")),
            "`sleep` is the beginning of 2 tasks: sleep.a1, sleep.a2; give more of the one you mean"
        );
    }

    #[test]
    fn weights_are_exact_thousandths() {
        for (text, millis) in [
            ("1", 1000),
            ("0.5", 500),
            (".25", 250),
            ("2.125", 2125),
            ("0.001", 1),
        ] {
            assert_eq!(weight(text).unwrap(), millis, "{text}");
        }
        for text in [
            "",
            "0",
            ".",
            "-1",
            "1.2345",
            "a",
            "1000001",
            "99999999999999999999",
        ] {
            assert!(weight(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_new_image_keeps_the_rest_of_the_container() {
        let app = json!({"id": "/a", "env": {"A": "1"}, "container": {"type": "MESOS", "volumes": [], "docker": {"image": "x:1", "forcePullImage": true}}});
        let changed = changes(
            &app,
            Some("x:2"),
            &[("B".into(), "2".into())],
            &[field("cpus=0.5").unwrap()],
        );
        assert_eq!(
            Value::Object(changed),
            json!({
                "container": {"type": "MESOS", "volumes": [], "docker": {"image": "x:2", "forcePullImage": true}},
                "env": {"A": "1", "B": "2"},
                "cpus": 0.5,
            })
        );
    }

    #[test]
    fn set_takes_json_or_plain_words_but_never_the_id() {
        assert_eq!(
            field("cmd=sleep 5").unwrap(),
            ("cmd".into(), json!("sleep 5"))
        );
        assert_eq!(
            field("args=[\"a\"]").unwrap(),
            ("args".into(), json!(["a"]))
        );
        assert!(field("id=x").is_err());
        assert!(field("=x").is_err());
        assert!(field("x").is_err());
    }

    #[test]
    fn task_ids_of_an_app_share_a_beginning() {
        assert_eq!(task_prefix("/shop/cart"), "shop_cart.");
    }
}
