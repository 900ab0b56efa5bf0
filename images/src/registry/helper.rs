//! Docker's credential helpers: programs named `docker-credential-NAME` that know what is not in a file.
//!
//! The registry's address goes in, JSON comes out; both are bounded, and the whole group of processes ends with the
//! deadline. The name comes from a file and becomes part of a program's name, so it is checked before.

use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use serde::Deserialize;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::Command;

use super::docker_config::Credentials;

/// How long a helper may take: some ask a cloud.
pub(crate) const DEADLINE: Duration = Duration::from_secs(30);
const MOST_OUTPUT: u64 = 64 << 10;
const NOT_FOUND: &str = "credentials not found in native keychain";
/// The user name that says that the secret is an identity token.
const TOKEN_USER: &str = "<token>";

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Answer {
    #[serde(default)]
    username: String,
    #[serde(default)]
    secret: String,
}

/// Asks a helper for the credentials of a server; none if it has none.
pub(crate) async fn ask(
    name: &str,
    server: &str,
    deadline: Duration,
) -> Result<Option<Credentials>, String> {
    if !is_name(name) {
        return Err(format!(
            "{name:?} is no name of a credential helper: letters, digits, '.', '_' and '-' only"
        ));
    }
    let program = format!("docker-credential-{name}");
    let mut command = Command::new(&program);
    command.arg("get");
    run(&program, command, server, deadline).await
}

async fn run(
    program: &str,
    mut command: Command,
    server: &str,
    deadline: Duration,
) -> Result<Option<Credentials>, String> {
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .process_group(0)
        .kill_on_drop(true);
    let mut child = command.spawn().map_err(|error| {
        if error.kind() == std::io::ErrorKind::NotFound {
            format!("{program} is not in PATH; install it, or remove it from the file")
        } else {
            format!("{program} cannot be run: {error}")
        }
    })?;
    // Its children may outlive it and hold its output open: with the deadline, or when nobody waits for us any more,
    // the whole group ends. What a helper that answered has left running (an agent for keys) is its own business.
    let mut group = Group(child.id());
    let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
    let talk = async {
        if let Some(mut stdin) = stdin {
            // A helper that does not read what it is asked says so by what it answers.
            let _ = stdin.write_all(server.as_bytes()).await;
        }
        let output = match stdout {
            Some(stdout) => read(stdout).await?,
            None => Vec::new(),
        };
        Ok::<_, std::io::Error>((output, child.wait().await?))
    };
    match tokio::time::timeout(deadline, talk).await {
        Ok(Ok((output, status))) => {
            // It is reaped: its number may be another's now.
            group.0 = None;
            judge(program, &output, status)
        }
        Ok(Err(error)) => Err(format!("{program} broke: {error}")),
        Err(_) => Err(format!(
            "{program} did not answer within {} s",
            deadline.as_secs_f32()
        )),
    }
}

/// Ends a process group when dropped.
struct Group(Option<u32>);

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(id) = self.0.and_then(|id| i32::try_from(id).ok()) {
            // Nobody left in it is the usual case.
            let _ = killpg(Pid::from_raw(id), Signal::SIGKILL);
        }
    }
}

fn is_name(name: &str) -> bool {
    (1..=64).contains(&name.len())
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
}

async fn read(stdout: impl AsyncRead + Unpin) -> std::io::Result<Vec<u8>> {
    let mut output = Vec::new();
    let mut bounded = stdout.take(MOST_OUTPUT + 1);
    bounded.read_to_end(&mut output).await?;
    Ok(output)
}

