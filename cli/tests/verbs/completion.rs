//! What is offered at TAB: as a shell's script asks for it, and through bash.

use std::time::Instant;

use super::*;

const APPS: &[Answer] = &[
    (
        "GET",
        "/v2/apps",
        200,
        r#"{"apps":[{"id":"/sleep"},{"id":"/shop/cart"},{"id":"/$(reboot)"},{"id":"/a b"},{"id":"/x\u001b[2J"},{"id":null},{}]}"#,
    ),
    (
        "GET",
        "/v2/apps/sleep/versions",
        200,
        r#"{"versions":["2026-01-01T00:00:00.000Z","2026-01-02T00:00:00.000Z"]}"#,
    ),
    (
        "GET",
        "/v2/apps/sleep",
        200,
        r#"{"app":{"id":"/sleep","tasks":[{"id":"sleep.instance-1","host":"n1"},{"id":"sleep.instance-2","host":"n1"}]}}"#,
    ),
    (
        "GET",
        "/v2/groups",
        200,
        r#"{"id":"/","groups":[{"id":"/shop","groups":[{"id":"/shop/in","groups":[]}]}]}"#,
    ),
    (
        "GET",
        "/v1/jobs",
        200,
        r#"[{"name":"nightly"},{"name":"weekly"}]"#,
    ),
    (
        "GET",
        "/v1/jobs/nightly",
        200,
        r#"{"name":"nightly","runs":[{"run":17},{"run":16}]}"#,
    ),
    ("GET", "/v2/pods", 200, r#"[{"id":"/db"}]"#),
    (
        "GET",
        "/v2/pods/db::status",
        200,
        r#"{"id":"/db","instances":[{"id":"db.instance-1"}]}"#,
    ),
    ("GET", "/v2/deployments", 200, r#"[{"id":"5c3f-1"}]"#),
];

/// What is offered for the last of `words`, as fish asks for it. Nothing may be said, and nothing may fail.
fn offered(scheduler: &str, words: &[&str]) -> Vec<String> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mezzo"));
    command
        .arg("--")
        .args(words)
        .env("MEZZO_COMPLETE", "fish")
        .env("MEZZO_SCHEDULER", scheduler)
        .env("MEZZO_MASTER", NOBODY);
    let output = run(&mut command, "");
    assert_eq!(
        (output.status.code(), stderr(&output)),
        (Some(0), ""),
        "{words:?}"
    );
    let lines = stdout(&output).lines();
    let values = lines.map(|line| line.split('\t').next().unwrap().to_owned());
    values.collect()
}

/// The same where something is to be offered: on a busy machine an answer may come after the second that is waited for it.
fn offered_in_time(scheduler: &str, words: &[&str]) -> Vec<String> {
    let mut tries = (0..20).map(|_| offered(scheduler, words));
    tries.find(|found| !found.is_empty()).unwrap_or_default()
}

#[test]
fn ids_are_completed_where_an_argument_names_one() {
    let server = Scripted::start(APPS);
    let check = |line: &str, expected: &[&str]| {
        let words: Vec<&str> = line.split(' ').collect();
        let found = match expected {
            [] => offered(&server.url, &words),
            _ => offered_in_time(&server.url, &words),
        };
        assert_eq!(found, expected, "{line}");
    };
    check("mezzo app show ", &["/shop/cart", "/sleep"]);
    check("mezzo app scale s", &["shop/cart", "sleep"]);
    check("mezzo app logs --follow /sl", &["/sleep"]);
    check("mezzo app update sl", &["sleep"]);
    check("mezzo task list --app=sl", &["--app=sleep"]);
    check(
        "mezzo app rollback sleep ",
        &["2026-01-01T00:00:00.000Z", "2026-01-02T00:00:00.000Z"],
    );
    check(
        "mezzo app wipe sleep ",
        &["sleep.instance-1", "sleep.instance-2"],
    );
    check("mezzo app wipe sleep --host ", &["n1"]);
    check("mezzo group show ", &["/", "/shop", "/shop/in"]);
    check("mezzo job run ", &["nightly", "weekly"]);
    check("mezzo job log nightly ", &["16", "17"]);
    check("mezzo pod why d", &["db"]);
    check("mezzo pod kill db ", &["db.instance-1"]);
    check("mezzo deployment cancel 5", &["5c3f-1"]);
    check("mezzo app sho", &["show"]);
    check("mezzo app show --wa", &[]);
    check("mezzo app scale sleep 3 --wa", &["--wait"]);
}

#[test]
fn the_scheduler_on_the_line_is_asked() {
    let server = Scripted::start(APPS);
    let nobody = format!("http://{NOBODY}");
    for words in [
        &["mezzo", "--scheduler", &server.url, "app", "why", "sl"][..],
        &["mezzo", "app", "why", "--scheduler", &server.url, "sl"],
    ] {
        assert_eq!(offered_in_time(&nobody, words), ["sleep"], "{words:?}");
    }
}

#[test]
fn a_server_that_is_dead_or_silent_or_no_scheduler_offers_no_id_and_holds_nobody_up() {
    // Takes connections, as the kernel does for it, and answers none.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let silent = format!("http://{}", silent.local_addr().unwrap());
    let other = Scripted::start(&[("GET", "/v2/apps", 200, "<html>hello</html>")]);
    for url in [&format!("http://{NOBODY}"), &silent, &other.url, "no url"] {
        let start = Instant::now();
        let offered = offered(url, &["mezzo", "app", "show", "s"]);
        assert_eq!(offered, Vec::<String>::new(), "{url}");
        // A second, and what a busy machine adds; any other call waits for 30.
        assert!(start.elapsed() < Duration::from_secs(20), "{url}");
    }
}

#[test]
fn a_question_that_makes_no_sense_has_no_answer() {
    for (shell, words) in [
        ("tcsh", &["--", "mezzo", "app", ""][..]),
        ("bash", &[]),
        ("fish", &["--"]),
        ("fish", &["--", "mezzo", "nonsense", "at", "all"]),
    ] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_mezzo"));
        let output = run(command.args(words).env("MEZZO_COMPLETE", shell), "");
        assert_eq!(
            (output.status.code(), stdout(&output), stderr(&output)),
            (Some(0), "", ""),
            "{shell} {words:?}"
        );
    }
}

