//! Writes a job as Chronos does, with the fields that Chronos lacked beside its own.
//!
//! Pure. What is written reads back as the same job: it is the durable form, too.

use mezzo_api::model::{NetworkMode, VolumeSource};
use serde_json::{Map, Value, json};

use super::schedule::Schedule;
use super::spec::{Concurrency, Job, JobContainer, Trigger};
use crate::app::constraint::Constraint;
use crate::app::json::{fetch_json, secrets_json};
use crate::app::read::decimal_to_json;
use crate::app::spec::Engine;

impl Job {
    /// Every field, also those with their defaults.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let mut map = Map::new();
        let mut put = |name: &str, value: Value| {
            map.insert(name.to_owned(), value);
        };
        put("name", json!(self.name.as_str()));
        put("description", json!(self.description));
        put("owner", json!(self.owner));
        put("ownerName", json!(self.owner_name));
        put("command", json!(self.command));
        put("arguments", json!(self.arguments));
        put("shell", json!(self.shell));
        match &self.trigger {
            Trigger::Times(Schedule::Cron(cron, _)) => put("cron", json!(cron.to_string())),
            Trigger::Times(Schedule::Repeat(repeat)) => put("schedule", json!(repeat.to_string())),
            Trigger::Parents(parents) => put("parents", json!(parents)),
            Trigger::Request => {}
        }
        put(
            "scheduleTimeZone",
            json!(self.time_zone.as_deref().unwrap_or_default()),
        );
        put("cpus", scalar(self.cpus));
        put("mem", scalar(self.mem));
        put("disk", scalar(self.disk));
        put("retries", json!(self.retries.count));
        put(
            "retryDelaySeconds",
            decimal_to_json(self.retries.delay_ms, 3),
        );
        put("retryFactor", decimal_to_json(self.retries.factor_ppm, 6));
        put(
            "maxRetryDelaySeconds",
            decimal_to_json(self.retries.max_delay_ms, 3),
        );
        put("maxCompletionTime", json!(self.max_completion_secs));
        put("disabled", json!(self.disabled));
        put("concurrent", json!(self.concurrency == Concurrency::Allow));
        put("concurrencyPolicy", json!(self.concurrency.name()));
        put("catchUpSeconds", json!(self.catch_up_secs));
        put("disableAfterFailures", json!(self.disable_after_failures));
        put("softError", json!(self.soft_error));
        put("highPriority", json!(self.high_priority));
        put("runAsUser", json!(self.user));
        put("container", container(&self.container));
        let env = self.env.iter();
        let env: Vec<Value> = env
            .map(|(name, value)| json!({"name": name, "value": value}))
            .chain(
                self.secret_env
                    .iter()
                    .map(|(name, secret)| json!({"name": name, "secret": secret})),
            )
            .collect();
        put("environmentVariables", json!(env));
        let fetch = self.fetch.iter().map(fetch_json);
        put("fetch", Value::Array(fetch.collect()));
        let constraints = self.constraints.iter().map(Constraint::to_job_json);
        put("constraints", Value::Array(constraints.collect()));
        if let Some(role) = &self.role {
            put("role", json!(role.as_str()));
            put("acceptedResourceRoles", self.accepts.to_json(role));
        }
        if !self.secrets.is_empty() {
            put("secrets", secrets_json(&self.secrets));
        }
        Value::Object(map)
    }
}

fn scalar(amount: mezzo_api::model::Scalar) -> Value {
    decimal_to_json(u64::try_from(amount.millis()).unwrap_or(0), 3)
}