/// What a helper meant (pure). Its words are shown, never what it gave: that is secret.
fn judge(program: &str, output: &[u8], status: ExitStatus) -> Result<Option<Credentials>, String> {
    if output.len() as u64 > MOST_OUTPUT {
        return Err(format!("{program} answered more than 64 KiB"));
    }
    if !status.success() {
        let words = String::from_utf8_lossy(output);
        if words.trim() == NOT_FOUND {
            return Ok(None);
        }
        let words: String = words
            .trim()
            .chars()
            .filter(|c| !c.is_control())
            .take(200)
            .collect();
        return Err(format!("{program} failed ({status}): {words}"));
    }
    let Answer { username, secret } = serde_json::from_slice(output)
        .map_err(|_| format!("{program} answered something else than a helper's JSON"))?;
    if secret.is_empty() {
        return Ok(None);
    }
    if username == TOKEN_USER {
        return Ok(Some(Credentials::IdentityToken(secret)));
    }
    let given = Credentials::password(username, secret);
    given
        .map(Some)
        .ok_or_else(|| format!("{program} gave a user name with a ':'"))
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt as _;

    use super::*;

    #[tokio::test]
    async fn a_name_that_could_be_a_path_is_not_run() {
        for name in ["", "../x", "a/b", "a b", "x;y", "-\n", &"a".repeat(65)] {
            let error = ask(name, "r.example", DEADLINE).await.unwrap_err();
            assert!(error.contains("no name of a credential helper"), "{error}");
        }
        let error = ask("not-installed-anywhere", "r.example", DEADLINE)
            .await
            .unwrap_err();
        assert!(error.contains("docker-credential-not-installed-anywhere is not in PATH"));
    }

    async fn shell(script: &str, deadline: Duration) -> Result<Option<Credentials>, String> {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", script]);
        run("helper", command, "r.example", deadline).await
    }

    #[tokio::test]
    async fn a_helper_is_asked_on_its_standard_input() {
        let script = r#"printf '{"Username": "of %s", "Secret": "hush"}' "$(cat)""#;
        let expected = Credentials::Password {
            user: "of r.example".into(),
            password: "hush".into(),
        };
        assert_eq!(shell(script, DEADLINE).await.unwrap(), Some(expected));
        // One that does not read is fine, too.
        let script = "echo credentials not found in native keychain; exit 1";
        assert_eq!(shell(script, DEADLINE).await.unwrap(), None);
        // One that never stops talking is cut off.
        let error = shell("exec cat /dev/zero", DEADLINE).await.unwrap_err();
        assert!(error.contains("more than 64 KiB"), "{error}");
    }

    #[tokio::test]
    async fn a_helper_that_does_not_answer_ends_with_its_children() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("pid");
        // The child holds the output open: it would have us wait although its parent is gone.
        let script = format!("sleep 1000 & echo $! > {}", file.display());
        // Longer each time, until the child was there within the time.
        let mut seconds = 0;
        let child = loop {
            seconds += 1;
            let patience = Duration::from_secs(seconds);
            let error = shell(&script, patience).await.unwrap_err();
            let wanted = format!("did not answer within {seconds} s");
            assert!(error.contains(&wanted), "{error}");
            let told = std::fs::read_to_string(&file).unwrap_or_default();
            if let Ok(child) = told.trim().parse::<i32>() {
                break child;
            }
        };
        let deadline = std::time::Instant::now() + DEADLINE;
        let runs = || {
            let stat = std::fs::read_to_string(format!("/proc/{child}/stat"));
            stat.is_ok_and(|stat| !stat.contains(") Z "))
        };
        while runs() {
            assert!(std::time::Instant::now() < deadline, "it runs on");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    #[test]
    fn answers_are_understood() {
        let (good, bad) = (ExitStatus::from_raw(0), ExitStatus::from_raw(256));
        let password = br#"{"ServerURL": "r.example", "Username": "me", "Secret": "hush"}"#;
        assert_eq!(
            judge("p", password, good).unwrap(),
            Some(Credentials::Password {
                user: "me".into(),
                password: "hush".into()
            })
        );
        let colon = br#"{"Username": "m:e", "Secret": "hush"}"#;
        let problem = judge("p", colon, good).unwrap_err();
        assert!(
            !problem.contains("hush") && problem.contains("':'"),
            "{problem}"
        );
        let token = br#"{"Username": "<token>", "Secret": "abc"}"#;
        assert_eq!(
            judge("p", token, good).unwrap(),
            Some(Credentials::IdentityToken("abc".into()))
        );
        assert_eq!(judge("p", b"{}", good).unwrap(), None);
        let none = b"credentials not found in native keychain\n";
        assert_eq!(judge("p", none, bad).unwrap(), None);
        let error = judge("p", b"the vault is shut\n", bad).unwrap_err();
        assert!(error.contains("the vault is shut"), "{error}");
        let error = judge("p", b"hush", good).unwrap_err();
        assert!(!error.contains("hush"), "{error}");
        assert!(judge("p", &vec![b' '; 70_000], good).is_err());
    }
}
