//! Containers whose program has a terminal.

mod common;

use std::fs;

use common::{BOTH, Node, alive, chain, id, output, probe_in, spec_as, until, within};
use mezzo_runtime::{ContainerSpec, Exit, LogLimits, StartError, Stream, UserNamespace};

fn with_terminal(node: &Node, users: UserNamespace, args: &[&str]) -> ContainerSpec {
    ContainerSpec {
        terminal: true,
        ..spec_as(node, users, args)
    }
}

/// Its streams, its controlling terminal, its console: one terminal, which is its user's, and whose output is the log.
#[tokio::test(flavor = "multi_thread")]
async fn the_program_has_a_terminal_of_its_own_that_is_its_users() {
    let Some(node) = Node::new().await else {
        return;
    };
    for (users, namespace) in BOTH {
        for (user, uid) in [("0", 0), ("web", 1000)] {
            let name = format!("{users}-{user}");
            let mut spec = with_terminal(&node, namespace, &["terminal"]);
            spec.user = user.parse().unwrap();
            let record = node.run(&name, spec).await;
            assert_eq!(record.exit, Exit::Code(7), "{name}");
            let out = node.stdout(&name);
            let expected = [
                format!("name /dev/pts/0 streams 1 1 1 size 80 24 owner {uid} 5 mode 620"),
                "session 1 foreground 1 term xterm".to_owned(),
                "through /dev/tty".to_owned(),
                "through /dev/console".to_owned(),
                "through /dev/stdin".to_owned(),
                "through /dev/stderr".to_owned(),
                "through /dev/pts/0".to_owned(),
                "an error".to_owned(),
            ];
            // A terminal ends its lines with both.
            assert_eq!(out, expected.map(|line| line + "\r\n").concat(), "{name}");
            let errors = node.runtime().log_path(&id(&name), Stream::Stderr);
            assert!(!errors.exists(), "{name}: a terminal has one stream");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_but_the_terminal_is_open_in_the_program() {
    let Some(node) = Node::new().await else {
        return;
    };
    for (users, namespace) in BOTH {
        node.run(users, with_terminal(&node, namespace, &["fds"]))
            .await;
        let wanted = "fd 0 /dev/pts/0\r\nfd 1 /dev/pts/0\r\nfd 2 /dev/pts/0\r\n";
        assert_eq!(node.stdout(users), wanted, "{users}");
        // Nor in what is executed beside it, which may have one, too.
        let name = format!("beside-{users}");
        let spec = with_terminal(&node, namespace, &["sleep"]);
        node.runtime().start(&id(&name), spec).await.unwrap();
        let mut beside = probe_in(&["fds"]);
        beside.terminal = Some((80, 25));
        let seen = output(&node, &name, beside).await;
        assert_eq!(seen, wanted.replace("pts/0", "pts/1"), "{users}");
    }
}

/// Also a user who is not root reaches the terminal of what is executed by its name.
#[tokio::test(flavor = "multi_thread")]
async fn an_executed_programs_terminal_is_its_users() {
    let Some(node) = Node::new().await else {
        return;
    };
    for (users, namespace) in BOTH {
        let spec = spec_as(&node, namespace, &["sleep"]);
        node.runtime().start(&id(users), spec).await.unwrap();
        for (user, uid) in [("0", 0), ("web", 1000)] {
            let mut spec = probe_in(&["terminal"]);
            spec.user = Some(user.parse().unwrap());
            spec.terminal = Some((132, 50));
            let seen = output(&node, users, spec).await;
            let first =
                format!("name /dev/pts/0 streams 1 1 1 size 132 50 owner {uid} 5 mode 620\r\n");
            assert!(seen.starts_with(&first), "{users} {user}: {seen}");
            for reached in ["/dev/tty", "/dev/stdin", "/dev/stderr", "/dev/pts/0"] {
                let line = format!("through {reached}\r\n");
                assert!(seen.contains(&line), "{users} {user}: {seen}");
            }
            // The console is the first program's, if it has one.
            assert!(seen.contains("/dev/console: No such file"), "{seen}");
        }
    }
}

/// A program that has said much and ends at once has said all of it.
#[tokio::test(flavor = "multi_thread")]
async fn no_output_is_lost_at_the_end() {
    let Some(node) = Node::new().await else {
        return;
    };
    for round in 0..5 {
        for (users, namespace) in BOTH {
            let name = format!("{users}-{round}");
            let mut spec = with_terminal(&node, namespace, &["write", "11000"]);
            spec.log = LogLimits {
                max_bytes: 4 << 20,
                files: 1,
                max_age_secs: None,
            };
            assert_eq!(node.run(&name, spec).await.exit, Exit::Code(0));
            let out = node.stdout(&name);
            assert_eq!(out.lines().count(), 11_001, "{name}");
            assert!(out.len() > 1 << 20, "{name}: {}", out.len());
            assert!(out.ends_with("\r\nerr 11000\r\n"), "{name}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_may_close_its_terminal_and_come_back_to_it() {
    let Some(node) = Node::new().await else {
        return;
    };
    let spec = with_terminal(&node, UserNamespace::Host, &["returns"]);
    assert_eq!(node.run("c", spec).await.exit, Exit::Code(0));
    assert_eq!(node.stdout("c"), "before\r\nafter\r\n");
}

/// Nobody types anything: it waits, and its end is seen as any other's. The keeper writes on without the runtime.
#[tokio::test(flavor = "multi_thread")]
async fn a_terminal_outlives_the_runtime() {
    let Some(mut node) = Node::new().await else {
        return;
    };
    let spec = with_terminal(&node, UserNamespace::Host, &["tty"]);
    let waits = node.runtime().start(&id("waits"), spec).await.unwrap();
    let spec = with_terminal(&node, UserNamespace::Host, &["graceful"]);
    let ends = node.runtime().start(&id("ends"), spec).await.unwrap();
    node.await_output("ends", "ready").await;
    node.close();
    nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(ends.pid),
        nix::sys::signal::Signal::SIGTERM,
    )
    .unwrap();
    until("the keeper is gone", || !alive(ends.keeper_pid)).await;
    node.open().await;
    let record = within(node.runtime().wait(&id("ends"))).await.unwrap();
    assert_eq!(record.exit, Exit::Code(3));
    assert!(node.stdout("ends").ends_with("bye\r\n"));
    assert!(alive(waits.pid), "with no input it waits");
    // Of what its supervisor holds of the terminal nothing is seen from inside: this program has three streams and the
    // directory that it reads.
    let streams = fs::read_dir(format!("/proc/{}/fd", waits.pid)).unwrap();
    assert_eq!(streams.count(), 3);
    node.runtime()
        .stop(
            &id("waits"),
            std::time::Duration::from_secs(1),
            libc::SIGHUP,
        )
        .await
        .unwrap();
    assert!(node.stdout("waits").starts_with("tty 1 80 24\r\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_start_with_a_terminal_says_why_and_leaves_nothing() {
    let Some(node) = Node::new().await else {
        return;
    };
    for (users, namespace) in BOTH {
        let mut spec = with_terminal(&node, namespace, &[]);
        spec.args = vec!["/bin/missing".to_owned()];
        let error = node.runtime().start(&id(users), spec).await.unwrap_err();
        assert!(
            matches!(error, StartError::ExecutableNotFound { .. }),
            "{}",
            chain(&error)
        );
    }
}

/// CVE-2025-52565: what the console shows is the terminal that was made, whatever the image has in its place.
#[tokio::test(flavor = "multi_thread")]
async fn an_image_cannot_choose_what_the_console_is() {
    let Some(node) = Node::new().await else {
        return;
    };
    let dev = node.image().join("dev");
    let outside = node.path().join("outside");
    fs::write(&outside, "untouched").unwrap();
    fs::create_dir(dev.join("pts")).unwrap();
    for name in ["console", "ptmx", "pts/ptmx", "pts/0"] {
        std::os::unix::fs::symlink(&outside, dev.join(name)).unwrap();
    }
    for (users, namespace) in BOTH {
        node.run(users, with_terminal(&node, namespace, &["terminal"]))
            .await;
        let out = node.stdout(users);
        assert!(out.contains("through /dev/console\r\n"), "{users}: {out}");
    }
    assert_eq!(fs::read_to_string(outside).unwrap(), "untouched");
}

/// What is typed reaches the program, also by a runtime that came later; so does the size.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_typed_reaches_the_program_also_after_a_restart() {
    let Some(mut node) = Node::new().await else {
        return;
    };
    for (users, namespace) in BOTH {
        let spec = with_terminal(&node, namespace, &["echo"]);
        node.runtime().start(&id(users), spec).await.unwrap();
        let spec = with_terminal(&node, namespace, &["tty"]);
        let sized = format!("sized-{users}");
        node.runtime().start(&id(&sized), spec).await.unwrap();
    }
    let plain = spec_as(&node, UserNamespace::Host, &["sleep"]);
    node.runtime().start(&id("plain"), plain).await.unwrap();
    assert!(
        node.runtime()
            .terminal_input(&id("plain"))
            .unwrap()
            .is_none()
    );
    node.close();
    node.open().await;
    for (users, _) in BOTH {
        let input = node.runtime().terminal_input(&id(users)).unwrap().unwrap();
        within(input.write(b"one\n")).await.unwrap();
        // Echoed by the terminal, then said twice by the program.
        let all = "one\r\none\r\none\r\n";
        until("the line comes back", || node.stdout(users) == all).await;
        // Its input's end, as a person would type it.
        within(input.write(b"two\n\x04")).await.unwrap();
        let record = within(node.runtime().wait(&id(users))).await.unwrap();
        assert_eq!(record.exit, Exit::Code(5));
        // Nobody is there to read it; opened again, that is told.
        let _ = within(input.write(b"late\n")).await;
        assert!(node.runtime().terminal_input(&id(users)).is_err());

        let sized = id(&format!("sized-{users}"));
        let input = node.runtime().terminal_input(&sized).unwrap().unwrap();
        within(input.resize(132, 43)).await.unwrap();
        within(input.write(b"hello\n")).await.unwrap();
        within(node.runtime().wait(&sized)).await.unwrap();
        let out = node.stdout(sized.as_str());
        assert!(out.contains("then 132 43 hello"), "{out:?}");
    }
}

/// More than all buffers on the way hold, to a program that begins to read late.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_that_is_typed_is_lost_however_late_it_is_read() {
    let Some(node) = Node::new().await else {
        return;
    };
    for (users, namespace) in BOTH {
        let spec = with_terminal(&node, namespace, &["swallow", "300"]);
        node.runtime().start(&id(users), spec).await.unwrap();
        node.await_output(users, "ready").await;
        let input = node.runtime().terminal_input(&id(users)).unwrap().unwrap();
        let lines = "0123456\n".repeat(1 << 17);
        within(input.write(lines.as_bytes())).await.unwrap();
        within(input.write(b"\x04")).await.unwrap();
        within(node.runtime().wait(&id(users))).await.unwrap();
        assert_eq!(node.stdout(users), "ready\r\nswallowed 1048576\r\n");
    }
}

/// A program that reads nothing holds up whoever types, and nothing else: its output goes on, and it can be ended.
#[tokio::test(flavor = "multi_thread")]
async fn a_program_that_reads_nothing_holds_only_the_writer_up() {
    let Some(node) = Node::new().await else {
        return;
    };
    let spec = with_terminal(&node, UserNamespace::Host, &["graceful"]);
    let started = node.runtime().start(&id("c"), spec).await.unwrap();
    node.await_output("c", "ready").await;
    let input = node.runtime().terminal_input(&id("c")).unwrap().unwrap();
    let typing = tokio::spawn(async move {
        loop {
            // Lines, which its terminal keeps for it until it has no room any more.
            if input
                .write(&[b"0123456\n".as_slice(); 500].concat())
                .await
                .is_err()
            {
                return;
            }
        }
    });
    // Long enough for every buffer on the way to fill up; there is nothing to be seen of it.
    tokio::time::sleep(std::time::Duration::from_millis(500)).await;
    assert!(!typing.is_finished() && alive(started.keeper_pid));
    node.runtime()
        .stop(&id("c"), std::time::Duration::from_secs(30), libc::SIGTERM)
        .await
        .unwrap();
    let record = within(node.runtime().wait(&id("c"))).await.unwrap();
    assert_eq!(record.exit, Exit::Code(3));
    assert!(node.stdout("c").contains("bye\r\n"));
    within(typing).await.unwrap();
}