/// Bash has split the address at its colons, and replaces only what stands behind the last one.
#[test]
fn bash_gets_ids_over_its_script() {
    let server = Scripted::start(APPS);
    let address = server.url.strip_prefix("http://").unwrap();
    let (host, port) = address.rsplit_once(':').unwrap();
    let program = std::path::Path::new(env!("CARGO_BIN_EXE_mezzo"));
    let driver = format!(
        r#"
        PATH={dir}:$PATH
        source <(mezzo completions bash)
        try() {{
            COMP_LINE=$1 COMP_WORDS=("${{@:3}}")
            COMP_POINT=${{#COMP_LINE}} COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1))
            for n in {{1..20}}; do
                _mezzo mezzo "$2"
                [[ ${{#COMPREPLY[@]}} -eq 0 ]] || break
            done
            printf '%s;' "${{COMPREPLY[@]}}"
            echo
        }}
        try 'mezzo app why --scheduler {host}:{port} ' '' mezzo app why --scheduler {host} : {port} ''
        try 'mezzo  app why --scheduler={host}:{port} s' s mezzo app why --scheduler = {host} : {port} s
        try 'mezzo app why "sl' sl mezzo app why '"sl'
        try 'mezzo task list --app=' '' mezzo task list --app =
        try 'mezzo app rollback sleep 2026-01-01T00:0' 0 mezzo app rollback sleep 2026-01-01T00 : 0
        try 'mezzo app xyz' xyz mezzo app xyz
        "#,
        dir = program.parent().unwrap().display(),
    );
    let output = run(
        Command::new("bash")
            .args(["--norc", "-c", &driver])
            .env("MEZZO_SCHEDULER", &server.url),
        "",
    );
    assert_eq!(
        (stdout(&output), stderr(&output)),
        (
            "/shop/cart;/sleep;\nshop/cart;sleep;\nsleep;\n/shop/cart;/sleep;\n00:00.000Z;\n;\n",
            ""
        )
    );
}