fn container(container: &JobContainer) -> Value {
    let volumes = container
        .volumes
        .iter()
        .filter_map(|volume| match &volume.source {
            VolumeSource::HostPath(path) => Some(json!({
                "containerPath": volume.container_path,
                "hostPath": path,
                "mode": if volume.read_only { "RO" } else { "RW" },
            })),
            VolumeSource::Tmpfs(_)
            | VolumeSource::Secret(_)
            | VolumeSource::Group(_)
            | VolumeSource::Persistent(_) => None,
        });
    let secrets = container
        .secret_volumes
        .iter()
        .map(|(path, secret)| json!({"containerPath": path, "secret": secret}));
    let volumes = volumes.chain(secrets);
    let mut value = json!({
        "type": match container.engine {
            Engine::Docker => "DOCKER",
            Engine::Mesos => "MESOS",
        },
        "image": container.image,
        "forcePullImage": container.force_pull,
        "network": match container.network {
            NetworkMode::Host => "HOST",
            NetworkMode::Bridge => "BRIDGE",
            NetworkMode::None => "NONE",
            NetworkMode::Container => "USER",
        },
        "volumes": volumes.collect::<Vec<Value>>(),
    });
    if let Some(name) = &container.network_name {
        value["networkInfos"] = json!([{"name": name}]);
    }
    let parameters = container.confinement.parameters();
    if !parameters.is_empty() {
        value["parameters"] = parameters.into();
    }
    for (name, said) in container.confinement.fields() {
        value[name.as_str()] = said;
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::jobs::parse::{Kind, parse_job};

    fn job(fields: &Value) -> Value {
        let mut job = json!({"name": "j", "container": {"image": "x:1"}});
        for (name, value) in fields.as_object().into_iter().flatten() {
            job[name] = value.clone();
        }
        job
    }

    #[test]
    fn what_a_job_may_do_is_said_as_chronos_did_or_as_apps_do_and_written_back() {
        for said in [
            json!({"parameters": [
                {"key": "cap-add", "value": "NET_RAW"},
                {"key": "cap-drop", "value": "ALL"},
                {"key": "read-only", "value": "true"},
            ]}),
            json!({"readOnlyRootfs": true, "capabilities": {"add": ["NET_RAW"], "drop": ["ALL"]}}),
        ] {
            let mut container = said.clone();
            container["image"] = json!("x:1");
            let given = job(&json!({ "container": container }));
            let (read, report) = parse_job(&given, None, Kind::Any, 0);
            assert_eq!(report.errors, []);
            let read = read.expect("a job without errors");
            let confinement = &read.container.confinement;
            assert!(confinement.read_only_rootfs);
            assert_eq!(confinement.capabilities.added(), ["NET_RAW"]);
            assert_eq!(confinement.capabilities.drop.names(), ["ALL"]);
            let written = read.to_json();
            for (name, value) in said.as_object().into_iter().flatten() {
                assert_eq!(&written["container"][name], value);
            }
            assert_eq!(parse_job(&written, None, Kind::Any, 0).0, Some(read));
        }
        let other =
            json!({"container": {"image": "x:1", "parameters": [{"key": "env", "value": "A=1"}]}});
        let (_, report) = parse_job(&job(&other), None, Kind::Any, 0);
        assert_eq!(report.errors[0].path, "/container/parameters(0)/key");
    }

    #[test]
    fn secrets_and_files_of_a_job_reach_its_tasks_and_are_written_back() {
        let given = job(&json!({
            "container": {"image": "x:1", "volumes": [{"containerPath": "/run/key", "secret": "key"}]},
            "environmentVariables": [{"name": "A", "value": "1"}, {"name": "TOKEN", "secret": "token"}],
            "secrets": {"key": {"source": "team/key"}, "token": {"source": "team/token"}},
            "fetch": [{"uri": "http://h/a.tgz", "cache": true}],
        }));
        let (read, report) = parse_job(&given, None, Kind::Any, 0);
        assert_eq!(report.errors, []);
        let read = read.expect("a job without errors");
        let again = parse_job(&read.to_json(), None, Kind::Any, 0).0;
        assert_eq!(again.as_ref(), Some(&read));
        let variables = read.secret_variables();
        assert_eq!(variables.len(), 1);
        assert_eq!(
            (&*variables[0].name, variables[0].secret.as_str()),
            ("TOKEN", "team/token")
        );
        let files = read.volumes();
        assert_eq!(
            files[0].source,
            VolumeSource::Secret("team/key".parse().expect("valid"))
        );
        assert!(read.fetch[0].cache && read.fetch[0].extract);
    }

    #[test]
    fn constraints_are_chronos_operators_about_the_machine_alone() {
        let given = json!([
            ["rack", "EQUALS", "1"],
            ["os", "UNLIKE", "old.*"],
            ["hostname", "like", "n[12]"],
        ]);
        let read = parse_job(&job(&json!({ "constraints": given })), None, Kind::Any, 0);
        assert_eq!(read.1.errors, []);
        let read = read.0.expect("a job without errors");
        let written = read.to_json();
        assert_eq!(
            written["constraints"],
            json!([
                ["rack", "EQUALS", "1"],
                ["os", "UNLIKE", "old.*"],
                ["hostname", "LIKE", "n[12]"],
            ])
        );
        assert_eq!(parse_job(&written, None, Kind::Any, 0).0, Some(read));
        for (bad, word) in [
            (json!(["rack", "UNIQUE"]), "EQUALS, LIKE, UNLIKE"),
            (json!(["rack", "EQUALS"]), "EQUALS needs a value"),
            (
                json!(["rack", "LIKE", "("]),
                "not a valid regular expression",
            ),
            (json!(["rack"]), "2 or 3"),
            (json!("rack"), "a list of field"),
        ] {
            let report = parse_job(&job(&json!({ "constraints": [bad] })), None, Kind::Any, 0).1;
            let [problem] = &report.errors[..] else {
                panic!("{bad}: {:?}", report.errors);
            };
            assert_eq!(problem.path, "/constraints(0)", "{bad}");
            assert!(problem.message.contains(word), "{bad}: {}", problem.message);
        }
    }

    #[test]
    fn a_secret_that_the_job_does_not_have_is_named_where_it_is_used() {
        let given = job(&json!({
            "container": {"image": "x:1", "volumes": [{"containerPath": "/run/key", "secret": "key"}]},
            "environmentVariables": [{"name": "TOKEN", "secret": "token"}, {"name": "B", "value": "", "secret": "key"}],
        }));
        let report = parse_job(&given, None, Kind::Any, 0).1;
        let paths: Vec<&str> = report.errors.iter().map(|problem| &*problem.path).collect();
        assert_eq!(
            paths,
            [
                "/environmentVariables(1)/secret",
                "/environmentVariables/TOKEN",
                "/container/volumes"
            ]
        );
    }
}
